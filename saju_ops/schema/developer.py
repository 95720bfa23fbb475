"""A developer's account: it may read the masked view and nothing else.

Promises: what the account may do is looked at afterwards; where it is more than to read the view, the account is as it
was before, and the sentence says what it may do. The password is never shown; PostgreSQL is given the hash that it
keeps, and MySQL and MariaDB write such statements into their logs without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.database.mysql_grants import parsed
from saju_ops.errors import OperatorError, Refused
from saju_ops.schema.masked_view import VIEW, has_view

NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
SHORTEST_PASSWORD = 12
ANY_HOST = "%"
# Every relation of the service's own that the role may use, in whatever way it got the right.
READABLE = sa.text(
    "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    " AND n.nspname NOT LIKE 'pg\\_%' AND c.oid <> to_regclass(quote_ident(:view))"
    " AND (CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(:role, c.oid, 'USAGE, SELECT, UPDATE') ELSE"
    " has_table_privilege(:role, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')"
    " OR has_any_column_privilege(:role, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END) ORDER BY 1"
)
WRITABLE = sa.text(
    "SELECT has_table_privilege(:role, to_regclass(quote_ident(:view)), 'INSERT, UPDATE, DELETE, TRUNCATE')"
)
ROLE = sa.text(
    "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR EXISTS (SELECT 1 FROM"
    " pg_auth_members m WHERE m.member = r.oid) FROM pg_roles r WHERE rolname = :role"
)


def make_developer(url: sa.URL, name: str, password: str) -> str:
    """Makes the account, or gives it this password, and lets it read the view. Returns the account's name. Raises
    Refused and OperatorError; then the account may do no more than before."""
    _require(name, password)
    backend = url.get_backend_name()
    if backend == "sqlite":
        raise Refused(
            "SQLite has no accounts, so none can be made that sees the masked view alone: a login that can open the"
            " file can read the sessions. Nothing was touched. Give developers a masked dump (`saju-ops dump"
            " --masked`)."
        )
    try:
        return _mysql(url, name, password) if backend in ("mysql", "mariadb") else _postgres(url, name, password)
    except DBAPIError as error:
        raise OperatorError(
            f"The account {name} could not be made at {redacted(url)} ({error_text(error)}). It may do no more than"
            " before. The account of DATABASE_URL needs CREATE USER and GRANT OPTION (MySQL, MariaDB) or CREATEROLE"
            " (PostgreSQL); or make it as an administrator."
        ) from None


def _require(name: str, password: str) -> None:
    if not NAME.fullmatch(name):
        raise Refused(
            f"DEVELOPER_USER holds {name!r}; it may hold 1 to 32 letters, digits, dots, hyphens and underscores."
            " Nothing was touched."
        )
    if len(password) < SHORTEST_PASSWORD:
        raise Refused(
            f"DEVELOPER_PASSWORD has {len(password)} characters; it may have {SHORTEST_PASSWORD} and more. Nothing was"
            " touched."
        )


# --- MySQL and MariaDB -----------------------------------------------------------------------------------------------


def _mysql(url: sa.URL, name: str, password: str) -> str:
    with connect(url).connect() as connection:
        _require_view(connection)
        before = _mysql_rights(connection, name)
        if before is not None and (more := _beyond_the_view(before, str(url.database))):
            raise _more_than_the_view(f"'{name}'@'{ANY_HOST}'", more)
        view = f"{_mysql_name(str(url.database))}.{_mysql_name(VIEW)}"
        try:
            if before is None:
                _execute(connection, "CREATE USER %s@%s IDENTIFIED BY %s", name, ANY_HOST, password)
            else:
                _execute(connection, "ALTER USER %s@%s IDENTIFIED BY %s", name, ANY_HOST, password)
            _execute(connection, f"GRANT SELECT ON {view} TO %s@%s", name, ANY_HOST)
        except DBAPIError:
            if before is None:
                _execute(connection, "DROP USER IF EXISTS %s@%s", name, ANY_HOST)
            raise
        after = _mysql_rights(connection, name) or []
        if more := _beyond_the_view(after, str(url.database)):
            _execute(connection, "DROP USER IF EXISTS %s@%s", name, ANY_HOST)
            raise _more_than_the_view(f"'{name}'@'{ANY_HOST}'", more)
    return f"'{name}'@'{ANY_HOST}'"


def _mysql_rights(connection: sa.Connection, name: str) -> list[str] | None:
    """The lines of SHOW GRANTS; None where there is no such account."""
    try:
        return [str(row[0]) for row in _execute(connection, "SHOW GRANTS FOR %s@%s", name, ANY_HOST)]
    except DBAPIError as error:
        if getattr(error.orig, "args", (0,))[0] != 1141:  # no such grant: no such account
            raise
        return None


def _beyond_the_view(grants: Sequence[str], database: str) -> str:
    """What the account may do besides reading the view. A line that can't be read counts, such as one of a role."""
    found = []
    for grant in grants:
        lines = parsed([grant])
        if not lines:
            found.append(" ".join(grant.split()[:2]) + " …")
        found += [
            f"{', '.join(sorted(rights))} ON {of}.{what}" for _, rights, of, what, _ in lines
            if rights != {"USAGE"} and (of.casefold(), what.casefold(), set(rights)) != (
                database.casefold(), VIEW.casefold(), {"SELECT"})
        ]  # fmt: skip
    return "; ".join(found)


def _execute(connection: sa.Connection, statement: str, *values: str) -> Any:
    return connection.exec_driver_sql(statement, values)


def _mysql_name(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def _postgres(url: sa.URL, name: str, password: str) -> str:
    """In one transaction: where the role may do more, nothing of it happened."""
    with connect(url).connect() as connection, connection.begin():
        _require_view(connection)
        role = connection.dialect.identifier_preparer.quote_identifier(name)
        database = connection.dialect.identifier_preparer.quote_identifier(str(url.database))
        driver: Any = connection.connection.driver_connection
        # The hash that the server keeps: the password itself is in no log and no list of statements.
        verifier = driver.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
        there = connection.execute(ROLE, {"role": name}).scalar()
        if there:
            raise _more_than_the_view(name, "it is a superuser, a member of another role or has rights of the server")
        verb = "CREATE" if there is None else "ALTER"
        _run(connection, f"{verb} ROLE {role} LOGIN PASSWORD '{verifier}'")
        schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
        _run(connection, f"GRANT CONNECT ON DATABASE {database} TO {role}")
        _run(connection, f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        _run(connection, f"GRANT SELECT ON {schema}.{VIEW} TO {role}")
        others = [str(row[0]) for row in connection.execute(READABLE, {"role": name, "view": VIEW})]
        if connection.execute(WRITABLE, {"role": name, "view": VIEW}).scalar():
            others.append(f"{VIEW} for writing")
        if others:
            raise _more_than_the_view(name, f"{', '.join(others[:5])}{' …' if len(others) > 5 else ''}")
    return name


def _run(connection: sa.Connection, statement: str) -> None:
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


# --- both ------------------------------------------------------------------------------------------------------------


def _require_view(connection: sa.Connection) -> None:
    if not has_view(connection):
        raise Refused(
            f"The database has no view {VIEW}, so there is nothing that a developer's account could see. Nothing was"
            " touched. Make it with `saju-ops migrate up masked_view@head`."
        )


def _more_than_the_view(account: str, what: str) -> Refused:
    return Refused(
        f"The account {account} may see or do more than to read {VIEW} ({what}), so a developer would see what is not"
        " masked. It may do no more than before this. Take those rights from it (or from PUBLIC, if everybody has"
        " them), or name another account in DEVELOPER_USER."
    )
