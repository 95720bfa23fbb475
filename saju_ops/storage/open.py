"""Where backups live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from saju_ops.storage.address import split_uri
from saju_ops.storage.base import AlreadyThere, FollowedWriter, Storage, StorageError, Writer
from saju_ops.storage.drive.address import DriveOptions
from saju_ops.storage.drive.store import DriveStorage
from saju_ops.storage.local import FolderError, LocalStorage
from saju_ops.storage.mirrored.store import MirroredStorage
from saju_ops.storage.s3.address import S3Options
from saju_ops.storage.s3.client import s3_client
from saju_ops.storage.s3.store import S3Storage
from saju_ops.storage.seal import NO_SEALS, Seals

__all__ = [
    "AlreadyThere",
    "DriveOptions",
    "FolderError",
    "FollowedWriter",
    "S3Options",
    "Storage",
    "StorageError",
    "Writer",
    "open_storage",
    "split_uri",
]


def open_storage(
    uri: str,
    password: str | None = None,
    *,
    s3: S3Options | None = None,
    drive: DriveOptions | None = None,
    reading: bool = False,
    seals: Seals = NO_SEALS,
    make_client: Callable[[S3Options], Any] = s3_client,
) -> Storage:
    """The storage at a BACKUP_URI. Raises StorageError for an address that is none.

    `password` is ARCHIVE_PASSWORD: with it, new files are encrypted, and encrypted ones can be read. `reading` is
    for restores: of two stores one is enough. `seals` has the keys by which manifests are sealed and believed.
    `make_client` makes the client of S3.
    """
    stores = [_open_one(each, password, s3, drive, seals, make_client) for each in split_uri(uri)]
    return stores[0] if len(stores) == 1 else MirroredStorage(stores, password, reading=reading, seals=seals)


def _open_one(
    uri: str, password: str | None, s3: S3Options | None, drive: DriveOptions | None, seals: Seals,
    make_client: Callable[[S3Options], Any],
) -> Storage:  # fmt: skip
    if uri.startswith("s3://"):
        return S3Storage(uri, s3, password, seals=seals, make_client=make_client)
    if uri.startswith("gdrive://"):
        return DriveStorage(uri, drive, password, seals=seals)
    return LocalStorage(Path(uri.removeprefix("file://")), password, seals=seals)
