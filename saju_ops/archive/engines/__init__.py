"""One log table on one server: the four engines behind one interface."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.engines.base import LogStore, Selection
from saju_ops.errors import Refused

__all__ = ["LogStore", "Selection", "open_log_store", "open_row_store"]


def open_log_store(url: sa.URL | str, table: str, zone: ZoneInfo, *, bulk_load: bool = False) -> LogStore:
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


def open_row_store(url: sa.URL | str, table: str, zone: ZoneInfo, *, bulk_load: bool = False) -> LogStore:
    """The same for a table whose days nobody asks for: it needs no created_at. Raises NoSuchTable, too."""
    parsed = sa.make_url(url) if isinstance(url, str) else url
    backend = parsed.get_backend_name()
    if backend in ("mysql", "mariadb"):
        from saju_ops.archive.engines.mysql import MySQLLogStore

        return MySQLLogStore(parsed, table, zone, bulk_load)
    if backend == "postgresql":
        from saju_ops.archive.engines.postgres import PostgresLogStore

        return PostgresLogStore(parsed, table, zone, bulk_load)
    if backend == "sqlite":
        from saju_ops.archive.engines.sqlite import SQLiteLogStore

        return SQLiteLogStore(parsed, table, zone, bulk_load)
    raise Refused(f"The engine {backend!r} is not one that saju_ops can archive.")
