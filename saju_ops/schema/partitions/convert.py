"""Makes the log table of MySQL or MariaDB one with a partition for each month, and a plain one again.

It says beforehand how, how long about, how much space and what is blocked. Refused before anything is changed: rows
without created_at, which would silently become now; a unique key or a full-text index that partitions can't have; a
table that others reference. It may be broken off at any moment: the table is then the old one or the new one, with
every row, and the next run continues.

The foreign key to the sessions is dropped, since a partitioned table can have none; its cascade is replaced by
`purge_expired_sessions`, row by row compared with the archive, as on a table without the key.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text
from saju_ops.database.mysql_grants import error_number
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.engines.session import broken_off
from saju_ops.rows.table import TIME_COLUMN
from saju_ops.schema.partitions import online
from saju_ops.schema.partitions.blockers import blockers
from saju_ops.schema.partitions.catalogue import SQLITE, Layout, layout_of, quoted, run
from saju_ops.schema.partitions.months import Month, free_names, month_of, months
from saju_ops.schema.partitions.mover import FUTURE, LOCK_WAIT_SECONDS, Blocked
from saju_ops.schema.partitions.mysql import MySQLMover, waiting_briefly
from saju_ops.schema.partitions.remembered import Before, Key, comment_of, keys_of, literal, remembered
from saju_ops.schema.partitions.rights import TO_MOVE, require_rights
from saju_ops.words import are, counted, have

POSTGRES = (
    "A table of PostgreSQL can't become a partitioned one: another has to take its name, and grants, views and triggers"
    " stay with the old one. Nothing was done. Make the partitioned table by hand (docs/partitions.md); the"
    " rotation then works on it."
)
SAMPLED = 20_000
LOCK_TIMEOUT = 1205
# Months that are made for rows of the past; what is older is in the first.
MOST_BEFORE = 240
TO_CONVERT = TO_MOVE | {"REFERENCES"}
ONLINE = TO_CONVERT | {"TRIGGER", "UPDATE"}
INDEXES = sa.text(
    "SELECT INDEX_NAME, NON_UNIQUE, INDEX_TYPE, COLUMN_NAME FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)
SIZE = sa.text(
    "SELECT TABLE_ROWS, DATA_LENGTH + INDEX_LENGTH, ENGINE FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)


@dataclass(frozen=True)
class Conversion:
    """What making partitions would do; `done` where the table has them already."""

    table: str
    way: str
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    months: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    done: bool = False

    def sentences(self) -> list[str]:
        if self.done:
            return [f"{self.table} has a partition for each month already. Nothing is to be done."]
        blocked = (
            "writers and readers go on; each new copy of the table takes its last rows over by triggers"
            if self.way == online.TOOL
            else "readers go on, and writers wait until it is done"
        )
        gone = ", ".join(key.name for key in self.keys) or "none"
        return [
            f"{self.table}: {counted(self.rows, 'row')}, {self.bytes / 1e6:,.0f} MB, by {self.way}.",
            f"It takes about {max(1, round(self.seconds)):,} s, measured by a sample on this server, and"
            f" {self.bytes * 1.2 / 1e6:,.0f} MB of disk meanwhile. Meanwhile {blocked}.",
            f"Partitions: {self.months[0]} to {self.months[-1]}, and {FUTURE}. Foreign keys that go: {gone};"
            " purge_expired_sessions does what their cascade did.",
        ]


def plan_conversion(store: RowStore, *, now: datetime, ahead: int, zone: ZoneInfo, way: str = "auto") -> Conversion:
    """Looks, and takes a sample in a table of its own that is gone afterwards. `way` is `auto`, `alter` or the name of
    the tool that does it while writers go on. Raises Refused."""
    if store.table.engine == "sqlite":
        raise Refused(SQLITE)
    if store.table.engine == "postgresql":
        raise Refused(POSTGRES)
    if layout_of(store) is not None:
        return Conversion(store.table.name, "nothing", done=True)
    require_rights(store, TO_CONVERT, "partitions")
    _require_fit(store)
    _require_times(store)
    rows, size = _size(store)
    wanted = _wanted_months(store, now, ahead, zone)
    keys = keys_of(store)
    chosen = _way(store, way)
    body = _body(store, wanted, _before(store, keys))
    statements = [
        *(f"ALTER TABLE {_name(store)} {_drop_key(store, key)}" for key in keys),
        f"ALTER TABLE {_name(store)} {body}, ALGORITHM=COPY, LOCK=SHARED",
    ]
    seconds = rows / max(1.0, _rows_per_second(store, rows)) if rows else 0.0
    return Conversion(
        store.table.name, chosen, rows, size, seconds * (2 if chosen == online.TOOL else 1),
        tuple(month.name for month in wanted), tuple(statements), keys,
    )  # fmt: skip


def convert(
    store: RowStore, *, now: datetime, ahead: int, zone: ZoneInfo, way: str = "auto",
    say: Callable[[str], None] = lambda _: None, wait: float = 10.0,
) -> Conversion:  # fmt: skip
    """Does it, or nothing where it is done. Raises Refused, Busy, Blocked; OperatorError where the server broke it off,
    and then the table is as it was."""
    plan = plan_conversion(store, now=now, ahead=ahead, zone=zone, way=way)
    with broken_off(lambda text: _broken(store, text)), store.lock("partitions", wait), store.lock("purge", wait):
        online.clean_up(store)
        if plan.done:
            return plan
        for sentence in plan.sentences():
            say(sentence)
        before = _before(store, keys_of(store))
        with waiting_briefly(store):
            _alter(store, f"COMMENT = {literal(before.text())}")
            try:
                for key in keys_of(store):
                    _alter(store, _drop_key(store, key))
                body = _body(store, _wanted_months(store, now, ahead, zone), before)
                if plan.way == online.TOOL:
                    online.run_tool(store, body, say)
                else:
                    _alter(store, body, last=", ALGORITHM=COPY, LOCK=SHARED")
            except BaseException:
                _undo(store, before)
                raise
    if layout_of(store) is None:
        raise OperatorError(f"{store.table.name} has no partitions though the server said that it made them.")
    return plan


def convert_back(store: RowStore, *, say: Callable[[str], None] = lambda _: None, wait: float = 10.0) -> bool:
    """The plain table again, with the keys, the comment and the primary key that it had. False where it is plain.

    Readers go on, writers wait. Raises Refused where two rows have one old primary key."""
    if store.table.engine == "sqlite":
        raise Refused(SQLITE)
    if store.table.engine == "postgresql":
        raise Refused(POSTGRES)
    require_rights(store, TO_CONVERT, "partitions")
    before = remembered(store) or Before(comment_of(store), tuple(c for c in store.table.key if c != TIME_COLUMN))
    with broken_off(lambda text: _broken(store, text)), store.lock("partitions", wait), store.lock("purge", wait):
        online.clean_up(store)
        partitioned = layout_of(store) is not None
        if not partitioned and remembered(store) is None:
            return False
        _require_nothing_out(store)
        with waiting_briefly(store):
            if partitioned:
                _require_old_key(store, before)
                say(f"{store.table.name} is made a plain table; writers wait until it is done.")
                # Last of all, so that a kill leaves the comment, by which the keys are made again.
                _alter(store, _old_body(store, before), last=" REMOVE PARTITIONING")
            _undo(store, before)
    return True


# --- before ---------------------------------------------------------------------------------------------------------


def _require_fit(store: RowStore) -> None:
    table = store.table
    if table.children:
        names = ", ".join(sorted({child.table for child in table.children}))
        raise Refused(
            f"{table.name} is referenced by foreign keys of {names}, and a partitioned table can't be. Nothing was"
            " done."
        )
    if table.time_type not in ("timestamp", "datetime"):
        raise Refused(
            f"{table.name}.{TIME_COLUMN} is of the type {table.time_type}; a timestamp or datetime is needed. Nothing"
            " was done."
        )
    kind = table.column(TIME_COLUMN).type.lower()
    if table.engine == "mysql" and table.time_type == "timestamp" and not re.match(r"timestamp(\(0\))?(?!\()", kind):
        raise Refused(
            f"{table.name}.{TIME_COLUMN} keeps fractions of a second, and MySQL finds months of a timestamp by whole"
            " seconds only. Nothing was done; make the column `timestamp` (its fractions are lost) or `datetime(6)`."
        )
    columns: dict[str, tuple[bool, str, list[str]]] = {}
    for name, non_unique, kind, column in store.connection.execute(INDEXES, {"name": table.name}):
        columns.setdefault(str(name), (not int(non_unique), str(kind), []))[2].append(str(column))
    store.end_read()
    for name, (unique, kind, named) in columns.items():
        if kind in ("FULLTEXT", "SPATIAL"):
            raise Refused(f"The index {name} is {kind}, which a partitioned table can't have. Nothing was done.")
        if unique and name != "PRIMARY" and TIME_COLUMN not in named:
            raise Refused(
                f"The unique key {name} ({', '.join(named)}) doesn't contain {TIME_COLUMN}, which each unique key of a"
                " partitioned table must. Nothing was done; make it an index that isn't unique, or add the column."
            )
    if "PRIMARY" not in columns:
        raise Refused(f"{table.name} has no primary key. Nothing was done; give it one.")


def _require_times(store: RowStore) -> None:
    """Raises Refused where a row has no created_at, or none that is a time: the server would make now of it."""
    nulls = store.undated(datetime(1970, 1, 2, tzinfo=ZoneInfo("UTC")))
    lost = nulls["rows_without_created_at"]
    if lost:
        raise Refused(
            f"{counted(lost, 'row')} of {store.table.name} {have(lost)} no {TIME_COLUMN}, and would silently get the"
            f" present time with partitions. Nothing was done; give {'it' if lost == 1 else 'them'} a time first."
        )


def _way(store: RowStore, way: str) -> str:
    if way not in ("auto", "alter", online.TOOL):
        raise Refused(f"The way is {way!r}; it may be auto, alter or {online.TOOL}. Nothing was done.")
    if way == "alter":
        return "one ALTER TABLE"
    why_not = online.why_not(store)
    if not why_not:
        try:
            require_rights(store, ONLINE, "partitions")
        except Refused as refusal:
            why_not = str(refusal)
    if why_not and way == online.TOOL:
        raise Refused(f"{online.TOOL} can't be used here: {why_not.rstrip('.')}. Nothing was done.")
    return "one ALTER TABLE" if why_not else online.TOOL


def _size(store: RowStore) -> tuple[int, int]:
    rows, size, kind = store.connection.execute(SIZE, {"name": store.table.name}).one()
    store.end_read()
    if str(kind).lower() != "innodb":
        raise Refused(f"{store.table.name} is of the storage engine {kind}; only InnoDB is known. Nothing was done.")
    return int(rows or 0), int(size or 0)


def _rows_per_second(store: RowStore, rows: int) -> float:
    """By copying some rows into a table of the same shape, which is gone afterwards."""
    name = quoted(store, f"saju_ops_sample_{abs(hash(store.table.name)) % 10**8}")
    run(store, f"DROP TABLE IF EXISTS {name}")
    try:
        run(store, f"CREATE TEMPORARY TABLE {name} LIKE {_name(store)}")
        began = time.monotonic()
        run(store, f"INSERT INTO {name} SELECT * FROM {_name(store)} LIMIT {SAMPLED}")  # noqa: S608
        store.end_read()
        return min(rows, SAMPLED) / max(0.001, time.monotonic() - began)
    except DBAPIError:
        store.end_read()
        return float(SAMPLED)  # as slow as anything that was seen
    finally:
        if not store.connection.invalidated:
            run(store, f"DROP TEMPORARY TABLE IF EXISTS {name}")


# --- statements -----------------------------------------------------------------------------------------------------


def _name(store: RowStore) -> str:
    return quoted(store, store.table.name)


def _drop_key(store: RowStore, key: Key) -> str:
    # First and alone: MariaDB refuses it together with PARTITION BY (1217).
    return f"DROP FOREIGN KEY {quoted(store, key.name)}, ALGORITHM=INPLACE, LOCK=NONE"


def _wanted_months(store: RowStore, now: datetime, ahead: int, zone: ZoneInfo) -> list[Month]:
    present = month_of(now, zone)
    oldest = store.instants("asc")
    first = max(month_of(oldest, zone), present.next(-MOST_BEFORE)) if oldest is not None else present
    return list(months(min(first, present), present.next(ahead)))


def _primary(store: RowStore) -> tuple[str, ...]:
    rows = store.connection.execute(INDEXES, {"name": store.table.name}).all()
    store.end_read()
    return tuple(str(row[3]) for row in rows if row[0] == "PRIMARY")


def _before(store: RowStore, keys: tuple[Key, ...]) -> Before:
    """What is to be kept: of a run that was broken off, what that one kept."""
    known = remembered(store)
    if known is not None:
        there = {key.name for key in known.keys}
        more = tuple(key for key in keys if key.name not in there)
        return Before(known.comment, known.primary, (*known.keys, *more), known.nullable)
    return Before(comment_of(store), _primary(store), keys, store.table.column(TIME_COLUMN).nullable)


def _body(store: RowStore, wanted: list[Month], before: Before) -> str:
    in_seconds = store.table.time_type == "timestamp"
    layout = Layout((), in_seconds)
    column = quoted(store, TIME_COLUMN)
    pieces = [
        f"PARTITION {name} VALUES LESS THAN ({layout.boundary(store, month.end)})"
        for name, month in free_names(wanted, set())
    ]
    kind, last = (f"RANGE (UNIX_TIMESTAMP({column}))", "MAXVALUE") if in_seconds else (
        f"RANGE COLUMNS ({column})", "(MAXVALUE)"
    )  # fmt: skip
    primary = _primary(store)
    key = primary if TIME_COLUMN in primary else (*primary, TIME_COLUMN)
    names = ", ".join(quoted(store, name) for name in key)
    return (
        f"DROP PRIMARY KEY, ADD PRIMARY KEY ({names}) PARTITION BY {kind}"
        f" ({', '.join(pieces)}, PARTITION {FUTURE} VALUES LESS THAN {last})"
    )


def _old_body(store: RowStore, before: Before) -> str:
    names = ", ".join(quoted(store, name) for name in before.primary)
    parts = [f"DROP PRIMARY KEY, ADD PRIMARY KEY ({names})"] if before.primary != _primary(store) else []
    if before.nullable:
        parts.append(f"MODIFY {_column_line(store).replace(' NOT NULL', ' NULL', 1)}")
    return ", ".join(parts)


def _column_line(store: RowStore) -> str:
    """created_at as the server itself defines it."""
    row = store.connection.exec_driver_sql(f"SHOW CREATE TABLE {_name(store)}".replace("%", "%%")).one()
    store.end_read()
    start = f"{quoted(store, TIME_COLUMN)} "
    return next(line.strip().rstrip(",") for line in str(row[1]).splitlines() if line.strip().startswith(start))


def _alter(store: RowStore, what: str, last: str = "") -> None:
    """One ALTER of the table. Raises Blocked where others' open transactions were in the way, DBAPIError."""
    if not (what or last):
        return
    # The options of a partitioning are behind all others.
    head, mark, tail = what.partition(" PARTITION BY ")
    statement = f"{head}{last}{mark}{tail}" if mark else f"{what}{last}"
    try:
        run(store, f"ALTER TABLE {_name(store)} {statement.strip()}")
    except DBAPIError as error:
        store.end_read()
        if error_number(error) == LOCK_TIMEOUT:
            raise Blocked(
                f"An open transaction of another connection reads {store.table.name} for more than"
                f" {LOCK_WAIT_SECONDS} s ({blockers(store)}). The table is as it was; launch again."
            ) from None
        raise OperatorError(
            f"The server didn't change {store.table.name} ({error_text(error)}). The table is as it was."
        ) from None


def _undo(store: RowStore, before: Before) -> None:
    """Foreign keys and comment as they were, where the table is plain. Without reading it: the rows were under these
    keys, or were left by what the cascade does."""
    if store.connection.invalidated or layout_of(store) is not None:
        return
    run(store, "SET SESSION foreign_key_checks = 0")
    try:
        there = {key.name for key in keys_of(store)}
        for key in before.keys:
            if key.name not in there and store.has_table(key.parent):
                _alter(store, f"{key.clause(store)}, ALGORITHM=INPLACE, LOCK=NONE")
        if comment_of(store) != before.comment:
            _alter(store, f"COMMENT = {literal(before.comment)}")
    finally:
        if not store.connection.invalidated:
            run(store, "SET SESSION foreign_key_checks = 1")


def _require_old_key(store: RowStore, before: Before) -> None:
    if before.primary == _primary(store) or not before.primary:
        return
    columns = [store.col(name) for name in before.primary]
    twice = sa.select(sa.func.count()).select_from(store.from_).group_by(*columns).having(sa.func.count() > 1).limit(1)
    found = store.connection.execute(twice).scalar()
    store.end_read()
    if found:
        raise Refused(
            f"Rows of {store.table.name} have the same {', '.join(before.primary)}, which was its primary key. Nothing"
            " was done; delete or renumber them first."
        )


def _require_nothing_out(store: RowStore) -> None:
    if sides := MySQLMover(store).sides(()):
        raise Refused(
            f"{', '.join(sides)} {are(len(sides))} a month that a rotation took out of {store.table.name}. Nothing was"
            " done; launch the rotation once, which drops it or puts it back."
        )


def _broken(store: RowStore, text: str) -> str:
    return (
        f"The database broke it off ({text}). {store.table.name} has all of its rows, and is a plain or a partitioned"
        " table as a whole; launch again."
    )
