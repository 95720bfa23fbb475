"""A dump that somebody changed in the store, and everything of a MySQL or MariaDB server that it might have changed."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from saju_ops.storage.manifest import BackupManifest
from saju_ops_tests.dumps.scene import Dumps
from saju_ops_tests.engines import Engine

NOW = datetime(2026, 10, 1, 9, 0, tzinfo=UTC)


def tamper(dumps: Dumps, manifest: BackupManifest, content: bytes) -> None:
    """Stores other content, and makes the manifest agree, as somebody can where no key seals it."""
    file = dumps.folder / manifest.file
    stored = gzip.compress(content)
    file.write_bytes(stored)
    path = dumps.folder / manifest.name
    raw = json.loads(path.read_text())
    raw.pop("seal", None)
    raw |= {
        "content_sha256": sha256(content).hexdigest(), "content_bytes": len(content),
        "stored_sha256": sha256(stored).hexdigest(), "stored_bytes": len(stored),
    }  # fmt: skip
    path.write_text(json.dumps(raw))


def before(content: bytes, mark: bytes, payload: bytes) -> bytes:
    assert mark in content, mark
    return content.replace(mark, payload + b"\n" + mark, 1)


def state(server: Engine, database: str) -> dict[str, Any]:
    """Databases, users with their rights, and of one database everything, as the administrator sees them."""
    found: dict[str, Any] = {"databases": sorted(_texts(server.execute("SHOW DATABASES")))}
    users = [(_text(u), _text(h)) for u, h in server.execute("SELECT User, Host FROM mysql.user ORDER BY 1, 2")]
    found["users"] = users
    found["grants"] = sorted(map(repr, server.execute("SELECT * FROM mysql.db")))
    found["functions"] = sorted(map(repr, server.execute("SELECT * FROM mysql.func")))
    listed = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{0}'"
    for table in _texts(server.execute(listed.format(database))):
        quoted = table.replace("`", "``")
        found[f"table {table}"] = sorted(map(repr, server.execute(f"SELECT * FROM `{database}`.`{quoted}`")))
    for kind, column in (("ROUTINES", "ROUTINE"), ("TRIGGERS", "TRIGGER"), ("EVENTS", "EVENT")):
        statement = f"SELECT {column}_NAME FROM information_schema.{kind} WHERE {column}_SCHEMA = '{database}'"
        found[kind] = sorted(_texts(server.execute(statement)))
    found["trust"] = server.execute("SELECT @@GLOBAL.log_bin_trust_function_creators")
    return found


@contextmanager
def database_named(server: Engine, name: str) -> Iterator[str]:
    server.execute(f"DROP DATABASE IF EXISTS `{name}`", f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    try:
        yield server.database_url(name)
    finally:
        server.execute(f"DROP DATABASE IF EXISTS `{name}`")


def run(url: str, *statements: str) -> None:
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def _texts(rows: list[tuple[object, ...]]) -> list[str]:
    return [_text(row[0]) for row in rows]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
