"""Which partitions a log table has, as the server's catalogue says, and of what time each holds the rows.

Knows partitions by RANGE of created_at alone: UNIX_TIMESTAMP(created_at) or RANGE COLUMNS (created_at) on MySQL and
MariaDB, RANGE (created_at) on PostgreSQL, whoever made them and whatever they are called. Reads only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.rows.days import moment, naive_bound
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import TIME_COLUMN

PARTITIONS = sa.text(
    "SELECT PARTITION_NAME, PARTITION_METHOD, PARTITION_EXPRESSION, PARTITION_DESCRIPTION, SUBPARTITION_METHOD"
    " FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND PARTITION_NAME IS NOT NULL ORDER BY PARTITION_ORDINAL_POSITION, SUBPARTITION_ORDINAL_POSITION"
)
POSTGRES_KIND = sa.text(
    "SELECT c.oid, c.relkind = 'p', COALESCE(pg_get_partkeydef(c.oid), '') FROM pg_class c"
    " WHERE c.oid = to_regclass(:name)"
)
POSTGRES_PARTITIONS = sa.text(
    "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
    " WHERE i.inhparent = :oid"
)
BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|'[^']*')\) TO \((MAXVALUE|'[^']*')\)")
SQLITE = (
    "Partitions are not supported on SQLite: a table is one tree in one file, so a month can't leave as a whole. The"
    " purge deletes its rows in chunks. Nothing was done."
)


@dataclass(frozen=True)
class Partition:
    """Rows with start <= created_at < end; None where there is no such bound."""

    name: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True)
class Layout:
    """The partitions in the order of their time."""

    partitions: tuple[Partition, ...]
    # Whether boundaries are seconds since 1970; else they are written as created_at is.
    in_seconds: bool

    @property
    def future(self) -> Partition | None:
        """The one without an upper bound."""
        last = self.partitions[-1]
        return last if last.end is None else None

    @property
    def last_bound(self) -> datetime | None:
        """Where the last partition ends that has an end."""
        return max((p.end for p in self.partitions if p.end is not None), default=None)

    def wholly_before(self, cutoff: datetime) -> list[Partition]:
        return [p for p in self.partitions if p.end is not None and p.end <= cutoff]

    def boundary(self, store: RowStore, instant: datetime) -> str:
        """A boundary as SQL: a number, or a quoted time, with nothing in it that the session's zone could change."""
        if self.in_seconds:
            return str(int(instant.timestamp()))
        return f"'{written(store, instant)}'"


def written(store: RowStore, instant: datetime) -> str:
    """An instant as created_at keeps it, in the zone of the table's times."""
    if store.table.time_type == "timestamptz":
        return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")
    zone = UTC if store.table.time_type == "timestamp" and store.table.engine != "postgresql" else store.zone
    return naive_bound(instant, zone).strftime("%Y-%m-%d %H:%M:%S")


def layout_of(store: RowStore) -> Layout | None:
    """None for a table without partitions. Raises Refused for one whose partitions are not of created_at's ranges, and
    on SQLite."""
    try:
        if store.table.engine == "sqlite":
            raise Refused(SQLITE)
        return _postgres(store) if store.table.engine == "postgresql" else _mysql(store)
    finally:
        store.end_read()


def _refused(store: RowStore, how: str) -> Refused:
    return Refused(
        f"{store.table.name} is partitioned by {how}, not by the months of {TIME_COLUMN}, so its partitions are left"
        " alone; the purge deletes archived rows of it in chunks. Nothing was done."
    )


def _mysql(store: RowStore) -> Layout | None:
    rows = [tuple(map(_text, row)) for row in store.connection.execute(PARTITIONS, {"name": store.table.name})]
    if not rows:
        return None
    _, method, expression, _, sub = rows[0]
    plain = re.sub(r"[`\s]", "", expression).lower()
    in_seconds = (method, plain) == ("RANGE", f"unix_timestamp({TIME_COLUMN})")
    if sub or not (in_seconds or (method, plain) == ("RANGE COLUMNS", TIME_COLUMN)):
        raise _refused(store, f"{method} ({expression})")
    found, start = [], None
    for name, _, _, bound, _ in rows:
        end = None if bound == "MAXVALUE" else _mysql_bound(bound, store.zone)
        found.append(Partition(name, start, end))
        start = end
    return Layout(tuple(found), in_seconds)


def _mysql_bound(text: str, zone: ZoneInfo) -> datetime:
    if text.startswith("'"):
        return moment(datetime.fromisoformat(text.strip("'")), zone)
    return datetime.fromtimestamp(int(text), UTC)


def _postgres(store: RowStore) -> Layout | None:
    name = store.connection.dialect.identifier_preparer.quote(store.table.name).replace("%%", "%")
    oid, is_partitioned, key = store.connection.execute(POSTGRES_KIND, {"name": name}).one()
    if not is_partitioned:
        return None
    if key.replace('"', "") != f"RANGE ({TIME_COLUMN})":
        raise _refused(store, key)
    found = []
    for part, bound in store.connection.execute(POSTGRES_PARTITIONS, {"oid": oid}):
        match = BOUNDS.fullmatch(str(bound))
        if match is None:
            raise _refused(store, f"ranges with a partition {part} {bound}")
        low, high = (_postgres_bound(text, store.zone) for text in match.groups())
        found.append(Partition(str(part), low, high))
    return Layout(tuple(sorted(found, key=lambda p: (p.start is not None, p.start or p.end))), False) if found else None


def _postgres_bound(text: str, zone: ZoneInfo) -> datetime | None:
    return None if text in ("MINVALUE", "MAXVALUE") else moment(datetime.fromisoformat(text.strip("'")), zone)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)


def quoted(store: RowStore, name: str) -> str:
    """A name as the server's SQL has it."""
    return store.connection.dialect.identifier_preparer.quote(name).replace("%%", "%")


def run(store: RowStore, statement: str) -> None:
    """A statement that was put together of quoted names and numbers."""
    store.connection.exec_driver_sql(statement.replace("%", "%%"))


def unpartitioned(table: str, names: Sequence[str] = ()) -> Refused:
    return Refused(
        f"{table} has no partitions, so there are none to rotate. Nothing was done; the opt-in migration"
        " `saju-ops migrate up partitioned_logs@head` makes it a table with a partition for each month"
        " (docs/partitions.md)."
    )
