"""Dumps of the databases, as assets with their checks.

Dagster reads annotations when an asset is defined, so this module can't postpone their evaluation.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.defs.conversation_logs.asset import LOGS
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.dump_all import dump_all, mask_all
from saju_ops.errors import OperatorError
from saju_ops.reports.dumps import dump_report
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings

if TYPE_CHECKING:
    from saju_ops.dumps.take import DumpOptions, DumpResult, DumpRun
    from saju_ops.storage.manifest import Kind
    from saju_ops.storage.open import Storage

    Take = Callable[[Settings, Storage, DumpOptions, Callable[[str], None]], DumpRun]

DUMP = dg.AssetKey("database_dump")
PROOF = "restored_dump_equals_database"
VIEWS = "every_view_is_usable"
MASKED = dg.AssetKey("masked_database_dump")
MASKED_PROOF = "nothing_true_is_left"
POOL = "database_dump"

DESCRIPTION = """
Every configured database (DATABASE_URL, JOBS_DATABASE_URL, ANALYSIS_DATABASE_URL, each once) as of one instant, as
`database/<database>_<time in Asia/Seoul>.sql.gz` under BACKUP_URI (a SQLite database as `.sqlite.gz`) with a manifest
beside it; with `.zip` after that when ARCHIVE_PASSWORD is set. Rows, tables, views, routines, triggers and events.

**Materializing** dumps with mysqldump or mariadb-dump, pg_dump, or SQLite's online backup, reads the stored file
back, restores it into a scratch database `saju_ops_drill_…` (on RESTORE_DRILL_URL, else on the same server) and
compares; the scratch database is dropped. It changes nothing in the databases that it dumps.

**Restore:** `saju-ops restore-dump --dry-run`; then `--into URL` for an empty or missing database, or `--replace
NAME`, which drops all that is in the live one first. `--at "2026-10-01 12:00"` for an older dump, `--database NAME`
for another database; or the job `restore_database_dump`. Without saju_ops (after `7z x` where it is encrypted):
`gunzip < app_….sql.gz | mysql --binary-mode --comments app`, `| psql --single-transaction -v ON_ERROR_STOP=1 app`; a
`.sqlite.gz` is the database file itself.
"""


def dump_asset(sources: Sequence[dg.AssetKey] = (LOGS,)) -> dg.AssetsDefinition:
    """`sources` are the live tables that the lineage shows before it."""

    @dg.asset(
        key=DUMP,
        deps=sources,
        pool=POOL,
        description=DESCRIPTION,
        check_specs=[
            dg.AssetCheckSpec(
                PROOF,
                asset=DUMP,
                blocking=True,
                description="The stored file, read back and restored into a scratch database, has the tables, rows,"
                " per-table checksums, routines, triggers, views and events that the server said of the dump's own"
                " snapshot. Blocking: a dump that differs is not kept; one whose restore could not be tried is kept,"
                " counts as unproven, and the check says which right or setting is missing.",
            ),
            dg.AssetCheckSpec(
                VIEWS,
                asset=DUMP,
                description="No view names a table, column, function or user that is gone, or that it may not use"
                " (MySQL, MariaDB). Severity WARN: no dump can hold such a view but for its definition, as a comment;"
                " the rest is dumped and proven all the same. Mend or drop the view.",
            ),
        ],
    )
    @without_secrets
    def database_dump(
        context: dg.AssetExecutionContext, backup_storage: BackupStorage
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        yield from _materialize(context, backup_storage, DUMP, PROOF, "database_dump", dump_all)

    return database_dump


MASKED_DESCRIPTION = """
The same databases, safe for developers, as `masked_database/<database>_<time in Asia/Seoul>.sql.gz` under BACKUP_URI:
birth data, names, contents, phone numbers and payment data are false, by the rules in
`saju_ops/masking/rules.py`. A person keeps the same false birth date within one dump, and has another in the
next; foreign keys still join.

**Materializing** copies each database into a scratch one (on RESTORE_DRILL_URL, else on the same server), masked on the
way, looks through the copy for any true value, and dumps and proves it like `database_dump`. It fails, and writes
nothing, when a column that no rule names looks personal.

**Restore** into an empty database: `saju-ops restore-dump --masked --into URL`.
"""


def masked_dump_asset(sources: Sequence[dg.AssetKey] = (LOGS,)) -> dg.AssetsDefinition:
    @dg.asset(
        key=MASKED,
        deps=sources,
        pool=POOL,
        description=MASKED_DESCRIPTION,
        check_specs=[
            dg.AssetCheckSpec(
                MASKED_PROOF,
                asset=MASKED,
                blocking=True,
                description="No true value of a masked column is in the copy, no column without a rule looks personal,"
                " and the stored file, restored into a scratch database, is that copy. Blocking: what fails is not"
                " stored, and the check names the columns.",
            )
        ],
    )
    @without_secrets
    def masked_database_dump(
        context: dg.AssetExecutionContext, backup_storage: BackupStorage
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        yield from _materialize(context, backup_storage, MASKED, MASKED_PROOF, "masked_database_dump", mask_all)

    return masked_database_dump


def _materialize(
    context: dg.AssetExecutionContext, backup: BackupStorage, key: dg.AssetKey, check: str, kind: "Kind",
    take: "Take",
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:  # fmt: skip
    from saju_ops.dumps.take import DumpOptions

    settings = load_settings()
    options = DumpOptions(settings.timezone, kind, settings.restore_drill_urls, context.run.run_id)
    try:
        run = take(settings, backup.open(), options, lambda text: log_progress(context.log, text))
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=True) from error
    metadata = run_metadata(run, masked=key != DUMP)
    if run.results:
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)
    else:
        context.log_event(dg.AssetObservation(key, metadata=metadata))
    sentences = [*run.problems.values(), *(r.message for r in run.unproven)]
    if run.results or run.differing:
        yield dg.AssetCheckResult(
            passed=not sentences, check_name=check, asset_key=key, metadata=check_metadata(run, sentences)
        )
    if run.results and key == DUMP:
        yield views_check(run)
    if run.problems:
        # A difference stays when it is tried again at once; a server that was away may be back.
        reasons = " ".join(filter(None, [*run.problems.values(), run.incomplete]))
        raise dg.Failure(reasons, allow_retries=not run.differing)
    if run.incomplete:
        raise dg.Failure(f"These dumps are stored, but not all is well. {run.incomplete}", allow_retries=False)


def views_check(run: "DumpRun") -> dg.AssetCheckResult:
    broken = [f"`{view}` of {r.manifest.source}" for r in run.results for view in r.contents.broken_views]
    which = dg.MetadataValue.md("\n".join(f"- {view}" for view in broken) or "none")
    return dg.AssetCheckResult(
        passed=not broken, check_name=VIEWS, asset_key=DUMP, severity=dg.AssetCheckSeverity.WARN,
        metadata={"broken_views": len(broken), "which": which},
    )  # fmt: skip


def check_metadata(run: "DumpRun", sentences: list[str]) -> dict[str, Any]:
    return {
        "databases": len(run.results) + len(run.problems),
        "databases_proven": len(run.results) - len(run.unproven),
        "databases_unproven": len(run.unproven),
        "databases_failed": len(run.problems),
        "tables_compared": sum(r.drill.tables for r in run.results),
        "rows_compared": sum(r.drill.rows for r in run.results),
        "values_masked": sum(r.manifest.extra.get("masking", {}).get("values_masked", 0) for r in run.results),
        "values_checked": sum(r.manifest.extra.get("masking", {}).get("values_checked", 0) for r in run.results),
        "error": "; ".join(sentences) or "none",
    }


def run_metadata(run: "DumpRun", masked: bool = False) -> dict[str, Any]:
    """The same plain numbers in every run, zeros included; per database in the table."""
    results = run.results
    stored = sum(r.manifest.stored_bytes for r in results)
    content = sum(r.manifest.content_bytes for r in results)
    metadata: dict[str, Any] = {
        "databases": len(results),
        "databases_failed": len(run.problems),
        "databases_unproven": len(run.unproven),
        "tables": sum(len(r.contents.tables) for r in results),
        "rows": sum(r.contents.rows for r in results),
        "broken_views": sum(len(r.contents.broken_views) for r in results),
        "bytes": stored,
        "content_bytes": content,
        "ratio": round(content / stored, 2) if stored else 0.0,
        "seconds": round(sum(r.seconds for r in results), 3),
        "proof_seconds": round(sum(r.proof_seconds for r in results), 3),
        "drill_seconds": round(sum(r.drill.seconds for r in results), 3),
        "tries": sum(r.tries for r in results),
        "copies_completed": len(run.completed),
        "dagster/row_count": sum(r.contents.rows for r in results),
        "per_database": dg.MetadataValue.md(_table(results)),
        "problems": dg.MetadataValue.md("\n".join(f"- {p}" for p in run.problems.values()) or "none"),
        "report": dg.MetadataValue.md(dump_report(run, datetime.now(UTC), masked).replace("\n", "\n\n")),
    }
    if results:
        metadata["dagster/uri"] = results[0].location
        metadata["files"] = dg.MetadataValue.md("\n".join(f"- `{r.location}`" for r in results))
    return metadata


def _table(results: "list[DumpResult]") -> str:
    lines = ["|database|tables|rows|bytes|stored|seconds|drill|proof|tool|", "|-|-:|-:|-:|-:|-:|-:|-|-|"]
    for r in results:
        m = r.manifest
        proof = r.contents.proof if r.proven else "none"
        lines.append(
            f"|{m.source}|{len(r.contents.tables)}|{r.contents.rows:,}|{m.content_bytes:,}|{m.stored_bytes:,}"
            f"|{r.seconds:.1f}|{r.drill.seconds:.1f}|{proof}|{m.tool}|"
        )
    return "\n".join(lines)
