"""What the archive core asks of an engine, and what the servers have in common.

A store reads and changes rows of exactly one table. Only `delete` removes rows and only `load` adds any; both run
inside a transaction that the caller opened with `transaction`, under conditions that the caller checks there.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa

from saju_ops.database.connect import redacted
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.comeback import TYPED, UTC_OFFSET, Comeback
from saju_ops.rows.days import Day
from saju_ops.rows.digest import Digest, row_hashes
from saju_ops.rows.engines.interface import NoSuchTable, PieceRows, Profile, Selection
from saju_ops.rows.engines.references import ReferencedRows
from saju_ops.rows.pieces import Piece, Pieces
from saju_ops.rows.table import TIME_COLUMN, Column

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
# A purge that waits for one row of a chunk holds the others; with the sessions' usual ten seconds, the service's
# updates of those were measured to wait for ten seconds too.
LOCK_WAIT_SECONDS = 1


class RowStore(ReferencedRows):
    """One connection and one table. Used by one thread at a time."""

    # Types that created_at may have if days are taken from it.
    time_types: ClassVar[tuple[str, ...]] = ()

    def require_days(self) -> None:
        """Raises Refused if the table's rows can't be assigned to days."""
        require_time_column(self.table.name, self.table.names)
        if self.table.time_type not in self.time_types:
            needed = " or ".join(t for t in self.time_types if t not in ("date", "literal"))
            raise Refused(
                f"{self.table.name}.{TIME_COLUMN} is of the type {self.table.time_type}; a {needed} is needed, since"
                " days are taken from it. Nothing was done."
            )

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

    # --- answers of an engine ---------------------------------------------------------------------------

    def lossy_values(self, selection: Selection) -> dict[str, int]:
        """Per column, how many of the rows hold a value of which the database gives no whole text."""
        return {}

    @property
    def doubtful_columns(self) -> tuple[Column, ...]:
        """Columns whose values may be more than their text shows, which `Doubts` checks."""
        return ()

    def read_types(self, names: Collection[str]) -> None:
        """From now on, these of the doubtful columns, and no others, are read with the types of their values."""
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
    def digest(self, selection: Selection, *, lock: bool = False) -> Digest:
        """What the database computes for the rows. With lock, they stay as they are till the transaction ends."""

    @abc.abstractmethod
    def profile(self, day: Day) -> Profile: ...

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

    @abc.abstractmethod
    def instants(self, order: str) -> datetime | None:
        """The first (`asc`) or last (`desc`) created_at, UTC; None where there is none."""

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
        """A condition for values of created_at that can't be read as a time; None if all can."""
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

    @property
    def reclaim_hint(self) -> str:
        return ""

    # --- statements ----------------------------------------------------------------------------------------


def require_key(table: str, key: Sequence[str]) -> None:
    if not key:
        raise Refused(
            f"The table {table} has no primary key and no unique key without NULLs, so a row can't be identified"
            " and can't be proven before a delete. Nothing was done; give the table a key."
        )


def require_time_column(table: str, names: Sequence[str]) -> None:
    if TIME_COLUMN not in names:
        raise Refused(f"The table {table} has no column {TIME_COLUMN}, from which days are taken. Nothing was done.")


def require_table(found: object, table: str, url: sa.URL) -> None:
    if not found:
        raise NoSuchTable(
            f"CONVERSATION_LOG_TABLE holds {table!r}, but the database {redacted(url)} has no such table."
            " Nothing was done."
        )
