"""The encryption of birth dates, as Korean text for operators. Never a birth, a session or a key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.schema.birth_data.work import Worked

STOPPED = {
    "cancelled by the operator": "운영자가 중단함",
    "max_rows": "한 번에 처리할 수 있는 수에 도달",
    "max_runtime_seconds": "최대 실행 시간에 도달",
}


def birth_data_report(worked: Worked, at: datetime) -> str:
    """One line where there was nothing to do and nothing is wrong."""
    result, found = worked.encrypted, worked.encrypted.found
    wrong = found.unreadable or found.differing or found.not_text or result.left
    if not (worked.changed or wrong or not result.finished):
        return f"✅ 암호화할 생년월일이 없습니다. (암호화된 세션: {found.encrypted}건)"
    verb = "예정" if result.dry_run else "완료"
    lines = [
        f"🔐 *생년월일 암호화{' (dry run)' if result.dry_run else ''}*",
        f"- 암호화 {verb}: {result.encrypted}건",
    ]
    if result.cleared:
        lines.append(f"- 이미 암호화된 세션의 평문 삭제 {verb}: {result.cleared}건")
    if result.rotated:
        lines.append(f"- 새 키로 교체 {verb}: {result.rotated}건")
    if worked.replaced is not None:
        lines.append(f"- 만료된 세션의 계산 행 날짜 교체 {verb}: {worked.replaced.replaced}건")
    lines.append(f"- 평문으로 남은 세션: {found.in_the_clear}건")
    if worked.calculations.there:
        lines.append(
            f"- saju_calculations에 평문으로 남은 행: {worked.calculations.in_the_clear}건"
            f" (만료된 세션 {worked.calculations.of_expired}건)"
        )
    if result.left:
        lines.append(f"- 서비스가 사용 중이라 남겨 둔 세션: {result.left}건 (다음 실행에서)")
    if found.unreadable:
        lines.append(f"- ⚠️ 어떤 키로도 열 수 없는 세션: {found.unreadable}건 (덮어쓰지 않음)")
    if found.differing:
        lines.append(f"- ⚠️ 평문과 암호문이 다른 세션: {found.differing}건 (둘 다 그대로 둠)")
    if found.not_text:
        lines.append(f"- ⚠️ 날짜가 아니라서 암호화할 수 없는 세션: {found.not_text}건")
    if not result.finished:
        name = next((korean for start, korean in STOPPED.items() if result.stopped.startswith(start)), result.stopped)
        lines.append(f"- 중단: {name} (나머지는 다음 실행에서)")
    return "\n".join([*lines, f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"])
