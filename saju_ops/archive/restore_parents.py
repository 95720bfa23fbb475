"""Which rows that archived rows reference are missing, in the files and in the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saju_ops.archive.held import HeldRows
from saju_ops.archive.manifest import Manifest
from saju_ops.archive.restore_plan import NAMED, RestorePlan
from saju_ops.archive.verify import Visit, each_visit, keys_of, part_batches
from saju_ops.rows.digest import key_hashes
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import Column, ForeignKey
from saju_ops.storage.open import Storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass
class RestoreParents:
    """Writes nothing."""

    storage: Storage

    store: RowStore

    plan: RestorePlan

    # A dry run into a table that isn't there yet: nothing can be in the way.
    nothing_there: bool

    # The columns that identify archived rows in every part.
    identity: Sequence[str]

    def __post_init__(self) -> None:
        self.columns = self.store.table.columns
        # Parents that were found missing: several files may lack the same one.
        self.examined: list[tuple[str, HeldRows]] = []
        self.orphaned: set[tuple[str, Key]] = set()

    def _offers(self, part: Manifest) -> dict[ForeignKey, HeldRows]:
        """For the keys that others of the table reference."""
        return {key: HeldRows() for key in self.store.own_parents if part.has_columns(key.parent_columns)}

    def _collect_offers(
        self, part: Manifest, later: HeldRows, offers: dict[ForeignKey, HeldRows]
    ) -> Callable[[], Visit]:
        """A visitor of the part's rows that count: a row that a newer part has is written with that part, not
        before."""
        import pyarrow as pa

        collects = [held.collect_keys(self._columns_named(key.parent_columns)) for key, held in offers.items()]

        def begin() -> Visit:
            visits = [collect() for collect in collects]

            def visit(batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None:
                if visits and len(later):
                    batch = batch.filter(pa.array(~later.has_keys(self._archived_keys(batch, part))))
                each_visit(*visits)(batch, hashes)

            return visit

        return begin

    def _columns_named(self, names: Sequence[str]) -> list[Column]:
        return [next(c for c in self.columns if c.name == name) for name in names]

    def _not_offered(self, batch: pa.RecordBatch, parent: ForeignKey, offered: HeldRows) -> set[Key]:
        """What these rows reference and their own file doesn't have."""
        if not batch.num_rows:
            return set()
        known = offered.has_keys(self._hashes_of(batch, parent))
        values = keys_of(batch, parent.columns)
        return {key for key, is_known in zip(values, known, strict=True) if not is_known and None not in key}

    def _hashes_of(self, batch: pa.RecordBatch, parent: ForeignKey) -> np.ndarray:
        """The hashes of the referenced values, made like those of the keys that they reference."""
        import pyarrow as pa

        cells = [batch.column(name) for name in parent.columns]
        named = pa.RecordBatch.from_arrays(cells, names=list(parent.parent_columns))
        return key_hashes(named, self._columns_named(parent.parent_columns))

    def ordered(self, works: Sequence[_PartWork]) -> list[list[_PartWork]]:
        """The parts in the order in which they are written; those that reference each other in one group. Counts the
        parents that neither they nor the target have."""
        needs: list[set[int]] = [set() for _ in works]
        for number, work in enumerate(works):
            for parent, asked in work.asks.items():
                missing = asked
                for other, offering in enumerate(works):
                    if missing and other != number and parent in offering.offers:
                        found = self._offered(offering.offers[parent], parent, missing)
                        needs[number] |= {other} if found else set()
                        missing = missing - found
                if missing and self.store.folds(self._columns_named(parent.parent_columns)):
                    missing = self._unlike(works, parent, missing)
                self._name_missing(parent, missing)
        self.store.end_read()
        return [[works[number] for number in group] for group in in_order(needs)]

    def _unlike(self, works: Sequence[_PartWork], parent: ForeignKey, values: set[Key]) -> set[Key]:
        """The values that no key of the files equals for the target either, whose collation may take `A1` for `a1`."""
        columns, listed = self._columns_named(parent.parent_columns), sorted(values)
        wanted = dict(zip(self.store.folded(columns, listed), listed, strict=True))
        for work in works:
            if parent in work.offers and wanted:
                for batch in part_batches(self.storage, work.manifest):
                    for key in self.store.folded(columns, keys_of(batch, parent.parent_columns)):
                        wanted.pop(key, None)
        return {*wanted.values()}

    def _offered(self, offered: HeldRows, parent: ForeignKey, values: set[Key]) -> set[Key]:
        import pyarrow as pa

        listed = sorted(values)
        arrays = [pa.array(cells, pa.binary()) for cells in zip(*listed, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, names=list(parent.columns))
        known = offered.has_keys(self._hashes_of(batch, parent))
        return {key for key, is_known in zip(listed, known, strict=True) if is_known}

    def _look_for_parents(self, parents: Sequence[set[Key]]) -> None:
        for values, parent in zip(parents, self.store.table.parents, strict=True):
            self._name_missing(parent, values)

    def _name_missing(self, parent: ForeignKey, values: set[Key]) -> None:
        if self.nothing_there or not values:
            return
        known = {key for table, key in self.orphaned if table == parent.parent}
        missing = sorted(self.store.missing_parents(parent, values - known))
        self.orphaned |= {(parent.parent, key) for key in missing}
        self.plan.missing_parents += len(missing)
        names = [f"{parent.parent} {_text_of(key)}" for key in missing]
        self.plan.missing_parent_keys += names[: NAMED - len(self.plan.missing_parent_keys)]

    def _archived_keys(self, batch: pa.RecordBatch, part: Manifest) -> np.ndarray:
        """The keys as `later` hashes them; an empty SQLite table calls every column text, for one."""
        return key_hashes(batch, part.hashed_by(self.identity))


@dataclass(frozen=True)
class _PartWork:
    manifest: Manifest
    later: HeldRows
    there: HeldRows
    first: Key
    last: Key
    to_write: int
    # For rows that reference others of their table: the keys in the file that can be referenced, and the referenced
    # values that the file itself lacks, by foreign key.
    offers: dict[ForeignKey, HeldRows]
    asks: dict[ForeignKey, set[Key]]
    # Whether JSON of an earlier version's archive shows decimals.
    decimals: bool = False

    @property
    def in_order(self) -> bool:
        """Whether a range of its key is the same rows in the file and in every database."""
        return all(column.ordered for column in self.manifest.key_columns)


def _text_of(key: Key) -> str:
    return ", ".join(v.decode("utf-8", "replace") for v in key)


def in_order(needs: Sequence[set[int]]) -> list[list[int]]:
    """Numbers, each after those that it needs; those that need each other together. Else as they are."""
    groups: list[list[int]] = []
    done, left = set[int](), list(range(len(needs)))
    while left:
        ready = next((number for number in left if needs[number] <= done), None)
        group = [ready] if ready is not None else min((_reached(n, needs, done) for n in left), key=len)
        groups.append(sorted(group))
        done |= {*group}
        left = [number for number in left if number not in done]
    return groups


def _reached(start: int, needs: Sequence[set[int]], done: set[int]) -> list[int]:
    found, todo = {start}, [start]
    while todo:
        fresh = needs[todo.pop()] - done - found
        found |= fresh
        todo += fresh
    return list(found)
