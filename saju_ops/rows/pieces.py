"""Pieces: consecutive rows in key order, joined to one text, whose SHA-256 both the database and the file give.

The text is made of bytes that UTF-8 never uses: 0xFE between the cells, 0xFD after each row, 0xFF for NULL. So no two
lists of rows give the same text, whatever their cells hold, and the server can make it with CONCAT_WS and GROUP_CONCAT
alone. Rows are read in the same form: replacing bytes makes the archive's CSV of it.

The digest of a file is the list of its pieces. It proves as much as a hash of every row (`saju_ops.rows.digest`) and
costs a third: one hash over some megabytes instead of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from saju_ops.rows.digest import LARGE, constant, offsets_of
from saju_ops.rows.table import Column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ALGORITHM = "sha256-pieces-v1"
CELL_END, ROW_END, NULL = b"\xfe", b"\xfd", b"\xff"
# Bytes that are turned into CSV at once: an amount that stays in the processor's cache. With 3 MB at once, the memory's
# pages cost half as much again, and writing them to a file three times as much.
SLICE = 192 << 10
Key = tuple[bytes, ...]


@dataclass(frozen=True)
class Piece:
    """How many rows, and the SHA-256 of their text. The keys say where they are found again; they prove nothing."""

    rows: int
    sha256: str
    first: Key = field(default=(), compare=False)
    last: Key = field(default=(), compare=False)


@dataclass(frozen=True)
class Pieces:
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def hex(self) -> str:
        return sha256("".join(f"{p.rows} {p.sha256}\n" for p in self.pieces).encode()).hexdigest()

    def described(self) -> list[dict[str, Any]]:
        """For a manifest. Keys are texts: a table that can be cut into pieces has a key that is text."""
        return [
            {"rows": p.rows, "sha256": p.sha256, "first_key": [c.decode() for c in p.first],
             "last_key": [c.decode() for c in p.last]}
            for p in self.pieces
        ]  # fmt: skip

    @classmethod
    def of(cls, described: Sequence[dict[str, Any]]) -> Pieces:
        """Raises TypeError, KeyError or AttributeError unless `described` made it."""
        return cls(
            tuple(
                Piece(
                    int(p["rows"]), str(p["sha256"]),
                    tuple(c.encode() for c in p["first_key"]), tuple(c.encode() for c in p["last_key"]),
                )
                for p in described
            )
        )  # fmt: skip


def row_ends(text: bytes) -> int:
    """How many rows. Unlike bytes.count, not under Python's lock."""
    import numpy as np

    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ROW_END[0]))


def csv_of(text: bytes) -> Iterator[bytes | memoryview]:
    """The rows as the archive's CSV: every cell but NULL in quotes, doubled inside."""
    start = 0
    while start < len(text):
        # Behind the first row that ends beyond a slice.
        end = (text.find(ROW_END, start + SLICE) + 1) or len(text)
        yield _csv_slice(text[start:end])
        start = end


def _csv_slice(text: bytes) -> bytes | memoryview:
    if b'"' in text:
        text = text.replace(b'"', b'""')
    text = text.replace(CELL_END, b'","').replace(ROW_END, b'"\n"')
    # The last row's end opened a quote for a row that doesn't follow; the first row's is missing.
    lines = b"".join((b'"', memoryview(text)[:-1]))
    return _without(b'"' + NULL + b'"', lines) if NULL in text else lines


def _without(pattern: bytes, text: bytes) -> memoryview:
    """bytes.replace takes 0.5 µs a row for a pattern of three bytes, this 0.17."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.binary() if len(text) < LARGE else pa.large_binary()
    ends = pa.py_buffer(np.array([0, len(text)], offsets_of(kind)))
    whole = pa.Array.from_buffers(kind, 1, [None, ends, pa.py_buffer(text)])
    return memoryview(pc.replace_substring(whole, pattern, "").buffers()[2])


def text_of(batch: pa.RecordBatch, columns: Sequence[Column]) -> tuple[memoryview, np.ndarray]:
    """The rows' text, and where in it each row begins and the last one ends."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.binary() if batch.nbytes < LARGE else pa.large_binary()
    cells = [batch.column(column.name).cast(kind) for column in columns]
    nulls = {"null_handling": "replace", "null_replacement": NULL}
    # Behind the last cell, which is a short one as a rule: behind the whole row it would copy that once more.
    cells[-1] = pc.binary_join_element_wise(cells[-1], constant(ROW_END, kind), constant(b"", kind), **nulls)
    rows = pc.binary_join_element_wise(*cells, constant(CELL_END, kind), **nulls) if len(cells) > 1 else cells[0]
    rows = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
    _, starts, data = rows.buffers()
    offsets: np.ndarray = np.frombuffer(starts, offsets_of(rows.type))[rows.offset : rows.offset + len(rows) + 1]
    return memoryview(data if data is not None else b""), offsets


def piece_of(batch: pa.RecordBatch, columns: Sequence[Column]) -> tuple[Piece, int]:
    """These rows as one piece, and the bytes of its text."""
    text, offsets = text_of(batch, columns)
    start, end = offsets[[0, -1]].tolist()
    return Piece(batch.num_rows, sha256(text[start:end]).hexdigest()), end - start


class PieceHasher:
    """Cuts a stream of rows into pieces of the given numbers of rows and hashes them."""

    def __init__(self, cuts: Sequence[int], columns: Sequence[Column], key: Sequence[str]) -> None:
        """`cuts` may still grow, as long as a piece's number is there before its rows are."""
        self._cuts, self._columns, self._key = cuts, columns, key
        self._done: list[Piece] = []
        self._begin()

    def _begin(self) -> None:
        self._hash, self._rows = sha256(), 0
        self._first: Key = ()

    def add(self, batch: pa.RecordBatch, _hashes: object = None) -> None:
        text, offsets = text_of(batch, self._columns)
        start = 0
        while start < batch.num_rows:
            if not self._rows:
                self._first = key_at(batch, self._key, start)
            end = min(batch.num_rows, start + self._missing())
            a, b = offsets[[start, end]].tolist()
            self._hash.update(text[a:b])
            self._rows += end - start
            self._last = key_at(batch, self._key, end - 1)
            if self._missing() == 0:
                self._end()
            start = end

    def _missing(self) -> int:
        """Rows until the piece is full. Rows after the last piece make a piece of their own, which has no
        counterpart."""
        wanted = next(islice(self._cuts, len(self._done), None), None)
        return wanted - self._rows if wanted is not None else 1 << 62

    def _end(self) -> None:
        self._done.append(Piece(self._rows, self._hash.hexdigest(), self._first, self._last))
        self._begin()

    def result(self) -> Pieces:
        if self._rows:
            self._end()
        return Pieces(tuple(self._done))


def key_at(batch: pa.RecordBatch, key: Sequence[str], row: int) -> Key:
    values = (batch.column(name)[row].as_py() for name in key)
    return tuple(v if isinstance(v, bytes) else str(v).encode() for v in values)
