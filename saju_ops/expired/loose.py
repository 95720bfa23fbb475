"""Columns that hold a session's id without a foreign key, such as system_metrics.session_id: NULL with the session.

In the transaction that deletes a session, its id becomes NULL in the columns that SESSION_CLEAR_COLUMNS names, compared
as the sessions' key compares it, whatever the column's own collation says. Nothing else in those rows changes, not even
times that the server would renew. Any other column of that name, in a table that no key links to the sessions, is a
doubt: the id stays there. A column that can't be cleared (NOT NULL, no index, a missing right) is refused if the
setting names it, and a doubt if it is only the default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.families import family_of
from saju_ops.errors import Refused
from saju_ops.expired.catalogue import Known, Ref, named, shown
from saju_ops.expired.conditions import Identity, chunks, compared, compares_more, letter_by_letter, naming
from saju_ops.expired.expiry import Expiry
from saju_ops.expired.foreign_keys import Closure, catalogue_of, child_of, parent_of
from saju_ops.expired.link_values import Kind, are_comparable, kind_of, spelled
from saju_ops.expired.links import PLAIN_KEYS, singular
from saju_ops.rows.engines.open import RowStore

SETTING = "SESSION_CLEAR_COLUMNS"
DEFAULT = "system_metrics.session_id"
_INDEXED = {
    "mysql": (
        "SELECT 1 FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
        " AND COLUMN_NAME = :column AND SEQ_IN_INDEX = 1"
    ),
    "postgresql": (
        "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid"
        " AND a.attnum = i.indkey[0] WHERE c.relname = :name AND pg_table_is_visible(c.oid) AND a.attname = :column"
        " AND i.indpred IS NULL AND i.indisvalid"
    ),
    "sqlite": (
        "SELECT 1 FROM pragma_index_list(:name) l JOIN pragma_index_info(l.name) i"
        " WHERE i.seqno = 0 AND NOT l.partial AND lower(i.name) = lower(:column)"
    ),
}
# Columns that MySQL sets to now in each UPDATE that doesn't name them.
_RENEWED = (
    "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND LOWER(EXTRA) LIKE '%on update%'"
)


@dataclass
class LooseColumns:
    """Columns that are cleared with a session, and sentences about those that aren't."""

    store: RowStore
    closure: Closure
    columns: list[tuple[Ref, str, tuple[str, ...]]] = field(default_factory=list)
    # Columns of another kind than the key of the sessions, such as texts for UUIDs: servers compare those wrongly.
    kinds: dict[tuple[Ref, str], Kind] = field(default_factory=dict)
    # By an expired session's id: its other spellings, which only the key takes for the same. A row that comes with such
    # a spelling during the run stays.
    spellings: dict[tuple[Ref, str], dict[Identity, list[Identity]]] = field(default_factory=dict)
    tables: dict[Ref, Known] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def _conditions(
        self, ref: Ref, column: str, cell: sa.ColumnElement[Any], sessions: Sequence[Identity]
    ) -> Iterator[sa.ColumnElement[bool]]:
        kind, more = self.kinds.get((ref, column)), self.spellings.get((ref, column), {})
        wanted = sessions if kind is None else spelled(sessions, [kind])
        engine, root = self.store.table.engine, self.closure.tables[self.closure.root]
        as_key = compared(engine, [cell], self.tables[ref], [column], root, root.identity)
        for chunk in chunks(wanted):
            yield naming(engine, [cell], as_key, [*chunk, *(s for session in chunk for s in more.get(session, ()))])

    def count(self, sessions: Sequence[Identity]) -> Counter[str]:
        """Rows whose column holds one of these ids."""
        found: Counter[str] = Counter()
        for ref, column, _ in self.columns:
            table = _table(ref, column)
            for where in self._conditions(ref, column, table.c[column], sessions):
                query = sa.select(sa.func.count()).select_from(table).where(where)
                found[shown(ref)] += int(self.store.connection.execute(query).scalar_one())
        return +found

    def clear(self, sessions: Sequence[Identity]) -> Counter[str]:
        """Sets these ids to NULL; inside the transaction that deletes their sessions. Rows changed, by table."""
        changed: Counter[str] = Counter()
        for ref, column, renewed in self.columns:
            table = _table(ref, column, *renewed)
            for where in self._conditions(ref, column, table.c[column], sessions):
                values = {column: sa.null(), **{name: table.c[name] for name in renewed}}
                update = sa.update(table).values(values).where(where)
                changed[shown(ref)] += self.store.connection.execute(update).rowcount
        return +changed

    def read_spellings(self, ref: Ref, column: str, expiry: Expiry) -> None:
        """Where the key takes more texts for the same than the column does, such as both cases of a letter: an index of
        the column doesn't find those. One read of the column, without locks."""
        engine, root, known = self.store.table.engine, self.closure.tables[self.closure.root], self.tables[ref]
        key = self.store.col(root.identity[0])
        if not compares_more(engine, known.collations.get(column), root.collations.get(root.identity[0])):
            return
        table = _table(ref, column)
        (as_key,) = compared(engine, [table.c[column]], known, [column], root, root.identity)
        other = letter_by_letter(engine, key) != letter_by_letter(engine, table.c[column])
        query = sa.select(key, table.c[column]).select_from(self.store.from_.join(table, key == as_key)).distinct()
        found: dict[Identity, list[Identity]] = {}
        for session, spelling in self.store.connection.execute(query.where(other, *expiry.conditions())):
            found.setdefault((session,), []).append((spelling,))
        self.spellings[ref, column] = found


def loose_columns(
    store: RowStore, closure: Closure, wanted: Collection[str], *, given: bool, expiry: Expiry
) -> LooseColumns:
    """`wanted` are columns as table.column; `given` is False if they are the setting's default. Reads the catalogue,
    and a column whose collation differs from that of the sessions' key.

    Raises Refused.
    """
    found = LooseColumns(store, closure)
    catalogue = catalogue_of(store)
    tables, identity = catalogue.all_tables(), closure.tables[closure.root].identity
    store.end_read()
    for text in wanted if len(identity) == 1 else ():
        name, _, column = text.rpartition(".")
        ref = named(name, tables)
        if ref is None and not given:
            continue
        if ref is not None and ref in closure.tables:
            continue  # its rows go, or their key empties the column
        why = "the database has no such table" if ref is None else _why_not(store, closure, ref, column)
        if ref is None or (why and given):
            raise Refused(f"{SETTING} names {text}, but {why}. Nothing was deleted; correct it.")
        if why:
            found.doubts.append(f"The ids of purged sessions stay in {text}: {why}.")
        else:
            known = found.tables[ref] = catalogue.table(ref)
            written = next(c for c in known.columns if c.casefold() == column.casefold())
            found.columns.append((ref, written, _renewed(store, ref)))
            types = (known.types[written], closure.tables[closure.root].types[identity[0]])
            mine, theirs = (kind_of(store.table.engine, each) for each in types)
            if mine != theirs:
                found.kinds[ref, written] = mine
            else:
                found.read_spellings(ref, written, expiry)
        store.end_read()
    if wanted or not given:
        found.doubts += list(_others(store, closure, [ref for ref, _, _ in found.columns], found.doubts))
    return found


def _why_not(store: RowStore, closure: Closure, ref: Ref, column: str) -> str:
    """Why a column can't be set to NULL; empty where it can."""
    known, root = catalogue_of(store).table(ref), closure.tables[closure.root]
    store.end_read()
    names = {c.casefold(): c for c in known.columns}
    if column.casefold() not in names:
        return f"there is no column {shown(ref)}.{column}"
    column = names[column.casefold()]
    if column not in known.nullable:
        return (
            f"it is NOT NULL; let it be NULL, or name {shown(ref)} in SESSION_PURGE_TABLES, and its rows are deleted"
            " with their session"
        )
    mine, theirs = known.types[column], root.types[root.identity[0]]
    if not are_comparable(store.table.engine, mine, theirs):
        return f"it is of the type {mine}, and the sessions' key of the type {theirs}"
    if ref[0] is None and not _is_indexed(store, ref[1], column):
        return (
            "no index begins with it, so each batch would read the whole table; make an index on"
            f" {shown(ref)} ({column})"
        )
    return _refused_by_the_server(store, ref, column)


def _is_indexed(store: RowStore, table: str, column: str) -> bool:
    family = family_of(store.connection.dialect.name)
    found = store.connection.execute(sa.text(_INDEXED[family]), {"name": table, "column": column}).first()
    store.end_read()
    return found is not None


def _refused_by_the_server(store: RowStore, ref: Ref, column: str) -> str:
    """The server is asked by an update of no row; SQLite has no rights, and would be locked by one."""
    if store.connection.dialect.name == "sqlite":
        return ""
    table = _table(ref, column)
    try:
        store.connection.execute(sa.update(table).values({column: sa.null()}).where(sa.false()))
    except DBAPIError:
        return f"the account may not change it; GRANT UPDATE ({column}), SELECT ON {shown(ref)} to it"
    finally:
        store.end_read()
    return ""


def _renewed(store: RowStore, ref: Ref) -> tuple[str, ...]:
    if store.connection.dialect.name not in ("mysql", "mariadb"):
        return ()
    names = [row[0] for row in store.connection.execute(sa.text(_RENEWED), {"name": ref[1]})]
    return tuple(str(name) for name in names)


def _others(store: RowStore, closure: Closure, cleared: Collection[Ref], said: Collection[str]) -> Iterator[str]:
    """A sentence for each other table that holds ids of sessions without a key."""
    catalogue, root = catalogue_of(store), closure.tables[closure.root]
    key = root.identity[0] if len(root.identity) == 1 else ""
    columns = {f"{singular(closure.root[1])}_id", *({key} if key and key.casefold() not in PLAIN_KEYS else set())}
    tables = set(catalogue.all_tables())
    keyed = {(child_of(k), c) for k in catalogue.foreign_keys() if parent_of(k) != closure.root for c in k.columns}
    store.end_read()
    for column in sorted(columns):
        for ref in sorted(catalogue.having(column), key=shown):
            known = ref in closure.tables or ref in cleared or (ref, column) in keyed or ref not in tables
            if not known and not any(f" {shown(ref)}." in sentence for sentence in said):
                yield (
                    f"The ids of purged sessions stay in {shown(ref)}.{column}: name it in {SETTING}, and it becomes"
                    f" NULL, or {shown(ref)} in SESSION_PURGE_TABLES, and its rows are deleted."
                )
        store.end_read()


def _table(ref: Ref, *columns: str) -> sa.TableClause:
    return sa.table(ref[1], *map(sa.column, columns), schema=ref[0])
