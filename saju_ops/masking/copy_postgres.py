"""A masked copy of a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from saju_ops.database.snapshots import export_snapshot
from saju_ops.dumps.postgres.drill import quoted
from saju_ops.dumps.postgres.engine import PostgresDumps
from saju_ops.dumps.programs import Output, find_program
from saju_ops.dumps.without_rows import is_without_rows
from saju_ops.masking.copy_base import Change, Row, _batches
from saju_ops.masking.copy_mysql import _most, _read
from saju_ops.masking.masker import MaskedColumn
from saju_ops.rows.foreign_keys import postgres_keys_by_quoted_names

_POSTGRES_COLUMNS = r"""
SELECT format('%I.%I', n.nspname, c.relname), a.attname, format_type(a.atttypid, a.atttypmod),
  CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod > 4 THEN a.atttypmod - 4 END,
  NOT a.attnotnull
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_t%'
  AND NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid
    AND x.deptype = 'e')
ORDER BY 1, a.attnum"""
_SEQUENCES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S'"""


class _Postgres:
    """By COPY, as text: values of every type pass unchanged."""

    def __init__(
        self, source: PostgresDumps, scratch: PostgresDumps, reader: sa.Connection, writer: sa.Connection
    ) -> None:
        self._source, self._scratch, self._reader, self._writer = source, scratch, reader, writer
        self.notes = ["large objects are left out"]
        self._defined: list[bytes] = []
        self._snapshot = export_snapshot(reader)

    def _rows(self, statement: str) -> list[Any]:
        return list(self._reader.exec_driver_sql(statement.replace("%", "%%")).all())

    def columns(self) -> list[MaskedColumn]:
        return [
            MaskedColumn(
                table, column, kind, None, limit=int(limit) if limit else None, nullable=nullable, most=_most(kind)
            )
            for table, column, kind, limit, nullable in self._rows(_POSTGRES_COLUMNS)
            if not is_without_rows(table)
        ]

    def keys(self) -> list[tuple[str, str, str, str]]:
        return [pair for key in postgres_keys_by_quoted_names(self._reader) for pair in key.pairs()]

    def values(self, column: MaskedColumn) -> Iterator[Any]:
        for batch in self._read(self._reader, [column], "DISTINCT "):
            yield from (row[0] for row in batch)

    def _names(self, columns: Sequence[MaskedColumn]) -> str:
        return ", ".join(quoted(c.column) for c in columns)

    def _read(
        self, connection: sa.Connection, columns: Sequence[MaskedColumn], distinct: str = ""
    ) -> Iterator[list[Row]]:
        statement = f"COPY (SELECT {distinct}{self._names(columns)} FROM ONLY {columns[0].table}) TO STDOUT"  # noqa: S608
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            yield from _batches(copy.rows())

    def begin(self) -> None:
        self._schema("pre-data")

    def _schema(self, section: str) -> None:
        path = find_program(["pg_dump"], "A masked dump of a PostgreSQL database")
        arguments = [
            "--format=plain", "--encoding=UTF8", "--no-password", "--no-subscriptions", "--no-blobs",
            f"--section={section}", f"--snapshot={self._snapshot}",
        ]  # fmt: skip
        with self._source._program(path, arguments, self._reader) as program, Output(program) as output:
            self._scratch.load(_read(output, self._defined), self._source.database, drill=True)

    def definitions(self) -> str:
        return b"".join(self._defined).decode(errors="replace")

    def counters(self) -> list[tuple[str, int]]:
        return [(name, self._counter(name)[0]) for (name,) in self._rows(_SEQUENCES)]

    def _counter(self, name: str) -> tuple[int, bool]:
        ((value, called),) = self._rows(f"SELECT last_value, is_called FROM {name}")  # noqa: S608
        return int(value), called

    def copy(self, columns: Sequence[MaskedColumn], change: Change) -> int:
        statement = f"COPY {columns[0].table} ({self._names(columns)}) FROM STDIN"
        driver: Any = self._writer.connection.driver_connection
        count = 0
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for batch in self._read(self._reader, columns):
                for row in change(batch):
                    copy.write_row(row)
                count += len(batch)
        # SQLAlchemy knows nothing of the driver's own transaction, and psql would wait for its locks for ever.
        driver.commit()
        return count

    def finish(self) -> None:
        for (name,) in self._rows(_SEQUENCES):
            value, called = self._counter(name)
            self._writer.execute(
                sa.text("SELECT setval(CAST(:name AS regclass), :value, :called)"),
                {"name": name, "value": value, "called": called},
            )
        self._writer.commit()
        self._schema("post-data")

    def rows(self, columns: Sequence[MaskedColumn]) -> Iterator[list[Row]]:
        yield from self._read(self._writer, columns)
        driver: Any = self._writer.connection.driver_connection
        driver.rollback()
