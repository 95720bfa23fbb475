"""Values of MySQL and MariaDB as text, and back, for files, digests and comparisons of keys."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql as mysql_dialect

from saju_ops.rows.comeback import TYPED
from saju_ops.rows.digest import SEPARATOR
from saju_ops.rows.engines.base import RowStore
from saju_ops.rows.engines.interface import Key, Selection
from saju_ops.rows.engines.mysql import json_types as mysql_json
from saju_ops.rows.engines.mysql.catalogue import (
    FLOATS,
    INTEGERS,
    LOSSLESS,
    NUMBERED,
    TEXTS,
    TIMES,
    _charset,
    _str,
)
from saju_ops.rows.engines.selecting import as_bytes
from saju_ops.rows.table import Column

# Replaces, in rows that are read, a value that the server can't give as text without loss; a digest leaves such a cell
# out. So no proof passes, and no archived row counts as equal, not even one with NULL there.
NO_TEXT = f"saju_ops:{os.urandom(16).hex()}"
# The star, since MariaDB's list of collations doesn't say which of them pad: their names do.
COLLATIONS = sa.text(
    "SELECT c.COLUMN_NAME, c.COLLATION_NAME, l.* FROM information_schema.COLUMNS c JOIN information_schema.COLLATIONS l"
    " ON l.COLLATION_NAME = c.COLLATION_NAME WHERE c.TABLE_SCHEMA = DATABASE() AND c.TABLE_NAME = :name"
)
# Columns of one SELECT.
MOST_COLUMNS = 500


class MySQLText(RowStore):
    """A table's cells, rows and keys as expressions of the server."""

    def _quote(self, name: str) -> str:
        # SQLAlchemy doubles a percent sign for the driver; here statements are put together before that.
        return self.connection.dialect.identifier_preparer.quote(name).replace("%%", "%")

    def text(self, column: Column) -> sa.ColumnElement[Any]:
        """NULL also for a value that the server can't give as text without loss: MariaDB's HEX of a value larger than
        half of max_allowed_packet, half a surrogate pair in ucs2, a character of euckr that UTF-8 lacks."""
        text, charset = self._printed(column), _charset(column)
        # Bytes in a member of an ENUM that aren't UTF-8: MariaDB shows a question mark; MySQL casts the value to NULL.
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
            # A cast, since a member may hold bytes that aren't UTF-8; the servers have checked the values of a TEXT.
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
        return [self._text_or_mark(c).label(f"saju_{i}") for i, c in enumerate(self.table.columns)]

    def _text_or_mark(self, column: Column) -> sa.ColumnElement[Any]:
        if self._implicit(column):
            return self.text(column)
        text = sa.func.coalesce(self.text(column), sa.literal(NO_TEXT))
        return sa.case((self.col(column.name).is_not(None), text)) if column.nullable else text

    def lossy_values(self, selection: Selection) -> dict[str, int]:
        columns = [c for c in self.table.columns if not self._implicit(c)]
        lacking = (sa.func.count(self.col(c.name)) - sa.func.count(self.text(c)) for c in columns)
        query = sa.select(sa.func.count(), *lacking).select_from(self.from_)
        _, *counts = self.connection.execute(query.where(*self.conditions(selection))).one()
        return {c.name: int(n) for c, n in zip(columns, counts, strict=True) if n}

    def _cell(self, column: Column) -> str:
        return f"{self._quote(self.table.name)}.{self._quote(column.name)}"

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


def _binary(text: bytes) -> sa.ColumnElement[Any]:
    # Not BINARY x'…': MySQL warns of that, and a warning costs a second look.
    return sa.literal_column(f"CAST(x'{text.hex()}' AS BINARY)")


def _members(column: Column) -> list[str]:
    """The members of an ENUM or SET."""
    return [each.replace("''", "'") for each in re.findall(r"'((?:[^']|'')*)'", column.type)]


def _pads(row: Any) -> bool:
    pads = row._mapping.get("PAD_ATTRIBUTE")
    return pads == "PAD SPACE" if pads is not None else "nopad" not in str(_str(row[1]))
