"""The weekly digest: one week's numbers as the text that operators read on Monday."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.reports.chart import Point

WEEK = timedelta(days=7)
WEEKS = 26
NAMED = 15
T = TypeVar("T")


@dataclass(frozen=True)
class Week:
    """`None` is what couldn't be found out; `unknown` says why."""

    start: datetime
    end: datetime
    rows_archived: int | None = None
    rows_purged: int | None = None
    # Whether the week's last archive run succeeded; None where there was none.
    archive_done: bool | None = None
    database_bytes: int | None = None
    table_bytes: int | None = None
    backup_bytes: int | None = None
    backup_files: int | None = None
    drills_passed: int | None = None
    drills: int | None = None
    runs: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()
    # What the database reports of the week's end found new, a line each.
    news: Sequence[str] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)


def digest_report(week: Week, zone: ZoneInfo) -> str:
    first, last = week.start.astimezone(zone).date(), week.end.astimezone(zone).date()
    lines = [f"📊 *주간 요약* ({first} ~ {last})", _archived(week)]
    lines += [
        f"- 백업한 행: {_number(week.rows_archived)}",
        f"- 삭제한 행: {_number(week.rows_purged)}",
        f"- 데이터베이스: {_size(week.database_bytes)} (대화 로그 {_size(week.table_bytes)})",
        f"- 백업: {_size(week.backup_bytes)}, 파일 {_count(week.backup_files)}개",
        f"- 복원 검증: {_drills(week)}",
        f"- 실행: 성공 {week.runs.get('success', 0)}, 실패 {week.runs.get('failure', 0)},"
        f" 중단 {week.runs.get('canceled', 0)}",
        f"- 열린 문제: {len(week.problems) or '없음'}",
        *(f"  • {problem}" for problem in week.problems[:NAMED]),
    ]
    if len(week.problems) > NAMED:
        lines.append(f"  … ({len(week.problems) - NAMED}건 생략)")
    if week.news:
        lines.append(f"- 🔎 눈에 띄는 점: {len(week.news)}")
        lines += [f"  • {line}" for line in week.news[:NAMED]]
    if len(week.news) > NAMED:
        lines.append(f"  … ({len(week.news) - NAMED}건 생략)")
    lines += [f"- 확인할 수 없음: {what} ({why})" for what, why in week.unknown.items()]
    return "\n".join(lines)


def _archived(week: Week) -> str:
    if week.archive_done:
        return "💾 7일치 로그 백업 완료"
    if week.archive_done is None:
        return "⚠️ 지난 7일 동안 로그 백업이 실행되지 않았습니다"
    return "🚨 7일치 로그 백업이 끝나지 않았습니다"


def _drills(week: Week) -> str:
    if week.drills is None:
        return "알 수 없음"
    if not week.drills:
        return "이번 주에는 없음"
    return f"{week.drills}건 중 {week.drills_passed}건 통과"


def _number(value: int | None) -> str:
    return "알 수 없음" if value is None else f"{value:,} rows"


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    if value is None:
        return "알 수 없음"
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:,.1f} {name}"
    return f"{value} B"


def found(unknown: dict[str, str], what: str, find: Callable[[], T]) -> T | None:
    """What `find` finds; or None, and why in `unknown`: a digest comes even while a database is down."""
    try:
        return find()
    except Exception as error:
        unknown[what] = type(error).__name__
        return None


def database_bytes(url: sa.URL) -> int:
    """Bytes of all tables and indexes, by the server's own count. Raises the database's errors."""
    family = url.get_backend_name()
    queries = {
        "postgresql": "SELECT pg_database_size(current_database())",
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    }
    mysql = "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables" \
            " WHERE table_schema = DATABASE()"  # fmt: skip
    with connect(url).connect() as connection:
        return int(connection.execute(sa.text(queries.get(family, mysql))).scalar_one())


def growth(
    sizes: Sequence[tuple[datetime, int]], removals: Sequence[tuple[datetime, int]], row_bytes: float, zone: ZoneInfo
) -> list[Point]:
    """One point a week: the last size that was measured in it, and what purges removed till then (rows times the
    archived rows' mean length)."""
    weeks: dict[date, tuple[datetime, int]] = {}
    for at, size in sorted(sizes):
        day = at.astimezone(zone).date()
        weeks[day - timedelta(days=day.weekday())] = (at, size)
    kept = [weeks[week] for week in sorted(weeks)][-WEEKS:]
    if not kept:
        return []
    begun = kept[0][0]
    return [
        Point(at.astimezone(zone).date(), size, round(row_bytes * sum(n for t, n in removals if begun < t <= at)))
        for at, size in kept
    ]
