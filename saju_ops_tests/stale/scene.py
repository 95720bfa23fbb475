"""A speech-analysis database on any engine, old or newer, and what `reconcile` and `undo` make of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import parse_database_url
from saju_ops.stale.plan import Mode, StalePlan, StaleResult
from saju_ops.stale.reconcile import reconcile
from saju_ops.stale.undo import UndoResult, undo
from saju_ops.storage.open import open_storage

SEOUL = ZoneInfo("Asia/Seoul")
# 2026-10-15 00:30 in Seoul: the day there isn't UTC's.
NOW = datetime(2026, 10, 14, 15, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


class Scene:
    """`zone` is the one in which columns without a zone are kept."""

    def __init__(self, url: str, folder: Path, *, newer: bool = False, zone: str = "UTC") -> None:
        self.url = parse_database_url(url)
        self.folder = folder
        self.newer, self.zone = newer, ZoneInfo(zone)
        self.name = self.url.get_backend_name()
        # A server's connection is kept, which makes the tests twice as quick; a SQLite file is left closed.
        kept = {"poolclass": sa.NullPool} if self.name == "sqlite" else {"poolclass": sa.StaticPool}
        self.engine = sa.create_engine(self.url, **kept)

    @property
    def mysql(self) -> bool:
        return self.name in ("mysql", "mariadb")

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def create(
        self, *, status: str = "varchar(20) NOT NULL", job_id: str = "varchar(64)", result_job_id: str = "varchar(64)",
        time: str | None = None, results_key: str = ", PRIMARY KEY (job_id, file_id)", more: str = "",
    ) -> Scene:  # fmt: skip
        time = time or {"postgresql": "timestamp"}.get(self.name, "datetime")
        renewed = f", updated_at {time} NULL" if self.newer else ""
        on_update = " ON UPDATE CURRENT_TIMESTAMP" if self.newer and self.mysql else ""
        self.execute(
            f"CREATE TABLE analysis_jobs (job_id {job_id} NOT NULL PRIMARY KEY, emp_id varchar(50),"
            f" folder_path varchar(500), status {status}, created_at {time} NULL{renewed}{on_update}{more})",
            f"CREATE TABLE analysis_results (job_id {result_job_id} NOT NULL, file_id varchar(64) NOT NULL,"
            f" status varchar(20), stt_text text{renewed}{on_update}{results_key})",
        )
        return self

    def stored(self, at: datetime | str | None) -> Any:
        """As the service would write it."""
        if not isinstance(at, datetime):
            return at
        naive = at.astimezone(self.zone).replace(tzinfo=None)
        return naive.isoformat(" ") if self.name == "sqlite" else naive

    def job(
        self, job_id: Any, status: str | None = "processing", created: datetime | str | None = None,
        updated: datetime | str | None = None, done: int = 0, files: int = 0,
        result_updated: datetime | str | None = None, folder: str | None = "recordings/2026/E1",
    ) -> None:  # fmt: skip
        """A job with so many files, of which so many are done; 100 hours old by default."""
        created = ago(100) if created is None else created
        row = {"job_id": job_id, "emp_id": "E1", "folder_path": folder, "status": status, "created_at": created}
        if self.newer:
            row["updated_at"] = created if updated is None else updated
        self.insert("analysis_jobs", row)
        results = []
        for number in range(max(files, done)):
            result = {
                "job_id": job_id, "file_id": f"f{number}", "status": "completed" if number < done else "pending",
                "stt_text": "녹취",
            }  # fmt: skip
            if self.newer:
                result["updated_at"] = created if result_updated is None else result_updated
            results.append(result)
        if results:
            self.insert("analysis_results", *results)

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        stored = [{name: self.stored(v) if name.endswith("_at") else v for name, v in row.items()} for row in rows]
        columns = [sa.column(name, sa.types.NullType()) for name in stored[0]]
        with self.engine.begin() as connection:
            connection.execute(sa.insert(sa.table(table, *columns)), stored)

    def statuses(self) -> dict[Any, Any]:
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT job_id, status FROM analysis_jobs")
            return {row[0]: row[1] for row in rows}

    def rows(self, table: str) -> list[Any]:
        with self.engine.connect() as connection:
            return sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {table}")), key=repr)  # noqa: S608

    def reconcile(
        self, mode: Mode = "check", *, run_id: str = "run1", dry_run: bool = False, **more: Any
    ) -> StaleResult:
        plan = {k: more.pop(k) for k in ("hours", "empty_status") if k in more}
        return reconcile(
            self.url,
            open_storage(str(self.folder)),
            StalePlan(mode=mode, dry_run=dry_run, run_id=run_id, **plan),
            **{"now": NOW, "zone_of_database": self.zone, "zone": SEOUL, **more},
        )

    def apply(self, **more: Any) -> StaleResult:
        return self.reconcile("apply", **more)

    def undo(self, run_id: str = "run1", *, dry_run: bool = False, **more: Any) -> UndoResult:
        return undo(
            self.url, open_storage(str(self.folder)), run_id, undo_run_id="undo1", dry_run=dry_run, now=NOW,
            zone_of_database=self.zone, **more,
        )  # fmt: skip

    def stale(self, **more: Any) -> set[str]:
        return {job.job_id for job in self.reconcile(**more).jobs}

    def audit(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*.json"))


def becomes(result: StaleResult) -> dict[str, str]:
    return {job.job_id: job.becomes for job in result.jobs}


def names(jobs: Iterable[Any]) -> list[str]:
    return [str(j) for j in jobs]
