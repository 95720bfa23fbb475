"""What decides whether rows of a table may go, as the catalogue has it at a moment: columns, the foreign keys that
reference the table, triggers, rules.

Promises: a purge compares these once more in the transaction that deletes, under the locks under which it deletes.
Between two chunks a service once got a column and its values, and 30 rows went with values that no archive held; a new
table with ON DELETE CASCADE lost its rows.

What the servers do, as tried with two connections: MySQL, PostgreSQL and SQLite let nobody change a table, or make a
foreign key to it, while a transaction holds its lock. MariaDB makes a foreign key all the same, so does PostgreSQL for
a single partition; so there it is looked once more after the DELETE: a key that comes later finds no row any more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from saju_ops.database.mysql_grants import grants_of, sees_all_databases

if TYPE_CHECKING:
    from saju_ops.rows.engines.session import TableSession

# A table by its schema and name; no schema where the name alone finds it.
Ref = tuple[str | None, str]
Kind = Literal["engine", "column", "inherited", "child", "trigger", "rule"]
# InnoDB's list of all foreign keys, for accounts with the PROCESS privilege: MySQL's name of it and MariaDB's.
INNODB_LISTS = ("INNODB_FOREIGN", "INNODB_SYS_FOREIGN")
# How that list writes the delete rule; without any of these bits it is RESTRICT.
INNODB_RULES = {1: "CASCADE", 2: "SET NULL", 16: "NO ACTION"}
# MySQL joins 61 tables at most.
TABLES_PER_STATEMENT = 50


@dataclass(frozen=True)
class Trait:
    ref: Ref
    kind: Kind
    name: str


Found = dict[Trait, str]


class Altered(Exception):
    """A table is no longer what it was when the run began. Says what changed; no row of it is deleted."""


class Traits:
    """Those of some tables. What is there now counts as known: make it before the tables are described."""

    def __init__(self, store: TableSession, refs: Collection[Ref]) -> None:
        self._store, self.refs = store, tuple(refs)
        self._catalogue = _CATALOGUES[store.connection.dialect.name](store, self.refs)
        self._known = self._catalogue.read()

    def hold(self, refs: Sequence[Ref] | None = None) -> None:
        """At the head of the transaction that deletes from these tables (default: all): nobody changes them from now on
        till it ends. Raises Altered where somebody did before. Touches no row."""
        held = self.refs if refs is None else refs
        for start in range(0, len(held), TABLES_PER_STATEMENT):
            self._catalogue.hold(held[start : start + TABLES_PER_STATEMENT])
        if what := self.changed():
            raise Altered(what)

    def look_again(self) -> None:
        """After the DELETE, before the commit. Raises Altered. Only foreign keys can have come meanwhile; asking for
        everything again would cost a purge some percent."""
        if self._catalogue.changes_under_lock:
            others = {trait: value for trait, value in self._known.items() if trait.kind != "child"}
            if (now := others | self._catalogue.children()) != self._known:
                raise Altered(", ".join(_differences(self._known, now, None)))

    def changed(self, kinds: Collection[Kind] | None = None) -> str:
        """What is different now, in words; empty where nothing is."""
        now = self._catalogue.read()
        if now == self._known:
            return ""
        return ", ".join(_differences(self._known, now, kinds))


def _differences(before: Found, now: Found, kinds: Collection[Kind] | None) -> Iterator[str]:
    gone = {t.ref for t in before} - {t.ref for t in now}
    yield from (f"there is no table {_shown(ref)} any more" for ref in sorted(gone, key=_shown))
    for trait in sorted({*before, *now}, key=lambda t: (_shown(t.ref), t.kind, t.name)):
        old, new = before.get(trait), now.get(trait)
        if old != new and trait.ref not in gone and (kinds is None or trait.kind in kinds):
            yield _difference(trait, old, new)


def _difference(trait: Trait, old: str | None, new: str | None) -> str:
    table = _shown(trait.ref)
    if trait.kind == "engine":
        return f"{table} is of the kind {new} now ({old} before)"
    if trait.kind == "child":
        rule = f" with ON DELETE {new}" if new else ""
        return f"the table {trait.name} {'references' if new else 'references no more'} {table}{rule}"
    what = {"inherited": "column of an inheriting table"}.get(trait.kind, trait.kind)
    if old is None:
        return f"the {what} {trait.name} was added to {table}"
    if new is None:
        return f"the {what} {trait.name} was taken from {table}"
    shown = f" from {old} to {new}" if trait.kind in ("column", "inherited") else ""
    return f"the {what} {trait.name} of {table} was changed{shown}"


def _shown(ref: Ref) -> str:
    return f"{ref[0]}.{ref[1]}" if ref[0] else ref[1]


# --- what the engines' catalogues say -------------------------------------------------------------------------


class _Catalogue:
    # Whether somebody may make a foreign key to a table, or to a part of it, that a transaction has locked.
    changes_under_lock = False

    def __init__(self, store: TableSession, refs: Sequence[Ref]) -> None:
        self.store, self.refs = store, refs

    def read(self) -> Found:
        raise NotImplementedError

    def children(self) -> Found:
        """Those keys found by `read` that reference the tables; for tables that `changes_under_lock`."""
        raise NotImplementedError

    def hold(self, refs: Sequence[Ref]) -> None:
        raise NotImplementedError

    def _found(self, rows: Sequence[Any]) -> Found:
        """Sorts rows by the place of their table in `refs`, kind and name; the rest of a row is compared."""
        return {Trait(self.refs[int(place)], kind, _str(name)): _str(value) for place, kind, name, value in rows}

    def _names(self, refs: Sequence[Ref]) -> str:
        quoted = self.store.connection.dialect.identifier_preparer.format_table
        return ", ".join(quoted(sa.table(name, schema=schema)) for schema, name in refs)


class _MySQL(_Catalogue):
    # One table each, by equality: MariaDB opens every table of the server for anything else.
    TABLE = (
        "SELECT {place}, 'column', COLUMN_NAME, CONVERT(CONCAT_WS(' ', COLUMN_TYPE, COLLATION_NAME,"
        " IF(IS_NULLABLE = 'NO', 'NOT NULL', NULL), IF(COLUMN_KEY = 'PRI', 'KEY', NULL),"
        " NULLIF(GENERATION_EXPRESSION, '')) USING utf8mb4) FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = :schema{place} AND TABLE_NAME = :name{place}"
        " UNION ALL SELECT {place}, 'engine', '', ENGINE FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = :schema{place} AND TABLE_NAME = :name{place}"
        " UNION ALL SELECT {place}, 'trigger', TRIGGER_NAME, CONCAT_WS(' ', ACTION_TIMING, EVENT_MANIPULATION,"
        " ACTION_STATEMENT) FROM information_schema.TRIGGERS"
        " WHERE TRIGGER_SCHEMA = :schema{place} AND EVENT_OBJECT_TABLE = :name{place}"
    )
    # MySQL's rules are in one small table.
    RULES = (
        "SELECT {place}, 'child', CONCAT(CONSTRAINT_SCHEMA, '.', TABLE_NAME, ' (', CONSTRAINT_NAME, ')'), DELETE_RULE"
        " FROM information_schema.REFERENTIAL_CONSTRAINTS"
        " WHERE UNIQUE_CONSTRAINT_SCHEMA = :schema{place} AND REFERENCED_TABLE_NAME = :name{place}"
    )
    # MariaDB looks for keys in every table, in one database or in all of the server; the rules it doesn't show all.
    KEYS = (
        "SELECT {place}, 'child', CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', CONSTRAINT_NAME, ')'),"
        " 'an unseen rule' FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = :database{number}"
        " AND REFERENCED_TABLE_SCHEMA = :schema{place} AND REFERENCED_TABLE_NAME = :name{place}"
    )
    DATABASES = sa.text(
        "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA"
        " WHERE SCHEMA_NAME NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys')"
    )

    def __init__(self, store: TableSession, refs: Sequence[Ref]) -> None:
        super().__init__(store, refs)
        self.mariadb = bool(getattr(store.connection.dialect, "is_mariadb", False))
        self.changes_under_lock = self.mariadb
        self.database = str(store.connection.execute(sa.text("SELECT DATABASE()")).scalar_one())
        self.names = {f"schema{i}": schema or self.database for i, (schema, _) in enumerate(refs)}
        self.names |= {f"name{i}": name for i, (_, name) in enumerate(refs)}
        self.list = self._readable_list()
        with_rules = self.list is None and not self.mariadb
        self.statement = sa.text(self._of_each([self.TABLE, *([self.RULES] if with_rules else [])]))

    def _of_each(self, statements: Sequence[str]) -> str:
        return " UNION ALL ".join(each.format(place=i) for i in range(len(self.refs)) for each in statements)

    def _readable_list(self) -> sa.TextClause | None:
        """None where the account can't read it, and where it sees all rules in MySQL's own list, which with 400 foreign
        keys takes a quarter of the time."""
        if not self.mariadb and sees_all_databases(grants_of(self.store.connection)):
            return None
        for name in INNODB_LISTS:
            # By name alone where InnoDB writes it as it is.
            plain = all(re.fullmatch("[0-9A-Za-z_]+", part) for part in self.names.values())
            where = " WHERE REF_NAME IN :paths" if plain else ""
            query = sa.text(f"SELECT ID, FOR_NAME, REF_NAME, TYPE FROM information_schema.{name}{where}")  # noqa: S608
            query = query.bindparams(sa.bindparam("paths", list(self._paths()), expanding=True)) if plain else query
            try:
                self.store.connection.execute(query).all()
                return query
            except sa.exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise
                self.store.end_read()
        return None

    def _paths(self) -> dict[str, int]:
        return {f"{self.names[f'schema{i}']}/{self.names[f'name{i}']}".casefold(): i for i in range(len(self.refs))}

    def read(self) -> Found:
        found = self._found(self.store.connection.execute(self.statement, self.names).all())
        return found | self.children() if self.mariadb or self.list is not None else found

    def children(self) -> Found:
        return self._shown_keys() if self.list is None else dict(self._listed(self.list))

    def _listed(self, query: sa.TextClause) -> Iterator[tuple[Trait, str]]:
        paths = self._paths()
        for name, child, parent, bits in self.store.connection.execute(query):
            place = paths.get(plain_name(_str(parent)))
            if place is not None:
                table, key = plain_name(_str(child)).replace("/", "."), plain_name(_str(name)).rpartition("/")[2]
                rule = next((rule for bit, rule in INNODB_RULES.items() if int(bits) & bit), "RESTRICT")
                yield Trait(self.refs[place], "child", f"{table} ({key})"), rule

    def _shown_keys(self) -> Found:
        databases = self.store.connection.execute(self.DATABASES).scalars().all()
        names = self.names | {f"database{n}": database for n, database in enumerate(databases)}
        arms = [
            self.KEYS.format(place=i, number=n) for n in range(len(databases)) for i in range(len(self.refs))
        ]  # fmt: skip
        statement = sa.text(" UNION ALL ".join(arms))
        return self._found(self.store.connection.execute(statement, names).all()) if arms else {}

    def hold(self, refs: Sequence[Ref]) -> None:
        # For update, as the deletes will have it: a lock that has to grow meets others that wait for it.
        self.store.connection.exec_driver_sql(f"SELECT 1 FROM {self._names(refs)} WHERE 1 = 0 FOR UPDATE")  # noqa: S608


class _PostgreSQL(_Catalogue):
    # A row trigger of a partitioned table has copies (tgparentid), and a foreign key has (conparentid).
    OWN = (
        "WITH RECURSIVE asked(place, oid) AS (SELECT a.place, c.oid FROM (VALUES {places}) AS a(place, schema, name)"
        " JOIN pg_class c ON c.relname = a.name JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND CASE WHEN a.schema IS NULL THEN pg_table_is_visible(c.oid)"
        " ELSE n.nspname = a.schema END),"
        " own(place, oid) AS (SELECT place, oid FROM asked UNION SELECT own.place, i.inhrelid FROM pg_inherits i"
        " JOIN own ON i.inhparent = own.oid)"
    )
    CHILDREN = (
        "SELECT o.place, 'child', k.conrelid::regclass::text || ' (' || k.conname || ')',"
        " CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'"
        " WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION' END FROM own o JOIN pg_constraint k ON k.confrelid = o.oid"
        " WHERE k.contype = 'f' AND NOT EXISTS (SELECT 1 FROM pg_constraint c JOIN own ON own.oid = c.confrelid"
        " WHERE c.oid = k.conparentid)"
    )
    TRAITS = (
        ", cols AS (SELECT o.place, o.oid, a.attname::text AS name, a.attnum, o.oid IN (SELECT oid FROM asked) AS mine,"
        " concat_ws(' ', format_type(a.atttypid, a.atttypmod), l.collname, CASE WHEN a.attnotnull THEN 'NOT NULL' END,"
        " CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END) AS value"
        " FROM own o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " LEFT JOIN pg_collation l ON l.oid = a.attcollation)"
        " SELECT place, 'column', name, concat_ws(' ', value, (SELECT 'KEY' FROM pg_index i WHERE i.indrelid = cols.oid"
        " AND i.indisprimary AND cols.attnum = ANY (i.indkey))) FROM cols WHERE mine"
        " UNION ALL SELECT place, 'inherited', oid::regclass::text || '.' || name, value FROM cols WHERE NOT mine"
        " AND NOT EXISTS (SELECT 1 FROM cols c WHERE c.mine AND c.place = cols.place AND c.name = cols.name)"
        " UNION ALL SELECT o.place, 'trigger', t.tgname, pg_get_triggerdef(t.oid) || t.tgenabled::text"
        " FROM own o JOIN pg_trigger t ON t.tgrelid = o.oid WHERE NOT t.tgisinternal AND t.tgparentid = 0"
        " UNION ALL SELECT a.place, 'rule', r.rulename, pg_get_ruledef(r.oid) || r.ev_enabled::text"
        " FROM asked a JOIN pg_rewrite r ON r.ev_class = a.oid UNION ALL "
    )
    # A foreign key may be made to a partition of which the transaction has no row yet.
    changes_under_lock = True

    def __init__(self, store: TableSession, refs: Sequence[Ref]) -> None:
        super().__init__(store, refs)
        places = (f"({i}, CAST(:schema{i} AS text), CAST(:name{i} AS text))" for i in range(len(refs)))
        own = self.OWN.replace("{places}", ", ".join(places))
        self.statement = sa.text(own + self.TRAITS + self.CHILDREN)
        self.keys = sa.text(f"{own} {self.CHILDREN}")
        self.names = {f"schema{i}": schema for i, (schema, _) in enumerate(refs)}
        self.names |= {f"name{i}": name for i, (_, name) in enumerate(refs)}

    def read(self) -> Found:
        return self._found(self.store.connection.execute(self.statement, self.names).all())

    def children(self) -> Found:
        return self._found(self.store.connection.execute(self.keys, self.names).all())

    def hold(self, refs: Sequence[Ref]) -> None:
        # The lock that a DELETE takes. The lock of a SELECT FOR UPDATE lets others make foreign keys, triggers and
        # rules.
        self.store.connection.exec_driver_sql(f"LOCK TABLE ONLY {self._names(refs)} IN ROW EXCLUSIVE MODE")


class _SQLite(_Catalogue):
    TRAITS = (
        "SELECT ?1, 'column', name, type || CASE WHEN \"notnull\" THEN ' NOT NULL' ELSE '' END"
        " || CASE WHEN pk THEN ' KEY' ELSE '' END || CASE WHEN hidden > 1 THEN ' GENERATED' ELSE '' END"
        " FROM pragma_table_xinfo(?2)"
        " UNION ALL SELECT ?1, 'child', m.name || ' (' || f.id || ': ' || f.\"from\" || ')', f.on_delete"
        " FROM sqlite_schema m, pragma_foreign_key_list(m.name) f"
        " WHERE m.type = 'table' AND lower(f.\"table\") = lower(?2)"
        " UNION ALL SELECT ?1, 'trigger', name, sql FROM sqlite_schema WHERE type = 'trigger'"
        " AND lower(tbl_name) = lower(?2)"
    )

    def __init__(self, store: TableSession, refs: Sequence[Ref]) -> None:
        super().__init__(store, refs)
        self._last: tuple[int, Found] | None = None

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with self.store.driver() as raw:
            found: list[Any] = raw.execute(statement, values).fetchall()
        return found

    def read(self) -> Found:
        version = int(self._all("PRAGMA schema_version")[0][0])
        if self._last is None or self._last[0] != version:
            rows = [r for i, (_, name) in enumerate(self.refs) for r in self._all(self.TRAITS, i, name)]
            self._last = (version, self._found([(place, _str(kind), name, value) for place, kind, name, value in rows]))
        return self._last[1]

    def hold(self, refs: Sequence[Ref]) -> None:
        return  # a transaction that changes anything holds the whole file


def plain_name(name: str) -> str:
    """A name of InnoDB's list in small letters. MariaDB writes other letters than ASCII, and signs, as in the names of
    its files: @ and four hex digits."""
    return re.sub(r"@([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), name).casefold()


def _str(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


_CATALOGUES: dict[str, type[_Catalogue]] = {
    "mysql": _MySQL,
    "mariadb": _MySQL,
    "postgresql": _PostgreSQL,
    "sqlite": _SQLite,
}
