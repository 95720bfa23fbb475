"""The two tables of the speech analysis as the database has them, and every query on them.

Promises: names are quoted by the dialect, values bound; nothing is taken for granted but `job_id` (a key) and
`status` of analysis_jobs, `job_id` and `status` of analysis_results. A time column is used where it exists.
Only `status` of analysis_jobs is ever written; a column that MySQL would renew by itself is set to what it is.
Refuses tables, columns and types that it can't read for certain, in a sentence that names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import NullType

from saju_ops.database.connect import redacted
from saju_ops.errors import Refused
from saju_ops.stale.connections import INSTANT, NoTables
from saju_ops.stale.files import Files, _later, _plain_time, _rowid_of, _sum
from saju_ops.stale.moments import Moment, computed_moment, moment
from saju_ops.times import EARLIEST_YEAR

JOBS, RESULTS = "analysis_jobs", "analysis_results"
OPEN = ("pending", "processing")
COMPLETED = "completed"
CREATED, UPDATED = "created_at", "updated_at"
CREATED_LABEL, UPDATED_LABEL = f"{JOBS}.{CREATED}", f"{JOBS}.{UPDATED}"
# How a time column keeps an instant: MySQL TIMESTAMP; with an offset; in DATABASE_TIMEZONE; SQLite's text.
TimeKind = Literal["utc", "aware", "local", "text"]
# A text that starts like this is ordered by time as by letter, up to its offset; two days cover any offset. LIKE
# takes 0.05 s for a million rows, GLOB 0.2 s or more.
DATE_SHAPE = "2___-__-__%"
ANY_OFFSET = timedelta(days=2)
# A time without a zone is ambiguous by so much, at most, in the night that the clocks change.
CLOCK_CHANGE = timedelta(hours=2)
# Rows of an unindexed results table per statement, so that a writer never waits long for the reader (0.3 s).
SCAN_ROWS = 250_000
# Rows up to which it is scanned while others wait to write.
LONG_SCAN_ROWS = 500_000

# Columns that MySQL renews by itself, in SHOW CREATE TABLE: information_schema leaves out what the account may not
# read.
RENEWED = re.compile(
    r"^  `((?:[^`]|``)+)` (?:(?! COMMENT ').)* ON UPDATE CURRENT_TIMESTAMP", re.MULTILINE | re.IGNORECASE
)
STORAGE_ENGINE = sa.text(
    "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)


def normal(status: Any) -> str:
    """A status without the differences that don't matter: letter case, blanks around it."""
    return "" if status is None else str(status).strip().casefold()


def same_case(seen: str, word: str) -> str:
    """The word in the letter case of the status it replaces: PENDING becomes COMPLETED, Pending Completed."""
    seen = seen.strip()
    return word.upper() if seen.isupper() else word.capitalize() if seen.istitle() else word


class OpenJob(NamedTuple):
    """A row of analysis_jobs whose status is pending or processing."""

    key: Any
    status: str
    folder: str | None
    created: Moment
    updated: Moment


class Tables:
    """The tables on one open connection. Raises Refused where they aren't what they must be."""

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

    # --- what is there -------------------------------------------------------------------------------------

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
                " told. Nothing was touched."
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
                f" told from another. Add a unique index on {table}(job_id). Nothing was touched."
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
            " needed to tell how long a job hasn't moved. Nothing was touched."
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
        """The columns by which a job is told to have moved."""
        return [f"{JOBS}.{n}" for n in self.job_times] + [f"{RESULTS}.{n}" for n in self.result_times]

    @property
    def database(self) -> str:
        return redacted(self.url)

    # --- reading -------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Ends the transaction that a read began; nothing stays locked."""
        self.connection.rollback()

    def statuses(self) -> list[tuple[str | None, int]]:
        """Jobs per status as it is spelled."""
        status = self._job("status")
        query = sa.select(self._plain(status), sa.func.count()).group_by(status)
        return [(None if s is None else _shown(s), int(n)) for s, n in self.connection.execute(query)]

    def older_than(self, bound: datetime) -> int:
        """Jobs created at the instant or before it, whatever their status."""
        created = self._job(CREATED)
        if not self.sqlite:
            query = sa.select(sa.func.count()).select_from(self.jobs)
            query = query.where(created <= self._bound(created.name, bound))
            return int(self.connection.execute(query).scalar_one())
        # Most rows are told by the index alone: a text that begins with an earlier year, month and day. Only the rest
        # is looked at: the last days' and what isn't written so.
        # With its dash, because SQLite would compare '2000' as a number with a column that is declared DATETIME.
        earliest = f"{EARLIEST_YEAR}-"
        low, high = (f"{bound + sign * ANY_OFFSET:%Y-%m-%d}" for sign in (-1, 1))
        surely = sa.select(sa.func.count()).select_from(self.jobs)
        surely = surely.where(created >= earliest, created < low)
        recent = sa.and_(created.like(DATE_SHAPE), created >= high)
        exact = sa.case((recent, 0), (self._instant(created) <= _micro(bound), 1), else_=0)
        rest = [created < earliest, created >= low]
        total = int(self.connection.execute(surely).scalar_one())
        for where in rest:
            total += int(self.connection.execute(sa.select(sa.func.sum(exact)).where(where)).scalar() or 0)
        return total

    def open_jobs(self, spellings: Sequence[str], cutoff: datetime, now: datetime) -> Iterator[OpenJob]:
        """Open jobs but for those that were surely created after the cutoff, the oldest first, as a stream."""
        created = self._job(CREATED)
        # By an expression: for the column itself SQLite walks through the whole table in the order of its index.
        age = created.op("||")(sa.literal_column("''")) if self.sqlite else self._cell(created)
        query = sa.select(*self._job_cells()).where(self._status_in(spellings)).order_by(age, self._job("job_id"))
        if not self.sqlite:
            recent = sa.and_(
                created >= self._bound(created.name, cutoff + CLOCK_CHANGE), created <= self._bound(created.name, now)
            )
            # NULL is not recent, and NOT NULL would be NULL.
            query = query.where(sa.or_(created.is_(None), sa.not_(recent)))
        options = {"stream_results": True, "yield_per": 1000}
        for row in self.connection.execute(query, execution_options=options):
            yield self._open_job(row)

    def jobs_now(self, keys: Sequence[Any]) -> dict[Any, OpenJob]:
        """The jobs as they are now, locked against others till the transaction ends; one that somebody holds a
        lock on right now is left out."""
        query = sa.select(*self._job_cells()).where(self._job("job_id").in_(_list(keys)))
        if not self.sqlite:
            query = query.with_for_update(skip_locked=self._skips_locked)
        return {job.key: job for job in map(self._open_job, self.connection.execute(query))}

    def statuses_of(self, keys: Sequence[Any], *, lock: bool) -> dict[Any, str]:
        key, status = self._job("job_id"), self._job("status")
        query = sa.select(key, self._plain(status)).where(key.in_(_list(keys)))
        if lock and not self.sqlite:
            query = query.with_for_update()
        return {k: _shown(s) for k, s in self.connection.execute(query)}

    def files_of(self, keys: Sequence[Any]) -> dict[Any, Files]:
        """What the results hold of these jobs; a job without results is left out."""
        if self.scans_results and not any(isinstance(k, bytes) for k in keys):
            return self._files_by_scan(keys)
        job, result = self._job("job_id"), self._result("job_id")
        query = (
            sa.select(job, *self._file_cells())
            .select_from(self.jobs.join(self.results, self._same_job(job, result)))
            .where(job.in_(_list(keys)))
            .group_by(job)
        )
        return {row[0]: self._files(row[1:]) for row in self.connection.execute(query)}

    def _files_by_scan(self, keys: Sequence[Any]) -> dict[Any, Files]:
        """SQLite without an index on job_id: range after range of the table, none of which holds up a writer."""
        rowid = _rowid_of(self.results)
        first, last = self.connection.execute(sa.select(sa.func.min(rowid), sa.func.max(rowid))).one()
        if first is None:
            return {}
        job = self._result("job_id")
        wanted: Any = sa.select(sa.column("value")).select_from(
            sa.func.json_each(json.dumps(list(keys), ensure_ascii=False)).table_valued("value")
        )
        names = {str(k): k for k in keys}
        found: dict[Any, Files] = {}
        for start in range(first, last + 1, SCAN_ROWS):
            query = sa.select(job, *self._file_cells()).where(
                rowid.between(start, start + SCAN_ROWS - 1), job.in_(wanted)
            )
            for row in self.connection.execute(query.group_by(job)):
                key = names[str(row[0])]
                found[key] = _sum(found.get(key), self._files(row[1:]))
        return found

    @property
    def scans_results(self) -> bool:
        """Whether what the results hold of some jobs takes a walk through the whole table, piece by piece."""
        return self.sqlite and not self.results_indexed and self._has_rowid

    def scan_takes_long(self) -> bool:
        """By SQLite's largest rowid, which is about the number of rows."""
        rowid = _rowid_of(self.results)
        return int(self.connection.execute(sa.select(sa.func.max(rowid))).scalar() or 0) > LONG_SCAN_ROWS

    # --- changing ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begins a transaction for changes. On SQLite the only writer is then this one."""
        if self.sqlite:
            self.connection.exec_driver_sql("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.connection.commit()

    def set_status(self, keys: Sequence[Any], seen: str, becomes: str) -> int:
        """Rows changed: those of the keys that still have the status seen."""
        values: dict[str, Any] = {self._job("status").name: _value(becomes)}
        values |= {name: self.jobs.c[name] for name in self.renewed}
        where = sa.and_(self._job("job_id").in_(_list(keys)), self._job("status") == _value(seen))
        return self.connection.execute(sa.update(self.jobs).where(where).values(values)).rowcount

    # --- pieces --------------------------------------------------------------------------------------------

    def _job(self, name: str) -> sa.ColumnClause[Any]:
        return self.jobs.c[_named(self._jobs, name) or name]

    def _result(self, name: str) -> sa.ColumnClause[Any]:
        return self.results.c[_named(self._results, name) or name]

    def status_type(self) -> Any:
        return self._jobs[self._job("status").name]

    def _plain(self, column: Any) -> Any:
        """A status as text: an ENUM of PostgreSQL has no letters of its own."""
        return column if self.sqlite or self.mysql else sa.cast(column, sa.Text)

    def _status_in(self, spellings: Sequence[str]) -> Any:
        return self._job("status").in_(_list(spellings))

    def _job_cells(self) -> list[Any]:
        folder = _named(self._jobs, "folder_path")
        updated = _named(self._jobs, UPDATED)
        return [
            self._job("job_id"),
            self._plain(self._job("status")),
            self.jobs.c[folder] if folder else sa.null(),
            self._cell(self._job(CREATED)),
            self._cell(self.jobs.c[updated]) if updated else sa.null(),
        ]

    def _open_job(self, row: Any) -> OpenJob:
        key, status, folder, created, updated = row
        return OpenJob(
            key, _shown(status), None if folder is None else _shown(folder),
            self._moment(CREATED_LABEL, created), self._moment(UPDATED_LABEL, updated),
        )  # fmt: skip

    def _cell(self, column: Any) -> Any:
        """A time as text, since a driver may refuse what a column may hold: zero dates, infinity."""
        return column if self.sqlite else sa.cast(column, sa.Text)

    def _moment(self, label: str, cell: Any) -> Moment:
        return moment(label, cell, self._zones.get(label, self.zone))

    def _file_cells(self) -> list[Any]:
        done = sa.func.lower(sa.func.trim(self._plain(self._result("status")))) == COMPLETED
        cells: list[Any] = [sa.func.count(), sa.func.sum(sa.case((done, 1), else_=0))]
        for name in self.result_times:
            column = self.results.c[name]
            if self.sqlite:
                plain = _plain_time(column)
                cells.append(sa.func.max(sa.case((plain, column))))
                cells.append(sa.func.max(sa.case((plain, sa.null()), else_=self._instant(column))))
            else:
                cells.append(self._cell(sa.func.max(column)))
        return cells

    def _files(self, cells: Any) -> Files:
        total, done, *times = cells
        moments = []
        for number, name in enumerate(self.result_times):
            label = f"{RESULTS}.{name.casefold()}"
            if self.sqlite:
                plain, computed = times[2 * number : 2 * number + 2]
                latest = self._moment(label, plain)
                moments.append(latest if computed is None else _later(latest, computed_moment(label, computed)))
            else:
                moments.append(self._moment(label, times[number]))
        return Files(int(total), int(done or 0), tuple(moments))

    def _instant(self, column: Any) -> Any:
        return getattr(sa.func, INSTANT)(sa.cast(column, sa.LargeBinary), sa.func.typeof(column))

    def _bound(self, name: str, instant: datetime) -> Any:
        kind = self.job_times[name]
        if kind == "aware":
            return sa.bindparam(None, instant, sa.DateTime(timezone=True))
        zone = ZoneInfo("UTC") if kind == "utc" else self.zone
        return sa.bindparam(None, instant.astimezone(zone).replace(tzinfo=None), sa.DateTime())

    def _same_job(self, job: Any, result: Any) -> Any:
        """The two ids compared so that an index on the results' one can be used, whatever their types are."""
        own, other = self._jobs[job.name], self._results[result.name]
        if self.sqlite or (_family(own) == _family(other) and not self.mysql):
            return result == job
        if _family(own) != _family(other):
            return result == sa.cast(job, sa.Text) if _family(other) == "text" else _by_text(job, result, self.mysql)
        collation = getattr(other, "collation", None)
        # Two collations in one comparison are an error to MySQL (1267).
        if collation is None or collation == getattr(own, "collation", None):
            return result == job
        return result == sa.collate(job, collation)


def _by_text(job: Any, result: Any, compares_itself: bool) -> Any:
    return result == job if compares_itself else sa.cast(result, sa.Text) == sa.cast(job, sa.Text)


def _named(columns: dict[str, Any], name: str) -> str | None:
    """The column's name as it is spelled in the table."""
    return name if name in columns else next((c for c in columns if c.casefold() == name), None)


def _partial(index: Any) -> bool:
    options = index.get("dialect_options", {})
    return any(k.endswith("_where") for k in options) or None in index["column_names"]


def _family(kind: Any) -> str:
    if isinstance(kind, sa.Integer):
        return "integer"
    return "text" if isinstance(kind, sa.String) else type(kind).__name__.lower()


def _shown(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _value(value: Any) -> Any:
    # Without a type of its own, so that PostgreSQL takes the text for a value of the column's ENUM.
    return sa.bindparam(None, value, NullType())


def _list(values: Sequence[Any]) -> Any:
    return sa.bindparam(None, list(values), NullType(), expanding=True)


def _micro(instant: datetime) -> int:
    return (instant.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
