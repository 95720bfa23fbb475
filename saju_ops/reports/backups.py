"""Retention and verification of backups, as Korean text. Names of files and numbers; never a row or a document."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.upkeep.prune import PruneResult
    from saju_ops.upkeep.verify import VerifyResult

SHOWN = 5


def prune_report(result: PruneResult, at: datetime) -> str:
    """Times are written in UTC, `at` too."""
    going, staying = result.going, result.staying
    if not going and not result.problems and not result.strangers:
        return f"✅ 삭제할 오래된 백업이 없습니다. (보관 {len(staying)}개)"
    title = "🔍 *오래된 백업 정리* (dry run: 변경 없음)" if result.dry_run else "🧹 *오래된 백업 정리*"
    lines = [f"🚨 {title[2:]}: 확인이 필요합니다" if result.problems else title]
    verb = "삭제 예정" if result.dry_run else "삭제"
    count = len(going) if result.dry_run else len(result.deleted)
    size = sum(v.bytes for v in going) if result.dry_run else result.freed_bytes
    lines.append(f"- {verb}: {count}개 ({size / 1e6:,.1f} MB)")
    lines += [f"  - `{PurePosixPath(v.file).name}`" for v in going[:SHOWN]]
    if len(going) > SHOWN:
        lines.append(f"  - … 외 {len(going) - SHOWN}개")
    lines.append(f"- 보관: {len(staying)}개")
    lines += [f"- ⚠️ 문제: {p}" for p in result.problems[:SHOWN]]
    if result.strangers:
        lines.append(f"- 알 수 없는 파일: {len(result.strangers)}개 (삭제하지 않음)")
    if result.remains and count:
        lines.append(f"- 저장소에 남는 것: {result.remains}")
    return "\n".join([*lines, f"- 실행 시간: {_utc(at)}"])


def verify_report(result: VerifyResult, at: datetime) -> str:
    title = "⚠️ *백업 검증: 경고*" if result.warnings else "✅ *백업 검증 완료*"
    lines = [title if result.passed else "🚨 *백업 검증: 확인이 필요합니다*"]
    share = "" if result.in_days == 1 else f" (전체 {result.files}개를 {result.in_days}일에 나누어 확인)"
    lines.append(f"- 확인한 파일: {result.files_checked}개, {result.bytes_read / 1e6:,.1f} MB{share}")
    rot, missing, strangers = len(result.rot), len(result.missing), len(result.strangers)
    lines.append(f"- 손상: {rot}개, 누락: {missing}개, 알 수 없는 파일: {strangers}개")
    if result.unsealed:
        lines.append(
            f"- ⚠️ 이 설치의 키로 봉인되지 않은 매니페스트: {len(result.unsealed)}개 (복원·정리에 쓰이지 않습니다."
            " `saju-ops seal`로 확인 후 봉인하십시오)"
        )
    lines += [f"- ⚠️ {text}" for text in [*result.rot, *result.missing, *result.unsealed][:SHOWN]]
    if result.other_password:
        lines.append(
            f"- ⚠️ 다른 비밀번호로 암호화된 파일: {len(result.other_password)}개 (손상 아님. 예전 ARCHIVE_PASSWORD가"
            " 없으면 복원할 수 없으니 보관하십시오)"
        )
        lines += [f"  - `{PurePosixPath(name).name}`" for name in result.other_password[:SHOWN]]
    if result.empty:
        lines.append(f"- ⚠️ 저장된 백업이 하나도 없습니다: {result.uri} (BACKUP_URI를 확인하십시오)")
    if result.unsealed:
        lines.append(f"- ⚠️ 봉인되지 않은 백업: {len(result.unsealed)}개 (이 설치의 키로 만든 것이 아닙니다)")
    if result.future:
        lines.append(f"- ⚠️ 날짜가 미래인 백업: {len(result.future)}개 (시계를 확인하십시오)")
        lines += [f"  - {text}" for text in result.future[:SHOWN]]
    for drill in result.drills:
        state = "성공" if drill.passed else "실패 ⚠️" if drill.tried else "시도하지 못함"
        detail = f"{drill.records:,}건, {drill.seconds:.1f}초" if drill.passed else drill.text
        lines.append(f"- 복원 훈련 {drill.name}: {state} ({detail})")
    return "\n".join([*lines, f"- 실행 시간: {_utc(at)}"])


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
