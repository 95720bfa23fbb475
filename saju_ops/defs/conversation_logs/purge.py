"""Archive, purge and restore of the conversation log as Dagster jobs: configuration in, metadata out.

Dagster reads an op's annotations when it is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import ChunkRows, DaysFromOne, LagSeconds, Most, PauseSeconds, RuntimeSeconds, bounds_of
from saju_ops.defs.charts import bar_chart
from saju_ops.defs.common import _day
from saju_ops.defs.conversation_logs.asset import LOGS
from saju_ops.defs.interrupts import cancellable, raise_if_cancelled
from saju_ops.defs.launchpad import DayText, checked_at_launch
from saju_ops.defs.live_tables import observe, refused_once
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage, LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.reports.conversation_logs import purge_report
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted, its, were

if TYPE_CHECKING:
    from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
    from saju_ops.rows.days import Day

# Seconds between two progress lines in a run's log.
PROGRESS_SECONDS = 10.0


class PurgeConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: compares and counts, deletes nothing. false: deletes archived rows from the database;"
        " only a restore brings them back.",
    )
    retention_days: DaysFromOne | None = Field(
        default=None,
        description=f"Days that stay, counted back from now, {bounds_of(DaysFromOne)}. Empty: LOG_RETENTION_DAYS."
        " Smaller deletes more.",
    )
    from_day: DayText | None = Field(default="", description="First day to purge, YYYY-MM-DD. Empty: the oldest.")
    to_day: DayText | None = Field(
        default="",
        description="Last day to purge, YYYY-MM-DD. Days within the retention are never purged, whatever this says.",
    )
    chunk_size: ChunkRows = Field(
        default=5000,
        description=f"Rows per transaction, {bounds_of(ChunkRows)}. Larger is faster, and locks more rows for longer.",
    )
    pause_seconds: PauseSeconds = Field(
        default=0.0,
        description=f"Pause after each chunk, {bounds_of(PauseSeconds)}. Longer is easier on the service and replicas.",
    )
    max_rows: Most | None = Field(
        default=None,
        description=f"Stop after so many rows, {bounds_of(Most)}; the next run continues. Empty: no limit.",
    )
    max_runtime_seconds: RuntimeSeconds | None = Field(
        default=None,
        description=f"Stop at a chunk's end after so long, {bounds_of(RuntimeSeconds)}; the next run continues. Empty:"
        " no limit.",
    )
    max_replica_lag_seconds: LagSeconds | None = Field(
        default=None,
        description=f"Wait while a replica is further behind than this, {bounds_of(LagSeconds)}. MySQL needs"
        " REPLICA_URLS; PostgreSQL is asked itself. Empty: don't look.",
    )


def _plan(config: PurgeConfig, settings: Settings) -> "PurgePlan":
    from saju_ops.archive.purge_plan import PurgePlan

    return PurgePlan(
        retention_days=settings.log_retention_days if config.retention_days is None else config.retention_days,
        dry_run=config.dry_run,
        from_day=_day(config.from_day, "from_day", settings),
        to_day=_day(config.to_day, "to_day", settings),
        chunk_size=config.chunk_size,
        pause_seconds=config.pause_seconds,
        max_rows=config.max_rows,
        max_runtime_seconds=config.max_runtime_seconds,
        max_replica_lag_seconds=config.max_replica_lag_seconds,
    )


@checked_at_launch(PurgeConfig)
@dg.op(
    name="purge_archived_rows",
    pool="conversation_log_purge",
    description="Deletes rows of the conversation log that a verified archive holds, unchanged, in days wholly beyond"
    " the retention. Chunk by chunk, each row compared with the stored archive under lock before it is deleted.",
)
@without_secrets
def purge_conversation_logs(
    context: dg.OpExecutionContext, config: PurgeConfig, log_database: LogDatabase, backup_storage: BackupStorage
) -> None:
    with refused_once():
        result = _purge(context, config, log_database, backup_storage)
    _report(context, result)
    raise_if_cancelled(result.stopped)
    if left := len(result.problems):
        altered = ", or because the table was altered" if "was altered since" in result.stopped else ""
        altered += ", or rows of theirs are archived and still there" if result.kept_unexplained else ""
        raise dg.Failure(
            f"{counted(left, 'day')} {were(left)} left because {its(left)} archive could not be proven or"
            f" {'it is' if left == 1 else 'they are'} in use{altered}; {counted(result.deleted, 'row')} of other days"
            f" {were(result.deleted)} deleted. First: {result.problems[0]}",
            allow_retries=False,
        )


def _purge(
    context: dg.OpExecutionContext, config: PurgeConfig, log_database: LogDatabase, backup_storage: BackupStorage
) -> "PurgeResult":
    from saju_ops.archive.purge import purge
    from saju_ops.rows.days import Day
    from saju_ops.schema.partitions.drop_month import whole_months

    settings = load_settings()
    plan = _plan(config, settings)
    with log_database.open() as store:
        with cancellable() as should_stop:
            return purge(
                store,
                backup_storage.open(),
                plan,
                now=datetime.now(UTC),
                first_day=Day(settings.archive_start_date, settings.timezone),
                replicas=settings.replica_urls,
                control=RunControl(should_stop, _Progress(context)),
                months=whole_months(settings.timezone),
            )


class _Progress:
    """A line in the log every ten seconds, and one at each day's end."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        self._log = context.log
        self._logged = 0.0
        self._days = 0

    def __call__(self, result: "PurgeResult", day: "Day") -> None:
        import time

        if result.days == self._days and time.monotonic() - self._logged < PROGRESS_SECONDS:
            return
        self._logged, self._days = time.monotonic(), result.days
        verb, rows = ("would delete", result.deletable) if result.dry_run else ("deleted", result.deleted)
        log_progress(self._log, f"{day}: {verb} {counted(rows, 'row')} so far, in {counted(result.chunks, 'chunk')}.")


def _report(context: dg.OpExecutionContext, result: "PurgeResult") -> None:
    metadata = purge_metadata(result)
    observe(context, LOGS, metadata)
    rows = result.deletable if result.dry_run else result.deleted
    verb = "would be deleted" if result.dry_run else "deleted"
    log_progress(
        context.log,
        f"{counted(rows, 'row')} {verb} from {counted(result.days, 'day')} before {result.cutoff} in"
        f" {result.seconds:.1f} s; {result.kept:,} kept{f' ({result.kept_because})' if result.kept else ''};"
        f" stopped: {result.stopped}.",
    )
    if result.doubt:
        context.log.warning(result.doubt)


def purge_metadata(result: "PurgeResult") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    return {
        "dry_run": result.dry_run,
        "rows_deleted": result.deleted,
        "rows_deletable": result.deletable,
        "rows_kept_late": result.kept_late,
        "rows_kept_changed": result.kept_changed,
        "rows_kept_referenced": sum(result.kept_referenced.values()),
        "referencing_tables": ", ".join(f"{t} ({n})" for t, n in result.kept_referenced.items()) or "none",
        "rows_kept_refused": sum(result.kept_refused.values()),
        "rows_kept_unexplained": result.kept_unexplained,
        "kept_because": result.kept_because or "none are kept",
        "days": result.days,
        "days_without_archive": len(result.unarchived_days),
        "days_not_proven": len(result.problems),
        "problems": dg.MetadataValue.md("\n".join(f"- {p}" for p in result.problems[:20]) or "none"),
        "doubt": result.doubt or "none",
        "months_dropped": len(result.months_dropped),
        "months_dropped_named": ", ".join(result.months_dropped) or "none",
        "months_droppable": len(result.months_droppable),
        "rows_dropped": result.rows_dropped,
        "months_left": len(result.months_left),
        "months_left_because": dg.MetadataValue.md("\n".join(f"- {w}" for w in result.months_left.values()) or "none"),
        "chunks": result.chunks,
        "chunks_row_by_row": result.row_by_row_chunks,
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.deleted / result.seconds, 1) if result.seconds else 0.0,
        "seconds_waited_for_replicas": result.lag_wait_seconds,
        "cutoff_day": str(result.cutoff),
        "stopped": result.stopped,
        "table_bytes_before": result.table_bytes,
        "freed_bytes": result.freed_bytes,
        "freed_space": result.reclaim_hint,
        "rows_per_day": dg.MetadataValue.md(bar_chart(dict(sorted(result.per_day.items())), "rows per day")),
        "report": dg.MetadataValue.md(purge_report(result, datetime.now(UTC)).replace("\n", "\n\n")),
    }


@dg.job(
    name="purge_conversation_logs",
    description="Deletes archived rows of the conversation log from the database. By hand it only counts"
    " (dry_run: true); the weekly schedule deletes. It can be cancelled at any time and launched again.",
)
def purge_conversation_logs_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    purge_conversation_logs.alias("purge_conversation_logs")()
