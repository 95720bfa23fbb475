"""Adds rows to a table of MySQL or MariaDB: LOAD DATA where nothing is lost by it, INSERT elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from saju_ops.database.connect import MYSQL_SQL_MODE
from saju_ops.database.mysql_grants import (
    DENIED,
    account,
    error_number,
    grants_of,
    parsed,
    rights_on,
    takes_names_literally,
)
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.comeback import TYPED, TYPES_BEHIND, UTC_OFFSET
from saju_ops.rows.days import Day
from saju_ops.rows.engines.base import NoPartition
from saju_ops.rows.engines.mysql import json_types as mysql_json
from saju_ops.rows.engines.mysql.load import ROWS_PER_INSERT, _Feeder, _insertable, _literal
from saju_ops.rows.engines.mysql.reading import MySQLReading
from saju_ops.rows.engines.mysql.text import _members
from saju_ops.rows.table import Column, ForeignKey

if TYPE_CHECKING:
    import pyarrow as pa

PARTITIONED = sa.text(
    "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND PARTITION_NAME IS NOT NULL"
)
# A row that no partition of the table is for.
NO_PARTITION = 1526


class MySQLWriting(MySQLReading):
    """The statements that a restore needs."""

    # Whether the session may write MariaDB's columns of a row's history.
    _inserts_history: bool

    def require_writable(self, columns: Sequence[Column]) -> None:
        name, names = self._quote(self.table.name), ", ".join(self._quote(c.name) for c in columns if not c.generated)
        # A server checks the rights even for a statement that it only explains.
        explained = f"EXPLAIN INSERT INTO {name} ({names}) SELECT {names} FROM {name} WHERE 1 = 0"  # noqa: S608
        try:
            self.connection.exec_driver_sql(explained.replace("%", "%%")).close()
        except sa.exc.DBAPIError as error:
            if error_number(error) not in DENIED:
                raise
            self.end_read()
            raise Refused(
                f"{self.table.database}.{self.table.name} can't be written to by this account. Nothing was written;"
                f" GRANT INSERT ON `{self.table.database}`.`{self.table.name}` TO {account(self.connection)}."
            ) from None
        finally:
            self.end_read()

    def require_creatable(self, name: str) -> None:
        grants, database = grants_of(self.connection), self.table.database
        literal = takes_names_literally(self.connection)
        needed = {"CREATE", "INSERT", "SELECT"}
        rights = rights_on(grants, database, literal=literal)
        for verb, more, of, what, _ in parsed(grants):
            rights |= more if verb == "GRANT" and (of.casefold(), what) == (database.casefold(), name) else set()
        missing = set() if "ALL PRIVILEGES" in rights else needed - rights
        if missing:
            listed = ", ".join(sorted(missing))
            raise Refused(
                f"{database}.{name} can't be written to by this account, which may not make it. Nothing was written;"
                f" GRANT {listed} ON `{database}`.`{name}` TO {account(self.connection)}."
            )
        self.end_read()

    def create_like(self, name: str) -> None:
        # LIKE copies columns and indexes and leaves out foreign keys, as wanted here.
        source, target = self._quote(self.table.name), self._quote(name)
        self.connection.exec_driver_sql(f"CREATE TABLE {target} LIKE {source}".replace("%", "%%"))
        if self.connection.execute(PARTITIONED, {"name": name}).scalar():
            # The rows' own partition may have been dropped since.
            self.connection.exec_driver_sql(f"ALTER TABLE {target} REMOVE PARTITIONING".replace("%", "%%"))
        self.end_read()

    @contextmanager
    def in_any_order(self, days: Sequence[Day]) -> Iterator[None]:
        before = [self._dangling(parent, day) for parent in self.table.parents for day in days]
        self.connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")
        # What the server would have looked at row by row, and under the same locks.
        after = [self._dangling(parent, day, lock=True) for parent in self.table.parents for day in days]
        if after != before:
            raise OperatorError(
                f"Some rows (at least {sum(after) - sum(before)}) reference rows that are not there, such as a parent"
                " that was deleted meanwhile. This file was rolled back; launch the restore again."
            )

    def _dangling(self, parent: ForeignKey, day: Day, *, lock: bool = False) -> int:
        """Rows of the day whose parent isn't there. With lock, the parents stay till the transaction ends."""
        other = sa.table(parent.parent, *map(sa.column, parent.parent_columns), schema=parent.parent_schema)
        alias = other.alias("saju_parent")
        pairs = list(zip(parent.columns, parent.parent_columns, strict=True))
        joined = self.from_.outerjoin(alias, sa.and_(*(alias.c[b] == self.col(a) for a, b in pairs)))
        query = sa.select(sa.func.count()).select_from(joined).where(*self.day_condition(day))
        query = query.where(*(self.col(a).is_not(None) for a in parent.columns))
        query = query.where(alias.c[parent.parent_columns[0]].is_(None))
        return int(self.connection.execute(query.with_for_update(read=True) if lock else query).scalar_one())

    def load(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        writable = [c for c in columns if not c.generated]
        if self._inserts_history:
            self.connection.exec_driver_sql("SET SESSION system_versioning_insert_history = 1")
        typed = any(c.family == TYPED for c in writable)
        with self._checking_nothing():
            try:
                self._load(table, batches, writable, typed)
            except sa.exc.DBAPIError as error:
                if error_number(error) != NO_PARTITION:
                    raise
                raise NoPartition(table) from None

    @contextmanager
    def _checking_nothing(self) -> Iterator[None]:
        """MariaDB: a row may be older than a CHECK of the table. MySQL lets no such row be."""
        if self.table.engine != "mariadb" or not self.takes_old_rows:
            yield
            return
        self.connection.exec_driver_sql("SET SESSION check_constraint_checks = 0")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql("SET SESSION check_constraint_checks = 1")

    def _load(self, table: str, batches: Iterator[pa.RecordBatch], writable: Sequence[Column], typed: bool) -> None:
        if self.bulk_load and not typed and self.connection.execute(sa.text("SELECT @@local_infile")).scalar():
            self._load_data(table, batches, writable)
        else:
            self._insert(table, batches, writable)

    def _load_data(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        """LOAD DATA from a pipe, so that nothing is copied to disk. The caller compares what arrived."""
        # By its number under /dev/fd: a named pipe in a temporary folder would stay there after a kill.
        source, sink = os.pipe()
        feeder = _Feeder(sink, batches, columns)
        feeder.start()
        try:
            self.connection.exec_driver_sql(self._load_statement(table, columns, f"/dev/fd/{source}"))
            # LOCAL makes errors warnings and leaves the row out.
            if NO_PARTITION in {int(row[1]) for row in self.connection.exec_driver_sql("SHOW WARNINGS")}:
                raise NoPartition(table)
        finally:
            # Ends the feeder too where the statement failed before it had read all.
            os.close(source)
            feeder.join(timeout=60)
        if feeder.error is not None:
            raise feeder.error

    def _load_statement(self, table: str, columns: Sequence[Column], pipe: str) -> str:
        # Straight into the column where it can be: a variable costs the server 0.15 µs a cell.
        straight = [c.encoding != "hex" and c.family != "bit" and not self._shifts(c) for c in columns]
        targets = ", ".join(
            self._quote(c.name) if plain else f"@c{i}"
            for i, (c, plain) in enumerate(zip(columns, straight, strict=True))
        )
        assignments = ", ".join(
            f"{self._quote(c.name)} = {self._converted(c, f'@c{i}')}"
            for i, (c, plain) in enumerate(zip(columns, straight, strict=True))
            if not plain
        )
        return (
            f"LOAD DATA LOCAL INFILE {_literal(pipe)} INTO TABLE {self._quote(table)} CHARACTER SET utf8mb4"
            " FIELDS TERMINATED BY ',' ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n'"
            f" ({targets})" + (f" SET {assignments}" if assignments else "")
        ).replace("%", "%%")

    def _shifts(self, column: Column) -> bool:
        """Whether a text in UTC has to be moved into the session's zone."""
        return self._offset != UTC_OFFSET and column.family == "timestamp"

    def _mark(self, column: Column, value: Any) -> Any:
        if column.encoding == "hex":
            return sa.func.unhex(value)
        if self._shifts(column):
            zones: list[Any] = [sa.literal_column(f"'{zone}'") for zone in (UTC_OFFSET, self._offset)]
            return sa.func.coalesce(sa.func.convert_tz(value, *zones), value)
        return value

    def _converted(self, column: Column, value: str) -> str:
        if column.encoding == "hex":
            return f"UNHEX({value})"
        if column.family == "bit":
            return f"CAST({value} AS UNSIGNED)"
        if self._shifts(column):
            # CONVERT_TZ gives NULL for a date that no calendar has.
            return f"COALESCE(CONVERT_TZ({value}, '{UTC_OFFSET}', '{self._offset}'), {value})"
        return value

    def _insert(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        target = sa.table(table, *(sa.column(c.name) for c in columns))
        marks = {c.name: self._mark(c, sa.bindparam(f"c{i}")) for i, c in enumerate(columns)}
        statement = sa.insert(target).values(marks)
        for batch in batches:
            cells = [batch.column(c.name).to_pylist() for c in columns]
            rows = [
                {f"c{i}": _insertable(c, v) for i, (c, v) in enumerate(zip(columns, row, strict=True))}
                for row in zip(*cells, strict=True)
            ]
            typed = [i for i, c in enumerate(columns) if c.family == TYPED]
            for row in rows if typed else []:
                row |= {f"c{i}": _with_types(row[f"c{i}"]) for i in typed}
            plain = [r for r in rows if not any(TYPES_BEHIND in (r[f"c{i}"] or "") for i in typed)] if typed else rows
            with self._taking_errors() if self._has_error(plain, columns) else nullcontext():
                for start in range(0, len(plain), ROWS_PER_INSERT):
                    self.connection.execute(statement, plain[start : start + ROWS_PER_INSERT])
            for row in rows if len(plain) < len(rows) else []:
                with self._taking_errors() if self._has_error([row], columns) else nullcontext():
                    self._insert_typed(target, marks, row, {columns[i].name: row[f"c{i}"] for i in typed})

    def _has_error(self, rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> bool:
        """Whether an ENUM holds its error value, which prints as an empty text and which no strict server takes."""
        enums = [f"c{i}" for i, c in enumerate(columns) if c.family == "enum" and "" not in _members(c)]
        return self.takes_old_rows and any(row[name] == "" for name in enums for row in rows)

    @contextmanager
    def _taking_errors(self) -> Iterator[None]:
        self.connection.exec_driver_sql(f"SET SESSION sql_mode = '{MYSQL_SQL_MODE.partition(',')[2]}'")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql(f"SET SESSION sql_mode = '{MYSQL_SQL_MODE}'")

    def _insert_typed(self, target: Any, marks: dict[str, Any], row: dict[str, Any], cells: dict[str, str]) -> None:
        """One row, if it has a document with types."""
        documents = {n: mysql_json.document(cell) for n, cell in cells.items() if TYPES_BEHIND in (cell or "")}
        if documents:
            self.connection.execute(sa.insert(target).values(marks | documents), row)


def _with_types(cell: str | None) -> str | None:
    """A document with the types that can be seen in it, where it says none."""
    types = mysql_json.types_shown(cell) if cell is not None and TYPES_BEHIND not in cell else ""
    return f"{cell}{TYPES_BEHIND}{types}" if types else cell
