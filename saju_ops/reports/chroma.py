"""What happened to the vector store, as Korean text. Names of collections and numbers; never a document."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.chroma.restore import ChromaRestore
    from saju_ops.chroma.snapshot import Snapshot
    from saju_ops.chroma.usage import Usage

COLLECTIONS_NAMED = 10


def snapshot_report(snapshot: Snapshot, at: datetime) -> str:
    """Times are written in UTC, `at` too."""
    manifest = snapshot.manifest
    lines = [
        "🧠 *ChromaDB Snapshot*",
        f"- 스냅샷 파일: `{PurePosixPath(manifest.file).name}`",
        f"- 컬렉션: {_collections({c['name']: int(c['count']) for c in snapshot.collections})}",
        f"- 문서 수: {snapshot.records:,}",
        f"- 크기: {manifest.stored_bytes / 1e6:,.1f} MB",
        f"- 검증: 저장된 파일을 다시 열어 {int(manifest.proof['records_compared']):,}건 모두 일치",
        f"- 실행 시간: {_utc(at)}",
    ]
    if snapshot.torn:
        lines.append(f"- 재시도: {len(snapshot.torn)}회 (쓰기 중이던 복사본을 버리고 다시 받음)")
    if moving := int(manifest.extra.get("records_moving", 0)):
        lines.append(f"- ⚠️ 읽는 동안 변경된 문서: {moving:,}건 (서버는 한 시점의 스냅샷을 제공하지 않음)")
    return "\n".join(lines)


def restore_report(plan: ChromaRestore, at: datetime) -> str:
    title = "🔍 *ChromaDB Restore* (dry run: 변경 없음)" if plan.dry_run else "♻️ *ChromaDB Restore*"
    lines = [
        title,
        f"- 스냅샷 파일: `{PurePosixPath(plan.manifest.file).name}` ({plan.manifest.taken_at})",
        f"- 복원 위치: `{plan.target}`",
        f"- 컬렉션: {_collections(plan.collections)}",
        f"- 문서 수: {plan.records:,}",
        f"- 실행 시간: {_utc(at)}",
    ]
    if plan.moved_aside:
        lines.append(f"- 기존 데이터: `{plan.moved_aside}` 로 {'이동 예정' if plan.dry_run else '이동'}")
    lines += [f"- 기존 컬렉션 {name}: `{aside}` 로 이름 변경" for name, aside in plan.renamed.items()]
    return "\n".join(lines)


def usage_report(usage: Usage, at: datetime) -> str:
    age = "없음 ⚠️" if usage.age_hours is None else f"{usage.age_hours:.1f}시간 전"
    lines = [
        "📊 *ChromaDB Usage*",
        f"- 컬렉션: {_collections(usage.per_collection())}",
        f"- 문서 수: {usage.documents:,}",
        f"- 디스크 사용량: {usage.bytes_on_disk / 1e6:,.1f} MB",
        f"- 마지막 스냅샷: {age} (보관 {usage.snapshots}개, {usage.snapshot_bytes / 1e6:,.1f} MB)",
        f"- 실행 시간: {_utc(at)}",
    ]
    if usage.orphaned_folders:
        lines.append(f"- 사용되지 않는 인덱스 폴더: {usage.orphaned_folders}개 ({usage.orphaned_bytes / 1e6:,.1f} MB)")
    return "\n".join(lines)


def _collections(counts: dict[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:COLLECTIONS_NAMED]]
    more = f" 외 {len(counts) - COLLECTIONS_NAMED}개" if len(counts) > COLLECTIONS_NAMED else ""
    return (", ".join(shown) or "없음") + more


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
