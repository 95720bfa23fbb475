"""Which rows are past their `expires_at`: instants compared, in whatever zone the column is kept.

Promises: exactly now is not past; NULL never is; a time that could mean two instants (the hour that a change
of clocks repeats) is taken for the later one. What isn't clearly a time (a zero date, a number, a year before
2000, which stands for "none" in many programs) is past for nobody: such rows stay and are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.engines import LogStore
from saju_ops.errors import Refused
from saju_ops.queue.stale_times import parse_instant

COLUMN = "expires_at"
# Kept with a zone, or in the session's zone, which saju_ops pins to UTC.
INSTANTS = {"mysql": ("timestamp",), "mariadb": ("timestamp",), "postgresql": ("timestamptz",)}
NAIVE = {"mysql": ("datetime",), "mariadb": ("datetime",), "postgresql": ("timestamp",)}
EARLIEST = datetime(2000, 1, 1)  # noqa: DTZ001


@dataclass(frozen=True)
class Expiry:
    """Rows of one table that were past at `now` (with its zone)."""

    store: LogStore
    now: datetime

    def __post_init__(self) -> None:
        table = self.store.table
        if COLUMN not in table.names:
            raise Refused(f"The table {table.name} has no column {COLUMN}, by which it expires. Nothing was deleted.")
        kinds = INSTANTS.get(table.engine, ()) + NAIVE.get(table.engine, ())
        family = table.column(COLUMN).family
        if kinds and family not in kinds:
            raise Refused(
                f"{table.name}.{COLUMN} is a {family}; it may be a {' or '.join(kinds)}. Nothing was deleted."
            )

    @property
    def _sqlite(self) -> bool:
        return self.store.table.engine == "sqlite"

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which the column's times without one are."""
        table = self.store.table
        kept_as_instant = table.column(COLUMN).family in INSTANTS.get(table.engine, ())
        return ZoneInfo("UTC") if kept_as_instant else self.store.zone

    @property
    def column(self) -> sa.ColumnElement[Any]:
        return self.store.col(COLUMN)

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """What the database can tell: exact on the servers, a little too wide on SQLite (`is_past` decides)."""
        if self._sqlite:
            # Texts that begin with a date sort like it, two days wider than any offset; the others are all taken.
            near = (self.now + timedelta(days=2)).astimezone(UTC).strftime("%Y-%m-%d")
            dated = self.column.op("GLOB")("[0-9][0-9][0-9][0-9]-[0-9][0-9]-*")
            return [self.column.is_not(None), sa.or_(sa.not_(dated), self.column < near)]
        return [self.column < self._bound(self._last_naive()), self.column >= self._bound(EARLIEST)]

    def unreadable(self) -> list[sa.ColumnElement[bool]]:
        """Rows whose time is none, on the servers; SQLite's are found by reading them."""
        return [self.column < self._bound(EARLIEST)]

    def is_past(self, value: Any) -> bool | None:
        """Of a value that `shown` gave; None where it isn't clearly a time."""
        if not self._sqlite:
            return True
        instant = parse_instant(value, self.store.zone)
        return None if instant is None else instant < self.now

    def instant(self, value: Any) -> datetime | None:
        """The instant of a value that `shown` gave."""
        return parse_instant(value if isinstance(value, bytes) else str(value), self.zone)

    def shown(self) -> sa.ColumnElement[Any]:
        """The column as text, as it is stored."""
        if self._sqlite:
            return self.column
        return sa.cast(self.column, sa.CHAR if self.store.table.engine in ("mysql", "mariadb") else sa.Text)

    def _last_naive(self) -> datetime:
        """Every time before it, as the column keeps times, is surely past."""
        naive = self.now.astimezone(self.zone).replace(tzinfo=None)
        if naive.replace(tzinfo=self.zone, fold=1).astimezone(UTC) > self.now.astimezone(UTC):
            # The clocks are about to be turned back: what was just past may mean the same hour's second coming.
            first, second = (naive.replace(tzinfo=self.zone, fold=f).utcoffset() or timedelta() for f in (0, 1))
            naive -= first - second
        return naive

    def _bound(self, naive: datetime) -> Any:
        text = naive.strftime("%Y-%m-%d %H:%M:%S.%f")
        if self.store.table.engine != "postgresql":
            return text
        aware = self.store.table.column(COLUMN).family == "timestamptz"
        return sa.cast(sa.literal(text + "+00" * aware, sa.Text), sa.TIMESTAMP(timezone=aware))
