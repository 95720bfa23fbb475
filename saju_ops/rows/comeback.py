"""Whether a restore of a day's text would give its rows back. This is checked before a day counts as archived, and
before a purge relies on an archive that an earlier version made.

Text is not always the value. JSON on MySQL holds decimals, times and binary strings, for which JSON text has no form:
they come back as doubles and strings. A stored generated column holds the value once computed, such as the date of a
TIMESTAMP in the session that wrote the row; a restore computes it anew. Earlier versions archived such days, proved
them by their text and purged them, and no restore could bring them back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from saju_ops.errors import Refused
from saju_ops.rows.digest import offsets_of
from saju_ops.rows.table import Column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from saju_ops.archive.manifest import Manifest
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import RowStore

UTC_OFFSET = "+00:00"
OFFSET = re.compile(r"[+-](0\d|1[0-4]):[0-5]\d")
# Where a manifest says in which zone a restore computes its generated columns. Archives of earlier versions say
# nothing: nobody asked whether a restore would take them.
MARK = "generated_in"
# The family of a JSON column whose cells may have the types of hidden values behind their text, and their separator.
TYPED, TYPES_BEHIND = "json with types", "\t"
# Numbers that are decimals by their text, since no double prints so: with a last digit of 0, or many digits.
DECIMAL = re.compile(rb"\.[0-9]+0([^0-9.eE]|$)|[0-9.]{17}")


@dataclass(frozen=True)
class Comeback:
    """Per column the number of rows that a restore would not give back, and the offset of the session in which
    generated columns come out as they are."""

    lacking: dict[str, int] = field(default_factory=dict)
    offset: str = UTC_OFFSET
    # Columns in which documents hold more than their text says, which a restore gives back if they are read with types.
    typed: tuple[str, ...] = ()

    def refusal(self, day: Day, table: str) -> str:
        """The sentence for an operator, to follow the name of what was not done."""
        columns = ", ".join(f"{rows} in {name}" for name, rows in self.lacking.items())
        return (
            f"some rows of {table} hold what a restore of their text would not give back ({columns}): bits or"
            " blobs inside JSON, which JSON text can't express, or a stored generated column that no known time zone"
            f" computes to what it holds. The rows of {day} stay in the database. Write such values into JSON as text"
            " (TO_BASE64); compute a generated column anew in the service's time zone (SET time_zone = …; ALTER TABLE"
            " … FORCE). Then launch the day again."
        )


class Doubts:
    """Looks at batches for JSON in which MySQL may hold more than the text says: a number, or a string like a date, a
    time or a binary string. Any other document is what its text says, and the server needn't look into it, which takes
    4 µs each. This takes 0.03 µs a row, with a document in every tenth."""

    def __init__(self, columns: Collection[Column], shown: re.Pattern[bytes] | None = None) -> None:
        """With `shown`, only its matches are doubts."""
        self._names, self._shown = [column.name for column in columns], shown
        self.found = False

    def visit(self, batch: pa.RecordBatch, _hashes: object = None) -> None:
        for name in self._names:
            cells = batch.column(name)
            if not self.found and cells.null_count < len(cells):
                text, starts = _joined(cells)
                if self._shown is not None:
                    self.found = self._shown.search(text) is not None
                else:
                    self.found = _may_hide(text, starts)


def _joined(cells: pa.Array) -> tuple[memoryview, np.ndarray]:
    """The cells one behind the other, and where each that isn't empty begins."""
    import numpy as np
    import pyarrow as pa

    cells = cells.cast(pa.large_binary() if cells.type in (pa.large_binary(), pa.large_string()) else pa.binary())
    _, offsets, data = cells.buffers()
    ends: np.ndarray = np.frombuffer(offsets, offsets_of(cells.type))[cells.offset : cells.offset + len(cells) + 1]
    first, last = int(ends[0]), int(ends[-1])
    return memoryview(data if data is not None else b"")[first:last], ends[:-1][ends[1:] > ends[:-1]] - first


def _may_hide(text: memoryview, starts: np.ndarray) -> bool:
    """Whether a number is at a document's begin, in an array or behind a name as MySQL prints them ([1, 2], "a": 3), or
    a string begins as MySQL prints dates ("2026-10-01" or with a time behind a blank), times and binary strings."""
    import numpy as np

    signs = np.frombuffer(text, np.uint8)
    number = ((signs >= ord("0")) & (signs <= ord("9"))) | (signs == ord("-"))
    before = signs[:-1]
    named = number[2:] & (before[1:] == ord(" ")) & ((signs[:-2] == ord(":")) | (signs[:-2] == ord(",")))
    if number[starts].any() or (number[1:] & (before == ord("["))).any() or named.any():
        return True
    quoted = np.flatnonzero(number[1:] & (before == ord('"')))
    ends = np.concatenate([signs, np.zeros(12, np.uint8)])
    date = (ends[quoted + 5] == ord("-")) & np.isin(ends[quoted + 11], (ord('"'), ord(" ")))
    time = (ends[quoted + 3] == ord(":")) | (ends[quoted + 4] == ord(":")) | (ends[quoted + 5] == ord(":"))
    return bool(date.any() or time.any()) or b'"base64:type' in bytes(text)


def zone_offsets(day: Day, *zones: ZoneInfo) -> list[str]:
    """UTC first, then how far the zones were from it on that day."""
    found = [UTC_OFFSET]
    for zone in (day.zone, *zones):
        found += [offset_at(instant, zone) for instant in (day.start, day.end)]
    return list(dict.fromkeys(found))


def offset_at(instant: datetime, zone: ZoneInfo) -> str:
    return offset(instant.astimezone(zone).utcoffset() or timedelta())


def offset(ahead: timedelta) -> str:
    minutes = round(ahead.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def marked_offset(part: Manifest) -> str | None:
    """None where the manifest says nothing, or no offset."""
    said: Any = part.extra.get(MARK)
    return said if isinstance(said, str) and OFFSET.fullmatch(said) else None


def require_comeback(store: RowStore, day: Day, parts: Iterable[Manifest]) -> None:
    """Before a purge relies on parts of which an earlier version didn't ask. Raises Refused; reads only. Documents are
    compared with their types (`adopt_part`)."""
    if all(marked_offset(part) is not None for part in parts) or not store.has_doubts:
        return
    with store.snapshot():
        comeback = store.comeback(day, documents=False)
    if comeback.lacking:
        raise Refused(f"The day {day} was not purged: {comeback.refusal(day, store.table.name)}")


def adopt_part(store: RowStore, part: Manifest) -> bool:
    """Whether the store's rows are now read in the part's form, to be compared with it before they are deleted. A
    document that holds more than its text shows equals no archived row of an earlier version, which has only the text;
    a document whose text shows everything reads the same with its types."""
    if not store.adopt(part.table_columns):
        return False
    store.read_types({c.name for c in store.doubtful_columns})
    return True
