"""Settling while others work: workers, locks, SQLite's files, kills, and putting back."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.run_control import RunControl
from saju_ops.stale.reconcile import missing_tables
from saju_ops.stale.tables import Tables
from saju_ops.storage.open import StorageError
from saju_ops_tests.stale.scene import NOW, Scene, ago, becomes


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    return Scene(database_url, tmp_path / "backups", newer=True).create()


@pytest.fixture
def sqlite(sqlite_url: str, tmp_path: Path) -> Scene:
    return Scene(sqlite_url, tmp_path / "backups", newer=True).create()


def at_the_first_transaction(work: Callable[[], None]) -> Callable[[], None]:
    """Called before each part and each transaction: the third call is after the look and the intent."""
    calls = iter(range(1000))

    def should_stop() -> None:
        if next(calls) == 1:
            work()

    return should_stop


# --- workers ----------------------------------------------------------------------------------------------


def test_what_moves_between_the_look_and_the_update_is_left_alone(scene: Scene) -> None:
    names = "finished touched result_touched result_done result_added other_status gone still"
    for name in names.split():
        scene.job(name, files=2)
    scene.job("still_done", files=2, done=2)
    recent = scene.stored(ago(0.01))

    def worker() -> None:
        shown = f"'{recent}'"
        scene.execute(
            "UPDATE analysis_jobs SET status = 'completed' WHERE job_id = 'finished'",
            f"UPDATE analysis_jobs SET updated_at = {shown} WHERE job_id = 'touched'",  # noqa: S608
            f"UPDATE analysis_results SET updated_at = {shown} WHERE job_id = 'result_touched'",  # noqa: S608
            "UPDATE analysis_results SET status = 'completed' WHERE job_id = 'result_done'",
            "INSERT INTO analysis_results (job_id, file_id, status) VALUES ('result_added', 'new', 'pending')",
            "UPDATE analysis_jobs SET status = 'pending' WHERE job_id = 'other_status'",
            "DELETE FROM analysis_jobs WHERE job_id = 'gone'",
        )

    result = scene.apply(control=RunControl(at_the_first_transaction(worker)))
    assert scene.statuses() == {
        "finished": "completed", "touched": "processing", "result_touched": "processing", "result_done": "processing",
        "result_added": "processing", "other_status": "pending", "still": "failed", "still_done": "completed",
    }  # fmt: skip
    assert (result.stale, result.settled, result.left_moved) == (9, 2, 7)
    assert scene.undo().put_back == 2


@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_job_whose_row_a_worker_holds_is_left_alone_and_nobody_waits(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", newer=True).create()
    scene.job("held")
    scene.job("free")
    with sa.create_engine(scene.url).connect() as worker:
        worker.exec_driver_sql("UPDATE analysis_jobs SET folder_path = 'x' WHERE job_id = 'held'")
        began = time.monotonic()
        result = scene.apply()
        assert time.monotonic() - began < 5
        worker.rollback()
    assert scene.statuses() == {"held": "processing", "free": "failed"}
    assert (result.settled, result.left_moved) == (1, 1)


@pytest.mark.long
def test_no_job_that_a_worker_finishes_meanwhile_is_overwritten(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.stale.plan.BATCH_JOBS", 10)
    for number in range(120):
        scene.job(f"j{number:03}", files=2)
    finished: list[str] = []
    done = threading.Event()

    def work() -> None:
        names = [f"j{n:03}" for n in range(120)]
        random.Random(1).shuffle(names)
        engine = sa.create_engine(scene.url, connect_args={"timeout": 30} if scene.name == "sqlite" else {})
        with engine.connect() as connection:
            for name in names[:80]:
                if done.is_set():
                    break
                text = sa.text("UPDATE analysis_results SET status = 'completed', stt_text = :t WHERE job_id = :j")
                connection.execute(text, {"j": name, "t": f"끝 {name}"})
                connection.execute(
                    sa.text("UPDATE analysis_jobs SET status = 'completed', folder_path = 'w' WHERE job_id = :j"),
                    {"j": name},
                )
                connection.commit()
                finished.append(name)
        engine.dispose()

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.02)
    result = scene.apply(busy_seconds=30)
    done.set()
    worker.join()
    statuses = scene.statuses()
    assert {statuses[name] for name in finished} <= {"completed"}
    texts = {row[0]: row[3] for row in scene.rows("analysis_results")}
    assert {texts[name] for name in finished} == {f"끝 {name}" for name in finished}
    assert set(statuses.values()) <= {"completed", "failed"} | ({"processing"} if result.left_moved else set())
    # Put back: what the worker finished after us stays, everything that we set and that is unchanged is put back.
    scene.undo()
    statuses = scene.statuses()
    assert {statuses[name] for name in finished} <= {"completed"}
    assert "failed" not in statuses.values()


# --- SQLite's files ---------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino, p.read_bytes()) for p in folder.iterdir() if p.is_file()}


@contextmanager
def state(path: Path, kind: str) -> Iterator[None]:
    """The database as a live service has it (`open`), or at rest, or as a killed service left it."""
    journal, how = kind.split("-")
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    if how == "killed":
        connection.close()
        code = (
            f"import os, sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('CREATE TABLE more (a)'); c.commit();"
            " os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", code], check=False)
        yield
    elif how == "open":
        connection.close()
        # In a process of its own: within one process all connections share what they know of the log.
        code = (
            f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('CREATE TABLE more (a)'); c.commit();"
            " print('open', flush=True); input()"
        )
        service = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert service.stdin is not None
        assert service.stdout is not None
        assert service.stdout.readline() == b"open\n"
        yield
        service.communicate(b"\n")
    else:
        connection.close()
        yield


@pytest.mark.parametrize("kind", ["delete-rest", "delete-open", "truncate-open", "wal-rest", "wal-open", "wal-killed"])
def test_a_check_changes_nothing_in_the_files(sqlite: Scene, kind: str) -> None:
    sqlite.job("a", files=2, done=1)
    sqlite.job("b")
    path = Path(sqlite.url.database or "")
    with state(path, kind):
        before = files_of(path.parent)
        assert kind not in ("wal-open", "wal-killed") or {"test.db-wal", "test.db-shm"} <= set(before)
        for mode in ("check", "stats"):
            assert sqlite.reconcile(mode).stale == 2
        assert sqlite.apply(dry_run=True).stale == 2
        assert missing_tables(sqlite.url, sqlite.zone) is None
        assert files_of(path.parent) == before
        assert sqlite.apply().settled == 2
        assert sqlite.undo(dry_run=True).put_back == 2


def test_a_file_and_folder_that_may_only_be_read_can_be_checked(sqlite: Scene) -> None:
    sqlite.job("a")
    path = Path(sqlite.url.database or "")
    path.chmod(0o400)
    try:
        assert sqlite.stale() == {"a"}
    finally:
        path.chmod(0o600)


def test_a_log_without_its_index_is_not_repaired_by_a_check(sqlite: Scene) -> None:
    sqlite.job("a")
    path = Path(sqlite.url.database or "")
    with state(path, "wal-killed"):
        path.with_name("test.db-shm").unlink()
        before = files_of(path.parent)
        with pytest.raises(Refused, match=r"test\.db-wal beside .* was left by a process that was killed"):
            sqlite.reconcile()
        assert files_of(path.parent) == before
        assert sqlite_quick_open(path)
        assert sqlite.stale() == {"a"}


def test_a_journal_of_a_killed_writer_is_not_rolled_back_by_a_check(sqlite: Scene) -> None:
    sqlite.job("a")
    path = Path(sqlite.url.database or "")
    code = (
        f"import os, sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('PRAGMA cache_size = 1');"  # noqa: S608
        "c.execute('CREATE TABLE big (t text)');"
        "c.executemany('INSERT INTO big VALUES (?)', [('x' * 3000,)] * 2000); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    before = files_of(path.parent)
    assert "test.db-journal" in before
    with pytest.raises(Refused, match=r"test\.db-journal beside .* was left by a process that was killed"):
        sqlite.reconcile()
    assert files_of(path.parent) == before
    assert sqlite_quick_open(path)
    assert sqlite.stale() == {"a"}


def sqlite_quick_open(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        connection.execute("SELECT count(*) FROM analysis_jobs").fetchone()
    connection.close()
    return True


def test_a_database_that_is_written_while_it_is_read_at_rest_is_read_again(
    sqlite: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite.job("a")
    path = Path(sqlite.url.database or "")
    with state(path, "wal-rest"):
        real, written = Tables.older_than, []

        def older_than(self: Tables, bound: Any) -> int:
            if not written:
                written.append(1)
                sqlite.job("b")
            return real(self, bound)

        monkeypatch.setattr(Tables, "older_than", older_than)
        result = sqlite.reconcile()
        assert (set(becomes(result)), result.total) == ({"a", "b"}, 2)


@contextmanager
def locked(scene: Scene) -> Iterator[None]:
    connection = sqlite3.connect(scene.url.database or "", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.rollback()
    connection.close()


def test_a_locked_sqlite_database_is_named_and_nothing_is_changed(sqlite: Scene) -> None:
    sqlite.job("a")
    with locked(sqlite):
        for mode in ("check", "apply"):
            with pytest.raises(Busy, match="is locked by somebody else"):
                sqlite.reconcile(mode, busy_seconds=0.1)
    assert sqlite.statuses() == {"a": "processing"}
    assert sqlite.audit() == []


def test_a_lock_that_comes_later_leaves_what_was_done_in_the_audit(
    sqlite: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.stale.plan.BATCH_JOBS", 2)
    for number in range(6):
        sqlite.job(f"j{number}")
    writer = sqlite3.connect(sqlite.url.database or "", isolation_level=None, check_same_thread=False)
    calls = iter(range(100))

    def should_stop() -> None:
        if next(calls) == 2:
            writer.execute("BEGIN IMMEDIATE")

    with pytest.raises(Busy):
        sqlite.apply(busy_seconds=0.1, control=RunControl(should_stop))
    writer.rollback()
    writer.close()
    assert sorted(sqlite.statuses().values()) == ["failed"] * 2 + ["processing"] * 4
    assert sqlite.apply(run_id="run2").settled == 4
    assert sqlite.undo().put_back == 2
    assert sqlite.undo("run2").put_back == 4


def test_a_short_lock_is_waited_for(sqlite: Scene) -> None:
    sqlite.job("a")
    writer = sqlite3.connect(sqlite.url.database or "", isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.5, writer.rollback)
    release.start()
    assert sqlite.apply(busy_seconds=20).settled == 1
    release.join()
    writer.close()


def test_no_lock_is_held_while_jobs_are_printed(sqlite: Scene) -> None:
    for number in range(30):
        sqlite.job(f"j{number}")
    result = sqlite.reconcile()
    for _ in result.jobs:
        with sqlite3.connect(sqlite.url.database or "", timeout=0) as writer:
            writer.execute("UPDATE analysis_jobs SET emp_id = 'x'")
        writer.close()
        break


def test_without_an_index_a_large_table_is_looked_through_before_the_lock(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.stale.tables.LONG_SCAN_ROWS", 3)
    scene = Scene(sqlite_url, tmp_path / "backups", newer=True).create(results_key="")
    for number in range(5):
        scene.job(f"j{number}", files=2)
    real = Tables.files_of
    begun: list[bool] = []
    writes = iter(["stt_text = 'x' WHERE job_id = 'j0'", "status = 'completed' WHERE job_id = 'j3'", None])

    def files_of_while_others_write(self: Tables, keys: Any) -> Any:
        raw: Any = self.connection.connection.driver_connection
        begun.append(raw.in_transaction)
        found = real(self, keys)
        # After the first look, and after the one before the lock: a result that would be missed.
        if write := next(writes):
            scene.execute(f"UPDATE analysis_results SET {write}")  # noqa: S608
        return found

    monkeypatch.setattr(Tables, "files_of", files_of_while_others_write)
    result = scene.apply()
    assert not any(begun)
    assert (result.settled, result.left_moved) == (4, 1)
    assert scene.statuses()["j3"] == "processing"


def test_without_an_index_a_table_that_is_always_written_is_refused_with_the_remedy(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.stale.tables.LONG_SCAN_ROWS", 0)
    scene = Scene(sqlite_url, tmp_path / "backups", newer=True).create(results_key="")
    scene.job("a", files=1)
    real = Tables.files_of

    def always_written(self: Tables, keys: Any) -> Any:
        found = real(self, keys)
        # Something new each time: SQLite doesn't count an update that changes nothing.
        scene.execute("UPDATE analysis_results SET stt_text = stt_text || 'x'")
        return found

    monkeypatch.setattr(Tables, "files_of", always_written)
    with pytest.raises(Busy, match="CREATE INDEX analysis_results_job_id ON analysis_results"):
        scene.apply()
    assert scene.statuses() == {"a": "processing"}


# --- kills ------------------------------------------------------------------------------------------------


def killed(scene: Scene, point: Callable[[], None], **more: Any) -> int:
    """Applies in a process of its own that `point` has prepared to die."""

    def child() -> None:
        point()
        scene.apply(**more)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def die_at(name: str, count: int, *, after: bool) -> Callable[[], None]:
    """SIGKILL before or after the so-manieth call of a method."""

    def prepare() -> None:
        from saju_ops.stale.audit import Audit

        owner: Any = Audit if hasattr(Audit, name) else Tables
        real, calls = getattr(owner, name), iter(range(1, 1000))

        def method(self: Any, *arguments: Any, **more: Any) -> Any:
            number = next(calls)
            if number == count and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(self, *arguments, **more)
            if number == count and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, method)

    return prepare


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "count", "after", "settled"),
    [
        ("intent", 1, False, 0), ("intent", 1, True, 0), ("set_status", 2, True, 0), ("commit", 1, False, 0),
        ("commit", 1, True, 3), ("commit", 2, False, 3), ("outcome", 1, False, 6), ("outcome", 1, True, 6),
        ("intent", 2, True, 6), ("commit", 3, True, 9), ("commit", 4, True, 10),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
def test_killed_at_any_point_it_continues_and_each_run_can_be_put_back(
    engine: str, name: str, count: int, after: bool, settled: int, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("saju_ops.stale.plan.BATCH_JOBS", 3)
    monkeypatch.setattr("saju_ops.stale.plan.PART_BATCHES", 2)
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", newer=True).create()
    for number in range(10):
        scene.job(f"j{number}", "pending" if number % 2 else "processing", files=2, done=number % 3)
    before = scene.rows("analysis_jobs")
    wanted = {f"j{n}": "completed" if n % 3 else "failed" for n in range(10)}
    # The trial before the first change sets a status once for each kind, and is not meant here.
    shift = 2 if name == "set_status" else 0
    assert killed(scene, die_at(name, count + shift, after=after)) == -signal.SIGKILL
    changed = {k for k, v in scene.statuses().items() if v == wanted[k]}
    assert len(changed) == settled
    assert all(v in ("pending", "processing") for k, v in scene.statuses().items() if k not in changed)
    second = scene.apply(run_id="run2", now=NOW + timedelta(hours=1))
    assert second.settled == 10 - settled
    assert scene.statuses() == wanted
    # The rows of the second run are its own, even where the first left its intent without an outcome.
    if settled:
        assert scene.undo("run1").put_back == settled
    elif any("run1" in n for n in scene.audit()):
        assert scene.undo("run1").put_back == 0
    assert {k for k, v in scene.statuses().items() if v == wanted[k]} == set(wanted) - changed
    if second.settled:
        assert scene.undo("run2").put_back == 10 - settled
    assert scene.rows("analysis_jobs") == before


@pytest.mark.long
def test_killed_at_random_moments_it_ends_as_if_it_never_was(sqlite: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.stale.plan.BATCH_JOBS", 5)
    monkeypatch.setattr("saju_ops.stale.plan.PART_BATCHES", 3)
    for number in range(200):
        sqlite.job(f"j{number:03}", files=1, done=number % 2)
    before = sqlite.rows("analysis_jobs")
    chance, kills = random.Random(7), 0
    for attempt in range(12):
        delay = chance.uniform(0.01, 0.12)

        def shot(delay: float = delay) -> None:
            threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()

        at = NOW + timedelta(seconds=attempt)
        kills += killed(sqlite, shot, run_id=f"run{attempt}", now=at) == -signal.SIGKILL
    assert kills
    sqlite.apply(run_id="last", now=NOW + timedelta(hours=1))
    assert all(sqlite.statuses()[f"j{n:03}"] == ("completed" if n % 2 else "failed") for n in range(200))
    runs = sorted({Path(n).name.split(".")[0] for n in sqlite.audit()})
    undone = [sqlite.undo(run) for run in runs]
    assert sum(u.put_back for u in undone) == 200
    assert sqlite.rows("analysis_jobs") == before


# --- putting back -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_undo_puts_back_only_what_still_has_the_status_that_was_set(scene: Scene) -> None:
    for name in ("same", "moved_on", "gone"):
        scene.job(name, "pending")
    scene.job("completed_then", files=2, done=1)
    scene.job("other", "completed")
    scene.apply()
    scene.execute(
        "UPDATE analysis_jobs SET status = 'processing' WHERE job_id = 'moved_on'",
        "DELETE FROM analysis_jobs WHERE job_id = 'gone'",
    )
    looked = scene.undo(dry_run=True)
    assert (looked.put_back, looked.kept, looked.changed_then) == (2, 2, 4)
    assert scene.statuses()["same"] == "failed"
    result = scene.undo()
    assert (result.put_back, result.kept, result.in_doubt) == (2, 2, [])
    assert scene.statuses() == {
        "same": "pending", "moved_on": "processing", "completed_then": "processing", "other": "completed"
    }  # fmt: skip
    with pytest.raises(Refused, match="was put back already"):
        scene.undo()


@pytest.mark.long
@pytest.mark.parametrize("change", ["status = 'completed'", "updated_at = '2026-10-14 16:00:00'"])
def test_undo_leaves_a_job_alone_that_a_worker_went_on_with_and_completed(scene: Scene, change: str) -> None:
    for name in ("finished", "untouched"):
        scene.job(name, files=3, done=1)
    scene.apply()
    scene.execute(
        f"UPDATE analysis_results SET {change} WHERE job_id = 'finished'",  # noqa: S608
        "UPDATE analysis_jobs SET status = 'processing' WHERE job_id = 'finished'",
        "UPDATE analysis_jobs SET status = 'completed' WHERE job_id = 'finished'",
    )
    looked = scene.undo(dry_run=True)
    result = scene.undo()
    assert (looked.put_back, looked.kept) == (result.put_back, result.kept) == (1, 1)
    assert scene.statuses() == {"finished": "completed", "untouched": "processing"}


def test_where_the_rows_do_not_show_what_a_killed_run_did_they_are_named(sqlite: Scene) -> None:
    for number in range(4):
        sqlite.job(f"j{number}")
    assert killed(sqlite, die_at("intent", 1, after=True)) == -signal.SIGKILL
    # Somebody else settled one of them: not ours to put back.
    sqlite.execute("UPDATE analysis_jobs SET status = 'failed' WHERE job_id = 'j2'")
    result = sqlite.undo()
    assert (result.put_back, result.in_doubt) == (0, ["j2"])
    assert sqlite.statuses()["j2"] == "failed"


def test_an_unknown_run_and_another_database_are_refused(sqlite: Scene, tmp_path: Path) -> None:
    sqlite.job("a")
    with pytest.raises(Refused, match="no audit file of a run run9"):
        sqlite.undo("run9")
    sqlite.apply()
    other = Scene(f"sqlite:///{tmp_path / 'other.db'}", sqlite.folder, newer=True).create()
    other.job("a", "failed")
    with pytest.raises(Refused, match="is not the database that"):
        other.undo()
    assert other.statuses() == {"a": "failed"}


def test_an_audit_that_can_not_be_written_stops_it_before_the_first_change(sqlite: Scene) -> None:
    sqlite.job("a")
    sqlite.folder.write_text("a file where the folder should be")
    with pytest.raises(OperatorError):
        sqlite.apply()
    assert sqlite.statuses() == {"a": "processing"}


def test_a_run_id_that_was_used_is_not_used_again(sqlite: Scene) -> None:
    sqlite.job("a")
    sqlite.apply()
    sqlite.job("b")
    with pytest.raises(StorageError, match="exists and was not overwritten"):
        sqlite.apply()
    assert sqlite.statuses() == {"a": "failed", "b": "processing"}


def test_a_damaged_audit_is_reported(sqlite: Scene) -> None:
    sqlite.job("a")
    sqlite.apply()
    (intent,) = (p for p in sqlite.folder.rglob("*.part0001.json"))
    intent.write_text(intent.read_text()[:-10])
    with pytest.raises(OperatorError, match="is not an audit file"):
        sqlite.undo()
    assert sqlite.statuses() == {"a": "failed"}


def test_the_audit_names_no_folder_and_may_be_read_by_its_owner_only(sqlite: Scene) -> None:
    sqlite.job("a", folder="recordings/E4711")
    sqlite.apply()
    for path in sqlite.folder.rglob("*.json"):
        assert "E4711" not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    assert NOW.isoformat() in path.read_text()
