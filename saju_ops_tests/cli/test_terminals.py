"""Every command prints on any terminal, and ends with the status that it has anyway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saju_ops_tests.stale.scene import Scene


def run(*arguments: str, encoding: str, url: str, folder: Path) -> tuple[int, str]:
    environment = {
        "PATH": os.environ["PATH"], "DATABASE_URL": url, "PYTHONIOENCODING": encoding, "LANG": "C", "PYTHONUTF8": "0",
        "SLACK_CHANNEL": "운영-알림", "HOME": str(folder),
    }  # fmt: skip
    command = [sys.executable, "-m", "saju_ops.cli", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=False, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode(encoding, "replace")


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp949"])
def test_a_terminal_that_is_not_utf8_gets_every_line(encoding: str, sqlite_url: str, tmp_path: Path) -> None:
    Scene(sqlite_url, tmp_path / "backups").create()
    for arguments, first, last in (
        (("reconcile-stale-jobs", "--stats"), "=====", "==="), (("status",), "SLACK_CHANNEL", "DAGSTER_HOME"),
    ):  # fmt: skip
        status, text = run(*arguments, encoding=encoding, url=sqlite_url, folder=tmp_path)
        plain, _ = run(*arguments, encoding="utf-8", url=sqlite_url, folder=tmp_path)
        assert "Traceback" not in text
        assert (status, first in text, last in text) == (plain, True, True)
