"""`saju-ops demo` as a newcomer runs it: in a folder full of somebody else's settings, which it must not touch."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

SECRET = "hunter2"


@dataclass
class Demo:
    """A working folder with production's settings in it, and the demo that was run there."""

    folder: Path
    before: dict[str, str]
    first: subprocess.CompletedProcess[str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return demo(self.folder, *arguments)


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with an environment that points at production."""
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{folder}/production.db",
        "JOBS_DATABASE_URL": f"mysql://root:{SECRET}@127.0.0.1:1/jobs",
        "BACKUP_URI": str(folder / "production_backups"),
        "CHROMA_DB_PATH": str(folder / "production_chroma"),
        "DAGSTER_HOME": str(folder / "production_home"),
        "CONVERSATION_LOG_TABLE": "production_log",
        "LOG_RETENTION_DAYS": "1",
        "ARCHIVE_START_DATE": "2020-01-01",
        "TIMEZONE": "UTC",
        "DATABASE_TIMEZONE": "Asia/Tokyo",
    }
    script = Path(sys.executable).parent / "saju-ops"
    return subprocess.run(
        [str(script), "demo", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def files(folder: Path) -> dict[str, str]:
    """Everything outside the demo's own folder: what it is, when it changed, what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] != ".demo":
            content = sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[name] = f"{path.stat().st_mtime_ns if path.is_file() else 0} {content}"
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("newcomer")
    with sqlite3.connect(folder / "production.db") as production:
        production.execute("CREATE TABLE conversation_logs (log_id integer PRIMARY KEY, created_at timestamp)")
        production.execute("CREATE TABLE production_log (log_id integer PRIMARY KEY, created_at timestamp)")
        production.execute("INSERT INTO production_log VALUES (1, '2024-01-01 00:00:00')")
        production.execute("INSERT INTO conversation_logs VALUES (1, '2024-01-01 00:00:00')")
    for name in ("production_backups", "production_home", "production_chroma"):
        (folder / name).mkdir()
        (folder / name / "keep").write_text(name)
    (folder / ".env").write_text(
        f"DATABASE_URL=mysql://root:{SECRET}@127.0.0.1:1/production\nBACKUP_URI={folder}/production_backups\n"
        f"REPLICA_URLS=mysql://root:{SECRET}@127.0.0.1:1/production\nARCHIVE_COMPRESSION=gzip\n"
    )
    before = files(folder)
    return Demo(folder, before, demo(folder))


def test_it_succeeds_whatever_the_environment_says(done: Demo) -> None:
    assert done.first.returncode == 0, done.first.stderr
    assert "Traceback" not in done.first.stderr


def test_it_touches_nothing_outside_its_own_folder(done: Demo) -> None:
    assert files(done.folder) == done.before


def test_it_never_prints_a_secret_of_the_environment(done: Demo) -> None:
    assert SECRET not in done.first.stdout + done.first.stderr


@pytest.mark.long
def test_it_prints_the_report_with_the_labels_that_operators_know(done: Demo) -> None:
    said = done.first.stdout
    assert re.search(r"^💾 \*DB Cleanup Report\*$", said, re.M)
    assert re.search(r"^- 백업 파일: `conversation_log_backup_\d{8}\.csv`", said, re.M)
    assert re.search(r"^- 백업 수: \d+ rows$", said, re.M)
    assert re.search(r"^- 삭제 기준일: \d{4}-\d\d-\d\d$", said, re.M)
    assert re.search(r"^- 실행 시간: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", said, re.M)


def test_it_prints_files_sizes_rows_left_and_how_to_go_on(done: Demo) -> None:
    said = done.first.stdout
    name = r"conversation_logs/\d{4}/\d\d/conversation_log_backup_\d{8}\.csv"
    assert re.search(rf"/\.demo/backups/{name} +[\d,]+ bytes", said)
    assert re.search(r"^\d+ files, [\d,]+ bytes\. Rows left in the database: [\d,]+ of 24,000\.$", said, re.M)
    assert re.search(r"^Open the UI: +\S*saju-ops demo --ui +\(then http://127\.0\.0\.1:3000\)$", said, re.M)
    assert "restore-logs --from" in said


def test_it_shows_progress(done: Demo) -> None:
    assert "  messages: 24,000\n" in done.first.stdout
    assert len(re.findall(r"^ {4}\[\d+/\d+\]", done.first.stdout, re.M)) >= 3


def test_what_it_deleted_is_what_it_archived(done: Demo) -> None:
    archived, deleted = (
        int(re.search(label + r": (\d+) rows", done.first.stdout)[1])
        for label in ("백업 수", "삭제 수")  # type: ignore[index]
    )
    assert archived == deleted > 10_000
    with sqlite3.connect(f"file:{done.folder}/.demo/service.db?mode=ro", uri=True) as database:
        (left,) = database.execute("SELECT count(*) FROM conversation_logs").fetchone()
    assert left == 24_000 - deleted
    stored = sum(1 for _ in (done.folder / ".demo" / "backups").rglob("*.csv"))
    assert stored == sum(1 for _ in (done.folder / ".demo" / "backups").rglob("*.manifest.json")) > 30


def test_no_message_is_printed(done: Demo) -> None:
    with sqlite3.connect(f"file:{done.folder}/.demo/service.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT DISTINCT content FROM conversation_logs WHERE length(content) > 12 LIMIT 500")
        messages = [row[0] for row in rows]
    assert messages
    assert not [m for m in messages if m in done.first.stdout + done.first.stderr]


@pytest.mark.long
def test_a_second_run_says_that_there_is_nothing_to_do_and_changes_nothing(done: Demo) -> None:
    backups = {p: p.read_bytes() for p in (done.folder / ".demo" / "backups").rglob("*") if p.is_file()}
    again = done.run()
    assert again.returncode == 0, again.stderr
    assert "✅ 백업할 오래된 로그가 없습니다. (기준: " in again.stdout
    assert "There is nothing to do: no day with rows is older than 30 days." in again.stdout
    assert "Making a small service" not in again.stdout
    assert {p: p.read_bytes() for p in (done.folder / ".demo" / "backups").rglob("*") if p.is_file()} == backups
    assert files(done.folder) == done.before


@pytest.mark.long
def test_the_restore_that_it_names_works_as_printed(done: Demo) -> None:
    """Copied from the screen, continued line and all, into a shell in the same folder."""
    printed = done.first.stdout
    command = printed[printed.index("Restore a day:") + len("Restore a day:") :].strip()
    environment = {"PATH": os.environ["PATH"], "HOME": str(done.folder)}
    said = subprocess.run(
        ["sh", "-c", command], cwd=done.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "rows would be written." in said.stdout
    assert "Nothing was written (--dry-run)." in said.stdout


def test_a_folder_that_is_not_the_demos_is_refused_and_left_alone(done: Demo) -> None:
    refused = done.run("--folder", "production_backups")
    assert refused.returncode == 1
    assert "production_backups" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert files(done.folder) == done.before


def test_the_ui_of_a_folder_without_a_demo_is_refused(done: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops.demo.run import open_ui
    from saju_ops.errors import OperatorError

    with pytest.raises(OperatorError, match="holds no demo; run `make demo` first"):
        open_ui(done.folder / "production_home")


@pytest.mark.long
def test_a_dotenv_file_beside_it_does_not_turn_the_demos_ui_to_production(done: Demo) -> None:
    """Dagster's commands let the .env file of their working folder win over the environment.

    The command that would become the UI is replaced by one that loads the same way and ends: with the folder's
    .env in force it would refuse the BACKUP_URI there.
    """
    (done.folder / "another").mkdir()
    (done.folder / "another" / ".env").write_text("BACKUP_URI=s3://production/logs\n")
    code = """
import os, subprocess, sys
from pathlib import Path
def instead(command, arguments):
    assert arguments[1:3] == ["-m", "saju_ops.supervise"]
    command, *arguments = arguments[3:]
    assert arguments[0] == "dev" and arguments[-4:-1] == ["-h", "127.0.0.1", "-p"]
    print(os.environ["DATABASE_URL"], os.environ["DAGSTER_HOME"], flush=True)
    sys.exit(subprocess.run([command, "definitions", "validate", *arguments[1:-4]]).returncode)
os.execv = instead
from saju_ops.demo.run import open_ui
open_ui(Path("../.demo"))
"""
    try:
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=done.folder / "another", capture_output=True, text=True, check=False
        )
    finally:
        shutil.rmtree(done.folder / "another")
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith(f"sqlite:///{done.folder}/.demo/service.db {done.folder}/.demo/dagster_home")
    assert "BACKUP_URI" not in said.stdout + said.stderr
