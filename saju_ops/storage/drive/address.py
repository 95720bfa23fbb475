"""`gdrive://` addresses and the options of Google Drive."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saju_ops.storage.base import StorageError

API_URL = "https://www.googleapis.com"
# Bytes of one request of an upload: a multiple of 256 KiB, as Drive asks.
CHUNK = 16 << 20
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
_URI = re.compile(r"gdrive://(?P<folder>[A-Za-z0-9_-]{5,})/?")


@dataclass(frozen=True)
class DriveOptions:
    # Path of a service account's key; empty: the machine's own credentials (Application Default Credentials).
    credentials_file: str | None = None
    api_url: str = API_URL
    chunk_bytes: int = CHUNK
    read_seconds: float = READ_SECONDS


def parse_drive_uri(uri: str) -> str:
    """The folder's id. Raises StorageError."""
    found = _URI.fullmatch(uri)
    if not found:
        raise StorageError(f"{uri!r} is not an address like gdrive://<folder id>.")
    return found["folder"]
