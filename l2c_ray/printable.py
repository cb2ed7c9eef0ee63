"""Text of others in lines of ours: without secrets, in characters that can be seen, and of bounded length."""

import re
from itertools import pairwise

MOST_CHARACTERS = 500
"""Length limit of one part of an error; names, paths and addresses in use are shorter."""

_CUT = "..."
_HIDDEN = "***"

# All repetitions are bounded, or give nothing back, or start at one place only: the text may have megabytes.
_END = r"""(?=['"](?:[),:;.\]}>\s]|$)|[&\s]|$)"""
"""Characters of a secret without quotes; a quote there was opened before it."""
_PARAMETER = re.compile(
    r"([?&;#][^=&;#?\s]{0,64}?(?:pass|phrase|pwd?|token|secret|key|credential|sig|auth|sas|jwt|code|access)"
    rf"[^=&;#?\s]{{0,64}}=)[^&\s]*?{_END}",
    re.IGNORECASE,
)
"""Secret parameter of an address's query."""
_SETTING = re.compile(
    r"((?:pass(?:word|wd|phrase)|\bpwd?|token|secret|credentials?|jwt|authorization|(?:access|api|private|secret)[_-]?key)"
    r"\\?['\"]?\s{0,4}[=:]\s{0,4}(?:(?:basic|bearer)\s)?)"
    rf"""(?:(['"])(?:\\.|(?!\2)[^\\])*+\2|[^&\s]+?{_END})""",
    re.IGNORECASE | re.DOTALL,
)
"""As connection strings, environments, headers and mappings have them."""
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
"""Key id of AWS; the secret half has no form of its own."""
_WITHOUT_SCHEME = re.compile(
    r"(?<![\w/@:])((?:[a-z][\w+.-]{0,31}:/|//)?)"
    r"[^\s/\"'@:]{1,256}:(?!/)"
    r"(?:[^\s\"']{1,256}|(?!\d{1,5}[:\s])[^\s\"'@]{1,256}(?: [^\s\"'@]{1,256}){1,2})@(?=[\w\[])",
    re.IGNORECASE,
)
"""A user, a password and the begin of a host where the address is not one, or has lost its scheme or a slash.

A time or a port before the words that lead to an @ is no user with the begin of a password.
"""
_USER = re.compile(r"/*[^/]*?(?::|%3a)|/?(?!/)\S*?(?::|%3a)\S", re.IGNORECASE)
"""The user, who may hold a slash, before a password; not so in a path from the root on, as SQLite's addresses have."""


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one line of at most `most` characters, of which a terminal obeys none, without secrets.

    Characters that cannot be seen (line ends, escape sequences, marks that turn the direction of writing) are escaped
    as Python does it, and of a long text the middle is cut out.
    """
    shown = masked(text)
    if len(shown) > 2 * most:
        shown = shown[:most] + shown[-most:]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in shown)
    half = (most - len(_CUT)) // 2
    return shown if len(shown) <= most else shown[:half] + _CUT + shown[-half:]


def masked(text: str) -> str:
    """The text with `***` for every password, token and key in it, rather for too much than for too little."""
    parts = text.split("://")
    text = "://".join([parts[0], *(_without_userinfo(scheme, rest) for scheme, rest in pairwise(parts))])
    text = _PARAMETER.sub(rf"\1{_HIDDEN}", text)
    text = _SETTING.sub(rf"\1\2{_HIDDEN}\2", text)
    return _ACCESS_KEY.sub(_HIDDEN, _WITHOUT_SCHEME.sub(rf"\1{_HIDDEN}@", text))


def _without_userinfo(scheme: str, rest: str) -> str:
    """The text after `scheme://` without userinfo. A password may hold any character, even a space, a slash or an @."""
    userinfo, at, host = rest.rpartition("@")
    if not at:
        return rest
    # A user without a password is no secret, but for a token of HTTP.
    is_token = scheme[-5:].lower().endswith(("http", "https")) and not re.search(r"[\s/]", userinfo.lstrip("/"))
    return f"{_HIDDEN}@{host}" if is_token or _USER.match(userinfo) else rest
