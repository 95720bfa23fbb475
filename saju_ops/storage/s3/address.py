"""`s3://` addresses and the options of S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from saju_ops.storage.base import StorageError, require_name

MIB = 1 << 20
# The first parts; every 1,000 parts they double, so that S3's 10,000 parts make 3 TB while small files need little.
FIRST_PART = 16 * MIB
CONNECT_SECONDS, READ_SECONDS, MAX_ATTEMPTS = 10, 60, 8
_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")


@dataclass(frozen=True)
class S3Options:
    """Empty values leave the choice to boto3: environment, profile, instance or container role."""

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] | None = None
    max_attempts: int = MAX_ATTEMPTS
    read_seconds: float = READ_SECONDS
    part_bytes: int = FIRST_PART

    def __repr__(self) -> str:
        return f"S3Options(endpoint_url={self.endpoint_url!r})"


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix. Raises StorageError."""
    found = _URI.fullmatch(uri)
    if not found:
        raise StorageError(f"{uri!r} is not an address like s3://bucket/prefix.")
    prefix = (found["prefix"] or "").strip("/")
    if prefix:
        require_name(prefix)
    return found["bucket"], prefix
