"""S3 and Redis for the tests of expired jobs and sessions: real servers on loopback, started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saju_ops_tests.engines import Redis
from saju_ops_tests.fakes.s3 import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    if problem := Redis.problem():
        pytest.fail(problem, pytrace=False)
    with Redis() as server:
        yield server
