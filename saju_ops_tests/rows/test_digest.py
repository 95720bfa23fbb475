"""Every change of a row changes the digest, as the database computes it; days and cutoffs to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from saju_ops.rows.days import Day, cutoff_day, day_of, days, naive_bound, parse_day
from saju_ops.rows.digest import Digest, key_hashes, row_hashes
from saju_ops.rows.engines.open import Selection
from saju_ops.rows.table import Column
from saju_ops_tests.archive.scene import DAY, SEOUL, Scene


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    return Scene(database_url, tmp_path / "backups").create_table()


def digest(scene: Scene) -> Digest:
    """The database's own; it must be what the same rows give when this process hashes them."""
    with scene.store() as store:
        found = store.digest(Selection(DAY))
        computed = Digest(0, 0)
        for batch in store.batches(Selection(DAY)):
            computed += Digest.of(row_hashes(batch, store.table.columns))
    assert found == computed
    return found


@pytest.mark.parametrize("stranger", [str(1 << 63), str((1 << 64) - 1), "1.50", str(-(1 << 63) - 1), None])
def test_a_key_means_the_same_whatever_else_is_read_with_it(stranger: str | None) -> None:
    column = Column("log_id", "decimal(20,2)", "number", framed=False)

    def keys(*texts: str | None) -> list[int]:
        batch = pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], names=["log_id"])
        return key_hashes(batch, [column]).tolist()

    plain = ["1", "-1", "0", "9223372036854775807", "-9223372036854775808"]
    apart = [keys(text)[0] for text in [*plain, stranger]]
    assert keys(*plain, stranger) == apart
    assert keys(*plain) == apart[:-1]
    assert len(set(apart)) == len(apart)


def test_a_changed_cell_changes_the_digest(scene: Scene) -> None:
    scene.add(5)
    before = digest(scene)
    scene.update("tokens = 2", "log_id = 3")
    assert digest(scene) != before
    scene.update("tokens = 1", "log_id = 3")
    assert digest(scene) == before


def test_cells_swapped_between_two_rows_change_the_digest(scene: Scene) -> None:
    scene.add(5)
    scene.update("content = 'one'", "log_id = 1")
    scene.update("content = 'two'", "log_id = 2")
    before = digest(scene)
    scene.update("content = 'two'", "log_id = 1")
    scene.update("content = 'one'", "log_id = 2")
    assert digest(scene) != before


def test_the_same_change_made_to_two_rows_changes_the_digest(scene: Scene) -> None:
    scene.add(6)
    before = digest(scene)
    scene.update("tokens = 7", "log_id IN (2, 4)")
    assert digest(scene) != before


def test_cells_moved_between_columns_change_the_digest(scene: Scene) -> None:
    scene.add(1)
    scene.update("session_id = 'a', role = 'b'", "log_id = 1")
    before = digest(scene)
    scene.update("session_id = 'b', role = 'a'", "log_id = 1")
    assert digest(scene) != before


@pytest.mark.long
def test_null_and_what_looks_like_it_are_all_different(scene: Scene) -> None:
    scene.add(1)
    seen = set()
    for value in (None, "", "N", "0", "NULL", "\\N", " "):
        scene.update("content = :value", "log_id = 1", value=value)
        seen.add(digest(scene).xor)
    assert len(seen) == 7


def test_null_in_a_number_is_not_zero(scene: Scene) -> None:
    scene.add(1, tokens=0)
    before = digest(scene)
    scene.update("tokens = NULL", "log_id = 1")
    assert digest(scene) != before


@pytest.mark.long
def test_a_separator_inside_a_text_does_not_make_two_rows_alike(scene: Scene) -> None:
    scene.add(1)
    seen = set()
    for role, content in (("a\x1f1\x1fb", "c"), ("a", "b\x1f1\x1fc"), ("a\x1f", "b"), ("a", "\x1fb"), ("N", None)):
        scene.update("role = :role, content = :content", "log_id = 1", role=role, content=content)
        seen.add(digest(scene).xor)
    assert len(seen) == 5


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_null_is_not_the_enum_member_n(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.run(f"ALTER TABLE {scene.name} ADD agreed enum('Y','N'), ADD flags set('N')")
    scene.add(1)
    seen = set()
    for agreed, flags in ((None, None), ("N", None), (None, "N"), ("Y", ""), (None, "")):
        scene.update("agreed = :agreed, flags = :flags", "log_id = 1", agreed=agreed, flags=flags)
        seen.add(digest(scene).xor)
    assert len(seen) == 5


@pytest.mark.parametrize(("one", "other"), [(12, "12"), (12, 12.0), ("x", b"x"), (b"12", "12")])
def test_in_sqlite_a_cell_of_another_type_is_another_cell(
    sqlite_url: str, tmp_path: Path, one: Any, other: Any
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups")
    scene.run(f"CREATE TABLE {scene.name} (log_id integer PRIMARY KEY, x, created_at text)")
    scene.insert([{"log_id": 1, "x": one, "created_at": "2026-10-01 00:00:00"}])
    with scene.store() as before:
        columns, was = before.table.columns, before.digest(Selection(DAY))
    scene.update("x = :x", "log_id = 1", x=other)
    with scene.store() as after:
        assert after.adopt(columns)
        assert after.digest(Selection(DAY)) != was


def test_a_day_begins_and_ends_at_midnight_in_seoul() -> None:
    assert DAY.start == datetime(2026, 9, 30, 15, tzinfo=UTC)
    assert DAY.end == datetime(2026, 10, 1, 15, tzinfo=UTC)
    assert day_of(DAY.start, SEOUL) == DAY
    assert day_of(DAY.end - timedelta(microseconds=1), SEOUL) == DAY
    assert day_of(DAY.end, SEOUL) != DAY
    assert DAY.is_over(DAY.end)
    assert not DAY.is_over(DAY.end - timedelta(microseconds=1))


def test_a_day_of_a_zone_with_summer_time_has_its_own_length() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert Day(datetime(2026, 3, 29, tzinfo=UTC).date(), berlin).end - parse_day(
        "2026-03-29", berlin
    ).start == timedelta(hours=23)


def test_the_cutoff_is_the_day_that_is_only_partly_beyond_the_retention() -> None:
    midnight = datetime(2026, 10, 31, 15, tzinfo=UTC)  # 1 November 00:00 in Seoul
    assert str(cutoff_day(midnight, 30, SEOUL)) == "2026-10-02"
    assert str(cutoff_day(midnight - timedelta(microseconds=1), 30, SEOUL)) == "2026-10-01"
    assert str(cutoff_day(midnight + timedelta(hours=23), 30, SEOUL)) == "2026-10-02"


def test_days_are_both_ends_included() -> None:
    listed = [str(d) for d in days(parse_day("2026-02-27", SEOUL), parse_day("2026-03-01", SEOUL))]
    assert listed == ["2026-02-27", "2026-02-28", "2026-03-01"]


def test_a_bound_for_a_column_without_a_zone_is_in_the_zone_of_the_database() -> None:
    assert str(naive_bound(DAY.start, SEOUL)) == "2026-10-01 00:00:00"
