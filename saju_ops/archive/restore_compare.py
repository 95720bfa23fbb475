"""Compares archived rows with a table before the first of them is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from saju_ops.archive.held import HeldRows
from saju_ops.archive.manifest import DayFiles, Manifest
from saju_ops.archive.restore_parents import RestoreParents, _PartWork, _text_of
from saju_ops.archive.restore_plan import NAMED, _listed
from saju_ops.archive.restore_rows import _is_instant
from saju_ops.archive.verify import each_visit, keys_of, part_batches, verify_part
from saju_ops.database.families import family_of
from saju_ops.errors import Refused
from saju_ops.rows.comeback import DECIMAL, TYPED, Doubts, marked_offset
from saju_ops.rows.digest import key_hashes, row_hashes
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import Selection
from saju_ops.rows.engines.selecting import of_keys
from saju_ops.rows.table import TIME_COLUMN, ForeignKey
from saju_ops.words import are, counted, its

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass
class RestoreComparison(RestoreParents):
    """Reads files back and looks which of their rows are there, which differ, and which parents are missing. Writes
    nothing."""

    def examine(self, files: DayFiles) -> list[_PartWork]:
        """Reads a day's parts back and compares them with the target. Writes nothing."""
        work = []
        for number, part in enumerate(files.parts):
            later, own = HeldRows(), HeldRows()
            for newer in files.parts[number + 1 :]:
                verify_part(self.storage, newer, later.collect_keys(newer.hashed_by(self.identity)))
            self._collect_alike(part, files.parts[number + 1 :], later)
            unasked = [c for c in part.table_columns if c.family == "json" and marked_offset(part) is None]
            doubts = Doubts(unasked, DECIMAL)
            offers = self._offers(part)
            collects = [own.collect_keys(part.hashed_by(self.identity)), self._collect_offers(part, later, offers)]
            found = verify_part(self.storage, part, lambda: each_visit(*(c() for c in collects), doubts.visit))  # noqa: B023
            self.plan.files += 1
            self.plan.rows_archived += part.rows
            if found.first_key is None or found.last_key is None:
                continue
            if later.has_keys(own.keys()).all():
                # Such as a part from before the table was altered: its columns needn't be there any more.
                self.plan.superseded += part.rows
                continue
            self._take_columns(part)
            self._take_key(part)
            self._refuse_second_day(part, own)
            compared = self._compare(part, later, found.first_key, found.last_key, offers)
            work.append(replace(compared, decimals=doubts.found))
        self.store.end_read()
        return work

    def _collect_alike(self, part: Manifest, newer: Sequence[Manifest], later: HeldRows) -> None:
        """Adds to `later` those keys of the part that the table takes for a newer part's, though they are spelled
        differently: the letter case of a key was changed after it was archived."""
        import pyarrow as pa

        self.store.use(self.columns)
        if not newer or not {*self.identity} <= {*self.store.table.names}:
            return
        self.store.use(self.columns, self.identity)
        if all(c.encoding in ("number", "hex") for c in self.store.table.key_columns):
            return
        known: dict[Key, set[Key]] = {}
        for each in newer:
            for batch in part_batches(self.storage, each):
                for key in keys_of(batch, self.identity):
                    known.setdefault(_folded(key), set()).add(key)
        collect = later.collect_keys(part.hashed_by(self.identity))()
        for batch in part_batches(self.storage, part):
            alike = [self._is_known(key, known.get(_folded(key), set())) for key in keys_of(batch, self.identity)]
            if any(alike):
                collect(batch.filter(pa.array(alike)), dict)  # type: ignore[arg-type]
        self.store.end_read()

    def _is_known(self, key: Key, others: set[Key]) -> bool:
        return key not in others and any(self.store.is_one_key(key, other) for other in others)

    def _refuse_second_day(self, part: Manifest, own: HeldRows) -> None:
        """A row whose created_at was changed after its day was archived is in two days' archives."""
        for day, keys in self.examined:
            again = int(keys.has_keys(own.keys()).sum()) if day != part.day else 0
            if again:
                raise Refused(
                    f"{counted(again, 'row')} {are(again)} in the archives of both {day} and {part.day}:"
                    f" {its(again)} created_at was changed"
                    " in between. Nothing was written; restore the two days one by one, the right one first, the"
                    " other into another table with --into-table."
                )
        self.examined.append((part.day, own))

    def _take_columns(self, part: Manifest) -> None:
        self.store.use(self.columns)
        mine = {c.name for c in self.columns}
        missing = [c.name for c in part.table_columns if c.name not in mine]
        if missing:
            raise Refused(
                f"{self.plan.target} has no column {', '.join(missing)}, which the archive of {part.day} has."
                " Nothing was written; restore into a table with the archive's columns."
            )
        if self._same_family(part) and self.store.table.engine == "sqlite":
            generated = {c.name: c.generated for c in self.columns}
            self.store.use([replace(c, generated=generated[c.name]) for c in part.table_columns])
            return
        literal = [c.name for c in part.table_columns if c.encoding == "literal"]
        if literal:
            raise Refused(
                f"The archive of {part.day} has several types in the column {', '.join(literal)}, as only SQLite can"
                " hold them. Nothing was written; restore into a SQLite database."
            )
        self.store.use([self.store.table.column(c.name) for c in part.table_columns])
        self.store.read_types({c.name for c in part.table_columns if c.family == TYPED})
        self._refuse_shifted_time(part)

    def _take_key(self, part: Manifest) -> None:
        """The file's own key, in whose order it is, even if the target has another."""
        self.store.use(self.store.table.columns, part.key)

    def _refuse_shifted_time(self, part: Manifest) -> None:
        """An archive of another engine is written as its text; with another meaning of time it would shift."""
        if self._same_family(part):
            return
        theirs = next(c.family for c in part.table_columns if c.name == TIME_COLUMN)
        instants = [_is_instant(part.engine, theirs), _is_instant(self.store.table.engine, self.store.table.time_type)]
        if instants[0] != instants[1] and self.store.zone.key != "UTC":
            raise Refused(
                f"{TIME_COLUMN} is in UTC in the archive or in {self.plan.target}, and in {self.store.zone.key} in the"
                " other. Nothing was written; restore into a database of the same kind."
            )

    def _same_family(self, part: Manifest) -> bool:
        mine = self.store.table.engine
        same = family_of(mine) == family_of(part.engine)
        documents = {c.name for c in self.store.doubtful_columns}
        alike = all(
            self.store.table.column(c.name).encoding == c.encoding and (c.family != TYPED or c.name in documents)
            for c in part.table_columns
        )
        return same and (alike or mine == "sqlite")

    def _compare(
        self, part: Manifest, later: HeldRows, first: Key, last: Key, offers: dict[ForeignKey, HeldRows]
    ) -> _PartWork:
        work = _PartWork(
            part, later, HeldRows(), first, last=last, to_write=0, offers=offers, asks={key: set() for key in offers}
        )
        selection, there = Selection(first=first, last=last), work.there
        if not self._same_family(part):
            self.plan.compared_by = "number of rows"
        if self.nothing_there:
            pass
        elif not work.in_order or not self._in_order_here():
            # A range of texts is other rows to another collation: they are looked for key by key.
            if self.store.count(Selection()):
                self._find(part, later, there)
        elif self.store.count(selection):
            visit = there.collect(self.store.table.key_columns)()
            for batch in self.store.batches(selection):
                visit(batch, partial(row_hashes, batch, self.store.table.columns))
        parents: list[set[Key]] = [set() for _ in self.store.table.parents]
        # With nothing to compare them with, the rows needn't be read once more.
        compared = len(later) or len(there) or parents
        to_write = self._look_at_rows(work, parents) if compared else part.rows
        self.plan.to_write += to_write
        if not self.nothing_there:
            self._look_for_parents(parents)
        self.store.end_read()
        return replace(work, to_write=to_write)

    def _in_order_here(self) -> bool:
        return all(column.ordered for column in self.store.table.key_columns)

    def _find(self, part: Manifest, later: HeldRows, there: HeldRows) -> None:
        """Which rows of the part the target has. One under a key that it takes for the same, such as `A1` for `a1`,
        stops the restore."""
        import pyarrow as pa

        visit = there.collect(self.store.table.key_columns)()
        for batch in part_batches(self.storage, part):
            old = later.has_keys(self._archived_keys(batch, part)) if len(later) else None
            wanted = batch if old is None else batch.filter(pa.array(~old))
            asked = keys_of(wanted, part.key)
            known = {*asked}
            for selection in of_keys(None, asked):
                for found in self.store.batches(selection):
                    visit(found, partial(row_hashes, found, self.store.table.columns))
                    for key in (k for k in keys_of(found, part.key) if k not in known):
                        self.plan.conflicts += 1
                        if len(self.plan.conflict_keys) < NAMED:
                            self.plan.conflict_keys.append(_text_of(key))

    def _look_at_rows(self, work: _PartWork, parents: Sequence[set[Key]]) -> int:
        """Compares a part's rows with the existing ones and collects their parents. Returns how many rows to write."""
        part, to_write = work.manifest, 0
        comparable = self._same_family(part)
        for batch in part_batches(self.storage, part):
            new = self._new_rows(batch, work.later, work.there, part, comparable)
            to_write += new.num_rows
            for values, parent in zip(parents, self.store.table.parents, strict=True):
                if not part.has_columns(parent.columns):
                    continue
                if parent in work.offers:
                    work.asks[parent].update(self._not_offered(new, parent, work.offers[parent]))
                else:
                    values.update(k for k in keys_of(new, parent.columns) if None not in k)
        return to_write

    def _new_rows(
        self, batch: pa.RecordBatch, later: HeldRows, there: HeldRows, part: Manifest, comparable: bool
    ) -> pa.RecordBatch:
        """The rows of a part that count and aren't there yet. Notes those that are there and differ."""
        import pyarrow as pa

        if not len(later) and not len(there):
            return batch  # nothing to compare with: 1.6 µs a row less
        keys = key_hashes(batch, self.store.table.key_columns)
        old, present = later.has_keys(self._archived_keys(batch, part)), there.has_keys(keys)
        same = there.holds(keys, row_hashes(batch, self.store.table.columns)) if comparable else present & False
        differs = present & ~same & ~old
        self.plan.superseded += int(old.sum())
        self.plan.already_there += int((same & ~old).sum())
        self.plan.conflicts += int(differs.sum())
        if differs.any():
            self._name_conflicts(batch, part, differs)
        return batch.filter(pa.array(~old & ~present))

    def _name_conflicts(self, batch: pa.RecordBatch, part: Manifest, differs: np.ndarray) -> None:
        import pyarrow as pa

        for key in keys_of(batch.filter(pa.array(differs)), part.key)[: NAMED - len(self.plan.conflict_keys)]:
            self.plan.conflict_keys.append(_text_of(key))

    def refuse_if_unsafe(self) -> None:
        if self.plan.conflicts:
            raise Refused(
                f"{counted(self.plan.conflicts, 'row')} {are(self.plan.conflicts)} in {self.plan.target} and"
                f" {'differs' if self.plan.conflicts == 1 else 'differ'} from the archive; their"
                f" keys: {_listed(self.plan.conflict_keys, self.plan.conflicts)}. Nothing was written; look at them, or"
                " restore into another table with --into-table."
            )
        if self.plan.missing_parents:
            raise Refused(
                f"{counted(self.plan.missing_parents, 'parent row')} {are(self.plan.missing_parents)} missing:"
                f" {_listed(self.plan.missing_parent_keys, self.plan.missing_parents)}. Nothing was written; restore"
                f" into a table without the foreign key with --into-table {self.store.table.name}_restored."
            )


def _folded(key: Key) -> Key:
    """The same for keys that a collation may take for one: letters of either case, with or without accents."""
    from unicodedata import combining, normalize

    texts = (normalize("NFKD", cell.decode("utf-8", "replace").casefold()) for cell in key)
    return tuple("".join(c for c in text if not combining(c)).rstrip().encode() for text in texts)
