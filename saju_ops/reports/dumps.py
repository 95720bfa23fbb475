"""Dumps and their restore, as the Korean text that operators know. Never a value of a row."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.dumps.restore import RestoreResult
    from saju_ops.dumps.take import DumpResult, DumpRun

PROBLEMS_SHOWN = 5


def dump_report(run: DumpRun, at: datetime, masked: bool = False) -> str:
    """The report of one run over all databases: what was dumped, and what could not be."""
    what = "마스킹 덤프" if masked else "데이터베이스 덤프"
    wrong = run.problems or run.unproven
    lines = [f"🚨 *{what}: 확인이 필요합니다*" if wrong else f"💾 *{what} 완료*"]
    for result in run.results:
        lines += _lines(result)
    for database, problem in list(run.problems.items())[:PROBLEMS_SHOWN]:
        lines.append(f"- 실패: {database}: {problem}")
    if run.completed:
        lines.append(f"- 두 번째 저장소에 복사한 파일: {len(run.completed)}개")
    lines.append(f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")
    return "\n".join(lines)


def _lines(result: DumpResult) -> Iterator[str]:
    manifest = result.manifest
    yield f"- 백업 파일: `{PurePosixPath(manifest.file).name}`"
    yield (
        f"- 테이블 수: {len(result.contents.tables)}, 행 수: {result.contents.rows} rows,"
        f" 크기: {manifest.stored_bytes / 1e6:.1f} MB ({result.seconds:.1f}초)"
    )
    if result.proven:
        yield f"- 복원 검증: 성공 ({result.drill.seconds:.1f}초)"
    else:
        yield f"- 복원 검증: 하지 못함: {result.drill.why_not}"
    for note in [*result.contents.notes, *result.drill.otherwise]:
        yield f"- 참고: {note}"
    if views := result.contents.broken_views:
        yield (
            f"- ⚠️ 깨진 뷰: {len(views)}개 ({result.contents.broken}). 정의만 덤프 끝에 주석으로 남습니다. 뷰를 고치거나"
            " 삭제하십시오."
        )


def restore_report(result: RestoreResult, at: datetime) -> str:
    name = PurePosixPath(result.manifest.file).name
    if result.dry_run:
        title, verb = "🔎 *덤프 복원 미리보기* (변경 없음)", "복원할"
    else:
        title, verb = "♻️ *덤프 복원 완료*", "복원한"
    rows = result.rows if not result.dry_run else sum(t["rows"] for t in result.manifest.contents["tables"].values())
    return "\n".join(
        [
            title,
            f"- 백업 파일: `{name}`",
            f"- 대상: {result.target}",
            *_target_now(result),
            f"- {verb} 행 수: {rows} rows",
            *_broken_views(result),
            f"- 덤프 시각: {result.manifest.taken:%Y-%m-%d %H:%M:%S} UTC",
            f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        ]
    )


def _broken_views(result: RestoreResult) -> Iterator[str]:
    if views := result.manifest.contents.get("broken_views"):
        yield f"- 복원되지 않는 깨진 뷰: {len(views)}개 (정의는 덤프 끝에 주석으로 있습니다)"


def _target_now(result: RestoreResult) -> Iterator[str]:
    """What a preview found in the target."""
    if not result.dry_run:
        return
    if result.target_objects > 0:
        yield (
            f"- 대상 상태: 비어 있지 않음 (테이블·뷰 등 {result.target_objects}개). 덮어쓰려면 replace에"
            f" `{result.target_database}`을(를) 적으세요."
        )
    else:
        yield f"- 대상 상태: {'비어 있음' if result.target_objects == 0 else '없음 (새로 만듦)'}"
