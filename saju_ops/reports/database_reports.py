"""Slow queries, index usage and table sizes, as Korean text: names, digests and numbers; never a value of a row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.database_reports.make import DatabaseReport
    from saju_ops.database_reports.news import News

TITLES = {
    "slow_queries": "🐢 *느린 쿼리 보고서*",
    "index_usage": "🗂️ *인덱스 사용 보고서*",
    "table_sizes": "📏 *테이블 크기 보고서*",
}
SHOWN, LONGEST = 5, 120


def database_report(report: DatabaseReport, at: datetime) -> str:
    lines = [
        TITLES[report.name],
        f"- 데이터베이스: {', '.join(f'`{name}`' for name in report.databases)}",
        f"- 항목: {len(report.frame)}개",
        f"- 파일: `{report.location}`",
    ]
    if report.missing:
        names = ", ".join(f"`{name}`" for name in report.missing)
        lines.append(f"- ⚠️ 일부만 볼 수 있음: {names} (검사 결과를 확인하세요)")
    lines += [f"- ⚠️ 확인하지 못한 데이터베이스: `{name}`" for name in report.problems]
    if report.news:
        lines.append(f"- 🔎 눈에 띄는 점: {len(report.news)}건")
        lines += [f"  • {line}" for line in news_lines(report.news[:SHOWN])]
        if len(report.news) > SHOWN:
            lines.append(f"  … 외 {len(report.news) - SHOWN}건")
    return "\n".join([*lines, f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"])


def news_lines(news: Sequence[News]) -> list[str]:
    return [_LINES[each.kind](each) for each in news]


def _slower(news: News) -> str:
    times = news.now / news.before if news.before else 0.0
    mean = f"평균 {news.before:,.1f} → {news.now:,.1f} ms"
    return f"느려진 쿼리: {_named(news.what)} {mean} ({times:.1f}배, {news.database})"


def _unused(news: News) -> str:
    since = f"{news.since} UTC 이후" if news.since else "집계 시작 이후"
    return f"한 번도 쓰이지 않은 인덱스: {_named(news.what)} ({since}, {news.database})"


def _filling(news: News) -> str:
    what = f"테이블 {_named(news.what)}" if news.what else "테이블 전체"
    return f"디스크 한도까지 약 {news.now:,.0f}일: {what} (하루 {news.before / 1e6:+,.1f} MB, {news.database})"


_LINES = {"slower": _slower, "unused": _unused, "filling": _filling}


def _named(text: str) -> str:
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return "`" + short.replace("`", "'") + "`"
