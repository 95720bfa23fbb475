"""Servers that count: MariaDB with performance_schema, PostgreSQL with pg_stat_statements, and a MySQL whose room for
digests no other test fills."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saju_ops_tests.engines import Engine, MariaDB, MySQL, PostgreSQL


@pytest.fixture(scope="session")
def counting_mysql() -> Iterator[Engine]:
    with MySQL() as server:
        yield server


@pytest.fixture(scope="session")
def counting_mariadb() -> Iterator[Engine]:
    with MariaDB(["--performance-schema=ON"]) as server:
        yield server


@pytest.fixture(scope="session")
def counting_postgres() -> Iterator[Engine]:
    with PostgreSQL(["-c", "shared_preload_libraries=pg_stat_statements"]) as server:
        yield server


@pytest.fixture(params=["mysql", "mariadb", "postgres"])
def counting_server(request: pytest.FixtureRequest) -> Engine:
    name = {"mysql": "counting_mysql", "mariadb": "counting_mariadb", "postgres": "counting_postgres"}[request.param]
    server: Engine = request.getfixturevalue(name)
    return server


@pytest.fixture
def counting_url(counting_server: Engine) -> Iterator[str]:
    """A database of a server that counts statements."""
    with counting_server.database() as url:
        if counting_server.name == "PostgreSQL":
            from saju_ops_tests.database_reports.scene import run

            run(url, "CREATE EXTENSION pg_stat_statements")
        yield url
