"""Rows that a table holds and would not take as new ones: they were there before its rules, or under another server's
settings. They come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saju_ops.errors import OperatorError, Refused
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, SEOUL, Scene
from saju_ops_tests.engines import Engine

LOG = "log_id bigint PRIMARY KEY, created_at timestamp(6) NOT NULL"
AT = "'2026-10-01 01:00:00'"


def scene_of(url: str, tmp_path: Path, columns: str, *values: str, key: str = LOG) -> Scene:
    scene = Scene(url, tmp_path / "backups")
    with scene.connected() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {scene.name} ({key}, {columns})")
        for number, value in enumerate(values, 1):
            connection.exec_driver_sql(f"INSERT INTO {scene.name} VALUES ({number}, {AT}, {value})")  # noqa: S608
    return scene


def purged(scene: Scene, rows: int) -> list[tuple[Any, ...]]:
    before = scene.state()
    scene.archive()
    assert scene.purge().deleted == rows
    return before


def comes_back(scene: Scene, rows: int) -> None:
    before = purged(scene, rows)
    assert scene.restore().written == rows
    assert scene.state() == before
    scene.restore(table="copy_of_logs")
    assert scene.state("copy_of_logs") == before


@pytest.fixture(params=["mysql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def url(server: Engine) -> Iterator[str]:
    with server.database() as url:
        yield url


@pytest.mark.long
@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_the_error_value_of_an_enum_comes_back(server: Engine, url: str, tmp_path: Path, local_infile: str) -> None:
    scene = scene_of(url, tmp_path, "role enum('user','tool'), n int", "'user', 1", "'nobody', 2", "NULL, 3")
    server.execute(f"SET GLOBAL local_infile = {local_infile}")
    try:
        comes_back(scene, 3)
    finally:
        server.execute("SET GLOBAL local_infile = ON")
    assert scene.run(f"SELECT role + 0 FROM {scene.name} ORDER BY log_id") == [(1,), (0,), (None,)]  # noqa: S608


def test_the_error_value_of_an_enum_that_has_an_empty_member_is_refused(url: str, tmp_path: Path) -> None:
    scene = scene_of(url, tmp_path, "role enum('user','')", "'user'", "''", "'nobody'")
    assert scene.run(f"SELECT role + 0 FROM {scene.name} ORDER BY log_id") == [(1,), (2,), (0,)]  # noqa: S608
    with pytest.raises(Refused, match="1 in role"):
        scene.archive()
    scene.remove("log_id = 3")
    comes_back(scene, 2)


@pytest.mark.long
@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_rows_older_than_a_check_come_back_on_mariadb(
    mariadb_server: Engine, tmp_path: Path, local_infile: str
) -> None:
    with mariadb_server.database() as url:
        scene = scene_of(url, tmp_path, "n int, j longtext", "-1, 'no json'", "2, '{}'")
        with scene.connected() as connection:
            connection.exec_driver_sql("SET check_constraint_checks = 0")
            connection.exec_driver_sql(f"ALTER TABLE {scene.name} ADD CONSTRAINT positive CHECK (n > 0)")
            connection.exec_driver_sql(f"ALTER TABLE {scene.name} ADD CHECK (JSON_VALID(j))")
        mariadb_server.execute(f"SET GLOBAL local_infile = {local_infile}")
        try:
            comes_back(scene, 2)
        finally:
            mariadb_server.execute("SET GLOBAL local_infile = ON")
        with pytest.raises(sa.exc.DBAPIError):
            scene.run(f"INSERT INTO {scene.name} VALUES (9, {AT}, -1, '{{}}')")  # noqa: S608


def test_rows_of_a_check_that_is_not_valid_come_back_and_it_stays(postgres_url: str, tmp_path: Path) -> None:
    scene = scene_of(postgres_url, tmp_path, "n int CHECK (n < 100)", "-1", "2")
    scene.run(f'ALTER TABLE {scene.name} ADD CONSTRAINT "p%q" CHECK (n > 0) NOT VALID')
    checks = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'"
        " AND conrelid = CAST('conversation_logs' AS regclass) ORDER BY 1"
    )
    before = scene.run(checks)
    assert len(before) == 2
    comes_back(scene, 2)
    assert scene.run(checks) == before
    with pytest.raises(sa.exc.DBAPIError):
        scene.run(f"INSERT INTO {scene.name} VALUES (9, {AT}, -1)")  # noqa: S608


def test_an_account_that_does_not_own_the_table_learns_what_else_brings_such_rows_back(
    postgres_url: str, tmp_path: Path
) -> None:
    scene = scene_of(postgres_url, tmp_path, "n int", "-1", "2")
    scene.run(f"ALTER TABLE {scene.name} ADD CONSTRAINT positive CHECK (n > 0) NOT VALID")
    before = purged(scene, 2)
    with a_role(scene, f"GRANT SELECT, INSERT, DELETE ON {scene.name} TO saju_role") as theirs:
        with pytest.raises(OperatorError, match=r"as the table's owner, or into another table with --into-table"):
            scene.restore(url=theirs)
    assert scene.count() == 0
    scene.restore()
    assert scene.state() == before


def test_rows_older_than_a_check_come_back_on_sqlite(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id integer PRIMARY KEY, created_at timestamp NOT NULL, n int CHECK (n > 0))"
    )
    with scene.connected() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql(f"INSERT INTO {scene.name} VALUES (1, {AT}, -1)")  # noqa: S608
    comes_back(scene, 1)


# --- partitions --------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_rows_whose_partition_was_dropped_come_back_into_another_table_and_the_refusal_says_so(
    server: Engine, url: str, tmp_path: Path, local_infile: str
) -> None:
    scene = Scene(url, tmp_path / "backups")
    with scene.connected() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE {scene.name} (log_id bigint, created_at timestamp(6) NOT NULL, room int NOT NULL,"
            " PRIMARY KEY (log_id, room)) PARTITION BY LIST (room)"
            " (PARTITION one VALUES IN (1), PARTITION two VALUES IN (2))"
        )
        for number in (1, 2):
            connection.exec_driver_sql(f"INSERT INTO {scene.name} VALUES ({number}, {AT}, {number})")  # noqa: S608
    before = purged(scene, 2)
    scene.run(f"ALTER TABLE {scene.name} DROP PARTITION two")
    server.execute(f"SET GLOBAL local_infile = {local_infile}")
    try:
        with pytest.raises(OperatorError, match=r"no partition for some of its rows.*--into-table"):
            scene.restore()
        assert scene.count() == 0
        scene.restore(table="copy_of_logs")
    finally:
        server.execute("SET GLOBAL local_infile = ON")
    assert scene.state("copy_of_logs") == before


def test_the_same_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint, created_at timestamptz NOT NULL, room int NOT NULL,"
        " PRIMARY KEY (log_id, room)) PARTITION BY LIST (room)",
        f"CREATE TABLE one PARTITION OF {scene.name} FOR VALUES IN (1)",
        f"CREATE TABLE two PARTITION OF {scene.name} FOR VALUES IN (2)",
        f"INSERT INTO {scene.name} VALUES (1, {AT}, 1), (2, {AT}, 2)",  # noqa: S608
    )
    before = purged(scene, 2)
    scene.run("DROP TABLE two")
    with pytest.raises(OperatorError, match=r"no partition for some of its rows.*--into-table"):
        scene.restore()
    scene.restore(table="copy_of_logs")
    assert scene.state("copy_of_logs") == before


# --- sequences ---------------------------------------------------------------------------------------------------


def a_role(scene: Scene, grant: str) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def made() -> Iterator[str]:
        scene.run("CREATE ROLE saju_role LOGIN PASSWORD 'secret'", grant)
        try:
            yield sa.make_url(scene.url).set(username="saju_role", password="secret").render_as_string(False)
        finally:
            scene.run("DROP OWNED BY saju_role", "DROP ROLE saju_role")

    return made()


@pytest.mark.parametrize("kind", ["bigserial", "bigint GENERATED ALWAYS AS IDENTITY"])
def test_rows_come_back_without_a_right_on_the_sequence_and_the_operator_is_informed(
    postgres_url: str, tmp_path: Path, kind: str
) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id {kind} PRIMARY KEY, created_at timestamptz NOT NULL)",
        f"INSERT INTO {scene.name} (created_at) VALUES ({AT}), ({AT})",  # noqa: S608
    )
    before = purged(scene, 2)
    with a_role(scene, f"GRANT SELECT, INSERT ON {scene.name} TO saju_role") as theirs:
        plan = scene.restore(url=theirs)
    assert scene.state() == before
    assert "may not set the sequence" in plan.remarks[0]
    assert any("may not set the sequence" in line for line in plan.sentences())


# --- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_a_key_whose_letters_changed_their_case_since_comes_back_once_and_as_it_was_last(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    key = {"sqlite": "text COLLATE NOCASE NOT NULL", "postgres": "text COLLATE ci"}.get(
        engine, "varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
    )
    if engine == "postgres":
        scene.run("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id {key} PRIMARY KEY, created_at timestamp NOT NULL, n int)",
        f"INSERT INTO {scene.name} VALUES ('abc', {AT}, 1), ('b', {AT}, 1), ('Z', {AT}, 1)",  # noqa: S608
    )
    scene.archive()
    scene.update("log_id = 'ABC', n = 2", "log_id = 'abc'")
    scene.archive()
    before = scene.state()
    assert scene.parts() == [3, 1]
    assert scene.purge().deleted == 3
    plan = scene.restore()
    assert (plan.written, plan.superseded) == (3, 1)
    assert scene.state() == before


def test_keys_that_differ_in_case_and_are_two_stay_two(mysql_url: str, tmp_path: Path) -> None:
    scene = Scene(mysql_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY,"
        " created_at timestamp NOT NULL, n int)",
        f"INSERT INTO {scene.name} VALUES ('abc', {AT}, 1)",  # noqa: S608
    )
    scene.archive()
    scene.run(f"INSERT INTO {scene.name} VALUES ('ABC', {AT}, 2)")  # noqa: S608
    scene.archive()
    before = scene.state()
    assert scene.purge().deleted == 2
    assert scene.restore().written == 2
    assert scene.state() == before


# --- settings of a server ----------------------------------------------------------------------------------------


def test_arrays_and_xml_come_back_whatever_the_database_is_set_to(postgres_url: str, tmp_path: Path) -> None:
    database = sa.make_url(postgres_url).database
    scene = scene_of(postgres_url, tmp_path, "a text[], x xml", """'{a,NULL,"NULL"}', '<a/><b/>'""", "'{}', 'text'")
    for setting in ("array_nulls = off", "xmloption = document"):
        scene.run(f'ALTER DATABASE "{database}" SET {setting}')
    comes_back(scene, 2)


def test_texts_come_back_to_a_sqlite_table_whose_other_times_are_numbers(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id integer PRIMARY KEY, created_at NOT NULL, n int)",
        f"INSERT INTO {scene.name} VALUES (1, {AT}, 1), (2, 1790000000, 2), (3, {AT}, 3)",  # noqa: S608
    )
    before = scene.state()
    scene.archive()
    assert (scene.purge().deleted, scene.ids()) == (2, [2])
    assert scene.restore().written == 2
    assert scene.state() == before


# --- many columns ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("columns", "nulls"), [(49, False), (300, True), (300, False)])
def test_a_table_of_many_columns_comes_back(database_url: str, tmp_path: Path, columns: int, nulls: bool) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    kind = "varchar(5)" if scene.family == "mysql" else "text"  # InnoDB's rows have 8,126 bytes
    defined = ", ".join(f"c{n} {kind}" for n in range(columns))
    scene.run(f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, created_at timestamp NOT NULL, {defined})")
    empty: dict[str, Any] = dict.fromkeys((f"c{n}" for n in range(columns)), None if nulls else "")
    at = scene.time(DAY.start)
    scene.insert([{"log_id": n, "created_at": at, **empty, f"c{n * 7 % columns}": "한글"} for n in range(5)])
    scene.archive()
    scene.update("c5 = 'x'", "log_id = 3")
    assert scene.purge().deleted == 4
    scene.archive()
    before = scene.state()
    assert scene.purge().deleted == 1
    assert scene.restore().written == 5
    scene.remove("log_id <> 3")
    assert scene.state() == before


# --- rows without a day ------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/New_York"])
def test_a_row_of_the_year_1_stops_no_purge_and_is_counted(database_url: str, tmp_path: Path, zone: str) -> None:
    scene = Scene(database_url, tmp_path / "backups", zone=ZoneInfo(zone))
    kind = {"mysql": "datetime", "sqlite": "text"}.get(scene.family, "timestamptz")
    scene.run(f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, created_at {kind})")
    scene.insert([{"log_id": n, "created_at": scene.time(DAY.start)} for n in (1, 2)])
    scene.run(f"INSERT INTO {scene.name} VALUES (3, '0001-01-01 00:00:00'), (4, NULL)")  # noqa: S608
    scene.archive()
    outcome = scene.purge()
    assert (outcome.deleted, outcome.stopped, sorted(scene.ids())) == (2, "finished", [3, 4])
    with scene.store() as store:
        counts = store.undated(DAY.start)
    assert (counts["rows_without_created_at"], counts["rows_before_first_partition"]) == (1, 1)


def test_times_of_sqlite_that_no_calendar_or_no_reader_has_are_counted_and_stop_no_purge(
    sqlite_url: str, tmp_path: Path
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups", zone=SEOUL)
    times = [
        "2026-10-01 24:00:00", "2026-10-01 10:00:00", "0000-01-01 00:00:00", "-0001-01-01 00:00:00",
        "2026-10-01T01:00:00+0900", "2026/10/01", "", "2026-10-01 25:00:00",
    ]  # fmt: skip
    scene.run(f"CREATE TABLE {scene.name} (log_id integer PRIMARY KEY, created_at)")
    scene.insert([{"log_id": n, "created_at": time} for n, time in enumerate([*times, 1790000000, None], 1)])
    assert scene.archive().rows == 1
    assert scene.archive(NEXT_DAY).rows == 1
    outcome = scene.purge()
    assert (outcome.deleted, outcome.stopped, scene.ids()) == (2, "finished", [3, 4, 5, 6, 7, 8, 9, 10])
    with scene.store() as store:
        assert store.undated(DAY.start) == {
            "rows_without_created_at": 1, "rows_with_unreadable_created_at": 5, "rows_before_first_partition": 2,
        }  # fmt: skip
    scene.restore(DAY, NEXT_DAY)
    assert scene.count() == 10


def test_infinite_times_of_postgresql_are_counted(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, created_at timestamptz)",
        f"INSERT INTO {scene.name} VALUES (1, 'infinity'), (2, '-infinity'), (3, '0044-03-15 BC'), (4, {AT})",  # noqa: S608
    )
    scene.archive()
    assert (scene.purge().deleted, scene.ids()) == (1, [1, 2, 3])
    with scene.store() as store:
        counts = store.undated(DAY.start)
    assert (counts["rows_with_infinite_created_at"], counts["rows_before_first_partition"]) == (1, 2)


def test_the_same_of_times_without_a_zone_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups", zone=SEOUL)
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, created_at timestamp)",
        f"INSERT INTO {scene.name} VALUES (1, '2026-10-01 10:00:00'), (2, '0001-01-01'), (3, '9999-12-31 23:59:59')",  # noqa: S608
    )
    scene.archive()
    assert (scene.purge().deleted, scene.ids()) == (1, [2, 3])
