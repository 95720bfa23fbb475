"""Purges archived rows: which days may go, in what order and how fast, and what is reported.

Only `saju_ops.archive.deleting` removes rows. Both promise this of every row that is deleted: the row's day is wholly
beyond the retention; a part of that day holds the row, and the part's stored bytes were read back in this very run and
agree with its manifest; and the row was compared with it under a lock that the deleting transaction still held. Rows
that came late, changed since, are referenced by other rows or that the database refuses to delete stay and are counted,
each kind with its reason. If somebody alters the table meanwhile, the purge stops.

It works in chunks in the archive's own order, each one short transaction, and may be killed at any instruction:
committed chunks are gone and archived, all other rows are still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import sqlalchemy as sa

from saju_ops.archive.chunks import _of_keys, rechunk
from saju_ops.archive.deleting import CHUNK_TRIES, Chunk, hashed_rows, may_pass
from saju_ops.archive.due import due_days
from saju_ops.archive.held import HeldRows, hashing_of
from saju_ops.archive.kept import KeptRows
from saju_ops.archive.manifest import (
    Manifest,
    common_key,
    day_files,
    require_same_table,
)
from saju_ops.archive.proven import require_proven
from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
from saju_ops.archive.verify import keys_of, part_batches, verify_part
from saju_ops.archive.whole_months import MonthOutcome, WholeMonths, Window
from saju_ops.bounds import LARGEST_CHUNK
from saju_ops.database.connect import error_text
from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused
from saju_ops.rows.ahead import one_ahead
from saju_ops.rows.comeback import adopt_part, require_comeback
from saju_ops.rows.days import Day, cutoff_day, day_of
from saju_ops.rows.engines.base import WRONG_KEYS
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.engines.session import broken_off
from saju_ops.rows.pieces import key_at
from saju_ops.rows.traits import Altered
from saju_ops.rows.unseen_keys import Unsure, require_seen
from saju_ops.run_control import TO_THE_END, RunControl, Stop
from saju_ops.storage.open import Storage, StorageError
from saju_ops.words import counted, were

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_WAIT = 10.0
# Seconds between two looks at a replica that is behind.
LAG_POLL = 1.0
# Days left for later because somebody locks rows of theirs, some eight seconds each, before the purge ends: then it
# isn't a row that is locked but the table.
MOST_LOCKED_DAYS = 3


def purge(
    store: RowStore,
    storage: Storage,
    plan: PurgePlan,
    *,
    now: datetime,
    first_day: Day,
    replicas: Sequence[sa.URL] = (),
    control: RunControl = TO_THE_END,
    wait: float = LOCK_WAIT,
    months: WholeMonths | None = None,
) -> PurgeResult:
    """Purges the days that `plan` allows, oldest first. `control` is asked between chunks; its
    `progress` gets the result and the day. `months` lets those of a partitioned table leave as a whole; what stays of
    them leaves in chunks.

    Raises Refused or Busy before anything is touched. A day whose archive can't be proven is left whole and
    named in `problems`; the other days continue.
    """
    cutoff = cutoff_day(now, plan.retention_days, first_day.zone)
    work = Purge(store, storage, plan, cutoff, now, replicas=replicas, control=control, wait=wait)
    with broken_off(work.broken_off):
        work.require_known_lag()
        store.require_transactions()
        children = [(child.schema, child.table) for child in store.table.children]
        try:
            work.result.doubt = require_seen(store, [(None, store.table.name)], children)
        except Unsure as refusal:
            if not plan.dry_run:
                raise
            work.result.doubt = str(refusal)
        if not store.enforces_keys:
            work.result.doubt = f"{work.result.doubt} {WRONG_KEYS}".strip()
        store.wait_briefly()
        with store.lock("purge", wait):
            return work.run(first_day, months)


@dataclass
class Purge(KeptRows):
    def broken_off(self, text: str) -> str:
        return (
            f"The database broke off the purge ({text}). {counted(self.result.deleted, 'row')}"
            f" {were(self.result.deleted)} deleted before, all of them archived; launch again to go on."
        )

    def require_known_lag(self) -> None:
        if self.plan.max_replica_lag_seconds is not None and self.store.replica_lag(self.replicas) is None:
            raise Refused(
                "max_replica_lag_seconds is set, but no replica can be asked for its lag; name the replicas in"
                " REPLICA_URLS or leave the limit out. Nothing was touched."
            )

    # --- days ----------------------------------------------------------------------------------------------

    def run(self, first_day: Day, months: WholeMonths | None = None) -> PurgeResult:
        before = self.store.sizes()
        try:
            if months is not None:
                self._whole_months(months, first_day)
            self._work_off(first_day)
        except Stop as stop:
            self.result.stopped = str(stop)
        self._name_unexplained()
        self.result.seconds = self.control.clock() - self.started
        if self.result.finished or self.store.has_table(self.store.table.name):
            self._report_space(before)
        return self.result

    def _whole_months(self, months: WholeMonths, first_day: Day) -> None:
        end = self.plan.to_day.next() if self.plan.to_day else self.cutoff
        window = Window(self.plan.from_day or first_day, min(end, self.cutoff), self._rows_left)
        self._check_limits()
        for month in months(self.store, self.storage, window, self.plan.dry_run):
            self._count_month(month)
            self._check_limits()

    def _count_month(self, month: MonthOutcome) -> None:
        if month.left:
            self.result.months_left[month.name] = month.left
            self.result.months_need_attention |= month.needs_attention
        elif self.plan.dry_run:
            self.result.months_droppable.append(month.name)
        else:
            self.result.months_dropped.append(month.name)
            self.result.rows_dropped += month.rows
            self.result.deleted += month.rows
            self.result.days += len(month.per_day)
            self.result.files += month.files
            self.result.per_day.update(month.per_day)

    def _work_off(self, first_day: Day) -> None:
        try:
            for day in list(self._days(first_day)):
                self._check_limits()
                self._day(day)
            self._go_back()
        except sa.exc.DBAPIError as error:
            self._stop_if_altered(error)
            raise

    def _go_back(self) -> None:
        """A message that was answered on a later day, which is purged by now: from the last day to the first, as long
        as rows go."""
        before = -1
        while self.waiting_days and self.result.deleted != before:
            before = self.result.deleted
            for day in sorted(self.waiting_days, reverse=True):
                self._check_limits()
                self._day(day)

    def _days(self, first_day: Day) -> Iterator[Day]:
        first = max(self.plan.from_day or first_day, _earliest(self.store, first_day))
        for day in due_days(self.store, first, self.cutoff):
            if self.plan.to_day is None or day <= self.plan.to_day:
                yield day

    def _day(self, day: Day) -> None:
        """One day: its parts verified, then chunk by chunk."""
        try:
            with self.store.lock(f"day {day}", self.wait):
                self._purge_day(day)
        except (ProofFailed, Busy, Refused, StorageError) as problem:
            self.store.end_read()
            self.result.problems.append(str(problem))
        except OSError as error:
            self.store.end_read()
            self.result.problems.append(f"The archive of {day} can't be read ({error.strerror or error}).")

    def _purge_day(self, day: Day) -> None:
        if not day.end <= self.cutoff.start:
            raise RuntimeError(f"{day} is not wholly beyond the retention")
        files = day_files(self.storage, day)
        if not files.parts:
            self.result.unarchived_days.append(str(day))
            return
        require_same_table(self.storage, day, files.parts, self.store)
        # Every stored byte of every part is read back before the first row of the day is deleted; the rows in
        # them are read again, and compared, chunk by chunk.
        for part in files.parts:
            require_proven(self.storage, day, part)
        require_comeback(self.store, day, files.parts)
        if day not in self.kept:
            self.result.days += 1
            self.result.files += [self.storage.location(part.file) for part in files.parts]
        self.refused, self.waiting = {}, {}
        altered = self._parts(day, files.parts)
        # Rows that reference each other may be far from each other in the file; in a ring they must go together.
        size = self.plan.chunk_size
        while any(self.waiting.values()):
            before = self.result.deleted
            only = {number: keys for number, keys in self.waiting.items() if keys}
            self._parts(day, files.parts, only, size)
            if self.result.deleted == before and size == LARGEST_CHUNK:
                break
            size = size if self.result.deleted > before else LARGEST_CHUNK
        self.waiting_days.discard(day)
        if any(self.waiting.values()):
            self.waiting_days.add(day)
        self._count_kept(day, files.parts, altered)
        self.control.progress(self.result, day)

    def _parts(
        self, day: Day, parts: Sequence[Manifest], only: dict[int, set[Key]] | None = None, size: int | None = None
    ) -> list[int]:
        """Works off the parts, or `only` these rows of them; gives the parts that the table can't be compared with."""
        altered, identity = [], common_key(parts)
        for number, part in enumerate(parts):
            newer = parts[number + 1 :]
            comparable = all(each.has_columns(identity) for each in (part, *newer))
            if comparable and adopt_part(self.store, part):
                # By the file's own key, in whose order it is, if the table's key has changed since.
                self.store.use(self.store.table.columns, part.key)
                self.hashing = hashing_of(self.store, identity, len(parts))
                if only is None or part.part in only:
                    later = self._keys_of_parts(newer, identity)
                    picked = None if only is None else only[part.part]
                    self._part(day, part, later, identity, picked, size or self.plan.chunk_size)
            else:
                altered.append(part.part)
        return altered

    def _keys_of_parts(self, parts: Sequence[Manifest], key: Sequence[str]) -> HeldRows:
        """Rows that a later part has in a newer form: the older form is no reason to delete anything."""
        later = HeldRows()
        for part in parts:
            verify_part(self.storage, part, later.collect_keys(part.hashed_by(key), self.hashing))
        return later

    # --- chunks --------------------------------------------------------------------------------------------

    def _part(
        self, day: Day, part: Manifest, later: HeldRows, identity: Sequence[str], only: set[Key] | None,
        size: int,
    ) -> None:  # fmt: skip
        self.deleter.scattered = False
        self.waiting[part.part] = set()
        in_order = all(column.ordered for column in (*part.key_columns, *self.store.table.key_columns))
        batches = part_batches(self.storage, part)
        rows = rechunk(batches if only is None else _of_keys(batches, part.key, only), size)
        hashed = ((chunk, self.store.state_of(chunk)) for chunk in rows)
        # Reading and hashing a chunk (1.2 µs a row) costs no time beside the server's work on the one before.
        for chunk, state in one_ahead(hashed):
            self._check_limits()
            left = self._rows_left()
            if left is not None and left < chunk.num_rows:
                chunk = chunk.slice(0, left)
                state = self.store.state_of(chunk)
            keys = (key_at(chunk, part.key, 0), key_at(chunk, part.key, chunk.num_rows - 1))
            old = self._superseded(chunk, later, identity)
            picked = only is not None
            whole = Chunk(
                day, Selection(day, *keys), part.key, chunk, state, superseded=old, in_order=in_order, picked=picked
            )
            self.waiting[part.part] |= self._chunk(whole)
            self.control.progress(self.result, day)
            # If max_rows cut a chunk, its rest is still there: the day isn't done.
            self._check_limits()
            if self.plan.pause_seconds and not self.plan.dry_run:
                self.control.sleep(self.plan.pause_seconds)

    def _rows_left(self) -> int | None:
        if self.plan.max_rows is None:
            return None
        return self.plan.max_rows - (self.result.deletable if self.plan.dry_run else self.result.deleted)

    def _chunk(self, chunk: Chunk) -> set[Key]:
        """Gives the rows that wait for others of their table to go."""
        if self.plan.dry_run:
            self._compare_only(chunk)
            return set()
        try:
            deleted = self.deleter.delete(chunk)
        except Altered as altered:
            self._altered(str(altered))
        except sa.exc.DBAPIError as error:
            self._stop_if_altered(error)
            self._ended(error, chunk.day)
        self.result.deleted += deleted.rows
        self.result.per_day[str(chunk.day)] += deleted.rows
        self.result.chunks += 1
        self.result.row_by_row_chunks += deleted.row_by_row
        if deleted.refused:
            own = dict(zip(keys_of(chunk.rows, chunk.key), keys_of(chunk.rows, self.key), strict=True))
            self.refused |= {own[key]: reason for key, reason in deleted.refused.items()}
        return deleted.waiting

    def _superseded(self, chunk: pa.RecordBatch, later: HeldRows, identity: Sequence[str]) -> np.ndarray:
        if not len(later):
            return np.zeros(chunk.num_rows, bool)
        return later.has_keys(self.hashing(chunk, [self.store.table.column(name) for name in identity]))

    def _compare_only(self, chunk: Chunk) -> None:
        with self.store.snapshot():
            if not chunk.superseded.any() and self.store.state(chunk.selection, chunk.state) == chunk.state:
                held = set().union(*self._referenced(chunk.selection).values())
                found = chunk.rows.num_rows - len(held)
            else:
                archived, same = chunk.by_key(self.store), set[Key]()
                for each in chunk.selections():
                    rows = hashed_rows(self.store, each, chunk.key, lock=False)
                    same |= {key for key, row in rows if archived.get(key) == row}
                    same -= set().union(*self._referenced(each).values())
                found = len(same)
        self.result.deletable += found
        self.result.per_day[str(chunk.day)] += found
        self.result.chunks += 1

    def _stop_if_altered(self, error: sa.exc.DBAPIError) -> None:
        """For an error such as that of a column that is there no more. Raises Stop."""
        if error.connection_invalidated or may_pass(error):
            return
        self.store.end_read()
        if what := self.store.traits.changed():
            self._altered(what)
        self.store.end_read()

    def _altered(self, what: str) -> NoReturn:
        sentence = (
            f"{self.store.table.name} was altered since the purge began: {what}. {counted(self.result.deleted, 'row')}"
            f" {were(self.result.deleted)} deleted before, all of them archived as they were; all others are"
            " untouched. Archive the days again,"
            " which writes a part in the table's new shape, then launch the purge again"
        )
        self.result.problems.append(f"{sentence}.")
        raise Stop(sentence)

    def _ended(self, error: sa.exc.DBAPIError, day: Day) -> NoReturn:
        if may_pass(error) and self.locked_days < MOST_LOCKED_DAYS:
            self.locked_days += 1
            raise Busy(
                f"Rows of {day} are locked by another connection for longer than {CHUNK_TRIES} tries"
                f" ({error_text(error)}). The rest of the day stays until the next run; what was deleted of it is"
                " archived."
            ) from None
        raise OperatorError(
            # Where the connection broke in the commit itself, nobody here knows whether it took effect.
            f"The database ended a chunk ({error_text(error)}). {counted(self.result.deleted, 'row')}"
            f" {were(self.result.deleted)} deleted before it;"
            " the chunk itself is there as a whole or gone as a whole, and all of it is archived. Launch again to"
            " go on."
        ) from None

    # --- limits --------------------------------------------------------------------------------------------

    def _check_limits(self) -> None:
        self.control.check()
        left = self._rows_left()
        if left is not None and left <= 0:
            raise Stop(f"max_rows ({self.plan.max_rows}) reached")
        self._check_runtime()
        limit = self.plan.max_replica_lag_seconds
        while limit is not None and self._lag() > limit:
            self.control.sleep(LAG_POLL)
            self.result.lag_wait_seconds += LAG_POLL
            self.control.check()
            self._check_runtime()

    def _lag(self) -> float:
        lag = self.store.replica_lag(self.replicas)
        if lag is None:
            raise Stop("no replica can be asked for its lag any more")
        return lag

    def _check_runtime(self) -> None:
        self.control.check_runtime(self.started, self.plan.max_runtime_seconds)

    # --- the report ----------------------------------------------------------------------------------------


def _earliest(store: RowStore, first_day: Day) -> Day:
    instant = store.instants("asc")
    return max(first_day, day_of(instant, first_day.zone)) if instant else first_day
