"""One table with the Korean title of each job, what its failure leaves untouched, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass

AGAIN = "원인을 고친 뒤 같은 설정으로 다시 실행하세요. 다시 실행해도 안전하며, 끝난 부분은 건너뜁니다."
READ_LOG = "실행 화면에서 오류를 확인하고 원인을 고친 뒤 다시 실행하세요."


@dataclass(frozen=True)
class Job:
    title: str
    untouched: str
    todo: str = AGAIN


_REPORT = "읽기만 하는 작업이라 바뀐 것이 없습니다."
JOBS = {
    "archive_conversation_logs": Job(
        "대화 로그 백업", "데이터베이스의 행은 하나도 삭제되지 않았고, 이미 완료된 날짜의 백업 파일은 그대로입니다."
    ),
    "purge_conversation_logs": Job(
        "대화 로그 삭제", "백업으로 증명되지 않은 행은 삭제되지 않았고, 백업 파일은 그대로입니다."
    ),
    "restore_conversation_logs": Job(
        "대화 로그 복원", "백업 파일은 그대로입니다.", "이미 들어간 행은 건너뛰므로 같은 설정으로 다시 실행하세요."
    ),
    "purge_expired_jobs": Job(
        "만료된 작업 삭제",
        "오류가 난 묶음은 되돌려졌습니다.",
        "다음 정시에 자동으로 다시 시도합니다. 반복되면 원인을 확인하세요.",
    ),
    "check_paid_jobs": Job("유료 작업의 남은 행과 파일 점검", _REPORT, READ_LOG),
    "purge_expired_sessions": Job(
        "만료된 세션 삭제", "오류가 난 묶음은 되돌려졌고, 백업되지 않은 대화 로그는 삭제되지 않았습니다."
    ),
    "reconcile_stale_jobs": Job("멈춘 분석 작업 정리", "분석 결과는 바뀌지 않으며, 오류가 난 묶음은 되돌려졌습니다."),
    "rotate_log_partitions": Job("로그 파티션 정리", "백업되지 않은 파티션은 삭제되지 않았습니다."),
    "database_dump": Job("데이터베이스 덤프", "운영 데이터베이스와 이전 덤프는 그대로입니다."),
    "masked_database_dump": Job("마스킹 덤프", "운영 데이터베이스와 이전 덤프는 그대로입니다."),
    "chroma_snapshot": Job("ChromaDB 스냅샷", "운영 ChromaDB와 이전 스냅샷은 그대로입니다."),
    "dump_databases": Job("데이터베이스 덤프", "운영 데이터베이스와 이전 덤프는 그대로입니다."),
    "snapshot_chroma": Job("ChromaDB 스냅샷", "운영 ChromaDB와 이전 스냅샷은 그대로입니다."),
    "prune_backups": Job("오래된 백업 정리", "검증된 최신 백업은 삭제되지 않았습니다."),
    "verify_backups": Job(
        "백업 검증", "백업 파일과 운영 데이터는 그대로입니다.", "검증되지 않은 백업에 기대지 말고 원인을 확인하세요."
    ),
    "encrypt_birth_data": Job("생년월일 암호화", "오류가 난 묶음은 되돌려졌고, 암호화된 행은 그대로 남습니다."),
    "check_birth_data": Job("생년월일 점검", _REPORT, READ_LOG),
    "migrate_schema": Job(
        "스키마 마이그레이션", "schema_migrations에 기록되지 않은 버전은 적용이 끝나지 않았습니다.", READ_LOG
    ),
    "restore_database_dump": Job("데이터베이스 복원", "백업 파일은 그대로입니다.", READ_LOG),
    "restore_chroma_snapshot": Job("ChromaDB 복원", "스냅샷 파일은 그대로입니다.", READ_LOG),
    "database_reports": Job("데이터베이스 보고서", _REPORT, READ_LOG),
    "slow_queries": Job("느린 쿼리 보고서", _REPORT, READ_LOG),
    "index_usage": Job("인덱스 사용 보고서", _REPORT, READ_LOG),
    "table_sizes": Job("테이블 크기 보고서", _REPORT, READ_LOG),
    "chroma_usage": Job("ChromaDB 사용 보고서", _REPORT, READ_LOG),
    "weekly_digest": Job("주간 요약", _REPORT, READ_LOG),
    "__ASSET_JOB": Job("자산 만들기", "자산을 만드는 작업은 운영 데이터를 삭제하거나 바꾸지 않습니다."),
}  # fmt: skip
ASSETS = {
    "conversation_log_archive": "대화 로그 백업",
    "conversation_logs": "대화 로그",
    "database_dump": "데이터베이스 덤프",
    "masked_database_dump": "마스킹 덤프",
    "chroma_snapshot": "ChromaDB 스냅샷",
    "chroma_collections": "ChromaDB 컬렉션",
    "stored_backups": "저장된 백업",
    "analysis_jobs": "분석 작업",
    "paid_jobs": "유료 작업",
    "user_sessions": "사용자 세션",
    "slow_queries": "느린 쿼리 보고서",
    "index_usage": "인덱스 사용 보고서",
    "table_sizes": "테이블 크기 보고서",
    "chroma_usage": "ChromaDB 사용 보고서",
}


def job(name: str, assets: tuple[str, ...] = ()) -> Job:
    """A job by its name; a run of Dagster's own asset job by the assets that it makes; any other by its name alone.

    A job named after an asset, such as `make_database_dump` or `database_dump_job`, is called like the asset.
    """
    if name == "__ASSET_JOB" and assets:
        known = JOBS["__ASSET_JOB"]
        return Job(" · ".join(ASSETS.get(a, a) for a in assets[:3]), known.untouched, known.todo)
    if name in JOBS:
        return JOBS[name]
    near = [key for key in ASSETS if key in name and key in JOBS]
    if near:
        return JOBS[max(near, key=len)]
    return Job(name, "끝나지 않은 단계가 바꾸려던 것은 실행 화면에서 확인하세요.", READ_LOG)
