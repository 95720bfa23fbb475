"""What is new in a report against the one of a week ago: pure, on pandas frames."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

# A query counts as slower from so many times, calls since then and milliseconds on: less is noise.
TIMES_SLOWER, FEWEST_CALLS, LEAST_MS = 2.0, 3, 5.0
# A disk that is full within so many days.
DAYS = 30
# Servers say their uptime in whole seconds, and two questions are not asked at once.
SAME_START = timedelta(minutes=5)
# Counters that began anew since the last report say nothing of an index until they are so old.
YOUNG = timedelta(days=7)
ALL_TABLES = ""


@dataclass(frozen=True)
class News:
    kind: Literal["slower", "unused", "filling"]
    database: str
    # A statement's normalised text, table.index, or a table; ALL_TABLES for all of the database together.
    what: str
    # Milliseconds a run then and now; bytes a day, and days that are left.
    before: float = 0.0
    now: float = 0.0
    # When the counters began, UTC; empty where the server doesn't say.
    since: str = ""


def slower_queries(frame: Any, before: Any) -> list[News]:
    """Queries whose runs since then took twice as long, on average, as those up to then."""
    if before is None:
        return []
    then = {(row["database"], row["digest"]): row for row in _rows(before)}
    found = []
    for row in _rows(frame):
        old = then.get((row["database"], row["digest"]))
        if old is None or not old["calls"] or not old["total_ms"]:
            continue
        calls, total = row["calls"], row["total_ms"]
        if _same_start(row, old) and calls >= old["calls"] and total >= old["total_ms"]:
            calls, total = calls - old["calls"], total - old["total_ms"]
        if calls < FEWEST_CALLS:
            continue
        mean, mean_then = total / calls, old["total_ms"] / old["calls"]
        if mean >= LEAST_MS and mean >= TIMES_SLOWER * mean_then:
            found.append(News("slower", row["database"], row["query"], mean_then, mean, row["since"]))
    return sorted(found, key=lambda news: -news.now / news.before)


def unused_indexes(frame: Any, before: Any, now: datetime) -> list[News]:
    """Indexes that may go and that were not among those of a week ago."""
    then = {} if before is None else {_index(row): row for row in _rows(before)}
    starts = {row["database"]: row for row in then.values()}
    found = []
    for row in _rows(frame):
        old = then.get(_index(row))
        if not row["may_go"] or (old is not None and old["may_go"]):
            continue
        begun_anew = row["database"] in starts and not _same_start(row, starts[row["database"]])
        if begun_anew and (at := _time(row["since"])) is not None and now - at < YOUNG:
            continue
        found.append(News("unused", row["database"], f"{row['table']}.{row['index']}", since=row["since"]))
    return found


def filling_tables(frame: Any) -> list[News]:
    """Tables that fill the room that is left within DAYS by themselves; else, where all together do, that."""
    found = []
    for database in dict.fromkeys(frame["database"]):
        rows = [row for row in _rows(frame) if row["database"] == database]
        alone = [
            News("filling", database, row["table"], row["growth_bytes_per_day"], row["days_to_limit"])
            for row in rows
            if row["days_to_limit"] is not None and row["days_to_limit"] <= DAYS
        ]
        found += sorted(alone, key=lambda news: news.now)
        growth = sum(row["growth_bytes_per_day"] or 0.0 for row in rows)
        room = next((row["room_bytes"] for row in rows if row["room_bytes"] is not None), None)
        if not alone and room is not None and growth > 0 and room <= growth * DAYS:
            found.append(News("filling", database, ALL_TABLES, growth, max(room, 0) / growth))
    return found


def with_earlier_uses(rows: list[dict[str, Any]], before: Any) -> None:
    """An index that was read by the report of a week ago was read: on MySQL an ALTER of a table begins the counters of
    its indexes anew, and leaves those of the server."""
    then = {} if before is None else {_index(row): row for row in _rows(before)}
    for row in rows:
        old = then.get(_index(row))
        if old is not None and row["uses"] is not None and (old["uses"] or 0) > row["uses"] and _same_start(row, old):
            row["uses"], row["may_go"] = old["uses"], False


def with_growth(rows: list[dict[str, Any]], before: Any, days: int, rooms: dict[str, int | None]) -> None:
    """Fills in, for each table, growth, room and days. `rooms`: bytes that each database may still take."""
    then = {} if before is None else {(row["database"], row["table"]): row["bytes"] for row in _rows(before)}
    for row in rows:
        old, room = then.get((row["database"], row["table"])), rooms.get(row["database"])
        growth = (row["bytes"] - old) / days if old is not None and days > 0 else None
        row["growth_bytes_per_day"] = None if growth is None else round(growth, 1)
        row["room_bytes"] = room
        row["days_to_limit"] = (
            None if growth is None or growth <= 0 or room is None else round(max(room, 0) / growth, 1)
        )


def _rows(frame: Any) -> list[dict[str, Any]]:
    """Plain values; None for what is empty."""
    import pandas as pd

    return [
        {str(name): None if value is pd.NA else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _index(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["database"], row["table"], row["index"]


def _same_start(row: dict[str, Any], old: dict[str, Any]) -> bool:
    now, then = _time(row["since"]), _time(old["since"])
    return now == then if now is None or then is None else abs(now - then) <= SAME_START


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
