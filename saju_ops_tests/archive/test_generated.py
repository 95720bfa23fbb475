"""Columns that a restore can't write: what the server computes of a row, and MariaDB's columns of system versioning."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from saju_ops.errors import Refused
from saju_ops_tests.archive.scene import DAY, Scene
from saju_ops_tests.archive.test_comeback import archived_by_an_earlier_version
from saju_ops_tests.engines import Engine

# What a service's session in another zone writes: a date, a text, an hour, one of the other, and what depends on none.
STORED = {
    "mysql": (
        "CREATE TABLE {name} (log_id bigint PRIMARY KEY, content varchar(40), bits bit(3), bytes blob,"
        " created_at timestamp(6) NOT NULL,"
        " created_date date AS (DATE(created_at)) STORED, written varchar(40) AS (created_at) STORED,"
        " third decimal(6,2) AS (HOUR(created_at) / 7) STORED,"
        " `next day` date AS (created_date + INTERVAL 1 DAY) STORED,"
        " month varchar(30) AS (CONCAT('it''s %Y ', LEFT(created_date, 7))) STORED,"
        " doubled varchar(90) AS (CONCAT(content, '안', content)) STORED, KEY (created_at))"
    ),
    "postgresql": (
        "CREATE FUNCTION day_of(timestamptz) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT CAST($1 AS date)';"
        "CREATE TABLE {name} (log_id bigint PRIMARY KEY, content varchar(40), bits int, bytes text,"
        " created_at timestamptz NOT NULL, created_date date GENERATED ALWAYS AS (day_of(created_at)) STORED,"
        " doubled varchar(90) GENERATED ALWAYS AS (content || '안' || content) STORED)"
    ),
}


def written_in(scene: Scene, zone: str, rows: int = 24, first: int = 1) -> None:
    mysql = scene.family == "mysql"
    with scene.connected() as connection:
        setting = "SET time_zone = '{}'" if mysql else "SET TIME ZONE INTERVAL '{}' HOUR TO MINUTE"
        connection.exec_driver_sql(setting.format(zone))
        for number in range(rows):
            at = (DAY.start + timedelta(hours=number % 24)).timestamp()
            connection.exec_driver_sql(
                f"INSERT INTO {scene.name} (log_id, content, created_at)"  # noqa: S608
                f" VALUES ({first + number}, 'it''s', {'FROM_UNIXTIME' if mysql else 'to_timestamp'}({at:.0f}))"
            )


@pytest.fixture(params=["mysql_url", "mariadb_url", "postgres_url"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    scene = Scene(request.getfixturevalue(request.param), tmp_path / "backups")
    with scene.connected() as connection:
        for statement in STORED[scene.family].format(name=scene.name).split(";"):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return scene


def comes_back(scene: Scene, rows: int = 24) -> None:
    before = scene.state()
    scene.archive()
    assert scene.purge().deleted == rows
    assert scene.restore().written == rows
    assert scene.state() == before
    assert scene.restore().already_there == rows
    scene.restore(table="copy_of_logs")
    assert scene.state("copy_of_logs") == before


@pytest.mark.long
@pytest.mark.parametrize("zone", ["+00:00", "+09:00"])
def test_stored_generated_columns_come_back_as_the_services_session_computed_them(scene: Scene, zone: str) -> None:
    written_in(scene, zone)
    comes_back(scene)


def test_a_restore_by_inserts_gives_the_same_generated_columns(mysql_server: Any, tmp_path: Path) -> None:
    with mysql_server.database() as url:
        scene = Scene(url, tmp_path / "backups")
        with scene.connected() as connection:
            connection.exec_driver_sql(STORED["mysql"].format(name=scene.name).replace("%", "%%"))
        written_in(scene, "+09:00")
        mysql_server.execute("SET GLOBAL local_infile = OFF")
        try:
            comes_back(scene)
        finally:
            mysql_server.execute("SET GLOBAL local_infile = ON")


@pytest.mark.long
def test_they_come_back_from_an_archive_of_an_earlier_version(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    written_in(scene, "+09:00")
    before = scene.state()
    archived_by_an_earlier_version(scene, monkeypatch)
    assert scene.purge().deleted == 24
    scene.restore()
    assert scene.state() == before


def test_a_zone_that_only_the_server_knows_is_found(mariadb_url: str, mariadb_server: Engine, tmp_path: Path) -> None:
    scene = Scene(mariadb_url, tmp_path / "backups")
    with scene.connected() as connection:
        connection.exec_driver_sql(STORED["mysql"].format(name=scene.name).replace("%", "%%"))
    written_in(scene, "-03:30")
    mariadb_server.execute("SET GLOBAL time_zone = '-03:30'")
    try:
        comes_back(scene)
    finally:
        mariadb_server.execute("SET GLOBAL time_zone = 'SYSTEM'")


@pytest.mark.long
def test_rows_of_two_zones_in_one_day_are_refused_with_their_number_and_stay(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_in(scene, "+09:00")
    written_in(scene, "-07:00", 24, first=25)
    before = scene.state()
    with pytest.raises(Refused, match=r"\d+ in created_date.*Nothing was deleted"):
        scene.archive()
    archived_by_an_earlier_version(scene, monkeypatch)
    outcome = scene.purge()
    assert outcome.deleted == 0
    assert "in created_date" in outcome.problems[0]
    assert scene.state() == before


def test_a_function_that_computes_otherwise_since_is_noticed(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(*STORED["postgresql"].format(name=scene.name).split(";"))
    written_in(scene, "+00:00")
    other = "RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT CAST($1 AS date) + 1'"
    scene.run(f"CREATE OR REPLACE FUNCTION day_of(timestamptz) {other}")
    with pytest.raises(Refused, match="24 in created_date"):
        scene.archive()


@pytest.mark.long
def test_virtual_columns_of_a_time_come_back(mysql_url: str, mariadb_url: str, tmp_path: Path) -> None:
    for number, url in enumerate((mysql_url, mariadb_url)):
        scene = Scene(url, tmp_path / f"backups{number}")
        with scene.connected() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, content varchar(40),"
                " created_at timestamp NOT NULL, created_date date AS (DATE(created_at)) VIRTUAL,"
                " doubled varchar(90) AS (CONCAT(content, content)))"
            )
        written_in(scene, "+09:00")
        comes_back(scene)


def test_generated_columns_of_sqlite_come_back(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups", zone=ZoneInfo("Asia/Seoul"))
    scene.run(
        f"CREATE TABLE {scene.name} (log_id integer PRIMARY KEY, content text, created_at timestamp NOT NULL,"
        " created_date text GENERATED ALWAYS AS (date(created_at)) STORED, n text AS (content || log_id))"
    )
    scene.insert([{"log_id": n, "content": "a", "created_at": scene.time(DAY.start)} for n in range(3)])
    comes_back(scene, 3)


# --- system versioning -------------------------------------------------------------------------------------------

VERSIONED = (
    "CREATE TABLE {name} (log_id bigint, content varchar(40), created_at timestamp(6) NOT NULL, KEY (created_at),"
    " began {kind} GENERATED ALWAYS AS ROW START, ended {kind} GENERATED ALWAYS AS ROW END,"
    " PRIMARY KEY (log_id), PERIOD FOR SYSTEM_TIME (began, ended)) WITH SYSTEM VERSIONING"
)


@pytest.mark.long
@pytest.mark.parametrize("hidden", ["", " INVISIBLE"])
def test_explicit_columns_of_system_versioning_come_back(mariadb_url: str, tmp_path: Path, hidden: str) -> None:
    scene = Scene(mariadb_url, tmp_path / "backups")
    scene.run(VERSIONED.format(name=scene.name, kind="timestamp(6)").replace(" ROW START", f" ROW START{hidden}"))
    written_in(scene, "+09:00")
    scene.update("content = 'changed'", "log_id = 2")
    comes_back(scene)


def test_versions_by_transaction_are_refused_since_no_restore_can_write_them(mariadb_url: str, tmp_path: Path) -> None:
    scene = Scene(mariadb_url, tmp_path / "backups")
    scene.run(VERSIONED.format(name=scene.name, kind="bigint unsigned"))
    written_in(scene, "+00:00", 3)
    with pytest.raises(Refused, match="3 in began"):
        scene.archive()
    assert scene.count() == 3


def test_a_purge_of_a_versioned_table_says_that_its_history_keeps_the_rows(mariadb_url: str, tmp_path: Path) -> None:
    scene = Scene(mariadb_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, content varchar(40), created_at timestamp(6) NOT NULL)"
        " WITH SYSTEM VERSIONING"
    )
    written_in(scene, "+00:00", 3)
    scene.archive()
    outcome = scene.purge()
    assert outcome.deleted == 3
    assert "DELETE HISTORY FROM conversation_logs" in outcome.reclaim_hint
    assert scene.run(f"SELECT COUNT(*) FROM {scene.name} FOR SYSTEM_TIME ALL")[0][0] == 3  # noqa: S608
    assert scene.restore().written == 3
