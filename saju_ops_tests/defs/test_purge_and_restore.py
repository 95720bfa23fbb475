"""The jobs purge_conversation_logs and restore_conversation_logs, as an operator launches them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterInvalidConfigError

from saju_ops_tests.defs.project import Project, ago, plain

# Plain numbers that every purge reports, zeros included.
NUMBERS = {
    "rows_deleted": int, "rows_deletable": int, "rows_kept_late": int, "rows_kept_changed": int,
    "rows_kept_referenced": int, "days": int, "days_without_archive": int, "days_not_proven": int, "chunks": int,
    "chunks_row_by_row": int, "seconds": float, "rows_per_second": float, "seconds_waited_for_replicas": float,
    "table_bytes_before": int, "freed_bytes": int,
}  # fmt: skip


@pytest.fixture(params=["mysql", "sqlite"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return archived(Project(request.getfixturevalue(f"{request.param}_url"), tmp_path, monkeypatch))


@pytest.fixture
def sqlite(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return archived(Project(sqlite_url, tmp_path, monkeypatch))


def archived(project: Project) -> Project:
    """Archived: 30 rows 40 days ago, 20 rows 39 days ago, 10 rows 20 days ago. Not archived: 5 rows 38 days ago."""
    project.add(30, ago(40), first=1)
    project.add(20, ago(39), first=101)
    project.add(10, ago(20), first=301)
    for days in (40, 39, 20):
        project.scene.archive(ago(days))
    project.add(5, ago(38), first=201)
    return project


# --- purge: what it does ----------------------------------------------------------------------------------


@pytest.mark.long
def test_by_hand_it_only_counts(project: Project) -> None:
    for run in (project.run("purge_conversation_logs"), project.purge(), project.purge(dry_run=True)):
        assert run.succeeded, run.failure
        outputs = run.outputs()
        assert outputs["dry_run"] is True
        assert (outputs["rows_deletable"], outputs["rows_deleted"]) == (50, 0)
        assert "삭제 예정 수: 50 rows" in outputs["report"]
    assert project.scene.count() == 65


def test_on_request_it_deletes_archived_days_beyond_the_retention_and_nothing_else(project: Project) -> None:
    run = project.purge(dry_run=False)
    assert run.succeeded, run.failure
    assert project.scene.ids() == [*range(201, 206), *range(301, 311)]
    outputs = run.outputs()
    assert (outputs["rows_deleted"], outputs["days"], outputs["days_without_archive"]) == (50, 2, 1)
    assert outputs["cutoff_day"] == str(ago(30))
    assert "- 삭제 수: 50 rows" in outputs["report"]
    assert outputs["stopped"] == "finished"


@pytest.mark.long
def test_late_and_changed_rows_stay_and_are_counted(project: Project) -> None:
    project.scene.add(1, first=99, day=ago(40))
    project.scene.update("tokens = 7", "log_id IN (101, 102)")
    run = project.purge(dry_run=False)
    assert run.succeeded, run.failure
    outputs = run.outputs()
    assert (outputs["rows_deleted"], outputs["rows_kept_late"], outputs["rows_kept_changed"]) == (48, 1, 2)
    assert "- 남겨 둔 수: 3 rows" in outputs["report"]
    assert set(project.scene.ids()) >= {99, 101, 102}
    project.archive(ago(40), ago(39))
    assert project.purge(dry_run=False).outputs()["rows_deleted"] == 3


@pytest.mark.long
def test_it_observes_the_live_table_with_the_same_plain_numbers_every_time(project: Project) -> None:
    for config in ({}, {"dry_run": False}, {"dry_run": False}):
        ((asset, metadata),) = project.purge(**config).observed()
        assert asset == "conversation_logs"
        for name, kind in NUMBERS.items():
            assert type(metadata[name]) is kind, name
    assert (metadata["rows_deleted"], metadata["rows_deletable"], metadata["rows_per_second"]) == (0, 0, 0.0)
    assert "백업할 오래된 로그가 없습니다" in metadata["report"]
    assert metadata["freed_space"]


def test_innodb_is_said_to_give_its_space_back_only_after_optimize(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = archived(Project(mysql_url, tmp_path, monkeypatch))
    assert "OPTIMIZE TABLE" in project.purge(dry_run=False).outputs()["freed_space"]


# --- purge: its config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retention", "left"), [(39, 35), (40, 65), (10, 5), (36500, 65), (30, 15)])
def test_the_retention_can_be_longer_or_shorter_than_the_settings(sqlite: Project, retention: int, left: int) -> None:
    run = sqlite.purge(dry_run=False, retention_days=retention)
    assert run.succeeded, run.failure
    assert sqlite.scene.count() == left


def test_the_retention_of_the_settings_is_used_when_none_is_given(
    sqlite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_RETENTION_DAYS", "39")
    assert sqlite.purge(dry_run=False).outputs()["rows_deleted"] == 30


def test_it_can_be_kept_to_a_range_of_days(sqlite: Project) -> None:
    sqlite.purge(dry_run=False, from_day=str(ago(39)))
    assert sqlite.scene.ids() == [*range(1, 31), *range(201, 206), *range(301, 311)]
    sqlite.purge(dry_run=False, to_day=str(ago(40)))
    assert sqlite.scene.ids() == [*range(201, 206), *range(301, 311)]


def test_a_range_never_reaches_into_the_retention(sqlite: Project) -> None:
    sqlite.purge(dry_run=False, from_day=str(ago(30)), to_day=str(ago(0)))
    assert sqlite.scene.count() == 65


def test_it_stops_at_max_rows_says_so_and_the_next_run_continues(project: Project) -> None:
    run = project.purge(dry_run=False, chunk_size=8, max_rows=12)
    assert run.succeeded
    assert run.outputs()["stopped"] == "max_rows (12) reached"
    assert any("stopped: max_rows (12) reached" in m for m in run.messages)
    assert project.scene.count() == 53
    assert project.purge(dry_run=False).outputs()["rows_deleted"] == 38


def test_it_stops_at_max_runtime(sqlite: Project) -> None:
    run = sqlite.purge(dry_run=False, chunk_size=5, pause_seconds=0.4, max_runtime_seconds=1)
    assert run.succeeded
    assert run.outputs()["stopped"] == "max_runtime_seconds (1) reached"
    assert 15 < sqlite.scene.count() < 65
    assert sqlite.scene.count() % 5 == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("retention_days", 0, "retention_days is 0; it may be from 1 to 36500. Nothing was touched."),
        ("retention_days", -1, "retention_days is -1; it may be from 1 to 36500. Nothing was touched."),
        ("chunk_size", -1, "chunk_size is -1; it may be from 1 to 100000. Nothing was touched."),
        ("chunk_size", 0, "chunk_size is 0; it may be from 1 to 100000. Nothing was touched."),
        ("chunk_size", 100001, "chunk_size is 100001; it may be from 1 to 100000. Nothing was touched."),
        ("max_rows", 0, "max_rows is 0; it may be at least 1. Nothing was touched."),
        ("max_runtime_seconds", 0.0, "max_runtime_seconds is 0; it may be at least 1. Nothing was touched."),
        ("pause_seconds", -0.5, "pause_seconds is -0.5; it may be from 0 to 3600. Nothing was touched."),
        ("pause_seconds", float("nan"), "pause_seconds is nan; it may be from 0 to 3600. Nothing was touched."),
        ("max_replica_lag_seconds", -1.0, "max_replica_lag_seconds is -1; it may be at least 0. Nothing was touched."),
        ("to_day", "x", "to_day is 'x'; it may be a date as YYYY-MM-DD. Nothing was touched."),
        ("from_day", "2026-02-30", "from_day is '2026-02-30'; it may be a date as YYYY-MM-DD. Nothing was touched."),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_before_there_is_a_run(
    sqlite: Project, name: str, value: Any, sentence: str
) -> None:
    with pytest.raises(DagsterInvalidConfigError, match=re.escape(sentence)):
        sqlite.purge(**{"dry_run": False, name: value})
    assert sqlite.instance.get_runs() == []
    assert sqlite.scene.count() == 65


def test_days_in_the_wrong_order_are_refused(sqlite: Project) -> None:
    run = sqlite.purge(dry_run=False, from_day=str(ago(39)), to_day=str(ago(40)))
    assert run.failure == f"to_day is {ago(40)}, before from_day {ago(39)}. Nothing was touched."
    assert sqlite.scene.count() == 65


@pytest.mark.parametrize(("name", "value"), [("dry_rum", False), ("chunk_size", "many"), ("dry_run", "no")])
def test_a_mistyped_config_is_refused_before_the_run(sqlite: Project, name: str, value: Any) -> None:
    with pytest.raises(DagsterInvalidConfigError):
        sqlite.purge(**{name: value})
    assert sqlite.scene.count() == 65


def test_a_lag_limit_without_a_replica_to_ask_is_refused(sqlite: Project) -> None:
    run = sqlite.purge(dry_run=False, max_replica_lag_seconds=5.0)
    assert "name the replicas in REPLICA_URLS or leave the limit out. Nothing was touched." in run.failure
    assert sqlite.scene.count() == 65


# --- purge: failures --------------------------------------------------------------------------------------


def test_a_day_whose_archive_is_damaged_is_left_whole_fails_the_run_and_the_others_are_purged(project: Project) -> None:
    file = project.scene.data_file(ago(40))
    file.write_bytes(file.read_bytes()[:-30])
    run = project.purge(dry_run=False)
    assert run.run.status is dg.DagsterRunStatus.FAILURE
    assert run.failure.startswith("1 day was left because its archive could not be proven or it is in use;")
    assert "20 rows of other days were deleted" in run.failure
    ((_, metadata),) = run.observed()
    assert (metadata["days_not_proven"], metadata["rows_deleted"]) == (1, 20)
    assert file.name in metadata["problems"]
    assert project.scene.ids() == [*range(1, 31), *range(201, 206), *range(301, 311)]


def test_a_second_purge_steps_back_while_one_works(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.archive.purge.purge.__kwdefaults__", purge_defaults(wait=0.2))
    with project.scene.store() as other, other.lock("purge", 0.2):
        run = project.purge(dry_run=False)
        restore = project.run("restore_conversation_logs", {**days(40, 40), "dry_run": True})
    assert run.failure.startswith("Another run works on ")
    assert restore.succeeded, "a dry run only reads"
    assert project.scene.count() == 65


def purge_defaults(**changed: Any) -> dict[str, Any]:
    from saju_ops.archive.purge import purge

    return {**(purge.__kwdefaults__ or {}), **changed}


def test_a_database_that_does_not_answer_fails_the_run_without_the_password(
    sqlite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://root:hunter2@127.0.0.1:1/db")
    run = sqlite.purge(dry_run=False)
    assert "can't be reached" in run.failure
    assert "hunter2" not in run.everything()


# --- restore ----------------------------------------------------------------------------------------------


def days(first: int, last: int) -> dict[str, str]:
    return {"from_day": str(ago(first)), "to_day": str(ago(last))}


@pytest.fixture
def purged(project: Project) -> Project:
    project.purge(dry_run=False)
    return project


def test_by_hand_a_restore_only_says_what_it_would_do(purged: Project) -> None:
    run = purged.run("restore_conversation_logs", days(40, 39))
    assert run.succeeded, run.failure
    outputs = run.outputs()
    assert outputs["dry_run"] is True
    said = [outputs[name] for name in ("days", "rows_archived", "rows_to_write", "rows_written")]
    assert said == [2, 50, 50, 0]
    assert "50 rows would be written" in outputs["summary"]
    assert purged.scene.count() == 15


@pytest.mark.long
def test_on_request_it_puts_the_rows_back(purged: Project) -> None:
    run = purged.run("restore_conversation_logs", {**days(40, 39), "dry_run": False})
    assert run.succeeded, run.failure
    assert run.outputs()["rows_written"] == 50
    assert purged.scene.count() == 65
    again = purged.run("restore_conversation_logs", {**days(40, 39), "dry_run": False}).outputs()
    assert (again["rows_already_there"], again["rows_written"], again["rows_per_second"]) == (50, 0, 0.0)


def test_it_can_put_them_into_another_table(purged: Project) -> None:
    run = purged.run("restore_conversation_logs", {**days(40, 40), "into_table": "restored", "dry_run": False})
    assert run.succeeded, run.failure
    assert purged.scene.run("SELECT count(*) FROM restored")[0][0] == 30
    assert purged.scene.count() == 15


def test_days_of_which_there_is_no_archive_are_named_by_a_restore(purged: Project) -> None:
    run = purged.run("restore_conversation_logs", {**days(42, 39), "dry_run": False})
    assert run.succeeded
    assert any("NOT RESTORED: there is no archive of" in text for text in run.messages)
    metadata = run.outputs()
    assert (metadata["days"], metadata["days_not_archived"], metadata["days_not_restored"]) == (2, 2, 0)


def test_a_restore_of_a_day_whose_manifest_is_lost_fails_after_it_wrote_the_others(purged: Project) -> None:
    purged.scene.manifest_file(ago(40)).unlink()
    run = purged.run("restore_conversation_logs", {**days(40, 39), "dry_run": False})
    assert not run.succeeded
    assert "rows were written and proven. NOT RESTORED: without its manifest nothing is known of" in run.failure
    (event,) = run.events("STEP_FAILURE")
    metadata = plain(event.step_failure_data.user_failure_data.metadata)
    assert (metadata["days"], metadata["days_not_restored"]) == (1, 1)
    assert metadata["rows_written"] > 0


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"from_day": "", "to_day": ""}, "from_day and to_day must both be given. Nothing was written."),
        ({"from_day": "2026-01-02", "to_day": "2026-01-01"}, "The last day 2026-01-01 is before the first 2026-01-02."),
        ({"from_day": "2020-01-01", "to_day": "2020-01-01"}, "holds no archive of any day from 2020-01-01"),
    ],
)  # fmt: skip
def test_a_restore_that_makes_no_sense_is_refused_with_a_sentence(
    sqlite: Project, config: dict[str, str], sentence: str
) -> None:
    run = sqlite.run("restore_conversation_logs", {**config, "dry_run": False})
    assert not run.succeeded
    assert sentence in run.failure
    assert sqlite.scene.count() == 65


@pytest.mark.long
def test_a_row_that_differs_fails_the_restore_before_the_first_write(purged: Project) -> None:
    purged.run("restore_conversation_logs", {**days(40, 39), "dry_run": False})
    purged.scene.update("tokens = 7", "log_id = 5")
    purged.scene.remove("log_id BETWEEN 101 AND 110")
    run = purged.run("restore_conversation_logs", {**days(40, 39), "dry_run": False})
    assert not run.succeeded
    assert "their keys: 5. Nothing was written" in run.failure
    assert purged.scene.count() == 55
