"""MySQL and MariaDB: a partition is exchanged with an empty table, or dropped under LOCK TABLES … WRITE.

The exchange takes 0.06 s for a million rows, and afterwards no writer reaches them. MySQL refuses it for good after a
column was added or dropped with ALGORITHM=INSTANT (1731), until the table is rebuilt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text
from saju_ops.database.mysql_grants import error_number
from saju_ops.rows.engines.open import RowStore
from saju_ops.schema.partitions.blockers import blockers
from saju_ops.schema.partitions.catalogue import Layout, Partition, quoted, run
from saju_ops.schema.partitions.months import Month, free_names
from saju_ops.schema.partitions.mover import LOCK_WAIT_SECONDS, MARK, Blocked, Mover, NoExchange

LOCK_TIMEOUT = 1205
# MariaDB's ALTER locks the server's own statistics too, which a thread of it may be at. With the one second of a
# purge it gave up there.
ROW_WAIT_SECONDS = 10
# An INSTANT column change; other columns or indexes; rows that the partition isn't for.
NOT_ALIKE = {1731, 1736, 1737}
LONGEST_NAME = 64
TRIGGERS = sa.text(
    "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()"
    " AND EVENT_OBJECT_TABLE = :name AND EVENT_MANIPULATION = 'DELETE'"
)
SIDES = sa.text(
    "SELECT TABLE_NAME, TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    " AND TABLE_TYPE = 'BASE TABLE' AND (TABLE_COMMENT = :mark OR TABLE_NAME IN :names) ORDER BY TABLE_NAME"
).bindparams(sa.bindparam("names", expanding=True))
PARTITIONED = sa.text(
    "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND PARTITION_NAME IS NOT NULL"
)


@contextmanager
def waiting_briefly(store: RowStore) -> Iterator[None]:
    """Inside, an ALTER waits for others' transactions for seconds, since all new queries wait behind it."""
    wanted = {"lock_wait_timeout": LOCK_WAIT_SECONDS, "innodb_lock_wait_timeout": ROW_WAIT_SECONDS}
    asked = ", ".join(f"@@SESSION.{name}" for name in wanted)
    before = store.connection.exec_driver_sql(f"SELECT {asked}").one()
    store.end_read()
    run(store, "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in wanted.items()))
    try:
        yield
    finally:
        if not store.connection.invalidated:
            store.end_read()
            run(store, "SET SESSION " + ", ".join(f"{n} = {v}" for n, v in zip(wanted, before, strict=True)))


class MySQLMover(Mover):
    def __init__(self, store: RowStore) -> None:
        super().__init__(store)
        self._table = quoted(store, store.table.name)
        self._mark = f"{MARK} {store.table.name}"

    def whole_reasons(self) -> str:
        triggers = self.store.connection.execute(TRIGGERS, {"name": self.store.table.name}).scalars().all()
        self.store.end_read()
        if triggers:
            names = ", ".join(str(name) for name in triggers)
            return f"a trigger looks at each row that is deleted ({names}), and would not see them"
        if self.store.table.notes:
            return "the table is system-versioned"
        return ""

    def side_name(self, partition: Partition) -> str:
        whole = f"{self.store.table.name}_{partition.name}"
        if len(whole) <= LONGEST_NAME:
            return whole
        return f"{whole[: LONGEST_NAME - 9]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def sides(self, names: Collection[str]) -> list[str]:
        rows = self.store.connection.execute(SIDES, {"mark": self._mark, "names": [*names]}).all()
        self.store.end_read()
        return [str(name) for name, comment in rows if str(comment) == self._mark or self._is_half_made(str(name))]

    def _is_half_made(self, name: str) -> bool:
        """Whether a kill came between the statement that makes a side table and the one that marks it."""
        partitions = self.store.connection.execute(PARTITIONED, {"name": name}).scalar()
        self.store.end_read()
        return bool(partitions) and not self._has_rows(name)

    def _has_rows(self, name: str) -> bool:
        query = f"SELECT EXISTS (SELECT 1 FROM {quoted(self.store, name)})"  # noqa: S608
        found = bool(self.store.connection.exec_driver_sql(query.replace("%", "%%")).scalar())
        self.store.end_read()
        return found

    @contextmanager
    def briefly(self) -> Iterator[None]:
        with waiting_briefly(self.store):
            yield

    def count(self, partition: Partition, *, also: sa.ColumnElement[bool] | None = None) -> int:
        query = sa.select(sa.func.count()).select_from(self.store.from_)
        hint = f"PARTITION ({quoted(self.store, partition.name)})"
        query = query.with_hint(self.store.from_, hint.replace("%", "%%"))
        found = int(self.store.connection.execute(query if also is None else query.where(also)).scalar_one())
        self.store.end_read()
        return found

    # --- out and back ----------------------------------------------------------------------------------------

    def take_out(self, partition: Partition) -> str:
        name = self.side_name(partition)
        self._require_free(name)
        side = quoted(self.store, name)
        try:
            run(self.store, f"CREATE TABLE {side} LIKE {self._table}")
            # One statement: a table with partitions and without our mark is known by its name, having no row.
            run(self.store, f"ALTER TABLE {side} COMMENT = {self._literal(self._mark)} REMOVE PARTITIONING")
            self._exchange(name, partition)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            self.store.end_read()
            run(self.store, f"DROP TABLE IF EXISTS {side}")
            raise NoExchange(f"the server can't take it out ({error_text(error)})") from None
        except (Blocked, NoExchange):
            run(self.store, f"DROP TABLE {side}")
            raise
        return name

    def _require_free(self, name: str) -> None:
        """Raises NoExchange where somebody else's table has the name; what a kill left was settled before."""
        if self.store.has_table(name):
            raise NoExchange(f"there is a table {name}, a name that saju_ops would need; rename it")

    def _literal(self, text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"

    def _exchange(self, side: str, partition: Partition) -> None:
        name, other = quoted(self.store, partition.name), quoted(self.store, side)
        # MariaDB's EXCHANGE looks at the table's rows first. Without autocommit it keeps its locks on them, and then
        # waits for itself.
        run(self.store, "SET SESSION autocommit = 1")
        try:
            run(self.store, f"ALTER TABLE {self._table} EXCHANGE PARTITION {name} WITH TABLE {other}")
        except DBAPIError as error:
            raise self._explained(error) from None
        finally:
            if not self.store.connection.invalidated:
                run(self.store, "SET SESSION autocommit = 0")

    def _explained(self, error: DBAPIError) -> Exception:
        number = error_number(error)
        self.store.end_read()
        if number == LOCK_TIMEOUT:
            return Blocked(
                f"an open transaction of another connection reads the table for more than {LOCK_WAIT_SECONDS} s"
                f" ({blockers(self.store)})"
            )
        if number in NOT_ALIKE:
            return NoExchange(
                f"the server can't exchange it ({error_text(error)}), as after a column was added or dropped with"
                f" ALGORITHM=INSTANT. ALTER TABLE {self._table} FORCE, ALGORITHM=INPLACE, LOCK=NONE rebuilds the table"
                " while the service works, and mends that"
            )
        return error

    def exchange_back(self, side: str, partition: Partition) -> bool:
        try:
            self._exchange(side, partition)
        except NoExchange:
            return False
        return True

    def drop_side(self, side: str) -> None:
        run(self.store, f"DROP TABLE {quoted(self.store, side)}")

    # --- where it is -----------------------------------------------------------------------------------------

    def drop_empty(self, partition: Partition) -> bool:
        with self.under_lock(partition):
            if self.count(partition):
                return False
            self.drop_locked(partition)
        return True

    @contextmanager
    def under_lock(self, partition: Partition) -> Iterator[None]:
        self.store.end_read()
        try:
            run(self.store, f"LOCK TABLES {self._table} WRITE")
        except DBAPIError as error:
            raise self._explained(error) from None
        try:
            yield
        finally:
            if not self.store.connection.invalidated:
                self.store.end_read()
                run(self.store, "UNLOCK TABLES")

    def drop_locked(self, partition: Partition) -> None:
        run(self.store, f"ALTER TABLE {self._table} DROP PARTITION {quoted(self.store, partition.name)}")

    # --- months to come --------------------------------------------------------------------------------------

    def add_months(self, wanted: list[Month], layout: Layout) -> list[str]:
        named = free_names(wanted, {p.name.lower() for p in layout.partitions})
        pieces = [self._piece(name, layout.boundary(self.store, month.end)) for name, month in named]
        future = layout.future
        if future is None:
            statement = f"ALTER TABLE {self._table} ADD PARTITION ({', '.join(pieces)})"
        else:
            # MariaDB knows no ALGORITHM here.
            how = "" if self.store.table.engine == "mariadb" else "ALGORITHM=INPLACE, LOCK=SHARED, "
            last = f"PARTITION {quoted(self.store, future.name)} VALUES LESS THAN {self._last(layout)}"
            statement = (
                f"ALTER TABLE {self._table} {how}REORGANIZE PARTITION {quoted(self.store, future.name)}"
                f" INTO ({', '.join([*pieces, last])})"
            )
        try:
            run(self.store, statement)
        except DBAPIError as error:
            raise self._explained(error) from None
        return [name for name, _ in named]

    def _piece(self, name: str, bound: str) -> str:
        return f"PARTITION {quoted(self.store, name)} VALUES LESS THAN ({bound})"

    def _last(self, layout: Layout) -> str:
        return "MAXVALUE" if layout.in_seconds else "(MAXVALUE)"
