"""Developers see sessions of which nothing personal is true, the same ones at each look, and can change none."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from saju_ops.dumps.without_rows import SALT_TABLE
from saju_ops.errors import OperatorError, Refused
from saju_ops.schema.developer import make_developer
from saju_ops.schema.masked_view import VIEW, look_at_view, make_salt
from saju_ops.schema.migrate import commands
from saju_ops.schema.migrate.compare import compare
from saju_ops.schema.migrate.run import Options
from saju_ops.schema.migrate.session import session
from saju_ops.schema.migrate.steps import Installation
from saju_ops_tests.schema.birth_data.scene import BirthScene

PASSWORD = "only-for-developers-1"
PERSONAL = ("session_id", "user_id", "birth_datetime", "birth_location")


def made(url: str) -> BirthScene:
    """By the migrations, as an installation has it."""
    if url.startswith("sqlite"):
        Path(str(sa.make_url(url).database)).touch()
    commands.up(sa.make_url(url), Installation(), Options(), target="masked_view@head")
    scene = BirthScene(url)
    place = {"city": "부산", "country": "KR", "lat": 35.1796, "lng": 129.0756}
    scene.add(*(f"sess-true-{i}" for i in range(40)), birth_location=place, is_lunar=True)
    scene.add("sess-hidden", birth_datetime=None, birth_datetime_encrypted="gAAAAAtrue")
    scene.add("sess-none", birth_datetime=None)
    return scene


@pytest.fixture
def scene(database_url: str) -> BirthScene:
    return made(database_url)


@pytest.fixture(params=["mysql", "mariadb", "postgres"])
def server_scene(request: pytest.FixtureRequest) -> BirthScene:
    return made(request.getfixturevalue(f"{request.param}_url"))


def seen(scene: BirthScene) -> list[dict[str, Any]]:
    with scene.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT * FROM {VIEW} ORDER BY session_id").mappings()
        return [dict(row) for row in rows]


@pytest.mark.long
def test_nothing_personal_in_it_is_true(scene: BirthScene) -> None:
    rows = seen(scene)
    assert len(rows) == 42
    text = json.dumps(rows, default=str, ensure_ascii=False)
    assert [
        true for true in ("sess-", '"u"', "부산", "35.1796", "129.0756", "1990-05-05 09:30", "gAAAAA") if true in text
    ] == []
    assert "birth_datetime_encrypted" not in rows[0]
    # Forty equal births are forty different ones here, and two in three are of the solar calendar.
    births = [str(row["birth_datetime"]) for row in rows if row["birth_datetime"]]
    assert len(births) == 41
    assert len(set(births)) == 41
    assert all("1950-01-01" <= birth < "2010-01-01" for birth in births)
    assert {bool(row["is_lunar"]) for row in rows} == {True, False}
    assert len({row["user_id"] for row in rows}) == 1


@pytest.mark.long
def test_the_types_are_those_of_the_table(scene: BirthScene) -> None:
    found = next(row for row in seen(scene) if row["birth_location"])
    birth, place = found["birth_datetime"], found["birth_location"]
    assert isinstance(birth if isinstance(birth, datetime) else datetime.fromisoformat(birth), datetime)
    place = json.loads(place) if isinstance(place, str) else place
    assert sorted(place) == ["city", "country", "lat", "lng"]
    assert 34 <= place["lat"] <= 38
    assert 126 <= place["lng"] <= 129


@pytest.mark.long
def test_the_same_session_looks_the_same_at_each_read_and_when_others_come(scene: BirthScene) -> None:
    before = {row["session_id"]: row for row in seen(scene)}
    scene.add("sess-new")
    scene.run(
        "UPDATE user_sessions SET birth_datetime = NULL, birth_datetime_encrypted = 'x' WHERE session_id <> 'sess-none'"
    )
    after = {row["session_id"]: row for row in seen(scene)}
    assert {key: after[key]["birth_datetime"] for key in before} == {
        key: row["birth_datetime"] for key, row in before.items()
    }  # fmt: skip


@pytest.mark.long
def test_another_salt_shows_everybody_as_somebody_else(scene: BirthScene) -> None:
    before = seen(scene)
    scene.run(f"DELETE FROM {SALT_TABLE}")
    assert seen(scene) == []
    assert look_at_view(scene.url).salted is False
    assert make_salt(scene.url)
    assert not make_salt(scene.url)
    after = seen(scene)
    assert not {row["session_id"] for row in before} & {row["session_id"] for row in after}
    assert len({row["birth_datetime"] for row in before} & {row["birth_datetime"] for row in after}) < 5


@pytest.mark.long
@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE {VIEW} SET last_activity = '2000-01-01 00:00:00'",
        f"UPDATE {VIEW} SET timezone = 'x'",
        f"DELETE FROM {VIEW}",
        f"INSERT INTO {VIEW} (session_id, user_id) VALUES ('x', 'u')",
    ],
)
def test_nothing_can_be_written_through_it(scene: BirthScene, statement: str) -> None:
    before = scene.run("SELECT * FROM user_sessions ORDER BY session_id")
    with pytest.raises(DBAPIError):
        scene.run(statement)
    assert scene.run("SELECT * FROM user_sessions ORDER BY session_id") == before


@pytest.mark.long
def test_the_salt_is_in_no_text_that_a_reader_of_the_view_sees(server_scene: BirthScene) -> None:
    (salt,) = server_scene.run(f"SELECT salt FROM {SALT_TABLE}")
    mysql = server_scene.engine.dialect.name != "postgresql"
    query = f"SHOW CREATE VIEW {VIEW}" if mysql else f"SELECT pg_get_viewdef('{VIEW}'::regclass)"
    text = " ".join(map(str, server_scene.run(query)[0]))
    assert len(bytes(salt[0])) == 32
    assert bytes(salt[0]).hex() not in text.lower()
    if mysql:
        assert "ALGORITHM=TEMPTABLE" in text
        assert "SQL SECURITY DEFINER" in text
    result = commands.up(server_scene.url, Installation(), Options(), target="masked_view@head", dry_run=True)
    assert bytes(salt[0]).hex() not in result.plan.sql().lower()


@pytest.fixture
def developer(server_scene: BirthScene) -> Iterator[str]:
    """The address of a developer's account."""
    name = f"dev_{str(server_scene.url.database)[-12:]}"
    make_developer(server_scene.url, name, PASSWORD)
    yield server_scene.url.set(username=name, password=PASSWORD).render_as_string(hide_password=False)
    if server_scene.engine.dialect.name == "postgresql":
        server_scene.run(f'DROP OWNED BY "{name}"')
        server_scene.run(f'DROP ROLE "{name}"')
    else:
        server_scene.run(f"DROP USER '{name}'@'%'")


def as_developer(url: str, statement: str) -> list[Any]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        found = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return found


@pytest.mark.long
def test_a_developer_sees_the_view_and_nothing_else(server_scene: BirthScene, developer: str) -> None:
    assert as_developer(developer, f"SELECT COUNT(*) FROM {VIEW}") == [(42,)]
    for table in ("user_sessions", "users", "conversation_logs", SALT_TABLE):
        with pytest.raises(DBAPIError, match="denied"):
            as_developer(developer, f"SELECT * FROM {table}")
    for statement in (f"UPDATE {VIEW} SET timezone = 'x'", f"DELETE FROM {VIEW}", "CREATE TABLE mine (id int)"):
        with pytest.raises(DBAPIError):
            as_developer(developer, statement)


@pytest.mark.long
def test_the_account_can_be_made_again_with_another_password(server_scene: BirthScene, developer: str) -> None:
    name = str(sa.make_url(developer).username)
    make_developer(server_scene.url, name, "another-password-2")
    with pytest.raises(OperationalError):
        as_developer(developer, "SELECT 1")
    other = sa.make_url(developer).set(password="another-password-2").render_as_string(hide_password=False)
    assert as_developer(other, f"SELECT COUNT(*) FROM {VIEW}") == [(42,)]


@pytest.mark.long
def test_an_account_that_may_see_more_is_refused_and_left_as_it_is(server_scene: BirthScene, developer: str) -> None:
    name = str(sa.make_url(developer).username)
    mysql = server_scene.engine.dialect.name != "postgresql"
    server_scene.run(f"GRANT SELECT ON users TO '{name}'@'%'" if mysql else f'GRANT SELECT ON users TO "{name}"')
    with pytest.raises(Refused, match=r"may see or do more than to read masked_user_sessions \(.*users.*\)"):
        make_developer(server_scene.url, name, "another-password-2")
    assert as_developer(developer, f"SELECT COUNT(*) FROM {VIEW}") == [(42,)]


def test_what_everybody_may_see_a_developer_may_not(postgres_url: str) -> None:
    scene = made(postgres_url)
    scene.run("GRANT SELECT ON users TO PUBLIC")
    with pytest.raises(Refused, match=r"public\.users"):
        make_developer(scene.url, "dev_public", PASSWORD)
    assert scene.run("SELECT 1 FROM pg_roles WHERE rolname = 'dev_public'") == []


def test_default_privileges_give_nobody_the_salt(postgres_url: str) -> None:
    scene = BirthScene(postgres_url)
    scene.run("DROP TABLE conversation_logs, saju_analyses, saju_calculations, user_sessions, users, system_metrics,"
              " schema_migrations")  # fmt: skip
    role = f"reader_{str(scene.url.database)[-12:]}"
    scene.run(f"CREATE ROLE {role}")
    scene.run(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {role}")
    try:
        made(postgres_url)
        assert scene.run(f"SELECT has_table_privilege('{role}', 'users', 'SELECT')") == [(True,)]
        assert scene.run(f"SELECT has_table_privilege('{role}', '{SALT_TABLE}', 'SELECT')") == [(False,)]
    finally:
        scene.run(f"DROP OWNED BY {role}")
        scene.run(f"DROP ROLE {role}")


def test_sqlite_says_that_it_has_no_accounts(sqlite_url: str) -> None:
    scene = made(sqlite_url)
    with pytest.raises(Refused, match=r"SQLite has no accounts.*Nothing was touched.*--masked"):
        make_developer(scene.url, "developer", PASSWORD)


@pytest.mark.parametrize(
    ("name", "password", "what"),
    [
        ("a b", PASSWORD, "DEVELOPER_USER"),
        ("", PASSWORD, "DEVELOPER_USER"),
        ("dev", "short", "DEVELOPER_PASSWORD has 5"),
    ],
)
def test_a_bad_name_or_password_is_refused_and_not_shown(sqlite_url: str, name: str, password: str, what: str) -> None:
    with pytest.raises(Refused, match=what) as refused:
        make_developer(sa.make_url(sqlite_url), name, password)
    assert "short" not in str(refused.value)


def test_without_the_view_there_is_no_account(mysql_url: str) -> None:
    scene = BirthScene(mysql_url)
    with pytest.raises(Refused, match=r"no view masked_user_sessions.*migrate up masked_view@head"):
        make_developer(scene.url, "developer", PASSWORD)


@pytest.mark.long
def test_an_account_that_may_make_none_hears_what_it_lacks(server_scene: BirthScene, developer: str) -> None:
    with pytest.raises(OperatorError, match=r"could not be made.*CREATE USER"):
        make_developer(sa.make_url(developer), "another_dev", PASSWORD)


@pytest.mark.long
def test_the_migration_leads_both_ways_and_up_again(scene: BirthScene) -> None:
    first = seen(scene)
    for _ in range(2):
        commands.down(scene.url, Installation(), "masked_view@base", Options())
        assert scene.run("SELECT COUNT(*) FROM user_sessions") == [(42,)]
        with pytest.raises(DBAPIError):
            seen(scene)
        commands.up(scene.url, Installation(), Options(), target="masked_view@head")
    assert len(seen(scene)) == 42
    assert {row["session_id"] for row in first} != {row["session_id"] for row in seen(scene)}


@pytest.mark.long
def test_the_schema_still_matches_with_the_view(scene: BirthScene) -> None:
    with session(scene.url) as connection:
        target = commands.heads(connection)
    assert "0100_masked_view" in target
    assert compare(scene.url, Installation(), target).differences == []
