"""New rows of an archived day: the part that is written for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from saju_ops.archive.held import HeldRows
from saju_ops.archive.verify import Visit
from saju_ops.rows.digest import EMPTY, Digest, key_hashes, row_hashes
from saju_ops.rows.engines.interface import PiecesFailed, Profile
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.pieces import Pieces
from saju_ops.rows.table import Column
from saju_ops.words import counted

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def _all(pieces: Pieces, profile: Profile) -> Pieces:
    """The pieces, which must be all that the time index counted in the same snapshot."""
    if pieces.rows != profile.rows:
        raise PiecesFailed(f"The pieces have {pieces.rows} of {counted(profile.rows, 'row')}.")
    return pieces


def _in_order(visit: Visit, key: Sequence[Column]) -> Visit:
    """Raises PiecesFailed if the key's first column, an integer, doesn't ascend through the file: then the server gave
    its rows by another index than it was asked to use, or partition by partition. If the key has further columns, the
    first must be unique by itself, since the order of the others is not known here."""
    import pyarrow as pa
    import pyarrow.compute as pc

    last: list[pa.Array] = []
    wrong = pc.greater if len(key) == 1 else pc.greater_equal

    def checked(batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None:
        numbers = batch.column(key[0].name).cast(pa.string()).cast(pa.decimal128(20))
        keys = pa.concat_arrays([*last, numbers])
        if pc.any(wrong(keys[:-1], keys[1:])).as_py():
            raise PiecesFailed("The server gave rows in another order than by their key.")
        last[:] = [keys[-1:]]
        visit(batch, hashes)

    return checked


class _NewRows:
    """The rows of a stream that no part holds as they are now, and the digest of those it leaves out."""

    def __init__(self, batches: Iterator[pa.RecordBatch], store: RowStore, held: HeldRows) -> None:
        self._batches, self._columns, self._held = batches, store.table.columns, held
        self._key: tuple[Column, ...] = store.table.key_columns
        self.left_out = EMPTY
        self.first: pa.RecordBatch | None = next(self._new(), None)

    def _new(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in self._batches:
            hashes = row_hashes(batch, self._columns)
            held = self._held.holds(key_hashes(batch, self._key), hashes)
            self.left_out += Digest.of(hashes[held])
            if not held.all():
                yield batch.filter(pa.array(~held))

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if self.first is not None:
            yield self.first
            yield from self._new()
