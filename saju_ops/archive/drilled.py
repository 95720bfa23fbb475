"""Compares a restored day with its archive: the comparison of the drill of `verify`.

The drill restores into a SQLite table whose columns are texts, so each value is there as it is in the file, except keys
that are numbers, which are compared as numbers, and offsets of instants, which only PostgreSQL has. The comparison is
by the digest of all rows that count, each with all its columns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saju_ops.archive.held import HeldRows
from saju_ops.archive.manifest import Manifest, common_key
from saju_ops.archive.restore import as_others_have_it
from saju_ops.archive.verify import part_batches
from saju_ops.database.connect import SQLiteText
from saju_ops.rows.digest import EMPTY, Digest, key_hashes, row_hashes
from saju_ops.rows.engines.sqlite.cells import decode_cell
from saju_ops.rows.table import Column
from saju_ops.storage.open import Storage

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

ROWS = 2048


def archived_rows(storage: Storage, parts: Sequence[Manifest]) -> Digest:
    """The digest of the rows of all parts that count: of several with the same key, that of the latest part."""
    identity, columns = common_key(parts), _compared(parts)
    found, later = EMPTY, HeldRows()
    for part in reversed(parts):
        own = HeldRows()
        collect = own.collect_keys(part.hashed_by(identity))()
        for batch in part_batches(storage, part):
            keys = key_hashes(batch, part.hashed_by(identity))
            hashes = row_hashes(_as_restored(batch, part), columns)
            found += Digest.of(hashes[~later.has_keys(keys)])
            collect(batch, dict)  # type: ignore[arg-type]
        later.add(own)
    return found


def restored_rows(path: Path, parts: Sequence[Manifest]) -> Digest:
    """The digest of the rows in the scratch table."""
    import pyarrow as pa

    columns = _compared(parts)
    names = ", ".join(_quoted(c.name) for c in columns)
    found = EMPTY
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = SQLiteText
        cursor = connection.execute(f"SELECT {names} FROM {_quoted(parts[-1].table)}")  # noqa: S608
        while rows := cursor.fetchmany(ROWS):
            cells = [pa.array([_cell(value) for value in values], pa.binary()) for values in zip(*rows, strict=True)]
            found += Digest.of(row_hashes(pa.RecordBatch.from_arrays(cells, [c.name for c in columns]), columns))
    return found


def _compared(parts: Sequence[Manifest]) -> list[Column]:
    """The columns that all parts have; each framed, whatever it holds."""
    names = set.intersection(*({c["name"] for c in part.columns} for part in parts))
    return [replace(c, framed=True) for c in parts[-1].table_columns if c.name in names]


def _as_restored(batch: pa.RecordBatch, part: Manifest) -> pa.RecordBatch:
    """The cells as the scratch table gives them."""
    import pyarrow as pa

    batch = as_others_have_it(batch, part)
    arrays: list[Any] = []
    for column in part.table_columns:
        cells = batch.column(column.name)
        if column.encoding == "number" and column.name in part.key:
            cells = pa.array([_cell(decode_cell(column, v)) for v in cells.to_pylist()], pa.binary())
        arrays.append(cells)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _cell(value: Any) -> bytes | None:
    """A value of SQLite as text, and as no other value's."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, type(None))) and not isinstance(value, SQLiteText):
        return None if value is None else value.hex().upper().encode()
    if isinstance(value, SQLiteText):
        return bytes(value)
    # A column of whole numbers makes 2.0 to 2.
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value).encode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
