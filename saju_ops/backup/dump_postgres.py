"""PostgreSQL: dumped by pg_dump as plain SQL, restored by psql in one transaction.

The snapshot is exported by a connection of ours and given to pg_dump, so what the server says of it is exact. A copy
is a database of its own here, which SQL can't leave; psql's own commands are refused in a dump.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.address import options_of
from saju_ops.backup.dump_contents import Contents, TableContents
from saju_ops.backup.dump_engine import (
    MARKER,
    DrillNotPossible,
    DumpEngine,
    DumpSpoilt,
    fingerprint,
    is_leftover,
    scratch_name,
)
from saju_ops.backup.dump_postgres_catalog import (
    DEFINITIONS,
    LARGE_OBJECTS,
    LOCALE,
    OTHER_OBJECTS,
    RELATIONS,
    ROLES,
    SCHEMAS,
    SETTINGS,
    as_restored,
)
from saju_ops.backup.dump_process import Output, Program, ProgramFailed, asked, feed, find_program, secret_file
from saju_ops.database import connect, error_text, redacted
from saju_ops.errors import Refused

COMPLETED = re.compile(rb"\n-- PostgreSQL database dump complete\n")
TAIL = 1024
DUMP = ("--format=plain", "--no-password", "--lock-wait-timeout=30s", "--no-subscriptions")
RESTORE = ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-")
ENVIRONMENT = {"PGTZ": "UTC", "PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "10", "PGAPPNAME": "saju_ops"}
# Where the server is and how it is trusted, where the address leaves that to libpq's environment.
LIBPQ_ENVIRONMENT = (
    "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY",
    "PGSSLCRL", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGGSSENCMODE", "PGKRBSRVNAME", "PGTARGETSESSIONATTRS",
)  # fmt: skip
OWNER_LINE = re.compile(
    rb"(ALTER [A-Z ]+ .* OWNER TO .*;|GRANT .*;|REVOKE .*;|ALTER DEFAULT PRIVILEGES .*;"
    rb"|SET SESSION AUTHORIZATION .*;)\r?\n?"
)
# What no schema holds, before the schemas: a dump makes it anew, and fails where it is there.
DROPPED_FIRST = {
    "EVENT TRIGGER": "SELECT evtname FROM pg_event_trigger",
    "PUBLICATION": "SELECT pubname FROM pg_publication",
    "EXTENSION": "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'",
    "FOREIGN DATA WRAPPER": "SELECT fdwname FROM pg_foreign_data_wrapper",
}
# Settings that are lists of names, kept as they are written in a statement.
LIST_SETTINGS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
LIST_ITEM = re.compile(r'"(?:[^"]|"")*"|[^",\s]+')
# The schema that every new database has, with the rights that it has there: a dump tells only what differs from them.
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

    @property
    def database(self) -> str:
        return str(self.url.database)

    def at(self, url: sa.URL) -> DumpEngine:
        return PostgresDumps(url)

    def server_version(self) -> str:
        with self._engine.connect() as connection:
            return str(connection.exec_driver_sql("SHOW server_version").scalar())

    # --- what is there -------------------------------------------------------------------------------------

    def schema_state(self) -> str:
        with self._engine.connect() as connection:
            files = [tuple(row) for row in _rows(connection, RELATIONS) if row[1] in ("r", "p", "m", "S", "f")]
            # VACUUM FULL and TRUNCATE give a table another file.
            return fingerprint(files, sorted(_definitions(connection).items()))

    def contents(self, like: Contents | None = None) -> Contents:
        with self._engine.connect() as connection:
            return _contents(connection)

    def hidden(self) -> str:
        return ""  # the catalogue shows everything to everybody, and pg_dump fails at what it may not read

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
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = str(connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar())
            path = find_program(["pg_dump"], "A dump of a PostgreSQL database")
            # A database without an encoding may hold bytes of any; they are dumped as they are.
            plain = connection.exec_driver_sql("SHOW server_encoding").scalar() == "SQL_ASCII"
            arguments = [*DUMP, f"--encoding={'SQL_ASCII' if plain else 'UTF8'}", f"--snapshot={snapshot}"]
            program = stack.enter_context(self._program(path, arguments))
            output, tool = stack.enter_context(Output(program)), asked([path, "--version"]).stdout.strip()
            yield PostgresTaking(self, connection, output, tool)

    @contextmanager
    def _program(self, path: str, arguments: list[str]) -> Iterator[Program]:
        options = options_of(self.url)
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
        # The maintenance database; where it isn't there, the one that the address names.
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
            settings = [_told_setting(*row) for row in _rows(connection, SETTINGS)]
            return found | ({"settings": ", ".join(settings)} if settings else {})

    def create(self, defaults: Mapping[str, str]) -> None:
        with self._admin().connect() as connection:
            name = connection.dialect.identifier_preparer.quote_identifier(self.database)
            _create_like(connection, name, defaults)

    def empty(self) -> None:
        with self._engine.begin() as connection:
            quote = connection.dialect.identifier_preparer.quote_identifier
            connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
            for kind, names in DROPPED_FIRST.items():
                for row in _rows(connection, names):
                    connection.exec_driver_sql(f"DROP {kind} {quote(row[0])} CASCADE".replace("%", "%%"))
            for row in _rows(connection, SCHEMAS):
                connection.exec_driver_sql(f"DROP SCHEMA {quote(row[0])} CASCADE".replace("%", "%%"))
            connection.exec_driver_sql("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
            _make_public(connection)

    def examined(self, chunks: Iterator[bytes], source_database: str) -> Iterator[bytes]:
        return chunks

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        return self._load(chunks, None)

    def _load(self, chunks: Iterator[bytes], roles: list[str] | None) -> list[str]:
        path = find_program(["psql"], "A restore into PostgreSQL")
        guard = _Guard(strip=not self._may_name_roles(roles))
        with self._program(path, list(RESTORE)) as program:
            feed(program, guard.watch(chunks))
        left_out = f"{guard.left_out} owners and grants were left out: everything belongs to {self.url.username}"
        return [left_out] if guard.left_out else []

    def _may_name_roles(self, roles: list[str] | None) -> bool:
        """A superuser may give things to any role that is there; whether it is there shows."""
        with self._engine.connect() as connection:
            known = dict(tuple(row) for row in _rows(connection, "SELECT rolname, rolsuper FROM pg_roles"))
            user = connection.exec_driver_sql("SELECT current_user").scalar()
            return bool(known.get(user)) and set(roles or ()) <= known.keys()

    @contextmanager
    def scratch(self, server: sa.URL | None, now: datetime) -> Iterator[DumpEngine]:
        base = server or self.url
        name = scratch_name(now)
        try:
            admin = self._admin(server)
            with admin.connect() as connection:
                _drop_leftovers(connection, now)
                _create_like(connection, name, self.defaults())
                connection.exec_driver_sql(f"COMMENT ON DATABASE {name} IS '{MARKER} {now.isoformat()}'")
        except DBAPIError as error:
            raise DrillNotPossible(
                f"No scratch database could be made at {redacted(base)} ({error_text(error)}). ALTER ROLE … CREATEDB"
                " for its user, or name another server in RESTORE_DRILL_URL."
            ) from None
        try:
            yield _Scratch(base.set(database=name), self.roles())
        finally:
            with admin.connect() as connection:
                # This run made it: CREATE DATABASE above fails for a name that exists.
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def roles(self) -> list[str]:
        with self._engine.connect() as connection:
            return [row[0] for row in _rows(connection, ROLES)]


class _Scratch(PostgresDumps):
    """A copy: it knows the roles that the source names."""

    def __init__(self, url: sa.URL, roles: list[str]) -> None:
        super().__init__(url)
        self._roles = roles

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        return self._load(chunks, self._roles)


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
            if "could not obtain lock" in error.said or "does not exist" in error.said:
                raise DumpSpoilt(f"A table was changed while it was dumped. {error}") from None
            raise ProgramFailed(f"The dump of {self._dumps.database} was not kept: {error}", error.said) from None
        if not COMPLETED.search(tail):
            raise DumpSpoilt(
                f"pg_dump ended well, and yet its last line is not there: the dump of {self._dumps.database} is not"
                " whole. Nothing was kept."
            )

    def contents(self) -> Contents:
        return _contents(self._connection)


# --- the server's answers ----------------------------------------------------------------------------------------


def _rows(connection: sa.Connection, statement: str) -> list[Any]:
    return list(connection.exec_driver_sql(statement.replace("%", "%%")).all())


def _contents(connection: sa.Connection) -> Contents:
    tables = {}
    version = str(connection.exec_driver_sql("SHOW server_version").scalar()).split(".")[0]
    for name, kind, *_ in _rows(connection, RELATIONS):
        # A materialized view's rows are not dumped: a restore computes them anew.
        if kind == "r":
            # The row as text, settings being pinned; sum, not xor: a row that is there twice counts twice.
            hashed = "hashtextextended((saju_row.*)::text, 0)::numeric"
            statement = f"SELECT count(*), coalesce(sum({hashed}), 0) FROM ONLY {name} saju_row"  # noqa: S608
            ((rows, total),) = _rows(connection, statement)
            tables[name] = TableContents(int(rows), f"{int(total) % 2**64:016x}")
        elif kind == "S":
            ((value, called),) = _rows(connection, f"SELECT last_value, is_called FROM {name}")  # noqa: S608
            tables[name] = TableContents(1, f"{value} {'t' if called else 'f'}")
    count = total = 0
    if connection.exec_driver_sql("SELECT has_table_privilege('pg_largeobject', 'SELECT')").scalar():
        ((count, total),) = _rows(connection, LARGE_OBJECTS)
    if count:
        tables["pg_largeobject"] = TableContents(int(count), f"{int(total) % 2**64:016x}")
    return Contents(tables, _definitions(connection), f"postgresql {version}")


def _definitions(connection: sa.Connection) -> dict[str, str]:
    # Without a search path, every definition is printed with its schemas.
    connection.exec_driver_sql("SET search_path = ''")
    found = {}
    for kind, statement in DEFINITIONS.items():
        for name, *parts in _rows(connection, statement):
            found[f"{kind} {name}"] = fingerprint(*(as_restored(p) if isinstance(p, str) else p for p in parts))
    return found


def _settings(connection: sa.Connection) -> bytes:
    """ALTER DATABASE … SET, which pg_dump writes only together with CREATE DATABASE: a time zone or a search path set
    so would be lost. What the restoring user may not set is passed over with a warning."""
    statements = []
    for name, value, role in _rows(connection, SETTINGS):
        words = LIST_ITEM.findall(value) if name.lower() in LIST_SETTINGS else [value]
        values = ", ".join(_literal(w[1:-1].replace('""', '"') if w[:1] == '"' else w) for w in words) or "''"
        setting = ".".join(_identifier(part) for part in name.split("."))
        whom = f"ROLE {_identifier(role)} IN DATABASE" if role else "DATABASE"
        statement = f"ALTER {whom} ".replace("%", "%%") + "%I" + f" SET {setting} TO {values}".replace("%", "%%")
        body = (
            f"BEGIN EXECUTE format({_literal(statement)}, current_database());"
            " EXCEPTION WHEN OTHERS THEN RAISE WARNING 'a setting of the database was left out'; END"
        )
        statements.append(f"DO {_literal(body)};\n")
    head = ["SET client_encoding = 'UTF8';\n", "SET standard_conforming_strings = on;\n"]
    return "".join([*head, *statements]).encode() if statements else b""


def _told_setting(name: str, value: str, role: str | None) -> str:
    """One of an extension or of the service itself may be a secret."""
    shown = value if "." not in name else f"#{fingerprint(value)[:8]}"
    return f"{name}={shown}" + (f" for {role}" if role else "")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _create_like(connection: sa.Connection, quoted: str, defaults: Mapping[str, str]) -> None:
    """With the source's locale where the server has it: sort orders decide what a unique index takes."""
    base = f"CREATE DATABASE {quoted} TEMPLATE template0"
    kept = {word: str(value).replace("'", "''") for word, value in defaults.items()}
    if not kept:
        connection.exec_driver_sql(f"{base} ENCODING 'UTF8'".replace("%", "%%"))
        return
    like = f"ENCODING '{kept['encoding']}' LC_COLLATE '{kept['collation']}' LC_CTYPE '{kept['ctype']}'"
    if "icu_locale" in kept:
        like += f" LOCALE_PROVIDER icu ICU_LOCALE '{kept['icu_locale']}'"
    try:
        connection.exec_driver_sql(f"{base} {like}".replace("%", "%%"))
    except DBAPIError as error:
        # Not a locale of that server; 42601: of a version that doesn't know the words.
        if getattr(error.orig, "sqlstate", "") not in ("42809", "22023", "42601"):
            raise
        connection.exec_driver_sql(base.replace("%", "%%"))


def _make_public(connection: sa.Connection) -> None:
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000
    for statement in (*NEW_PUBLIC, *NEW_PUBLIC_RIGHTS[15 if version >= 15 else 0]):
        connection.exec_driver_sql(statement)


def _drop_leftovers(connection: sa.Connection, now: datetime) -> None:
    """Databases that a killed drill left: by their name, which says when, and by their comment, or none yet."""
    listed = _rows(connection, "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database")
    for name, comment in listed:
        if is_leftover(name, now) and (comment is None or str(comment).startswith(MARKER)):
            with suppress(DBAPIError):
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


class _Guard:
    """Refuses psql's own commands in a dump; leaves out owners and grants where they can't be given.

    Only where a statement begins: a function's body or a row may hold any line. pg_dump's BEGIN and COMMIT around
    large objects are left out, which would end the one transaction of the restore.
    """

    REFUSED = (b"\\connect", b"\\c ", b"\\!", b"\\i ", b"\\ir ", b"\\copy ", b"\\o ", b"\\w ", b"\\g")
    TRANSACTION = (b"BEGIN;", b"COMMIT;")
    COPY_END = b"\n\\.\n"

    def __init__(self, strip: bool) -> None:
        self._strip = strip
        self._inside: bytes | None = None
        self.left_out = 0

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        pending, copying = b"", False
        for chunk in chunks:
            data, pending, at = pending + chunk, b"", 0
            kept: list[bytes] = []
            while at < len(data):
                # Rows are passed on unseen, up to the line that ends them.
                end = data.find(self.COPY_END if copying else b"\n", at)
                if end < 0:
                    whole = max(at, len(data) - len(self.COPY_END)) if copying else at
                    kept.append(data[at:whole])
                    pending = data[whole:]
                    break
                end += len(self.COPY_END) if copying else 1
                piece, at = data[at:end], end
                if copying:
                    kept.append(piece)
                    copying = False
                    continue
                copying = self._starts_rows(piece)
                kept.append(self._looked_at(piece))
                if copying:
                    # The line's end is that of the rows' end too, where there are none.
                    kept[-1], at = kept[-1][:-1], at - 1
            yield b"".join(kept)
        if pending:
            yield pending if copying else self._looked_at(pending)

    def _starts_rows(self, line: bytes) -> bool:
        return self._inside is None and line.startswith(b"COPY ") and line.rstrip().endswith(b"FROM stdin;")

    def _looked_at(self, line: bytes) -> bytes:
        begins = self._inside is None
        self._inside = _inside_after(line, self._inside)
        if not begins:
            return line
        if line.startswith(self.REFUSED):
            raise Refused("The dump holds a command of psql's own; it is not executed.")
        if line.rstrip() in self.TRANSACTION:
            return b""
        if self._strip and OWNER_LINE.fullmatch(line):
            self.left_out += 1
            return b""
        return line


# What opens a text in which a line's beginning is no statement's, and what ends it.
_OPENS = re.compile(rb"--|/\*|(?<![\w$])[eE]'|'|\"|(?<![\w$])\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$")
_CLOSES = {
    b"'": re.compile(rb"'"),
    b"e'": re.compile(rb"(?:[^'\\]|\\.|'')*'(?!')", re.DOTALL),
    b'"': re.compile(rb'"'),
    b"/*": re.compile(rb"\*/"),
}


def _inside_after(line: bytes, inside: bytes | None) -> bytes | None:
    """What a line leaves open, having begun inside `inside`: a quote, a dollar quote's tag, or nothing."""
    at = 0
    while True:
        if inside is None:
            opens = _OPENS.search(line, at)
            if opens is None or opens[0] == b"--":
                return None
            inside, at = (b"e'" if opens[0] == b"E'" else opens[0]), opens.end()
        if inside.startswith(b"$"):
            at = line.find(inside, at) + len(inside)
            if at < len(inside):
                return inside
        else:
            closes = _CLOSES[inside].match(line, at) if inside == b"e'" else _CLOSES[inside].search(line, at)
            if closes is None:
                return inside
            at = closes.end()
        inside = None


def _pgpass(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
