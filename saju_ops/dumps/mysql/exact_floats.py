"""What dump programs round or leave out of MySQL's and MariaDB's tables, and how a dump holds it all the same.

FLOAT        Dump programs round it to six digits: 16777216 to 16777200. UPDATE statements at the end of the dump, row
by
             row and by the table's key, restore the full precision of values that were rounded.
history      Rows of a system-versioned MariaDB table: MariaDB's program dumps them on request, from version 10.11 on.

JSON         Dump programs print it as text. When it is read again, a DECIMAL in it is a DOUBLE, and a time or binary
             value a string. Such a table is measured by its text, and a note names the columns that lose by it.

If that is impossible, the dump holds what it can, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

HISTORY_FROM = (10, 11)
# Rows that are put right in one transaction.
ROWS = 2_000
KEYS = sa.text(
    "SELECT s.INDEX_NAME, s.COLUMN_NAME, s.SUB_PART, s.NULLABLE, s.NON_UNIQUE, c.DATA_TYPE"
    " FROM information_schema.STATISTICS s LEFT JOIN information_schema.COLUMNS c ON c.TABLE_SCHEMA = s.TABLE_SCHEMA"
    " AND c.TABLE_NAME = s.TABLE_NAME AND c.COLUMN_NAME = s.COLUMN_NAME"
    " WHERE s.TABLE_SCHEMA = DATABASE() AND s.TABLE_NAME = :name"
    " ORDER BY s.INDEX_NAME <> 'PRIMARY', s.INDEX_NAME, s.SEQ_IN_INDEX"
)
# Key types whose values are found again by their printed form.
KEY_TYPES = {
    "tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "char", "varchar", "binary", "varbinary", "date",
    "datetime", "timestamp",
}  # fmt: skip
UPDATE_TRIGGERS = sa.text(
    "SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = DATABASE()"
    " AND EVENT_OBJECT_TABLE = :name AND EVENT_MANIPULATION = 'UPDATE'"
)
TOUCHED = sa.text(
    "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND LOWER(EXTRA) LIKE '%on update%'"
)
BEFORE = (
    "\n-- Values of FLOAT columns, of which the lines above hold six digits\nSET NAMES utf8mb4;\n"
    "SET @saju_ops_mode = @@SESSION.sql_mode, sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES';\n"
    "SET @saju_ops_zone = @@SESSION.time_zone, time_zone = '+00:00';\n"
    "SET @saju_ops_keys = @@SESSION.foreign_key_checks, foreign_key_checks = 0;\n"
)
AFTER = (
    "SET SESSION sql_mode = @saju_ops_mode, time_zone = @saju_ops_zone, foreign_key_checks = @saju_ops_keys;\n"
    "-- Dump completed\n"
)


@dataclass(frozen=True)
class FloatTable:
    name: str
    floats: tuple[str, ...]
    key: tuple[str, ...]
    touched: tuple[str, ...]


def float_table(connection: sa.Connection, name: str, floats: Sequence[str]) -> FloatTable | None:
    """How a table's values can be put right; None if they can't be: for want of a key without such a column, or
    because a trigger would run."""
    if connection.execute(UPDATE_TRIGGERS, {"name": name}).scalar():
        return None
    keys: dict[str, list[str] | None] = {}
    for index, column, part, nullable, other, kind in connection.execute(KEYS, {"name": name}):
        fit = part is None and not nullable and not int(other) and str(_text(kind)).lower() in KEY_TYPES
        found = keys.setdefault(_text(index), [])
        keys[_text(index)] = [*found, _text(column)] if fit and found is not None else None
    key = next((columns for columns in keys.values() if columns), None)
    if key is None:
        return None
    touched = tuple(_text(row[0]) for row in connection.execute(TOUCHED, {"name": name}))
    return FloatTable(name, tuple(floats), tuple(key), touched)


def rounded(connection: sa.Connection, name: str, floats: Sequence[str]) -> str:
    """The condition on rows of which the dump programs lose something; empty where there is no such row."""
    quote = connection.dialect.identifier_preparer.quote
    where = " OR ".join(f"CAST(CONCAT('', {quote(f)}) AS FLOAT) <> {quote(f)}" for f in floats)
    found = connection.exec_driver_sql(f"SELECT 1 FROM {quote(name)} WHERE {where} LIMIT 1").first()  # noqa: S608
    return where if found else ""


def read_again(column: str) -> str:
    """A JSON column, quoted, as a restore has it."""
    return f"CAST(CAST({column} AS CHAR) AS JSON)"


def retyped(connection: sa.Connection, name: str, columns: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether JSON in the table is written otherwise once it was restored, and the columns in which a value isn't even
    the same then, as the server compares JSON: 1.10 is 1.1, a time is no string."""
    quote = connection.dialect.identifier_preparer.quote
    lost = [f"{quote(c)} <> {read_again(quote(c))}" for c in columns]
    text = [f"CAST({quote(c)} AS CHAR) <> CAST({read_again(quote(c))} AS CHAR) COLLATE utf8mb4_bin" for c in columns]
    either = " OR ".join(
        f"({quote(c)} IS NOT NULL AND ({t} OR {x}))" for c, t, x in zip(columns, text, lost, strict=True)
    )
    first = connection.exec_driver_sql(f"SELECT 1 FROM {quote(name)} WHERE {either} LIMIT 1").first()  # noqa: S608
    if first is None:
        return False, []
    asked = ", ".join(f"COALESCE(MAX({x}), 0)" for x in [*text, *lost])
    found = tuple(connection.exec_driver_sql(f"SELECT {asked} FROM {quote(name)}").one())  # noqa: S608
    return any(found[: len(columns)]), [c for c, is_lost in zip(columns, found[len(columns) :], strict=True) if is_lost]


def exact_floats(connection: sa.Connection, tables: Iterable[tuple[FloatTable, str]]) -> Iterator[bytes]:
    """The statements, each table with its condition. Reads in the connection's own snapshot, row by row."""
    yield BEFORE.encode()
    for table, where in tables:
        yield from _updates(connection, table, where)
    yield AFTER.encode()


def _updates(connection: sa.Connection, table: FloatTable, where: str) -> Iterator[bytes]:
    quote = connection.dialect.identifier_preparer.quote
    # As DOUBLE, which the server shows in full.
    shown = [f"CONCAT({quote(f)} + 0e0)" for f in table.floats]
    listed = ", ".join([*(quote(k) for k in table.key), *shown])
    kept = [f"{_named(c)} = {_named(c)}" for c in table.touched]
    rows = connection.execution_options(stream_results=True).exec_driver_sql(
        f"SELECT {listed} FROM {quote(table.name)} WHERE {where}"  # noqa: S608 (quoted by the dialect)
    )
    for part in rows.partitions(ROWS):
        lines = ["START TRANSACTION;"]
        for row in part:
            keys, values = row[: len(table.key)], [_text(v) for v in row[len(table.key) :]]
            exact = [f"{_named(f)} = {v}" for f, v in zip(table.floats, values, strict=True) if v is not None]
            found = " AND ".join(f"{_named(k)} = {_literal(v)}" for k, v in zip(table.key, keys, strict=True))
            lines.append(f"UPDATE {_named(table.name)} SET {', '.join([*exact, *kept])} WHERE {found};")  # noqa: S608
        yield "\n".join([*lines, "COMMIT;", ""]).encode()


def _named(name: str) -> str:
    """For the dump; the dialect's own quoting is for statements that the driver formats."""
    return "`" + name.replace("`", "``") + "`"


def _literal(value: Any) -> str:
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, date | datetime):
        return f"'{value}'"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"
    return str(value)


# --- history -----------------------------------------------------------------------------------------------------


def dumps_history(server_version: str, mariadb_client: bool, client_help: str) -> bool:
    """Whether this program and this server can take the history of system-versioned tables along."""
    found = re.search(r"(\d+)\.(\d+)\.\d+-MariaDB", server_version, re.IGNORECASE)
    new = found is not None and (int(found[1]), int(found[2])) >= HISTORY_FROM
    return new and mariadb_client and "--dump-history" in client_help


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
