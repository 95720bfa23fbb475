"""The reports as assets: table, plots, check and CSV file in the UI, and a line in the weekly digest."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from saju_ops.definitions import defs
from saju_ops_tests.database_reports.scene import run
from saju_ops_tests.defs.project import plain

SEOUL = ZoneInfo("Asia/Seoul")
REPORTS = ("slow_queries", "index_usage", "table_sizes")
COLUMNED = "CREATE TABLE notes (id INT PRIMARY KEY, text VARCHAR(100))"


class Made:
    """A run of the job, and what the instance has of it."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.result = defs().resolve_job_def("database_reports").execute_in_process(
            instance=instance, raise_on_error=False
        )  # fmt: skip

    def metadata(self, name: str) -> dict[str, object]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(name))
        assert event is not None
        assert event.asset_materialization is not None
        return plain(event.asset_materialization.metadata)

    def check(self, name: str) -> tuple[bool, str]:
        for event in self.result.all_events:
            if event.event_type_value == "ASSET_CHECK_EVALUATION":
                found = event.asset_check_evaluation_data
                if found.check_name == f"{name}_can_be_seen":
                    return found.passed, str(found.description)
        raise AssertionError(name)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def backups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    return tmp_path / "backups"


def today() -> str:
    return f"{datetime.now(SEOUL):%Y%m%d}"


@pytest.mark.long
def test_each_report_is_a_table_with_plots_in_the_ui_and_the_same_table_in_the_store(
    counting_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", counting_url)
    run(counting_url, COLUMNED, "CREATE INDEX by_text ON notes (text)", "INSERT INTO notes VALUES (1, 'canary-4711')",
        "SELECT id FROM notes WHERE text = 'canary-4711'")  # fmt: skip
    made = Made(instance)
    assert made.result.success
    for name in REPORTS:
        metadata = made.metadata(name)
        file = backups / "reports" / f"{name}_{today()}.csv"
        assert metadata["dagster/uri"] == str(file)
        assert "notes" in str(metadata["table"])
        assert str(metadata["chart"]).startswith("![")
        assert "notes" in file.read_text("utf-8-sig")
        assert len(file.read_text("utf-8-sig").splitlines()) == int(str(metadata["dagster/row_count"])) + 1
        assert made.check(name) == (True, "everything can be seen")
        assert "canary" not in str(metadata) + file.read_text("utf-8-sig")
    assert int(str(made.metadata("table_sizes")["bytes/notes"])) > 0
    assert int(str(made.metadata("slow_queries")["calls"])) > 0
    assert int(str(made.metadata("index_usage")["indexes_that_may_go"])) <= 1


def test_what_is_off_is_the_checks_text_and_the_asset_is_made_all_the_same(
    mariadb_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", mariadb_url)
    run(mariadb_url, COLUMNED)
    made = Made(instance)
    assert made.result.success
    for name in ("slow_queries", "index_usage"):
        passed, text = made.check(name)
        assert not passed
        assert "performance_schema=ON" in text
    assert made.check("table_sizes")[0]
    assert (backups / "reports" / f"slow_queries_{today()}.csv").exists()


def test_sqlite_passes_every_check_and_says_what_it_does_not_keep(
    sqlite_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    run(sqlite_url, COLUMNED)
    made = Made(instance)
    assert [made.check(name)[0] for name in REPORTS] == [True] * 3
    assert "SQLite keeps no statistics of statements" in made.check("slow_queries")[1]


def test_a_database_that_is_down_fails_the_run_and_the_others_are_reported(
    sqlite_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("JOBS_DATABASE_URL", "mysql+pymysql://u:s3cret-pw@127.0.0.1:1/gone")
    run(sqlite_url, COLUMNED)
    made = Made(instance)
    assert not made.result.success
    assert "notes" in (backups / "reports" / f"table_sizes_{today()}.csv").read_text("utf-8-sig")
    logged = "\n".join(dg.serialize_value(entry) for entry in instance.all_logs(made.result.run_id))
    assert "could not be looked at" in logged
    assert "s3cret-pw" not in logged


@pytest.mark.long
def test_the_weekly_digest_has_a_line_for_each_thing_that_is_new(
    mysql_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", mysql_url)
    monkeypatch.setenv("DATABASE_DISK_GB", "0.001")
    run(mysql_url, COLUMNED, "CREATE INDEX by_text ON notes (text)", "INSERT INTO notes VALUES (1, 'canary-4711')")
    Made(instance)
    week_ago = f"{datetime.now(SEOUL) - timedelta(days=7):%Y%m%d}"
    sizes = backups / "reports" / f"table_sizes_{today()}.csv"
    sizes.rename(sizes.with_name(f"table_sizes_{week_ago}.csv"))
    values = ", ".join(f"({n}, '{'x' * 90}')" for n in range(2, 5000))
    run(mysql_url, f"INSERT INTO notes VALUES {values}", "ANALYZE TABLE notes")  # noqa: S608
    Made(instance)
    digest = defs().resolve_job_def("weekly_digest").execute_in_process(instance=instance, raise_on_error=False)
    assert digest.success
    outputs = [e for e in digest.all_events if e.event_type_value == "STEP_OUTPUT"]
    report = str(plain(outputs[0].step_output_data.metadata)["report"])
    assert "- 🔎 눈에 띄는 점: 2" in report
    assert "• 한 번도 쓰이지 않은 인덱스: `notes.by_text` (20" in report
    assert "• 디스크 한도까지 약 0일: 테이블 `notes` (하루 +" in report
    assert "canary" not in report


def test_a_week_in_which_nothing_is_new_has_no_such_line(
    sqlite_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    run(sqlite_url, COLUMNED)
    Made(instance)
    digest = defs().resolve_job_def("weekly_digest").execute_in_process(instance=instance, raise_on_error=False)
    outputs = [e for e in digest.all_events if e.event_type_value == "STEP_OUTPUT"]
    assert "눈에 띄는 점" not in str(plain(outputs[0].step_output_data.metadata)["report"])


def test_the_reports_are_made_daily_at_half_past_five_in_seoul() -> None:
    (schedule,) = [s for s in defs().schedules or [] if s.name == "database_reports_daily"]
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 5 * * *", "Asia/Seoul")


@pytest.mark.long
def test_every_column_of_a_report_says_what_it_means(
    sqlite_url: str, backups: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    run(sqlite_url, COLUMNED)
    made = Made(instance)
    for name in REPORTS:
        event = instance.get_latest_materialization_event(dg.AssetKey(name))
        assert event is not None
        assert event.asset_materialization is not None
        schema = event.asset_materialization.metadata["dagster/column_schema"].value
        header = (backups / "reports" / f"{name}_{today()}.csv").read_text("utf-8-sig").splitlines()[0]
        assert isinstance(schema, dg.TableSchema)
        assert [column.name for column in schema.columns] == header.split(",")
        assert all(column.description for column in schema.columns)
    assert made.result.success
