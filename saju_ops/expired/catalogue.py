"""Foreign keys, columns and tables as each server's catalogue has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa

from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.foreign_keys import mysql_keys, postgres_keys, sqlite_keys_of, sqlite_primary, sqlite_tables
from saju_ops.rows.readable import require_readable
from saju_ops.rows.table import ForeignKey

# A table by its schema and name; no schema where the name alone finds it.
Ref = tuple[str | None, str]


class Collation(NamedTuple):
    name: str
    # Whether two texts are the same only where every letter is.
    exact: bool


@dataclass(frozen=True)
class Known:
    """What the catalogue says of one table."""

    ref: Ref
    columns: tuple[str, ...]
    nullable: frozenset[str]
    # The columns that distinguish its rows; empty if there are none.
    identity: tuple[str, ...]
    # Every set of columns of which no two rows have the same values.
    keys: tuple[tuple[str, ...], ...] = ()
    # The engine's own name of each column's type, in small letters.
    types: dict[str, str] = field(default_factory=dict)
    # How texts are compared; of SQLite only for columns that an index has.
    collations: dict[str, Collation] = field(default_factory=dict)


def shown(ref: Ref) -> str:
    return f"{ref[0]}.{ref[1]}" if ref[0] else ref[1]


def named(name: str, refs: Iterable[Ref]) -> Ref | None:
    """The table that a setting's name means: the one spelled so; only if there is none, without regard to letter
    case."""
    alike = [ref for ref in refs if shown(ref).casefold() == name.casefold()]
    return min(alike, key=lambda ref: (shown(ref) != name, shown(ref)), default=None)


class Catalogue:
    """A database's description of its tables. Reads only."""

    def __init__(self, store: RowStore) -> None:
        self.store = store

    @cached_property
    def root(self) -> Ref:
        """The store's own table as the catalogue writes it: SQLite, and MySQL on some systems, heed no letter
        case in names."""
        return None, self.written(self.store.table.name)

    def all_tables(self) -> list[Ref]:
        """Every table that the account can see, the database's own ones without a schema."""
        raise NotImplementedError

    def having(self, column: str) -> list[Ref]:
        """The database's own tables, and views, with a column of that name."""
        return [(None, row[0]) for row in self._all(self.HAVING, column=column)]

    def plain(self, name: str) -> str:
        """A setting's name of a table without the schema in which the database looks anyway."""
        schema, _, table = name.rpartition(".")
        here = [_text(row[0]) for row in self._all(self.HERE)] if schema else []
        return table if schema.casefold() in map(str.casefold, here) else name

    HAVING = ""
    HERE = "SELECT 'main'"

    def foreign_keys(self) -> list[ForeignKey]:
        raise NotImplementedError

    def table(self, ref: Ref) -> Known:
        raise NotImplementedError

    def written(self, name: str) -> str:
        """The name of the store's own table as foreign keys name it."""
        return name

    def _all(self, statement: str, **values: Any) -> Sequence[Any]:
        return self.store.connection.execute(sa.text(statement), values).all()


class _MySQL(Catalogue):
    HERE = "SELECT DATABASE()"
    HAVING = (
        "SELECT TABLE_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND COLUMN_NAME = :column"
    )
    TABLES = (
        "SELECT IF(TABLE_SCHEMA = DATABASE(), NULL, TABLE_SCHEMA), TABLE_NAME FROM information_schema.TABLES"
        " WHERE TABLE_TYPE = 'BASE TABLE'"
    )
    NAME = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    COLUMNS = (
        "SELECT COLUMN_NAME, IS_NULLABLE, LOWER(DATA_TYPE), COLLATION_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :name ORDER BY ORDINAL_POSITION"
    )
    INDEXES = (
        "SELECT INDEX_NAME, COLUMN_NAME, NULLABLE FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0"
        " AND TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :name"
        " ORDER BY INDEX_NAME = 'PRIMARY' DESC, INDEX_NAME, SEQ_IN_INDEX"
    )

    def foreign_keys(self) -> list[ForeignKey]:
        return [key.key for key in mysql_keys(self.store.connection)]

    def all_tables(self) -> list[Ref]:
        return [(row[0], row[1]) for row in self._all(self.TABLES)]

    def written(self, name: str) -> str:
        found = [r[0] for r in self._all(self.NAME, name=name)]
        return name if name in found or not found else str(found[0])

    def table(self, ref: Ref) -> Known:
        # A key with a hidden column would distinguish too few rows.
        require_readable(self.store.connection, ref[1], ref[0])
        names = {"schema": ref[0], "name": ref[1]}
        rows = self._all(self.COLUMNS, **names)
        indexes: dict[str, list[Any]] = {}
        for row in self._all(self.INDEXES, **names):
            indexes.setdefault(row[0], []).append(row)
        keys = [tuple(r[1] for r in i) for i in indexes.values() if all(r[1] and r[2] != "YES" for r in i)]
        collations = {r[0]: Collation(r[3], r[3].endswith(("_bin", "binary"))) for r in rows if r[3]}
        return _known(ref, [(r[0], r[1] == "YES", r[2]) for r in rows], keys, collations)


class _PostgreSQL(Catalogue):
    OID = (
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = :name"
        " AND c.relkind IN ('r', 'p')"
        " AND CASE WHEN CAST(:schema AS text) IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = :schema END"
    )
    HERE = "SELECT unnest(current_schemas(false))::text"
    HAVING = (
        "SELECT c.relname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attname = :column"
        " AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND pg_table_is_visible(c.oid)"
    )
    TABLES = (
        "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN NULL ELSE n.nspname END, c.relname FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
        " AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
    )
    COLUMNS = (
        "SELECT attname::text, NOT attnotnull, COALESCE(b.typname, t.typname)::text,"
        " quote_ident(n.nspname) || '.' || quote_ident(l.collname),"
        # PostgreSQL 11 has no such column, and no collation that isn't.
        " COALESCE(CAST(to_jsonb(l) ->> 'collisdeterministic' AS boolean), true) FROM pg_attribute"
        " JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype"
        " LEFT JOIN pg_collation l ON l.oid = attcollation LEFT JOIN pg_namespace n ON n.oid = l.collnamespace"
        " WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    INDEXES = (
        "SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int[]) WITH ORDINALITY AS k(attnum, n)"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE n <= i.indnkeyatts ORDER BY n)"
        " FROM pg_index i WHERE i.indrelid = :oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL"
        " AND i.indisvalid ORDER BY i.indisprimary DESC, i.indexrelid"
    )

    def foreign_keys(self) -> list[ForeignKey]:
        return postgres_keys(self.store.connection)

    def all_tables(self) -> list[Ref]:
        return [(row[0], row[1]) for row in self._all(self.TABLES)]

    def table(self, ref: Ref) -> Known:
        oid = self._all(self.OID, schema=ref[0], name=ref[1])[0][0]
        rows = self._all(self.COLUMNS, oid=oid)
        columns = [(r[0], bool(r[1]), r[2]) for r in rows]
        collations = {r[0]: Collation(r[3], bool(r[4])) for r in rows if r[3]}
        required = {name for name, nullable, _ in columns if not nullable}
        keys = [tuple(r[0]) for r in self._all(self.INDEXES, oid=oid) if r[0] and set(r[0]) <= required]
        return _known(ref, columns, keys, collations)


class _SQLite(Catalogue):
    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self.store.driver() as raw:
            found = raw.execute(statement, values).fetchall()
        return [tuple(_text(v) for v in row) for row in found]

    def foreign_keys(self) -> list[ForeignKey]:
        tables = sqlite_tables(self._rows)
        named = {t.casefold(): t for t in tables}
        keys = (key for table in tables for key in sqlite_keys_of(self._rows, table))
        return [replace(key, parent=named[key.parent.casefold()]) for key in keys]

    def having(self, column: str) -> list[Ref]:
        query = (
            "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c"
            " WHERE t.type = 'table' AND lower(c.name) = lower(?)"
        )
        return [(None, r[0]) for r in self._rows(query, column)]

    def all_tables(self) -> list[Ref]:
        return [(None, name) for name in sqlite_tables(self._rows)]

    def written(self, name: str) -> str:
        rows = self._rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?)", name)
        return str(rows[0][0]) if rows else name

    def table(self, ref: Ref) -> Known:
        rows = self._rows('SELECT name, "notnull", lower(type) FROM pragma_table_xinfo(?) WHERE hidden != 1', ref[1])
        columns = [(r[0], not r[1], r[2]) for r in rows]
        required = {r[0] for r in rows if r[1]}
        keys = [primary] if (primary := sqlite_primary(self._rows, ref[1])) else []
        for (index,) in self._rows('SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', ref[1]):
            names = tuple(r[0] for r in self._rows("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index))
            if set(names) <= required:
                keys.append(names)
        collations = {name: Collation(used.upper(), used.upper() == "BINARY") for name, used in self._collations(ref)}
        return _known(ref, columns, keys, collations)

    def _collations(self, ref: Ref) -> list[tuple[str, str]]:
        """The collation of each indexed column; the key's comes last, since an index may have one of its own."""
        return self._rows(
            "SELECT i.name, i.coll FROM pragma_index_list(?) l JOIN pragma_index_xinfo(l.name) i"
            " WHERE i.key AND i.cid >= 0 ORDER BY l.origin = 'pk', l.\"unique\"",
            ref[1],
        )


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _known(
    ref: Ref,
    columns: Sequence[tuple[str, bool, str]],
    keys: Sequence[tuple[str, ...]],
    collations: dict[str, Collation],
) -> Known:
    nullable = frozenset(name for name, may_be_null, _ in columns if may_be_null)
    types = {name: kind for name, _, kind in columns}
    return Known(
        ref, tuple(types), nullable, keys[0] if keys else (), keys=tuple(keys), types=types, collations=collations
    )


_CATALOGUES: dict[str, Callable[[RowStore], Catalogue]] = {
    "mysql": _MySQL,
    "mariadb": _MySQL,
    "postgresql": _PostgreSQL,
    "sqlite": _SQLite,
}
