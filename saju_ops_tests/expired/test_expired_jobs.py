"""Expired jobs go with all that hangs on them, children first; anything in doubt keeps the whole job."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.expired import row_archive
from saju_ops.expired.dependents import Hanging
from saju_ops.expired.job_tables import JobTables, job_limits, open_jobs
from saju_ops.rows.csvfile import CsvSink
from saju_ops.rows.engines.base import RowStore
from saju_ops.rows.engines.open import Selection
from saju_ops.rows.engines.postgres.store import PostgresRowStore
from saju_ops.run_control import RunControl
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.open import StorageError, open_storage
from saju_ops.storage.seal import Seals
from saju_ops_tests.expired.job_scene import (
    CHILDREN,
    HANGING,
    HOUR,
    NOTHING_KEPT,
    NOW,
    SEOUL,
    TABLES,
    JobScene,
    job_id,
)

SECOND = timedelta(seconds=1)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> JobScene:
    return JobScene(database_url, tmp_path / "backups").create()


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> JobScene:
    return JobScene(sqlite_url, tmp_path / "backups").create()


@pytest.fixture(params=["mysql", "mariadb", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> JobScene:
    """Engines that lock rows. SQLite has one writer at a time."""
    return JobScene(request.getfixturevalue(f"{request.param}_url"), tmp_path / "backups").create()


# --- deleted rows -----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("cascades", ["orm", "database", "mixed"])
def test_expired_jobs_go_whole_whoever_cascades_and_living_ones_stay_whole(
    database_url: str, tmp_path: Path, cascades: str
) -> None:
    scene = JobScene(database_url, tmp_path / "backups", cascades=cascades).create()
    scene.add(range(1, 6))
    scene.add(range(6, 9), NOW + HOUR)
    result = scene.purge(batch_jobs=2)
    assert [scene.whole(n) for n in range(1, 9)] == [None] * 5 + [True] * 3
    assert (result.expired, result.deleted, result.rows.total()) == (5, 5, 5 * (1 + HANGING))
    assert result.rows["report_knowledge"] == 15
    assert result.batches == 3
    assert not result.stayed
    assert not result.orphans


@pytest.mark.long
def test_payments_stand_in_the_archive_before_their_jobs_go(scene: JobScene) -> None:
    scene.add(range(1, 4))
    result = scene.purge()
    assert scene.archived_ids("payments") == scene.archived_ids("payment_failures") == [1, 2, 3]
    assert scene.archived("payment_failures")[0]["error_message"] == '취소, "창" 닫음'
    assert dict(result.rows_archived) == {"payments": 3, "payment_failures": 3}
    manifests = list(scene.folder.glob("purged_jobs/2026/10/payments_20261001_090000.manifest.json"))
    assert len(manifests) == 1
    assert job_id(2) in manifests[0].read_text()


@pytest.mark.long
def test_a_dry_run_says_what_would_go_and_changes_nothing(scene: JobScene) -> None:
    scene.add(range(1, 4))
    before = scene.counts()
    dry = scene.purge(dry_run=True)
    assert scene.counts() == before
    assert not scene.folder.exists() or not list(scene.folder.rglob("*.csv"))
    done = scene.purge()
    assert (dry.deleted, dry.rows) == (done.deleted, done.rows)


@pytest.mark.long
def test_a_second_run_has_nothing_to_do(scene: JobScene) -> None:
    scene.add(range(1, 3))
    scene.purge()
    again = scene.purge()
    assert (again.expired, again.deleted, again.archives) == (0, 0, [])


# --- when a job is expired --------------------------------------------------------------------------------


@pytest.mark.long
def test_exactly_now_is_not_expired_and_an_instant_before_it_is(scene: JobScene) -> None:
    scene.add([1], NOW)
    scene.add([2], NOW - SECOND)
    scene.purge(now=NOW)
    assert scene.ids() == {job_id(1)}
    scene.purge(now=NOW + timedelta(microseconds=1))
    assert scene.ids() == set()


@pytest.mark.long
def test_midnight_in_seoul_is_the_instant_that_it_is(database_url: str, tmp_path: Path) -> None:
    """A column without a zone kept in Seoul's time: 00:00 there is 15:00 UTC of the day before."""
    midnight = datetime(2026, 10, 2, tzinfo=SEOUL)
    instants = sa.make_url(database_url).get_backend_name() in ("mysql", "mariadb")
    scene = JobScene(database_url, tmp_path / "backups", zone=ZoneInfo("UTC") if instants else SEOUL).create()
    scene.add([1], midnight - SECOND)
    scene.add([2], midnight)
    scene.add([3], midnight + SECOND)
    scene.purge(now=midnight - SECOND)
    assert scene.ids() == {job_id(n) for n in (1, 2, 3)}
    scene.purge(now=midnight)
    assert scene.ids() == {job_id(n) for n in (2, 3)}


def test_a_datetime_column_in_seouls_time_is_compared_as_an_instant(mysql_url: str, tmp_path: Path) -> None:
    scene = JobScene(mysql_url, tmp_path / "backups", zone=SEOUL)
    scene.create("ALTER TABLE jobs MODIFY expires_at DATETIME(6)")
    scene.add([1], NOW - SECOND)
    scene.add([2], NOW + SECOND)
    scene.purge()
    assert scene.ids() == {job_id(2)}


def test_a_timestamptz_column_is_compared_as_an_instant(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups", zone=SEOUL).create(
        "ALTER TABLE jobs ALTER expires_at TYPE timestamptz USING expires_at AT TIME ZONE 'UTC'"
    )
    scene.add([1, 2, 3])
    for number, at in ((1, "2026-10-01 08:59:59.999999+09"), (2, "2026-10-01 09:00:00+09"), (3, "infinity")):
        scene.run("UPDATE jobs SET expires_at = CAST(:at AS timestamptz) WHERE id = :id", id=job_id(number), at=at)
    scene.purge()
    assert scene.ids() == {job_id(2), job_id(3)}


@pytest.mark.parametrize(
    ("text", "expired"),
    [
        ("2026-09-30 23:59:59", True),
        ("2026-09-30T23:59:59.999999", True),
        ("2026-10-01T00:00:00Z", False),
        ("2026-10-01T08:59:59+09:00", True),
        ("2026-10-01T09:00:00+09:00", False),
        ("2026-10-01 00:00:00.000001", False),
        ("2026-09-30", True),
        ("soon", False),
        ("0000-00-00 00:00:00", False),
        ("1970-01-01 00:00:00", False),
    ],
)
def test_sqlite_texts_are_instants_or_expire_for_nobody(lite: JobScene, text: str, expired: bool) -> None:
    lite.add([1])
    lite.run("UPDATE jobs SET expires_at = :text", text=text)
    result = lite.purge()
    assert (lite.whole(1) is None) is expired
    assert result.unreadable == (text in ("soon", "0000-00-00 00:00:00", "1970-01-01 00:00:00"))


def test_numbers_and_null_expire_for_nobody(lite: JobScene) -> None:
    lite.run("PRAGMA writable_schema = ON")
    lite.add([1])
    lite.run("UPDATE jobs SET expires_at = 1")
    assert lite.purge().unreadable == 1
    assert lite.whole(1) is True


def test_zero_dates_expire_for_nobody(mysql_url: str, tmp_path: Path) -> None:
    scene = JobScene(mysql_url, tmp_path / "backups").create("ALTER TABLE jobs MODIFY expires_at DATETIME NULL")
    scene.add([1, 2])
    with scene.engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = ''")
        connection.exec_driver_sql("UPDATE jobs SET expires_at = 0 WHERE id LIKE '%%1'")
        connection.exec_driver_sql("UPDATE jobs SET expires_at = NULL WHERE id LIKE '%%2'")
    result = scene.purge()
    assert (result.expired, result.unreadable) == (0, 1)
    assert scene.whole(1) is scene.whole(2) is True


@pytest.mark.parametrize(
    ("engine", "naive"),
    [
        ("sqlite", []),
        ("mariadb", ["ALTER TABLE jobs MODIFY expires_at DATETIME(6)"]),
        ("postgres", ["ALTER TABLE jobs ALTER expires_at TYPE timestamp"]),
    ],
)
def test_the_hour_that_the_clocks_repeat_is_read_as_the_later_one(
    engine: str, naive: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """In Berlin 02:30 of 2026-10-25 comes twice; at the first coming it may mean the second."""
    berlin = ZoneInfo("Europe/Berlin")
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", zone=berlin).create(*naive)
    scene.add([1])
    scene.run("UPDATE jobs SET expires_at = '2026-10-25 02:10:00'")
    scene.purge(now=datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=0))
    assert scene.whole(1) is True
    scene.purge(now=datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1))
    assert scene.whole(1) is None


# --- what keeps a job -------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_table_that_is_not_listed_is_refused_by_name_before_anything_is_deleted(scene: JobScene) -> None:
    scene.run("CREATE TABLE gifts (id INTEGER PRIMARY KEY, report_id BIGINT, FOREIGN KEY (report_id) REFERENCES"
              " reports (id) ON DELETE CASCADE)")  # fmt: skip
    scene.add([1])
    with pytest.raises(Refused, match=r"The table gifts references reports .* PURGE_TABLES doesn't name it"):
        scene.purge()
    assert scene.whole(1) is True
    scene.purge(tables=JobTables("jobs", (*CHILDREN, "gifts"), ("payments",)))
    assert scene.whole(1) is None
    scene.run("DROP TABLE gifts")


@pytest.mark.long
def test_a_payment_that_changes_after_it_was_archived_keeps_its_job(
    scene: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.expired import jobs as expired_jobs

    scene.add(range(1, 4))
    real = expired_jobs.JobPurge._archive

    def archive_then_change(self: Any, *args: Any) -> Any:
        found = real(self, *args)
        scene.run("UPDATE payments SET amount = 1 WHERE id = 2")
        return found

    monkeypatch.setattr(expired_jobs.JobPurge, "_archive", archive_then_change)
    result = scene.purge()
    assert [scene.whole(n) for n in (1, 2, 3)] == [None, True, None]
    assert dict(result.stayed) == {"a row of payments came or changed after it was archived": 1}
    monkeypatch.undo()
    scene.purge()
    assert scene.whole(2) is None
    assert sorted(r["amount"] for r in scene.archived("payments") if r["id"] == "2") == ["1", "29000"]


@pytest.mark.long
def test_a_payment_that_comes_after_the_archive_keeps_its_job(scene: JobScene, monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops.expired import jobs as expired_jobs

    scene.add([1])
    real = expired_jobs.JobPurge._archive

    def archive_then_add(self: Any, *args: Any) -> Any:
        found = real(self, *args)
        late = {"id": 99, "job_id": job_id(1), "error_code": "late", "created_at": NOW.replace(tzinfo=None)}
        scene.insert("payment_failures", late)
        return found

    monkeypatch.setattr(expired_jobs.JobPurge, "_archive", archive_then_add)
    scene.purge()
    assert scene.ids("payment_failures") == {1, 99}
    assert scene.ids() == {job_id(1)}


@pytest.mark.long
def test_a_payment_that_changes_on_its_way_into_the_archive_keeps_its_job(
    scene: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is changed: the rows read back must be those of the database itself."""
    scene.add([1])
    store, true, false = CsvSink._store, "카드".encode(), "카두".encode()
    with monkeypatch.context() as patch:
        patch.setattr(CsvSink, "_store", lambda sink, data: store(sink, bytes(data).replace(true, false)))
        result = scene.purge()
    assert scene.whole(1) is True
    (reason,) = result.stayed
    assert "The rows of payments were not archived: the file read back holds 1 row" in reason
    assert list(scene.folder.rglob("payments_*")) == []
    assert scene.purge().deleted == 1


@pytest.mark.long
def test_a_job_that_is_extended_after_it_was_found_stays(scene: JobScene, monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops.expired import jobs as expired_jobs

    scene.add([1, 2])
    real = expired_jobs.JobPurge._archive

    def archive_then_extend(self: Any, *args: Any) -> Any:
        found = real(self, *args)
        scene.run("UPDATE jobs SET expires_at = '2027-01-01 00:00:00' WHERE id = :id", id=job_id(1))
        return found

    monkeypatch.setattr(expired_jobs.JobPurge, "_archive", archive_then_extend)
    result = scene.purge()
    assert [scene.whole(1), scene.whole(2)] == [True, None]
    assert result.deleted == 1


def test_without_a_place_to_archive_nothing_is_deleted(lite: JobScene) -> None:
    lite.add([1])
    lite.folder.write_text("a file where the folder should be")
    with pytest.raises(OperatorError, match=r"payments.* can't be archived"):
        lite.purge()
    assert lite.whole(1) is True


def test_a_storage_that_fails_stops_the_run_before_anything_is_deleted(lite: JobScene) -> None:
    class Full:
        password = None
        uri = "file:///full"

        def __getattr__(self, name: str) -> Any:
            if name == "create":
                raise StorageError("disk full")
            return getattr(lite.storage, name)

    lite.add([1])
    with pytest.raises(OperatorError, match="disk full"):
        lite.purge(storage=Full())
    assert lite.whole(1) is True


def test_a_row_that_can_not_be_archived_keeps_its_job_and_no_other(lite: JobScene) -> None:
    lite.add(range(1, 6))
    lite.run("UPDATE payments SET method = CAST(X'FF' AS TEXT) WHERE id = 3")
    result = lite.purge()
    assert [lite.whole(n) for n in range(1, 6)] == [None, None, True, None, None]
    assert result.stayed.total() == 1
    assert "not UTF-8" in result.stayed_named[0][1]
    assert sorted(lite.archived_ids("payments")) == [1, 2, 4, 5]


@pytest.mark.long
def test_a_job_that_stays_is_not_archived_again_every_hour(scene: JobScene) -> None:
    """Its delete fails each time; its payment is written once."""
    scene.add([1, 2])
    # No catalogue of keys shows a trigger.
    guard = {
        "mysql": "CREATE TRIGGER no BEFORE DELETE ON sms_logs FOR EACH ROW BEGIN IF OLD.job_id = '{id}' THEN SIGNAL"
        " SQLSTATE '45000' SET MESSAGE_TEXT = 'kept'; END IF; END",
        "sqlite": "CREATE TRIGGER no BEFORE DELETE ON sms_logs WHEN OLD.job_id = '{id}' BEGIN"
        " SELECT RAISE(ABORT, 'kept'); END",
        "postgresql": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.job_id = '{id}' THEN"
        " RAISE 'kept'; END IF; RETURN OLD; END $$",
    }
    dialect = scene.engine.dialect.name.replace("mariadb", "mysql")
    scene.run(guard[dialect].format(id=job_id(1)))
    if dialect == "postgresql":
        scene.run("CREATE TRIGGER no BEFORE DELETE ON sms_logs FOR EACH ROW EXECUTE FUNCTION no()")
    for hour in range(3):
        result = scene.purge(now=NOW + hour * HOUR)
        assert result.stayed.total() == 1
        assert [scene.whole(1), scene.whole(2)] == [True, None]
    assert scene.archived_ids("payments") == [1, 2]
    scene.run("DROP TRIGGER no" + (" ON sms_logs" if dialect == "postgresql" else ""))
    scene.purge(now=NOW + 4 * HOUR)
    assert scene.whole(1) is None
    assert scene.archived_ids("payments") == [1, 2]


@pytest.mark.long
def test_a_job_that_stays_for_weeks_does_not_make_each_run_read_more(
    lite: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its payment is written again once in a week, and the archives of before are not looked at."""
    read: list[str] = []
    real = row_archive.read_row_manifest

    def reading(storage: Any, name: str) -> Any:
        read.append(name)
        return real(storage, name)

    monkeypatch.setattr(row_archive, "read_row_manifest", reading)
    lite.add([1])
    lite.run(f"CREATE TRIGGER no BEFORE DELETE ON sms_logs WHEN OLD.job_id = '{job_id(1)}' BEGIN"
             " SELECT RAISE(ABORT, 'kept'); END")  # fmt: skip
    counts = []
    for day in range(24):
        now = NOW + day * 24 * HOUR
        lite.add([day + 2], now - HOUR)
        read.clear()
        assert lite.purge(now=now).stayed.total() == 1
        assert lite.whole(day + 2) is None
        counts.append(len(read))
    # For each of two tables, one a day: the last seven days and one more for clocks that differ.
    assert max(counts) == counts[-1] == 2 * 8
    ids = lite.archived_ids("payments")
    assert ids.count(1) == 3, "on the days 0, 9 and 18"
    assert sorted(set(ids)) == list(range(1, 26))
    assert len(ids) == 27

    # What changed and changed back is archived as it is now, last of all.
    lite.run("UPDATE payments SET amount = 1 WHERE id = 1")
    lite.purge(now=now + HOUR)
    lite.run("UPDATE payments SET amount = 29000 WHERE id = 1")
    lite.purge(now=now + 2 * HOUR)
    assert [r["amount"] for r in lite.archived("payments") if r["id"] == "1"][-3:] == ["29000", "1", "29000"]


@pytest.mark.parametrize("row", ["another", "as it was"])
def test_a_damaged_archive_counts_for_nothing_and_is_reported(lite: JobScene, row: str) -> None:
    """Also where the job's own row in it is sound."""
    lite.add([1])
    lite.run("CREATE TRIGGER no BEFORE DELETE ON sms_logs BEGIN SELECT RAISE(ABORT, 'kept'); END")
    lite.purge()
    (file,) = lite.folder.glob("purged_jobs/*/*/payments_*.csv")
    file.chmod(0o600)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"29000", b"29001") if row == "another" else data + data.splitlines(True)[-1])
    lite.run("DROP TRIGGER no")
    result = lite.purge(now=NOW + HOUR)
    assert lite.whole(1) is None
    assert "damaged" in result.problems[0]
    (again,) = set(lite.folder.glob("purged_jobs/*/*/payments_*.csv")) - {file}
    assert again.read_bytes() == data


def test_archives_of_before_there_was_a_key_are_one_problem_a_table_and_stop_no_job(lite: JobScene) -> None:
    lite.add(range(1, 5))
    lite.run("CREATE TRIGGER no BEFORE DELETE ON sms_logs BEGIN SELECT RAISE(ABORT, 'kept'); END")
    lite.purge()
    lite.purge(now=NOW + HOUR)
    lite.run("UPDATE payments SET amount = 1")
    lite.purge(now=NOW + 2 * HOUR)
    lite.run("DROP TRIGGER no")
    lite.storage = open_storage(str(lite.folder), seals=Seals(["0123456789abcdef" * 2]))
    result = lite.purge(now=NOW + 3 * HOUR)
    assert (result.deleted, lite.ids()) == (4, set())
    assert ["`saju-ops seal`" in problem for problem in result.problems] == [True, True]
    assert result.rows_archived["payments"] == 4


def test_an_archive_that_the_store_does_not_give_stops_no_job(lite: JobScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one in Glacier. Its rows are archived again."""
    lite.add([1])
    lite.run("CREATE TRIGGER no BEFORE DELETE ON sms_logs BEGIN SELECT RAISE(ABORT, 'kept'); END")
    lite.purge()
    lite.run("DROP TRIGGER no")
    (old,) = lite.folder.glob("purged_jobs/*/*/payments_*.manifest.json")
    given = LocalStorage.open

    def frozen(self: LocalStorage, name: str) -> Any:
        if name.endswith(old.name):
            raise StorageError(f"S3 could not read {name} (InvalidObjectState).")
        return given(self, name)

    monkeypatch.setattr(LocalStorage, "open", frozen)
    result = lite.purge(now=NOW + HOUR)
    assert (result.deleted, lite.ids()) == (1, set())
    assert "InvalidObjectState" in result.problems[0]


# --- limits and company -----------------------------------------------------------------------------------


def test_limits_stop_between_batches_and_the_next_run_continues(lite: JobScene) -> None:
    lite.add(range(1, 8))
    result = lite.purge(max_jobs=3, batch_jobs=2)
    assert (result.deleted, result.stopped) == (3, "max_jobs (3) reached")
    assert len(lite.ids()) == 4
    ticks = iter(range(0, 100_000, 60))
    result = lite.purge(
        max_runtime_seconds=100, batch_jobs=1, passed={"control": RunControl(clock=lambda: float(next(ticks)))}
    )
    assert result.stopped == "max_runtime_seconds (100) reached"
    stops = iter([None, None, None, "cancelled"])
    lite.purge(batch_jobs=1, passed={"control": RunControl(lambda: next(stops, "cancelled"))})
    assert lite.purge().finished
    assert lite.ids() == set()


@pytest.mark.parametrize(
    ("option", "value"), [("max_jobs", 0), ("batch_jobs", 0), ("batch_jobs", 5001), ("pause_seconds", -1)]
)
def test_limits_that_make_no_sense_are_refused(option: str, value: int) -> None:
    with pytest.raises(Refused, match=f"{option} is {value}; it may be"):
        job_limits(**{option: value})  # type: ignore[arg-type]


def test_more_jobs_than_one_run_looks_at_are_reported_and_left_to_the_next_run(
    lite: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(range(1, 6))
    monkeypatch.setattr("saju_ops.expired.batches.CANDIDATES", 3)
    first, second = lite.purge(), lite.purge()
    assert (first.deleted, first.stopped) == (3, "the first 3 expired ones were looked at")
    assert (second.deleted, second.stopped) == (2, "finished")


def test_rows_that_are_left_half_read_do_not_fail_the_next_transaction(scene: JobScene) -> None:
    scene.add([1, 2])
    with open_jobs(scene.url, "jobs", scene.zone) as store:
        with store.transaction():
            rows = store.batches(Selection(), 1, lock=True)
            next(rows)
        with store.transaction():
            assert store.count(Selection()) == 2
            del rows
            assert store.count(Selection()) == 2


@pytest.mark.long
def test_two_runs_do_not_work_at_once(scene: JobScene) -> None:
    scene.add([1])
    with open_jobs(scene.url, "jobs", scene.zone) as store, store.lock("expired jobs", 1):
        with pytest.raises(Busy):
            scene.purge(wait=0.1)
    assert scene.whole(1) is True


@pytest.mark.long
def test_a_job_that_somebody_holds_is_left_for_the_next_run_and_the_others_go(server: JobScene) -> None:
    scene = server
    scene.add(range(1, 5))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with scene.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
            connection.execute(sa.text("SELECT * FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id(2)})
            held.set()
            done.wait(60)
            connection.rollback()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        result = scene.purge(tables=NOTHING_KEPT, passed={"control": RunControl(sleep=lambda _: None)})
    finally:
        done.set()
        thread.join()
    assert [scene.whole(n) for n in range(1, 5)] == [None, True, None, None]
    assert result.stayed.total() == 1
    assert "the database refused" in result.stayed_named[0][1]


@pytest.mark.long
@pytest.mark.parametrize("moment", ["judged", "deleted"])
def test_an_update_of_a_job_waits_for_the_commit_and_then_finds_nothing(
    server: JobScene, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service extends a job while it is deleted: it is deleted, and the service sees it (0 rows)."""
    scene = server
    scene.add([1])
    touched: list[int] = []

    def extend() -> None:
        with scene.engine.connect() as connection:
            query = "UPDATE jobs SET expires_at = '2027-01-01 00:00:00' WHERE id = :id"
            touched.append(connection.execute(sa.text(query), {"id": job_id(1)}).rowcount)

    thread = threading.Thread(target=extend)

    def meanwhile() -> None:
        thread.start()
        time.sleep(0.3)
        assert not touched

    delete = Hanging.delete
    if moment == "judged":
        monkeypatch.setattr(Hanging, "delete", lambda self: (meanwhile(), delete(self))[1])
    else:
        for store in (RowStore, PostgresRowStore):
            monkeypatch.setattr(store, "check_now", lambda self, check=store.check_now: (check(self), meanwhile())[0])
    scene.purge()
    thread.join()
    assert touched == [0]
    assert scene.whole(1) is None


def test_a_job_that_the_server_did_not_delete_stays_whole(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups").create(
        "CREATE FUNCTION spare() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN IF OLD.id::text = ''{job_id(1)}'' THEN RETURN NULL; END IF; RETURN OLD; END'",
        "CREATE TRIGGER spare BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION spare()",
    )
    scene.add([1, 2])
    result = scene.purge()
    assert [scene.whole(1), scene.whole(2)] == [True, None]
    assert (result.deleted, list(result.stayed)) == (
        1, ["the server deleted 0 rows of jobs where 1 was found and locked"],
    )  # fmt: skip


def test_a_database_without_the_table_is_refused_in_a_sentence(lite: JobScene) -> None:
    with pytest.raises(Refused, match=r"JOBS_TABLE holds 'orders', but the database .* has no such table"):
        open_jobs(lite.url, "orders", lite.zone)


def test_files_that_no_key_leads_to_are_refused(sqlite_url: str, tmp_path: Path) -> None:
    from saju_ops.expired.job_files import FilePlace, JobFiles

    scene = JobScene(sqlite_url, tmp_path / "backups").create()
    scene.run("CREATE TABLE attachments (id INTEGER PRIMARY KEY, job_id TEXT, s3_key TEXT)")
    tables = JobTables("jobs", TABLES.may_go, TABLES.keep, (("attachments", "s3_key"),))
    with pytest.raises(Refused, match="No foreign key leads from attachments to jobs"):
        scene.purge(tables=tables, files=JobFiles(FilePlace("bucket")))


@pytest.mark.long
def test_a_table_named_with_the_schema_in_which_the_database_looks_anyway_is_that_table(scene: JobScene) -> None:
    scene.add([1])
    here = {"postgresql": "public", "sqlite": "main"}.get(scene.engine.dialect.name, scene.url.database)
    children = tuple(f"{here}.{name}" for name in TABLES.may_go)
    scene.purge(tables=JobTables("jobs", children, (f"{here}.payments",)))
    assert (scene.whole(1), scene.archived_ids("payments")) == (None, [1])


@pytest.mark.parametrize("name", ["payment", "public.payment"])
def test_a_mistyped_table_is_not_taken_for_none(lite: JobScene, name: str) -> None:
    from saju_ops.expired.job_files import FilePlace, JobFiles

    lite.add([1])
    with pytest.raises(Refused, match=f"PURGE_KEEP_TABLES names {name}, but no such table"):
        lite.purge(tables=JobTables("jobs", TABLES.may_go, (name,)))
    with pytest.raises(Refused, match=f"PURGE_FILE_COLUMNS names {name}, but no such table"):
        lite.purge(
            tables=JobTables("jobs", TABLES.may_go, TABLES.keep, ((name, "s3_key"),)),
            files=JobFiles(FilePlace("bucket")),
        )
    assert lite.counts()["jobs"] == 1
