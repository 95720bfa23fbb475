"""Starts the worker process, gives it a private folder to work in, and reads its answer.

Scratch folders are 0700 under TMPDIR and are removed when the work ends. The next run removes what a killed run left:
each folder in use is locked, and a lock ends with its process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import saju_ops
from saju_ops import errors
from saju_ops.errors import OperatorError, TornCopy

# What the process that opens hostile files gets of our environment: no secret, and nothing that Chroma reads its own
# settings from. Besides where things are: certificates and proxies for a Chroma server, and numpy's kernels.
HANDED_ON = {
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SQLITE_TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "all_proxy", "no_proxy", "MALLOC_ARENA_MAX", "TOKIO_WORKER_THREADS",
}  # fmt: skip
HANDED_ON_PREFIXES = ("PYTHON", "OPENBLAS_", "OMP_", "COV_")


class Worker:
    """A process of its own, for one task. Use it in a `with` block: it is gone at the end of that, whatever happens.

    With `warm` it imports Chroma and numpy while this process does something else.
    """

    def __init__(self, scratch: Path, *, warm: bool = False) -> None:
        self._task, self._looked_at = "", False
        self._output = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed in __exit__)
        # The pipe's writing end stays open until the answer is there: the worker ends when it closes.
        requests, self._to_worker = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "saju_ops.chroma.worker", *(["warm"] if warm else [])],
                stdin=requests, stdout=self._output, stderr=subprocess.DEVNULL, cwd=scratch, env=_environment(),
            )  # fmt: skip
        finally:
            os.close(requests)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to_worker)
        self._output.close()

    def start(self, task: str, **request: Any) -> None:
        self._task = task
        line = (json.dumps({"task": task, **request}) + "\n").encode()
        with suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._to_worker, line) :]

    def look(self) -> None:
        """Doesn't wait. Raises what `answer` would raise, where the process has ended already; once, and an answer is
        read once only: this is called for every megabyte that is packed."""
        if not self._looked_at and self._process.poll() is not None:
            self._looked_at = True
            self.answer()

    def answer(self) -> dict[str, Any]:
        """Waits. Raises the OperatorError that the worker answered, TornCopy if the worker died."""
        self._process.wait()
        self._output.seek(0)
        return _answer(self._task, self._output.read(), self._process.returncode)


def ask(task: str, scratch: Path, **request: Any) -> dict[str, Any]:
    """One task in a process of its own. Raises the OperatorError that it answered, TornCopy where it died."""
    with Worker(scratch) as worker:
        worker.start(task, **request)
        return worker.answer()


def _environment() -> dict[str, str]:
    package = str(Path(saju_ops.__file__).parent.parent)
    environment = {k: v for k, v in os.environ.items() if k in HANDED_ON or k.startswith(HANDED_ON_PREFIXES)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    environment.update(ANONYMIZED_TELEMETRY="False", PYTHONWARNINGS="ignore")
    # One arena of memory per thread of Chroma's would be kept for each. And numpy's library for matrices lets threads
    # spin between the small products of a check: 1.8 s of 3.8 s of CPU time for 20,000 vectors.
    for name, value in (("MALLOC_ARENA_MAX", "2"), ("TOKIO_WORKER_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1")):
        environment.setdefault(name, value)
    return environment


def _answer(task: str, output: bytes, status: int) -> dict[str, Any]:
    try:
        answer = json.loads(output)
    except ValueError:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise TornCopy(f"the process that opened it by Chroma ended with {how}") from None
    if "refused" in answer:
        name = answer["refused"]
        kind: type[OperatorError] = TornCopy if name == "TornCopy" else getattr(errors, name, OperatorError)
        raise kind(answer["text"])
    if "failed" in answer:
        why = answer["text"] or "no more is known"
        if answer["failed"] == "OSError" or task in ("fetch", "push", "usage"):
            raise OperatorError(f"Chroma's {task} broke off ({answer['failed']}: {why}).")
        raise TornCopy(f"Chroma can't read it ({answer['failed']}: {why})")
    return dict(answer)
