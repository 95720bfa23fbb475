"""Which rights a dump or its restore lacks, as the statements that an administrator runs.

Asked of the server when something was denied, by `status`, and before a restore touches anything. What can't be found
out is left out: an empty answer says that nothing is known to be missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import connect
from saju_ops.database.mysql_grants import (
    account,
    database_in_grant,
    grants_of,
    may_read_database,
    parsed,
    rights_on,
    takes_names_literally,
)
from saju_ops.dumps.mysql.rights import missing_rights
from saju_ops.errors import OperatorError

DENIED = re.compile(r"denied|permission|must be owner|privilege", re.IGNORECASE)
# Rights that the dump programs ask for, and that the statements of a dump need, on the whole database.
READ = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")
WRITE = ("SELECT", "INSERT", "CREATE", "DROP", "ALTER", "LOCK TABLES")
# What definitions of a kind need besides.
WRITE_KINDS = {
    "view": ("CREATE VIEW", "SHOW VIEW"), "trigger": ("TRIGGER",), "event": ("EVENT",),
    "procedure": ("CREATE ROUTINE", "ALTER ROUTINE"), "function": ("CREATE ROUTINE", "ALTER ROUTINE"),
}  # fmt: skip
UNREADABLE_SCHEMAS = (
    "SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p', 'S', 'm', 'v', 'f') AND n.nspname NOT LIKE 'pg\\_%%'"
    " AND n.nspname <> 'information_schema'"
    " AND NOT (has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind WHEN 'S' THEN"
    " has_sequence_privilege(c.oid, 'SELECT') ELSE has_table_privilege(c.oid, 'SELECT') END) ORDER BY 1"
)
MAY_CREATE = (
    "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE'),"
    " has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'public'"
)


def where_denied(url: sa.URL, said: str) -> str:
    """A sentence to follow a server's or program's message: the GRANT, if a right that a dump needs was denied."""
    needed = to_dump(url) if DENIED.search(said) else ""
    return f" An administrator may say: {needed}" if needed else ""


def to_dump(url: sa.URL) -> str:
    """The statements by which the address's user may dump its database; empty if none is known to be needed."""
    return _asked(url, _mysql_to_dump, _postgres_to_dump)


def to_restore(url: sa.URL, definitions: Iterable[str]) -> str:
    """The statements that let the address's user restore a dump into its database, even one that isn't there yet.
    `definitions`: those of the dump, each with its kind before its name."""
    names = [name for name in definitions if name != "extension plpgsql"]
    kinds = {name.partition(" ")[0] for name in names}
    return _asked(url, lambda url: _mysql_to_restore(url, kinds), lambda url: _postgres_to_restore(url, kinds, names))


def about_definers(url: sa.URL, definitions: Iterable[str]) -> str:
    """Further rights that a restore may need because of the dump's definers; empty if the user has them, or there are
    none."""
    kinds = {name.partition(" ")[0] for name in definitions} & WRITE_KINDS.keys()
    return _asked(url, _mysql_definers, lambda _: "") if kinds else ""


def _mysql_definers(url: sa.URL) -> str:
    with connect(url._replace(database=None)).connect() as connection:
        rights: set[str] = set()
        for verb, more, of, what, _ in parsed(grants_of(connection)):
            rights |= more if (verb, of, what) == ("GRANT", "*", "*") else set()
        to, version = account(connection), str(connection.exec_driver_sql("SELECT VERSION()").scalar())
    mariadb = "mariadb" in version.lower()
    if rights & {"ALL PRIVILEGES", "SUPER", "SET USER", "SET_ANY_DEFINER", "SET_USER_ID"}:
        return ""
    needed = "SET USER" if mariadb else "SET_ANY_DEFINER, SYSTEM_USER"
    return (
        f"Views, routines, triggers or events are in it; where a definer is another account than {to}, the server"
        f" wants: GRANT {needed} ON *.* TO {to};"
    )


def _asked(url: sa.URL, mysql: Callable[[sa.URL], str], postgres: Callable[[sa.URL], str]) -> str:
    family = url.get_backend_name()
    if family == "sqlite":
        return ""
    with suppress(DBAPIError, OperatorError):
        return postgres(url) if family == "postgresql" else mysql(url)
    return ""


def _mysql_to_dump(url: sa.URL) -> str:
    with connect(url).connect() as connection:
        database, to = str(url.database), account(connection)
        grants, literal = grants_of(connection), takes_names_literally(connection)
        version = str(connection.exec_driver_sql("SELECT VERSION()").scalar())
        engine = "mariadb" if "mariadb" in version.lower() else "mysql"
        rights = rights_on(grants, database, literal=literal)
        missing = [] if "ALL PRIVILEGES" in rights else [right for right in READ if right not in rights]
        if "SELECT" in missing and may_read_database(connection):
            missing.remove("SELECT")
        routines = "routines" in missing_rights(grants, database, engine, literal=literal)
    names = database_in_grant(grants, database, literal=literal)
    wanted = [f"GRANT {', '.join(missing)} ON {name}.* TO {to};" for name in names if missing]
    if routines:
        wanted.append(f"GRANT {'SELECT ON mysql.proc' if engine == 'mariadb' else 'SHOW_ROUTINE ON *.*'} TO {to};")
    return " ".join(wanted)


def _mysql_to_restore(url: sa.URL, kinds: set[str]) -> str:
    # Without the database, which needn't be there yet.
    with connect(url._replace(database=None)).connect() as connection:
        database, to = str(url.database), account(connection)
        grants, literal = grants_of(connection), takes_names_literally(connection)
        if not all(verb == "GRANT" for verb, *_ in parsed(grants)):
            return ""  # only the server knows what a partial revoke leaves
        rights = rights_on(grants, database, literal=literal)
    needed = dict.fromkeys([*WRITE, *(right for kind in sorted(kinds) for right in WRITE_KINDS.get(kind, ()))])
    missing = [] if "ALL PRIVILEGES" in rights else [right for right in needed if right not in rights]
    names = database_in_grant(grants, database, literal=literal)
    return " ".join(f"GRANT {', '.join(missing)} ON {name}.* TO {to};" for name in names if missing)


def _postgres_to_dump(url: sa.URL) -> str:
    with connect(url).connect() as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        to = quote(str(connection.exec_driver_sql("SELECT current_user").scalar()))
        schemas = [quote(str(row[0])) for row in connection.exec_driver_sql(UNREADABLE_SCHEMAS)]
    wanted = [
        f"GRANT USAGE ON SCHEMA {s} TO {to}; GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO {to};"
        f" GRANT SELECT ON ALL SEQUENCES IN SCHEMA {s} TO {to};"
        for s in schemas
    ]
    return " ".join(wanted).replace("%%", "%")


def _postgres_to_restore(url: sa.URL, kinds: set[str], names: list[str]) -> str:
    try:
        with connect(url).connect() as connection:
            quote = connection.dialect.identifier_preparer.quote_identifier
            found = connection.exec_driver_sql(MAY_CREATE).first()
    except DBAPIError as error:
        return _postgres_to_create(url) if getattr(error.orig, "sqlstate", None) in (None, "3D000") else ""
    if found is None:
        return ""
    user, database, in_database, in_public = found
    to, wanted = quote(str(user)), []
    if not in_database and kinds & {"schema", "extension"}:
        wanted.append(f"GRANT CREATE ON DATABASE {quote(str(database))} TO {to};")
    if not in_public and any(" public." in name for name in names):
        wanted.append(f"GRANT CREATE ON SCHEMA public TO {to};")
    return " ".join(wanted).replace("%%", "%")


def _postgres_to_create(url: sa.URL) -> str:
    """The statement for a database that isn't there."""
    with connect(url.set(database="postgres")).connect() as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        may = "SELECT rolname, rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
        user, allowed = connection.exec_driver_sql(may).one()
    return "" if allowed else f"ALTER ROLE {quote(str(user))} CREATEDB;".replace("%%", "%")
