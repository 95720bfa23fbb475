"""The one connection that a migration works on, and the lock that keeps two apart.

A statement that waits for a table makes every new SELECT on it wait, so ours wait for some seconds only.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.errors import Busy, OperatorError, shown
from saju_ops.local_state import one_at_a_time

# Seconds that a statement waits for a table; that a second run waits for the first.
TABLE_WAIT = 5
LOCK_WAIT = 10.0
POLL = 0.2
NAMED = 5

HOLDERS_MYSQL = sa.text(
    "SELECT DISTINCT t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST, t.PROCESSLIST_TIME, l.OBJECT_NAME FROM"
    " performance_schema.metadata_locks l JOIN performance_schema.threads t ON t.THREAD_ID = l.OWNER_THREAD_ID WHERE"
    " l.OBJECT_TYPE = 'TABLE' AND l.OBJECT_SCHEMA = DATABASE() AND l.LOCK_STATUS = 'GRANTED'"
    " AND t.PROCESSLIST_ID <> CONNECTION_ID() ORDER BY t.PROCESSLIST_TIME DESC"
)
# MariaDB without performance_schema: whoever has a transaction open.
TRANSACTIONS_MYSQL = sa.text(
    "SELECT p.ID, p.USER, p.HOST, p.TIME, 'a transaction' FROM information_schema.INNODB_TRX x JOIN"
    " information_schema.PROCESSLIST p ON p.ID = x.trx_mysql_thread_id WHERE p.ID <> CONNECTION_ID()"
    " ORDER BY p.TIME DESC"
)
HOLDERS_POSTGRES = sa.text(
    "SELECT a.pid, a.usename, coalesce(host(a.client_addr), 'a socket'), extract(epoch FROM now() - a.xact_start)::int,"
    " min(c.relname) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_class c ON c.oid ="
    " l.relation AND c.relkind IN ('r', 'p') WHERE l.database = (SELECT oid FROM pg_database WHERE datname ="
    " current_database()) AND l.granted AND a.pid <> pg_backend_pid() AND c.relname IS NOT NULL"
    " GROUP BY a.pid, a.usename, a.client_addr, a.xact_start ORDER BY a.xact_start"
)


@contextmanager
def session(url: sa.URL, *, writing: bool = False) -> Iterator[sa.Connection]:
    """A connection of its own, in no transaction. Raises OperatorError where the database can't be reached."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise OperatorError(
            f"{redacted(url)} is no file. Nothing was touched; look at the path, or make an empty file there for a new"
            " database."
        )
    engine = connect(url)
    if engine.dialect.name == "sqlite":
        _as_migrations_need(engine, writing)
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise OperatorError(
            f"{redacted(url)} can't be used ({error_text(error)}). Nothing was touched; look at the address and at the"
            " server."
        ) from None
    with connection:
        if engine.dialect.name in ("mysql", "mariadb"):
            connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {TABLE_WAIT}")
        elif engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET lock_timeout = '{TABLE_WAIT}s'")
        connection.commit()
        yield connection
    engine.dispose()


def _as_migrations_need(engine: sa.Engine, writing: bool) -> None:
    @event.listens_for(engine, "connect")
    def text(connection: Any, _record: Any) -> None:
        connection.text_factory = str  # names, not rows

    # Taken at once, the lock can't fail half-way; and DDL is rolled back with everything else.
    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def one_migration(connection: sa.Connection, url: sa.URL, wait: float = LOCK_WAIT) -> Iterator[None]:
    """The lock of the server on this database's migrations, held by this very connection: who loses the connection
    loses the lock, and can't go on. SQLite: of this user on this machine. Raises Busy after `wait` seconds."""
    what = f"the schema of {redacted(url)}"
    if connection.dialect.name == "sqlite":
        with one_at_a_time(what, wait):
            yield
        return
    mysql = connection.dialect.name in ("mysql", "mariadb")
    try:
        got = _lock_mysql(connection, url, wait) if mysql else _lock_postgres(connection, wait)
    except DBAPIError as error:
        if not (mysql and "GET_LOCK" in str(error.orig).upper()):
            raise
        connection.rollback()
        with one_at_a_time(what, wait):  # a Galera cluster forbids it
            yield
        return
    if not got:
        raise Busy(f"Another run changes {what}. Nothing was touched; launch this again when it has ended.")
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            connection.rollback()
            unlock = "SELECT RELEASE_LOCK(:key)" if mysql else "SELECT pg_advisory_unlock(:key)"
            connection.execute(sa.text(unlock), {"key": _name(url) if mysql else _NUMBER})
            connection.rollback()


def _name(url: sa.URL) -> str:
    """Names of locks are the whole server's and 64 characters at most."""
    return "saju_ops:" + hashlib.sha256(f"{url.database}:schema".encode()).hexdigest()[:40]


# PostgreSQL's locks are of one database.
_NUMBER = int.from_bytes(hashlib.sha256(b"saju_ops:schema").digest()[:8], "big", signed=True)


def _lock_mysql(connection: sa.Connection, url: sa.URL, wait: float) -> bool:
    got = connection.execute(sa.text("SELECT GET_LOCK(:name, :wait)"), {"name": _name(url), "wait": wait}).scalar()
    connection.rollback()
    return got == 1


def _lock_postgres(connection: sa.Connection, wait: float) -> bool:
    end = time.monotonic() + wait
    while True:
        got = connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _NUMBER}).scalar()
        connection.rollback()
        if got or time.monotonic() >= end:
            return bool(got)
        time.sleep(POLL)


def waited_for_a_table(error: DBAPIError) -> bool:
    """Whether a statement gave up waiting for a table that another session uses."""
    origin = error.orig
    return getattr(origin, "sqlstate", "") == "55P03" or getattr(origin, "args", (None,))[0] == 1205


def holders(url: sa.URL) -> str:
    """Who uses tables of the database at this moment, as a sentence; never a statement's text."""
    with session(url) as connection:
        name = connection.dialect.name
        if name == "sqlite":
            return "Another process writes the file."
        queries = [HOLDERS_POSTGRES] if name == "postgresql" else [HOLDERS_MYSQL, TRANSACTIONS_MYSQL]
        for query in queries:
            try:
                rows = connection.execute(query).all()
            except DBAPIError:  # no right to look, or no such table
                connection.rollback()
                continue
            if rows:
                said = [_holder(*row) for row in rows[:NAMED]]
                return f"In use by: {'; '.join(said)}{' …' if len(rows) > NAMED else ''}."
    where = "pg_stat_activity" if name == "postgresql" else "SHOW FULL PROCESSLIST"
    return f"Which session it is can't be seen from here; look at {where}."


def _holder(number: int, user: str, host: str, seconds: int | None, table: str) -> str:
    since = "" if seconds is None else f", for {seconds} s"
    return f"connection {number} of {shown(str(user))}@{shown(str(host))} ({shown(str(table))}{since})"
