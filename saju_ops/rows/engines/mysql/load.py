"""Rows into a MySQL or MariaDB table: LOAD DATA where it is allowed, INSERT elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from saju_ops.rows.digest import LARGE, constant, offsets_of
from saju_ops.rows.table import Column

if TYPE_CHECKING:
    import pyarrow as pa


# Rows in one INSERT where LOAD DATA isn't allowed.
ROWS_PER_INSERT = 1000


class _Feeder(threading.Thread):
    """Writes the batches as lines for LOAD DATA into a pipe that the client library reads from.

    A cell is quoted, with quotes doubled inside; the word NULL without quotes is NULL. The archive's own CSV, where
    NULL is nothing at all, can't express that to LOAD DATA.
    """

    def __init__(self, pipe: int, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        super().__init__(daemon=True, name="saju_ops-load")
        self._pipe, self._batches, self._names = pipe, batches, [c.name for c in columns]
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with os.fdopen(self._pipe, "wb", buffering=0) as sink:
                for batch in self._batches:
                    _write_all(sink, _load_lines(batch, self._names))
        except BrokenPipeError:
            return  # the server refused; its own error says why
        except Exception as error:
            self.error = error


def _write_all(sink: Any, data: memoryview) -> None:
    while len(data):
        data = data[sink.write(data) :]


def _load_lines(batch: pa.RecordBatch, names: Sequence[str]) -> memoryview:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    # A batch of 2 GiB and more needs offsets of 64 bits; half of that, since quotes may be doubled.
    kind = pa.binary() if batch.nbytes < LARGE else pa.large_binary()
    quote, nothing = constant(b'"', kind), constant(b"", kind)
    pieces: list[Any] = []
    for name in names:
        cells = batch.column(name).cast(kind)
        text = cells.buffers()[2]
        if text is not None and b'"' in text.to_pybytes():
            cells = pc.replace_substring(cells, '"', '""')
        quoted = pc.binary_join_element_wise(quote, cells, quote, nothing)
        pieces += [quoted.fill_null(constant(b"NULL", kind)), constant(b",", kind)]
    pieces[-1] = constant(b"\n", kind)
    lines = pc.binary_join_element_wise(*pieces, nothing)
    lines = lines.combine_chunks() if isinstance(lines, pa.ChunkedArray) else lines
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, offsets_of(kind))[[lines.offset, lines.offset + len(lines)]].tolist()
    return memoryview(data or b"")[slice(*ends)]


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _insertable(column: Column, cell: bytes | None) -> Any:
    if cell is None:
        return None
    return int(cell) if column.family == "bit" else cell.decode()
