"""Plain values that the engines take and give."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.days import Day
from saju_ops.rows.pieces import Piece, Pieces

Key = tuple[bytes, ...]


class NoSuchTable(Refused):
    """The database has no table of that name."""


# A batch's text stays under this many bytes, so that memory is the same for rows of 300 bytes and of 30 MB.
BATCH_BYTES = 32 << 20
BATCH_ROWS = 2048


@dataclass(frozen=True)
class Selection:
    """Rows of a day, of a range of keys (both ends included), of a list of keys, or of their intersection."""

    day: Day | None = None
    first: Key | None = None
    last: Key | None = None
    keys: tuple[Key, ...] | None = None
    # Further conditions on the table's columns.
    where: tuple[sa.ColumnElement[bool], ...] = ()


@dataclass(frozen=True)
class Profile:
    rows: int
    # Bytes of the largest row's long columns; what decides how many rows go into one batch. None: not looked at.
    widest: int | None
    # Whether the day's rows are so close together in key order that a scan by key reads little else.
    clustered: bool = False
    # Where that is so: the least and the greatest value of the key's first column, an integer.
    first: Key | None = None
    last: Key | None = None

    @property
    def batch_rows(self) -> int:
        return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, (self.widest or 0) + 512)))


class PieceRows(abc.ABC):
    """A day's rows as CSV, piece by piece, with the database's digest of each piece."""

    def __init__(self) -> None:
        # The pieces so far, and how many rows each has: there before the piece's rows are given out.
        self.pieces: list[Piece] = []
        self.cuts: list[int] = []

    @abc.abstractmethod
    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Raises PiecesFailed where the plain cursor has to step in."""

    def digest(self) -> Pieces:
        return Pieces(tuple(self.pieces))


class PiecesFailed(OperatorError):
    """The rows can't be read in pieces after all: one is too large, or they don't come in the order of their key."""
