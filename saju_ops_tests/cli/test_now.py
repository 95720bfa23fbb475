"""`saju-ops dump`, `snapshot`, `archive` and `purge`: as an operator types them before a migration."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from saju_ops.cli.main import main
from saju_ops.database.connect import parse_database_url
from saju_ops.definitions import defs
from saju_ops.defs.conversation_logs.asset import ARCHIVE, LOGS, PROOF
from saju_ops.defs.dumps.assets import DUMP
from saju_ops.defs.dumps.assets import PROOF as DUMP_PROOF
from saju_ops.defs.resources import LogDatabase
from saju_ops_tests.chroma.scene import make_folder
from saju_ops_tests.defs.project import Project, ago


def saju_ops(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def ends(said: Result, *words: str) -> bool:
    """The last line says how it ended."""
    last = said.stdout.splitlines()[-1] if said.stdout else ""
    return all(word in last for word in words)


@pytest.fixture(params=["mysql", "postgres", "sqlite"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return with_rows(Project(request.getfixturevalue(f"{request.param}_url"), tmp_path, monkeypatch))


@pytest.fixture
def sqlite(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return with_rows(Project(sqlite_url, tmp_path, monkeypatch))


def with_rows(project: Project) -> Project:
    project.add(30, ago(42), first=1)
    project.add(1, ago(40), first=101)
    project.add(10, ago(3), first=201)
    return project


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


# --- archive and purge --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_what_is_due_is_archived_and_then_purged(project: Project) -> None:
    said = saju_ops("archive")
    assert (said.exit_code, ends(said, "Done: 2 days archived and proven, 31 rows written.")) == (0, True), said.output
    assert "💾 *DB Cleanup Report*" in said.stdout
    assert project.scene.count() == 41
    looked = saju_ops("purge")
    assert looked.exit_code == 0, looked.output
    assert ends(looked, "Nothing was deleted (--apply deletes): 31 rows of 2 days can be, 0 rows would be kept.")
    assert project.scene.count() == 41
    done = saju_ops("purge", "--apply")
    assert (done.exit_code, ends(done, "Done: 31 rows of 2 days deleted, 0 rows kept.")) == (0, True), done.output
    assert "- 삭제 수: 31 rows" in done.stdout
    assert project.scene.count() == 10
    again = saju_ops("purge", "--apply")
    assert (again.exit_code, "백업할 오래된 로그가 없습니다" in again.stdout) == (0, True), again.output


def test_days_that_are_named_are_archived_and_purged_alone(sqlite: Project) -> None:
    said = saju_ops("archive", "--from", str(ago(42)), "--to", str(ago(41)))
    assert (said.exit_code, ends(said, "1 day archived", "30 rows written; 1 day without a row")) == (0, True), (
        said.output
    )
    young = saju_ops("archive", "--from", str(ago(3)), "--to", str(ago(3)))
    assert (young.exit_code, ends(young, "1 day archived", "10 rows")) == (0, True), young.output
    assert saju_ops("archive", "--to", str(ago(40))).exit_code == 0
    assert sqlite.scene.parts(ago(40)) == [1]
    one = saju_ops("purge", "--apply", "--from", str(ago(41)), "--to", str(ago(3)))
    assert (one.exit_code, ends(one, "1 row of 1 day deleted")) == (0, True), one.output
    assert sqlite.scene.count() == 40


def test_a_purge_of_days_without_an_archive_names_them_and_ends_with_1(sqlite: Project) -> None:
    saju_ops("archive", "--from", str(ago(42)), "--to", str(ago(42)))
    said = saju_ops("purge", "--apply")
    assert (said.exit_code, ends(said, "Not all is done: 30 rows of 1 day deleted")) == (1, True), said.output
    assert f"No archive, so nothing was deleted: {ago(40)}. `saju-ops archive` makes them." in said.stderr
    assert sqlite.scene.count() == 11


def test_a_damaged_archive_is_purged_of_nothing_and_said(sqlite: Project) -> None:
    saju_ops("archive")
    data = sqlite.scene.data_file(ago(42))
    data.chmod(0o600)
    data.write_bytes(data.read_bytes()[:-3])
    said = saju_ops("purge", "--apply")
    assert (said.exit_code, ends(said, "Not all is done: 1 row of")) == (1, True), said.output
    assert f"{data} is damaged" in said.stderr
    assert sqlite.scene.count() == 40


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("archive", "--from", "soon"), "--from is 'soon'; it may be a date as YYYY-MM-DD"),
        (("archive", "--from", "2020-01-01", "--to", "2020-01-02"), "before ARCHIVE_START_DATE"),
        (("archive", "--to", "2999-01-01"), "--to is 2999-01-01, which is not over"),
        (("purge", "--apply", "--to", "13/13"), "--to is '13/13'"),
    ],
)
def test_days_that_make_no_sense_are_refused_before_anything_is_touched(
    sqlite: Project, arguments: tuple[str, ...], why: str
) -> None:
    said = saju_ops(*arguments)
    assert (said.exit_code, why in said.stderr) == (1, True), said.output
    assert said.stderr.strip().endswith(".")
    assert not sqlite.scene.folder.exists()
    assert sqlite.scene.count() == 41


def test_days_in_the_wrong_order_are_refused(sqlite: Project) -> None:
    for command in ("archive", "purge"):
        said = saju_ops(command, "--from", str(ago(40)), "--to", str(ago(42)))
        assert (said.exit_code, "before" in said.stderr) == (1, True), said.output


@pytest.mark.long
def test_a_purge_stops_at_the_end_of_a_chunk_when_it_is_asked_to(sqlite: Project, tmp_path: Path) -> None:
    sqlite.add(1_000, ago(41), first=1_001)
    saju_ops("archive")
    with sqlite3.connect(str(sqlite.scene.url).removeprefix("sqlite:///")) as connection:
        # It waits for this lock, so that the signal comes while it works.
        connection.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            [sys.executable, "-m", "saju_ops.cli", "purge", "--apply"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=dict(os.environ),
        )  # fmt: skip
        time.sleep(4)
        process.send_signal(signal.SIGTERM)
        connection.rollback()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    assert "Traceback" not in err
    assert "stopped by a signal" in out + err


# --- Dagster's history --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_next_schedule_does_not_ask_again_for_what_a_command_archived(sqlite: Project, history: Path) -> None:
    assert saju_ops("archive", "--from", str(ago(60)), "--to", str(ago(31))).exit_code == 0
    assert saju_ops("purge", "--apply").exit_code == 0
    with dg.DagsterInstance.get() as instance:
        assert instance.get_materialized_partitions(ARCHIVE) == {str(ago(n)) for n in range(31, 61)}
        observed = instance.fetch_observations(LOGS, limit=1).records[0].asset_observation
        assert observed is not None
        assert observed.metadata["rows_deleted"].value == 31
        schedule = defs().get_schedule_def("log_cleanup")
        repository = defs().get_repository_def()
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=repository,
            resources={"log_database": LogDatabase()},
        ) as context:
            asked = schedule.evaluate_tick(context).run_requests or []
        # Nothing is due: one day, the newest, so that operators hear that there was nothing to do.
        assert [r.tags["dagster/asset_partition_range_start"] for r in asked] == [str(ago(31))]
        assert latest_check(instance, ARCHIVE, PROOF) is AssetCheckExecutionRecordStatus.SUCCEEDED


def test_an_archive_that_is_not_proven_is_noted_as_that(sqlite: Project, history: Path) -> None:
    assert saju_ops("archive").exit_code == 0
    data = sqlite.scene.data_file(ago(40))
    data.chmod(0o600)
    data.write_bytes(data.read_bytes()[:-3])
    said = saju_ops("archive")
    assert (said.exit_code, f"{data} is damaged" in said.stderr) == (1, True), said.output
    with dg.DagsterInstance.get() as instance:
        # The day before it, which is well, doesn't outweigh it.
        assert latest_check(instance, ARCHIVE, PROOF) is AssetCheckExecutionRecordStatus.FAILED


def latest_check(instance: dg.DagsterInstance, asset: dg.AssetKey, name: str) -> Any:
    key = dg.AssetCheckKey(asset, name)
    return instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key].status


def test_a_dump_by_hand_counts_in_dagster_as_one_that_was_scheduled(sqlite: Project, history: Path) -> None:
    assert saju_ops("dump").exit_code == 0
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(DUMP)
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        assert (metadata["made_by"].value, metadata["databases_unproven"].value) == ("saju-ops", 0)
        assert latest_check(instance, DUMP, DUMP_PROOF) is AssetCheckExecutionRecordStatus.SUCCEEDED


def test_a_history_that_cannot_be_written_is_said_and_the_dump_counts(
    sqlite: Project, history: Path, tmp_path: Path
) -> None:
    (history / "dagster.yaml").write_text("storage: [\n")
    said = saju_ops("dump")
    assert (said.exit_code, "Note: Dagster's history in" in said.stderr) == (0, True), said.output
    assert len(list((tmp_path / "backups" / "database").glob("*.manifest.json"))) == 1


def test_without_a_history_none_is_made(sqlite: Project, tmp_path: Path) -> None:
    assert saju_ops("dump").exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"backups", "test.db"}
    assert "DAGSTER_HOME" not in os.environ


# --- dump and snapshot ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_dump_now_is_proven_and_can_be_restored(project: Project, tmp_path: Path) -> None:
    said = saju_ops("dump")
    assert (said.exit_code, ends(said, "Done: 1 database dumped and proven.")) == (0, True), said.output
    assert "💾 *데이터베이스 덤프 완료*" in said.stdout
    assert "- 복원 검증: 성공" in said.stdout
    (manifest,) = (tmp_path / "backups" / "database").glob("*.manifest.json")
    assert json.loads(manifest.read_text())["proof"]
    looked = saju_ops("restore-dump", "--dry-run", "--replace", str(parse_database_url(project.scene.url).database))
    assert looked.exit_code == 0, looked.output
    assert re.search(r"holds [12] tables? with 4[12] rows", looked.stdout), looked.output  # SQLite's own counts, too


def test_a_masked_dump_is_stored_beside_the_real_ones(sqlite: Project, tmp_path: Path) -> None:
    said = saju_ops("dump", "--masked")
    assert (said.exit_code, ends(said, "Done: 1 database dumped and proven.")) == (0, True), said.output
    assert len(list((tmp_path / "backups" / "masked_database").glob("*.manifest.json"))) == 1
    assert not (tmp_path / "backups" / "database").exists()


def test_a_database_that_cannot_be_dumped_is_the_last_line_and_ends_with_1(
    sqlite: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOBS_DATABASE_URL", f"sqlite:///{tmp_path}/nowhere.db")
    said = saju_ops("dump")
    assert said.exit_code == 1
    assert ends(said, "Not all is done: 1 database dumped and proven, 1 NOT DUMPED."), said.output
    assert "nowhere.db" in said.stderr


def test_a_snapshot_now_is_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "chroma_db", {"saju_knowledge": 20}, changed=False)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    said = saju_ops("snapshot")
    assert (said.exit_code, ends(said, "Done: 20 records stored in", "and proven.")) == (0, True), said.output
    assert "🧠 *ChromaDB Snapshot*" in said.stdout
    looked = saju_ops("restore-chroma", "--into", "elsewhere", "--dry-run")
    assert looked.exit_code == 0, looked.output


def test_what_is_refused_is_one_sentence(sqlite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    said = saju_ops("snapshot")
    assert (said.exit_code, "Traceback" in said.output) == (1, False)
    assert len(said.stderr.strip().splitlines()) == 1
    monkeypatch.setenv("CONVERSATION_LOG_TABLE", "nothing_here")
    for command in ("archive", "purge"):
        said = saju_ops(command)
        assert (said.exit_code, "nothing_here" in said.stderr) == (1, True), said.output


@pytest.mark.long
def test_dagsters_own_command_line_still_works(sqlite: Project, tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "dagster", "job", "execute", "-j", "dump_databases", "-m",
         "saju_ops.definitions"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "backups" / "database").glob("*.manifest.json"))) == 1
