"""Connections with everything pinned that could change what a value looks like.

A server in KST, with another SQL mode, date style or statement time limit, gives the same text for the same
row as any other. Connections are not pooled: each belongs to one piece of work and ends with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

# Strict, so that a restore never truncates; zero and invalid dates allowed, because old tables hold them
# and they must come back. PAD_CHAR_TO_FULL_LENGTH and ANSI_QUOTES, where a server sets them, are off.
MYSQL_SQL_MODE = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION"
# A lock holder may sit idle while a day streams to storage, so the server must not hang up on it (8 hours
# is MySQL's own default). Ten seconds for a row lock: a purge steps back rather than stand in the way.
MYSQL_SESSION = (
    "SET SESSION time_zone = '+00:00', sql_mode = '" + MYSQL_SQL_MODE + "',"
    " wait_timeout = 28800, net_write_timeout = 600, net_read_timeout = 600, innodb_lock_wait_timeout = 10"
)
# Servers may end long statements; an archive of a large day is one.
MYSQL_NO_TIME_LIMIT = "SET SESSION max_execution_time = 0"
MARIADB_NO_TIME_LIMIT = "SET SESSION max_statement_time = 0"
POSTGRES_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
    # Rows that a policy would hide make the statement fail instead of being left out silently.
    "row_security": "off",
}
# Seconds; a web application's own writes are short, ours wait for them.
SQLITE_BUSY_TIMEOUT = 30

SUPPORTED = "a mysql+pymysql://, mariadb+pymysql://, postgresql+psycopg:// or sqlite:/// address"
DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite",
}


def parse_database_url(value: str) -> sa.URL:
    """The address as SQLAlchemy's, with the driver that saju_ops uses for that engine.

    Raises ValueError (without the value: it may hold a password) for an engine that isn't supported.
    """
    try:
        url = sa.make_url(value.strip())
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("it can't be read as a database address") from None
    family = url.drivername.split("+")[0]
    if family not in DRIVERS:
        raise ValueError(f"its engine is {family!r}")
    if family == "sqlite":
        if url.database and url.database != ":memory:":
            url = url.set(database=str(Path(url.database).expanduser().absolute()))
        else:
            raise ValueError("it names no file")
    elif not url.database:
        raise ValueError("it names no database")
    return url.set(drivername=DRIVERS[family])


def redacted(url: sa.URL | str) -> str:
    """The address without its password and without options, fit for logs and metadata."""
    parsed = sa.make_url(url) if isinstance(url, str) else url
    return parsed.set(query={}).render_as_string(hide_password=True)


def connect(url: sa.URL | str, *, bulk_load: bool = False) -> sa.Engine:
    """An engine whose every connection has its session pinned; nothing is opened yet."""
    parsed = sa.make_url(url) if isinstance(url, str) else url
    backend = parsed.get_backend_name()
    if backend in ("mysql", "mariadb"):
        return _mysql(parsed, bulk_load)
    if backend == "postgresql":
        options = " ".join(f"-c {name}={_escaped(value)}" for name, value in POSTGRES_SESSION.items())
        args = {"options": options, "connect_timeout": 10, "client_encoding": "UTF8", "application_name": "saju_ops"}
        return sa.create_engine(parsed, poolclass=NullPool, connect_args=args, hide_parameters=True)
    return _sqlite(parsed)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _mysql(url: sa.URL, bulk_load: bool) -> sa.Engine:
    # local_infile lets a server ask this client for any file it can read, so only a restore, which needs LOAD
    # DATA, allows it.
    args: dict[str, Any] = {"charset": "utf8mb4", "connect_timeout": 10, "local_infile": bulk_load}
    if url.password is not None:
        # As the servers and their clients have it; PyMySQL would take Latin-1, which has no 한글.
        args["password"] = str(url.password).encode()
    engine = sa.create_engine(url, poolclass=NullPool, connect_args=args, hide_parameters=True)

    # First of all: SQLAlchemy then looks at the session that we have made, not at a server's ANSI_QUOTES.
    @event.listens_for(engine, "connect", insert=True)
    def pin(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(MYSQL_SESSION)
            mariadb = "mariadb" in connection.get_server_info().lower()
            cursor.execute(MARIADB_NO_TIME_LIMIT if mariadb else MYSQL_NO_TIME_LIMIT)

    return engine


def mysql_session_statements(mariadb: bool) -> list[str]:
    """The same pins for a client that isn't SQLAlchemy's."""
    return [MYSQL_SESSION, MARIADB_NO_TIME_LIMIT if mariadb else MYSQL_NO_TIME_LIMIT]


# Errors about the connection, rights, locks and limits, whose text quotes names and never a row.
MYSQL_PLAIN_ERRORS = {1040, 1044, 1045, 1049, 1053, 1142, 1146, 1203, 1205, 1213, 1226, 1290, 1317, 1836, 1927, 3024}


def error_text(error: BaseException) -> str:
    """What the server said, in one line, without any value of a row that it may have quoted."""
    origin = getattr(error, "orig", None) or error
    arguments: tuple[Any, ...] = getattr(origin, "args", ())
    code = arguments[0] if arguments and isinstance(arguments[0], int) else None
    state = getattr(origin, "sqlstate", None)
    text = str(arguments[1] if code is not None and len(arguments) > 1 else origin).strip()
    line = text.splitlines()[0] if text else type(origin).__name__
    plain = code is None or code in MYSQL_PLAIN_ERRORS or 2000 <= code < 3000
    if plain and str(state or "")[:2] not in ("22", "23"):
        return line
    # "Incorrect string value: '…' for column": what is quoted may be somebody's message.
    kept = line[: min((line.find(q) for q in "'\"" if q in line), default=len(line))].strip()
    return f"{kept} … (error {code or state})"


class SQLiteText(bytes):
    """A SQLite text as its bytes; a blob is plain `bytes`."""


def _sqlite(url: sa.URL) -> sa.Engine:
    # The file must exist: sqlite3 would make an empty one of a mistyped path and call it a database.
    path = url.database or ""
    uri = sa.URL.create("sqlite", database=f"file:{_uri_path(path)}", query={"uri": "true", "mode": "rw"})
    engine = sa.create_engine(
        uri, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def pin(connection: Any, _record: Any) -> None:
        # Transactions are begun by our own statements (BEGIN, BEGIN IMMEDIATE), not by the driver.
        connection.isolation_level = None
        # Text that isn't UTF-8 is data too, and text must stay apart from a blob.
        connection.text_factory = SQLiteText
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


def _uri_path(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
