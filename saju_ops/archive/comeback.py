"""Whether a restore of a day's text would give its rows back. It is asked before a day counts as archived, and before a
purge relies on an archive that an earlier version made.

Text is not always the value. JSON on MySQL holds decimals, times and binary strings, which JSON text has no form for:
they come back as doubles and strings. A stored generated column holds what it was computed as, such as the date of a
TIMESTAMP in the session that wrote the row; a restore computes it anew. Such days were archived, proven by their text
and purged, and no restore could bring them back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from saju_ops.archive.table import Column
from saju_ops.errors import Refused

if TYPE_CHECKING:
    import pyarrow as pa

    from saju_ops.archive.engines import LogStore
    from saju_ops.archive.manifest import Manifest
    from saju_ops.archive.window import Day

UTC_OFFSET = "+00:00"
OFFSET = re.compile(r"[+-](0\d|1[0-4]):[0-5]\d")
# Where a manifest says in which zone a restore computes its generated columns. Archives of earlier versions say
# nothing: nobody asked whether a restore would take them.
MARK = "generated_in"
# The family of a JSON column whose cells may have the types of hidden values behind their text, and what parts the two.
TYPED, TYPES_BEHIND = "json with types", "\t"
# Text of MySQL's JSON in which something may be hidden: a number, a date or time as the server prints one, or a binary
# string. Any other document is what its text says, and needn't be looked into, which takes the server 4 µs each.
DOUBTFUL = (
    r"(^|\[|[:,] )-?[0-9]|"
    r"\"([0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9:]{8}\.[0-9]{6})?|-?[0-9]{2,3}:[0-9]{2}:[0-9]{2}\.[0-9]{6})\"|\"base64:type"
)
# Numbers that may be decimals by their text, since no double prints so: with a last digit of 0, or many digits.
DECIMALS = r"\.[0-9]+0([,}\]]|$)|[0-9.]{17}"


@dataclass(frozen=True)
class Comeback:
    """Per column the number of rows that a restore would not give back, and the offset of the session in which
    generated columns come out as they are."""

    lacking: dict[str, int] = field(default_factory=dict)
    offset: str = UTC_OFFSET
    # Columns in which documents hold more than their text says, which a restore gives back if they are read with types.
    typed: tuple[str, ...] = ()

    def refusal(self, day: Day, table: str) -> str:
        """For an operator, after what was not done."""
        columns = ", ".join(f"{rows} in {name}" for name, rows in self.lacking.items())
        return (
            f"some rows of {table} hold what a restore of their text would not give back ({columns}): bits or"
            " blobs inside JSON, which JSON text can't express, or a stored generated column that no known time zone"
            f" computes to what it holds. The rows of {day} stay in the database. Write such values into JSON as text"
            " (TO_BASE64); compute a generated column anew in the service's time zone (SET time_zone = …; ALTER TABLE"
            " … FORCE). Then launch the day again."
        )


class Doubts:
    """Looks at batches for documents in which the server should look for more than their text says."""

    def __init__(self, columns: Collection[Column], pattern: str = DOUBTFUL) -> None:
        self._names, self._pattern = [column.name for column in columns], pattern
        self.found = False

    def visit(self, batch: pa.RecordBatch, _hashes: object = None) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        for name in self._names:
            cells = batch.column(name)
            if not self.found and cells.null_count < len(cells):
                texts = cells.drop_null().cast(pa.binary())
                self.found = bool(pc.any(pc.match_substring_regex(texts, self._pattern)).as_py())


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


def require_comeback(store: LogStore, day: Day, parts: Iterable[Manifest]) -> None:
    """Before a purge relies on parts of which an earlier version didn't ask. Raises Refused; reads only. Documents are
    compared with their types (`adopt_part`)."""
    if all(marked_offset(part) is not None for part in parts) or not store.has_doubts:
        return
    with store.snapshot():
        comeback = store.comeback(day, documents=False)
    if comeback.lacking:
        raise Refused(f"The day {day} was not purged: {comeback.refusal(day, store.table.name)}")


def adopt_part(store: LogStore, part: Manifest) -> bool:
    """Whether the store's rows are now read as the part has them, to be compared with it before they are deleted. Where
    an earlier version made it, a document that holds more than its text says equals no archived row."""
    if not store.adopt(part.table_columns):
        return False
    if marked_offset(part) is None:
        store.read_types({c.name for c in store.doubtful_columns})
    return True
