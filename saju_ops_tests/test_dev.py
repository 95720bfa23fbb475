"""`saju-ops dev`: the settings that Dagster gets are those of the command, whatever `.env` holds."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from saju_ops import dev
from saju_ops.errors import OperatorError
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops_tests.defs.dev_server import until
from saju_ops_tests.trigger.scene import free_port


@pytest.fixture(autouse=True)
def environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=mysql://root@production/chatbot\nLOG_RETENTION_DAYS=60\n")
    monkeypatch.setitem(os.environ, "DATABASE_URL", "mysql://root@staging/chatbot")
    dev.pin_settings()
    assert os.environ["DATABASE_URL"] == "mysql://root@staging/chatbot"
    assert os.environ["LOG_RETENTION_DAYS"] == "60"


def test_relative_paths_mean_the_folder_in_which_it_was_started(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BACKUP_URI=./kept\nDATABASE_URL=sqlite:///./service.db\n")
    dev.pin_settings()
    assert os.environ["BACKUP_URI"] == str(tmp_path / "kept")
    assert os.environ["DATABASE_URL"] == f"sqlite:///{tmp_path / 'service.db'}"
    assert os.environ["CHROMA_DB_PATH"] == str(tmp_path / "chroma_db")


def test_a_setting_that_nobody_gave_is_not_given(tmp_path: Path) -> None:
    """A schedule fails where a setting names a database without its table, and skips where none does."""
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///./service.db\nANALYSIS_DATABASE_URL=sqlite:///./speech.db\n")
    dev.pin_settings()
    assert load_settings().jobs_database_url_secret is None
    assert os.environ["ANALYSIS_DATABASE_URL"] == f"sqlite:///{tmp_path / 'speech.db'}"


def test_a_wrong_setting_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "TIMEZONE", "Asia/Soul")
    with pytest.raises(SettingsError, match="TIMEZONE holds 'Asia/Soul'"):
        dev.start_dev(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_dagster_is_started_on_loopback_in_a_folder_without_an_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LOG_RETENTION_DAYS=60\n")
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "execv", lambda _path, arguments: started.append((str(Path.cwd()), *arguments)))
    dev.start_dev(tmp_path / "home", 3456)
    assert started[0][0] == str(tmp_path / "home")
    assert started[0][-4:] == ("-h", "127.0.0.1", "-p", "3456")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home" / "dagster.yaml").exists()


# --- once, and not longer than it is wanted -----------------------------------------------------------------------


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "saju_ops.cli", "dev", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=dict(os.environ), start_new_session=True,
    )  # fmt: skip


@contextmanager
def serving(port: int) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """`saju-ops dev` with UI and daemon, and all its processes."""
    dev_process = started("--port", str(port))
    try:
        until(lambda: "dagster._daemon" in commands(dev_process.pid) and answers(port), 120, "the UI")
        yield dev_process, psutil.Process(dev_process.pid).children(recursive=True)
    finally:
        for each in [*psutil.Process(dev_process.pid).children(recursive=True)] if dev_process.poll() is None else []:
            each.kill()
        dev_process.kill()
        dev_process.wait()


def commands(pid: int) -> str:
    return " ".join(" ".join(p.cmdline()) for p in psutil.Process(pid).children(recursive=True))


def answers(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.long
def test_a_sigterm_ends_ui_daemon_and_code_servers_within_seconds_and_a_second_daemon_is_refused(
    tmp_path: Path,
) -> None:
    port = free_port()
    with serving(port) as (process, children):
        assert len(children) >= 4
        for arguments in (("--port", str(port)), ("--port", str(free_port()))):
            second = started(*arguments)
            said, _ = second.communicate(timeout=60)
            assert second.returncode == 1
            assert "Nothing was started." in said
        assert f"Another `saju-ops dev` works on the history in {tmp_path / '.dagster_home'}" in said
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert time.monotonic() - begun < 9  # four seconds, and this machine's own pace
        assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    # The history is free again.
    dev._be_the_only_one(tmp_path / ".dagster_home")


def test_a_port_that_is_taken_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = started("--port", str(taken.getsockname()[1])).communicate(timeout=60)[0]
    assert "can't be listened on (Address already in use)" in said
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_somebody_else_started_on_the_history_is_seen(tmp_path: Path) -> None:
    home = tmp_path / "home"
    dev.prepare_home(home)
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)", "dagster-daemon", "run"]
    with subprocess.Popen(sleeping, env={**os.environ, "DAGSTER_HOME": str(home)}) as other:
        try:
            until(lambda: dev.daemon_of(home) == other.pid, 10, "the daemon")
            with pytest.raises(OperatorError, match=f"already, as process {other.pid}. Two daemons"):
                dev._be_the_only_one(home)
            dev._be_the_only_one(_made(tmp_path / "other"))
        finally:
            other.kill()
    dev._be_the_only_one(home)


def _made(home: Path) -> Path:
    dev.prepare_home(home)
    return home


@pytest.mark.long
def test_what_ignores_the_signal_is_killed_and_orphans_too() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    # The middle one ends at once, so that the last is nobody's child.
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}]); sys.stdout.flush()"
    command = [sys.executable, "-c", f"import subprocess, sys, time\n{script}\ntime.sleep(60)"]
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "saju_ops.supervise", *command], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "up\n"
    children = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(children) == 2
    begun = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0
    assert time.monotonic() - begun < 9
    assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_that_ends_by_itself_gives_its_status(status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "saju_ops.supervise", sys.executable, "-c", f"exit({status})"], check=False
    )
    assert done.returncode == status


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    home = _made(tmp_path / "home")
    with (home / dev.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OperatorError, match="Another `saju-ops dev` works on the history"):
            dev._be_the_only_one(home)
    dev._be_the_only_one(home)
