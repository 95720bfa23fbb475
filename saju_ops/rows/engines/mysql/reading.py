"""Rows of MySQL and MariaDB: their digests, their pieces and their times."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from saju_ops.errors import OperatorError
from saju_ops.rows.comeback import UTC_OFFSET
from saju_ops.rows.days import Day, date_bound, moment, naive_bound
from saju_ops.rows.digest import Digest
from saju_ops.rows.engines.interface import PieceRows, Profile, Selection
from saju_ops.rows.engines.mysql.catalogue import (
    INTEGERS,
    JSON,
    LONG,
    _str,
)
from saju_ops.rows.engines.mysql.comeback import MySQLComeback
from saju_ops.rows.engines.mysql.pieces import _DayInPieces
from saju_ops.rows.engines.mysql.text import _binary
from saju_ops.rows.engines.selecting import as_bytes
from saju_ops.rows.pieces import CELL_END, ROW_END, Piece, Pieces, piece_of
from saju_ops.rows.pieces import NULL as NULL_CELL
from saju_ops.rows.table import TIME_COLUMN
from saju_ops.words import are, counted, its

if TYPE_CHECKING:
    import pyarrow as pa

SHORT_TEXT = 1_024
# Bytes of the server's answer at most, were a piece's rows much larger than those before.
LARGEST_PIECE = 16 << 20
# Below this share of the rows in a key range, reading the range costs more than sorting the day.
CLUSTERED_SHARE = 4


class MySQLReading(MySQLComeback):
    """Reads rows and asks the server for digests of them."""

    # Bytes that a piece may have on this connection.
    _longest_piece: int

    def digest(self, selection: Selection, *, lock: bool = False) -> Digest:
        query = sa.select(sa.func.count(), sa.func.bit_xor(self._row_hash()))
        query = self._hinted(query.select_from(self.from_).where(*self.conditions(selection)), selection)
        rows, xor = self.connection.execute(query.with_for_update() if lock else query).one()
        # A second aggregate over the hash would compute it twice; the warning costs nothing.
        if self.connection.exec_driver_sql("SELECT @@warning_count").scalar():
            self._refuse_oversized(selection)
        return Digest(int(rows), int.from_bytes(xor, "big") if isinstance(xor, bytes) else int(xor))

    def _refuse_oversized(self, selection: Selection) -> None:
        hashed = sa.func.count() - sa.func.count(self._row_hash())
        query = sa.select(hashed).select_from(self.from_).where(*self.conditions(selection))
        if missing := self.connection.execute(query).scalar():
            raise OperatorError(
                f"{counted(missing, 'row')} of {self.table.name} {are(missing)} larger than the server's"
                f" max_allowed_packet, so it can't compute {its(missing)} digest. Nothing was done; raise"
                " max_allowed_packet and launch again."
            )

    def profile(self, day: Day) -> Profile:
        """From the time index alone; the width of rows is measured where it is needed."""
        key = self.table.key_columns
        single = self.knows_pieces
        edge = self.col(key[0].name) if single else sa.literal_column("NULL")
        query = sa.select(sa.func.count(), sa.func.min(edge), sa.func.max(edge)).select_from(self.from_)
        query = self._hinted(query.where(*self.day_condition(day)), Selection(day))
        rows, first, last = self.connection.execute(query).one()
        # More rows than keys: the key has further columns and its first, such as a room's number, is many rows', of
        # other days too.
        clustered = bool(single and rows and rows <= int(last) - int(first) + 1 <= CLUSTERED_SHARE * rows)
        edges = ((as_bytes(first),), (as_bytes(last),)) if clustered else (None, None)
        return Profile(int(rows), None, clustered, *edges)

    def batch_rows(self, day: Day, profile: Profile) -> int:
        """From the largest row; its short columns are assumed to have their declared size."""
        declared = sum(SHORT_TEXT for c in self.table.columns if c.family == "varchar")
        range_ = (int(profile.first[0]), int(profile.last[0])) if profile.first and profile.last else None
        largest = self._largest(self._within(day, *range_) if range_ else Selection(day))
        return replace(profile, widest=declared + 2 * largest).batch_rows

    def _width(self) -> sa.ColumnElement[Any]:
        """Bytes of a row's long columns."""
        width: Any = sa.literal_column("0")
        for column in (c for c in self.table.columns if c.family in LONG):
            # The stored size of a JSON document is at hand; its text would have to be made.
            size = sa.func.json_storage_size if column.family in JSON else sa.func.length
            width = width + sa.func.ifnull(size(self.col(column.name)), 0)
        return width

    def _within(self, day: Day | None, low: Any, high: Any) -> Selection:
        """The day's rows in a range of the key's first column."""
        key = self.col(self.table.key[0])
        return Selection(day, where=(key >= low, key <= high))

    def _largest(self, selection: Selection) -> int:
        query = sa.select(sa.func.max(self._width())).select_from(self.from_).where(*self.conditions(selection))
        return int(self.connection.execute(self._hinted(query, selection)).scalar() or 0)

    @property
    def knows_pieces(self) -> bool:
        """Whether the primary key begins with an integer: a range of it is then read in the key's order."""
        first, key = self.table.primary[:1], self.table.key
        return first == key[:1] and key in (first, self.table.primary) and self.table.key_columns[0].family in INTEGERS

    def _joined(self) -> sa.ColumnElement[Any]:
        """The text of rows as saju_ops.rows.pieces has it."""
        null = _binary(NULL_CELL)
        cells = [self._or_null(column, null, self._digest_text(column)) for column in self.table.columns]
        row = sa.func.concat_ws(_binary(CELL_END), *cells)
        return sa.func.group_concat(row, _binary(ROW_END).op("SEPARATOR")(sa.literal_column("''")))

    def _piece_select(self, selection: Selection, *columns: Any) -> sa.Select[Any]:
        query = sa.select(*columns).select_from(self.from_).where(*self.conditions(selection))
        return query.with_hint(self.from_, "FORCE INDEX (PRIMARY)")

    def piece_rows(self, day: Day, profile: Profile) -> PieceRows | None:
        if not self.knows_pieces or profile.first is None or profile.last is None:
            return None
        first, last = int(profile.first[0]), int(profile.last[0])
        return _DayInPieces(self, day, profile, first, last)

    def piece_select(self, day: Day) -> sa.Select[Any]:
        """Text, number of rows and the text's SHA-256, for the day's rows with keys from :low to :high.

        Text and hash are one value of one statement: no write can come between them."""
        rows = self._within(day, sa.bindparam("low"), sa.bindparam("high"))
        joined, count = self._joined().label("saju_t"), sa.func.count().label("saju_n")
        piece = self._piece_select(rows, joined, count).subquery("saju_p")
        return sa.select(piece.c.saju_t, piece.c.saju_n, sa.func.sha2(piece.c.saju_t, sa.literal_column("256")))

    def _limit_pieces(self) -> int:
        """Bytes that a piece may have on this connection. Longer ones the server would cut."""
        packet = int(self.connection.execute(sa.text("SELECT @@max_allowed_packet")).scalar_one())
        longest = min(LARGEST_PIECE, packet // 2)
        self.connection.exec_driver_sql(f"SET SESSION group_concat_max_len = {longest}")
        self.end_read()
        return longest

    def has_pieces(self, selection: Selection, pieces: Pieces) -> bool:
        if not self.knows_pieces or self.count(selection) != pieces.rows:
            return False
        return all(self.state(self._of_piece(selection, p), p) == p for p in pieces.pieces)

    def _of_piece(self, selection: Selection, piece: Piece) -> Selection:
        if len(piece.first) == len(self.table.key):
            return replace(selection, first=piece.first, last=piece.last)
        # The table got a longer or shorter key since, of which the first column is still the same.
        within = self._within(selection.day, int(piece.first[0]), int(piece.last[0]))
        return replace(selection, where=(*selection.where, *within.where))

    def state_of(self, batch: pa.RecordBatch) -> Digest | Piece:
        if self.knows_pieces:
            piece, size = piece_of(batch, self.table.columns)
            if size < self._longest_piece:
                return piece
        return super().state_of(batch)

    def state(self, selection: Selection, form: Digest | Piece, *, lock: bool = False) -> Digest | Piece:
        if isinstance(form, Digest):
            return super().state(selection, form, lock=lock)
        digest = sa.func.sha2(self._joined(), sa.literal_column("256"))
        query = self._piece_select(selection, sa.func.count(), digest)
        rows, hashed = self.connection.execute(query.with_for_update() if lock else query).one()
        return Piece(int(rows), _str(hashed) or "")

    def time_bound(self, instant: datetime) -> Any:
        if self.table.time_type == "date":
            return date_bound(instant, self.zone).isoformat()
        zone = self.zone if self.table.time_type != "timestamp" else _fixed(self._offset)
        return naive_bound(instant, zone).strftime("%Y-%m-%d %H:%M:%S")

    def _instant(self, text: Any) -> datetime | None:
        try:
            value = datetime.fromisoformat(as_bytes(text).decode()) if text is not None else None
        except ValueError:
            value = _nearest(as_bytes(text).decode())
        if value is None:
            return None
        return moment(value, UTC if self.table.time_type == "timestamp" else self.zone)

    def instants(self, order: str) -> datetime | None:
        pick = sa.func.min if order == "asc" else sa.func.max
        query = sa.select(sa.cast(pick(self.col(TIME_COLUMN)), sa.CHAR)).select_from(self.from_)
        value = self.connection.execute(query).scalar()
        self.end_read()
        return self._instant(value)

    def first_instant_from(self, instant: datetime) -> datetime | None:
        col = self.col(TIME_COLUMN)
        query = sa.select(sa.cast(sa.func.min(col), sa.CHAR)).where(col >= self.time_bound(instant))
        value = self.connection.execute(query.select_from(self.from_)).scalar()
        self.end_read()
        return self._instant(value)


def _nearest(text: str) -> datetime:
    """The last real moment before a date that no calendar has, such as 2026-10-00 or 2026-02-31."""
    year, month, day = (int(part) for part in text[:10].split("-"))
    if not year:
        return datetime(1, 1, 2)  # noqa: DTZ001
    # The first day of the month after the date's month, or of its own month for day 0.
    after = datetime(year + month // 12, month % 12 + 1, 1) if day and month else datetime(year, month or 1, 1)  # noqa: DTZ001
    return after - timedelta(microseconds=1)


def _fixed(offset: str) -> tzinfo:
    if offset == UTC_OFFSET:
        return UTC
    ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:]))
    return timezone(-ahead if offset[0] == "-" else ahead)
