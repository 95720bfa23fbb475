"""Retention and verification of backups as Dagster jobs: configuration in, metadata out.

What is stored is one source asset, `stored_backups`, which nothing materializes. Its checks are the verification: a
check on a backup's own asset would run, and read everything, whenever that is materialized.

Dagster reads an op's annotations when it is defined, so this module can't postpone their evaluation.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.defs.chroma.assets import SNAPSHOT
from saju_ops.defs.conversation_logs.asset import ARCHIVE
from saju_ops.defs.dumps.assets import DUMP, MASKED
from saju_ops.defs.progress import tell
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.reports.backups import prune_report, verify_report
from saju_ops.settings.settings import Settings, load_settings
from saju_ops.words import counted, were

if TYPE_CHECKING:
    from saju_ops.storage.open import Storage
    from saju_ops.upkeep.prune import PruneResult
    from saju_ops.upkeep.verify import VerifyResult

STORED = dg.AssetKey("stored_backups")
CHECK = "every_backup_reads_back"
OPENS = "archive_password_opens_every_backup"
POOL = "backup_retention"
SHOWN = 50


def source_asset(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        STORED,
        deps=[ARCHIVE, DUMP, MASKED, SNAPSHOT],
        description="Everything that lies under BACKUP_URI: archives, dumps, snapshots, in every store. The job"
        " `verify_backups` reads it back weekly, and `prune_backups` removes daily what the retention lets go.\n\n"
        "**Restore** with `saju-ops restore-logs`, `restore-dump` and `restore-chroma`; see the asset of each.",
    )


# --- retention ---------------------------------------------------------------------------------------------------


class PruneConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: lists what would go and why each stays. false: deletes old backups from every store; nothing"
        " brings them back.",
    )
    retention_days: int | None = Field(
        default=None,
        description="Days that dumps and snapshots are kept, 0 to 36500. Empty: BACKUP_RETENTION_DAYS. Smaller deletes"
        " more; the newest KEEP_MINIMUM proven ones stay whatever it says.",
    )


@dg.op(
    name="prune_stored_backups",
    pool=POOL,
    description="Deletes dumps and snapshots that the retention lets go, each only for the sake of a newer proven one"
    " that was read back in this run.",
)
@without_secrets
def prune_backups(context: dg.OpExecutionContext, config: PruneConfig, backup_storage: BackupStorage) -> None:
    from dataclasses import replace

    from saju_ops.upkeep.prune import policy_of, prune

    settings = load_settings()
    policy = policy_of(settings)
    if config.retention_days is not None:
        policy = replace(policy, days=config.retention_days)
    try:
        result = prune(
            backup_storage.open(), policy, now=datetime.now(UTC), zone=settings.timezone, dry_run=config.dry_run,
            say=lambda text: tell(context.log, text),
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
        "archives_to_go": sum(v.goes for v in result.archives),
        "what_remains": result.remains or "nothing",
        "goes": dg.MetadataValue.md(_lines([f"`{v.file}`: {v.why}" for v in going])),
        "stays": dg.MetadataValue.md(_lines([f"`{v.file}`: {v.why}" for v in result.staying])),
        "told": dg.MetadataValue.md(_lines([*result.problems, *(f"not ours: `{n}`" for n in result.strangers)])),
        "report": dg.MetadataValue.md(prune_report(result, datetime.now(UTC)).replace("\n", "\n\n")),
    }


def _lines(items: list[str]) -> str:
    shown = [f"- {item}" for item in items[:SHOWN]]
    return "\n".join([*shown, f"- … and {len(items) - SHOWN} more"] if len(items) > SHOWN else shown) or "none"


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


# --- verification ------------------------------------------------------------------------------------------------


class VerifyConfig(dg.Config):
    in_days: int = Field(
        default=1,
        description="1: reads everything. N, up to 366: a share a day, so that N daily runs read everything once.",
    )
    drills: bool = Field(
        default=True,
        description="true: restores a random archive day, the newest dumps and the newest snapshot in scratch places.",
    )
    accept_unsealed: bool = Field(
        default=False,
        description="false: a backup that no key of this installation sealed fails the verification, and is not"
        " restored as a drill. true: it counts like any other, though whoever can write into the store may have made"
        " it.",
    )


def verify_everything(
    settings: Settings, storage: "Storage", in_days: int, drills: bool, say: Callable[[str], None]
) -> "VerifyResult":
    from saju_ops.upkeep.drills import standard_drills
    from saju_ops.upkeep.verify import verify

    now = datetime.now(UTC)
    wanted = standard_drills(
        storage, now=now, zone=settings.timezone, databases=settings.dumped_urls,
        drill_servers=settings.restore_drill_urls, memory_mb=settings.chroma_proof_memory_mb,
    )  # fmt: skip
    return verify(
        storage, now=now, zone=settings.timezone, in_days=in_days, drills=wanted if drills else [], say=say
    )


@dg.op(
    name="verify_stored_backups",
    description="Reads stored backups back, compares them with their manifests, and restores some as a drill. Changes"
    " nothing.",
)
@without_secrets
def verify_backups(context: dg.OpExecutionContext, config: VerifyConfig, backup_storage: BackupStorage) -> None:
    settings = load_settings()
    try:
        result = verify_everything(
            settings, backup_storage.open(accept_unsealed=config.accept_unsealed), config.in_days, config.drills,
            lambda text: tell(context.log, text),
        )  # fmt: skip
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=True) from error
    metadata = verify_metadata(result)
    context.add_output_metadata(metadata)
    # Runless: a job that isn't planned to evaluate the checks can't store one of its run.
    for check in check_results(result, context.instance):
        evaluation = dg.AssetCheckEvaluation(
            asset_key=STORED, check_name=str(check.check_name), passed=check.passed, severity=check.severity,
            metadata={**check.metadata, "run_id": context.run_id},
        )  # fmt: skip
        context.instance.report_runless_asset_event(evaluation)
    for warning in result.warnings:
        context.log.warning(warning)
    if result.empty and _made_before(context.instance):
        raise dg.Failure(
            f"{result.warnings[0]} Backups were made before: they are gone, their disk isn't mounted, or it names"
            " another place.",
            metadata=metadata, allow_retries=False,
        )  # fmt: skip
    if not result.passed:
        wrong = [*result.rot, *result.missing, *result.unsealed, *(f"{d.name}: {d.text}" for d in result.failed_drills)]
        raise dg.Failure(
            f"Not all backups can be relied on: {len(result.rot)} damaged, {len(result.missing)} missing,"
            f" {len(result.unsealed)} not sealed by a key of this installation,"
            f" {counted(len(result.failed_drills), 'restore drill')} failed. First: {wrong[0]}",
            metadata=metadata, allow_retries=False,
        )  # fmt: skip


def check_results(result: "VerifyResult", instance: dg.DagsterInstance) -> list[dg.AssetCheckResult]:
    """Damage, and what needs another password, as two checks: the second may last as long as the archives of before a
    change of the password, which is for ever, and must not hide damage that comes meanwhile.

    A store without any backup doesn't pass, since a mistyped BACKUP_URI and a disk that isn't mounted look like that.
    WARN, and the run goes on, as long as Dagster knows of no backup: of an installation's first days it is true, and
    the first dump, at 03:00, mends it. ERROR where backups were made: then they are gone from where they should be.

    Files of another password are a WARN, and the run goes on: their bytes were just proven, and after a change of the
    password it is to be expected. They don't pass either: what is in them could not be looked at, and nobody but the
    operator knows whether the old password was kept.
    """
    new = result.passed and result.empty and not _made_before(instance)
    return [
        dg.AssetCheckResult(
            asset_key=STORED, check_name=CHECK, passed=result.passed and not result.empty,
            severity=dg.AssetCheckSeverity.WARN if new else dg.AssetCheckSeverity.ERROR,
            metadata=verify_metadata(result),
        ),
        dg.AssetCheckResult(
            asset_key=STORED, check_name=OPENS, passed=not result.other_password,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "other_password": len(result.other_password),
                "files_checked": result.files_checked,
                "which": dg.MetadataValue.md(_lines([f"`{name}`" for name in result.other_password])),
            },
        ),
    ]  # fmt: skip


def _made_before(instance: dg.DagsterInstance) -> bool:
    """Whether Dagster's history has a stored backup. Not ARCHIVE: of a day without rows nothing need be stored."""
    return any(instance.get_latest_materialization_event(key) for key in (DUMP, SNAPSHOT))


def verify_metadata(result: "VerifyResult") -> dict[str, Any]:
    return {
        "files": result.files,
        "files_checked": result.files_checked,
        "bytes_read": result.bytes_read,
        "rotten": len(result.rot),
        "missing": len(result.missing),
        "other_password": len(result.other_password),
        "unsealed": len(result.unsealed),
        "strangers": len(result.strangers),
        "warnings": len(result.warnings),
        "drills_passed": sum(d.passed for d in result.drills),
        "drills_failed": len(result.failed_drills),
        "drills_not_tried": sum(not d.tried for d in result.drills),
        "in_days": result.in_days,
        "seconds": result.seconds,
        "summary": dg.MetadataValue.md(_lines(result.sentences())),
        "report": dg.MetadataValue.md(verify_report(result, datetime.now(UTC)).replace("\n", "\n\n")),
    }


@dg.job(
    name="verify_backups",
    description="Reads every stored backup back and restores some as a drill. Changes nothing. Its results are"
    " the checks every_backup_reads_back and archive_password_opens_every_backup of stored_backups.",
)
def verify_backups_job() -> None:
    verify_backups.alias("verify_backups")()


def verify_check() -> dg.AssetChecksDefinition:
    """The same as checks, so that the UI shows their results and can run them."""
    reads_back = dg.AssetCheckSpec(
        CHECK,
        asset=STORED,
        description="Every stored file, read back whole, is what its manifest says, and one random archive day, the"
        " newest dumps and the newest snapshot can be restored. Severity ERROR: a backup that can't be read is none."
        " WARN where nothing is stored and no backup was made yet.",
    )
    opens = dg.AssetCheckSpec(
        OPENS,
        asset=STORED,
        description="No stored file needs another password than ARCHIVE_PASSWORD holds now. Severity WARN: such files"
        " are intact, and a restore of one needs the password that held when it was written; keep that. It lasts as"
        " long as there are such files: dumps and snapshots go by the retention, archives stay.",
    )

    @dg.multi_asset_check(name="verify_stored_backups_now", specs=[reads_back, opens])
    @without_secrets
    def verified(
        context: dg.AssetCheckExecutionContext, backup_storage: BackupStorage
    ) -> Iterator[dg.AssetCheckResult]:
        result = verify_everything(
            load_settings(), backup_storage.open(), 1, True, lambda text: tell(context.log, text)
        )
        yield from check_results(result, context.instance)

    return verified


def verify_schedule(settings: Settings) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="verify_backups_weekly",
        job=verify_backups_job,
        cron_schedule="0 5 * * 0",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every Sunday at 05:00: reads every stored backup back and restores some as a drill.",
    )
