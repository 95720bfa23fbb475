"""The sensor that purges once the archive runs of a weekly clean-up succeeded, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from saju_ops.definitions import defs
from saju_ops_tests.defs.project import RANGE_END, RANGE_START, recorded_run

TICK = "2026-11-16T00:00Z"
NEXT_TICK = "2026-11-23T00:00Z"
SUCCESS, FAILURE, CANCELED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def ran(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, days: tuple[str, str] = ("2026-10-01", "2026-10-07"), *,
    tick: str | None = TICK, of: int = 1, age: timedelta = timedelta(), job: str = "archive_conversation_logs",
) -> dg.DagsterRun:  # fmt: skip
    """A run as the schedule asks for it, in this state."""
    tags = {RANGE_START: days[0], RANGE_END: days[1]}
    if tick:
        tags |= {"saju_ops/cleanup": tick, "saju_ops/cleanup_runs": str(of)}
    run = recorded_run(instance, job, status, tags)
    if age:
        storage = instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        with storage.connect() as connection:
            when = {"at": (datetime.now(UTC) - age).replace(tzinfo=None), "run": run.run_id}
            connection.execute(sa.text("UPDATE runs SET create_timestamp = :at WHERE run_id = :run"), when)
    return run


def look(instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[list[dg.RunRequest], str]:
    """What one tick asks for, and why it asks for nothing."""
    sensor = next(s for s in defs().sensors or [] if s.name == "purge_after_archive")
    assert isinstance(sensor, dg.SensorDefinition)
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    skipped = result.skip_reason
    reason = skipped.skip_message if isinstance(skipped, dg.SkipReason) else skipped
    return list(result.run_requests or []), reason or ""


def test_without_a_clean_up_it_says_that_none_is_waiting(instance: dg.DagsterInstance) -> None:
    assert look(instance) == ([], "no weekly clean-up is waiting for its purge")


def test_it_purges_for_real_when_the_archive_run_succeeded(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS)
    ((request,), _) = look(instance)
    assert request.run_config["ops"]["purge_conversation_logs"]["config"]["dry_run"] is False
    assert request.tags["saju_ops/cleanup"] == TICK


def test_the_run_config_it_asks_with_is_valid_for_the_job(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS)
    ((request,), _) = look(instance)
    assert dg.validate_run_config(defs().resolve_job_def("purge_conversation_logs"), request.run_config)


@pytest.mark.parametrize("status", UNFINISHED)
def test_it_waits_for_a_run_that_has_not_ended(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    run = ran(instance, status)
    assert look(instance) == ([], f"{TICK}: archive run {run.run_id[:8]} is {status.value}")


@pytest.mark.parametrize("status", [FAILURE, CANCELED])
def test_nothing_is_purged_after_a_run_that_did_not_succeed(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run = ran(instance, status)
    requests, reason = look(instance)
    assert not requests
    assert f"archive run {run.run_id[:8]} ended with {status.value}; nothing is purged until it is run again" in reason


def test_it_waits_until_every_range_of_the_clean_up_was_started(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, ("2026-10-01", "2026-10-07"), of=2)
    assert look(instance) == ([], f"{TICK}: 1 of 2 archive runs were started")
    ran(instance, dg.DagsterRunStatus.STARTED, ("2026-10-09", "2026-10-12"), of=2)
    assert not look(instance)[0]


def test_it_purges_when_every_range_succeeded(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, ("2026-10-01", "2026-10-07"), of=2)
    ran(instance, SUCCESS, ("2026-10-09", "2026-10-12"), of=2)
    assert len(look(instance)[0]) == 1


def test_one_failed_range_of_several_keeps_it_from_purging(instance: dg.DagsterInstance) -> None:
    ran(instance, FAILURE, ("2026-10-01", "2026-10-07"), of=2)
    ran(instance, SUCCESS, ("2026-10-09", "2026-10-12"), of=2)
    assert not look(instance)[0]


def test_a_failed_range_that_was_run_again_and_succeeded_counts_as_succeeded(instance: dg.DagsterInstance) -> None:
    ran(instance, FAILURE, ("2026-10-01", "2026-10-07"), of=2)
    ran(instance, SUCCESS, ("2026-10-09", "2026-10-12"), of=2)
    ran(instance, SUCCESS, ("2026-10-01", "2026-10-07"), of=2)
    assert len(look(instance)[0]) == 1


def test_the_same_range_run_twice_does_not_stand_for_a_missing_one(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, ("2026-10-01", "2026-10-07"), of=2)
    ran(instance, SUCCESS, ("2026-10-01", "2026-10-07"), of=2)
    assert not look(instance)[0]


def test_it_asks_with_the_same_key_whatever_its_cursor_so_dagster_launches_it_once(
    instance: dg.DagsterInstance,
) -> None:
    ran(instance, SUCCESS)
    keys = {look(instance, cursor)[0][0].run_key for cursor in (None, "", "lost")}
    assert keys == {f"purge-{TICK}"}


def test_each_clean_up_has_a_purge_of_its_own(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, age=timedelta(days=7))
    ran(instance, SUCCESS, ("2026-10-08", "2026-10-14"), tick=NEXT_TICK)
    assert [r.run_key for r in look(instance)[0]] == [f"purge-{TICK}", f"purge-{NEXT_TICK}"]


def test_a_clean_up_that_failed_does_not_hold_up_the_next(instance: dg.DagsterInstance) -> None:
    ran(instance, FAILURE, age=timedelta(days=7))
    ran(instance, SUCCESS, ("2026-10-01", "2026-10-14"), tick=NEXT_TICK)
    assert [r.run_key for r in look(instance)[0]] == [f"purge-{NEXT_TICK}"]


def test_an_archive_by_hand_is_followed_by_no_purge(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, tick=None)
    assert not look(instance)[0]


def test_runs_of_other_jobs_with_the_same_tag_do_not_count(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, job="purge_conversation_logs")
    assert not look(instance)[0]


def test_a_clean_up_of_long_ago_is_left_alone(instance: dg.DagsterInstance) -> None:
    ran(instance, SUCCESS, age=timedelta(days=9))
    assert not look(instance)[0]
