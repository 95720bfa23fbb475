"""Archived rows in chunks of a size that one short transaction deletes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from saju_ops.archive.verify import keys_of
from saju_ops.rows.engines.interface import Key

if TYPE_CHECKING:
    import pyarrow as pa

# Bytes of a chunk's rows, roughly: five thousand rows of one megabyte, of which several copies are held, took 5 GB for
# each of those. And with MariaDB's own max_allowed_packet a text of 8 MB can't be compared as one piece.
CHUNK_BYTES = 7 << 20


def _of_keys(batches: Iterator[pa.RecordBatch], key: Sequence[str], wanted: set[Key]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for batch in batches:
        mask = [each in wanted for each in keys_of(batch, key)]
        if any(mask):
            yield batch.filter(pa.array(mask))


def rechunk(batches: Iterator[pa.RecordBatch], size: int, most_bytes: int = CHUNK_BYTES) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `size`, smaller where so many have more bytes, and the last one."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    rows, held = 0, 0
    for batch in batches:
        waiting.append(batch)
        rows, held = rows + batch.num_rows, held + batch.nbytes
        if rows < size and held < most_bytes:
            continue
        whole = pa.concat_batches(waiting)
        start = 0
        while rows - start >= size:
            yield whole.slice(start, size)
            start += size
        rest = whole.slice(start)
        waiting, rows, held = [rest], rest.num_rows, rest.nbytes
        if rows and held >= most_bytes:
            yield rest
            waiting, rows, held = [], 0, 0
    if rows:
        yield pa.concat_batches(waiting)
