"""The plan or the result of a restore, and the sentences about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from saju_ops.errors import shown
from saju_ops.rows.days import Day
from saju_ops.words import are, counted, were

# Differing keys and missing parents named in a message; the counts are whole.
NAMED = 20
# Where the server's binary log takes no transaction of that size.
TOO_LARGE = (
    " A file is one transaction: first set max_binlog_cache_size on the server above the size of the largest file,"
    " which its manifest says (SET GLOBAL works at once, for connections that are made later)."
)


@dataclass
class RestorePlan:
    """The plan of a restore, or its result."""

    source: str
    target: str
    first: Day
    last: Day
    days: list[str] = field(default_factory=list)
    files: int = 0
    rows_archived: int = 0
    superseded: int = 0
    # Data files of the range that no manifest describes.
    undescribed: list[str] = field(default_factory=list)
    # Days of the range, YYYY-MM-DD, of which the store holds no file at all: nobody wrote that day, or nobody archived
    # it, or its files are lost.
    not_archived: list[str] = field(default_factory=list)
    # Why a day of the range is left: its manifest can't be believed.
    refused: dict[str, str] = field(default_factory=dict)
    to_write: int = 0
    already_there: int = 0
    conflicts: int = 0
    conflict_keys: list[str] = field(default_factory=list)
    missing_parents: int = 0
    missing_parent_keys: list[str] = field(default_factory=list)
    creates_table: bool = False
    compared_by: str = "row digests"
    written: int = 0
    # What the operator still has to do.
    remarks: list[str] = field(default_factory=list)
    dry_run: bool = True
    seconds: float = 0.0

    def broken_off(self, text: str) -> str:
        why = TOO_LARGE if "max_binlog_cache_size" in text else ""
        return (
            f"The database broke off the restore ({text}). {counted(self.written, 'row')} {were(self.written)}"
            f" written, each file as a whole or not at all; launch again: what is there is skipped.{why}"
        )

    @property
    def incomplete(self) -> str:
        """What of the range is not restored, as one sentence; empty where all of it is."""
        parts = []
        if self.undescribed:
            parts.append(_without_manifest(self.undescribed))
        if self.not_archived:
            days = _spans(self.not_archived)
            rest = f" and {counted(len(days) - NAMED, 'more span')} of days" if len(days) > NAMED else ""
            parts.append(f"there is no archive of {', '.join(days[:NAMED])}{rest}")
        parts += [f"{day}: {why.rstrip('.')}" for day, why in list(self.refused.items())[:NAMED]]
        if len(self.refused) > NAMED:
            more = len(self.refused) - NAMED
            whose = "whose manifest" if more == 1 else "whose manifests"
            parts.append(f"and {counted(more, 'more day')} {whose} can't be believed")
        return shown(f"NOT RESTORED: {'; '.join(parts)}.") if parts else ""

    def sentences(self) -> list[str]:
        """For the operator, before and after."""
        lines = [
            f"From {self.source}: {counted(len(self.days), 'archived day')} from {self.first} to {self.last},"
            f" {counted(self.files, 'file')}, all read back and proven; {counted(self.rows_archived, 'row')}.",
            f"Into {self.target}{' (a new table without foreign keys)' if self.creates_table else ''}.",
            f"{counted(self.already_there, 'row')} {are(self.already_there)} there already and equal;"
            f" {'it is' if self.already_there == 1 else 'they are'} skipped.",
            f"{counted(self.to_write, 'row')} {'would be' if self.dry_run else are(self.to_write) + ' to be'} written.",
        ]
        if self.incomplete:
            lines.append(self.incomplete)
        if self.superseded:
            older = f"{counted(self.superseded, 'row')} {are(self.superseded)} in an older part too"
            lines.append(f"{older}; the later part counts.")
        if self.compared_by != "row digests":
            lines.append(f"The target is another kind of database: what arrives is compared by {self.compared_by}.")
        return [shown(line) for line in [*lines, *self.remarks]]


def _spans(days: Sequence[str]) -> list[str]:
    """`2026-10-03`, or `2026-10-05 to 2026-10-09` for days one after the other."""
    spans: list[list[date]] = []
    for day in map(date.fromisoformat, days):
        if spans and day - spans[-1][-1] == timedelta(days=1):
            spans[-1].append(day)
        else:
            spans.append([day])
    return [f"{span[0]}" if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans]


def _without_manifest(names: Sequence[str]) -> str:
    return f"without its manifest nothing is known of: {_listed(names[:NAMED], len(names))}"


def _listed(names: Sequence[str], count: int) -> str:
    return "; ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
