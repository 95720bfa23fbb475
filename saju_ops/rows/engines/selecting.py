"""Rows of one table selected, read as text, counted and deleted by what all servers understand."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from saju_ops.rows.days import Day
from saju_ops.rows.engines.interface import BATCH_ROWS, Key, Selection
from saju_ops.rows.engines.session import TableSession
from saju_ops.rows.table import TIME_COLUMN, Column

if TYPE_CHECKING:
    import pyarrow as pa

# Keys in one statement of a row-by-row delete.
KEYS_PER_STATEMENT = 500


class SelectedRows(TableSession):
    """Rows by a `Selection`: of a day, between two keys, or by their keys."""

    @abc.abstractmethod
    def text(self, column: Column) -> sa.ColumnElement[Any]:
        """The column as the text that the file holds."""

    @abc.abstractmethod
    def typed(self, column: Column, cell: bytes) -> Any:
        """A cell of the file as a value or expression of the column's type."""

    @abc.abstractmethod
    def time_bound(self, instant: datetime) -> Any:
        """An instant as created_at keeps it."""

    def col(self, name: str) -> sa.ColumnElement[Any]:
        return self.from_.c[name]

    def day_condition(self, day: Day) -> list[sa.ColumnElement[bool]]:
        time = self.col(TIME_COLUMN)
        return [time >= self.time_bound(day.start), time < self.time_bound(day.end)]

    def not_before(self, instant: datetime) -> sa.ColumnElement[bool]:
        return self.col(TIME_COLUMN) >= self.time_bound(instant)

    def conditions(self, selection: Selection) -> list[sa.ColumnElement[bool]]:
        found = self.day_condition(selection.day) if selection.day else []
        if selection.first is not None:
            found.append(self._beyond(selection.first, lambda c, v: c >= v, lambda c, v: c > v))
        if selection.last is not None:
            found.append(self._beyond(selection.last, lambda c, v: c <= v, lambda c, v: c < v))
        if selection.keys is not None:
            found.append(self._one_of(selection.keys))
        return [*found, *selection.where]

    def _beyond(self, key: Key, inclusive: Callable[..., Any], strict: Callable[..., Any]) -> Any:
        """Keys at or beyond `key`, written so that an index on a composite key can be used."""
        columns = self.table.key_columns
        values = [self.typed(c, v) for c, v in zip(columns, key, strict=True)]
        cols = [self.ordered(c) for c in columns]
        if len(cols) == 1:
            return inclusive(cols[0], values[0])
        steps = []
        for i in range(len(cols)):
            equal = [cols[j] == values[j] for j in range(i)]
            compare = inclusive if i == len(cols) - 1 else strict
            steps.append(sa.and_(*equal, compare(cols[i], values[i])))
        return sa.and_(inclusive(cols[0], values[0]), sa.or_(*steps))

    def _one_of(self, keys: Sequence[Key]) -> Any:
        columns = self.table.key_columns
        if len(columns) == 1:
            return self.col(columns[0].name).in_([self.typed(columns[0], k[0]) for k in keys])
        each = (sa.and_(*(self.col(c.name) == self.typed(c, v) for c, v in zip(columns, k, strict=True))) for k in keys)
        return sa.or_(sa.false(), *each)

    def ordered(self, column: Column) -> sa.ColumnElement[Any]:
        """A key column as it is sorted by and compared with: both must give the same order."""
        return self.col(column.name)

    def order(self) -> list[sa.ColumnElement[Any]]:
        return [self.ordered(column) for column in self.table.key_columns]

    def text_columns(self) -> list[sa.ColumnElement[Any]]:
        # The label must not be the column's own name: MySQL would sort by the label, that is, as text.
        return [self.text(c).label(f"saju_{i}") for i, c in enumerate(self.table.columns)]

    def row_select(self, selection: Selection, *, lock: bool = False) -> sa.Select[Any]:
        query = sa.select(*self.text_columns()).select_from(self.from_)
        query = query.where(*self.conditions(selection)).order_by(*self.order())
        return query.with_for_update() if lock else query

    def batches(
        self, selection: Selection, batch_rows: int = BATCH_ROWS, *, lock: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """The rows as text, in key order, by a plain cursor; `locked` rows stay as they are till the end."""
        query = self.row_select(selection, lock=lock)
        options = {"stream_results": True, "max_row_buffer": batch_rows, "yield_per": batch_rows}
        result = self.connection.execute(query, execution_options=options)
        transaction = self.connection.get_transaction()
        try:
            for rows in result.partitions(batch_rows):
                yield self.record_batch(rows)
        finally:
            # A cursor of PostgreSQL ends with its transaction: a CLOSE in the next one would fail that.
            if self.connection.get_transaction() is transaction:
                result.close()

    def record_batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        import pyarrow as pa

        cells = zip(*rows, strict=True) if rows else ([] for _ in self.table.columns)
        arrays = [pa.array(list(values), pa.string()) for values in cells]
        return pa.RecordBatch.from_arrays(arrays, names=self.table.names)

    def count(self, selection: Selection) -> int:
        query = sa.select(sa.func.count()).select_from(self.from_).where(*self.conditions(selection))
        return int(self.connection.execute(query).scalar_one())

    def delete(self, selection: Selection) -> int:
        """Removes the selected rows of the log table and returns how many. The caller has locked and compared them."""
        if not self.connection.in_transaction():
            raise RuntimeError("rows are deleted only inside a transaction that compared them")
        if selection.keys is None and (selection.first is None or selection.last is None):
            raise RuntimeError("a delete names its keys")
        if selection.keys is None:
            return self._delete(selection)
        keys = selection.keys
        chunks = (keys[i : i + KEYS_PER_STATEMENT] for i in range(0, len(keys), KEYS_PER_STATEMENT))
        return sum(self._delete(replace(selection, keys=chunk)) for chunk in chunks)

    def _delete(self, selection: Selection) -> int:
        return self.connection.execute(sa.delete(self.from_).where(*self.conditions(selection))).rowcount

    def is_one_key(self, one: Key, other: Key) -> bool:
        """Whether the table takes both for the same key, as by a collation that ignores case."""
        columns = self.table.key_columns
        values = [sa.literal(v) if isinstance(v, (str, int, float)) else v for v in map(self.typed, columns, one)]
        none = sa.select(*(self.col(c.name) for c in columns)).where(sa.false())
        # Among the two, the column decides how they are compared.
        given = sa.union_all(none, sa.select(*values)).subquery("saju_given")
        same = (given.c[c.name] == self.typed(c, v) for c, v in zip(columns, other, strict=True))
        query = sa.select(sa.exists(sa.select(sa.literal(1)).select_from(given).where(*same)))
        return bool(self.connection.execute(query).scalar())

    def key_of(self, cells: Sequence[Any]) -> Key:
        """A key that was selected by `text`, as the file writes it."""
        return tuple(map(as_bytes, cells))

    def folds(self, columns: Sequence[Column]) -> bool:
        """Whether the database may take two keys of different bytes for one, as a collation without regard to letter
        case does."""
        return False

    def folded(self, columns: Sequence[Column], keys: Sequence[Key]) -> list[Key]:
        """For each key the value that the database compares: two keys are equal for it if these are. Not during a
        streamed read."""
        return list(keys)


def of_keys(day: Day | None, keys: Sequence[Key]) -> Iterator[Selection]:
    """The rows with these keys, some hundred a statement. Unlike a range of keys this doesn't depend on their order."""
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        yield Selection(day, keys=tuple(keys[start : start + KEYS_PER_STATEMENT]))


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
