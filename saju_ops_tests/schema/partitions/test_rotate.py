"""Months to come are there before their first row is; two rotations, other clocks and rows of the future."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from saju_ops.errors import Busy, Refused
from saju_ops.rows.days import Day
from saju_ops_tests.archive.scene import NOW, SEOUL, Scene
from saju_ops_tests.schema.partitions.scene import PartitionScene, at, start_of, three_months


def test_three_whole_months_behind_this_one_are_made(scene: PartitionScene) -> None:
    result = scene.rotate()
    assert result.ahead.made == ("p202612", "p202701", "p202702")
    assert (result.ahead.months_ahead, result.ahead.rows_in_future, result.needs_attention) == (3, 0, False)
    assert scene.bounds()[-4:] == [
        str(int(start_of(*m).timestamp())) for m in ((2027, 1), (2027, 2), (2027, 3))
    ] + ["MAXVALUE"]  # fmt: skip


def test_a_second_rotation_finds_nothing_to_do(scene: PartitionScene) -> None:
    scene.rotate()
    before = scene.bounds()
    result = scene.rotate()
    assert (result.ahead.made, result.months_dropped, result.rows_dropped) == ((), [], 0)
    assert scene.bounds() == before


@pytest.mark.long
def test_a_dry_run_says_what_it_would_make_and_makes_nothing(scene: PartitionScene) -> None:
    three_months(scene)
    scene.archive_all()
    before = scene.bounds()
    result = scene.rotate(dry_run=True)
    assert result.ahead.made == ("p202612", "p202701", "p202702")
    assert result.purge is not None
    assert result.purge.months_droppable == ["p202607", "p202608", "p202609"]
    assert (scene.bounds(), scene.count()) == (before, 63)


@pytest.mark.long
def test_rows_in_p_future_are_sorted_in_and_are_an_alert(scene: PartitionScene) -> None:
    scene.insert([
        {"log_id": 1, "created_at": scene.time(at(2026, 12, 31, 23, 59))},
        {"log_id": 2, "created_at": scene.time(at(2027, 1, 1))},
        {"log_id": 3, "created_at": scene.time(at(2027, 6, 15))},
        # The row of a clock that is years ahead: no month is made for it.
        {"log_id": 4, "created_at": scene.time(at(2036, 1, 1))},
    ])  # fmt: skip
    result = scene.rotate()
    assert (result.ahead.rows_in_future, result.ahead.rows_left_in_future, result.needs_attention) == (4, 1, True)
    counts = scene.partitions()
    assert {name: rows for name, rows in counts.items() if rows} == {
        "p202612": 1, "p202701": 1, "p202706": 1, "p_future": 1,
    }  # fmt: skip
    assert scene.count() == 4


def test_months_that_were_missed_for_a_year_are_made(scene: PartitionScene) -> None:
    result = scene.rotate(now=datetime(2027, 11, 20, tzinfo=UTC), retention_days=3000)
    assert result.ahead.made[0] == "p202612"
    assert result.ahead.made[-1] == "p202802"


@pytest.mark.parametrize(
    ("now", "last"),
    [(at(2026, 11, 30, 23, 59), "p202702"), (at(2026, 12, 1, 0, 0), "p202703")],
    ids=["last minute of November in Seoul", "first minute of December in Seoul"],
)
def test_the_month_changes_at_midnight_in_seoul(scene: PartitionScene, now: datetime, last: str) -> None:
    assert scene.rotate(now=now).ahead.made[-1] == last


def test_months_of_utc_where_timezone_is_utc(scene: PartitionScene) -> None:
    utc = ZoneInfo("UTC")
    scene.run("DROP TABLE conversation_logs")
    scene.create(zone=utc)
    scene.rotate(now=datetime(2026, 11, 30, 23, tzinfo=UTC), first_day=Day(date(2026, 1, 1), utc))
    assert scene.bounds()[-2] == str(int(datetime(2027, 3, 1, tzinfo=UTC).timestamp()))


@pytest.mark.long
@pytest.mark.parametrize("zone", ["+09:00", "+00:00", "-05:00"])
def test_the_servers_own_time_zone_changes_no_boundary(scene: PartitionScene, zone: str) -> None:
    before = scene.run("SELECT @@GLOBAL.time_zone")[0][0]
    try:
        scene.run(f"SET GLOBAL time_zone = '{zone}'")
        three_months(scene)
        scene.archive_all()
        assert scene.rotate().months_dropped == ["p202607", "p202608", "p202609"]
        assert scene.bounds()[-2] == str(int(start_of(2027, 3).timestamp()))
    finally:
        scene.run(f"SET GLOBAL time_zone = '{before}'")


def test_a_table_of_datetime_is_partitioned_by_range_columns_in_its_own_zone(
    scene: PartitionScene, tmp_path: Path
) -> None:
    scene.run(
        "DROP TABLE conversation_logs",
        "CREATE TABLE conversation_logs (log_id bigint AUTO_INCREMENT, content text, created_at datetime NOT NULL,"
        " PRIMARY KEY (log_id, created_at), KEY ix (created_at)) PARTITION BY RANGE COLUMNS (created_at)"
        " (PARTITION a VALUES LESS THAN ('2026-07-31 15:00:00'), PARTITION b VALUES LESS THAN (MAXVALUE))",
    )
    july = Day(date(2026, 7, 31), SEOUL)
    scene.insert([{"log_id": 1, "created_at": scene.time(at(2026, 7, 31, 23, 59))}])
    scene.archive(july)
    result = scene.rotate(ahead=1)
    assert result.ahead.made[0] == "p202608"
    assert (result.months_dropped[0], result.rows_dropped) == ("a", 1)
    assert "'2026-08-31 15:00:00'" in scene.bounds()


@pytest.mark.long
def test_two_rotations_at_once_do_the_work_once(scene: PartitionScene) -> None:
    three_months(scene)
    scene.archive_all()
    found: list[object] = []

    def turn() -> None:
        try:
            found.append(scene.rotate(wait=20.0, snapshot_wait=10.0))
        except Busy as busy:
            found.append(busy)

    threads = [threading.Thread(target=turn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done = [r for r in found if not isinstance(r, Busy)]
    assert sum(r.rows_dropped for r in done) == 60  # type: ignore[attr-defined]
    assert list(scene.partitions()) == ["p202610", "p202611", "p202612", "p202701", "p202702", "p_future"]
    assert scene.tables() == ["conversation_logs"]


def test_a_second_rotation_steps_back_while_the_first_holds_the_lock(scene: PartitionScene) -> None:
    with scene.store() as store, store.lock("partitions", 1.0):
        with pytest.raises(Busy, match="partitions of conversation_logs"):
            scene.rotate(wait=0.5)


@pytest.mark.long
def test_a_live_writer_loses_nothing_while_months_leave(scene: PartitionScene) -> None:
    three_months(scene, rows=200)
    scene.archive_all()
    stop, written = threading.Event(), []

    def write() -> None:
        number = 10_000
        while not stop.is_set():
            # Now and then a row of a month that is about to leave.
            when = at(2026, 8, 10, 12) if number % 5 == 0 else at(2026, 11, 20, 9)
            scene.insert([{"log_id": number, "created_at": scene.time(when)}])
            written.append(number)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        result = scene.rotate(snapshot_wait=10.0)
    finally:
        stop.set()
        thread.join(20)
    there = set(scene.ids())
    assert {*written} <= there
    assert result.rows_dropped > 0
    assert not there & set(range(1, 201))


def test_a_plain_table_is_named_with_the_command_that_partitions_it(mysql_url: str, tmp_path: Path) -> None:
    plain = PartitionScene(mysql_url, tmp_path / "backups")
    plain.create_table()
    with pytest.raises(Refused, match="has no partitions"):
        plain.rotate()


def test_a_table_that_is_partitioned_otherwise_is_left_alone(scene: PartitionScene) -> None:
    scene.run("ALTER TABLE conversation_logs PARTITION BY HASH (log_id) PARTITIONS 3")
    with pytest.raises(Refused, match="is partitioned by HASH"):
        scene.rotate()
    assert scene.purge_months().months_dropped == []


def test_sqlite_says_that_it_has_no_partitions(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    from saju_ops.schema.partitions.rotate import rotate

    with scene.store() as store, pytest.raises(Refused, match="Partitions are not supported on SQLite"):
        rotate(store, scene.storage, now=NOW, first_day=Day(date(2026, 1, 1), SEOUL), retention_days=30, ahead=3)


@pytest.mark.parametrize("ahead", [0, -1, 25])
def test_partitions_ahead_has_bounds(scene: PartitionScene, ahead: int) -> None:
    with pytest.raises(Refused, match=f"PARTITIONS_AHEAD is {ahead}; it may be from 1 to 24"):
        scene.rotate(ahead=ahead)
