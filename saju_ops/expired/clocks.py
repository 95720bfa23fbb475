"""Whether the times that a service writes agree with the zone that is set for its database. Reads only.

A service in Seoul that writes `datetime.now()` without a zone is nine hours ahead of one that writes UTC: read in the
wrong zone, its jobs live for 33 hours, or are deleted with 9 hours left. A row created in the future reveals that, and
so does a service whose newest row is exactly as old as the difference between two zones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.expired.expiry import COLUMN, TimeColumn
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import TIME_COLUMN
from saju_ops.stale.moments import CLOCK_SKEW

# A row written in another zone is recognised because it is new in that zone.
NEW = timedelta(minutes=30)
DAY = timedelta(days=1)
# Rows of a SQLite table that are looked at for its newest time: texts with offsets don't sort like their instants.
LOOKED_AT = 1_000
# The lifetime is checked for this many of the newest jobs.
LIVES = 50
LAST = datetime(9000, 1, 1)  # noqa: DTZ001


@dataclass(frozen=True)
class Clock:
    """The times of one table: `setting` names the zone of those that have none."""

    store: RowStore
    setting: str
    now: datetime

    @property
    def _created(self) -> TimeColumn | None:
        if TIME_COLUMN not in self.store.table.names:
            return None
        column = TimeColumn(self.store, TIME_COLUMN)
        return column if column.is_a_time() else None

    def newest(self, name: str = TIME_COLUMN) -> datetime | None:
        """The latest time in a column, UTC; None where there is none, or no such column."""
        if name not in self.store.table.names or not TimeColumn(self.store, name).is_a_time():
            return None
        found = [at for (at,) in self._latest([name], 1) if at is not None]
        return max(found, default=None)

    def _latest(self, names: Sequence[str], rows: int) -> list[tuple[datetime | None, ...]]:
        columns = [TimeColumn(self.store, name) for name in names]
        first = columns[0]
        query = sa.select(*(c.shown() for c in columns)).select_from(self.store.from_)
        near = [] if first.is_sqlite else [first.column < first.bound(LAST)]
        query = query.where(first.column.is_not(None), *near).order_by(first.column.desc())
        found = self.store.connection.execute(query.limit(max(rows, LOOKED_AT) if first.is_sqlite else rows)).all()
        self.store.end_read()
        return [tuple(map(_instant, columns, row)) for row in found]

    def ahead(self) -> datetime | None:
        """The newest creation time, if it is more than five minutes in the future."""
        created = self._created
        if created is None:
            return None
        query = sa.select(created.shown()).select_from(self.store.from_).where(created.after(self.now + CLOCK_SKEW))
        query = query if created.is_sqlite else query.order_by(created.column.desc()).limit(1)
        instants = [created.instant(value) for (value,) in self.store.connection.execute(query)]
        self.store.end_read()
        late = [at for at in instants if at is not None and at > self.now + CLOCK_SKEW]
        return max(late, default=None)

    def ahead_sentence(self, at: datetime) -> str:
        table = self.store.table.name
        read = f"by {self.setting} ({self.store.zone.key})"
        if self._created is not None and self._created.keeps_instants:
            read = "by the column's own zone"
        return (
            f"The newest row of {table} was made {shown_span(at - self.now)} ahead of now, at {_shown(at)} {read}, and"
            f" now is {_shown(self.now)}: the service writes its times in another zone, or a clock or that row is"
            " wrong."
        )

    def require(self, untouched: str) -> None:
        """Raises Refused where the newest row was made later than now."""
        if (at := self.ahead()) is not None:
            raise Refused(
                f"{self.ahead_sentence(at)} {untouched}; set {self.setting} to the zone in which the service writes, or"
                " correct the row."
            )

    def doubts(self, zones: Iterable[ZoneInfo]) -> list[str]:
        """A sentence where the times look as if they were written in one of these zones instead."""
        created = self._created
        if created is None:
            return []
        others = [zone for zone in {z.key: z for z in zones}.values() if zone.key != self.store.zone.key]
        newest = self.newest()
        for zone in others:
            if newest is not None and not created.keeps_instants and self._is_new_in(newest, zone):
                return [
                    f"The newest row of {self.store.table.name} is {shown_span(self.now - newest)} old by"
                    f" {self.setting} ({self.store.zone.key}), which is as much as {zone.key} differs: does the service"
                    f" write {zone.key}?"
                ]
        return [sentence for zone in others if (sentence := self._odd_lives(zone))][:1]

    def _is_new_in(self, newest: datetime, zone: ZoneInfo) -> bool:
        naive = newest.astimezone(self.store.zone).replace(tzinfo=None)
        age = self.now - naive.replace(tzinfo=zone).astimezone(UTC)
        return self.now - newest > NEW and -CLOCK_SKEW <= age <= NEW

    def _odd_lives(self, zone: ZoneInfo) -> str | None:
        """Where created_at has a zone and expires_at has none: lives of whole days in another zone, and in ours not."""
        created = self._created
        if created is None or not created.keeps_instants or COLUMN not in self.store.table.names:
            return None
        expires = TimeColumn(self.store, COLUMN)
        if expires.keeps_instants or not expires.is_a_time():
            return None
        pairs = [(a, b) for a, b in self._latest([TIME_COLUMN, COLUMN], LIVES) if a is not None and b is not None]
        own = [b - a for a, b in pairs]
        read = [b.astimezone(self.store.zone).replace(tzinfo=zone).astimezone(UTC) - a for a, b in pairs]
        if not pairs or any(map(_is_whole_days, own)) or not all(map(_is_whole_days, read)):
            return None
        return (
            f"The newest rows of {self.store.table.name} expire {shown_span(own[0])} after they were made by"
            f" {self.setting} ({self.store.zone.key}), and {shown_span(read[0])} after it by {zone.key}: does the"
            f" service write {zone.key}?"
        )


def _instant(column: TimeColumn, value: Any) -> datetime | None:
    return None if value is None else column.instant(value)


def _is_whole_days(life: timedelta) -> bool:
    rest = life % DAY
    return life > DAY / 2 and min(rest, DAY - rest) <= timedelta(minutes=1)


def _shown(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def shown_span(span: timedelta) -> str:
    """Hours and minutes, as a person says them."""
    minutes = round(abs(span) / timedelta(minutes=1))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
