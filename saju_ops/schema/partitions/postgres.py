"""PostgreSQL: a partition is detached and an empty one attached in its place, by one short transaction.

So rows of the month that come late always have a partition. An empty month leaves for good by widening the partition
of the past, `<table>_p_past`, which takes what is older than all months. A DEFAULT partition would do for neither: it
is looked through at each attaching.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.rows.engines.open import RowStore
from saju_ops.schema.partitions.blockers import blockers
from saju_ops.schema.partitions.catalogue import Layout, Partition, written
from saju_ops.schema.partitions.months import Month, free_names
from saju_ops.schema.partitions.mover import FUTURE, LOCK_WAIT_SECONDS, MARK, Blocked, Mover

LONGEST_NAME = 63
LOCK_NOT_AVAILABLE = "55P03"
OUT, PAST = "_out", "p_past"
SIDES = sa.text(
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema"
    " AND c.relkind = 'r' AND obj_description(c.oid, 'pg_class') = :mark ORDER BY 1"
)
# A row trigger on DELETE (bit 3), and rules on DELETE ('4').
WATCHERS = sa.text(
    "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(:name) AND NOT tgisinternal AND tgtype & 8 = 8"
    " UNION ALL SELECT rulename FROM pg_rewrite WHERE ev_class = to_regclass(:name) AND ev_type = '4'"
)
KEYS = sa.text("SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(:name) AND contype = 'f'")


class PostgresMover(Mover):
    def __init__(self, store: RowStore) -> None:
        super().__init__(store)
        self._schema = store.table.found_in or "public"
        self._mark = f"{MARK} {store.table.name}"
        self._table = self._name(store.table.name)

    def _name(self, name: str) -> str:
        quote = self.store.connection.dialect.identifier_preparer.quote
        return f"{quote(self._schema)}.{quote(name)}".replace("%%", "%")

    def _plain(self, name: str) -> str:
        return self.store.connection.dialect.identifier_preparer.quote(name).replace("%%", "%")

    def _run(self, statement: str) -> None:
        self.store.connection.exec_driver_sql(statement.replace("%", "%%"))

    def _literal(self, text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    def whole_reasons(self) -> str:
        found = self.store.connection.execute(WATCHERS, {"name": self._table}).scalars().all()
        self.store.end_read()
        if found:
            return f"a trigger or rule looks at each row that is deleted ({', '.join(found)}), and would not see them"
        return ""

    def side_name(self, partition: Partition) -> str:
        return f"{partition.name[: LONGEST_NAME - len(OUT)]}{OUT}"

    def sides(self, names: Collection[str]) -> list[str]:
        found = self.store.connection.execute(SIDES, {"schema": self._schema, "mark": self._mark}).scalars().all()
        self.store.end_read()
        return [str(name) for name in found]

    @contextmanager
    def briefly(self) -> Iterator[None]:
        before = str(self.store.connection.exec_driver_sql("SHOW lock_timeout").scalar_one())
        self._set(f"{LOCK_WAIT_SECONDS}s")
        try:
            yield
        finally:
            if not self.store.connection.invalidated:
                self._set(before)

    def _set(self, wait: str) -> None:
        # Committed: a rollback would take the setting back.
        with self.store.transaction():
            self._run(f"SET lock_timeout = '{wait}'")

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One short transaction. Raises Blocked."""
        try:
            with self.store.transaction():
                yield
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            self.store.end_read()
            raise Blocked(
                f"an open transaction of another connection reads the table for more than {LOCK_WAIT_SECONDS} s"
                f" ({blockers(self.store)})"
            ) from None

    def count(self, partition: Partition, *, also: sa.ColumnElement[bool] | None = None) -> int:
        query = f"SELECT COUNT(*) FROM {self._name(partition.name)}"  # noqa: S608
        found = int(self.store.connection.exec_driver_sql(query.replace("%", "%%")).scalar_one())
        self.store.end_read()
        return found

    # --- out and back ----------------------------------------------------------------------------------------

    def _bounds(self, start: datetime | None, end: datetime | None) -> str:
        low = "MINVALUE" if start is None else f"'{written(self.store, start)}'"
        high = "MAXVALUE" if end is None else f"'{written(self.store, end)}'"
        return f"FOR VALUES FROM ({low}) TO ({high})"

    def take_out(self, partition: Partition) -> str:
        side = self.side_name(partition)
        with self._change():
            self._detach(partition.name)
            self._rename(partition.name, side)
            self._make(partition.name, partition.start, partition.end)
            self._mark_side(side)
        return side

    def _detach(self, name: str) -> None:
        self._run(f"ALTER TABLE {self._table} DETACH PARTITION {self._name(name)}")

    def _attach(self, name: str, start: datetime | None, end: datetime | None) -> None:
        bounds = self._bounds(start, end)
        self._run(f"ALTER TABLE {self._table} ATTACH PARTITION {self._name(name)} {bounds}")

    def _make(self, name: str, start: datetime | None, end: datetime | None) -> None:
        self._run(f"CREATE TABLE {self._name(name)} PARTITION OF {self._table} {self._bounds(start, end)}")

    def _rename(self, name: str, to: str) -> None:
        self._run(f"ALTER TABLE {self._name(name)} RENAME TO {self._plain(to)}")

    def _mark_side(self, side: str) -> None:
        self._run(f"COMMENT ON TABLE {self._name(side)} IS {self._literal(self._mark)}")
        # Else the sessions' deletes would cascade to rows that nobody compares any more.
        for key in self.store.connection.execute(KEYS, {"name": self._name(side)}).scalars().all():
            self._run(f"ALTER TABLE {self._name(side)} DROP CONSTRAINT {self._plain(str(key))}")

    def exchange_back(self, side: str, partition: Partition) -> bool:
        late = f"{partition.name[: LONGEST_NAME - 5]}_late"
        with self._change():
            self._detach(partition.name)
            self._rename(partition.name, late)
            self._rename(side, partition.name)
            self._run(f"COMMENT ON TABLE {self._name(partition.name)} IS NULL")
            # The table's foreign keys come back with it, and its rows are looked at.
            self._attach(partition.name, partition.start, partition.end)
            self._rename(late, side)
            self._mark_side(side)
        return True

    def drop_side(self, side: str) -> None:
        with self.store.transaction():
            self._run(f"DROP TABLE {self._name(side)}")

    def drop_empty(self, partition: Partition) -> bool:
        layout = self.layout()
        below = next((p for p in layout.partitions if p.end == partition.start), None)
        # The lowest month, or that of the past itself: only what is above the past can be joined to it.
        if partition.start is None or (below is not None and below.start is not None):
            return False
        with self._change():
            self._run(f"LOCK TABLE {self._table} IN ACCESS EXCLUSIVE MODE")
            query = f"SELECT EXISTS (SELECT 1 FROM {self._name(partition.name)})"  # noqa: S608
            if self.store.connection.exec_driver_sql(query.replace("%", "%%")).scalar():
                return False
            self._detach(partition.name)
            self._run(f"DROP TABLE {self._name(partition.name)}")
            if below is None:
                self._make(self._past(layout), None, partition.end)
            else:
                self._detach(below.name)
                self._attach(below.name, None, partition.end)
        return True

    def _past(self, layout: Layout) -> str:
        return f"{self.store.table.name[: LONGEST_NAME - len(PAST) - 1]}_{PAST}"

    # --- months to come --------------------------------------------------------------------------------------

    def add_months(self, wanted: list[Month], layout: Layout) -> list[str]:
        stem = self.store.table.name[: LONGEST_NAME - 12]
        named = [
            (f"{stem}_{name}", month)
            for name, month in free_names(wanted, {p.name.removeprefix(f"{stem}_") for p in layout.partitions})
        ]
        future, start = layout.future, layout.last_bound
        old = f"{stem}_{FUTURE}_old"
        with self._change():
            if future is not None:
                self._detach(future.name)
                self._rename(future.name, old)
            for name, month in named:
                self._make(name, start, month.end)
                start = month.end
            last = future.name if future is not None else f"{stem}_{FUTURE}"
            self._make(last, start, None)
            if future is not None:
                names = ", ".join(self._plain(c.name) for c in self.store.table.columns if not c.generated)
                rows = f"SELECT {names} FROM {self._name(old)}"  # noqa: S608
                self._run(f"INSERT INTO {self._table} ({names}) OVERRIDING SYSTEM VALUE {rows}")
                self._run(f"DROP TABLE {self._name(old)}")
        return [name for name, _ in named]
