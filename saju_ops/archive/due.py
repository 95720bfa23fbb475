"""Which days are due: those beyond the retention that hold rows and have no archive."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from saju_ops.rows.days import Day
from saju_ops.rows.engines.open import RowStore


def due_days(store: RowStore, first: Day, cutoff: Day) -> Iterator[Day]:
    """The days from `first` to before `cutoff` of which the table has rows, by one look at its index each."""
    instant = first.start
    while instant < cutoff.start:
        found = store.first_instant_from(instant)
        if found is None or found >= cutoff.start:
            return
        day = Day(found.astimezone(first.zone).date(), first.zone)
        yield day
        instant = max(day.end, instant + timedelta(hours=1))
