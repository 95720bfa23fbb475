"""Runs whose process is gone are ended when Dagster starts; no other is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from saju_ops.dead_runs import end_dead_runs
from saju_ops.processes import is_alive, is_family_of
from saju_ops_tests.trigger.scene import free_port


@dg.op
def nothing() -> None:
    pass


@dg.job
def some_job() -> None:
    nothing()


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("home"))) as made:
        yield made


def run_of(instance: dg.DagsterInstance, pid: int | None, status: str = "STARTED") -> str:
    run = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus[status])
    if pid is not None:
        text = f"Started process for run (pid: {pid})."
        instance.report_engine_event(text, run, EngineEventData.in_process(pid))
    return run.run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_a_run_whose_process_is_gone_fails_with_a_sentence(instance: dg.DagsterInstance) -> None:
    dead = run_of(instance, ended_process())
    assert end_dead_runs(instance) == [dead]
    assert status_of(instance, dead) == "FAILURE"
    said = [e.dagster_event.message or "" for e in instance.all_logs(dead) if e.dagster_event]
    assert any("process of this run is gone" in text for text in said)
    assert end_dead_runs(instance) == []


def test_a_run_that_works_is_left_alone(instance: dg.DagsterInstance) -> None:
    alive = run_of(instance, os.getpid())
    assert end_dead_runs(instance) == []
    assert status_of(instance, alive) == "STARTED"


def test_another_process_that_has_the_number_now_does_not_keep_a_run_alive(instance: dg.DagsterInstance) -> None:
    """After a reboot numbers begin anew."""
    run_id = run_of(instance, os.getpid())
    assert is_alive(os.getpid(), time.time())
    assert not is_alive(os.getpid(), time.time() - 86400)
    assert end_dead_runs(instance, lambda pid, at: is_alive(pid, at - 86400)) == [run_id]


@pytest.mark.long
@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "SUCCESS", "FAILURE"])
def test_a_run_that_does_not_work_is_left_to_dagster(instance: dg.DagsterInstance, status: str) -> None:
    run_id = run_of(instance, ended_process(), status)
    assert end_dead_runs(instance) == []
    assert status_of(instance, run_id) == status


def test_a_run_that_was_being_cancelled_is_cancelled(instance: dg.DagsterInstance) -> None:
    run_id = run_of(instance, ended_process(), "CANCELING")
    assert end_dead_runs(instance) == [run_id]
    assert status_of(instance, run_id) == "CANCELED"


def test_a_run_that_never_said_its_process_is_left_to_dagster(instance: dg.DagsterInstance) -> None:
    run_of(instance, None)
    assert end_dead_runs(instance) == []


def test_runs_of_another_launcher_may_work_on_another_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    launcher = {"run_launcher": {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}}
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("home")), overrides=launcher) as instance:
        run_of(instance, ended_process())
        assert end_dead_runs(instance) == []


def test_a_process_that_ended_and_was_not_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        time.sleep(1)
        assert not is_alive(process.pid, time.time())
    finally:
        process.wait()


def test_who_listens_on_a_port_is_known_down_to_the_grandchildren() -> None:
    port = free_port()
    code = (
        "import socket, subprocess, sys, time\n"
        "if len(sys.argv) > 2:\n"
        "    subprocess.run([sys.executable, '-c', open('/proc/self/cmdline').read().split('\\0')[2], sys.argv[1]])\n"
        "else:\n"
        "    with socket.create_server(('127.0.0.1', int(sys.argv[1]))):\n"
        "        print('listening', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(port), "parent"], stdout=-1, text=True) as parent:
        assert not is_family_of(os.getpid(), free_port())
        assert parent.stdout is not None
        assert parent.stdout.readline() == "listening\n"
        assert is_family_of(parent.pid, port)
        assert is_family_of(os.getpid(), port)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as other:
            assert not is_family_of(other.pid, port)
            other.kill()
        subprocess.run(["pkill", "-P", str(parent.pid)], check=True)
        parent.kill()
