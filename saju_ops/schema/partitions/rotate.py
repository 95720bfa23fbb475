"""The rotation of a partitioned log table: months to come are made, months that are archived and past leave.

Safe to run at any time and as often as one likes, by two at once too: the second steps back. `drop_month.py` and
`archive/deleting.py` say which rows may be deleted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from saju_ops.archive.purge import LOCK_WAIT, purge
from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
from saju_ops.bounds import MonthsAhead, require
from saju_ops.rows.days import Day, cutoff_day, day_of
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.engines.session import broken_off
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.schema.partitions.ahead import Ahead, make_ahead
from saju_ops.schema.partitions.catalogue import Layout, layout_of, unpartitioned
from saju_ops.schema.partitions.drop_month import SNAPSHOT_WAIT, whole_months
from saju_ops.schema.partitions.rights import require_rights
from saju_ops.storage.open import Storage


@dataclass
class RotationResult:
    dry_run: bool
    ahead: Ahead = field(default_factory=Ahead)
    # None before it began.
    purge: PurgeResult | None = None
    partitions: int = 0
    seconds: float = 0.0

    @property
    def months_dropped(self) -> list[str]:
        return [] if self.purge is None else self.purge.months_dropped

    @property
    def rows_dropped(self) -> int:
        return 0 if self.purge is None else self.purge.rows_dropped

    @property
    def months_left(self) -> dict[str, str]:
        return {} if self.purge is None else self.purge.months_left

    @property
    def problems(self) -> list[str]:
        return [*([self.ahead.left] if self.ahead.left else []), *([] if self.purge is None else self.purge.problems)]

    @property
    def needs_attention(self) -> bool:
        purge_does = self.purge is not None and (self.purge.months_need_attention or bool(self.purge.problems))
        return bool(self.ahead.rows_in_future or self.ahead.left or purge_does)


def rotate(
    store: RowStore,
    storage: Storage,
    *,
    now: datetime,
    first_day: Day,
    retention_days: int,
    ahead: int,
    dry_run: bool = True,
    control: RunControl = TO_THE_END,
    wait: float = LOCK_WAIT,
    snapshot_wait: float = SNAPSHOT_WAIT,
) -> RotationResult:
    """Makes the partitions of the next `ahead` months of `first_day.zone`, and lets those leave that lie wholly beyond
    the retention and are archived. Rows of these months that can't leave in one piece leave in chunks.

    Raises Refused where the table has no partitions or the account may not change them, and Busy while another run
    does the same, before anything is done."""
    require("PARTITIONS_AHEAD", ahead, MonthsAhead)
    plan = PurgePlan(retention_days=retention_days, dry_run=dry_run)
    zone, began = first_day.zone, time.monotonic()
    layout = layout_of(store)
    if layout is None:
        raise unpartitioned(store.table.name)
    require_rights(store)
    store.require_transactions()
    result = RotationResult(dry_run, partitions=len(layout.partitions))
    with broken_off(lambda text: _broken_off(text, result)):
        with store.lock("partitions", wait):
            result.ahead = make_ahead(store, layout, now=now, ahead=ahead, zone=zone, dry_run=dry_run)
        # Also where there is none: a killed run may have left one beside the table.
        last = _last_day(layout, cutoff_day(now, retention_days, zone)) or first_day.previous()
        result.purge = purge(
            store, storage, replace(plan, to_day=last), now=now, first_day=first_day, control=control,
            wait=wait, months=whole_months(zone, snapshot_wait=snapshot_wait),
        )  # fmt: skip
        found = layout_of(store)
        result.partitions = len(found.partitions) if found else 0
    result.seconds = time.monotonic() - began
    return result


def _last_day(layout: Layout, cutoff: Day) -> Day | None:
    """The last day of the partitions that are wholly beyond the retention."""
    ends = [each.end for each in layout.wholly_before(cutoff.start) if each.end is not None]
    return day_of(max(ends) - timedelta(microseconds=1), cutoff.zone) if ends else None


def _broken_off(text: str, result: RotationResult) -> str:
    gone = ", ".join(result.months_dropped) or "none"
    return (
        f"The database broke off the rotation ({text}). Months that left before: {gone}. Every other month is in the"
        " table or in a side table beside it; launch again: the next run continues where it ended."
    )
