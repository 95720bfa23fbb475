"""The last line of defence: whatever a text was made of, no known secret leaves in it.

Promises that the value of every secret setting, every password in an address of the settings and whatever looks like
a password in an address, a Slack token, an AWS key or a Fernet key is replaced by `***`. It is no licence to put
such things into a text: it knows nothing of messages and birth data, which must never be put in at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import quote, quote_plus, unquote

from saju_ops.logins import MASK, hide_logins
from saju_ops.reports.message import Message

# Shorter values occur in ordinary words; a secret of three characters is none.
SHORTEST = 4
_PATTERNS = (
    (re.compile(r"\bxox[a-z]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}"), MASK),
    (re.compile(r"(?P<head>\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\g<head>" + MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), MASK),
)
# A password that is a plain word is hidden only as a whole word; one that every report contains, only in an address or
# after `password=`. Otherwise half of a message would be stars, which reveal the password as well.
_PLAIN = re.compile(r"[A-Za-z]{1,8}|\d{1,6}|[가-힣]{1,4}")
_WORDS = """
root admin user users name saju ops chat chatbot job jobs local test demo prod dev backup backups archive
archives purge dump dumps log logs row rows day days hour hours file files table tables database mysql mariadb
postgres sqlite chroma redis slack dagster report reports session sessions store stored error errors failed
proven done password secret restore restored deleted expired stale korea seoul true false none null 사주 백업 보고
오류 실패
"""
_COMMON = frozenset(_WORDS.split())


class Redactor:
    """Replaces the secrets that it was given, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        forms = {form for form in forms if form.lower() not in _COMMON and not re.fullmatch(r"(19|20)\d\d", form)}
        # Longest first, so that no part of a longer one is left.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(_anywhere, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = hide_logins(text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def message(self, message: Message) -> Message:
        """The message with every text that a channel shows redacted, before any channel escapes it."""
        return replace(
            message, text=self(message.text), line=self(message.line), job=self(message.job), link=self(message.link),
            picture_title=self(message.picture_title),
        )  # fmt: skip


def _anywhere(form: str) -> str:
    return rf"(?<!\w){re.escape(form)}(?!\w)" if _PLAIN.fullmatch(form) else re.escape(form)


def _forms(secret: str) -> Iterable[str]:
    """A secret as it is, and as an address or a JSON document spells it."""
    secret = secret.strip()
    yield from {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), unquote(secret)}
    yield secret.replace("\\", "\\\\").replace('"', '\\"')
