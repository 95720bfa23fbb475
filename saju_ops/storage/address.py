"""The one or two addresses of BACKUP_URI."""

from __future__ import annotations

import re

from saju_ops.paths import slip_in, slip_in_path
from saju_ops.storage.base import StorageError
from saju_ops.storage.drive.address import parse_drive_uri
from saju_ops.storage.s3.address import parse_s3_uri


def split_uri(uri: str) -> list[str]:
    """The one or two addresses of a BACKUP_URI. Raises StorageError for an address that this version can't write to."""
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
