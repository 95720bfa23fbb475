"""The message of a finished run: its own report, or what failed, what was left untouched and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from saju_ops.reports.conversation_logs import archive_report
from saju_ops.reports.message import Level, Message, ago
from saju_ops.reports.safe_errors import RaisedError, shown
from saju_ops.reports.titles import ASSETS, job

# Lines of one kind in one message.
NAMED = 20
INTERRUPTED = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
UNKNOWN = "알 수 없음 (실행 화면에서 확인하세요)"
Ending = Literal["success", "failure", "canceled"]


@dataclass(frozen=True)
class FailedCheck:
    name: str
    asset: str
    severity: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ArchivedDay:
    day: str
    file: str
    rows: int
    rows_written: int
    # Its name in the storage, for attaching; empty where it isn't known.
    name: str = ""


@dataclass(frozen=True)
class FinishedRun:
    """What the event log holds of a run and may be shown."""

    run_id: str
    job: str
    ending: Ending
    at: datetime
    seconds: float | None = None
    assets: tuple[str, ...] = ()
    partitions: str = ""
    # The reports that the run wrote itself, and otherwise plain numbers of its metadata.
    reports: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    archived: tuple[ArchivedDay, ...] = ()
    failed_steps: tuple[str, ...] = ()
    error: RaisedError | None = None
    # What Dagster or the run itself said about an end before the end; never an exception's text.
    reason: str = ""
    failed_checks: tuple[FailedCheck, ...] = ()
    passed_checks: int = 0
    attempts: int = 1
    retry_missing: bool = False
    picture: str = ""
    picture_title: str = ""

    @property
    def has_nothing_to_report(self) -> bool:
        """A job that succeeded and whose report is empty: nothing happened that an operator must know."""
        empty = bool(self.reports) and not any(report.strip() for report in self.reports)
        return self.ending == "success" and empty and not self.failed_checks

    @property
    def key(self) -> str:
        return run_key(self.run_id, self.ending)


def run_key(run_id: str, ending: str) -> str:
    """The same for the same ending of the same run: a run is reported once, however often it is found."""
    return f"run:{run_id}:{ending}"


def run_message(run: FinishedRun, *, link: str, cutoff: date | None = None, attach: bool = False) -> Message:
    """The message of a finished run. `cutoff` is the first day that a clean-up keeps."""
    title = job(run.job, run.assets)
    head, level = _head(run, title.title)
    blocks: list[str] = []
    report = _report(run, cutoff)
    if run.ending == "success" and report:
        blocks.append(report)
    else:
        blocks.append("\n".join([head, *_facts(run)]))
        if report:
            blocks.append(f"*여기까지의 결과*\n{report}")
    if run.failed_checks:
        blocks.append("\n".join(check_lines(run.failed_checks)))
        level = _worse(level, "error" if any(c.severity == "ERROR" for c in run.failed_checks) else "warning")
    first = (report or head).splitlines()[0] if run.ending == "success" else head
    marked = " ⚠️ 검사 실패" if run.failed_checks and run.ending == "success" else ""
    return Message(
        id=run.key, text="\n\n".join(blocks), level=level, happened=run.at, line=f"{first} [{title.title}]{marked}",
        job=f"{title.title} (`{run.job}`)" if title.title != run.job else f"`{run.job}`",
        run_id=run.run_id, link=link, picture=run.picture, picture_title=run.picture_title,
        files=tuple(a.name for a in run.archived if a.name and a.rows_written) if attach else (),
    )  # fmt: skip


def _head(run: FinishedRun, title: str) -> tuple[str, Level]:
    if run.ending == "success":
        return f"✅ *{title} 완료*", "ok"
    if run.ending == "canceled":
        return f"⏹️ *{title} 중단*", "warning"
    return f"🚨 *{title} 실패*", "error"


def _facts(run: FinishedRun) -> list[str]:
    about = job(run.job, run.assets)
    lines = [f"- 작업: `{run.job}`"]
    if run.partitions:
        lines.append(f"- 대상: {run.partitions}")
    if run.ending == "failure":
        steps = ", ".join(f"`{s}`" for s in run.failed_steps[:NAMED])
        lines.append(f"- 실패한 단계: {steps or '시작 전 또는 실행 프로세스'}")
        lines.append(f"- 오류: {_error(run)}")
    elif run.ending == "canceled":
        lines.append(f"- 이유: {run.reason or UNKNOWN}")
    if run.attempts > 1:
        lines.append(f"- 시도: {run.attempts}번째")
    if run.retry_missing:
        lines.append("- 재시도: 예정되었지만 시작되지 않았습니다")
    if run.ending != "success":
        lines += [f"- 그대로인 것: {about.untouched}", f"- 할 일: {about.todo}"]
        return lines
    if run.seconds is not None:
        lines.append(f"- 걸린 시간: {duration(run.seconds)}")
    shown_numbers = list(run.numbers.items())
    lines += [f"- {name}: {number(value)}" for name, value in shown_numbers[:NAMED]]
    if len(shown_numbers) > NAMED:
        lines.append(f"… (값 {len(shown_numbers) - NAMED}개 생략)")
    return lines


def _error(run: FinishedRun) -> str:
    """The step's own error; of a run that was ended from outside, what Dagster says of it."""
    if run.error is None or (run.error.kind in INTERRUPTED and run.reason):
        return run.reason or UNKNOWN
    return shown(run.error)


def _report(run: FinishedRun, cutoff: date | None) -> str:
    reports = list(dict.fromkeys(r.strip() for r in run.reports if r.strip()))
    if reports:
        more = [f"… (보고 {len(reports) - NAMED}개 생략)"] if len(reports) > NAMED else []
        return "\n\n".join([*reports[:NAMED], *more])
    if run.archived or (run.ending == "success" and run.job == "archive_conversation_logs"):
        written = [a for a in run.archived if a.rows_written]
        return archive_report(
            [a.file for a in written], sum(a.rows_written for a in written), cutoff, run.at,
            days=len(run.archived), unchanged=sum(a.rows for a in run.archived if not a.rows_written),
        )  # fmt: skip
    return ""


def check_lines(checks: Sequence[FailedCheck]) -> list[str]:
    """The failed checks with the numbers that they measured."""
    lines = [f"⚠️ *검사 실패 {len(checks)}건*"]
    for each in checks[:NAMED]:
        measured = ", ".join(f"{k} {number(v)}" for k, v in list(each.numbers.items())[:5])
        asset = ASSETS.get(each.asset, each.asset)
        lines.append(f"- `{each.name}` ({asset}, {each.severity}){': ' + measured if measured else ''}")
    if len(checks) > NAMED:
        lines.append(f"… (검사 {len(checks) - NAMED}건 생략)")
    return lines


def _worse(a: Level, b: Level) -> Level:
    order: tuple[Level, ...] = ("ok", "info", "warning", "error")
    return max(a, b, key=order.index)


def number(value: float) -> str:
    if isinstance(value, bool):
        return "예" if value else "아니오"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    return f"{seconds:.1f}초" if seconds < 60 else ago(timedelta(seconds=seconds))
