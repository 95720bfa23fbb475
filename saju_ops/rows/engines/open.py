"""One log table on one server: the four engines behind one interface."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.address import redacted
from saju_ops.database.address_options import options_of
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.engines.base import RowStore
from saju_ops.rows.engines.interface import NoSuchTable, Selection

__all__ = ["RowStore", "Selection", "open_log_store", "open_row_store"]


def open_log_store(url: sa.URL | str, table: str, zone: ZoneInfo, *, bulk_load: bool = False) -> RowStore:
    """Connects and looks at the table.

    `zone` is the zone of time columns that have none. Raises Refused where the table can't be archived (no
    such table, no key, no created_at, a type that isn't known), and OperatorError where the server can't be
    reached. Touches no row.
    """
    store = open_row_store(url, table, zone, bulk_load=bulk_load)
    try:
        store.require_days()
    except BaseException:
        store.close()
        raise
    return store


def open_row_store(url: sa.URL | str, table: str, zone: ZoneInfo, *, bulk_load: bool = False) -> RowStore:
    """The same for a table that isn't used by days: it needs no created_at. Raises NoSuchTable, too.

    `schema.table` is looked for in that schema, and on MySQL and MariaDB in that database, unless a table has that
    whole name; other unqualified names of the connection are then looked for there first."""
    parsed = sa.make_url(url) if isinstance(url, str) else url
    try:
        return _open(parsed, table, zone, bulk_load)
    except NoSuchTable as missing:
        schema, _, name = table.rpartition(".")
        if not schema or not name:
            raise
        try:
            return _open(_in_schema(parsed, schema), name, zone, bulk_load)
        except Refused:
            raise
        except OperatorError as error:
            # A table whose name has a dot in it may be about to be made: there need be no database of that name.
            raise NoSuchTable(f"{missing} Nor is {schema} another database to look in: {error}") from None


def _in_schema(url: sa.URL, schema: str) -> sa.URL:
    backend = url.get_backend_name()
    if backend in ("mysql", "mariadb"):
        return url.set(database=schema)
    if backend == "postgresql":
        quoted = schema.replace('"', '""').replace("\\", "\\\\").replace(" ", "\\ ")
        # The later of two holds.
        own = options_of(url).get("options", "")
        return url.update_query_dict({"options": f'{own} -csearch_path="{quoted}","$user",public'.strip()})
    if schema.casefold() == "main":
        return url
    raise NoSuchTable(
        f"{redacted(url)} has no table in {schema}: a SQLite file has no schema but main. Nothing was done."
    )


def _open(parsed: sa.URL, table: str, zone: ZoneInfo, bulk_load: bool) -> RowStore:
    backend = parsed.get_backend_name()
    if backend in ("mysql", "mariadb"):
        from saju_ops.rows.engines.mysql.store import MySQLRowStore

        return MySQLRowStore(parsed, table, zone, bulk_load)
    if backend == "postgresql":
        from saju_ops.rows.engines.postgres.store import PostgresRowStore

        return PostgresRowStore(parsed, table, zone, bulk_load)
    if backend == "sqlite":
        from saju_ops.rows.engines.sqlite.store import SQLiteRowStore

        return SQLiteRowStore(parsed, table, zone, bulk_load)
    raise Refused(f"The engine {backend!r} is not one that saju_ops can archive.")
