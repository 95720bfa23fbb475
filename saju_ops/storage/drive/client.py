"""Requests to Google Drive: errors in words, which requests are tried again, and how long it waits."""

from __future__ import annotations

import json
import random
from typing import Any

from saju_ops.storage.base import StorageError

SCOPES = ("https://www.googleapis.com/auth/drive",)
TRIES = 7
LONGEST_WAIT = 32.0
FIELDS = "id,name,mimeType,size,createdTime,sha256Checksum"
ALL_DRIVES = {"supportsAllDrives": "true"}
# 403s that pass when waited out, as Drive's error guide lists them.
_RATE_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "sharingRateLimitExceeded"}
# 403s that aren't about rights on the folder.
_IN_WORDS = {
    "accessNotConfigured": "the Google Drive API is not enabled in the project that the service account belongs to;"
    " enable it in the Google Cloud console.",
    "dailyLimitExceeded": "the project has used up its requests of today; launch again tomorrow, or have the quota"
    " raised.",
    "numChildrenInNonRootLimitExceeded": "the folder holds as many files as Drive allows; use another one.",
    "cannotDownloadAbusiveFile": "Drive takes the file for malware. Its owner can still download it in the browser;"
    " put it with its manifest into a local folder, and name that in BACKUP_URI.",
}


class _Missing(StorageError): ...


def _object(response: Any, what: str) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _not_drive(response, what)
    return found


def _not_drive(response: Any, what: str) -> StorageError:
    return StorageError(
        f"What was asked to {what} answers {response.status_code}, but not as Google Drive does; does a proxy or a"
        " login page stand in between?"
    )


def _size(entry: dict[str, Any]) -> int:
    """Google's own documents have none, and no bytes that could be read."""
    return int(entry.get("size", 0))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _reasons(response: Any) -> list[str]:
    try:
        error = json.loads(response.content)["error"]
        return [str(e["reason"]) for e in error["errors"]]
    except (ValueError, KeyError, TypeError):
        return []


def _wait(attempt: int, response: Any) -> float:
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), 120.0)
    return min(2.0**attempt + random.random(), LONGEST_WAIT)
