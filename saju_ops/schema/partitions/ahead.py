"""Makes the partitions of months to come, out of the one that has no upper bound.

Rows that are in it, since the months were not made in time or a clock is wrong, are sorted into the new partitions and
counted. Nothing is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from saju_ops.database.snapshots import alone
from saju_ops.errors import Busy, Refused
from saju_ops.rows.engines.open import RowStore
from saju_ops.schema.partitions.catalogue import Layout
from saju_ops.schema.partitions.drop_month import mover_of
from saju_ops.schema.partitions.months import Month, month_of, new_months
from saju_ops.schema.partitions.mover import Blocked

# Months that are made for rows dated ahead of now. What is later, such as of a wrong clock, stays where it is.
MOST_AHEAD = 24
SNAPSHOT_WAIT = 5.0


@dataclass(frozen=True)
class Ahead:
    made: tuple[str, ...] = ()
    # Rows without a month's partition before, and after.
    rows_in_future: int = 0
    rows_left_in_future: int = 0
    # Whole months behind this one that have a partition now.
    months_ahead: int = 0
    # Why none was made though some are missing; empty where all is well.
    left: str = ""


def months_ahead(layout: Layout, now: datetime, zone: ZoneInfo) -> int:
    """How many whole months behind the one of `now` have partitions; below 0 where even that one has none."""
    bound, count, month = layout.last_bound, -1, month_of(now, zone)
    while bound is not None and month.end <= bound:
        count, month = count + 1, month.next()
    return count


def make_ahead(store: RowStore, layout: Layout, *, now: datetime, ahead: int, zone: ZoneInfo, dry_run: bool) -> Ahead:
    """The partitions up to `ahead` months behind the one of `now`. Raises Refused for a table without the last one.

    Waits a few seconds for snapshots and for others' open transactions, and then leaves it for the next run."""
    mover, future = mover_of(store), layout.future
    rows = mover.count(future) if future is not None else 0
    last = month_of(now, zone).next(ahead)
    if rows:
        last = max(last, min(_last_month(store, zone) or last, month_of(now, zone).next(MOST_AHEAD)))
    begin = layout.last_bound
    if begin is None:
        raise Refused(
            f"{store.table.name} has one partition for all of its rows, and none that ends, so it can't be said where"
            " the first month begins. Nothing was done; make the months by ALTER TABLE … REORGANIZE PARTITION once."
        )
    wanted = new_months(begin, last)
    reached = months_ahead(layout, now, zone)
    if not wanted or dry_run:
        names = tuple(month.name for month in wanted)
        return Ahead(names, rows, rows, reached)
    try:
        with alone(store.connection, SNAPSHOT_WAIT), mover.briefly():
            made = mover.add_months(wanted, layout)
    except (Blocked, Busy) as why:
        return Ahead((), rows, rows, reached, f"No month was made: {str(why).rstrip('.')}.")
    after = mover.layout()
    left = mover.count(after.future) if after.future is not None else 0
    return Ahead(tuple(made), rows, left, months_ahead(after, now, zone))


def _last_month(store: RowStore, zone: ZoneInfo) -> Month | None:
    last = store.instants("desc")
    return month_of(last, zone) if last is not None else None
