"""Reports on a real database, made as on a day that the test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import parse_database_url
from saju_ops.database_reports.columns import Report
from saju_ops.database_reports.make import Database, DatabaseReport, make_report
from saju_ops.storage.base import Storage
from saju_ops.storage.local import LocalStorage

SEOUL = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)
TODAY, A_WEEK_AGO = "20261009", "20261002"


@dataclass
class Reported:
    urls: Sequence[str]
    folder: Path
    disk_bytes: int | None = None
    storage: Storage = field(init=False)

    def __post_init__(self) -> None:
        self.storage = LocalStorage(self.folder / "backups")

    def make(self, name: Report, days_ago: int = 0) -> DatabaseReport:
        return make_report(
            name, [Database(parse_database_url(url), self.disk_bytes) for url in self.urls], self.storage,
            log_table="conversation_logs", now=NOW - timedelta(days=days_ago), zone=SEOUL,
        )  # fmt: skip

    def stored(self) -> list[str]:
        folder = self.folder / "backups" / "reports"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def run(url: str, *statements: str) -> None:
    """Statements of the service, each in its own transaction."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            result = connection.execute(sa.text(statement))
            if result.returns_rows:
                result.all()
            connection.commit()


def rows(report: DatabaseReport) -> list[dict[str, Any]]:
    return [dict(row) for row in report.frame.to_dict("records")]


def row(report: DatabaseReport, **wanted: Any) -> dict[str, Any]:
    (found,) = [each for each in rows(report) if all(each[name] == value for name, value in wanted.items())]
    return found


def everything(report: DatabaseReport) -> str:
    """All that the report shows and stores."""
    return report.frame.to_csv() + repr(report.news) + repr(report.missing) + repr(report.notes)


def wait(seconds: float, url: str) -> str:
    """A SELECT that takes so long, with a literal of its own."""
    if "postgresql" in url:
        return f"SELECT count(*) FROM notes, pg_sleep({seconds}) WHERE text = 'canary-4711'"  # noqa: S608
    return f"SELECT COUNT(*), SLEEP({seconds}) FROM notes WHERE text = 'canary-4711'"  # noqa: S608
