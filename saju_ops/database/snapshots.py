"""Keeps whatever reads one consistent snapshot apart from whatever takes rows away without deleting them.

After EXCHANGE PARTITION or DROP PARTITION a snapshot that is already open finds the month empty, without an error: a
dump or an archive would lose it in silence. So each of them holds a lock of the server while its snapshot is open;
any number may hold it at once. Who moves a whole partition holds it alone.

The lock is of the database, dies with the connection, and is none of the locks that keep two runs of one job apart.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import Busy, Refused

# Snapshots that may be open at once. MySQL's named locks have no shared form: each reader takes one of these.
SLOTS = 16
POLL_SECONDS = 0.1
# Seconds that a snapshot waits for a rotation: it is at work on one month, which takes some seconds a million rows.
READER_WAIT = 600.0
Held = Callable[[], bool]


@contextmanager
def reading(connection: sa.Connection, wait: float = READER_WAIT) -> Iterator[Held]:
    """While a snapshot is open. Gives a function that says whether the lock is still held. Raises Busy.

    Outside of a transaction only; a Galera cluster forbids such locks, and there nobody ever holds it alone."""
    family = connection.dialect.name
    if family == "postgresql":
        with _postgres(connection, "_shared", wait) as held:
            yield held
    elif family in ("mysql", "mariadb"):
        with _one_slot(connection, wait) as held:
            yield held
    else:
        yield lambda: True


@contextmanager
def alone(connection: sa.Connection, wait: float) -> Iterator[Held]:
    """No snapshot of ours is open inside. Raises Busy after `wait` seconds, Refused where a cluster forbids locks."""
    if connection.dialect.name == "postgresql":
        with _postgres(connection, "", wait) as held:
            yield held
    else:
        with _all_slots(connection, wait) as held:
            yield held


def forbids_locks(error: sa.exc.DBAPIError) -> bool:
    """A Galera cluster: MariaDB's says "doesn't yet support 'GET_LOCK in cluster (WSREP_ON=ON)'" (1235), Percona's in
    strict mode "prohibits use of GET_LOCK with pxc_strict_mode = …" (1105)."""
    said: tuple[Any, ...] = getattr(error.orig, "args", ())
    return said[:1] in ((1235,), (1105,)) and "GET_LOCK" in str(said[1:]).upper()


# --- MySQL and MariaDB --------------------------------------------------------------------------------------------


def _names(connection: sa.Connection) -> list[str]:
    database = str(connection.exec_driver_sql("SELECT DATABASE()").scalar_one()).casefold()
    connection.rollback()
    # Names of locks are the whole server's and 64 characters at most.
    stem = hashlib.sha256(f"{database}:snapshots".encode()).hexdigest()[:40]
    return [f"saju_ops:{stem}:{slot}" for slot in range(SLOTS)]


def _scalar(connection: sa.Connection, statement: str, name: str) -> Any:
    value = connection.execute(sa.text(statement), {"name": name}).scalar()
    connection.rollback()
    return value


def _is_ours(connection: sa.Connection, name: str) -> bool:
    query = sa.text("SELECT IS_USED_LOCK(:name) = CONNECTION_ID()")
    return not connection.invalidated and bool(connection.execute(query, {"name": name}).scalar())


def begin_reading(connection: sa.Connection, wait: float = READER_WAIT) -> Held:
    """MySQL and MariaDB: takes the lock for as long as the connection lives. Raises Busy."""
    slot = _take_slot(connection, wait)
    return lambda: not connection.invalidated if slot is None else _is_ours(connection, slot)


def _take_slot(connection: sa.Connection, wait: float) -> str | None:
    """None where a cluster forbids such locks."""
    names, deadline = _names(connection), time.monotonic() + wait
    random.shuffle(names)
    while True:
        try:
            taken = next((n for n in names if _scalar(connection, "SELECT GET_LOCK(:name, 0)", n) == 1), None)
        except sa.exc.DBAPIError as error:
            if not forbids_locks(error):
                raise
            connection.rollback()
            return None
        if taken is not None:
            return taken
        if time.monotonic() >= deadline:
            raise Busy(_moved(_scalar(connection, "SELECT IS_USED_LOCK(:name)", names[0])))
        time.sleep(POLL_SECONDS)


@contextmanager
def _one_slot(connection: sa.Connection, wait: float) -> Iterator[Held]:
    slot = _take_slot(connection, wait)
    if slot is None:
        yield lambda: not connection.invalidated
        return
    try:
        yield lambda: _is_ours(connection, slot)
    finally:
        _release(connection, [slot])


@contextmanager
def _all_slots(connection: sa.Connection, wait: float) -> Iterator[Held]:
    names, deadline = _names(connection), time.monotonic() + wait
    while not _take_all(connection, names):
        if time.monotonic() >= deadline:
            holders = {_scalar(connection, "SELECT IS_USED_LOCK(:name)", name) for name in names} - {None}
            raise Busy(_open_snapshot(", ".join(map(str, sorted(holders))) or "one that has ended since"))
        time.sleep(POLL_SECONDS)
    try:
        yield lambda: _is_ours(connection, names[0])
    finally:
        _release(connection, names)


def _take_all(connection: sa.Connection, names: list[str]) -> bool:
    calls = ", ".join(f"GET_LOCK(:n{i}, 0)" for i in range(len(names)))
    try:
        got = connection.execute(sa.text(f"SELECT {calls}"), {f"n{i}": n for i, n in enumerate(names)}).one()
    except sa.exc.DBAPIError as error:
        if not forbids_locks(error):
            raise
        connection.rollback()
        raise Refused(
            "This server is a Galera cluster and forbids GET_LOCK, so a dump or an archive that is open elsewhere could"
            " lose a month that leaves as a whole. Rows leave it by the chunked purge only."
        ) from None
    connection.rollback()
    if all(each == 1 for each in got):
        return True
    _release(connection, [name for name, each in zip(names, got, strict=True) if each == 1])
    return False


def _release(connection: sa.Connection, names: list[str]) -> None:
    if connection.invalidated or connection.closed:
        return
    if connection.in_transaction():
        connection.rollback()
    calls = ", ".join(f"RELEASE_LOCK(:n{i})" for i in range(len(names)))
    if names:
        connection.execute(sa.text(f"SELECT {calls}"), {f"n{i}": n for i, n in enumerate(names)})
        connection.rollback()


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


@contextmanager
def _postgres(connection: sa.Connection, kind: str, wait: float) -> Iterator[Held]:
    number, deadline = _number(connection), time.monotonic() + wait
    connection.rollback()
    session = None
    while session is None:
        session = _numbered(connection, f"SELECT CASE WHEN pg_try_advisory_lock{kind}(:n) THEN pg_backend_pid() END",
                            number)  # fmt: skip
        connection.rollback()
        if session is None:
            if time.monotonic() >= deadline:
                raise Busy(_moved(None) if kind else _open_snapshot("one of this database"))
            time.sleep(POLL_SECONDS)
    try:
        yield lambda: not connection.invalidated and connection.exec_driver_sql(
            "SELECT pg_backend_pid()").scalar() == session  # fmt: skip
    finally:
        if not connection.invalidated and not connection.closed:
            if connection.in_transaction():
                connection.rollback()
            _numbered(connection, f"SELECT pg_advisory_unlock{kind}(:n)", number)
            connection.rollback()


def _numbered(connection: sa.Connection, statement: str, number: int) -> Any:
    return connection.execute(sa.text(statement).bindparams(sa.bindparam("n", number, sa.BigInteger))).scalar()


def export_snapshot(connection: sa.Connection, wait: float = READER_WAIT) -> str:
    """Begins a read-only transaction of one snapshot, and exports that. The lock is the transaction's, so that it holds
    through a pooler too. Raises Busy."""
    deadline = time.monotonic() + wait
    while True:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if _numbered(connection, "SELECT pg_try_advisory_xact_lock_shared(:n)", _number(connection)):
            return str(connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar())
        connection.rollback()
        if time.monotonic() >= deadline:
            raise Busy(_moved(None))
        time.sleep(POLL_SECONDS)


def _number(connection: sa.Connection) -> int:
    database = str(connection.exec_driver_sql("SELECT current_database()").scalar_one())
    digest = hashlib.sha256(f"saju_ops:{database}:snapshots".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


# --- words --------------------------------------------------------------------------------------------------------


def _moved(holder: Any) -> str:
    by = f" (connection {holder} of the server)" if holder else ""
    return (
        f"The rotation of the log's partitions moves a month of this database{by}, and a snapshot that is opened"
        " meanwhile could miss it. Nothing was done; launch again when it has ended."
    )


def _open_snapshot(holders: str) -> str:
    return (
        f"A dump, an archive or a restore of this database reads a snapshot (connection: {holders}), which would lose a"
        " month that leaves now"
    )
