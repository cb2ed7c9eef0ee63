"""Text of others in lines of ours: without secrets, in characters that can be seen, and of bounded length."""

import re
from itertools import pairwise

MOST_CHARACTERS = 500
"""Length limit of one part of an error; names, paths and addresses in use are shorter."""

_CUT = "..."
_HIDDEN = "***"

# All repetitions are bounded or start at one place only: the text may have megabytes.
_PARAMETER = re.compile(
    r"([?&;#][^=&;#?\s]{0,64}?(?:pass|pwd|token|secret|key|credential|sig|auth|sas)[^=&;#?\s]{0,64}=)[^&\s]*",
    re.IGNORECASE,
)
"""Secret parameter of an address's query."""
_SETTING = re.compile(
    r"((?:password|passwd|pwd|token|secret|access_key|api_?key)\s?=\s?)('[^']*'|\"[^\"]*\"|[^&\s]+)", re.IGNORECASE
)
"""As connection strings and environments have them."""
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
"""Key id of AWS; the secret half has no form of its own."""
_WITHOUT_SCHEME = re.compile(r"(?<![\w/@])[^\s/\"'@:]{1,256}:[^\s/\"'@]{1,256}@(?=[\w\[])")
"""A user, a password and the begin of a host where the address is not one, or has lost its scheme."""
_USER_ENDS = re.compile(r"[:/]|%3a", re.IGNORECASE)


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
    for pattern in (_PARAMETER, _SETTING):
        text = pattern.sub(rf"\1{_HIDDEN}", text)
    return _ACCESS_KEY.sub(_HIDDEN, _WITHOUT_SCHEME.sub(f"{_HIDDEN}@", text))


def _without_userinfo(scheme: str, rest: str) -> str:
    """The text after `scheme://` without userinfo. A password may hold any character, even a space, a slash or an @."""
    userinfo, at, host = rest.rpartition("@")
    if not at:
        return rest
    end = _USER_ENDS.search(userinfo)
    if end is not None:
        is_secret = end[0] != "/"
    else:
        # A user without a password is no secret, but for a token of HTTP.
        is_secret = scheme.endswith(("http", "https")) and not any(map(str.isspace, userinfo))
    return f"{_HIDDEN}@{host}" if is_secret else rest
