"""`saju-ops dev`: the settings that Dagster gets are those of the command, whatever lies in `.env`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from saju_ops import dev
from saju_ops.settings import SettingsError, load_settings


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


def test_dagster_is_started_on_loopback_where_no_env_file_lies(
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
