"""Connections on which everything is pinned that could change the text of a value.

A server in KST, with another SQL mode, date style or statement time limit, gives the same text for the same
row as any other. Connections are not pooled: each belongs to one piece of work and ends with it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from saju_ops.database.address import SUPPORTED as SUPPORTED
from saju_ops.database.address import overridden, with_known_options
from saju_ops.database.address import parse_database_url as parse_database_url
from saju_ops.database.address import redacted as redacted
from saju_ops.database.address_options import options_of
from saju_ops.database.mysql_address import mysql_tls, tls_context
from saju_ops.database.own_session import mysql_session, require_own_mysql_session, require_own_postgres_session
from saju_ops.database.postgres_address import postgres_options, postgres_session
from saju_ops.database.sqlite_address import busy_timeout
from saju_ops.errors import OperatorError, Refused
from saju_ops.logins import hide_in_error, hide_logins

# Strict, so that a restore never truncates; zero and invalid dates allowed, because old tables hold them
# and they must come back. PAD_CHAR_TO_FULL_LENGTH and ANSI_QUOTES, where a server sets them, are off.
MYSQL_SQL_MODE = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION"
# A lock holder may sit idle while a day streams to storage, so the server must not hang up on it (8 hours
# is MySQL's own default). Ten seconds for a row lock: a purge steps back rather than stand in the way.
MYSQL_SESSION = {
    "time_zone": "+00:00",
    "sql_mode": MYSQL_SQL_MODE,
    "wait_timeout": 28800,
    "net_write_timeout": 600,
    "net_read_timeout": 600,
    "innodb_lock_wait_timeout": 10,
    # Limits that would cut a result in silence, or refuse to read a day. max_join_size sets sql_big_selects to 0.
    "sql_select_limit": 18446744073709551615,
    "max_join_size": 18446744073709551615,
    "sql_big_selects": 1,
    "sql_safe_updates": 0,
    "sql_auto_is_null": 0,
    "sql_quote_show_create": 1,
    # A COMMIT ends the transaction, and neither begins another nor ends the session.
    "completion_type": "NO_CHAIN",
    # Set for the whole server, foreign keys and unique keys would be passed over.
    "foreign_key_checks": 1,
    "unique_checks": 1,
}
# Servers may end long statements; an archive of a large day is one.
MYSQL_NO_TIME_LIMIT = {"max_execution_time": 0}
MARIADB_NO_TIME_LIMIT = {
    "max_statement_time": 0,
    "idle_transaction_timeout": 0,
    "idle_readonly_transaction_timeout": 0,
    "idle_write_transaction_timeout": 0,
}
CONNECT_SECONDS = 10


class _EveryWord(frozenset[str]):
    def __contains__(self, _word: object) -> bool:
        return True


# SQLite takes a quoted name that no column has for a string, so there only what must be quoted is: all its keywords,
# whether it reserves them today or not.
_SQLITE_WORDS = (
    "abort action add after all alter always analyze and as asc attach autoincrement before begin between by cascade"
    " case cast check collate column commit conflict constraint create cross current current_date current_time"
    " current_timestamp database default deferrable deferred delete desc detach distinct do drop each else end escape"
    " except exclude exclusive exists explain fail filter first following for foreign from full generated glob group"
    " groups having if ignore immediate in index indexed initially inner insert instead intersect into is isnull join"
    " key last left like limit match materialized natural no not nothing notnull null nulls of offset on or order"
    " others outer over partition plan pragma preceding primary query raise range recursive references regexp reindex"
    " release rename replace restrict returning right rollback row rows savepoint select set table temp temporary then"
    " ties to transaction trigger unbounded union unique update using vacuum values view virtual when where window"
    " with within without true false"
)
SQLITE_KEYWORDS = frozenset(_SQLITE_WORDS.split())


def quote_every_name(dialect: sa.Dialect) -> None:
    """Makes SQLAlchemy quote every name of a table, column or index. By itself it quotes the words that it knows as
    reserved, and the servers reserve more with each version: `library` in MySQL, `portion` in MariaDB."""
    words = SQLITE_KEYWORDS if dialect.name == "sqlite" else _EveryWord()
    dialect.identifier_preparer.reserved_words = words  # type: ignore[assignment]


def connect(url: sa.URL | str, *, bulk_load: bool = False) -> sa.Engine:
    """An engine whose every connection has the address's options and our pinned session; nothing is opened yet.

    Raises OperatorError where an option can't be honoured, such as a file that is no longer there.
    """
    parsed = sa.make_url(url) if isinstance(url, str) else url
    if parsed.query:
        try:
            parsed = with_known_options(parsed)
        except ValueError as error:
            raise OperatorError(f"{redacted(parsed)} can't be used: {error}. Nothing was done.") from None
        _say_overridden(redacted(parsed), tuple(overridden(parsed)))
    engine = _engine(parsed, bulk_load)
    quote_every_name(engine.dialect)

    # Once more after SQLAlchemy has asked which server it is: for MariaDB it then takes other words.
    @event.listens_for(engine, "connect")
    def quote(_connection: Any, _record: Any) -> None:
        quote_every_name(engine.dialect)

    @event.listens_for(engine, "handle_error")
    def hide(context: sa.ExceptionContext) -> None:
        # A driver's message about a connection is kept in the history of runs, and may quote the address.
        hide_in_error(context.original_exception)

    return engine


def _engine(parsed: sa.URL, bulk_load: bool) -> sa.Engine:
    backend = parsed.get_backend_name()
    if backend in ("mysql", "mariadb"):
        return _mysql(parsed, bulk_load)
    if backend == "postgresql":
        return _postgres(parsed, pinned=True)
    return _sqlite(parsed)


def connect_unpinned(url: sa.URL) -> sa.Engine:
    """PostgreSQL as a dump's own statements want it: with the address's options, and nothing else set."""
    return _postgres(url, pinned=False)


def _postgres(url: sa.URL, *, pinned: bool) -> sa.Engine:
    own = options_of(url)
    at_start, settings = postgres_options(url)
    # Said also where it is empty: else libpq takes PGOPTIONS.
    args: dict[str, Any] = {"options": at_start, "client_encoding": "UTF8"}
    args["connect_timeout"] = int(own.get("connect_timeout", CONNECT_SECONDS))
    args["application_name"] = own.get("application_name", "saju_ops")
    engine = sa.create_engine(url, poolclass=NullPool, connect_args=args, hide_parameters=True)
    alone: list[bool] = []

    def another() -> Any:
        words, named = engine.dialect.create_connect_args(url)
        return engine.dialect.connect(*words, **{**named, **args})

    # By statements, and not when the session begins: PgBouncer refuses that, or drops it without a word.
    @event.listens_for(engine, "connect", insert=True)
    def pin(connection: Any, _record: Any) -> None:
        wanted = {**settings, **(postgres_session(connection.info.server_version) if pinned else {})}
        try:
            connection.autocommit = True
            if not _pin_postgres(connection, wanted, connection.info.backend_pid):
                if not alone:
                    require_own_postgres_session(connection, another, redacted(url))
                alone.append(True)
                _pin_postgres(connection, wanted, None)
                if pinned:
                    ours = postgres_session(connection.info.server_version)
                    _require_pinned(redacted(url), ours, _held_by_postgres(connection, ours))
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise

    return engine


def _pin_postgres(connection: Any, wanted: dict[str, str], process: int | None) -> bool:
    """False, and nothing set, where the session isn't the one of that process, which the server itself named when the
    connection was made: somebody is between."""
    calls = ", ".join(["1", *["set_config(%s, %s, false)"] * len(wanted)])
    values: list[Any] = [part for pair in wanted.items() for part in pair]
    if process is None:
        connection.execute(f"SELECT {calls}", values)
        return True
    return connection.execute(f"SELECT {calls} WHERE pg_backend_pid() = %s", [*values, process]).fetchone() is not None


def _held_by_postgres(connection: Any, wanted: dict[str, str]) -> dict[str, Any]:
    calls = ", ".join(["current_setting(%s)"] * len(wanted))
    return dict(zip(wanted, connection.execute(f"SELECT {calls}", list(wanted)).fetchone(), strict=True))


def _require_pinned(where: str, wanted: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Raises Refused where a setting that was made isn't there in the next statement."""
    if lost := [name for name in held if _folded(held[name]) != _folded(wanted[name])]:
        raise Refused(
            f"{where} doesn't keep what is set for a session ({', '.join(lost)}), so a value could be read in another"
            " form than it is stored in. Nothing was done. Somebody between saju_ops and the server, such as a pooler"
            " or a proxy, must keep one session for one connection; or write the server's own host and port into the"
            " address."
        )


def _folded(value: Any) -> Any:
    """A setting's value, fit for comparing: a list without its order, words without their case, numbers by value."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    try:
        return float(text)
    except ValueError:
        return {part.strip().casefold() for part in text.split(",")}


@functools.cache
def _say_overridden(where: str, names: tuple[str, ...]) -> None:
    """Once for each address in a process."""
    if names:
        logging.getLogger(__name__).warning(
            "The address of %s sets %s, which doesn't hold here: saju_ops sets it itself.", where, ", ".join(names)
        )


def _mysql(url: sa.URL, bulk_load: bool) -> sa.Engine:
    own = options_of(url)
    # local_infile lets a server ask this client for any file it can read, so only a restore, which needs LOAD
    # DATA, allows it.
    args: dict[str, Any] = {"charset": "utf8mb4", "local_infile": bulk_load}
    args |= {name: own[name] for name in ("unix_socket", "collation", "bind_address", "program_name") if name in own}
    args["connect_timeout"] = int(own.get("connect_timeout", CONNECT_SECONDS))
    args |= {name: int(own[name]) for name in ("read_timeout", "write_timeout") if name in own}
    tls = mysql_tls(url)
    if tls.required:
        args["ssl"] = tls_context(tls)
    elif tls.mode == "DISABLED":
        args["ssl_disabled"] = True
    if url.password is not None:
        # As the servers and their clients have it; PyMySQL would take Latin-1, which has no 한글.
        args["password"] = str(url.password).encode()
    plain = url._replace(query=sa.util.immutabledict())
    engine = sa.create_engine(plain, poolclass=NullPool, connect_args=args, hide_parameters=True)
    alone: list[bool] = []

    def another() -> Any:
        words, named = engine.dialect.create_connect_args(plain)
        return engine.dialect.connect(*words, **{**named, "read_timeout": CONNECT_SECONDS, **args})

    # First of all: SQLAlchemy then looks at the session that we have made, not at a server's ANSI_QUOTES.
    @event.listens_for(engine, "connect", insert=True)
    def pin(connection: Any, _record: Any) -> None:
        try:
            session = mysql_session(connection)
            if session[0] % (1 << 32) != connection.thread_id() and not alone:
                require_own_mysql_session(connection, another, redacted(url))
                alone.append(True)
            with connection.cursor() as cursor:
                if "init_command" in own:
                    _run_init_command(cursor, own["init_command"])
                wanted = mysql_session_settings("mariadb" in connection.get_server_info().lower())
                cursor.execute(_set_session(wanted))
                cursor.execute(f"SELECT CONNECTION_ID(), {', '.join(f'@@SESSION.{name}' for name in wanted)}")
                number, *held = cursor.fetchone()
            _require_pinned(redacted(url), {**wanted, "its number": session[0]},
                            {**dict(zip(wanted, held, strict=True)), "its number": number})  # fmt: skip
        except BaseException:
            connection.close()
            raise

    return engine


def _run_init_command(cursor: Any, command: str) -> None:
    """Runs the address's own command, then restores the settings on which our transactions and texts rely."""
    cursor.execute("SELECT @@collation_connection")
    (collation,) = cursor.fetchone()
    cursor.execute(command)
    cursor.execute(f"SET NAMES utf8mb4 COLLATE {collation}")
    cursor.execute("SET SESSION autocommit = 0")


def mysql_session_settings(mariadb: bool) -> dict[str, Any]:
    return MYSQL_SESSION | (MARIADB_NO_TIME_LIMIT if mariadb else MYSQL_NO_TIME_LIMIT)


def _set_session(settings: Mapping[str, Any]) -> str:
    written = (f"{name} = {value if isinstance(value, int) else repr(value)}" for name, value in settings.items())
    return f"SET SESSION {', '.join(written)}"


# Errors about the connection, rights, locks and limits, whose text quotes names and never a row; and how each begins:
# a trigger's SIGNAL may bear any code, with any text.
MYSQL_PLAIN_ERRORS = {
    1040: "Too many connections", 1044: "Access denied for user", 1045: "Access denied for user",
    1049: "Unknown database", 1053: "Server shutdown", 1142: "", 1146: "Table '", 1203: "User ",
    1197: "Multi-statement transaction", 1205: "Lock wait timeout exceeded", 1213: "Deadlock found", 1226: "User '",
    1290: "The ", 1317: "Query execution", 1836: "Running in read-only mode", 1927: "Connection was killed",
    3024: "Query execution",
}  # fmt: skip
# SIGNAL and RESIGNAL without a code of their own: warning, not found, exception. Above them no server has codes.
MYSQL_SIGNALS = (1642, 1643, 1644)
MYSQL_OWN_CODES = 10_000
RAISED = "the database's own code, such as a trigger, refused it; its words may quote a row and are not shown"


def error_text(error: BaseException) -> str:
    """What the server said, in one line, without any value of a row that it may have quoted and without a login."""
    return hide_logins(_without_values(error))


def mysql_error_is_plain(code: int, text: str) -> bool:
    """Whether an error's text is the server's or the driver's own, made of names and numbers."""
    denied = code != 1142 or "command denied to user" in text
    return 2000 <= code < 3000 or (code in MYSQL_PLAIN_ERRORS and text.startswith(MYSQL_PLAIN_ERRORS[code]) and denied)


def _without_values(error: BaseException) -> str:
    origin = getattr(error, "orig", None) or error
    arguments: tuple[Any, ...] = getattr(origin, "args", ())
    code = arguments[0] if arguments and isinstance(arguments[0], int) else None
    state = getattr(origin, "sqlstate", None)
    if raised := _raised_by_code(origin, code):
        return f"{RAISED} (error {raised})"
    text = str(arguments[1] if code is not None and len(arguments) > 1 else origin).strip()
    if code in MYSQL_PLAIN_ERRORS and not mysql_error_is_plain(code, text):
        # The words of a trigger under a code of the server's, or the server's in another language.
        return f"{type(origin).__name__} (error {code})"
    line = text.splitlines()[0] if text else type(origin).__name__
    plain = code is None or mysql_error_is_plain(code, line)
    if plain and str(state or "")[:2] not in ("22", "23"):
        return line
    # "Incorrect string value: '…' for column": what is quoted may be somebody's message.
    kept = line[: min((line.find(q) for q in "'\"" if q in line), default=len(line))].strip()
    return f"{kept} … (error {code or state})"


def _raised_by_code(origin: Any, code: int | None) -> str:
    """The error's code where SIGNAL, RAISE or RAISE() made it, whose text is whatever a trigger or function puts there:
    a row, for instance."""
    if code is not None:
        return str(code) if code in MYSQL_SIGNALS or code >= MYSQL_OWN_CODES else ""
    if getattr(origin, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_TRIGGER":
        return "SQLITE_CONSTRAINT_TRIGGER"
    state, said = str(getattr(origin, "sqlstate", None) or ""), getattr(origin, "diag", None)
    in_code = said is not None and "PL/" in str(said.context or "")
    return state if state.startswith("P0") or in_code else ""


class SQLiteText(bytes):
    """A SQLite text as its bytes; a blob is plain `bytes`."""


def _sqlite(url: sa.URL) -> sa.Engine:
    # The file must exist: sqlite3 would make an empty one of a mistyped path and call it a database.
    path = url.database or ""
    uri = sa.URL.create("sqlite", database=f"file:{_uri_path(path)}", query={"uri": "true", "mode": "rw"})
    engine = sa.create_engine(
        uri, poolclass=NullPool, connect_args={"timeout": busy_timeout(url)}, hide_parameters=True
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
