"""Whether the account may move partitions at all: asked before anything is done, answered with the GRANT that lacks."""

from __future__ import annotations

import sqlalchemy as sa

from saju_ops.database.mysql_grants import (
    account,
    database_in_grant,
    grants_of,
    parsed,
    rights_on,
    takes_names_literally,
)
from saju_ops.errors import Refused
from saju_ops.rows.engines.open import RowStore

TO_MOVE = frozenset({"SELECT", "INSERT", "DELETE", "ALTER", "CREATE", "DROP", "LOCK TABLES"})
POSTGRES_OWNER = sa.text(
    "SELECT pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner),"
    " has_schema_privilege(c.relnamespace, 'CREATE'), c.relnamespace::regnamespace::text, current_user"
    " FROM pg_class c WHERE c.oid = to_regclass(:name)"
)


def require_rights(store: RowStore, needed: frozenset[str] = TO_MOVE, what: str = "partitions") -> None:
    """Raises Refused. Reads only."""
    try:
        _postgres(store, what) if store.table.engine == "postgresql" else _mysql(store, needed, what)
    finally:
        store.end_read()


def _mysql(store: RowStore, needed: frozenset[str], what: str) -> None:
    grants, literal = grants_of(store.connection), takes_names_literally(store.connection)
    rights = rights_on(grants, store.table.database, literal=literal)
    if "ALL PRIVILEGES" in rights or needed <= rights:
        return
    named = {r for verb, rs, _, table, _ in parsed(grants) if verb == "GRANT" and table == store.table.name for r in rs}
    missing = needed - rights - ({"SELECT", "DELETE"} & named)
    if not missing:
        return
    listed = ", ".join(sorted(missing))
    statements = "; ".join(
        f"GRANT {listed} ON {name}.* TO {account(store.connection)}"
        for name in database_in_grant(grants, store.table.database, literal=literal)
    )
    raise Refused(
        f"This account may not work on the {what} of {store.table.database}.{store.table.name}: it lacks {listed}."
        f" Nothing was done; {statements}."
    )


def _postgres(store: RowStore, what: str) -> None:
    name = store.connection.dialect.identifier_preparer.quote(store.table.name).replace("%%", "%")
    owns, owner, may_create, schema, me = store.connection.execute(POSTGRES_OWNER, {"name": name}).one()
    if not owns:
        raise Refused(
            f"This account may not work on the {what} of {store.table.name}, which belongs to {owner}. Nothing was"
            f' done; GRANT "{owner}" TO "{me}".'
        )
    if not may_create:
        raise Refused(
            f"This account may not make a partition in the schema {schema}. Nothing was done; GRANT CREATE ON SCHEMA"
            f' {schema} TO "{me}".'
        )
