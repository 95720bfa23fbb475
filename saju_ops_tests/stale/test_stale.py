"""Which jobs are stale, and what becomes of them, on every engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from saju_ops.errors import Refused
from saju_ops.run_control import RunControl
from saju_ops.stale.plan import StalePlan
from saju_ops_tests.stale.scene import HOUR, NOW, SEOUL, Scene, ago, becomes


@pytest.fixture
def old(database_url: str, tmp_path: Path) -> Scene:
    """No time but the jobs' created_at."""
    return Scene(database_url, tmp_path / "backups").create()


@pytest.fixture
def newer(database_url: str, tmp_path: Path) -> Scene:
    return Scene(database_url, tmp_path / "backups", newer=True).create()


@pytest.fixture
def sqlite(sqlite_url: str, tmp_path: Path) -> Scene:
    return Scene(sqlite_url, tmp_path / "backups", newer=True).create()


# --- which jobs -------------------------------------------------------------------------------------------


def test_only_open_jobs_that_did_not_move_for_so_long_are_stale(old: Scene) -> None:
    for number, status in enumerate(("pending", "processing", "completed", "failed", "cancelled")):
        old.job(f"old{number}", status)
        old.job(f"new{number}", status, ago(2))
    assert old.stale() == {"old0", "old1"}
    assert old.stale(hours=1) == {"old0", "old1", "new0", "new1"}
    assert old.stale(hours=200) == set()


def test_a_job_that_moved_exactly_so_long_ago_is_not_stale(newer: Scene) -> None:
    newer.job("exact", created=ago(24))
    newer.job("second_before", created=ago(24) - timedelta(seconds=1))
    newer.job("second_after", created=ago(24) + timedelta(seconds=1))
    assert newer.stale() == {"second_before"}


def test_a_job_that_the_worker_still_touches_is_left_alone(newer: Scene) -> None:
    newer.job("untouched", updated=ago(30), files=2, done=1, result_updated=ago(25))
    newer.job("touched", updated=ago(1), files=2)
    newer.job("file_touched", updated=ago(90), files=2, done=1, result_updated=ago(3))
    newer.job("one_file_touched", updated=ago(90), files=2, done=1, result_updated=ago(90))
    row = {"job_id": "one_file_touched", "file_id": "late", "status": "processing", "updated_at": ago(1)}
    newer.insert("analysis_results", row)
    assert newer.stale() == {"untouched"}
    newer.apply()
    assert newer.statuses() == {
        "untouched": "completed", "touched": "processing", "file_touched": "processing",
        "one_file_touched": "processing",
    }  # fmt: skip


def test_results_created_lately_show_that_a_job_moves(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups").create()
    kind = "timestamp" if scene.name == "postgresql" else "datetime"
    scene.execute(f"ALTER TABLE analysis_results ADD COLUMN created_at {kind} NULL")
    for name, at in (("moving", ago(2)), ("stale", ago(50)), ("never", None)):
        scene.job(name)
        scene.insert("analysis_results", {"job_id": name, "file_id": "a", "status": "pending", "created_at": at})
    assert scene.stale() == {"stale", "never"}
    assert "analysis_results.created_at" in scene.reconcile().evidence


def test_a_time_that_was_never_set_says_nothing(newer: Scene) -> None:
    newer.job("never_updated", files=1)
    newer.execute("UPDATE analysis_jobs SET updated_at = NULL", "UPDATE analysis_results SET updated_at = NULL")
    assert newer.stale() == {"never_updated"}


@pytest.mark.parametrize(
    ("engine", "zone"),
    [("mysql", "Asia/Seoul"), ("mariadb", "Asia/Seoul"), ("postgres", "Asia/Seoul"), ("sqlite", "Asia/Seoul"),
     ("sqlite", "America/New_York"), ("sqlite", "UTC")],
)  # fmt: skip
def test_times_without_a_zone_are_in_the_zone_of_the_database(
    engine: str, zone: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database_url = request.getfixturevalue(f"{engine}_url")
    scene = Scene(database_url, tmp_path / "backups", zone=zone).create()
    scene.job("just_stale", created=ago(24) - timedelta(minutes=1))
    scene.job("just_not", created=ago(24) + timedelta(minutes=1))
    scene.job("week", created=ago(24 * 7))
    scene.job("nearly_week", created=ago(24 * 7) + timedelta(minutes=1))
    result = scene.reconcile()
    assert set(becomes(result)) == {"just_stale", "week", "nearly_week"}
    assert result.older_than_7_days == 1


@pytest.mark.parametrize("minutes", range(-90, 91, 30))
def test_it_is_the_same_whatever_the_clock_shows_around_midnight_in_seoul(
    sqlite_url: str, tmp_path: Path, minutes: int
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups", zone="Asia/Seoul").create()
    now = datetime(2026, 10, 15, tzinfo=SEOUL).astimezone(UTC) + timedelta(minutes=minutes)
    scene.job("stale", created=now - 24 * HOUR - timedelta(seconds=1))
    scene.job("not", created=now - 24 * HOUR)
    result = scene.apply(now=now, run_id="midnight")
    assert set(becomes(result)) == {"stale"}
    assert scene.statuses()["not"] == "processing"
    # The month of Seoul's day names the folder.
    assert scene.audit()[0].startswith("reconciled_jobs/2026/10/midnight.")


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_columns_that_hold_instants_are_compared_as_instants(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = "postgres" if kind == "timestamptz" else "mysql"
    # The zone of naive columns must not matter to these.
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "b", zone="Asia/Seoul").create(time=kind)
    at = ago(24) - timedelta(seconds=1)
    shown = at.isoformat() if engine == "postgres" else f"{at:%Y-%m-%d %H:%M:%S}"
    pin = "SET time_zone = '+00:00'" if engine == "mysql" else "SET timezone = 'America/New_York'"
    later = f"{at + timedelta(seconds=2):%Y-%m-%d %H:%M:%S}" + ("+00" if engine == "postgres" else "")
    scene.execute(
        pin,
        f"INSERT INTO analysis_jobs (job_id, status, created_at) VALUES ('stale', 'pending', '{shown}')",  # noqa: S608
        f"INSERT INTO analysis_jobs (job_id, status, created_at) VALUES ('not', 'pending', '{later}')",  # noqa: S608
    )
    assert scene.stale() == {"stale"}


SECOND = timedelta(seconds=1)
FORMS = {
    "blank": "%Y-%m-%d %H:%M:%S", "T": "%Y-%m-%dT%H:%M:%S", "Z": "%Y-%m-%dT%H:%M:%SZ",
    "micro": "%Y-%m-%d %H:%M:%S.000000", "milli_Z": "%Y-%m-%dT%H:%M:%S.000Z", "nano": "%Y-%m-%dT%H:%M:%S.000000000Z",
    "offset": "%Y-%m-%dT%H:%M:%S+00:00", "offset4": "%Y-%m-%d %H:%M:%S+0000", "offset2": "%Y-%m-%d %H:%M:%S+00",
    "utc": "%Y-%m-%d %H:%M:%S UTC", "slashes": "%Y/%m/%d %H:%M:%S", "blanks": "  %Y-%m-%d %H:%M:%S ",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_sqlite_times_are_compared_as_instants_in_every_form(sqlite: Scene, form: str) -> None:
    ages = {"stale": ago(24) - SECOND, "exact": ago(24), "week": ago(168), "younger": ago(168) + SECOND}
    for name, at in ages.items():
        sqlite.job(name, created=at.strftime(FORMS[form]), files=1)
        sqlite.job(f"seoul_{name}", created=at.astimezone(SEOUL).isoformat(), files=1)
    result = sqlite.reconcile()
    wanted = {"stale", "week", "younger"}
    assert set(becomes(result)) == wanted | {f"seoul_{w}" for w in wanted}
    assert (result.older_than_7_days, result.odd_count) == (2, 0)


@pytest.mark.parametrize(
    ("recent", "old"),
    [("2026-10-14 15:00:00", "2026-10-01 00:00:00"), ("2026-10-14 15:00:00.123456", "2026-10-14 00:00:00"),
     # 26 characters each, and not one a plain time: a fraction of three digits, of two, of one, and a Z.
     ("2026-10-14 10:00:00.123-05", "2026-10-14 14:00:00.123456"),
     ("2026-10-14 10:00:00.1-0500", "2026-10-14 14:00:00.123456"),
     ("2026-10-15T00:00:00.123+09", "2026-10-01 00:00:00.000000"),
     ("2026-10-14T15:00:00.12345Z", "2026-10-14 14:00:00"),
     ("2026-10-14 15:00", "2026-10-14 14:00:00"), ("2026/10/14 15:00:00", "2026-10-14 14:00:00")],
)  # fmt: skip
def test_the_latest_result_is_found_among_texts_of_any_form(sqlite: Scene, recent: str, old: str) -> None:
    for number, (one, other) in enumerate([(recent, old), (old, recent)]):
        sqlite.job(f"j{number}", files=2)
        sqlite.execute(
            f"UPDATE analysis_results SET updated_at = '{one}' WHERE job_id = 'j{number}' AND file_id = 'f0'",  # noqa: S608
            f"UPDATE analysis_results SET updated_at = '{other}' WHERE job_id = 'j{number}' AND file_id = 'f1'",  # noqa: S608
        )
    # Half an hour ago.
    assert sqlite.stale(hours=1) == set()
    sqlite.execute(f"UPDATE analysis_results SET updated_at = '{old}'")  # noqa: S608
    assert sqlite.stale(hours=1) == {"j0", "j1"}


def test_one_unreadable_result_among_good_ones_is_reported(sqlite: Scene) -> None:
    for number, text in enumerate(("1999-01-01 00:00:00", "2025-13-01 00:00:00", "2025-01-00 00:00:00", "abc", "")):
        sqlite.job(f"j{number}", files=3, done=1)
        sqlite.execute(
            f"UPDATE analysis_results SET updated_at = '{text}' WHERE job_id = 'j{number}' AND file_id = 'f1'"  # noqa: S608
        )
    assert sqlite.apply().stale == 0
    assert sqlite.reconcile().odd_count == 5


def test_the_latest_of_a_jobs_results_counts_and_not_the_one_last_in_the_alphabet(sqlite: Scene) -> None:
    # As texts, "2026-10-13T09…" and "2026-10-13T10…+09:00" stand the other way round.
    sqlite.job("moving", files=2)
    sqlite.execute(
        "UPDATE analysis_results SET updated_at = '2026-10-14T23:00:00+09:00' WHERE file_id = 'f0'",
        "UPDATE analysis_results SET updated_at = '2026-10-13T23:59:59Z' WHERE file_id = 'f1'",
    )
    assert sqlite.stale() == set()
    assert sqlite.stale(hours=1) == {"moving"}


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-45 10:00:00", "0000-00-00 00:00:00", "1712011112345", "1970-01-01 00:00:00"]
)
def test_a_time_that_cannot_be_read_is_reported_and_the_job_left_alone(sqlite: Scene, text: str) -> None:
    sqlite.job("created", created=text)
    sqlite.job("updated", updated=text)
    sqlite.job("result", files=2, result_updated=text)
    sqlite.job("completed", "completed", created=text)
    result = sqlite.apply()
    assert result.stale == 0
    assert {(o.job_id, o.why, o.column) for o in result.odd} == {
        ("created", "unreadable", "analysis_jobs.created_at"), ("updated", "unreadable", "analysis_jobs.updated_at"),
        ("result", "unreadable", "analysis_results.updated_at"),
    }  # fmt: skip
    assert set(sqlite.statuses().values()) == {"processing", "completed"}
    assert sqlite.audit() == []


@pytest.mark.parametrize("value", ["1700000000", "1700000000.5", "NULL", "x'ff00'"])
def test_numbers_blobs_and_null_are_not_guessed_at(sqlite: Scene, value: str) -> None:
    sqlite.job("odd")
    sqlite.execute(f"UPDATE analysis_jobs SET created_at = {value}")  # noqa: S608
    result = sqlite.apply()
    assert (result.stale, [o.why for o in result.odd]) == (0, ["unreadable"])


def test_a_text_that_is_no_utf8_stops_nothing(sqlite: Scene) -> None:
    sqlite.job("good")
    sqlite.job("bad_time")
    sqlite.job("bad_key")
    sqlite.job("bad_folder")
    sqlite.execute(
        "UPDATE analysis_jobs SET created_at = CAST(x'32ff' AS TEXT) WHERE job_id = 'bad_time'",
        "UPDATE analysis_jobs SET folder_path = CAST(x'32ff' AS TEXT) WHERE job_id = 'bad_folder'",
        "UPDATE analysis_jobs SET job_id = CAST(x'32ff' AS TEXT) WHERE job_id = 'bad_key'",
    )
    result = sqlite.apply()
    assert set(becomes(result)) == {"good", "bad_folder"}
    assert sorted(o.why for o in result.odd) == ["key", "unreadable"]


def test_a_time_in_the_future_is_reported_and_the_job_left_alone(newer: Scene) -> None:
    newer.job("future", created=NOW + HOUR)
    newer.job("future_update", updated=NOW + 10 * HOUR)
    newer.job("future_result", files=1, result_updated=NOW + 1000 * HOUR)
    newer.job("clock_a_little_ahead", created=NOW + timedelta(minutes=2))
    result = newer.apply(hours=1)
    assert {(o.job_id, o.why) for o in result.odd} == {
        ("future", "future"), ("future_update", "future"), ("future_result", "future")
    }  # fmt: skip
    assert result.stale == 0
    assert set(newer.statuses().values()) == {"processing"}


def test_zero_dates_and_infinity_are_reported(mysql_url: str, postgres_url: str, tmp_path: Path) -> None:
    for url, value in ((mysql_url, "0000-00-00 00:00:00"), (postgres_url, "infinity"), (postgres_url, "-infinity")):
        scene = Scene(url, tmp_path / "backups", newer=True)
        scene.execute("DROP TABLE IF EXISTS analysis_jobs", "DROP TABLE IF EXISTS analysis_results")
        scene.create()
        scene.job("odd")
        scene.job("odd_result", files=1)
        lax = ["SET sql_mode = ''"] if scene.mysql else []
        scene.execute(
            *lax,
            f"UPDATE analysis_jobs SET created_at = '{value}' WHERE job_id = 'odd'",  # noqa: S608
            f"UPDATE analysis_results SET updated_at = '{value}'",  # noqa: S608
        )
        result = scene.apply()
        assert (result.stale, {o.job_id for o in result.odd}) == (0, {"odd", "odd_result"}), value


# --- what becomes of them ---------------------------------------------------------------------------------


def test_with_some_or_all_results_it_is_completed_and_with_none_failed(newer: Scene) -> None:
    newer.job("all", files=3, done=3)
    newer.job("some", "pending", files=3, done=1)
    newer.job("none", files=3)
    newer.job("no_files", "pending")
    newer.job("running", created=ago(1), files=3, done=1)
    results = newer.rows("analysis_results")
    result = newer.apply()
    wanted = {"all": "completed", "some": "completed", "none": "failed", "no_files": "failed", "running": "processing"}
    assert newer.statuses() == wanted
    assert newer.rows("analysis_results") == results
    assert {j.job_id: (j.files, j.done, j.partly_done) for j in result.jobs} == {
        "all": (3, 3, False), "some": (3, 1, True), "none": (3, 0, False), "no_files": (0, 0, False),
    }  # fmt: skip
    assert (result.settled_completed, result.settled_partly, result.settled_empty) == (2, 1, 2)
    assert (result.to_complete, result.to_complete_partly, result.to_empty, result.left_moved) == (2, 1, 2, 0)
    again = newer.apply(run_id="run2")
    assert (again.stale, again.settled, again.statuses["failed"]) == (0, 0, 2)


def test_only_the_status_changes_not_even_the_time_of_the_last_change(newer: Scene) -> None:
    newer.job("a", files=1, done=1)
    newer.job("b")
    before = newer.rows("analysis_jobs")
    newer.apply()
    after = newer.rows("analysis_jobs")
    assert [r[3] for r in after] == ["completed", "failed"]
    assert [r[:3] + r[4:] for r in after] == [r[:3] + r[4:] for r in before]
    newer.undo()
    assert newer.rows("analysis_jobs") == before


def test_the_status_of_jobs_without_results_is_a_setting(old: Scene) -> None:
    old.job("none")
    assert becomes(old.apply(empty_status="aborted")) == {"none": "aborted"}
    assert old.statuses() == {"none": "aborted"}


def test_a_check_a_dry_run_and_statistics_change_nothing(old: Scene) -> None:
    old.job("a")
    old.job("b", files=2, done=1)
    for result in (old.reconcile("check"), old.reconcile("apply", dry_run=True), old.reconcile("stats")):
        assert (result.stale, result.settled, result.audit_files) == (2, 0, [])
    assert set(old.statuses().values()) == {"processing"}
    assert not old.folder.exists()


def test_the_statistics_count_every_job(old: Scene) -> None:
    for number, (status, hours) in enumerate(
        [("pending", 1), ("pending", 30), ("processing", 200), ("completed", 168), ("completed", 167), ("failed", 999)]
    ):
        old.job(f"j{number}", status, ago(hours))
    result = old.reconcile("stats")
    assert result.statuses == {"pending": 2, "processing": 1, "completed": 2, "failed": 1}
    assert (result.total, result.older_than_7_days, result.stale) == (6, 3, 2)


def test_more_jobs_than_one_transaction_and_one_part_of_the_audit_hold(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.stale.plan.BATCH_JOBS", 3)
    monkeypatch.setattr("saju_ops.stale.plan.PART_BATCHES", 2)
    scene = Scene(database_url, tmp_path / "backups").create()
    for number in range(14):
        scene.job(f"j{number:02}", files=1, done=number % 2)
    result = scene.apply()
    assert (result.settled, result.transactions, len(scene.audit())) == (14, 5, 6)
    assert set(scene.statuses().values()) == {"completed", "failed"}
    assert scene.undo().put_back == 14
    assert set(scene.statuses().values()) == {"processing"}


def test_many_jobs_are_kept_outside_of_memory_in_their_order(sqlite: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.stale.audit.IN_MEMORY", 3)
    for number in range(11):
        sqlite.job(f"j{number:02}", created=ago(200 - number), files=2, done=number % 2)
    result = sqlite.apply()
    wanted = [f"j{n:02}" for n in range(11)]
    assert [[j.job_id for j in result.jobs] for _ in range(2)] == [wanted, wanted]
    assert (len(result.jobs), result.settled, result.settled_partly) == (11, 11, 5)


def test_it_can_be_stopped_between_transactions_and_launched_again(
    sqlite: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.stale.plan.BATCH_JOBS", 3)
    for number in range(9):
        sqlite.job(f"j{number}")
    answers = iter([None, None, "enough", "enough"])
    result = sqlite.apply(control=RunControl(lambda: next(answers)))
    assert (result.stopped, result.settled) == ("enough", 3)
    assert sqlite.apply(run_id="run2").settled == 6
    assert sqlite.undo("run1").put_back == 3


# --- odd statuses, ids and tables -------------------------------------------------------------------------


@pytest.mark.long
def test_letter_case_of_a_status_is_kept(old: Scene) -> None:
    cases = [
        ("PENDING", 1, "COMPLETED"), ("Processing", 0, "Failed"), ("PROCESSING", 0, "FAILED"),
        (" pending ", 1, "completed"), ("pending", 0, "failed"), ("COMPLETED", 0, "COMPLETED"),
    ]  # fmt: skip
    for number, (seen, done, _) in enumerate(cases):
        old.job(f"j{number}", seen, files=1, done=done)
    result = old.apply()
    assert result.statuses == {"pending": 3, "processing": 2, "completed": 1}
    assert old.statuses() == {f"j{n}": wanted for n, (_, _, wanted) in enumerate(cases)}
    old.undo()
    assert old.statuses() == {f"j{n}": seen for n, (seen, _, _) in enumerate(cases)}


def test_a_job_without_a_status_is_counted_and_left_alone(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups").create(status="varchar(20) NULL")
    scene.job("null", None)
    scene.job("a")
    result = scene.apply()
    assert result.statuses == {"pending": 0, "processing": 1, "completed": 0, "": 1}
    assert scene.statuses() == {"null": None, "a": "failed"}


def test_results_completed_in_capitals_count(old: Scene) -> None:
    old.job("a")
    old.insert("analysis_results", {"job_id": "a", "file_id": "x", "status": "COMPLETED"})
    assert becomes(old.reconcile()) == {"a": "completed"}


KEYS: list[tuple[str, str, str, Any]] = [
    ("any", "integer", "integer", 7), ("any", "bigint", "varchar(64)", 7), ("postgres", "uuid", "uuid", UUID(int=5)),
    ("postgres", "uuid", "varchar(64)", UUID(int=5)), ("postgres", "varchar(64)", "uuid", str(UUID(int=5))),
    ("postgres", "varchar(64)", "integer", "7"), ("mysql", "binary(16)", "binary(16)", b"\x00\xff" * 8),
    ("mariadb", "uuid", "uuid", str(UUID(int=5))), ("mysql", "varchar(64)", "bigint", "7"),
    ("mysql", "varchar(64) COLLATE utf8mb4_bin", "varchar(64) COLLATE utf8mb4_0900_ai_ci", "작업-1"),
    ("sqlite", "text", "integer", "7"), ("sqlite", "blob", "blob", b"\x00\xff"),
    ("postgres", "char(20)", "char(20)", "x"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("engine", "kind", "result_kind", "key"), KEYS)
def test_job_ids_of_any_type(
    engine: str, kind: str, result_kind: str, key: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for each in ("mysql", "mariadb", "postgres", "sqlite") if engine == "any" else (engine,):
        url = request.getfixturevalue(f"{each}_url")
        scene = Scene(url, tmp_path / each, newer=True).create(job_id=kind, result_job_id=result_kind)
        scene.job(key)
        value = key
        if result_kind.startswith("varchar"):
            value = str(key)
        elif result_kind in ("integer", "bigint"):
            value = int(key)
        elif each == "postgres" and result_kind == "uuid":
            value = UUID(str(key))
        scene.insert("analysis_results", {"job_id": value, "file_id": "a", "status": "completed"})
        result = scene.apply()
        assert (result.stale, result.settled_completed) == (1, 1), each
        assert list(scene.statuses().values()) == ["completed"]
        assert scene.undo().put_back == 1
        assert list(scene.statuses().values()) == ["processing"]


@pytest.mark.parametrize(("engine", "kind", "result_kind"), [
    ("mysql", "varchar(64) COLLATE utf8mb4_bin", "varchar(64) COLLATE utf8mb4_0900_ai_ci"),
    ("mariadb", "varchar(64) COLLATE utf8mb4_bin", "varchar(64) COLLATE utf8mb4_general_ci"),
    ("sqlite", "text", "text COLLATE NOCASE"),
])  # fmt: skip
def test_results_of_another_job_whose_id_differs_only_in_case_complete_none(
    engine: str, kind: str, result_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", newer=True)
    scene.create(job_id=kind, result_job_id=result_kind)
    scene.insert("analysis_results", {"job_id": "ABC", "file_id": "a", "status": "completed"})
    scene.job("abc")
    assert becomes(scene.reconcile()) == {"abc": "failed"}


def test_ids_with_quotes_korean_and_control_letters(old: Scene) -> None:
    odd = ["o'brien", 'a"b', "한글 작업", "a;DROP TABLE analysis_jobs", "line\nbreak", "%s", ":name", "back\\slash"]
    for name in odd:
        old.job(name, files=2, done=1)
    assert old.apply().settled == len(odd)
    assert old.statuses() == dict.fromkeys(odd, "completed")
    assert old.undo().put_back == len(odd)


def test_results_without_an_index_are_found_all_the_same(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.stale.tables.SCAN_ROWS", 7)
    scene = Scene(database_url, tmp_path / "backups", newer=True).create(results_key="")
    for number in range(20):
        scene.job(f"j{number:02}", files=3, done=number % 3)
    scene.job("moving", files=3, result_updated=ago(2))
    result = scene.reconcile()
    assert not result.results_indexed
    assert {(j.job_id, j.files, j.done) for j in result.jobs} == {(f"j{n:02}", 3, n % 3) for n in range(20)}
    assert scene.apply().settled == 20
    assert scene.statuses()["moving"] == "processing"


def test_tables_in_capitals_and_without_a_folder(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    q = "`" if scene.mysql else '"'
    scene.execute(
        f"CREATE TABLE analysis_jobs ({q}JOB_ID{q} varchar(64) PRIMARY KEY, {q}Status{q} varchar(20),"
        f" {q}CREATED_AT{q} {'timestamp' if scene.name == 'postgresql' else 'datetime'})",
        f"CREATE TABLE analysis_results ({q}Job_Id{q} varchar(64), {q}STATUS{q} varchar(20))",
        "INSERT INTO analysis_jobs VALUES ('a', 'pending', '2026-01-01 00:00:00')",
        "INSERT INTO analysis_results VALUES ('a', 'completed')",
    )
    assert scene.apply().settled_completed == 1


# --- refusals ---------------------------------------------------------------------------------------------


def test_missing_tables_and_columns_are_named(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    scene.execute("CREATE TABLE other (a integer)")
    with pytest.raises(Refused, match="has no table analysis_jobs"):
        scene.reconcile()
    scene.execute("CREATE TABLE analysis_jobs (job_id integer PRIMARY KEY, status varchar(20))")
    with pytest.raises(Refused, match=r"analysis_jobs in .* has no column created_at"):
        scene.reconcile()
    scene.execute("ALTER TABLE analysis_jobs ADD COLUMN created_at date")
    with pytest.raises(Refused, match="has no table analysis_results"):
        scene.reconcile()


def test_ids_that_need_not_be_unique_are_refused(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    kind = "timestamp" if scene.name == "postgresql" else "datetime"
    scene.execute(
        f"CREATE TABLE analysis_jobs (job_id varchar(20) NOT NULL, status varchar(20), created_at {kind})",
        "CREATE TABLE analysis_results (job_id varchar(20), status varchar(20))",
    )
    with pytest.raises(Refused, match="neither the primary key nor unique"):
        scene.apply()
    scene.execute("CREATE UNIQUE INDEX u ON analysis_jobs (job_id)")
    assert scene.apply().stale == 0


def test_a_database_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    scene = Scene(f"sqlite:///{tmp_path / 'nowhere.db'}", tmp_path / "backups")
    for mode in ("check", "apply", "stats"):
        with pytest.raises(Refused, match="There is no SQLite file"):
            scene.reconcile(mode)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hours", [0, -1, 87_601])
def test_hours_out_of_range_are_refused(sqlite: Scene, hours: int) -> None:
    with pytest.raises(Refused, match=f"hours is {hours}; it may be a whole number from 1 to 87600"):
        sqlite.reconcile(hours=hours)


@pytest.mark.parametrize("status", ["pending", "Processing", " ", ""])
def test_a_status_in_which_a_job_would_stay_stale_is_refused(sqlite: Scene, status: str) -> None:
    with pytest.raises(Refused, match="STALE_JOB_EMPTY_STATUS"):
        sqlite.apply(empty_status=status)


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", "x" * 65, "a b"])
def test_a_run_id_that_is_no_name_is_refused(sqlite: Scene, run_id: str) -> None:
    sqlite.job("a")
    with pytest.raises(Refused, match="run id"):
        sqlite.apply(run_id=run_id)
    with pytest.raises(Refused, match="run id"):
        sqlite.undo(run_id)
    assert sqlite.statuses() == {"a": "processing"}


def test_by_default_nothing_is_changed() -> None:
    plan = StalePlan()
    assert (plan.mode, plan.dry_run, plan.changes) == ("check", True, False)
    assert not StalePlan(mode="apply").changes


# --- a status that the column can't hold ------------------------------------------------------------------

NARROW = {
    "mysql": "ENUM('pending','processing','completed')",
    "mariadb": "ENUM('pending','processing','completed')",
    "sqlite": "varchar(20) CHECK (status IN ('pending', 'processing', 'completed'))",
    "postgres": "varchar(20) CHECK (status IN ('pending', 'processing', 'completed'))",
    "postgres enum": "job_status",
    "postgres short": "varchar(10)",
    "mysql check": "varchar(20) CHECK (status IN ('pending', 'processing', 'completed'))",
    "mariadb check": "varchar(20) CHECK (status IN ('pending', 'processing', 'completed'))",
    "mysql short": "varchar(10)",
}


def narrow(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    scene = Scene(request.getfixturevalue(f"{case.split()[0]}_url"), tmp_path / "backups", newer=True)
    if case == "postgres enum":
        scene.execute("CREATE TYPE job_status AS ENUM ('pending', 'processing', 'completed')")
    return scene.create(status=NARROW[case])


@pytest.mark.long
@pytest.mark.parametrize("case", NARROW)
def test_a_status_that_the_column_cannot_hold_is_refused_before_anything_is_changed(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = narrow(case, request, tmp_path)
    scene.job("done", files=1, done=1)
    status = "failed" if "short" not in case else "failed_long_ago"
    assert scene.apply(run_id="fine", empty_status=status).settled == 1
    scene.undo("fine")
    scene.job("none")
    before = scene.rows("analysis_jobs")
    with pytest.raises(Refused, match=f"analysis_jobs.status can't hold '{status}'.*Nothing was changed"):
        scene.apply(run_id="run2", empty_status=status)
    assert scene.rows("analysis_jobs") == before
    assert not any("run2" in name for name in scene.audit())
    # A check can't try it; it reports what reading alone shows.
    hindered = bool(scene.reconcile(empty_status=status).hindrances)
    assert hindered == (case not in ("postgres", "mysql check", "mariadb check"))


def test_an_enum_that_holds_it_is_no_hindrance(mysql_url: str, postgres_url: str, tmp_path: Path) -> None:
    values = "'PENDING','PROCESSING','COMPLETED','FAILED'"
    for url in (mysql_url, postgres_url):
        scene = Scene(url, tmp_path / "backups")
        if not scene.mysql:
            scene.execute(f"CREATE TYPE job_status AS ENUM ({values})")
        scene.create(status=f"ENUM({values})" if scene.mysql else "job_status")
        scene.job("a", "PENDING")
        scene.job("b", "PROCESSING", files=1, done=1)
        run_id = scene.name
        assert scene.apply(run_id=run_id).hindrances == []
        assert scene.statuses() == {"a": "FAILED", "b": "COMPLETED"}
        assert scene.undo(run_id).put_back == 2


def test_a_table_that_can_not_roll_back_is_refused(mysql_url: str, tmp_path: Path) -> None:
    scene = Scene(mysql_url, tmp_path / "backups").create()
    scene.execute("ALTER TABLE analysis_jobs ENGINE = MyISAM")
    scene.job("a")
    with pytest.raises(Refused, match="kept by MyISAM, which can't roll a change back"):
        scene.apply()
    assert scene.statuses() == {"a": "processing"}


def test_a_foreign_key_on_the_status_counts_as_well(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups")
    scene.execute("CREATE TABLE states (name text PRIMARY KEY)", "INSERT INTO states VALUES ('processing')")
    scene.create(status="text REFERENCES states (name)")
    scene.job("a")
    with pytest.raises(Refused, match="can't hold 'failed'"):
        scene.apply()
