"""How far a command is: a bar on a terminal, plain lines in a pipe, and nothing of either in what scripts read."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.defs.project import ago
from saju_ops_tests.stale.scene import Scene as StaleScene

BAR = b"\x1b["  # a terminal's command: a bar is drawn, and drawn over


class Ended:
    def __init__(self, status: int, stdout: bytes, terminal: bytes) -> None:
        self.status, self.stdout, self.terminal = status, stdout, terminal


def environment(url: str, folder: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"], "HOME": str(folder), "DATABASE_URL": url, "BACKUP_URI": str(folder / "backups"),
        "CHROMA_DB_PATH": str(folder / "chroma_db"), "ARCHIVE_START_DATE": str(ago(60)), "TERM": "xterm-256color",
        "LANG": "C.UTF-8", "XDG_STATE_HOME": str(folder / "state"), **more,
    }  # fmt: skip


def on_terminal(*arguments: str, folder: Path, env: dict[str, str], output_too: bool = False) -> Ended:
    """The command with standard error, and perhaps standard output, on a terminal of its own."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "saju_ops.cli", *arguments], env=env, cwd=folder, stdin=subprocess.DEVNULL,
        stdout=its if output_too else subprocess.PIPE, stderr=its,
    )  # fmt: skip
    os.close(its)
    found: dict[int, bytearray] = {mine: bytearray()}
    if process.stdout is not None:
        found[process.stdout.fileno()] = bytearray()
    open_ends = set(found)
    while open_ends:
        for end in select.select(list(open_ends), [], [], 120)[0]:
            try:
                data = os.read(end, 65536)
            except OSError:  # the terminal's other end is closed
                data = b""
            found[end] += data
            if not data:
                open_ends.discard(end)
    os.close(mine)
    stdout = bytes(found[process.stdout.fileno()]) if process.stdout is not None else b""
    return Ended(process.wait(120), stdout, bytes(found[mine]))


def in_pipes(*arguments: str, folder: Path, env: dict[str, str]) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "saju_ops.cli", *arguments], env=env, cwd=folder, capture_output=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path) -> dict[str, Any]:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    for number, days in enumerate((40, 39, 38)):
        scene.add(5, first=number * 100 + 1, day=ago(days), content="canary-4711")
    return {"folder": tmp_path, "env": environment(sqlite_url, tmp_path)}


@pytest.mark.long
def test_archive_verify_purge_and_restore_show_a_bar_on_a_terminal_and_plain_lines_in_a_pipe(
    service: dict[str, Any],
) -> None:
    archived = on_terminal("archive", **service)
    assert archived.status == 0
    assert b"archive" in archived.terminal or b"day 20" in archived.terminal
    assert BAR in archived.terminal
    assert BAR not in archived.stdout
    assert b"[3/3] " in archived.stdout
    again = in_pipes("archive", **service)
    assert BAR not in again.stdout + again.terminal
    assert again.stdout.count(b"/3] ") == 3
    for command in (
        ["verify", "--no-drills"], ["purge"],
        ["restore-logs", "--from", str(ago(40)), "--to", str(ago(38)), "--dry-run"],
    ):  # fmt: skip
        shown, plain = on_terminal(*command, **service), in_pipes(*command, **service)
        assert BAR in shown.terminal, command
        assert BAR not in shown.stdout, command
        assert shown.stdout.splitlines()[-1:] == plain.stdout.splitlines()[-1:], command
        assert plain.terminal == b"", command
        assert (shown.status, plain.status) == (0, 0), command
        assert b"canary" not in shown.terminal + shown.stdout + plain.stdout


@pytest.mark.long
def test_a_dump_shows_a_bar_on_a_terminal(service: dict[str, Any]) -> None:
    dumped = on_terminal("dump", **service)
    assert dumped.status == 0, dumped.terminal
    assert BAR in dumped.terminal
    assert BAR not in dumped.stdout
    restored = on_terminal("restore-dump", "--into", f"sqlite:///{service['folder']}/new.db", **service)
    assert restored.status == 0, restored.terminal
    assert BAR in restored.terminal
    assert restored.stdout.splitlines()[-1].startswith(b"Done: ")


@pytest.mark.long
def test_lines_stay_above_the_bar_where_both_are_one_terminal(service: dict[str, Any]) -> None:
    archived = on_terminal("archive", output_too=True, **service)
    assert archived.status == 0
    lines = [line for line in archived.terminal.split(b"\r\n") if b"/3] " in line]
    assert len(lines) == 3


@pytest.mark.long
def test_the_report_on_stale_jobs_is_the_same_to_the_letter_on_a_terminal_and_in_a_pipe(
    sqlite_url: str, tmp_path: Path
) -> None:
    scene = StaleScene(sqlite_url, tmp_path / "backups").create()
    scene.job("job_1", files=2)
    env = environment(sqlite_url, tmp_path, ANALYSIS_DATABASE_URL=sqlite_url)
    for command in (["--check"], ["--stats"], ["--check", "--json"], ["--apply"]):
        plain = in_pipes("reconcile-stale-jobs", *command, folder=tmp_path, env=env)
        assert plain.terminal == b"", command
        assert BAR not in plain.stdout
        assert plain.status == 0
        if command == ["--apply"]:
            scene.job("job_2", files=2)
        shown = on_terminal("reconcile-stale-jobs", *command, folder=tmp_path, env=env)
        assert BAR in shown.terminal, command
        assert BAR not in shown.stdout
        if command in (["--check"], ["--stats"]):
            assert shown.stdout == plain.stdout


@pytest.mark.long
@pytest.mark.parametrize("terminal", ["dumb", ""])
def test_a_terminal_that_can_not_draw_gets_plain_lines(service: dict[str, Any], terminal: str) -> None:
    service["env"]["TERM"] = terminal
    archived = on_terminal("archive", **service)
    assert archived.status == 0
    assert BAR not in archived.terminal + archived.stdout
    assert archived.stdout.count(b"/3] ") == 3


@pytest.mark.long
def test_a_terminal_that_is_not_utf8_gets_a_bar_it_can_draw(service: dict[str, Any]) -> None:
    service["env"] |= {"LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    archived = on_terminal("archive", **service)
    assert archived.status == 0
    assert b"Traceback" not in archived.terminal
    assert BAR in archived.terminal
