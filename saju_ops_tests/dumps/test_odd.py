"""What a server holds and takes from no dump of its own: all else is dumped and proven, and it is named."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.dumps.drill import drill_stored
from saju_ops.dumps.engine import DumpSpoilt
from saju_ops.dumps.mysql import engine as dump_mysql
from saju_ops.dumps.mysql import taking
from saju_ops.dumps.postgres import engine as dump_postgres
from saju_ops.errors import OperatorError
from saju_ops.upkeep.drills import dump_drills
from saju_ops_tests.dumps.scene import AT_THREE, Dumps, everything, oracle
from saju_ops_tests.engines import Engine

__all__ = ["oracle"]
BACK = "test_brought_back"
UPPER = [
    "CREATE FUNCTION shout(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'select upper(v)'",
    "CREATE FUNCTION loud(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'begin return shout(v); end'",
    "CREATE FUNCTION plain(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'select shout(v)'",
]


def run_sql(url: str, *statements: str) -> None:
    with sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def asked(url: str, statement: str) -> list[Any]:
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement.replace("%", "%%"))]


@contextmanager
def brought_back(dumps: Dumps, url: str) -> Iterator[str]:
    """The address of a database that the dump was restored into, which compares it by itself."""
    into = sa.make_url(url).set(database=BACK).render_as_string(hide_password=False)
    try:
        dumps.restore(into)
        yield into
    finally:
        run_sql(url, f"DROP DATABASE IF EXISTS {BACK}" + (" WITH (FORCE)" if "postgres" in url else ""))


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> str:
    if request.param == "mysql":
        request.getfixturevalue("oracle")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


both_servers = pytest.mark.parametrize("server_url", ["mysql", "mariadb"], indirect=True)
mysql_only = pytest.mark.parametrize("server_url", ["mysql"], indirect=True)
mariadb_only = pytest.mark.parametrize("server_url", ["mariadb"], indirect=True)

# --- PostgreSQL --------------------------------------------------------------------------------------------------


def test_an_index_that_was_never_finished_is_named_and_all_else_proven(postgres_url: str, tmp_path: Path) -> None:
    run_sql(postgres_url, "CREATE TABLE notes (id int)", "INSERT INTO notes VALUES (1), (1)")
    with pytest.raises(sa.exc.DBAPIError):
        run_sql(postgres_url, "CREATE UNIQUE INDEX CONCURRENTLY half ON notes (id)")
    result = Dumps(postgres_url, tmp_path).take()
    assert result.proven
    assert "public.half" in result.message
    assert any("public.half" in note for note in result.manifest.contents["notes"])


def test_columns_that_a_parent_got_later_come_back(postgres_url: str, tmp_path: Path) -> None:
    """A child has them last; once it is restored, among its parent's."""
    run_sql(
        postgres_url,
        "CREATE TABLE base (id int, word text)",
        "CREATE TABLE child (extra int) INHERITS (base)",
        "CREATE TABLE grandchild (own int) INHERITS (child)",
        'ALTER TABLE base ADD COLUMN "la""te" int DEFAULT 7',
        "INSERT INTO child VALUES (1, 'a', 2, 3)",
        "INSERT INTO grandchild VALUES (1, 'a', 2, 3, 4)",
    )
    dumps = Dumps(postgres_url, tmp_path)
    assert dumps.take().proven
    with brought_back(dumps, postgres_url) as back:
        assert asked(back, 'SELECT id, word, extra, own, "la""te" FROM grandchild') == [(1, "a", 2, 3, 4)]


def test_a_childs_row_that_changes_on_the_way_is_found_although_its_columns_are_in_another_order(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(
        postgres_url, "CREATE TABLE base (id int)", "CREATE TABLE child (extra int) INHERITS (base)",
        "ALTER TABLE base ADD COLUMN late text", "INSERT INTO child VALUES (1, 2, 'right')",
    )  # fmt: skip
    original = dump_postgres.PostgresTaking.chunks
    monkeypatch.setattr(
        dump_postgres.PostgresTaking, "chunks", lambda self: (c.replace(b"right", b"wrong") for c in original(self))
    )
    with pytest.raises(OperatorError, match="another checksum"):
        Dumps(postgres_url, tmp_path).take()


@pytest.mark.long
@pytest.mark.parametrize(
    "uses",
    [
        ["CREATE TABLE t (v text)", "CREATE INDEX loudly ON t (loud(v))", "CREATE INDEX plainly ON t (plain(v))"],
        ["CREATE TABLE t (v text, big text GENERATED ALWAYS AS (loud(v)) STORED, other text DEFAULT loud('x'))"],
        ["CREATE TABLE t (v text CHECK (loud(v) <> ''), EXCLUDE USING btree (loud(v) WITH =))"],
        ["CREATE DOMAIN word AS text CHECK (loud(VALUE) <> '')", "CREATE TABLE t (v word)"],
        ["CREATE TABLE t (v text)", "CREATE MATERIALIZED VIEW seen AS SELECT loud(v) AS big FROM t",
         "CREATE UNIQUE INDEX ON seen (big)", "CREATE MATERIALIZED VIEW again AS SELECT * FROM seen"],
        ["CREATE TABLE p (v text, CHECK (loud(v) <> '')) PARTITION BY LIST (v)",
         "CREATE TABLE t PARTITION OF p FOR VALUES IN ('a', 'b')"],
    ],
    ids=["indexes", "columns", "constraints", "domain", "materialized views", "partition"],
)  # fmt: skip
def test_what_uses_a_function_that_names_things_without_a_schema_comes_back(
    uses: list[str], postgres_url: str, tmp_path: Path
) -> None:
    run_sql(postgres_url, *UPPER, *uses, "INSERT INTO t (v) VALUES ('a'), ('b')")
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    with brought_back(dumps, postgres_url) as back:
        assert everything(back) == everything(postgres_url)
        count = "SELECT count(*), sum(length(pg_get_indexdef(indexrelid))) FROM pg_index WHERE indrelid >= 16384"
        assert asked(back, count) == asked(postgres_url, count)


@pytest.mark.long
def test_a_check_that_reads_another_table_comes_back(postgres_url: str, tmp_path: Path) -> None:
    run_sql(
        postgres_url,
        "CREATE TABLE a (id int)",
        "CREATE TABLE z (id int)",
        "INSERT INTO z VALUES (1)",
        "CREATE FUNCTION known(i int) RETURNS bool LANGUAGE plpgsql AS"
        " 'begin return exists (select 1 from public.z where id = i); end'",
        "ALTER TABLE a ADD CONSTRAINT is_known CHECK (known(id))",
        "COMMENT ON CONSTRAINT is_known ON a IS 'kept'",
        "INSERT INTO a VALUES (1)",
    )
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert "is_known" in result.message
    with brought_back(dumps, postgres_url) as back:
        assert everything(back) == everything(postgres_url)
        assert asked(
            back, "SELECT convalidated, obj_description(oid) FROM pg_constraint WHERE conname = 'is_known'"
        ) == [(True, "kept")]
        with pytest.raises(sa.exc.DBAPIError, match="is_known"):
            run_sql(back, "INSERT INTO a VALUES (2)")


def test_constraints_that_rows_break_come_back_for_new_rows_and_are_named(postgres_url: str, tmp_path: Path) -> None:
    run_sql(
        postgres_url,
        "CREATE FUNCTION fits(i int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'select true'",
        "CREATE TABLE a (id int PRIMARY KEY CONSTRAINT fitting CHECK (fits(id)))",
        "CREATE TABLE b (a_id int CONSTRAINT of_a REFERENCES a)",
        "INSERT INTO a VALUES (1), (2)",
        "INSERT INTO b VALUES (1), (2)",
        "CREATE OR REPLACE FUNCTION fits(i int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'select false'",
        "SET session_replication_role = replica",
        "DELETE FROM a WHERE id = 2",
    )
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert "fitting" in result.message
    assert "of_a" in result.message
    assert "of_a" in " ".join(result.manifest.proof["left_out"])
    with brought_back(dumps, postgres_url) as back:
        assert everything(back) == everything(postgres_url)


def test_an_index_that_no_server_can_build_any_more_is_left_out_and_named(postgres_url: str, tmp_path: Path) -> None:
    run_sql(
        postgres_url,
        *UPPER,
        "CREATE TABLE t (v text)",
        "INSERT INTO t VALUES ('a')",
        "CREATE UNIQUE INDEX broken ON t (loud(v))",
        "COMMENT ON INDEX broken IS 'once'",
        "CREATE OR REPLACE FUNCTION loud(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
        " 'begin raise exception ''no''; end'",
    )
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert "public.broken" in result.message
    with brought_back(dumps, postgres_url) as back:
        assert asked(back, "SELECT v FROM t") == [("a",)]
    assert dumps.restore(sa.make_url(postgres_url).render_as_string(hide_password=False), dry_run=True)


@pytest.mark.long
@pytest.mark.parametrize("damage", [(b"PRIMARY KEY (id)", b"PRIMARY KEY (iX)"), (b"p_pkey PRIMARY", b"p_pkey PRIMARX")])
def test_a_key_that_was_damaged_on_the_way_is_not_left_out_as_one_that_no_server_makes(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: tuple[bytes, bytes]
) -> None:
    run_sql(postgres_url, "CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)")
    taken = dump_postgres.PostgresTaking.chunks

    def damaged(taking: dump_postgres.PostgresTaking) -> Iterator[bytes]:
        yield b"".join(taken(taking)).replace(*damage)

    monkeypatch.setattr(dump_postgres.PostgresTaking, "chunks", damaged)
    result = Dumps(postgres_url, tmp_path).take()
    assert not result.proven, result.message


@pytest.mark.long
def test_a_name_that_holds_a_line_end_forges_no_line(postgres_url: str, tmp_path: Path) -> None:
    run_sql(
        postgres_url,
        *UPPER,
        "CREATE TABLE t (v text)",
        "INSERT INTO t VALUES ('a')",
        'CREATE INDEX "x\nDone: all is well" ON t (loud(v))',
        "CREATE OR REPLACE FUNCTION loud(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
        " 'begin raise exception ''no''; end'",
    )
    dumps = Dumps(postgres_url, tmp_path)
    taken = dumps.take()
    with brought_back(dumps, postgres_url) as back:
        restored = dumps.restore(back, replace=sa.make_url(back).database)
    drilled = dump_drills(dumps.storage, [dumps.url], [], now=datetime.now(UTC))
    for text in (taken.message, *restored.left_out, *(each.text for each in drilled)):
        assert text.isprintable()
        assert "x\\nDone" in text


def test_what_a_server_takes_from_nobody_leaves_an_unproven_dump(postgres_url: str, tmp_path: Path) -> None:
    """Nothing in its place would be the wrong answer."""
    run_sql(
        postgres_url,
        "CREATE FUNCTION fits(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'select i'",
        "CREATE TABLE t (id int, one int GENERATED ALWAYS AS (fits(id)) STORED)",
        "INSERT INTO t VALUES (1)",
        "CREATE OR REPLACE FUNCTION fits(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'select i / 0'",
    )
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert not result.proven
    assert "division by zero" in result.message
    assert result.manifest.file in dumps.names()


def test_a_dump_behind_a_lock_says_so(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sql(postgres_url, "CREATE TABLE t (id int)")
    monkeypatch.setattr(
        dump_postgres, "DUMP", tuple(a.replace("timeout=30s", "timeout=1s") for a in dump_postgres.DUMP)
    )
    with sa.create_engine(postgres_url).connect() as other:
        other.exec_driver_sql("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DumpSpoilt, match=r"Another session holds a lock .* launch the dump again"):
            Dumps(postgres_url, tmp_path).take(tries=1)


# --- MySQL and MariaDB -------------------------------------------------------------------------------------------


@pytest.mark.long
@both_servers
def test_events_whose_time_has_passed_are_named_and_all_else_proven(server_url: str, tmp_path: Path) -> None:
    run_sql(
        server_url,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "SET TIMESTAMP = 1767225600",
        "CREATE EVENT once ON SCHEDULE AT '2026-06-01 00:00:00' DISABLE DO DELETE FROM t WHERE id < 0",
        "CREATE EVENT kept ON SCHEDULE AT '2026-06-01 00:00:00' ON COMPLETION PRESERVE DISABLE DO DELETE FROM t",
        "CREATE EVENT passed ON SCHEDULE EVERY 1 DAY STARTS '2026-02-01' ENDS '2026-06-01' DISABLE DO DELETE FROM t",
    )
    dumps = Dumps(server_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert "once, passed" in result.message
    again = drill_stored(dumps.storage, result.manifest, dumps.url, (), AT_THREE)
    assert again.proven, again
    with brought_back(dumps, server_url) as back:
        assert [name for (name,) in asked(back, "SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA ="
                                          " DATABASE()")] == ["kept"]  # fmt: skip


LONG = ", ".join(f"c{n} char(250)" for n in range(40))


@pytest.mark.long
@pytest.mark.parametrize(
    ("server_url", "statements", "named"),
    [
        ("mysql", ["SET SESSION restrict_fk_on_non_standard_key = OFF",
                   "CREATE TABLE p (id int PRIMARY KEY, k int, KEY (k))",
                   "CREATE TABLE c (id int PRIMARY KEY, k int, FOREIGN KEY (k) REFERENCES p (k))",
                   "INSERT INTO p VALUES (1, 5), (2, 5)", "INSERT INTO c VALUES (1, 5)"],
         "restrict_fk_on_non_standard_key"),
        *((server, ["SET SESSION innodb_strict_mode = 0, sql_mode = ''",
                    f"CREATE TABLE wide (id int PRIMARY KEY, {LONG}) CHARSET latin1 ROW_FORMAT=DYNAMIC",
                    "INSERT INTO wide (id) VALUES (1)"], "innodb_strict_mode") for server in ("mysql", "mariadb")),
        ("mariadb", ["SET SESSION innodb_strict_mode = 0",
                     "CREATE TABLE odd (id int PRIMARY KEY) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=7",
                     "INSERT INTO odd VALUES (1)"], "odd"),
        ("mariadb", ["CREATE TABLE old (id int)", "INSERT INTO old VALUES (-1)",
                     "SET SESSION check_constraint_checks = 0", "ALTER TABLE old ADD CHECK (id > 0)"], "old"),
        # This engine keeps the first two rows of a refused statement.
        ("mariadb", ["CREATE TABLE old (id int) ENGINE=Aria", "INSERT INTO old VALUES (1), (2), (-1), (3)",
                     "SET SESSION check_constraint_checks = 0", "ALTER TABLE old ADD CHECK (id > 0)"], "old"),
    ],
    indirect=["server_url"],
    ids=["foreign key", "mysql rows", "mariadb rows", "row format", "old rows", "old rows of Aria"],
)  # fmt: skip
def test_tables_that_a_server_holds_and_would_not_make_come_back_and_are_named(
    server_url: str, statements: list[str], named: str, tmp_path: Path
) -> None:
    run_sql(server_url, *statements)
    dumps = Dumps(server_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert named in result.message
    assert named in " ".join(result.manifest.proof["left_out"])
    with brought_back(dumps, server_url) as back:
        assert everything(back) == everything(server_url)


@mysql_only
def test_without_the_right_to_make_such_a_table_the_dump_is_kept_and_says_which(
    server_url: str, mysql_server: Engine, tmp_path: Path
) -> None:
    run_sql(
        server_url,
        "SET SESSION innodb_strict_mode = 0, sql_mode = ''",
        f"CREATE TABLE wide (id int PRIMARY KEY, {LONG}) CHARSET latin1",
    )
    database = sa.make_url(server_url).database
    mysql_server.execute(
        "CREATE USER little@'%' IDENTIFIED BY 'a-Long-one1'",
        f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON {database}.* TO little@'%'",
        "GRANT SHOW_ROUTINE, CREATE USER ON *.* TO little@'%'",
        r"GRANT ALL ON `saju\_ops\_drill\_%`.* TO little@'%' WITH GRANT OPTION",
    )
    try:
        url = sa.make_url(server_url).set(username="little", password="a-Long-one1")
        result = Dumps(url.render_as_string(hide_password=False), tmp_path).take()
        assert not result.proven
        assert "SESSION_VARIABLES_ADMIN" in result.message
    finally:
        mysql_server.execute("DROP USER little@'%'")


@pytest.mark.long
@mysql_only
def test_json_that_text_cannot_say_is_compared_as_json_compares(server_url: str, tmp_path: Path) -> None:
    run_sql(
        server_url,
        "CREATE TABLE users (id int PRIMARY KEY, preferences json, times json, plain json)",
        "INSERT INTO users VALUES (1, JSON_SET('{}', '$.x', 1.10), JSON_OBJECT('at', CAST('2026-01-01 00:00:00' AS"
        " DATETIME)), '{\"a\": [1, 2.5]}')",
        "CREATE TABLE costs (id int PRIMARY KEY, cost json, ratio float)",
        "INSERT INTO costs VALUES (1, JSON_OBJECT('sum', 12345678901234567890.123456789012), 16777216)",
    )
    dumps = Dumps(server_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    (about_users, about_costs) = sorted((n for n in result.contents.notes if "JSON" in n), reverse=True)
    assert about_users.endswith(": users.times")
    assert about_costs.endswith(": costs.cost")
    with brought_back(dumps, server_url) as back:
        assert asked(back, "SELECT preferences->>'$.x' + 0e0, times->>'$.at' FROM users") == [
            (1.1, "2026-01-01 00:00:00.000000")
        ]


@pytest.mark.long
@mysql_only
def test_json_that_changes_on_the_way_is_found(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(
        server_url, "CREATE TABLE users (id int PRIMARY KEY, preferences json)",
        "INSERT INTO users VALUES (1, JSON_SET('{}', '$.x', 1.10))",
    )  # fmt: skip
    original = dump_mysql.MySQLTaking.chunks
    monkeypatch.setattr(
        dump_mysql.MySQLTaking, "chunks", lambda self: (c.replace(b": 1.10", b": 1.11") for c in original(self))
    )
    with pytest.raises(OperatorError, match="another checksum"):
        Dumps(server_url, tmp_path).take()


@pytest.mark.long
@both_servers
def test_an_event_with_two_semicolons_in_its_text_comes_back(server_url: str, tmp_path: Path) -> None:
    """At which the dump programs spin for ever."""
    run_sql(
        server_url,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "SET SESSION time_zone = '+09:00'",
        "CREATE EVENT `se;;mi` ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO INSERT INTO t VALUES (LENGTH('한;;\nb'))",
        "CREATE EVENT plain ON SCHEDULE EVERY 2 HOUR STARTS '2037-01-01' DO BEGIN DELETE FROM t; SELECT 1; END",
    )
    dumps = Dumps(server_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    listed = "SELECT EVENT_NAME, EVENT_DEFINITION, STARTS, TIME_ZONE, SQL_MODE FROM information_schema.EVENTS WHERE"
    with brought_back(dumps, server_url) as back:
        assert asked(back, f"{listed} EVENT_SCHEMA = DATABASE() ORDER BY 1") == asked(
            server_url, f"{listed} EVENT_SCHEMA = DATABASE() ORDER BY 1"
        )


@pytest.mark.long
@both_servers
def test_a_delimiter_at_a_lines_end_inside_of_a_text_ends_no_routine(server_url: str, tmp_path: Path) -> None:
    run_sql(server_url, "CREATE PROCEDURE saying() SELECT 'a;;\nb' AS x", "CREATE VIEW said AS SELECT 'a;\nb' AS x")
    dumps = Dumps(server_url, tmp_path)
    assert dumps.take().proven
    with brought_back(dumps, server_url) as back:
        assert asked(back, "CALL saying()") == [("a;;\nb",)]


@pytest.mark.long
@mysql_only
def test_a_servers_limit_for_statements_does_not_end_a_dump(
    server_url: str, mysql_server: Engine, tmp_path: Path
) -> None:
    run_sql(
        server_url,
        "CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, v varchar(200))",
        "INSERT INTO t (v) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
        " SELECT REPEAT('x', 200) FROM n",
        *["INSERT INTO t (v) SELECT v FROM t"] * 6,
    )
    mysql_server.execute("SET GLOBAL max_execution_time = 1")
    try:
        assert Dumps(server_url, tmp_path).take().proven
    finally:
        mysql_server.execute("SET GLOBAL max_execution_time = 0")


@pytest.mark.long
@both_servers
def test_a_dump_waits_for_another_sessions_lock_no_longer_than_it_may(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(server_url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    monkeypatch.setattr(taking, "LOCK_PATIENCE", 2)
    with sa.create_engine(server_url, poolclass=sa.NullPool).connect() as other:
        other.exec_driver_sql("LOCK TABLES t WRITE")
        began = time.monotonic()
        with pytest.raises(OperatorError, match=r"Another session holds a lock .* launch the dump again"):
            Dumps(server_url, tmp_path).take()
        assert time.monotonic() - began < 60


def test_a_dump_program_that_spins_is_ended_and_says_so(
    mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(mariadb_url, "CREATE TABLE t (id int PRIMARY KEY)")
    fake = tmp_path / "programs" / "mariadb-dump"
    fake.parent.mkdir()
    known = '*--version*) echo "Distrib 10.11-MariaDB";; *--help*) ;;'
    fake.write_text(f'#!/bin/sh\ncase "$*" in {known} *) while :; do sleep 1; done;; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    monkeypatch.setattr(taking, "LOCK_PATIENCE", 1)
    dumps = Dumps(mariadb_url, tmp_path)
    with pytest.raises(OperatorError, match=r"has written nothing for .* Nothing was kept"):
        dumps.take()
    assert dumps.files() == []


@pytest.mark.long
@mysql_only
def test_a_server_that_requires_primary_keys_proves_dumps(
    server_url: str, mysql_server: Engine, tmp_path: Path
) -> None:
    run_sql(server_url, "CREATE TABLE keyless (id int)", "CREATE VIEW seen AS SELECT id FROM keyless")
    mysql_server.execute("SET GLOBAL sql_require_primary_key = ON")
    try:
        result = Dumps(server_url, tmp_path).take()
        assert result.proven, result.message
        assert "keyless" in result.message
    finally:
        mysql_server.execute("SET GLOBAL sql_require_primary_key = OFF")


@pytest.mark.long
def test_a_mariadb_server_that_forces_primary_keys_proves_dumps(
    mariadb_url: str, mariadb_server: Engine, tmp_path: Path
) -> None:
    run_sql(mariadb_url, "CREATE TABLE keyed (id int PRIMARY KEY)", "INSERT INTO keyed VALUES (1)")
    mariadb_server.execute("SET GLOBAL innodb_force_primary_key = ON")
    try:
        result = Dumps(mariadb_url, tmp_path).take()
        assert result.proven, result.message
        run_sql(mariadb_url, "SET GLOBAL innodb_force_primary_key = OFF", "CREATE TABLE keyless (id int)",
                "SET GLOBAL innodb_force_primary_key = ON")  # fmt: skip
        again = Dumps(mariadb_url, tmp_path).take()
        assert not again.proven
        assert "innodb_force_primary_key" in again.message
    finally:
        mariadb_server.execute("SET GLOBAL innodb_force_primary_key = OFF")


# --- SQLite ------------------------------------------------------------------------------------------------------


def test_a_damaged_index_is_said_to_be_the_live_databases_and_the_dump_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as live:
        live.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        live.execute("CREATE INDEX by_v ON t (v)")
        live.execute("INSERT INTO t (v) VALUES ('a'), ('b')")
        # The index forgets its rows: it is made to begin where an empty one does.
        live.execute("CREATE TABLE empty (v TEXT)")
        live.execute("CREATE INDEX vacant ON empty (v)")
        live.execute("PRAGMA writable_schema = ON")
        page = live.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'vacant'").fetchone()[0]
        live.execute("DELETE FROM sqlite_schema WHERE name = 'vacant'")
        live.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = 'by_v'", (page,))
    dumps = Dumps(f"sqlite:///{path}", tmp_path)
    result = dumps.take()
    assert not result.proven
    assert "The live database itself is damaged" in result.message
    assert "REINDEX" in result.message
    assert result.manifest.file in dumps.names()
