"""Calendar months in the service's time zone, as the boundaries of partitions. Nothing here asks a database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from saju_ops.rows.days import Day, day_of


@dataclass(frozen=True, order=True)
class Month:
    """One month in `zone`: every instant from `start` to just before `end`, both UTC."""

    first: date
    zone: ZoneInfo

    @property
    def start(self) -> datetime:
        return Day(self.first, self.zone).start

    @property
    def end(self) -> datetime:
        return self.next().start

    @property
    def name(self) -> str:
        """What its partition is called: p202607."""
        return f"p{self.first:%Y%m}"

    def next(self, months: int = 1) -> Month:
        count = self.first.year * 12 + self.first.month - 1 + months
        return Month(date(count // 12, count % 12 + 1, 1), self.zone)

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"


def month_of(instant: datetime, zone: ZoneInfo) -> Month:
    return Month(day_of(instant, zone).date.replace(day=1), zone)


def months(first: Month, last: Month) -> Iterator[Month]:
    """Every month from first to last, both included."""
    while first <= last:
        yield first
        first = first.next()


def new_months(begin: datetime, last: Month) -> list[Month]:
    """The months whose ends are boundaries behind `begin`, up to and with `last`. The first may begin before `begin`,
    where that is no month's begin in this zone: its partition then holds the rest of the month."""
    return [month for month in months(month_of(begin, last.zone), last) if month.end > begin]


def free_names(wanted: list[Month], taken: set[str]) -> list[tuple[str, Month]]:
    """The months with their names; with a number behind it where a partition is called so already."""
    found = []
    for month in wanted:
        name, number = month.name, 2
        while name in taken:
            name, number = f"{month.name}_{number}", number + 1
        taken.add(name)
        found.append((name, month))
    return found
