"""The job that deletes old backups, and its schedule."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import Days, bounds_of
from saju_ops.defs.common import _lines
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.defs.upkeep.asset import POOL, STORED
from saju_ops.errors import OperatorError
from saju_ops.reports.backups import prune_report
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted, were

if TYPE_CHECKING:
    from saju_ops.upkeep.prune import PruneResult


class PruneConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: lists what would go and why each stays. false: deletes old backups from every store; nothing"
        " brings them back.",
    )
    retention_days: Days | None = Field(
        default=None,
        description=f"Days that dumps and snapshots are kept, {bounds_of(Days)}. Empty: BACKUP_RETENTION_DAYS. Smaller"
        " deletes more; the newest KEEP_MINIMUM proven ones stay whatever it says.",
    )


@checked_at_launch(PruneConfig)
@dg.op(
    name="prune_stored_backups",
    pool=POOL,
    description="Deletes dumps and snapshots that the retention lets go, each only for the sake of a newer proven one"
    " that was read back in this run.",
)
@without_secrets
def prune_backups(context: dg.OpExecutionContext, config: PruneConfig, backup_storage: BackupStorage) -> None:
    from dataclasses import replace

    from saju_ops.upkeep.prune import prune
    from saju_ops.wiring import policy_of

    settings = load_settings()
    policy = policy_of(settings)
    if config.retention_days is not None:
        policy = replace(policy, days=config.retention_days)
    try:
        result = prune(
            backup_storage.open(), policy, now=datetime.now(UTC), zone=settings.timezone, dry_run=config.dry_run,
            say=lambda text: log_progress(context.log, text),
        )  # fmt: skip
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    metadata = prune_metadata(result)
    context.add_output_metadata(metadata)
    context.log_event(dg.AssetObservation(STORED, metadata=metadata))
    if result.problems:
        gone = len(result.deleted)
        raise dg.Failure(
            f"{counted(len(result.problems), 'problem')}; {counted(gone, 'backup')} {were(gone)} deleted, all"
            f" others are as they were. First: {result.problems[0]}",
            metadata=metadata,
            allow_retries=False,
        )


def prune_metadata(result: "PruneResult") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    going = result.going
    return {
        "dry_run": result.dry_run,
        "backups_deleted": len(result.deleted),
        "backups_to_go": len(going),
        "backups_kept": len(result.staying),
        "strays": len(result.strays),
        "strangers": len(result.strangers),
        "problems": len(result.problems),
        "freed_bytes": result.freed_bytes,
        "bytes_to_go": sum(v.bytes for v in going),
        "archives_to_go": sum(v.to_delete for v in result.archives),
        "what_remains": result.remains or "nothing",
        "goes": dg.MetadataValue.md(_lines([f"`{v.file}`: {v.why}" for v in going])),
        "stays": dg.MetadataValue.md(_lines([f"`{v.file}`: {v.why}" for v in result.staying])),
        "told": dg.MetadataValue.md(_lines([*result.problems, *(f"not ours: `{n}`" for n in result.strangers)])),
        "report": dg.MetadataValue.md(prune_report(result, datetime.now(UTC)).replace("\n", "\n\n")),
    }


@dg.job(
    name="prune_backups",
    description="Deletes old dumps and snapshots by the retention policy. By hand it only lists (dry_run: true); the"
    " daily schedule deletes. It can be killed at any time and launched again.",
)
def prune_backups_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    prune_backups.alias("prune_backups")()


def prune_schedule(settings: Settings) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="prune_backups_daily",
        job=prune_backups_job,
        cron_schedule="30 4 * * *",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        run_config=dg.RunConfig(ops={"prune_backups": PruneConfig(dry_run=False)}),
        description="Every day at 04:30: deletes dumps and snapshots that the retention lets go.",
    )
