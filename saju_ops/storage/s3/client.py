"""Requests to S3: the client, errors in words, which requests are tried again."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from saju_ops.storage.base import StorageError
from saju_ops.storage.s3.address import CONNECT_SECONDS, MIB, S3Options

T = TypeVar("T")
# Bytes of a part beside which another may fill.
LARGEST_BESIDE = 64 * MIB
THREADS = 3
# Times that a part is sent again which arrived damaged, and that a conflict with another writer is waited out.
AGAIN = 4
MARK = "saju-ops-writer"


@lru_cache(8)
def s3_client(o: S3Options) -> Any:
    """One client for all that is opened with the same options: making one takes half a second."""
    import boto3
    from botocore.config import Config

    style = o.addressing_style or ("path" if o.endpoint_url else "auto")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": o.max_attempts},
        connect_timeout=CONNECT_SECONDS, read_timeout=o.read_seconds, max_pool_connections=THREADS + 2,
        s3={"addressing_style": style}, tcp_keepalive=True,
        # Stores other than AWS' refuse the checksum trailers that boto3 sends unasked; bodies go with their MD5.
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )  # fmt: skip
    session = boto3.Session(
        aws_access_key_id=o.access_key_id, aws_secret_access_key=o.secret_access_key,
        aws_session_token=o.session_token, profile_name=o.profile,
        region_name=o.region or ("us-east-1" if o.endpoint_url else None),
    )  # fmt: skip
    return session.client("s3", endpoint_url=o.endpoint_url, config=config)


_WRONG_CREDENTIALS = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
    "TokenRefreshRequired", "AuthFailure",
)  # fmt: skip
_REDIRECTED = (
    "AWS_REGION must be the bucket's region, and S3_ENDPOINT_URL the store's own address, with https where it has that."
)


def _setup(error: Any) -> str:
    name = type(error).__name__
    known = {
        "NoCredentialsError": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE,"
        " or give the machine a role",
        "PartialCredentialsError": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set",
        "ProfileNotFound": "AWS_PROFILE names no profile of this user",
        "NoRegionError": "AWS_REGION is not set",
    }
    return known.get(name, name)


class _Missing(StorageError): ...


class _Exists(StorageError): ...


class _Conflict(StorageError): ...


class _Damaged(StorageError): ...


class _Denied(StorageError): ...


class _Unknown(StorageError): ...


class _Unreachable(StorageError): ...
