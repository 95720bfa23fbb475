"""A log table with a partition for each month, as the tests make it by hand, and the rotation on it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from saju_ops.archive.purge import purge
from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
from saju_ops.rows.days import Day, days
from saju_ops.schema.partitions.drop_month import whole_months
from saju_ops.schema.partitions.rotate import RotationResult, rotate
from saju_ops_tests.archive.scene import NOW, SEOUL, UTC_ZONE, Scene

# A retention of 30 days before 2026-11-20 begins on 2026-10-21: July to September are past.
MONTHS = ((2026, 7), (2026, 8), (2026, 9), (2026, 10), (2026, 11))
JULY, AUGUST, SEPTEMBER = (Day(date(2026, month, 10), SEOUL) for month in (7, 8, 9))
FIRST = Day(date(2026, 1, 1), SEOUL)


def start_of(year: int, month: int, zone: ZoneInfo = SEOUL) -> datetime:
    return datetime(year, month, 1, tzinfo=zone)


def month_after(year: int, month: int) -> tuple[int, int]:
    return year + month // 12, month % 12 + 1


class PartitionScene(Scene):
    """Rows of `Scene`, in a table with one partition a month of Seoul."""

    def __init__(self, url: str, folder: Path, table: str = "conversation_logs", zone: ZoneInfo = UTC_ZONE) -> None:
        super().__init__(url, folder, table, zone)

    def create(self, months: Sequence[tuple[int, int]] = MONTHS, zone: ZoneInfo = SEOUL) -> PartitionScene:
        ends = [int(start_of(*month_after(*each), zone).timestamp()) for each in months]
        pieces = [
            f"PARTITION p{year}{month:02} VALUES LESS THAN ({end})"
            for (year, month), end in zip(months, ends, strict=True)
        ]
        self.run(
            f"CREATE TABLE {self.name} (log_id bigint AUTO_INCREMENT, session_id varchar(64), role varchar(10),"
            " content text, tokens int, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,"
            " PRIMARY KEY (log_id, created_at), KEY ix_created (created_at))"
            f" PARTITION BY RANGE (UNIX_TIMESTAMP(created_at)) ({', '.join(pieces)},"
            " PARTITION p_future VALUES LESS THAN MAXVALUE)"
        )
        return self

    # --- what is there -----------------------------------------------------------------------------------

    def partitions(self) -> dict[str, int]:
        """Rows by partition, as the server counts them."""
        names = self.run(
            "SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE()"
            " AND TABLE_NAME = :table AND PARTITION_NAME IS NOT NULL ORDER BY PARTITION_ORDINAL_POSITION",
            table=self.table,
        )
        return {
            str(name): int(self.run(f"SELECT COUNT(*) FROM {self.name} PARTITION (`{name}`)")[0][0])  # noqa: S608
            for (name,) in names
        }

    def bounds(self) -> list[str]:
        return [
            str(row[0])
            for row in self.run(
                "SELECT PARTITION_DESCRIPTION FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE()"
                " AND TABLE_NAME = :table ORDER BY PARTITION_ORDINAL_POSITION",
                table=self.table,
            )
        ]

    def tables(self) -> list[str]:
        return sorted(str(row[0]) for row in self.run("SHOW TABLES"))

    # --- what is done ------------------------------------------------------------------------------------

    def archive_all(self, first: Day = FIRST, last: Day | None = None, *, now: datetime = NOW) -> None:
        """Every day that has rows."""
        with self.store() as store:
            found = [d for d in days(first, last or Day(date(2026, 10, 20), SEOUL)) if store.profile(d).rows]
        for day in found:
            self.archive(day, now=now)

    def rotate(self, *, now: datetime = NOW, dry_run: bool = False, **more: Any) -> RotationResult:
        options: dict[str, Any] = {"retention_days": 30, "ahead": 3, "wait": 5.0, "snapshot_wait": 1.0, **more}
        first = options.pop("first_day", FIRST)
        with self.store() as store:
            return rotate(store, self.storage, now=now, first_day=first, dry_run=dry_run, **options)

    def purge_months(
        self, *, now: datetime = NOW, wait: float = 5.0, zone: ZoneInfo = SEOUL, **options: Any
    ) -> PurgeResult:
        options = {"retention_days": 30, "dry_run": False, **options}
        with self.store() as store:
            return purge(
                store, self.storage, PurgePlan(**options), now=now, first_day=Day(FIRST.date, zone), wait=wait,
                months=whole_months(zone, snapshot_wait=1.0),
            )  # fmt: skip


def three_months(scene: PartitionScene, rows: int = 20) -> None:
    """Rows of one day each in July, August and September, and three of November, which stay."""
    for number, day in enumerate((JULY, AUGUST, SEPTEMBER)):
        scene.add(rows, first=1 + number * rows, day=day)
    scene.add(3, first=1000, day=Day(date(2026, 11, 10), SEOUL))


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    """An instant of Seoul, in UTC."""
    return datetime(year, month, day, hour, minute, tzinfo=SEOUL).astimezone(UTC)


def minute_of(day: Day, minute: int) -> datetime:
    return day.start + timedelta(minutes=minute)
