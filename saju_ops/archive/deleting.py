"""Removes the rows of a chunk that the archive holds unchanged: the only code that deletes from the conversation log.

A chunk is one short transaction: the table is held and its columns, triggers and foreign keys are looked at, the rows
of its range are locked, compared with what was read back from the archive, and deleted, all of them where all are the
same, else those that are. It either happens as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from saju_ops.archive.digest import Digest, row_hashes
from saju_ops.archive.engines import LogStore, Selection
from saju_ops.archive.engines.base import Key
from saju_ops.archive.pieces import Piece
from saju_ops.archive.verify import keys_of
from saju_ops.archive.window import Day
from saju_ops.errors import OperatorError
from saju_ops.words import counted, were

if TYPE_CHECKING:
    import pyarrow as pa

# Times that a chunk is tried again after a deadlock or a lock wait time-out.
CHUNK_TRIES = 5


@dataclass(frozen=True)
class Chunk:
    """Archived rows that follow each other in the order of their key."""

    day: Day
    selection: Selection
    key: Sequence[str]
    rows: pa.RecordBatch
    # Their digest, as the database is asked for it.
    state: Digest | Piece
    # Which of them a later part has anew: their older form is no reason to delete anything.
    superseded: np.ndarray

    def by_key(self, store: LogStore) -> dict[Key, int]:
        """The hashes of the rows that still count."""
        hashes = row_hashes(self.rows, store.table.columns)
        rows = zip(keys_of(self.rows, self.key), hashes.tolist(), self.superseded.tolist(), strict=True)
        return {key: row for key, row, old in rows if not old}


@dataclass(frozen=True)
class Deleted:
    rows: int
    row_by_row: bool


class Deleter:
    """One chunk at a time. Two on two connections were tried: on two cores they took as long as one after the other,
    8.8 s and 16 s a million rows on MariaDB and MySQL, since InnoDB's own purge keeps the second core busy."""

    def __init__(self, store: LogStore, sleep: Callable[[float], None]) -> None:
        self.store, self._sleep = store, sleep

    def delete(self, chunk: Chunk) -> Deleted:
        """Raises DBAPIError where the database ended the transaction for good, Altered where the table isn't what the
        archive was compared with any more."""
        for attempt in range(CHUNK_TRIES - 1):
            try:
                return self._delete(chunk)
            except sa.exc.DBAPIError as error:
                if not may_pass(error):
                    raise
                # A deadlock or a lock that others hold: the transaction was rolled back.
                self.store.end_read()
                self._sleep(0.2 * 2**attempt)
        return self._delete(chunk)

    def _delete(self, chunk: Chunk) -> Deleted:
        whole = None if chunk.superseded.any() else self._whole(chunk.selection, chunk.state)
        if whole is not None:
            return Deleted(whole, row_by_row=False)
        return Deleted(self._row_by_row(chunk), row_by_row=True)

    def _whole(self, selection: Selection, expected: Digest | Piece) -> int | None:
        """Deletes the whole range if, under lock, it is exactly what the archive holds. None if it is not."""
        with _rollback_on(_Mismatch), self.store.transaction():
            self.store.traits.hold()
            found = self.store.state(selection, expected, lock=True)
            if found.rows == 0:
                return 0
            if found != expected or self._has_children(selection):
                raise _Mismatch
            # No row can have changed since, being locked; a row that slipped in makes the count differ.
            if self.store.delete(selection) != expected.rows:
                raise _Mismatch
            self.store.traits.look_again()
            return expected.rows
        return None

    def _has_children(self, selection: Selection) -> bool:
        return any(self.store.child_rows(child, selection) for child in self.store.table.children)

    def _row_by_row(self, chunk: Chunk) -> int:
        """Deletes those rows of the range that the archive holds unchanged and on which nothing hangs."""
        archived = chunk.by_key(self.store)
        with self.store.transaction():
            self.store.traits.hold()
            rows = hashed_rows(self.store, chunk.selection, chunk.key, lock=True)
            same = [key for key, row in rows if archived.get(key) == row]
            referenced = self.store.referenced_keys(chunk.selection)
            hanging = set().union(*referenced.values()) if referenced else set()
            doomed = tuple(key for key in same if key not in hanging)
            deleted = self.store.delete(Selection(chunk.day, keys=doomed)) if doomed else 0
            if deleted != len(doomed):
                raise OperatorError(
                    f"The server deleted {counted(deleted, 'row')} where {len(doomed)} {were(len(doomed))} locked and"
                    " compared; this chunk was rolled back. Nothing of it was deleted."
                )
            self.store.traits.look_again()
        return deleted


def hashed_rows(
    store: LogStore, selection: Selection, key: Sequence[str], *, lock: bool
) -> Iterator[tuple[Key, int]]:
    for batch in store.batches(selection, lock=lock):
        yield from zip(keys_of(batch, key), row_hashes(batch, store.table.columns).tolist(), strict=True)


def is_lock_conflict(error: sa.exc.DBAPIError) -> bool:
    """Whether trying again in a moment may help."""
    code = getattr(error.orig, "args", (None,))[0]
    state = getattr(error.orig, "sqlstate", None)
    # MySQL: lock wait time-out, deadlock. PostgreSQL: serialization, deadlock, lock not available. SQLite: busy.
    return code in (1205, 1213) or state in ("40001", "40P01", "55P03") or "locked" in str(error.orig).lower()


def may_pass(error: sa.exc.DBAPIError) -> bool:
    return is_lock_conflict(error) and not error.connection_invalidated


class _Mismatch(Exception):
    """The rows under lock are not what the archive holds; the transaction is rolled back."""


class _rollback_on:
    """Swallows `kind` after the transaction inside has rolled back."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kind)
