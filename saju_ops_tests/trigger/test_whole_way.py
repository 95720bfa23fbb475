"""From the call to the purged rows, with Dagster's webserver, daemon and the trigger as processes."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData

from saju_ops_tests.jobs.dev_server import DevServer, until
from saju_ops_tests.jobs.project import CANARY, Project, ago
from saju_ops_tests.trigger.scene import TOKEN, Trigger


def look_at_once(instance: dg.DagsterInstance) -> None:
    """The sensor forgets when it looked last; it looks every thirty seconds."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == "purge_after_archive" and state.instigator_data:
            assert isinstance(state.instigator_data, SensorInstigatorData)
            data = SensorInstigatorData(sensor_type=state.instigator_data.sensor_type)
            instance.update_instigator_state(state.with_data(data))


def test_one_call_archives_and_purges_and_the_trigger_tells_how_far_it_is(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(mysql_url, tmp_path, monkeypatch, ARCHIVE_START_DATE=str(ago(40)))
    project.add(300, ago(38), first=1)
    project.add(200, ago(33), first=1001)
    project.add(100, ago(3), first=2001)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with (
        DevServer(tmp_path / "home", project.environment()) as dev,
        dg.DagsterInstance.get() as instance,
        Trigger(tmp_path / "trigger", DAGSTER_WEBSERVER_URL=f"http://127.0.0.1:{dev.port}") as trigger,
    ):
        began = trigger.call("GET", "/run-cleanup")
        assert began.status_code == 202, began.text
        address = began.json()["state_url"].removeprefix(trigger.url)
        seen: list[str] = []

        def done() -> bool:
            told = trigger.call("GET", address)
            assert told.status_code == 200, told.text
            if told.json()["state"] not in seen:
                seen.append(told.json()["state"])
            if seen[-1] == "waiting_for_purge":
                look_at_once(instance)
            time.sleep(0.3)
            return bool(told.json()["done"])

        until(done, 120, "the end of the clean-up")
        told = trigger.call("GET", address).json()
        assert seen[-1] == "succeeded"
        assert set(seen) <= {"queued", "running", "waiting_for_purge", "purging", "succeeded"}
        assert told["message"] == "Archived and purged."
        assert [r["status"] for r in told["runs"]] == ["SUCCESS"]
        assert told["purge"]["status"] == "SUCCESS"
        assert project.scene.parts(ago(38)) == [300]
        assert project.scene.parts(ago(33)) == [200]
        assert project.scene.count() == 100

        # Dagster goes away.
        dev.kill()
        down = trigger.call("POST", "/run-cleanup")
        assert (down.status_code, down.headers["retry-after"]) == (503, "30")
        assert trigger.call("GET", address).status_code == 503
        assert trigger.stop() == 0
        for log in (trigger.said(), dev.log.read_text(errors="replace")):
            assert TOKEN not in log
        assert CANARY not in trigger.said()
        assert "Traceback" not in trigger.said()
