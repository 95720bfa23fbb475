"""No two places of the settings hold each other: stores, Chroma's folder, SQLite files, Dagster's history."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from saju_ops.cli.main import main
from saju_ops.cli.status_report import report
from saju_ops.errors import Refused
from saju_ops.settings.load import load_settings
from saju_ops.settings.places import require_apart
from saju_ops.settings.settings import SettingsError


def refusal(**settings: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(**settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("store", "chroma", "how"),
    [
        ("chroma_db", "chroma_db", "is the same place as"),
        ("./chroma_db/", "chroma_db", "is the same place as"),
        ("{cwd}/chroma_db", "./x/../chroma_db", "is the same place as"),
        ("file://{cwd}/chroma_db/backups", "chroma_db", "is inside"),
        ("chroma_db/a/b/c", "chroma_db/a", "is inside"),
        ("data", "data/chroma", "holds"),
        (".", "./chroma", "holds"),
        ("linked/backups", "real", "is inside"),
        ("real", "linked/chroma", "holds"),
        ("s3://bucket/x,chroma_db/backups", "chroma_db", "is inside"),
    ],
)
def test_a_store_and_the_folder_of_chroma_that_hold_each_other_are_refused(
    store: str, chroma: str, how: str, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    said = refusal(BACKUP_URI=store.format(cwd=tmp_path), CHROMA_DB_PATH=chroma)
    assert "BACKUP_URI holds" in said
    assert f"which {how} CHROMA_DB_PATH ({chroma!r})" in said
    assert "Give each a place of its own" in said


@pytest.mark.parametrize(
    ("stores", "how"),
    [
        ("s3://bkt/x,s3://bkt/x/y", "holds"), ("s3://bkt/x/y,s3://bkt/x", "is inside"),
        ("s3://bkt,s3://bkt/x", "holds"),
        ("s3://bkt/x,s3://bkt/x/", "is the same place as"), ("one,one/two", "holds"), ("one/two,./one", "is inside"),
        ("one,./one/", "is the same place as"),
    ],
)  # fmt: skip
def test_two_stores_of_which_one_holds_the_other_are_refused(stores: str, how: str) -> None:
    assert f"which {how} BACKUP_URI" in refusal(BACKUP_URI=stores)


def test_a_sqlite_file_in_a_store_or_in_the_folder_of_chroma_is_refused(tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL"):
        said = refusal(**{name: f"sqlite:///{tmp_path}/data/app.db"}, BACKUP_URI="data")
        assert f"which holds {name} ('{tmp_path}/data/app.db')" in said
        assert name in refusal(**{name: f"sqlite:///{tmp_path}/chroma/app.db"}, CHROMA_DB_PATH="chroma")
    assert "DATABASE_URL" in refusal(DATABASE_URL="sqlite:///app.db", BACKUP_URI="app.db")


def test_the_history_of_dagster_and_a_store_are_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert "which is inside DAGSTER_HOME" in refusal(BACKUP_URI="home/backups")
    assert "which holds DAGSTER_HOME" in refusal(BACKUP_URI=str(tmp_path))
    assert "which is the same place as DAGSTER_HOME" in refusal(CHROMA_DB_PATH="home")
    monkeypatch.delenv("DAGSTER_HOME")
    (tmp_path / ".dagster_home").mkdir()
    assert "which is inside DAGSTER_HOME" in refusal(BACKUP_URI=".dagster_home/x")


def test_the_root_of_the_file_system_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "rooted").symlink_to("/")
    for root in ("/", "file:///", "//", str(tmp_path / "rooted"), "/tmp/.."):
        assert "the root of the file system" in refusal(BACKUP_URI=root)
    assert "CHROMA_DB_PATH holds '/', the root" in refusal(CHROMA_DB_PATH="/")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
def test_a_folder_that_is_mounted_elsewhere_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "mounted").mkdir()
    command = ["mount", "--bind", "real", "mounted"]
    if subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode:
        return  # a container without the right to mount
    try:
        assert "is inside CHROMA_DB_PATH" in refusal(BACKUP_URI="mounted/backups", CHROMA_DB_PATH="real")
    finally:
        subprocess.run(["umount", "mounted"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"BACKUP_URI": "./backups"}, {"BACKUP_URI": "data/backups", "DATABASE_URL": "sqlite:///data/app.db"},
        {"BACKUP_URI": "chroma_db_backups", "CHROMA_DB_PATH": "chroma_db"}, {"BACKUP_URI": "s3://bkt/x,s3://bkt/xy"},
        {"BACKUP_URI": "s3://bkt/x,s3://ckt/x/y"}, {"BACKUP_URI": "gdrive://1AbC_dEf2345,s3://bkt/x"},
        {"BACKUP_URI": "one,two"}, {"BACKUP_URI": "Data", "CHROMA_DB_PATH": "data"},
        # A default that isn't there and that nobody named is in nobody's way.
        {"BACKUP_URI": "."},
    ],
)  # fmt: skip
def test_places_beside_each_other_are_taken(settings: dict[str, str]) -> None:
    load_settings(**settings)


def test_status_says_it_and_the_restore_moves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "chroma").mkdir()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"x")
    monkeypatch.setenv("CHROMA_DB_PATH", "chroma")
    monkeypatch.setenv("BACKUP_URI", "chroma/backups")
    assert report() == ([f"FAIL {refusal()}"], False)
    said = CliRunner().invoke(main, ["restore-chroma", "--replace", "chroma"])
    assert said.exit_code == 1
    assert "which is inside CHROMA_DB_PATH" in said.output
    assert [p.name for p in tmp_path.iterdir()] == ["chroma"]


def test_a_restore_of_chroma_into_a_store_or_over_a_database_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKUP_URI", "backups")
    for target in ("backups", "backups/chroma", "."):
        said = CliRunner().invoke(main, ["restore-chroma", "--into", target, "--replace", target])
        assert said.exit_code == 1
        assert "BACKUP_URI ('backups')" in said.output
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.db").touch()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///data/app.db")
    said = CliRunner().invoke(main, ["restore-chroma", "--into", "data", "--replace", "data"])
    assert (said.exit_code, "which holds DATABASE_URL" in said.output) == (1, True), said.output
    with pytest.raises(Refused, match="holds BACKUP_URI"):
        require_apart(load_settings(), "The target", "/", Path("/"))
