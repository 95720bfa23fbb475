"""Keys that are texts: their order, and which of them are the same, depend on a collation that may be another today."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops.archive.purge_plan import PurgeResult
from saju_ops.errors import Refused
from saju_ops_tests.archive.scene import DAY, Scene

# In the order of their bytes, of German and of MySQL's and MariaDB's collations each time another one.
KEYS = ["A-1", "B_1", "Zeta", "_x", "a-1b", "a1", "b 1", "zeta9", "~t", "é1", "ß2", "가1", "Ω", "10", "9", "a_1"]
WHEN = {"mysql": "timestamp", "postgresql": "timestamptz", "sqlite": "text"}


def text_scene(url: str, folder: Path, collation: str = "", key: str = "id", number: str = "int") -> Scene:
    scene = Scene(url, folder)
    collate = f"COLLATE {collation}" if collation else ""
    scene.run(
        f"CREATE TABLE {scene.name} (room {number} NOT NULL, id varchar(40) {collate} NOT NULL, content varchar(9),"
        f" created_at {WHEN[scene.family]} NOT NULL, PRIMARY KEY ({key}))"
    )
    return scene


def fill(scene: Scene, ids: list[str] = KEYS) -> None:
    at = scene.time(DAY.start)
    scene.insert([{"room": i % 3, "id": id_, "content": "안녕", "created_at": at} for i, id_ in enumerate(ids)])


def ids(scene: Scene) -> list[str]:
    return sorted(str(row[0]) for row in scene.run(f"SELECT id FROM {scene.name}"))  # noqa: S608


CHANGES = {
    "mysql": ("utf8mb4_0900_ai_ci", "utf8mb4_bin"),
    "mysql back": ("utf8mb4_bin", "utf8mb4_unicode_ci"),
    "mariadb": ("utf8mb4_general_ci", "utf8mb4_bin"),
    "mariadb back": ("utf8mb4_bin", "utf8mb4_unicode_520_ci"),
    "postgres": ('"C"', '"und-x-icu"'),
    "postgres back": ('"de-x-icu"', '"C"'),
    "sqlite": ("BINARY", "NOCASE"),
    "sqlite back": ("NOCASE", "BINARY"),
}


def change(scene: Scene, collation: str, key: str) -> None:
    if scene.family == "mysql":
        scene.run(f"ALTER TABLE {scene.name} CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}")
    elif scene.family == "postgresql":
        scene.run(f"ALTER TABLE {scene.name} ALTER id TYPE varchar(40) COLLATE {collation}")
    else:
        scene.run(
            "ALTER TABLE conversation_logs RENAME TO old",
            f"CREATE TABLE conversation_logs (room int NOT NULL, id varchar(40) COLLATE {collation} NOT NULL,"
            f" content varchar(9), created_at text NOT NULL, PRIMARY KEY ({key}))",
            "INSERT INTO conversation_logs SELECT * FROM old",
            "DROP TABLE old",
        )


@pytest.mark.long
@pytest.mark.parametrize("key", ["id", "id, room", "room, id"])
@pytest.mark.parametrize("what", list(CHANGES))
def test_a_changed_collation_leaves_no_row_behind_and_all_come_back(
    what: str, key: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    before, after = CHANGES[what]
    scene = text_scene(request.getfixturevalue(f"{what.split()[0]}_url"), tmp_path / "backups", before, key)
    fill(scene)
    original = scene.state()
    scene.archive()
    change(scene, after, key)
    assert scene.purge(dry_run=True, chunk_size=5).deletable == len(KEYS)
    result = scene.purge(chunk_size=5)
    assert (result.deleted, result.kept, result.problems, ids(scene)) == (len(KEYS), 0, [], [])
    assert scene.restore().written == len(KEYS)
    assert scene.state() == original
    assert scene.restore().already_there == len(KEYS)
    scene.remove("id IN ('a1', '9', 'Zeta')")
    assert scene.restore().written == 3
    assert scene.state() == original
    assert scene.restore(table="another").written == len(KEYS)
    assert scene.state("another") == original


def test_late_changed_and_hidden_rows_stay_in_a_table_of_another_collation(mysql_url: str, tmp_path: Path) -> None:
    scene = text_scene(mysql_url, tmp_path / "backups", "utf8mb4_0900_ai_ci")
    fill(scene)
    scene.archive()
    change(scene, "utf8mb4_bin", "id")
    scene.update("content = '바뀜'", "id IN ('a1', 'Zeta')")
    fill(scene, ["B-late", "zz"])
    result = scene.purge(chunk_size=4)
    assert (result.deleted, result.kept_changed, result.kept_late) == (len(KEYS) - 2, 2, 2)
    assert ids(scene) == sorted(["B-late", "Zeta", "a1", "zz"])
    assert result.problems == []


PAIRS = [
    ("mysql", "mariadb"), ("mariadb", "mysql"), ("mysql", "postgres"), ("postgres", "mariadb"), ("sqlite", "postgres"),
    ("mariadb", "sqlite"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("key", ["id", "room, id"])
def test_a_day_comes_back_in_another_kind_of_database_by_its_own_default_collation(
    source: str, target: str, key: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = text_scene(request.getfixturevalue(f"{source}_url"), tmp_path / "backups", key=key)
    fill(scene)
    scene.archive()
    other = text_scene(request.getfixturevalue(f"{target}_url"), tmp_path / "backups", key=key)
    fill(other, ["here", "AA"])
    assert scene.restore(url=other.url).written == len(KEYS)
    assert ids(other) == sorted([*KEYS, "here", "AA"])
    family = {"mysql": "mysql", "mariadb": "mysql"}
    if family.get(source, source) == family.get(target, target):
        assert scene.restore(url=other.url).already_there == len(KEYS)


CI = {"mysql": "utf8mb4_0900_ai_ci", "mariadb": "utf8mb4_general_ci", "sqlite": "NOCASE"}


def case_scene(engine: str, request: pytest.FixtureRequest, folder: Path) -> Scene:
    """Archived rows, one of which has its key spelled differently since, and was archived so too."""
    scene = text_scene(request.getfixturevalue(f"{engine}_url"), folder, CI[engine])
    fill(scene, ["a1", "b1", "c1"])
    scene.archive()
    scene.update("id = 'A1', content = '바뀜'", "id = 'a1'")
    assert scene.archive().rows_written == 1
    return scene


@pytest.mark.long
@pytest.mark.parametrize("engine", list(CI))
def test_a_key_that_changed_its_letter_case_is_one_row(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = case_scene(engine, request, tmp_path / "backups")
    original = scene.state()
    assert scene.purge().deleted == 3
    plan = scene.restore()
    assert (plan.written, plan.superseded) == (3, 1)
    assert scene.state() == original
    assert scene.restore().already_there == 3
    assert scene.restore(table="another").written == 3
    assert scene.state("another") == original


@pytest.mark.long
@pytest.mark.parametrize("engine", list(CI))
def test_a_key_that_changed_back_is_archived_again_before_it_is_deleted(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = case_scene(engine, request, tmp_path / "backups")
    scene.update("id = 'a1', content = '안녕'", "id = 'A1'")
    original = scene.state()
    result = scene.purge()
    assert (result.deleted, result.kept_changed, result.problems, ids(scene)) == (2, 1, [], ["a1"])
    assert scene.archive().rows_written == 1
    assert scene.purge().deleted == 1
    assert scene.restore().written == 3
    assert scene.state() == original


@pytest.mark.parametrize("engine", list(CI))
def test_a_row_that_is_there_under_another_spelling_stops_a_restore_before_the_first_write(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = text_scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", CI[engine])
    fill(scene, ["a1", "b1", "c1"])
    scene.archive()
    scene.remove("id <> 'a1'")
    scene.update("id = 'A1'", "id = 'a1'")
    with pytest.raises(Refused, match=r"1 row is in .* and differs from the archive; their keys: A1"):
        scene.restore()
    assert ids(scene) == ["A1"]


@pytest.mark.parametrize("collation", ["utf8mb4_turkish_ci", "utf8mb4_da_0900_ai_ci"])
def test_keys_that_a_language_distinguishes_are_two_rows(mysql_url: str, collation: str, tmp_path: Path) -> None:
    """To Turkish, I and i are two letters; in Danish, aa isn't a and a."""
    scene = text_scene(mysql_url, tmp_path / "backups", collation)
    fill(scene, ["AI", "aa"])
    scene.archive()
    fill(scene, ["ai" if "turkish" in collation else "ab"])
    scene.archive()
    original = scene.state()
    assert scene.purge().deleted == 3
    assert scene.restore().written == 3
    assert scene.state() == original


def test_rows_that_somebody_writes_again_are_named_with_the_kind_of_key(mysql_url: str, tmp_path: Path) -> None:
    scene = text_scene(mysql_url, tmp_path / "backups")
    fill(scene)
    scene.archive()

    def write_again(result: PurgeResult, day: object) -> None:
        if result.deleted == len(KEYS) and not ids(scene):
            fill(scene, KEYS[:3])

    result = scene.purge(progress=write_again)
    assert (result.deleted, result.kept, result.kept_unexplained) == (len(KEYS), 3, 3)
    assert result.problems == [
        "3 rows of 2026-10-01 are archived unchanged and still in conversation_logs, for no known reason. The table's"
        " key is id varchar(40). Launch the purge again; if that changes nothing, look for a program that writes such"
        " rows again."
    ]
    assert result.kept_because == "3 still there for no known reason"
