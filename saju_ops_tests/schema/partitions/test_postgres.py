"""The rotation on PostgreSQL's own range partitions."""

from __future__ import annotations

import threading
from datetime import date
from pathlib import Path

import pytest

from saju_ops.errors import Refused
from saju_ops.rows.days import Day
from saju_ops_tests.archive.scene import SEOUL
from saju_ops_tests.schema.partitions.scene import AUGUST, JULY, PartitionScene, at, three_months

MONTHS = ("2026-07", "2026-08", "2026-09", "2026-10", "2026-11")


class PostgresScene(PartitionScene):
    def create_partitioned(self, *, past: bool = True) -> PostgresScene:
        self.run(
            "CREATE TABLE user_sessions (session_id varchar(64) PRIMARY KEY)",
            "INSERT INTO user_sessions SELECT 's' || n FROM generate_series(0, 6) n",
            "CREATE TABLE conversation_logs (log_id bigserial, session_id varchar(64) REFERENCES user_sessions"
            " ON DELETE CASCADE, role varchar(10), content text, tokens int, created_at timestamptz NOT NULL,"
            " PRIMARY KEY (log_id, created_at)) PARTITION BY RANGE (created_at)",
            "CREATE INDEX ON conversation_logs (created_at)",
        )
        bounds = [f"'{month}-01 00:00:00+09'" for month in (*MONTHS, "2026-12")]
        for month, start, end in zip(MONTHS, bounds, bounds[1:], strict=False):
            self._part(f"p{month.replace('-', '')}", start, end)
        if past:
            self._part("p_past", "MINVALUE", bounds[0])
        self._part("p_future", bounds[-1], "MAXVALUE")
        return self

    def _part(self, name: str, start: str, end: str) -> None:
        self.run(
            f"CREATE TABLE conversation_logs_{name} PARTITION OF conversation_logs FOR VALUES FROM ({start}) TO ({end})"
            .replace(":00:00+09", "\\:00\\:00+09")
        )  # fmt: skip

    def partitions(self) -> dict[str, int]:
        names = [
            str(row[0]) for row in self.run(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = CAST('conversation_logs' AS regclass) ORDER BY 1"
            )
        ]  # fmt: skip
        return {
            name.removeprefix("conversation_logs_"): int(self.run(f"SELECT COUNT(*) FROM {name}")[0][0])  # noqa: S608
            for name in names
        }

    def tables(self) -> list[str]:
        query = (
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = CAST('public' AS regnamespace)"
        )
        return sorted(str(row[0]) for row in self.run(query))


@pytest.fixture
def scene(postgres_url: str, tmp_path: Path) -> PostgresScene:
    scene = PostgresScene(postgres_url, tmp_path / "backups").create_partitioned()
    three_months(scene)
    return scene


@pytest.mark.long
def test_archived_months_leave_and_months_to_come_are_made(scene: PostgresScene) -> None:
    before = scene.state()
    scene.archive_all()
    result = scene.rotate()
    assert result.months_dropped == [f"conversation_logs_p2026{m:02}" for m in (7, 8, 9)]
    assert (result.rows_dropped, result.problems) == (60, [])
    assert result.ahead.made == (
        "conversation_logs_p202612", "conversation_logs_p202701", "conversation_logs_p202702",
    )  # fmt: skip
    assert scene.partitions() == {
        "p202610": 0, "p202611": 3, "p202612": 0, "p202701": 0, "p202702": 0, "p_future": 0, "p_past": 0,
    }  # fmt: skip
    for day in (JULY, AUGUST, Day(date(2026, 9, 10), SEOUL)):
        scene.restore(day)
    assert scene.state() == before
    assert scene.partitions()["p_past"] == 60


def test_a_table_without_a_partition_of_the_past_gets_one(postgres_url: str, tmp_path: Path) -> None:
    scene = PostgresScene(postgres_url, tmp_path / "backups").create_partitioned(past=False)
    three_months(scene)
    scene.archive_all()
    assert len(scene.rotate().months_dropped) == 3
    scene.restore(JULY)
    assert scene.partitions()["p_past"] == 20


def test_a_changed_row_keeps_its_month(scene: PostgresScene) -> None:
    scene.archive_all()
    scene.update("tokens = 99", "log_id = 25")
    result = scene.purge_months()
    assert [name[-6:] for name in result.months_dropped] == ["202607", "202609"]
    assert scene.run("SELECT log_id FROM conversation_logs_p202608") == [(25,)]
    assert "conversation_logs_p202608_out" not in scene.tables()
    # Its foreign key is there again.
    scene.run("DELETE FROM user_sessions WHERE session_id = 's4'")
    assert scene.ids() == [1000, 1001, 1002]


def test_the_detached_month_of_a_killed_run_is_found(scene: PostgresScene) -> None:
    from saju_ops.schema.partitions.catalogue import layout_of
    from saju_ops.schema.partitions.drop_month import mover_of

    scene.archive_all()
    with scene.store() as store:
        layout = layout_of(store)
        assert layout is not None
        mover_of(store).take_out(next(p for p in layout.partitions if p.name.endswith("202608")))
    scene.add(1, first=700, day=AUGUST)  # comes late meanwhile
    result = scene.purge_months()
    assert result.deleted == 60
    assert scene.ids() == [700, 1000, 1001, 1002]
    assert "conversation_logs_p202608_out" not in scene.tables()


def test_rows_in_p_future_are_sorted_in(scene: PostgresScene) -> None:
    scene.insert([{"log_id": 1, "session_id": "s1", "created_at": scene.time(at(2027, 1, 1))}])
    result = scene.rotate()
    assert (result.ahead.rows_in_future, result.ahead.rows_left_in_future) == (1, 0)
    assert scene.partitions()["p202701"] == 1


@pytest.mark.long
def test_an_open_transaction_is_named(scene: PostgresScene) -> None:
    scene.archive_all()
    with scene.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
        number = other.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        other.exec_driver_sql("SELECT COUNT(*) FROM conversation_logs").scalar()
        result = scene.rotate(retention_days=100)
    assert f"connection {number} of" in result.months_left["conversation_logs_p202607"]


def test_a_table_that_references_the_log_keeps_months_whole(scene: PostgresScene) -> None:
    scene.archive_all()
    scene.run(
        "CREATE TABLE notes (id int PRIMARY KEY, log_id bigint, at timestamptz,"
        " FOREIGN KEY (log_id, at) REFERENCES conversation_logs (log_id, created_at))",
        "INSERT INTO notes SELECT 1, log_id, created_at FROM conversation_logs WHERE log_id = 3",
    )
    result = scene.purge_months()
    assert result.months_dropped == []
    assert (result.deleted, sum(result.kept_referenced.values())) == (59, 1)


def test_a_live_writer_finds_a_partition_at_any_moment(scene: PostgresScene) -> None:
    scene.archive_all()
    stop, written = threading.Event(), []

    def write() -> None:
        number = 10_000
        while not stop.is_set():
            when = at(2026, 8, 10, 12) if number % 5 == 0 else at(2026, 11, 20, 9)
            scene.insert([{"log_id": number, "session_id": "s1", "created_at": scene.time(when)}])
            written.append(number)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        scene.rotate(snapshot_wait=10.0)
    finally:
        stop.set()
        thread.join(20)
    assert {*written} <= {*scene.ids()}


def test_a_plain_table_is_not_converted_here(postgres_url: str, tmp_path: Path) -> None:
    from saju_ops.schema.partitions.convert import plan_conversion
    from saju_ops_tests.archive.scene import NOW

    scene = PostgresScene(postgres_url, tmp_path / "backups")
    scene.create_table()
    with scene.store() as store, pytest.raises(Refused, match="can't become a partitioned one"):
        plan_conversion(store, now=NOW, ahead=3, zone=SEOUL)
