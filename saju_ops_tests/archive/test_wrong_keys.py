"""SQLite databases whose foreign keys are wrong in themselves, which a service that never enforces them doesn't see."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops.errors import Refused
from saju_ops_tests.archive.scene import Scene

# Keys by which no row can hang on a log row, each of a table of its own.
MEANINGLESS = {
    "to a column that is not there": "REFERENCES conversation_logs (id)",
    "to a table that is not there": "REFERENCES gone (id)",
}


@pytest.fixture
def scene(sqlite_url: str, tmp_path: Path) -> Scene:
    made = Scene(sqlite_url, tmp_path / "backups").create_table()
    made.add(10)
    return made


def loosely(scene: Scene, *statements: str) -> None:
    """As the service does: without looking at foreign keys."""
    with scene.engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_rows_that_a_key_to_columns_which_are_not_unique_holds_stay_and_all_else_is_deleted(scene: Scene) -> None:
    loosely(
        scene,
        "CREATE TABLE feedback (id integer PRIMARY KEY, session text REFERENCES conversation_logs (session_id)"
        " ON DELETE CASCADE)",
        "INSERT INTO feedback VALUES (1, 's3')",
    )
    original = scene.state()
    scene.archive()
    assert scene.purge(dry_run=True).deletable == 8
    result = scene.purge(chunk_size=4)
    assert (result.deleted, dict(result.kept_referenced), result.problems) == (8, {"feedback": 2}, [])
    assert scene.ids() == [3, 10]
    assert "a foreign key that is wrong in itself" in result.doubt
    assert scene.restore().written == 8
    assert scene.state() == original


@pytest.mark.parametrize("key", list(MEANINGLESS))
def test_a_key_by_which_nothing_can_hang_holds_no_row(scene: Scene, key: str) -> None:
    loosely(
        scene,
        f"CREATE TABLE feedback (a integer, b text, FOREIGN KEY (a) {MEANINGLESS[key]})",
        "INSERT INTO feedback (a) VALUES (3)",
    )
    original = scene.state()
    scene.archive()
    result = scene.purge()
    assert (result.deleted, result.kept, result.problems) == (10, 0, [])
    assert scene.restore().written == 10
    assert scene.state() == original


def test_sound_keys_of_such_a_database_hold_their_rows_all_the_same(scene: Scene) -> None:
    loosely(
        scene,
        "CREATE TABLE wrong (a integer REFERENCES conversation_logs (tokens))",
        "CREATE TABLE right (log_id integer REFERENCES conversation_logs (LOG_ID) ON DELETE CASCADE)",
        "INSERT INTO right VALUES (4)",
    )
    scene.archive()
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced)) == (9, {"right": 1})
    assert scene.run("SELECT * FROM right") == [(4,)]


@pytest.mark.parametrize("parent", ["sessions (name)", "nowhere (id)", "sessions (gone)"])
def test_a_log_whose_own_key_is_wrong_comes_back(sqlite_url: str, tmp_path: Path, parent: str) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups")
    loosely(
        scene,
        "CREATE TABLE sessions (id text PRIMARY KEY, name text)",
        "INSERT INTO sessions VALUES ('a', 's1'), ('b', 's1')",
        f"CREATE TABLE conversation_logs (log_id integer PRIMARY KEY, session text REFERENCES {parent},"
        " created_at text NOT NULL)",
        "INSERT INTO conversation_logs VALUES (1, 's1', '2026-10-01 01:00:00'), (2, NULL, '2026-10-01 01:00:00')",
    )
    original = scene.state()
    scene.archive()
    assert scene.purge().deleted == 2
    assert scene.restore().written == 2
    assert scene.state() == original
    if parent == "sessions (name)":
        scene.purge()
        loosely(scene, "DELETE FROM sessions")
        with pytest.raises(Refused, match="1 parent row is missing: sessions s1"):
            scene.restore()


def test_a_key_by_another_collation_holds_its_row(sqlite_url: str, tmp_path: Path) -> None:
    """SQLite compares a reference by the parent's collation."""
    scene = Scene(sqlite_url, tmp_path / "backups")
    scene.run(
        "CREATE TABLE conversation_logs (id text COLLATE NOCASE PRIMARY KEY NOT NULL, created_at text NOT NULL)",
        "CREATE TABLE feedback (id text REFERENCES conversation_logs (id) ON DELETE CASCADE)",
        "INSERT INTO conversation_logs VALUES ('a1', '2026-10-01 01:00:00'), ('b1', '2026-10-01 01:00:00')",
        "INSERT INTO feedback VALUES ('A1')",
    )
    scene.archive()
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced)) == (1, {"feedback": 1})
    assert scene.run("SELECT id FROM feedback") == [("A1",)]
