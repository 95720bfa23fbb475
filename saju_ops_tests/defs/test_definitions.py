"""The code location as a whole: it loads anywhere, imports little, and no asset or job forgets what it must have."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import saju_ops
from saju_ops.definitions import defs
from saju_ops.settings.settings import SettingsError

PACKAGE = Path(saju_ops.__file__).parent
PROJECT = PACKAGE.parent
HEAVY = ("pandas", "chromadb", "boto3", "dagster_aws", "pyarrow", "numpy")
JOBS = {"archive_conversation_logs", "purge_conversation_logs", "restore_conversation_logs", "reconcile_stale_jobs"}
JOBS |= {"purge_expired_jobs", "purge_expired_sessions", "migrate_schema"}
CHANGE_DATA = ("purge_conversation_logs", "restore_conversation_logs", "reconcile_stale_jobs")
CHANGE_DATA += ("purge_expired_jobs", "purge_expired_sessions", "migrate_schema")
# Takes the network away: looking up an address and connecting to one fail.
NO_NETWORK = """
import socket
def refuse(*_, **__):
    raise AssertionError("loading the definitions used the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Code in a fresh interpreter, in the test's empty folder."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def console(name: str) -> str:
    found = Path(sys.executable).parent / name
    assert found.exists(), f"{name} is not installed beside {sys.executable}"
    return str(found)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def test_the_lineage_leads_from_every_live_table_to_its_dump_and_to_what_is_verified(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    live = {"conversation_logs", "user_sessions", "paid_jobs", "analysis_jobs"}
    for dump in ("database_dump", "masked_database_dump"):
        assert {k.to_user_string() for k in graph.get(dg.AssetKey(dump)).parent_keys} == live
    stored = {k.to_user_string() for k in graph.get(dg.AssetKey("stored_backups")).parent_keys}
    assert stored == {"conversation_log_archive", "database_dump", "masked_database_dump", "chroma_snapshot"}


# --- loading ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_they_load_in_a_fresh_interpreter_without_database_network_or_heavy_library() -> None:
    code = f"""{NO_NETWORK}
import sys
import dagster
from saju_ops.definitions import defs
repository = defs().get_repository_def()
print(sorted(repository.job_names))
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    loaded = python(code, DATABASE_URL="mysql://nobody:nothing@192.0.2.1:1/nowhere", BACKUP_URI="/nowhere/backups")
    assert loaded.returncode == 0, loaded.stderr
    jobs, heavy = loaded.stdout.splitlines()
    assert set(ast.literal_eval(jobs)) >= JOBS
    assert heavy == "[]"
    assert list(Path.cwd().iterdir()) == []


def test_a_wrong_setting_is_refused_when_they_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_RETENTION_DAYS", "0")
    with pytest.raises(SettingsError, match=r"LOG_RETENTION_DAYS holds '0' \(.*\); it may hold a whole number"):
        defs()


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    """The files that Dagster's commands look for, without the developer's .env beside them."""
    for name in ("pyproject.toml", "workspace.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "saju_ops").symlink_to(PACKAGE)
    return tmp_path


def dagster_says(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "DAGSTER_TELEMETRY_ENABLED": "false", **environment}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return subprocess.run([console(arguments[0]), *arguments[1:]], capture_output=True, text=True, env=env, check=False)


@pytest.mark.long
@pytest.mark.usefixtures("project_folder")
def test_dg_check_defs_passes() -> None:
    said = dagster_says(["dg", "check", "defs"])
    assert said.returncode == 0, said.stdout + said.stderr
    assert "All definitions loaded successfully" in said.stdout + said.stderr


@pytest.mark.long
@pytest.mark.usefixtures("project_folder")
def test_dagster_definitions_validate_passes_and_names_a_wrong_setting() -> None:
    said = dagster_says(["dagster", "definitions", "validate", "-w", "workspace.yaml"])
    assert said.returncode == 0, said.stdout + said.stderr
    said = dagster_says(["dagster", "definitions", "validate", "-w", "workspace.yaml"], TIMEZONE="KST")
    assert said.returncode != 0
    assert "TIMEZONE holds 'KST' (no such time zone is known); it may hold the IANA name" in said.stdout + said.stderr


# --- what everything must have ----------------------------------------------------------------------------


def specs(definitions: dg.Definitions) -> list[dg.AssetSpec]:
    return list(definitions.resolve_all_asset_specs())


def test_the_names_of_the_specification_are_there(definitions: dg.Definitions) -> None:
    assert {s.key.to_user_string() for s in specs(definitions)} >= {"conversation_log_archive", "conversation_logs"}
    assert {j.name for j in definitions.resolve_all_job_defs()} >= JOBS


def test_every_asset_says_what_it_is_whose_it_is_and_how_to_restore_it(definitions: dg.Definitions) -> None:
    for spec in specs(definitions):
        assert "restore" in (spec.description or "").lower(), spec.key
        assert spec.owners, spec.key
        assert spec.group_name not in (None, "default"), spec.key
        assert spec.kinds, spec.key


def test_the_archive_turns_stale_when_a_weekly_run_is_missed(definitions: dg.Definitions) -> None:
    (spec,) = (s for s in specs(definitions) if s.key == dg.AssetKey("conversation_log_archive"))
    assert spec.freshness_policy is not None
    window = spec.freshness_policy.fail_window.to_timedelta()  # type: ignore[attr-defined]
    assert 7 <= window.days <= 8


@pytest.mark.parametrize("backup", ["database_dump", "chroma_snapshot"])
def test_a_backup_older_than_26_hours_turns_stale(definitions: dg.Definitions, backup: str) -> None:
    (spec,) = (s for s in specs(definitions) if s.key == dg.AssetKey(backup))
    assert spec.freshness_policy is not None
    assert spec.freshness_policy.fail_window.to_timedelta() == timedelta(hours=26)  # type: ignore[attr-defined]


def test_the_kind_of_the_assets_is_the_engine_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("mysql", "mariadb", "postgres", "sqlite"):
        monkeypatch.setenv("DATABASE_URL", "sqlite:///a.db" if kind == "sqlite" else f"{kind}://u:p@h/d")
        assert all({kind, "chroma", "storage"} & spec.kinds for spec in specs(defs()))


def test_the_source_asset_names_the_table_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERSATION_LOG_TABLE", "conversation_log")
    (spec,) = (s for s in specs(defs()) if s.key == dg.AssetKey("conversation_logs"))
    assert spec.metadata["dagster/table_name"] == "conversation_log"


def test_every_check_says_what_it_means(definitions: dg.Definitions) -> None:
    found = {spec.name: spec for asset in definitions.resolve_asset_graph().assets_defs for spec in asset.check_specs}
    assert set(found) >= {
        "stored_file_matches_database", "no_rows_before_first_partition", "every_due_day_is_archived",
        "created_at_is_indexed", "no_stale_jobs", "results_have_an_index",
    }  # fmt: skip
    assert all(spec.description for spec in found.values())
    blocking = {name for name, spec in found.items() if spec.blocking}
    assert blocking >= {"stored_file_matches_database", "restored_dump_equals_database", "nothing_true_is_left"}


@pytest.mark.parametrize("job", CHANGE_DATA)
def test_a_job_that_changes_data_only_looks_by_default(definitions: dg.Definitions, job: str) -> None:
    fields = op_config(definitions, job)
    assert fields["dry_run"].default_value is True
    assert "true" in fields["dry_run"].description


@pytest.mark.parametrize("job", CHANGE_DATA)
def test_every_config_field_says_what_it_does(definitions: dg.Definitions, job: str) -> None:
    for name, field in op_config(definitions, job).items():
        assert field.description, name


def op_config(definitions: dg.Definitions, job: str) -> dict[str, Any]:
    """The config of the op that bears the job's name."""
    schema: Any = definitions.resolve_job_def(job).run_config_schema.config_type
    return dict(schema.fields["ops"].config_type.fields[job].config_type.fields["config"].config_type.fields)


def test_every_job_has_a_description(definitions: dg.Definitions) -> None:
    for name in JOBS:
        assert definitions.resolve_job_def(name).description


def test_partitions_and_schedule_are_seouls(definitions: dg.Definitions) -> None:
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey("conversation_log_archive")).partitions_def
    assert isinstance(partitions, dg.DailyPartitionsDefinition)
    assert partitions.timezone == "Asia/Seoul"
    crons = {}
    for schedule in definitions.schedules or []:
        assert isinstance(schedule, dg.ScheduleDefinition)
        assert schedule.execution_timezone == "Asia/Seoul"
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        crons[schedule.name] = schedule.cron_schedule
    expected = {"log_cleanup": "0 9 * * 1", "stale_jobs": "0 2 * * 0", "database_dump_daily": "0 3 * * *"}
    assert crons.items() >= expected.items()
    for sensor in definitions.sensors or []:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
