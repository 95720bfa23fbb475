"""MySQL and MariaDB: days in pieces that the server joins, a plain cursor where it can't, LOAD DATA for restores."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import mysql as mysql_dialect

from saju_ops.database.address import place
from saju_ops.database.connect import MYSQL_SQL_MODE, connect, redacted
from saju_ops.database.mysql_grants import (
    DENIED,
    account,
    error_number,
    grants_of,
    parsed,
    rights_on,
    takes_names_literally,
)
from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.local_state import one_at_a_time
from saju_ops.rows.comeback import TYPED, TYPES_BEHIND, UTC_OFFSET, Comeback, offset, zone_offsets
from saju_ops.rows.days import Day, date_bound, moment, naive_bound
from saju_ops.rows.digest import SEPARATOR, Digest
from saju_ops.rows.engines.base import LOCK_WAIT_SECONDS, LogStore, NoPartition, as_bytes, require_key, require_table
from saju_ops.rows.engines.interface import Key, PieceRows, Profile, Selection
from saju_ops.rows.engines.mysql import json_types as mysql_json
from saju_ops.rows.engines.mysql.catalogue import (
    COLUMNS,
    FLOATS,
    FOREIGN_KEYS,
    INDEXES,
    INTEGERS,
    JSON,
    LONG,
    LOSSLESS,
    NUMBERED,
    SIZES,
    STORAGE_ENGINE,
    TEXTS,
    TIMES,
    UNORDERED,
    _charset,
    _column,
    _foreign_keys,
    _key,
    _primary,
    _str,
    _time_index,
)
from saju_ops.rows.engines.mysql.load import ROWS_PER_INSERT, _Feeder, _insertable, _literal
from saju_ops.rows.engines.mysql.pieces import _DayInPieces
from saju_ops.rows.pieces import CELL_END, ROW_END, Piece, Pieces, piece_of
from saju_ops.rows.pieces import NULL as NULL_CELL
from saju_ops.rows.readable import require_readable
from saju_ops.rows.table import TIME_COLUMN, Column, ForeignKey, Table
from saju_ops.words import are, counted, its

if TYPE_CHECKING:
    import pyarrow as pa

SHORT_TEXT = 1_024
# Stands in rows that are read for a value of which the server has no whole text; a digest leaves such a cell out. So
# no proof passes, and no archived row, be it NULL there, is taken for equal.
NO_TEXT = f"saju_ops:{os.urandom(16).hex()}"
# Bytes of the server's answer at most, were a piece's rows much larger than those before.
LARGEST_PIECE = 16 << 20
# Below this share of the rows in a key range, reading the range costs more than sorting the day.
CLUSTERED_SHARE = 4

PARTITIONED = sa.text(
    "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
    " AND PARTITION_NAME IS NOT NULL"
)
# A row that no partition of the table is for.
NO_PARTITION = 1526
# The star, since MariaDB's list of collations doesn't say which of them pad: their names do.
COLLATIONS = sa.text(
    "SELECT c.COLUMN_NAME, c.COLLATION_NAME, l.* FROM information_schema.COLUMNS c JOIN information_schema.COLLATIONS l"
    " ON l.COLLATION_NAME = c.COLLATION_NAME WHERE c.TABLE_SCHEMA = DATABASE() AND c.TABLE_NAME = :name"
)
# Columns of one SELECT.
MOST_COLUMNS = 500
TABLE_TYPE = sa.text(
    "SELECT TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)
HISTORY = (
    "The table is system-versioned: MariaDB keeps deleted rows in its history until DELETE HISTORY FROM {table} removes"
    " them, and archives hold the current rows alone."
)


class MySQLLogStore(LogStore):
    time_types = ("timestamp", "datetime", "date")

    def __init__(self, url: sa.URL, table: str, zone: ZoneInfo, bulk_load: bool = False) -> None:
        super().__init__(url, table, zone, bulk_load)
        self._level: str | None = None
        self._longest_piece = self._limit_pieces()
        # Of the session, in which TIMESTAMP columns are compared and loaded.
        self._offset = UTC_OFFSET

    def _quote(self, name: str) -> str:
        # SQLAlchemy doubles a percent sign for the driver; here statements are put together before that.
        return self.connection.dialect.identifier_preparer.quote(name).replace("%%", "%")

    # --- catalogue -----------------------------------------------------------------------------------------

    def describe(self, table: str) -> Table:
        name = {"name": table}
        require_readable(self.connection, table)
        rows = self.connection.execute(COLUMNS, name).all()
        require_table(rows, table, self.url)
        columns = tuple(_column(table, row) for row in rows)
        versioned = self._versioned_columns(rows)
        self._inserts_history = self._can_insert_history(columns, versioned)
        if self._inserts_history:
            columns = tuple(replace(c, generated=c.generated and c.name not in versioned) for c in columns)
            versioned = ()
        self._unwritable, self._zoned = (
            versioned,
            _zoned(rows, columns, mariadb=bool(getattr(self.connection.dialect, "is_mariadb", False))),
        )
        indexes = self.connection.execute(INDEXES, name).all()
        key = _key(indexes)
        require_key(table, key)
        in_order = not self.connection.execute(UNORDERED, name).scalar()
        primary = _primary(indexes, columns) if in_order else ()
        time_type = next((c.family for c in columns if c.name == TIME_COLUMN), "")
        version = str(self.connection.execute(sa.text("SELECT VERSION()")).scalar_one())
        database = str(self.connection.execute(sa.text("SELECT DATABASE()")).scalar_one())
        versioned_table = self.connection.execute(TABLE_TYPE, name).scalar() == "SYSTEM VERSIONED"
        children, parents = _foreign_keys(self.connection.execute(FOREIGN_KEYS, name).all(), database, table)
        self.end_read()
        return Table(
            engine="mariadb" if "mariadb" in version.lower() else "mysql",
            server_version=version, database=database, name=table, columns=columns, key=key,
            time_type=time_type, time_index=_time_index(indexes), primary=primary, children=children,
            parents=parents, notes=(HISTORY.format(table=table),) if versioned_table else (),
        )  # fmt: skip

    def _versioned_columns(self, rows: Sequence[Any]) -> tuple[str, ...]:
        """MariaDB's explicit columns of system versioning."""
        return tuple(_str(r[0]) for r in rows if str(_str(r[5])).upper() in ("ROW START", "ROW END"))

    def _can_insert_history(self, columns: Sequence[Column], versioned: Sequence[str]) -> bool:
        """From MariaDB 10.11 a session may write such columns, where they are times and not numbers of transactions."""
        if not versioned or any(c.family != "timestamp" for c in columns if c.name in versioned):
            return False
        found = self.connection.exec_driver_sql("SHOW VARIABLES LIKE 'system_versioning_insert_history'").first()
        return found is not None

    def sizes(self) -> dict[str, int]:
        if self.table.engine == "mysql":
            # The catalogue's sizes may otherwise be a day old.
            self.connection.exec_driver_sql("SET SESSION information_schema_stats_expiry = 0")
        row = self.connection.execute(SIZES, {"name": self.table.name}).one()
        self.end_read()
        return {"table_bytes": int(row[0] or 0), "free_bytes": int(row[1] or 0)}

    @property
    def reclaim_hint(self) -> str:
        return (
            f"InnoDB keeps the freed pages inside the table's file and uses them for new rows; only"
            f" OPTIMIZE TABLE {self.table.name} gives the space back to the disk (it rebuilds the table)."
            + "".join(f" {note}" for note in self.table.notes)
        )

    # --- text and back -------------------------------------------------------------------------------------

    def text(self, column: Column) -> sa.ColumnElement[Any]:
        """NULL too for what the server can't give as text without loss: MariaDB's HEX of what is larger than half of
        max_allowed_packet, half a surrogate pair in ucs2, a character of euckr that UTF-8 hasn't."""
        text, charset = self._printed(column), _charset(column)
        # What a member of an ENUM holds instead of UTF-8, MariaDB shows as a question mark; MySQL casts it to NULL.
        doubtful = column.family in NUMBERED and "?" in column.type
        if column.family == "enum" and "" in _members(column):
            # The error value prints as that member does, and would come back as it.
            text = sa.case((self.col(column.name).op("+")(sa.literal_column("0")) != sa.literal_column("0"), text))
        if column.family not in TEXTS or (charset in LOSSLESS and not doubtful):
            return text
        back = sa.func.convert(text.op("USING")(sa.literal_column(charset))) if charset else text
        same = sa.cast(back, mysql_dialect.BINARY()) == sa.cast(self.col(column.name), mysql_dialect.BINARY())
        return sa.case((same, text))

    def _printed(self, column: Column) -> sa.ColumnElement[Any]:
        col = self.col(column.name)
        family = column.family
        if column.encoding == "hex":
            return sa.func.hex(col)
        if family == "float":
            # A FLOAT prints six digits; the double it equals prints 15 at least. A DOUBLE must not be cast to
            # its own type: MySQL then cuts its text to 22 characters, and -2.2250738585072014e-308 has 24.
            return sa.cast(sa.cast(col, mysql_dialect.DOUBLE()), sa.CHAR)
        if family == "bit":
            return sa.cast(col + sa.literal_column("0"), sa.CHAR)
        if family in NUMBERED:
            # A cast, since a member may hold bytes that aren't UTF-8; what a TEXT holds, the servers have looked at.
            text = sa.cast(col, sa.CHAR)
            is_utf8 = column.type.endswith("|utf8mb4")
            return text if is_utf8 else sa.func.convert(text.op("USING")(sa.literal_column("utf8mb4")))
        if family in TEXTS:
            if column.type.endswith("|utf8mb4"):
                return col
            return sa.func.convert(col.op("USING")(sa.literal_column("utf8mb4")))
        if family == TYPED:
            return sa.literal_column(mysql_json.typed_text(self._cell(column)))
        return sa.cast(col, sa.CHAR)

    def typed(self, column: Column, cell: bytes) -> Any:
        if column.encoding == "hex":
            return sa.func.unhex(cell.decode())
        if column.family in INTEGERS or column.family in ("bit", "year"):
            return int(cell)
        if column.family == "decimal":
            return Decimal(cell.decode())
        if column.family in FLOATS:
            return float(cell)
        return cell.decode()

    def ordered(self, column: Column) -> sa.ColumnElement[Any]:
        # ENUM and SET are sorted by number and compared with a string as text: two different orders.
        if column.family in NUMBERED:
            return sa.type_coerce(sa.cast(self.text(column), mysql_dialect.BINARY()), sa.String())
        return self.col(column.name)

    def _implicit(self, column: Column) -> bool:
        """Whether CONCAT_WS makes the text by itself, which is a third faster than a cast.

        Not for uuid and inet: IFNULL would read the mark for NULL as one of those."""
        plain = column.family in TEXTS - NUMBERED and column.type.endswith("|utf8mb4")
        return plain or column.family in INTEGERS | TIMES | {"decimal"}

    def _digest_text(self, column: Column) -> sa.ColumnElement[Any]:
        return self.col(column.name) if self._implicit(column) else self.text(column)

    def _or_null(self, column: Column, null: Any, cell: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """`null` for NULL. Where only the text is NULL, so is this: CONCAT_WS leaves the cell out."""
        if not column.nullable:
            return cell
        if self._implicit(column):
            return sa.func.ifnull(cell, null)
        return sa.case((self.col(column.name).is_(None), null), else_=cell)

    def text_columns(self) -> list[sa.ColumnElement[Any]]:
        return [self._told(c).label(f"saju_{i}") for i, c in enumerate(self.table.columns)]

    def _told(self, column: Column) -> sa.ColumnElement[Any]:
        if self._implicit(column):
            return self.text(column)
        told = sa.func.coalesce(self.text(column), sa.literal(NO_TEXT))
        return sa.case((self.col(column.name).is_not(None), told)) if column.nullable else told

    def untold(self, selection: Selection) -> dict[str, int]:
        columns = [c for c in self.table.columns if not self._implicit(c)]
        lacking = (sa.func.count(self.col(c.name)) - sa.func.count(self.text(c)) for c in columns)
        query = sa.select(sa.func.count(), *lacking).select_from(self.from_)
        _, *counts = self.connection.execute(query.where(*self.conditions(selection))).one()
        return {c.name: int(n) for c, n in zip(columns, counts, strict=True) if n}

    @property
    def doubtful_columns(self) -> tuple[Column, ...]:
        # MariaDB's JSON is a text.
        return tuple(c for c in self.table.columns if c.family in JSON)

    def read_types(self, names: Collection[str]) -> None:
        family = {c.name: TYPED if c.name in names else "json" for c in self.doubtful_columns}
        if any(family[c.name] != c.family for c in self.doubtful_columns):
            self.use([replace(c, family=family.get(c.name, c.family)) for c in self.table.columns])

    @property
    def has_doubts(self) -> bool:
        return bool(self._unwritable or self._zoned)

    def comeback(self, day: Day, *, documents: bool) -> Comeback:
        columns = self.doubtful_columns if documents else ()
        typed = self._count_of({c.name: self._holds(c, mysql_json.HIDDEN) for c in columns}, day)
        lost = {c.name: self._holds(c, mysql_json.LOST) for c in columns if c.name in typed}
        lacking = self._count_of(lost | dict.fromkeys(self._unwritable, sa.true()), day)
        offset, others = self._computed_in(day)
        return Comeback(lacking | others, offset, tuple(typed))

    def _holds(self, column: Column, condition: str) -> Any:
        return sa.literal_column(mysql_json.holds(self._cell(column), condition))

    def _cell(self, column: Column) -> str:
        return f"{self._quote(self.table.name)}.{self._quote(column.name)}"

    def _count_of(self, conditions: dict[str, Any], day: Day) -> dict[str, int]:
        if not conditions:
            return {}
        counts = (sa.func.coalesce(sa.func.sum(sa.case((so, 1), else_=0)), 0) for so in conditions.values())
        query = sa.select(*counts).select_from(self.from_).where(*self.day_condition(day))
        row = self.connection.execute(self._hinted(query, Selection(day))).one()
        return {name: int(count) for name, count in zip(conditions, row, strict=True) if count}

    def _computed_in(self, day: Day) -> tuple[str, dict[str, int]]:
        """The offset of a session that computes the day's stored generated columns to what they hold; where there is
        none, how many rows of each differ."""
        found: dict[str, dict[str, int]] = {}
        if not self._zoned:
            return UTC_OFFSET, {}
        differ = {name: self._differs(name, expression) for name, expression in self._zoned.items()}
        for each in [*zone_offsets(day, self.zone), self._servers_offset()]:
            try:
                with self.generating(each):
                    found[each] = self._count_of(differ, day)
            except sa.exc.ProgrammingError:
                # The catalogue doesn't show the expression as SQL. What comes back is compared all the same.
                return UTC_OFFSET, {}
            if not found[each]:
                return each, {}
        # The same in all zones: the comparison isn't the server's own, and the zone not the reason.
        same = all(counts == found[UTC_OFFSET] for counts in found.values())
        return UTC_OFFSET, {} if same else found[UTC_OFFSET]

    def _differs(self, name: str, expression: str) -> Any:
        column = self.table.column(name)
        value: Any = sa.literal_column(f"({expression})")
        computed: Any = value
        if column.family in INTEGERS or column.family == "decimal":
            _, _, scale = column.type.partition(",")
            computed = sa.func.round(value, int(scale.split(")")[0]) if column.family == "decimal" and scale else 0)
        elif column.family in TIMES - {"year"}:
            digits = re.search(r"\((\d)\)", column.type)
            family = "datetime" if column.family == "timestamp" else column.family
            target = f"{family}({digits[1]})" if digits else family
            computed = sa.literal_column(f"CAST(({expression}) AS {target})")
        elif column.family in TEXTS:
            computed = sa.cast(value, sa.CHAR)
        return sa.not_(self.col(name).op("<=>", is_comparison=True)(computed))

    def _servers_offset(self) -> str:
        """That of sessions which set no zone of their own."""
        with self._session_in("@@GLOBAL.time_zone"):
            query = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())"
            return offset(timedelta(seconds=int(self.connection.exec_driver_sql(query).scalar() or 0)))

    @contextmanager
    def _session_in(self, zone: str) -> Iterator[None]:
        self.connection.exec_driver_sql(f"SET SESSION time_zone = {zone}")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql(f"SET SESSION time_zone = '{UTC_OFFSET}'")

    @contextmanager
    def generating(self, offset: str) -> Iterator[None]:
        if not self._zoned or offset == UTC_OFFSET:
            yield
            return
        self._offset = offset
        try:
            with self._session_in(f"'{offset}'"):
                yield
        finally:
            self._offset = UTC_OFFSET

    def _row_string(self) -> sa.ColumnElement[Any]:
        pieces: list[Any] = []
        null: Any = sa.literal_column("'N'")
        for column in self.table.columns:
            text = self._digest_text(column)
            first = sa.func.length(text) if column.framed else text
            pieces.append(self._or_null(column, null, first))
            if column.framed:
                pieces.append(text)
        # The pieces are UTF-8 already: with a binary separator the server joins them without looking for a
        # common character set (7% of the digest).
        separator = _binary(SEPARATOR.encode())
        return sa.func.concat_ws(separator, *pieces)

    @property
    def _xors_bytes(self) -> bool:
        """MySQL's BIT_XOR takes binary strings since 8.0, which saves a conversion (10% of the digest)."""
        return self.table.engine == "mysql" and int(self.table.server_version.split(".")[0]) >= 8

    def _row_hash(self) -> sa.ColumnElement[Any]:
        digits = sa.func.left(sa.func.sha2(self._row_string(), sa.literal_column("256")), sa.literal_column("16"))
        if self._xors_bytes:
            return sa.func.unhex(digits)
        number = sa.func.conv(digits, sa.literal_column("16"), sa.literal_column("10"))
        return sa.cast(number, mysql_dialect.INTEGER(unsigned=True))

    # --- reads ---------------------------------------------------------------------------------------------

    def _hinted(self, query: Any, selection: Selection) -> Any:
        """By day alone the time index; by keys the key. The optimiser prefers a full scan for large days."""
        whole = selection.first is None and selection.keys is None and not selection.where
        index = self.table.time_index if whole else None
        return query.with_hint(self.from_, f"FORCE INDEX ({self._quote(index)})") if index else query

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
        """From the time index alone; how wide the rows are is looked at by who needs it."""
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
        """From the largest row, whose short columns are taken as declared."""
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

    # --- pieces --------------------------------------------------------------------------------------------

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
        """Of the day's rows with keys from :low to :high: their text, their number and the text's SHA-256.

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

    # --- time ----------------------------------------------------------------------------------------------

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

    def require_transactions(self) -> None:
        kind, transactions = self.connection.execute(STORAGE_ENGINE, {"name": self.table.name}).one()
        self.end_read()
        if transactions != "YES":
            raise Refused(
                f"The table {self.table.name} is of the storage engine {kind}, which has no transactions: what is"
                " compared could change before it is deleted, and nothing could be rolled back. Nothing was changed;"
                " convert it with ALTER TABLE … ENGINE = InnoDB."
            )

    # --- locks and changes ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, wait: float) -> Iterator[Callable[[], bool]]:
        identity = f"{self.table.database}.{self.table.name}:{name}"
        # Names of locks are the whole server's and 64 characters at most.
        lock = "saju_ops:" + hashlib.sha256(identity.encode()).hexdigest()[:40]
        execute = self.connection.execute
        try:
            got = execute(sa.text("SELECT GET_LOCK(:lock, :wait)"), {"lock": lock, "wait": wait}).scalar()
        except sa.exc.DBAPIError as error:
            if not _forbids_locks(error):
                raise
            self.end_read()
            _say_locked_here(redacted(self.url))
            with one_at_a_time(f"{name} of {self.table.name} at {'/'.join(map(str, place(self.url)))}", wait):
                yield lambda: not self.connection.invalidated
            return
        self.end_read()
        if got != 1:
            holder = execute(sa.text("SELECT IS_USED_LOCK(:lock)"), {"lock": lock}).scalar()
            self.end_read()
            raise Busy(
                f"Another run works on {name} of {self.table.name} (connection {holder} of the server)."
                " Nothing was done; launch again when it has ended."
            )

        def held() -> bool:
            reading = self.connection.in_transaction()
            query = sa.text("SELECT IS_USED_LOCK(:lock) = CONNECTION_ID()")
            answer = execute(query, {"lock": lock}).scalar()
            if not reading:
                self.end_read()
            return bool(answer)

        if not held():
            raise Refused(
                f"{redacted(self.url)} said that it gave the lock on {name} of {self.table.name}, and then that this"
                " connection doesn't hold it: somebody between, such as a proxy, gave the connection another session."
                " Nothing was done. Write the server's own host and port into the address."
            )
        try:
            yield held
        finally:
            if not self.connection.invalidated and not self.connection.closed:
                self.end_read()
                execute(sa.text("SELECT RELEASE_LOCK(:lock)"), {"lock": lock})
                self.end_read()

    def wait_briefly(self) -> None:
        self.connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")
        self.end_read()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # READ COMMITTED takes no gap locks, so live inserts next to the purged rows go on. Where the binary
        # log is by statement the server refuses it, and the default level is as safe, only more in the way.
        self.end_read()
        if self._level is None:
            self.require_transactions()
            logging = self.connection.execute(sa.text("SELECT @@log_bin, @@binlog_format")).one()
            by_statement = logging[0] and str(logging[1]).upper() == "STATEMENT"
            self._level = "REPEATABLE READ" if by_statement else "READ COMMITTED"
            self.connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL " + self._level)
            self.end_read()
        with self.connection.begin():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.end_read()
        with self.connection.begin():
            self.connection.exec_driver_sql("ROLLBACK")
            self.connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            yield

    def replica_lag(self, replicas: Sequence[sa.URL]) -> float | None:
        lags = [lag_of(url) for url in replicas]
        return max(lags) if lags else None

    # --- keys that are one to the database -----------------------------------------------------------------

    def folds(self, columns: Sequence[Column]) -> bool:
        return any(c.family in TEXTS - NUMBERED for c in columns)

    def folded(self, columns: Sequence[Column], keys: Sequence[Key]) -> list[Key]:
        rows = self.connection.execute(COLLATIONS, {"name": self.table.name}).all()
        collations = {_str(row[0]): (_str(row[1]), _pads(row)) for row in rows}
        compared = [self._compared(c, *collations.get(c.name, ("", False))) for c in columns]
        found: list[Key] = []
        some_keys = max(1, MOST_COLUMNS // len(columns))
        for start in range(0, len(keys), some_keys):
            some = keys[start : start + some_keys]
            asked = [f(v).label(f"saju_{i}") for i, (f, v) in enumerate(
                (f, v) for key in some for f, v in zip(compared, key, strict=True)
            )]  # fmt: skip
            cells = [as_bytes(v) for v in self.connection.execute(sa.select(*asked)).one()]
            found += [tuple(cells[i : i + len(columns)]) for i in range(0, len(cells), len(columns))]
        return found

    def _compared(self, column: Column, collation: str, pads: bool) -> Callable[[bytes], sa.ColumnElement[Any]]:
        """What the server compares of a text: its weights, without the spaces at the end that a collation pads."""
        if column.family not in TEXTS - NUMBERED or not collation:
            return lambda cell: sa.literal(cell.decode())
        charset: Any = sa.literal_column(_charset(column))

        def weights(cell: bytes) -> sa.ColumnElement[Any]:
            text: Any = sa.func.convert(sa.literal(cell.decode()).op("USING")(charset))
            text = sa.func.rtrim(text) if pads else text
            return sa.func.hex(sa.func.weight_string(text.op("COLLATE")(sa.literal_column(collation))))

        return weights

    # --- restore -------------------------------------------------------------------------------------------

    def require_writable(self, columns: Sequence[Column]) -> None:
        name, names = self._quote(self.table.name), ", ".join(self._quote(c.name) for c in columns if not c.generated)
        # A server looks at the rights for what it only explains.
        explained = f"EXPLAIN INSERT INTO {name} ({names}) SELECT {names} FROM {name} WHERE 1 = 0"  # noqa: S608
        try:
            self.connection.exec_driver_sql(explained.replace("%", "%%")).close()
        except sa.exc.DBAPIError as error:
            if error_number(error) not in DENIED:
                raise
            self.end_read()
            raise Refused(
                f"{self.table.database}.{self.table.name} can't be written to by this account. Nothing was written;"
                f" GRANT INSERT ON `{self.table.database}`.`{self.table.name}` TO {account(self.connection)}."
            ) from None
        finally:
            self.end_read()

    def require_creatable(self, name: str) -> None:
        grants, database = grants_of(self.connection), self.table.database
        literal = takes_names_literally(self.connection)
        needed = {"CREATE", "INSERT", "SELECT"}
        rights = rights_on(grants, database, literal=literal)
        for verb, more, of, what, _ in parsed(grants):
            rights |= more if verb == "GRANT" and (of.casefold(), what) == (database.casefold(), name) else set()
        missing = set() if "ALL PRIVILEGES" in rights else needed - rights
        if missing:
            listed = ", ".join(sorted(missing))
            raise Refused(
                f"{database}.{name} can't be written to by this account, which may not make it. Nothing was written;"
                f" GRANT {listed} ON `{database}`.`{name}` TO {account(self.connection)}."
            )
        self.end_read()

    def create_like(self, name: str) -> None:
        # LIKE takes columns and indexes and leaves out foreign keys, which is what is wanted here.
        source, target = self._quote(self.table.name), self._quote(name)
        self.connection.exec_driver_sql(f"CREATE TABLE {target} LIKE {source}".replace("%", "%%"))
        if self.connection.execute(PARTITIONED, {"name": name}).scalar():
            # The rows' own partition may have been dropped since.
            self.connection.exec_driver_sql(f"ALTER TABLE {target} REMOVE PARTITIONING".replace("%", "%%"))
        self.end_read()

    @contextmanager
    def in_any_order(self, days: Sequence[Day]) -> Iterator[None]:
        before = [self._dangling(parent, day) for parent in self.table.parents for day in days]
        self.connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")
        # What the server would have looked at row by row, and under the same locks.
        after = [self._dangling(parent, day, lock=True) for parent in self.table.parents for day in days]
        if after != before:
            raise OperatorError(
                f"Some rows (at least {sum(after) - sum(before)}) reference rows that are not there, such as a parent"
                " that was deleted meanwhile. This file was rolled back; launch the restore again."
            )

    def _dangling(self, parent: ForeignKey, day: Day, *, lock: bool = False) -> int:
        """Rows of the day whose parent isn't there. With lock, the parents stay till the transaction ends."""
        other = sa.table(parent.parent, *map(sa.column, parent.parent_columns), schema=parent.parent_schema)
        alias = other.alias("saju_parent")
        pairs = list(zip(parent.columns, parent.parent_columns, strict=True))
        joined = self.from_.outerjoin(alias, sa.and_(*(alias.c[b] == self.col(a) for a, b in pairs)))
        query = sa.select(sa.func.count()).select_from(joined).where(*self.day_condition(day))
        query = query.where(*(self.col(a).is_not(None) for a in parent.columns))
        query = query.where(alias.c[parent.parent_columns[0]].is_(None))
        return int(self.connection.execute(query.with_for_update(read=True) if lock else query).scalar_one())

    def load(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        writable = [c for c in columns if not c.generated]
        if self._inserts_history:
            self.connection.exec_driver_sql("SET SESSION system_versioning_insert_history = 1")
        typed = any(c.family == TYPED for c in writable)
        with self._checking_nothing():
            try:
                self._load(table, batches, writable, typed)
            except sa.exc.DBAPIError as error:
                if error_number(error) != NO_PARTITION:
                    raise
                raise NoPartition(table) from None

    @contextmanager
    def _checking_nothing(self) -> Iterator[None]:
        """MariaDB: a row may be older than a CHECK of the table. MySQL lets no such row be."""
        if self.table.engine != "mariadb" or not self.takes_old_rows:
            yield
            return
        self.connection.exec_driver_sql("SET SESSION check_constraint_checks = 0")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql("SET SESSION check_constraint_checks = 1")

    def _load(self, table: str, batches: Iterator[pa.RecordBatch], writable: Sequence[Column], typed: bool) -> None:
        if self.bulk_load and not typed and self.connection.execute(sa.text("SELECT @@local_infile")).scalar():
            self._load_data(table, batches, writable)
        else:
            self._insert(table, batches, writable)

    def _load_data(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        """LOAD DATA from a pipe, so that nothing is copied to disk. The caller compares what arrived."""
        # By its number under /dev/fd: a named pipe in a temporary folder would stay there after a kill.
        source, sink = os.pipe()
        feeder = _Feeder(sink, batches, columns)
        feeder.start()
        try:
            self.connection.exec_driver_sql(self._load_statement(table, columns, f"/dev/fd/{source}"))
            # LOCAL makes errors warnings and leaves the row out.
            if NO_PARTITION in {int(row[1]) for row in self.connection.exec_driver_sql("SHOW WARNINGS")}:
                raise NoPartition(table)
        finally:
            # Ends the feeder too where the statement failed before it had read all.
            os.close(source)
            feeder.join(timeout=60)
        if feeder.error is not None:
            raise feeder.error

    def _load_statement(self, table: str, columns: Sequence[Column], pipe: str) -> str:
        # Straight into the column where it can be: a variable costs the server 0.15 µs a cell.
        straight = [c.encoding != "hex" and c.family != "bit" and not self._shifts(c) for c in columns]
        targets = ", ".join(
            self._quote(c.name) if plain else f"@c{i}"
            for i, (c, plain) in enumerate(zip(columns, straight, strict=True))
        )
        assignments = ", ".join(
            f"{self._quote(c.name)} = {self._converted(c, f'@c{i}')}"
            for i, (c, plain) in enumerate(zip(columns, straight, strict=True))
            if not plain
        )
        return (
            f"LOAD DATA LOCAL INFILE {_literal(pipe)} INTO TABLE {self._quote(table)} CHARACTER SET utf8mb4"
            " FIELDS TERMINATED BY ',' ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n'"
            f" ({targets})" + (f" SET {assignments}" if assignments else "")
        ).replace("%", "%%")

    def _shifts(self, column: Column) -> bool:
        """Whether a text in UTC has to be moved into the session's zone."""
        return self._offset != UTC_OFFSET and column.family == "timestamp"

    def _mark(self, column: Column, value: Any) -> Any:
        if column.encoding == "hex":
            return sa.func.unhex(value)
        if self._shifts(column):
            zones: list[Any] = [sa.literal_column(f"'{zone}'") for zone in (UTC_OFFSET, self._offset)]
            return sa.func.coalesce(sa.func.convert_tz(value, *zones), value)
        return value

    def _converted(self, column: Column, value: str) -> str:
        if column.encoding == "hex":
            return f"UNHEX({value})"
        if column.family == "bit":
            return f"CAST({value} AS UNSIGNED)"
        if self._shifts(column):
            # CONVERT_TZ gives NULL for what no calendar has.
            return f"COALESCE(CONVERT_TZ({value}, '{UTC_OFFSET}', '{self._offset}'), {value})"
        return value

    def _insert(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        target = sa.table(table, *(sa.column(c.name) for c in columns))
        marks = {c.name: self._mark(c, sa.bindparam(f"c{i}")) for i, c in enumerate(columns)}
        statement = sa.insert(target).values(marks)
        for batch in batches:
            cells = [batch.column(c.name).to_pylist() for c in columns]
            rows = [
                {f"c{i}": _insertable(c, v) for i, (c, v) in enumerate(zip(columns, row, strict=True))}
                for row in zip(*cells, strict=True)
            ]
            typed = [i for i, c in enumerate(columns) if c.family == TYPED]
            for row in rows if typed else []:
                row |= {f"c{i}": _with_types(row[f"c{i}"]) for i in typed}
            plain = [r for r in rows if not any(TYPES_BEHIND in (r[f"c{i}"] or "") for i in typed)] if typed else rows
            with self._taking_errors() if self._has_error(plain, columns) else nullcontext():
                for start in range(0, len(plain), ROWS_PER_INSERT):
                    self.connection.execute(statement, plain[start : start + ROWS_PER_INSERT])
            for row in rows if len(plain) < len(rows) else []:
                with self._taking_errors() if self._has_error([row], columns) else nullcontext():
                    self._insert_typed(target, marks, row, {columns[i].name: row[f"c{i}"] for i in typed})

    def _has_error(self, rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> bool:
        """Whether an ENUM holds its error value, which prints as an empty text and which no strict server takes."""
        enums = [f"c{i}" for i, c in enumerate(columns) if c.family == "enum" and "" not in _members(c)]
        return self.takes_old_rows and any(row[name] == "" for name in enums for row in rows)

    @contextmanager
    def _taking_errors(self) -> Iterator[None]:
        self.connection.exec_driver_sql(f"SET SESSION sql_mode = '{MYSQL_SQL_MODE.partition(',')[2]}'")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql(f"SET SESSION sql_mode = '{MYSQL_SQL_MODE}'")

    def _insert_typed(self, target: Any, marks: dict[str, Any], row: dict[str, Any], cells: dict[str, str]) -> None:
        """One row, if it has a document with types."""
        documents = {n: mysql_json.document(cell) for n, cell in cells.items() if TYPES_BEHIND in (cell or "")}
        if documents:
            self.connection.execute(sa.insert(target).values(marks | documents), row)


def _binary(text: bytes) -> sa.ColumnElement[Any]:
    # Not BINARY x'…': MySQL warns of that, and a warning costs a second look.
    return sa.literal_column(f"CAST(x'{text.hex()}' AS BINARY)")


def _nearest(text: str) -> datetime:
    """The last real moment before a date that no calendar has, such as 2026-10-00 or 2026-02-31."""
    year, month, day = (int(part) for part in text[:10].split("-"))
    if not year:
        return datetime(1, 1, 2)  # noqa: DTZ001
    # The first day of the month after the one that the date lies in, or of its own month for day 0.
    after = datetime(year + month // 12, month % 12 + 1, 1) if day and month else datetime(year, month or 1, 1)  # noqa: DTZ001
    return after - timedelta(microseconds=1)


def _zoned(rows: Sequence[Any], columns: Sequence[Column], *, mariadb: bool) -> dict[str, str]:
    """The stored generated columns that hold what a session's time zone made of a TIMESTAMP, with their expressions."""
    zoned: dict[str, str] = {}
    of_zone = {c.name for c in columns if c.family == "timestamp"}
    stored = [tuple(map(_str, row)) for row in rows if "STORED GENERATED" in _str(row[6]).upper()]
    for name, *_, expression, _extra in stored:
        names = {part.replace("``", "`") for part in re.findall(r"`((?:[^`]|``)+)`", expression)}
        if "from_unixtime" in expression.lower() or names & of_zone:
            zoned[name] = expression if mariadb else _expression(expression)
            of_zone.add(name)
    return {c.name: zoned[c.name] for c in columns if c.name in zoned and c.generated and c.family != "json"}


def _expression(shown: str) -> str:
    """An expression of MySQL's catalogue as SQL: its strings are shown with escapes, in Latin-1."""
    plain = re.sub(r"\\(['\\])", r"\1", shown)
    try:
        return plain.encode("latin-1").decode()
    except UnicodeError:
        return plain


def _fixed(offset: str) -> tzinfo:
    if offset == UTC_OFFSET:
        return UTC
    ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:]))
    return timezone(-ahead if offset[0] == "-" else ahead)


def _with_types(cell: str | None) -> str | None:
    """A document with the types that can be seen in it, where it says none."""
    types = mysql_json.types_shown(cell) if cell is not None and TYPES_BEHIND not in cell else ""
    return f"{cell}{TYPES_BEHIND}{types}" if types else cell


def _members(column: Column) -> list[str]:
    """Of an ENUM or SET."""
    return [each.replace("''", "'") for each in re.findall(r"'((?:[^']|'')*)'", column.type)]


def _pads(row: Any) -> bool:
    pads = row._mapping.get("PAD_ATTRIBUTE")
    return pads == "PAD SPACE" if pads is not None else "nopad" not in str(_str(row[1]))


def _forbids_locks(error: sa.exc.DBAPIError) -> bool:
    """A Galera cluster: MariaDB's says "doesn't yet support 'GET_LOCK in cluster (WSREP_ON=ON)'" (1235), Percona's in
    strict mode "prohibits use of GET_LOCK with pxc_strict_mode = …" (1105)."""
    said: tuple[Any, ...] = getattr(error.orig, "args", ())
    return said[:1] in ((1235,), (1105,)) and "GET_LOCK" in str(said[1:]).upper()


@functools.cache
def _say_locked_here(where: str) -> None:
    """Once for each address in a process."""
    logging.getLogger(__name__).warning(
        "%s is a Galera cluster and forbids GET_LOCK, so runs are kept apart by a lock of this user on this machine"
        " alone. Let no other machine or user run saju_ops on this database.", where,
    )  # fmt: skip


def lag_of(url: sa.URL) -> float:
    """Seconds that a replica is behind; infinity where its replication isn't running."""
    with connect(url).connect() as connection:
        try:
            row = connection.execute(sa.text("SHOW REPLICA STATUS")).mappings().first()
        except sa.exc.DBAPIError as error:
            if error_number(error) != 1064:  # a server that doesn't know the words
                raise
            connection.rollback()
            row = connection.execute(sa.text("SHOW SLAVE STATUS")).mappings().first()
    value = None if row is None else row.get("Seconds_Behind_Source", row.get("Seconds_Behind_Master"))
    # NULL means that replication is not running: endlessly behind, for who waits for it.
    return float("inf") if value is None else float(value)
