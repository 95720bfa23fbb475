"""Expired chat sessions in Dagster: the live table as an asset, the job, its daily schedule.

Dagster reads annotations when an op is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import BatchRoots, Days, Most, PauseSeconds, RuntimeSeconds, bounds_of
from saju_ops.defs.common import common_metadata, nothing_here
from saju_ops.defs.interrupts import cancellable, raise_if_cancelled
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.live_tables import observe, one_run_a_tick, refused_once
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.reports.expired import expired_sessions_report
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.expired.sessions import SessionPurgeResult

SESSIONS = dg.AssetKey("user_sessions")
JOB = "purge_expired_sessions"
# The pool of the conversation log's purge: both delete rows of the log.
POOL = "conversation_log_purge"


def source_asset(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        SESSIONS,
        description=(
            f"The live table `{settings.sessions_table}` of the chatbot, written by the service itself. The job"
            " `purge_expired_sessions` reports here how many sessions went, with which rows, and what stayed and"
            " why.\n\n"
            "**Restore:** an expired session is meant to be gone; its messages stand in `conversation_log_archive`"
            " (`saju-ops restore-logs`), and all of it in the `database_dump` of a day before."
        ),
        metadata={"dagster/table_name": settings.sessions_table},
    )


def why_not(settings: Settings) -> str | None:
    """Why there is nothing to purge here, in a sentence; None where there is a table of sessions."""
    from saju_ops.expired.batches import missing_table

    return missing_table(settings.database_url, settings.sessions_table, settings.database_timezone, "SESSIONS_TABLE")


class PurgeSessionsConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: finds and counts, deletes nothing. false: deletes expired sessions with their calculations,"
        " analyses and archived log rows, and their keys in Redis.",
    )
    grace_days: Days | None = Field(
        default=None,
        description=f"Days that a session stays after it expired, {bounds_of(Days)}. Empty: EXPIRED_SESSION_GRACE_DAYS."
        " Smaller deletes more; log rows within LOG_RETENTION_DAYS keep their session whatever this says.",
    )
    max_sessions: Most | None = Field(
        default=None,
        description=f"Stop after so many sessions, {bounds_of(Most)}; the next run continues. Empty: no limit.",
    )
    max_runtime_seconds: RuntimeSeconds | None = Field(
        default=None,
        description=f"Stop at a batch's end after so long, {bounds_of(RuntimeSeconds)}. Empty: no limit.",
    )
    batch_sessions: BatchRoots = Field(
        default=250,
        description=f"Sessions per transaction, {bounds_of(BatchRoots)}. Larger is faster, and locks more rows for"
        " longer.",
    )
    pause_seconds: PauseSeconds = Field(
        default=0.0,
        description=f"Pause after each batch, {bounds_of(PauseSeconds)}. Longer is easier on the service.",
    )


@checked_at_launch(PurgeSessionsConfig)
@dg.op(
    name="delete_expired_sessions",
    pool=POOL,
    description="Deletes sessions that expired long ago, with calculations and analyses. A session with a log row that"
    " no proven archive holds unchanged stays. Then its key leaves Redis.",
)
@without_secrets
def purge_expired_sessions(
    context: dg.OpExecutionContext, config: PurgeSessionsConfig, backup_storage: BackupStorage
) -> None:
    with refused_once():
        result = _purge(config, backup_storage)
    metadata = sessions_metadata(result)
    observe(context, SESSIONS, metadata)
    verb = "would be deleted" if result.dry_run else "deleted"
    log_progress(
        context.log,
        f"{result.deleted:,} of {counted(result.expired, 'expired session')} {verb},"
        f" {counted(result.rows.total(), 'row')}, of them {counted(result.log_rows, 'archived log row')};"
        f" {counted(result.stayed.total(), 'session')} kept; in {result.seconds:.1f} s; stopped: {result.stopped}.",
    )
    for sentence in (*result.doubts, *result.problems, *filter(None, [result.cache_problem])):
        context.log.warning(sentence)
    raise_if_cancelled(result.stopped)


def _purge(config: PurgeSessionsConfig, backup: BackupStorage) -> "SessionPurgeResult":
    from saju_ops.expired import sessions as expired_sessions
    from saju_ops.expired.session_cache import SessionCache

    settings = load_settings()
    limits = expired_sessions.session_limits(
        dry_run=config.dry_run, max_sessions=config.max_sessions, max_runtime_seconds=config.max_runtime_seconds,
        batch_sessions=config.batch_sessions, pause_seconds=config.pause_seconds,
    )  # fmt: skip
    tables = expired_sessions.SessionTables(
        settings.sessions_table,
        settings.session_purge_tables,
        settings.conversation_log_table,
        settings.session_clear_columns,
        "session_clear_columns_text" in settings.model_fields_set,
    )
    url = settings.redis_url_secret
    grace = settings.expired_session_grace_days if config.grace_days is None else config.grace_days
    with expired_sessions.open_sessions(
        settings.database_url, settings.sessions_table, settings.database_timezone
    ) as store:
        with cancellable() as should_stop:
            return expired_sessions.purge_expired_sessions(
                store,
                backup.open(),
                tables,
                limits,
                now=datetime.now(UTC),
                grace_days=grace,
                retention_days=settings.log_retention_days,
                zone=settings.timezone,
                cache=SessionCache(url.get_secret_value()) if url is not None else None,
                control=RunControl(should_stop),
            )


def sessions_metadata(result: "SessionPurgeResult") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    return {
        **common_metadata(result),
        "sessions_expired": result.expired,
        "sessions_deleted": 0 if result.dry_run else result.deleted,
        "sessions_deletable": result.deleted if result.dry_run else 0,
        "sessions_stayed": result.stayed.total(),
        "log_rows": result.log_rows,
        "rows_cleared": result.cleared.total(),
        "expired_before": (result.past or result.now).isoformat(timespec="seconds"),
        "redis": "not used" if not result.cache_used else result.cache_problem or "used",
        "redis_sessions_told": result.cache_asked,
        "redis_keys_removed": result.cache_keys,
        "redis_sessions_waiting": result.cache_waiting,
        "report": dg.MetadataValue.md(expired_sessions_report(result).replace("\n", "\n\n")),
    }


@dg.job(
    name=JOB,
    description="Deletes chat sessions that expired more than EXPIRED_SESSION_GRACE_DAYS ago. By hand it only counts"
    " (dry_run: true); the daily schedule deletes. It can be cancelled at any time and launched again.",
)
def purge_expired_sessions_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    purge_expired_sessions.alias(JOB)()


def expired_sessions_schedule(settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="expired_sessions",
        job=purge_expired_sessions_job,
        cron_schedule=settings.expired_sessions_cron,
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes expired chat sessions. Skips where the database has no such table; fails where"
        " SESSIONS_TABLE names one that isn't there.",
    )
    @without_secrets
    def expired_sessions(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        current = load_settings()
        if (why := why_not(current)) is not None:
            return nothing_here(why, named=current.sessions_table != "user_sessions")
        return one_run_a_tick(context, "expired-sessions", JOB, PurgeSessionsConfig(dry_run=False))

    return expired_sessions
