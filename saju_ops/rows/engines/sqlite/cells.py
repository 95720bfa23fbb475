"""Cells of SQLite, each of which has a type of its own, as a file writes them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

from saju_ops.database.connect import SQLiteText
from saju_ops.errors import Refused
from saju_ops.rows.table import Column, Encoding

KINDS: dict[str, type] = {"text": SQLiteText, "integer": int, "real": float, "blob": bytes}
ENCODINGS: dict[str, Encoding] = {"text": "text", "integer": "number", "real": "number", "blob": "hex"}


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _encoded(column: Column, kinds: set[str]) -> Column:
    """The column with the encoding for the types that its cells have."""
    if len(kinds) > 1:
        return replace(column, encoding="literal", framed=True, family="literal")
    kind = next(iter(kinds), "text")
    return replace(column, encoding=ENCODINGS[kind], framed=kind == "text", family=kind)


def encode_cell(column: Column, value: Any) -> bytes | None:
    """A cell in the form that the file uses. Python's repr of a float is the shortest that comes back the same."""
    if value is None:
        return None
    if column.encoding == "literal":
        return _literal(value)
    kind: Any = type(value)
    if kind is not KINDS[column.family]:
        # The integer 12 and the text '12' look alike in a file. A cell of another type than the file's column equals no
        # archived cell: no archive holds it, and no archive with it can be proven.
        return b"another type " + os.urandom(16).hex().encode()
    if column.encoding == "hex":
        return value.hex().upper().encode()
    if isinstance(value, bytes):
        return value
    return (repr(value) if isinstance(value, float) else str(value)).encode()


def decode_cell(column: Column, cell: bytes) -> Any:
    """The value that `encode_cell` wrote, in the type that SQLite keeps it in."""
    if column.encoding == "literal":
        return _from_literal(cell)
    if column.encoding == "hex":
        return bytes.fromhex(cell.decode())
    if column.encoding == "number":
        # An archive of another engine has numbers of other families.
        return int(cell) if column.family == "integer" or re.fullmatch(rb"-?[0-9]+", cell) else float(cell)
    return cell.decode()


def _literal(value: Any) -> bytes:
    if isinstance(value, SQLiteText):
        try:
            value.decode()
        except UnicodeDecodeError:
            return b"CAST(X'" + value.hex().upper().encode() + b"' AS TEXT)"
        return b"'" + value.replace(b"'", b"''") + b"'"
    if isinstance(value, bytes):
        return b"X'" + value.hex().upper().encode() + b"'"
    return repr(value).encode()


def _from_literal(cell: bytes) -> Any:
    if cell.startswith(b"'"):
        return cell[1:-1].replace(b"''", b"'").decode()
    if cell.startswith(b"X'"):
        return bytes.fromhex(cell[2:-1].decode())
    if cell.startswith(b"CAST("):
        raise Refused("A text that is not UTF-8 can't be written back by this version; it is in the file as hex.")
    return int(cell) if re.fullmatch(rb"-?[0-9]+", cell) else float(cell)
