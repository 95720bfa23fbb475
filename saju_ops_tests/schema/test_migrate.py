"""Migrations on every engine: from nothing up, down, up again; what each refuses; what a broken-off run leaves."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from saju_ops.schema.migrate import catalogue, commands
from saju_ops.schema.migrate.run import Options
from saju_ops.schema.migrate.session import session
from saju_ops.schema.tables import chatbot
from saju_ops_tests.schema.scene import (
    D2,
    HERE,
    MAIN,
    TABLES,
    address,
    connected,
    down,
    recorded,
    run,
    tables,
    up,
    versions,
)


@pytest.fixture
def no_dump_needed(monkeypatch: pytest.MonkeyPatch) -> Options:
    """For what is not about the dump."""
    monkeypatch.setattr("saju_ops.schema.migrate.commands.require_dump", lambda *_: "")
    return Options()


@pytest.mark.long
def test_from_nothing_up_makes_every_table_with_its_composite_indexes(database_url: str) -> None:
    result = up(database_url)
    assert result.changed == MAIN
    assert tables(database_url) == TABLES | {"alembic_version"}
    assert versions(database_url) == MAIN[-1:]
    assert recorded(database_url) == MAIN
    with session(address(database_url)) as connection:
        for table, columns in D2.items():
            assert columns in {shape.columns for shape in catalogue.indexes(connection, table).values()}, table


@pytest.mark.long
def test_the_models_with_the_composite_indexes_are_what_the_migrations_make(
    database_url: str, request: pytest.FixtureRequest
) -> None:
    up(database_url)
    names = sorted(TABLES)
    with session(address(database_url)) as connection:
        migrated = catalogue.read(connection, names)
    run(database_url, *(f"DROP TABLE {table.name}" for table in reversed(chatbot.sorted_tables)))
    with connected(database_url) as connection:
        chatbot.create_all(connection)
    run(database_url, *(f"CREATE INDEX d2_{t} ON {t} ({', '.join(c)})" for t, c in D2.items()))
    with session(address(database_url)) as connection:
        created = catalogue.read(connection, names)

    def shapes(found: dict[str, catalogue.TableShape]) -> dict[str, object]:
        return {n: (t.columns, t.primary, set(t.indexes.values()), t.keys, t.engine) for n, t in found.items()}

    assert shapes(created) == shapes(migrated)


@pytest.mark.long
def test_down_to_nothing_and_up_again_works_as_the_first_time(database_url: str, no_dump_needed: Options) -> None:
    up(database_url)
    assert down(database_url, options=no_dump_needed).changed == [*reversed(MAIN)]
    assert tables(database_url) == {"alembic_version"}
    assert versions(database_url) == []
    assert up(database_url).changed == MAIN
    assert recorded(database_url) == MAIN


@pytest.mark.long
def test_one_down_takes_back_the_last_migration_alone(database_url: str) -> None:
    up(database_url)
    assert down(database_url, "-1").changed == ["0002_indexes"]
    assert recorded(database_url) == ["0001_tables"] == versions(database_url)


@pytest.mark.long
def test_up_again_has_nothing_to_do(database_url: str) -> None:
    up(database_url)
    assert up(database_url).changed == []


def test_the_sql_of_a_migration_is_written_without_a_database_and_makes_the_same(
    database_url: str,
) -> None:
    text = commands.sql(address(database_url), HERE)
    assert tables(database_url) == set()
    statements = [s for s in (part.strip() for part in text.split(";\n")) if s]
    backend = sa.make_url(database_url).get_backend_name()
    # BEGIN and COMMIT are the client's own here.
    run(database_url, *(s for s in statements if s not in ("BEGIN", "COMMIT")))
    assert tables(database_url) == TABLES | {"alembic_version"}, backend
    assert (versions(database_url), recorded(database_url)) == (MAIN[-1:], MAIN)
    assert up(database_url).changed == []


def test_a_dry_run_prints_the_sql_and_changes_nothing(database_url: str) -> None:
    result = up(database_url, dry_run=True)
    assert "CREATE TABLE" in result.plan.sql()
    assert "conversation_logs" in result.plan.sql()
    assert result.changed == []
    assert tables(database_url) == set()


def test_the_log_table_has_the_name_of_this_installation(database_url: str) -> None:
    from dataclasses import replace

    commands.up(address(database_url), replace(HERE, log_table="conversation_log"))
    assert "conversation_log" in tables(database_url)
    assert "conversation_logs" not in tables(database_url)
