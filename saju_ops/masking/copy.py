"""Copies a database into a scratch one with its values masked on the way: no true value ever lies in the copy.

Read in one snapshot of the source, table after table, in constant memory. The scratch database is ours (see
`drill.py`); the source is only read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any, Protocol

import sqlalchemy as sa

from saju_ops.dumps.engine import DumpEngine
from saju_ops.dumps.mysql.broken_views import broken_views, ignored
from saju_ops.dumps.mysql.clients import as_argument, dump_client
from saju_ops.dumps.mysql.engine import LOCK_PATIENCE, MySQLDumps
from saju_ops.dumps.mysql.events import events_that_spin, events_written
from saju_ops.dumps.postgres.drill import quoted
from saju_ops.dumps.postgres.engine import PostgresDumps
from saju_ops.dumps.programs import Output, find_program
from saju_ops.dumps.sqlite import SQLiteDumps
from saju_ops.masking.masker import MaskedColumn

BATCH = 1_000
# Characters and bytes, after which a batch has no more rows.
BATCH_WEIGHT = 2 << 20
# SQLite's whole numbers have eight bytes, whatever the type is called.
MOST_IN_SQLITE = (1 << 63) - 1
Row = tuple[Any, ...]
Change = Callable[[list[Row]], list[Row]]


class Copier(Protocol):
    """One engine's way. Every method reads the same snapshot."""

    # What is not copied, as sentences.
    notes: list[str]

    def columns(self) -> list[MaskedColumn]:
        """Every stored column of every table, without rules yet, in the tables' own order."""

    def keys(self) -> list[tuple[str, str, str, str]]:
        """Foreign keys: table, column, referred table, referred column."""

    def values(self, column: MaskedColumn) -> Iterator[Any]:
        """The different values of a column."""

    def begin(self) -> None:
        """Makes the tables, without triggers."""

    def copy(self, columns: Sequence[MaskedColumn], change: Change) -> int:
        """Copies one table; returns how many rows."""

    def finish(self) -> None:
        """Makes what had to wait for the rows."""

    def definitions(self) -> str:
        """After `finish`: the SQL by which the copy was made."""

    def counters(self) -> list[tuple[str, int]]:
        """What is counted on from in the copy, where the definitions don't say: the name and the number."""

    def rows(self, columns: Sequence[MaskedColumn]) -> Iterator[list[Row]]:
        """The rows of the copy."""


@contextmanager
def copier(source: DumpEngine, scratch: DumpEngine) -> Iterator[Copier]:
    if isinstance(source, SQLiteDumps) and isinstance(scratch, SQLiteDumps):
        with closing(_SQLite(source, scratch)) as sqlite:
            yield sqlite
    elif isinstance(source, PostgresDumps) and isinstance(scratch, PostgresDumps):
        with source._engine.connect() as reader, scratch._engine.connect() as writer:
            yield _Postgres(source, scratch, reader, writer)
    else:
        assert isinstance(source, MySQLDumps)
        assert isinstance(scratch, MySQLDumps)
        with source._engine.connect() as reader, scratch._engine.connect() as writer:
            yield _MySQL(source, scratch, reader, writer)


def _batches(rows: Iterable[Any]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    weight = 0
    for row in rows:
        batch.append(tuple(row))
        weight += sum(len(v) for v in row if isinstance(v, str | bytes | memoryview))
        if len(batch) == BATCH or weight >= BATCH_WEIGHT:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


# --- MySQL and MariaDB -------------------------------------------------------------------------------------------

_MYSQL_COLUMNS = sa.text(
    "SELECT c.TABLE_NAME, c.COLUMN_NAME, c.COLUMN_TYPE, c.CHARACTER_MAXIMUM_LENGTH, c.IS_NULLABLE, c.EXTRA,"
    " c.COLLATION_NAME"
    " FROM information_schema.COLUMNS c JOIN information_schema.TABLES t"
    " ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME"
    " WHERE c.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')"
    " ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION"
)
_MYSQL_KEYS = sa.text(
    "SELECT TABLE_NAME, COLUMN_NAME, REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME FROM"
    " information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = DATABASE() AND REFERENCED_TABLE_SCHEMA = DATABASE()"
)
_MYSQL_VIEWS = sa.text("SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE()")
# With routines, which views may call.
_FIRST = ("--no-data", "--skip-triggers", "--skip-events")
_LAST = ("--no-data", "--no-create-info", "--skip-routines")


class _MySQL:
    def __init__(
        self, source: MySQLDumps, scratch: MySQLDumps, reader: sa.Connection, writer: sa.Connection
    ) -> None:
        self._source, self._scratch, self._reader, self._writer = source, scratch, reader, writer
        self.notes = ["events are switched off"]
        self._defined: list[bytes] = []
        reader.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        reader.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_PATIENCE}")
        self._quote = reader.dialect.identifier_preparer.quote
        # Not even as comments: in a definition may stand what is personal.
        names = [n.decode() if isinstance(n, bytes) else n for (n,) in reader.execute(_MYSQL_VIEWS)]
        self._broken = list(broken_views(reader, names))
        if self._broken:
            self.notes.append(f"broken views are left out: {', '.join(self._broken)}")

    def columns(self) -> list[MaskedColumn]:
        found = []
        for row in self._reader.execute(_MYSQL_COLUMNS):
            told = (v.decode() if isinstance(v, bytes) else v for v in row)
            table, column, kind, limit, nullable, extra, collation = told
            if "GENERATED" in str(extra).upper().replace("DEFAULT_GENERATED", ""):
                continue
            small = int(limit) if limit is not None and int(limit) < 65_535 else None
            folded = "_ci" in str(collation)
            found.append(
                MaskedColumn(table, column, str(kind), None, small, nullable == "YES", _most(str(kind)), folded)
            )
        return found

    def keys(self) -> list[tuple[str, str, str, str]]:
        return [tuple(row) for row in self._reader.execute(_MYSQL_KEYS)]

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


def _ended(output: Output) -> Iterator[bytes]:
    output.finish()
    yield from ()


# The largest number of each type of whole numbers.
_BITS = {
    "tinyint": 7, "smallint": 15, "int2": 15, "smallserial": 15, "mediumint": 23, "int": 31, "integer": 31, "int4": 31,
    "serial": 31, "bigint": 63, "int8": 63, "bigserial": 63,
}  # fmt: skip


def _most(kind: str) -> int | None:
    bits = _BITS.get(re.split(r"[( ]", kind.lower(), maxsplit=1)[0])
    return (1 << bits) - 1 if bits else None


# --- PostgreSQL --------------------------------------------------------------------------------------------------

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
_POSTGRES_KEYS = """
SELECT format('%I.%I', n.nspname, c.relname), a.attname, format('%I.%I', rn.nspname, r.relname), ra.attname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS pair(own, other)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = pair.own
JOIN pg_attribute ra ON ra.attrelid = r.oid AND ra.attnum = pair.other
WHERE k.contype = 'f'"""
_SEQUENCES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S'"""


class _Postgres:
    """By COPY, as text: every type goes through unchanged."""

    def __init__(
        self, source: PostgresDumps, scratch: PostgresDumps, reader: sa.Connection, writer: sa.Connection
    ) -> None:
        self._source, self._scratch, self._reader, self._writer = source, scratch, reader, writer
        self.notes = ["large objects are left out"]
        self._defined: list[bytes] = []
        reader.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._snapshot = str(reader.exec_driver_sql("SELECT pg_export_snapshot()").scalar())

    def _rows(self, statement: str) -> list[Any]:
        return list(self._reader.exec_driver_sql(statement.replace("%", "%%")).all())

    def columns(self) -> list[MaskedColumn]:
        return [
            MaskedColumn(table, column, kind, None, int(limit) if limit else None, nullable, _most(kind))
            for table, column, kind, limit, nullable in self._rows(_POSTGRES_COLUMNS)
        ]

    def keys(self) -> list[tuple[str, str, str, str]]:
        return [tuple(row) for row in self._rows(_POSTGRES_KEYS)]

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


# --- SQLite ------------------------------------------------------------------------------------------------------


class _SQLite:
    def __init__(self, source: SQLiteDumps, scratch: SQLiteDumps) -> None:
        self._reader = source._connect()
        self._reader.text_factory = _text
        self._reader.execute("BEGIN")
        scratch.path.touch(mode=0o600)
        self._writer = scratch._connect()
        self._writer.text_factory = _text
        listed = self._reader.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
        self._virtual = [name for kind, name, sql in listed if kind == "table" and _is_virtual(sql)]
        self._schema = [(kind, name, sql) for kind, name, sql in listed if sql and not self._is_left_out(name)]
        self.notes = [f"the search tables {', '.join(self._virtual)} are left out"] if self._virtual else []

    def _is_left_out(self, name: str) -> bool:
        """A virtual table and the tables in which it keeps what it indexed."""
        return any(name == v or name.startswith(f"{v}_") for v in self._virtual)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _tables(self) -> list[str]:
        return [name for kind, name, _ in self._schema if kind == "table" and not name.startswith("sqlite_")]

    def columns(self) -> list[MaskedColumn]:
        found = []
        for table in self._tables():
            for _, column, kind, not_null, _, _, hidden in self._reader.execute(f"PRAGMA table_xinfo({_q(table)})"):
                if hidden == 0:
                    most = MOST_IN_SQLITE if "INT" in kind.upper() else None
                    found.append(MaskedColumn(table, column, kind, None, None, not not_null, most))
        return found

    def keys(self) -> list[tuple[str, str, str, str]]:
        found = []
        for table in self._tables():
            for row in self._reader.execute(f"PRAGMA foreign_key_list({_q(table)})"):
                found.append((table, row[3], row[2], row[4] or self._key_of(row[2], row[1])))
        return found

    def _key_of(self, table: str, number: int) -> str:
        """A column of a table's primary key, which is what a reference without a column means."""
        rows = self._reader.execute(f"PRAGMA table_info({_q(table)})").fetchall()
        return str(next((name for _, name, _, _, _, place in rows if place == number + 1), ""))

    def definitions(self) -> str:
        return "\n".join(sql for _, _, sql in self._schema)

    def counters(self) -> list[tuple[str, int]]:
        if not self._reader.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone():
            return []
        return self._reader.execute("SELECT name, seq FROM sqlite_sequence").fetchall()

    def values(self, column: MaskedColumn) -> Iterator[Any]:
        for (value,) in self._reader.execute(f"SELECT DISTINCT {_q(column.column)} FROM {_q(column.table)}"):  # noqa: S608
            yield value

    def begin(self) -> None:
        self._writer.execute("PRAGMA foreign_keys = OFF")
        for kind, name, sql in self._schema:
            if kind == "table" and not name.startswith("sqlite_"):
                self._writer.execute(sql)

    def copy(self, columns: Sequence[MaskedColumn], change: Change) -> int:
        names, places = ", ".join(_q(c.column) for c in columns), ", ".join("?" * len(columns))
        table, count = _q(columns[0].table), 0
        self._writer.execute("BEGIN")
        for batch in _batches(self._reader.execute(f"SELECT {names} FROM {table}")):  # noqa: S608
            self._writer.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", change(batch))  # noqa: S608
            count += len(batch)
        self._writer.execute("COMMIT")
        return count

    def finish(self) -> None:
        if counters := self.counters():
            self._writer.execute("DELETE FROM sqlite_sequence")
            self._writer.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", counters)
        for wanted in ("index", "view", "trigger"):
            for kind, _, sql in self._schema:
                if kind == wanted:
                    self._writer.execute(sql)

    def rows(self, columns: Sequence[MaskedColumn]) -> Iterator[list[Row]]:
        names = ", ".join(_q(c.column) for c in columns)
        yield from _batches(self._writer.execute(f"SELECT {names} FROM {_q(columns[0].table)}"))  # noqa: S608


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_virtual(sql: str | None) -> bool:
    return bool(sql) and str(sql).upper().startswith("CREATE VIRTUAL TABLE")


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data

