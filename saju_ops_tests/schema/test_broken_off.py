"""Migrations that break off: what stays, what is said, and that the next run does what is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.schema.migrate import commands
from saju_ops.schema.migrate.compare import compare
from saju_ops.schema.migrate.run import Options, Run
from saju_ops.schema.migrate.session import one_migration, session
from saju_ops.schema.migrate.steps import MakeIndex, MakeTable, Step
from saju_ops_tests.schema.scene import (
    HERE,
    MAIN,
    add_metrics,
    address,
    connected,
    down,
    recorded,
    run,
    tables,
    up,
    versions,
)


class Broken(OperatorError):
    """As a server's refusal in the middle."""


def break_after(patch: pytest.MonkeyPatch, number: int, way: str = "up") -> None:
    """So many steps do their work, and then the run fails."""
    done = [0]

    def breaking(original: Any) -> Any:
        def broken(step: Step, run: Run) -> None:
            original(step, run)
            done[0] += 1
            if done[0] == number:
                raise Broken("the disk is full")

        return broken

    for kind in (MakeTable, MakeIndex):
        patch.setattr(kind, way, breaking(getattr(kind, way)))


def runs_until_done(work: Callable[[], Any], number: int, way: str = "up") -> int:
    for runs in range(100):
        with pytest.MonkeyPatch.context() as patch:
            break_after(patch, number, way)
            try:
                work()
            except Broken as error:
                assert re.search(r"stopped at step \d+ of \d+, (table|index) ", str(error))  # noqa: PT017
                assert "launch the same again" in str(error)  # noqa: PT017
            else:
                return runs
    raise AssertionError("it never came to an end")


EACH_STEP = pytest.param(1, marks=pytest.mark.long)


@pytest.mark.long
@pytest.mark.parametrize("number", [11, EACH_STEP])
@pytest.mark.parametrize("url", ["mysql_url", "mariadb_url"])
def test_a_migration_that_breaks_off_after_some_steps_continues_when_it_is_launched_again(
    url: str, number: int, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(url)
    assert runs_until_done(lambda: up(url), number) >= 2
    assert (versions(url), recorded(url)) == (MAIN[-1:], MAIN)
    assert compare(address(url), HERE, MAIN[-1:]).matches


@pytest.mark.long
@pytest.mark.parametrize("number", [3, EACH_STEP])
@pytest.mark.parametrize("url", ["mysql_url", "mariadb_url"])
def test_a_way_down_that_breaks_off_continues_too(
    url: str, number: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.schema.migrate.commands.require_dump", lambda *_: "")
    url = request.getfixturevalue(url)
    up(url)
    assert runs_until_done(lambda: down(url), number, "down") >= 2
    assert tables(url) == {"alembic_version"}


def test_on_postgresql_done_index_builds_stay_and_the_next_run_does_the_rest(postgres_url: str) -> None:
    up(postgres_url, "0001_tables")
    assert runs_until_done(lambda: up(postgres_url), 2) == 2
    assert compare(address(postgres_url), HERE, MAIN[-1:]).matches


@pytest.mark.parametrize("url", ["mysql_url", "mariadb_url"])
def test_where_ddl_commits_by_itself_its_done_steps_stay_and_the_status_says_how_many(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(url)
    break_after(monkeypatch, 4)
    with pytest.raises(Broken, match="Its steps that are done stay done"):
        up(url)
    assert {"system_metrics", "schema_migrations"} <= tables(url)
    assert (versions(url), recorded(url)) == ([], [])
    state = commands.status(address(url), HERE).states[0]
    assert (state.applied, state.steps_done) == (False, 4)


@pytest.mark.parametrize("url", ["postgres_url", "sqlite_url"])
def test_where_ddl_is_rolled_back_nothing_of_a_failed_migration_stays(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(url)
    break_after(monkeypatch, 20)
    with pytest.raises(Broken, match="It was rolled back as a whole"):
        up(url)
    assert tables(url) <= {"alembic_version"}


@pytest.mark.long
def test_the_next_run_mends_a_history_that_lacks_a_migration_or_has_one_too_many(database_url: str) -> None:
    """As after a kill between two tables of which one has no transactions."""
    up(database_url)
    down(database_url, "0001_tables")
    run(
        database_url, "DELETE FROM schema_migrations WHERE version = '0001_tables'",
        "INSERT INTO schema_migrations (version, description) VALUES ('0002_indexes', 'left over')",
    )  # fmt: skip
    assert len(up(database_url).mended) == 2
    assert recorded(database_url) == MAIN


@pytest.mark.long
def test_the_rollback_sql_of_the_history_is_never_executed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.schema.migrate.commands.require_dump", lambda *_: "")
    up(database_url)
    run(database_url, "CREATE TABLE mine (id int)", "UPDATE schema_migrations SET rollback_sql = 'DROP TABLE mine'")
    down(database_url)
    assert "mine" in tables(database_url)


def test_an_invalid_index_that_a_broken_off_build_left_is_built_anew(postgres_url: str) -> None:
    up(postgres_url, "0001_tables")
    run(postgres_url, "CREATE INDEX CONCURRENTLY idx_metric_recorded ON system_metrics (metric_name, recorded_at DESC)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_metric_recorded'::regclass")  # fmt: skip
    up(postgres_url)
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert run(postgres_url, invalid)[0][0] == 0
    assert compare(address(postgres_url), HERE, MAIN[-1:]).matches


@pytest.mark.long
def test_a_name_that_another_index_has_does_not_stop_a_migration(database_url: str) -> None:
    up(database_url, "0001_tables")
    run(database_url, "CREATE INDEX idx_session_created ON conversation_logs (session_id, created_at)")
    up(database_url)
    assert compare(address(database_url), HERE, MAIN[-1:]).matches


# --- two at once, and killed ones -----------------------------------------------------------------------------


@pytest.mark.long
def test_the_second_of_two_at_once_waits_for_the_first_and_then_has_nothing_to_do(database_url: str) -> None:
    changed: list[list[str]] = []
    url = address(database_url)
    threads = [threading.Thread(target=lambda: changed.append(commands.up(url, HERE, wait=60).changed)) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(changed) == [[], MAIN]


def test_the_second_steps_back_where_the_first_takes_long(database_url: str) -> None:
    url = address(database_url)
    with session(url) as connection, one_migration(connection, url):
        with pytest.raises(Busy, match=r"Another run (changes|works on) the schema"):
            commands.up(url, HERE, wait=0.3)
    assert tables(database_url) == set()


CHILD = """
import sys
from saju_ops.database.address import parse_database_url
from saju_ops.schema.migrate import commands
from saju_ops.schema.migrate.steps import Installation
commands.up(parse_database_url(sys.argv[1]), Installation(), say=lambda text: print(text, flush=True))
"""


def killed_at(url: str, line: int) -> bool:
    """Whether it was still at work when it was killed."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for number, _ in enumerate(child.stdout):
        if number == line:
            os.kill(child.pid, signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.parametrize("line", [1, 8, 30])
def test_a_migration_that_is_killed_is_completed_by_the_next_run(database_url: str, line: int) -> None:
    address(database_url)
    killed_at(database_url, line)
    # The server notices within moments that its client is gone, and gives the lock free.
    commands.up(address(database_url), HERE, wait=60)
    assert (versions(database_url), recorded(database_url)) == (MAIN[-1:], MAIN)
    assert compare(address(database_url), HERE, MAIN[-1:]).matches


# --- while the service works ----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("url", ["mysql_url", "mariadb_url", "postgres_url"])
def test_the_composite_indexes_are_built_while_a_writer_continues(url: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(url)
    up(url, "0001_tables")
    add_metrics(url, 20_000)
    stop, longest, written = threading.Event(), [0.0], [0]

    def write() -> None:
        with connected(url) as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute(sa.text("INSERT INTO system_metrics (metric_name, metric_value) VALUES ('w', 1)"))
                longest[0] = max(longest[0], time.monotonic() - began)
                written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert up(url).changed == ["0002_indexes"]
    finally:
        stop.set()
        writer.join()
    assert run(url, "SELECT count(*) FROM system_metrics WHERE metric_name = 'w'")[0][0] == written[0] > 0
    assert compare(address(url), HERE, MAIN[-1:]).matches


def test_every_index_of_the_migrations_is_asked_for_without_blocking(mysql_url: str, postgres_url: str) -> None:
    mysql = commands.sql(address(mysql_url), HERE, start="0001_tables")
    assert mysql.count("CREATE INDEX") == mysql.count("ALGORITHM=INPLACE LOCK=NONE") == 5
    postgres = commands.sql(address(postgres_url), HERE, start="0001_tables")
    assert postgres.count("CREATE INDEX CONCURRENTLY") == 5


@pytest.mark.long
@pytest.mark.parametrize("url", ["mysql_url", "mariadb_url", "postgres_url"])
def test_a_table_that_is_in_use_is_waited_for_shortly_and_whoever_holds_it_is_named(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(url)
    monkeypatch.setattr("saju_ops.schema.migrate.session.TABLE_WAIT", 1)
    monkeypatch.setattr("saju_ops.schema.migrate.run.TRIES", 2)
    monkeypatch.setattr("saju_ops.schema.migrate.run.PAUSE", 0.1)
    monkeypatch.setattr("saju_ops.schema.migrate.run.PATIENCE", 2)
    up(url, "0001_tables")
    engine = sa.create_engine(url)
    with engine.connect() as holder:
        number = holder.exec_driver_sql(
            "SELECT pg_backend_pid()" if "postgres" in url else "SELECT CONNECTION_ID()"
        ).scalar()
        holder.exec_driver_sql("INSERT INTO system_metrics (metric_name, metric_value) VALUES ('w', 1)")
        began = time.monotonic()
        with pytest.raises(OperatorError, match="a table was waited for in vain") as error:
            up(url)
        assert time.monotonic() - began < 30
        assert f"connection {number} of" in str(error.value)
    engine.dispose()
    assert up(url).changed == ["0002_indexes"]


def test_an_index_that_would_make_writers_wait_is_refused_before_and_built_where_that_is_allowed(
    mariadb_url: str,
) -> None:
    url = mariadb_url
    up(url, "0001_tables")
    run(url, "ALTER TABLE system_metrics DROP INDEX ix_system_metrics_session_id_endpoint, ENGINE = MyISAM")
    add_metrics(url, 1_500)
    with pytest.raises(Refused, match=r"MyISAM.*1,500 rows.*allow_blocking"):
        up(url)
    assert recorded(url) == MAIN[:1]
    assert up(url, options=Options(allow_blocking=True)).changed == ["0002_indexes"]


def test_a_table_whose_engine_has_no_descending_indexes_is_named_before_anything_is_built(mysql_url: str) -> None:
    up(mysql_url, "0001_tables")
    run(mysql_url, "ALTER TABLE system_metrics DROP INDEX ix_system_metrics_session_id_endpoint, ENGINE = MyISAM")
    with pytest.raises(Refused, match=r"MySQL has no DESC.*ENGINE = InnoDB first. Nothing was touched"):
        up(mysql_url, options=Options(allow_blocking=True))
    assert run(mysql_url, "SHOW INDEX FROM users WHERE Key_name LIKE 'idx%'") == []


def test_a_large_sqlite_table_is_indexed_only_where_blocking_is_allowed(sqlite_url: str, tmp_path: Path) -> None:
    up(sqlite_url, "0001_tables")
    add_metrics(sqlite_url, 1_000)
    with pytest.raises(Refused, match=r"SQLite lets nobody write.*1,000 rows"):
        up(sqlite_url)
    assert up(sqlite_url, options=Options(allow_blocking=True)).changed == ["0002_indexes"]
