"""The dumps as Dagster shows them: materialized with numbers, checked, and failed with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.definitions import defs
from saju_ops.defs.dumps.assets import VIEWS
from saju_ops_tests.dumps.scene import everything, fill
from saju_ops_tests.engines import Engine
from saju_ops_tests.masking.test_masking import people

NUMBERS = {
    "databases", "databases_failed", "databases_unproven", "tables", "rows", "bytes", "content_bytes", "ratio",
    "seconds", "proof_seconds", "drill_seconds", "tries", "copies_completed", "broken_views",
}  # fmt: skip


class Ran:
    def __init__(self, job: str, config: dict[str, Any] | None = None) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        config = {"ops": {job: {"config": config}}} if config is not None else {}
        definition = defs().resolve_job_def(job) if "masked" not in job else _one(job)
        result = definition.execute_in_process(instance=self.instance, raise_on_error=False, run_config=config)
        self.success = result.success
        self.events = [e.dagster_event for e in self.instance.all_logs(result.run_id) if e.dagster_event]
        self.text = "\n".join(dg.serialize_value(e) for e in self.instance.all_logs(result.run_id))

    def metadata(self) -> dict[str, Any]:
        (event,) = [e for e in self.events if e.event_type_value == "ASSET_MATERIALIZATION"]
        return {k: v.value for k, v in event.step_materialization_data.materialization.metadata.items()}

    def check(self) -> tuple[bool, dict[str, Any]]:
        """The proof's."""
        (data,) = [c for c in self.checks() if c.check_name != VIEWS]
        return data.passed, {k: v.value for k, v in data.metadata.items()}

    def checks(self) -> list[Any]:
        return [e.asset_check_evaluation_data for e in self.events if e.event_type_value == "ASSET_CHECK_EVALUATION"]

    def materialized(self) -> bool:
        return any(e.event_type_value == "ASSET_MATERIALIZATION" for e in self.events)


def _one(asset: str) -> Any:
    chosen = [a for a in defs().assets or [] if isinstance(a, dg.AssetsDefinition) and dg.AssetKey(asset) in a.keys]
    resources = defs().resources
    job = dg.define_asset_job("one", selection=dg.AssetSelection.assets(asset))
    return dg.Definitions(assets=chosen, jobs=[job], resources=resources).resolve_job_def("one")


@pytest.fixture
def project(mariadb_url: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    fill(mariadb_url)
    fill(sqlite_url)
    monkeypatch.setenv("DATABASE_URL", mariadb_url)
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    return mariadb_url


def test_every_configured_database_is_dumped_once_with_numbers(project: str) -> None:
    ran = Ran("dump_databases")
    assert ran.success
    metadata = ran.metadata()
    assert metadata.keys() >= NUMBERS
    assert metadata["databases"] == 2
    assert metadata["tables"] > 8
    assert metadata["rows"] > 10
    assert "복원 검증: 성공" in metadata["report"]
    passed, numbers = ran.check()
    assert passed
    assert numbers["databases_proven"] == 2
    assert numbers["rows_compared"] == metadata["rows"]
    assert str(sa.make_url(project).password) not in ran.text


@pytest.mark.long
def test_a_broken_view_is_a_warning_and_the_rest_is_dumped_and_proven(project: str) -> None:
    with connect(project).connect() as connection:
        connection.exec_driver_sql("CREATE VIEW lost AS SELECT 'a secret' AS s, id FROM empty_one")
        connection.exec_driver_sql("DROP TABLE empty_one")
    ran = Ran("dump_databases")
    assert ran.success
    metadata = ran.metadata()
    assert (metadata["broken_views"], metadata["databases_unproven"], metadata["databases_failed"]) == (1, 0, 0)
    assert "깨진 뷰: 1개 (lost)" in metadata["report"]
    passed, numbers = ran.check()
    assert passed
    assert numbers["databases_proven"] == 2
    (views,) = [c for c in ran.checks() if c.check_name == VIEWS]
    assert (views.passed, views.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert views.metadata["broken_views"].value == 1
    assert "`lost` of " in views.metadata["which"].value
    assert "a secret" not in ran.text
    with connect(project).connect() as connection:
        connection.exec_driver_sql("DROP VIEW lost")
    ran = Ran("dump_databases")
    (views,) = [c for c in ran.checks() if c.check_name == VIEWS]
    assert (views.passed, ran.metadata()["broken_views"]) == (True, 0)


def test_one_database_that_is_away_fails_the_run_and_not_the_others_dump(
    project: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", f"sqlite:///{tmp_path / 'nowhere.db'}")
    ran = Ran("dump_databases")
    assert not ran.success
    assert ran.metadata()["databases"] == 1
    assert ran.metadata()["databases_failed"] == 1
    passed, numbers = ran.check()
    assert not passed
    assert "There is no SQLite file" in numbers["error"]


def test_a_dump_whose_restore_cannot_be_tried_fails_the_check_and_stays(
    project: str, mariadb_server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = sa.make_url(project).database
    mariadb_server.execute(
        "CREATE OR REPLACE USER tiny@'127.0.0.1' IDENTIFIED BY 'long enough'",
        f"GRANT ALL ON {name}.* TO tiny@'127.0.0.1'",
        "GRANT SELECT ON mysql.proc TO tiny@'127.0.0.1'",
    )
    url = sa.make_url(project).set(username="tiny", password="long enough")
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    try:
        ran = Ran("dump_databases")
    finally:
        mariadb_server.execute("DROP USER tiny@'127.0.0.1'")
    assert not ran.success
    assert ran.metadata()["databases_unproven"] == 1
    passed, numbers = ran.check()
    assert not passed
    assert "RESTORE_DRILL_URL" in numbers["error"]
    assert "복원 검증: 하지 못함" in ran.metadata()["report"]


def test_a_dump_that_differs_is_not_materialized(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.dumps.sqlite import SQLiteTaking

    fill(sqlite_url)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    original = SQLiteTaking.chunks
    true, false = "부모".encode(), "부무".encode()
    monkeypatch.setattr(SQLiteTaking, "chunks", lambda self: (c.replace(true, false) for c in original(self)))
    ran = Ran("dump_databases")
    assert not ran.success
    assert not ran.materialized()
    passed, numbers = ran.check()
    assert not passed
    assert "another checksum" in numbers["error"]


@pytest.mark.long
def test_the_restore_job_only_looks_by_default(
    project: str, mariadb_server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Ran("dump_databases").success
    with mariadb_server.database() as target:
        monkeypatch.setenv("PLACE_FOR_A_LOOK", target)
        dry = Ran("restore_database_dump", {"into_setting": "PLACE_FOR_A_LOOK"})
        assert dry.success
        assert everything(target) == {}
        done = Ran("restore_database_dump", {"into_setting": "PLACE_FOR_A_LOOK", "dry_run": False})
        assert done.success, done.text[-2000:]
        assert everything(target) == everything(project)
        assert str(sa.make_url(target).password) not in done.text
        assert json.dumps("대상 상태: 비어 있음")[1:-1] in dry.text
    preview = Ran("restore_database_dump")
    assert json.dumps("대상 상태: 비어 있지 않음")[1:-1] in preview.text
    refused = Ran("restore_database_dump", {"dry_run": False})
    assert not refused.success
    assert "is not empty" in refused.text


def test_the_masked_dump_is_checked_and_refused_by_name(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(sqlite_url)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    ran = Ran("masked_database_dump")
    assert ran.success, ran.text[-2000:]
    passed, numbers = ran.check()
    assert passed
    assert numbers["values_masked"] > 100
    assert numbers["values_checked"] > 100
    with sa.create_engine(sqlite_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN nickname varchar(20)")
    ran = Ran("masked_database_dump")
    assert not ran.success
    passed, numbers = ran.check()
    assert not passed
    assert "jobs.nickname is called like something personal" in numbers["error"]
    assert "홍길동" not in ran.text
