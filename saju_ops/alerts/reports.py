"""What happened, as the Korean text that operators know. Labels and lines are the SPEC's; never message text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.archive.purge import PurgeResult

FILES_NAMED = 3


def cleanup_report(
    files: Sequence[str], rows: int, cutoff: date, at: datetime, deleted: int | None = None, kept: int = 0
) -> str:
    """The report of a clean-up: archived files, rows, cutoff date and time (UTC)."""
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
        lines.append(f"- 남겨 둔 수: {kept} rows (늦게 들어왔거나 변경된 행; 다음 실행에서 백업)")
    return "\n".join(lines)


def archive_report(
    files: Sequence[str], rows: int, cutoff: date | None, at: datetime, *, days: int = 0, unchanged: int = 0
) -> str:
    """The report of an archive run, with the labels of a clean-up's: what was written, and where the last file lies."""
    if not files and not rows:
        if not unchanged:
            return cleanup_report([], 0, cutoff or at.date(), at)
        return f"✅ 새로 백업할 로그가 없습니다. (이미 백업됨: {days}일, {unchanged} rows)"
    report = cleanup_report(files, rows, cutoff or at.date(), at)
    return f"{report}\n- 위치: `{files[-1]}`"


def purge_report(result: PurgeResult, at: datetime) -> str:
    """What a purge deleted, or with dry_run would delete."""
    if result.dry_run:
        return purge_preview(result.deletable, result.kept, result.cutoff.date, at)
    files = result.files if result.deleted else []
    return cleanup_report(files, result.deleted, result.cutoff.date, at, deleted=result.deleted, kept=result.kept)


def purge_preview(deletable: int, kept: int, cutoff: date, at: datetime) -> str:
    """What a purge with dry_run would delete."""
    return "\n".join(
        [
            "💾 *DB Cleanup (dry run)*",
            f"- 삭제 예정 수: {deletable} rows",
            f"- 남겨 둘 수: {kept} rows",
            f"- 삭제 기준일: {cutoff:%Y-%m-%d}",
            f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "- 아무것도 삭제하지 않았습니다.",
        ]
    )
