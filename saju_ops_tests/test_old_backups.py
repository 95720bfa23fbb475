"""What an earlier version stored is read, verified and restored by this one. `make_old_backups.py` made it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.schema.tables import chatbot
from saju_ops_tests.make_old_backups import DAYS, PASSWORD, command, fill, late, rows

SETS = sorted(path for path in (Path(__file__).parent / "old_backups").iterdir() if path.is_dir())
SETTINGS: dict[str, dict[str, str]] = {"plain": {}, "sealed": {"ARCHIVE_PASSWORD": PASSWORD}}


@pytest.fixture(params=[(path, kind) for path in SETS for kind in SETTINGS], ids=lambda p: f"{p[0].name}-{p[1]}")
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of one set: its folder, and the settings that it was made with."""
    path, kind = request.param
    shutil.copytree(path / kind, tmp_path / "stored")
    return tmp_path / "stored", SETTINGS[kind]


def logs_in(url: str) -> list[tuple[object, ...]]:
    """Values as Python has them, times as naive UTC."""
    # Nothing stays connected: PostgreSQL drops no database that somebody is connected to.
    table, engine = chatbot.tables["conversation_logs"], sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        found = connection.execute(sa.select(table).order_by(table.c.log_id)).mappings().all()
    return [tuple(_plain(name, value) for name, value in row.items()) for row in found]


def _plain(name: str, value: object) -> object:
    return json.loads(value) if name == "tool_calls" and isinstance(value, str) else value


def logs_of_then(url: str) -> list[tuple[object, ...]]:
    """The same rows, inserted by hand."""
    fill(url)
    late(url)
    found = logs_in(url)
    assert len(found) == len(rows())
    with connect(url).begin() as connection:
        connection.execute(chatbot.tables["conversation_logs"].delete())
    return found


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_days_and_dumps_of_an_earlier_version_come_back(
    engine: str, stored: tuple[Path, dict[str, str]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, own = stored
    url = request.getfixturevalue(f"{engine}_url")
    there = logs_of_then(url)
    words = ("--from", DAYS[0], "--to", DAYS[1])
    said = command(folder / engine, "restore-logs", *words, folder=tmp_path, DATABASE_URL=url, **own)
    assert f"Done: {len(there)} rows written and proven" in said
    assert logs_in(url) == there
    name = f"restored_{uuid4().hex[:12]}"
    into = sa.make_url(url).set(database=str(tmp_path / "into.db") if engine == "sqlite" else name)
    address = into.render_as_string(hide_password=False)
    command(folder / engine, "restore-dump", "--into-setting", "RESTORE_TO", "--database", "chatbot", folder=tmp_path,
            DATABASE_URL=url, RESTORE_TO=address, **own)  # fmt: skip
    try:
        assert logs_in(address) == there
    finally:
        if engine != "sqlite":
            with connect(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name}")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_everything_of_an_earlier_version_is_verified(
    engine: str, stored: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Drills apart: the dumped server is no more, and the restores of this module are theirs."""
    folder, own = stored
    said = command(folder / engine, "verify", "--no-drills", folder=tmp_path, **own)
    assert f"{5 if engine == 'sqlite' else 4} stored files read and compared" in said
    for word in ("ROT", "MISSING", "NOT SEALED", "OTHER PASSWORD"):
        assert word not in said


@pytest.mark.long
def test_a_snapshot_of_an_earlier_version_comes_back(stored: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    import chromadb

    folder, own = stored
    command(folder / "sqlite", "restore-chroma", "--into", str(tmp_path / "restored"), folder=tmp_path, **own)
    found = chromadb.PersistentClient(str(tmp_path / "restored")).get_collection("saju_knowledge").get(ids=["id-3"])
    assert (found["documents"], found["metadatas"]) == (["😀 ' \\ \t"], [{"category": "오행", "importance": 3}])
