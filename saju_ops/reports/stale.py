"""What was found and settled of stale analysis jobs, as the Korean text that operators know.

The console's report names folders, because an operator has to find them; the alert and a run's metadata don't,
because they name people's numbers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from saju_ops.stale.audit import StaleJob
    from saju_ops.stale.plan import StaleResult
    from saju_ops.stale.undo import UndoResult

WIDTH = 70
LABEL_WIDTH = 12
JOBS_IN_ALERT = 20
NO_STATUS = "(없음)"
WHY = {
    "unreadable": "시각을 읽을 수 없음",
    "future": "시각이 미래임",
    "key": "작업 ID를 읽을 수 없음",
}


# --- the console's report -----------------------------------------------------------------------------------


def console_lines(result: StaleResult, zone: ZoneInfo, *, statistics: bool = False) -> Iterator[str]:
    """The whole report, line by line: a million jobs are never one text. `zone` is the one in which the database keeps
    times without a zone: times are shown as they are there. Mode `stats` gives the statistics alone."""
    if statistics or result.mode == "stats":
        yield from statistics_lines(result)
    if result.mode == "stats":
        return
    if statistics:
        yield ""
    yield from heading(f"📊 중단된 작업 정리 리포트 ({result.hours}시간 이상 경과)")
    for number, job in enumerate(result.jobs, 1):
        yield from job_lines(number, job, result.at, zone)
    yield from _odd_lines(result)
    yield from _outcome_lines(result)


def heading(title: str) -> Iterator[str]:
    yield from ("=" * WIDTH, title, "=" * WIDTH, "")


def statistics_lines(result: StaleResult) -> Iterator[str]:
    """The block that operators and their scripts know, to the letter."""
    counts = {**{name or NO_STATUS: number for name, number in result.statuses.items()}, "total": result.total}
    width = max(4, *(len(str(n)) for n in counts.values()))
    yield from heading("📈 전체 작업 상태 통계")
    for name, number in counts.items():
        if name == "total":
            yield "  " + "─" * 22
        yield f"  {padded(visible(name), LABEL_WIDTH)} : {number:>{width}}개"
    yield ""
    yield f"📅 7일 이상 된 작업: {result.older_than_7_days}개"
    yield f"💾 정리 대상 ({result.hours}시간 이상 중단): {result.stale}개"


def job_lines(number: int, job: StaleJob, now: datetime, zone: ZoneInfo) -> Iterator[str]:
    """A job's block as the specification has it, then a line of our own with its new status, and a blank line."""
    created = datetime.fromisoformat(job.created)
    yield f"{number}. Job ID: {visible(job.job_id)}"
    yield f"   상태: {visible(job.status)} → 정리 필요"
    yield f"   폴더: {visible(job.folder) if job.folder else '-'}"
    yield f"   생성일: {created.astimezone(zone):%Y-%m-%d %H:%M:%S} ({ago(created, now)})"
    yield f"   파일 분석: {job.files}개 (완료: {job.done}개)"
    yield f"   정리 결과: {visible(job.becomes)}{' ⚠️ 일부만 완료' if job.partly_done else ''}"
    yield ""


def _odd_lines(result: StaleResult) -> Iterator[str]:
    if not result.odd_count:
        return
    yield f"⚠️ 판단할 수 없어 그대로 둔 작업: {result.odd_count}개"
    for odd in result.odd:
        yield f"  - {visible(odd.job_id)} ({visible(odd.status)}): {WHY[odd.why]} ({odd.column})"
    if result.odd_count > len(result.odd):
        yield f"  - … 외 {result.odd_count - len(result.odd)}개"
    yield ""


def _outcome_lines(result: StaleResult) -> Iterator[str]:
    for hindrance in result.hindrances:
        yield f"⛔ {hindrance}"
    if result.stale and not result.moves_are_seen:
        yield "⚠️ updated_at 열이 없어 생성 시각만으로 판단했습니다. 아직 실행 중인 긴 작업이 없는지 확인하세요."
    if not result.stale:
        yield "✅ 정리할 작업이 없습니다."
    elif result.mode == "check":
        yield "ℹ️ 확인만 했습니다. 변경된 것은 없습니다."
        yield f"   정리하려면: saju-ops reconcile-stale-jobs --apply --hours {result.hours}"
    elif result.dry_run:
        yield "ℹ️ 미리 보기(dry run)입니다. 변경된 것은 없습니다."
    else:
        yield (
            f"✅ {result.settled}개 정리: completed {result.settled_completed}개"
            f" (일부 완료 {result.settled_partly}개), {visible(result.empty_status)} {result.settled_empty}개"
        )
        if result.left_moved:
            yield f"   그 사이 움직여서 그대로 둔 작업: {result.left_moved}개"
        if result.stopped != "finished":
            yield f"   중단됨: {result.stopped}"
        yield f"   실행 ID: {result.run_id} (되돌리기: saju-ops reconcile-stale-jobs --undo {result.run_id})"
        yield f"   기록: {result.audit_files[0] if result.audit_files else '-'}"


def undo_lines(result: UndoResult) -> Iterator[str]:
    yield f"↩️ 실행 {result.run_id} 되돌리기" + (" (미리 보기, 변경 없음)" if result.dry_run else "")
    yield f"   변경했던 작업: {result.changed_then}개"
    yield f"   {'되돌릴' if result.dry_run else '되돌린'} 작업: {result.put_back}개"
    yield f"   그 뒤 상태나 결과가 바뀌어 그대로 둔 작업: {result.kept}개"
    if result.in_doubt:
        yield f"   ⚠️ 변경 여부를 알 수 없어 그대로 둔 작업: {len(result.in_doubt)}개"
        yield from (f"     - {visible(job)}" for job in result.in_doubt)
    if result.audit_file:
        yield f"   기록: {result.audit_file}"


# --- the alert ----------------------------------------------------------------------------------------------


def stale_report(result: StaleResult) -> str:
    """One message for Slack or e-mail."""
    time = f"- 실행 시간: {result.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if not result.stale and not result.odd_count:
        return f"✅ 정리할 중단 작업이 없습니다. (기준: {result.hours}시간, 전체 {result.total}개)"
    counts = ", ".join(f"{visible(name or NO_STATUS)} {number}" for name, number in result.statuses.items())
    lines = [
        "🧹 *중단된 분석 작업 정리 Report*",
        f"- 정리 대상: {result.stale}개 ({result.hours}시간 이상 중단)",
        f"- completed: {result.to_complete}개 (일부 완료 {result.to_complete_partly}개)",
        f"- {visible(result.empty_status)}: {result.to_empty}개",
    ]
    if result.mode == "apply" and not result.dry_run:
        lines.append(f"- 정리 완료: {result.settled}개")
        if result.left_moved:
            lines.append(f"- 그 사이 움직여서 그대로 둔 작업: {result.left_moved}개")
    else:
        lines.append("- 변경: 없음 (확인만)")
    if result.odd_count:
        lines.append(f"- 판단할 수 없어 그대로 둔 작업: {result.odd_count}개")
    lines += [f"- 전체: {result.total}개 ({counts})", f"- 7일 이상 된 작업: {result.older_than_7_days}개"]
    lines += [f"- {hindrance}" for hindrance in result.hindrances]
    if result.settled:
        lines.append(f"- 되돌리기: `saju-ops reconcile-stale-jobs --undo {result.run_id}`")
    return "\n".join([*lines, time, *_listed(result)])


def _listed(result: StaleResult) -> Iterator[str]:
    for number, job in enumerate(result.jobs):
        if number == JOBS_IN_ALERT:
            yield f"- … 외 {result.stale - JOBS_IN_ALERT}개"
            return
        files = f"파일 {job.files}개 중 {job.done}개 완료" if job.files else "결과 없음"
        created = ago(datetime.fromisoformat(job.created), result.at)
        yield f"- `{visible(job.job_id)}`: {visible(job.status)} → {visible(job.becomes)}, {created}, {files}"


def undo_report(result: UndoResult) -> str:
    lines = [
        "↩️ *중단된 분석 작업 정리 되돌리기*",
        f"- 실행 ID: `{result.run_id}`",
        f"- {'되돌릴' if result.dry_run else '되돌린'} 작업: {result.put_back}개",
        f"- 그 뒤 상태나 결과가 바뀌어 그대로 둔 작업: {result.kept}개",
        f"- 실행 시간: {result.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
    ]
    if result.in_doubt:
        lines.insert(4, f"- 변경 여부를 알 수 없어 그대로 둔 작업: {len(result.in_doubt)}개")
    return "\n".join(lines)


# --- pieces -------------------------------------------------------------------------------------------------


def ago(then: datetime, now: datetime) -> str:
    """`4일 10시간 전`, `10시간 전`, `35분 전`."""
    minutes = max(0, int((now - then).total_seconds()) // 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days}일 {hours}시간 전" if hours else f"{days}일 전"
    return f"{hours}시간 전" if hours else f"{minutes}분 전"


def visible(text: str) -> str:
    """A value of the database on one line: no line breaks, no terminal codes."""
    return "".join(c if c.isprintable() else "�" for c in text)


def padded(text: str, width: int) -> str:
    """Filled up with blanks as a terminal shows it: a Korean letter takes two columns."""
    taken = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return text + " " * max(0, width - taken)
