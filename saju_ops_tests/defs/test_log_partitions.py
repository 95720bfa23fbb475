"""The job rotate_log_partitions, its schedule and checks, as the daemon and an operator launch them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from saju_ops.schema.partitions.convert import convert
from saju_ops_tests.archive.scene import SEOUL
from saju_ops_tests.defs.project import Project, ago

JOB = "rotate_log_partitions"
NUMBERS = (
    "months_made", "months_dropped", "months_left", "months_ahead", "rows_dropped", "rows_in_p_future", "partitions",
    "rows_deleted_in_chunks", "rows_left_in_p_future", "months_droppable",
)  # fmt: skip


@pytest.fixture(params=["mysql", "mariadb"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Archived: 30 rows 100 days ago, 10 rows of 40 days ago; 5 rows of today."""
    url = request.getfixturevalue(f"{request.param}_url")
    project = Project(url, tmp_path, monkeypatch, ARCHIVE_START_DATE=str(ago(150)))
    project.add(30, ago(100), first=1)
    project.add(10, ago(5), first=101)
    project.scene.run("ALTER TABLE conversation_logs MODIFY created_at timestamp NOT NULL")
    with project.scene.store() as store:
        convert(store, now=datetime.now(UTC), ahead=1, zone=SEOUL, way="alter")
    project.scene.archive(ago(100), now=datetime.now(UTC))
    return project


def rotated(project: Project, **config: Any) -> dict[str, Any]:
    run = project.run(JOB, config)
    assert run.succeeded, run.failure
    return run.outputs()


def test_by_hand_it_only_says_what_it_would_do(project: Project) -> None:
    outputs = rotated(project)
    assert (outputs["dry_run"], outputs["months_made"], outputs["months_dropped"]) == (True, 0, 0)
    assert outputs["months_droppable"] >= 1
    assert "아무것도 바꾸지 않았습니다" in outputs["report"]
    assert project.scene.count() == 40


def test_on_request_it_makes_and_drops_and_says_so_in_korean(project: Project) -> None:
    outputs = rotated(project, dry_run=False)
    assert (outputs["months_made"], outputs["rows_dropped"], outputs["months_ahead"]) == (2, 30, 3)
    assert outputs["months_dropped"] >= 1
    assert "삭제된 달" in outputs["report"]
    assert project.scene.count() == 10


@pytest.mark.long
def test_the_same_plain_numbers_every_time_and_no_report_where_nothing_happened(project: Project) -> None:
    for config in ({}, {"dry_run": False}, {"dry_run": False}):
        ((asset, metadata),) = project.run(JOB, config).observed()
        assert asset == "conversation_logs"
        assert all(type(metadata[name]) is int for name in NUMBERS)
    assert (metadata["months_made"], metadata["months_dropped"], metadata["report"]) == (0, 0, "")


def test_the_checks_say_how_far_ahead_it_is_and_what_is_in_p_future(project: Project) -> None:
    from saju_ops.defs.resources import LogDatabase
    from saju_ops.defs.schema.partitions import checks
    from saju_ops.settings.load import load_settings

    ahead, future = checks(load_settings())
    first = ahead(log_database=LogDatabase())
    assert (first.passed, first.metadata["months_ahead"].value, first.metadata["months_wanted"].value) == (True, 1, 3)
    assert future(log_database=LogDatabase()).passed
    project.scene.run("UPDATE conversation_logs SET created_at = '2036-01-01 00:00:00' WHERE log_id = 101")
    result = future(log_database=LogDatabase())
    assert (result.passed, result.metadata["rows_in_p_future"].value) == (False, 1)


def test_the_schedule_runs_at_four_in_the_morning_and_deletes(project: Project) -> None:
    schedule = project.definitions.resolve_schedule_def("log_partitions")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 4 * * *", "Asia/Seoul")
    context = dg.build_schedule_context(
        instance=project.instance, scheduled_execution_time=datetime.now(UTC),
        resources=project.definitions.resources,
    )  # fmt: skip
    (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.run_config["ops"][JOB]["config"]["dry_run"] is False


def test_the_schedule_skips_a_table_without_partitions(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(sqlite_url, tmp_path, monkeypatch)
    schedule = project.definitions.resolve_schedule_def("log_partitions")
    context = dg.build_schedule_context(
        instance=project.instance, scheduled_execution_time=datetime.now(UTC),
        resources=project.definitions.resources,
    )  # fmt: skip
    assert "Partitions are not supported on SQLite" in str(schedule.evaluate_tick(context).skip_message)
    run = project.run(JOB, {"dry_run": False})
    assert not run.succeeded
