"""Whether a stored file opens with ARCHIVE_PASSWORD as it is set now.

After a change of the password every older file needs the former one. That is no damage: a file whose stored bytes match
its manifest was read back and proven when it was written. But a restore of it needs the former password.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import Protocol

from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.storage.encryption import PIECE, WrongPassword, decrypting
from saju_ops.storage.open import Storage


class Stored(Protocol):
    """What the manifests of all kinds of backups say of their file."""

    @property
    def file(self) -> str: ...

    @property
    def encryption(self) -> str: ...

    @property
    def stored_sha256(self) -> str: ...

    @property
    def stored_bytes(self) -> int: ...


def needs_another(store: Storage, manifest: Stored) -> bool:
    """Whether the file's first 256 KiB say so. False too for a file that can't be read or is damaged there: reading it
    whole finds that."""
    with suppress(OperatorError, OSError):
        return not _decrypts(store, manifest, whole=False)
    return False


def opens(store: Storage, manifest: Stored, *, whole: bool) -> bool:
    """Whether a file opens whose stored bytes are known to be right. A wrong password passes WinZip's own test, of two
    bytes, once in 65,536 times, and then gives bytes that can't be unpacked; `whole` reads on to the HMAC, which no
    wrong password passes. Raises OSError, StorageError."""
    try:
        return _decrypts(store, manifest, whole=whole)
    except ProofFailed:
        return False


def _decrypts(store: Storage, manifest: Stored, *, whole: bool) -> bool:
    if manifest.encryption == "none":
        return True
    with store.open(manifest.file) as stream:
        try:
            content = decrypting(stream, store.password)
        except WrongPassword:
            return False
        while whole and content.read(PIECE):
            pass
    return True


def require_sound(store: Storage, manifest: Stored) -> int:
    """Reads a stored file back and compares its size and SHA-256 with the manifest. Returns its bytes. Raises
    ProofFailed, naming the file."""
    where, digest, size = store.location(manifest.file), sha256(), 0
    try:
        with store.open(manifest.file) as stream:
            while data := stream.read(1 << 20):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        raise ProofFailed(f"{where} is missing, though its manifest is there.") from None
    except OSError as error:
        raise ProofFailed(f"{where} can't be read ({error.strerror or type(error).__name__}).") from None
    if (size, digest.hexdigest()) != (manifest.stored_bytes, manifest.stored_sha256):
        raise ProofFailed(f"{where} is damaged: its SHA-256 or size differs from the manifest.")
    return size
