"""The weekly schedule: which days one tick asks to be archived."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from saju_ops.defs.conversation_logs.schedule import contiguous
from saju_ops.defs.resources import LogDatabase
from saju_ops.errors import OperatorError
from saju_ops_tests.defs.project import RANGE_END, RANGE_START, Project, ago, recorded_run

ARCHIVE = dg.AssetKey("conversation_log_archive")


@pytest.fixture
def project(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Days from 40 days ago on; 31 days ago is the last that is due."""
    project = Project(sqlite_url, tmp_path, monkeypatch, ARCHIVE_START_DATE=str(ago(40)))
    # A schedule's context opens the instance by its reference, which one in memory doesn't have.
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as project.instance:
        yield project


def tick(project: Project, at: datetime | None = None) -> list[dg.RunRequest]:
    (schedule,) = (s for s in project.definitions.schedules or [] if s.name == "log_cleanup")
    assert isinstance(schedule, dg.ScheduleDefinition)
    with dg.build_schedule_context(
        instance=project.instance,
        scheduled_execution_time=at or datetime.now(UTC),
        resources={"log_database": LogDatabase()},
    ) as context:
        requests = schedule(context)
    assert isinstance(requests, list)
    return requests


def ranges(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    return [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in requests]


def span(first: int, last: int) -> tuple[str, str]:
    return str(ago(first)), str(ago(last))


def materialized(project: Project, first: int, last: int) -> None:
    for days in range(first, last - 1, -1):
        project.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition=str(ago(days))))


def works_on(
    project: Project, tags: dict[str, str], status: dg.DagsterRunStatus, selection: frozenset[dg.AssetKey] | None = None
) -> None:
    recorded_run(project.instance, "any", status, tags, selection)


# --- what is due ------------------------------------------------------------------------------------------


def test_a_first_tick_asks_for_every_day_from_the_start_to_the_retention_in_one_run(project: Project) -> None:
    assert ranges(tick(project)) == [span(40, 31)]


def test_days_that_are_archived_are_left_out(project: Project) -> None:
    materialized(project, 40, 33)
    assert ranges(tick(project)) == [span(32, 31)]


def test_after_weeks_of_downtime_one_tick_asks_for_all_that_was_missed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_RETENTION_DAYS", "7")
    materialized(project, 40, 31)
    assert ranges(tick(project)) == [(str(ago(30)), str(ago(8)))]


def test_a_dry_run_for_a_tick_in_the_future_asks_for_what_is_due_now(project: Project) -> None:
    """Dagster evaluates a dry run for the next tick: the UI's test of a schedule, and the HTTP trigger."""
    assert ranges(tick(project, datetime.now(UTC) + timedelta(days=6))) == [span(40, 31)]


def test_days_with_gaps_become_a_run_for_each_stretch(project: Project) -> None:
    materialized(project, 38, 36)
    materialized(project, 33, 33)
    requests = tick(project)
    assert ranges(requests) == [span(40, 39), span(35, 34), span(32, 31)]
    assert len({r.run_key for r in requests}) == 3
    assert {r.tags["saju_ops/cleanup_runs"] for r in requests} == {"3"}


def test_an_archived_day_that_has_rows_again_is_due_again(project: Project) -> None:
    materialized(project, 40, 31)
    project.add(1, ago(35), first=1)
    assert ranges(tick(project)) == [span(35, 35)]


def test_rows_within_the_retention_are_not_due(project: Project) -> None:
    materialized(project, 40, 31)
    project.add(1, ago(30), first=1)
    project.add(1, ago(1), first=2)
    assert ranges(tick(project)) == [span(31, 31)]


def test_with_nothing_due_one_run_still_starts_so_that_the_chain_runs(project: Project) -> None:
    materialized(project, 40, 31)
    (request,) = tick(project)
    assert ranges([request]) == [span(31, 31)]
    assert request.tags["saju_ops/cleanup_runs"] == "1"


def test_a_service_younger_than_the_retention_has_nothing_to_ask_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_START_DATE", str(ago(10)))
    assert tick(project) == []


def test_the_retention_of_the_settings_decides(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_RETENTION_DAYS", "35")
    assert ranges(tick(project)) == [span(40, 36)]


def test_the_day_that_holds_the_cutoff_stays_at_every_hour_of_the_day(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days are Seoul's: just before and after midnight there, the last due day differs."""
    midnight = ago(0).start
    assert ranges(tick(project, midnight - timedelta(seconds=1))) == [span(40, 32)]
    assert ranges(tick(project, midnight)) == [span(40, 31)]


# --- what is being worked on ------------------------------------------------------------------------------

ACTIVE = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]


@pytest.mark.long
@pytest.mark.parametrize("status", ACTIVE)
def test_days_of_a_run_that_has_not_ended_are_left_out(project: Project, status: str) -> None:
    active = dg.DagsterRunStatus[status]
    works_on(project, {RANGE_START: str(ago(38)), RANGE_END: str(ago(36))}, active)
    works_on(project, {"dagster/partition": str(ago(33))}, active, frozenset({ARCHIVE}))
    assert ranges(tick(project)) == [span(40, 39), span(35, 34), span(32, 31)]


@pytest.mark.long
@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED"])
def test_days_of_a_run_that_ended_without_an_archive_are_asked_for_again(project: Project, status: str) -> None:
    works_on(project, {RANGE_START: str(ago(38)), RANGE_END: str(ago(36))}, dg.DagsterRunStatus[status])
    assert ranges(tick(project)) == [span(40, 31)]


def test_runs_of_other_assets_and_jobs_leave_nothing_out(project: Project) -> None:
    active = dg.DagsterRunStatus.STARTED
    days = {RANGE_START: str(ago(38)), RANGE_END: str(ago(36))}
    works_on(project, days, active, frozenset({dg.AssetKey("another_asset")}))
    works_on(project, {"dagster/partition": "eu-west"}, active)
    works_on(project, {}, active)
    assert ranges(tick(project)) == [span(40, 31)]


def test_nothing_is_asked_for_twice_while_a_run_works_on_all_of_it(project: Project) -> None:
    works_on(project, {RANGE_START: str(ago(40)), RANGE_END: str(ago(31))}, dg.DagsterRunStatus.STARTED)
    assert tick(project) == []


# --- what a run is called ---------------------------------------------------------------------------------


def test_runs_carry_the_name_of_their_tick_and_keys_of_their_own(project: Project) -> None:
    at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    name = at.strftime("%Y-%m-%dT%H:%MZ")
    (request,) = tick(project, at)
    assert request.run_key == f"archive-{name}-{ago(40)}-{ago(31)}"
    assert request.tags == {
        RANGE_START: str(ago(40)), RANGE_END: str(ago(31)), "saju_ops/cleanup": name, "saju_ops/cleanup_runs": "1",
    }  # fmt: skip


@pytest.mark.long
def test_what_a_tick_asks_for_can_be_run(project: Project) -> None:
    project.add(20, ago(35), first=1)
    (request,) = tick(project)
    run = project.run("archive_conversation_logs", tags=request.tags)
    assert run.succeeded, run.failure
    assert len(run.materialized()) == 10
    assert project.scene.parts(ago(35)) == [20]
    assert ranges(tick(project)) == [span(35, 35)], "its rows are in the table till the purge"
    assert project.purge(dry_run=False).succeeded
    assert ranges(tick(project)) == [span(31, 31)]


# --- bad days ---------------------------------------------------------------------------------------------


def test_a_database_that_does_not_answer_fails_the_tick_with_a_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://root:hunter2@127.0.0.1:1/db")
    with pytest.raises(OperatorError, match="can't be reached") as refused:
        tick(project)
    assert "hunter2" not in str(refused.value)


@pytest.mark.long
def test_a_tick_over_years_and_many_runs_is_quick(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick has sixty seconds. It asked the run storage once per due day: 15 s for these."""
    monkeypatch.setenv("ARCHIVE_START_DATE", str(ago(2000)))
    for _ in range(100):
        works_on(project, {RANGE_START: str(ago(40)), RANGE_END: str(ago(31))}, dg.DagsterRunStatus.QUEUED)
    began = time.monotonic()
    assert ranges(tick(project)) == [span(2000, 41)]
    assert time.monotonic() - began < 5


def test_contiguous_days_are_joined() -> None:
    days = [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 3)]
    assert list(contiguous(days)) == [(days[0], days[2]), (days[3], days[3])]
    assert list(contiguous([])) == []
