"""A service that keeps writing while its logs are archived and purged loses no row and hardly waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from saju_ops_tests.archive.fault_worker import (
    DAYS,
    LOGS,
    OLD_DAYS,
    Job,
    LiveWriter,
    Point,
    connected,
    engine,
    fill,
    perform,
    read_archive,
    require_all_held,
    run,
    start,
    table_rows,
)

# Seconds of archiving and purging beside the writer; most where production runs.
SECONDS = {"mysql": 4.0, "mariadb": 2.0, "postgres": 2.0, "sqlite": 2.0}
# A statement of the service must never wait longer; the time that it waits here is mostly the machine's.
LONGEST_WAIT = 5.0


@pytest.mark.long
def test_late_rows_and_changes_during_archive_and_purge_are_never_lost(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Four threads insert into the archived days, change and delete their rows, all the time."""
    truth = fill(database_url)
    folder = tmp_path / "backups"
    archive = Job("archive", database_url, str(folder))
    purge = replace(archive, what="purge", chunk_size=200)
    deleted = rounds = 0
    until = time.monotonic() + SECONDS[request.node.callspec.params["database_url"]]
    with LiveWriter(database_url, truth) as writer:
        while time.monotonic() < until or rounds < 2:
            perform(archive)
            deleted += perform(purge).deleted
            rounds += 1
            with writer.paused() as written:
                require_all_held(database_url, folder, written.truth, written.history)
        written = writer.stop()
    assert written.statements > 100
    assert written.slowest < LONGEST_WAIT
    assert deleted > 500
    # With the writer gone one more run each brings everything to rest.
    perform(archive)
    answer = perform(purge)
    found = require_all_held(database_url, folder, written.truth, written.history)
    assert {k: found.latest[k] for k in written.truth} == written.truth
    left = table_rows(database_url)
    assert {row[-1] for row in left.values()} <= {row[-1] for row in truth.values() if str(row[-1]) > "2026-11"}
    assert not answer.problems
    assert not found.strays


@contextmanager
def row_held(url: str, key: int) -> Iterator[None]:
    """Another transaction of the service holds one row, and takes its time."""
    with engine(url).connect() as connection, connection.begin():
        connection.execute(LOGS.update().where(LOGS.c.log_id == key).values(tokens=1))
        yield


@pytest.mark.long
@pytest.mark.parametrize("url_fixture", ["mysql_url", "postgres_url"])
def test_a_purge_that_waits_for_a_row_does_not_hold_up_the_service(
    url_fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A transaction of the service holds the last row of a chunk; the chunk's other rows stay free to change."""
    url = request.getfixturevalue(url_fixture)
    truth = fill(url, days=OLD_DAYS[:1], rows_a_day=200)
    job = Job("purge", url, str(tmp_path), chunk_size=200)
    run(replace(job, what="archive"))
    slowest = 0.0
    with row_held(url, 200), start(job) as process, connected(url) as connection:
        for tokens in range(2, 7):
            began = time.monotonic()
            connection.execute(LOGS.update().where(LOGS.c.log_id == 100).values(tokens=tokens))
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.3)
        process.kill()
    assert slowest < LONGEST_WAIT
    answer = run(job)
    assert (answer.deleted, answer.problems) == (198, [])
    assert set(table_rows(url)) == {"100", "200"}
    run(replace(job, what="archive"))
    assert run(job).deleted == 2
    assert set(read_archive(tmp_path).latest) == set(truth)


def test_a_row_that_comes_between_lock_and_delete_stays(mysql_url: str, tmp_path: Path) -> None:
    """Inserted into the chunk's range of keys after the comparison: it is not deleted with the others."""
    truth = fill(mysql_url, days=OLD_DAYS[:1], rows_a_day=100)
    with connected(mysql_url) as connection:
        connection.execute(LOGS.delete().where(LOGS.c.log_id == 50))
        del truth["50"]
        job = Job("purge", mysql_url, str(tmp_path))
        run(replace(job, what="archive"))
        held = Point("saju_ops.rows.engines.base", "RowStore.delete", "before", action="hold")
        with start(replace(job, point=held)) as process:
            assert process.receive() == "held"
            late = {"log_id": 50, "session_id": "late", "created_at": DAYS[0].start.replace(tzinfo=None)}
            connection.execute(LOGS.insert(), late)
            process.pipe.send("go on")
            answer = process.receive()
    assert (answer.deleted, answer.error, answer.refused) == (99, "", "")
    assert list(table_rows(mysql_url)) == ["50"]
