"""The UI, the daemon and the code server as `make dev` starts them, in a process group of their own.

Whatever happens in a test, nothing of it is left: the group is killed, runs that are still working included.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

import dagster as dg
import psutil

import saju_ops

PROJECT = Path(saju_ops.__file__).parent.parent
START_TIMEOUT = 90.0
T = TypeVar("T")

LAUNCH = """
mutation ($selector: JobOrPipelineSelector!, $config: RunConfigData) {
  launchRun(executionParams: {selector: $selector, runConfigData: $config}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"


def until(wanted: Callable[[], T], timeout: float, what: str) -> T:
    """The first value that is not false."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := wanted():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {timeout:.0f} s")


class DevServer:
    """`with DevServer(home, environment) as dev:`; `kill` and `start` are a crash and a restart on the same home."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        shutil.copy(PROJECT / "deploy" / "dagster.yaml", home / "dagster.yaml")
        binaries = Path(sys.executable).parent
        path = f"{binaries}{os.pathsep}{environment.get('PATH', '')}"
        self.environment = {**environment, "DAGSTER_HOME": str(home), "PATH": path}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home / "dev.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when the code location is loaded."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = ["dagster", "dev", "-w", str(PROJECT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]], env=self.environment, cwd=self.home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            until(self._is_ready, START_TIMEOUT, "the dev server")
        except BaseException:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text(errors="replace")
        try:
            found = self.graphql("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
        except (URLError, OSError):
            return False
        return bool(found["repositoriesOrError"].get("nodes"))

    def kill(self) -> None:
        """SIGKILL to all of it at once, as if the machine lost power. Harmless when it is down already."""
        process, self.process = self.process, None
        if process is None:
            return
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()
        psutil.wait_procs(children, timeout=10)

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(
            f"http://127.0.0.1:{self.port}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def launch(self, job: str, **config: Any) -> str:
        selector = {"repositoryLocationName": "saju_ops", "repositoryName": "__repository__", "jobName": job}
        answer = self.graphql(LAUNCH, selector=selector, config={"ops": {job: {"config": config}}})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        run_id: str = answer["run"]["runId"]
        return run_id

    def terminate(self, run_id: str) -> None:
        """What the button in the UI does."""
        answer = self.graphql(TERMINATE, run=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer


def ended(instance: dg.DagsterInstance, run_id: str, timeout: float = 60) -> dg.DagsterRun:
    def look() -> dg.DagsterRun | None:
        run = instance.get_run_by_id(run_id)
        return run if run is not None and run.is_finished else None

    found = until(look, timeout, f"the end of run {run_id}")
    assert found is not None
    return found
