"""A masked copy of a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import filterfalse
from typing import Any

from saju_ops.dumps.sqlite import SQLiteDumps
from saju_ops.dumps.without_rows import is_without_rows
from saju_ops.masking.copy_base import Change, Row, _batches
from saju_ops.masking.masker import MaskedColumn
from saju_ops.rows.foreign_keys import sqlite_keys_of

# SQLite's whole numbers have eight bytes, whatever the type is called.
MOST_IN_SQLITE = (1 << 63) - 1


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
        """A virtual table and the tables in which it keeps its index."""
        return any(name == v or name.startswith(f"{v}_") for v in self._virtual)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _tables(self) -> list[str]:
        return [name for kind, name, _ in self._schema if kind == "table" and not name.startswith("sqlite_")]

    def columns(self) -> list[MaskedColumn]:
        found = []
        for table in filterfalse(is_without_rows, self._tables()):
            for _, column, kind, not_null, _, _, hidden in self._reader.execute(f"PRAGMA table_xinfo({_q(table)})"):
                if hidden == 0:
                    most = MOST_IN_SQLITE if "INT" in kind.upper() else None
                    found.append(MaskedColumn(table, column, kind, None, limit=None, nullable=not not_null, most=most))
        return found

    def keys(self) -> list[tuple[str, str, str, str]]:
        keys = (key for table in self._tables() for key in sqlite_keys_of(self._ask, table))
        return [pair for key in keys for pair in key.pairs()]

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        return self._reader.execute(statement, values).fetchall()

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
