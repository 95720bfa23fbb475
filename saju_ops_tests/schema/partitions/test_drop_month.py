"""A month leaves in one piece only where every row of it is archived as it is; else it stays with all of its rows."""

from __future__ import annotations

import threading
import time
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.errors import OperatorError
from saju_ops.rows.days import Day
from saju_ops_tests.archive.scene import SEOUL
from saju_ops_tests.schema.partitions.scene import AUGUST, JULY, SEPTEMBER, PartitionScene, three_months


@pytest.fixture
def filled(scene: PartitionScene) -> PartitionScene:
    three_months(scene)
    return scene


@pytest.mark.long
def test_archived_months_beyond_the_retention_leave_with_their_partitions(filled: PartitionScene) -> None:
    filled.archive_all()
    result = filled.purge_months()
    assert result.months_dropped == ["p202607", "p202608", "p202609"]
    assert (result.deleted, result.rows_dropped, result.chunks, result.problems) == (60, 60, 0, [])
    assert result.per_day == {"2026-07-10": 20, "2026-08-10": 20, "2026-09-10": 20}
    assert filled.partitions() == {"p202610": 0, "p202611": 3, "p_future": 0}
    assert filled.tables() == ["conversation_logs"]


@pytest.mark.long
def test_every_row_of_a_month_that_left_comes_back_by_a_restore(filled: PartitionScene) -> None:
    before = filled.state()
    filled.archive_all()
    filled.purge_months()
    for day in (JULY, AUGUST, SEPTEMBER):
        filled.restore(day)
    assert filled.state() == before
    # Its partition is gone: what is older than the first one's bound is in the first.
    assert filled.partitions() == {"p202610": 60, "p202611": 3, "p_future": 0}


@pytest.mark.long
def test_a_dry_run_says_which_months_would_leave_and_moves_none(filled: PartitionScene) -> None:
    filled.archive_all(last=AUGUST)
    result = filled.purge_months(dry_run=True)
    assert (result.months_dropped, result.months_droppable) == ([], ["p202607", "p202608"])
    assert "p202609 stays: 1 day of it is not archived, the first of them 2026-09-10" in result.months_left["p202609"]
    assert result.deletable == 40
    assert filled.count() == 63


@pytest.mark.long
def test_a_month_without_an_archive_stays_and_the_others_leave(filled: PartitionScene) -> None:
    filled.archive(JULY)
    result = filled.purge_months()
    assert (result.months_dropped, result.deleted) == (["p202607"], 20)
    assert filled.partitions() == {"p202608": 20, "p202609": 20, "p202610": 0, "p202611": 3, "p_future": 0}
    assert result.unarchived_days == ["2026-08-10", "2026-09-10"]


@pytest.mark.long
def test_a_row_that_was_changed_after_the_archive_keeps_its_month_and_the_rest_leaves_in_chunks(
    filled: PartitionScene,
) -> None:
    filled.archive_all()
    filled.update("tokens = 99", "log_id = 25")
    result = filled.purge_months()
    assert result.months_dropped == ["p202607", "p202609"]
    assert "1 row of 2026-08-10 is not archived as it is now" in result.months_left["p202608"]
    assert (result.deleted, result.kept_changed) == (59, 1)
    assert filled.run("SELECT log_id, tokens FROM conversation_logs PARTITION (p202608)") == [(25, 99)]
    assert filled.tables() == ["conversation_logs"]


@pytest.mark.long
def test_a_late_row_keeps_its_month_until_it_is_archived_as_a_part(filled: PartitionScene) -> None:
    filled.archive_all()
    filled.add(1, first=500, day=JULY)
    result = filled.purge_months()
    assert result.months_dropped == ["p202608", "p202609"]
    assert "2026-07-10 has 1 row more than its archives" in result.months_left["p202607"]
    assert (result.deleted, result.kept_late) == (60, 1)
    filled.archive(JULY)
    again = filled.purge_months()
    assert (again.months_dropped, again.rows_dropped) == (["p202607"], 1)
    assert filled.parts(JULY) == [20, 1]


@pytest.mark.long
def test_a_damaged_archive_keeps_its_month(filled: PartitionScene) -> None:
    filled.archive_all()
    data = filled.data_file(AUGUST)
    data.write_bytes(data.read_bytes().replace("안녕".encode(), "바뀜".encode(), 1))
    result = filled.purge_months()
    assert result.months_dropped == ["p202607", "p202609"]
    assert "damaged" in result.months_left["p202608"]
    assert filled.partitions()["p202608"] == 20


@pytest.mark.long
def test_a_missing_file_keeps_its_month(filled: PartitionScene) -> None:
    filled.archive_all()
    filled.data_file(AUGUST).unlink()
    assert filled.purge_months().months_dropped == ["p202607", "p202609"]
    assert filled.partitions()["p202608"] == 20


@pytest.mark.long
def test_a_month_that_is_partly_within_the_retention_stays(scene: PartitionScene) -> None:
    scene.add(10, day=Day(date(2026, 10, 5), SEOUL))
    scene.archive_all()
    result = scene.purge_months()
    # 2026-10-05 is beyond the retention, but October is not wholly: its rows leave in chunks.
    assert (result.months_dropped, result.deleted, result.chunks) == (["p202607", "p202608", "p202609"], 10, 1)
    assert scene.partitions() == {"p202610": 0, "p202611": 0, "p_future": 0}


def test_rows_older_than_the_first_partitions_month_are_compared_too(scene: PartitionScene) -> None:
    may = Day(date(2026, 5, 3), SEOUL)
    scene.add(5, day=may)
    scene.add(5, first=100, day=JULY)
    scene.archive(JULY)
    result = scene.purge_months()
    assert "p202607" not in result.months_dropped
    assert scene.ids() == [1, 2, 3, 4, 5]
    scene.archive(may)
    assert scene.purge_months().months_dropped == ["p202607"]


def test_the_first_and_the_last_second_of_a_month_in_seoul_leave_with_it(scene: PartitionScene) -> None:
    august, september = Day(date(2026, 8, 1), SEOUL), Day(date(2026, 9, 1), SEOUL)
    from datetime import timedelta

    times = [august.start, september.start - timedelta(seconds=1), september.start]
    scene.insert([{"log_id": i, "created_at": scene.time(t)} for i, t in enumerate(times, 1)])
    assert scene.partitions()["p202608"] == 2
    scene.archive(august)
    scene.archive(Day(date(2026, 8, 31), SEOUL))
    result = scene.purge_months()
    assert (result.months_dropped, result.rows_dropped) == (["p202607", "p202608"], 2)
    assert scene.ids() == [3]


@pytest.mark.long
def test_months_of_utc_leave_too_where_their_days_in_seoul_are_all_archived(scene: PartitionScene) -> None:
    from zoneinfo import ZoneInfo

    scene.run("DROP TABLE conversation_logs")
    scene.create(zone=ZoneInfo("UTC"))
    first = Day(date(2026, 8, 1), SEOUL)  # begins in July of UTC
    scene.add(1430, day=first)
    counts = scene.partitions()
    assert counts["p202607"] > 0
    assert counts["p202608"] > 0
    scene.archive(first)
    result = scene.purge_months()
    assert result.months_dropped == ["p202607", "p202608", "p202609"]
    assert (result.deleted, scene.count()) == (1430, 0)


@pytest.mark.long
def test_to_day_and_max_rows_hold_for_whole_months_too(filled: PartitionScene) -> None:
    filled.archive_all()
    assert filled.purge_months(max_rows=10).months_dropped == []
    assert filled.count() == 53
    result = filled.purge_months(to_day=Day(date(2026, 8, 15), SEOUL))
    assert result.months_dropped == ["p202607"]
    assert filled.partitions()["p202608"] == 0
    assert filled.partitions()["p202609"] == 20


@pytest.mark.long
def test_a_trigger_on_delete_sees_every_row(filled: PartitionScene) -> None:
    filled.archive_all()
    filled.run(
        "CREATE TABLE seen (log_id bigint)",
        "CREATE TRIGGER watch BEFORE DELETE ON conversation_logs FOR EACH ROW INSERT INTO seen VALUES (OLD.log_id)",
    )
    result = filled.purge_months()
    assert (result.months_dropped, result.deleted) == ([], 60)
    assert "a trigger looks at each row that is deleted (watch)" in result.months_left["p202607"]
    assert filled.run("SELECT COUNT(*) FROM seen")[0][0] == 60


def test_after_an_instant_column_a_small_month_leaves_under_a_lock(mysql_url: str, tmp_path: Any) -> None:
    scene = PartitionScene(mysql_url, tmp_path / "backups").create()
    three_months(scene)
    scene.run("ALTER TABLE conversation_logs ADD COLUMN note varchar(10), ALGORITHM=INSTANT")
    scene.archive_all()
    result = scene.purge_months()
    assert result.months_dropped == ["p202607", "p202608", "p202609"]
    assert scene.ids() == [1000, 1001, 1002]
    assert scene.tables() == ["conversation_logs"]


def test_after_an_instant_column_a_large_month_stays_with_the_statement_that_mends_it(
    mysql_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = PartitionScene(mysql_url, tmp_path / "backups").create()
    scene.add(20, day=JULY)
    scene.run("ALTER TABLE conversation_logs ADD COLUMN note varchar(10), ALGORITHM=INSTANT")
    scene.archive_all()
    monkeypatch.setattr("saju_ops.schema.partitions.drop_month.LOCKED_ROWS", 10)
    result = scene.purge_months()
    assert "ALTER TABLE `conversation_logs` FORCE, ALGORITHM=INPLACE, LOCK=NONE" in result.months_left["p202607"]
    assert result.deleted == 20  # in chunks
    assert scene.tables() == ["conversation_logs"]


def test_under_the_lock_a_changed_row_keeps_its_month(mysql_url: str, tmp_path: Any) -> None:
    scene = PartitionScene(mysql_url, tmp_path / "backups").create()
    scene.add(20, day=JULY)
    scene.run("ALTER TABLE conversation_logs ADD COLUMN note varchar(10), ALGORITHM=INSTANT")
    scene.archive_all()
    scene.update("note = 'new'", "log_id = 3")
    result = scene.purge_months()
    assert "p202607" in result.months_left
    assert scene.ids() == [3]


@pytest.mark.long
def test_an_open_transaction_of_somebody_else_is_named_and_its_month_left_for_the_next_run(
    filled: PartitionScene,
) -> None:
    filled.archive_all()
    with filled.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
        number = other.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
        other.exec_driver_sql("SELECT COUNT(*) FROM conversation_logs").scalar()
        began = time.monotonic()
        result = filled.rotate(retention_days=100)  # July alone
        assert time.monotonic() - began < 30
    assert f"connection {number} of root@" in result.months_left["p202607"]
    assert result.months_dropped == []
    assert filled.tables() == ["conversation_logs"]
    # Meanwhile the rows left in chunks, which no transaction hinders; the empty month is dropped next time.
    assert filled.rotate(retention_days=100).months_dropped == ["p202607"]


@pytest.mark.long
def test_an_archive_that_is_open_keeps_the_rotation_waiting_and_then_away(filled: PartitionScene) -> None:
    filled.archive_all()
    before = filled.partitions()
    with filled.store() as reader, reader.snapshot():
        result = filled.rotate()
        assert "reads a snapshot" in result.months_left["p202607"]
        assert "No month was made" in result.ahead.left
        assert list(filled.partitions()) == list(before)
    assert filled.rotate().months_dropped == ["p202607", "p202608", "p202609"]


@pytest.mark.long
def test_a_snapshot_waits_for_a_month_that_is_at_work(filled: PartitionScene) -> None:
    from saju_ops.database.snapshots import alone

    seen: list[float] = []

    def read() -> None:
        with filled.store() as reader:
            began = time.monotonic()
            with reader.snapshot():
                seen.append(time.monotonic() - began)

    with filled.store() as store:
        with alone(store.connection, 1.0):
            thread = threading.Thread(target=read)
            thread.start()
            time.sleep(1.0)
            assert seen == []
        thread.join(10)
    assert seen[0] >= 0.5


@pytest.mark.long
def test_the_exchanged_table_of_a_killed_run_is_found_compared_and_dropped(filled: PartitionScene) -> None:
    filled.archive_all()
    _take_out(filled, "p202608")
    assert filled.partitions()["p202608"] == 0
    assert filled.tables() == ["conversation_logs", "conversation_logs_p202608"]
    result = filled.purge_months()
    assert sorted(result.months_dropped) == ["p202607", "p202608", "p202609"]
    assert result.deleted == 60
    assert filled.tables() == ["conversation_logs"]


@pytest.mark.long
def test_the_exchanged_table_of_a_killed_run_is_put_back_where_a_row_is_not_archived(filled: PartitionScene) -> None:
    filled.archive_all()
    filled.update("content = 'edited'", "log_id = 21")
    before = filled.state()
    _take_out(filled, "p202608")
    filled.add(2, first=700, day=AUGUST)  # came late meanwhile
    result = filled.purge_months(to_day=Day(date(2026, 7, 31), SEOUL))
    assert result.months_dropped == ["p202607"]
    assert filled.tables() == ["conversation_logs"]
    assert filled.partitions()["p202608"] == 22
    july = {f"{i}" for i in range(1, 21)}
    after = [row for row in filled.state() if str(row[0]) not in ("700", "701")]
    assert [row for row in before if str(row[0]) not in july] == after


@pytest.mark.long
def test_rows_restored_while_a_month_is_out_are_no_conflict(filled: PartitionScene) -> None:
    filled.archive_all()
    filled.update("content = 'edited'", "log_id = 21")
    _take_out(filled, "p202608")
    filled.restore(AUGUST)  # puts 20 rows into the partition, row 21 as it was
    result = filled.purge_months()
    assert "has other rows with the keys of 1 row there" in result.months_left["p202608"]
    (left,) = filled.run("SELECT log_id, content FROM conversation_logs_p202608")
    assert left == (21, "edited")
    assert result.deleted == 60  # as archived, in chunks


@pytest.mark.long
def test_a_table_of_the_services_own_with_that_name_is_not_touched(filled: PartitionScene) -> None:
    filled.archive_all()
    filled.run("CREATE TABLE conversation_logs_p202608 AS SELECT * FROM conversation_logs PARTITION (p202608)")
    result = filled.purge_months()
    assert filled.run("SELECT COUNT(*) FROM conversation_logs_p202608")[0][0] == 20
    assert result.deleted == 60


@pytest.mark.long
def test_the_retention_holds_for_a_month_that_a_killed_run_took_out(filled: PartitionScene) -> None:
    filled.archive_all()
    _take_out(filled, "p202609")
    result = filled.rotate(retention_days=100)
    assert result.months_dropped == ["p202607"]
    assert filled.partitions()["p202609"] == 20
    assert filled.tables() == ["conversation_logs"]


@pytest.mark.long
def test_an_account_that_may_only_delete_purges_in_chunks_and_hears_which_grant_is_missing(
    filled: PartitionScene,
) -> None:
    filled.archive_all()
    url = _account(filled, "SELECT, DELETE")
    other = PartitionScene(url, filled.folder)
    result = other.purge_months()
    assert (result.deleted, result.months_dropped) == (60, [])
    assert "GRANT ALTER, CREATE, DROP, INSERT, LOCK TABLES ON" in result.months_left["p202607"]
    with pytest.raises(OperatorError, match="GRANT ALTER, CREATE, DROP, INSERT, LOCK TABLES ON"):
        other.rotate()


@pytest.mark.long
def test_the_rights_that_the_documents_name_are_enough(filled: PartitionScene) -> None:
    filled.archive_all()
    url = _account(filled, "SELECT, INSERT, DELETE, ALTER, CREATE, DROP, LOCK TABLES")
    assert PartitionScene(url, filled.folder).rotate().rows_dropped == 60


def _account(scene: PartitionScene, rights: str) -> str:
    url = sa.make_url(scene.url)
    name, database = f"u{url.database}"[:30], url.database
    scene.run(
        f"CREATE USER '{name}'@'%' IDENTIFIED BY 'secret-4711'",
        f"GRANT {rights} ON `{database}`.* TO '{name}'@'%'",
    )
    return url.set(username=name, password="secret-4711").render_as_string(hide_password=False)


def _take_out(scene: PartitionScene, name: str) -> None:
    """As far as a run that was killed behind the exchange."""
    from saju_ops.schema.partitions.catalogue import layout_of
    from saju_ops.schema.partitions.drop_month import mover_of

    with scene.store() as store:
        layout = layout_of(store)
        assert layout is not None
        mover_of(store).take_out(next(p for p in layout.partitions if p.name == name))


@pytest.mark.long
def test_a_month_that_the_server_can_not_take_out_leaves_under_a_lock(
    filled: PartitionScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever error it gives for the exchange, such as that of a full disk."""
    from saju_ops.schema.partitions import mysql

    filled.archive_all()
    original = mysql.run

    def run(store: Any, statement: str) -> None:
        original(store, "SELECT * FROM no_such_table" if "EXCHANGE PARTITION" in statement else statement)

    monkeypatch.setattr(mysql, "run", run)
    assert filled.purge_months().months_dropped == ["p202607", "p202608", "p202609"]
    assert filled.tables() == ["conversation_logs"]
