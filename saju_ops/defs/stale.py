"""Stale analysis jobs in Dagster: the live table as an asset, the job that settles them, its weekly schedule.

Dagster reads annotations when an op is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from saju_ops.bounds import StaleHours, bounds_of
from saju_ops.defs.common import nothing_here
from saju_ops.defs.interrupts import cancellable, raise_if_cancelled
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.live_tables import observe, one_run_a_tick, refused_once
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError, Refused
from saju_ops.reports.stale import stale_report, undo_report
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.stale.plan import StalePlan, StaleResult
    from saju_ops.stale.undo import UndoResult

ANALYSIS_JOBS = dg.AssetKey("analysis_jobs")
JOB = "reconcile_stale_jobs"
POOL = "analysis_jobs"
NAMED = 20


def source_asset(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        ANALYSIS_JOBS,
        description=(
            "The live table `analysis_jobs` of the speech analysis, written by the service itself, at"
            " ANALYSIS_DATABASE_URL (or DATABASE_URL). The job `reconcile_stale_jobs` reports here how many jobs are in"
            f" which status, how many haven't moved for {counted(settings.stale_job_hours, 'hour')}, and what became"
            " of them.\n\n"
            "**Restore:** a status that the job set is put back with `saju-ops reconcile-stale-jobs --undo RUN_ID`;"
            " results are never touched."
        ),
        metadata={"dagster/table_name": "analysis_jobs"},
    )


def checks() -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        name="no_stale_jobs",
        asset=ANALYSIS_JOBS,
        description="No job hangs in pending or processing for longer than STALE_JOB_HOURS, and none has a time that"
        " can't be judged. Severity WARN: the weekly schedule settles the former; the latter need a person.",
    )
    @without_secrets
    def no_stale_jobs() -> dg.AssetCheckResult:
        from saju_ops.stale.connections import NoTables
        from saju_ops.stale.plan import StalePlan

        # Settings of the process that runs the op, not of the process that loaded the definitions.
        try:
            result = _reconcile(StalePlan("stats", load_settings().stale_job_hours), None)
        except NoTables as error:
            return _passed_without_tables(error, {"stale": 0, "not_judged": 0})
        return dg.AssetCheckResult(
            passed=not result.stale and not result.odd_count,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"stale": result.stale, "not_judged": result.odd_count, "total": result.total},
        )

    @dg.asset_check(
        name="results_have_an_index",
        asset=ANALYSIS_JOBS,
        description="analysis_results has an index that begins with job_id. Severity WARN: without it, settling reads"
        " the whole table, and so does the service for every job it shows.",
    )
    @without_secrets
    def results_have_an_index() -> dg.AssetCheckResult:
        from saju_ops.stale.connections import NoTables
        from saju_ops.stale.plan import StalePlan

        try:
            result = _reconcile(StalePlan("stats", load_settings().stale_job_hours), None)
        except NoTables as error:
            return _passed_without_tables(error, {"indexed": 0})
        advice = "CREATE INDEX analysis_results_job_id ON analysis_results (job_id)"
        return dg.AssetCheckResult(
            passed=result.results_indexed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "indexed": int(result.results_indexed),
                "advice": "none" if result.results_indexed else advice,
            },
        )

    return [no_stale_jobs, results_have_an_index]


def _passed_without_tables(error: OperatorError, numbers: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, metadata={**numbers, "why": str(error)})


class ReconcileConfig(dg.Config):
    mode: Literal["check", "apply", "stats", "undo"] = Field(
        default="check",
        description="check: lists stale jobs, changes nothing. stats: only the numbers. apply: sets their status, if"
        " dry_run is false. undo: puts back what the run in run_id changed, if dry_run is false.",
    )
    dry_run: bool = Field(
        default=True,
        description="true: apply and undo only say what they would do. false: they change the status of jobs in the"
        " live database; check and stats never do.",
    )
    hours: StaleHours | None = Field(
        default=None,
        description=f"Hours without a move after which a job is stale, {bounds_of(StaleHours)}. Empty: STALE_JOB_HOURS."
        " Smaller settles more, and with too few also jobs that are still running.",
    )
    run_id: str | None = Field(default="", description="With undo: the run that is put back, as its report named it.")


@checked_at_launch(ReconcileConfig)
@dg.op(
    name="settle_stale_jobs",
    pool=POOL,
    description="Finds analysis jobs that a crash left in pending or processing and, on request, sets their status:"
    " completed where files have results, STALE_JOB_EMPTY_STATUS where none has. Results are not touched; what it"
    " changed is in an audit file under BACKUP_URI.",
)
@without_secrets
def reconcile_stale_jobs(
    context: dg.OpExecutionContext, config: ReconcileConfig, backup_storage: BackupStorage
) -> None:
    with refused_once():
        if config.mode == "undo":
            _undo(context, config, backup_storage)
            return
        result = _settle(context, config, backup_storage)
    metadata = stale_metadata(result)
    observe(context, ANALYSIS_JOBS, metadata)
    verb = f"{result.settled:,} settled" if result.mode == "apply" and not result.dry_run else "nothing changed"
    log_progress(
        context.log,
        f"{result.stale:,} of {counted(result.total, 'job')} didn't move for {counted(result.hours, 'hour')}; {verb},"
        f" {result.left_moved:,} left alone because they moved, {result.odd_count:,} not judged; in"
        f" {result.seconds:.1f} s; stopped: {result.stopped}.",
    )
    raise_if_cancelled(result.stopped)


def _settle(context: dg.OpExecutionContext, config: ReconcileConfig, backup: BackupStorage) -> "StaleResult":
    from saju_ops.stale.plan import StalePlan

    settings = load_settings()
    if config.mode == "undo" or config.run_id:
        raise Refused(f"run_id is {config.run_id!r}; it may be given with mode undo only. Nothing was touched.")
    plan = StalePlan(
        mode=config.mode,
        hours=settings.stale_job_hours if config.hours is None else config.hours,
        dry_run=config.dry_run or config.mode != "apply",
        empty_status=settings.stale_job_empty_status,
        run_id=context.run.run_id,
    )
    with cancellable() as should_stop:
        return _reconcile(plan, backup, control=RunControl(should_stop))


def _reconcile(plan: "StalePlan", backup: BackupStorage | None, **more: Any) -> "StaleResult":
    from saju_ops.stale.reconcile import reconcile

    settings = load_settings()
    return reconcile(
        settings.analysis_database_url,
        backup.open() if backup is not None and plan.changes else None,
        plan,
        now=datetime.now(UTC),
        zone_of_database=settings.analysis_database_timezone,
        zone=settings.timezone,
        **more,
    )


def stale_metadata(result: "StaleResult") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included. The statuses are those before anything was changed."""
    empty = result.statuses.get(result.empty_status.strip().casefold(), 0)
    known = ("pending", "processing", "completed", result.empty_status.strip().casefold())
    return {
        "mode": result.mode,
        "dry_run": result.dry_run,
        "hours": result.hours,
        "pending": result.statuses["pending"],
        "processing": result.statuses["processing"],
        "completed": result.statuses["completed"],
        "failed": result.statuses.get("failed", empty),
        "other_statuses": sum(n for s, n in result.statuses.items() if s not in (*known, "failed")),
        "total": result.total,
        "older_than_7_days": result.older_than_7_days,
        "stale": result.stale,
        "to_complete": result.to_complete,
        "to_complete_partly": result.to_complete_partly,
        "to_empty_status": result.to_empty,
        "empty_status": result.empty_status,
        "settled": result.settled,
        "settled_completed": result.settled_completed,
        "settled_partly": result.settled_partly,
        "settled_empty": result.settled_empty,
        "left_because_moved": result.left_moved,
        "not_judged": result.odd_count,
        "not_judged_jobs": dg.MetadataValue.md(
            "\n".join(f"- `{o.job_id}` ({o.status}): {o.why}, {o.column}" for o in result.odd[:NAMED]) or "none"
        ),
        "judged_by": ", ".join(result.evidence),
        "results_indexed": int(result.results_indexed),
        "hindrances": " ".join(result.hindrances) or "none",
        "transactions": result.transactions,
        "seconds": round(result.seconds, 3),
        "jobs_per_second": round(result.settled / result.seconds, 1) if result.seconds else 0.0,
        "run_to_undo": result.run_id if result.settled else "none",
        "audit_files": dg.MetadataValue.md("\n".join(f"- `{f}`" for f in result.audit_files[:NAMED]) or "none"),
        "stopped": result.stopped,
        "report": dg.MetadataValue.md(stale_report(result).replace("\n", "\n\n")),
    }


def _undo(context: dg.OpExecutionContext, config: ReconcileConfig, backup: BackupStorage) -> None:
    from saju_ops.stale.undo import undo

    if not config.run_id:
        raise Refused("run_id is empty; with mode undo it names the run that is put back. Nothing was touched.")
    settings = load_settings()
    with cancellable() as should_stop:
        result = undo(
            settings.analysis_database_url,
            backup.open(),
            config.run_id,
            undo_run_id=context.run.run_id,
            dry_run=config.dry_run,
            now=datetime.now(UTC),
            zone_of_database=settings.analysis_database_timezone,
            control=RunControl(should_stop),
        )
    metadata = undo_metadata(result)
    observe(context, ANALYSIS_JOBS, metadata)
    verb = "would be put back" if result.dry_run else "put back"
    log_progress(
        context.log, f"{result.put_back:,} of {counted(result.changed_then, 'job')} of run {result.run_id} {verb}."
    )
    if result.stopped:
        raise dg.DagsterExecutionInterruptedError


def undo_metadata(result: "UndoResult") -> dict[str, Any]:
    return {
        "mode": "undo",
        "dry_run": result.dry_run,
        "undone_run": result.run_id,
        "changed_then": result.changed_then,
        "put_back": result.put_back,
        "left_because_changed_since": result.kept,
        "in_doubt": len(result.in_doubt),
        "in_doubt_jobs": ", ".join(result.in_doubt[:NAMED]) or "none",
        "seconds": round(result.seconds, 3),
        "report": dg.MetadataValue.md(undo_report(result).replace("\n", "\n\n")),
    }


@dg.job(
    name=JOB,
    description="Settles analysis jobs that a crash left in pending or processing. By hand it only lists them (mode:"
    " check); the weekly schedule applies. It can be cancelled at any time and launched again, and put back (mode:"
    " undo).",
)
def reconcile_stale_jobs_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    reconcile_stale_jobs.alias(JOB)()


def stale_jobs_schedule(settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="stale_jobs",
        job=reconcile_stale_jobs_job,
        cron_schedule=settings.stale_job_cron,
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Settles stale analysis jobs. Skips where the database has no analysis_jobs; fails where"
        " ANALYSIS_DATABASE_URL names a database without them.",
    )
    @without_secrets
    def stale_jobs(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from saju_ops.stale.reconcile import missing_tables

        current = load_settings()
        why = missing_tables(current.analysis_database_url, current.analysis_database_timezone)
        if why is not None:
            return nothing_here(why, named=current.analysis_database_url_secret is not None)
        return one_run_a_tick(context, "stale-jobs", JOB, ReconcileConfig(mode="apply", dry_run=False))

    return stale_jobs
