"""What the programs that dump and restore find in their environment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from saju_ops.dumps import programs as dump_process
from saju_ops.dumps.mysql import clients as dump_mysql_clients
from saju_ops_tests.dumps.scene import Dumps, fill, oracle_clients

SECRETS = {
    "ARCHIVE_PASSWORD": "hushed of the archive", "AWS_SECRET_ACCESS_KEY": "hushed of the cloud",
    "ENCRYPTION_KEY": "hushed of the rows", "SLACK_BOT_TOKEN": "hushed of the talk",
    "DATABASE_URL": "postgresql://hushed:hushed@nowhere/hushed", "BACKUP_SEAL_KEY": "hushed of the seal",
    "CLEANUP_TRIGGER_TOKEN": "hushed of the trigger", "SOMETHING_OF_THE_SERVICE": "hushed of somebody else",
    "PGOPTIONS": "-c hushed.option=1", "MYSQL_PWD": "hushed of the server", "LD_PRELOAD": "", "PYTHONPATH": "/hushed",
}  # fmt: skip
PROGRAMS = {
    "postgres": ("pg_dump",),
    "mariadb": ("mariadb-dump", "mysqldump", "mariadb", "mysql"),
    "mysql": ("mysqldump", "mysql"),
}


def watched(folder: Path, names: tuple[str, ...]) -> None:
    """Programs of these names that note their whole environment, and then are the real ones."""
    (folder / "bin").mkdir()
    for name in names:
        script = folder / "bin" / name
        notes = f"{folder}/environ.{name}"
        script.write_text(
            f'#!/bin/sh\ncat /proc/$$/environ >> {notes}\nexec {shutil.which(name)} "$@"\n'  # of the shell itself
        )
        script.chmod(0o755)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["postgres", "mariadb", "mysql"])
def test_a_program_finds_no_secret_in_its_environment(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    if engine == "mysql":
        monkeypatch.setenv("PATH", oracle_clients(tmp_path / "oracle", only=False))
    fill(url)
    watched(tmp_path, PROGRAMS[engine])
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    for cached in (dump_process._wide, dump_mysql_clients._version, dump_mysql_clients._help):
        cached.cache_clear()
    assert Dumps(url, tmp_path).take().proven
    found = {path.name.removeprefix("environ."): path.read_text() for path in tmp_path.glob("environ.*")}
    assert any("dump" in name for name in found), "no program was seen: the test would prove nothing"
    assert not found.keys() & {"mysql", "mariadb", "psql"}, "a dump reaches no client's command parser"
    for name, text in found.items():
        assert "hushed" not in text, f"{name} was given a secret"
        assert f"HOME={tmp_path}" in text, "a client looks there for certificates"


def test_only_what_a_client_needs_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    allowed = {*dump_process.HANDED_ON, "LC_ALL", "MYSQL_TEST_LOGIN_FILE", "PGTZ"}
    assert dump_process.environment({"PGTZ": "UTC"}).keys() <= allowed
    assert "hushed" not in dump_process.asked(["/usr/bin/env"]).stdout
