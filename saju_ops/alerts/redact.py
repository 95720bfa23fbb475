"""The last line of defence: whatever a text was made of, no known secret leaves in it.

Promises that the value of every secret setting, every password in an address of the settings and whatever looks like
a password in an address, a Slack token, an AWS key or a Fernet key is replaced by `***`. It is no licence to put
such things into a text: it knows nothing of messages and birth data, which must never be put in at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

import sqlalchemy as sa
from pydantic import SecretStr

from saju_ops.alerts.message import Message

if TYPE_CHECKING:
    from saju_ops.settings import Settings

MASK = "***"
# Shorter values occur in ordinary words; a secret of three characters is none.
SHORTEST = 4
# Secrets that libraries read from the environment by themselves.
ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "MYSQL_PWD")
_PATTERNS = (
    (re.compile(r"(?P<head>[a-z][a-z0-9+.\-]{0,30}://[^\s:/@]*:)[^\s@/]+(?=@)", re.IGNORECASE), r"\g<head>" + MASK),
    (re.compile(r"\bxox[a-z]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}"), MASK),
    (re.compile(r"(?P<head>\b(?:password|passwd|pwd|token|secret|api_key)\s*[=:]\s*)[^\s,;&'\"]+", re.IGNORECASE),
     r"\g<head>" + MASK),
    (re.compile(r"(?P<head>\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\g<head>" + MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), MASK),
)  # fmt: skip


class Redactor:
    """Replaces the secrets that it was given, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        # Longest first, so that no part of a longer one is left.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def message(self, message: Message) -> Message:
        """The message with every text that a channel shows redacted, before any channel escapes it."""
        return replace(
            message, text=self(message.text), line=self(message.line), job=self(message.job), link=self(message.link),
            picture_title=self(message.picture_title),
        )  # fmt: skip


def _forms(secret: str) -> Iterable[str]:
    """A secret as it is, and as an address or a JSON document spells it."""
    secret = secret.strip()
    yield from {secret, quote(secret, safe=""), quote_plus(secret), unquote(secret)}
    yield secret.replace("\\", "\\\\").replace('"', '\\"')


def redactor(settings: Settings) -> Redactor:
    """Of every secret of the settings."""
    return Redactor(secrets_of(settings))


def secrets_of(settings: Settings) -> set[str]:
    found = {os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        text = value.get_secret_value()
        for part in re.split(r"[\s,]+", text):
            if "://" in part:
                found |= _password(part)
            elif "SQLITE" not in part.upper():
                found.add(part)
        if "://" not in text:
            found.add(text)
    return {secret for secret in found if secret.strip()}


def _password(address: str) -> set[str]:
    """An address's password; the address itself is no secret."""
    try:
        password = sa.make_url(address).password
    except (sa.exc.ArgumentError, ValueError):
        return {address}
    return {str(password)} if password else set()
