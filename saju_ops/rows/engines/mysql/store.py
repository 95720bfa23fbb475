"""MySQL and MariaDB: days in pieces that the server joins, a plain cursor where it can't, LOAD DATA for restores."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.address import place
from saju_ops.database.connect import connect, redacted
from saju_ops.database.mysql_grants import (
    error_number,
)
from saju_ops.database.snapshots import forbids_locks
from saju_ops.database.snapshots import reading as snapshot_lock
from saju_ops.errors import Busy, Refused
from saju_ops.local_state import one_at_a_time
from saju_ops.rows.comeback import UTC_OFFSET
from saju_ops.rows.engines.base import LOCK_WAIT_SECONDS, require_key, require_table
from saju_ops.rows.engines.mysql.catalogue import (
    COLUMNS,
    INDEXES,
    SIZES,
    STORAGE_ENGINE,
    UNORDERED,
    _column,
    _key,
    _primary,
    _str,
    _time_index,
)
from saju_ops.rows.engines.mysql.comeback import _zoned
from saju_ops.rows.engines.mysql.writing import MySQLWriting
from saju_ops.rows.foreign_keys import mysql_keys_of
from saju_ops.rows.readable import require_readable
from saju_ops.rows.table import TIME_COLUMN, Column, Table

TABLE_TYPE = sa.text(
    "SELECT TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)
HISTORY = (
    "The table is system-versioned: MariaDB keeps deleted rows in its history until DELETE HISTORY FROM {table} removes"
    " them, and archives hold the current rows alone."
)


class MySQLRowStore(MySQLWriting):
    time_types = ("timestamp", "datetime", "date")

    def __init__(self, url: sa.URL, table: str, zone: ZoneInfo, bulk_load: bool = False) -> None:
        super().__init__(url, table, zone, bulk_load)
        self._level: str | None = None
        self._longest_piece = self._limit_pieces()
        # The session's offset, in which TIMESTAMP columns are compared and loaded.
        self._offset = UTC_OFFSET

    # --- catalogue -----------------------------------------------------------------------------------------

    def describe(self, table: str) -> Table:
        name = {"name": table}
        require_readable(self.connection, table)
        rows = self.connection.execute(COLUMNS, name).all()
        require_table(rows, table, self.url)
        columns = tuple(_column(table, row) for row in rows)
        versioned = self._versioned_columns(rows)
        self._inserts_history = self._can_insert_history(columns, versioned)
        if self._inserts_history:
            columns = tuple(replace(c, generated=c.generated and c.name not in versioned) for c in columns)
            versioned = ()
        self._unwritable, self._zoned = (
            versioned,
            _zoned(rows, columns, mariadb=bool(getattr(self.connection.dialect, "is_mariadb", False))),
        )
        indexes = self.connection.execute(INDEXES, name).all()
        key = _key(indexes)
        require_key(table, key)
        in_order = not self.connection.execute(UNORDERED, name).scalar()
        primary = _primary(indexes, columns) if in_order else ()
        time_type = next((c.family for c in columns if c.name == TIME_COLUMN), "")
        version = str(self.connection.execute(sa.text("SELECT VERSION()")).scalar_one())
        database = str(self.connection.execute(sa.text("SELECT DATABASE()")).scalar_one())
        versioned_table = self.connection.execute(TABLE_TYPE, name).scalar() == "SYSTEM VERSIONED"
        children, parents = mysql_keys_of(self.connection, table)
        self.end_read()
        return Table(
            engine="mariadb" if "mariadb" in version.lower() else "mysql",
            server_version=version, database=database, name=table, columns=columns, key=key,
            time_type=time_type, time_index=_time_index(indexes), primary=primary, children=children,
            parents=parents, notes=(HISTORY.format(table=table),) if versioned_table else (),
        )  # fmt: skip

    def _versioned_columns(self, rows: Sequence[Any]) -> tuple[str, ...]:
        """MariaDB's explicit columns of system versioning."""
        return tuple(_str(r[0]) for r in rows if str(_str(r[5])).upper() in ("ROW START", "ROW END"))

    def _can_insert_history(self, columns: Sequence[Column], versioned: Sequence[str]) -> bool:
        """From MariaDB 10.11 a session may write such columns, where they are times and not numbers of transactions."""
        if not versioned or any(c.family != "timestamp" for c in columns if c.name in versioned):
            return False
        found = self.connection.exec_driver_sql("SHOW VARIABLES LIKE 'system_versioning_insert_history'").first()
        return found is not None

    def sizes(self) -> dict[str, int]:
        if self.table.engine == "mysql":
            # The catalogue's sizes may otherwise be a day old.
            self.connection.exec_driver_sql("SET SESSION information_schema_stats_expiry = 0")
        row = self.connection.execute(SIZES, {"name": self.table.name}).one()
        self.end_read()
        return {"table_bytes": int(row[0] or 0), "free_bytes": int(row[1] or 0)}

    @property
    def reclaim_hint(self) -> str:
        return (
            f"InnoDB keeps the freed pages inside the table's file and uses them for new rows; only"
            f" OPTIMIZE TABLE {self.table.name} gives the space back to the disk (it rebuilds the table)."
            + "".join(f" {note}" for note in self.table.notes)
        )

    # --- transactions ----------------------------------------------------------------------------------------------

    def require_transactions(self) -> None:
        kind, transactions = self.connection.execute(STORAGE_ENGINE, {"name": self.table.name}).one()
        self.end_read()
        if transactions != "YES":
            raise Refused(
                f"The table {self.table.name} is of the storage engine {kind}, which has no transactions: what is"
                " compared could change before it is deleted, and nothing could be rolled back. Nothing was changed;"
                " convert it with ALTER TABLE … ENGINE = InnoDB."
            )

    # --- locks and changes ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, wait: float) -> Iterator[Callable[[], bool]]:
        identity = f"{self.table.database}.{self.table.name}:{name}"
        # Names of locks are the whole server's and 64 characters at most.
        lock = "saju_ops:" + hashlib.sha256(identity.encode()).hexdigest()[:40]
        execute = self.connection.execute
        try:
            got = execute(sa.text("SELECT GET_LOCK(:lock, :wait)"), {"lock": lock, "wait": wait}).scalar()
        except sa.exc.DBAPIError as error:
            if not forbids_locks(error):
                raise
            self.end_read()
            _say_locked_here(redacted(self.url))
            with one_at_a_time(f"{name} of {self.table.name} at {'/'.join(map(str, place(self.url)))}", wait):
                yield lambda: not self.connection.invalidated
            return
        self.end_read()
        if got != 1:
            holder = execute(sa.text("SELECT IS_USED_LOCK(:lock)"), {"lock": lock}).scalar()
            self.end_read()
            raise Busy(
                f"Another run works on {name} of {self.table.name} (connection {holder} of the server)."
                " Nothing was done; launch again when it has ended."
            )

        def held() -> bool:
            reading = self.connection.in_transaction()
            query = sa.text("SELECT IS_USED_LOCK(:lock) = CONNECTION_ID()")
            answer = execute(query, {"lock": lock}).scalar()
            if not reading:
                self.end_read()
            return bool(answer)

        if not held():
            raise Refused(
                f"{redacted(self.url)} said that it gave the lock on {name} of {self.table.name}, and then that this"
                " connection doesn't hold it: somebody between, such as a proxy, gave the connection another session."
                " Nothing was done. Write the server's own host and port into the address."
            )
        try:
            yield held
        finally:
            if not self.connection.invalidated and not self.connection.closed:
                self.end_read()
                execute(sa.text("SELECT RELEASE_LOCK(:lock)"), {"lock": lock})
                self.end_read()

    def wait_briefly(self) -> None:
        self.connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")
        self.end_read()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # READ COMMITTED takes no gap locks, so live inserts next to the purged rows go on. Where the binary
        # log is by statement the server refuses it, and the default level is as safe, only more in the way.
        self.end_read()
        if self._level is None:
            self.require_transactions()
            logging = self.connection.execute(sa.text("SELECT @@log_bin, @@binlog_format")).one()
            by_statement = logging[0] and str(logging[1]).upper() == "STATEMENT"
            self._level = "REPEATABLE READ" if by_statement else "READ COMMITTED"
            self.connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL " + self._level)
            self.end_read()
        with self.connection.begin():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.end_read()
        with snapshot_lock(self.connection), self.connection.begin():
            self.connection.exec_driver_sql("ROLLBACK")
            self.connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            yield

    def replica_lag(self, replicas: Sequence[sa.URL]) -> float | None:
        lags = [lag_of(url) for url in replicas]
        return max(lags) if lags else None


@functools.cache
def _say_locked_here(where: str) -> None:
    """Once for each address in a process."""
    logging.getLogger(__name__).warning(
        "%s is a Galera cluster and forbids GET_LOCK, so runs are kept apart by a lock of this user on this machine"
        " alone. Let no other machine or user run saju_ops on this database.", where,
    )  # fmt: skip


def lag_of(url: sa.URL) -> float:
    """Seconds that a replica is behind; infinity where its replication isn't running."""
    with connect(url).connect() as connection:
        try:
            row = connection.execute(sa.text("SHOW REPLICA STATUS")).mappings().first()
        except sa.exc.DBAPIError as error:
            if error_number(error) != 1064:  # a server that doesn't know the words
                raise
            connection.rollback()
            row = connection.execute(sa.text("SHOW SLAVE STATUS")).mappings().first()
    value = None if row is None else row.get("Seconds_Behind_Source", row.get("Seconds_Behind_Master"))
    # NULL means that replication is not running: endlessly behind, for a purge that waits for it.
    return float("inf") if value is None else float(value)
