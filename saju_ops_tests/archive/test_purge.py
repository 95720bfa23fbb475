"""The purge deletes what a proven archive holds unchanged, beyond the retention, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.rows.days import Day, parse_day
from saju_ops.rows.engines.base import RowStore
from saju_ops.storage.open import open_storage
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, SEOUL, Scene
from saju_ops_tests.engines import MariaDB, MySQL

LAST_EXPIRED = parse_day("2026-10-20", SEOUL)  # 30 days before NOW lie within the 21st


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    return Scene(database_url, tmp_path / "backups").create_table()


@pytest.fixture(params=["mysql", "mariadb"])
def mysql_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(request.getfixturevalue(f"{request.param}_url"), tmp_path / "backups").create_table()


def day_after(day: Day) -> Day:
    return Day(day.date + timedelta(days=1), day.zone)


# --- which rows -------------------------------------------------------------------------------------------


def test_only_days_wholly_beyond_the_retention_are_purged(scene: Scene) -> None:
    kept = day_after(LAST_EXPIRED)
    instants = [
        LAST_EXPIRED.start, LAST_EXPIRED.end - timedelta(microseconds=1), kept.start, kept.start + timedelta(hours=3),
    ]  # fmt: skip
    scene.insert([{"log_id": i, "created_at": scene.time(t)} for i, t in enumerate(instants, 1)])
    for day in (LAST_EXPIRED, kept):
        scene.archive(day)
    result = scene.purge()
    assert (str(result.cutoff), result.deleted) == ("2026-10-21", 2)
    assert scene.ids() == [3, 4]


def test_a_row_of_the_cutoffs_own_first_instant_is_not_due(scene: Scene) -> None:
    """Found from the end of the last day that is due, over days without a row."""
    cutoff = day_after(LAST_EXPIRED).start
    scene.insert([{"log_id": i, "created_at": scene.time(t)} for i, t in enumerate((DAY.start, cutoff), 1)])
    scene.archive()
    result = scene.purge()
    assert (result.deleted, result.problems, scene.ids()) == (1, [], [2])


def test_a_day_within_the_retention_is_looked_at_once_more_before_it_is_purged(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the due days are found: the day that holds the cutoff is never deleted."""
    scene, kept = Scene(sqlite_url, tmp_path / "backups").create_table(), day_after(LAST_EXPIRED)
    scene.add(3, day=kept)
    scene.archive(kept)
    monkeypatch.setattr("saju_ops.archive.purge.due_days", lambda *_: iter([kept]))
    with pytest.raises(RuntimeError, match="2026-10-21 is not wholly beyond the retention"):
        scene.purge()
    assert scene.count() == 3


def test_a_day_expires_at_midnight_in_seoul_to_the_microsecond(scene: Scene) -> None:
    scene.add(2)
    scene.archive()
    expires = DAY.end + timedelta(days=30)
    assert scene.purge(now=expires - timedelta(microseconds=1)).deleted == 0
    assert scene.purge(now=expires).deleted == 2


def test_a_day_without_an_archive_is_left_whole_and_named(scene: Scene) -> None:
    scene.add(3)
    scene.add(3, first=50, day=NEXT_DAY)
    scene.archive(NEXT_DAY)
    result = scene.purge()
    assert (result.deleted, result.unarchived_days) == (3, ["2026-10-01"])
    assert scene.ids() == [1, 2, 3]


def test_the_days_can_be_narrowed(scene: Scene) -> None:
    days = [parse_day(f"2026-10-0{n}", SEOUL) for n in (1, 2, 3)]
    for number, day in enumerate(days):
        scene.add(1, first=number + 1, day=day)
        scene.archive(day)
    assert scene.purge(from_day=days[1], to_day=days[1]).deleted == 1
    assert scene.ids() == [1, 3]


@pytest.mark.long
def test_a_dry_run_changes_nothing_and_says_the_numbers(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    scene.add(2, first=100)
    scene.update("tokens = 7", "log_id IN (3, 4, 5)")
    before, files = scene.state(), scene.snapshot_of_files()
    result = scene.purge(dry_run=True, chunk_size=7)
    counts = (result.deletable, result.deleted, result.kept_late, result.kept_changed)
    assert counts == (17, 0, 2, 3)
    assert result.per_day == {"2026-10-01": 17}
    assert scene.state() == before
    assert scene.snapshot_of_files() == files
    assert scene.purge().deleted == 17


@pytest.mark.long
@pytest.mark.parametrize("chunk_size", [1, 7, 5000])
def test_late_and_changed_rows_stay_and_are_counted(scene: Scene, chunk_size: int) -> None:
    scene.add(30)
    scene.archive()
    scene.add(1, first=100)
    scene.update("tokens = 7", "log_id = 5")
    scene.update("content = NULL", "log_id = 17")
    result = scene.purge(chunk_size=chunk_size)
    assert (result.deleted, result.kept_late, result.kept_changed) == (28, 1, 2)
    assert scene.ids() == [5, 17, 100]
    assert scene.archive().rows_written == 3
    assert scene.purge(chunk_size=chunk_size).deleted == 3


@pytest.mark.long
def test_a_row_that_moved_to_another_day_stays(scene: Scene) -> None:
    scene.add(3)
    scene.archive()
    scene.update("created_at = :t", "log_id = 2", t=scene.time(NEXT_DAY.start))
    assert scene.purge().deleted == 2
    assert scene.ids() == [2]


@pytest.mark.long
def test_an_older_form_of_a_row_is_no_reason_to_delete_it(scene: Scene) -> None:
    scene.add(3)
    scene.archive()
    scene.update("tokens = 2", "log_id = 2")
    scene.archive()
    scene.update("tokens = 1", "log_id = 2")  # part 1 holds this, but part 2 is what a restore would write
    result = scene.purge()
    assert (result.deleted, result.kept_changed) == (2, 1)
    assert scene.ids() == [2]


def test_rows_in_a_differing_letter_case_are_different(mysql_url: str, tmp_path: Path) -> None:
    scene = Scene(mysql_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id varchar(20) COLLATE utf8mb4_0900_ai_ci PRIMARY KEY,"
        " content text COLLATE utf8mb4_0900_ai_ci, created_at timestamp NOT NULL)"
    )
    scene.insert([{"log_id": k, "content": "abc", "created_at": scene.time(DAY.start)} for k in ("a", "B", "c")])
    scene.archive()
    scene.update("content = 'ABC'", "log_id = 'a'")
    scene.update("log_id = 'b'", "log_id = 'B'")
    assert scene.purge().deleted == 1
    assert scene.ids() == ["a", "b"]


# --- while others write -----------------------------------------------------------------------------------


def interposed(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None], before: str) -> None:
    """Runs `action` once, just before the store's method of that name is first called inside a chunk."""
    original = getattr(RowStore, before)
    done: list[bool] = []

    def method(self: RowStore, *args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(True)
            action()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RowStore, before, method)


@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_row_that_comes_between_the_comparison_and_the_delete_stays(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(10)
    scene.remove("log_id = 5")
    scene.archive()
    interposed(monkeypatch, lambda: scene.add(1, first=5), "delete")
    result = scene.purge()
    assert (result.deleted, result.kept_late) == (9, 1)
    assert scene.ids() == [5]


@pytest.mark.long
@pytest.mark.parametrize("late", [0, 1], ids=["whole", "row by row"])
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_writer_waits_for_a_row_that_is_being_compared(
    engine: str, late: int, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(10)
    scene.remove("log_id = 7")
    scene.archive()
    scene.add(late, first=7) if late else None
    changed: list[int] = []
    statement = sa.text(f"UPDATE {scene.name} SET tokens = 9 WHERE log_id = 5")  # noqa: S608

    def change() -> None:
        with scene.connected() as connection:
            changed.append(connection.execute(statement).rowcount)

    writer = threading.Thread(target=change)

    def start() -> None:
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()

    interposed(monkeypatch, start, "delete")
    result = scene.purge()
    writer.join()
    assert changed == [0]
    assert (result.deleted, result.kept_late, result.row_by_row_chunks) == (9, late, late)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_a_live_writer_loses_nothing(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(2000)
    scene.archive()
    stop, written = threading.Event(), []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            scene.add(1, first=100_000 + number)
            written.append(100_000 + number)
            scene.update("tokens = 5", f"log_id = {2001 - number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = scene.purge(chunk_size=50)
    finally:
        stop.set()
        writer.join()
    left = scene.ids()
    assert set(written) <= set(left)
    changed = scene.run(f"SELECT COUNT(*) FROM {scene.name} WHERE tokens = 5 AND log_id < 100000")[0][0]  # noqa: S608
    assert result.deleted == 2000 - changed
    assert len(left) == len(written) + changed
    scene.archive()
    assert scene.purge().deleted == len(left)
    assert scene.restore().written == 2000 + len(written)


# --- limits -----------------------------------------------------------------------------------------------


def test_max_rows_stops_it_and_the_next_run_continues(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    assert scene.purge(dry_run=True, max_rows=12, chunk_size=5).deletable == 12
    first = scene.purge(max_rows=12, chunk_size=5)
    assert (first.deleted, first.stopped, first.finished) == (12, "max_rows (12) reached", False)
    second = scene.purge(chunk_size=5)
    assert (second.deleted, second.finished) == (8, True)


def test_max_runtime_stops_it_at_a_chunks_end(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    ticks = iter(range(0, 1000, 2))
    result = scene.purge(max_runtime_seconds=8, chunk_size=5, clock=lambda: float(next(ticks)))
    assert "max_runtime_seconds (8) reached" in result.stopped
    assert 0 < result.deleted < 20
    assert scene.count() == 20 - result.deleted


@pytest.mark.long
def test_a_chunk_has_fewer_rows_where_they_are_large(mysql_url: str, tmp_path: Path) -> None:
    """Else five thousand rows of one megabyte would all be held, by this process and by one transaction."""
    scene = Scene(mysql_url, tmp_path / "backups").create_table()
    scene.run(f"ALTER TABLE {scene.name} MODIFY content longtext")
    scene.add(60)
    scene.update("content = REPEAT('a', 1048576)", "log_id <= 50")
    original = scene.state()
    scene.archive()
    outcome = scene.purge()
    assert (outcome.deleted, outcome.row_by_row_chunks, scene.ids()) == (60, 0, [])
    assert outcome.chunks in range(6, 10)
    scene.restore()
    assert scene.state() == original


@pytest.mark.parametrize("most_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("size", [1, 7, 10, 100])
def test_chunks_hold_every_row_in_order(size: int, most_bytes: int) -> None:
    from saju_ops.archive.chunks import rechunk

    numbers = [f"{n:020}" for n in range(50)]
    batches = [pa.record_batch({"n": pa.array(numbers[a : a + 8], pa.binary())}) for a in range(0, 50, 8)]
    chunks = list(rechunk(iter(batches), size, most_bytes))
    assert [row.decode() for chunk in chunks for row in chunk.column("n").to_pylist()] == numbers
    assert all(chunk.num_rows <= size for chunk in chunks)
    assert most_bytes < 1 << 20 or all(chunk.num_rows == size for chunk in chunks[:-1])


def test_it_pauses_between_chunks(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    slept: list[float] = []
    scene.purge(chunk_size=7, pause_seconds=0.25, sleep=slept.append)
    assert slept == [0.25] * 3


@pytest.mark.long
def test_when_asked_it_stops_at_a_chunks_end_and_says_why(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    seen: list[int] = []

    def progress(result: PurgeResult, _day: Day) -> None:
        seen.append(result.deleted)

    result = scene.purge(chunk_size=5, progress=progress, should_stop=lambda: "canceled" if 10 in seen else None)
    assert (result.deleted, result.stopped) == (10, "canceled")
    assert scene.ids() == list(range(11, 21))
    assert scene.purge(chunk_size=5).deleted == 10


@pytest.mark.long
@pytest.mark.parametrize("held", [3, 8, 18])
def test_what_was_deleted_before_a_chunk_that_is_locked_is_counted(mysql_scene: Scene, held: int) -> None:
    scene = mysql_scene
    scene.add(20)
    scene.archive()
    with closing(scene.engine.raw_connection()) as other:
        cursor = other.cursor()
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT log_id FROM {scene.name} WHERE log_id = {held} FOR UPDATE")  # noqa: S608
        result = scene.purge(chunk_size=5, sleep=lambda _: None)
        other.rollback()
    assert "are locked by another connection" in result.problems[0]
    left = scene.ids()
    assert held in left
    assert len(left) == 20 - result.deleted == 5 * len({(number - 1) // 5 for number in left})
    assert scene.purge(chunk_size=5).deleted == len(left)


BAD = [
    {"retention_days": 0}, {"retention_days": -1}, {"retention_days": float("nan")}, {"chunk_size": 0},
    {"chunk_size": -5}, {"chunk_size": 10**9}, {"pause_seconds": -1}, {"max_rows": 0}, {"max_rows": -1},
    {"max_runtime_seconds": 0}, {"max_replica_lag_seconds": -1}, {"from_day": NEXT_DAY, "to_day": DAY},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=str)
def test_values_that_make_no_sense_are_refused_before_anything(options: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="Nothing was touched"):
        PurgePlan(**{"retention_days": 30, **options})


def test_a_lag_limit_without_a_replica_to_ask_is_refused(scene: Scene) -> None:
    scene.add(2)
    scene.archive()
    with pytest.raises(Refused, match=r"no replica.*Nothing was touched"):
        scene.purge(max_replica_lag_seconds=5)
    assert scene.count() == 2


# --- two at once ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_second_purge_steps_back(scene: Scene) -> None:
    scene.add(2)
    scene.archive()
    with scene.store() as store, store.lock("purge", 1):
        with pytest.raises(Busy, match="Another run works on purge"):
            scene.purge(wait=0.1)
    assert scene.count() == 2
    assert scene.purge(wait=0.1).deleted == 2


@pytest.mark.long
def test_a_purge_leaves_a_day_alone_that_is_being_archived(scene: Scene) -> None:
    scene.add(2)
    scene.add(2, first=10, day=NEXT_DAY)
    scene.archive()
    scene.archive(NEXT_DAY)
    with scene.store() as store, store.lock(f"day {DAY}", 1):
        result = scene.purge(wait=0.1)
    assert result.deleted == 2
    assert len(result.problems) == 1
    assert "2026-10-01" in result.problems[0]
    assert scene.ids() == [1, 2]


@contextmanager
def locked_row(scene: Scene, log_id: int) -> Iterator[None]:
    """Somebody's transaction that changed the row and stays open."""
    with sa.create_engine(scene.url, poolclass=NullPool).connect() as connection:
        connection.execute(sa.text(f"UPDATE {scene.name} SET tokens = tokens WHERE log_id = {log_id}"))  # noqa: S608
        yield
        connection.rollback()


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["mysql", "mariadb", "postgres"], indirect=True)
def test_a_day_with_a_row_that_somebody_locks_waits_for_the_next_run(scene: Scene) -> None:
    scene.add(6)
    scene.add(2, first=10, day=NEXT_DAY)
    scene.archive()
    scene.archive(NEXT_DAY)
    with locked_row(scene, 5):
        result = scene.purge(chunk_size=2, sleep=lambda seconds: None)
        left = scene.ids()
    # InnoDB waits for the first row behind a range too, so the chunk before may stay as well.
    assert left in ([5, 6], [3, 4, 5, 6])
    assert result.deleted == 8 - len(left)
    assert len(result.problems) == 1
    assert "Rows of 2026-10-01 are locked by another connection" in result.problems[0]
    assert scene.purge().deleted == len(left)


# --- other tables -----------------------------------------------------------------------------------------

RULES = ["CASCADE", "SET NULL", "RESTRICT", "NO ACTION"]


def reference(scene: Scene, table: str, rule: str, key: str = "log_id") -> None:
    kind = "bigint" if scene.family != "sqlite" else "integer"
    scene.run(
        f"CREATE TABLE {table} (id int PRIMARY KEY, {key} {kind} NULL, FOREIGN KEY ({key})"
        f" REFERENCES {scene.name} (log_id) ON DELETE {rule})"
    )


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_a_row_that_another_table_references_stays_and_its_children_too(scene: Scene, rule: str) -> None:
    scene.add(10)
    reference(scene, "feedback", rule)
    scene.run("INSERT INTO feedback VALUES (1, 3), (2, 3), (3, 8), (4, NULL)")
    scene.archive()
    assert scene.purge(dry_run=True).deletable == 8
    result = scene.purge(chunk_size=4)
    assert (result.deleted, dict(result.kept_referenced)) == (8, {"feedback": 2})
    assert (result.kept_late, result.kept_changed) == (0, 0)
    assert scene.ids() == [3, 8]
    assert scene.run("SELECT id, log_id FROM feedback ORDER BY id") == [(1, 3), (2, 3), (3, 8), (4, None)]


PARTED = {
    "a partition": (
        "CREATE TABLE conversation_logs (log_id bigint, content text, created_at timestamptz,"
        " PRIMARY KEY (log_id, created_at)) PARTITION BY RANGE (created_at)",
        "CREATE TABLE part PARTITION OF conversation_logs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    ),
    "a table that inherits": (
        "CREATE TABLE conversation_logs (log_id bigint PRIMARY KEY, content text, created_at timestamptz NOT NULL)",
        "CREATE TABLE part (PRIMARY KEY (log_id, created_at)) INHERITS (conversation_logs)",
    ),
}


@pytest.mark.parametrize("kind", list(PARTED))
def test_a_row_that_another_table_references_in_a_part_of_the_log_stays(
    postgres_url: str, tmp_path: Path, kind: str
) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(
        *PARTED[kind],
        "CREATE TABLE feedback (id int PRIMARY KEY, log_id bigint, at timestamptz, FOREIGN KEY (log_id, at)"
        " REFERENCES part ON DELETE CASCADE)",
        "INSERT INTO part SELECT n, '안녕', '2026-10-01 01:00+00' FROM generate_series(1, 4) n",
        "INSERT INTO feedback VALUES (1, 3, '2026-10-01 01:00+00')",
    )
    scene.archive()
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced)) == (3, {"feedback": 1})
    assert scene.run("SELECT id FROM feedback") == [(1,)]


def test_rows_that_a_policy_hides_are_refused_with_the_reason(postgres_server: Any, tmp_path: Path) -> None:
    with postgres_server.database() as url:
        scene = Scene(url, tmp_path / "backups").create_table()
        scene.add(4)
        scene.archive()
        name = sa.make_url(url).database
        scene.run(
            f"CREATE ROLE {name} LOGIN PASSWORD 'secret'", f"GRANT ALL ON conversation_logs TO {name}",
            "ALTER TABLE conversation_logs ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY few ON conversation_logs USING (log_id < 3)",
        )  # fmt: skip
        scene.url = sa.make_url(url).set(username=name, password="secret").render_as_string(hide_password=False)
        for work in (scene.archive, scene.purge):
            with pytest.raises(OperatorError, match="row-level security policy"):
                work()
        assert scene.count() == 4
        scene.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_replica_that_stops_answering_stops_the_purge(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add(10)
    scene.archive()
    lags = [0.0, 0.0, 0.5, None]
    monkeypatch.setattr(RowStore, "replica_lag", lambda self, replicas: lags.pop(0))
    for engine in ("mysql.store.MySQLRowStore", "postgres.store.PostgresRowStore"):
        monkeypatch.setattr(f"saju_ops.rows.engines.{engine}.replica_lag", lambda self, replicas: lags.pop(0))
    result = scene.purge(chunk_size=4, max_replica_lag_seconds=5)
    assert (result.deleted, result.stopped) == (4, "no replica can be asked for its lag any more")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_that_the_account_may_not_see_loses_no_row_by_a_cascade(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue(f"{engine}_server")
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    url = sa.make_url(scene.url)
    scene.add(4)
    reference(scene, "feedback", "CASCADE")
    scene.run("INSERT INTO feedback VALUES (1, 3)")
    scene.archive()
    user = f"narrow_{engine}@'127.0.0.1'"
    server.execute(f"CREATE USER {user} IDENTIFIED BY 'secret'")
    try:
        server.execute(f"GRANT SELECT, DELETE ON {url.database}.conversation_logs TO {user}")
        narrow = url.set(username=f"narrow_{engine}", password="secret").render_as_string(hide_password=False)
        scene.url = narrow
        with pytest.raises(Refused, match="rights on single tables"):
            scene.purge()
        server.execute(f"GRANT PROCESS ON *.* TO {user}")
        with pytest.raises(Refused, match=f"{url.database}.feedback references rows that would go"):
            scene.purge()
        assert scene.count() == 4
        server.execute(f"REVOKE PROCESS ON *.* FROM {user}", f"GRANT SELECT ON {url.database}.* TO {user}")
        result = scene.purge()
        assert "may not see every foreign key" in result.doubt
        assert (result.deleted, dict(result.kept_referenced)) == (3, {"feedback": 1})
    finally:
        server.execute(f"DROP USER {user}")
    assert scene.run("SELECT id FROM feedback") == [(1,)]


def test_a_name_in_other_letters_than_the_databases_own_hides_no_reference(tmp_path: Path) -> None:
    with MariaDB(["--lower-case-table-names=1"]) as server, server.database() as url:
        scene = Scene(url, tmp_path / "backups", table="Conversation_Logs").create_table()
        scene.add(4)
        reference(scene, "feedback", "CASCADE")
        scene.run("INSERT INTO feedback VALUES (1, 3)")
        scene.archive()
        try:
            scene.purge()
        except Refused as refusal:
            assert "feedback references rows that would go" in str(refusal)  # noqa: PT017 (seeing the key is as good)
        assert 3 in scene.ids()
        assert scene.run("SELECT id FROM feedback") == [(1,)]


def test_references_are_counted_by_table(scene: Scene) -> None:
    scene.add(10)
    reference(scene, "feedback", "CASCADE")
    reference(scene, "reports", "CASCADE", "about")
    scene.run("INSERT INTO feedback VALUES (1, 3)", "INSERT INTO reports VALUES (1, 3), (2, 4)")
    scene.archive()
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced)) == (8, {"feedback": 1, "reports": 2})


def test_references_over_two_columns_hold_a_row(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    when = {"mysql": "timestamp", "postgresql": "timestamptz", "sqlite": "text"}[scene.family]
    scene.run(
        f"CREATE TABLE {scene.name} (a int NOT NULL, b varchar(10) NOT NULL, created_at {when} NOT NULL,"
        " PRIMARY KEY (a, b))",
        f"CREATE TABLE child (id int PRIMARY KEY, pa int, pb varchar(10), FOREIGN KEY (pa, pb) REFERENCES {scene.name}"
        " (a, b) ON DELETE CASCADE)",
    )
    scene.insert([{"a": a, "b": b, "created_at": scene.time(DAY.start)} for a in (1, 2) for b in ("x", "y")])
    scene.run("INSERT INTO child VALUES (1, 1, 'y'), (2, 2, NULL)")
    scene.archive()
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced)) == (3, {"child": 1})
    assert scene.run("SELECT COUNT(*) FROM child") == [(2,)]


# --- archives that can't be trusted -----------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty", "manifest"])
def test_no_row_of_a_day_with_a_damaged_archive_is_deleted_and_other_days_go_on(scene: Scene, damage: str) -> None:
    scene.add(10)
    scene.add(10, first=50, day=NEXT_DAY)
    scene.archive()
    scene.archive(NEXT_DAY)
    data, manifest = scene.data_file(), scene.manifest_file()
    content = bytearray(data.read_bytes())
    match damage:
        case "flip":
            content[-3] ^= 1
            data.write_bytes(content)
        case "cut":
            data.write_bytes(content[: len(content) // 2])
        case "gone":
            data.unlink()
        case "empty":
            data.write_bytes(b"")
        case "manifest":
            manifest.write_text("{")
    result = scene.purge(chunk_size=3)
    assert result.deleted == 10
    assert len(result.problems) == 1
    assert "20261001" in result.problems[0]
    assert scene.ids() == list(range(1, 11))


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize(
    ("field", "value"), [("rows", 9), ("digest", "0" * 16), ("content_sha256", "0" * 64), ("compression", "gzip"),
                         ("largest_block", "x"), ("file", "conversation_logs/2026/10/x.csv"), ("key", [])],
)  # fmt: skip
def test_a_manifest_that_a_restore_would_stumble_over_protects_the_day(
    sqlite_url: str, tmp_path: Path, field: str, value: object, is_sealed: bool
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    scene.add(10)
    scene.archive()
    raw = json.loads(scene.manifest_file().read_text())
    if not is_sealed:
        raw = {k: v for k, v in raw.items() if k != "manifest_sha256"}
    scene.manifest_file().write_text(json.dumps({**raw, field: value}))
    result = scene.purge()
    assert (result.deleted, len(result.problems)) == (0, 1)
    assert scene.count() == 10


def test_a_manifest_of_an_earlier_version_says_nothing_of_itself_and_is_computed_again(
    sqlite_url: str, tmp_path: Path
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    scene.add(10)
    scene.archive()
    raw = json.loads(scene.manifest_file().read_text())
    scene.manifest_file().write_text(json.dumps({k: v for k, v in raw.items() if k != "manifest_sha256"}))
    assert scene.purge().deleted == 10


def test_a_damaged_manifest_in_the_second_of_two_stores_protects_the_day(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "one").create_table()
    scene.storage = open_storage(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    scene.add(10)
    scene.archive()
    (copy,) = (tmp_path / "two").rglob("*.manifest.json")
    copy.write_text(copy.read_text().replace('"rows": 10', '"rows": 11'))
    result = scene.purge()
    assert result.deleted == 0
    assert str(copy) in result.problems[0]


def test_a_damaged_later_part_protects_the_whole_day(scene: Scene) -> None:
    scene.add(10)
    scene.archive()
    scene.add(1, first=50)
    scene.archive()
    scene.data_file(part=2).write_bytes(b"x")
    result = scene.purge()
    assert (result.deleted, len(result.problems)) == (0, 1)


def test_an_archive_exchanged_while_the_purge_runs_deletes_nothing_that_it_does_not_hold(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.archive import proven as module

    scene.add(10)
    scene.archive()
    data = scene.data_file()
    original = module.verify_stored_bytes

    def verified(*args: Any) -> None:
        original(*args)
        data.write_bytes(data.read_bytes().replace("안녕".encode(), "바뀜".encode()))

    monkeypatch.setattr(module, "verify_stored_bytes", verified)
    assert scene.purge().deleted == 0
    assert scene.count() == 10


def test_an_archive_that_vanishes_while_the_purge_runs_is_a_problem_of_that_day(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.archive import proven as module

    scene.add(10)
    scene.add(3, first=50, day=NEXT_DAY)
    scene.archive()
    scene.archive(NEXT_DAY)
    data = scene.data_file()
    original = module.verify_stored_bytes

    def verified(*args: Any) -> None:
        original(*args)
        data.unlink(missing_ok=True)

    monkeypatch.setattr(module, "verify_stored_bytes", verified)
    result = scene.purge()
    assert (result.deleted, len(result.problems)) == (3, 1)


# --- MySQL and MariaDB ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_without_transactions_is_refused(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.run(f"ALTER TABLE {scene.name} ENGINE = MyISAM")
    scene.add(5)
    scene.archive()
    with pytest.raises(Refused, match="MyISAM"):
        scene.purge()
    assert scene.count() == 5
    scene.remove("log_id = 1")
    with pytest.raises(Refused, match="MyISAM"):
        scene.restore()
    assert scene.count() == 4


def test_the_space_and_how_to_get_it_back_are_reported(scene: Scene) -> None:
    scene.add(5)
    scene.archive()
    hints = {"mysql": "OPTIMIZE TABLE", "postgresql": "VACUUM FULL", "sqlite": "VACUUM"}
    result = scene.purge()
    assert hints[scene.family] in result.reclaim_hint
    assert result.table_bytes > 0


@pytest.mark.long
@pytest.mark.parametrize("server", [MySQL, MariaDB])
def test_it_works_where_the_binary_log_is_by_statement(server: Any, tmp_path: Path) -> None:
    args = ["--server-id=1", "--log-bin=binlog", "--binlog-format=STATEMENT"]
    with server(args) as running, running.database() as url:
        scene = Scene(url, tmp_path / "backups").create_table()
        scene.add(20)
        scene.archive()
        scene.update("tokens = 3", "log_id = 3")
        assert scene.purge(chunk_size=7).deleted == 19
        assert scene.archive().rows_written == 1
        assert scene.restore().written == 19


@pytest.mark.long
def test_it_waits_for_a_replica_that_is_behind(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add(20)
    scene.archive()
    lags = iter([0.0, 9.0, 9.0, 0.0])
    with scene.store() as store:
        monkeypatch.setattr(type(store), "replica_lag", lambda *_: next(lags, 0.0))
    slept: list[float] = []
    result = scene.purge(chunk_size=5, max_replica_lag_seconds=5, sleep=slept.append)
    assert (result.deleted, len(slept), result.lag_wait_seconds) == (20, 2, 2.0)


@pytest.mark.parametrize(
    ("replicas", "lag"),
    [
        ("SELECT 'streaming' AS state, interval '90 s' AS replay_lag UNION SELECT 'streaming', interval '1 s'", 90.0),
        # What an account without pg_monitor sees: that there is one, and nothing of it.
        ("SELECT NULL AS state, NULL::interval AS replay_lag", None),
        ("SELECT '' AS state, NULL::interval AS replay_lag WHERE false", None),
    ],
)
def test_a_replica_of_which_nothing_may_be_seen_can_not_be_asked(
    postgres_url: str, tmp_path: Path, replicas: str, lag: float | None
) -> None:
    scene = Scene(postgres_url, tmp_path / "backups").create_table()
    name = sa.make_url(postgres_url).database
    # Found before the server's own.
    scene.run(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    scene.run(f"CREATE VIEW public.pg_stat_replication AS {replicas}")
    with scene.store() as store:
        assert store.replica_lag([]) == lag


def test_the_slowest_replica_counts(mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lags = {"one": 0.0, "two": 90.0, "three": 1.0}
    monkeypatch.setattr("saju_ops.rows.engines.mysql.store.lag_of", lambda url: lags[url.host])
    scene = Scene(mysql_url, tmp_path / "backups").create_table()
    with scene.store() as store:
        assert store.replica_lag([sa.make_url(f"mysql://{host}") for host in lags]) == 90.0


def test_a_replica_that_does_not_replicate_holds_the_purge_back(mysql_url: str, tmp_path: Path) -> None:
    scene = Scene(mysql_url, tmp_path / "backups").create_table()
    scene.add(5)
    scene.archive()
    asked = iter([None, None, None, "canceled"])
    result = scene.purge(
        max_replica_lag_seconds=5, replicas=[sa.make_url(mysql_url)], sleep=lambda _: None,
        should_stop=lambda: next(asked, "canceled"),
    )  # fmt: skip
    assert (result.deleted, result.stopped) == (0, "canceled")
