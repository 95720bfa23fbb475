"""A masked copy of a MySQL or MariaDB database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

from saju_ops.database.snapshots import begin_reading
from saju_ops.dumps.mysql.broken_views import broken_views, ignored
from saju_ops.dumps.mysql.clients import as_argument, dump_client
from saju_ops.dumps.mysql.engine import MySQLDumps
from saju_ops.dumps.mysql.events import events_that_spin, events_written
from saju_ops.dumps.mysql.taking import LOCK_PATIENCE
from saju_ops.dumps.programs import Output
from saju_ops.dumps.without_rows import is_without_rows
from saju_ops.masking.copy_base import Change, Row, _batches, _ended
from saju_ops.masking.masker import MaskedColumn
from saju_ops.rows.foreign_keys import mysql_keys_of_database

_MYSQL_COLUMNS = sa.text(
    "SELECT c.TABLE_NAME, c.COLUMN_NAME, c.COLUMN_TYPE, c.CHARACTER_MAXIMUM_LENGTH, c.IS_NULLABLE, c.EXTRA,"
    " c.COLLATION_NAME"
    " FROM information_schema.COLUMNS c JOIN information_schema.TABLES t"
    " ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME"
    " WHERE c.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')"
    " ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION"
)
_MYSQL_VIEWS = sa.text("SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE()")
# With routines, which views may call.
_FIRST = ("--no-data", "--skip-triggers", "--skip-events")
_LAST = ("--no-data", "--no-create-info", "--skip-routines")


class _MySQL:
    def __init__(self, source: MySQLDumps, scratch: MySQLDumps, reader: sa.Connection, writer: sa.Connection) -> None:
        self._source, self._scratch, self._reader, self._writer = source, scratch, reader, writer
        self.notes = ["events are switched off"]
        self._defined: list[bytes] = []
        reader.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        begin_reading(reader)
        reader.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        reader.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_PATIENCE}")
        self._quote = reader.dialect.identifier_preparer.quote
        # Not even as comments: a definition may contain personal data.
        names = [n.decode() if isinstance(n, bytes) else n for (n,) in reader.execute(_MYSQL_VIEWS)]
        self._broken = list(broken_views(reader, names))
        if self._broken:
            self.notes.append(f"broken views are left out: {', '.join(self._broken)}")

    def columns(self) -> list[MaskedColumn]:
        found = []
        for row in self._reader.execute(_MYSQL_COLUMNS):
            texts = (v.decode() if isinstance(v, bytes) else v for v in row)
            table, column, kind, limit, nullable, extra, collation = texts
            if is_without_rows(str(table)):
                continue
            if "GENERATED" in str(extra).upper().replace("DEFAULT_GENERATED", ""):
                continue
            small = int(limit) if limit is not None and int(limit) < 65_535 else None
            folded = "_ci" in str(collation)
            found.append(
                MaskedColumn(
                    table,
                    column,
                    str(kind),
                    None,
                    limit=small,
                    nullable=nullable == "YES",
                    most=_most(str(kind)),
                    folded=folded,
                )
            )
        return found

    def keys(self) -> list[tuple[str, str, str, str]]:
        keys = (key.key for key in mysql_keys_of_database(self._reader) if key.refers_here)
        return [pair for key in keys for pair in key.pairs()]

    def _select(self, connection: sa.Connection, columns: Sequence[MaskedColumn], distinct: str = "") -> Any:
        names = ", ".join(self._quote(c.column) for c in columns)
        statement = f"SELECT {distinct}{names} FROM {self._quote(columns[0].table)}"  # noqa: S608
        # Row by row: how large they are is not known.
        return connection.execution_options(stream_results=True, max_row_buffer=1).exec_driver_sql(statement)

    def values(self, column: MaskedColumn) -> Iterator[Any]:
        for (value,) in self._select(self._reader, [column], "DISTINCT "):
            yield value

    def begin(self) -> None:
        self._schema(_FIRST)
        self._writer.exec_driver_sql("SET SESSION foreign_key_checks = 0, unique_checks = 0")

    def finish(self) -> None:
        events = events_that_spin(self._reader)
        self._schema([*_LAST, *["--skip-events"] * bool(events)], events_written(self._reader, events))

    def _schema(self, more: Sequence[str], written: Iterable[bytes] = ()) -> None:
        client = dump_client(self._source.engine)
        arguments = [*more, *ignored(self._source.database, self._broken), *as_argument(self._source.database)]
        with client.program(self._source.url, arguments) as program, Output(program) as output:
            self._scratch.load(_read(output, self._defined, written), self._source.database, drill=True)

    def definitions(self) -> str:
        return b"".join(self._defined).decode(errors="replace")

    def counters(self) -> list[tuple[str, int]]:
        return []

    def copy(self, columns: Sequence[MaskedColumn], change: Change) -> int:
        names = ", ".join(self._quote(c.column) for c in columns)
        places = ", ".join(["%s"] * len(columns))
        statement = f"INSERT INTO {self._quote(columns[0].table)} ({names}) VALUES ({places})"  # noqa: S608
        count = 0
        for batch in _batches(self._select(self._reader, columns)):
            self._writer.exec_driver_sql(statement, change(batch))
            self._writer.commit()
            count += len(batch)
        return count

    def rows(self, columns: Sequence[MaskedColumn]) -> Iterator[list[Row]]:
        yield from _batches(self._select(self._writer, columns))
        self._writer.rollback()


def _read(output: Output, kept: list[bytes], more: Iterable[bytes] = ()) -> Iterator[bytes]:
    for data in chain(iter(output.read, b""), _ended(output), more):
        kept.append(data)
        yield data


# The largest number of each type of whole numbers.
_BITS = {
    "tinyint": 7, "smallint": 15, "int2": 15, "smallserial": 15, "mediumint": 23, "int": 31, "integer": 31, "int4": 31,
    "serial": 31, "bigint": 63, "int8": 63, "bigserial": 63,
}  # fmt: skip


def _most(kind: str) -> int | None:
    bits = _BITS.get(re.split(r"[( ]", kind.lower(), maxsplit=1)[0])
    return (1 << bits) - 1 if bits else None
