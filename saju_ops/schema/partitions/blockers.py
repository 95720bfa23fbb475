"""The connection whose open transaction blocks a change of the table; never its statement."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.rows.engines.open import RowStore

# Who holds a metadata lock of the table, and for how long its transaction is open.
MYSQL_LOCKS = sa.text(
    "SELECT DISTINCT t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST,"
    " (SELECT MAX(TIMER_WAIT) DIV 1000000000000 FROM performance_schema.events_transactions_current e"
    " WHERE e.THREAD_ID = t.THREAD_ID AND e.STATE = 'ACTIVE')"
    " FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID"
    " WHERE m.OBJECT_TYPE = 'TABLE' AND m.OBJECT_SCHEMA = DATABASE() AND m.OBJECT_NAME = :name"
    " AND m.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID()"
)
# What MariaDB has: open transactions, of which any may be the one.
OPEN_TRANSACTIONS = sa.text(
    "SELECT p.ID, p.USER, p.HOST, TIMESTAMPDIFF(SECOND, t.trx_started, NOW())"
    " FROM information_schema.INNODB_TRX t JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id"
    " WHERE p.ID <> CONNECTION_ID() AND (p.DB = DATABASE() OR p.DB IS NULL) ORDER BY t.trx_started"
)
POSTGRES_LOCKS = sa.text(
    "SELECT DISTINCT a.pid, a.usename, COALESCE(a.client_addr::text, 'local'),"
    " EXTRACT(EPOCH FROM now() - a.xact_start)::int"
    " FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
    " WHERE l.granted AND a.pid <> pg_backend_pid() AND l.locktype = 'relation'"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND l.relation IN (SELECT to_regclass(:name) UNION SELECT inhrelid FROM pg_inherits"
    " WHERE inhparent = to_regclass(:name))"
)
NAMED = 3


def blockers(store: RowStore) -> str:
    """For a sentence: the connections, or how they can be seen."""
    if store.table.engine == "postgresql":
        name = store.connection.dialect.identifier_preparer.quote(store.table.name).replace("%%", "%")
        rows = _rows(store, POSTGRES_LOCKS, name)
        return _shown(rows) if rows else "a transaction that has ended since"
    if store.table.engine == "mysql" and (rows := _rows(store, MYSQL_LOCKS, store.table.name)):
        return _shown(rows)
    rows = _rows(store, OPEN_TRANSACTIONS, store.table.name)
    if rows is None:
        return "a transaction that this account can't see; GRANT PROCESS ON *.* to it to have it named"
    return _shown(rows) if rows else "a transaction that has ended since, or one that only read"


def _rows(store: RowStore, query: sa.TextClause, name: str) -> list[tuple[object, ...]] | None:
    """None where the account may not ask."""
    wanted = {"name": name} if ":name" in str(query) else {}
    try:
        return [tuple(row) for row in store.connection.execute(query, wanted)]
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None
    finally:
        store.end_read()


def _shown(rows: list[tuple[object, ...]]) -> str:
    named = [
        f"connection {number} of {user}@{host}" + (f", open for {seconds} s" if seconds is not None else "")
        for number, user, host, seconds in rows[:NAMED]
    ]
    return "; ".join(named) + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")
