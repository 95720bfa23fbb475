"""Removes the rows of a chunk that the archive holds unchanged: the only code that deletes from the conversation log.

A chunk is one short transaction. The table is held and its columns, triggers and foreign keys are checked. The rows of
the chunk's range are locked, compared with those read back from the archive, and deleted: all of them if all are the
same, otherwise those that are. It happens as a whole or not at all.

A row that the database refuses to delete, such as because of a trigger, stays with its reason, and the others of its
chunk are deleted. Rows that reference others of the same table, such as the messages of a thread, are deleted children
first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from saju_ops.archive.verify import keys_of
from saju_ops.database.connect import error_text
from saju_ops.rows.days import Day
from saju_ops.rows.digest import Digest, row_hashes
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.engines.selecting import of_keys
from saju_ops.rows.pieces import Piece

if TYPE_CHECKING:
    import pyarrow as pa

# Times that a chunk is tried again after a deadlock or a lock wait time-out.
CHUNK_TRIES = 5
# Errors that say nothing of a row: MySQL's codes for rights, locks, limits, disks and the server's end, PostgreSQL's
# classes of the same.
MYSQL_BEYOND_ROWS = {
    1020, 1021, 1026, 1030, 1037, 1038, 1041, 1044, 1045, 1053, 1114, 1142, 1143, 1180, 1197, 1205, 1206, 1213, 1290,
    1305, 1317, 1637, 1792, 1836, 1927, 1969, 3024, 3572,
}  # fmt: skip
POSTGRES_BEYOND_ROWS = ("08", "0A", "25", "28", "3B", "3D", "40", "53", "54", "55", "57", "58", "F0", "XX")
SILENTLY = "the server kept them in a DELETE and gave no error, as a trigger or rule may do"


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
    # Whether the database has just these rows between the first and the last key. Not for a text key, whose order
    # depends on a collation that may have changed, nor for rows that were picked out of the file.
    in_order: bool = True
    picked: bool = False

    def by_key(self, store: RowStore) -> dict[Key, int]:
        """The hashes of the rows that still count."""
        hashes = row_hashes(self.rows, store.table.columns)
        rows = zip(keys_of(self.rows, self.key), hashes.tolist(), self.superseded.tolist(), strict=True)
        return {key: row for key, row, old in rows if not old}

    def selections(self) -> Iterator[Selection]:
        """What finds each of its rows in the database."""
        return iter([self.selection]) if self.in_order and not self.picked else of_keys(self.day, self.keys())

    def keys(self) -> list[Key]:
        return list(dict.fromkeys(keys_of(self.rows, self.key)))


@dataclass
class Deleted:
    rows: int = 0
    row_by_row: bool = False
    # Rows that the archive holds unchanged and that the database refused to delete, with the reason.
    refused: dict[Key, str] = field(default_factory=dict)
    # Rows on which rows of the same table hang that are still there.
    waiting: set[Key] = field(default_factory=set)


class Deleter:
    """One chunk at a time. Two on two connections were tried: on two cores they took as long as one after the other,
    8.8 s and 16 s a million rows on MariaDB and MySQL, since InnoDB's own purge keeps the second core busy."""

    def __init__(self, store: RowStore, sleep: Callable[[float], None]) -> None:
        self.store, self._sleep = store, sleep
        # That the database has its rows in another order than the file: then no range of keys is tried any more.
        self.scattered = False

    def delete(self, chunk: Chunk) -> Deleted:
        """Raises DBAPIError if the database ended the transaction for good, Altered if the table is no longer the one
        that was compared with the archive."""
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
        if not (chunk.superseded.any() or chunk.picked or self.scattered):
            try:
                whole = self._whole(chunk)
            except sa.exc.DBAPIError as error:
                if not is_about_rows(error):
                    raise
                self.store.end_read()
            else:
                if whole is not None:
                    return Deleted(whole)
        return self._row_by_row(chunk)

    def _whole(self, chunk: Chunk) -> int | None:
        """Deletes the whole range if, under lock, it is exactly what the archive holds. None if it is not."""
        selection, expected = chunk.selection, chunk.state
        with _rollback_on(_Mismatch), self.store.transaction():
            self.store.traits.hold()
            found = self.store.state(selection, expected, lock=True)
            if found.rows == 0 and chunk.in_order:
                return 0
            if found != expected or self._has_children(selection):
                self.scattered = not chunk.in_order and found.rows != expected.rows
                raise _Mismatch
            # No row can have changed since, being locked; a row that slipped in makes the count differ.
            if self.store.delete(selection) != expected.rows:
                raise _Mismatch
            self.store.traits.look_again()
            return expected.rows
        return None

    def _has_children(self, selection: Selection) -> bool:
        return any(self.store.child_rows(child, selection) for child in self.store.table.children)

    def _row_by_row(self, chunk: Chunk) -> Deleted:
        """Deletes those rows of the chunk that the archive holds unchanged and on which nothing hangs that stays."""
        result, archived = Deleted(row_by_row=True), chunk.by_key(self.store)
        # First the whole chunk; after a trigger ended the transaction, the halves of the keys that it had to delete.
        todo: list[list[Key] | None] = [None]
        while todo:
            keys = todo.pop(0)
            selections = list(chunk.selections() if keys is None else of_keys(chunk.day, keys))
            try:
                self._transaction(chunk, selections, archived, result)
            except _Ended as ended:
                self.store.end_read()
                if len(ended.keys) == 1:
                    result.refused[ended.keys[0]] = ended.reason
                else:
                    half = len(ended.keys) // 2
                    todo[:0] = [ended.keys[:half], ended.keys[half:]]
        return result

    def _transaction(
        self, chunk: Chunk, selections: Sequence[Selection], archived: dict[Key, int], result: Deleted
    ) -> None:
        """Adds only committed rows to the result. Raises _Ended if a trigger ended the transaction itself."""
        done = Deleted()
        with self.store.transaction():
            self.store.traits.hold()
            same: dict[Key, None] = {}
            hanging: set[Key] = set()
            answered: set[tuple[Key, Key]] = set()
            others = [key for key in self.store.table.children if key not in self.store.table.answers]
            for selection in selections:
                rows = hashed_rows(self.store, selection, chunk.key, lock=True)
                same |= {key: None for key, row in rows if archived.get(key) == row}
            # All of them locked before: at REPEATABLE READ the first read decides what later ones see.
            for selection in selections:
                hanging.update(*self.store.referenced_keys(selection, others).values())
                answered |= self.store.answered(selection)
            plan = Thread([key for key in same if key not in hanging and key not in result.refused], answered)
            done.waiting = plan.waiting
            for level in plan.levels():
                self._remove(chunk.day, level, done)
                # A row that stays keeps those that it answers: a cascade would take it with them.
                plan.keep(done.refused)
            if plan.ring:
                self._remove(chunk.day, plan.ring, done, in_ring=True)
            self.store.traits.look_again()
        result.rows += done.rows
        result.refused |= done.refused
        result.waiting |= done.waiting

    def _remove(self, day: Day, keys: list[Key], done: Deleted, *, in_ring: bool = False) -> None:
        """Deletes these rows, which were locked and compared: half by half where the database refuses some of them."""
        if not keys:
            return
        reason = self._refusal(day, keys, in_ring=in_ring)
        if reason is None:
            done.rows += len(keys)
        elif len(keys) == 1 or in_ring:
            # Half a ring can't go: the database might delete the other half with it, unasked.
            done.refused |= dict.fromkeys(keys, reason)
        else:
            half = len(keys) // 2
            self._remove(day, keys[:half], done)
            self._remove(day, keys[half:], done)

    def _refusal(self, day: Day, keys: list[Key], *, in_ring: bool) -> str | None:
        """Why the database refuses to delete these rows together, and nothing is deleted; None where they are."""
        try:
            with _rollback_on(_Mismatch), self.store.connection.begin_nested():
                if in_ring:
                    for selection in of_keys(day, keys):
                        self.store.forget_answered(selection)
                # MySQL may have renewed their created_at with their references.
                if self.store.delete(Selection(None if in_ring else day, keys=tuple(keys))) != len(keys):
                    raise _Mismatch
                self.store.check_now()
                return None
        except sa.exc.DBAPIError as error:
            first = _first(error)
            reason = error_text(first)
            if not self.store.in_server_transaction:
                raise _Ended(keys, reason) from None
            # If the rollback to the savepoint failed, the server had ended the transaction, as after a deadlock: the
            # rows are no longer locked, and may have changed since they were compared.
            if first is not error or not is_about_rows(error):
                raise first from None
            return reason
        return SILENTLY


class Thread:
    """The order in which rows of one table that reference each other are deleted: those that nothing references first.

    A row waits if a row that stays references it."""

    def __init__(self, keys: Sequence[Key], answered: Collection[tuple[Key, Key]]) -> None:
        self._going = dict.fromkeys(keys)
        self._answers: dict[Key, set[Key]] = defaultdict(set)
        self._answered_by: dict[Key, set[Key]] = defaultdict(set)
        for parent, child in answered:
            self._answers[parent].add(child)
            self._answered_by[child].add(parent)
        self.waiting: set[Key] = set()
        # Rows that reference each other in a ring, or themselves.
        self.ring: list[Key] = []
        self.keep({parent for parent, child in answered if parent in self._going and child not in self._going})

    def keep(self, stay: Collection[Key]) -> None:
        """Takes out rows that stay, with all that they answer."""
        todo = [key for key in stay if key in self._going]
        todo += [parent for key in stay if key not in self._going for parent in self._answered_by.get(key, ())]
        while todo:
            key = todo.pop()
            if key in self._going:
                del self._going[key]
                self.waiting.add(key)
                todo += self._answered_by.get(key, ())

    def levels(self) -> Iterator[list[Key]]:
        answered = [key for key in self._going if key in self._answers]
        left = Counter({key: len(self._answers[key] & self._going.keys()) for key in answered})
        level = [key for key in self._going if not left[key]]
        while level:
            for key in level:
                del self._going[key]
            yield level
            freed = [parent for key in level for parent in self._answered_by.get(key, ()) if parent in self._going]
            left.subtract(freed)
            level = [key for key in dict.fromkeys(freed) if not left[key]]
        self.ring = list(self._going)


def hashed_rows(store: RowStore, selection: Selection, key: Sequence[str], *, lock: bool) -> Iterator[tuple[Key, int]]:
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


def is_about_rows(error: sa.exc.DBAPIError) -> bool:
    """Whether another row may be deleted all the same: a trigger or a foreign key refused some row."""
    if error.connection_invalidated or is_lock_conflict(error):
        return False
    if isinstance(code := getattr(error.orig, "args", (None,))[0], int):
        # Before the state: PyMySQL's errors have one, too.
        return code not in MYSQL_BEYOND_ROWS and not 2000 <= code < 3000
    if (state := getattr(error.orig, "sqlstate", None)) is not None:
        return not str(state).startswith(POSTGRES_BEYOND_ROWS) and state != "42501"
    name = str(getattr(error.orig, "sqlite_errorname", None))
    return name == "SQLITE_ERROR" or name.startswith("SQLITE_CONSTRAINT")


def _first(error: sa.exc.DBAPIError) -> sa.exc.DBAPIError:
    """The error that came before one of a savepoint that is there no more."""
    before = error.__context__
    while before is not None and not isinstance(before, sa.exc.DBAPIError):
        before = before.__context__
    return _first(before) if before is not None else error


class _Mismatch(Exception):
    """The locked rows differ from the archive; the transaction is rolled back."""


class _Ended(Exception):
    """A trigger ended the whole transaction, and nothing of it is deleted."""

    def __init__(self, keys: list[Key], reason: str) -> None:
        self.keys, self.reason = keys, reason


class _rollback_on:
    """Swallows `kind` after the transaction inside has rolled back."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kind)
