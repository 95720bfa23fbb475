"""The schema of the chatbot in Dagster: the job that migrates it, and the check that it is what the migrations make.

Dagster reads annotations when an op is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from saju_ops.defs.conversation_logs.asset import LOGS
from saju_ops.defs.expired.sessions import SESSIONS
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError, Refused
from saju_ops.reports.schema import migration_report
from saju_ops.settings.load import load_settings
from saju_ops.wiring import installation_of
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.schema.migrate.commands import Result
    from saju_ops.schema.migrate.compare import Comparison

JOB = "migrate_schema"
POOL = "schema"
CHECK = "schema_matches"


class MigrateConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: prints the SQL and the hindrances. false: applies it to the live database.",
    )
    target: str | None = Field(
        default="",
        description="Empty: the newest migration of the main line. A migration's name, LABEL@head for an opt-in one,"
        " or, to take back what is above: -1, base, LABEL@base, or an older migration's name.",
    )
    allow_blocking: bool = Field(
        default=False,
        description="false: refuses what makes writers of a large table wait. true: lets them wait.",
    )
    drop_data: list[str] = Field(
        default=[],
        description="Tables that may be dropped with all their rows on the way down. Empty: a table that has rows is"
        " never dropped.",
    )


@dg.op(
    name="apply_migrations",
    pool=POOL,
    description="Applies the migrations up to the target, or takes them back, step by step; each step asks the"
    " catalogue whether it is done. What drops or rewrites rows asks for a proven dump that is younger than a day.",
)
@without_secrets
def migrate_schema(context: dg.OpExecutionContext, config: MigrateConfig, backup_storage: BackupStorage) -> None:
    try:
        result = _migrate(context, config, backup_storage)
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.add_output_metadata(migration_metadata(result))
    verb = "applied" if result.plan.up else "taken back"
    log_progress(
        context.log,
        f"{counted(len(result.changed), 'migration')} {verb}: {', '.join(result.changed) or 'none'};"
        f" {'nothing was touched (dry_run)' if result.dry_run else f'in {result.seconds:.1f} s'}.",
    )
    for sentence in (*result.plan.notes, *result.plan.hindrances):
        context.log.warning(sentence)


def _migrate(context: dg.OpExecutionContext, config: MigrateConfig, backup: BackupStorage) -> "Result":
    from saju_ops.schema.migrate import commands
    from saju_ops.schema.migrate.run import Options

    settings = load_settings()
    url, installation = settings.database_url, installation_of(settings)
    options = Options(config.allow_blocking, frozenset(config.drop_data), lambda: backup.open(reading=True))

    def say(text: str) -> None:
        log_progress(context.log, text)

    target = (config.target or "").strip() or None
    if target and commands.leads_down(url, target):
        return commands.down(url, installation, target, options, dry_run=config.dry_run, say=say)
    return commands.up(url, installation, options, target=target, dry_run=config.dry_run, say=say)


def migration_metadata(result: "Result") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    steps = [step for migration in result.plan.migrations for step in migration.steps]
    found: dict[str, Any] = {
        "dry_run": result.dry_run,
        "direction": "up" if result.plan.up else "down",
        "target": result.plan.target,
        "applied_before": ", ".join(result.plan.applied) or "none",
        "migrations": len(result.plan.migrations),
        "migrations_changed": len(result.changed),
        "changed": ", ".join(result.changed) or "none",
        "steps": len(steps),
        "steps_done_before": sum(step.done for step in steps),
        "dump": result.dump or "not needed",
        "hindrances": dg.MetadataValue.md("\n".join(f"- {h}" for h in result.plan.hindrances) or "nothing"),
        "notes": dg.MetadataValue.md("\n".join(f"- {n}" for n in (*result.plan.notes, *result.mended)) or "none"),
        "sql": dg.MetadataValue.md(f"```sql\n{result.plan.sql()}\n```"),
        "seconds": round(result.seconds, 3),
    }
    if result.changed:
        report = migration_report(result, datetime.now(UTC))
        found["report"] = dg.MetadataValue.md(report.replace("\n", "\n\n"))
    return found


@dg.job(
    name=JOB,
    description="Makes and changes the chatbot's tables by versioned migrations. By hand it prints the SQL only"
    " (dry_run: true). It can be killed at any time and launched again: it continues where it stopped.",
)
def migrate_schema_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    migrate_schema.alias(JOB)()


def checks() -> list[dg.AssetChecksDefinition]:
    return [_check(LOGS, True), _check(SESSIONS, False)]


def _check(asset: dg.AssetKey, log: bool) -> dg.AssetChecksDefinition:
    tables = "The log table" if log else "Every other table of the chatbot"

    @dg.asset_check(
        name=CHECK,
        asset=asset,
        description=f"{tables} is what the applied migrations make: compared with a scratch database on the same"
        " server. An extra column or index of the service's own is no difference. Severity WARN: the service still"
        " works, and the person who changed the table by hand knows why.",
    )
    @without_secrets
    def schema_matches() -> dg.AssetCheckResult:
        return check_result(log)

    return schema_matches


def check_result(log: bool) -> dg.AssetCheckResult:
    from saju_ops.schema.migrate.commands import heads
    from saju_ops.schema.migrate.compare import compare
    from saju_ops.schema.migrate.session import session

    settings = load_settings()
    try:
        with session(settings.database_url) as connection:
            target = heads(connection)
        if not target:
            why = "No migration is applied, so there is nothing to compare with; see `saju-ops migrate adopt`."
            return dg.AssetCheckResult(passed=True, metadata={"differences": 0, "why": why})
        found = compare(settings.database_url, installation_of(settings), target)
    except Refused as error:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"differences": 0, "why": str(error)}
        )
    return _compared(found, settings.conversation_log_table, log)


def _compared(found: "Comparison", log_table: str, log: bool) -> dg.AssetCheckResult:
    mine = [d.what for d in found.differences if (d.table == log_table) == log]
    return dg.AssetCheckResult(
        passed=not mine,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "differences": len(mine),
            "differing": dg.MetadataValue.md("\n".join(f"- {what}" for what in mine) or "none"),
            "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in found.notes) or "none"),
            "compared_with": ", ".join(found.target),
        },
    )
