"""Messages that answer others of the same table: a purge takes whole threads, and a restore brings them back."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from saju_ops.errors import Refused
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, Scene
from saju_ops_tests.archive.test_purge import day_after

WHEN = {"mysql": "timestamp", "postgresql": "timestamptz", "sqlite": "text"}
# Ids of one thread, as a service writes them: their order has nothing to do with the answers.
IDS = [str(uuid.UUID(int=random.Random(7).getrandbits(128) + i)) for i in range(20)]
random.Random(11).shuffle(IDS)


def thread_scene(url: str, folder: Path, rule: str = "NO ACTION", null: str = "NULL") -> Scene:
    scene = Scene(url, folder)
    kind = {"postgresql": "uuid"}.get(scene.family, "varchar(36)")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id {kind} PRIMARY KEY, parent_id {kind} {null}, content varchar(20),"
        f" created_at {WHEN[scene.family]} NOT NULL,"
        f" FOREIGN KEY (parent_id) REFERENCES {scene.name} (log_id) ON DELETE {rule})"
    )
    return scene


def write_thread(scene: Scene, *messages: tuple[str, str | None, int]) -> None:
    """Messages by their key, what they answer and how many days after DAY they were sent."""
    for key, parent, days in messages:
        at = scene.time(DAY.start + timedelta(days=days, hours=1))
        scene.insert([{"log_id": key, "parent_id": parent, "content": "안녕", "created_at": at}])


def keys(scene: Scene) -> set[str]:
    return {str(row[0]) for row in scene.run(f"SELECT log_id FROM {scene.name}")}  # noqa: S608


RULES = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL"]


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunk_size", [1, 6, 5000])
def test_a_thread_is_purged_in_one_run_and_restored(
    database_url: str, rule: str, chunk_size: int, tmp_path: Path
) -> None:
    if rule != "CASCADE" and chunk_size == 1:
        pytest.skip("one rule is enough for the smallest chunk") if False else None
    scene = thread_scene(database_url, tmp_path / "backups", rule)
    write_thread(scene, (IDS[0], None, 0), *((key, IDS[i], 0) for i, key in enumerate(IDS[1:])))
    original = scene.state()
    scene.archive()
    assert scene.purge(dry_run=True).deletable == 20
    result = scene.purge(chunk_size=chunk_size)
    assert (result.deleted, result.kept, result.days, result.problems) == (20, 0, 1, [])
    assert scene.restore().written == 20
    assert scene.state() == original


@pytest.mark.long
def test_a_thread_over_several_days_is_purged_in_one_run_and_restored(database_url: str, tmp_path: Path) -> None:
    scene = thread_scene(database_url, tmp_path / "backups")
    write_thread(scene, (IDS[0], None, 0), *((key, IDS[i], (i + 1) // 4) for i, key in enumerate(IDS[1:])))
    original = scene.state()
    day = DAY
    for _ in range(5):
        scene.archive(day)
        day = day_after(day)
    result = scene.purge()
    assert (result.deleted, result.kept, result.days) == (20, 0, 5)
    assert sorted(result.per_day.values()) == [4, 4, 4, 4, 4]
    assert scene.restore(DAY, day).written == 20
    assert scene.state() == original


@pytest.mark.long
def test_what_a_row_that_stays_answers_stays_too_and_is_counted(database_url: str, tmp_path: Path) -> None:
    scene = thread_scene(database_url, tmp_path / "backups", "CASCADE")
    write_thread(
        scene, (IDS[0], None, 0), (IDS[1], IDS[0], 0), (IDS[2], IDS[1], 0), (IDS[3], IDS[0], 0), (IDS[4], None, 0)
    )
    scene.archive()
    scene.update("content = '바뀜'", f"log_id = '{IDS[2]}'")
    assert scene.purge(dry_run=True).deletable == 4
    result = scene.purge()
    assert (result.deleted, result.kept_changed, dict(result.kept_referenced)) == (2, 1, {"conversation_logs": 2})
    assert keys(scene) == set(IDS[:3])


@pytest.mark.long
def test_what_an_answer_within_the_retention_answers_stays(database_url: str, tmp_path: Path) -> None:
    scene = thread_scene(database_url, tmp_path / "backups", "CASCADE")
    write_thread(scene, (IDS[0], None, 0), (IDS[1], IDS[0], 1), (IDS[2], IDS[1], 40), (IDS[3], None, 1))
    for day in (DAY, NEXT_DAY):
        scene.archive(day)
    dry = scene.purge(dry_run=True)
    assert (dry.deletable, dict(dry.kept_referenced)) == (2, {"conversation_logs": 1})
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced), result.problems) == (1, {"conversation_logs": 2}, [])
    assert keys(scene) == set(IDS[:3])


@pytest.mark.long
def test_messages_that_answer_each_other_or_themselves_go_and_come_back(database_url: str, tmp_path: Path) -> None:
    scene = thread_scene(database_url, tmp_path / "backups")
    write_thread(
        scene, (IDS[0], None, 0), (IDS[1], IDS[0], 0), (IDS[2], IDS[1], 0), (IDS[3], None, 0), (IDS[4], None, 0)
    )
    scene.update(f"parent_id = '{IDS[2]}'", f"log_id = '{IDS[0]}'")
    scene.update(f"parent_id = '{IDS[3]}'", f"log_id = '{IDS[3]}'")
    original = scene.state()
    scene.archive()
    result = scene.purge(chunk_size=2)
    assert (result.deleted, result.kept) == (5, 0)
    assert scene.restore().written == 5
    assert scene.state() == original


@pytest.mark.long
def test_an_answer_to_a_later_day_comes_back_with_it(database_url: str, tmp_path: Path) -> None:
    scene = thread_scene(database_url, tmp_path / "backups")
    write_thread(scene, (IDS[0], None, 1), (IDS[1], IDS[0], 0), (IDS[2], IDS[1], 1), (IDS[3], IDS[2], 0))
    original = scene.state()
    for day in (DAY, NEXT_DAY):
        scene.archive(day)
    assert scene.purge().deleted == 4
    assert scene.restore(DAY, NEXT_DAY, dry_run=True).to_write == 4
    assert scene.restore(DAY, NEXT_DAY).written == 4
    assert scene.state() == original


@pytest.mark.long
def test_what_is_answered_and_neither_there_nor_restored_is_named_before_the_first_write(
    database_url: str, tmp_path: Path
) -> None:
    scene = thread_scene(database_url, tmp_path / "backups")
    write_thread(scene, (IDS[0], None, 0), (IDS[1], IDS[0], 1), (IDS[2], IDS[1], 1))
    for day in (DAY, NEXT_DAY):
        scene.archive(day)
    assert scene.purge().deleted == 3
    with pytest.raises(Refused, match="1 parent row is missing") as caught:
        scene.restore(NEXT_DAY)
    assert IDS[0] in str(caught.value)
    assert scene.count() == 0
    assert scene.restore(NEXT_DAY, table="restored").written == 2
    assert scene.restore(DAY).written == 1
    assert scene.restore(NEXT_DAY).written == 2


@pytest.mark.long
@pytest.mark.parametrize("changed", [0, 1, 3])
@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_a_message_that_changed_after_it_was_archived_comes_back_with_its_answers(
    database_url: str, changed: int, kind: str, tmp_path: Path
) -> None:
    """It is in the later part only: rows that answer it can't be written before, and may be in that range."""
    scene = thread_scene(database_url, tmp_path / "backups")
    keys = IDS[:4]
    if kind == "numbers":
        keys = ["1", "2", "3", "4"]
        scene.run(f"DROP TABLE {scene.name}")
        scene.run(
            f"CREATE TABLE {scene.name} (log_id int PRIMARY KEY, parent_id int, content varchar(20),"
            f" created_at {WHEN[scene.family]} NOT NULL, FOREIGN KEY (parent_id) REFERENCES {scene.name} (log_id))"
        )
    write_thread(scene, (keys[0], None, 0), *((key, keys[i], 0) for i, key in enumerate(keys[1:])))
    scene.archive()
    scene.update("content = '바뀜'", f"log_id = '{keys[changed]}'")
    scene.archive()
    original = scene.state()
    assert scene.parts() == [4, 1]
    assert scene.purge().deleted == 4
    assert scene.restore().written == 4
    assert scene.state() == original


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_ring_is_deleted_though_the_server_renews_times_in_each_update(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id int PRIMARY KEY, parent_id int, created_at timestamp NOT NULL"
        " DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,"
        f" FOREIGN KEY (parent_id) REFERENCES {scene.name} (log_id))"
    )
    at = scene.time(DAY.start + timedelta(hours=1))
    scene.insert([{"log_id": 1, "parent_id": 1, "created_at": at}, {"log_id": 2, "parent_id": None, "created_at": at}])
    original = scene.state()
    scene.archive()
    result = scene.purge()
    assert (result.deleted, result.kept, result.problems) == (2, 0, [])
    assert scene.restore().written == 2
    assert scene.state() == original
