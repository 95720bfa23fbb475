"""Expired paid jobs in Dagster: the live table as an asset with its checks, the job, its hourly schedule.

Dagster reads annotations when an op is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import BatchRoots, Most, PauseSeconds, RuntimeSeconds, bounds_of
from saju_ops.defs.common import _listed, common_metadata, nothing_here
from saju_ops.defs.interrupts import cancellable, raise_if_cancelled
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.live_tables import observe, one_run_a_tick, refused_once
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.reports.expired import expired_jobs_report
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.wiring import job_files, tables_of
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.expired.job_tables import JobPurgeResult

PAID_JOBS = dg.AssetKey("paid_jobs")
JOB = "purge_expired_jobs"
POOL = "paid_jobs"
NO_ORPHANS = "no_orphan_rows"
NO_ORPHAN_FILES = "no_orphan_files"
CHECK_JOB = "check_paid_jobs"


def source_asset(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        PAID_JOBS,
        description=(
            f"The live table `{settings.jobs_table}` of the paid reports, written by the service itself, at"
            " JOBS_DATABASE_URL (or DATABASE_URL). The job `purge_expired_jobs` reports here how many jobs expired and"
            " went, with which rows and files, and what stayed and why.\n\n"
            "**Restore:** an expired job is meant to be gone. Its rows of PURGE_KEEP_TABLES (payments) stand in"
            " `purged_jobs/YYYY/MM/` under BACKUP_URI: the manifest that names the job's id describes the CSV file."
        ),
        metadata={"dagster/table_name": settings.jobs_table},
    )


def checks() -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        name=NO_ORPHANS,
        asset=PAID_JOBS,
        description="No row of a table that hangs on a job names a row that isn't there. Severity WARN: a database that"
        " keeps its foreign keys has none; where there are some, they hold personal data that nothing deletes.",
    )
    @without_secrets
    def no_orphan_rows() -> dg.AssetCheckResult:
        from saju_ops.expired.job_tables import open_jobs, orphans
        from saju_ops.wiring import tables_of

        if (why := why_not()) is not None:
            return dg.AssetCheckResult(passed=True, metadata={"orphan_rows": 0, "why": why})
        settings = load_settings()
        url, zone = settings.jobs_database_url, settings.jobs_database_timezone
        try:
            with open_jobs(url, settings.jobs_table, zone) as store:
                found = orphans(store, tables_of(settings))
        except OperatorError as error:
            # The purge refuses for the same reason, loudly; here the check of files is still to run.
            return dg.AssetCheckResult(
                passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"orphan_rows": 0, "why": str(error)}
            )
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"orphan_rows": found.total(), "columns": _listed(found)},
        )

    @dg.asset_check(
        name=NO_ORPHAN_FILES,
        asset=PAID_JOBS,
        description="Every file under JOBS_S3_PREFIX (without one: in the folder that all rows name) that is older than"
        " a day is named by a row of PURGE_FILE_COLUMNS. Deletes nothing. Severity WARN: a file that no row names may"
        " hold personal data, and nothing else finds it; a"
        " person must see whose it is.",
    )
    @without_secrets
    def no_orphan_files() -> dg.AssetCheckResult:
        settings = load_settings()
        if (why := why_not(settings) or _why_no_files(settings)) is not None:
            return _files_result(passed=True, why=why)
        try:
            return _compare_files(settings)
        except OperatorError as error:
            return _files_result(passed=False, why=str(error))

    return [no_orphan_rows, no_orphan_files]


def _why_no_files(settings: Settings) -> str | None:
    """Why the bucket isn't looked at, in a sentence; None where it is."""
    if not settings.jobs_s3_delete:
        return "JOBS_S3_DELETE is false, so the files of expired jobs are left on purpose. No file was looked at."
    if settings.jobs_s3_bucket is None:
        return "JOBS_S3_BUCKET holds nothing, so it isn't known where the files of jobs are. No file was looked at."
    return None


def _compare_files(settings: Settings) -> dg.AssetCheckResult:
    from saju_ops.expired.job_tables import open_jobs
    from saju_ops.expired.orphan_files import OrphanFiles, orphan_files
    from saju_ops.wiring import tables_of

    files = job_files(settings)
    assert files is not None  # _why_no_files
    with open_jobs(settings.jobs_database_url, settings.jobs_table, settings.jobs_database_timezone) as store:
        found: OrphanFiles = orphan_files(store, tables_of(settings), files, datetime.now(UTC))
    return _files_result(
        passed=not found.orphans and not found.incomplete, why=found.incomplete, orphan_files=found.orphans,
        orphan_bytes=found.bytes, files=found.files, younger_than_a_day=found.young, perhaps_named=found.perhaps,
        names=found.names, folder=found.folder, folders=_listed(found.folders),
    )  # fmt: skip


def _files_result(
    *, passed: bool, why: str, orphan_files: int = 0, orphan_bytes: int = 0, files: int = 0,
    younger_than_a_day: int = 0, perhaps_named: int = 0, names: int = 0, folder: str = "none", folders: str = "none",
) -> dg.AssetCheckResult:  # fmt: skip
    """The same plain numbers every time, zeros included."""
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "orphan_files": orphan_files, "orphan_bytes": orphan_bytes, "folder": folder, "folders": folders,
            "files": files,
            "younger_than_a_day": younger_than_a_day, "perhaps_named": perhaps_named, "names": names,
            "not_looked_at": why or "none",
        },
    )  # fmt: skip


def why_not(settings: Settings | None = None) -> str | None:
    """Why there is nothing to purge here, in a sentence; None where there is a table of jobs."""
    from saju_ops.expired.batches import missing_table

    settings = settings or load_settings()
    return missing_table(settings.jobs_database_url, settings.jobs_table, settings.jobs_database_timezone, "JOBS_TABLE")


class PurgeJobsConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: finds and counts, deletes nothing. false: deletes expired jobs, all that hangs on them and"
        " their files in S3; only the rows of PURGE_KEEP_TABLES are archived.",
    )
    max_jobs: Most | None = Field(
        default=None,
        description=f"Stop after so many jobs, {bounds_of(Most)}; the next run continues. Empty: no limit.",
    )
    max_runtime_seconds: RuntimeSeconds | None = Field(
        default=None,
        description=f"Stop at a batch's end after so long, {bounds_of(RuntimeSeconds)}. Empty: no limit.",
    )
    batch_jobs: BatchRoots = Field(
        default=250,
        description=f"Jobs per transaction, {bounds_of(BatchRoots)}. Larger is faster, and locks more rows while S3"
        " answers.",
    )
    pause_seconds: PauseSeconds = Field(
        default=0.0,
        description=f"Pause after each batch, {bounds_of(PauseSeconds)}. Longer is easier on the service.",
    )


@checked_at_launch(PurgeJobsConfig)
@dg.op(
    name="delete_expired_jobs",
    pool=POOL,
    description="Deletes expired jobs with what hangs on them, as the database's foreign keys say: rows to keep are"
    " archived and compared first, files in S3 go before the rows' deletion is committed.",
)
@without_secrets
def purge_expired_jobs(context: dg.OpExecutionContext, config: PurgeJobsConfig, backup_storage: BackupStorage) -> None:
    with refused_once():
        result = _purge(context, config, backup_storage)
    metadata = jobs_metadata(result)
    observe(context, PAID_JOBS, metadata)
    verb = "would be deleted" if result.dry_run else "deleted"
    log_progress(
        context.log,
        f"{result.deleted:,} of {counted(result.expired, 'expired job')} {verb}, {counted(result.rows.total(), 'row')}"
        f" and {counted(result.files, 'file')}; {counted(result.stayed.total(), 'job')} kept; in {result.seconds:.1f}"
        f" s; stopped: {result.stopped}.",
    )
    for sentence in (*result.doubts, *result.problems):
        context.log.warning(sentence)
    raise_if_cancelled(result.stopped)


def _purge(context: dg.OpExecutionContext, config: PurgeJobsConfig, backup: BackupStorage) -> "JobPurgeResult":
    from saju_ops.expired.job_tables import job_limits, open_jobs
    from saju_ops.expired.jobs import purge_expired_jobs as purge

    settings = load_settings()
    limits = job_limits(
        dry_run=config.dry_run, max_jobs=config.max_jobs, max_runtime_seconds=config.max_runtime_seconds,
        batch_jobs=config.batch_jobs, pause_seconds=config.pause_seconds,
    )  # fmt: skip
    files = job_files(settings)
    url, zone = settings.jobs_database_url, settings.jobs_database_timezone
    with open_jobs(url, settings.jobs_table, zone) as store:
        with cancellable() as should_stop:
            return purge(
                store,
                backup.open(),
                tables_of(settings),
                limits,
                now=datetime.now(UTC),
                zone=settings.timezone,
                files=files,
                compression=settings.archive_compression,
                run_id=context.run.run_id,
                control=RunControl(
                    should_stop, lambda r: context.log.debug(f"{r.deleted:,} of {counted(r.expired, 'job')} so far.")
                ),
            )


def jobs_metadata(result: "JobPurgeResult") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    return {
        **common_metadata(result),
        "jobs_expired": result.expired,
        "jobs_deleted": 0 if result.dry_run else result.deleted,
        "jobs_deletable": result.deleted if result.dry_run else 0,
        "jobs_stayed": result.stayed.total(),
        "rows_archived": result.rows_archived.total(),
        "archives": dg.MetadataValue.md("\n".join(f"- `{a}`" for a in result.archives[:20]) or "none"),
        "s3_files": result.files,
        "s3_files_shared": result.files_shared,
        "s3_bytes": result.bytes,
        "report": dg.MetadataValue.md(expired_jobs_report(result).replace("\n", "\n\n")),
    }


@dg.job(
    name=JOB,
    description="Deletes expired paid jobs with all that hangs on them, and their files in S3. By hand it only counts"
    " (dry_run: true); the hourly schedule deletes. It can be cancelled at any time and launched again.",
)
def purge_expired_jobs_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    purge_expired_jobs.alias(JOB)()


def expired_jobs_schedule(settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="expired_jobs",
        job=purge_expired_jobs_job,
        cron_schedule=settings.expired_jobs_cron,
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes expired paid jobs. Skips where the database has no such table; fails where JOBS_TABLE or"
        " JOBS_DATABASE_URL names one that isn't there, or where nothing says which bucket the files are in.",
    )
    @without_secrets
    def expired_jobs(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        current = load_settings()
        if (why := why_not(current)) is not None:
            named = current.jobs_database_url_secret is not None or current.jobs_table != "jobs"
            return nothing_here(why, named=named)
        job_files(current)
        return one_run_a_tick(context, "expired-jobs", JOB, PurgeJobsConfig(dry_run=False))

    return expired_jobs


def check_job() -> Any:
    keys = [dg.AssetCheckKey(PAID_JOBS, name) for name in (NO_ORPHANS, NO_ORPHAN_FILES)]
    return dg.define_asset_job(
        CHECK_JOB,
        selection=dg.AssetSelection.checks(*keys),
        description="Looks for rows and files of jobs that are gone: the checks no_orphan_rows and no_orphan_files of"
        " paid_jobs. Reads only.",
    )


def check_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="check_paid_jobs_weekly",
        job=job,
        cron_schedule="0 6 * * 0",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every Sunday at 06:00: looks for rows and files of jobs that are gone. Skips where the database"
        " has no such table; where a setting names it, the tick of expired_jobs says so every hour.",
    )
    @without_secrets
    def check_paid_jobs_weekly() -> dg.RunRequest | dg.SkipReason:
        why = why_not()
        return dg.RunRequest() if why is None else dg.SkipReason(why)

    return check_paid_jobs_weekly
