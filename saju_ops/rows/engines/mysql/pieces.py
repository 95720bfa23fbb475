"""A day read from MySQL or MariaDB in pieces, several connections side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from saju_ops.rows.ahead import one_ahead
from saju_ops.rows.days import Day
from saju_ops.rows.engines.interface import PieceRows, PiecesFailed, Profile
from saju_ops.rows.engines.mysql.catalogue import _str
from saju_ops.rows.pieces import Piece, csv_of, row_ends

if TYPE_CHECKING:
    from saju_ops.rows.engines.mysql.reading import MySQLReading


# Bytes of a piece: beyond one megabyte its size makes no difference to the speed, and some copies of one are held.
PIECE_BYTES = 1 << 20
# Rows of the first piece, roughly. The size of each following piece comes from those before it, at most four times the
# last: the catalogue's numbers about a table's rows may be a week old, or missing.
FIRST_ROWS = 500


class _DayInPieces(PieceRows):
    """A day by ranges of its key, each one statement: the next is under way while one is written.

    Two connections in turn would save 4% of the time, and be two snapshots."""

    def __init__(self, store: MySQLReading, day: Day, profile: Profile, first: int, last: int) -> None:
        super().__init__()
        self._connection, self._longest = store.connection, store._longest_piece
        self._query, self._day = store.piece_select(day), day
        self._next, self._last = first, last
        self._span = max(1, FIRST_ROWS * (last - first + 1) // profile.rows)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        with closing(one_ahead(self._fetched())) as fetched:
            for text, piece in fetched:
                self.pieces.append(piece)
                self.cuts.append(piece.rows)
                yield from csv_of(text)

    def _fetched(self) -> Iterator[tuple[bytes, Piece]]:
        while self._next <= self._last:
            low, high = self._range()
            pieces = self._between(low, high)
            yield from pieces
            if size := sum(len(text) for text, _ in pieces):
                keys = high - low + 1
                self._span = max(1, min(keys * 4, keys * PIECE_BYTES // size))

    def _range(self) -> tuple[int, int]:
        """The next keys. A small rest is added to the last piece."""
        low, rest = self._next, self._last - self._next + 1
        self._next += rest if rest <= self._span + self._span // 4 else self._span
        return low, self._next - 1

    def _between(self, low: int, high: int) -> list[tuple[bytes, Piece]]:
        """The rows with these keys, in several pieces where they are too many for one."""
        text, rows, digest = self._connection.execute(self._query, {"low": low, "high": high}).one()
        if not rows:
            return []
        # What is too long, the server cuts; a row above max_allowed_packet it leaves out.
        if text and len(text) < self._longest and row_ends(text) == rows:
            return [(text, Piece(rows, _str(digest)))]
        if low == high:
            raise PiecesFailed(f"A row of {self._day} is too large to be read in pieces.")
        middle = (low + high) // 2
        return self._between(low, middle) + self._between(middle + 1, high)
