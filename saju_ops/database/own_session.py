"""Whether a connection is one session of one server, also where a pooler or proxy is between.

Settings and locks belong to a session of the server. PgBouncer in transaction mode, ProxySQL and MaxScale may hand
one session to several connections, or give one connection now this session, now that one: then two runs hold the same
lock, and what was set for one run holds for the service's queries. Nothing is set before it is known that the
session is ours alone.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Hashable
from contextlib import closing, suppress
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import Refused

Ask = Callable[[], Hashable]
# Seconds after which a second connection counts as waiting for a session, since all of them are taken; and for which it
# still waits when it is asked again.
PATIENCE, MOMENT = 2.0, 0.2
# A pooler gives the session that was used last, or the one that was not used for the longest time.
ROUNDS = 2


def is_shared(one: Ask, other: Ask) -> bool:
    """Each asks on a connection of its own which session it has; `other` says None where it gets none in time.

    Where the two differ all the time, each has a session of its own. A connection that gets none while the
    first is answered at once waits in a queue for sessions of which the first holds one. Where the first had to wait,
    too, it was for others' transactions, and whoever waits longer has an answer by then."""
    first, second = one(), other()
    if second is None:
        began = time.monotonic()
        again, waited = one(), time.monotonic() - began
        second = other()
        if second is None or again != first:
            return again != first or waited >= PATIENCE
    if second == first:
        return True
    return any(other() != second or one() != first for _ in range(ROUNDS))


def is_pooled(connection: sa.Connection) -> bool:
    """Whether the session that PostgreSQL has for a connection isn't the one that answered when it was made."""
    driver: Any = connection.connection.driver_connection
    return bool(driver.info.backend_pid != connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())


def require_own_postgres_session(connection: Any, another: Callable[[], Any], where: str) -> None:
    """Raises Refused. `connection` is psycopg's, in autocommit; `another()` opens one to the same place."""
    with closing(another()) as second:
        second.autocommit = True
        if not is_shared(lambda: _session(connection), _SessionInTime(second)):
            return
    raise Refused(
        f"{where} is reached through a pooler (such as PgBouncer) in transaction or statement mode: several connections"
        " get one session of the server, so a lock doesn't keep two runs apart, and what one sets holds for the others."
        " Nothing was done. Write the server's own host and port into the address, or those of a pool with"
        " pool_mode = session (in PgBouncer it can be set for one database or user)."
    )


def _session(connection: Any) -> int:
    return int(connection.execute("SELECT pg_backend_pid()").fetchone()[0])


class _SessionInTime:
    """As above; None after PATIENCE seconds. Asked again then, it waits for the same answer."""

    def __init__(self, connection: Any) -> None:
        self._pg, self._waits = connection.pgconn, False

    def __call__(self) -> int | None:
        pg, end = self._pg, time.monotonic() + (MOMENT if self._waits else PATIENCE)
        if not self._waits:
            pg.send_query(b"SELECT pg_backend_pid()")
        self._waits = True
        poll = select.poll()
        poll.register(pg.socket, select.POLLIN)
        while pg.is_busy():
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            pg.consume_input()
        self._waits, found = False, None
        while result := pg.get_result():
            found = found or result.get_value(0, 0)
        return int(found) if found else None


def require_own_mysql_session(connection: Any, another: Callable[[], Any], where: str) -> None:
    """Raises Refused. `connection` is PyMySQL's; `another()` opens one to the same place."""
    second = None
    # A proxy whose sessions are all taken refuses another one, or keeps it waiting.
    with suppress(Exception):
        second = another()
    try:
        if not is_shared(lambda: mysql_session(connection), lambda: _mysql_session_in_time(second)):
            return
    finally:
        if second is not None:
            second.close()
    raise Refused(
        f"{where} is reached through a proxy (such as ProxySQL or MaxScale) that shares sessions of the server among"
        " connections, or spreads the queries of one over several: a lock doesn't keep two runs apart, and what one"
        " sets holds for the others. Nothing was done. Write the server's own host and port into the address, or those"
        " of a listener without multiplexing and without splitting reads from writes."
    )


def mysql_session(connection: Any) -> tuple[Any, ...]:
    """The session that this connection has at this moment: its number, and the server's."""
    with connection.cursor() as cursor:
        # With a variable in it, since a proxy answers a bare CONNECTION_ID() by itself.
        cursor.execute("SELECT CONNECTION_ID(), @@server_id, @@hostname, @@port")
        found = tuple(cursor.fetchone())
    connection.rollback()
    return found


def _mysql_session_in_time(connection: Any) -> tuple[Any, ...] | None:
    try:
        return mysql_session(connection) if connection is not None else None
    except Exception:
        return None
