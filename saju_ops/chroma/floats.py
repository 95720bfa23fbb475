"""Floats in metadata, which Chroma changes slightly. Runs in the worker process.

Chroma writes metadata into its queue as JSON and reads it again with a parser that rounds: of 4,000 random floats 787
came back one or two units in the last place off, and 202 of those again when they were written once more (1.5.9).
So floats that are fetched from a server are written again into the folder's own tables, where a float is eight bytes.
Floats that are pushed into a server are tried with their neighbouring values until they read as they should.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from saju_ops.chroma.files import Record
from saju_ops.chroma.pages import Row, rows_of
from saju_ops.chroma.scratch_database import ScratchDatabase

# Units in the last place that Chroma rounds by at most: it reads JSON twice on a server, each time by up to two.
NEAR = 4


class ExactFloats:
    """The floats of the records that a folder gets, as they were read: `write` puts them into its tables."""

    def __init__(self) -> None:
        self._floats = ScratchDatabase(
            "CREATE TABLE floats (collection TEXT, id TEXT, key TEXT, place INTEGER, value REAL,"
            " PRIMARY KEY (collection, id, key, place)) WITHOUT ROWID",
            "the floats of a server's metadata",
        )

    def keep(self, collection: str, rows: Sequence[Row]) -> None:
        """Replaces the floats of records that are written now. `collection`: its id."""
        with self._floats.transaction():
            self._floats.executemany(
                "DELETE FROM floats WHERE collection = ? AND id = ?", ((collection, row[0]) for row in rows)
            )
            self._floats.executemany(
                "INSERT INTO floats VALUES (?, ?, ?, ?, ?)",
                ((collection, id, *found) for id, record, _ in rows for found in _floats(record)),
            )

    def write(self, connection: sqlite3.Connection) -> None:
        """Into the folder's tables, while Chroma has it not open."""
        segments = dict(connection.execute("SELECT collection, id FROM segments WHERE scope = 'METADATA'").fetchall())
        for collection, id, key, place, value in self._floats.execute("SELECT * FROM floats"):
            where = (segments.get(collection), id, key)
            if place < 0:
                connection.execute(_SET, (value, *where, value))
            else:
                connection.execute(_SET_IN_LIST, (value, *where, place))


_RECORD = "(SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?)"
_SET = (
    f"UPDATE embedding_metadata SET float_value = ? WHERE id = {_RECORD} AND key = ?"  # noqa: S608 (constants)
    " AND float_value IS NOT NULL AND float_value <> ?"
)
_SET_IN_LIST = (
    "UPDATE embedding_metadata_array SET float_value = ? WHERE rowid = (SELECT rowid FROM embedding_metadata_array"  # noqa: S608
    f" WHERE id = {_RECORD} AND key = ? ORDER BY rowid LIMIT 1 OFFSET ?)"
)


def _floats(record: Record) -> Iterator[tuple[str, int, float]]:
    """Key, place in a list or -1, and value."""
    for key, value in record.metadata.items():
        if isinstance(value, float):
            yield key, -1, value
        elif isinstance(value, list):
            yield from ((key, place, each) for place, each in enumerate(value) if isinstance(each, float))


# --- on a server -------------------------------------------------------------------------------------------------


def write_exactly(server: Any, id: Any, tenant: str, database: str, rows: Sequence[Row]) -> None:
    """After the records were written: a float that reads differently is tried with its neighbouring values. If none of
    them reads as wanted, the nearest is kept."""
    where = {"tenant": tenant, "database": database}
    wanted = {row[0]: row[1].metadata for row in rows if any(_floats(row[1]))}
    best = _read(server, id, [*wanted], where)
    wrong = {n: keys for n in wanted if (keys := _differing(wanted[n], best.get(n, {})))}
    if not wrong:
        return
    given = {n: {key: wanted[n][key] for key in keys} for n, keys in wrong.items()}
    for step in (s * direction for s in range(1, NEAR + 1) for direction in (1, -1)):
        trial = {n: {key: _shifted(wanted[n][key], best[n][key], given[n][key], step) for key in keys}
                 for n, keys in wrong.items()}  # fmt: skip
        _update(server, id, trial, where)
        shown = _read(server, id, [*trial], where)
        for n, keys in wrong.items():
            for key in keys:
                best[n][key], given[n][key] = _nearer(
                    wanted[n][key], (best[n][key], given[n][key]), (shown[n][key], trial[n][key])
                )
        if not any(_differing(wanted[n], best[n]) for n in wrong):
            break
    _update(server, id, given, where)


def _read(server: Any, id: Any, ids: Sequence[str], where: dict[str, str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    got = server.get(id, ids=list(ids), include=["metadatas"], **where)
    return {row[0]: row[1].metadata for row in rows_of(got)}


def _update(server: Any, id: Any, metadata: dict[str, dict[str, Any]], where: dict[str, str]) -> None:
    server.update(id, ids=list(metadata), metadatas=list(metadata.values()), **where)


def _differing(wanted: dict[str, Any], shown: dict[str, Any]) -> list[str]:
    """Keys whose value is or holds floats that read differently, by no more than rounding."""
    return [k for k, v in wanted.items() if k in shown and shown[k] != v and nearly(v, shown[k])]


def _shifted(wanted: Any, shown: Any, given: Any, step: int) -> Any:
    """What to try next; what reads right already stays as it was given."""
    if isinstance(wanted, list):
        return [_shifted(*each, step) for each in zip(wanted, shown, given, strict=True)]
    if wanted == shown or not isinstance(wanted, float):
        return given
    for _ in range(abs(step)):
        wanted = math.nextafter(wanted, math.copysign(math.inf, step))
    return wanted


def _nearer(wanted: Any, old: tuple[Any, Any], new: tuple[Any, Any]) -> tuple[Any, Any]:
    """The nearer of two pairs (read, given)."""
    if isinstance(wanted, list):
        pairs = [
            _nearer(w, (old[0][n], old[1][n]), (new[0][n], new[1][n])) for n, w in enumerate(wanted)
        ]  # fmt: skip
        return [p[0] for p in pairs], [p[1] for p in pairs]
    if not isinstance(wanted, float):
        return old
    return new if abs(new[0] - wanted) < abs(old[0] - wanted) else old


def nearly(one: Any, other: Any) -> bool:
    """Whether two values of metadata differ by no more than Chroma's rounding."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(nearly(*each) for each in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= NEAR * max(math.ulp(one), math.ulp(other))
    return type(one) is type(other) and bool(one == other)


def rounded(one: Record, other: Record) -> int | None:
    """How many floats of a record are rounded in the other; None where they differ in anything else."""
    if (one.document, one.uri, one.metadata.keys()) != (other.document, other.uri, other.metadata.keys()):
        return None
    if not all(nearly(value, other.metadata[key]) for key, value in one.metadata.items()):
        return None
    return sum(mine[2] != theirs[2] for mine, theirs in zip(_floats(one), _sorted_like(one, other), strict=True))


def _sorted_like(one: Record, other: Record) -> Iterator[tuple[str, int, float]]:
    return _floats(Record(metadata={key: other.metadata[key] for key in one.metadata}))
