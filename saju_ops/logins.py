"""Hides logins in addresses, and words that follow a name such as `password=`, in any text from any source.

In `scheme://user:password@host` everything between `//` and the last @ is hidden, except a plain user name, even if the
password itself holds @, /, : or a blank. So is the text after `password=` and its like, a Slack webhook's path, and the
signature of a presigned address. No setting is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MASK = "***"
_SCHEME = r"(?P<scheme>\b[a-z][a-z0-9+.\-]{0,30})://"
# Up to the last @ before a blank: two addresses without one between them are hidden as one.
_LOGIN = re.compile(_SCHEME + r"(?P<login>\S*)@", re.IGNORECASE)
# A password with blanks in it: `//user:` is there, and no @ before the first blank. `host:3000` is none.
_BROKEN = re.compile(
    _SCHEME + r"(?P<login>[\w.+%-]*:(?!\d{1,5}(?:[/?#,;)'\"\s]|$))[^\s@]*[^\S\n][^\n]*)@", re.IGNORECASE
)
_USER = re.compile(r"[\w.+%-]{1,64}")
# Schemes in which a user alone is a name; elsewhere it may be a token.
_NAMED = ("mysql", "mariadb", "postgresql", "postgres", "mailto")
_BEHIND = re.compile(
    r"(?P<head>\b(?:ssl)?(?:password|passwd|passphrase|pwd|token|secret|api_key|access_key)[\"']?\s*[=:]\s*)"
    # MySQL says `(using password: YES)`.
    r"(?!(?:YES|NO)\))(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&'\"]+)",
    re.IGNORECASE,
)
_WEBHOOK = re.compile(
    r"(?P<head>hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/)[^\s\"'<>]+", re.IGNORECASE
)
_SIGNED = re.compile(r"(?P<head>X-Amz-(?:Signature|Credential|Security-Token)=)[^\s&\"'<>]+", re.IGNORECASE)


def hide_logins(text: str) -> str:
    """The text with all logins hidden. A text without any comes back as it is."""
    if "://" in text and "@" in text:
        text = _BROKEN.sub(_hidden, _LOGIN.sub(_hidden, text))
    text = _BEHIND.sub(rf"\g<head>{MASK}", text)
    text = _WEBHOOK.sub(rf"\g<head>{MASK}", text)
    return _SIGNED.sub(rf"\g<head>{MASK}", text)


def _hidden(found: re.Match[str]) -> str:
    user, colon, rest = found["login"].partition(":")
    named = found["scheme"].split("+")[0].lower() in _NAMED
    if not colon and named and _USER.fullmatch(user):
        return found[0]
    shown = f"{user}:{MASK}" if colon and rest and (not user or _USER.fullmatch(user)) else MASK
    return f"{found['scheme']}://{shown}@"


def hide_in_error(error: BaseException, hide: Callable[[str], str] = hide_logins) -> None:
    """Hides logins in the texts of an error and of those that led to it, in place: its kind stays."""
    for one in chain_of(error):
        one.args = tuple(hide(a) if isinstance(a, str) else a for a in one.args)
        if isinstance(one, OSError) and isinstance(one.strerror, str):
            one.strerror = hide(one.strerror)


def chain_of(error: BaseException) -> list[BaseException]:
    """The error, those that led to it, and the drivers' own errors inside them; each once."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and not any(one is known for known in found):
            found.append(one)
            waiting += [one.__context__, one.__cause__, getattr(one, "orig", None)]
            waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return found
