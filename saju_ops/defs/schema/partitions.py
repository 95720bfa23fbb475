"""The rotation of the log table's monthly partitions in Dagster: job, daily schedule, checks on the table.

Dagster reads an op's annotations when it is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import DaysFromOne, MonthsAhead
from saju_ops.defs.charts import bar_chart
from saju_ops.defs.common import _lines
from saju_ops.defs.conversation_logs.asset import LOGS
from saju_ops.defs.interrupts import cancellable, raise_if_cancelled
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.live_tables import observe, one_run_a_tick, refused_once
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage, LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import Refused
from saju_ops.reports.partitions import rotation_report
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted, were

if TYPE_CHECKING:
    from saju_ops.rows.engines.open import RowStore
    from saju_ops.schema.partitions.catalogue import Layout
    from saju_ops.schema.partitions.rotate import RotationResult

JOB = "rotate_log_partitions"
# The pool of what deletes rows of the log.
POOL = "conversation_log_purge"


class RotateConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: says which partitions would be made and which months would leave; changes nothing. false:"
        " makes them, and drops months whose rows are all in proven archives; only a restore brings those back.",
    )
    partitions_ahead: MonthsAhead | None = Field(
        default=None,
        description="Whole months behind this one that shall have a partition, 1 to 24. Empty: PARTITIONS_AHEAD.",
    )
    retention_days: DaysFromOne | None = Field(
        default=None,
        description="Days that stay, counted back from now, 1 to 36500. Empty: LOG_RETENTION_DAYS. Smaller deletes"
        " more.",
    )


@checked_at_launch(RotateConfig)
@dg.op(
    name="rotate_partitions",
    pool=POOL,
    description="Makes the partitions of the months to come, and lets months leave that lie wholly beyond the retention"
    " and whose rows are all in proven archives, read back in this run.",
)
@without_secrets
def rotate_log_partitions(
    context: dg.OpExecutionContext, config: RotateConfig, log_database: LogDatabase, backup_storage: BackupStorage
) -> None:
    with refused_once():
        result = _rotate(context, config, log_database, backup_storage)
    metadata = rotation_metadata(result)
    observe(context, LOGS, metadata)
    verb = "would leave" if result.dry_run else "left"
    gone = result.purge.months_droppable if result.dry_run and result.purge else result.months_dropped
    log_progress(
        context.log,
        f"{counted(len(result.ahead.made), 'month')} {'to be made' if result.dry_run else 'made'},"
        f" {counted(len(gone), 'month')} {verb} with {counted(result.rows_dropped, 'row')},"
        f" {counted(len(result.months_left), 'month')} beyond the retention stayed; in {result.seconds:.1f} s.",
    )
    for sentence in (*result.months_left.values(), *([result.ahead.left] if result.ahead.left else [])):
        context.log.warning(sentence)
    if result.purge is not None:
        raise_if_cancelled(result.purge.stopped)
    if result.purge is not None and result.purge.problems:
        raise dg.Failure(
            f"{counted(len(result.months_dropped), 'month')} {were(len(result.months_dropped))} dropped; of others some"
            f" days {were(2)} left. First: {result.purge.problems[0]}",
            metadata={"report": metadata["report"]},
            allow_retries=False,
        )


def _rotate(
    context: dg.OpExecutionContext, config: RotateConfig, log_database: LogDatabase, backup_storage: BackupStorage
) -> "RotationResult":
    from saju_ops.rows.days import Day
    from saju_ops.schema.partitions.rotate import rotate

    settings = load_settings()
    with log_database.open() as store:
        # Asked between months and chunks: none is cut in two.
        with cancellable() as should_stop:
            return rotate(
                store,
                backup_storage.open(),
                now=datetime.now(UTC),
                first_day=Day(settings.archive_start_date, settings.timezone),
                retention_days=config.retention_days or settings.log_retention_days,
                ahead=config.partitions_ahead or settings.partitions_ahead,
                dry_run=config.dry_run,
                control=RunControl(should_stop),
            )


def rotation_metadata(result: "RotationResult") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    purge = result.purge
    return {
        "dry_run": result.dry_run,
        "partitions": result.partitions,
        "months_ahead": result.ahead.months_ahead,
        "months_made": 0 if result.dry_run else len(result.ahead.made),
        "months_made_named": ", ".join(result.ahead.made) or "none",
        "months_dropped": len(result.months_dropped),
        "months_dropped_named": ", ".join(result.months_dropped) or "none",
        "months_droppable": len(purge.months_droppable) if purge else 0,
        "rows_dropped": result.rows_dropped,
        "rows_deleted_in_chunks": purge.deleted - purge.rows_dropped if purge else 0,
        "months_left": len(result.months_left),
        "months_left_because": dg.MetadataValue.md(_lines([*result.months_left.values()])),
        "rows_in_p_future": result.ahead.rows_in_future,
        "rows_left_in_p_future": result.ahead.rows_left_in_future,
        "problems": dg.MetadataValue.md(_lines(result.problems)),
        "needs_attention": result.needs_attention,
        "rows_per_day": dg.MetadataValue.md(
            bar_chart(dict(sorted(purge.per_day.items())) if purge else {}, "rows per day")
        ),
        "seconds": round(result.seconds, 3),
        "stopped": purge.stopped if purge else "finished",
        "report": dg.MetadataValue.md(rotation_report(result, datetime.now(UTC)).replace("\n", "\n\n")),
    }


@dg.job(
    name=JOB,
    description="Makes the log table's partitions of the next months and drops months that are archived and beyond the"
    " retention. By hand it only says what it would do (dry_run: true); the daily schedule does it. It can be cancelled"
    " or killed at any time and launched again.",
)
def rotate_log_partitions_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    rotate_log_partitions.alias(JOB)()


def rotation_schedule(settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="log_partitions",
        job=rotate_log_partitions_job,
        cron_schedule="0 4 * * *",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every day at 04:00: makes the log's partitions of the next PARTITIONS_AHEAD months and drops"
        " archived months. Skips where the table has no partitions.",
    )
    @without_secrets
    def log_partitions(
        context: dg.ScheduleEvaluationContext, log_database: LogDatabase
    ) -> dg.RunRequest | dg.SkipReason:
        with log_database.open() as store:
            found = _layout(store)
        if isinstance(found, str):
            return dg.SkipReason(found)
        return one_run_a_tick(context, "log-partitions", JOB, RotateConfig(dry_run=False))

    return log_partitions


def _layout(store: "RowStore") -> "Layout | str":
    """Or in a sentence why there is nothing to rotate."""
    from saju_ops.schema.partitions.catalogue import layout_of, unpartitioned

    try:
        found = layout_of(store)
    except Refused as refusal:
        return str(refusal)
    return found if found is not None else str(unpartitioned(store.table.name))


def checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=LOGS,
        description="The partitions of the next months are there, one at least. Severity WARN: rows of a month without"
        " one are in p_future and are sorted in by the job rotate_log_partitions. A table without partitions passes.",
    )
    @without_secrets
    def partitions_are_ahead(log_database: LogDatabase) -> dg.AssetCheckResult:
        from saju_ops.schema.partitions.ahead import months_ahead

        with log_database.open() as store:
            found = _layout(store)
        if isinstance(found, str):
            return _nothing_to_check(found, settings.partitions_ahead)
        ahead = months_ahead(found, datetime.now(UTC), settings.timezone)
        bound = found.last_bound
        return dg.AssetCheckResult(
            passed=ahead >= 1,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "months_ahead": ahead,
                "months_wanted": settings.partitions_ahead,
                "partitions": len(found.partitions),
                "last_month_ends_utc": bound.isoformat() if bound else "none",
            },
        )

    @dg.asset_check(
        asset=LOGS,
        description="No row is in the partition without an upper bound: its month was not made in time, or its"
        " created_at is wrong. Severity WARN: nothing is lost; the job rotate_log_partitions sorts them in. A table"
        " without partitions passes.",
    )
    @without_secrets
    def no_rows_in_p_future(log_database: LogDatabase) -> dg.AssetCheckResult:
        from saju_ops.schema.partitions.drop_month import mover_of

        with log_database.open() as store:
            found = _layout(store)
            if isinstance(found, str):
                return _nothing_to_check(found, settings.partitions_ahead)
            rows = mover_of(store).count(found.future) if found.future is not None else 0
        return dg.AssetCheckResult(
            passed=rows == 0,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"rows_in_p_future": rows, "partitions": len(found.partitions)},
        )

    return [partitions_are_ahead, no_rows_in_p_future]


def _nothing_to_check(why: str, wanted: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=True,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"months_ahead": 0, "months_wanted": wanted, "partitions": 0, "rows_in_p_future": 0, "note": why},
    )
