"""Dagster's UI and daemon as a child of the trigger, for hosts that run one web process and nothing else.

They live and die together: when Dagster ends, the trigger ends too, so that the host starts both again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from saju_ops.errors import Refused
from saju_ops.settings import Settings

STOP_SECONDS = 25.0


def port_beside(settings: Settings) -> int:
    """The port on which Dagster is to be started. Raises Refused where its address isn't this machine's own."""
    url = urlsplit(settings.dagster_webserver_url)
    if url.scheme != "http" or url.hostname not in ("127.0.0.1", "localhost") or url.path:
        raise Refused(
            f"DAGSTER_WEBSERVER_URL holds {settings.dagster_webserver_url!r}; with --with-dagster it may hold"
            " http://127.0.0.1:<port>, because Dagster's UI has no login. Nothing was started."
        )
    return url.port or 80


@contextmanager
def dagster_beside(port: int, ended: Callable[[], None]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `saju-ops dev` for as long as the block does. `ended` is called, from a thread, when it ends by itself."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CLEANUP_TRIGGER_TOKEN", "PORT")}
    process = subprocess.Popen(
        [sys.executable, "-m", "saju_ops.cli", "dev", "--port", str(port)],
        env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    threading.Thread(target=_watch, args=(process, ended), daemon=True).start()
    try:
        yield process
    finally:
        # A run that is under way ends by itself, or with the machine; each may be killed at any moment.
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _watch(process: subprocess.Popen[bytes], ended: Callable[[], None]) -> None:
    process.wait()
    ended()
