"""A table that got another key since its days were archived, as one does when it is partitioned."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops_tests.archive.scene import DAY, Scene


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    """Six archived rows whose `tokens` are another order of their keys; then the row 2 changed and the row 7 came."""
    made = Scene(database_url, tmp_path / "backups").create_table()
    made.add(6)
    made.update("tokens = 7 - log_id", "1 = 1")
    made.archive()
    return made


def give_key(scene: Scene, key: str) -> None:
    match scene.family:
        case "mysql":
            scene.run(
                "ALTER TABLE conversation_logs MODIFY log_id bigint NOT NULL, MODIFY tokens int NOT NULL,"
                f" DROP PRIMARY KEY, ADD PRIMARY KEY ({key})"
            )
        case "postgresql":
            scene.run(f"ALTER TABLE conversation_logs DROP CONSTRAINT conversation_logs_pkey, ADD PRIMARY KEY ({key})")
        case _:
            scene.run(
                "ALTER TABLE conversation_logs RENAME TO old",
                "CREATE TABLE conversation_logs (log_id integer NOT NULL, session_id varchar(64), role varchar(10),"
                f" content text, tokens int NOT NULL, created_at timestamp NOT NULL, PRIMARY KEY ({key}))",
                "INSERT INTO conversation_logs SELECT * FROM old",
                "DROP TABLE old",
            )


# As partitioning makes it; one that has nothing to do with the former; and, from two columns, one of them.
KEYS = ["log_id, created_at", "tokens"]


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_archived_days_are_unchanged_purged_and_restored_all_the_same(scene: Scene, key: str) -> None:
    give_key(scene, key)
    original = scene.state()
    assert scene.archive().outcome == "unchanged"
    assert scene.purge(dry_run=True).deletable == 6
    assert scene.purge(chunk_size=4).deleted == 6
    assert scene.restore().written == 6
    assert scene.state() == original
    assert scene.restore().already_there == 6


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_a_changed_row_is_one_row_in_parts_of_different_keys(scene: Scene, key: str) -> None:
    give_key(scene, key)
    scene.update("content = '바뀜'", "log_id = 2")
    scene.add(1, first=7, tokens=7)
    original = scene.state()
    assert scene.purge(chunk_size=4).deleted == 5
    assert scene.ids() == [2, 7]
    assert scene.archive().rows_written == 2
    assert scene.purge().deleted == 2
    assert scene.restore().written == 7
    assert scene.state() == original


@pytest.mark.long
def test_a_row_changed_back_is_not_deleted_by_its_older_form_of_another_key(scene: Scene) -> None:
    give_key(scene, KEYS[0])
    scene.update("content = '바뀜'", "log_id = 2")
    scene.archive()
    scene.update("content = '안녕'", "log_id = 2")
    assert scene.purge().deleted == 5
    assert scene.ids() == [2]


@pytest.mark.long
def test_a_wide_key_that_was_made_narrow_is_followed_too(scene: Scene) -> None:
    give_key(scene, KEYS[0])
    scene.add(1, first=7, tokens=7)
    scene.archive()
    give_key(scene, "log_id")
    scene.update("content = '바뀜'", "log_id IN (2, 7)")
    scene.archive()
    original = scene.state()
    assert [part.key for part in scene.files(DAY).parts] == [["log_id"], ["log_id", "created_at"], ["log_id"]]
    assert scene.purge().deleted == 7
    assert scene.restore().written == 7
    assert scene.state() == original
