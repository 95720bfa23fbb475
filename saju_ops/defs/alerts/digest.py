"""The weekly digest as a job: numbers from the event log, the databases' and the storage's sizes, and a chart.

It only reads. The alert sensor sends its report like every run's, with the chart. Dagster reads an op's annotations
when it is defined, so this module can't postpone their evaluation.
"""

import base64
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from saju_ops.defs.conversation_logs.asset import ARCHIVE, LOGS
from saju_ops.defs.database_reports.assets import NEWS, REPORTS
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage, LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings

CHART_TITLE = "conversation log: growth against archiving"
PAGE = 500
# Seconds for adding up the sizes of the storage's files, one request each where it is remote.
STORAGE_SECONDS = 120.0
FINISHED = {
    "success": dg.DagsterRunStatus.SUCCESS,
    "failure": dg.DagsterRunStatus.FAILURE,
    "canceled": dg.DagsterRunStatus.CANCELED,
}


@dg.op(
    name="summarize_week",
    description="Rows archived and purged, sizes, restore drills and open problems of the last seven days, with a chart"
    " of the table's growth against what archiving removed. Reads only.",
)
@without_secrets
def weekly_digest(context: dg.OpExecutionContext, log_database: LogDatabase, backup_storage: BackupStorage) -> None:
    from saju_ops.reports.chart import growth_png
    from saju_ops.reports.digest import digest_report

    settings = load_settings()
    now = datetime.now(UTC)
    gathered = _Gathered(context.instance, settings, log_database, backup_storage, now)
    week = gathered.week()
    report = digest_report(week, settings.timezone)
    png = growth_png(gathered.points(week.table_bytes))
    metadata: dict[str, Any] = {
        "rows_archived": week.rows_archived or 0,
        "rows_purged": week.rows_purged or 0,
        "database_bytes": week.database_bytes or 0,
        "table_bytes": week.table_bytes or 0,
        "backup_bytes": week.backup_bytes or 0,
        "backup_files": week.backup_files or 0,
        "drills_passed": week.drills_passed or 0,
        "drills": week.drills or 0,
        "open_problems": len(week.problems),
        "news": len(week.news),
        "report": dg.MetadataValue.md(report.replace("\n", "\n\n")),
    }
    if png:
        picture = base64.b64encode(png).decode()
        metadata["chart_png"] = dg.MetadataValue.md(f"![{CHART_TITLE}](data:image/png;base64,{picture})")
    context.add_output_metadata(metadata)
    if week.table_bytes is not None:
        context.log_event(dg.AssetObservation(LOGS, metadata={"table_bytes": week.table_bytes}))
    log_progress(context.log, report)


@dg.job(
    name="weekly_digest",
    description="Sends the operators a summary of the week on Monday: archived and purged rows, sizes, restore drills,"
    " open problems. Reads only.",
)
def weekly_digest_job() -> None:
    weekly_digest.alias("weekly_digest")()


def weekly_digest_schedule(settings: Settings) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="weekly_digest",
        job=weekly_digest_job,
        cron_schedule=settings.weekly_digest_cron,
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The weekly digest, an hour after the weekly clean-up unless WEEKLY_DIGEST_CRON says otherwise.",
    )


class _Gathered:
    """What the event log, the databases and the storage say of the week, each part on its own."""

    def __init__(
        self, instance: dg.DagsterInstance, settings: Settings, database: LogDatabase, backup: BackupStorage,
        now: datetime,
    ) -> None:  # fmt: skip
        from saju_ops.reports.digest import WEEK, WEEKS

        self.instance, self.settings, self.now = instance, settings, now
        self.database, self.backup = database, backup
        self.since = now - WEEK
        history = (now - timedelta(weeks=WEEKS)).timestamp()
        self.observed = list(self._events(LOGS, history, observations=True))
        self.archived = list(self._events(ARCHIVE, history, observations=False))

    def week(self) -> Any:
        from saju_ops.reports.digest import Week, database_bytes, found

        unknown: dict[str, str] = {}
        stored = found(unknown, "백업 저장소", self._stored)
        drills = found(unknown, "복원 검증", self._drills)
        return Week(
            start=self.since, end=self.now,
            rows_archived=sum(int(m.get("rows_written") or 0) for at, m in self.archived if at >= self.since),
            rows_purged=sum(int(m.get("rows_deleted") or 0) for at, m in self.observed if at >= self.since),
            archive_done=self._archive_done(),
            database_bytes=found(unknown, "데이터베이스", lambda: database_bytes(self.settings.database_url)),
            table_bytes=found(unknown, "대화 로그 테이블", self._table_bytes),
            backup_bytes=stored[0] if stored else None, backup_files=stored[1] if stored else None,
            drills_passed=drills[0] if drills else None, drills=drills[1] if drills else None,
            runs=self._runs(), problems=tuple(self._problems()), news=tuple(self._news()), unknown=unknown,
        )  # fmt: skip

    def points(self, table_bytes: int | None) -> list[Any]:
        from saju_ops.reports.digest import growth

        sizes = [(self.now, table_bytes)] if table_bytes is not None else []
        for at, metadata in self.observed:
            size = metadata.get("table_bytes", metadata.get("table_bytes_before"))
            if size:
                sizes.append((at, int(size)))
        removals = [(at, int(m.get("rows_deleted") or 0)) for at, m in self.observed]
        rows = sum(int(m.get("rows_written") or 0) for _, m in self.archived)
        size = sum(int(m.get("content_bytes") or 0) for _, m in self.archived if m.get("rows_written"))
        return growth(sizes, removals, size / rows if rows else 0.0, self.settings.timezone)

    def _events(
        self, key: dg.AssetKey, after: float, *, observations: bool
    ) -> Iterator[tuple[datetime, dict[str, Any]]]:
        fetch = self.instance.fetch_observations if observations else self.instance.fetch_materializations
        cursor = None
        while True:
            found = fetch(dg.AssetRecordsFilter(asset_key=key, after_timestamp=after), limit=PAGE, cursor=cursor)
            for record in found.records:
                event = record.asset_observation if observations else record.asset_materialization
                if event is not None:
                    plain = {name: value.value for name, value in event.metadata.items()}
                    yield datetime.fromtimestamp(record.timestamp, UTC), plain
            cursor = found.cursor
            if not found.has_more:
                return

    def _archive_done(self) -> bool | None:
        wanted = dg.RunsFilter(job_name="archive_conversation_logs", created_after=self.since)
        ended = [r for r in self.instance.get_runs(wanted, limit=50) if r.is_finished]
        if ended:
            return ended[0].is_success
        return True if any(at >= self.since for at, _ in self.archived) else None

    def _runs(self) -> dict[str, int]:
        return {
            word: self.instance.get_runs_count(dg.RunsFilter(statuses=[status], updated_after=self.since))
            for word, status in FINISHED.items()
        }

    def _table_bytes(self) -> int:
        with self.database.open() as store:
            return int(store.sizes()["table_bytes"])

    def _stored(self) -> tuple[int, int]:
        from saju_ops.storage.base import is_name

        storage = self.backup.open()
        end = time.monotonic() + STORAGE_SECONDS
        size = files = 0
        for name in filter(is_name, storage.names("")):
            size += storage.size(name)
            files += 1
            if time.monotonic() > end:
                raise TimeoutError
        return size, files

    def _drills(self) -> tuple[int, int]:
        """Dumps and snapshots of the week, and how many of them were restored and found whole."""
        from saju_ops.storage.manifest import FOLDERS, backups

        storage = self.backup.open()
        made = [m for kind in FOLDERS for m in backups(storage, kind) if m.taken >= self.since]
        return sum(m.proven for m in made), len(made)

    def _news(self) -> Iterator[str]:
        """The news of the newest of each report, which compares with a week before."""
        for key in REPORTS:
            event = self.instance.get_latest_materialization_event(key)
            made = event.asset_materialization if event is not None else None
            if event is None or made is None or datetime.fromtimestamp(event.timestamp, UTC) < self.since:
                continue
            lines = made.metadata[NEWS].value if NEWS in made.metadata else []
            yield from (str(line) for line in lines) if isinstance(lines, list) else ()

    def _problems(self) -> Iterator[str]:
        from saju_ops.alerts.outbox import FILE, Outbox
        from saju_ops.reports.titles import job

        path = Path(self.instance.storage_directory()) / FILE
        if path.exists():
            yield from (str(p["title"]) for p in Outbox(path).problems().values())
        newest: dict[str, dg.DagsterRun] = {}
        for run in self.instance.get_runs(dg.RunsFilter(created_after=self.since), limit=1000):
            if run.is_finished:
                newest.setdefault(run.job_name, run)
        for name, run in sorted(newest.items()):
            if run.is_failure and name != "weekly_digest":
                yield f"마지막 실행이 실패했습니다: {job(name).title} (run {run.run_id[:8]})"
