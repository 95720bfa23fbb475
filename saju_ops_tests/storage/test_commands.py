"""Every command of `saju-ops` that opens the backups opens them at the place and with the login of the settings."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from saju_ops.cli.main import main
from saju_ops_tests.fakes.s3 import Bucket

COMMANDS = [
    ["status"], ["verify", "--no-drills"], ["prune"], ["restore-dump", "--dry-run"], ["restore-chroma", "--dry-run"],
    ["restore-logs", "--from", "2026-10-01", "--to", "2026-10-01", "--dry-run"],
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS, ids=[c[0] for c in COMMANDS])
def test_a_command_asks_the_store_of_the_settings(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    database = tmp_path / "service.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE conversation_logs (log_id INTEGER PRIMARY KEY, created_at TIMESTAMP NOT NULL)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{database}")
    monkeypatch.setenv("BACKUP_URI", bucket.uri)
    monkeypatch.setenv("S3_ENDPOINT_URL", bucket.proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-access-key")
    said = CliRunner().invoke(main, command)
    assert bucket.proxy.seen, said.output
    assert bucket.name in bucket.proxy.seen[0][1]
