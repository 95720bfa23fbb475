"""Where backups live."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from saju_ops.paths import slip_in, slip_in_path
from saju_ops.storage.base import AlreadyThere, FollowedWriter, Storage, StorageError, Writer
from saju_ops.storage.drive.store import DriveOptions, DriveStorage, parse_drive_uri
from saju_ops.storage.local import FolderError, LocalStorage
from saju_ops.storage.mirrored.store import MirroredStorage
from saju_ops.storage.s3.store import S3Options, S3Storage, parse_s3_uri
from saju_ops.storage.seal import NO_SEALS, Seals

if TYPE_CHECKING:
    from saju_ops.settings.settings import Settings

__all__ = [
    "AlreadyThere",
    "DriveOptions",
    "FolderError",
    "FollowedWriter",
    "S3Options",
    "Storage",
    "StorageError",
    "Writer",
    "open_backups",
    "open_storage",
    "split_uri",
]


def split_uri(uri: str) -> list[str]:
    """The one or two addresses of a BACKUP_URI. Raises StorageError for what this version can't write to."""
    found = [part.strip() for part in uri.split(",")]
    if not all(found) or len(found) > 2:
        raise StorageError("BACKUP_URI may name one store, or two with a comma between them.")
    for each in found:
        if slip := slip_in(each):
            hint = "; two stores have a comma between them" if "two" in slip or "semicolon" in slip else ""
            raise StorageError(f"BACKUP_URI names no store: {slip}{hint}.")
        if each.startswith("s3://"):
            parse_s3_uri(each)
        elif each.startswith("gdrive://"):
            parse_drive_uri(each)
        else:
            _require_folder(each)
    if len(set(found)) < len(found):
        raise StorageError("BACKUP_URI names the same place twice; two stores must be two places.")
    return found


def _require_folder(uri: str) -> None:
    path = uri.removeprefix("file://") if uri.startswith("file:///") else uri
    slip = slip_in_path(path)
    if path != uri and re.search("%[0-9A-Fa-f]{2}", path):
        slip = "it has % escapes; write the path itself"
    if slip:
        raise StorageError(f"BACKUP_URI names no store: {slip}.")


def open_storage(
    uri: str,
    password: str | None = None,
    *,
    s3: S3Options | None = None,
    drive: DriveOptions | None = None,
    reading: bool = False,
    seals: Seals = NO_SEALS,
) -> Storage:
    """The storage at a BACKUP_URI. Raises StorageError for an address that is none.

    `password` is ARCHIVE_PASSWORD: with it, new files are encrypted, and encrypted ones can be read. `reading` is
    for restores: of two stores one is enough. `seals` has the keys by which manifests are sealed and believed.
    """
    stores = [_open_one(each, password, s3, drive, seals) for each in split_uri(uri)]
    return stores[0] if len(stores) == 1 else MirroredStorage(stores, password, reading=reading, seals=seals)


def _open_one(
    uri: str, password: str | None, s3: S3Options | None, drive: DriveOptions | None, seals: Seals
) -> Storage:
    if uri.startswith("s3://"):
        return S3Storage(uri, s3, password, seals=seals)
    if uri.startswith("gdrive://"):
        return DriveStorage(uri, drive, password, seals=seals)
    return LocalStorage(Path(uri.removeprefix("file://")), password, seals=seals)


def open_backups(settings: Settings, *, reading: bool = False, accept_unsealed: Collection[str] = ()) -> Storage:
    """The storage that the settings name, with their password, keys and credentials. `accept_unsealed` names backups
    that are believed without a seal of these keys ("all": every one); never for what deletes."""
    password = settings.archive_password
    return open_storage(
        settings.backup_uri, password.get_secret_value() if password else None,
        s3=settings.s3_options, drive=settings.drive_options, reading=reading,
        seals=Seals(settings.seal_secrets, accept_unsealed),
    )  # fmt: skip
