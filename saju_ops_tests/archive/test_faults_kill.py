"""SIGKILL at any moment loses no row, doubles none, leaves nothing half done, and the next run finishes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saju_ops_tests.archive.fault_worker import (
    DAYS,
    RECENT_DAY,
    ROWS_A_DAY,
    Job,
    LiveWriter,
    Point,
    Truth,
    create,
    dies_at,
    fill,
    keep_seed,
    kill_after,
    read_archive,
    refill,
    require_all_held,
    require_no_lock,
    run,
    table_rows,
    temporary_folder,
)
from saju_ops_tests.engines import Engine

pytestmark = pytest.mark.long

ARCHIVE, PURGE, RESTORE = (f"saju_ops.archive.{name}" for name in ("day", "purge", "restore"))
LOCAL, STORE = "saju_ops.storage.local", "saju_ops.rows.engines.base"
# Killed runs per engine: many where it is cheap to ask for many, a few elsewhere to see that nothing differs.
KILLS = {"mysql": 30, "mariadb": 3, "postgres": 3, "sqlite": 3}

ARCHIVE_POINTS = [
    Point("saju_ops.rows.csvfile", "CsvSink._store", "after", 2),
    Point("saju_ops.archive.day_writer", "read_back", "after"),
    # The first of the two links gives the data file its name, the second the manifest.
    Point(LOCAL, "os.link", "before", 1),
    Point(LOCAL, "os.link", "after", 1),
    Point(ARCHIVE, "DayArchiver._write_manifest", "before"),
    Point(LOCAL, "os.link", "before", 2),
    Point(LOCAL, "os.link", "after", 2),
    Point(ARCHIVE, "DayArchiver._write_manifest", "after", 2),
]
PURGE_POINTS = [
    Point("saju_ops.archive.proven", "verify_stored_bytes", "after"),
    Point(STORE, "RowStore.delete", "before", 2),
    Point(STORE, "RowStore.delete", "after", 2),
    Point("saju_ops.archive.deleting", "Deleter._whole", "after", 3),
    Point("saju_ops.archive.deleting", "Deleter._delete", "before", 4),
    Point(PURGE, "Purge._purge_day", "after"),
]
RESTORE_POINTS = [
    Point(RESTORE, "Restore._rows_to_write", "after", 2),
    Point(RESTORE, "Restore._prove", "before", 2),
    Point(RESTORE, "Restore._prove", "after", 2),
    Point(RESTORE, "Restore.write", "after", 2),
]


def on_engines(points: list[Point], elsewhere: slice) -> pytest.MarkDecorator:
    """Every point on MySQL; on the other engines those at which they have code of their own."""
    cases = [(f"{engine}_url", p) for engine in KILLS for p in (points if engine == "mysql" else points[elsewhere])]
    return pytest.mark.parametrize(("url_fixture", "point"), cases, ids=lambda value: str(value).removesuffix("_url"))


@pytest.fixture
def url(request: pytest.FixtureRequest, url_fixture: str) -> str:
    found: str = request.getfixturevalue(url_fixture)
    return found


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return KILLS[request.node.callspec.params["database_url"]]


class Kills:
    """So many kills at random moments of a run. Says where each landed; a miss shortens what it draws from."""

    def __init__(self, wanted: int, seconds: float, seed: int) -> None:
        self.wanted, self.seconds, self.landed = wanted, seconds, 0
        self._dice = random.Random(seed)

    def __iter__(self) -> Iterator[int]:
        for number in range(3 * self.wanted):
            if self.landed == self.wanted:
                return
            yield number
        pytest.fail(f"only {self.landed} of {self.wanted} kills came before the end of the run")

    def strike(self, job: Job) -> None:
        landed = kill_after(job, self._dice.uniform(0, self.seconds))
        self.landed += landed
        # Another load of the machine than when the run was measured.
        self.seconds *= 1.02 if landed else 0.85


def require_archived(url: str, folder: Path, truth: Truth) -> None:
    archive = require_all_held(url, folder, truth)
    assert archive.latest == truth
    assert archive.parts == len(DAYS)
    assert not archive.strays
    assert not archive.unfinished


def require_purged(url: str, folder: Path, truth: Truth) -> None:
    require_archived(url, folder, truth)
    recent = RECENT_DAY.start.strftime("%Y-%m-%d %H:%M:%S")
    assert table_rows(url) == {k: row for k, row in truth.items() if str(row[-1]) >= recent}


# --- archive ----------------------------------------------------------------------------------------------


def test_archives_killed_at_random_moments_lose_nothing_and_the_next_run_finishes(
    database_url: str, tmp_path: Path, kills: int
) -> None:
    truth = fill(database_url)
    strikes = Kills(kills, run(Job("archive", database_url, str(tmp_path / "whole"))).seconds, seed=11)
    for number in strikes:
        folder = tmp_path / f"backups{number}"
        job = Job("archive", database_url, str(folder), wait=3.0)
        strikes.strike(job)
        require_all_held(database_url, folder, truth)
        run(job)
        require_archived(database_url, folder, truth)
    assert table_rows(database_url) == truth
    require_no_lock(database_url)


@on_engines(ARCHIVE_POINTS, slice(0, 5, 4))
def test_an_archive_killed_at_this_point_is_finished_by_the_next_run(url: str, tmp_path: Path, point: Point) -> None:
    truth = fill(url, rows_a_day=100)
    job = Job("archive", url, str(tmp_path / "backups"), wait=3.0)
    assert dies_at(replace(job, point=point))
    require_all_held(url, tmp_path / "backups", truth)
    run(job)
    require_archived(url, tmp_path / "backups", truth)
    assert table_rows(url) == truth


@pytest.mark.parametrize("point", ARCHIVE_POINTS[2:6], ids=str)
def test_a_further_part_killed_at_this_point_is_finished_by_the_next_run(
    mysql_url: str, tmp_path: Path, point: Point
) -> None:
    """The rows that changed since are in a later part, once the next run has ended, whatever the first left."""
    truth = fill(mysql_url, rows_a_day=100)
    job = Job("archive", mysql_url, str(tmp_path), wait=3.0)
    run(job)
    history = set(truth.values())
    with LiveWriter(mysql_url, truth) as writer:
        run(replace(job, days=DAYS[-1:]))
        written = writer.stop()
    assert dies_at(replace(job, point=point))
    require_all_held(mysql_url, tmp_path, written.truth, written.history | history)
    run(job)
    run(replace(job, what="purge"))
    archive = require_all_held(mysql_url, tmp_path, written.truth, written.history | history)
    assert not archive.unfinished
    assert run(job).outcomes == ["purged", "purged", "unchanged"]


# --- purge ------------------------------------------------------------------------------------------------


def test_purges_killed_at_random_moments_lose_nothing_and_the_next_run_finishes(
    database_url: str, tmp_path: Path, kills: int
) -> None:
    truth = fill(database_url)
    keep_seed(database_url)
    job = Job("purge", database_url, str(tmp_path / "backups"), chunk_size=50, wait=3.0)
    run(replace(job, what="archive"))
    strikes, cut_short = Kills(kills, run(job).seconds, seed=12), 0
    for _ in strikes:
        refill(database_url)
        strikes.strike(job)
        require_all_held(database_url, tmp_path / "backups", truth)
        cut_short += ROWS_A_DAY < len(table_rows(database_url)) < len(truth)
        assert run(job).outcomes == ["finished"]
        require_purged(database_url, tmp_path / "backups", truth)
    # Three kills may all come before or after it, thirty can't.
    assert cut_short or kills < 30, "no kill came in the middle of the deleting"
    require_no_lock(database_url)


@on_engines(PURGE_POINTS, slice(1, 3))
def test_a_purge_killed_at_this_point_is_finished_by_the_next_run(url: str, tmp_path: Path, point: Point) -> None:
    truth = fill(url, rows_a_day=100)
    job = Job("purge", url, str(tmp_path / "backups"), chunk_size=20, wait=3.0)
    run(replace(job, what="archive"))
    assert dies_at(replace(job, point=point))
    require_all_held(url, tmp_path / "backups", truth)
    assert run(job).problems == []
    require_purged(url, tmp_path / "backups", truth)


def test_kills_beside_a_live_writer_lose_none_of_its_rows(mysql_url: str, tmp_path: Path) -> None:
    truth = fill(mysql_url)
    archive = Job("archive", mysql_url, str(tmp_path), wait=3.0)
    purge = replace(archive, what="purge", chunk_size=50)
    run(archive)
    dice = random.Random(13)
    landed = 0
    with LiveWriter(mysql_url, truth, threads=2) as writer:
        for job in [archive, purge] * 8:
            landed += kill_after(job, dice.uniform(0.02, 0.4))
            with writer.paused() as written:
                require_all_held(mysql_url, tmp_path, written.truth, written.history)
        written = writer.stop()
    assert landed >= 8
    run(archive)
    run(purge)
    found = require_all_held(mysql_url, tmp_path, written.truth, written.history)
    assert {k for k, row in written.truth.items() if found.latest[k] != row} == set()
    assert written.slowest < 5


# --- restore ----------------------------------------------------------------------------------------------


def purged(url: str, folder: Path, rows_a_day: int) -> tuple[Job, Truth]:
    truth = fill(url, rows_a_day=rows_a_day)
    job = Job("restore", url, str(folder))
    run(replace(job, what="archive"))
    run(replace(job, what="purge"))
    return job, truth


def test_restores_killed_at_random_moments_are_completed_by_the_next_run(database_url: str, tmp_path: Path) -> None:
    job, truth = purged(database_url, tmp_path / "backups", ROWS_A_DAY)
    strikes = Kills(3, run(job).seconds, seed=14)
    assert table_rows(database_url) == truth
    for _ in strikes:
        run(replace(job, what="purge"))
        strikes.strike(job)
        require_all_held(database_url, tmp_path / "backups", truth)
        run(job)
        assert table_rows(database_url) == truth
    assert run(job).written == 0


@on_engines(RESTORE_POINTS, slice(1, 2))
def test_a_restore_killed_at_this_point_is_completed_by_the_next_run(url: str, tmp_path: Path, point: Point) -> None:
    job, truth = purged(url, tmp_path / "backups", 100)
    assert dies_at(replace(job, point=point))
    assert list(temporary_folder(job).iterdir()) == []
    require_all_held(url, tmp_path / "backups", truth)
    run(job)
    assert table_rows(url) == truth


def test_a_killed_restore_into_another_database_is_completed_by_the_next_run(
    mysql_server: Engine, mysql_url: str, tmp_path: Path
) -> None:
    job, truth = purged(mysql_url, tmp_path, 100)
    with mysql_server.database() as other:
        create(other)
        fill(other, days=())
        elsewhere = replace(job, url=other)
        assert dies_at(replace(elsewhere, point=RESTORE_POINTS[1]))
        assert len(table_rows(other)) == 100
        assert run(elsewhere).written == 200
        assert table_rows(other) == truth
    assert read_archive(tmp_path).latest == truth
