"""Tables, columns, keys and indexes whose names are words of SQL, and global settings of a server that change what a
statement does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import SQLITE_KEYWORDS, connect
from saju_ops_tests.archive.scene import DAY, Scene, family
from saju_ops_tests.engines import MariaDB, MySQL

MYSQL_WORDS = sa.text("SELECT LOWER(WORD) FROM information_schema.KEYWORDS")
POSTGRES_WORDS = sa.text("SELECT word FROM pg_get_keywords()")
WHEN = {"mysql": "timestamp", "postgresql": "timestamptz", "sqlite": "text"}

# Columns in one table.
COLUMNS = {"mysql": 200, "postgresql": 40, "sqlite": 200}


def words_of(url: str) -> list[str]:
    """The server's own list of its words; SQLite has none that can be asked for."""
    if url.startswith("sqlite"):
        return sorted(SQLITE_KEYWORDS)
    with connect(url).connect() as connection:
        query = POSTGRES_WORDS if url.startswith("postgresql") else MYSQL_WORDS
        # MariaDB lists operators, too.
        words = {str(word) for word in connection.execute(query).scalars()}
    return sorted(word for word in words if re.fullmatch("[a-z_][a-z_0-9]*", word) and word != "created_at")


def quoted(scene: Scene, name: str) -> str:
    return scene.engine.dialect.identifier_preparer.quote_identifier(name)


@pytest.mark.long
def test_each_word_of_the_server_may_be_a_column(database_url: str, tmp_path: Path) -> None:
    """Archived, purged and restored, both into the table itself and into a new one."""
    words = words_of(database_url)
    assert len(words) > 140
    most = COLUMNS[family(database_url)]
    for number, start in enumerate(range(0, len(words), most)):
        some = words[start : start + most]
        scene = Scene(database_url, tmp_path / f"backups{number}", table=f"log{number}")
        columns = ", ".join(f"{quoted(scene, word)} varchar(3)" for word in some)
        key = quoted(scene, some[0])
        scene.run(
            f"CREATE TABLE {scene.name} ({columns}, created_at {WHEN[scene.family]} NOT NULL)".replace(
                f"{key} varchar(3)", f"{key} varchar(3) PRIMARY KEY"
            )
        )
        scene.insert([dict.fromkeys(some, f"{i}") | {"created_at": scene.time(DAY.start)} for i in range(3)])
        original = scene.state()
        assert scene.archive().rows == 3
        assert scene.purge().deleted == 3
        assert scene.restore().written == 3
        assert scene.state() == original
        assert scene.restore(table="another").written == 3
        assert scene.state("another") == original
        scene.run("DROP TABLE another")


RESERVED = {
    "mysql": ["library", "external", "tablesample", "manual", "qualify", "cube", "rank", "lateral", "of"],
    "mariadb": ["portion", "offset", "except", "rows", "value"],
    "postgres": ["collation", "lateral", "concurrently", "tablesample", "authorization", "user", "ilike"],
    "sqlite": ["returning", "nothing", "materialized", "always", "order", "index"],
}


@pytest.mark.long
@pytest.mark.parametrize(("engine", "word"), [(e, word) for e, words in RESERVED.items() for word in words])
def test_a_table_its_key_and_its_indexes_may_bear_a_reserved_word(
    engine: str, word: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", table=word)
    name = quoted(scene, word)
    index = f", KEY {name} (created_at)" if scene.family == "mysql" else ""
    kind = "bigint" if scene.family != "sqlite" else "integer"
    scene.run(
        f"CREATE TABLE {name} ({name} {kind} PRIMARY KEY, created_at {WHEN[scene.family]} NOT NULL{index})",
        f"CREATE TABLE feedback (id int PRIMARY KEY, {name} {kind}, FOREIGN KEY ({name}) REFERENCES {name} ({name}))",
    )
    if not index:
        scene.run(f"CREATE INDEX {quoted(scene, word + '_')} ON {name} (created_at)")
    scene.insert([{word: i, "created_at": scene.time(DAY.start)} for i in range(1, 6)])
    scene.run("INSERT INTO feedback VALUES (1, 2)")
    original = scene.state()
    scene.archive()
    assert dict(scene.purge().kept_referenced) == {"feedback": 1}
    assert scene.count() == 1
    assert scene.restore().written == 4
    assert scene.state() == original


OPTIONS = ["sql_select_limit=16", "sql_safe_updates=1", "foreign_key_checks=0", "completion_type=1", "unique_checks=0"]


@pytest.mark.long
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("server", [MySQL, MariaDB])
def test_what_is_set_for_the_whole_server_neither_cuts_nor_hinders_a_purge(
    server: type[MySQL | MariaDB], option: str, tmp_path: Path
) -> None:
    with server() as running, running.database() as url:
        scene = Scene(url, tmp_path / "backups").create_table()
        scene.add(40)
        scene.run("CREATE TABLE feedback (log_id bigint, FOREIGN KEY (log_id) REFERENCES conversation_logs (log_id))")
        scene.run("INSERT INTO feedback VALUES (20)")
        scene.run(f"SET GLOBAL {option}")
        assert scene.archive().rows == 40
        result = scene.purge()
        assert (result.deleted, dict(result.kept_referenced)) == (39, {"feedback": 1})
        scene.run(f"SET SESSION {option.split('=')[0]} = DEFAULT")
        assert scene.restore().written == 39
        assert scene.count() == 40
