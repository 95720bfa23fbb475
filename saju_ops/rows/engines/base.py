"""What the archive core asks of an engine, and what the servers have in common.

A store reads and changes rows of exactly one table. Only `delete` removes rows and only `load` adds any;
both run inside a transaction that the caller opened with `transaction`, under the conditions that the caller
tests there.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.comeback import TYPED, UTC_OFFSET, Comeback
from saju_ops.rows.days import Day
from saju_ops.rows.digest import Digest, row_hashes
from saju_ops.rows.engines.interface import BATCH_ROWS, Key, NoSuchTable, PieceRows, Profile, Selection
from saju_ops.rows.pieces import Piece, Pieces
from saju_ops.rows.table import TIME_COLUMN, Column, ForeignKey, Table
from saju_ops.rows.traits import Traits

if TYPE_CHECKING:
    import pyarrow as pa


WRONG_KEYS = (
    "This SQLite database has a foreign key that is wrong in itself, such as one to columns that are not unique, so"
    " SQLite can enforce none here. Rows that others reference stay all the same: saju_ops compares the keys itself."
)


class NoPartition(OperatorError):
    """The table has no partition for a row."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"{table} has no partition for some of its rows: it was dropped since. Add it again, or restore into"
            f" another table with --into-table {table}_restored, which is made without partitions"
        )


# Why a row is in no day.
WITHOUT_TIME, UNREADABLE = "rows_without_created_at", "rows_with_unreadable_created_at"
TOO_EARLY, ENDLESS = "rows_before_first_partition", "rows_with_infinite_created_at"
# A purge that waits for one row of a chunk holds the others; measured with the sessions' usual ten seconds, the
# service's updates of those stood still for ten seconds too.
LOCK_WAIT_SECONDS = 1
# Keys in one statement of a row-by-row delete.
KEYS_PER_STATEMENT = 500


def of_keys(day: Day | None, keys: Sequence[Key]) -> Iterator[Selection]:
    """The rows with these keys, some hundred a statement. Unlike a range of keys this doesn't depend on their order."""
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        yield Selection(day, keys=tuple(keys[start : start + KEYS_PER_STATEMENT]))


class LogStore(abc.ABC):
    """One connection and one table. Used by one thread at a time."""

    def __init__(self, url: sa.URL, table: str, zone: ZoneInfo, bulk_load: bool = False) -> None:
        self.url = url
        self.zone = zone
        self.bulk_load = bulk_load
        # Whether the caller compares what `load` writes with a digest. Only then may a server take what its rules
        # refuse of a new row: rows older than a CHECK, or an ENUM's error value.
        self.takes_old_rows = False
        # What an operator should know of what `load` could not do.
        self.remarks: list[str] = []
        self._engine = connect(url, bulk_load=bulk_load)
        try:
            self.connection = self._engine.connect()
        except sa.exc.DBAPIError as error:
            raise OperatorError(
                f"The database {redacted(url)} can't be reached ({error_text(error)}). Nothing was done."
            ) from None
        try:
            # Before it is described: whatever is changed in between counts as a change.
            self.traits = Traits(self, [(None, table)])
            self.table = self.describe(table)
            self.from_ = sa.table(table, *map(sa.column, self.table.names), schema=self.table.schema)
        except BaseException as error:
            self.connection.close()
            if isinstance(error, sa.exc.DBAPIError):
                raise OperatorError(
                    f"The database {redacted(url)} didn't describe {table} ({error_text(error)}). Nothing was done."
                ) from None
            raise

    # Types that created_at may have where days are told by it.
    time_types: ClassVar[tuple[str, ...]] = ()

    def require_days(self) -> None:
        """Raises Refused where days of the table can't be told."""
        require_time_column(self.table.name, self.table.names)
        if self.table.time_type not in self.time_types:
            needed = " or ".join(t for t in self.time_types if t not in ("date", "literal"))
            raise Refused(
                f"{self.table.name}.{TIME_COLUMN} is of the type {self.table.time_type}; a {needed} is needed, by which"
                " days are told. Nothing was done."
            )

    def sibling(self, table: str) -> LogStore:
        """Another table on this store's own connection, and so inside its transactions. Not to be called in one."""
        other = copy(self)
        other.traits = Traits(other, [(None, table)])
        other.table = other.describe(table)
        other.from_ = sa.table(table, *map(sa.column, other.table.names), schema=other.table.schema)
        return other

    def use(self, columns: Sequence[Column], key: Sequence[str] | None = None) -> None:
        self.table = replace(self.table, columns=tuple(columns), key=tuple(key or self.table.key))
        self.from_ = sa.table(self.table.name, *map(sa.column, self.table.names), schema=self.table.schema)

    def adopt(self, columns: Sequence[Column], writing: Day | None = None) -> bool:
        """Reads rows as a file with these columns has them. False, and nothing changed, where the table has
        since been altered so that a row is no longer the same thing, or where rows of the day that are to be
        written so can't be."""
        mine = {c.name: (c.encoding, c.framed) for c in self.table.columns}
        if {c.name: (c.encoding, c.framed) for c in columns} != mine:
            return False
        self.use([self.table.column(c.name) for c in columns])
        self.read_types({c.name for c in columns if c.family == TYPED})
        return True

    def close(self) -> None:
        self.connection.close()
        self._engine.dispose()

    def __enter__(self) -> LogStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what an engine must say ---------------------------------------------------------------------------

    @abc.abstractmethod
    def describe(self, table: str) -> Table:
        """Reads the catalogue. Raises Refused."""

    @abc.abstractmethod
    def text(self, column: Column) -> sa.ColumnElement[Any]:
        """The column as the text that stands in the file."""

    def untold(self, selection: Selection) -> dict[str, int]:
        """Per column, how many of the rows hold a value of which the database gives no whole text."""
        return {}

    @property
    def doubtful_columns(self) -> tuple[Column, ...]:
        """Columns whose values may be more than their text says, which `Doubts` looks at."""
        return ()

    def read_types(self, names: Collection[str]) -> None:
        """From now on these columns, and of the doubtful ones no others, are read with the types of what they hold."""
        return

    @property
    def has_doubts(self) -> bool:
        """Whether `comeback` has anything to ask of this table, whatever its text says."""
        return False

    def comeback(self, day: Day, *, documents: bool) -> Comeback:
        """What of the day's rows a restore would not give back. `documents`: whether to look into JSON, too. Inside a
        snapshot, after which the session is as before."""
        return Comeback()

    @contextmanager
    def generating(self, offset: str) -> Iterator[None]:
        """Inside, `load` has generated columns computed in a session so far from UTC."""
        if offset != UTC_OFFSET:
            raise Refused(f"{self.table.name} has no column that is computed in {offset}. Nothing was written.")
        yield

    @abc.abstractmethod
    def typed(self, column: Column, cell: bytes) -> Any:
        """A cell of the file as a value or expression of the column's type."""

    @abc.abstractmethod
    def digest(self, selection: Selection, *, lock: bool = False) -> Digest:
        """What the database computes for the rows. With lock, they stay as they are till the transaction ends."""

    @abc.abstractmethod
    def profile(self, day: Day) -> Profile: ...

    @abc.abstractmethod
    def lock(self, name: str, wait: float) -> AbstractContextManager[Callable[[], bool]]:
        """A lock for this table that dies with the connection. Raises Busy after `wait` seconds.

        Gives a function that tells whether it is still held."""

    @abc.abstractmethod
    def load(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        """Adds rows. The caller's transaction decides whether they stay."""

    def require_writable(self, columns: Sequence[Column]) -> None:
        """Raises Refused, with the GRANT, where the account may not add rows with these columns to the table."""
        return

    def require_creatable(self, name: str) -> None:
        """Raises Refused, with the GRANT, where the account may not make a table of that name."""
        return

    @abc.abstractmethod
    def create_like(self, name: str) -> None:
        """Makes an empty table with the same columns and key and without foreign keys."""

    def has_table(self, name: str) -> bool:
        found = sa.inspect(self.connection).has_table(name)
        self.end_read()
        return found

    def check_now(self) -> None:
        """Makes the database look at once at what it would look at in the commit only. Raises DBAPIError."""
        return

    @property
    def in_server_transaction(self) -> bool:
        """Whether the transaction is still there: in SQLite a trigger may end it."""
        return True

    def pass_over_wrong_keys(self, tables: Sequence[str]) -> None:
        """SQLite: stops enforcing foreign keys on this connection where it can't delete from or write to one of these
        tables for a key that is wrong in itself. From then on only the caller guards the others. Outside of a
        transaction only."""
        return

    @property
    def enforces_keys(self) -> bool:
        """Whether the database itself keeps foreign keys, and empties references where a key says so."""
        return True

    def require_transactions(self) -> None:
        """Raises Refused where a change of the table can't be rolled back."""
        return

    @abc.abstractmethod
    def instants(self, order: str) -> datetime | None:
        """The first (`asc`) or last (`desc`) created_at, UTC; None where there is none."""

    @abc.abstractmethod
    def time_bound(self, instant: datetime) -> Any:
        """An instant as created_at keeps it."""

    @abc.abstractmethod
    def first_instant_from(self, instant: datetime) -> datetime | None:
        """The earliest created_at that is not before `instant`, UTC."""

    def undated(self, first: datetime) -> dict[str, int]:
        """How many rows no day from `first` on has, and so no archive, by the reason; zeros included. Reads only."""
        time = self.col(TIME_COLUMN)
        nullable, unreadable = self.table.column(TIME_COLUMN).nullable, self.unreadable()
        found = {
            WITHOUT_TIME: self._count_where(time.is_(None)) if nullable else 0,
            UNREADABLE: 0 if unreadable is None else self._count_where(unreadable),
            TOO_EARLY: self._count_where(self.before(first)),
        }
        self.end_read()
        return found

    def unreadable(self) -> sa.ColumnElement[bool] | None:
        """Whether created_at holds what can't be read as a time; None where it always can."""
        return None

    def before(self, instant: datetime) -> sa.ColumnElement[bool]:
        condition: sa.ColumnElement[bool] = self.col(TIME_COLUMN) < self.time_bound(instant)
        return condition

    def _count_where(self, condition: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(self.from_).where(condition)
        return int(self.connection.execute(query).scalar_one())

    @abc.abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes that the table takes, by the engine's own estimate: `table_bytes`, `free_bytes`."""

    def fast_csv(self, day: Day) -> Iterator[bytes | pa.RecordBatch] | None:
        """The engine's fastest way to the same bytes on this connection, and so inside its snapshot, or None."""
        return None

    def piece_rows(self, day: Day, profile: Profile) -> PieceRows | None:
        """The day's rows in pieces, each of them with its digest by one statement; None where this table or engine
        can't be read so. Inside the snapshot that the profile was made in."""
        return None

    @property
    def knows_pieces(self) -> bool:
        """Whether the database can be asked for pieces of this table."""
        return False

    def has_pieces(self, selection: Selection, pieces: Pieces) -> bool:
        """Whether the selected rows are exactly these, as the database says. Inside a snapshot."""
        return False

    def state_of(self, batch: pa.RecordBatch) -> Digest | Piece:
        """The digest of these rows, in the form that this table computes fastest."""
        return Digest.of(row_hashes(batch, self.table.columns))

    def state(self, selection: Selection, form: Digest | Piece, *, lock: bool = False) -> Digest | Piece:
        """What the database computes for the rows, in the form of another state. With lock, they stay as they are
        till the transaction ends."""
        return self.digest(selection, lock=lock)

    def batch_rows(self, day: Day, profile: Profile) -> int:
        """Rows that a batch of the plain cursor may have."""
        return profile.batch_rows

    def replica_lag(self, replicas: Sequence[sa.URL]) -> float | None:
        """Seconds that the slowest replica is behind; None where none can be asked."""
        return None

    @property
    def reclaim_hint(self) -> str:
        return ""

    # --- statements ----------------------------------------------------------------------------------------

    def col(self, name: str) -> sa.ColumnElement[Any]:
        return self.from_.c[name]

    def day_condition(self, day: Day) -> list[sa.ColumnElement[bool]]:
        time = self.col(TIME_COLUMN)
        return [time >= self.time_bound(day.start), time < self.time_bound(day.end)]

    def not_before(self, instant: datetime) -> sa.ColumnElement[bool]:
        return self.col(TIME_COLUMN) >= self.time_bound(instant)

    def conditions(self, selection: Selection) -> list[sa.ColumnElement[bool]]:
        found = self.day_condition(selection.day) if selection.day else []
        if selection.first is not None:
            found.append(self._beyond(selection.first, lambda c, v: c >= v, lambda c, v: c > v))
        if selection.last is not None:
            found.append(self._beyond(selection.last, lambda c, v: c <= v, lambda c, v: c < v))
        if selection.keys is not None:
            found.append(self._one_of(selection.keys))
        return [*found, *selection.where]

    def _beyond(self, key: Key, inclusive: Callable[..., Any], strict: Callable[..., Any]) -> Any:
        """Keys at or beyond `key`, written so that an index on a composite key can be used."""
        columns = self.table.key_columns
        values = [self.typed(c, v) for c, v in zip(columns, key, strict=True)]
        cols = [self.ordered(c) for c in columns]
        if len(cols) == 1:
            return inclusive(cols[0], values[0])
        steps = []
        for i in range(len(cols)):
            equal = [cols[j] == values[j] for j in range(i)]
            compare = inclusive if i == len(cols) - 1 else strict
            steps.append(sa.and_(*equal, compare(cols[i], values[i])))
        return sa.and_(inclusive(cols[0], values[0]), sa.or_(*steps))

    def _one_of(self, keys: Sequence[Key]) -> Any:
        columns = self.table.key_columns
        if len(columns) == 1:
            return self.col(columns[0].name).in_([self.typed(columns[0], k[0]) for k in keys])
        each = (sa.and_(*(self.col(c.name) == self.typed(c, v) for c, v in zip(columns, k, strict=True))) for k in keys)
        return sa.or_(sa.false(), *each)

    def ordered(self, column: Column) -> sa.ColumnElement[Any]:
        """A key column as it is sorted by and compared with: both must give the same order."""
        return self.col(column.name)

    def order(self) -> list[sa.ColumnElement[Any]]:
        return [self.ordered(column) for column in self.table.key_columns]

    def text_columns(self) -> list[sa.ColumnElement[Any]]:
        # The label must not be the column's own name: MySQL would sort by the label, that is, as text.
        return [self.text(c).label(f"saju_{i}") for i, c in enumerate(self.table.columns)]

    def row_select(self, selection: Selection, *, lock: bool = False) -> sa.Select[Any]:
        query = sa.select(*self.text_columns()).select_from(self.from_)
        query = query.where(*self.conditions(selection)).order_by(*self.order())
        return query.with_for_update() if lock else query

    def batches(
        self, selection: Selection, batch_rows: int = BATCH_ROWS, *, lock: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """The rows as text, in key order, by a plain cursor; `locked` rows stay as they are till the end."""
        query = self.row_select(selection, lock=lock)
        options = {"stream_results": True, "max_row_buffer": batch_rows, "yield_per": batch_rows}
        result = self.connection.execute(query, execution_options=options)
        transaction = self.connection.get_transaction()
        try:
            for rows in result.partitions(batch_rows):
                yield self.record_batch(rows)
        finally:
            # A cursor of PostgreSQL ends with its transaction: a CLOSE in the next one would fail that.
            if self.connection.get_transaction() is transaction:
                result.close()

    def record_batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        import pyarrow as pa

        cells = zip(*rows, strict=True) if rows else ([] for _ in self.table.columns)
        arrays = [pa.array(list(values), pa.string()) for values in cells]
        return pa.RecordBatch.from_arrays(arrays, names=self.table.names)

    def count(self, selection: Selection) -> int:
        query = sa.select(sa.func.count()).select_from(self.from_).where(*self.conditions(selection))
        return int(self.connection.execute(query).scalar_one())

    def delete(self, selection: Selection) -> int:
        """Removes the selected rows of the log table and returns how many. The caller has locked and compared them."""
        if not self.connection.in_transaction():
            raise RuntimeError("rows are deleted only inside a transaction that compared them")
        if selection.keys is None and (selection.first is None or selection.last is None):
            raise RuntimeError("a delete names its keys")
        if selection.keys is None:
            return self._delete(selection)
        keys = selection.keys
        chunks = (keys[i : i + KEYS_PER_STATEMENT] for i in range(0, len(keys), KEYS_PER_STATEMENT))
        return sum(self._delete(replace(selection, keys=chunk)) for chunk in chunks)

    def _delete(self, selection: Selection) -> int:
        return self.connection.execute(sa.delete(self.from_).where(*self.conditions(selection))).rowcount

    def is_one_key(self, one: Key, other: Key) -> bool:
        """Whether the table takes both for the same key, as by a collation that ignores case."""
        columns = self.table.key_columns
        values = [sa.literal(v) if isinstance(v, (str, int, float)) else v for v in map(self.typed, columns, one)]
        none = sa.select(*(self.col(c.name) for c in columns)).where(sa.false())
        # Of the two the column decides by what they are compared.
        given = sa.union_all(none, sa.select(*values)).subquery("saju_given")
        same = (given.c[c.name] == self.typed(c, v) for c, v in zip(columns, other, strict=True))
        query = sa.select(sa.exists(sa.select(sa.literal(1)).select_from(given).where(*same)))
        return bool(self.connection.execute(query).scalar())

    def child_rows(self, child: ForeignKey, selection: Selection) -> int:
        """Rows of another table that reference selected rows."""
        return len(self._referenced(child, selection)) if selection.keys else self._count_children(child, selection)

    def _child_join(self, child: ForeignKey, other: sa.FromClause | None = None) -> Any:
        if other is None:
            other = sa.table(child.table, *map(sa.column, child.columns), schema=child.schema).alias("saju_child")
        pairs = zip(child.columns, child.parent_columns, strict=True)
        # SQLite compares by the left column's collation, and a foreign key by the parent's.
        on = sa.and_(*(self.col(theirs) == other.c[mine] for mine, theirs in pairs))
        return self.from_.join(other, on)

    def _count_children(self, child: ForeignKey, selection: Selection) -> int:
        query = sa.select(sa.func.count()).select_from(self._child_join(child))
        return int(self.connection.execute(query.where(*self.conditions(selection))).scalar_one())

    def _referenced(self, child: ForeignKey, selection: Selection) -> set[Key]:
        """Keys among the selected rows that rows of another table reference."""
        query = sa.select(*(self.text(c).label(f"saju_{i}") for i, c in enumerate(self.table.key_columns)))
        query = query.select_from(self._child_join(child)).distinct()
        rows = self.connection.execute(query.where(*self.conditions(selection)))
        return {self.key_of(row) for row in rows}

    def key_of(self, cells: Sequence[Any]) -> Key:
        """A key that was selected by `text`, as the file writes it."""
        return tuple(map(as_bytes, cells))

    def referenced_keys(
        self, selection: Selection, children: Sequence[ForeignKey] | None = None
    ) -> dict[str, set[Key]]:
        """Per referencing table, which of the selected rows its rows hang on; by all foreign keys or by some."""
        found: dict[str, set[Key]] = {}
        for child in self.table.children if children is None else children:
            found.setdefault(child.table, set()).update(self._referenced(child, selection))
        return {table: keys for table, keys in found.items() if keys}

    def answered(self, selection: Selection, since: datetime | None = None) -> set[tuple[Key, Key]]:
        """Pairs of keys: a selected row, and a row of the same table that references it; `since`: only rows whose
        created_at is not before."""
        found: set[tuple[Key, Key]] = set()
        for key in self.table.answers:
            names = dict.fromkeys((*self.table.key, *key.columns, TIME_COLUMN))
            # With the time's own column for conditions that a schema's name doesn't change.
            other = sa.table(self.table.name, *map(sa.column, names), schema=self.table.schema).alias("saju_child")
            theirs = copy(self)
            theirs.from_ = other  # type: ignore[assignment]
            cells = [*map(self.text, self.table.key_columns), *map(theirs.text, self.table.key_columns)]
            query = sa.select(*(cell.label(f"saju_{i}") for i, cell in enumerate(cells)))
            query = query.select_from(self._child_join(key, other)).where(*self.conditions(selection))
            if since is not None:
                query = query.where(theirs.not_before(since))
            for row in self.connection.execute(query):
                width = len(self.table.key)
                found.add((self.key_of(row[:width]), self.key_of(row[width:])))
        return found

    def forget_answered(self, selection: Selection) -> bool:
        """Empties the references of the selected rows to others of their table, where they may be NULL. False, and
        nothing changed, where one may not. Only for rows that are deleted next, in the same transaction."""
        columns = {column for key in self.table.answers for column in key.columns}
        if columns & {*self.table.key} or not all(self.table.column(c).nullable for c in columns):
            return False
        empty = sa.update(self.from_).where(*self.conditions(selection)).values(dict.fromkeys(columns, sa.null()))
        self.connection.execute(empty)
        return True

    def folds(self, columns: Sequence[Column]) -> bool:
        """Whether the database may take two keys of different bytes for one, as a collation without regard to letter
        case does."""
        return False

    def folded(self, columns: Sequence[Column], keys: Sequence[Key]) -> list[Key]:
        """Per key what the database compares: two keys are one to it where these are equal. Outside of a streamed
        read only."""
        return list(keys)

    @property
    def own_parents(self) -> tuple[ForeignKey, ...]:
        """The foreign keys by which a row of the table references another of it, seen from the row that does."""
        return tuple(p for p in self.table.parents if self.table.is_own(p.parent, p.parent_schema))

    @contextmanager
    def in_any_order(self, days: Sequence[Day]) -> Iterator[None]:
        """Rows of these days that are loaded inside may come before those of their table that they reference. Raises
        OperatorError where one references none in the end. Inside a transaction."""
        yield

    def missing_parents(self, parent: ForeignKey, cells: set[Key]) -> set[Key]:
        """Of the foreign-key values given as text, those that no row of the parent table has."""
        other = sa.table(parent.parent, *map(sa.column, parent.parent_columns), schema=parent.parent_schema)
        columns = [self.table.column(name) for name in parent.columns]
        suspects = self._not_listed(other, parent, columns, cells) if len(columns) == 1 else cells
        missing = set()
        for values in suspects:
            pairs = zip(parent.parent_columns, columns, values, strict=True)
            match = sa.and_(*(other.c[name] == self.typed(c, v) for name, c, v in pairs))
            query = sa.select(sa.exists(sa.select(sa.literal(1)).select_from(other).where(match)))
            if not self.connection.execute(query).scalar():
                missing.add(values)
        return missing

    def _not_listed(self, other: Any, parent: ForeignKey, columns: Sequence[Column], cells: set[Key]) -> set[Key]:
        """A quick first look, many values a statement. What it leaves over may differ in letter case only."""
        column = other.c[parent.parent_columns[0]]
        rest = sorted(cells)
        found: set[Key] = set()
        for start in range(0, len(rest), KEYS_PER_STATEMENT):
            values = [self.typed(columns[0], v[0]) for v in rest[start : start + KEYS_PER_STATEMENT]]
            rows = self.connection.execute(sa.select(column).where(column.in_(values)))
            found |= {(as_bytes(row[0]),) for row in rows}
        return cells - found

    def wait_briefly(self) -> None:
        """From now on a row that somebody else holds is waited for LOCK_WAIT_SECONDS only."""
        return

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A short transaction for changes: committed at the end, rolled back on any error."""
        self.end_read()
        with self.connection.begin():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Every read inside sees the same committed state."""
        self.end_read()
        with self.connection.begin():
            yield

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """The driver's own connection. Its errors come out as SQLAlchemy's, so that one kind has to be handled,
        and a lost connection is noted, so that nothing more is asked of it."""
        raw: Any = self.connection.connection.driver_connection
        dialect = self.connection.dialect
        try:
            yield raw
        except dialect.loaded_dbapi.Error as error:
            lost = dialect.is_disconnect(error, raw, None)
            if lost:
                self.connection.invalidate(error)
            raise sa.exc.DBAPIError("(driver)", None, error, True, lost) from None

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """A transaction that adds rows and sees, besides its own, none that others add meanwhile."""
        self.require_transactions()
        with self.snapshot():
            yield

    def end_read(self) -> None:
        if self.connection.in_transaction():
            self.connection.rollback()


@contextmanager
def broken_off(sentence: Callable[[str], str]) -> Iterator[None]:
    """Turns a database error into the sentence for an operator that is made of what the server said."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise OperatorError(sentence(error_text(error))) from None


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def require_key(table: str, key: Sequence[str]) -> None:
    if not key:
        raise Refused(
            f"The table {table} has no primary key and no unique key without NULLs, so a row can't be told"
            " from another and can't be proven before a delete. Nothing was done; give the table a key."
        )


def require_time_column(table: str, names: Sequence[str]) -> None:
    if TIME_COLUMN not in names:
        raise Refused(f"The table {table} has no column {TIME_COLUMN}, by which days are told. Nothing was done.")


def require_table(found: object, table: str, url: sa.URL) -> None:
    if not found:
        raise NoSuchTable(
            f"CONVERSATION_LOG_TABLE holds {table!r}, but the database {redacted(url)} has no such table."
            " Nothing was done."
        )
