"""ENCRYPTION_KEY: several Fernet keys with commas between them. The first encrypts, all decrypt.

Each key is looked at by itself: Fernet takes `k1,k2` for one key without a word. No message holds a key or a part of
one; where a key must be named, its place in the setting and a fingerprint name it.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from saju_ops.errors import Refused

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

# 32 bytes as base64, in the alphabet that Fernet's own keys are in or in the usual one, which Fernet takes as well.
KEY = re.compile(r"[A-Za-z0-9_+/-]{43}=")
CHARACTERS, BYTES = 44, 32
FINGERPRINT = b"saju_ops: the fingerprint of a key of ENCRYPTION_KEY"
MAKE_ONE = "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
ALLOWED = "Fernet keys with commas between them, each of 44 characters of base64: the first encrypts, all decrypt"


class Key:
    """One key. Its repr shows the fingerprint alone."""

    def __init__(self, text: str, place: int) -> None:
        self._raw = urlsafe_b64decode(text.translate(str.maketrans("+/", "-_")))
        # From 1 on, as an operator counts what is in the setting.
        self.place = place

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that name the key, and of which nothing of it follows."""
        return self.derived(FINGERPRINT).hex()[:8]

    def derived(self, of: bytes) -> bytes:
        """32 bytes that can be computed with the key alone."""
        return hmac.digest(self._raw, of, "sha256")

    @cached_property
    def fernet(self) -> Fernet:
        from base64 import urlsafe_b64encode

        from cryptography.fernet import Fernet

        return Fernet(urlsafe_b64encode(self._raw))

    def is_same(self, other: Key) -> bool:
        return hmac.compare_digest(self._raw, other._raw)

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of the setting, each once, in its order. Raises ValueError with the reason, never with the value."""
    found: list[Key] = []
    parts = [part.strip() for part in text.split(",")]
    for place, part in enumerate(parts, 1):
        if problem := _problem(part):
            raise ValueError(f"key {place} of {len(parts)} {problem}")
        key = Key(part, place)
        if not any(key.is_same(other) for other in found):
            found.append(key)
    return tuple(found)


def _problem(part: str) -> str:
    if not part:
        return "is empty"
    if len(part) != CHARACTERS:
        return f"has {len(part)} character{'s' * (len(part) != 1)}, and a Fernet key has {CHARACTERS}"
    if not KEY.fullmatch(part):
        return "is not base64"
    raw = urlsafe_b64decode(part.translate(str.maketrans("+/", "-_")))
    return "" if len(raw) == BYTES else f"holds {len(raw)} bytes, and a Fernet key holds {BYTES}"


def required_keys(keys: Sequence[Key]) -> Sequence[Key]:
    """Raises Refused where there is none."""
    if keys:
        return keys
    raise Refused(
        "ENCRYPTION_KEY is not set, so no birth date can be encrypted. Nothing was touched. It may hold"
        f" {ALLOWED}. Make one with `{MAKE_ONE}`, give the service the same, and keep a copy where the backups are not:"
        " without it no encrypted birth date can be read again."
    )
