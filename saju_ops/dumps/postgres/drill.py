"""The place where a PostgreSQL dump is tried: a scratch database, and a role made for it without rights anywhere else.

All that a dump executes there, it executes as that role: no superuser, member of nothing, with a random password that
only this process knows, owner of the scratch database alone. Role and database are always dropped; those of a killed
drill are dropped by the next one a day later.

Objects that only a superuser may make are not made as the dump defines them. The account itself makes extensions, as
the live database has them. Servers of foreign data are made without a wrapper that could reach them. Event triggers,
publications and the bodies of functions in untrusted languages are left out and named.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.dumps.engine import MARKER, DrillNotPossible, is_leftover, scratch_name
from saju_ops.dumps.postgres.load import Load
from saju_ops.dumps.postgres.reader import Statement
from saju_ops.dumps.postgres.statements import TIMEOUTS, TRUSTED, languages

if TYPE_CHECKING:
    from saju_ops.dumps.postgres.engine import PostgresDumps

# A statement of a drill that runs longer is ended: one that never ends would block every later drill.
STATEMENT_HOURS = 6
# The load's connection, the comparison's, a masked copy's two and its pg_dump.
CONNECTIONS = 8
WRAPPER = "saju_ops_nothing"
STUB = "BEGIN RAISE EXCEPTION 'left out of a drill'; END"
# Extensions whose functions reach out of the database. Any role may call them once they are created.
REACHING = {
    "dblink", "postgres_fdw", "file_fdw", "adminpack", "http", "pg_net", "pg_cron", "pg_background", "plproxy",
    "aws_s3", "aws_lambda", "aws_commons", "mysql_fdw", "oracle_fdw", "tds_fdw", "redis_fdw", "mongo_fdw", "wrappers",
}  # fmt: skip
# Settings that a plain role may not have, or that a drill has of its own.
OWN_SETTINGS = TIMEOUTS | {"DEFAULT_TABLESPACE"}

_ACCOUNT = "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
# Ways out of the scratch database for code that runs as this account: SET ROLE, and the rights that an attribute gives.
_BEYOND = """
SELECT 'it is a member of ' || quote_ident(r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = current_user)
UNION ALL SELECT 'it has REPLICATION' FROM pg_roles WHERE rolname = current_user AND rolreplication
UNION ALL SELECT 'it has BYPASSRLS' FROM pg_roles WHERE rolname = current_user AND rolbypassrls
ORDER BY 1"""
_EXTENSIONS = """
SELECT e.extname, e.extversion, n.nspname, EXISTS (SELECT 1 FROM pg_depend d WHERE d.deptype = 'e'
  AND d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.refobjid = e.oid)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"""
_LANGUAGES = """
SELECT DISTINCT l.lanname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND NOT EXISTS (SELECT 1 FROM pg_depend x
  WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'e')"""
_FORCED = "SELECT count(*) FROM pg_class WHERE relforcerowsecurity"
_STUBS = """
SELECT format('routine %I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prosrc = :stub"""
# What of an extension a dump fills, and the schemas that it makes itself.
_FILLED = """
SELECT c.oid::regclass::text, c.relkind::text FROM pg_extension e, unnest(e.extconfig) t JOIN pg_class c ON c.oid = t
WHERE e.extname = :name"""
_MEMBERS = """
SELECT d.objid::regnamespace::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.deptype = 'e'
WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_namespace'::regclass AND e.extname = :name"""
_FUNCTIONS = """
SELECT d.objid::regprocedure::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.deptype = 'e'
JOIN pg_proc p ON p.oid = d.objid AND p.prokind IN ('f', 'w')
WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND e.extname = :name"""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def run(connection: sa.Connection, statement: str) -> None:
    connection.exec_driver_sql(statement.replace("%", "%%"))


@dataclass(frozen=True)
class Live:
    """What of the live database a drill must know."""

    # By name: version, schema, and whether the extension makes that schema itself.
    extensions: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    untrusted: frozenset[str] = frozenset()
    # Tables whose policies apply to their owner, too.
    forced: bool = False

    @classmethod
    def of(cls, connection: sa.Connection) -> Live:
        found = {str(n): (str(v), str(s), bool(own)) for n, v, s, own in connection.exec_driver_sql(_EXTENSIONS)}
        spoken = frozenset(str(name) for (name,) in connection.exec_driver_sql(_LANGUAGES))
        forced = bool(connection.exec_driver_sql(_FORCED).scalar())
        return cls(found, spoken - TRUSTED, forced)


@contextmanager
def scratch(source: PostgresDumps, server: sa.URL | None, now: datetime, scratch_of: Any) -> Iterator[PostgresDumps]:
    """A database of a drill's own and the role that it is entered as. `scratch_of` makes the engine of both."""
    base, name = server or source.url, scratch_name(now)
    try:
        with source._engine.connect() as connection:
            live = Live.of(connection)
        defaults = source.defaults()
        admin = source._admin(server)
    except DBAPIError as error:
        raise _not_possible(base, error) from None
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(admin.connect())
            drop_leftovers(connection, now)
            url = _with_role(stack, connection, source, server, live=live, name=name, now=now)
            _make_database(stack, connection, name, defaults, now)
            if url != base:
                _open_public(base.set(database=name), str(url.username))
                run(connection, f"ALTER DATABASE {name} OWNER TO {url.username}")
        except DBAPIError as error:
            raise _not_possible(base, error) from None
        # Not held while the dump is loaded, which may take hours.
        connection.close()
        yield scratch_of(url.set(database=name), base.set(database=name), live)


def _with_role(
    stack: ExitStack, connection: sa.Connection, source: PostgresDumps, server: sa.URL | None, live: Live, name: str,
    now: datetime,
) -> sa.URL:  # fmt: skip
    """The server's address as the role that was made, or as it is where RESTORE_DRILL_URL's account may make none."""
    base = server or source.url
    ((user, superuser, may_make, _),) = connection.exec_driver_sql(_ACCOUNT).all()
    if superuser or may_make:
        password = secrets.token_urlsafe(24)
        driver: Any = connection.connection.driver_connection
        # As the server keeps it: its log may hold this statement.
        kept = driver.pgconn.encrypt_password(password.encode(), name.encode()).decode()
        bypass = " BYPASSRLS" if superuser and live.forced else ""
        stack.callback(_dropping, base, source, server, f"DROP ROLE IF EXISTS {name}")
        run(
            connection,
            f"CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION{bypass}"
            f" CONNECTION LIMIT {CONNECTIONS} PASSWORD '{kept}'",
        )
        run(connection, f"COMMENT ON ROLE {name} IS '{MARKER} {now.isoformat()}'")
        run(connection, f"ALTER ROLE {name} SET statement_timeout = '{STATEMENT_HOURS}h'")
        if not superuser:
            run(connection, f"GRANT {name} TO CURRENT_USER")  # to give it the database, and to drop that again
        return base.set(username=name, password=password)
    same = server is None or (server.host, server.port, server.username) == (
        source.url.host, source.url.port, source.url.username
    )  # fmt: skip
    if same:
        raise DrillNotPossible(
            f"No role for the drill could be made at {redacted(base)}: {user} may not, and a dump is not tried with"
            f" the rights of the service. Say `ALTER ROLE {quoted(user)} CREATEROLE CREATEDB;` as an administrator, or"
            " name another server, or an account that has a right on nothing, in RESTORE_DRILL_URL."
        )
    if beyond := [str(what) for (what,) in connection.exec_driver_sql(_BEYOND)]:
        raise DrillNotPossible(
            f"The account of RESTORE_DRILL_URL ({redacted(base)}) may make no role for the drill, and can do more than"
            f" a drill needs, which what is in a dump could do, too: {', '.join(beyond)}. Take that from it, or say"
            f" `ALTER ROLE {quoted(user)} CREATEROLE CREATEDB;`."
        )
    return base


def _make_database(
    stack: ExitStack, connection: sa.Connection, name: str, defaults: dict[str, str], now: datetime
) -> None:
    create_like(connection, name, defaults)
    stack.callback(_drop_database, connection.engine, name)
    run(connection, f"COMMENT ON DATABASE {name} IS '{MARKER} {now.isoformat()}'")
    run(connection, f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")


def _open_public(url: sa.URL, role: str) -> None:
    """From version 15 on it belongs to pg_database_owner, which the drill's role is, and inherits nothing. Call it
    while the account is the owner."""
    with connect(url).begin() as connection:
        may = f"SELECT has_schema_privilege('{role}', 'public', 'CREATE')"
        if not connection.exec_driver_sql(may).scalar():
            run(connection, f"GRANT ALL ON SCHEMA public TO {role}")


def _drop_database(admin: sa.Engine, name: str) -> None:
    with admin.connect() as connection:
        # This run made it: CREATE DATABASE fails for a name that exists.
        run(connection, f"DROP DATABASE {name} WITH (FORCE)")


def _dropping(base: sa.URL, source: PostgresDumps, server: sa.URL | None, statement: str) -> None:
    with source._admin(server).connect() as connection:
        run(connection, statement)


def _not_possible(base: sa.URL, error: DBAPIError) -> DrillNotPossible:
    return DrillNotPossible(
        f"No scratch database could be made at {redacted(base)} ({error_text(error)}). Say `ALTER ROLE"
        f" {quoted(base.username or 'its user')} CREATEROLE CREATEDB;` as an administrator, or name another server in"
        " RESTORE_DRILL_URL."
    )


def create_like(connection: sa.Connection, name: str, defaults: dict[str, str]) -> None:
    """With the source's locale if the server has it: a sort order decides which values are equal in a unique index.
    `name` is quoted already."""
    base = f"CREATE DATABASE {name} TEMPLATE template0"
    kept = {word: str(value).replace("'", "''") for word, value in defaults.items()}
    if not kept:
        run(connection, f"{base} ENCODING 'UTF8'")
        return
    like = f"ENCODING '{kept['encoding']}' LC_COLLATE '{kept['collation']}' LC_CTYPE '{kept['ctype']}'"
    if "icu_locale" in kept:
        like += f" LOCALE_PROVIDER icu ICU_LOCALE '{kept['icu_locale']}'"
    try:
        run(connection, f"{base} {like}")
    except DBAPIError as error:
        # Not a locale of that server; 42601: of a version that doesn't know the words.
        if getattr(error.orig, "sqlstate", "") not in ("42809", "22023", "42601"):
            raise
        run(connection, base)


def drop_leftovers(connection: sa.Connection, now: datetime) -> None:
    """Databases and roles that a killed drill left: by their name, which says when, and by their comment, or none
    yet."""
    for kind, listed, options in (
        ("DATABASE", "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database", " WITH (FORCE)"),
        ("ROLE", "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles", ""),
    ):
        for name, comment in connection.exec_driver_sql(listed).all():
            if is_leftover(name, now) and (comment is None or str(comment).startswith(MARKER)):
                with suppress(DBAPIError):
                    run(connection, f"DROP {kind} {name}{options}")


# --- loading into it ---------------------------------------------------------------------------------------------


class DrillLoad(Load):
    """As the drill's role. `adopted` are the definitions that were left out, by their names in `Contents`."""

    def __init__(self, url: sa.URL, account: sa.URL, live: Live) -> None:
        super().__init__(url, with_rights=False)
        self._live, self._role = live, str(url.username)
        self.untrusted = live.untrusted
        self._account = connect(account).execution_options(isolation_level="AUTOCOMMIT")
        self._made_here = {schema for _, schema, own in live.extensions.values() if not own}
        self._counts: Counter[str] = Counter()
        self.adopted: set[str] = set()

    @property
    def left_out(self) -> list[str]:
        counts = [f"{count} {what}" for what, count in sorted(self._counts.items())]
        return [*super().left_out, *([f"{', '.join(counts)}: only a superuser may make them"] if counts else [])]

    def run(self, sort: str, statement: Statement) -> None:
        words = statement.words
        if sort == "setting" and words[1] in OWN_SETTINGS:
            return
        kind = _kind_of(words)
        if kind in ("SCHEMA", "EXTENSION", "SERVER") and words[0] == "CREATE":
            self._by_the_account(kind, statement)
        elif kind in _LEFT_OUT:
            if words[0] == "CREATE":
                self._leave_out(kind, statement)
        elif words[:2] == ("COMMENT", "ON") and words[2] == "SCHEMA" and statement.name(3) == "public":
            pass  # of another owner before version 15
        elif languages(statement) & self.untrusted:
            self._counts["bodies of functions in untrusted languages"] += 1
            self._send(_stub(statement))
        elif words[0] == "REFRESH":
            self._refresh(statement)
        else:
            super().run(sort, statement)

    def _leave_out(self, kind: str, statement: Statement) -> None:
        if what := _LEFT_OUT[kind]:
            self._counts[what] += 1
        if kind == "EVENT TRIGGER":
            self.adopted.add(f"event trigger {statement.name(3)}")

    def _by_the_account(self, kind: str, statement: Statement) -> None:
        """Uses names that the live database has, or no further clause: never anything else from the dump."""
        name = statement.name(5 if statement.words[2:5] == ("IF", "NOT", "EXISTS") else 2)
        if kind == "SCHEMA" and name in self._made_here:
            # Before its extension, and where the account sees it.
            self._admin(f"CREATE SCHEMA {quoted(name)} AUTHORIZATION {self._role}")
        elif kind == "EXTENSION" and name in self._live.extensions:
            self._extension(name)
        elif kind == "SERVER":
            self._counts["options of servers of foreign data"] += 1
            with suppress(DBAPIError):  # it is there already
                self._admin(f"CREATE FOREIGN DATA WRAPPER {WRAPPER}")
            self._admin(f"CREATE SERVER {quoted(name)} FOREIGN DATA WRAPPER {WRAPPER}")
            self._admin(f"GRANT USAGE ON FOREIGN SERVER {quoted(name)} TO {self._role}")
        else:
            self._send(statement.text)

    def _extension(self, name: str) -> None:
        version, schema, own = self._live.extensions[name]
        made = f"CREATE EXTENSION IF NOT EXISTS {quoted(name)}" + ("" if own else f" WITH SCHEMA {quoted(schema)}")
        try:
            self._admin(f"{made} VERSION '{version.replace(chr(39), chr(39) * 2)}'")
        except DBAPIError as error:
            # 22023: that server has another version.
            if getattr(error.orig, "sqlstate", "") != "22023":
                raise
            self._admin(made)
        with self._account.connect() as account:
            for thing, relkind in account.execute(sa.text(_FILLED), {"name": name}).all():
                what = f"UPDATE ON SEQUENCE {thing}" if relkind == "S" else f"SELECT, INSERT ON {thing}"
                run(account, f"GRANT {what} TO {self._role}")
            for (thing,) in account.execute(sa.text(_MEMBERS), {"name": name}).all():
                run(account, f"GRANT USAGE ON SCHEMA {thing} TO {self._role}")
            if name in REACHING:
                for (thing,) in account.execute(sa.text(_FUNCTIONS), {"name": name}).all():
                    run(account, f"REVOKE EXECUTE ON FUNCTION {thing} FROM PUBLIC")

    def _admin(self, statement: str) -> None:
        with self._account.connect() as account:
            run(account, statement)

    def _refresh(self, statement: Statement) -> None:
        self._lenient.rows_end()
        self._send(b"SAVEPOINT saju_ops_refresh")
        try:
            self._send(statement.text)
        except psycopg.Error as error:
            self._send(b"ROLLBACK TO SAVEPOINT saju_ops_refresh")
            if "has no handler" not in str(error):
                super().run("run", statement)
            else:
                self._counts["materialized views of foreign data"] += 1
        self._send(b"RELEASE SAVEPOINT saju_ops_refresh")

    def _adopted(self, connection: sa.Connection) -> set[str]:
        stubs = connection.execute(sa.text(_STUBS), {"stub": STUB}).scalars()
        return {*super()._adopted(connection), *self.adopted, *map(str, stubs)}


# Kinds of objects that are left out, and their names in messages. A kind with an empty name means nothing by itself.
_LEFT_OUT = {
    "EVENT TRIGGER": "event triggers", "PUBLICATION": "publications",
    "FOREIGN DATA WRAPPER": "wrappers of foreign data", "USER MAPPING": "", "LANGUAGE": "",
    "PROCEDURAL LANGUAGE": "", "TRUSTED LANGUAGE": "", "TRUSTED PROCEDURAL LANGUAGE": "", "EXTENSION": "",
    "SERVER": "", "LABEL": "",
}  # fmt: skip


def _kind_of(words: tuple[str, ...]) -> str:
    """The kind of object above that a statement is about: CREATE, ALTER, COMMENT ON, SECURITY LABEL."""
    begin = {"CREATE": 1, "ALTER": 1, "COMMENT": 2, "SECURITY": 1}.get(words[0], len(words))
    if words[1:3] == ("OR", "REPLACE"):
        begin = 3
    for count in (3, 2, 1):
        if (kind := " ".join(words[begin : begin + count])) in _LEFT_OUT or kind == "SCHEMA":
            return kind
    return ""


def _stub(statement: Statement) -> bytes:
    """The same function with a body that does nothing, in a language that everybody may use."""
    text, tokens = statement.text, statement.tokens
    changes = []
    for number, token in enumerate(tokens[:-1]):
        if token.value == "LANGUAGE" and token.kind == "word":
            changes.append((tokens[number + 1].start, tokens[number + 1].end, b"plpgsql"))
        if token.value == "AS" and token.kind == "word" and tokens[number + 1].kind == "string":
            last = number + 1
            if [t.kind for t in tokens[number + 2 : number + 4]] == ["sign", "string"]:
                last = number + 3
            changes.append((tokens[number + 1].start, tokens[last].end, f"$stub${STUB}$stub$".encode()))
    for start, end, new in reversed(changes):
        text = text[:start] + new + text[end:]
    return text
