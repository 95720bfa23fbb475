"""Retention and verification of backups as Dagster jobs: configuration in, metadata out.

What is stored is one source asset, `stored_backups`, which nothing materializes. Its checks are the verification: a
check on a backup's own asset would run, and read everything, whenever that is materialized.

Dagster reads an op's annotations when it is defined, so this module can't postpone their evaluation.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.bounds import ShareDays, bounds_of
from saju_ops.defs.chroma.assets import SNAPSHOT
from saju_ops.defs.common import _lines
from saju_ops.defs.dumps.assets import DUMP
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.defs.upkeep.asset import CHECK, OPENS, STORED
from saju_ops.errors import OperatorError
from saju_ops.reports.backups import verify_report
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.wiring import verify_everything
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.upkeep.verify import VerifyResult


# --- retention ---------------------------------------------------------------------------------------------------


# --- verification ------------------------------------------------------------------------------------------------


class VerifyConfig(dg.Config):
    in_days: ShareDays = Field(
        default=1,
        description=f"1: reads everything. N, {bounds_of(ShareDays)}: a share a day, so that N daily runs read"
        " everything once.",
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


@checked_at_launch(VerifyConfig)
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
            lambda text: log_progress(context.log, text),
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
    """Damage, and files that need another password, as two checks. The second may last as long as the archives made
    before a change of the password, which is for ever, and must not hide damage that comes meanwhile.

    A store without any backup doesn't pass, since a mistyped BACKUP_URI and an unmounted disk look the same. It is
    WARN, and the run continues, as long as Dagster knows of no backup: that is normal in an installation's first days,
    and the first dump, at 03:00, ends it. It is ERROR if backups were made: then they are missing.

    Files that need another password are WARN, and the run continues: their bytes were just proven, and they are to be
    expected after a change of the password. They don't pass either: their content could not be looked at, and only the
    operator knows whether the former password was kept.
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
            load_settings(), backup_storage.open(), 1, True, lambda text: log_progress(context.log, text)
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
