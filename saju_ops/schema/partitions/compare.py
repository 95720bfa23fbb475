"""Whether every row of a month is unchanged in proven archives, which is checked before the month is dropped as a
whole.

Each archive that counts is read back from its store in this very run, rows included. Each row of the month is compared
with its latest archived form, by the digests that the purge uses; rows that belong to no day count as not archived.
Reads only. A thread reads the files of one day while the database computes the digests of the day before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from zoneinfo import ZoneInfo

from saju_ops.archive.due import due_days
from saju_ops.archive.held import held_rows
from saju_ops.archive.manifest import Manifest, day_files, require_same_table
from saju_ops.archive.proven import require_rows_proven
from saju_ops.errors import OperatorError
from saju_ops.rows.ahead import one_ahead
from saju_ops.rows.comeback import adopt_part
from saju_ops.rows.days import Day, day_of
from saju_ops.rows.digest import key_hashes, row_hashes
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.pieces import Pieces
from saju_ops.storage.open import Storage
from saju_ops.words import are, counted, have


class NotHeld(OperatorError):
    """A row of the month is in no proven archive as it is now. The sentence says which day and how many."""


@dataclass
class Held:
    """A month, every row of which is archived."""

    rows: int = 0
    per_day: dict[str, int] = field(default_factory=dict)
    # The files that hold them.
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ProvenDay:
    day: Day
    parts: tuple[Manifest, ...]


def days_with_rows(store: RowStore, zone: ZoneInfo, first: Day, last: Day) -> list[Day]:
    """The days from first to last of which the table has rows, by one look at its index each."""
    return list(due_days(store, first, Day(last.date + timedelta(days=1), zone)))


def all_days(store: RowStore, zone: ZoneInfo) -> list[Day]:
    """Every day of which the table has rows."""
    first, last = store.instants("asc"), store.instants("desc")
    if first is None or last is None:
        return []
    return days_with_rows(store, zone, day_of(first, zone), day_of(last, zone))


def prove(storage: Storage, store: RowStore, days: Sequence[Day]) -> Iterator[ProvenDay]:
    """Reads the days' archives back. `store` is the log table that they must be of; nothing is asked of it. Raises
    NotHeld, ProofFailed, Refused, StorageError, OSError."""
    for day in days:
        parts = day_files(storage, day).parts
        if not parts:
            raise NotHeld(f"{day} has rows and no archive")
        require_same_table(storage, day, parts, store)
        for part in parts:
            require_rows_proven(storage, day, part)
        yield ProvenDay(day, parts)


def compare(storage: Storage, rows: RowStore, days: Iterator[ProvenDay]) -> Held:
    """Compares the days' rows with what was read back. `rows` is a table that nobody writes to: one that was taken out
    of the log table, or the log table under a lock. Raises NotHeld and what `days` raises.

    The caller looks whether the table has rows of other days."""
    found = Held()
    own, key = rows.table.columns, rows.table.key
    with closing(one_ahead(days)) as proven:
        for each in proven:
            count = _whole_day(rows, each)
            if count is None:
                rows.use(own, key)
                count = _row_by_row(storage, rows, each)
            rows.end_read()
            found.rows += count
            found.per_day[str(each.day)] = count
            found.files += [storage.location(part.file) for part in each.parts]
    rows.use(own, key)
    return found


def _whole_day(rows: RowStore, proven: ProvenDay) -> int | None:
    """How many rows the day has, where they are exactly those of its one archive; None where they may not be."""
    (part, *more) = proven.parts
    if more or not rows_alike(rows, part) or not adopt_part(rows, part):
        return None
    rows.use(rows.table.columns, part.key)
    selection, state = Selection(proven.day), part.content_digest
    if isinstance(state, Pieces):
        return state.rows if rows.has_pieces(selection, state) else None
    return state.rows if rows.digest(selection) == state else None


def rows_alike(rows: RowStore, part: Manifest) -> bool:
    """Whether the part has the very columns that the table has, its key's among them."""
    theirs = {(c.name, c.encoding, c.framed) for c in part.table_columns}
    return theirs == {(c.name, c.encoding, c.framed) for c in rows.table.columns}


def _row_by_row(storage: Storage, rows: RowStore, proven: ProvenDay) -> int:
    """The day's rows, each found in the latest part that has its key. Raises NotHeld."""
    rows.read_types({column.name for column in rows.doubtful_columns})
    altered = [part.part for part in proven.parts if not rows_alike(rows, part)]
    held = held_rows(storage, rows, proven.parts, rows.table.key, altered)
    rows.end_read()
    count = missing = 0
    for batch in rows.batches(Selection(proven.day)):
        keys = key_hashes(batch, rows.table.key_columns)
        same = held.holds(keys, row_hashes(batch, rows.table.columns))
        missing += int((~same).sum())
        count += batch.num_rows
    if missing:
        now = "it is" if missing == 1 else "they are"
        raise NotHeld(f"{counted(missing, 'row')} of {proven.day} {are(missing)} not archived as {now} now")
    return count


def require_all_compared(rows: int, held: Held) -> None:
    """Raises NotHeld where the month has rows that are in none of the days that were compared."""
    if rows != held.rows:
        other = abs(rows - held.rows)
        raise NotHeld(f"{counted(other, 'row')} {have(other)} a created_at that is in no archived day")
