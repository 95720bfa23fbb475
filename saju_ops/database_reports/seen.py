"""What a server shows for a report, and what every engine's reader shares."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# Statements of a database in one report, the slowest first; and of how many the server is asked.
MOST_QUERIES, ASKED_FOR = 100, 1000
# The archive and the purge read the log by this column.
DAY_COLUMN = ("created_at",)


@dataclass
class Seen:
    rows: list[dict[str, Any]] = field(default_factory=list)
    # Which setting or GRANT is missing, as a sentence each; and what there is to know besides.
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    table: str
    name: str
    # An expression has no name.
    columns: tuple[str | None, ...]
    unique: bool
    # None where nobody counted.
    uses: int | None = None
    bytes: int | None = None
    # What of the index alone says that it must stay.
    needed_for: str = ""


@dataclass(frozen=True)
class Key:
    """Columns of a table that a foreign key joins: those that reference, and those that are referenced."""

    table: str
    columns: tuple[str, ...]


def index_rows(
    indexes: Sequence[Index], keys: Collection[Key], log_table: str, since: datetime | None
) -> list[dict[str, Any]]:
    found, common = [], {*common_indexes(log_table), (log_table, DAY_COLUMN)}
    for index in indexes:
        needed = index.needed_for or _needed_for(index, keys, common)
        found.append(
            {
                "table": index.table, "index": index.name,
                "columns": ", ".join(name or "(expression)" for name in index.columns),
                "unique": index.unique, "uses": index.uses, "bytes": index.bytes, "needed_for": needed,
                "may_go": index.uses == 0 and not needed, "since": stamp(since),
            }
        )  # fmt: skip
    return sorted(found, key=lambda row: (not row["may_go"], row["uses"] or 0, row["table"], row["index"]))


def common_indexes(log_table: str) -> set[tuple[str, tuple[str, ...]]]:
    """Table and columns of the composite indexes that the migrations make for the service's common queries."""
    from saju_ops.schema.migrate.steps import Installation, MakeIndex
    from saju_ops.schema.migrate.versions.v0002_indexes import steps

    made = [step.index for step in steps(Installation(log_table)) if isinstance(step, MakeIndex)]
    return {(str(i.table.name), tuple(column.name for column in i.columns)) for i in made if i.table is not None}


def _needed_for(index: Index, keys: Collection[Key], common: Collection[tuple[str, tuple[str | None, ...]]]) -> str:
    if index.unique:
        return "no value twice"
    for key in keys:
        # In any order: MySQL wants the foreign key's own, the others' checks and cascades take what there is.
        if key.table == index.table and set(index.columns[: len(key.columns)]) == set(key.columns):
            return "a foreign key"
    if (index.table, index.columns) in common:
        return "the service's common queries"
    return ""


def stamp(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def query_row(
    digest: str, query: str, calls: int, total_ms: float, max_ms: float, since: datetime | None, **more: int | None
) -> dict[str, Any]:
    return {
        "digest": digest, "query": query, "calls": calls, "total_ms": round(total_ms, 3),
        "mean_ms": round(total_ms / calls, 3) if calls else 0.0, "max_ms": round(max_ms, 3), "since": stamp(since),
        **more,
    }  # fmt: skip
