"""`saju-ops status`: for each setting, database and folder whether it is usable, and why not."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from saju_ops.cli.main import main
from saju_ops.cli.status_report import report
from saju_ops.settings.settings import Settings
from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.fakes.s3 import S3Server

SECRET = "hunter2"


def lines() -> tuple[dict[str, str], bool]:
    """What is printed, by the name that each line begins with after its mark; and the verdict."""
    printed, usable = report()
    return {line[5:].split()[0]: line for line in printed}, usable


def line(name: str) -> str:
    return lines()[0][name]


def unusable(name: str) -> str:
    found, usable = lines()
    assert not usable
    assert found[name].startswith("FAIL "), found[name]
    return found[name]


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, sqlite_url: str, tmp_path: Path) -> Scene:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    return Scene(sqlite_url, tmp_path / "backups")


def test_every_setting_has_a_line(database: Scene) -> None:
    database.create_table()
    found, usable = lines()
    assert usable
    assert set(found) >= {str(field.validation_alias) for field in Settings.model_fields.values()}


def test_a_default_differs_from_a_value_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_RETENTION_DAYS", "30")
    assert not line("LOG_RETENTION_DAYS").endswith("(default)")
    assert line("LOG_CLEANUP_CRON").endswith("0 9 * * 1  (default)")


def test_a_secret_is_said_to_be_set_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", SECRET)
    monkeypatch.setenv("DATABASE_URL", f"mysql://root:{SECRET}@127.0.0.1:1/db")
    assert "set (not shown)" in line("SLACK_BOT_TOKEN")
    assert SECRET not in "\n".join(report()[0])


def test_it_says_by_which_key_backups_are_sealed_and_what_none_means(
    database: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "whoever can write into the store can change one, or make one, unnoticed" in line("seals")
    monkeypatch.setenv("ARCHIVE_PASSWORD", "correct horse battery")
    assert re.search(r"sealed by the key [0-9a-f]{16} of ARCHIVE_PASSWORD$", line("seals"))
    monkeypatch.setenv("BACKUP_SEAL_KEY", "0123456789abcdef" * 2)
    assert re.search(r"sealed by the key [0-9a-f]{16} of BACKUP_SEAL_KEY; [0-9a-f]{16} verify, too$", line("seals"))
    assert "0123456789abcdef" not in " ".join(lines()[0].values())


def test_a_missing_sqlite_file_is_named(tmp_path: Path) -> None:
    assert f"there is no SQLite file {tmp_path}/local.db" in unusable("DATABASE_URL")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("not a database, " * 100)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/letter.txt")
    assert "file is not a database" in unusable("DATABASE_URL")


def test_a_server_that_does_not_answer_is_said_to_be_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("DATABASE_URL", f"mysql://root:{SECRET}@127.0.0.1:{port}/db")
    for name in ("DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL"):
        said = unusable(name)
        assert f"mysql+pymysql://root:***@127.0.0.1:{port}/db can't be reached" in said
        assert SECRET not in said


@pytest.mark.parametrize("engine", ["mysql_url", "postgres_url"])
def test_a_wrong_password_is_reported_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, engine: str
) -> None:
    url = sa.make_url(request.getfixturevalue(engine)).set(password=SECRET)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    said = unusable("DATABASE_URL") + unusable("JOBS_DATABASE_URL")
    assert "can't be reached" in said
    assert "Access denied" in said or "password authentication failed" in said
    assert SECRET not in said


def test_a_missing_table_is_named(database: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    database.create_table()
    monkeypatch.setenv("CONVERSATION_LOG_TABLE", "conversation_log")
    said = unusable("DATABASE_URL")
    assert "CONVERSATION_LOG_TABLE holds 'conversation_log', but the database" in said
    assert "has no such table" in said
    assert line("JOBS_DATABASE_URL").startswith("ok ")


def test_a_table_without_a_key_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch, mysql_url: str) -> None:
    scene = Scene(mysql_url, Path("backups"))
    scene.run(f"CREATE TABLE {scene.name} (log_id bigint, created_at timestamp NOT NULL)")
    monkeypatch.setenv("DATABASE_URL", mysql_url)
    assert "key" in unusable("DATABASE_URL")


def test_a_backup_folder_that_is_a_file_is_refused(
    database: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database.create_table()
    (tmp_path / "backups").write_text("a file")
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    assert f"{tmp_path}/backups is not a folder" in unusable("BACKUP_URI")
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups" / "below" / "it"))
    assert f"{tmp_path}/backups is not a folder" in unusable("BACKUP_URI")


def test_a_backup_folder_that_is_not_there_yet_is_usable_and_not_made(database: Scene, tmp_path: Path) -> None:
    database.create_table()
    assert "made at the first archive" in line("BACKUP_URI")
    assert not (tmp_path / "backups").exists()


def test_a_backup_uri_of_another_kind_is_refused_with_the_settings_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_URI", "azure://bucket/prefix")
    printed, usable = report()
    assert not usable
    assert printed[0].startswith("FAIL BACKUP_URI holds 'azure://bucket/prefix' (")
    assert "it may hold a folder, s3://bucket/prefix" in printed[0]


def test_each_of_two_stores_has_its_line_and_is_really_tried(
    database: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database.create_table()
    (tmp_path / "backups").mkdir()
    with S3Server() as server, server.bucket() as bucket:
        monkeypatch.setenv("BACKUP_URI", f"{tmp_path}/backups,{bucket.uri}")
        monkeypatch.setenv("S3_ENDPOINT_URL", bucket.proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
        printed, usable = report()
        found = [text for text in printed if " BACKUP_URI " in text]
        assert usable, printed
        assert [text.startswith("ok ") for text in found] == [True, True]
        assert f"{bucket.uri}: written, read and deleted" in found[1]
        assert bucket.objects() == {}
        assert list((tmp_path / "backups").iterdir()) == []
        bucket.proxy.add("status", "PUT", times=99, status=403, code="AccessDenied")
        printed, usable = report()
        found = [text for text in printed if " BACKUP_URI " in text]
        assert not usable
        assert [text.startswith("ok ") for text in found] == [True, False]
        assert "access denied" in found[1]
        assert "very-secret-key" not in "".join(printed)


def test_a_table_without_an_index_on_created_at_is_usable_and_said_to_be_slow(database: Scene) -> None:
    database.create_table()
    assert "created_at has NO index" in line("DATABASE_URL")
    assert line("DATABASE_URL").startswith("ok ")


def test_rows_that_no_day_has_are_counted(database: Scene) -> None:
    database.create_table()
    database.add(3)
    assert "never archived" not in line("DATABASE_URL")
    database.update("created_at = '0001-01-01 00:00:00'", "log_id = 1")
    database.update("created_at = '2026/10/01'", "log_id = 2")
    found = line("DATABASE_URL")
    assert "rows with unreadable created_at: 1, rows before first partition: 1" in found
    assert found.startswith("ok ")


def test_all_is_well_on_mysql(monkeypatch: pytest.MonkeyPatch, mysql_url: str, tmp_path: Path) -> None:
    scene = Scene(mysql_url, tmp_path / "backups").create_table()
    scene.add(3)
    (tmp_path / "backups").mkdir()
    monkeypatch.setenv("DATABASE_URL", mysql_url)
    found, usable = lines()
    assert usable
    for name in ("DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL", "BACKUP_URI"):
        assert found[name].startswith("ok "), found[name]
    database = found["DATABASE_URL"]
    assert "mysql 9.7" in database
    assert "table conversation_logs with 6 columns, key log_id, created_at is indexed" in database
    assert "oldest row 2026-09-30 15:01:00" in database
    assert "GB free" in found["BACKUP_URI"]
    assert str(sa.make_url(mysql_url).password) not in "\n".join(found.values())


def test_the_exit_status_says_whether_everything_is_usable(database: Scene) -> None:
    bad = CliRunner().invoke(main, ["status"])
    assert bad.exit_code == 1
    assert "FAIL DATABASE_URL" in bad.output
    database.create_table()
    good = CliRunner().invoke(main, ["status"])
    assert good.exit_code == 0, good.output
    assert "FAIL" not in good.output


def test_a_missing_file_is_reported_with_the_setting_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", f"sqlite:///{tmp_path}/speech.db")
    (line,) = (line for line in report()[0] if "ANALYSIS_DATABASE_URL " in line)
    assert "speech.db; name the database in ANALYSIS_DATABASE_URL" in line
