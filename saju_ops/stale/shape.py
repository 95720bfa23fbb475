"""What the two tables of the analysis are like in this database: columns, kinds of times, indexes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from saju_ops.database.connect import redacted
from saju_ops.errors import Refused
from saju_ops.stale.connections import NoTables
from saju_ops.stale.files import _rowid_of

JOBS, RESULTS = "analysis_jobs", "analysis_results"
CREATED, UPDATED = "created_at", "updated_at"
# How a time column keeps an instant: MySQL TIMESTAMP; with an offset; in DATABASE_TIMEZONE; SQLite's text.
TimeKind = Literal["utc", "aware", "local", "text"]
# Rows up to which it is scanned while others wait to write.
LONG_SCAN_ROWS = 500_000
# Columns that MySQL renews by itself, in SHOW CREATE TABLE: information_schema leaves out columns that the account may
# not read.
RENEWED = re.compile(
    r"^  `((?:[^`]|``)+)` (?:(?! COMMENT ').)* ON UPDATE CURRENT_TIMESTAMP", re.MULTILINE | re.IGNORECASE
)
STORAGE_ENGINE = sa.text(
    "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)


class TableShape:
    """Reads the catalogue."""

    def __init__(self, connection: sa.Connection, url: sa.URL, zone: ZoneInfo) -> None:
        self.connection, self.url, self.zone = connection, url, zone
        self.sqlite = connection.dialect.name == "sqlite"
        self.mysql = connection.dialect.name in ("mysql", "mariadb")
        inspector = sa.inspect(connection)
        self._jobs = self._columns(inspector, JOBS, ("job_id", "status", CREATED))
        self._results = self._columns(inspector, RESULTS, ("job_id", "status"))
        self._require_key(inspector)
        self.jobs = sa.table(self._found(inspector, JOBS), *(sa.column(n) for n in self._jobs))
        self.results = sa.table(self._found(inspector, RESULTS), *(sa.column(n) for n in self._results))
        self.results_indexed = self._results_indexed(inspector)
        self._has_rowid = self.sqlite and self._rowid()
        self.job_times = self._times(JOBS, self._jobs)
        self.result_times = self._times(RESULTS, self._results)
        utc = ZoneInfo("UTC")
        self._zones = {
            f"{table}.{name.casefold()}": utc if kind == "utc" else zone
            for table, times in ((JOBS, self.job_times), (RESULTS, self.result_times))
            for name, kind in times.items()
        }
        self.renewed = self._renewed()
        self.end()

    def end(self) -> None:
        """Ends the transaction that a read began; nothing stays locked."""
        self.connection.rollback()

    def _found(self, inspector: sa.Inspector, table: str) -> str:
        return next((t for t in inspector.get_table_names() if t.casefold() == table), table)

    def _columns(self, inspector: sa.Inspector, table: str, needed: Sequence[str]) -> dict[str, Any]:
        if not any(t.casefold() == table for t in inspector.get_table_names()):
            raise NoTables(
                f"{redacted(self.url)} has no table {table}, so there are no analysis jobs to settle."
                " ANALYSIS_DATABASE_URL (or DATABASE_URL) names the database. Nothing was touched."
            )
        columns = {c["name"]: c["type"] for c in inspector.get_columns(self._found(inspector, table))}
        missing = [n for n in needed if _named(columns, n) is None]
        if missing:
            raise Refused(
                f"{table} in {redacted(self.url)} has no column {', '.join(missing)}, by which its stale jobs are"
                " found. Nothing was touched."
            )
        return columns

    def _require_key(self, inspector: sa.Inspector) -> None:
        table, wanted = self._found(inspector, JOBS), [_named(self._jobs, "job_id")]
        if inspector.get_pk_constraint(table)["constrained_columns"] == wanted:
            return
        unique: list[Any] = [u["column_names"] for u in inspector.get_unique_constraints(table)]
        unique += [i["column_names"] for i in inspector.get_indexes(table) if i["unique"] and not _partial(i)]
        if wanted not in unique:
            raise Refused(
                f"job_id of {table} in {redacted(self.url)} is neither the primary key nor unique, so a job can't be"
                f" identified. Add a unique index on {table}(job_id). Nothing was touched."
            )

    def _results_indexed(self, inspector: sa.Inspector) -> bool:
        table, column = self._found(inspector, RESULTS), _named(self._results, "job_id")
        leading: list[Any] = [inspector.get_pk_constraint(table)["constrained_columns"][:1]]
        leading += [u["column_names"][:1] for u in inspector.get_unique_constraints(table)]
        leading += [i["column_names"][:1] for i in inspector.get_indexes(table) if not _partial(i)]
        return [column] in leading

    def _rowid(self) -> bool:
        """Whether SQLite numbers the rows of analysis_results, and no column of its own bears that name."""
        if "rowid" in map(str.casefold, self._results):
            return False
        try:
            self.connection.execute(sa.select(_rowid_of(self.results)).limit(0))
        except sa.exc.OperationalError:
            return False
        return True

    def _times(self, table: str, columns: dict[str, Any]) -> dict[str, TimeKind]:
        """The time columns that say when something moved, by their names in the database."""
        found: dict[str, TimeKind] = {}
        for wanted in (CREATED, UPDATED):
            name = _named(columns, wanted)
            if name is not None:
                found[name] = self._time_kind(table, name, columns[name])
        return found

    def _time_kind(self, table: str, name: str, kind: Any) -> TimeKind:
        if self.sqlite:
            return "text"
        if isinstance(kind, mysql.TIMESTAMP):
            return "utc"
        if isinstance(kind, sa.DateTime):
            return "aware" if kind.timezone else "local"
        raise Refused(
            f"{name} of {table} in {redacted(self.url)} is a {kind}; a date with a time (DATETIME, TIMESTAMP) is"
            " needed to know how long a job hasn't moved. Nothing was touched."
        )

    def _renewed(self) -> list[str]:
        if not self.mysql:
            return []
        quoted = self.connection.dialect.identifier_preparer.quote(self.jobs.name)
        defined = str(self.connection.exec_driver_sql(f"SHOW CREATE TABLE {quoted}").one()[1])
        return [name.replace("``", "`") for name in RENEWED.findall(defined)]

    def storage_engine(self) -> str | None:
        """MySQL's storage engine of analysis_jobs; None elsewhere."""
        if not self.mysql:
            return None
        return str(self.connection.execute(STORAGE_ENGINE, {"name": self.jobs.name}).scalar())

    @property
    def _skips_locked(self) -> bool:
        """MySQL knows SKIP LOCKED from 8.0.1 on, MariaDB from 10.6, every PostgreSQL that is still kept."""
        dialect: Any = self.connection.dialect
        least = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1)
        return not self.mysql or tuple(dialect.server_version_info) >= least

    @property
    def evidence(self) -> list[str]:
        """The columns that show when a job moved."""
        return [f"{JOBS}.{n}" for n in self.job_times] + [f"{RESULTS}.{n}" for n in self.result_times]

    @property
    def database(self) -> str:
        return redacted(self.url)

    def _job(self, name: str) -> sa.ColumnClause[Any]:
        return self.jobs.c[_named(self._jobs, name) or name]

    def _result(self, name: str) -> sa.ColumnClause[Any]:
        return self.results.c[_named(self._results, name) or name]


def _named(columns: dict[str, Any], name: str) -> str | None:
    """The column's name as it is spelled in the table."""
    return name if name in columns else next((c for c in columns if c.casefold() == name), None)


def _partial(index: Any) -> bool:
    options = index.get("dialect_options", {})
    return any(k.endswith("_where") for k in options) or None in index["column_names"]
