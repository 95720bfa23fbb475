"""A MySQL or MariaDB table's columns, keys and sizes, by the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.rows.comeback import TYPED
from saju_ops.rows.digest import NULL, SEPARATOR
from saju_ops.rows.table import TIME_COLUMN, Column, Encoding

JSON = {"json", TYPED}
INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint"}
FLOATS = {"float", "double"}
TIMES = {"date", "time", "datetime", "timestamp", "year"}
# Texts that are numbers to the server: a key is sorted by them.
NUMBERED = {"enum", "set"}
TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
BINARIES = {
    "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector", "geometry", "point",
    "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection",
    "geometrycollection",
}  # fmt: skip
PLAIN_TEXTS = {"uuid", "inet4", "inet6"}
# Types whose values are measured to know how large a row may be; a VARCHAR is assumed to be short.
LONG = {
    "text", "mediumtext", "longtext", *JSON, "varbinary", "blob", "mediumblob", "longblob", "vector", "geometry",
    "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection",
    "geometrycollection",
}  # fmt: skip
# Character sets whose strings all come back from UTF-8 unchanged. In the others, such as euckr, servers hold characters
# that UTF-8 lacks, for which they print a question mark, or two that become one. MariaDB's ascii holds any byte.
LOSSLESS = {"utf8mb4", "utf8mb3", "utf8", "latin1", "utf16", "utf16le", "utf32", "ucs2"}
# Partitions are read one after the other: by RANGE of the time in the key's order as a rule, else in none.
UNORDERED = sa.text(
    "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND (PARTITION_METHOD NOT LIKE 'RANGE%' OR SUBPARTITION_METHOD IS NOT NULL)"
)
COLUMNS = sa.text(
    "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, IS_NULLABLE, GENERATION_EXPRESSION, EXTRA"
    " FROM information_schema.COLUMNS"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name ORDER BY ORDINAL_POSITION"
)
# The star, because an index that may not be used is marked by IS_VISIBLE in MySQL and IGNORED in MariaDB.
INDEXES = sa.text(
    "SELECT INDEX_NAME, NON_UNIQUE, COLUMN_NAME, NULLABLE, s.* FROM information_schema.STATISTICS s"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name ORDER BY INDEX_NAME = 'PRIMARY' DESC,"
    " INDEX_NAME, SEQ_IN_INDEX"
)
STORAGE_ENGINE = sa.text(
    "SELECT t.ENGINE, e.TRANSACTIONS FROM information_schema.TABLES t"
    " LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE"
    " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME = :name"
)
SIZES = sa.text(
    "SELECT DATA_LENGTH + INDEX_LENGTH, DATA_FREE FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)


def _column(table: str, row: Any) -> Column:
    name, data_type, column_type, charset, nullable, generation = (_str(v) for v in row[:6])
    family = str(data_type).lower()
    framed = False
    encoding: Encoding = "text"
    if family in INTEGERS or family in FLOATS or family in ("decimal", "bit", "year"):
        encoding = "number"
    elif family in BINARIES:
        encoding = "hex"
    elif family in NUMBERED:
        # Its members are in its definition. Framed if one of them holds the separator or is the digest's mark for NULL
        # (an ENUM('Y','N') would otherwise have NULL and 'N' alike).
        framed = SEPARATOR in str(column_type) or f"'{NULL}'" in str(column_type)
    elif family in TEXTS:
        framed = True
    elif family == "json":
        framed = False  # the server prints control characters escaped
    elif family not in TIMES and family not in PLAIN_TEXTS:
        raise Refused(
            f"The column {table}.{name} has the type {column_type}, which saju_ops doesn't know how to write"
            " without loss. Nothing was done."
        )
    # The character set follows the type for `text`, which decides by it whether to convert.
    described = f"{column_type}|{charset}" if charset else str(column_type)
    return Column(
        str(name), described, encoding, framed, nullable=nullable == "YES", generated=bool(generation),
        family=family,
    )  # fmt: skip


def _charset(column: Column) -> str:
    """Empty for an ENUM or SET of binary strings, whose members may hold the sign between type and charset."""
    kind, _, charset = column.type.rpartition("|")
    return charset if kind and charset.isalnum() else ""


def _str(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _key(indexes: Sequence[Any]) -> tuple[str, ...]:
    """The primary key, or else the first unique key whose columns can't be NULL."""
    by_name: dict[str, list[Any]] = {}
    for row in indexes:
        by_name.setdefault(row[0], []).append(row)
    for rows in by_name.values():
        if all(not int(r[1]) and r[3] != "YES" and r[2] is not None for r in rows):
            return tuple(r[2] for r in rows)
    return ()


def _primary(indexes: Sequence[Any], columns: Sequence[Column]) -> tuple[str, ...]:
    """Empty if the key's own order isn't the order of its ranges: one column of it descends, or is an ENUM or SET,
    which the index sorts by number."""
    rows = [row for row in indexes if row[0] == "PRIMARY"]
    numbered = {c.name for c in columns if c.family in NUMBERED}
    ascends = all(row._mapping.get("COLLATION") == "A" and row[2] not in numbered for row in rows)
    return tuple(str(row[2]) for row in rows) if ascends else ()


def _time_index(indexes: Sequence[Any]) -> str | None:
    seen: set[str] = set()
    for row in indexes:
        # FORCE INDEX with an index that the server may not use is an error, and SQLAlchemy formats a hint.
        usable = row._mapping.get("IS_VISIBLE", "YES") == "YES" and row._mapping.get("IGNORED", "NO") == "NO"
        usable = usable and "%" not in row[0]
        if row[0] not in seen and row[2] == TIME_COLUMN and usable:
            return str(row[0])
        seen.add(row[0])
    return None
