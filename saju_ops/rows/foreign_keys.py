"""Foreign keys in each server's catalogue: the one place that knows how to ask for them.

The comparison of a table before and after (`rows/traits.py`) asks for keys in the same statement as for everything
else, under a lock that others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from saju_ops.rows.table import ForeignKey

# --- MySQL and MariaDB -------------------------------------------------------------------------------------------

# MariaDB shows an account that may only read a table its foreign keys, but not their rules.
_MYSQL = (
    "SELECT k.CONSTRAINT_NAME, k.TABLE_SCHEMA, k.TABLE_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA,"
    " k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE, DATABASE()"
    " FROM information_schema.KEY_COLUMN_USAGE k LEFT JOIN information_schema.REFERENTIAL_CONSTRAINTS r"
    " ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME"
    " AND r.TABLE_NAME = k.TABLE_NAME WHERE {which}"
    " ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
)
_OF_A_TABLE = (
    "(k.REFERENCED_TABLE_SCHEMA = DATABASE() AND k.REFERENCED_TABLE_NAME = :name)"
    " OR (k.TABLE_SCHEMA = DATABASE() AND k.TABLE_NAME = :name AND k.REFERENCED_TABLE_NAME IS NOT NULL)"
)
_OF_THE_DATABASE = "k.TABLE_SCHEMA = DATABASE() AND k.REFERENCED_TABLE_NAME IS NOT NULL"
_OF_THE_SERVER = "k.REFERENCED_TABLE_NAME IS NOT NULL"


class MySQLKey(NamedTuple):
    """A rule is None where the server doesn't show it."""

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    parent_schema: str
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str | None
    on_update: str | None
    # The database that the connection is in.
    here: str

    @property
    def key(self) -> ForeignKey:
        """Without the schema of the connection's own database. A rule that isn't shown is taken for a cascade."""
        return ForeignKey(
            self.name, self.table, self.columns, self.parent, self.parent_columns, self.on_delete or "CASCADE",
            schema=self.schema if self.schema != self.here else None,
            parent_schema=self.parent_schema if self.parent_schema != self.here else None,
        )  # fmt: skip

    @property
    def refers_here(self) -> bool:
        return self.parent_schema == self.here


def mysql_keys(connection: sa.Connection) -> list[MySQLKey]:
    """Every key on the server that the account is shown."""
    return _mysql_keys(connection, _OF_THE_SERVER)


def mysql_keys_of_database(connection: sa.Connection) -> list[MySQLKey]:
    """The keys of the database's own tables, also those that refer to another one's."""
    return _mysql_keys(connection, _OF_THE_DATABASE)


def mysql_keys_of(connection: sa.Connection, table: str) -> tuple[tuple[ForeignKey, ...], tuple[ForeignKey, ...]]:
    """The keys that refer to this table of the database, and its own."""
    keys = _mysql_keys(connection, _OF_A_TABLE, name=table)
    children = (k.key for k in keys if k.refers_here and k.parent == table)
    return tuple(children), tuple(k.key for k in keys if k.schema == k.here and k.table == table)


def _mysql_keys(connection: sa.Connection, which: str, **values: str) -> list[MySQLKey]:
    grouped: dict[tuple[str, str, str], list[Any]] = {}
    for row in connection.execute(sa.text(_MYSQL.format(which=which)), values):
        texts = [v.decode() if isinstance(v, bytes) else v for v in row]
        grouped.setdefault((texts[1], texts[2], texts[0]), []).append(texts)
    return [
        MySQLKey(
            name, schema, table, tuple(p[3] for p in parts), parts[0][4], parts[0][5],
            parent_columns=tuple(p[6] for p in parts), on_delete=parts[0][7], on_update=parts[0][8], here=parts[0][9],
        )
        for (schema, table, name), parts in grouped.items()
    ]  # fmt: skip


# --- PostgreSQL --------------------------------------------------------------------------------------------------

_RULES = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_POSTGRES = (
    "{first} SELECT k.conname, {schema}, {table}, {parent_schema}, {parent}, k.confdeltype,"
    " ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(n, o)"
    " JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY o),"
    " ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u(n, o)"
    " JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY o){more}"
    " FROM pg_constraint k JOIN pg_class kc ON kc.oid = k.conrelid JOIN pg_namespace kn ON kn.oid = kc.relnamespace"
    " {join} JOIN pg_class pc ON pc.oid = {whole} JOIN pg_namespace pn ON pn.oid = pc.relnamespace"
    " WHERE k.contype = 'f' {which} ORDER BY 2, 3, 1"
)
_NAMES = {"schema": "kn.nspname", "table": "kc.relname", "parent_schema": "pn.nspname", "parent": "pc.relname"}
_PLAIN = {"first": "", "more": "", "join": "", "whole": "k.confrelid", "which": ""}
# A partition has a copy of its table's keys (conparentid), which is not a key of its own. A key to a partition, or to a
# table that inherits, is one to the table as well: its rows go with those of the table.
_ALL_KEYS = _POSTGRES.format(
    first="WITH RECURSIVE part(oid, whole) AS (SELECT DISTINCT confrelid, confrelid FROM pg_constraint"
    " WHERE contype = 'f' UNION SELECT part.oid, i.inhparent FROM part JOIN pg_inherits i ON i.inhrelid = part.whole)",
    schema="CASE WHEN pg_table_is_visible(kc.oid) THEN NULL ELSE kn.nspname END", table="kc.relname",
    parent_schema="CASE WHEN pg_table_is_visible(pc.oid) THEN NULL ELSE pn.nspname END", parent="pc.relname",
    more="", join="JOIN part ON part.oid = k.confrelid", whole="part.whole", which="AND k.conparentid = 0",
)  # fmt: skip
# Rows of partitions and of tables that inherit from this one go with it, so what references those counts too. A key
# between partitioned tables has copies for its partitions, which would count twice.
_KEYS_OF_A_TABLE = _POSTGRES.format(
    **_NAMES | _PLAIN | {
        "first": "WITH RECURSIVE own(oid) AS (SELECT CAST(:oid AS oid) UNION SELECT i.inhrelid FROM pg_inherits i"
        " JOIN own ON i.inhparent = own.oid)",
        "more": ", k.conrelid, k.confrelid IN (SELECT oid FROM own)",
        "which": "AND (k.conrelid = :oid OR k.confrelid IN (SELECT oid FROM own))"
        " AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.oid = k.conparentid AND"
        " (c.conrelid = :oid OR c.confrelid IN (SELECT oid FROM own)))",
    }
)  # fmt: skip
_QUOTED = _POSTGRES.format(
    **_PLAIN
    | {
        "schema": "NULL", "table": "format('%I.%I', kn.nspname, kc.relname)",
        "parent_schema": "NULL", "parent": "format('%I.%I', pn.nspname, pc.relname)",
    }
)  # fmt: skip


def postgres_keys(connection: sa.Connection) -> list[ForeignKey]:
    """Every key of the database; a table in the search path has no schema."""
    return [_postgres_key(row) for row in connection.execute(sa.text(_ALL_KEYS))]


def postgres_keys_by_quoted_names(connection: sa.Connection) -> list[ForeignKey]:
    """Every key of the database, its tables as "schema"."table"."""
    return [_postgres_key(row) for row in connection.execute(sa.text(_QUOTED))]


def postgres_keys_of(connection: sa.Connection, oid: int) -> tuple[tuple[ForeignKey, ...], tuple[ForeignKey, ...]]:
    """The keys that refer to a table, and its own; all with their schemas."""
    rows = connection.execute(sa.text(_KEYS_OF_A_TABLE), {"oid": oid}).all()
    keys = [(_postgres_key(row), row[8], row[9]) for row in rows]
    return tuple(k for k, _, refers in keys if refers), tuple(k for k, owner, _ in keys if owner == oid)


def _postgres_key(row: Any) -> ForeignKey:
    name, schema, table, parent_schema, parent, rule, columns, parent_columns = row[:8]
    rule = rule.decode() if isinstance(rule, bytes) else rule
    return ForeignKey(
        name, table, tuple(columns), parent, tuple(parent_columns), _RULES.get(rule, rule),
        schema=schema, parent_schema=parent_schema,
    )  # fmt: skip


# --- SQLite ------------------------------------------------------------------------------------------------------

# Runs a statement with its values and gives rows of texts.
Asking = Callable[..., Iterable[Sequence[Any]]]


def sqlite_keys_of(ask: Asking, table: str) -> Iterator[ForeignKey]:
    """A table's own keys, by the names that the tables themselves have. A key that names no table, or no column of it,
    is left out: no row can hang by it."""
    grouped: dict[Any, list[Sequence[Any]]] = {}
    for row in ask(
        'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq', table
    ):
        grouped.setdefault(row[0], []).append(row)
    for number, parts in grouped.items():
        parent, own = str(parts[0][1]), sqlite_columns(ask, table)
        named = sqlite_columns(ask, parent)
        to = tuple(p[3] for p in parts) if parts[0][3] is not None else sqlite_primary(ask, parent)
        columns = tuple(own.get(str(p[2]).lower(), str(p[2])) for p in parts)
        if len(to) == len(columns) and all(str(name).lower() in named for name in to):
            theirs = tuple(named[str(name).lower()] for name in to)
            yield ForeignKey(f"{table}_{number}", table, columns, parent, theirs, str(parts[0][4]))


def sqlite_tables(ask: Asking) -> list[str]:
    return [str(row[0]) for row in ask("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def sqlite_columns(ask: Asking, table: str) -> dict[str, str]:
    """The columns as the table writes them, by their names in small letters; empty where there is no such table."""
    names = (str(row[0]) for row in ask("SELECT name FROM pragma_table_xinfo(?)", table))
    return {name.lower(): name for name in names}


def sqlite_primary(ask: Asking, table: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in ask("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", table))
