"""`saju-ops serve-trigger --with-dagster`: everything in the one web process that some hosts allow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from saju_ops_tests.jobs.dev_server import until
from saju_ops_tests.jobs.project import Project, ago
from saju_ops_tests.trigger.scene import BEARER, TOKEN, free_port, serve_trigger


def test_dagster_is_only_started_on_this_machine() -> None:
    said = serve_trigger(
        "--with-dagster", CLEANUP_TRIGGER_TOKEN=TOKEN, DAGSTER_WEBSERVER_URL="https://dagster.example.com"
    )
    assert said.returncode == 1
    assert "DAGSTER_WEBSERVER_URL holds 'https://dagster.example.com'" in said.stderr
    assert not Path(".dagster_home").exists()


@pytest.fixture
def started(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    project = Project(sqlite_url, tmp_path, monkeypatch, ARCHIVE_START_DATE=str(ago(40)))
    port, dagster = free_port(), free_port()
    log = tmp_path / "all.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "saju-ops"), "serve-trigger", "--with-dagster"],
            env=project.environment(
                CLEANUP_TRIGGER_TOKEN=TOKEN, PORT=str(port), DAGSTER_WEBSERVER_URL=f"http://127.0.0.1:{dagster}"
            ),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        everything = children(process)
        for each in everything:
            each.kill()
        process.kill()
        process.wait()
        psutil.wait_procs(everything, timeout=10)


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_call_to_a_host_that_just_woke_waits_for_dagster_and_both_end_together(
    started: tuple[subprocess.Popen[bytes], str, Path],
) -> None:
    process, url, log = started
    until(lambda: lives(url), 30, "the trigger")
    began = time.monotonic()
    answer = httpx.post(f"{url}/run-cleanup", headers=BEARER, timeout=60)
    while answer.status_code == 503 and time.monotonic() - began < 90:  # on a machine that is busy
        answer = httpx.post(f"{url}/run-cleanup", headers=BEARER, timeout=60)
    assert answer.status_code == 202, answer.text
    family = children(process)
    assert any("dagster-webserver" in " ".join(p.cmdline()) or "dagster_webserver" in " ".join(p.cmdline())
               for p in family)  # fmt: skip
    (dagster,) = psutil.Process(process.pid).children()
    dagster.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1
    assert "Dagster ended by itself" in log.read_text()
    assert TOKEN not in log.read_text()
    # What is left is the code server, for as long as a run works; it ends with it.
    until(lambda: all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in family), 60, "the end of all")
    assert os.getpid() != process.pid
