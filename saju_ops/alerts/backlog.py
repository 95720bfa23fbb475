"""Whether purges keep up: rows that the last clean-up should have deleted and that are still there.

Rows become due every day and are deleted once a week, so that rows which are merely due say nothing. `overdue` counts
those that were due before the clean-up before now; where purges keep up, there are none. It reads only, and no more
than a million index entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from saju_ops.alerts.problems import Problem
from saju_ops.reports.message import ago

if TYPE_CHECKING:
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import RowStore

# A count past this is reported as "at least".
MOST = 1_000_000
# The time that a clean-up may take before rows that it should have deleted count as overdue.
GRACE = timedelta(hours=24)
# Measurements are compared with one of about a day before.
SPAN = timedelta(hours=20)
KEPT = timedelta(days=30)
KEY = "backlog:conversation_logs"
Verdict = Literal["none", "grows", "stays"]


@dataclass(frozen=True)
class Measured:
    at: datetime
    overdue: int
    # Deleted since the measurement before.
    purged: int = 0

    def to_json(self) -> list[Any]:
        return [self.at.timestamp(), self.overdue, self.purged]

    @classmethod
    def from_json(cls, raw: Sequence[Any]) -> Measured:
        return cls(datetime.fromtimestamp(raw[0], UTC), int(raw[1]), int(raw[2]))


def last_clean_up(cron: str, now: datetime, zone: Any) -> datetime:
    """The newest time of the cron line that is at least a day ago."""
    from cronsim import CronSim

    return next(CronSim(cron, (now - GRACE).astimezone(zone), reverse=True)).astimezone(UTC)


def overdue_rows(store: RowStore, first: Day, cutoff: Day) -> int:
    """Rows of the log table created from the first partition on and before the cutoff day; at most a million."""
    window: Any = _Window(first.start, cutoff.start)
    inner = (
        sa.select(sa.literal(1).label("one"))
        .select_from(store.from_).where(*store.day_condition(window)).limit(MOST).subquery()
    )  # fmt: skip
    rows = int(store.connection.execute(sa.select(sa.func.count()).select_from(inner)).scalar_one())
    store.end_read()
    return rows


@dataclass(frozen=True)
class _Window:
    """Many days as one, for an engine's own condition on created_at."""

    start: datetime
    end: datetime


def judge(measurements: Sequence[Measured]) -> Verdict:
    """`grows` where there are more than a day ago, `none` where there are none or fewer, `stays` otherwise."""
    newest = measurements[-1]
    if not newest.overdue:
        return "none"
    before = [m for m in measurements[:-1] if newest.at - m.at >= SPAN]
    reference = before[-1].overdue if before else measurements[0].overdue if len(measurements) > 1 else None
    if reference is None or newest.overdue == reference:
        return "stays"
    return "grows" if newest.overdue > reference else "none"


def problem(measurements: Sequence[Measured]) -> Problem:
    newest, oldest = measurements[-1], _reference(measurements)
    purged = sum(m.purged for m in measurements if m.at > oldest.at)
    least = "" if newest.overdue < MOST else "적어도 "
    grown = newest.overdue - oldest.overdue
    return Problem(
        KEY, "삭제할 로그가 쌓입니다",
        (f"- 밀린 행: {least}{newest.overdue:,} rows (보관 기간이 지났고, 지난 정리에서 삭제되었어야 함)",
         f"- 지난 {ago(newest.at - oldest.at)}: 밀린 행 {grown:+,} rows, 삭제한 행 {purged:,} rows",
         "- 할 일: `archive_conversation_logs`와 `purge_conversation_logs`의 최근 실행과 스케줄을 확인하세요."),
        "error",
    )  # fmt: skip


def _reference(measurements: Sequence[Measured]) -> Measured:
    newest = measurements[-1]
    return next((m for m in reversed(measurements[:-1]) if newest.at - m.at >= SPAN), measurements[0])


def kept(raw: Sequence[Sequence[Any]] | None, now: datetime) -> list[Measured]:
    found = [Measured.from_json(each) for each in raw or []]
    return [m for m in found if now - m.at <= KEPT]
