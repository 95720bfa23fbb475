"""What is new in a report, by the numbers alone: growth of all tables together, counters that began anew, noise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from saju_ops.database_reports.columns import frame_of
from saju_ops.database_reports.news import News, filling_tables, slower_queries, unused_indexes, with_growth
from saju_ops.reports.database_reports import news_lines

NOW = datetime(2026, 10, 8, tzinfo=UTC)
GB = 10**9


def sizes(before: dict[str, int], now: dict[str, int], room: int | None) -> list[News]:
    old = frame_of("table_sizes", [{"database": "d", "table": name, "bytes": size} for name, size in before.items()])
    rows: list[dict[str, Any]] = [{"database": "d", "table": name, "bytes": size} for name, size in now.items()]
    with_growth(rows, old, 7, {"d": room})
    return filling_tables(frame_of("table_sizes", rows))


def test_tables_that_fill_the_room_together_but_none_alone_are_one_line() -> None:
    before, now = {"a": GB, "b": GB, "c": GB}, {"a": 2 * GB, "b": 2 * GB, "c": 2 * GB}
    (news,) = sizes(before, now, 10 * GB)
    assert (news.kind, news.what) == ("filling", "")
    assert news.now == pytest.approx(10 / (3 / 7))
    assert news_lines([news])[0].startswith("디스크 한도까지 약 23일: 테이블 전체 (하루 +428.6 MB")
    assert sizes(before, now, 13 * GB) == []


def test_a_table_that_shrinks_makes_room_for_another() -> None:
    assert sizes({"a": GB, "b": 3 * GB}, {"a": 2 * GB, "b": 2 * GB}, 5 * GB) == []


def test_a_full_disk_has_no_days_left_and_a_new_table_no_growth() -> None:
    (news,) = sizes({"a": GB}, {"a": 2 * GB, "new": GB}, -5)
    assert (news.what, news.now) == ("a", 0.0)
    assert sizes({"a": GB}, {"a": 2 * GB}, None) == []


def index(since: str, may_go: bool, uses: int | None = 0) -> Any:
    row = {
        "database": "d",
        "table": "t",
        "index": "i",
        "uses": uses,
        "may_go": may_go,
        "needed_for": "",
        "since": since,
    }
    return frame_of("index_usage", [row])


def test_counters_that_began_anew_since_the_last_report_say_nothing_for_a_week() -> None:
    before = index("2026-01-01 00:00:00", may_go=False, uses=5)
    assert unused_indexes(index("2026-10-05 00:00:00", may_go=True), before, NOW) == []
    assert len(unused_indexes(index("2026-09-30 00:00:00", may_go=True), before, NOW)) == 1
    assert len(unused_indexes(index("2026-10-05 00:00:00", may_go=True), None, NOW)) == 1


@pytest.mark.parametrize(
    ("calls", "total", "found"),
    [(20, 220.0, 0), (20, 300.0, 1), (12, 900.0, 0), (1000, 5000.0, 0)],
)  # fmt: skip
def test_a_query_is_slower_by_its_runs_since_then_and_only_where_there_are_enough(
    calls: int, total: float, found: int
) -> None:
    """Up to then ten runs of 10 ms: so 10 runs of 12 ms, 10 of 20 ms, 2 of 400 ms, 990 of 5 ms."""
    base = {"database": "d", "digest": "x", "query": "SELECT a FROM t", "since": "2026-09-01 00:00:00"}
    before = frame_of("slow_queries", [{**base, "calls": 10, "total_ms": 100.0}])
    news = slower_queries(frame_of("slow_queries", [{**base, "calls": calls, "total_ms": total}]), before)
    assert len(news) == found
