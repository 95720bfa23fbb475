"""The catalogue of MySQL and MariaDB: information_schema of the connection's own database."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from saju_ops.schema.migrate.catalogue import ColumnShape, IndexShape, TableShape

TABLES = sa.text(
    "SELECT t.TABLE_NAME, t.ENGINE, (SELECT GROUP_CONCAT(DISTINCT p.PARTITION_METHOD, ' ', p.PARTITION_EXPRESSION) FROM"
    " information_schema.PARTITIONS p WHERE p.TABLE_SCHEMA = t.TABLE_SCHEMA AND p.TABLE_NAME = t.TABLE_NAME AND"
    " p.PARTITION_NAME IS NOT NULL) FROM information_schema.TABLES t"
    " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE LIKE '%BASE TABLE' AND t.TABLE_NAME IN :names"
).bindparams(sa.bindparam("names", expanding=True))
COLUMNS = sa.text(
    "SELECT * FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN :names"
    " ORDER BY TABLE_NAME, ORDINAL_POSITION"
).bindparams(sa.bindparam("names", expanding=True))
INDEXES = sa.text(
    "SELECT * FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN :names"
    " ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
).bindparams(sa.bindparam("names", expanding=True))
KEYS = sa.text(
    "SELECT k.TABLE_NAME, k.CONSTRAINT_NAME, k.COLUMN_NAME, IF(k.REFERENCED_TABLE_SCHEMA = DATABASE(),"
    " k.REFERENCED_TABLE_NAME, CONCAT(k.REFERENCED_TABLE_SCHEMA, '.', k.REFERENCED_TABLE_NAME)) AS TARGET,"
    " k.REFERENCED_COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE FROM information_schema.KEY_COLUMN_USAGE k"
    " JOIN information_schema.REFERENTIAL_CONSTRAINTS r ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA"
    " AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME AND r.TABLE_NAME = k.TABLE_NAME WHERE k.TABLE_SCHEMA = DATABASE()"
    " AND k.TABLE_NAME IN :names ORDER BY k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
).bindparams(sa.bindparam("names", expanding=True))
REFERENCING = sa.text(
    "SELECT DISTINCT IF(TABLE_SCHEMA = DATABASE(), TABLE_NAME, CONCAT(TABLE_SCHEMA, '.', TABLE_NAME)) FROM"
    " information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_SCHEMA = DATABASE() AND REFERENCED_TABLE_NAME = :name"
)
# Where MariaDB says that a LONGTEXT is JSON.
MARIADB_CHECKS = sa.text(
    "SELECT TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = DATABASE()"
    " AND TABLE_NAME IN :names"
).bindparams(sa.bindparam("names", expanding=True))
JSON_CHECK = re.compile(r"json_valid\(`((?:[^`]|``)+)`\)", re.IGNORECASE)
# The same rule on these servers.
NO_ACTION = {"NO ACTION": "RESTRICT"}


def read(connection: sa.Connection, names: list[str]) -> dict[str, TableShape]:
    asked = {"names": names}
    columns: dict[str, dict[str, ColumnShape]] = defaultdict(dict)
    is_json = _json_columns(connection, names)
    for row in _rows(connection, COLUMNS, asked):
        columns[row["TABLE_NAME"]][row["COLUMN_NAME"]] = _column(row, is_json)
    there = _indexes(connection, names)
    keys = _keys(connection, names)
    return {
        name: TableShape(
            columns[name], there[name].pop("PRIMARY", IndexShape(())).columns, there[name], frozenset(keys[name]),
            frozenset(), str(engine), re.sub(r"\s|`", "", partitions or "").lower(),
        )
        for name, engine, partitions in connection.execute(TABLES, asked)
    }  # fmt: skip


def _rows(connection: sa.Connection, query: sa.TextClause, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Names of columns in capitals, as MariaDB has them too."""
    return [{str(k).upper(): v for k, v in row.items()} for row in connection.execute(query, asked).mappings()]


def _column(row: dict[str, Any], is_json: set[tuple[str, str]]) -> ColumnShape:
    kind = str(row["COLUMN_TYPE"])
    if (row["TABLE_NAME"], row["COLUMN_NAME"]) in is_json and kind == "longtext":
        kind = "json"
    # Only a text has one; a document's is the server's own.
    collation = None if kind == "json" else row["COLLATION_NAME"]
    extra = str(row["EXTRA"]).replace("DEFAULT_GENERATED", "").strip()
    return ColumnShape(
        kind, row["IS_NULLABLE"] == "YES", _default(row["COLUMN_DEFAULT"]), _now(extra.lower()), collation
    )


def _default(text: Any) -> str | None:
    """MariaDB quotes a literal and writes NULL for none; MySQL does neither."""
    if text is None or str(text) == "NULL":
        return None
    plain = _now(str(text))
    return plain[1:-1].replace("''", "'") if re.fullmatch(r"'.*'", plain, re.DOTALL) else plain


def _now(text: str) -> str:
    return re.sub(r"\b(?:current_timestamp(?:\(\))?|now\(\))", "CURRENT_TIMESTAMP", text, flags=re.IGNORECASE)


def _json_columns(connection: sa.Connection, names: list[str]) -> set[tuple[str, str]]:
    if not getattr(connection.dialect, "is_mariadb", False):
        return set()
    checks = connection.execute(MARIADB_CHECKS, {"names": names})
    return {(name, found[1].replace("``", "`")) for name, clause in checks if (found := JSON_CHECK.fullmatch(clause))}


def _indexes(connection: sa.Connection, names: list[str]) -> dict[str, dict[str, IndexShape]]:
    parts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(connection, INDEXES, {"names": names}):
        parts[row["TABLE_NAME"], row["INDEX_NAME"]].append(row)
    found: dict[str, dict[str, IndexShape]] = defaultdict(dict)
    for (table, name), rows in parts.items():
        first = rows[0]
        usable = first.get("IS_VISIBLE", "YES") == "YES" and first.get("IGNORED", "NO") == "NO"
        kind = "" if first["INDEX_TYPE"] == "BTREE" else str(first["INDEX_TYPE"])
        found[table][name] = IndexShape(tuple(map(_part, rows)), not first["NON_UNIQUE"], usable, kind)
    return found


def _part(row: dict[str, Any]) -> str:
    name = row["COLUMN_NAME"] or f"({row.get('EXPRESSION')})"
    prefix = f"({row['SUB_PART']})" if row["SUB_PART"] else ""
    return f"{name}{prefix}{' DESC' if row['COLLATION'] == 'D' else ''}"


def _keys(connection: sa.Connection, names: list[str]) -> dict[str, set[str]]:
    parts: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in connection.execute(KEYS, {"names": names}):
        parts[row[0], row[1]].append(row)
    found: dict[str, set[str]] = defaultdict(set)
    for (table, _), rows in parts.items():
        here, there = (", ".join(str(row[n]) for row in rows) for n in (2, 4))
        on_delete, on_update = (NO_ACTION.get(rows[0][n], rows[0][n]) for n in (5, 6))
        rules = "".join(
            f", on {what} {rule}" for what, rule in (("delete", on_delete), ("update", on_update)) if rule != "RESTRICT"
        )
        found[table].add(f"({here}) references {rows[0][3]} ({there}){rules}")
    return found


def indexes(connection: sa.Connection, names: list[str]) -> dict[str, dict[str, IndexShape]]:
    found = _indexes(connection, names)
    for each in found.values():
        each.pop("PRIMARY", None)
    return found


def exists(connection: sa.Connection, table: str) -> bool:
    return connection.execute(TABLES, {"names": [table]}).first() is not None


def index_names(connection: sa.Connection, table: str) -> set[str]:
    return set(_indexes(connection, [table]).get(table, {}))


def column_names(connection: sa.Connection, table: str) -> list[str]:
    return [row["COLUMN_NAME"] for row in _rows(connection, COLUMNS, {"names": [table]})]


def why_index_blocks(connection: sa.Connection, table: str) -> str:
    engine = connection.execute(TABLES, {"names": [table]}).one()[1]
    if str(engine).lower() != "innodb":
        return f"{table} is of the storage engine {engine}, which builds no index while the table is written"
    return ""


def is_needed_by_key(connection: sa.Connection, table: str, index: str) -> bool:
    there = _indexes(connection, [table]).get(table, {})
    if index not in there:
        return False
    others = [shape.columns for name, shape in there.items() if name != index and not shape.kind]
    columns = [list(row) for row in _key_columns(connection, table)]
    for needed in columns:
        served = [tuple(part.removesuffix(" DESC") for part in each[: len(needed)]) for each in others]
        mine = [part.removesuffix(" DESC") for part in there[index].columns[: len(needed)]]
        if mine == needed and tuple(needed) not in served:
            return True
    return False


def _key_columns(connection: sa.Connection, table: str) -> list[tuple[str, ...]]:
    parts: dict[str, list[str]] = defaultdict(list)
    for row in connection.execute(KEYS, {"names": [table]}):
        parts[row[1]].append(row[2])
    return [tuple(columns) for columns in parts.values()]


def referencing(connection: sa.Connection, table: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(REFERENCING, {"name": table})]
