"""`saju-ops restore-logs` as an operator types it, at night, without Dagster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saju_ops.cli.main import main
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, Scene

SECRET = "hunter2"


def saju_ops(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def restore_logs(*arguments: str, first: str = str(DAY), last: str = str(NEXT_DAY)) -> Result:
    return saju_ops("restore-logs", "--from", first, "--to", last, *arguments)


@pytest.fixture(params=["mysql", "sqlite"])
def purged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    """Two archived days of 40 rows, purged but for one row that came late."""
    return purged_scene(request.getfixturevalue(f"{request.param}_url"), monkeypatch, tmp_path)


@pytest.fixture
def sqlite_purged(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    return purged_scene(sqlite_url, monkeypatch, tmp_path)


def purged_scene(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    scene = Scene(url, tmp_path / "backups").create_table()
    scene.add(40, first=1)
    scene.add(40, first=41, day=NEXT_DAY)
    scene.archive(DAY)
    scene.archive(NEXT_DAY)
    scene.add(1, first=99)
    scene.purge()
    assert scene.ids() == [99]
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    return scene


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(purged: Scene) -> None:
    said = restore_logs("--dry-run")
    assert said.exit_code == 0, said.stderr
    assert "80 rows would be written." in said.stdout
    assert "Nothing was written (--dry-run)." in said.stdout
    assert purged.ids() == [99]


def test_the_rows_come_back_and_the_operator_hears_that_the_next_purge_takes_them(purged: Scene) -> None:
    said = restore_logs()
    assert said.exit_code == 0, said.stderr
    assert "Done: 80 rows written and proven" in said.stdout
    assert "the next purge deletes them again; use --into-table" in said.stdout
    assert purged.ids() == [*range(1, 81), 99]


def test_a_second_restore_skips_what_is_there(sqlite_purged: Scene) -> None:
    restore_logs()
    said = restore_logs()
    assert said.exit_code == 0, said.stderr
    assert "80 rows are there already and equal; they are skipped." in said.stdout
    assert "Done: 0 rows written" in said.stdout


def test_rows_go_into_another_table_that_is_made_for_them(purged: Scene) -> None:
    said = restore_logs("--into-table", "conversation_logs_restored", last=str(DAY))
    assert said.exit_code == 0, said.stderr
    assert "Done: 40 rows written" in said.stdout
    assert "next purge" not in said.stdout
    assert purged.ids() == [99]
    assert purged.run("SELECT count(*) FROM conversation_logs_restored")[0][0] == 40


def test_a_dry_run_into_another_table_does_not_make_it(sqlite_purged: Scene) -> None:
    said = restore_logs("--into-table", "elsewhere", "--dry-run")
    assert said.exit_code == 0, said.stderr
    assert "a new table without foreign keys" in said.stdout
    assert sqlite_purged.run("SELECT count(*) FROM sqlite_master WHERE name = 'elsewhere'")[0][0] == 0


def test_rows_go_into_another_database(sqlite_purged: Scene, tmp_path: Path) -> None:
    other = Scene(f"sqlite:///{tmp_path}/other.db", tmp_path / "backups").create_table()
    said = restore_logs("--into-url", other.url)
    assert said.exit_code == 0, said.stderr
    assert other.ids() == [*range(1, 81)]
    assert sqlite_purged.ids() == [99]


def test_a_sqlite_file_in_a_store_is_no_target_however_it_is_named(
    sqlite_purged: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "backups")
    for place in ("backups/other.db", "backups/deeper/other.db", "link/other.db"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        url = f"sqlite:///{tmp_path}/{place}"
        other = Scene(url, tmp_path / "backups")
        if not other.run("SELECT 1 FROM sqlite_master WHERE name = 'conversation_logs'"):
            other.create_table()
        monkeypatch.setenv("RESTORE_TO", url)
        for options in (("--into-url", url), ("--into-setting", "RESTORE_TO"), ("--into-url", url, "--dry-run")):
            assert "is inside the store" in failed(restore_logs(*options))
        assert other.ids() == []
        monkeypatch.setenv("DATABASE_URL", url)
        assert "DATABASE_URL" in failed(restore_logs())
        monkeypatch.setenv("DATABASE_URL", sqlite_purged.url)
    assert sqlite_purged.ids() == [99]


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_restore_that_lacks_days_ends_with_status_1_and_names_them_last(
    sqlite_purged: Scene, options: tuple[str, ...]
) -> None:
    """2026-10-01 lost its manifest, 10-02 is whole; nothing is archived of 09-29, 09-30 and 10-03."""
    (lost,) = sqlite_purged.folder.rglob("*_20261001.manifest.json")
    lost.unlink()
    said = restore_logs(*options, first="2026-09-29", last="2026-10-03")
    assert said.exit_code == 1
    last = said.stdout.splitlines()[-1]
    assert last.startswith("NOT RESTORED: ")
    assert "conversation_log_backup_20261001.csv" in last
    assert "there is no archive of 2026-09-29 to 2026-09-30, 2026-10-03." in last
    assert sqlite_purged.ids() == ([99] if options else [*range(41, 81), 99])


def failed(said: Result) -> str:
    """Status 1 and one sentence on standard error; an exception would have been a stack trace."""
    assert isinstance(said.exception, SystemExit), said.exception
    assert said.exit_code == 1, said.output
    assert said.stderr.strip().endswith(".")
    return said.stderr.strip()


@pytest.mark.long
def test_the_console_script_keeps_its_promises_in_a_process_of_its_own(sqlite_purged: Scene) -> None:
    """Exit status and streams; and it works without Dagster, which it is there to replace for a night."""
    script = Path(sys.executable).parent / "saju-ops"
    command = [str(script), "restore-logs", "--from", str(DAY), "--to"]
    done = subprocess.run([*command, str(NEXT_DAY)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Done: 80 rows written" in done.stdout
    refused = subprocess.run([*command, "never"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "--to is 'never'; it may be a date as YYYY-MM-DD.\n"


def test_it_never_imports_dagster() -> None:
    modules = "saju_ops.cli.main, saju_ops.archive.restore, saju_ops.cli.status_report"
    code = f"import sys, {modules}; print('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_row_that_differs_stops_it_and_is_named_by_its_key(sqlite_purged: Scene) -> None:
    restore_logs()
    sqlite_purged.update("tokens = 7", "log_id = 5")
    sqlite_purged.remove("log_id > 60")
    sentence = failed(restore_logs())
    assert "1 row is in" in sentence
    assert "their keys: 5. Nothing was written" in sentence
    assert sqlite_purged.count() == 60


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (f"mssql://sa:{SECRET}@host/db", "its engine is 'mssql'"),
        (f"mysql://root:{SECRET}@host", "it names no database"),
        (f"root:{SECRET}@host", "it can't be read"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(
    sqlite_purged: Scene, address: str, reason: str
) -> None:
    sentence = failed(restore_logs("--into-url", address))
    assert sentence.startswith("--into-url can't be used (")
    assert reason in sentence
    assert SECRET not in sentence


def test_a_server_that_does_not_answer_is_named_without_its_password(sqlite_purged: Scene) -> None:
    sentence = failed(restore_logs("--into-url", f"mysql://root:{SECRET}@127.0.0.1:1/db"))
    assert "mysql+pymysql://root:***@127.0.0.1:1/db can't be reached" in sentence
    assert SECRET not in sentence


def test_a_file_that_is_no_database_is_refused_with_a_sentence(sqlite_purged: Scene, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("not a database, " * 100)
    assert "not a database" in failed(restore_logs("--into-url", f"sqlite:///{tmp_path}/letter.txt"))


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-02-30", ""])
def test_a_day_that_is_none_is_refused(sqlite_purged: Scene, text: str) -> None:
    assert failed(restore_logs(first=text)) == f"--from is {text!r}; it may be a date as YYYY-MM-DD."
    assert failed(restore_logs(last=text)) == f"--to is {text!r}; it may be a date as YYYY-MM-DD."


def test_days_in_the_wrong_order_are_refused(sqlite_purged: Scene) -> None:
    assert "is before the first" in failed(restore_logs(first=str(NEXT_DAY), last=str(DAY)))


def test_days_without_an_archive_are_refused(sqlite_purged: Scene) -> None:
    assert "holds no archive of any day from 2020-01-01" in failed(restore_logs(first="2020-01-01", last="2020-01-02"))


def test_a_damaged_archive_is_refused_before_the_first_row(sqlite_purged: Scene) -> None:
    file = sqlite_purged.data_file(NEXT_DAY)
    file.write_bytes(file.read_bytes().replace(b"s1", b"s2", 1))
    failed(restore_logs())
    assert sqlite_purged.ids() == [99]


def test_a_wrong_setting_is_refused_with_its_sentence(sqlite_purged: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMEZONE", "KST")
    assert failed(restore_logs()).startswith("TIMEZONE holds 'KST' (no such time zone is known); it may hold")


def test_a_missing_option_is_wrong_usage() -> None:
    said = saju_ops("restore-logs", "--from", "2026-10-01")
    assert said.exit_code == 2
    assert "--to" in said.stderr


def test_help_names_every_command() -> None:
    said = saju_ops("--help")
    assert said.exit_code == 0
    for command in ("demo", "status", "restore-logs"):
        assert command in said.stdout
