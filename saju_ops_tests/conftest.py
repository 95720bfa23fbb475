"""Databases and a clean environment for every test.

Promises: `mysql_url`, `mariadb_url`, `postgres_url` and `sqlite_url` are new, empty databases, dropped after
the test; `database_url` runs a test on all four; the servers start when the first test asks for them. No
setting, `.env` or local file of the developer reaches a test: settings are taken out of the environment
and the working directory is the test's `tmp_path`.

Refuses: to skip for want of an engine (the test fails and says what to do), and, where CI is set, to let
any skip pass.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from saju_ops import scratch as scratch_folders
from saju_ops.settings.settings import setting_names
from saju_ops_tests.engines import Engine, MariaDB, MySQL, PostgreSQL, Redis
from saju_ops_tests.fakes.s3 import S3Server

# What else decides how a process behaves: the machine's time zone, say, must decide no test.
OTHERS = {"TZ", "PORT"}
NAMES = setting_names() | OTHERS
# Variables of libraries, which read more of them than we have settings.
PREFIXES = ("AWS_", "DAGSTER_", "GOOGLE_")


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Locks and the ledger of the tests are not the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state_home")))
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test sees the defaults and an empty folder."""
    for name in list(os.environ):
        if name in NAMES or name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _serve(engine: type[Engine]) -> Iterator[Engine]:
    if problem := engine.problem():
        pytest.fail(problem, pytrace=False)
    with engine() as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Engine]:
    yield from _serve(MySQL)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Engine]:
    yield from _serve(MariaDB)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Engine]:
    yield from _serve(PostgreSQL)


@pytest.fixture
def mysql_url(mysql_server: Engine) -> Iterator[str]:
    with mysql_server.database() as url:
        yield url


@pytest.fixture
def mariadb_url(mariadb_server: Engine) -> Iterator[str]:
    with mariadb_server.database() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: Engine) -> Iterator[str]:
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["mysql", "mariadb", "postgres", "sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs once on each engine."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


# --- no skip passes in CI ---------------------------------------------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"Skipped, which CI does not allow: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


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


@pytest.fixture
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's scratch folders are made, so that it can look at what is left of them."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(scratch_folders, "scratch_root", lambda: scratch)
    return scratch
