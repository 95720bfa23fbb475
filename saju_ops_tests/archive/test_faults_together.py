"""Two runs at once, as real processes: never both on the same thing; the second waits or steps back and says so."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from saju_ops_tests.archive.fault_worker import (
    DAYS,
    OLD_DAYS,
    Answer,
    Job,
    Point,
    fill,
    opened,
    require_all_held,
    require_no_lock,
    run,
    start,
    table_rows,
    take_turns,
    together,
)

# One per kind of lock: MariaDB's is MySQL's.
LOCKS = pytest.mark.parametrize("url_fixture", ["mysql_url", "postgres_url", "sqlite_url"])
IN_A_CHUNK = Point("saju_ops.archive.purge", "Purge._chunk", "before", nth=2, action="hold")
BEFORE_THE_FILE = Point("saju_ops.archive.day", "DayArchiver._prove", "before", action="hold")
BEFORE_THE_MANIFEST = Point("saju_ops.archive.day", "DayArchiver._write_manifest", "before", action="hold")


@pytest.fixture
def url(request: pytest.FixtureRequest, url_fixture: str) -> str:
    found: str = request.getfixturevalue(url_fixture)
    return found


def beside(held: Job, other: Job) -> tuple[Answer, Answer]:
    """Runs the other job while the first one waits at its point; then the first continues to its end."""
    with start(held) as process:
        assert process.receive() == "held"
        second = run(other)
        process.pipe.send("go on")
        first = process.receive()
    assert not first.error, first.error
    return first, second


@pytest.mark.long
@LOCKS
def test_two_purges_at_once(url: str, tmp_path: Path) -> None:
    truth = fill(url, rows_a_day=100)
    folder = tmp_path / "backups"
    job = Job("purge", url, str(folder), chunk_size=20, wait=0.3)
    run(replace(job, what="archive"))
    first, second = beside(replace(job, point=IN_A_CHUNK), job)
    assert second.refused.startswith("Busy: Another run works on purge of conversation_logs")
    assert "Nothing was done" in second.refused
    assert (first.deleted, first.outcomes, first.problems) == (200, ["finished"], [])
    require_all_held(url, folder, truth)
    require_no_lock(url)


@pytest.mark.long
@LOCKS
@pytest.mark.parametrize("point", [BEFORE_THE_FILE, BEFORE_THE_MANIFEST], ids=str)
def test_two_archives_of_the_same_day_at_once(url: str, tmp_path: Path, point: Point) -> None:
    truth = fill(url, rows_a_day=100)
    folder = tmp_path / "backups"
    job = Job("archive", url, str(folder), wait=0.3)
    first, second = beside(replace(job, point=point), job)
    assert second.refused.startswith(f"Busy: Another run works on day {DAYS[0]} of conversation_logs")
    assert first.outcomes == ["archived"] * 3
    found = require_all_held(url, folder, truth)
    assert (found.latest, found.parts, found.strays, found.unfinished) == (truth, 3, [], [])


@pytest.mark.long
@LOCKS
def test_an_archive_of_another_day_continues_meanwhile(url: str, tmp_path: Path) -> None:
    truth = fill(url, rows_a_day=100)
    folder = tmp_path / "backups"
    job = Job("archive", url, str(folder), wait=0.3, days=DAYS[:1])
    first, second = beside(replace(job, point=BEFORE_THE_MANIFEST), replace(job, days=DAYS[1:]))
    assert (first.outcomes, second.outcomes) == (["archived"], ["archived"] * 2)
    assert require_all_held(url, folder, truth).latest == truth


@pytest.mark.long
@LOCKS
def test_an_archive_while_its_day_is_purged_steps_back(url: str, tmp_path: Path) -> None:
    truth = fill(url, rows_a_day=100)
    folder = tmp_path / "backups"
    archive = Job("archive", url, str(folder), chunk_size=20, wait=0.3)
    run(archive)
    first, second = beside(replace(archive, what="purge", point=IN_A_CHUNK), archive)
    assert second.refused.startswith(f"Busy: Another run works on day {DAYS[0]}")
    assert first.deleted == 200
    require_all_held(url, folder, truth)


@pytest.mark.long
@LOCKS
def test_a_purge_while_a_day_is_archived_leaves_that_day_and_says_so(url: str, tmp_path: Path) -> None:
    truth = fill(url, rows_a_day=100)
    folder = tmp_path / "backups"
    purge = Job("purge", url, str(folder), wait=0.3)
    run(replace(purge, what="archive", days=OLD_DAYS[1:]))
    archive = replace(purge, what="archive", days=OLD_DAYS[:1], point=BEFORE_THE_MANIFEST)
    first, second = beside(archive, purge)
    assert first.outcomes == ["archived"]
    assert second.deleted == 100
    assert len(second.problems) == 1
    assert f"Another run works on day {DAYS[0]}" in second.problems[0]
    require_all_held(url, folder, truth)
    assert run(purge).deleted == 100


@pytest.mark.long
@LOCKS
def test_the_second_waits_where_the_first_is_soon_done(url: str, tmp_path: Path) -> None:
    truth = fill(url, rows_a_day=100)
    folder = tmp_path / "backups"
    job = Job("archive", url, str(folder), wait=20.0)
    with start(replace(job, point=BEFORE_THE_FILE)) as first:
        assert first.receive() == "held"
        with start(job) as second:
            assert not second.pipe.poll(0.5)
            first.pipe.send("go on")
            answers = [first.receive(), second.receive()]
    assert [a.outcomes for a in answers] == [["archived"] * 3, ["unchanged"] * 3]
    assert require_all_held(url, folder, truth).parts == 3


@pytest.mark.long
@LOCKS
def test_processes_that_start_together_do_the_work_once(url: str, tmp_path: Path) -> None:
    """Four archives of the same days, then four purges, none of them arranged: each waits for its turn."""
    truth = fill(url, rows_a_day=200)
    folder = tmp_path / "backups"
    archive = Job("archive", url, str(folder), wait=30.0, chunk_size=40)
    answers = together([archive] * 4)
    assert sum(a.written for a in answers) == len(truth)
    found = require_all_held(url, folder, truth)
    assert (found.latest, found.parts, found.strays, found.unfinished) == (truth, 3, [], [])
    answers = together([replace(archive, what="purge")] * 4)
    assert sum(a.deleted for a in answers) == 400
    require_all_held(url, folder, truth)
    assert len(table_rows(url)) == 200


@pytest.mark.long
@LOCKS
def test_a_lock_keeps_out_all_others_however_many_come_and_go(url: str, tmp_path: Path) -> None:
    fill(url, days=())
    counter = tmp_path / "counter"
    counter.write_text("0")
    with ExitStack() as stack:
        processes = [stack.enter_context(take_turns(url, counter, 10)) for _ in range(4)]
        for process in processes:
            assert process.receive() == "done"
    assert counter.read_text() == "40"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".lock"] == []


def test_a_lock_file_that_its_holder_removed_is_no_lock(sqlite_url: str, tmp_path: Path) -> None:
    """The second opens the file while the first holds it; the first removes it; a third makes and locks its own."""
    fill(sqlite_url, rows_a_day=10)
    about_to_lock = Point("saju_ops.rows.engines.sqlite.store", "fcntl.flock", "before", action="hold")
    job = Job("archive", sqlite_url, str(tmp_path / "backups"), days=DAYS[:1], wait=0.3, point=about_to_lock)
    with opened(sqlite_url) as store, ExitStack() as stack:
        with store.lock(f"day {DAYS[0]}", 1.0):
            second = stack.enter_context(start(job))
            assert second.receive() == "held"
        with store.lock(f"day {DAYS[0]}", 1.0):
            second.pipe.send("go on")
            answer = second.receive()
    assert answer.refused.startswith("Busy: ")
