"""What happened, as the Korean text that operators know. Labels and lines are the SPEC's; never message text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.archive.purge_plan import PurgeResult

FILES_NAMED = 3


def cleanup_report(
    files: Sequence[str], rows: int, cutoff: date, at: datetime, deleted: int | None = None, kept: int = 0,
    why: str = "",
) -> str:  # fmt: skip
    """The report of a clean-up: archived files, rows, cutoff date and time (UTC); `why` rows were kept."""
    if not files and not rows and not deleted and not kept:
        return f"✅ 백업할 오래된 로그가 없습니다. (기준: {cutoff:%Y-%m-%d})"
    names = [PurePosixPath(f).name for f in files]
    shown = ", ".join(f"`{n}`" for n in names[:FILES_NAMED]) or "-"
    if len(names) > FILES_NAMED:
        shown = f"`{names[0]}` … `{names[-1]}` ({len(names)}개)"
    lines = [
        "💾 *DB Cleanup Report*",
        f"- 백업 파일: {shown}",
        f"- 백업 수: {rows} rows",
        f"- 삭제 기준일: {cutoff:%Y-%m-%d}",
        f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
    ]
    if deleted is not None:
        lines.insert(3, f"- 삭제 수: {deleted} rows")
    if kept:
        lines.append(f"- 남겨 둔 수: {kept} rows ({why or '늦게 들어왔거나 변경된 행; 다음 실행에서 백업'})")
    return "\n".join(lines)


def kept_reasons(late: int, changed: int, referenced: int, refused: int, unexplained: int) -> str:
    """Why rows were kept; empty where all of them came late or changed, which the report says by itself."""
    if not (referenced or refused or unexplained):
        return ""
    counted = (
        ("늦게 들어온 행", late), ("변경된 행", changed), ("다른 행이 참조하는 행", referenced),
        ("데이터베이스가 삭제를 거부한 행", refused), ("이유를 알 수 없는 행", unexplained),
    )  # fmt: skip
    return ", ".join(f"{kind} {count}" for kind, count in counted if count)


def archive_report(
    files: Sequence[str], rows: int, cutoff: date | None, at: datetime, *, days: int = 0, unchanged: int = 0
) -> str:
    """The report of an archive run, with a clean-up's labels: what was written, and the place of the last file."""
    if not files and not rows:
        if not unchanged:
            return cleanup_report([], 0, cutoff or at.date(), at)
        return f"✅ 새로 백업할 로그가 없습니다. (이미 백업됨: {days}일, {unchanged} rows)"
    report = cleanup_report(files, rows, cutoff or at.date(), at)
    return f"{report}\n- 위치: `{files[-1]}`"


def purge_report(result: PurgeResult, at: datetime) -> str:
    """The report of a purge: the deleted rows, or with dry_run those that it would delete."""
    referenced, refused = sum(result.kept_referenced.values()), sum(result.kept_refused.values())
    why = kept_reasons(result.kept_late, result.kept_changed, referenced, refused, result.kept_unexplained)
    if result.dry_run:
        return purge_preview(result.deletable, result.kept, result.cutoff.date, at, why)
    files, deleted = result.files if result.deleted else [], result.deleted
    report = cleanup_report(files, deleted, result.cutoff.date, at, deleted=deleted, kept=result.kept, why=why)
    if result.months_dropped:
        report += f"\n- 통째로 삭제된 달: {', '.join(result.months_dropped)} ({result.rows_dropped} rows)"
    return report


def purge_preview(deletable: int, kept: int, cutoff: date, at: datetime, why: str = "") -> str:
    """The report of a purge with dry_run: the rows that it would delete."""
    return "\n".join(
        [
            "💾 *DB Cleanup (dry run)*",
            f"- 삭제 예정 수: {deletable} rows",
            f"- 남겨 둘 수: {kept} rows{f' ({why})' if why else ''}",
            f"- 삭제 기준일: {cutoff:%Y-%m-%d}",
            f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "- 아무것도 삭제하지 않았습니다.",
        ]
    )
