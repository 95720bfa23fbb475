"""Connections for the settling of stale jobs: one that can only read, one that changes in short transactions.

The reading connection leaves the database and its files as they are, also a SQLite file that a web application has
open: no -wal, -shm or journal file is made or changed (each case tried with SQLite 3.40). If somebody keeps a SQLite
database locked, it waits, then raises Busy. A SQLite database that first has to be repaired is refused, because reading
it would be writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from saju_ops.database.connect import connect, error_text, quote_every_name, redacted
from saju_ops.database.sqlite_address import busy_timeout
from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.stale.moments import microseconds

# The SQL function with which SQLite compares times in any form: saju_instant(blob, typeof).
INSTANT = "saju_instant"
# A database at rest is read as if nobody could write it; if somebody did meanwhile, it is read again.
QUIET_READS = 3
# Bytes 18 and 19 of a SQLite file: 2 where it keeps a write-ahead log.
WAL_MARK = slice(18, 20)
MYSQL_READ_ONLY = "SET SESSION TRANSACTION READ ONLY"
# At REPEATABLE READ a read after the lock would still show the state before it.
MYSQL_READ_COMMITTED = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
POSTGRES_READ_ONLY = "SET default_transaction_read_only = on"
LOCKED = {"sqlite_busy", "sqlite_locked"}
MYSQL_LOCKED = {1205, 1213, 3572}
POSTGRES_LOCKED = {"55P03", "40P01", "40001"}


class Undecodable(bytes):
    """A SQLite text that isn't UTF-8: it can be shown, and can't be used as a key."""


class NoTables(Refused):
    """There is no speech-analysis database here: nothing to settle, now or later."""


class NeedsRepair(Refused):
    """A SQLite database as a killed writer left it: its next reader finishes or undoes the unfinished change."""


class _Changed(Exception):
    """A database at rest was written while it was read."""


@contextmanager
def errors_in_words(url: sa.URL) -> Iterator[None]:
    """Turns the database's errors into sentences. Raises Busy if somebody holds a lock for too long."""
    try:
        yield
    except DBAPIError as error:
        if is_locked(error):
            raise Busy(
                f"{redacted(url)} is locked by somebody else ({error_text(error)}). What was not committed was"
                " rolled back; launch again."
            ) from error
        raise OperatorError(
            f"{redacted(url)} ended the work ({error_text(error)}). What was not committed was rolled back."
        ) from error


def is_locked(error: DBAPIError) -> bool:
    origin: Any = error.orig
    name = str(getattr(origin, "sqlite_errorname", "")).lower()
    code = origin.args[0] if getattr(origin, "args", ()) else None
    if any(name.startswith(each) for each in LOCKED) or code in MYSQL_LOCKED:
        return True
    return getattr(origin, "sqlstate", None) in POSTGRES_LOCKED


def read_only(url: sa.URL, zone: ZoneInfo) -> sa.Engine:
    """An engine whose connections can't change anything. SQLite: use `reading` instead."""
    engine = connect(url)
    mysql = url.get_backend_name() in ("mysql", "mariadb")
    statements = [MYSQL_READ_ONLY, MYSQL_READ_COMMITTED] if mysql else [POSTGRES_READ_ONLY]

    @sa.event.listens_for(engine, "connect")
    def pin(connection: Any, _record: Any) -> None:
        _execute(connection, statements)

    return engine


def read_write(url: sa.URL, zone: ZoneInfo, busy_seconds: float | None = None) -> sa.Engine:
    """`busy_seconds`: None for those of the address."""
    if url.get_backend_name() == "sqlite":
        return _sqlite(_file(url), "mode=rw", zone, _busy(url, busy_seconds))
    engine = connect(url)
    if url.get_backend_name() != "postgresql":

        @sa.event.listens_for(engine, "connect")
        def pin(connection: Any, _record: Any) -> None:
            _execute(connection, [MYSQL_READ_COMMITTED])

    return engine


def _execute(connection: Any, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    # On PostgreSQL a SET in a transaction that is rolled back would be undone.
    connection.commit()


# --- SQLite -----------------------------------------------------------------------------------------------


def reading(url: sa.URL, zone: ZoneInfo, busy_seconds: float | None, work: Any) -> Any:
    """The result of `work(connection)` on a connection that can't change anything. It may be called again, if a SQLite
    database that nobody had open was written to meanwhile."""
    with errors_in_words(url):
        if url.get_backend_name() != "sqlite":
            with read_only(url, zone).connect() as connection:
                return work(connection)
        path = _file(url)
        for _ in range(QUIET_READS):
            try:
                return _read_file(path, zone, _busy(url, busy_seconds), work)
            except _Changed:
                continue
    raise Busy(f"{path} was opened, written and closed by others each time that it was read. Launch again.")


def data_version(connection: sa.Connection) -> int | None:
    """SQLite: another number once another connection has committed a change, this one's own not counted; None
    elsewhere. Looked at inside a transaction it is what holds till that transaction's end."""
    if connection.dialect.name != "sqlite":
        return None
    return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())


def _busy(url: sa.URL, seconds: float | None) -> float:
    return busy_timeout(url) if seconds is None else seconds


def _file(url: sa.URL) -> Path:
    path = Path(url.database or "")
    if not path.is_file():
        raise NoTables(f"There is no SQLite file {path}. ANALYSIS_DATABASE_URL (or DATABASE_URL) names the database.")
    return path


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _read_file(path: Path, zone: ZoneInfo, busy_seconds: float, work: Any) -> Any:
    with path.open("rb") as file:
        keeps_wal = file.read(20)[WAL_MARK] == b"\x02\x02"
    wal, shm, journal = (_beside(path, each) for each in ("-wal", "-shm", "-journal"))
    if not keeps_wal:
        try:
            return _work(_sqlite(path, "mode=ro", zone, busy_seconds), work)
        except DBAPIError as error:
            # A journal that a killed writer left has to be rolled back first, and that is a change.
            if "readonly" not in str(error.orig) or not journal.exists():
                raise
            raise NeedsRepair(_repair(path, journal)) from error
    if shm.exists() and wal.exists():
        return _work(_sqlite(path, "mode=ro&readonly_shm=1", zone, busy_seconds), work)
    if wal.exists() and wal.stat().st_size:
        raise NeedsRepair(_repair(path, wal))
    # Nobody has it open: even a reader would make the files of the log, unless the file is declared unchangeable.
    before = _state(path)
    result = _work(_sqlite(path, "mode=ro&immutable=1", zone, busy_seconds), work)
    if _state(path) != before or wal.exists():
        raise _Changed
    return result


def _repair(path: Path, left: Path) -> str:
    return (
        f"{left.name} beside {path} was left by a process that was killed, and reading it would change the files."
        " Start the application, or open the database with sqlite3 once, and launch again. Nothing was touched."
    )


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _work(engine: sa.Engine, work: Any) -> Any:
    with engine.connect() as connection:
        return work(connection)


def _sqlite(path: Path, options: str, zone: ZoneInfo, busy_seconds: float) -> sa.Engine:
    def open_file() -> sqlite3.Connection:
        address = f"file:{quote(str(path.absolute()))}?{options}"
        # Transactions are begun by our own statements; the connection stays in one thread.
        raw = sqlite3.connect(address, uri=True, timeout=busy_seconds, isolation_level=None)
        raw.text_factory = _text
        raw.execute("PRAGMA foreign_keys = ON")
        raw.create_function(INSTANT, 2, lambda value, kind: microseconds(value, kind, zone), deterministic=True)
        return raw

    engine = sa.create_engine("sqlite://", creator=open_file, poolclass=NullPool, hide_parameters=True)
    quote_every_name(engine.dialect)
    return engine


def _text(value: bytes) -> str | Undecodable:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return Undecodable(value)
