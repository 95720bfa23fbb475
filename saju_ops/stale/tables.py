"""The two tables of the speech analysis as the database has them, and every query on them.

Names are quoted by the dialect, values bound. The only required columns are `job_id` (a key) and `status` of
analysis_jobs, `job_id` and `status` of analysis_results. A time column is used if it exists. Only `status` of
analysis_jobs is ever written; a column that MySQL would renew by itself is set to its present value. Tables, columns
and types that can't be read reliably are refused in a sentence that names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.types import NullType

from saju_ops.stale.connections import INSTANT
from saju_ops.stale.files import Files, _later, _plain_time, _rowid_of, _sum
from saju_ops.stale.moments import Moment, computed_moment, moment
from saju_ops.stale.shape import CREATED, JOBS, LONG_SCAN_ROWS, RESULTS, UPDATED, TableShape, _named
from saju_ops.times import EARLIEST_YEAR

OPEN = ("pending", "processing")
COMPLETED = "completed"
CREATED_LABEL, UPDATED_LABEL = f"{JOBS}.{CREATED}", f"{JOBS}.{UPDATED}"
# A text that starts like this is ordered by time as by letter, up to its offset; two days cover any offset. LIKE
# takes 0.05 s for a million rows, GLOB 0.2 s or more.
DATE_SHAPE = "2___-__-__%"
ANY_OFFSET = timedelta(days=2)
# A time without a zone is ambiguous by so much, at most, in the night that the clocks change.
CLOCK_CHANGE = timedelta(hours=2)
# Rows of an unindexed results table per statement, so that a writer never waits long for the reader (0.3 s).
SCAN_ROWS = 250_000


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


class Tables(TableShape):
    """The tables on one open connection. Raises Refused if they aren't what they must be."""

    # --- queries -------------------------------------------------------------------------------------

    # --- reading -------------------------------------------------------------------------------------------

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
        # The index alone decides most rows: a text that begins with an earlier year, month and day. Only the rest is
        # read: rows of the last days, and texts in another form. With its dash, because SQLite would compare '2000' as
        # a number with a column that is declared DATETIME.
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
        """Open jobs without those that were surely created after the cutoff, the oldest first, as a stream."""
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
        """The present jobs, locked against others until the transaction ends; a job that somebody else has locked is
        left out."""
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
        """Whether reading the results of some jobs requires a scan of the whole table, piece by piece."""
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
        """A time as text, since a driver may refuse values that a column may hold: zero dates, infinity."""
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
        if _family(own) != _family(other) and not self.sqlite:
            return result == sa.cast(job, sa.Text) if _family(other) == "text" else _by_text(job, result, self.mysql)
        mine, theirs = getattr(own, "collation", None), getattr(other, "collation", None)
        if self.sqlite:
            # It compares by the left column's collation.
            return sa.and_(result == job, job == result)
        if mine == theirs or (self.mysql and None in (mine, theirs)):
            return result == job
        # Two collations in one comparison are an error. The first comparison uses the results' index, the second is the
        # one by which two jobs differ.
        same = result == sa.collate(job, theirs or "default")
        return sa.and_(same, job == sa.collate(_in_set_of(mine, result) if self.mysql else result, mine or "default"))


def _in_set_of(collation: str | None, text: Any) -> Any:
    """A text in the character set of one of MySQL's collations."""
    return sa.func.convert(text.op("USING")(sa.literal_column(str(collation).partition("_")[0])))


def _by_text(job: Any, result: Any, compares_itself: bool) -> Any:
    return result == job if compares_itself else sa.cast(result, sa.Text) == sa.cast(job, sa.Text)


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
