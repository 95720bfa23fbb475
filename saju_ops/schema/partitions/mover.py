"""What takes a month out of a table and puts it back: one class an engine behind this interface."""

from __future__ import annotations

import abc
from collections.abc import Collection
from contextlib import AbstractContextManager

import sqlalchemy as sa

from saju_ops.archive.deleting import hashed_rows
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.schema.partitions.catalogue import Layout, Partition, layout_of
from saju_ops.schema.partitions.months import Month

# Comment of a table that a month was taken out into: by it the next run knows it again.
MARK = "saju_ops: a month of"
FUTURE = "p_future"
# Seconds that a change of the table waits for others' open transactions. New SELECTs wait behind it.
LOCK_WAIT_SECONDS = 3
# Rows that are put back by one transaction.
MERGED_AT_ONCE = 1_000


class Blocked(OperatorError):
    """Somebody else's open transaction is in the way; named. Nothing was changed."""


class NoExchange(OperatorError):
    """The server can't take this month out; it may be dropped where it is. Nothing was changed."""


class Mover(abc.ABC):
    """Moves partitions of the store's table. Every method leaves the table whole; a kill inside one leaves the month in
    the table or in the side table, with all of its rows."""

    def __init__(self, store: RowStore) -> None:
        self.store = store

    @abc.abstractmethod
    def whole_reasons(self) -> str:
        """Why no month of this table may leave as a whole; empty where they may."""

    @abc.abstractmethod
    def side_name(self, partition: Partition) -> str: ...

    @abc.abstractmethod
    def sides(self, names: Collection[str]) -> list[str]:
        """The side tables that a killed run left: those with our mark, and of these names one without rows."""

    @abc.abstractmethod
    def briefly(self) -> AbstractContextManager[None]:
        """Inside, a change of the table waits LOCK_WAIT_SECONDS for others' transactions."""

    @abc.abstractmethod
    def count(self, partition: Partition, *, also: sa.ColumnElement[bool] | None = None) -> int: ...

    @abc.abstractmethod
    def take_out(self, partition: Partition) -> str:
        """The partition's rows are in the side table now, whose name this gives, and none in the table. Raises Blocked,
        NoExchange."""

    @abc.abstractmethod
    def exchange_back(self, side: str, partition: Partition) -> bool:
        """The side table's rows are in the partition again, and those that came late in the side table. False, and
        nothing changed, where the server can't. Raises Blocked."""

    @abc.abstractmethod
    def drop_side(self, side: str) -> None:
        """Drops a side table, every row of which is archived, or in the table again."""

    @abc.abstractmethod
    def drop_empty(self, partition: Partition) -> bool:
        """Drops a partition, of which it is looked once more, under a lock, whether it has no row. False where it has
        one. Raises Blocked."""

    def under_lock(self, partition: Partition) -> AbstractContextManager[None] | None:
        """Inside nobody else writes to or reads the table, and `drop_locked` may drop the partition. None where the
        engine needs no such way."""
        return None

    def drop_locked(self, partition: Partition) -> None:
        raise NotImplementedError

    @abc.abstractmethod
    def add_months(self, wanted: list[Month], layout: Layout) -> list[str]:
        """Makes their partitions behind the last bound, with the rows of them that are in the last partition. Gives
        their names. Raises Blocked."""

    def layout(self) -> Layout:
        found = layout_of(self.store)
        if found is None:
            raise Refused(f"{self.store.table.name} has no partitions any more.")
        return found

    # --- back, row by row ----------------------------------------------------------------------------------

    def merge_back(self, side: str) -> int:
        """Puts the side table's rows into the table, in short transactions, and takes out there what the table has.
        Gives how many rows it couldn't: the table has others with their keys."""
        rows = self.store.sibling(side)
        conflicts, after = 0, None
        while keys := _first_keys(rows, after):
            after = keys[-1]
            with self.store.transaction():
                conflicts += self._merge(rows, keys)
        return conflicts

    def _merge(self, rows: RowStore, keys: list[Key]) -> int:
        chosen = Selection(keys=tuple(keys))
        there = dict(hashed_rows(self.store, chosen, self.store.table.key, lock=True))
        mine = dict(hashed_rows(rows, chosen, rows.table.key, lock=True))
        new = tuple(key for key in mine if key not in there)
        if new:
            names = [column.name for column in rows.table.columns if not column.generated]
            query = sa.select(*(rows.col(name) for name in names)).select_from(rows.from_)
            query = query.where(*rows.conditions(Selection(keys=new)))
            self.store.connection.execute(sa.insert(self.store.from_).from_select(names, query))
        done = tuple(key for key in mine if key in new or there.get(key) == mine[key])
        if done and rows.delete(Selection(keys=done)) != len(done):
            raise RuntimeError("a row of a table that nobody writes to changed")
        return len(mine) - len(done)


def _first_keys(rows: RowStore, after: Key | None) -> list[Key]:
    """The next keys of the table in their order, behind `after`."""
    query = rows.row_select(Selection(first=after)).limit(MERGED_AT_ONCE + 1)
    places = [rows.table.names.index(name) for name in rows.table.key]
    found = [rows.key_of([row[i] for i in places]) for row in rows.connection.execute(query)]
    rows.end_read()
    return [key for key in found if key != after]
