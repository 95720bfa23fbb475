"""The purges of expired jobs and sessions, as Korean text for operators. Never personal data."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.expired.batches import Outcome
    from saju_ops.expired.job_tables import JobPurgeResult
    from saju_ops.expired.sessions import SessionPurgeResult

NAMED = 5
# Korean for the reasons why a row stayed, which the purges give in English. Any other reason is shown unchanged.
REASONS = (
    (r"a row of its conversation log is not archived as it is now, or not beyond the retention",
     "대화 로그에 아직 보관되지 않았거나 보관 기간 안에 있는 행이 있음"),
    (r"a row of (\S+) that has not expired hangs on it", r"만료되지 않은 \1 행이 연결되어 있음"),
    (r"a row of (\S+) came or changed after it was archived",
     r"보관 후 \1 행이 추가되거나 변경됨 (다음 실행에서 다시 보관)"),
    (r"its rows can't be archived \((.*)\)", r"보관할 수 없는 행이 있음 (\1)"),
    (r"its S3 key (.*)", r"S3 키를 쓸 수 없음 (\1)"),
    (r"S3 did not delete a file \((.*)\)", r"S3 파일이 삭제되지 않음 (\1)"),
    (r"S3 did not say that a file was deleted", "S3가 파일 삭제를 확인해 주지 않음"),
    (r"S3 can't be used \((.*)\)", r"S3를 쓸 수 없음 (\1)"),
    (r"its versions could not be listed", "S3 파일의 버전을 조회할 수 없음"),
    (r"the database refused \((.*)\)", r"데이터베이스가 거부함 (\1)"),
    (r"the database was locked by others \((.*)\)", r"데이터베이스가 다른 작업에 잠겨 있음 (\1)"),
    (r"max_(?:jobs|sessions) \((.*)\) reached", r"한 번에 처리할 수 있는 수에 도달 (\1)"),
    (r"max_runtime_seconds \((.*)\) reached", r"최대 실행 시간에 도달 (\1초)"),
    (r"the first (\d+) expired ones were looked at", r"한 번에 살펴보는 수에 도달 (\1)"),
    (r"the server deleted ([\d,]+) rows? of (\S+) where (\d+) (?:was|were) found and locked",
     r"\2 행 \3개를 찾아 잠갔는데 \1개가 삭제되려 함 (트리거나 규칙을 확인)"),
    (r"the server kept ([\d,]+) rows? of (\S+) in a DELETE; a trigger or rule may do so",
     r"\2 행 \1개가 DELETE에서 남음 (트리거나 규칙을 확인)"),
    (r"cancelled by the operator", "운영자가 중단함"),
)  # fmt: skip
# Korean for a run's doubts, in the same way.
DOUBTS = (
    (r"([\d,]+) files? (?:was|were) left: rows that stay name .*",
     r"S3 파일 \1개를 남겨 둠: 다른 작업이 알 수 없는 주소로 가리키는 것일 수 있음"),
    (r"The table (\S+) has a column (\S+), but no foreign key leads from it to \S+, and (\S+) doesn't name it: its rows"
     r" stay\.", r"\1 테이블에 \2 열이 있지만 외래 키가 없고 \3에도 없음 (행이 남음)"),
    (r"The ids of purged sessions stay in (\S+): name it in (\S+), .*",
     r"삭제된 세션의 ID가 \1에 남음: \2에 적으면 NULL로 바꿈"),
    (r"The ids of purged sessions stay in (\S+): (.*)\.", r"삭제된 세션의 ID가 \1에 남음: \2"),
    (r"([\d,]+) files? under (\S+) can't be read, or no key of this installation .*",
     r"\2의 파일 \1개를 남겨 둠: 읽을 수 없거나 이 설치의 키로 봉인되지 않음 (세션의 키가 Redis에 남아 있을 수 있음)"),
    (r"This account may not see every foreign key .*",
     "이 계정은 모든 외래 키를 볼 수 없음 (PROCESS 권한 없음): 볼 수 없는 테이블이 연결되어 있을 수 있음"),
    (r"The newest row of (\S+) was made (.+) ahead of now, at (.+) by .*",
     r"\1의 최신 행이 현재보다 \2 뒤의 시각 (\3): 서비스의 시간대와 설정을 확인"),
    (r"The newest row of (\S+) is (.+) old by (\S+) \((.+)\), which is as much as (\S+) differs: .*",
     r"\1의 최신 행이 \3 (\4) 기준 \2 전: 서비스가 \5로 기록하는지 확인"),
    (r"The newest rows of (\S+) expire (.+) after they were made by (\S+) \((.+)\), and (.+) after it by (\S+): .*",
     r"\1의 만료까지가 \3 (\4) 기준 \2, \6 기준 \5: 서비스가 \6로 기록하는지 확인"),
)  # fmt: skip
UNITS = ("B", "KB", "MB", "GB", "TB")


def expired_jobs_report(result: JobPurgeResult) -> str:
    """The report of an hourly run; one line, and its doubts, if there was nothing to do."""
    if not (result.deleted or result.stayed or result.problems or result.orphans or result.unreadable):
        nothing = f"✅ 삭제할 만료 작업이 없습니다. (기준: {result.now.astimezone(UTC):%Y-%m-%d %H:%M} UTC)"
        return "\n".join([nothing, *_doubts(result)])
    verb = "삭제 예정" if result.dry_run else "삭제"
    lines = [
        "🗑️ *만료 작업 정리 (dry run)*" if result.dry_run else "🗑️ *만료 작업 정리*",
        f"- {verb} 작업: {result.deleted}건 (만료 {result.expired}건)",
        f"- {verb} 행: {_tables(result.rows)}",
        f"- S3 파일: {result.files}개, {_bytes(result.bytes)}",
    ]
    if result.files_shared:
        lines.append(f"- 다른 작업도 쓰는 파일: {result.files_shared}개 (남겨 둠)")
    if result.archives:
        files = ", ".join(f"`{PurePosixPath(a).name}`" for a in result.archives[:NAMED])
        lines.append(f"- 보관 파일 (5년): {files} ({sum(result.rows_archived.values())} rows)")
    return "\n".join([*lines, *_common(result, "작업", result.now)])


def expired_sessions_report(result: SessionPurgeResult) -> str:
    """The report of a daily run; one line, and its doubts, if there was nothing to do."""
    something = result.deleted or result.stayed or result.problems or result.orphans or result.unreadable
    past = result.past or result.now
    if not (something or result.cache_problem):
        nothing = f"✅ 삭제할 만료 세션이 없습니다. (기준: {past.astimezone(UTC):%Y-%m-%d %H:%M} UTC 이전 만료)"
        return "\n".join([nothing, *_doubts(result)])
    verb = "삭제 예정" if result.dry_run else "삭제"
    lines = [
        "🧹 *만료 세션 정리 (dry run)*" if result.dry_run else "🧹 *만료 세션 정리*",
        f"- {verb} 세션: {result.deleted}건 (기준: {past.astimezone(UTC):%Y-%m-%d %H:%M} UTC 이전 만료)",
        f"- {verb} 행: {_tables(result.rows)}",
    ]
    if result.cleared:
        verb = "지울" if result.dry_run else "지운"
        lines.append(f"- 세션 ID를 {verb} 행 (외래 키 없음): {_tables(result.cleared)}")
    if result.cache_used:
        lines.append(f"- Redis: {result.cache_asked}건 확인, {result.cache_keys}개 삭제")
    if result.cache_problem:
        lines.append(f"- ⚠️ Redis를 쓸 수 없습니다: {result.cache_waiting}건은 기억해 두고 다음 실행에서 처리")
    return "\n".join([*lines, *_common(result, "세션", result.now)])


def _common(result: Outcome, what: str, at: datetime) -> list[str]:
    lines = []
    if result.detached:
        lines.append(f"- 참조만 지워진 행: {_tables(result.detached)}")
    if result.stayed:
        lines.append(f"- 남겨 둔 {what}: {sum(result.stayed.values())}건")
        lines += [f"  · {in_korean(reason)}: {count}건" for reason, count in result.stayed.most_common(NAMED)]
    if result.unreadable:
        lines.append(f"- ⚠️ expires_at을 읽을 수 없는 {what}: {result.unreadable}건 (삭제하지 않음)")
    if result.orphans:
        lines.append(f"- ⚠️ 부모 없는 행: {_tables(result.orphans)}")
    lines += [f"- ⚠️ {problem}" for problem in result.problems[:NAMED]]
    lines += _doubts(result)
    if not result.finished:
        lines.append(f"- 중단: {in_korean(result.stopped)} (나머지는 다음 실행에서)")
    return [*lines, f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"]


def _doubts(result: Outcome) -> list[str]:
    lines = [f"- ⚠️ 확인 필요: {in_korean(doubt)}" for doubt in result.doubts[:NAMED]]
    more = len(result.doubts) - NAMED
    return [*lines, *([f"- ⚠️ 확인 필요: … ({more}건 생략)"] if more > 0 else [])]


def in_korean(reason: str) -> str:
    for pattern, korean in (*REASONS, *DOUBTS):
        if match := re.fullmatch(pattern, reason, re.DOTALL):
            return match.expand(korean)
    return reason


def _tables(rows: Counter[str]) -> str:
    return ", ".join(f"{table} {count}" for table, count in sorted(rows.items()) if count) or "0"


def _bytes(size: float) -> str:
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return ""
