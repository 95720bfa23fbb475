"""When a job last moved: times in whatever form a database keeps them, as instants.

Promises: a text that names no offset means a time in the zone given (the database's own, such as
ANALYSIS_DATABASE_TIMEZONE); what could mean two instants is taken for the later one, so that a job looks younger and is
left alone. Refuses to guess: numbers, zero dates and anything else that isn't clearly a date and time are UNREADABLE.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from saju_ops.times import EPOCH, parse_instant

# What SQLite's MAX over a column with an unreadable time comes to: later than any instant.
UNREADABLE = 1 << 62
# A clock of the service may run ahead of ours by so much.
CLOCK_SKEW = timedelta(minutes=5)

Fate = Literal["stale", "moving", "unreadable", "future"]


def microseconds(value: Any, kind: str, zone: ZoneInfo) -> int | None:
    """What SQLite computes with: microseconds since 1970, UNREADABLE, or None for NULL. `kind` is its typeof."""
    if kind == "null":
        return None
    found = parse_instant(value, zone) if kind == "text" else None
    return UNREADABLE if found is None else (found - EPOCH) // timedelta(microseconds=1)


class Moment(NamedTuple):
    """A time as the database holds it: `at` is None where `text` can't be read; both None for NULL."""

    column: str
    at: datetime | None
    text: str | None

    @property
    def unreadable(self) -> bool:
        return self.at is None and self.text is not None


def moment(column: str, cell: Any, zone: ZoneInfo) -> Moment:
    if cell is None:
        return Moment(column, None, None)
    return Moment(column, parse_instant(cell, zone), str(cell)[:40])


def computed_moment(column: str, value: int | None) -> Moment:
    """From what `microseconds` made of a column's largest value."""
    if value is None:
        return Moment(column, None, None)
    at = None if value == UNREADABLE else EPOCH + timedelta(microseconds=value)
    return Moment(column, at, "unreadable" if at is None else at.isoformat())


def fate(created: Moment, others: Sequence[Moment], cutoff: datetime, now: datetime) -> tuple[Fate, str]:
    """What the times say of an open job, and which of them says it. A job that moved exactly at the cutoff is
    not stale. NULL in created_at can't be judged; NULL in another column means that it never moved there."""
    if created.at is None:
        return "unreadable", created.column
    at, column = created.at, created.column
    for other in others:
        if other.at is None:
            if other.text is not None:
                return "unreadable", other.column
        elif other.at > at:
            at, column = other.at, other.column
    if at > now + CLOCK_SKEW:
        return "future", column
    return ("stale" if at < cutoff else "moving"), column
