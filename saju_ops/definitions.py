"""Everything wired together, in one place. Loads without a database; a wrong setting is refused here."""

from __future__ import annotations

import warnings
from datetime import timedelta

import dagster as dg

from saju_ops.defs import stale as stale_jobs
from saju_ops.defs.alerts import digest as weekly_digest
from saju_ops.defs.alerts.backlog import purge_backlog_sensor
from saju_ops.defs.alerts.sensor import alerts_sensor
from saju_ops.defs.chroma import assets as chroma
from saju_ops.defs.chroma import jobs as chroma_jobs
from saju_ops.defs.conversation_logs import asset as conversation_logs
from saju_ops.defs.conversation_logs import checks as log_checks
from saju_ops.defs.conversation_logs.asset import archive_job
from saju_ops.defs.conversation_logs.purge import purge_conversation_logs_job
from saju_ops.defs.conversation_logs.purge_after_archive import purge_after_archive
from saju_ops.defs.conversation_logs.restore import restore_conversation_logs_job
from saju_ops.defs.conversation_logs.schedule import cleanup_schedule
from saju_ops.defs.database_reports import assets as database_reports
from saju_ops.defs.dumps import assets as database_dumps
from saju_ops.defs.dumps import jobs as dump_jobs
from saju_ops.defs.expired import jobs as expired_jobs
from saju_ops.defs.expired import sessions as expired_sessions
from saju_ops.defs.resources import BackupStorage, LogDatabase
from saju_ops.defs.schema import birth_data
from saju_ops.defs.schema import migrate as schema
from saju_ops.defs.schema import partitions as log_partitions
from saju_ops.defs.upkeep import asset as stored_backups
from saju_ops.defs.upkeep import prune, verify
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings

# Dagster marks as beta some parameters that it passes to itself; nobody here can act on that.
warnings.filterwarnings("ignore", category=dg.BetaWarning, module=r"dagster\..*")

OWNER = "team:operations"
# What the dumps hold, as far as it is an asset.
LIVE = (conversation_logs.LOGS, expired_sessions.SESSIONS, expired_jobs.PAID_JOBS, stale_jobs.ANALYSIS_JOBS)
# The clean-up is weekly: a day of grace, then the badge turns.
ARCHIVE_FRESHNESS = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(days=8), warn_window=timedelta(days=7, hours=6)
)
# Dumps, snapshots and reports are daily.
BACKUP_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26), warn_window=timedelta(hours=25))


def _policies(settings: Settings) -> dict[dg.AssetKey, dict[str, object]]:
    """Group, kinds and freshness of every asset, so that none can be forgotten."""
    engine = settings.database_url.get_backend_name()
    kind = {"postgresql": "postgres"}.get(engine, engine)
    paid = settings.jobs_database_url.get_backend_name()
    analysis = settings.analysis_database_url.get_backend_name()
    return {
        database_dumps.DUMP: {
            "group_name": "backups",
            "kinds": {"sql", kind},
            "freshness_policy": BACKUP_FRESHNESS,
        },
        stored_backups.STORED: {"group_name": "backups", "kinds": {"storage"}},
        chroma.COLLECTIONS: {"group_name": "chatbot", "kinds": {"chroma"}},
        chroma.SNAPSHOT: {
            "group_name": "backups",
            "kinds": {"chroma", "tar"},
            "freshness_policy": BACKUP_FRESHNESS,
        },
        chroma.USAGE: {"group_name": "reports", "kinds": {"chroma"}},
        **{
            key: {"group_name": "reports", "kinds": {kind, "csv"}, "freshness_policy": BACKUP_FRESHNESS}
            for key in database_reports.REPORTS
        },
        # Made when a developer asks for one, so it has no freshness.
        database_dumps.MASKED: {"group_name": "backups", "kinds": {"sql", kind}},
        expired_jobs.PAID_JOBS: {
            "group_name": "paid_reports",
            "kinds": {{"postgresql": "postgres"}.get(paid, paid), "table"},
        },
        expired_sessions.SESSIONS: {"group_name": "chatbot", "kinds": {kind, "table"}},
        conversation_logs.LOGS: {"group_name": "chatbot", "kinds": {kind, "table"}},
        stale_jobs.ANALYSIS_JOBS: {
            "group_name": "speech_analysis",
            "kinds": {{"postgresql": "postgres"}.get(analysis, analysis), "table"},
        },
        conversation_logs.ARCHIVE: {
            "group_name": "archives",
            "kinds": {"csv", kind},
            "freshness_policy": ARCHIVE_FRESHNESS,
        },
    }


@dg.definitions
def defs() -> dg.Definitions:
    """Longer than a screen, being the one list of all that is loaded."""
    settings = load_settings()
    policies = _policies(settings)

    def with_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(owners=[OWNER], **policies[spec.key])  # type: ignore[arg-type]

    archive = archive_job()
    dumps = dump_jobs.dump_job()
    snapshots = chroma_jobs.snapshot_job()
    reports = database_reports.reports_job()
    paid_checks = expired_jobs.check_job()
    birth_checks = birth_data.check_job()
    return dg.Definitions(
        assets=dg.map_asset_specs(
            with_policies,
            [
                conversation_logs.source_asset(settings),
                conversation_logs.archive_asset(settings),
                stale_jobs.source_asset(settings),
                expired_jobs.source_asset(settings),
                expired_sessions.source_asset(settings),
                database_dumps.dump_asset(LIVE),
                database_dumps.masked_dump_asset(LIVE),
                chroma.source_asset(settings),
                stored_backups.source_asset(settings),
                chroma.snapshot_asset(),
                chroma.usage_asset(),
                *database_reports.report_assets(LIVE),
            ],
        ),
        asset_checks=[
            *log_checks.checks(settings),
            *log_partitions.checks(settings),
            *stale_jobs.checks(),
            verify.verify_check(),
            *expired_jobs.checks(),
            *schema.checks(),
            *birth_data.checks(),
        ],
        jobs=[
            archive,
            purge_conversation_logs_job,
            log_partitions.rotate_log_partitions_job,
            restore_conversation_logs_job,
            stale_jobs.reconcile_stale_jobs_job,
            weekly_digest.weekly_digest_job,
            expired_jobs.purge_expired_jobs_job,
            paid_checks,
            expired_sessions.purge_expired_sessions_job,
            dumps,
            dump_jobs.restore_database_dump_job,
            snapshots,
            reports,
            chroma_jobs.restore_chroma_snapshot_job,
            prune.prune_backups_job,
            verify.verify_backups_job,
            schema.migrate_schema_job,
            birth_data.encrypt_birth_data_job,
            birth_checks,
        ],
        schedules=[
            cleanup_schedule(settings, archive),
            log_partitions.rotation_schedule(settings),
            stale_jobs.stale_jobs_schedule(settings),
            weekly_digest.weekly_digest_schedule(settings),
            expired_jobs.expired_jobs_schedule(settings),
            expired_jobs.check_schedule(settings, paid_checks),
            expired_sessions.expired_sessions_schedule(settings),
            birth_data.encrypt_birth_data_schedule(settings),
            birth_data.check_schedule(settings, birth_checks),
            dump_jobs.dump_schedule(settings, dumps),
            chroma_jobs.snapshot_schedule(settings, snapshots),
            database_reports.reports_schedule(settings, reports),
            prune.prune_schedule(settings),
            verify.verify_schedule(settings),
        ],
        sensors=[
            alerts_sensor(settings),
            purge_backlog_sensor(settings),
            purge_after_archive(archive.name, purge_conversation_logs_job),
        ],
        resources={"log_database": LogDatabase(), "backup_storage": BackupStorage()},
        # One process per run: the work is one step, and a process per step would import everything again.
        executor=dg.in_process_executor,
    )
