"""The target of a restore, given without a password in everybody's sight."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from saju_ops.cli.main import main
from saju_ops_tests.archive.scene import DAY, Scene
from saju_ops_tests.dumps.scene import Dumps

PASSWORD = "geheim9pw"


@pytest.fixture
def dumped(mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dumps:
    dumps = Dumps(mysql_url, tmp_path)
    Scene(mysql_url, tmp_path / "unused").create_table().add(3)
    assert dumps.take().proven
    monkeypatch.setenv("DATABASE_URL", mysql_url)
    monkeypatch.setenv("BACKUP_URI", str(dumps.folder))
    return dumps


@pytest.mark.long
@pytest.mark.parametrize("spelled", ["--into {}", "--into={}"])
def test_the_password_is_not_in_the_process_list_while_a_restore_runs(dumped: Dumps, spelled: str) -> None:
    # A server that never answers: the restore waits for it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mysql://saju:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/x"
        command = [str(Path(sys.executable).parent / "saju-ops"), "restore-dump", *spelled.format(url).split()]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            note = running.stderr.readline()
            silent.accept()
            line = Path(f"/proc/{running.pid}/cmdline").read_bytes()
            listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(running.pid)], capture_output=True,
                                    text=True, check=True).stdout  # fmt: skip
            assert running.poll() is None
            running.kill()
    assert note.startswith("Note: a password on the command line was taken out of the process list")
    assert "--into-setting NAME" in note
    assert PASSWORD.encode() not in line
    assert b"restore-dump" in line
    assert f"mysql://saju:***@127.0.0.1:{silent.getsockname()[1] if silent.fileno() > 0 else ''}"[:25] in listed


def restored(url: str, *arguments: str, **more: str) -> Result:
    name = f"{sa.make_url(url).database}_b"
    done = CliRunner().invoke(main, ["restore-dump", *arguments], **more)  # type: ignore[arg-type]
    if done.exit_code == 0:
        rows = Scene(url, Path("unused")).run(f"SELECT COUNT(*) FROM `{name}`.conversation_logs")  # noqa: S608
        assert rows == [(3,)]
        Scene(url, Path("unused")).run(f"DROP DATABASE `{name}`")
    return done


@pytest.mark.long
def test_the_address_is_read_from_a_setting_of_the_environment_or_of_the_env_file(
    dumped: Dumps, mysql_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"ELSEWHERE={mysql_url}_b\n")
    assert restored(mysql_url, "--into-setting", "ELSEWHERE").exit_code == 0
    monkeypatch.setenv("PLACE", f"{mysql_url}_b")
    assert restored(mysql_url, "--into-setting", "PLACE").exit_code == 0


@pytest.mark.long
def test_the_address_is_asked_for(dumped: Dumps, mysql_url: str) -> None:
    done = restored(mysql_url, "--into", "-", input=f"{mysql_url}_b\n")
    assert done.exit_code == 0
    assert str(sa.make_url(mysql_url).password) not in done.output


def test_a_setting_that_is_not_there_and_two_targets_are_refused(
    dumped: Dumps, mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no environment variable of that name is set" in restored(mysql_url, "--into-setting", "NOWHERE").output
    monkeypatch.setenv("BROKEN", f"mysql://saju:p@{PASSWORD}@h/x")
    broken = restored(mysql_url, "--into-setting", "BROKEN").output
    assert "BROKEN can't be used" in broken
    assert PASSWORD not in broken
    both = restored(mysql_url, "--into-setting", "BROKEN", "--into", "-")
    assert "both given" in both.output


def test_archived_days_go_where_a_setting_says(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    scene.add(3)
    scene.archive()
    other = Scene(f"sqlite:///{tmp_path}/other.db", tmp_path / "backups").create_table()
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BACKUP_URI", str(scene.folder))
    monkeypatch.setenv("PLACE", other.url)
    done = CliRunner().invoke(main, ["restore-logs", "--from", str(DAY), "--to", str(DAY), "--into-setting", "PLACE"])
    assert done.exit_code == 0, done.output
    assert other.count() == 3
