"""Reports on the databases as assets, each with its check, and the job and schedule that make them.

Dagster reads annotations when an asset is defined, so this module can't postpone their evaluation.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.defs.charts import bar_chart, frame_table
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.reports.database_reports import database_report, news_lines
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.database_reports.columns import Report
    from saju_ops.database_reports.make import DatabaseReport

SLOW, INDEXES, SIZES = (dg.AssetKey(name) for name in ("slow_queries", "index_usage", "table_sizes"))
REPORTS = (SLOW, INDEXES, SIZES)
# The metadata in which the weekly digest finds what is new: Korean lines.
NEWS = "news"
# Tables with a plot of their own.
PLOTTED = 20

DESCRIPTIONS = {
    SLOW: """
The statements that took the servers' time, by database: how often each ran, how long, how many rows it looked at. By
performance_schema on MySQL and MariaDB, by pg_stat_statements on PostgreSQL; SQLite keeps no such statistics.
Statements are normalised: there is no value of a row and no literal in the report.
""",
    INDEXES: """
Every index and how often it was read since the server's counters began. An index that nobody read, and that no key, no
foreign key and none of the service's common queries needs, is marked `may_go`: look twice before you drop it, a monthly
job may need it. SQLite does not count.
""",
    SIZES: """
Bytes and rows of every table, how fast it grows since the report of a week ago, and when it has filled the room that is
left: DATABASE_DISK_GB, and for a SQLite file the room on its disk.
""",
}
CHECKS = {
    SLOW: "The server counts statements and the account may read the counters.",
    INDEXES: "The server counts how often indexes are read and the account may read the counters.",
    SIZES: "The account sees every table of each database.",
}
STORED = """
It is stored as `reports/{name}_<day in Asia/Seoul>.csv` under BACKUP_URI (`.csv.zip` where ARCHIVE_PASSWORD is set)
and compared with the one of a week ago. What is new is a line in the weekly digest. It only looks: there
is nothing to **restore** here.
"""


def report_assets(sources: Sequence[dg.AssetKey]) -> list[dg.AssetsDefinition]:
    """`sources` are the live tables that the lineage shows before them."""
    return [_report_asset(key, sources) for key in REPORTS]


def check_name(key: dg.AssetKey) -> str:
    return f"{key.to_user_string()}_can_be_seen"


def _report_asset(key: dg.AssetKey, sources: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
    name: Any = key.to_user_string()

    @dg.asset(
        key=key,
        deps=sources,
        description=f"{DESCRIPTIONS[key]}{STORED.format(name=name)}",
        check_specs=[
            dg.AssetCheckSpec(
                check_name(key),
                asset=key,
                description=f"{CHECKS[key]} Severity WARN: the report holds what can be seen, and the check says which"
                " setting or GRANT is missing for the rest. What SQLite doesn't keep is said and doesn't fail.",
            )
        ],
    )
    @without_secrets
    def report_asset(
        context: dg.AssetExecutionContext, backup_storage: BackupStorage
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from saju_ops.database_reports.make import make_report
        from saju_ops.wiring import reported_databases

        settings, now = load_settings(), datetime.now(UTC)
        try:
            report = make_report(
                name, reported_databases(settings), backup_storage.open(), now=now, zone=settings.timezone,
                log_table=settings.conversation_log_table.rpartition(".")[2],
            )  # fmt: skip
        except OperatorError as error:
            raise dg.Failure(str(error), allow_retries=True) from error
        log_progress(context.log, f"{report.location}: {counted(len(report.frame), 'row')}. {report.compared_with}.")
        yield dg.MaterializeResult(asset_key=key, metadata=report_metadata(report, now))
        yield seen_check(report, key)
        if report.problems:
            raise dg.Failure(
                f"The report is stored, but not of every database. {' '.join(report.problems.values())}",
                allow_retries=True,
            )

    return report_asset


def seen_check(report: "DatabaseReport", key: dg.AssetKey) -> dg.AssetCheckResult:
    missing = [f"{name}: {sentence}" for name, said in report.missing.items() for sentence in said]
    notes = [f"{name}: {sentence}" for name, said in report.notes.items() for sentence in said]
    text = "\n".join(f"- {line}" for line in [*missing, *notes]) or "everything can be seen"
    return dg.AssetCheckResult(
        passed=not missing, check_name=check_name(key), asset_key=key, severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={
            "databases": len(report.databases), "databases_not_seen_whole": len(report.missing),
            "missing": dg.MetadataValue.md(text),
        },
    )  # fmt: skip


def report_metadata(report: "DatabaseReport", at: datetime) -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    from saju_ops.database_reports.columns import COLUMNS

    frame = report.frame
    kinds = {"text": "string", "int": "int", "float": "float", "bool": "bool"}
    columns = [dg.TableColumn(c.name, kinds[c.kind], description=c.meaning) for c in COLUMNS[report.name]]
    return {
        "dagster/row_count": len(frame),
        "dagster/uri": report.location,
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "databases": len(report.databases),
        "rows": len(frame),
        **_numbers(report.name, frame),
        "news_count": len(report.news),
        NEWS: dg.MetadataValue.json(news_lines(report.news)),
        "compared_with": report.compared_with,
        "table": dg.MetadataValue.md(frame_table(frame, code=("query", "digest"))),
        "chart": dg.MetadataValue.md(_chart(report.name, frame)),
        "report": dg.MetadataValue.md(database_report(report, at).replace("\n", "\n\n")),
    }


def _numbers(name: "Report", frame: Any) -> dict[str, Any]:
    if name == "slow_queries":
        calls, total = int(frame["calls"].sum()), float(frame["total_ms"].sum())
        return {
            "calls": calls, "total_ms": round(total, 1), "mean_ms": round(total / calls, 3) if calls else 0.0,
            "longest_ms": float(frame["max_ms"].max()) if len(frame) else 0.0,
        }  # fmt: skip
    if name == "index_usage":
        may_go = frame["may_go"].fillna(False).astype(bool)
        return {"indexes": len(frame), "indexes_that_may_go": int(may_go.sum())}
    sizes = frame.sort_values("bytes", ascending=False).head(PLOTTED)
    several = frame["database"].nunique() > 1
    return {
        "bytes": int(frame["bytes"].sum()),
        "growth_bytes_per_day": float(frame["growth_bytes_per_day"].fillna(0.0).sum()),
        **{
            f"bytes/{f'{row.database}/' if several else ''}{row.table}": int(row.bytes)
            for row in sizes.itertuples(index=False)
        },
    }


def _chart(name: "Report", frame: Any) -> str:
    if name == "slow_queries":
        shown = frame.sort_values("total_ms", ascending=False).head(PLOTTED)
        values = {f"{n}": int(ms) for n, ms in enumerate(shown["total_ms"], 1)}
        return bar_chart(values, "milliseconds of the slowest statements, in the table's order")
    if name == "index_usage":
        shown = frame[frame["uses"].notna()].sort_values("uses").head(PLOTTED)
        values = {f"{row.table}.{row.index}": int(row.uses) for row in shown.itertuples(index=False)}
        return bar_chart(values, "reads of the least used indexes")
    shown = frame.sort_values("bytes", ascending=False).head(PLOTTED)
    values = {f"{row.database}.{row.table}": int(row.bytes) for row in shown.itertuples(index=False)}
    return bar_chart(values, "bytes of the largest tables")


def reports_job() -> Any:
    return dg.define_asset_job(
        "database_reports",
        selection=dg.AssetSelection.assets(*REPORTS),
        description="Makes the reports on slow queries, index usage and table sizes. Changes nothing in a database.",
    )


def reports_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="database_reports_daily",
        job=job,
        cron_schedule="30 5 * * *",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every day at 05:30: reports on slow queries, index usage and table sizes.",
    )
