"""Which rows the stored parts of a day hold, by key, the latest part first.

A row that changed after it was archived is in two parts. Only the latest one counts: a purge compares with it, and a
restore writes it. Sixteen bytes a row are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from saju_ops.archive.manifest import Manifest
from saju_ops.archive.verify import Visit, keys_of, verify_part
from saju_ops.rows.digest import key_hashes
from saju_ops.rows.table import Column
from saju_ops.storage.open import Storage

if TYPE_CHECKING:
    import pyarrow as pa

    from saju_ops.rows.engines.open import RowStore

Hashing = Callable[["pa.RecordBatch", Sequence[Column]], np.ndarray]


def hashing_of(store: RowStore, key: Sequence[str], parts: int) -> Hashing:
    """How keys of a day's parts are distinguished: as the database does. For a collation that ignores letter case, `A1`
    in a later part is the row that was `a1` before; within one part the bytes suffice."""
    there = {*store.table.names}
    if parts < 2 or not {*key} <= there or not store.folds([store.table.column(name) for name in key]):
        return key_hashes

    def hashed(batch: pa.RecordBatch, columns: Sequence[Column]) -> np.ndarray:
        import pyarrow as pa

        names = [column.name for column in columns]
        if not {*names} <= there:
            return key_hashes(batch, columns)
        folded = store.folded([store.table.column(name) for name in names], keys_of(batch, names))
        cells = zip(*folded, strict=True) if folded else ([] for _ in names)
        arrays = [pa.array(values, pa.binary()) for values in cells]
        return key_hashes(pa.RecordBatch.from_arrays(arrays, names=names), columns)

    return hashed


def held_rows(
    storage: Storage, store: RowStore, parts: Sequence[Manifest], key: Sequence[str], altered: Collection[int]
) -> HeldRows:
    """The rows in the parts of a day, by this key of the table; every file is read back. Only the keys of the `altered`
    parts count. Raises ProofFailed."""
    held, hashing = HeldRows(), hashing_of(store, key, len(parts))
    for number, part in enumerate(parts):
        columns, is_old = part.hashed_by(key), None
        if hashing is not key_hashes:
            later = HeldRows()
            for newer in parts[number + 1 :]:
                verify_part(storage, newer, later.collect_keys(newer.hashed_by(key), hashing))
            is_old = _found_in(later, hashing, columns)
        verify_part(storage, part, held.collect(columns, altered=part.part in altered, is_old=is_old))
    return held


def _found_in(later: HeldRows, hashing: Hashing, columns: Sequence[Column]) -> Callable[[pa.RecordBatch], np.ndarray]:
    return lambda batch: later.has_keys(hashing(batch, columns))


class HeldRows:
    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def collect(
        self, key_columns: Sequence[Column], *, altered: bool = False, hashing: Hashing = key_hashes,
        is_old: Callable[[pa.RecordBatch], np.ndarray] | None = None,
    ) -> Callable[[], Visit]:  # fmt: skip
        """A visitor that adds a part. Parts are added in their order. If a part has other columns than the table has
        now, only its keys count, since no row of the table equals its rows; the same applies to old rows."""
        keys, rows = self._keys, self._rows
        start = len(keys)

        def begin() -> Visit:
            del keys[start:], rows[start:]
            return visit

        def visit(batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None:
            keys.append(hashing(batch, key_columns))
            hashed = ~hashes() if altered else hashes()
            rows.append(hashed if is_old is None else np.where(is_old(batch), ~hashed, hashed))

        self._sorted = None
        return begin

    def collect_keys(self, key_columns: Sequence[Column], hashing: Hashing = key_hashes) -> Callable[[], Visit]:
        """A visitor that adds only a part's keys, for callers that don't compare rows: `holds` then says no."""
        collecting = self.collect(key_columns, hashing=hashing)

        def begin() -> Visit:
            visit = collecting()
            return lambda batch, _hashes: visit(batch, lambda: np.zeros(batch.num_rows, np.uint64))

        return begin

    def add(self, other: HeldRows) -> None:
        """All that another has, as a part of its own."""
        self._keys += other._keys
        self._rows += other._rows
        self._sorted = None

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        if self._sorted is None:
            keys = np.concatenate(self._keys) if self._keys else np.empty(0, np.uint64)
            rows = np.concatenate(self._rows) if self._rows else np.empty(0, np.uint64)
            # Reversed, so that of several with the same key the last one added is found first.
            unique, first = np.unique(keys[::-1], return_index=True)
            self._sorted = (unique, rows[::-1][first])
        return self._sorted

    def keys(self) -> np.ndarray:
        return self._index()[0]

    def __len__(self) -> int:
        return len(self._index()[0])

    def has_keys(self, keys: np.ndarray) -> np.ndarray:
        """Per key, whether any part holds a row with it."""
        return self._find(keys)[1]

    def holds(self, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Per row, whether the latest part that has its key holds exactly this row."""
        place, found = self._find(keys)
        held = self._index()[1]
        return found & (held[place] == rows) if len(held) else found

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = self._index()[0]
        if not len(known):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return place, known[place] == keys
