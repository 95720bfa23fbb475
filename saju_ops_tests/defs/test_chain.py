"""The weekly clean-up on MySQL with real processes: a missed tick, the archive, a crash, a restart, the purge."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
)

from saju_ops_tests.defs.dev_server import DevServer, ended, until
from saju_ops_tests.defs.project import RANGE_END, RANGE_START, Project, Run, ago

CLEANUP = "saju_ops/cleanup"


def runs_of(instance: dg.DagsterInstance, job: str) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(job_name=job)))


def schedule_state(instance: dg.DagsterInstance) -> InstigatorState | None:
    found = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    return next((state for state in found if state.name == "log_cleanup"), None)


def sensor_state(instance: dg.DagsterInstance, name: str = "purge_after_archive") -> InstigatorState:
    found = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    return next(state for state in found if state.name == name)


def set_back(instance: dg.DagsterInstance, days: int) -> None:
    """As if the daemon had been down for so long: it last looked at the schedule then."""
    state = schedule_state(instance)
    assert state is not None
    assert isinstance(state.instigator_data, ScheduleInstigatorData)
    data = ScheduleInstigatorData(state.instigator_data.cron_schedule, time.time() - days * 86400)
    instance.update_instigator_state(state.with_data(data))


def forget(instance: dg.DagsterInstance, name: str = "purge_after_archive") -> None:
    """The sensor loses its cursor and when it looked last, so that it looks at once."""
    state = sensor_state(instance, name)
    assert isinstance(state.instigator_data, SensorInstigatorData)
    instance.update_instigator_state(
        state.with_data(SensorInstigatorData(sensor_type=state.instigator_data.sensor_type))
    )


@pytest.mark.long
def test_a_missed_clean_up_is_made_up_for_and_survives_a_crash_between_archive_and_purge(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far enough back to be due at last Monday's tick as well as now.
    project = Project(mysql_url, tmp_path, monkeypatch, ARCHIVE_START_DATE=str(ago(50)))
    project.add(300, ago(50), first=1)
    project.add(200, ago(45), first=1001)
    project.add(100, ago(3), first=2001)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with DevServer(tmp_path / "home", project.environment()) as dev, dg.DagsterInstance.get() as instance:
        until(lambda: schedule_state(instance), 60, "the schedule's first look")
        dev.kill()
        set_back(instance, days=8)
        dev.start()
        until(lambda: runs_of(instance, "archive_conversation_logs"), 60, "the missed tick's archive run")
        (archive,) = runs_of(instance, "archive_conversation_logs")
        assert ended(instance, archive.run_id).status is dg.DagsterRunStatus.SUCCESS
        dev.kill()

        assert archive.tags[RANGE_START] == str(ago(50))
        assert archive.tags[RANGE_END] >= str(ago(45))
        assert project.scene.parts(ago(50)) == [300]
        assert project.scene.parts(ago(45)) == [200]
        assert not runs_of(instance, "purge_conversation_logs"), "the crash came too late to be between the two"
        assert project.scene.count() == 600

        forget(instance)
        dev.start()
        until(lambda: runs_of(instance, "purge_conversation_logs"), 90, "the purge after the restart")
        (purge,) = runs_of(instance, "purge_conversation_logs")
        assert ended(instance, purge.run_id).status is dg.DagsterRunStatus.SUCCESS
        assert purge.tags[CLEANUP] == archive.tags[CLEANUP]
        assert Run(instance, purge.run_id).outputs()["rows_deleted"] == 500
        assert project.scene.count() == 100

        # The sensor looks again, without a cursor, and nothing more is launched.
        seen = len(sensor_ticks(instance))
        forget(instance)
        until(lambda: len(sensor_ticks(instance)) > seen, 60, "another look of the sensor")
        assert len(runs_of(instance, "purge_conversation_logs")) == 1
        assert len(runs_of(instance, "archive_conversation_logs")) == 1


def sensor_ticks(instance: dg.DagsterInstance) -> list[object]:
    state = sensor_state(instance)
    return list(instance.get_ticks(state.instigator_origin_id, state.selector_id))
