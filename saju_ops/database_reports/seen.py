"""What a server shows for a report, and what every engine's reader shares."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# Statements of a database in one report, the slowest first; and of how many the server is asked.
MOST_QUERIES, ASKED_FOR = 100, 1000
# D2: the composite indexes of the service's common queries. They are never proposed to go.
COMMON_QUERIES = {
    ("user_sessions", ("session_id", "birth_datetime", "is_lunar")),
    ("saju_calculations", ("year_ganji", "month_ganji", "day_ganji", "time_ganji")),
    ("saju_analyses", ("ohang_dominant", "ohang_weakest", "day_gan_strength")),
    ("system_metrics", ("metric_name", "recorded_at")),
}
LOG_COLUMNS = (("session_id", "created_at"), ("created_at",))


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
    found = []
    for index in indexes:
        needed = index.needed_for or _needed_for(index, keys, log_table)
        found.append(
            {
                "table": index.table, "index": index.name,
                "columns": ", ".join(name or "(expression)" for name in index.columns),
                "unique": index.unique, "uses": index.uses, "bytes": index.bytes, "needed_for": needed,
                "may_go": index.uses == 0 and not needed, "since": stamp(since),
            }
        )  # fmt: skip
    return sorted(found, key=lambda row: (not row["may_go"], row["uses"] or 0, row["table"], row["index"]))


def _needed_for(index: Index, keys: Collection[Key], log_table: str) -> str:
    if index.unique:
        return "no value twice"
    for key in keys:
        # In any order: MySQL wants the foreign key's own, the others' checks and cascades take what there is.
        if key.table == index.table and set(index.columns[: len(key.columns)]) == set(key.columns):
            return "a foreign key"
    if (index.table, index.columns) in COMMON_QUERIES or (index.table == log_table and index.columns in LOG_COLUMNS):
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
