"""The conversation log and its archive, as assets with their checks.

Dagster reads annotations when an asset is defined, so this module can't postpone their evaluation.
"""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.defs.charts import bar_chart, hours_and_roles
from saju_ops.defs.partitions import log_days
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage, LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.archive.day import DayResult
    from saju_ops.rows.days import Day
    from saju_ops.rows.table import Table

ARCHIVE = dg.AssetKey("conversation_log_archive")
LOGS = dg.AssetKey("conversation_logs")
PROOF = "stored_file_matches_database"
CHART_DAYS = 31
POOL = "conversation_log_archive"

DESCRIPTION = """
One CSV file per day (Asia/Seoul unless TIMEZONE says otherwise) with every row of the conversation log whose
`created_at` falls into that day, in `conversation_logs/YYYY/MM/` under BACKUP_URI, with a manifest beside it.

**Materializing** a day writes its file, reads it back and compares it with what the database computes. It deletes
nothing. A day that is archived already and unchanged is left alone; rows that came late or changed since go into a
further part (`.part2.csv`, …). No file is ever overwritten.

**Restore:** `saju-ops restore-logs --from 2026-10-01 --to 2026-10-07 --dry-run`, then without `--dry-run`; or the job
`restore_conversation_logs`. Add `--into-table` to look at old rows beside the live table.

**Deleting** archived rows from the database is the job `purge_conversation_logs`, and nothing else.
"""


def source_asset(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        LOGS,
        description=(
            f"The live table `{settings.conversation_log_table}` of the chatbot, written by the service itself."
            " Purges report here how many rows they deleted and kept, and how large the table is.\n\n"
            "**Restore** deleted days from `conversation_log_archive` with `saju-ops restore-logs`."
        ),
        metadata={"dagster/table_name": settings.conversation_log_table},
    )


def archive_asset(settings: Settings) -> dg.AssetsDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # backfill_policy is in beta since 1.5
        return _archive_asset(settings)


def _archive_asset(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=ARCHIVE,
        deps=[LOGS],
        partitions_def=log_days(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
        description=DESCRIPTION,
        check_specs=[
            dg.AssetCheckSpec(
                PROOF,
                asset=ARCHIVE,
                blocking=True,
                description="Each stored file, read back from its store, has the row count and the digest that the"
                " database itself computes for the day. Blocking: without it the run fails and nothing relies on the"
                " day.",
            )
        ],
    )
    @without_secrets
    def conversation_log_archive(
        context: dg.AssetExecutionContext, log_database: LogDatabase, backup_storage: BackupStorage
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        done: dict[str, dict[str, Any]] = {}
        totals = {"days": 0, "rows_in_file": 0, "rows_written": 0}
        try:
            for result, metadata in _archive_days(context, settings, log_database, backup_storage):
                day = str(result.day)
                done[day] = metadata
                context.add_asset_metadata(metadata, asset_key=ARCHIVE, partition_key=day)
                totals["days"] += 1
                totals["rows_in_file"] += result.rows
                totals["rows_written"] += result.rows_written
        except BaseException as error:
            # A run that fails or is cancelled still says which days it finished.
            for day, metadata in done.items():
                context.log_event(dg.AssetMaterialization(ARCHIVE, partition=day, metadata=metadata))
            if isinstance(error, ProofFailed):
                yield dg.AssetCheckResult(
                    passed=False, check_name=PROOF, asset_key=ARCHIVE, metadata={**totals, "error": str(error)}
                )
            if isinstance(error, OperatorError):
                raise dg.Failure(str(error), allow_retries=not isinstance(error, ProofFailed)) from error
            raise
        yield dg.MaterializeResult(asset_key=ARCHIVE)
        yield dg.AssetCheckResult(passed=True, check_name=PROOF, asset_key=ARCHIVE, metadata=totals)

    return conversation_log_archive


def _archive_days(
    context: dg.AssetExecutionContext, settings: Settings, database: LogDatabase, backup: BackupStorage
) -> Iterator[tuple["DayResult", dict[str, Any]]]:
    """Day after day, each finished before the next begins."""
    from saju_ops.archive.day import archive_day
    from saju_ops.rows.days import parse_day

    storage = backup.open()
    keys = list(context.partition_keys)
    with database.open() as store:
        schema = column_schema(store.table)
        rows_per_day = _rows_archived(storage, parse_day(keys[0], settings.timezone))
        for number, key in enumerate(keys, 1):
            result = archive_day(
                store, storage, parse_day(key, settings.timezone), now=datetime.now(UTC),
                compression=settings.archive_compression, run_id=context.run.run_id,
            )  # fmt: skip
            rows_per_day[key] = result.rows
            log_progress(
                context.log, f"[{number}/{len(keys)}] {result.message} {counted(result.rows_written, 'row')} written."
            )
            yield result, day_metadata(result, store.table, schema, rows_per_day)


def _rows_archived(storage: Any, day: "Day") -> dict[str, int]:
    """Rows that the archive holds of each of the days before `day`, as far as the chart shows them."""
    from saju_ops.archive.manifest import day_files
    from saju_ops.rows.days import Day, days

    first = Day(day.date - timedelta(days=CHART_DAYS - 1), day.zone)
    found = {}
    for each in days(first, day):
        try:
            found[str(each)] = sum(p.rows for p in day_files(storage, each).parts)
        except (OperatorError, OSError):  # such as an older manifest in Glacier: it is only a chart's
            found[str(each)] = 0
    return found


def column_schema(table: "Table") -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                c.name,
                c.type.split("|")[0] or "any",
                description="primary key" if c.name in table.key else None,
                constraints=dg.TableColumnConstraints(nullable=c.nullable),
            )
            for c in table.columns
        ]
    )


def day_metadata(
    result: "DayResult", table: "Table", schema: dg.TableSchema, rows_per_day: dict[str, int]
) -> dict[str, Any]:
    """The same plain numbers for every day, zeros included, so that they plot."""
    shown = dict(list(rows_per_day.items())[-CHART_DAYS:])
    metadata: dict[str, Any] = {
        "dagster/row_count": result.rows,
        "dagster/table_name": f"{table.database}.{table.name}",
        "dagster/column_schema": schema,
        "rows": result.rows,
        "rows_written": result.rows_written,
        "bytes": result.bytes_written,
        "content_bytes": result.content_bytes,
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.rows_written / result.seconds, 1) if result.seconds else 0.0,
        "outcome": result.outcome,
        "message": result.message,
        "proof": dg.MetadataValue.json(result.proof),
        "rows_per_hour_and_role": dg.MetadataValue.md(hours_and_roles(result.hours)),
        "rows_per_day": dg.MetadataValue.md(bar_chart(shown, "rows archived per day")),
    }
    if result.file:
        metadata["dagster/uri"] = result.file
        metadata["files"] = dg.MetadataValue.md("\n".join(f"- `{f}`" for f in result.files))
    if result.strays:
        metadata["files_without_manifest"] = ", ".join(result.strays)
    return metadata


# --- checks beside the proof -----------------------------------------------------------------------------------


def archive_job() -> Any:
    """The archive of one day, or of a range in one run."""
    return dg.define_asset_job(
        "archive_conversation_logs",
        selection=dg.AssetSelection.assets(ARCHIVE),
        description="Archives one day of the conversation log, or a range day after day in one run. Deletes nothing."
        " A range: tags dagster/asset_partition_range_start and dagster/asset_partition_range_end.",
    )
