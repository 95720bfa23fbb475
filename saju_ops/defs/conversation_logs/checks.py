"""Checks of the conversation log's archive."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from saju_ops.defs.conversation_logs.asset import ARCHIVE
from saju_ops.defs.resources import BackupStorage, LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.settings.settings import Settings

if TYPE_CHECKING:
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import RowStore


NAMED_DAYS = 20


def checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """Cheap checks of the table for faults that an archive of single days can't see."""
    return [
        _no_rows_before_first_partition(settings),
        _every_row_has_a_day(settings),
        _every_due_day_is_archived(settings),
        _created_at_is_indexed(),
    ]


def _no_rows_before_first_partition(settings: Settings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ARCHIVE,
        description="No row is older than ARCHIVE_START_DATE: such rows belong to no partition and would never be"
        " archived or purged. Severity WARN: nothing is lost; move ARCHIVE_START_DATE back.",
    )
    @without_secrets
    def no_rows_before_first_partition(log_database: LogDatabase) -> dg.AssetCheckResult:
        from saju_ops.rows.days import Day

        first = Day(settings.archive_start_date, settings.timezone)
        with log_database.open() as store:
            oldest = store.instants("asc")
        return dg.AssetCheckResult(
            passed=oldest is None or oldest >= first.start,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "oldest_row_utc": oldest.isoformat() if oldest else "no row",
                "first_partition": str(first),
                "days_before_first_partition": max(0, (first.start - oldest).days) if oldest else 0,
            },
        )

    return no_rows_before_first_partition


def _every_due_day_is_archived(settings: Settings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ARCHIVE,
        description="Every day beyond LOG_RETENTION_DAYS of which the table has rows has an archive. Severity WARN: the"
        " weekly schedule archives what is due.",
    )
    @without_secrets
    def every_due_day_is_archived(log_database: LogDatabase, backup_storage: BackupStorage) -> dg.AssetCheckResult:
        from saju_ops.archive.manifest import archived_days

        with log_database.open() as store:
            due = due_with_rows(settings, store, datetime.now(UTC))
        archived = set(archived_days(backup_storage.open()))
        missing = [str(d) for d in due if d.stamp not in archived]
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "due_days_with_rows": len(due),
                "due_days_without_archive": len(missing),
                "first_of_them": ", ".join(missing[:NAMED_DAYS]) or "none",
            },
        )

    return every_due_day_is_archived


def _every_row_has_a_day(settings: Settings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ARCHIVE,
        description="Every row has a created_at by which it belongs to a day from ARCHIVE_START_DATE on. Rows without"
        " one, with one that can't be read, or of the year 1, which Go writes for no time, are in no partition: they"
        " are never archived and never purged. Severity WARN: nothing is lost; correct the rows, or move"
        " ARCHIVE_START_DATE back.",
    )
    @without_secrets
    def every_row_has_a_day(log_database: LogDatabase) -> dg.AssetCheckResult:
        from saju_ops.rows.days import Day

        first = Day(settings.archive_start_date, settings.timezone)
        with log_database.open() as store:
            counts = store.undated(first.start)
        return dg.AssetCheckResult(
            passed=not any(counts.values()),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"rows_in_no_day": sum(counts.values()), **counts, "first_partition": str(first)},
        )

    return every_row_has_a_day


def _created_at_is_indexed() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ARCHIVE,
        description="created_at has an index. Severity WARN: without it every day's archive and purge reads the whole"
        " table.",
    )
    @without_secrets
    def created_at_is_indexed(log_database: LogDatabase) -> dg.AssetCheckResult:
        with log_database.open() as store:
            index, name = store.table.time_index, store.table.name
        return dg.AssetCheckResult(
            passed=index is not None,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "index": index or "none",
                "indexed": 1 if index else 0,
                "advice": "none" if index else f"CREATE INDEX created_at ON {name} (created_at)",
            },
        )

    return created_at_is_indexed


def due_with_rows(settings: Settings, store: "RowStore", now: datetime) -> list["Day"]:
    """Days wholly beyond the retention, from the first partition on, of which the table has rows."""
    from saju_ops.archive.due import due_days
    from saju_ops.rows.days import Day, cutoff_day

    first = Day(settings.archive_start_date, settings.timezone)
    return list(due_days(store, first, cutoff_day(now, settings.log_retention_days, settings.timezone)))
