"""The `.env` file: what can't be read is refused with the file's name and its line, and never becomes a default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from saju_ops.cli.main import main
from saju_ops.definitions import defs
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError

GOOD = "LOG_RETENTION_DAYS=90\n"
SECRET = "hunter2"
UNREADABLE = [
    pytest.param("# 대화 기록\nDATABASE_URL=x\n".encode("cp949"), "line 1: it is not UTF-8", id="cp949"),
    pytest.param(b"A=1\r\nB=2\r\n# \xb1\xe8\r\n", "line 3: it is not UTF-8", id="cp949 behind CRLF"),
    pytest.param(GOOD.encode("utf-16"), "line 1: it is UTF-16", id="UTF-16"),
    pytest.param(b"\xfe\xff" + GOOD.encode("utf-16-be"), "line 1: it is UTF-16", id="UTF-16, big end first"),
    pytest.param(b"A=1\n" + GOOD.encode("utf-16-le"), "line 2: it holds a NUL byte", id="UTF-16 without a mark"),
    pytest.param(b"A=1\nTIMEZONE=Asia/Seoul\0\n", "line 2: it holds a NUL byte", id="NUL"),
    pytest.param(f'A=1\n\nDATABASE_URL="mysql://u:{SECRET}@h/d\nB=2\n', "line 3: its quote isn't closed", id="quote"),
    pytest.param(f"DATABASE_URL='mysql://u:{SECRET}@h/d\n", "line 1: its quote isn't closed", id="single quote"),
    pytest.param('BACKUP_URI="./b" x\n', "line 1: its quote isn't closed, or text follows", id="behind the quote"),
    pytest.param('DATABASE_URL="sqlite:///a.db\nB="2"\n', "line 1: its quote isn't closed", id="closed by another"),
    pytest.param('CHROMA_DB_PATH="a\nb"\n', "line 1: the value of CHROMA_DB_PATH has a line end", id="two lines"),
    pytest.param(
        'X="a\nDATABASE_URL=b"\n', "line 1: the quoted value holds a line that sets DATABASE_URL", id="swallowed"
    ),
    pytest.param("A=1\nDATABASE_URL sqlite:///a.db\n", "line 2: it is no NAME=value", id="no equals sign"),
    pytest.param("DATABASE_URL\n", "line 1: DATABASE_URL has no = behind it", id="name alone"),
    pytest.param("set TIMEZONE=UTC\n", "line 1: it is no NAME=value", id="of another shell"),
    pytest.param("TIMEZONE=UTC\n#\nTIMEZONE=Asia/Seoul\n", "lines 1 and 3 set TIMEZONE to different", id="twice"),
    pytest.param("\u200bTIMEZONE=UTC\n", "line 1: the name looks like TIMEZONE", id="letter that isn't seen"),
    pytest.param("ＴＩＭＥＺＯＮＥ=UTC\n", "line 1: the name looks like TIMEZONE", id="wide letters"),
    pytest.param("DATABASE_URL=${DB_ADDRESS}\n", "line 1: DATABASE_URL refers to ${DB_ADDRESS}", id="unset variable"),
    pytest.param(
        "DATABASE_URL=mysql://ops:${DB_PASSWORD}@h/db\nDB_PASSWORD=geheim\n",
        "line 1: DATABASE_URL refers to ${DB_PASSWORD}",
        id="variable that is set later",
    ),
]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / ".env"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(("content", "why"), UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_with_its_line(content: str | bytes, why: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{path}, ")
    assert why in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(), b"\r\n".join([b"# \xeb\x8c\x80", b"LOG_RETENTION_DAYS=90", b""]),
        "export LOG_RETENTION_DAYS=90", " LOG_RETENTION_DAYS = '90'  # days\n", GOOD.replace("\n", "\r"),
        'PEM="-----BEGIN\nMII=\n-----END"\n' + GOOD, GOOD + GOOD, "export TIMEZONE=\n" + GOOD,
        "DAYS=90\nLOG_RETENTION_DAYS=${DAYS}\n", "LOG_RETENTION_DAYS=${NO_DAYS:-90}\n", "A\nB=1\nB=2\n" + GOOD,
    ],
)  # fmt: skip
def test_a_sound_file_of_any_system_is_read(content: str | bytes, tmp_path: Path) -> None:
    write(tmp_path, content)
    assert load_settings().log_retention_days == 90
    assert load_settings().timezone.key == "Asia/Seoul"


def test_a_folder_of_that_name_is_no_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert load_settings().log_retention_days == 30


COMMANDS = [
    ["status"], ["restore-logs", "--from", "2026-10-01", "--to", "2026-10-02"], ["restore-dump"], ["restore-chroma"],
    ["verify"], ["prune"], ["seal"], ["reconcile-stale-jobs"], ["serve-trigger"], ["test-alert"], ["dev"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("content", [GOOD.encode("utf-16"), 'DATABASE_URL="sqlite:///a.db\n'])
def test_every_command_says_which_file_and_line(command: list[str], content: str | bytes, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    said = CliRunner().invoke(main, command)
    assert said.exit_code == 1, said.output
    assert f"{path}, line 1: " in said.output
    assert [p.name for p in tmp_path.iterdir()] == [".env"]


def test_the_definitions_say_it_too(tmp_path: Path) -> None:
    path = write(tmp_path, "# 한글\n".encode("cp949"))
    with pytest.raises(SettingsError, match=f"{path}, line 1: it is not UTF-8"):
        defs()


def test_a_target_that_a_setting_names_is_not_looked_for_behind_a_broken_line(tmp_path: Path) -> None:
    write(tmp_path, 'TIMEZONE="UTC\nRESTORE_TO=sqlite:///b.db\n')
    said = CliRunner().invoke(main, ["restore-dump", "--into-setting", "RESTORE_TO"])
    assert (said.exit_code, "line 1: its quote isn't closed" in said.output) == (1, True)


@pytest.mark.long
def test_dagsters_own_command_line_names_the_file_whose_line_it_skips(tmp_path: Path) -> None:
    """Dagster itself reports a file that isn't UTF-8, before it loads these definitions."""
    path = write(tmp_path, 'DATABASE_URL="sqlite:///a.db\n')
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(
        [Path(sys.executable).parent / "dagster", "job", "execute", "-j", "purge_conversation_logs",
         "-m", "saju_ops.definitions"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{path}, line 1: its quote isn't closed" in done.stdout + done.stderr
