"""Rows of other tables that reference a table's rows, and rows that these reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from saju_ops.rows.days import Day
from saju_ops.rows.engines.interface import Key, Selection
from saju_ops.rows.engines.selecting import KEYS_PER_STATEMENT, SelectedRows, as_bytes
from saju_ops.rows.table import TIME_COLUMN, Column, ForeignKey


class ReferencedRows(SelectedRows):
    """Foreign keys to and from the rows that are selected."""

    def child_rows(self, child: ForeignKey, selection: Selection) -> int:
        """Rows of another table that reference selected rows."""
        return len(self._referenced(child, selection)) if selection.keys else self._count_children(child, selection)

    def _child_join(self, child: ForeignKey, other: sa.FromClause | None = None) -> Any:
        if other is None:
            other = sa.table(child.table, *map(sa.column, child.columns), schema=child.schema).alias("saju_child")
        pairs = zip(child.columns, child.parent_columns, strict=True)
        # SQLite compares by the left column's collation, and a foreign key by the parent's.
        on = sa.and_(*(self.col(theirs) == other.c[mine] for mine, theirs in pairs))
        return self.from_.join(other, on)

    def _count_children(self, child: ForeignKey, selection: Selection) -> int:
        query = sa.select(sa.func.count()).select_from(self._child_join(child))
        return int(self.connection.execute(query.where(*self.conditions(selection))).scalar_one())

    def _referenced(self, child: ForeignKey, selection: Selection) -> set[Key]:
        """Keys among the selected rows that rows of another table reference."""
        query = sa.select(*(self.text(c).label(f"saju_{i}") for i, c in enumerate(self.table.key_columns)))
        query = query.select_from(self._child_join(child)).distinct()
        rows = self.connection.execute(query.where(*self.conditions(selection)))
        return {self.key_of(row) for row in rows}

    def referenced_keys(
        self, selection: Selection, children: Sequence[ForeignKey] | None = None
    ) -> dict[str, set[Key]]:
        """For each referencing table, the selected rows that its rows reference; by all foreign keys or by some."""
        found: dict[str, set[Key]] = {}
        for child in self.table.children if children is None else children:
            found.setdefault(child.table, set()).update(self._referenced(child, selection))
        return {table: keys for table, keys in found.items() if keys}

    def answered(self, selection: Selection, since: datetime | None = None) -> set[tuple[Key, Key]]:
        """Pairs of keys: a selected row, and a row of the same table that references it; `since`: only rows whose
        created_at is not before."""
        found: set[tuple[Key, Key]] = set()
        for key in self.table.answers:
            names = dict.fromkeys((*self.table.key, *key.columns, TIME_COLUMN))
            # With the time's own column for conditions that a schema's name doesn't change.
            other = sa.table(self.table.name, *map(sa.column, names), schema=self.table.schema).alias("saju_child")
            theirs = copy(self)
            theirs.from_ = other  # type: ignore[assignment]
            cells = [*map(self.text, self.table.key_columns), *map(theirs.text, self.table.key_columns)]
            query = sa.select(*(cell.label(f"saju_{i}") for i, cell in enumerate(cells)))
            query = query.select_from(self._child_join(key, other)).where(*self.conditions(selection))
            if since is not None:
                query = query.where(theirs.not_before(since))
            for row in self.connection.execute(query):
                width = len(self.table.key)
                found.add((self.key_of(row[:width]), self.key_of(row[width:])))
        return found

    def forget_answered(self, selection: Selection) -> bool:
        """Empties the references of the selected rows to others of their table, where they may be NULL. False, and
        nothing changed, where one may not. Only for rows that are deleted next, in the same transaction."""
        columns = {column for key in self.table.answers for column in key.columns}
        if columns & {*self.table.key} or not all(self.table.column(c).nullable for c in columns):
            return False
        empty = sa.update(self.from_).where(*self.conditions(selection)).values(dict.fromkeys(columns, sa.null()))
        self.connection.execute(empty)
        return True

    @property
    def own_parents(self) -> tuple[ForeignKey, ...]:
        """The foreign keys by which a row of the table references another of it, seen from the row that does."""
        return tuple(p for p in self.table.parents if self.table.is_own(p.parent, p.parent_schema))

    @contextmanager
    def in_any_order(self, days: Sequence[Day]) -> Iterator[None]:
        """Rows of these days that are loaded inside may come before those of their table that they reference. Raises
        OperatorError where one references none in the end. Inside a transaction."""
        yield

    def missing_parents(self, parent: ForeignKey, cells: set[Key]) -> set[Key]:
        """The foreign-key values, given as text, that no row of the parent table has."""
        other = sa.table(parent.parent, *map(sa.column, parent.parent_columns), schema=parent.parent_schema)
        columns = [self.table.column(name) for name in parent.columns]
        suspects = self._not_listed(other, parent, columns, cells) if len(columns) == 1 else cells
        missing = set()
        for values in suspects:
            pairs = zip(parent.parent_columns, columns, values, strict=True)
            match = sa.and_(*(other.c[name] == self.typed(c, v) for name, c, v in pairs))
            query = sa.select(sa.exists(sa.select(sa.literal(1)).select_from(other).where(match)))
            if not self.connection.execute(query).scalar():
                missing.add(values)
        return missing

    def _not_listed(self, other: Any, parent: ForeignKey, columns: Sequence[Column], cells: set[Key]) -> set[Key]:
        """A quick first look, many values a statement. What it leaves over may differ in letter case only."""
        column = other.c[parent.parent_columns[0]]
        rest = sorted(cells)
        found: set[Key] = set()
        for start in range(0, len(rest), KEYS_PER_STATEMENT):
            values = [self.typed(columns[0], v[0]) for v in rest[start : start + KEYS_PER_STATEMENT]]
            rows = self.connection.execute(sa.select(column).where(column.in_(values)))
            found |= {(as_bytes(row[0]),) for row in rows}
        return cells - found
