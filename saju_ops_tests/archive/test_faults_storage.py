"""A disk that is full: nothing half written is left, nothing is deleted, and with room the next run works."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from saju_ops.archive.day import DayArchiver
from saju_ops_tests.archive.fault_worker import (
    DAYS,
    OLD_DAYS,
    Job,
    fill,
    read_archive,
    require_all_held,
    require_no_lock,
    run,
    safely,
    table_rows,
)

# Less than a day takes, compressed or not.
ROOM = 256 << 10
CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    shown = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(shown.split()[1], 16) >> CAP_SYS_ADMIN & 1)


# A small file system where this process may mount one, and always a limit on the size of a file,
# which gives a write error just the same.
LIMITS = [("file limit", "none"), ("file limit", "gzip"), *([("small disk", "none")] if may_mount() else [])]


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system with little room in the folder; gives a function that makes room."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "saju_ops_test", folder], check=True)
    try:
        yield lambda: _run("mount", "-o", "remount,size=64m", str(folder))
    finally:
        # Lazily: a process that was killed may still hold a file for a moment.
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def full_disk(kind: str, job: Job) -> Iterator[tuple[Job, Callable[[], Job]]]:
    """A job whose storage has no room for a day, and a function that makes room for it."""
    if kind == "file limit":
        yield replace(job, file_limit=ROOM), lambda: job
        return
    with small_disk(Path(job.folder)) as make_room:

        def with_room() -> Job:
            make_room()
            return job

        yield job, with_room


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.long
@pytest.mark.parametrize(("kind", "compression"), LIMITS)
def test_a_full_disk_leaves_nothing_behind_and_the_next_run_works(
    database_url: str, tmp_path: Path, kind: str, compression: Literal["none", "gzip"]
) -> None:
    # Hexadecimal digits of random bytes: half as much remains after compression, still more than fits.
    truth = fill(database_url, days=DAYS[:1], rows_a_day=100, width=9_000)
    folder = tmp_path / "backups"
    with full_disk(kind, Job("archive", database_url, str(folder), compression=compression)) as (job, make_room):
        answer = run(job)
        assert answer.refused.startswith(f"OperatorError: The day {DAYS[0]} was not archived: {folder.as_uri()}")
        assert "nothing was deleted" in answer.refused
        assert files_in(folder) == []
        assert table_rows(database_url) == truth
        require_no_lock(database_url)
        room = make_room()
        assert run(room).outcomes == ["archived", "nothing", "nothing"]
        assert require_all_held(database_url, folder, truth).latest == truth
        answer = run(replace(room, what="purge"))
        assert (answer.deleted, answer.problems) == (100, [])


@pytest.mark.long
def test_a_disk_that_fills_up_at_the_second_day_leaves_the_first_day_whole(database_url: str, tmp_path: Path) -> None:
    truth = fill(database_url, days=OLD_DAYS[:1], rows_a_day=100)
    fill_more(database_url, truth)
    folder = tmp_path / "backups"
    job = Job("archive", database_url, str(folder), file_limit=ROOM)
    answer = run(job)
    assert f"The day {OLD_DAYS[1]} was not archived" in answer.refused
    archive = require_all_held(database_url, folder, truth)
    assert (archive.days, archive.strays, archive.unfinished) == ({str(OLD_DAYS[0])}, [], [])
    answer = run(replace(job, what="purge"))
    assert answer.deleted == 100
    require_all_held(database_url, folder, truth)
    assert run(replace(job, file_limit=None)).outcomes == ["purged", "archived", "nothing"]
    assert read_archive(folder).latest == truth


def fill_more(url: str, truth: dict[str, tuple[str | None, ...]]) -> None:
    """A second day, too large for the limit."""
    truth.update(fill(url, days=OLD_DAYS[1:], rows_a_day=100, width=9_000, first_key=1_001))


@pytest.mark.skipif(not may_mount(), reason="needs a file system of its own")
def test_a_disk_that_is_full_at_the_manifest_is_no_archive_and_the_next_run_adopts_the_file(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = fill(mysql_url, days=OLD_DAYS[:1], rows_a_day=200)
    folder, write_manifest = tmp_path / "small", DayArchiver._write_manifest

    def fill_the_disk_first(task: DayArchiver, manifest: object) -> None:
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"\0" * 4_096):
                pass
        write_manifest(task, manifest)  # type: ignore[arg-type]

    job = Job("archive", mysql_url, str(folder), days=OLD_DAYS[:1])
    with small_disk(folder):
        with monkeypatch.context() as patch:
            patch.setattr(DayArchiver, "_write_manifest", fill_the_disk_first)
            answer = safely(job)
        assert answer.refused.startswith(f"OperatorError: The day {OLD_DAYS[0]} was not archived: {folder.as_uri()}")
        (folder / "filler").unlink()
        stray = read_archive(folder)
        assert (stray.parts, len(stray.strays), stray.unfinished) == (0, 1, [])
        assert run(replace(job, what="purge")).deleted == 0
        assert run(job).outcomes == ["archived"]
        archive = require_all_held(mysql_url, folder, truth)
        assert (archive.latest, archive.parts, archive.strays) == (truth, 1, [])


@pytest.mark.long
def test_a_storage_that_vanished_deletes_nothing(database_url: str, tmp_path: Path) -> None:
    truth = fill(database_url, rows_a_day=50)
    job = Job("archive", database_url, str(tmp_path / "backups"))
    run(job)
    (tmp_path / "backups").rename(tmp_path / "elsewhere")
    answer = run(replace(job, what="purge"))
    assert answer.deleted == 0
    assert table_rows(database_url) == truth
