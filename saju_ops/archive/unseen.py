"""Foreign keys that the account may not see: MySQL and MariaDB show it only those of tables that it has a right on,
and cascade into the others just the same. An account with table rights alone once deleted another table's row so.

InnoDB's own list, for accounts with the PROCESS privilege, leaves nothing out.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import sqlalchemy as sa

from saju_ops.archive.engines import LogStore
from saju_ops.errors import Refused

# A table by its schema and name; no schema in the store's own database.
Ref = tuple[str | None, str]
# Rights by which a table is shown.
SHOWING = ["SELECT", "INSERT", "UPDATE", "DELETE", "REFERENCES", "CREATE", "DROP", "INDEX", "ALTER", "SHOW VIEW"]
# Such rights on whole databases, or by roles, of which it isn't told here what they reach.
WIDER = sa.text(
    "SELECT (SELECT COUNT(*) FROM information_schema.SCHEMA_PRIVILEGES WHERE PRIVILEGE_TYPE IN :showing)"
    " + (SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN :showing)"
    " + (COALESCE(CURRENT_ROLE(), 'NONE') <> 'NONE')"
).bindparams(sa.bindparam("showing", expanding=True))
# What the account does see, with no regard to letter case, which some systems don't heed in a table's name.
SHOWN = sa.text(
    "SELECT CONCAT(TABLE_SCHEMA, '/', TABLE_NAME), CONCAT(REFERENCED_TABLE_SCHEMA, '/', REFERENCED_TABLE_NAME)"
    " FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL"
)
# MySQL's list and MariaDB's.
LISTS = ("INNODB_FOREIGN", "INNODB_SYS_FOREIGN")
DOUBT = (
    "This account may not see every foreign key (it lacks the PROCESS privilege, by which that could be told):"
    " a table of another database, or one that it has no right on, could hang on the rows that go."
)


def require_seen(store: LogStore, going: Collection[Ref], seen: Collection[Ref]) -> str:
    """Raises Refused where a table that isn't among `seen` references one of those whose rows go, and where the account
    has rights on single tables alone. A sentence where a database elsewhere may hold such a table; empty where none
    does. Reads the catalogue only."""
    if store.connection.dialect.name not in ("mysql", "mariadb"):
        return ""
    listed = _listed(store)
    if listed is None:
        _require_wider_rights(store)
    shown = store.connection.execute(SHOWN).all()
    store.end_read()
    targets, known = _paths(store, going), _paths(store, [*going, *seen])
    keys = [*(listed or ()), *((child.casefold(), parent.casefold()) for child, parent in shown)]
    hidden = sorted({child for child, parent in keys if parent in targets and child not in known})
    if hidden:
        raise Refused(
            f"{', '.join(each.replace('/', '.') for each in hidden)} references rows that would go, and can't be looked"
            " at: this account lacks a right on it or on its database, or the setting spells the table's name in other"
            " letters than the database. Nothing was deleted; grant the account SELECT, or correct the name."
        )
    return "" if listed is not None else DOUBT


def _require_wider_rights(store: LogStore) -> None:
    wider = store.connection.execute(WIDER, {"showing": SHOWING}).scalar_one()
    store.end_read()
    if not wider:
        raise Refused(
            f"This account has rights on single tables of {store.table.database} alone, so it can't be said which other"
            " tables reference the rows that would go. Nothing was deleted; grant the account SELECT on"
            " the database, or PROCESS."
        )


def _listed(store: LogStore) -> list[tuple[str, str]] | None:
    """Child and parent of every foreign key of the server, each as database/table in small letters."""
    for name in LISTS:
        try:
            rows = store.connection.execute(sa.text(f"SELECT FOR_NAME, REF_NAME FROM information_schema.{name}")).all()  # noqa: S608
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            store.end_read()
            continue
        store.end_read()
        return [(_plain(child), _plain(parent)) for child, parent in rows]
    return None


def _paths(store: LogStore, tables: Collection[Ref]) -> set[str]:
    return {f"{schema or store.table.database}/{name}".casefold() for schema, name in tables}


def _plain(name: str) -> str:
    """MariaDB writes other letters than ASCII, and signs, as in the names of its files: @ and four hex digits."""
    return re.sub(r"@([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), name).casefold()
