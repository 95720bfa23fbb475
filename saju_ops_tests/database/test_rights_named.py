"""A right that is missing is named as the GRANT that an administrator runs, before anything is done where it can be."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.errors import OperatorError, Refused
from saju_ops_tests.accounts import account
from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.dumps.scene import Dumps
from saju_ops_tests.dumps.test_contents import run_sql
from saju_ops_tests.engines import Engine

READER = "GRANT SELECT, DELETE, UPDATE ON {db}.* TO {user}"


@pytest.fixture(params=["mysql", "mariadb"])
def served(request: pytest.FixtureRequest) -> tuple[Engine, str]:
    return request.getfixturevalue(f"{request.param}_server"), request.getfixturevalue(f"{request.param}_url")


def archived(url: str, folder: Path) -> Scene:
    scene = Scene(url, folder / "backups").create_table()
    scene.add(5)
    scene.archive()
    scene.purge()
    return scene


@pytest.fixture
def role(postgres_server: Engine, postgres_url: str) -> Iterator[tuple[str, str]]:
    """An account of PostgreSQL that may connect and nothing more: its name and address."""
    name = f"ops_{secrets.token_hex(4)}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'long enough'")
    url = sa.make_url(postgres_url).set(username=name, password="long enough")
    yield name, url.render_as_string(hide_password=False)
    run_sql(postgres_url, f"DROP OWNED BY {name}")
    postgres_server.execute(f"DROP ROLE {name}")


def grants(text: str) -> list[str]:
    """What a refusal says that an administrator may say."""
    said = text.partition("may say: ")[2].partition("Then start again")[0]
    return [grant for grant in said.split(";") if grant.strip()]


@pytest.mark.long
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_restore_of_days_names_the_insert_that_it_lacks(
    served: tuple[Engine, str], tmp_path: Path, dry_run: bool
) -> None:
    server, url = served
    scene = archived(url, tmp_path)
    with account(server, url, READER) as ops:
        wanted = rf"Nothing was written; GRANT INSERT ON `{ops.database}`.`conversation_logs` TO 'ops_"
        with pytest.raises(Refused, match=wanted):
            scene.restore(url=ops.url, dry_run=dry_run)
        ops.grant("GRANT INSERT ON {db}.conversation_logs TO {user}")
        assert scene.restore(url=ops.url, dry_run=dry_run).to_write == 5
    assert scene.count() == (0 if dry_run else 5)


@pytest.mark.long
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_restore_into_a_new_table_names_the_create_that_it_lacks(
    served: tuple[Engine, str], tmp_path: Path, dry_run: bool
) -> None:
    server, url = served
    scene = archived(url, tmp_path)
    with account(server, url, READER) as ops:
        wanted = rf"may not make it. Nothing was written; GRANT CREATE, INSERT ON `{ops.database}`.`again` TO 'ops_"
        with pytest.raises(Refused, match=wanted):
            scene.restore(url=ops.url, dry_run=dry_run, table="again")
        ops.grant("GRANT CREATE, INSERT ON {db}.again TO {user}")
        assert scene.restore(url=ops.url, dry_run=dry_run, table="again").to_write == 5


def test_a_restore_of_days_on_postgresql_names_insert_and_create(
    postgres_url: str, tmp_path: Path, role: tuple[str, str]
) -> None:
    scene, (name, url) = archived(postgres_url, tmp_path), role
    run_sql(postgres_url, f"GRANT SELECT ON conversation_logs TO {name}")
    with pytest.raises(Refused, match=rf'GRANT INSERT ON "?conversation_logs"? TO "?{name}'):
        scene.restore(url=url, dry_run=True)
    with pytest.raises(Refused, match=rf'GRANT CREATE ON SCHEMA "?public"? TO "?{name}'):
        scene.restore(url=url, dry_run=True, table="again")


@pytest.mark.long
def test_the_first_dump_names_the_rights_that_it_lacks(served: tuple[Engine, str], tmp_path: Path) -> None:
    server, url = served
    run_sql(url, "CREATE TABLE notes (id int PRIMARY KEY)", "CREATE VIEW seen AS SELECT id FROM notes")
    with account(server, url, "GRANT SELECT, INSERT, UPDATE, DELETE ON {db}.* TO {user}") as ops:
        dumps = Dumps(ops.url, tmp_path)
        with pytest.raises(OperatorError) as error:
            dumps.take()
        assert f"GRANT SHOW VIEW, TRIGGER, EVENT ON `{ops.database}`.* TO 'ops_" in str(error.value)
        assert "may do better" not in str(error.value)
        assert dumps.names() == []
        server.execute(*grants(str(error.value)))
        assert "lacks" not in dumps.take().message


def test_the_first_dump_of_postgresql_names_the_rights_that_it_lacks(
    postgres_url: str, tmp_path: Path, role: tuple[str, str]
) -> None:
    name, url = role
    run_sql(postgres_url, 'CREATE SCHEMA "o d"', 'CREATE TABLE "o d".notes (id serial PRIMARY KEY)')
    with pytest.raises(OperatorError) as error:
        Dumps(url, tmp_path).take()
    assert f'GRANT USAGE ON SCHEMA "o d" TO "{name}"; GRANT SELECT ON ALL TABLES IN SCHEMA "o d"' in str(error.value)
    run_sql(postgres_url, *grants(str(error.value)))
    assert Dumps(url, tmp_path).take().manifest.contents


@pytest.mark.long
def test_a_dumps_restore_names_what_it_lacks_in_its_dry_run(served: tuple[Engine, str], tmp_path: Path) -> None:
    server, url = served
    run_sql(url, "CREATE TABLE notes (id int PRIMARY KEY)", "CREATE VIEW seen AS SELECT id FROM notes")
    dumps = Dumps(url, tmp_path)
    dumps.take()
    target = f"into_{secrets.token_hex(4)}"
    server.create_database(target)
    try:
        with account(server, server.database_url(target), "GRANT SELECT ON {db}.* TO {user}") as ops:
            rights = "INSERT, CREATE, DROP, ALTER, LOCK TABLES, CREATE VIEW, SHOW VIEW"
            wanted = rf"lacks a right that a restore needs. Nothing was touched.*GRANT {rights} ON `{target}`"
            for dry_run in (True, False):
                with pytest.raises(Refused, match=wanted) as error:
                    dumps.restore(into=ops.url, dry_run=dry_run)
            server.execute(*grants(str(error.value)))
            assert dumps.restore(into=ops.url, dry_run=True).target_objects == 0
            (note,) = [text for text in dumps.said if "where a definer is another account" in text]
            server.execute(note.partition("wants: ")[2].rstrip(";"))
            dumps.restore(into=ops.url)
    finally:
        server.drop_database(target)


def test_a_dumps_restore_on_postgresql_names_what_it_lacks_in_its_dry_run(
    postgres_server: Engine, postgres_url: str, tmp_path: Path, role: tuple[str, str]
) -> None:
    run_sql(postgres_url, "CREATE TABLE notes (id serial PRIMARY KEY)")
    dumps, (name, url) = Dumps(postgres_url, tmp_path), role
    dumps.take()
    target = f"into_{secrets.token_hex(4)}"
    into = sa.make_url(url).set(database=target).render_as_string(hide_password=False)
    with pytest.raises(Refused, match=f'ALTER ROLE "{name}" CREATEDB'):
        dumps.restore(into=into, dry_run=True)
    postgres_server.create_database(target)
    try:
        with pytest.raises(Refused, match=f'GRANT CREATE ON SCHEMA public TO "{name}"'):
            dumps.restore(into=into, dry_run=True)
        run_sql(postgres_server.database_url(target), f'GRANT CREATE ON SCHEMA public TO "{name}"')
        dumps.restore(into=into)
        run_sql(postgres_server.database_url(target), f"DROP OWNED BY {name}")
    finally:
        postgres_server.drop_database(target)


def test_a_dump_of_other_schemas_needs_no_right_on_public(
    postgres_server: Engine, postgres_url: str, tmp_path: Path, role: tuple[str, str]
) -> None:
    run_sql(postgres_url, "CREATE SCHEMA app", "CREATE TABLE app.notes (id int PRIMARY KEY)")
    dumps, (name, url) = Dumps(postgres_url, tmp_path), role
    dumps.take()
    target = f"into_{secrets.token_hex(4)}"
    postgres_server.create_database(target)
    try:
        run_sql(postgres_server.database_url(target), f'GRANT CREATE ON DATABASE "{target}" TO "{name}"')
        into = sa.make_url(url).set(database=target).render_as_string(hide_password=False)
        assert dumps.restore(into=into).tables == 1
        run_sql(postgres_server.database_url(target), f"DROP OWNED BY {name}")
    finally:
        postgres_server.drop_database(target)
