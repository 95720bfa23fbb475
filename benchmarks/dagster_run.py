"""The same through Dagster: `dagster asset materialize` over a range of partitions, in one run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path


def definitions_exist() -> bool:
    return importlib.util.find_spec("saju_ops.definitions") is not None


def materialize(url: str, folder: Path, first: str, last: str) -> float:
    """Seconds of one run over the days from first to last, Dagster's own start included."""
    home = folder / "dagster_home"
    home.mkdir(parents=True)
    env = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DATABASE_URL": url,
        "BACKUP_URI": str(folder / "backups"),
        "ARCHIVE_START_DATE": first,
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "saju_ops.definitions"]
    command += ["--select", "conversation_log_archive", "--partition-range", f"{first}...{last}"]
    began = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("The Dagster run failed:\n" + "\n".join(done.stderr.splitlines()[-30:]))
    return time.monotonic() - began


def cold_load(rounds: int = 5) -> tuple[float, float]:
    """Seconds of `import saju_ops.definitions` and of `import dagster`, fresh interpreters, best of each."""
    best = {"saju_ops.definitions": 1e9, "dagster": 1e9}
    for _ in range(rounds):
        for module in best:
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True, capture_output=True)
            best[module] = min(best[module], time.monotonic() - began)
    return best["saju_ops.definitions"], best["dagster"]
