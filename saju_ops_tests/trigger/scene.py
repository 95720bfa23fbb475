"""The trigger as an operator starts it, in a process of its own; and Dagster's webserver without its daemon, so that
runs stay queued for as long as a test looks at them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import uvicorn

from saju_ops.settings.load import load_settings
from saju_ops.trigger.server import configuration
from saju_ops_tests.defs.dev_server import PROJECT, START_TIMEOUT, DevServer, until

TOKEN = "correct-horse-battery-staple-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def serve_trigger(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """For one that ends by itself, because it refuses to start."""
    return subprocess.run(
        [_script(), "serve-trigger", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **settings},
    )  # fmt: skip


def _script() -> str:
    return str(Path(sys.executable).parent / "saju-ops")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Trigger:
    """`with Trigger(folder, DAGSTER_WEBSERVER_URL=…) as trigger:`; what it writes is in `log`."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder / "trigger.log"
        self.environment = {
            **os.environ, "PYTHONWARNINGS": "ignore", "CLEANUP_TRIGGER_TOKEN": TOKEN, "TRIGGER_PORT": "0",
            "DAGSTER_WEBSERVER_URL": f"http://127.0.0.1:{free_port()}", **settings,
        }  # fmt: skip
        self.folder, self.arguments = folder, arguments

    def __enter__(self) -> Self:
        # Started again, it may listen elsewhere.
        said_before = len(self.said()) if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [_script(), "serve-trigger", *self.arguments], env=self.environment, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self.url = until(lambda: self._address(said_before), 30, "the trigger's address")
            until(self._is_ready, 30, "the trigger's answer")
        except BaseException:
            self.__exit__()
            raise
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        """SIGKILL, to everything that it started too."""
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def _address(self, said_before: int) -> str | None:
        assert self.process.poll() is None, self.said()
        found = re.search(r"Listening on (http://\S+?) for", self.said()[said_before:])
        return found.group(1) if found else None

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def call(self, method: str, path: str, headers: Mapping[str, str] = BEARER, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", headers=dict(headers), timeout=90, **more)

    def raw(self, request: bytes, timeout: float = 10) -> tuple[int, bytes]:
        """Bytes that no client library would send; status and all that came back. 0: closed without an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(request)
            answer = b""
            try:
                while received := connection.recv(65536):
                    answer += received
            except ConnectionResetError:
                pass
        return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


class InThread:
    """The same server in this process, for tests of what it starts: there in a moment."""

    def __init__(self, **settings: str) -> None:
        chosen = load_settings(**settings)
        self.server = uvicorn.Server(configuration(chosen, TOKEN))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=30)
        self.socket.close()
        assert not self.thread.is_alive()

    def call(self, method: str, path: str, headers: Mapping[str, str] = BEARER) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", headers=dict(headers), timeout=90)


def error_of(response: httpx.Response) -> str:
    """The sentence; every error is one, as JSON."""
    assert response.headers["content-type"] == "application/json"
    answer = json.loads(response.text)
    assert list(answer) == ["error"]
    sentence: str = answer["error"]
    assert sentence.endswith(".")
    return sentence


class WebserverOnly(DevServer):
    """Without the daemon: what is launched stays in the queue."""

    def start(self) -> None:
        self.port = free_port()
        command = ["dagster-webserver", "-w", str(PROJECT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]], env=self.environment, cwd=self.home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            until(self._is_ready, START_TIMEOUT, "the webserver")
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
