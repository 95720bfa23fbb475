"""From the call to the purged rows, as a host with one web process runs it: `saju-ops serve-trigger --with-dagster`."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import dagster as dg
import psutil
import pytest
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData
from starlette.testclient import TestClient

from saju_ops.settings.load import load_settings
from saju_ops.trigger.app import trigger_app
from saju_ops.trigger.beside import DagsterBeside
from saju_ops_tests.defs.dev_server import until
from saju_ops_tests.defs.project import CANARY, Project, ago
from saju_ops_tests.trigger.scene import TOKEN, Trigger, free_port, serve_trigger


@pytest.mark.long
@pytest.mark.parametrize("url", ["https://dagster.example.com", "http://dagster.example.com:3000"])
def test_dagster_is_only_started_on_this_machine(url: str) -> None:
    said = serve_trigger("--with-dagster", CLEANUP_TRIGGER_TOKEN=TOKEN, DAGSTER_WEBSERVER_URL=url)
    assert said.returncode == 1
    assert f"DAGSTER_WEBSERVER_URL holds '{url}'" in said.stderr
    assert not Path(".dagster_home").exists()


def test_a_port_that_another_dagster_has_is_refused_and_nothing_is_started_there() -> None:
    with Other() as other:
        said = serve_trigger("--with-dagster", CLEANUP_TRIGGER_TOKEN=TOKEN, DAGSTER_WEBSERVER_URL=other.url)
    assert said.returncode == 1
    assert f"127.0.0.1:{other.port} can't be listened on (Address already in use): another program" in said.stderr
    assert "DAGSTER_WEBSERVER_URL names the port" in said.stderr
    assert other.asked == []


def test_another_dagster_that_takes_the_port_first_is_never_asked(tmp_path: Path) -> None:
    """It came between our look at the port and our child: the child ends, and the trigger with it."""
    port = free_port()
    beside = DagsterBeside(port)
    with Other(port) as other:
        beside.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            settings = load_settings(DAGSTER_WEBSERVER_URL=other.url)
            app = trigger_app(settings, TOKEN, 0.0, beside.answers)
            with TestClient(app) as client:
                answer = client.post("/run-cleanup", headers={"Authorization": f"Bearer {TOKEN}"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
            assert "the Dagster that this trigger started does not listen there" in answer.json()["error"]
            assert other.asked == []
        finally:
            beside.process.kill()
            beside.process.wait()


class Other:
    """Another installation's Dagster, for all that can be seen from outside."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def interrupted(trigger: Trigger, project: Project) -> list[str]:
    """SIGKILL to everything while a run is at work, which waits for a lock that is held here."""
    started = trigger.call("POST", "/run-cleanup")
    assert started.status_code == 202, started.text
    with project.scene.engine.connect() as holder:
        # Its process needs some seconds before it reads.
        holder.exec_driver_sql(f"LOCK TABLES {project.scene.name} WRITE")

        def working() -> bool:
            with dg.DagsterInstance.get() as instance:
                run = instance.get_run_by_id(started.json()["run_id"])
                return run is not None and run.status is dg.DagsterRunStatus.STARTED

        until(working, 60, "the run at work")
        trigger.__exit__()
    return [started.json()["run_id"]]


def look_at_once(instance: dg.DagsterInstance) -> None:
    """The sensor forgets when it looked last; it looks every thirty seconds."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == "purge_after_archive" and state.instigator_data:
            assert isinstance(state.instigator_data, SensorInstigatorData)
            data = SensorInstigatorData(sensor_type=state.instigator_data.sensor_type)
            instance.update_instigator_state(state.with_data(data))


@pytest.mark.long
def test_one_call_archives_and_purges_and_the_trigger_reports_its_progress(
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
        while began.status_code == 503 and time.monotonic() - asked < 240:  # a machine that is very busy
            began = trigger.call("GET", "/run-cleanup")
        assert began.status_code == 202, began.text
        address = began.json()["state_url"].removeprefix(trigger.url)
        seen: list[str] = []

        def done() -> bool:
            polled = trigger.call("GET", address)
            assert polled.status_code == 200, polled.text
            if polled.json()["state"] not in seen:
                seen.append(polled.json()["state"])
                if seen[-1] == "waiting_for_purge":
                    look_at_once(instance)
            time.sleep(0.3)
            return bool(polled.json()["done"])

        with dg.DagsterInstance.get() as instance:
            until(done, 120, "the end of the clean-up")
        state = trigger.call("GET", address).json()
        assert seen[-1] == "succeeded"
        assert set(seen) <= {"queued", "running", "waiting_for_purge", "purging", "succeeded"}
        assert state["message"] == "Archived and purged."
        assert [r["status"] for r in state["runs"]] == ["SUCCESS"]
        assert state["purge"]["status"] == "SUCCESS"
        assert project.scene.parts(ago(38)) == [300]
        assert project.scene.parts(ago(33)) == [200]
        assert project.scene.count() == 100

        # The host is switched off in the middle of another clean-up, and started again.
        project.add(300, ago(36), first=3001)
        (lost,) = interrupted(trigger, project)
    with trigger:
        with dg.DagsterInstance.get() as instance:
            until(lambda: instance.get_run_by_id(lost).is_finished, 60, "the end of the run whose process is gone")
            assert instance.get_run_by_id(lost).status is dg.DagsterRunStatus.FAILURE
        again = trigger.call("POST", "/run-cleanup")
        asked = time.monotonic()
        while again.status_code == 503 and time.monotonic() - asked < 240:
            again = trigger.call("POST", "/run-cleanup")
        assert (again.status_code, again.json()["started"]) == (202, True), again.text
        assert again.json()["run_id"] != lost

        # Dagster ends by itself: so does the trigger, for the host to start both again.
        (dagster,) = psutil.Process(trigger.process.pid).children()
        dagster.send_signal(signal.SIGTERM)
        assert trigger.process.wait(timeout=60) == 1
        assert "Dagster ended by itself" in trigger.said()
        assert TOKEN not in trigger.said()
        assert CANARY not in trigger.said()
