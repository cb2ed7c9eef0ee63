"""Text from outside in messages: without secrets, printable and of bounded length."""

import re
from itertools import pairwise

MOST_CHARACTERS = 500
"""Length limit of one part of an error; real names, paths and addresses are shorter."""

_CUT = "..."
_HIDDEN = "***"

# The text may have megabytes: all repetitions are bounded, possessive, or start at one place only.
_END = r"""(?=['"](?:[),:;.\]}>\s]|$)|[&\s]|$)"""
"""End of a secret without quotes; a quote there was opened before it."""
_PARAMETER = re.compile(
    r"([?&;#][^=&;#?\s]{0,64}?(?:pass|phrase|pwd?|token|secret|key|credential|sig|auth|sas|jwt|code|access)"
    rf"[^=&;#?\s]{{0,64}}=)[^&\s]*?{_END}",
    re.IGNORECASE,
)
"""Secret parameter of a URL's query."""
_SETTING = re.compile(
    r"((?:pass(?:word|wd|phrase)|\bpwd?|token|secret|credentials?|jwt|authorization|(?:access|api|private|secret)[_-]?key)"
    r"\\?['\"]?\s{0,4}[=:]\s{0,4}(?:(?:basic|bearer)\s)?)"
    rf"""(?:(['"])(?:\\.|(?!\2)[^\\])*+\2|[^&\s]+?{_END})""",
    re.IGNORECASE | re.DOTALL,
)
"""Secret in a connection string, environment, header or mapping."""
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
"""Key id of AWS; the secret half has no form of its own."""
_WITHOUT_SCHEME = re.compile(
    r"(?<![\w/@:])((?:[a-z][\w+.-]{0,31}:/|//)?)"
    r"[^\s/\"'@:]{1,256}:(?!/)"
    r"(?:[^\s\"']{1,256}|(?!\d{1,5}[:\s])[^\s\"'@]{1,256}(?: [^\s\"'@]{1,256}){1,2})@(?=[\w\[])",
    re.IGNORECASE,
)
"""User, password and start of a host in an address without its scheme or a slash.

A time or a port before words that lead to an @ is not a user with the start of a password.
"""
_USER = re.compile(r"/*[^/]*?(?::|%3a)|/?(?!/)\S*?(?::|%3a)\S", re.IGNORECASE)
"""User, possibly with a slash, before a password; not part of an absolute path, as SQLite's addresses have."""


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one printable line of at most `most` characters, without secrets.

    Invisible characters (line ends, escape sequences, marks of writing direction) are escaped as in Python; the middle
    of a long text is cut out.
    """
    shown = masked(text)
    if len(shown) > 2 * most:
        shown = shown[:most] + shown[-most:]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in shown)
    half = (most - len(_CUT)) // 2
    return shown if len(shown) <= most else shown[:half] + _CUT + shown[-half:]


def masked(text: str) -> str:
    """The text with `***` for every password, token and key; in doubt too much is masked."""
    parts = text.split("://")
    text = "://".join([parts[0], *(_without_userinfo(scheme, rest) for scheme, rest in pairwise(parts))])
    text = _PARAMETER.sub(rf"\1{_HIDDEN}", text)
    text = _SETTING.sub(rf"\1\2{_HIDDEN}\2", text)
    return _ACCESS_KEY.sub(_HIDDEN, _WITHOUT_SCHEME.sub(rf"\1{_HIDDEN}@", text))


def _without_userinfo(scheme: str, rest: str) -> str:
    """Text after `scheme://` without userinfo, whose password may hold any character, even a space, a slash or an @."""
    userinfo, at, host = rest.rpartition("@")
    if not at:
        return rest
    # A user without a password is no secret, except for a token in HTTP.
    is_token = scheme[-5:].lower().endswith(("http", "https")) and not re.search(r"[\s/]", userinfo.lstrip("/"))
    return f"{_HIDDEN}@{host}" if is_token or _USER.match(userinfo) else rest
