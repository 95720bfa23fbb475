"""The jobs, schedules and checks of expired jobs and sessions, as Dagster runs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from saju_ops.definitions import defs
from saju_ops.errors import Refused
from saju_ops_tests.defs.project import Run, plain
from saju_ops_tests.expired.files_scene import Files, files_behind_faults
from saju_ops_tests.expired.job_scene import SIZE, JobScene, job_id
from saju_ops_tests.fakes.s3 import S3Server

HOUR = timedelta(hours=1)


class Service:
    """The paid reports in SQLite, the definitions on them, an instance of Dagster."""

    def __init__(self, scene: JobScene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scene, self.instance = scene, dg.DagsterInstance.ephemeral()
        monkeypatch.setenv("DATABASE_URL", scene.url.render_as_string(hide_password=False))
        monkeypatch.setenv("BACKUP_URI", str(scene.folder))
        monkeypatch.setenv("JOBS_S3_DELETE", "false")

    def run(self, job: str, **config: Any) -> Run:
        result = (
            defs()
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance, raise_on_error=False, run_config={"ops": {job: {"config": config}}}
            )
        )
        return Run(self.instance, result.run_id)

    def checked(self) -> dict[str, tuple[bool, dict[str, Any]]]:
        done = defs().resolve_job_def("check_paid_jobs").execute_in_process(instance=self.instance)
        return Run(self.instance, done.run_id).checks()

    def tick(self, schedule: str) -> Any:
        definition = next(s for s in defs().schedules or [] if s.name == schedule)
        at = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
        with dg.build_schedule_context(instance=self.instance, scheduled_execution_time=at) as context:
            return definition.evaluate_tick(context)  # type: ignore[union-attr, arg-type]

    def failed_tick(self, schedule: str) -> str:
        with pytest.raises(dg.DagsterError) as failed:
            self.tick(schedule)
        assert isinstance(failed.value.__cause__, Refused)
        return str(failed.value.__cause__)


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(JobScene(sqlite_url, tmp_path / "backups").create(), monkeypatch)


def test_by_hand_the_job_only_counts_and_on_request_deletes(service: Service) -> None:
    now = datetime.now(UTC)
    service.scene.add([1, 2], now - HOUR)
    service.scene.add([3], now + HOUR)
    run = service.run("purge_expired_jobs")
    assert run.succeeded
    metadata = run.outputs()
    assert (metadata["dry_run"], metadata["jobs_deletable"], metadata["jobs_deleted"]) == (True, 2, 0)
    assert service.scene.whole(1) is True
    metadata = service.run("purge_expired_jobs", dry_run=False).outputs()
    assert (metadata["jobs_deleted"], metadata["rows"], metadata["rows_archived"], metadata["orphan_rows"]) == (
        2,
        30,
        4,
        0,
    )
    assert "만료 작업 정리" in metadata["report"]
    assert "010-" not in str(metadata)
    assert service.scene.ids() == {job_id(3)}


def test_an_hour_without_anything_to_do_has_the_same_numbers_and_says_so(service: Service) -> None:
    run = service.run("purge_expired_jobs", dry_run=False)
    assert run.succeeded
    assert run.outputs()["jobs_deleted"] == run.outputs()["s3_bytes"] == 0
    assert run.outputs()["report"].startswith("✅ 삭제할 만료 작업이 없습니다.")
    ((asset, observed),) = run.observed()
    assert asset == "paid_jobs"
    assert observed["jobs_stayed"] == 0


def test_what_a_run_doubts_is_in_its_report_also_where_there_was_nothing_to_do(service: Service) -> None:
    service.scene.run("CREATE TABLE coupons (id INTEGER PRIMARY KEY, job_id TEXT)")
    doubt = "- ⚠️ 확인 필요: coupons 테이블에 job_id 열이 있지만 외래 키가 없고 PURGE_TABLES에도 없음 (행이 남음)"
    report = service.run("purge_expired_jobs", dry_run=False).outputs()["report"]
    assert report.startswith("✅ 삭제할 만료 작업이 없습니다.")
    assert doubt in report
    service.scene.add([1], datetime.now(UTC) - HOUR)
    assert doubt in service.run("purge_expired_jobs", dry_run=False).outputs()["report"]
    assert service.scene.whole(1) is None


def test_rows_that_lost_their_job_are_in_the_report(service: Service) -> None:
    with service.scene.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        columns = "(id, job_id, phone, message, status)"
        connection.exec_driver_sql(f"INSERT INTO sms_logs {columns} VALUES (1, 'gone', '', '', '')")  # noqa: S608
    report = service.run("purge_expired_jobs", dry_run=False).outputs()["report"]
    assert "- ⚠️ 부모 없는 행: sms_logs.job_id 1" in report


def test_without_a_bucket_the_job_is_refused_and_the_schedules_tick_fails_so_that_alerts_report_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_S3_DELETE", "true")
    service.scene.add([1], datetime.now(UTC) - HOUR)
    run = service.run("purge_expired_jobs", dry_run=False)
    assert "JOBS_S3_BUCKET holds nothing" in run.failure
    assert service.scene.whole(1) is True
    assert "JOBS_S3_BUCKET holds nothing" in service.failed_tick("expired_jobs")


@pytest.mark.parametrize(
    ("schedule", "setting", "value", "sentence"),
    [
        ("expired_jobs", "JOBS_TABLE", "job", "JOBS_TABLE holds 'job'"),
        ("expired_jobs", "JOBS_DATABASE_URL", "sqlite:///elsewhere.db", "There is no database"),
        ("expired_sessions", "SESSIONS_TABLE", "sessions", "SESSIONS_TABLE holds 'sessions'"),
        ("stale_jobs", "ANALYSIS_DATABASE_URL", "sqlite:///elsewhere.db", "ANALYSIS_DATABASE_URL"),
    ],
)
def test_a_table_that_a_setting_names_and_that_is_not_there_fails_the_tick(
    service: Service, monkeypatch: pytest.MonkeyPatch, schedule: str, setting: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(setting, value)
    assert sentence in service.failed_tick(schedule)


def test_the_schedules_delete_hourly_and_daily_in_seoul(service: Service) -> None:
    (request,) = service.tick("expired_jobs").run_requests
    assert request.run_config["ops"]["purge_expired_jobs"]["config"]["dry_run"] is False
    found = {s.name: s for s in defs().schedules or []}
    assert found["expired_jobs"].cron_schedule == "0 * * * *"  # type: ignore[union-attr]
    for name in ("expired_jobs", "expired_sessions"):
        schedule = found[name]
        assert isinstance(schedule, dg.ScheduleDefinition)
        assert schedule.execution_timezone == "Asia/Seoul"
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_where_there_is_no_table_the_schedules_skip_and_say_so(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "no such table" in service.tick("expired_sessions").skip_message
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/nothing.db")
    assert "There is no database" in service.tick("expired_jobs").skip_message
    assert not (tmp_path / "nothing.db").exists()


def test_rows_left_behind_fail_the_check_with_their_number(service: Service) -> None:
    with service.scene.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        columns = "(id, job_id, phone, message, status)"
        connection.exec_driver_sql(f"INSERT INTO sms_logs {columns} VALUES (1, 'gone', '', '', '')")  # noqa: S608
    checks = [c for c in defs().asset_checks or [] if any(s.name == "no_orphan_rows" for s in c.check_specs)]
    result = dg.materialize([*checks], instance=service.instance, selection=dg.AssetSelection.all_asset_checks())
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert plain(evaluation.metadata) == {"orphan_rows": 1, "columns": "sms_logs.job_id (1)"}


@pytest.mark.long
def test_a_check_that_can_not_count_rows_says_why_and_the_other_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PURGE_TABLES", "sms_log")
    found = service.checked()
    passed, said = found["no_orphan_rows"]
    assert not passed
    assert "PURGE_TABLES names sms_log" in said["why"]
    assert found["no_orphan_files"][0] is True


def test_sessions_are_purged_by_their_job(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops_tests.expired.test_expired_sessions import SessionScene

    scene = SessionScene(sqlite_url, tmp_path / "backups")
    now = datetime.now(UTC)
    scene.add("s1", now - timedelta(days=40))
    scene.add("s2", now - timedelta(days=40), logs=[now - timedelta(days=40)])
    service = Service(JobScene(sqlite_url, tmp_path / "backups"), monkeypatch)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    metadata = service.run("purge_expired_sessions", dry_run=False).outputs()
    assert (metadata["sessions_deleted"], metadata["sessions_stayed"], metadata["redis_sessions_waiting"]) == (1, 1, 1)
    assert "Redis" in metadata["report"]
    assert scene.sessions() == ["s2"]


def set_bucket(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    settings = {
        "JOBS_S3_DELETE": "true", "JOBS_S3_BUCKET": files.name, "JOBS_S3_PREFIX": "jobs/",
        "S3_ENDPOINT_URL": files.url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def test_the_files_go_with_the_address_and_keys_of_the_settings(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server() as server, files_behind_faults(server) as files:
        files.put_those_of([1])
        service.scene.add([1], datetime.now(UTC) - HOUR)
        set_bucket(monkeypatch, files)
        metadata = service.run("purge_expired_jobs", dry_run=False).outputs()
        assert (metadata["s3_files"], metadata["s3_bytes"], files.names()) == (4, 4 * SIZE, set())


def test_files_left_behind_fail_the_weekly_check_with_numbers_and_a_bucket_that_is_closed_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server() as server, files_behind_faults(server) as files:
        files.put_those_of([1, 2])
        service.scene.add([1], datetime.now(UTC) + HOUR)
        set_bucket(monkeypatch, files)
        monkeypatch.setattr("saju_ops.expired.orphan_files.SETTLED", timedelta(0))
        passed, found = service.checked()["no_orphan_files"]
        assert not passed
        assert found == {
            "orphan_files": 4, "orphan_bytes": 4 * SIZE, "folder": "jobs/", "folders": f"jobs/{job_id(2)[:8]}… (4)",
            "files": 8, "younger_than_a_day": 0, "perhaps_named": 0, "names": 4, "not_looked_at": "none",
        }  # fmt: skip
        files.faults.status, files.faults.code = 403, "AccessDenied"
        passed, found = service.checked()["no_orphan_files"]
        assert (passed, found["orphan_files"]) == (False, 0)
        assert "needs the right s3:ListBucket" in found["not_looked_at"]
        service.scene.run("DELETE FROM job_files")
        service.scene.run("UPDATE jobs SET expires_at = '2026-01-01 00:00:00'")
        assert service.run("purge_expired_jobs", dry_run=False).outputs()["jobs_deleted"] == 1


def test_the_check_of_files_says_which_setting_leaves_it_nothing_to_look_at(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(passes: bool = True) -> str:
        passed, found = service.checked()["no_orphan_files"]
        assert (passed, found["files"]) == (passes, 0)
        return str(found["not_looked_at"])

    assert "JOBS_S3_DELETE is false" in said()
    monkeypatch.setenv("JOBS_S3_DELETE", "true")
    assert "JOBS_S3_BUCKET holds nothing" in said()
    monkeypatch.setenv("JOBS_S3_BUCKET", "bucket")
    assert "JOBS_S3_PREFIX holds nothing" in said(passes=False)
    service.scene.run("ALTER TABLE jobs RENAME TO other")
    assert "no such table" in said()


def test_both_checks_run_on_sundays_where_there_is_a_table(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = (s for s in defs().schedules or [] if s.name == "check_paid_jobs_weekly")
    assert isinstance(found, dg.ScheduleDefinition)
    assert (found.cron_schedule, found.execution_timezone) == ("0 6 * * 0", "Asia/Seoul")
    assert found.default_status is dg.DefaultScheduleStatus.RUNNING
    assert len(service.tick("check_paid_jobs_weekly").run_requests) == 1
    assert set(service.checked()) == {"no_orphan_rows", "no_orphan_files"}
    monkeypatch.setenv("DATABASE_URL", "sqlite:///nothing.db")
    assert "There is no database" in service.tick("check_paid_jobs_weekly").skip_message
