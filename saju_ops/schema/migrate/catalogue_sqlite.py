"""The catalogue of SQLite: its pragmas."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from saju_ops.schema.migrate.catalogue import ColumnShape, IndexShape, TableShape

TABLE = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name = :name COLLATE NOCASE")
COLUMNS = sa.text('SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(:name) ORDER BY cid')
INDEXES = sa.text('SELECT name, "unique", origin, partial FROM pragma_index_list(:name)')
PARTS = sa.text('SELECT name, "desc", coll FROM pragma_index_xinfo(:name) WHERE "key" ORDER BY seqno')
KEYS = sa.text(
    'SELECT id, "table", "from", "to", on_delete, on_update FROM pragma_foreign_key_list(:name) ORDER BY id, seq'
)
NAMES = sa.text("SELECT name FROM sqlite_master")
TABLES = sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")


def read(connection: sa.Connection, names: list[str]) -> dict[str, TableShape]:
    return {name: _table(connection, name) for name in names if exists(connection, name)}


def _table(connection: sa.Connection, table: str) -> TableShape:
    rows = connection.execute(COLUMNS, {"name": table}).all()
    columns = {str(r.name): ColumnShape(str(r.type).upper(), not r.notnull, _text(r.dflt_value)) for r in rows}
    primary = tuple(str(r.name) for r in sorted(rows, key=lambda r: r.pk) if r.pk)
    return TableShape(columns, primary, _indexes(connection, table), frozenset(_keys(connection, table)))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _keys(connection: sa.Connection, table: str) -> list[str]:
    parts: dict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(KEYS, {"name": table}):
        parts[row[0]].append(row)
    found = []
    for rows in parts.values():
        here, there = (", ".join(str(row[n]) for row in rows) for n in (2, 3))
        rules = "".join(
            f", on {what} {rule}"
            for what, rule in (("delete", rows[0][4]), ("update", rows[0][5]))
            if rule != "NO ACTION"
        )
        found.append(f"({here}) references {rows[0][1]} ({there}){rules}")
    return found


def _indexes(connection: sa.Connection, table: str) -> dict[str, IndexShape]:
    found = {}
    for name, unique, origin, partial in connection.execute(INDEXES, {"name": table}).all():
        if origin != "pk":
            parts = [_part(*row) for row in connection.execute(PARTS, {"name": name})]
            found[str(name)] = IndexShape(tuple(parts), bool(unique), True, "with a condition" if partial else "")
    return found


def _part(name: str | None, descending: int, collation: str) -> str:
    sorted_by = "" if collation == "BINARY" else f" COLLATE {collation}"
    return f"{name or '(an expression)'}{sorted_by}{' DESC' if descending else ''}"


def indexes(connection: sa.Connection, names: list[str]) -> dict[str, dict[str, IndexShape]]:
    return {name: _indexes(connection, name) for name in names}


def exists(connection: sa.Connection, table: str) -> bool:
    return connection.execute(TABLE, {"name": table}).first() is not None


def index_names(connection: sa.Connection, table: str) -> set[str]:
    """Names of all objects: a name is unique in its database."""
    return {str(row[0]) for row in connection.execute(NAMES)}


def column_names(connection: sa.Connection, table: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(COLUMNS, {"name": table})]


def why_index_blocks(connection: sa.Connection, table: str) -> str:
    return "SQLite lets nobody write while an index is built"


def is_needed_by_key(connection: sa.Connection, table: str, index: str) -> bool:
    return False  # ours is none that a foreign key references


def referencing(connection: sa.Connection, table: str) -> list[str]:
    names = [str(row[0]) for row in connection.execute(TABLES)]
    return [
        name
        for name in names
        if any(str(row[1]).casefold() == table.casefold() for row in connection.execute(KEYS, {"name": name}))
    ]
