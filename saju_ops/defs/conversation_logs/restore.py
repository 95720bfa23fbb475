"""The job that puts archived days back."""

from typing import Any

import dagster as dg
from pydantic import Field

from saju_ops.defs.common import _day
from saju_ops.defs.launchpad import DayText, checked_at_launch
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError, Refused
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.words import counted, were


class RestoreConfig(dg.Config):
    from_day: DayText = Field(description="First archived day to put back, YYYY-MM-DD.")
    to_day: DayText = Field(description="Last archived day to put back, YYYY-MM-DD.")
    into_table: str | None = Field(
        default="",
        description="Another table in the same database; made, without foreign keys, if it isn't there. Empty: the log"
        " table itself, from which the next purge removes the rows again.",
    )
    dry_run: bool = Field(default=True, description="true: reads, compares and says what it would do. false: writes.")


@checked_at_launch(RestoreConfig)
@dg.op(
    name="restore_archived_rows",
    pool="conversation_log_purge",
    description="Puts archived days back. Rows that are there and equal are skipped; rows that differ stop it before"
    " the first write.",
)
@without_secrets
def restore_conversation_logs(
    context: dg.OpExecutionContext, config: RestoreConfig, backup_storage: BackupStorage
) -> None:
    from saju_ops.archive.restore import restore

    settings = load_settings()
    try:
        first, last = _day(config.from_day, "from_day", settings), _day(config.to_day, "to_day", settings)
        if first is None or last is None:
            raise Refused("from_day and to_day must both be given. Nothing was written.")
        plan = restore(
            backup_storage.open(reading=True),
            settings.database_url,
            first,
            last,
            zone_of_database=settings.database_timezone,
            table=(config.into_table or "").strip() or None,
            source_table=settings.conversation_log_table,
            dry_run=config.dry_run,
            announce=lambda plan: log_progress(context.log, " ".join(plan.sentences())),
            control=RunControl(
                progress=lambda plan: log_progress(
                    context.log, f"{plan.written:,} of {counted(plan.to_write, 'row')} written."
                )
            ),
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    metadata: dict[str, Any] = {
        "dry_run": plan.dry_run,
        "days": len(plan.days),
        "days_not_archived": len(plan.not_archived),
        "days_not_restored": len(plan.refused) + len(plan.undescribed),
        "files": plan.files,
        "rows_archived": plan.rows_archived,
        "rows_to_write": plan.to_write,
        "rows_written": plan.written,
        "rows_already_there": plan.already_there,
        "rows_superseded": plan.superseded,
        "seconds": round(plan.seconds, 3),
        "rows_per_second": round(plan.written / plan.seconds, 1) if plan.seconds else 0.0,
        "target": plan.target,
        "summary": dg.MetadataValue.md("\n".join(f"- {line}" for line in plan.sentences())),
    }
    context.add_output_metadata(metadata)
    for remark in plan.remarks:
        context.log.warning(remark)
    if plan.incomplete and not (plan.undescribed or plan.refused):
        # Nobody need have written on those days: the run has done what there was to do.
        context.log.warning(plan.incomplete)
    elif plan.incomplete:
        written = f"{counted(plan.written, 'row')} {were(plan.written)} written and proven"
        done = "Nothing was written (dry_run)" if plan.dry_run else written
        raise dg.Failure(f"{done}. {plan.incomplete}", metadata=metadata, allow_retries=False)


@dg.job(
    name="restore_conversation_logs",
    description="Puts archived days of the conversation log back into the database. By hand it only says what it"
    " would do.",
)
def restore_conversation_logs_job() -> None:
    restore_conversation_logs.alias("restore_conversation_logs")()
