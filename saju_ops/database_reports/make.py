"""One report over all databases: looked at, compared with the stored report of a week ago, and stored itself.

Promises: nothing is changed in a database. What a server hides, and which setting or GRANT shows it, is in the result
and ends no report. A database that can't be reached is a problem of its own; the others are reported all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.address import redacted
from saju_ops.database.connect import connect, error_text
from saju_ops.database_reports.columns import Report, csv_of, frame_from_csv, frame_of
from saju_ops.database_reports.news import (
    News,
    filling_tables,
    slower_queries,
    unused_indexes,
    with_earlier_uses,
    with_growth,
)
from saju_ops.database_reports.seen import Seen
from saju_ops.dumps.take import distinct, label_of
from saju_ops.errors import OperatorError
from saju_ops.storage.base import Storage
from saju_ops.storage.stored_reports import StoredReport, read_report, store_report, stored_reports

# The report of a week ago; where that day has none, the newest before it, up to three weeks back.
WEEK, LONGEST = 7, 21


@dataclass(frozen=True)
class Database:
    url: sa.URL
    # Bytes that its tables may have together; None where nobody said.
    disk_bytes: int | None = None


@dataclass
class DatabaseReport:
    name: Report
    # A pandas frame with the columns of `columns.COLUMNS`.
    frame: Any = None
    databases: list[str] = field(default_factory=list)
    # By database: which setting or GRANT is missing; what there is to know besides; why it was not looked at.
    missing: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    news: list[News] = field(default_factory=list)
    location: str = ""
    # The stored report that it was compared with, or why there is none.
    compared_with: str = ""


def make_report(
    name: Report, databases: Sequence[Database], storage: Storage, *, log_table: str, now: datetime, zone: ZoneInfo
) -> DatabaseReport:
    """Raises OperatorError where no database can be looked at, or the report can't be stored."""
    report = DatabaseReport(name)
    limits = {database.url: database.disk_bytes for database in reversed(databases)}
    urls = distinct([database.url for database in databases])
    rows: list[dict[str, Any]] = []
    rooms: dict[str, int | None] = {}
    for url in urls:
        label = label_of(url, urls)
        try:
            seen = _look(name, url, log_table)
        except OperatorError as error:
            report.problems[label] = str(error)
            continue
        report.databases.append(label)
        if seen.missing:
            report.missing[label] = seen.missing
        if seen.notes:
            report.notes[label] = seen.notes
        rooms[label] = _room(url, limits[url], sum(row.get("bytes") or 0 for row in seen.rows))
        rows += [{"database": label, **row} for row in _sorted(name, seen.rows)]
    if report.problems and not report.databases:
        raise OperatorError(" ".join(report.problems.values()))
    today = now.astimezone(zone).date()
    before, days, report.compared_with = _a_week_ago(name, storage, today)
    if name == "table_sizes":
        with_growth(rows, before, days, rooms)
    if name == "index_usage":
        with_earlier_uses(rows, before)
    report.frame = frame_of(name, rows)
    report.news = {
        "slow_queries": lambda: slower_queries(report.frame, before),
        "index_usage": lambda: unused_indexes(report.frame, before, now),
        "table_sizes": lambda: filling_tables(report.frame),
    }[name]()
    stored = store_report(storage, name, today, csv_of(report.frame))
    report.location = storage.location(stored.file)
    return report


def _look(name: Report, url: sa.URL, log_table: str) -> Seen:
    """Raises OperatorError for what can't be reached or doesn't answer."""
    try:
        with connect(url).connect() as connection:
            return _reader(url.get_backend_name(), name)(connection, log_table)
    except DBAPIError as error:
        raise OperatorError(
            f"{redacted(url)} could not be looked at ({error_text(error)}). Nothing was changed; mend that, and launch"
            " again."
        ) from None


def _reader(backend: str, name: Report) -> Callable[[sa.Connection, str], Seen]:
    if backend == "sqlite":
        from saju_ops.database_reports import sqlite as engine
    elif backend == "postgresql":
        from saju_ops.database_reports import postgres as engine  # type: ignore[no-redef]
    else:
        from saju_ops.database_reports import mysql as engine  # type: ignore[no-redef]
    found: Callable[[sa.Connection, str], Seen] = getattr(engine, name)
    return found


def _sorted(name: Report, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if name != "table_sizes":
        return rows
    return sorted(rows, key=lambda row: (-row["bytes"], row["table"]))


def _room(url: sa.URL, limit: int | None, used: int) -> int | None:
    """Bytes that the database may still take: by its limit, and for a SQLite file by its file system too."""
    found = [] if limit is None else [limit - used]
    if url.get_backend_name() == "sqlite" and url.database:
        import os

        try:
            disk = os.statvfs(Path(url.database).parent)
        except OSError:
            return min(found, default=None)
        found.append(disk.f_bavail * disk.f_frsize)
    return min(found, default=None)


def _a_week_ago(name: Report, storage: Storage, today: Any) -> tuple[Any, int, str]:
    """The frame of that report, how many days old it is, and its file; or None, and why there is none."""
    newest, oldest = today - timedelta(days=WEEK), today - timedelta(days=LONGEST)
    there = [stored for stored in stored_reports(storage, name) if oldest <= stored.day <= newest]
    why = "no report of a week ago is stored yet"
    for stored in sorted(there, key=_newest_day_first):
        try:
            frame = frame_from_csv(name, read_report(storage, stored))
        except ValueError as error:
            why = f"{storage.location(stored.file)} can't be read: {error}"
        except (OperatorError, OSError) as error:
            why = str(error)
        else:
            return frame, (today - stored.day).days, storage.location(stored.file)
    return None, 0, why


def _newest_day_first(stored: StoredReport) -> tuple[int, int]:
    return -stored.day.toordinal(), stored.number
