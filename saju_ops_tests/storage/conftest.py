"""Stores for the storage tests: an S3 server on loopback, a bucket of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saju_ops_tests.fakes.s3 import Bucket, S3Server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    with s3_server.bucket() as bucket:
        yield bucket
