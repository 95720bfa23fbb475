"""Days in the service's time zone, as half-open windows of instants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo


@dataclass(frozen=True, order=True)
class Day:
    """One calendar day in `zone`: every instant from `start` to just before `end`, both UTC."""

    date: date
    zone: ZoneInfo

    @property
    def start(self) -> datetime:
        return _midnight(self.date, self.zone)

    @property
    def end(self) -> datetime:
        return _midnight(self.date + timedelta(days=1), self.zone)

    @property
    def stamp(self) -> str:
        """YYYYMMDD, as in file names."""
        return self.date.strftime("%Y%m%d")

    def next(self) -> Day:
        return Day(self.date + timedelta(days=1), self.zone)

    def previous(self) -> Day:
        return Day(self.date - timedelta(days=1), self.zone)

    def is_over(self, now: datetime) -> bool:
        return self.end <= now

    def __str__(self) -> str:
        return self.date.isoformat()


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.min, zone).astimezone(UTC)


def parse_day(text: str, zone: ZoneInfo) -> Day:
    """A day from YYYY-MM-DD. Raises ValueError."""
    return Day(date.fromisoformat(text), zone)


def day_of(instant: datetime, zone: ZoneInfo) -> Day:
    return Day(instant.astimezone(zone).date(), zone)


def days(first: Day, last: Day) -> Iterator[Day]:
    """Every day from first to last, both included."""
    day = first.date
    while day <= last.date:
        yield Day(day, first.zone)
        day += timedelta(days=1)


def cutoff_day(now: datetime, retention_days: int, zone: ZoneInfo) -> Day:
    """The first day that is kept: days before it are wholly beyond the retention.

    The cutoff instant is now less the retention; the day that holds it is only partly beyond, so it stays.
    """
    return day_of(now - timedelta(days=retention_days), zone)


# Between them every moment has a day in every zone. Go writes 0001-01-01 for "no time".
FIRST_MOMENT, LAST_MOMENT = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def moment(value: datetime, zone: tzinfo) -> datetime:
    """In UTC, of a time which is in `zone` where it says no offset. What is before or behind all days becomes the first
    or last moment that has one."""
    known = value if value.tzinfo else value.replace(tzinfo=zone)
    try:
        return max(FIRST_MOMENT, min(known.astimezone(UTC), LAST_MOMENT))
    except OverflowError:
        return FIRST_MOMENT if value.year < 5000 else LAST_MOMENT


def naive_bound(instant: datetime, zone: tzinfo) -> datetime:
    """The instant as a column without a zone keeps it, in `zone`."""
    return instant.astimezone(zone).replace(tzinfo=None)


def date_bound(instant: datetime, zone: ZoneInfo) -> date:
    """The first date that begins in `zone` at or after the instant, to compare a column of dates with. MariaDB compares
    a date with a moment of a day as with that day."""
    naive = naive_bound(instant, zone)
    return naive.date() + timedelta(days=naive.time() != time.min)
