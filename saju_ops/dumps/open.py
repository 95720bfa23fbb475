"""The dump engine of an address."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.dumps.engine import UTC_ZONE

if TYPE_CHECKING:
    from saju_ops.dumps.engine import DumpEngine


def open_engine(url: sa.URL, zone: ZoneInfo = UTC_ZONE) -> DumpEngine:
    """The engine of a database's address. Opens nothing yet. `zone` is that of the time in the name of a file that a
    restore puts aside."""
    family = url.get_backend_name()
    if family == "sqlite":
        from saju_ops.dumps.sqlite import SQLiteDumps

        return SQLiteDumps(url, zone)
    if family == "postgresql":
        from saju_ops.dumps.postgres.engine import PostgresDumps

        return PostgresDumps(url)
    from saju_ops.dumps.mysql.engine import MySQLDumps

    return MySQLDumps(url)
