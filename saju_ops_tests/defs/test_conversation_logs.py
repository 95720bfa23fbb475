"""The asset conversation_log_archive: days and ranges of days, what it says of each, and its checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from saju_ops_tests.defs.project import CANARY, Project, Run, ago

PROOF = "stored_file_matches_database"
NUMBERS = {
    "dagster/row_count": int, "rows": int, "rows_written": int, "bytes": int, "content_bytes": int,
    "seconds": float, "rows_per_second": float,
}  # fmt: skip


@pytest.fixture(params=["mysql", "sqlite"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return with_rows(Project(request.getfixturevalue(f"{request.param}_url"), tmp_path, monkeypatch))


@pytest.fixture
def sqlite(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return with_rows(Project(sqlite_url, tmp_path, monkeypatch))


def with_rows(project: Project) -> Project:
    """30 rows 42 days ago, none the day after, and 20 and 10 in the two days after that."""
    project.add(30, ago(42), first=1)
    project.add(20, ago(40), first=101)
    project.add(10, ago(39), first=201)
    return project


def typed_numbers(metadata: dict[str, Any]) -> None:
    for name, kind in NUMBERS.items():
        assert type(metadata[name]) is kind, name


# --- days and ranges --------------------------------------------------------------------------------------


def test_one_day_is_archived_proven_and_described(project: Project) -> None:
    run = project.archive(ago(42))
    assert run.succeeded, run.failure
    ((day, metadata),) = run.materialized().items()
    assert day == str(ago(42))
    file = project.scene.data_file(ago(42))
    assert metadata["dagster/row_count"] == metadata["rows"] == metadata["rows_written"] == 30
    assert metadata["bytes"] == file.stat().st_size
    assert metadata["dagster/table_name"].endswith(".conversation_logs")
    assert metadata["dagster/uri"] == str(file)
    assert metadata["outcome"] == "archived"
    assert metadata["proof"]["rows_in_file"] == metadata["proof"]["rows_in_database"] == 30
    typed_numbers(metadata)
    schema = metadata["dagster/column_schema"]
    assert [c.name for c in schema.columns] == ["log_id", "session_id", "role", "content", "tokens", "created_at"]
    assert schema.columns[0].description == "primary key"
    assert not schema.columns[5].constraints.nullable
    assert project.scene.count() == 60


def test_a_range_is_worked_off_in_one_run_and_each_day_has_its_own_metadata(project: Project) -> None:
    run = project.archive(ago(42), ago(39))
    assert run.succeeded, run.failure
    days = run.materialized()
    assert {day: m["rows"] for day, m in days.items()} == {
        str(ago(42)): 30, str(ago(41)): 0, str(ago(40)): 20, str(ago(39)): 10,
    }  # fmt: skip
    assert len(list(run.events("ASSET_MATERIALIZATION"))) == 4
    for metadata in days.values():
        typed_numbers(metadata)
    assert {Path(m["dagster/uri"]).name for m in days.values() if m["rows"]} == {
        f"conversation_log_backup_{ago(n).stamp}.csv" for n in (42, 40, 39)
    }
    assert run.checks()[PROOF] == (True, {"days": 4, "rows_in_file": 60, "rows_written": 60})
    assert project.scene.count() == 60


def test_an_empty_day_has_the_same_numbers_as_zeros_and_no_file(sqlite: Project) -> None:
    metadata = sqlite.archive(ago(41)).materialized()[str(ago(41))]
    assert [metadata[name] for name in NUMBERS if name != "seconds"] == [0] * 6
    assert metadata["outcome"] == "nothing"
    assert "Nothing to archive" in metadata["message"]
    assert "dagster/uri" not in metadata
    assert not sqlite.scene.snapshot_of_files()


@pytest.mark.long
def test_a_day_that_is_archived_and_unchanged_is_left_alone(project: Project) -> None:
    project.archive(ago(42))
    files = project.scene.snapshot_of_files()
    run = project.archive(ago(42))
    assert run.succeeded
    metadata = run.materialized()[str(ago(42))]
    assert (metadata["outcome"], metadata["rows"], metadata["rows_written"]) == ("unchanged", 30, 0)
    assert metadata["dagster/uri"] == str(project.scene.data_file(ago(42)))
    typed_numbers(metadata)
    assert project.scene.snapshot_of_files() == files


@pytest.mark.long
def test_late_rows_go_into_a_further_part_and_the_days_rows_are_those_of_both(project: Project) -> None:
    project.archive(ago(42))
    project.add(5, ago(42), first=901)
    metadata = project.archive(ago(42)).materialized()[str(ago(42))]
    assert (metadata["rows"], metadata["rows_written"]) == (35, 5)
    assert metadata["dagster/uri"].endswith(".part2.csv")
    assert metadata["files"].count("conversation_log_backup_") == 2


def test_a_day_that_was_purged_keeps_its_archive_and_says_so(sqlite: Project) -> None:
    sqlite.archive(ago(42))
    assert sqlite.purge(dry_run=False).succeeded
    files = sqlite.scene.snapshot_of_files()
    run = sqlite.archive(ago(42))
    metadata = run.materialized()[str(ago(42))]
    assert run.succeeded
    assert (metadata["outcome"], metadata["rows"], metadata["rows_written"]) == ("purged", 30, 0)
    assert sqlite.scene.snapshot_of_files() == files


def test_archives_are_compressed_when_the_settings_say_so(sqlite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVE_COMPRESSION", "gzip")
    metadata = sqlite.archive(ago(42)).materialized()[str(ago(42))]
    assert metadata["dagster/uri"].endswith(".csv.gz")
    assert metadata["bytes"] < metadata["content_bytes"]


# --- what may be seen -------------------------------------------------------------------------------------


def test_the_preview_shows_rows_per_hour_and_role(sqlite: Project) -> None:
    metadata = sqlite.archive(ago(42)).materialized()[str(ago(42))]
    table = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in metadata["rows_per_hour_and_role"].splitlines()
    ]
    assert [table[0], *table[2:]] == [
        ["hour", "assistant", "user", "all"], ["00", "15", "15", "30"], ["all", "15", "15", "30"],
    ]  # fmt: skip
    assert metadata["rows_per_day"].startswith("![rows archived per day](data:image/svg+xml;base64,")


@pytest.mark.long
def test_no_message_is_ever_in_an_event_a_log_or_the_output(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = [project.archive(ago(42), ago(39)), project.purge(), project.purge(dry_run=False)]
    project.add(3, ago(40), first=901)
    runs += [project.archive(ago(40)), project.archive(ago(40))]
    runs.append(project.run("restore_conversation_logs", restore_config(ago(42), ago(39), dry_run=False)))
    assert all(run.succeeded for run in runs)
    out, err = capfd.readouterr()
    for text in (*(run.everything() for run in runs), out, err):
        assert "canary-4711" not in text
        assert CANARY[:4] not in text
        assert CANARY[:4].encode("unicode_escape").decode() not in text


def restore_config(first: Any, last: Any, **more: Any) -> dict[str, Any]:
    return {"from_day": str(first), "to_day": str(last), **more}


@pytest.mark.long
def test_no_message_text_is_shown_when_a_run_fails_either(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.archive(ago(42))
    damage(project)
    runs = [project.archive(ago(42)), project.purge(dry_run=False)]
    runs.append(project.run("restore_conversation_logs", restore_config(ago(42), ago(42), dry_run=False)))
    assert not any(run.succeeded for run in runs)
    out, err = capfd.readouterr()
    for text in (*(run.everything() for run in runs), out, err):
        assert "canary-4711" not in text
        assert CANARY[:4] not in text


# --- failures ---------------------------------------------------------------------------------------------


def damage(project: Project, days: int = 42) -> Path:
    """One byte of a stored file changes, as on a bad disk."""
    file = project.scene.data_file(ago(days))
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    return file


@pytest.mark.long
def test_a_failed_proof_fails_the_run_and_the_days_before_it_are_materialized(project: Project) -> None:
    project.archive(ago(40))
    file = damage(project, 40)
    run = project.archive(ago(42), ago(39))
    assert run.run.status is dg.DagsterRunStatus.FAILURE
    assert {day: m["rows"] for day, m in run.materialized().items()} == {str(ago(42)): 30, str(ago(41)): 0}
    passed, metadata = run.checks()[PROOF]
    assert not passed
    assert metadata["days"] == 2
    assert file.name in metadata["error"]
    assert run.failure == metadata["error"]
    assert not project.scene.files(ago(39)).parts
    assert project.scene.count() == 60


def test_the_days_after_a_failure_are_archived_by_the_next_run_when_the_file_is_mended(sqlite: Project) -> None:
    sqlite.archive(ago(40))
    file = sqlite.scene.data_file(ago(40))
    whole = file.read_bytes()
    damage(sqlite, 40)
    sqlite.archive(ago(42), ago(39))
    file.write_bytes(whole)
    run = sqlite.archive(ago(42), ago(39))
    assert run.succeeded
    assert [m["outcome"] for m in run.materialized().values()] == ["unchanged", "nothing", "unchanged", "archived"]


def test_a_database_that_does_not_answer_fails_the_run_with_a_sentence(
    sqlite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://root:hunter2@127.0.0.1:1/db")
    run = sqlite.archive(ago(42))
    assert not run.succeeded
    assert run.failure.startswith("The database mysql+pymysql://root:***@127.0.0.1:1/db can't be reached")
    assert "hunter2" not in run.everything()
    assert PROOF not in run.checks()


def test_the_day_that_is_not_over_is_refused(sqlite: Project) -> None:
    sqlite.add(5, ago(0), first=901)
    with pytest.raises(dg.DagsterUnknownPartitionError):
        sqlite.archive(ago(0))
    run = sqlite.archive(ago(1), ago(0))
    assert not run.succeeded
    assert run.failure.startswith(f"The day {ago(0)} is not over in Asia/Seoul; it can be archived from ")
    assert set(run.materialized()) == {str(ago(1))}
    assert not sqlite.scene.snapshot_of_files()


def test_a_folder_that_belongs_to_another_table_is_refused(sqlite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite.archive(ago(42))
    files = sqlite.scene.snapshot_of_files()
    sqlite.scene.run("ALTER TABLE conversation_logs RENAME TO conversation_log")
    monkeypatch.setenv("CONVERSATION_LOG_TABLE", "conversation_log")
    run = sqlite.archive(ago(42))
    assert not run.succeeded
    assert "give each database a BACKUP_URI of its own" in run.failure
    assert sqlite.scene.snapshot_of_files() == files


# --- checks beside the proof ------------------------------------------------------------------------------


def checked(run: Run, name: str) -> tuple[bool, dict[str, Any]]:
    return run.checks()[name]


def test_rows_older_than_the_first_partition_are_found(sqlite: Project) -> None:
    passed, metadata = checked(sqlite.archive(ago(42)), "no_rows_before_first_partition")
    assert passed
    assert metadata["days_before_first_partition"] == 0
    sqlite.add(1, ago(70), first=901)
    run = sqlite.archive(ago(42))
    passed, metadata = checked(run, "no_rows_before_first_partition")
    assert run.succeeded, "a warning must not fail the run"
    assert not passed
    assert metadata["days_before_first_partition"] == 9
    assert metadata["first_partition"] == str(ago(60))


def test_due_days_without_an_archive_are_counted_and_named(sqlite: Project) -> None:
    sqlite.add(5, ago(5), first=901)
    passed, metadata = checked(sqlite.archive(ago(42)), "every_due_day_is_archived")
    assert not passed
    assert (metadata["due_days_with_rows"], metadata["due_days_without_archive"]) == (3, 2)
    assert metadata["first_of_them"] == f"{ago(40)}, {ago(39)}"
    passed, metadata = checked(sqlite.archive(ago(40), ago(39)), "every_due_day_is_archived")
    assert passed
    assert (metadata["due_days_without_archive"], metadata["first_of_them"]) == (0, "none")


def test_rows_that_no_day_has_are_counted(sqlite: Project) -> None:
    passed, metadata = checked(sqlite.archive(ago(42)), "every_row_has_a_day")
    assert (passed, metadata["rows_in_no_day"]) == (True, 0)
    for number, time in enumerate(("0001-01-01 00:00:00", "2026/10/01", "2026-10-01 00:00:00+0900"), 901):
        sqlite.add(1, ago(42), first=number)
        sqlite.scene.update("created_at = :time", f"log_id = {number}", time=time)
    passed, metadata = checked(sqlite.archive(ago(40)), "every_row_has_a_day")
    assert not passed
    assert (metadata["rows_in_no_day"], metadata["rows_without_created_at"]) == (3, 0)
    assert (metadata["rows_with_unreadable_created_at"], metadata["rows_before_first_partition"]) == (2, 1)


def test_a_table_without_an_index_on_created_at_is_found(project: Project) -> None:
    passed, metadata = checked(project.archive(ago(42)), "created_at_is_indexed")
    if project.scene.family == "mysql":
        assert (passed, metadata["index"], metadata["indexed"]) == (True, "ix_created", 1)
        return
    assert (passed, metadata["index"], metadata["indexed"]) == (False, "none", 0)
    project.scene.run(metadata["advice"])
    assert checked(project.archive(ago(42)), "created_at_is_indexed")[0]


# --- Dagster's own command line ---------------------------------------------------------------------------


@pytest.mark.long
def test_a_range_works_from_dagsters_own_command_line(project: Project, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    command = [
        str(Path(sys.executable).parent / "dagster"), "asset", "materialize", "--select", "conversation_log_archive",
        "--partition-range", f"{ago(42)}...{ago(39)}", "-m", "saju_ops.definitions",
    ]  # fmt: skip
    environment = project.environment(DAGSTER_HOME=str(tmp_path / "home"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "canary-4711" not in done.stdout + done.stderr
    assert {n: project.scene.parts(ago(n)) for n in (42, 41, 40, 39)} == {42: [30], 41: [], 40: [20], 39: [10]}
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        (record,) = instance.get_run_records()
        assert record.dagster_run.status is dg.DagsterRunStatus.SUCCESS
        assert set(Run(instance, record.dagster_run.run_id).materialized()) == {str(ago(n)) for n in (42, 41, 40, 39)}
    for log in (tmp_path / "home").rglob("*"):
        assert not log.is_file() or b"canary-4711" not in log.read_bytes()
