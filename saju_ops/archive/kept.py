"""Which rows of a purged day are still there, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from saju_ops.archive.deleting import Deleter
from saju_ops.archive.held import Hashing, held_rows
from saju_ops.archive.manifest import (
    Manifest,
)
from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
from saju_ops.archive.verify import keys_of
from saju_ops.rows.days import Day
from saju_ops.rows.digest import key_hashes, row_hashes
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.run_control import RunControl
from saju_ops.storage.open import Storage
from saju_ops.words import are, counted


@dataclass
class KeptRows:
    """Reads only."""

    store: RowStore

    storage: Storage

    plan: PurgePlan

    cutoff: Day

    now: datetime

    replicas: Sequence[sa.URL]

    control: RunControl

    wait: float

    def __post_init__(self) -> None:
        self.result = PurgeResult(self.cutoff, self.plan.dry_run)
        self.key = self.store.table.key
        self.started = self.control.clock()
        self.locked_days = 0
        self.deleter = Deleter(self.store, self.control.sleep)
        # Per day: rows that are still there, and why; of the day at work, those that the database refused.
        self.kept: dict[Day, _Kept] = {}
        self.refused: dict[Key, str] = {}
        # By what the keys of the parts at work differ.
        self.hashing: Hashing = key_hashes
        # Days with rows that wait for rows of the same table to go; of the day at work, those rows by part.
        self.waiting_days: set[Day] = set()
        self.waiting: dict[int, set[Key]] = {}

    def _referenced(self, selection: Selection) -> dict[str, set[Key]]:
        """Per referencing table, the selected rows that its rows hold. In a dry run a row of the same table holds the
        row that it answers only if it is within the retention: a real run would have deleted it before."""
        table = self.store.table
        if not self.plan.dry_run or not table.answers:
            return self.store.referenced_keys(selection)
        held = {parent for parent, _ in self.store.answered(selection, since=self.cutoff.start)}
        others = self.store.referenced_keys(selection, [c for c in table.children if c not in table.answers])
        return others | ({table.name: held} if held else {})

    def _count_kept(self, day: Day, parts: Sequence[Manifest], altered: Sequence[int]) -> None:
        """Why rows of a worked-off day are still there. Reads only; and only where some are."""
        remaining = self.store.count(Selection(day))
        self.store.end_read()
        would_go = self.result.per_day[str(day)] if self.plan.dry_run else 0
        kept = self._why_kept(day, parts, altered) if remaining > would_go else _Kept()
        kept.take_from(self.result, self.kept.get(day))
        self.kept[day] = kept

    def _why_kept(self, day: Day, parts: Sequence[Manifest], altered: Sequence[int]) -> _Kept:
        self.store.use(self.store.table.columns, self.key)
        held, kept = held_rows(self.storage, self.store, parts, self.key, altered), _Kept()
        self.store.end_read()
        known_reasons: set[Key] = set()
        with self.store.snapshot():
            for table, referenced in self._referenced(Selection(day)).items():
                kept.referenced[table] += len(referenced)
                known_reasons |= referenced
            known_reasons |= self.refused.keys()
            profile = self.store.profile(day)
            for batch in self.store.batches(Selection(day), self.store.batch_rows(day, profile)):
                keys = key_hashes(batch, self.store.table.key_columns)
                same = held.holds(keys, row_hashes(batch, self.store.table.columns))
                known = held.has_keys(keys)
                kept.late += int((~known).sum())
                kept.changed += int((known & ~same).sum())
                if same.any():
                    unchanged = [key for key, is_same in zip(keys_of(batch, self.key), same, strict=True) if is_same]
                    kept.refused.update(self.refused[key] for key in unchanged if key in self.refused)
                    kept.unexplained += 0 if self.plan.dry_run else len({*unchanged} - known_reasons)
        return kept

    def _name_unexplained(self) -> None:
        for day, kept in self.kept.items():
            if kept.unexplained:
                self.result.problems.append(
                    f"{counted(kept.unexplained, 'row')} of {day} {are(kept.unexplained)} archived unchanged and still"
                    f" in {self.store.table.name}, for no known reason. The table's key is"
                    f" {self.store.table.shown_key}. Launch the purge again; if that changes nothing, look for a"
                    " program that writes such rows again."
                )

    def _report_space(self, before: dict[str, int]) -> None:
        self.result.table_bytes = before["table_bytes"]
        after = self.store.sizes()
        self.result.freed_bytes = max(0, after["free_bytes"] - before["free_bytes"])
        self.result.reclaim_hint = self.store.reclaim_hint


@dataclass
class _Kept:
    """Rows of one day that are still there."""

    late: int = 0
    changed: int = 0
    unexplained: int = 0
    referenced: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def take_from(self, result: PurgeResult, before: _Kept | None) -> None:
        """Counts them in the result, instead of those counted before for the same day."""
        before = before or _Kept()
        result.kept_late += self.late - before.late
        result.kept_changed += self.changed - before.changed
        result.kept_unexplained += self.unexplained - before.unexplained
        result.kept_referenced = result.kept_referenced - before.referenced + self.referenced
        result.kept_refused = result.kept_refused - before.refused + self.refused
