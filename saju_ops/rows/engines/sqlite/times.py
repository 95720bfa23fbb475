"""Days of a SQLite table, whose times are texts in several spellings."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.rows.days import FIRST_MOMENT, Day, moment, naive_bound
from saju_ops.rows.engines.base import RowStore
from saju_ops.rows.engines.sqlite.cells import _text
from saju_ops.rows.table import TIME_COLUMN

# How a time ends that says its offset.
OFFSETS = ("*[0-9]Z", "*[0-9]z", "*[+-][0-9][0-9]:[0-9][0-9]")


class SQLiteTimes(RowStore):
    """Which rows are of a day."""

    def time_bound(self, instant: datetime) -> Any:
        return _bound(instant, self.zone).encode()

    def _spellings(self) -> list[tuple[Any, ZoneInfo]]:
        """The zones in which `_seconds` gives a time: UTC for a time with an offset, else the database's."""
        if self.zone.key == "UTC":
            return [(sa.true(), self.zone)]
        time = self.col(TIME_COLUMN)
        has_offset = sa.or_(*(time.op("GLOB")(shape) for shape in OFFSETS))
        return [(sa.not_(has_offset), self.zone), (has_offset, ZoneInfo("UTC"))]

    def day_condition(self, day: Day) -> list[sa.ColumnElement[bool]]:
        # `datetime` reads every way to write a time (a blank or a T, fractions, Z, an offset). The plain
        # comparison before it only lets an index narrow the search, two days wider than any offset.
        time = self.col(TIME_COLUMN)
        seconds = _seconds(time)
        early = (day.start - timedelta(days=2)).strftime("%Y-%m-%d")
        late = (day.end + timedelta(days=2)).strftime("%Y-%m-%d")
        inside = (
            sa.and_(so, seconds >= _bound(day.start, zone), seconds < _bound(day.end, zone))
            for so, zone in self._spellings()
        )
        return [time >= early, time < late, sa.or_(*inside)]

    def unreadable(self) -> sa.ColumnElement[bool] | None:
        time = self.col(TIME_COLUMN)
        other = sa.func.typeof(time).not_in(["text", "null"])
        return sa.or_(other, sa.and_(time.is_not(None), _seconds(time).is_(None)))

    def before(self, instant: datetime) -> sa.ColumnElement[bool]:
        time = self.col(TIME_COLUMN)
        early = (sa.and_(so, _seconds(time) < _bound(instant, zone)) for so, zone in self._spellings())
        return sa.and_(sa.func.typeof(time) == "text", sa.or_(*early))

    def not_before(self, instant: datetime) -> sa.ColumnElement[bool]:
        seconds = _seconds(self.col(TIME_COLUMN))
        return sa.or_(*(sa.and_(so, seconds >= _bound(instant, zone)) for so, zone in self._spellings()))

    def _picked(self, pick: Any, zone: ZoneInfo, *where: Any) -> datetime | None:
        query = sa.select(pick(_seconds(self.col(TIME_COLUMN)))).select_from(self.from_).where(*where)
        value = self.connection.execute(query).scalar()
        self.end_read()
        if value is None:
            return None
        try:
            return moment(datetime.fromisoformat(_text(value)), zone)
        except ValueError:
            return FIRST_MOMENT  # of the year 0, or before

    def instants(self, order: str) -> datetime | None:
        pick, choose = (sa.func.min, min) if order == "asc" else (sa.func.max, max)
        found = [self._picked(pick, zone, so) for so, zone in self._spellings()]
        return choose((each for each in found if each is not None), default=None)

    def first_instant_from(self, instant: datetime) -> datetime | None:
        found = [self._first_from(instant, so, zone) for so, zone in self._spellings()]
        return min((each for each in found if each is not None), default=None)

    def _first_from(self, instant: datetime, so: Any, zone: ZoneInfo) -> datetime | None:
        time = self.col(TIME_COLUMN)
        seconds = _seconds(time)
        early = (instant - timedelta(days=2)).strftime("%Y-%m-%d")
        # Rows of the next three days are within the next four in text order, whatever their offset.
        near = (instant + timedelta(days=4)).strftime("%Y-%m-%d")
        sure = (instant + timedelta(days=3)).strftime("%Y-%m-%d")
        sought = [so, time >= early, seconds >= _bound(instant, zone)]
        soon = self._picked(sa.func.min, zone, *sought, time < near, seconds < sure)
        return soon or self._picked(sa.func.min, zone, *sought)


def _bound(instant: datetime, zone: ZoneInfo) -> str:
    return naive_bound(instant, zone).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(time: sa.ColumnElement[Any]) -> Any:
    """The second in which a time falls; in UTC if the time has an offset.

    `datetime` alone rounds: 23:59:59.9996 would be of the next day."""
    piece, zone = sa.func.substr(time, 1, 19), sa.func.ltrim(sa.func.substr(time, 21), "0123456789")
    # Only results of arithmetic are normalized to a calendar date: 24:00:00 and February 31 otherwise stay as they are.
    none: Any = sa.literal_column("'+0 seconds'")
    whole = sa.func.datetime(piece.op("||")(zone), none)
    return sa.case((sa.func.substr(time, 20, 1) == ".", whole), else_=sa.func.datetime(time, none))
