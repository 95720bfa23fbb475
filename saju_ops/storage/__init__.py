"""Where backups live."""

from __future__ import annotations

from pathlib import Path

from saju_ops.storage.base import AlreadyThere, FollowedWriter, Storage, StorageError, Writer
from saju_ops.storage.local import LocalStorage

__all__ = ["AlreadyThere", "FollowedWriter", "Storage", "StorageError", "Writer", "open_storage"]


def open_storage(uri: str, password: str | None = None) -> Storage:
    """The storage at a BACKUP_URI. Raises StorageError for a kind this version can't write to.

    `password` is ARCHIVE_PASSWORD: with it, new files are encrypted, and encrypted ones can be read.
    """
    if uri.startswith("file://"):
        return LocalStorage(Path(uri.removeprefix("file://")), password)
    if "://" in uri:
        raise StorageError(f"BACKUP_URI holds {uri!r}; this version writes to a local folder only.")
    return LocalStorage(Path(uri), password)
