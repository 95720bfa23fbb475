"""The catalogue of PostgreSQL: what is in the first schema of the search path."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from saju_ops.schema.migrate.catalogue import ColumnShape, IndexShape, TableShape


def _asked(text: str) -> sa.TextClause:
    return sa.text(text).bindparams(sa.bindparam("names", expanding=True))


TABLES = _asked(
    "SELECT c.relname, coalesce(pg_get_partkeydef(c.oid), '') FROM pg_class c WHERE c.relkind IN ('r', 'p') AND"
    " c.relnamespace = current_schema()::regnamespace AND c.relname IN :names"
)
COLUMNS = _asked(
    "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),"
    " a.attidentity::text, a.attgenerated::text, CASE WHEN a.attcollation <> t.typcollation THEN l.collname END"
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation"
    " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE c.relkind IN ('r', 'p') AND"
    " c.relnamespace = current_schema()::regnamespace AND c.relname IN :names"
    " ORDER BY c.relname, a.attnum"
)
INDEXES = _asked(
    "SELECT c.relname, n.relname, i.indisprimary, i.indisunique, i.indisvalid AND i.indisready, m.amname,"
    " pg_get_expr(i.indpred, i.indrelid), i.indnkeyatts, k.number, pg_get_indexdef(i.indexrelid, k.number, true),"
    " i.indoption[k.number - 1] FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class n ON n.oid ="
    " i.indexrelid JOIN pg_am m ON m.oid = n.relam"
    " CROSS JOIN LATERAL generate_series(1, i.indnkeyatts) AS k(number) WHERE"
    " c.relnamespace = current_schema()::regnamespace AND c.relname IN :names"
    " ORDER BY c.relname, n.relname, k.number"
)
CONSTRAINTS = _asked(
    "SELECT c.relname, o.contype::text, pg_get_constraintdef(o.oid, true) FROM pg_class c JOIN pg_constraint o"
    " ON o.conrelid = c.oid WHERE o.contype IN ('f', 'c') AND"
    " c.relnamespace = current_schema()::regnamespace AND c.relname IN :names"
)
NAMES = sa.text("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace")
REFERENCING = _asked(
    "SELECT DISTINCT o.conrelid::regclass::text FROM pg_class c JOIN pg_constraint o ON o.confrelid = c.oid WHERE"
    " c.relnamespace = current_schema()::regnamespace AND c.relname IN :names"
)
SEQUENCE = re.compile(r"nextval\('.*'::regclass\)")


def read(connection: sa.Connection, names: list[str]) -> dict[str, TableShape]:
    asked = {"names": names}
    columns: dict[str, dict[str, ColumnShape]] = defaultdict(dict)
    for table, name, *column in connection.execute(COLUMNS, asked):
        columns[table][name] = _column(*column)
    there = _indexes(connection, names)
    keys: dict[str, set[str]] = defaultdict(set)
    checks: dict[str, set[str]] = defaultdict(set)
    for table, kind, text in connection.execute(CONSTRAINTS, asked):
        (keys if kind == "f" else checks)[table].add(_key(text) if kind == "f" else text)
    return {
        name: TableShape(
            columns[name], there[name].pop("PRIMARY", IndexShape(())).columns, there[name], frozenset(keys[name]),
            frozenset(checks[name]), "", partitions.lower(),
        )
        for name, partitions in connection.execute(TABLES, asked)
    }  # fmt: skip


def _column(
    kind: str, not_null: bool, default: str | None, identity: str, generated: str, collation: str | None
) -> ColumnShape:
    extra = "auto_increment" if identity or SEQUENCE.fullmatch(default or "") else ""
    if generated:
        extra = f"generated as {default}"
    return ColumnShape(kind, not not_null, None if extra else default, extra, collation)


def _key(text: str) -> str:
    """In the words of the other engines: `FOREIGN KEY (a) REFERENCES b(c) ON DELETE CASCADE`."""
    plain = re.sub(r"^FOREIGN KEY (\(.*?\)) REFERENCES (.+?)\((.*?)\)", r"\1 references \2 (\3)", text)
    return re.sub(r" ON (DELETE|UPDATE) ", lambda found: f", on {found[1].lower()} ", plain)


def _indexes(connection: sa.Connection, names: list[str]) -> dict[str, dict[str, IndexShape]]:
    parts: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in connection.execute(INDEXES, {"names": names}):
        parts[row[0], row[1]].append(row)
    found: dict[str, dict[str, IndexShape]] = defaultdict(dict)
    for (table, name), rows in parts.items():
        _, _, primary, unique, valid, method, condition, *_ = rows[0]
        kind = ("" if method == "btree" else method) + (f" where {condition}" if condition else "")
        shape = IndexShape(tuple(_part(row[9], row[10]) for row in rows), unique, valid, kind)
        found[table]["PRIMARY" if primary else name] = shape
    return found


def _part(text: str, option: int) -> str:
    """`option`: 1 is DESC, 2 is NULLS FIRST, which DESC has by itself."""
    name = text[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")+"', text) else text
    nulls = {2: " NULLS FIRST", 1: " NULLS LAST"}.get(option, "")
    return f"{name}{' DESC' if option & 1 else ''}{nulls}"


def indexes(connection: sa.Connection, names: list[str]) -> dict[str, dict[str, IndexShape]]:
    found = _indexes(connection, names)
    for each in found.values():
        each.pop("PRIMARY", None)
    return found


def exists(connection: sa.Connection, table: str) -> bool:
    return connection.execute(TABLES, {"names": [table]}).first() is not None


def index_names(connection: sa.Connection, table: str) -> set[str]:
    """Names of all relations: an index's name is unique in its schema."""
    return {str(row[0]) for row in connection.execute(NAMES)}


def column_names(connection: sa.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(COLUMNS, {"names": [table]})]


def why_index_blocks(connection: sa.Connection, table: str) -> str:
    partitions = connection.execute(TABLES, {"names": [table]}).one()[1]
    return f"{table} is partitioned, and PostgreSQL builds no index on such a table CONCURRENTLY" if partitions else ""


def is_needed_by_key(connection: sa.Connection, table: str, index: str) -> bool:
    return False  # a foreign key needs the unique index that it references, and ours are none


def referencing(connection: sa.Connection, table: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(REFERENCING, {"names": [table]})]
