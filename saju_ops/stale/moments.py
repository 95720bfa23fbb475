"""When a job last moved: times in whatever form a database keeps them, as instants.

Promises: a text that names no offset means a time in the zone given (the database's own, such as
ANALYSIS_DATABASE_TIMEZONE); what could mean two instants is taken for the later one, so that a job looks younger and is
left alone. Refuses to guess: numbers, zero dates and anything else that isn't clearly a date and time are UNREADABLE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What SQLite's MAX over a column with an unreadable time comes to: later than any instant.
UNREADABLE = 1 << 62
# A clock of the service may run ahead of ours by so much.
CLOCK_SKEW = timedelta(minutes=5)
# 1970-01-01, 0001-01-01 and 0000-00-00 stand for "no time" in many programs; no such service is that old.
EARLIEST_YEAR = 2000
PLAIN_LENGTHS = (19, 26)
_SLOW = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?)?"
    r"\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?",
    re.IGNORECASE,
)

Fate = Literal["stale", "moving", "unreadable", "future"]


def parse_instant(value: Any, zone: ZoneInfo) -> datetime | None:
    """The instant, UTC, that a stored value means; None where it can't be told."""
    if type(value) is str and len(value) in PLAIN_LENGTHS and zone.key == "UTC" and value[10] in " T":
        # What most programs write, three times as fast as the whole way round.
        with suppress(ValueError):
            found = datetime.fromisoformat(value)
            if found.tzinfo is None and value[4] == "-":
                return found.replace(tzinfo=UTC) if found.year >= EARLIEST_YEAR else None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        parsed = _parsed(text)
        if parsed is None or parsed.year < EARLIEST_YEAR:
            return None
        return _in_utc(parsed, zone)
    except (ValueError, OverflowError):
        return None


def _parsed(text: str) -> datetime | None:
    # fromisoformat alone would read the milliseconds 1712011112345 as a day in the year 1712.
    if len(text) > 10 and text[4] == "-" and text[7] == "-" and text[10] in " T":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    match = _SLOW.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        # A day alone: its last moment, the latest that it can mean.
        hour, minute, second, fraction = "23", "59", "59", "999999"
    iso = f"{year}-{int(month):02}-{int(day):02}T{int(hour):02}:{minute}:{second or '00'}.{fraction or '0'}"
    zone = {"z": "+00:00", "utc": "+00:00", "gmt": "+00:00"}.get((offset or "").lower(), offset or "")
    return datetime.fromisoformat(iso + zone)


def _in_utc(found: datetime, zone: ZoneInfo) -> datetime:
    if found.tzinfo is not None:
        return found.astimezone(UTC)
    if zone.key == "UTC":
        return found.replace(tzinfo=UTC)
    # An hour that the clocks show twice in autumn, or skip in spring, has two readings.
    return max(found.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


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
