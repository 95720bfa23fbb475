"""What a rotation of the log's partitions did, in Korean. Nothing where nothing happened."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.schema.partitions.rotate import RotationResult

NAMED = 12


def rotation_report(result: RotationResult, at: datetime) -> str:
    """Empty where no month left and nothing needs attention."""
    if result.dry_run:
        return _preview(result)
    lines = []
    if result.months_dropped:
        lines.append(f"- 삭제된 달: {_listed(result.months_dropped)} ({result.rows_dropped:,} rows)")
    chunked = 0 if result.purge is None else result.purge.deleted - result.rows_dropped
    if chunked:
        lines.append(f"- 행 단위로 삭제: {chunked:,} rows")
    if lines and result.ahead.made:
        lines.append(f"- 새 파티션: {_listed(list(result.ahead.made))}")
    lines += _attention(result)
    if not lines:
        return ""
    head = "⚠️ *로그 파티션 정리: 확인 필요*" if result.needs_attention else "🗂️ *로그 파티션 정리*"
    return "\n".join([head, *lines, f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"])


def _attention(result: RotationResult) -> list[str]:
    lines = []
    if result.ahead.rows_in_future:
        lines.append(
            f"- 파티션이 없던 행: {result.ahead.rows_in_future:,} rows (`p_future`; 정리 후 남은 행"
            f" {result.ahead.rows_left_in_future:,})"
        )
    if result.ahead.left:
        lines.append(f"- 새 파티션을 만들지 못했습니다 (준비된 달: {result.ahead.months_ahead}개월)")
    if result.months_left and (result.months_dropped or result.needs_attention):
        lines.append(f"- 남은 달: {_listed(list(result.months_left))} (이유는 실행 화면의 `months_left_because`)")
    return lines


def _preview(result: RotationResult) -> str:
    months = [] if result.purge is None else result.purge.months_droppable
    return "\n".join(
        [
            "🗂️ *로그 파티션 정리 (dry run)*",
            f"- 만들 파티션: {_listed(list(result.ahead.made))}",
            f"- 삭제 예정 달: {_listed(months)}",
            f"- 남을 달: {_listed(list(result.months_left))}",
            "- 아무것도 바꾸지 않았습니다.",
        ]
    )


def _listed(names: list[str]) -> str:
    if not names:
        return "없음"
    shown = ", ".join(f"`{name}`" for name in names[:NAMED])
    return f"{shown} 외 {len(names) - NAMED}개" if len(names) > NAMED else shown
