"""Dump and restore of the databases as Dagster jobs: configuration in, metadata out.

Dagster reads an op's annotations when it is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.defs.dumps.assets import DUMP, POOL
from saju_ops.defs.launchpad import TimeText, checked_at_launch
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.reports.dumps import restore_report
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings

if TYPE_CHECKING:
    from saju_ops.dumps.restore import RestoreRequest, RestoreResult


def dump_job() -> Any:
    return dg.define_asset_job(
        "dump_databases",
        selection=dg.AssetSelection.assets(DUMP),
        description="Takes a proven dump of every configured database. Changes nothing in them.",
    )


def dump_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="database_dump_daily",
        job=job,
        cron_schedule="0 3 * * *",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every day at 03:00: a dump of every configured database, restored for its proof.",
    )


class RestoreDumpConfig(dg.Config):
    at: TimeText | None = Field(
        default="",
        description="The newest proven dump taken at this time or before, as YYYY-MM-DD or YYYY-MM-DD HH:MM in"
        " TIMEZONE. Empty: the newest of all.",
    )
    into_setting: str | None = Field(
        default="",
        description="Where to restore it: the name of an environment variable that holds a database's address (an"
        " address here would be stored with the run, password and all). Empty: the database from which the dump"
        " was taken.",
    )
    database: str | None = Field(
        default="", description="Whose dump, by the database's name. Empty: the one that DATABASE_URL names."
    )
    replace: str | None = Field(
        default="",
        description="The target database's name, typed: then everything in it is dropped first. Empty: only into an"
        " empty or missing database.",
    )
    masked: bool = Field(default=False, description="true: a masked dump, for developers, instead of the real one.")
    unproven: bool = Field(
        default=False, description="true: also a dump whose restore was never tried. It may not be whole."
    )
    without_trial: bool = Field(
        default=False,
        description="true: with `replace`, what is there is dropped without having loaded the dump beside it first, for"
        " a user that may make no database there. It is then not known whether the dump loads.",
    )
    dry_run: bool = Field(default=True, description="true: says what it would do. false: does it.")


def _request(config: RestoreDumpConfig, settings: Settings) -> "RestoreRequest":
    from saju_ops.dumps.restore import RestoreRequest
    from saju_ops.times import instant_of
    from saju_ops.wiring import address_in_setting

    into = None
    if config.into_setting:
        into = address_in_setting(config.into_setting, "into_setting")
    return RestoreRequest(
        into=into,
        at=instant_of(config.at, settings.timezone, "at"),
        database=config.database or None,
        replace=config.replace or None,
        dry_run=config.dry_run,
        masked=config.masked,
        unproven=config.unproven,
        without_trial=config.without_trial,
        zone=settings.timezone,
    )


@checked_at_launch(RestoreDumpConfig)
@dg.op(
    name="restore_dump_of_database",
    pool=POOL,
    description="Puts a dump back into a database. It is read to its end and compared with its manifest before anything"
    " is touched; a target that is not empty is refused unless `replace` names it.",
)
@without_secrets
def restore_database_dump(
    context: dg.OpExecutionContext, config: RestoreDumpConfig, backup_storage: BackupStorage
) -> None:
    from saju_ops.dumps.restore import restore_dump

    settings = load_settings()
    try:
        result = restore_dump(
            backup_storage.open(reading=True),
            _request(config, settings),
            default=settings.database_url,
            configured=settings.dumped_urls,
            announce=lambda result: log_progress(context.log, " ".join(result.sentences())),
            say=lambda text: log_progress(context.log, text),
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.add_output_metadata(restore_metadata(result))


def restore_metadata(result: "RestoreResult") -> dict[str, Any]:
    return {
        "dry_run": result.dry_run,
        "tables": result.tables,
        "rows": result.rows,
        "seconds": round(result.seconds, 3),
        "bytes": result.manifest.stored_bytes,
        "dump": result.manifest.file,
        "dump_taken_at": result.manifest.taken_at,
        "target": result.target,
        "target_objects_before": max(0, result.target_objects),
        "left_out": "; ".join(result.left_out) or "nothing",
        "summary": dg.MetadataValue.md("\n".join(f"- {line}" for line in result.sentences())),
        "report": dg.MetadataValue.md(restore_report(result, datetime.now(UTC)).replace("\n", "\n\n")),
    }


@dg.job(
    name="restore_database_dump",
    description="Puts a database dump back. By hand it only says what it would do (dry_run: true).",
)
def restore_database_dump_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    restore_database_dump.alias("restore_database_dump")()
