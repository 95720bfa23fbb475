"""Which rows are past their `expires_at`: instants compared, in whatever zone the column is kept.

A time that is exactly now is not past; NULL never is. A time that could mean two instants (the hour that a change of
clocks repeats) is taken for the later one. A value that isn't clearly a time (a zero date, a number, a year before
2000, which means "none" in many programs) never counts as past: such rows stay and are counted.

If a table says when a row was last used, the later of that and `expires_at` counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.rows.engines.open import RowStore
from saju_ops.times import parse_instant

COLUMN = "expires_at"
# Kept with a zone, or in the session's zone, which saju_ops pins to UTC.
INSTANTS = {"mysql": ("timestamp",), "mariadb": ("timestamp",), "postgresql": ("timestamptz",)}
NAIVE = {"mysql": ("datetime",), "mariadb": ("datetime",), "postgresql": ("timestamp",)}
EARLIEST = datetime(2000, 1, 1)  # noqa: DTZ001
# Beginnings of texts that mean no time at all.
NO_TIME = ("0000-", "0001-01-01", "1970-01-01")


@dataclass(frozen=True)
class TimeColumn:
    """A column of times of one table, and the zone in which it keeps them."""

    store: RowStore
    name: str

    @property
    def engine(self) -> str:
        return self.store.table.engine

    @property
    def is_sqlite(self) -> bool:
        return self.engine == "sqlite"

    @cached_property
    def family(self) -> str:
        return self.store.table.column(self.name).family

    @property
    def keeps_instants(self) -> bool:
        return self.family in INSTANTS.get(self.engine, ())

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which the column's times without one are."""
        return ZoneInfo("UTC") if self.keeps_instants else self.store.zone

    @property
    def column(self) -> sa.ColumnElement[Any]:
        return self.store.col(self.name)

    def is_a_time(self, *more: str) -> bool:
        """Whether the server can compare it as a time. SQLite's cells are looked at one by one."""
        kinds = INSTANTS.get(self.engine, ()) + NAIVE.get(self.engine, ())
        return not kinds or self.family in (*kinds, *more)

    def shown(self) -> sa.ColumnElement[Any]:
        """The column as text, as it is stored."""
        if self.is_sqlite:
            return self.column
        return sa.cast(self.column, sa.CHAR if self.engine in ("mysql", "mariadb") else sa.Text)

    def instant(self, value: Any) -> datetime | None:
        """The instant of a value that `shown` gave; None where it isn't clearly a time."""
        if self.is_sqlite:
            return parse_instant(value, self.store.zone)
        return parse_instant(value if isinstance(value, bytes) else str(value), self.zone)

    def before(self, now: datetime) -> sa.ColumnElement[bool]:
        """Times that are past: exact on the servers, a little too wide on SQLite, where each is looked at after."""
        if self.is_sqlite:
            # Texts that begin with a date sort like it, two days wider than any offset; the others are all taken.
            near = (now + timedelta(days=2)).astimezone(UTC).strftime("%Y-%m-%d")
            return sa.or_(sa.not_(self._dated()), self.column < near)
        # A day alone means its end.
        return self.column < self.bound(self._last_naive(now) - timedelta(days=self.family == "date"))

    def after(self, now: datetime) -> sa.ColumnElement[bool]:
        """Times that are to come, in the same way."""
        if self.is_sqlite:
            near = (now - timedelta(days=2)).astimezone(UTC).strftime("%Y-%m-%d")
            return sa.and_(self._dated(), self.column > near)
        return self.column > self.bound(now.astimezone(self.zone).replace(tzinfo=None))

    def _dated(self) -> sa.ColumnElement[bool]:
        return self.column.op("GLOB")("[0-9][0-9][0-9][0-9]-[0-9][0-9]-*")

    def _last_naive(self, now: datetime) -> datetime:
        """Every time before it, as the column keeps times, is surely past."""
        naive = now.astimezone(self.zone).replace(tzinfo=None)
        if naive.replace(tzinfo=self.zone, fold=1).astimezone(UTC) > now.astimezone(UTC):
            # The clocks are about to be turned back: a time that was just past may mean the repeated hour.
            first, second = (naive.replace(tzinfo=self.zone, fold=f).utcoffset() or timedelta() for f in (0, 1))
            naive -= first - second
        return naive

    def bound(self, naive: datetime) -> Any:
        text = naive.strftime("%Y-%m-%d %H:%M:%S.%f")
        if self.engine != "postgresql":
            return text
        aware = self.family == "timestamptz"
        return sa.cast(sa.literal(text + "+00" * aware, sa.Text), sa.TIMESTAMP(timezone=aware))


@dataclass(frozen=True)
class Expiry:
    """Rows of one table that were past at `now` (with its zone): by `expires_at`, and by the columns of `used`, which
    say when a row was last used. NULL in one of those says nothing."""

    store: RowStore
    now: datetime
    used: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        table = self.store.table
        if COLUMN not in table.names:
            raise Refused(f"The table {table.name} has no column {COLUMN}, by which it expires. Nothing was deleted.")
        kinds = INSTANTS.get(table.engine, ()) + NAIVE.get(table.engine, ())
        for each, more in ((self._expires, ()), *((used, ("date",)) for used in self._used)):
            if not each.is_a_time(*more):
                raise Refused(
                    f"{table.name}.{each.name} is a {each.family}; it may be a {' or '.join(kinds)}. Nothing was"
                    " deleted."
                )

    @property
    def _expires(self) -> TimeColumn:
        return TimeColumn(self.store, COLUMN)

    @property
    def _used(self) -> tuple[TimeColumn, ...]:
        return tuple(TimeColumn(self.store, name) for name in self.used)

    @property
    def column(self) -> sa.ColumnElement[Any]:
        return self.store.col(COLUMN)

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions that the database can check: exact on the servers, a little too wide on SQLite (`is_past`
        decides)."""
        found = [self.column.is_not(None), self._expires.before(self.now)]
        if not self._expires.is_sqlite:
            found.append(self.column >= self._expires.bound(EARLIEST))
        return found + [sa.or_(used.column.is_(None), used.before(self.now)) for used in self._used]

    def unreadable(self) -> list[sa.ColumnElement[bool]]:
        """Rows whose value is no time, on the servers; SQLite's are found by reading them."""
        return [self.column < self._expires.bound(EARLIEST)]

    def shown(self) -> list[sa.ColumnElement[Any]]:
        """What `is_past` looks at, as it is stored."""
        return [each.shown() for each in (self._expires, *self._used)]

    def is_past(self, values: Sequence[Any]) -> bool | None:
        """Judges what `shown` gave for one row; None if one of its times isn't clearly a time."""
        if not self._expires.is_sqlite:
            return True
        times = [values[0], *(v for v in values[1:] if v is not None and not _is_no_time(v))]
        instants = [self._expires.instant(value) for value in times]
        return None if None in instants else all(at is not None and at < self.now for at in instants)

    def instant(self, values: Sequence[Any]) -> datetime | None:
        """The instant at which a row of which `shown` gave this expired."""
        return self._expires.instant(values[0])


def _is_no_time(value: Any) -> bool:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return not text.strip() or text.strip().startswith(NO_TIME)
