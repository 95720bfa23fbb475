"""Foreign keys that the account may not see: MySQL and MariaDB show it only those of tables on which it has a right,
and cascade into the others just the same. An account with rights on single tables once deleted another table's row so.

Two things leave none out: InnoDB's own list, for accounts with the PROCESS privilege, and the number of tables that a
DELETE opens, since a server opens each table that it may cascade into, visible or not. If that is one table more than
those to which the visible foreign keys lead, nothing is deleted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

import sqlalchemy as sa

from saju_ops.database.mysql_grants import (
    DENIED,
    NO_SETTING,
    account,
    error_number,
    grants_of,
    may_read_database,
    sees_all_databases,
)
from saju_ops.errors import Refused
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.foreign_keys import mysql_keys
from saju_ops.rows.traits import INNODB_LISTS, plain_name
from saju_ops.words import counted

# A table by its schema and name; no schema in the store's own database.
Ref = tuple[str | None, str]
OPENED = sa.text("SHOW SESSION STATUS WHERE Variable_name IN ('Table_open_cache_hits', 'Table_open_cache_misses')")
# Another session's FLUSH or ALTER makes a statement open a table twice, once.
COUNTS = 3
# Seconds that a DELETE of no row waits for a table that somebody alters.
TABLE_WAIT = 10
# The first MariaDB whose number of opened tables was compared with the tables that its keys lead to.
MARIADB_FROM = (10, 11)
# No right to delete, or a server that accepts no changes: a table whose rows can't be deleted needn't be counted.
NO_DELETE = DENIED | {1290, 1792, 1836}
RULES = re.compile(r" ON (DELETE|UPDATE) (CASCADE|SET NULL|SET DEFAULT|RESTRICT|NO ACTION)")
CASCADE, DETACHING = "CASCADE", ("SET NULL", "SET DEFAULT")
DOUBT = "This account may not see every foreign key (it lacks the PROCESS privilege): "
CANT_DELETE = DOUBT + "a table that it has no right on could hang on the rows. It may not delete them either."
COUNTED = DOUBT + (
    "that nothing else hangs on the rows is known by how many tables a DELETE opens. With PROCESS, what hangs on them"
    " is named."
)


@dataclass(frozen=True)
class _Key:
    """A foreign key by the names of its tables, each database/table; a rule is None where it isn't shown."""

    child: str
    parent: str
    on_delete: str | None
    on_update: str | None


class Unsure(Refused):
    """That no table which the account may not see references the rows can't be said."""


class _CantTell(Exception):
    """How many tables a DELETE should open can't be said for certain."""


def require_seen(store: RowStore, going: Collection[Ref], seen: Collection[Ref]) -> str:
    """Raises Refused if a table that isn't among `seen` references one of those whose rows are deleted, and Unsure if
    that can't be excluded. Returns a sentence if the account lacks PROCESS and all is well; else an empty text. Reads
    the catalogue, and begins DELETEs of no row, which it rolls back."""
    if store.connection.dialect.name not in ("mysql", "mariadb"):
        return ""
    listed = _listed(store)
    keys = _shown(store)
    pairs = [(key.child.casefold(), key.parent.casefold()) for key in keys]
    targets, known = _paths(store, going), _paths(store, [*going, *seen])
    # More keys between two tables than are shown: one has a column that the account may not see.
    more = Counter(listed or ()) - Counter(pairs)
    hidden = {child for child, parent in {*(listed or ()), *pairs} if parent in targets and child not in known}
    hidden |= {child for child, parent in more if parent in targets}
    if hidden:
        raise Refused(
            f"{', '.join(each.replace('/', '.') for each in sorted(hidden))} references rows that would go, and can't"
            " be looked at: this account lacks a right on it or on its database, or the setting spells the table's name"
            " in other letters than the database. Nothing was deleted; grant the account SELECT, or correct the name."
        )
    if listed is not None or sees_all_databases(grants_of(store.connection)):
        store.end_read()
        return ""
    return _require_none_opened(store, going, keys)


def _require_none_opened(store: RowStore, going: Collection[Ref], keys: Sequence[_Key]) -> str:
    opened = {path: _opened(store, ref) for ref in going for path in [_path(store, ref)]}
    if None in opened.values():
        return CANT_DELETE
    if not may_read_database(store.connection):
        raise Refused(_sentence(store, f"it has rights on single tables of {store.table.database} alone"))
    _require_countable(store)
    try:
        expected = {path: _expected(store.table.engine, keys, path) for path in opened}
    except _CantTell as reason:
        _refuse(store, str(reason))
    for path, count in opened.items():
        if count != expected[path]:
            _refuse(
                store,
                f"a DELETE of {path.replace('/', '.')} opens {counted(count or 0, 'other table')}, and the foreign keys"
                " that it sees"
                f" lead to {expected[path]}: there is one in a database that it has no right on, or a trigger that"
                " uses a table",
            )
    store.end_read()
    return COUNTED


def _refuse(store: RowStore, why: str) -> NoReturn:
    raise Unsure(_sentence(store, why))


def _sentence(store: RowStore, why: str) -> str:
    user = account(store.connection)
    store.end_read()
    return (
        f"This account may not see every foreign key ({why}), so it can't be said which other tables lose rows with"
        f" those that would go. Nothing was deleted; GRANT PROCESS ON *.* TO {user}, by which InnoDB's own list can be"
        f" read, or grant SELECT on {store.table.database} and on the databases whose tables reference it."
    )


# --- tables that a DELETE opens
# -----------------------------------------------------------------------------------------


def _opened(store: RowStore, ref: Ref) -> int | None:
    """Tables that a DELETE opens besides its own; None where the account can't delete."""
    statement = sa.delete(sa.table(ref[1], schema=ref[0])).where(sa.false())
    connection = store.connection
    store.end_read()
    waited = connection.exec_driver_sql("SELECT @@SESSION.lock_wait_timeout").scalar()
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {TABLE_WAIT}")
    try:
        connection.execute(statement)  # once, so that nothing is opened for the first time
        counts = []
        for _ in range(COUNTS):
            before = _tables_opened(connection)
            connection.execute(statement)
            counts.append(_tables_opened(connection) - before)
        return min(counts) - 1
    except sa.exc.DBAPIError as error:
        if error_number(error) not in NO_DELETE:
            raise
        return None
    finally:
        if not connection.invalidated:
            store.end_read()
            connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {waited}")


def _tables_opened(connection: sa.Connection) -> int:
    return sum(int(row[1]) for row in connection.execute(OPENED))


def _require_countable(store: RowStore) -> None:
    """Whether this server opens each table that it may cascade into: MariaDB, and MySQL from where it cascades itself
    (9.6); before, InnoDB does, and unseen."""
    if store.table.engine == "mariadb":
        version = getattr(store.connection.dialect, "server_version_info", None) or ()
        countable = tuple(version[:2]) >= MARIADB_FROM
    else:
        try:
            own = store.connection.exec_driver_sql("SELECT @@innodb_native_foreign_keys").scalar()
        except sa.exc.DBAPIError as error:
            if error_number(error) != NO_SETTING:
                raise
            own = 1
        countable = not own
    if not countable:
        _refuse(store, "it lacks the PROCESS privilege, by which alone this server shows them")


def _expected(engine: str, keys: Sequence[_Key], table: str) -> int:
    """How many tables a DELETE of `table` opens by these keys. Compared with both servers on some hundred random
    graphs of keys."""
    if engine == "mariadb":
        return len(_reached_once(keys, table))
    return _each_path(keys, table, "on_delete", (table,), Counter())


def _reached_once(keys: Sequence[_Key], table: str) -> set[str]:
    """MariaDB opens each table once that a key with CASCADE or SET NULL leads to, over others too."""
    found: set[str] = set()
    waiting = [table]
    while waiting:
        parent = waiting.pop()
        for key in keys:
            if key.parent == parent and _rule(key, "on_delete") in (CASCADE, *DETACHING) and key.child not in found:
                found.add(key.child)
                waiting.append(key.child)
    return found


def _each_path(keys: Sequence[_Key], table: str, event: str, path: tuple[str, ...], detached: Counter[str]) -> int:
    """MySQL opens every referencing table, once for each key and each way to it; and for rows that lose their reference
    also the tables that they reference. It doesn't open a table for the table's own keys to itself."""
    count = sum(key.child == table != key.parent for key in keys) if event == "on_update" else 0
    for key in keys:
        if key.parent != table or key.child == table:
            continue
        count += 1
        rule = _rule(key, event)
        if rule not in (CASCADE, *DETACHING):
            continue
        detached[key.child] += rule != CASCADE
        if key.child in path or detached[key.child] > 1:
            raise _CantTell("the foreign keys that it sees form a ring, or empty a table's references in several ways")
        follows = event if rule == CASCADE else "on_update"
        count += _each_path(keys, key.child, follows, (*path, key.child), detached)
    return count


def _rule(key: _Key, event: str) -> str:
    rule: str | None = getattr(key, event)
    if rule is None:
        raise _CantTell(f"it may not see what a key of {key.child.replace('/', '.')} does")
    return rule


# --- foreign keys ------------------------------------------------------------------------------------------------


def _shown(store: RowStore) -> list[_Key]:
    keys = mysql_keys(store.connection)
    folds = store.connection.exec_driver_sql("SELECT @@lower_case_table_names").scalar()
    found = []
    for key in keys:
        rules = (key.on_delete, key.on_update)
        if key.on_delete is None:
            rules = _defined_rules(store, key.schema, key.table, key.name)
        paths = [f"{key.schema}/{key.table}", f"{key.parent_schema}/{key.parent}"]
        one, other = map(str.casefold, paths) if folds else paths
        found.append(_Key(one, other, *rules))
    store.end_read()
    return found


def _defined_rules(store: RowStore, schema: str, table: str, name: str) -> tuple[str | None, str | None]:
    """The key's rules by the table's definition, where the account may see that."""
    quote = store.connection.dialect.identifier_preparer.quote_identifier
    try:
        store.connection.exec_driver_sql("SET SESSION sql_quote_show_create = 1")
        created = store.connection.exec_driver_sql(f"SHOW CREATE TABLE {quote(schema)}.{quote(table)}").one()[1]
    except sa.exc.DBAPIError as error:
        if error_number(error) not in DENIED:
            raise
        return None, None
    start = "  CONSTRAINT `" + name.replace("`", "``") + "` FOREIGN KEY "
    line = next((line for line in str(created).splitlines() if line.startswith(start)), None)
    if line is None:
        return None, None
    rules = dict(RULES.findall(line.rpartition(")")[2]))
    return rules.get("DELETE", "RESTRICT"), rules.get("UPDATE", "RESTRICT")


def _listed(store: RowStore) -> list[tuple[str, str]] | None:
    """Child and parent of every foreign key of the server, each as database/table in small letters."""
    for name in INNODB_LISTS:
        try:
            rows = store.connection.execute(sa.text(f"SELECT FOR_NAME, REF_NAME FROM information_schema.{name}")).all()  # noqa: S608
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            store.end_read()
            continue
        store.end_read()
        return [(plain_name(child), plain_name(parent)) for child, parent in rows]
    return None


def _path(store: RowStore, ref: Ref) -> str:
    path = f"{ref[0] or store.table.database}/{ref[1]}"
    folds = store.connection.exec_driver_sql("SELECT @@lower_case_table_names").scalar()
    return path.casefold() if folds else path


def _paths(store: RowStore, tables: Collection[Ref]) -> set[str]:
    return {f"{schema or store.table.database}/{name}".casefold() for schema, name in tables}
