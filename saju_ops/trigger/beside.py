"""Dagster's UI and daemon as a child of the trigger, for hosts that run one web process and nothing else.

They live and die together: when Dagster ends, the trigger ends too, so that the host starts both again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from saju_ops.errors import Refused
from saju_ops.processes import is_family_of, require_free
from saju_ops.settings.settings import Settings

STOP_SECONDS = 12.0
LOOK_SECONDS = 2.0


def port_beside(settings: Settings) -> int:
    """The port on which Dagster is to be started. Raises Refused where its address isn't this machine's own."""
    url = urlsplit(settings.dagster_webserver_url)
    if url.scheme != "http" or url.hostname not in ("127.0.0.1", "localhost") or url.path:
        raise Refused(
            f"DAGSTER_WEBSERVER_URL holds {settings.dagster_webserver_url!r}; with --with-dagster it may hold"
            " http://127.0.0.1:<port>, because Dagster's UI has no login. Nothing was started."
        )
    return url.port or 80


class DagsterBeside:
    """`saju-ops dev` as a child. `ended` is called, from a thread, when it ends by itself."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._seen = 0.0

    @contextmanager
    def running(self, ended: Callable[[], None]) -> Iterator[subprocess.Popen[bytes]]:
        """For as long as the block runs. Raises OperatorError where another program has the port."""
        require_free("127.0.0.1", self.port, "DAGSTER_WEBSERVER_URL")
        environment = {k: v for k, v in os.environ.items() if k not in ("CLEANUP_TRIGGER_TOKEN", "PORT")}
        self.process = process = subprocess.Popen(
            [sys.executable, "-m", "saju_ops.cli", "dev", "--port", str(self.port)],
            env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=_watch, args=(process, ended), daemon=True).start()
        try:
            yield process
        finally:
            # It ends all that descends from it within some seconds; runs may be killed at any moment.
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def answers(self) -> bool:
        """Whether it is our own child that listens on the port: another installation's Dagster would start the clean-up
        of its own database. Looked at again every few seconds, since a look takes some milliseconds."""
        if self.process is None or self.process.poll() is not None:
            return False
        if time.monotonic() - self._seen > LOOK_SECONDS and not is_family_of(self.process.pid, self.port):
            return False
        self._seen = time.monotonic()
        return True


def _watch(process: subprocess.Popen[bytes], ended: Callable[[], None]) -> None:
    process.wait()
    ended()
