"""Table sizes: bytes of every table, growth since the report of a week ago, and when the room is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops_tests.database_reports.scene import Reported, row, rows, run

GB = 10**9


def many(first: int) -> str:
    values = ", ".join(f"({first + n}, '{'x' * 900}')" for n in range(2000))
    return f"INSERT INTO large VALUES {values}"  # noqa: S608


@pytest.fixture
def filled(database_url: str) -> str:
    run(
        database_url,
        "CREATE TABLE large (id INT PRIMARY KEY, text VARCHAR(1000))",
        "CREATE TABLE small (id INT PRIMARY KEY, text VARCHAR(1000))",
        many(1),
        "CREATE INDEX of_text ON large (text)"
        if "mysql" not in database_url
        else "CREATE INDEX t ON large (text(100))",
    )
    if "postgresql" in database_url or "sqlite" in database_url:
        run(database_url, "ANALYZE")
    else:
        run(database_url, "ANALYZE TABLE large, small")
    return database_url


def test_the_largest_table_comes_first_with_the_bytes_of_its_rows_and_indexes(filled: str, tmp_path: Path) -> None:
    report = Reported([filled], tmp_path).make("table_sizes")
    assert [each["table"] for each in rows(report)] == ["large", "small"]
    large = row(report, table="large")
    assert large["data_bytes"] >= 1_800_000
    assert large["index_bytes"] > 0
    assert large["bytes"] == large["data_bytes"] + large["index_bytes"]
    assert 1500 <= large["rows"] <= 2500
    assert large["growth_bytes_per_day"] is None
    assert report.missing == {}


def test_growth_is_counted_against_the_stored_report_of_a_week_ago(filled: str, tmp_path: Path) -> None:
    reported = Reported([filled], tmp_path, disk_bytes=100 * GB)
    before = row(reported.make("table_sizes", days_ago=7), table="large")
    run(filled, many(5001))
    if "mysql" in filled:
        run(filled, "ANALYZE TABLE large")
    report = reported.make("table_sizes")
    large = row(report, table="large")
    assert large["growth_bytes_per_day"] == pytest.approx((large["bytes"] - before["bytes"]) / 7, abs=0.1)
    assert large["growth_bytes_per_day"] > 100_000
    assert row(report, table="small")["days_to_limit"] is None
    assert report.news == []


def test_a_table_that_fills_its_limit_within_thirty_days_is_new(filled: str, tmp_path: Path) -> None:
    reported = Reported([filled], tmp_path, disk_bytes=12_000_000)
    reported.make("table_sizes", days_ago=7)
    run(filled, many(5001))
    if "mysql" in filled:
        run(filled, "ANALYZE TABLE large")
    report = reported.make("table_sizes")
    large = row(report, table="large")
    (news,) = report.news
    assert (news.kind, news.what) == ("filling", "large")
    room = 12_000_000 - sum(each["bytes"] for each in rows(report))
    assert large["room_bytes"] == room
    assert large["days_to_limit"] == pytest.approx(room / large["growth_bytes_per_day"], abs=0.1)
    assert 0 < large["days_to_limit"] < 30


def test_a_sqlite_file_has_the_room_of_its_disk_without_a_setting(sqlite_url: str, tmp_path: Path) -> None:
    import os

    run(sqlite_url, "CREATE TABLE notes (id INT)")
    room = row(Reported([sqlite_url], tmp_path).make("table_sizes"), table="notes")["room_bytes"]
    disk = os.statvfs(tmp_path)
    assert room == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.5)


def test_without_a_limit_of_a_server_nobody_says_when_it_is_full(mysql_url: str, tmp_path: Path) -> None:
    run(mysql_url, "CREATE TABLE notes (id INT)")
    assert row(Reported([mysql_url], tmp_path).make("table_sizes"), table="notes")["room_bytes"] is None


def test_a_large_sqlite_file_is_not_kept_locked_to_measure_its_tables(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.database_reports.sqlite.LARGEST", 1000)
    run(sqlite_url, "CREATE TABLE notes (id INT)")
    report = Reported([sqlite_url], tmp_path).make("table_sizes")
    assert [each["table"] for each in rows(report)] == ["(whole file)"]
    assert "WAL" in str(report.notes)
    run(sqlite_url, "PRAGMA journal_mode = wal")
    assert [each["table"] for each in rows(Reported([sqlite_url], tmp_path).make("table_sizes"))] == ["notes"]


def test_two_settings_that_name_one_database_report_it_once(mysql_url: str, sqlite_url: str, tmp_path: Path) -> None:
    run(mysql_url, "CREATE TABLE notes (id INT)")
    run(sqlite_url, "CREATE TABLE notes (id INT)")
    again = mysql_url.replace("mysql+pymysql", "mariadb+pymysql")
    report = Reported([mysql_url, again, sqlite_url], tmp_path).make("table_sizes")
    assert len(rows(report)) == 2
    assert len({each["database"] for each in rows(report)}) == 2
