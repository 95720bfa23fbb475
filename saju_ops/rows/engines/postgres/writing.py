"""Adds rows to a table of PostgreSQL by COPY, and makes tables for a restore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.rows.csvfile import write_rows
from saju_ops.rows.engines.base import NoPartition
from saju_ops.rows.engines.postgres.reading import PostgresReading, _CopySink, _NamedType, _str
from saju_ops.rows.table import Column

if TYPE_CHECKING:
    import pyarrow as pa

UNVALIDATED = sa.text(
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE conrelid = CAST(:name AS regclass) AND contype = 'c' AND NOT convalidated AND coninhcount = 0"
)
NOT_OWNER = "42501"


class PostgresWriting(PostgresReading):
    """The statements that a restore needs."""

    def require_writable(self, columns: Sequence[Column]) -> None:
        query = sa.text("SELECT has_any_column_privilege(:table, 'INSERT'), current_user")
        table = self._quote(self.table.name)
        may, user = self.connection.execute(query, {"table": table}).one()
        self.end_read()
        if not may:
            raise Refused(
                f"{self.table.name} can't be written to by this account. Nothing was written; GRANT INSERT ON"
                f" {table} TO {self._quote(str(user))}."
            )

    def require_creatable(self, name: str) -> None:
        query = sa.text("SELECT current_schema(), current_user, has_schema_privilege(current_schema(), 'CREATE')")
        schema, user, may = self.connection.execute(query).one()
        self.end_read()
        if not may:
            raise Refused(
                f"{name} can't be written to by this account, which may not make it. Nothing was written; GRANT CREATE"
                f" ON SCHEMA {self._quote(str(schema))} TO {self._quote(str(user))}."
            )

    def create_like(self, name: str) -> None:
        quote = self._quote
        statements = [f"CREATE TABLE {quote(name)} (LIKE {quote(self.table.name)} INCLUDING ALL)"]
        # In the copy they would hold for all rows.
        statements += [f"ALTER TABLE {quote(name)} DROP CONSTRAINT {quote(each)}" for each in self._unvalidated()]
        with self.transaction():
            for statement in statements:
                self.connection.exec_driver_sql(statement.replace("%", "%%"))

    def _unvalidated(self) -> dict[str, str]:
        """The CHECKs that hold for new rows alone (NOT VALID), and their definitions."""
        name = {"name": self._quote(self.table.name)}
        return {_str(row[0]): _str(row[1]) for row in self.connection.execute(UNVALIDATED, name)}

    @contextmanager
    def _old_rows_taken(self) -> Iterator[None]:
        """Takes CHECKs that are NOT VALID from the table till the rows are in, and gives them back as they were, in the
        same transaction: nobody sees the table without them. Where the account doesn't own the table, they stay."""
        checks = self._unvalidated() if self.takes_old_rows else {}
        table, taken = self._quote(self.table.name), {}
        for name, definition in checks.items():
            try:
                with self.connection.begin_nested():
                    self._alter(f"ALTER TABLE {table} DROP CONSTRAINT {self._quote(name)}")
                taken[name] = definition
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != NOT_OWNER:
                    raise
        yield
        if taken:
            self.connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")  # deferred checks would forbid the change
        for name, definition in taken.items():
            self._alter(f"ALTER TABLE {table} ADD CONSTRAINT {self._quote(name)} {definition}")

    def _alter(self, statement: str) -> None:
        self.connection.exec_driver_sql(statement.replace("%", "%%"))

    def _catch_up_sequences(self, table: str, columns: Sequence[Column]) -> None:
        """Lets sequences continue after the highest restored number; a sequence is never set back."""
        for column in columns:
            if column.family not in ("int2", "int4", "int8"):
                continue
            sequence = self.connection.execute(
                sa.text("SELECT pg_get_serial_sequence(:table, :column)"),
                {"table": self._quote(table), "column": column.name},
            ).scalar()
            if not sequence or not self._may_set(str(sequence), table, column.name):
                continue
            highest = sa.select(sa.func.max(sa.column(column.name))).select_from(sa.table(table)).scalar_subquery()
            current = sa.select(sa.literal_column("last_value")).select_from(sa.text(sequence)).scalar_subquery()
            named = sa.cast(sa.literal(sequence, sa.Text), _NamedType("regclass"))
            self.connection.execute(sa.select(sa.func.setval(named, highest)).where(highest > current))

    def _may_set(self, sequence: str, table: str, column: str) -> bool:
        """Old rows have smaller numbers than the sequence gives by now, unless the table is a new one."""
        query = "SELECT has_sequence_privilege(:name, 'SELECT') AND has_sequence_privilege(:name, 'UPDATE')"
        may = bool(self.connection.execute(sa.text(query), {"name": sequence}).scalar())
        if not may:
            remark = (
                f"This account may not set the sequence {sequence}, which numbers {table}.{column}. If the table was"
                f" new, set it before the service writes, to the greatest {column} that there is (setval)."
            )
            self.remarks += [remark] if remark not in self.remarks else []
        return may

    def load(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        writable = [c for c in columns if not c.generated]
        quote = self._quote
        names = ", ".join(quote(c.name) for c in writable)
        statement = f"COPY {quote(table)} ({names}) FROM STDIN (FORMAT csv, ENCODING 'UTF8')"
        with self._old_rows_taken(), self.driver() as raw, raw.cursor() as cursor:
            try:
                with cursor.copy(statement) as copy:
                    write_rows((_for_copy(batch, writable) for batch in batches), _CopySink(copy))
            except self.connection.dialect.loaded_dbapi.Error as error:
                # The server's code for a row without a partition is that of a CHECK.
                if str(getattr(error, "diag", None) and error.diag.message_primary).startswith("no partition of"):
                    raise NoPartition(table) from None
                raise
        self._catch_up_sequences(table, writable)


def _for_copy(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = []
    for column in columns:
        cells = batch.column(column.name).cast(pa.binary()).cast(pa.string())
        if column.encoding == "hex":
            cells = pc.binary_join_element_wise(pa.scalar("\\x"), cells, "")
        arrays.append(cells)
    return pa.RecordBatch.from_arrays(arrays, names=[c.name for c in columns])
