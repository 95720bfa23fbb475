"""Expired jobs and sessions: what the account may not see is no reason to delete it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.cli.status_report import report
from saju_ops.errors import Refused
from saju_ops.expired.foreign_keys import closure_of
from saju_ops.expired.job_tables import JobTables, open_jobs
from saju_ops_tests.accounts import Account, account
from saju_ops_tests.engines import Engine
from saju_ops_tests.expired.job_scene import UTC_ZONE, JobScene
from saju_ops_tests.expired.test_expired_sessions import SessionScene

EXPIRED = "2026-09-30 12:00:00"
BUT_PAYMENTS = "GRANT SELECT, DELETE ON {db}.jobs TO {user}"


@pytest.fixture(params=["mysql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Engine:
    server: Engine = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def url(server: Engine) -> Iterator[str]:
    with server.database() as url:
        yield url


@pytest.fixture
def scene(url: str, tmp_path: Path) -> JobScene:
    scene = JobScene(url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    return scene.run_all(
        "CREATE TABLE jobs (id int PRIMARY KEY, expires_at datetime NOT NULL)",
        "CREATE TABLE payments (id int PRIMARY KEY, job int, amount int, card varchar(20),"
        " FOREIGN KEY (job) REFERENCES jobs (id))",
        f"INSERT INTO jobs VALUES (1, '{EXPIRED}')",  # noqa: S608
        "INSERT INTO payments VALUES (1, 1, 9900, 'kept')",
    )


def purge(scene: JobScene, ops: Account, **more: Any) -> Any:
    as_root, scene.url = scene.url, sa.make_url(ops.url)
    try:
        return scene.purge(tables=JobTables("jobs", ("payments",), ("payments",)), **more)
    finally:
        scene.url = as_root


def rows(scene: JobScene) -> list[Any]:
    return scene.run("SELECT j.id, p.card FROM jobs j JOIN payments p ON p.job = j.id")


@pytest.mark.long
@pytest.mark.parametrize("more", ["GRANT PROCESS ON *.* TO {user}", "GRANT SELECT ON mysql.* TO {user}"])
@pytest.mark.parametrize("visible", [True, False])
def test_payments_of_which_a_column_is_hidden_are_neither_archived_nor_deleted(
    server: Engine, scene: JobScene, more: str, visible: bool
) -> None:
    if not visible:
        scene.run_all("ALTER TABLE payments MODIFY card varchar(20) INVISIBLE")
    with account(server, str(scene.url.render_as_string(hide_password=False)), BUT_PAYMENTS, more) as ops:
        ops.grant("GRANT SELECT (id, job, amount), DELETE ON {db}.payments TO {user}")
        for dry_run in (True, False):
            with pytest.raises(Refused, match=r"every column of .*payments \(card\).*GRANT SELECT ON"):
                purge(scene, ops, dry_run=dry_run)
    assert rows(scene) == [(1, "kept")]


def test_a_key_with_a_hidden_column_distinguishes_no_rows(server: Engine, scene: JobScene) -> None:
    scene.run_all("ALTER TABLE payments DROP PRIMARY KEY, ADD PRIMARY KEY (id, card)")
    with account(server, scene.url.render_as_string(hide_password=False), BUT_PAYMENTS) as ops:
        ops.grant("GRANT SELECT (id, job, amount), DELETE ON {db}.payments TO {user}", "GRANT PROCESS ON *.* TO {user}")
        with pytest.raises(Refused, match=r"payments \(card\)"):
            purge(scene, ops)
    assert rows(scene) == [(1, "kept")]


@pytest.mark.long
def test_jobs_of_which_a_column_is_hidden_stay(server: Engine, scene: JobScene) -> None:
    scene.run_all("ALTER TABLE jobs ADD note text")
    with account(server, scene.url.render_as_string(hide_password=False)) as ops:
        ops.grant("GRANT SELECT (id, expires_at), DELETE ON {db}.jobs TO {user}", "GRANT PROCESS ON *.* TO {user}")
        ops.grant("GRANT SELECT, DELETE ON {db}.payments TO {user}")
        with pytest.raises(Refused, match=r"jobs \(note\)"):
            purge(scene, ops)
    assert rows(scene) == [(1, "kept")]


@pytest.mark.long
def test_jobs_on_which_a_table_of_another_database_hangs_stay(
    server: Engine, scene: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.database() as other_url:
        other, mine = sa.make_url(other_url).database, scene.url.database
        scene.run_all(
            f"CREATE TABLE {other}.trail (id int PRIMARY KEY, payment int, FOREIGN KEY (payment) REFERENCES"
            f" {mine}.payments (id) ON DELETE CASCADE)",
            f"INSERT INTO {other}.trail VALUES (1, 1)",  # noqa: S608
        )
        with account(server, scene.url.render_as_string(hide_password=False)) as ops:
            ops.grant("GRANT ALL ON {db}.* TO {user}")
            with pytest.raises(Refused, match=rf"{mine}\.payments opens 1 other table,.*GRANT PROCESS"):
                purge(scene, ops)
            (doubt,) = purge(scene, ops, dry_run=True).doubts
            assert "may not see every foreign key" in doubt
            monkeypatch.setenv("DATABASE_URL", ops.url)
            (line,) = [line for line in report()[0] if line.startswith("FAIL JOBS_TABLE")]
            assert "GRANT PROCESS ON *.* TO" in line
            ops.grant("GRANT PROCESS ON *.* TO {user}")
            with pytest.raises(Refused, match=rf"{other}\.trail references rows that would go"):
                purge(scene, ops)
        assert rows(scene) == [(1, "kept")]
        assert scene.run(f"SELECT id FROM {other}.trail") == [(1,)]  # noqa: S608
        scene.run_all(f"DROP TABLE {other}.trail")


@pytest.mark.long
def test_all_rights_on_the_database_are_enough_for_its_jobs(server: Engine, scene: JobScene) -> None:
    with account(server, scene.url.render_as_string(hide_password=False), "GRANT ALL ON {db}.* TO {user}") as ops:
        with open_jobs(sa.make_url(ops.url), "jobs", UTC_ZONE) as store:
            assert closure_of(store).unsure == ""
        assert purge(scene, ops).deleted == 1
    assert rows(scene) == []


@pytest.mark.long
@pytest.mark.parametrize("cascades", ["orm", "database", "mixed"])
def test_the_services_own_tables_need_no_more_than_rights_on_their_database(
    server: Engine, url: str, tmp_path: Path, cascades: str
) -> None:
    scene = JobScene(url, tmp_path / "backups", cascades=cascades).create()
    scene.add(range(1, 4))
    with account(server, url, "GRANT ALL ON {db}.* TO {user}") as ops:
        scene.url = sa.make_url(ops.url)
        assert scene.purge().deleted == 3


@pytest.mark.long
def test_sessions_whose_log_has_a_hidden_column_stay(server: Engine, url: str, tmp_path: Path) -> None:
    scene = SessionScene(url, tmp_path / "backups")
    with account(server, url, "GRANT ALL ON {db}.* TO {user}") as ops:
        scene.url = ops.url  # type: ignore[assignment]
        scene.purge()
        ops.grant("REVOKE ALL ON {db}.* FROM {user}", "GRANT PROCESS ON *.* TO {user}")
        listed = scene.run(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
            " AND TABLE_NAME <> 'conversation_logs'"
        )
        ops.grant(*(f"GRANT SELECT, DELETE ON {{db}}.{name} TO {{user}}" for (name,) in listed))
        ops.grant("GRANT SELECT (log_id, session_id, created_at), DELETE ON {db}.conversation_logs TO {user}")
        with pytest.raises(Refused, match=r"every column of .*conversation_logs \("):
            scene.purge()
