"""Runs a command, and ends it with all its descendants within a few seconds of a SIGTERM, SIGINT or SIGHUP.

`dagster dev` outlived a SIGTERM by 25 seconds, while its webserver and daemon continued; a host that stops a container
kills the rest after ten. All of them get the signal at once, and the rest is killed after GRACE_SECONDS: work under way
may be ended at any instruction. Imports nothing heavy, since it stays as long as the command runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from saju_ops.processes import descendants

GRACE_SECONDS = 4.0
LOOK_SECONDS = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Linux' prctl: a signal when the parent dies; orphans become our own children.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def supervise(command: Sequence[str]) -> int:
    """The command's exit status; 0 where a signal ended it. Files that are inheritable stay open in it."""
    asked: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: asked.append(number))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(
        command, start_new_session=True, close_fds=False, preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    )
    status: int | None = None
    while status is None and not asked:
        time.sleep(LOOK_SECONDS)
        status = _reap(process.pid)
    _end_all(process, asked)
    return 0 if status is None else status if status >= 0 else 128 - status


def _end_all(process: subprocess.Popen[bytes], asked: list[int]) -> None:
    """A second signal from outside shortens the wait."""
    begun, first = time.monotonic(), len(asked)
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while left := list(descendants(os.getpid())):
        if time.monotonic() - begun > GRACE_SECONDS or len(asked) > first:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
        _reap(process.pid)
    process.returncode = process.returncode or 0


def _reap(child: int) -> int | None:
    """Takes ended children away; the status of this one, once it has ended."""
    found: int | None = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = os.waitstatus_to_exitcode(status)
        return found
    return found if found is not None else 0


def _prctl(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # another system than Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
