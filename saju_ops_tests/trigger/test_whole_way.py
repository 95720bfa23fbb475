"""From the call to the purged rows, as a host with one web process runs it: `saju-ops serve-trigger --with-dagster`."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData

from saju_ops_tests.jobs.dev_server import until
from saju_ops_tests.jobs.project import CANARY, Project, ago
from saju_ops_tests.trigger.scene import TOKEN, Trigger, free_port, serve_trigger


@pytest.mark.parametrize("url", ["https://dagster.example.com", "http://dagster.example.com:3000"])
def test_dagster_is_only_started_on_this_machine(url: str) -> None:
    said = serve_trigger("--with-dagster", CLEANUP_TRIGGER_TOKEN=TOKEN, DAGSTER_WEBSERVER_URL=url)
    assert said.returncode == 1
    assert f"DAGSTER_WEBSERVER_URL holds '{url}'" in said.stderr
    assert not Path(".dagster_home").exists()


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
    folder = tmp_path / "host"
    monkeypatch.setenv("DAGSTER_HOME", str(folder / ".dagster_home"))
    trigger = Trigger(
        folder, "--with-dagster", **project.settings, DAGSTER_WEBSERVER_URL=f"http://127.0.0.1:{free_port()}"
    )
    with trigger:
        # A host that was just woken by the call: it waits until Dagster has started.
        began = trigger.call("GET", "/run-cleanup")
        asked = time.monotonic()
        while began.status_code == 503 and time.monotonic() - asked < 90:  # a machine that is very busy
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

        with dg.DagsterInstance.get() as instance:
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

        # Dagster ends by itself: so does the trigger, for the host to start both again.
        (dagster,) = psutil.Process(trigger.process.pid).children()
        dagster.send_signal(signal.SIGTERM)
        assert trigger.process.wait(timeout=60) == 1
        assert "Dagster ended by itself" in trigger.said()
        assert TOKEN not in trigger.said()
        assert CANARY not in trigger.said()
