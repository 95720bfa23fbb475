"""PostgreSQL: dumped by pg_dump as plain SQL, restored in one transaction by a connection of ours, without a program.

A connection of ours exports the snapshot and gives it to pg_dump, so the server's answers about it are exact. A copy is
a database of its own here, which SQL can't leave, and is used as a role that has rights nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.address_options import options_of
from saju_ops.database.connect import connect
from saju_ops.database.own_session import is_pooled
from saju_ops.database.postgres_address import postgres_options
from saju_ops.database.snapshots import export_snapshot
from saju_ops.dumps.contents import Contents
from saju_ops.dumps.engine import LOCKED, SCRATCH, DumpEngine, DumpSpoilt, fingerprint
from saju_ops.dumps.postgres.catalogue import (
    INVALID_INDEXES,
    LOCALE,
    OTHER_OBJECTS,
    RELATIONS,
    SCHEMAS,
    SETTINGS,
    _contents,
    _definitions,
    _identifier,
    _rows,
    _settings,
    shown_setting,
)
from saju_ops.dumps.postgres.drill import DrillLoad, Live, create_like, scratch
from saju_ops.dumps.postgres.load import Load
from saju_ops.dumps.postgres.statements import examined
from saju_ops.dumps.programs import Output, Program, ProgramFailed, asked, find_program, secret_file
from saju_ops.dumps.without_rows import NO_ROWS, WITHOUT_ROWS, is_without_rows

COMPLETED = re.compile(rb"\n-- PostgreSQL database dump complete\n")
TAIL = 1024
IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
DUMP = ("--format=plain", "--no-password", "--lock-wait-timeout=30s", "--no-subscriptions")
ENVIRONMENT = {"PGTZ": "UTC", "PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "10", "PGAPPNAME": "saju_ops"}
# Where the server is and how it is trusted, where the address leaves that to libpq's environment.
LIBPQ_ENVIRONMENT = (
    "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY",
    "PGSSLCRL", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGGSSENCMODE", "PGKRBSRVNAME", "PGTARGETSESSIONATTRS",
)  # fmt: skip
# Objects outside of schemas, dropped before the schemas: a dump makes them anew, and fails if they are there.
DROPPED_FIRST = {
    "EVENT TRIGGER": "SELECT evtname FROM pg_event_trigger",
    "PUBLICATION": "SELECT pubname FROM pg_publication",
    "EXTENSION": "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'",
    "FOREIGN DATA WRAPPER": "SELECT fdwname FROM pg_foreign_data_wrapper",
}
# The schema that every new database has, with the rights that it has there: a dump holds only differences from them.
NEW_PUBLIC = ("CREATE SCHEMA public", "COMMENT ON SCHEMA public IS 'standard public schema'")
NEW_PUBLIC_RIGHTS = {
    15: ("GRANT USAGE ON SCHEMA public TO PUBLIC", "ALTER SCHEMA public OWNER TO pg_database_owner"),
    0: ("GRANT ALL ON SCHEMA public TO PUBLIC",),
}


class PostgresDumps:
    engine = "postgresql"
    ending = ".sql.gz"

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self._engine = connect(url)
        self._loaded: Load | None = None

    @property
    def database(self) -> str:
        return str(self.url.database)

    def at(self, url: sa.URL) -> DumpEngine:
        return PostgresDumps(url)

    def server_version(self) -> str:
        with self._engine.connect() as connection:
            return str(connection.exec_driver_sql("SHOW server_version").scalar())

    # --- the catalogue -------------------------------------------------------------------------------------

    def schema_state(self) -> str:
        with self._engine.connect() as connection:
            files = [tuple(row) for row in _rows(connection, RELATIONS) if row[1] in ("r", "p", "m", "S", "f")]
            # VACUUM FULL and TRUNCATE give a table another file.
            return fingerprint(files, sorted(_definitions(connection).items()))

    def contents(self, like: Contents | None = None) -> Contents:
        with self._engine.connect() as connection:
            found = _contents(connection)
            return self._loaded.as_compared(connection, found, like) if self._loaded and like else found

    def hidden(self) -> str:
        return ""  # the catalogue shows everything to every role, and pg_dump fails at what it may not read

    def objects(self) -> int:
        try:
            with self._engine.connect() as connection:
                found = [n for n in _definitions(connection) if n != "extension plpgsql"]
                return len(found) + sum(_rows(connection, q)[0][0] for q in OTHER_OBJECTS)
        except DBAPIError as error:
            if "does not exist" in str(error.orig) and self.database in str(error.orig):
                return -1
            raise

    # --- dumping -------------------------------------------------------------------------------------------

    @contextmanager
    def taking(self) -> Iterator[PostgresTaking]:
        with ExitStack() as stack:
            connection = stack.enter_context(self._engine.connect())
            snapshot = export_snapshot(connection)
            path = find_program(["pg_dump"], "A dump of a PostgreSQL database")
            # A database without an encoding may hold bytes of any; they are dumped as they are.
            plain = connection.exec_driver_sql("SHOW server_encoding").scalar() == "SQL_ASCII"
            left_out = [f"--exclude-table-data=*.{name}" for name in WITHOUT_ROWS]
            arguments = [*DUMP, *left_out, f"--encoding={'SQL_ASCII' if plain else 'UTF8'}", f"--snapshot={snapshot}"]
            if SCRATCH.fullmatch(self.url.username or ""):
                # A masked copy: its owner is the drill's role, which is gone when the dump is restored.
                arguments += ["--no-owner", "--no-privileges"]
            program = stack.enter_context(self._program(path, arguments, connection))
            output, tool = stack.enter_context(Output(program)), asked([path, "--version"]).stdout.strip()
            yield PostgresTaking(self, connection, output, tool)

    @contextmanager
    def _program(self, path: str, arguments: list[str], beside: sa.Connection) -> Iterator[Program]:
        """Which connects as `beside` did."""
        options = options_of(self.url)
        if is_pooled(beside):
            # PgBouncer refuses them. Among the settings that can also be made later, only the role matters to a dump:
            # the program sets by itself how it reads.
            at_start, settings = postgres_options(self.url)
            options["options"] = at_start
            arguments = [*arguments, *([f"--role={settings['role']}"] if "role" in settings else [])]
        # What libpq takes from the environment for our own connections, too.
        password = self.url.password or os.environ.get("PGPASSWORD")
        files = {}
        with ExitStack() as stack:
            if password:
                secret = stack.enter_context(secret_file(f"*:*:*:*:{_pgpass(str(password))}\n"))
                files["PGPASSFILE"] = secret
                options.pop("passfile", None)
            if "sslpassword" in options:  # a line of a service, since the command line is everybody's to read
                service = f"[saju_ops]\nsslpassword={options.pop('sslpassword')}\n"
                files["PGSERVICEFILE"] = stack.enter_context(secret_file(service))
                options["service"] = "saju_ops"
            found = {name: value for name in LIBPQ_ENVIRONMENT if (value := os.environ.get(name))}
            env = {**found, **ENVIRONMENT, **{name: f"/dev/fd/{number}" for name, number in files.items()}}
            conninfo = f"--dbname={self._conninfo(options)}"
            yield Program([path, *arguments, conninfo], env, tuple(files.values()))

    def _conninfo(self, options: Mapping[str, str]) -> str:
        """As our own connections have it: every option of the address."""
        url = self.url
        parts: dict[str, str] = {"dbname": self.database, "user": url.username or ""}
        parts |= {"host": url.host or "", "port": str(url.port or ""), **options}
        return " ".join(f"{k}='{_quoted(v)}'" for k, v in parts.items() if v)

    # --- restoring -----------------------------------------------------------------------------------------

    def _admin(self, server: sa.URL | None = None) -> sa.Engine:
        url = server or self.url
        # The maintenance database; if it isn't there, the database that the address names.
        for database in ("postgres", url.database):
            engine = connect(url.set(database=database)).execution_options(isolation_level="AUTOCOMMIT")
            try:
                with engine.connect():
                    return engine
            except DBAPIError:
                if database == url.database:
                    raise
        raise AssertionError

    def defaults(self) -> dict[str, str]:
        with self._engine.connect() as connection:
            ((encoding, collate, ctype, database),) = _rows(connection, LOCALE)
            found = {"encoding": str(encoding), "collation": str(collate), "ctype": str(ctype)}
            # From version 15 on, and under another name from 17 on.
            locale = database.get("daticulocale") or database.get("datlocale")
            if database.get("datlocprovider") == "i" and locale:
                found["icu_locale"] = str(locale)
            settings = [shown_setting(*row) for row in _rows(connection, SETTINGS)]
            return found | ({"settings": ", ".join(settings)} if settings else {})

    def create(self, defaults: Mapping[str, str]) -> None:
        with self._admin().connect() as connection:
            create_like(connection, _identifier(self.database), dict(defaults))

    def empty(self) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
            for kind, names in DROPPED_FIRST.items():
                for row in _rows(connection, names):
                    connection.exec_driver_sql(f"DROP {kind} {_identifier(row[0])} CASCADE".replace("%", "%%"))
            for row in _rows(connection, SCHEMAS):
                connection.exec_driver_sql(f"DROP SCHEMA {_identifier(row[0])} CASCADE".replace("%", "%%"))
            connection.exec_driver_sql("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
            _make_public(connection)

    def examined(self, chunks: Iterator[bytes], source_database: str) -> Iterator[bytes]:
        return examined(chunks)

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        self._loaded = Load(self.url, with_rights=self._is_superuser())
        self._loaded.execute(chunks)
        return self._loaded.left_out

    def _is_superuser(self) -> bool:
        """A superuser may give things to any role that is there; whether it is there shows."""
        with self._engine.connect() as connection:
            return bool(connection.exec_driver_sql(IS_SUPERUSER).scalar())

    def scratch(self, server: sa.URL | None, now: datetime, *, own: bool = False) -> AbstractContextManager[DumpEngine]:
        # Always as the role that is made for it: rights that the account lacks there can be given to the role.
        return scratch(self, server, now, _Scratch)


class _Scratch(PostgresDumps):
    """A copy, entered as the role that was made for it. `account` made both."""

    def __init__(self, url: sa.URL, account: sa.URL, live: Live) -> None:
        super().__init__(url)
        self._account, self._live = account, live

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        self._loaded = DrillLoad(self.url, self._account, self._live)
        self._loaded.execute(chunks)
        return self._loaded.left_out


class PostgresTaking:
    def __init__(self, dumps: PostgresDumps, connection: sa.Connection, output: Output, tool: str) -> None:
        self._dumps, self._connection, self._output = dumps, connection, output
        self.tool = tool

    def chunks(self) -> Iterator[bytes]:
        tail = b""
        if settings := _settings(self._connection):
            yield settings
        while data := self._output.read():
            tail = (tail + data[-TAIL:])[-TAIL:]
            yield data
        try:
            self._output.finish()
        except ProgramFailed as error:
            # By a limit for statements, which it sets itself, it waits for locks; for anything else it has none.
            if any(words in error.said for words in ("statement timeout", "lock timeout", "could not obtain lock")):
                raise DumpSpoilt(f"A lock was waited for in vain. {error} {LOCKED}") from None
            if "does not exist" in error.said:
                raise DumpSpoilt(f"A table was changed while it was dumped. {error}") from None
            raise ProgramFailed(f"The dump of {self._dumps.database} was not kept: {error}", error.said) from None
        if not COMPLETED.search(tail):
            raise DumpSpoilt(
                f"pg_dump ended well, and yet its last line is not there: the dump of {self._dumps.database} is not"
                " whole. Nothing was kept."
            )

    def contents(self) -> Contents:
        found = _contents(self._connection)
        for name in found.tables:
            if is_without_rows(name):
                found.tables[name] = NO_ROWS
        if invalid := [str(row[0]) for row in _rows(self._connection, INVALID_INDEXES)]:
            found.notes.append(
                "indexes that are not valid, which a CREATE INDEX CONCURRENTLY left, are not in it:"
                f" {', '.join(invalid)}. Drop them, or build them again by REINDEX INDEX CONCURRENTLY"
            )
        return found


# --- the server's answers ----------------------------------------------------------------------------------------


def _make_public(connection: sa.Connection) -> None:
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000
    for statement in (*NEW_PUBLIC, *NEW_PUBLIC_RIGHTS[15 if version >= 15 else 0]):
        connection.exec_driver_sql(statement)


def _pgpass(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
