"""A lost connection ends a run with a clear sentence and a sound state, and the next run finishes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.archive.day import DayArchiver
from saju_ops.archive.purge import Purge, purge
from saju_ops.archive.purge_plan import PurgePlan
from saju_ops.archive.restore import Restore
from saju_ops.rows.engines.open import RowStore
from saju_ops.run_control import RunControl
from saju_ops.storage.open import open_storage
from saju_ops_tests.archive.fault_worker import (
    DAYS,
    NOW,
    OLD_DAYS,
    Answer,
    Job,
    Truth,
    connected,
    fill,
    opened,
    read_archive,
    require_all_held,
    require_no_lock,
    run,
    safely,
    table_rows,
)
from saju_ops_tests.engines import Engine, MySQL, free_port

# What is lost with the connections are cursors, about which their driver complains when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SERVERS = pytest.mark.parametrize("url_fixture", ["mysql_url", "mariadb_url", "postgres_url"])
# One per driver: MariaDB's connections are PyMySQL's too.
DRIVERS = pytest.mark.parametrize("url_fixture", ["mysql_url", "postgres_url"])


@pytest.fixture
def url(request: pytest.FixtureRequest, url_fixture: str) -> str:
    found: str = request.getfixturevalue(url_fixture)
    return found


def cut(url: str, spare: int | None = None) -> int:
    """Ends every connection to the database, but the one that is to be spared; how many there were."""
    parsed = sa.make_url(url)
    mysql = parsed.get_backend_name() == "mysql"
    listing = (
        "SELECT id FROM information_schema.processlist WHERE db = :name"
        if mysql
        else "SELECT pid FROM pg_stat_activity WHERE datname = :name AND backend_type = 'client backend'"
    )
    end = "KILL CONNECTION :id" if mysql else "SELECT pg_terminate_backend(:id)"
    elsewhere = parsed.set(database="information_schema" if mysql else "postgres")
    with connected(elsewhere.render_as_string(hide_password=False)) as connection:
        found = [row[0] for row in connection.execute(sa.text(listing), {"name": parsed.database})]
        for number in found:
            if number != spare:
                with suppress(sa.exc.DBAPIError):  # it may have ended by itself since
                    connection.execute(sa.text(end), {"id": number})
    return len(found)


def call(patch: pytest.MonkeyPatch, owner: object, name: str, before: Callable[[], object], nth: int = 1) -> list[int]:
    """Has something happen before the nth call of a function; the list says how often it was called."""
    original, calls = getattr(owner, name), list[int]()

    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == nth:
            before()
        return original(*args, **kwargs)

    patch.setattr(owner, name, replaced)
    return calls


def require_clear(answer: Answer) -> None:
    assert not answer.error, f"not a sentence for an operator: {answer.error}"
    assert answer.refused.startswith("OperatorError: "), answer
    assert "\n" not in answer.refused
    assert "Traceback" not in answer.refused


def purge_ready(url: str, folder: Path) -> tuple[Job, Truth]:
    truth = fill(url, rows_a_day=300)
    job = Job("purge", url, str(folder), chunk_size=50)
    assert run(replace(job, what="archive")).outcomes == ["archived"] * 3
    return job, truth


def require_finished_by_the_next(job: Job, truth: Truth) -> None:
    require_all_held(job.url, Path(job.folder), truth)
    require_no_lock(job.url)
    answer = run(job)
    assert (answer.outcomes, answer.problems) == (["finished"], [])
    require_all_held(job.url, Path(job.folder), truth)
    assert len(table_rows(job.url)) == 300


# --- archive ----------------------------------------------------------------------------------------------


@pytest.mark.long
@SERVERS
def test_an_archive_that_loses_its_connections_while_streaming(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide rows, so that the server hasn't sent all of them when the connections end."""
    truth = fill(url, days=DAYS[:1], rows_a_day=600, width=20_000)
    job = Job("archive", url, str(tmp_path))
    with monkeypatch.context() as patch:
        _cut_in_the_stream(patch, url)
        answer = safely(job)
    require_clear(answer)
    assert f"The database broke off the archiving of {DAYS[0]}" in answer.refused
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    require_no_lock(url)
    run(job)
    assert require_all_held(url, tmp_path, truth).latest == truth


@pytest.mark.long
@DRIVERS
@pytest.mark.parametrize("moment", ["_prove", "_commit", "_write_manifest"])
def test_an_archive_that_loses_its_connections_at_the_end(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What it wrote is whole or not there, or is without a manifest, for the next run to adopt."""
    truth = fill(url, days=DAYS[:1], rows_a_day=100)
    job = Job("archive", url, str(tmp_path))
    with monkeypatch.context() as patch:
        call(patch, DayArchiver, moment, partial(cut, url))
        answer = safely(job)
    require_clear(answer)
    assert f"The database broke off the archiving of {DAYS[0]}" in answer.refused
    assert require_all_held(url, tmp_path, truth).unfinished == []
    require_no_lock(url)
    run(job)
    archive = require_all_held(url, tmp_path, truth)
    assert (archive.latest, archive.parts, archive.strays, archive.unfinished) == (truth, 1, [], [])


def _cut_in_the_stream(patch: pytest.MonkeyPatch, url: str) -> None:
    original = DayArchiver._stream

    def stream(task: DayArchiver, chunks: Iterator[Any], sink: Any) -> None:
        def cutting() -> Iterator[Any]:
            for number, chunk in enumerate(chunks):
                if number == 0 and not done:
                    done.append(cut(url))
                yield chunk

        original(task, cutting(), sink)

    done: list[int] = []
    patch.setattr(DayArchiver, "_stream", stream)


@pytest.mark.long
@SERVERS
def test_a_further_part_that_loses_its_connection(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = fill(url, days=DAYS[:1], rows_a_day=100)
    job = Job("archive", url, str(tmp_path))
    run(job)
    truth.update(fill(url, days=DAYS[:1], rows_a_day=600, width=20_000, first_key=1_001))
    with monkeypatch.context() as patch:
        _cut_in_the_stream(patch, url)
        answer = safely(job)
    require_clear(answer)
    # The rest of the rows may have been on its way already.
    assert require_all_held(url, tmp_path, truth).parts in (1, 2)
    run(job)
    archive = require_all_held(url, tmp_path, truth)
    assert (archive.latest, archive.parts, archive.unfinished) == (truth, 2, [])


# --- purge ------------------------------------------------------------------------------------------------


def _after_delete(patch: pytest.MonkeyPatch, url: str) -> None:
    original, calls = RowStore.delete, list[int]()

    def delete(store: RowStore, selection: Any) -> int:
        deleted = original(store, selection)
        calls.append(deleted)
        if len(calls) == 3:
            cut(url)
        return deleted

    patch.setattr(RowStore, "delete", delete)


PURGE_MOMENTS: dict[str, Callable[[pytest.MonkeyPatch, str], object]] = {
    "before it starts": lambda patch, url: call(patch, Purge, "run", partial(cut, url)),
    "between two days": lambda patch, url: call(patch, Purge, "_purge_day", partial(cut, url), 2),
    "between two chunks": lambda patch, url: call(patch, Purge, "_chunk", partial(cut, url), 3),
    "between lock and delete": lambda patch, url: call(patch, RowStore, "delete", partial(cut, url), 3),
    "between delete and commit": _after_delete,
    "while counting": lambda patch, url: call(patch, Purge, "_count_kept", partial(cut, url)),
    "at the report": lambda patch, url: call(patch, Purge, "_report_space", partial(cut, url)),
}
POSTGRES_MOMENTS = [("postgres_url", m) for m in list(PURGE_MOMENTS)[2:6]]


@pytest.mark.long
@pytest.mark.parametrize(("url_fixture", "moment"), [("mysql_url", m) for m in PURGE_MOMENTS] + POSTGRES_MOMENTS)
def test_a_purge_that_loses_its_connection(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    job, truth = purge_ready(url, tmp_path)
    with monkeypatch.context() as patch:
        PURGE_MOMENTS[moment](patch, url)
        answer = safely(job)
    require_clear(answer)
    if moment in ("between lock and delete", "between delete and commit"):
        assert len(table_rows(url)) == len(truth) - 2 * job.chunk_size
    require_finished_by_the_next(job, truth)


@pytest.mark.long
@DRIVERS
def test_a_purge_whose_statement_is_cancelled(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed by an administrator, who leaves the connection: the run ends and nothing else is deleted."""
    job, truth = purge_ready(url, tmp_path)
    mysql = url.startswith("mysql")
    statement = "KILL QUERY :id" if mysql else "SELECT pg_cancel_backend(:id)"

    def cancel(store: RowStore, selection: object) -> int:
        own = "SELECT CONNECTION_ID()" if mysql else "SELECT pg_backend_pid()"
        number = store.connection.exec_driver_sql(own).scalar()
        store.connection.execute(sa.text(statement), {"id": number})
        raise AssertionError("the statement was cancelled")

    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "_delete", cancel)
        answer = safely(job)
    require_clear(answer)
    assert len(table_rows(url)) == len(truth)
    require_finished_by_the_next(job, truth)


# --- restore ----------------------------------------------------------------------------------------------


def _in_the_load(patch: pytest.MonkeyPatch, url: str) -> None:
    original, done = Restore._rows_to_write, list[int]()

    def rows(restore: Restore, work: Any) -> Iterator[Any]:
        for batch in original(restore, work):
            yield batch.slice(0, 10)
            if not done:
                done.append(cut(url))
            yield batch.slice(10)

    patch.setattr(Restore, "_rows_to_write", rows)


RESTORE_MOMENTS: dict[str, Callable[[pytest.MonkeyPatch, str], object]] = {
    "while comparing": lambda patch, url: call(patch, Restore, "_compare", partial(cut, url), 2),
    "between two parts": lambda patch, url: call(patch, Restore, "write", partial(cut, url), 2),
    "while loading": _in_the_load,
    "before the proof": lambda patch, url: call(patch, Restore, "_prove", partial(cut, url), 2),
}


@pytest.mark.long
@DRIVERS
@pytest.mark.parametrize("moment", RESTORE_MOMENTS)
def test_a_restore_that_loses_its_connection(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    job, truth = purge_ready(url, tmp_path)
    run(job)
    restore = replace(job, what="restore")
    with monkeypatch.context() as patch:
        RESTORE_MOMENTS[moment](patch, url)
        answer = safely(restore)
    require_clear(answer)
    assert len(table_rows(url)) in (300, 600)
    require_all_held(url, tmp_path, truth)
    run(restore)
    assert table_rows(url) == truth


# --- the server itself ------------------------------------------------------------------------------------


class OwnMySQL:
    """A server that may be killed and started again on the same data, which the shared ones may not."""

    def __init__(self, folder: Path) -> None:
        self.engine = MySQL()
        self.engine.port = free_port()
        (folder / "tmp").mkdir()
        self.plan = self.engine.plan(folder)
        self.log = (folder / "server.log").open("ab")
        for command in self.plan.setup:
            assert self._spawn(command).wait() == 0
        self.start()
        # The file makes the account, which is there from now on.
        (folder / "init.sql").write_text("")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.plan.folder,
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "TZ": "UTC", **self.plan.env},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            # PR_SET_PDEATHSIG: it must not outlive the tests.
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL),
        )

    def start(self) -> None:
        self.process = self._spawn(self.plan.serve)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.engine.execute("SELECT 1")
                return
            except sa.exc.OperationalError:
                assert self.process.poll() is None, "the server ended"
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.log.close()


@pytest.fixture
def own_mysql(tmp_path: Path) -> Iterator[OwnMySQL]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = OwnMySQL(folder)
    yield server
    server.close()


@pytest.mark.long
def test_a_purge_whose_server_is_killed_loses_nothing(own_mysql: OwnMySQL, tmp_path: Path) -> None:
    """SIGKILL of the server between two chunks, inside a transaction and during an archive; then it is back."""
    own_mysql.engine.create_database("logs")
    url = own_mysql.engine.database_url("logs")
    job, truth = purge_ready(url, tmp_path / "backups")
    for owner, name, nth in ((Purge, "_chunk", 3), (RowStore, "delete", 4)):
        with pytest.MonkeyPatch.context() as patch:
            call(patch, owner, name, own_mysql.kill, nth)
            answer = safely(job)
        require_clear(answer)
        answer = safely(job)
        require_clear(answer)
        assert "can't be reached" in answer.refused
        own_mysql.start()
        require_all_held(url, tmp_path / "backups", truth)
    with pytest.MonkeyPatch.context() as patch:
        call(patch, DayArchiver, "_prove", own_mysql.kill)
        answer = safely(replace(job, what="archive", folder=str(tmp_path / "other")))
    require_clear(answer)
    assert read_archive(tmp_path / "other").parts == 0
    own_mysql.start()
    require_finished_by_the_next(job, truth)


@pytest.mark.long
def test_a_purge_whose_postgres_backend_is_killed_loses_nothing(
    postgres_server: Engine, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of one backend makes PostgreSQL end all of them and recover from its log."""
    job, truth = purge_ready(postgres_url, tmp_path)
    backends: list[int] = []

    def kill_the_backend(store: RowStore, selection: object) -> int:
        backends.append(int(store.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()))
        deleted = original(store, selection)  # type: ignore[arg-type]
        if len(backends) == 3:
            os.kill(backends[-1], signal.SIGKILL)
        return deleted

    original = RowStore.delete
    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "delete", kill_the_backend)
        answer = safely(job)
    require_clear(answer)
    for _ in range(200):
        with suppress(sa.exc.OperationalError):
            postgres_server.execute("SELECT 1")
            break
        time.sleep(0.1)
    assert len(table_rows(postgres_url)) == len(truth) - 100
    require_finished_by_the_next(job, truth)


def test_a_limit_ends_a_purge_at_a_chunks_end_and_the_next_run_continues(mysql_url: str, tmp_path: Path) -> None:
    job, truth = purge_ready(mysql_url, tmp_path)
    reasons = iter([None, None, None, None, "asked to stop"])
    with opened(mysql_url) as store:
        plan = PurgePlan(30, dry_run=False, chunk_size=50)
        answer = purge(
            store,
            open_storage(job.folder),
            plan,
            now=NOW,
            first_day=OLD_DAYS[0],
            control=RunControl(lambda: next(reasons)),
        )
    assert (answer.stopped, answer.deleted % 50, 0 < answer.deleted < 600) == ("asked to stop", 0, True)
    require_finished_by_the_next(job, truth)


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    answer = safely(Job("purge", "mysql+pymysql://someone:secret-word@127.0.0.1:9/logs", str(tmp_path)))
    require_clear(answer)
    assert "127.0.0.1" in answer.refused
    assert "secret-word" not in answer.refused
