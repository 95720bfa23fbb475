"""The report, line by line as the operators know it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

from saju_ops.reports.conversation_logs import cleanup_report, purge_preview

AT = datetime(2025, 10, 15, 9, 0, tzinfo=UTC)
CUTOFF = date(2025, 9, 15)
FILE = "/srv/backups/conversation_logs/2025/09/conversation_log_backup_20250914.csv"


def test_one_file_gives_the_report_that_operators_know() -> None:
    file = FILE.replace("20250914", "20250915")
    assert cleanup_report([file], 124, CUTOFF, AT) == (
        "💾 *DB Cleanup Report*\n"
        "- 백업 파일: `conversation_log_backup_20250915.csv`\n"
        "- 백업 수: 124 rows\n"
        "- 삭제 기준일: 2025-09-15\n"
        "- 실행 시간: 2025-10-15 09:00:00 UTC"
    )


def test_nothing_to_do_is_said_in_one_line() -> None:
    assert cleanup_report([], 0, CUTOFF, AT) == "✅ 백업할 오래된 로그가 없습니다. (기준: 2025-09-15)"
    assert cleanup_report([], 0, CUTOFF, AT, deleted=0) == "✅ 백업할 오래된 로그가 없습니다. (기준: 2025-09-15)"


def test_rows_that_were_kept_are_reported_even_when_nothing_was_deleted() -> None:
    report = cleanup_report([], 0, CUTOFF, AT, deleted=0, kept=7)
    assert "7 rows" in report
    assert "백업할 오래된 로그가 없습니다" not in report


def test_a_time_in_another_zone_is_shown_in_utc() -> None:
    seoul = AT.astimezone(timezone(timedelta(hours=9)))
    assert cleanup_report([FILE], 1, CUTOFF, seoul).endswith("- 실행 시간: 2025-10-15 09:00:00 UTC")


def test_deleted_and_kept_rows_have_lines_of_their_own() -> None:
    lines = cleanup_report([FILE], 124, CUTOFF, AT, deleted=120, kept=4).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "💾 *DB Cleanup Report*", "- 백업 파일", "- 백업 수", "- 삭제 수", "- 삭제 기준일", "- 실행 시간",
        "- 남겨 둔 수",
    ]  # fmt: skip
    assert lines[3] == "- 삭제 수: 120 rows"
    assert lines[6].startswith("- 남겨 둔 수: 4 rows")


def test_many_files_are_named_by_the_first_and_the_last() -> None:
    files = [FILE.replace("0914", f"09{day:02}") for day in range(1, 15)]
    assert cleanup_report(files[:3], 9, CUTOFF, AT).splitlines()[1] == (
        "- 백업 파일: `conversation_log_backup_20250901.csv`, `conversation_log_backup_20250902.csv`,"
        " `conversation_log_backup_20250903.csv`"
    )
    assert cleanup_report(files, 9, CUTOFF, AT).splitlines()[1] == (
        "- 백업 파일: `conversation_log_backup_20250901.csv` … `conversation_log_backup_20250914.csv` (14개)"
    )


def test_a_dry_run_says_what_would_go_and_that_nothing_did() -> None:
    assert purge_preview(124, 3, CUTOFF, AT).splitlines() == [
        "💾 *DB Cleanup (dry run)*",
        "- 삭제 예정 수: 124 rows",
        "- 남겨 둘 수: 3 rows",
        "- 삭제 기준일: 2025-09-15",
        "- 실행 시간: 2025-10-15 09:00:00 UTC",
        "- 아무것도 삭제하지 않았습니다.",
    ]
