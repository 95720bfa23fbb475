"""Snapshot and restore of the vector store as Dagster jobs: configuration in, metadata out.

Dagster reads an op's annotations when it is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import Port, bounds_of
from saju_ops.defs.chroma.assets import POOL, SNAPSHOT, USAGE
from saju_ops.defs.launchpad import TimeText, checked_at_launch
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.reports.chroma import restore_report
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings

if TYPE_CHECKING:
    from saju_ops.chroma.restore import ChromaRestore


def snapshot_job() -> Any:
    return dg.define_asset_job(
        "snapshot_chroma",
        selection=dg.AssetSelection.assets(SNAPSHOT, USAGE),
        description="Takes a proven snapshot of the vector store and measures it. Changes nothing in it.",
    )


def snapshot_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="chroma_snapshot_daily",
        job=job,
        cron_schedule="30 3 * * *",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every day at 03:30: a snapshot of the vector store, and its size.",
    )


class RestoreChromaConfig(dg.Config):
    at: TimeText | None = Field(
        default="",
        description="The newest snapshot taken at this time or before, as YYYY-MM-DD or YYYY-MM-DD HH:MM in TIMEZONE."
        " Empty: the newest of all.",
    )
    into_path: str | None = Field(
        default="",
        description="A folder. It must not be in use, and must be empty or not exist unless `replace` names it. Empty:"
        " where the live data is (CHROMA_HOST, else CHROMA_DB_PATH).",
    )
    host: str | None = Field(default="", description="A Chroma server instead of a folder.")
    port: Port = Field(default=8000, description=f"That server's port, {bounds_of(Port)}.")
    replace: list[str] = Field(
        default=[],
        description="What may be replaced, by name: the folder's own name, or the server's collections. It is then"
        " renamed, not deleted. Empty: nothing.",
    )
    dry_run: bool = Field(
        default=True, description="true: proves the snapshot and says what it would do. false: puts it there."
    )


@checked_at_launch(RestoreChromaConfig)
@dg.op(
    name="restore_snapshot_of_chroma",
    pool=POOL,
    description="Puts a snapshot of the vector store into a folder that nobody uses, or into a Chroma server. It is"
    " read back, opened and compared before anything is touched; nothing is deleted.",
)
@without_secrets
def restore_chroma_snapshot(
    context: dg.OpExecutionContext, config: RestoreChromaConfig, backup_storage: BackupStorage
) -> None:
    from saju_ops.chroma.restore import restore_snapshot
    from saju_ops.wiring import restore_target, restore_time

    settings = load_settings()
    try:
        plan = restore_snapshot(
            backup_storage.open(reading=True),
            restore_target(settings, config.into_path, config.host, config.port),
            at=restore_time(config.at, settings),
            replace=config.replace,
            dry_run=config.dry_run,
            zone=settings.timezone,
            memory_mb=settings.chroma_proof_memory_mb,
            announce=lambda plan: log_progress(context.log, " ".join(plan.sentences())),
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.add_output_metadata(restore_metadata(plan))


def restore_metadata(plan: "ChromaRestore") -> dict[str, Any]:
    return {
        "dry_run": plan.dry_run,
        "collections": len(plan.collections),
        "records": plan.records,
        "records_written": 0 if plan.dry_run else plan.records,
        "collections_renamed": len(plan.renamed),
        "moved_aside": plan.moved_aside or "nothing",
        "snapshot": plan.location,
        "snapshot_taken_at": plan.manifest.taken_at,
        "target": plan.target,
        "seconds": plan.seconds,
        "summary": dg.MetadataValue.md("\n".join(f"- {line}" for line in plan.sentences())),
        "report": dg.MetadataValue.md(restore_report(plan, datetime.now(UTC)).replace("\n", "\n\n")),
    }


@dg.job(
    name="restore_chroma_snapshot",
    description="Puts a snapshot of the vector store back, into a folder or a server. By hand it only says what it"
    " would do (dry_run: true).",
)
def restore_chroma_snapshot_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    restore_chroma_snapshot.alias("restore_chroma_snapshot")()
