"""Which sessions' conversation-log rows a proven archive holds, unchanged: a check that the cascade itself can't make.

A row counts as held only if its day is wholly beyond the retention, a part of that day that was read back whole in this
run holds it in its latest form, and it was compared under a lock that the deleting transaction still holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy as sa

from saju_ops.archive.held import HeldRows, held_rows
from saju_ops.archive.manifest import day_files, require_same_table
from saju_ops.errors import OperatorError
from saju_ops.expired.conditions import Identity, chunks, naming
from saju_ops.expired.foreign_keys import Closure
from saju_ops.rows.comeback import require_comeback
from saju_ops.rows.days import Day, day_of
from saju_ops.rows.digest import key_hashes, row_hashes
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.table import TIME_COLUMN, ForeignKey
from saju_ops.storage.open import Storage
from saju_ops.times import parse_instant

# Days whose archived rows' hashes are kept in memory for later batches, 16 bytes a row.
DAYS_KEPT = 40
# The day of a row whose created_at can't be read: no archive has it.
NO_DAY = date.max


class LogGuard:
    """`store` is the log table on the connection that deletes; `key`, of the closure, says how its rows name their
    session."""

    def __init__(
        self, store: RowStore, storage: Storage, closure: Closure, key: ForeignKey, *, zone: ZoneInfo, cutoff: Day
    ) -> None:
        self.store, self.storage, self.closure, self.key = store, storage, closure, key
        self.zone, self.cutoff = zone, cutoff
        self.problems: dict[str, str] = {}
        self._days: OrderedDict[str, HeldRows] = OrderedDict()
        # A document without hidden types reads the same. One with them is held only where the archive has them too.
        store.read_types({column.name for column in store.doubtful_columns})

    def prepare(self, sessions: Sequence[Identity]) -> None:
        """Reads, before anything is locked, the archives of the days from which these sessions have rows."""
        needed = self._days_of(sessions)
        self.store.end_read()
        for day in sorted(needed):
            self._load(day)
        # Days that no session of this batch needs are dropped first, and never a day that a session of it needs.
        for name in [n for n in self._days if n not in set(map(str, needed))][: max(0, len(self._days) - DAYS_KEPT)]:
            del self._days[name]

    def rows_held(self, sessions: Sequence[Identity]) -> int | None:
        """How many log rows the sessions have, if all are held; None if one is not. They stay locked."""
        if not sessions:
            return 0
        if any(str(day) not in self._days for day in self._days_of(sessions)):
            return None
        count = 0
        for selection in self._selections(sessions):
            for batch in self.store.batches(selection, lock=True):
                keys = key_hashes(batch, self.store.table.key_columns)
                if not self._held(keys, row_hashes(batch, self.store.table.columns)).all():
                    return None
                count += batch.num_rows
        return count

    def _held(self, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found = np.zeros(len(keys), bool)
        for day in self._days.values():
            found |= day.holds(keys, rows)
        return found

    def _selections(self, sessions: Sequence[Identity]) -> Iterator[Selection]:
        columns, engine = [self.store.col(c) for c in self.key.columns], self.store.table.engine
        as_theirs = self.closure.compared(self.key, engine, columns)
        for chunk in chunks(sessions):
            yield Selection(where=(naming(engine, columns, as_theirs, chunk),))

    # --- days ------------------------------------------------------------------------------------------------

    def _days_of(self, sessions: Sequence[Identity]) -> set[Day]:
        """The days of these sessions' rows, read to the minute."""
        found: set[Day] = set()
        for selection in self._selections(sessions):
            query = sa.select(self._minute()).select_from(self.store.from_).distinct()
            for (minute,) in self.store.connection.execute(query.where(*self.store.conditions(selection))):
                instant = parse_instant(minute, self._zone_of_times())
                found.add(day_of(instant, self.zone) if instant else Day(NO_DAY, self.zone))
        return found

    def _minute(self) -> Any:
        """created_at as text to the minute; on SQLite, where an offset may follow, all of it."""
        column, engine = self.store.col(TIME_COLUMN), self.store.table.engine
        if engine == "sqlite":
            return column
        return sa.func.substr(sa.cast(column, sa.CHAR if engine in ("mysql", "mariadb") else sa.Text), 1, 16)

    def _zone_of_times(self) -> ZoneInfo:
        kept = (self.store.table.engine, self.store.table.time_type)
        is_instant = kept in (("mysql", "timestamp"), ("mariadb", "timestamp"), ("postgresql", "timestamptz"))
        return ZoneInfo("UTC") if is_instant else self.store.zone

    def _load(self, day: Day) -> None:
        name = str(day)
        if name in self._days:
            self._days.move_to_end(name)
            return
        if day.date == NO_DAY or not day.end <= self.cutoff.start:
            return
        try:
            held = self._read(day)
        except OperatorError as problem:
            self.problems[name] = str(problem)
            return
        if held is not None:
            self._days[name] = held

    def _read(self, day: Day) -> HeldRows | None:
        parts = day_files(self.storage, day).parts
        if not parts:
            return None
        require_same_table(self.storage, day, parts, self.store)
        require_comeback(self.store, day, parts)
        own = [(c.name, c.encoding, c.framed) for c in self.store.table.columns]
        altered = [p.part for p in parts if [(c.name, c.encoding, c.framed) for c in p.table_columns] != own]
        held = held_rows(self.storage, self.store, parts, self.store.table.key, altered)
        self.store.end_read()
        return held
