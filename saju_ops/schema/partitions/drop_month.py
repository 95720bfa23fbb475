"""Lets months leave a partitioned log table in one piece: the other code, besides `archive/deleting.py`, that does.

For each month that is dropped: it is wholly beyond the retention; the archives of all its days were read back in
this run; every row of it was compared with them where no writer could reach it any more, or under a lock that the drop
still held; no snapshot of ours was open. A month of which one row differs is put back whole, and stays for the
chunked purge, which deletes what is archived and counts the rest.

A run that is killed leaves a month in its partition or in a side table, which the next run finds by its mark, compares
and drops or puts back. Rows of a month that come late meanwhile are in the partition, and stay there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.exc import DBAPIError

from saju_ops.archive.manifest import day_files, require_same_table
from saju_ops.archive.whole_months import MonthOutcome, WholeMonths, Window
from saju_ops.database.connect import error_text
from saju_ops.database.snapshots import alone
from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.rows.comeback import require_comeback
from saju_ops.rows.days import Day, day_of
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.table import TIME_COLUMN
from saju_ops.schema.partitions.catalogue import Layout, Partition, layout_of
from saju_ops.schema.partitions.compare import (
    Held,
    NotHeld,
    all_days,
    compare,
    days_with_rows,
    prove,
    require_all_compared,
)
from saju_ops.schema.partitions.mover import Blocked, Mover, NoExchange
from saju_ops.schema.partitions.rights import require_rights
from saju_ops.storage.open import Storage
from saju_ops.words import are, counted

# Seconds that a month waits for the snapshots of dumps and archives to end.
SNAPSHOT_WAIT = 5.0
# Rows of a month that is compared under LOCK TABLES: 0.7 s on a quiet machine for so many.
LOCKED_ROWS = 300_000
# Times that a month which isn't archived is put back, where others' transactions are in the way.
BACK_TRIES = 10
LEFT = (NotHeld, OperatorError, OSError)


def whole_months(zone: ZoneInfo, *, snapshot_wait: float = SNAPSHOT_WAIT) -> WholeMonths:
    """What a purge calls: gives one outcome for each partition that it may take. Nothing for a plain table."""

    def leave(store: RowStore, storage: Storage, window: Window, dry_run: bool) -> Iterator[MonthOutcome]:
        if store.table.engine == "sqlite":
            return
        try:
            layout = layout_of(store)
        except Refused:
            return
        if layout is not None:
            yield from _Months(store, storage, zone, layout, window, snapshot_wait).outcomes(dry_run)

    return leave


def mover_of(store: RowStore) -> Mover:
    if store.table.engine == "postgresql":
        from saju_ops.schema.partitions.postgres import PostgresMover

        return PostgresMover(store)
    from saju_ops.schema.partitions.mysql import MySQLMover

    return MySQLMover(store)


class _Months:
    def __init__(
        self, store: RowStore, storage: Storage, zone: ZoneInfo, layout: Layout, window: Window, wait: float
    ) -> None:
        self.store, self.storage, self.zone, self.layout, self.window, self.wait = (
            store, storage, zone, layout, window, wait,
        )  # fmt: skip
        self.mover = mover_of(store)
        self.key, self.columns = store.table.key, store.table.columns

    def outcomes(self, dry_run: bool) -> Iterator[MonthOutcome]:
        reason = self._no_month_may()
        if not dry_run:
            yield from self._left_by_a_kill()
            self.layout = layout_of(self.store) or self.layout
        for partition in self.layout.wholly_before(self.window.cutoff.start):
            if reason:
                yield MonthOutcome(partition.name, left=f"{partition.name} stays: {reason}.", needs_attention=True)
            elif (outcome := self._timed(partition, dry_run)) is not None:
                yield outcome

    def _no_month_may(self) -> str:
        try:
            require_rights(self.store)
        except Refused as refusal:
            return str(refusal).rstrip(".")
        if any(key not in self.store.table.answers for key in self.store.table.children):
            return "rows of other tables reference this table's"
        if self.store.table.answers:
            return "its rows reference each other"
        return self.mover.whole_reasons()

    def _timed(self, partition: Partition, dry_run: bool) -> MonthOutcome | None:
        began = time.monotonic()
        try:
            outcome = self._candidate(partition, dry_run)
        except (*LEFT, DBAPIError) as why:
            outcome = self._left_after(partition.name, why)
        return outcome and replace(outcome, seconds=time.monotonic() - began)

    def _left_after(self, name: str, why: Exception) -> MonthOutcome:
        """One month that the server refuses to move keeps no other. Raises what ended the connection."""
        if isinstance(why, DBAPIError):
            if why.connection_invalidated:
                raise why
            why = OperatorError(f"the server ended it ({error_text(why)})")
        self.store.end_read()
        self._as_before()
        return _left(name, why)

    def _as_before(self) -> None:
        self.store.use(self.columns, self.key)

    # --- before anything is moved --------------------------------------------------------------------------------

    def _candidate(self, partition: Partition, dry_run: bool) -> MonthOutcome | None:
        """None where the purge's own limits leave it out."""
        rows = self.mover.count(partition)
        if not rows:
            return None if dry_run else self._drop_empty(partition)
        days = self._days(partition)
        left = self.window.rows_left()
        if not days or days[0] < self.window.first or (left is not None and left < rows):
            return None
        self._look_first(days)
        if dry_run:
            return MonthOutcome(partition.name, rows)
        with alone(self.store.connection, self.wait), self.mover.briefly():
            return self._leave(partition, days, rows)

    def _days(self, partition: Partition) -> list[Day]:
        """Those of which the partition may have rows: the table's days within its bounds."""
        first, end = partition.start or self.store.instants("asc"), partition.end
        if first is None or end is None:
            return []
        last = day_of(end - timedelta(microseconds=1), self.zone)
        return days_with_rows(self.store, self.zone, day_of(first, self.zone), last)

    def _look_first(self, days: Sequence[Day]) -> None:
        """By numbers alone, so that no month is moved for nothing. Raises NotHeld, Refused."""
        missing = []
        for day in days:
            parts = day_files(self.storage, day).parts
            if not parts:
                missing.append(day)
                continue
            require_same_table(self.storage, day, parts, self.store)
            require_comeback(self.store, day, parts)
            there, held = self.store.count(Selection(day)), sum(part.rows for part in parts)
            self.store.end_read()
            if there > held:
                raise NotHeld(f"{day} has {counted(there - held, 'row')} more than its archives")
        if missing:
            raise NotHeld(
                f"{counted(len(missing), 'day')} of it {are(len(missing))} not archived, the first of them {missing[0]}"
            )

    # --- the ways out --------------------------------------------------------------------------------------------

    def _drop_empty(self, partition: Partition) -> MonthOutcome | None:
        with alone(self.store.connection, self.wait), self.mover.briefly():
            return MonthOutcome(partition.name) if self.mover.drop_empty(partition) else None

    def _leave(self, partition: Partition, days: Sequence[Day], rows: int) -> MonthOutcome:
        try:
            side = self.mover.take_out(partition)
        except NoExchange as why:
            return self._under_lock(partition, days, rows, why)
        return self._settle(side, partition)

    def _settle(self, side: str, partition: Partition | None) -> MonthOutcome:
        """The side table leaves, every row of it being archived, or its rows go back."""
        name = partition.name if partition else side
        try:
            found = self._compared(side)
        except LEFT as why:
            self.store.end_read()
            return self._put_back(side, partition, name, why)
        except BaseException:
            # Such as an operator's interrupt: the next run would do it, too.
            with suppress(Exception):
                self.store.end_read()
                self._put_back(side, partition, name, NotHeld("the run was ended"))
            raise
        self.mover.drop_side(side)
        if partition is not None:
            # Late rows keep it; so does somebody's open transaction, and the next run finds it empty.
            with suppress(Blocked):
                self.mover.drop_empty(partition)
        return MonthOutcome(name, found.rows, found.per_day, tuple(found.files))

    def _compared(self, side: str) -> Held:
        rows = self.store.sibling(side)
        total = rows.count(Selection())
        self.store.end_read()
        days = all_days(rows, self.zone)
        if days and not (self.window.first <= days[0] and days[-1] < self.window.cutoff):
            # A run with another retention, or other days, was killed.
            raise NotHeld("it has rows of days that this run may not take")
        found = compare(self.storage, rows, prove(self.storage, self.store, days))
        require_all_compared(total, found)
        return found

    def _put_back(self, side: str, partition: Partition | None, name: str, why: Exception) -> MonthOutcome:
        rows = self.store.sibling(side).count(Selection())
        self.store.end_read()
        if rows and partition is not None and rows > self.mover.count(partition):
            self._exchange_back(side, partition)
        conflicts = self.mover.merge_back(side)
        if conflicts:
            text = (
                f"{name} stays, partly in the table {side}: {_sentence(why)}. {self.store.table.name} has other rows"
                f" with the keys of {counted(conflicts, 'row')} there, as after a restore, so they can't be put back."
                f" Nothing of either was deleted; compare them and drop {side} when it isn't needed any more."
            )
            return MonthOutcome(name, left=text, needs_attention=True)
        self.mover.drop_side(side)
        return _left(name, why)

    def _exchange_back(self, side: str, partition: Partition) -> None:
        """Raises OperatorError where it couldn't, since others' transactions were in the way all the time."""
        for tries in range(BACK_TRIES, 0, -1):
            try:
                self.mover.exchange_back(side, partition)
                return
            except Blocked as blocked:
                if tries == 1:
                    raise OperatorError(
                        f"The rows of {partition.name} are in the table {side} and couldn't be put back: {blocked}."
                        " None is lost; the next run puts them back, or launch it again now."
                    ) from None

    def _under_lock(self, partition: Partition, days: Sequence[Day], rows: int, why: NoExchange) -> MonthOutcome:
        if rows > LOCKED_ROWS:
            raise NotHeld(f"{why}; and it has too many rows ({rows:,}) to be compared while the table is locked")
        # Read back before the lock; what is compared under it are the database's digests.
        proven = list(prove(self.storage, self.store, days))
        lock = self.mover.under_lock(partition)
        if lock is None:
            raise why
        with lock:
            found = compare(self.storage, self.store, iter(proven))
            self._as_before()
            time_of = self.store.col(TIME_COLUMN)
            first, last = self.store.time_bound(days[0].start), self.store.time_bound(days[-1].end)
            rows = self.mover.count(partition)
            if self.mover.count(partition, also=(time_of >= first) & (time_of < last)) != rows or rows > found.rows:
                raise NotHeld("it has rows of other days than were compared")
            self.mover.drop_locked(partition)
        return MonthOutcome(partition.name, rows, found.per_day, tuple(found.files))

    # --- after a kill --------------------------------------------------------------------------------------------

    def _left_by_a_kill(self) -> Iterator[MonthOutcome]:
        of_name = {self.mover.side_name(partition): partition for partition in self.layout.partitions}
        for side in self.mover.sides(of_name):
            partition = of_name.get(side)
            try:
                with alone(self.store.connection, self.wait), self.mover.briefly():
                    outcome = self._settle(side, partition)
            except (*LEFT, DBAPIError) as why:
                outcome = self._left_after(side, why)
            self._as_before()
            if outcome.rows or outcome.left:
                yield outcome


def _left(name: str, why: Exception) -> MonthOutcome:
    passes = isinstance(why, (Blocked, Busy, NotHeld))
    return MonthOutcome(name, left=f"{name} stays: {_sentence(why)}.", needs_attention=not passes)


def _sentence(why: Exception) -> str:
    text = f"an archive can't be read ({why.strerror or why})" if isinstance(why, OSError) else str(why)
    return text.strip().rstrip(".")
