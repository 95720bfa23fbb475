"""A log whose created_at is a date without a time: it begins its day in DATABASE_TIMEZONE."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from saju_ops.archive.due import due_days
from saju_ops.rows.days import parse_day
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, SEOUL, Scene

# The date whose beginning is in the Korean day 2026-10-01: midnight in UTC is nine in the morning there, in Los Angeles
# four in the afternoon, and in Kiritimati midnight of 2026-10-02 is seven in the evening of the day before.
DATES = {"Asia/Seoul": "2026-10-01", "UTC": "2026-10-01", "America/Los_Angeles": "2026-10-01",
         "Pacific/Kiritimati": "2026-10-02"}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
@pytest.mark.parametrize("zone", list(DATES))
def test_each_due_day_is_one_day_and_its_rows_go_and_come_back(
    engine: str, zone: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", zone=ZoneInfo(zone))
    scene.run(f"CREATE TABLE {scene.name} (log_id int PRIMARY KEY, created_at date NOT NULL)")
    scene.run(f"CREATE INDEX ix ON {scene.name} (created_at)")
    date = DATES[zone]
    scene.insert([{"log_id": i, "created_at": date} for i in range(3)])
    scene.run(f"INSERT INTO {scene.name} SELECT 10, MAX(created_at) + INTERVAL '1' DAY FROM {scene.name}")  # noqa: S608
    scene.run(f"INSERT INTO {scene.name} SELECT 11, MIN(created_at) - INTERVAL '1' DAY FROM {scene.name}")  # noqa: S608
    original = scene.state()
    with scene.store() as store:
        due = list(due_days(store, parse_day("2026-09-01", SEOUL), parse_day("2026-10-20", SEOUL)))
    assert [str(day) for day in due] == ["2026-09-30", "2026-10-01", "2026-10-02"]
    assert scene.archive(DAY).rows == 3
    result = scene.purge()
    assert (result.deleted, result.unarchived_days) == (3, ["2026-09-30", "2026-10-02"])
    assert scene.archive(NEXT_DAY).rows == 1
    assert scene.restore().written == 3
    assert scene.state() == original
