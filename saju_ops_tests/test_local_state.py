"""Locks in a folder of this user's own: nobody else can make them first."""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from saju_ops.errors import Busy, OperatorError
from saju_ops.local_state import one_at_a_time, state_folder

SOMEBODY = 54321


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a home and a temporary folder that everybody writes to, and no XDG_STATE_HOME."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(tmp_path / "home")))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "shared"))
    return tmp_path / "home"


def test_locks_are_in_a_folder_that_nobody_else_may_enter(home: Path) -> None:
    with one_at_a_time("dumps in /backups"):
        folder = home / ".local" / "state" / "saju_ops"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()] == [0o600]
        assert not any((home.parent / "shared").iterdir())


def test_home_in_the_environment_is_not_believed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo keeps it, cron sets it: the daemon and a command by hand must find the same lock."""
    monkeypatch.setenv("HOME", str(home.parent / "elsewhere"))
    assert state_folder() == home / ".local" / "state" / "saju_ops"


def test_a_lock_that_another_user_made_in_the_shared_folder_blocks_nothing(home: Path) -> None:
    name = hashlib.sha256(b"dumps in /backups").hexdigest()[:24]
    foreign = home.parent / "shared" / f"saju_ops_{os.getuid()}_{name}.lock"
    foreign.touch(mode=0o000)
    os.chown(foreign, SOMEBODY, SOMEBODY)
    with one_at_a_time("dumps in /backups"):
        pass


def test_a_second_process_is_refused_while_the_first_works_and_not_after(home: Path) -> None:
    code = (
        "import sys\n"
        "from saju_ops.local_state import one_at_a_time\n"
        "with one_at_a_time('dumps in /backups'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    env = {**os.environ, "XDG_STATE_HOME": str(home / ".local" / "state")}
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, env=env, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="dumps in /backups"), one_at_a_time("dumps in /backups"):
            pass
        with one_at_a_time("snapshots in /backups"):
            pass
        first.kill()
        first.wait()
        with one_at_a_time("dumps in /backups"):
            pass


def test_a_folder_of_ours_that_others_may_enter_is_closed_to_them(home: Path) -> None:
    folder = home / ".local" / "state" / "saju_ops"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert state_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_home_it_is_a_folder_of_the_temporary_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.rmdir()
    home.touch()  # such as /dev/null or /nonexistent, in which nothing can be made
    folder = state_folder()
    assert folder == home.parent / "shared" / f"saju_ops_state_{os.getuid()}"

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert state_folder() == folder


@pytest.mark.parametrize("how", ["a folder", "a link to a folder of ours", "a file"])
def test_a_folder_that_another_user_made_is_refused_with_what_to_do(home: Path, how: str) -> None:
    home.rmdir()
    home.touch()
    made = home.parent / "shared" / f"saju_ops_state_{os.getuid()}"
    if how == "a folder":
        made.mkdir(mode=0o777)
        os.chown(made, SOMEBODY, SOMEBODY)
    elif how == "a file":
        made.touch()
    else:
        (home.parent / "ours").mkdir()
        made.symlink_to(home.parent / "ours")
    with pytest.raises(OperatorError, match="Set XDG_STATE_HOME"), one_at_a_time("dumps in /backups"):
        pass
    assert not any((home.parent / "ours").iterdir()) if how.startswith("a link") else True


def test_xdg_state_home_names_another_place(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert state_folder() == tmp_path / "elsewhere" / "saju_ops"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == home / ".local" / "state" / "saju_ops"
