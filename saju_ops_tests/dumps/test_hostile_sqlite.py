"""SQLite files that somebody changed in the store: a drill and a restore only ever read them."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import gzip
import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.dumps.open import open_engine
from saju_ops.dumps.sqlite import _only_read
from saju_ops.errors import OperatorError
from saju_ops.storage.manifest import write_manifest
from saju_ops.upkeep.drills import dump_drills
from saju_ops_tests.dumps.scene import Dumps, everything, fill

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x AS id FROM c"


def changed(url: str, folder: Path, change: Callable[[sqlite3.Connection], object], sound: Any = None) -> Dumps:
    """The database's dump, changed by SQLite, with a manifest that agrees in everything; `sound` are contents that
    can't be read any more."""
    result = Dumps(url, folder / "sound").take()
    file = folder / "changed.db"
    file.write_bytes(Dumps(url, folder / "sound").content(result))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        change(connection)
    content = file.read_bytes()
    packed = gzip.compress(content, 1)
    contents = sound or open_engine(sa.make_url(f"sqlite:///{file}")).contents().to_json()
    manifest = replace(
        result.manifest, content_sha256=hashlib.sha256(content).hexdigest(), content_bytes=len(content),
        stored_sha256=hashlib.sha256(packed).hexdigest(), stored_bytes=len(packed), contents=contents,
    )  # fmt: skip
    dumps = Dumps(url, folder)
    with dumps.storage.create(manifest.file) as writer:
        writer.write(packed)
        writer.commit()
    write_manifest(dumps.storage, manifest)
    return dumps


SCHEMA = "UPDATE sqlite_schema SET sql = '{}', rootpage = 0 WHERE name = 'no_key'"


@pytest.mark.parametrize(
    "sql",
    [
        f"CREATE VIEW no_key AS {ENDLESS}", "CREATE VIEW no_key AS SELECT load_extension(''/tmp/evil'') AS v",
        "create view no_key as select fts3_tokenizer(''simple'') as v", " CREATE TABLE no_key (v, w)",
    ],
    ids=["endless", "load_extension", "fts3_tokenizer", "blank"],
)  # fmt: skip
def test_a_table_that_is_none_is_found_and_not_read(sql: str, sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    sound = Dumps(sqlite_url, tmp_path / "first").take().manifest.contents
    dumps = changed(sqlite_url, tmp_path, lambda connection: connection.execute(SCHEMA.format(sql)), sound)
    (drill,) = dump_drills(dumps.storage, [dumps.url], [], now=datetime.now(UTC))
    assert (drill.passed, drill.tried) == (False, True)
    # By us, or by SQLite itself.
    assert "which no dump program writes" in drill.text or "malformed" in drill.text
    before = everything(sqlite_url)
    with pytest.raises(OperatorError, match=r"written past SQLite|Nothing was put in place"):
        dumps.restore(replace="test")
    assert everything(sqlite_url) == before
    assert [p.name for p in tmp_path.glob("*before_restore*")] == []


def test_triggers_and_views_of_a_dump_are_not_run_by_a_drill_or_a_restore(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    script = (
        "CREATE TRIGGER evil AFTER INSERT ON parts BEGIN DELETE FROM no_key; END;"
        f"CREATE VIEW ever AS {ENDLESS};"
        "CREATE VIRTUAL TABLE words USING fts5 (v); INSERT INTO words VALUES ('x')"
    )
    dumps = changed(sqlite_url, tmp_path, lambda connection: connection.executescript(script))
    (drill,) = dump_drills(dumps.storage, [dumps.url], [], now=datetime.now(UTC))
    assert drill.passed, drill.text
    target = tmp_path / "other.db"
    dumps.restore(f"sqlite:///{target}")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("other")) == ["other.db"]


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH '{folder}/made.db' AS made", "VACUUM INTO '{folder}/made.db'", "DELETE FROM a", "CREATE TABLE b (x)",
        "INSERT INTO a VALUES (1)", "SELECT load_extension('{folder}/made.db')", "PRAGMA writable_schema = ON",
        "SELECT fts3_tokenizer('simple')", "PRAGMA journal_mode = WAL", "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN"
        " SELECT 1; END", "PRAGMA trusted_schema = ON",
    ],
)  # fmt: skip
def test_a_connection_to_a_dumped_file_only_reads(statement: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE a (x)")
        _only_read(connection)
        with pytest.raises(sqlite3.Error):
            connection.execute(statement.format(folder=tmp_path)).fetchall()
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (0,)
    assert not (tmp_path / "made.db").exists()


def test_damaged_pages_are_a_failed_drill(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)

    sound = Dumps(sqlite_url, tmp_path / "first").take().manifest.contents

    def break_it(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE sqlite_schema SET rootpage = 2 WHERE name IN ('no_key', 'parts')")

    dumps = changed(sqlite_url, tmp_path, break_it, sound)
    (drill,) = dump_drills(dumps.storage, [dumps.url], [], now=datetime.now(UTC))
    assert not drill.passed
    with pytest.raises(OperatorError, match="Nothing was put in place"):
        dumps.restore(f"sqlite:///{tmp_path / 'other.db'}")
    assert not (tmp_path / "other.db").exists()


def test_a_link_in_a_databases_place_stays_and_the_file_behind_it_is_restored(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    dumps.take()
    place = Path(str(sa.make_url(sqlite_url).database))
    real = tmp_path / "volume" / "real.db"
    real.parent.mkdir()
    place.rename(real)
    place.symlink_to(real)
    with closing(sqlite3.connect(real)) as connection, connection:
        connection.execute("DELETE FROM no_key")
    dumps.restore(replace="test")
    assert place.is_symlink()
    assert len(everything(sqlite_url)["no_key"]) == 3
    assert len(list(real.parent.glob("real.db.before_restore_*"))) == 1
