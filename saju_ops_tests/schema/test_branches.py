"""Opt-in migrations: left out without their label, applied and taken back alone, and no hindrance to the main line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from saju_ops.schema.migrate import scripts
from saju_ops_tests.schema.scene import MAIN, down, recorded, tables, up

REVISION = '''"""Makes {table}."""
from saju_ops.schema.migrate.steps import Step

revision = "{name}"
{more}


class Make(Step):
    title = makes = "{table}"

    def is_done(self, connection):
        from saju_ops.schema.migrate import catalogue
        return catalogue.exists(connection, "{table}")

    def up_sql(self, dialect):
        return ["CREATE TABLE {table} (id int)"]

    def down_sql(self, dialect):
        return ["DROP TABLE {table}"]


def steps(installation):
    return [Make()]


def upgrade(run):
    run.up(steps(run.installation))


def downgrade(run):
    run.down(steps(run.installation))
'''
Add = Callable[[str, str, str], None]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Puts one more migration beside the two of the main line."""
    from alembic.script import ScriptDirectory

    package = Path(scripts.__file__).parent
    (tmp_path / "graph" / "versions").mkdir(parents=True)
    for name in ("v0001_tables.py", "v0002_indexes.py"):
        shutil.copy(package / "versions" / name, tmp_path / "graph" / "versions")

    def added(name: str, table: str, more: str) -> None:
        text = REVISION.format(name=name, table=table, more=more)
        (tmp_path / "graph" / "versions" / f"v{name}.py").write_text(text)
        graph = ScriptDirectory(str(tmp_path / "graph"))
        monkeypatch.setattr(scripts, "directory", lambda: graph)

    return added


OPT_IN = 'down_revision = None\nbranch_labels = ("extra",)\ndepends_on = "0002_indexes"'


@pytest.mark.long
def test_an_opt_in_migration_is_applied_and_taken_back_by_its_label_alone(database_url: str, add: Add) -> None:
    add("0100_extra", "extras", OPT_IN)
    assert up(database_url).changed == MAIN
    assert up(database_url, "extra@head").changed == ["0100_extra"]
    assert recorded(database_url) == [*MAIN, "0100_extra"]
    assert up(database_url).changed == []
    assert down(database_url, "extra@base").changed == ["0100_extra"]
    assert recorded(database_url) == MAIN
    assert "extras" not in tables(database_url)
    assert up(database_url, "extra@head").changed == ["0100_extra"]


def test_an_opt_in_migration_brings_what_it_rests_on(sqlite_url: str, add: Add) -> None:
    add("0100_extra", "extras", OPT_IN)
    assert up(sqlite_url, "extra@head").changed == [*MAIN, "0100_extra"]


def test_the_main_line_continues_beside_an_opt_in_migration(sqlite_url: str, add: Add) -> None:
    add("0100_extra", "extras", OPT_IN)
    up(sqlite_url, "extra@head")
    add("0003_more", "more", 'down_revision = "0002_indexes"')
    assert up(sqlite_url).changed == ["0003_more"]
    assert recorded(sqlite_url) == [*MAIN, "0003_more", "0100_extra"]
    assert down(sqlite_url, "extra@base").changed == ["0100_extra"]
    assert recorded(sqlite_url) == [*MAIN, "0003_more"]
    assert up(sqlite_url).changed == []


def test_taking_back_what_an_opt_in_migration_rests_on_takes_it_back_first(
    sqlite_url: str, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saju_ops.schema.migrate.commands.require_dump", lambda *_: "")
    add("0100_extra", "extras", OPT_IN)
    up(sqlite_url, "extra@head")
    assert down(sqlite_url, "base").changed == ["0100_extra", *reversed(MAIN)]
    assert tables(sqlite_url) == {"alembic_version"}
