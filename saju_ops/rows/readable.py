"""Whether the account may read every column of a table: an archive would lack a column that it may not read.

MySQL and MariaDB leave such columns out of information_schema and say nothing: a purge once deleted rows whose sixth
column no archive had. SHOW CREATE TABLE leaves out none, invisible columns included, and needs any right on the whole
table. PostgreSQL's catalogue shows everything to every role and is asked for the rights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.mysql_grants import DENIED, NO_TABLE, account, error_number
from saju_ops.errors import Refused

# No such table, or a name that no table can have.
NOT_THERE = {NO_TABLE, 1059, 1103}
# A line of SHOW CREATE TABLE that defines a column. In comments and defaults it writes a line feed as \n.
COLUMN = re.compile(r"^  `((?:[^`]|``)+)` ", re.MULTILINE)
UNREADABLE = sa.text(
    "SELECT a.attname, n.nspname, has_schema_privilege(n.oid, 'USAGE'), current_user"
    " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.oid = :oid AND a.attnum > 0 AND NOT a.attisdropped"
    " AND NOT (has_column_privilege(c.oid, a.attnum, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'))"
    " ORDER BY a.attnum"
)
# Rows of tables that inherit from this one are its rows too, without the columns that it lacks.
INHERITED = sa.text(
    "WITH RECURSIVE own(oid) AS (SELECT CAST(:oid AS oid) UNION SELECT i.inhrelid FROM pg_inherits i JOIN own"
    " ON i.inhparent = own.oid)"
    " SELECT own.oid::regclass::text || '.' || a.attname FROM own JOIN pg_attribute a ON a.attrelid = own.oid"
    " WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT IN (SELECT p.attname FROM pg_attribute p"
    " WHERE p.attrelid = :oid AND p.attnum > 0 AND NOT p.attisdropped) ORDER BY 1"
)


def require_readable(connection: sa.Connection, table: str, schema: str | None = None) -> None:
    """MySQL and MariaDB: raises Refused where the account may not read every column of the table, naming them and the
    GRANT; and for a view. Does nothing where there is no such table. Reads no row."""
    quote = connection.dialect.identifier_preparer.quote
    name = f"{quote(schema)}.{quote(table)}" if schema else quote(table)
    connection.exec_driver_sql("SET SESSION sql_quote_show_create = 1")
    try:
        definition = connection.exec_driver_sql(f"SHOW CREATE TABLE {name}")
    except DBAPIError as error:
        if error_number(error) in NOT_THERE:
            return
        if error_number(error) not in DENIED:
            raise
        if _seen(connection, table, schema):
            _refuse(connection, table, schema, "it has rights on single columns alone, and others may be there")
        return
    if next(iter(definition.keys())) == "View":
        raise Refused(
            f"{_shown(connection, table, schema)} is a view. Nothing was done; name the table that it reads, whose rows"
            " have a key and can be compared and locked."
        )
    columns = [column.replace("``", "`") for column in COLUMN.findall(_body(definition.one()[1]))]
    if not _can_read(connection, name, columns):
        _refuse(connection, table, schema, ", ".join(c for c in columns if not _can_read(connection, name, [c])))


def require_readable_by_oid(connection: sa.Connection, table: str, oid: int) -> None:
    """The same for PostgreSQL, and for columns that only tables have which inherit from this one."""
    if more := connection.execute(INHERITED, {"oid": oid}).scalars().all():
        raise Refused(
            f"{', '.join(more)}: rows of a table that inherits from {table} are rows of {table} too, but for these"
            " columns. They would be archived and deleted without what is in them. Nothing was done; give both tables"
            " the same columns, or end it with ALTER TABLE … NO INHERIT."
        )
    rows = connection.execute(UNREADABLE, {"oid": oid}).all()
    if not rows:
        return
    _, schema, usage, user = rows[0]
    quote = connection.dialect.identifier_preparer.quote
    needed = f"GRANT SELECT ON {quote(schema)}.{quote(table)} TO {quote(user)}"
    if not usage:
        needed = f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(user)}; {needed}"
    raise Refused(_sentence(f"{schema}.{table}", ", ".join(row[0] for row in rows), needed.replace("%%", "%")))


def _body(definition: object) -> str:
    """The part between the brackets."""
    text = definition.decode() if isinstance(definition, bytes) else str(definition)
    return text.partition("\n)")[0]


def _can_read(connection: sa.Connection, name: str, columns: Sequence[str]) -> bool:
    quote = connection.dialect.identifier_preparer.quote_identifier
    try:
        connection.exec_driver_sql(f"SELECT {', '.join(map(quote, columns))} FROM {name} LIMIT 0").close()  # noqa: S608
    except DBAPIError as error:
        if error_number(error) not in DENIED:
            raise
        return False
    return True


def _seen(connection: sa.Connection, table: str, schema: str | None) -> bool:
    query = sa.text(
        "SELECT COUNT(*) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE())"
        " AND TABLE_NAME = :name"
    )
    return bool(connection.execute(query, {"schema": schema, "name": table}).scalar())


def _refuse(connection: sa.Connection, table: str, schema: str | None, columns: str) -> None:
    database = schema or connection.exec_driver_sql("SELECT DATABASE()").scalar()
    needed = f"GRANT SELECT ON `{database}`.`{table}` TO {account(connection)}"
    raise Refused(_sentence(f"{database}.{table}", columns, needed))


def _sentence(table: str, columns: str, needed: str) -> str:
    return (
        f"This account may not read every column of {table} ({columns}). Rows would be archived, restored or deleted"
        f" without what is in them. Nothing was done; {needed}."
    )


def _shown(connection: sa.Connection, table: str, schema: str | None) -> str:
    return f"{schema or connection.exec_driver_sql('SELECT DATABASE()').scalar()}.{table}"
