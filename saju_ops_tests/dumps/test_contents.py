"""What a dump holds of a database beside its plain tables and rows, and what of it a restore brings back."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.dumps.contents import Contents
from saju_ops.dumps.mysql import taking
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.programs import ProgramFailed
from saju_ops.dumps.take import dump_databases
from saju_ops.errors import ProofFailed, Refused
from saju_ops.storage.manifest import read_manifest
from saju_ops_tests.dumps.scene import Dumps, options, oracle
from saju_ops_tests.engines import Engine

__all__ = ["oracle"]


def run_sql(url: str, *statements: str) -> None:
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def asked(url: str, statement: str) -> list[tuple[object, ...]]:
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement.replace("%", "%%"))]


# --- PostgreSQL ------------------------------------------------------------------------------------------------

PUBLIC = "SELECT nspacl::text, nspowner::regrole::text FROM pg_namespace WHERE nspname = 'public'"


@pytest.fixture
def service(postgres_server: Engine, postgres_url: str) -> Iterator[str]:
    """The address of a role that owns the database and is nobody special."""
    database = sa.make_url(postgres_url).database
    postgres_server.execute(
        "CREATE ROLE service_owner LOGIN CREATEDB CREATEROLE PASSWORD 'long enough'",
        "CREATE ROLE reader LOGIN PASSWORD 'long too'",
        f'ALTER DATABASE "{database}" OWNER TO service_owner',
    )  # fmt: skip
    yield login(postgres_url, "service_owner", "long enough")
    for role in ("service_owner", "reader"):
        run_sql(postgres_url, f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP OWNED BY {role}")
        postgres_server.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP ROLE {role}")


def login(url: str, user: str, password: str) -> str:
    return sa.make_url(url).set(username=user, password=password).render_as_string(hide_password=False)


@pytest.mark.long
def test_after_a_replacing_restore_the_service_still_gets_at_its_tables(
    postgres_url: str, service: str, tmp_path: Path
) -> None:
    run_sql(postgres_url, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)", "GRANT SELECT ON kept TO reader")
    run_sql(postgres_url, "CREATE PUBLICATION every_change FOR ALL TABLES")
    dumps = Dumps(postgres_url, tmp_path)
    assert dumps.take().proven
    rights = asked(postgres_url, PUBLIC)
    dumps.restore(replace=sa.make_url(postgres_url).database)
    assert asked(login(postgres_url, "reader", "long too"), "SELECT * FROM kept") == [(7,)]
    assert asked(postgres_url, PUBLIC) == rights


def test_the_databases_own_settings_come_back(postgres_server: Engine, postgres_url: str, tmp_path: Path) -> None:
    name = sa.make_url(postgres_url).database
    settings = (
        "timezone TO 'Asia/Seoul'", 'search_path TO "$user", app, "od,d"', "app.token TO 'a%b''c\\d'",
        "temp_tablespaces TO ''",
    )  # fmt: skip
    run_sql(postgres_url, "CREATE SCHEMA app", "CREATE TABLE app.a (id int)")
    postgres_server.execute(*(f'ALTER DATABASE "{name}" SET {setting}' for setting in settings))
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    kept = "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
    there = asked(postgres_url, f"{kept} WHERE datname = current_database() ORDER BY 1")
    assert len(there) == len(settings)
    into = sa.make_url(postgres_url).set(database=f"{name}_again").render_as_string(hide_password=False)
    try:
        assert dumps.restore(into).left_out == []
        assert asked(into, f"{kept} WHERE datname = current_database() ORDER BY 1") == there
        assert asked(into, "SHOW timezone") == [("Asia/Seoul",)]
    finally:
        postgres_server.execute(f'DROP DATABASE "{name}_again" WITH (FORCE)')
    assert "c\\\\d" not in (dumps.folder / dumps.names()[0]).read_text(), "it may be a secret; manifests are plain"


def test_a_database_that_icu_sorts_is_made_again_so(postgres_server: Engine, tmp_path: Path) -> None:
    postgres_server.execute(
        "CREATE DATABASE sorted_by_icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'ko-KR' ENCODING 'UTF8'"
        " LOCALE 'C.UTF-8'"
    )
    url = postgres_server.database_url("sorted_by_icu")
    try:
        run_sql(url, "CREATE TABLE a (t text)")
        dumps = Dumps(url, tmp_path)
        dumps.take()
        into = postgres_server.database_url("sorted_again")
        assert dumps.restore(into).left_out == []
        listed = "SELECT datlocprovider, daticulocale FROM pg_database WHERE datname = current_database()"
        assert asked(into, listed) == asked(url, listed)
    finally:
        for name in ("sorted_by_icu", "sorted_again"):
            postgres_server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_lines_of_a_functions_body_are_left_as_they_are(postgres_url: str, service: str, tmp_path: Path) -> None:
    """Also for a user who can't name owners: a line of a body may look like one that names them."""
    body = "GRANT SELECT ON a TO PUBLIC;\\nCOPY a FROM stdin;\\n\\\\c x\\nALTER TABLE a OWNER TO x;\\nCOMMIT;\\n"
    run_sql(
        service,
        "CREATE TABLE a (id int, v text)",
        "INSERT INTO a VALUES (1, E'REVOKE x FROM y;\\\\\\\\c x')",
        "GRANT SELECT ON a TO reader",
        "DO $$ BEGIN EXECUTE 'CREATE FUNCTION f() RETURNS text LANGUAGE sql AS '"
        f" || quote_literal(E'SELECT $x$\\n{body}$x$'); END $$",
        "COMMENT ON TABLE a IS E'it''s\\n\\\\\\\\c x\\nGRANT ALL ON a TO x;'",
    )  # fmt: skip
    dumps = Dumps(service, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert result.drill.left_out, "nothing was left out: the test would prove nothing"
    f = asked(service, "SELECT f(), obj_description('a'::regclass), (SELECT v FROM a)")
    dumps.restore(replace=sa.make_url(service).database)
    assert asked(service, "SELECT f(), obj_description('a'::regclass), (SELECT v FROM a)") == f


@pytest.mark.long
def test_large_objects_do_not_end_the_one_transaction(
    postgres_url: str, postgres_server: Engine, tmp_path: Path
) -> None:
    run_sql(postgres_url, "SELECT lo_from_bytea(4711, '\\x00ff'::bytea)", "CREATE TABLE a (id int)")
    dumps = Dumps(postgres_url, tmp_path)
    assert b"\nCOMMIT;\n" in dumps.content(dumps.take()), "pg_dump ends no transaction: the test would prove nothing"
    engine = sa.make_url(postgres_url)
    with postgres_server.database() as into:
        text = dumps.content(dumps.take()) + b"COMMENT ON TABLE nothing IS NULL;\n"
        with pytest.raises(ProgramFailed):
            open_engine(sa.make_url(into)).load(iter([text]), str(engine.database), drill=True)
        assert open_engine(sa.make_url(into)).objects() == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "made",
    ["CREATE SEQUENCE a", "SELECT lo_create(4711)", "CREATE COLLATION a (locale = 'C')", "CREATE PUBLICATION a",
     "CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq)"],
)  # fmt: skip
def test_a_target_with_anything_in_it_is_not_empty(
    made: str, postgres_url: str, postgres_server: Engine, tmp_path: Path
) -> None:
    run_sql(postgres_url, "CREATE TABLE a (id int)")
    dumps = Dumps(postgres_url, tmp_path)
    dumps.take()
    with postgres_server.database() as into:
        run_sql(into, made)
        with pytest.raises(Refused, match="is not empty"):
            dumps.restore(into)


def test_a_database_without_the_public_schema_is_proven(postgres_url: str, tmp_path: Path) -> None:
    run_sql(postgres_url, "DROP SCHEMA public", "CREATE SCHEMA app", "CREATE TABLE app.a (id int)")
    assert Dumps(postgres_url, tmp_path).take().proven


def test_a_database_without_an_encoding_is_dumped_byte_by_byte(postgres_server: Engine, tmp_path: Path) -> None:
    for name in ("plain", "plain_again"):
        postgres_server.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    source, into = (sa.make_url(postgres_server.database_url(name)) for name in ("plain", "plain_again"))
    try:
        with connect(source).connect() as connection:
            connection.exec_driver_sql("CREATE TABLE a AS SELECT chr(176) || chr(161) AS euc")
            connection.commit()
        dumps = Dumps(source.render_as_string(hide_password=False), tmp_path)
        assert dumps.take().proven
        dumps.restore(into.render_as_string(hide_password=False))
        with connect(into).connect() as connection:
            assert connection.exec_driver_sql("SELECT encode(euc::bytea, 'hex') FROM a").scalar() == "b0a1"
    finally:
        for name in ("plain", "plain_again"):
            postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


# --- MySQL and MariaDB -----------------------------------------------------------------------------------------


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> str:
    """MySQL's database is dumped by MySQL's own client, as documented."""
    if request.param == "mysql":
        request.getfixturevalue("oracle")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


both_servers = pytest.mark.parametrize("server_url", ["mysql", "mariadb"], indirect=True)
SENT_BACK = "test_restored_again"


@contextmanager
def restored(dumps: Dumps, url: str) -> Iterator[str]:
    into = sa.make_url(url).set(database=SENT_BACK)
    try:
        dumps.restore(into.render_as_string(hide_password=False))
        yield into.render_as_string(hide_password=False)
    finally:
        run_sql(url, f"DROP DATABASE IF EXISTS {SENT_BACK}")


@pytest.mark.long
@both_servers
def test_every_digit_of_a_float_comes_back(server_url: str, tmp_path: Path) -> None:
    """The dump programs print six of them."""
    run_sql(
        server_url,
        "CREATE TABLE a (id int PRIMARY KEY, f float, g float, twice double AS (f * 2) STORED,"
        " at timestamp NOT NULL DEFAULT '2020-01-01' ON UPDATE CURRENT_TIMESTAMP)",
        "INSERT INTO a (id, f, g) VALUES (1, 16777217, NULL), (2, 0.1, 3.4028234e38), (3, -1.17549e-38, 0.123456789)",
        "CREATE TABLE `o%d ``d` (k varchar(30) CHARACTER SET latin1, `f%` float, UNIQUE KEY (k), id binary(2) NOT NULL,"
        " at datetime(3) NOT NULL, PRIMARY KEY (id, at))",
        "INSERT INTO `o%d ``d` VALUES ('it''s\\\\\\n', 7654321, x'00ff', '2026-02-03 04:05:06.789'),"
        " (NULL, 1, '', '0001-01-01')",
        "CREATE TABLE short (id int PRIMARY KEY, f float)",
        "INSERT INTO short VALUES (1, 1.5)",
    )  # fmt: skip
    dumps = Dumps(server_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert result.contents.notes == []
    assert b"\nUPDATE `short`" not in dumps.content(result)
    assert dumps.content(result).endswith(b"\n-- Dump completed\n")
    exact = ("SELECT id, f + 0e0, g + 0e0, twice, at FROM a", "SELECT id, at, `f%` + 0e0 FROM `o%d ``d`")
    with restored(dumps, server_url) as into:
        for statement in exact:
            assert asked(into, statement) == asked(server_url, statement)


@pytest.mark.long
def test_floats_that_cannot_be_put_right_are_named(mariadb_url: str, tmp_path: Path) -> None:
    run_sql(
        mariadb_url,
        "CREATE TABLE no_key (f float)",
        "CREATE TABLE watched (id int PRIMARY KEY, f float)",
        "INSERT INTO no_key VALUES (16777216)",
        "INSERT INTO watched VALUES (1, 16777216)",
        "CREATE TRIGGER watching BEFORE UPDATE ON watched FOR EACH ROW SET NEW.f = 0",
    )
    dumps = Dumps(mariadb_url, tmp_path)
    result = dumps.take()
    assert result.proven
    assert result.contents.notes == ["FLOAT columns hold six digits, as the server shows them: no_key, watched"]
    assert "no_key, watched" in result.message
    with restored(dumps, mariadb_url) as into:
        assert asked(into, "SELECT f + 0e0 FROM watched") == [(16777200.0,)]


@pytest.mark.long
@both_servers
def test_dates_that_are_none_come_back(server_url: str, tmp_path: Path) -> None:
    run_sql(server_url, "CREATE TABLE a (d date, t datetime)")
    with sa.create_engine(server_url).begin() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        connection.exec_driver_sql("INSERT INTO a VALUES ('2026-02-31', '2026-00-00 10:00:00'), ('0000-00-00', NULL)")
    dumps = Dumps(server_url, tmp_path)
    assert dumps.take().proven
    with restored(dumps, server_url) as into:
        assert asked(into, "SELECT * FROM a") == [("2026-02-31", "2026-00-00 10:00:00"), ("0000-00-00", None)]


@pytest.mark.long
def test_the_history_of_versioned_tables_comes_back(mariadb_url: str, tmp_path: Path) -> None:
    run_sql(
        mariadb_url,
        "CREATE TABLE a (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING",
        "CREATE TABLE b (id int PRIMARY KEY, v int, since timestamp(6) GENERATED ALWAYS AS ROW START,"
        " til timestamp(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (since, til)) WITH SYSTEM VERSIONING",
        *(f"INSERT INTO {t} (id, v) VALUES (1, 1), (2, 2)" for t in "ab"),
        *(f"UPDATE {t} SET v = 3 WHERE id = 1" for t in "ab"),
        *(f"DELETE FROM {t} WHERE id = 2" for t in "ab"),
    )
    dumps = Dumps(mariadb_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert result.contents.tables["a"].rows == 3, "two of them are past"
    past = (
        "SELECT id, v, row_start, row_end FROM a FOR SYSTEM_TIME ALL ORDER BY 1, 3",
        "SELECT id, v, since, til FROM b FOR SYSTEM_TIME ALL ORDER BY 1, 3",
    )
    with restored(dumps, mariadb_url) as into:
        for statement in past:
            assert asked(into, statement) == asked(mariadb_url, statement)


def test_a_client_that_cannot_dump_history_says_so(mariadb_url: str, tmp_path: Path, oracle: None) -> None:
    run_sql(mariadb_url, "CREATE TABLE a (id int PRIMARY KEY) WITH SYSTEM VERSIONING", "INSERT INTO a VALUES (1)")
    result = Dumps(mariadb_url, tmp_path).take()
    assert result.proven
    assert "the history of system-versioned tables is not in it: a" in result.message


@pytest.mark.long
def test_sequences_come_back_and_are_the_restored_databases_own(mariadb_url: str, tmp_path: Path) -> None:
    run_sql(
        mariadb_url,
        "CREATE SEQUENCE numbers START WITH 500 INCREMENT BY 10 NOCACHE",
        "CREATE TABLE a (id int DEFAULT NEXTVAL(numbers) COMMENT 'nextval(`x`.', v int)",
        "INSERT INTO a (v) VALUES (1), (2)",
    )
    dumps = Dumps(mariadb_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert result.contents.tables["numbers"].checksum == "520"
    with restored(dumps, mariadb_url) as into:
        run_sql(into, "INSERT INTO a (v) VALUES (3)")
        assert asked(into, "SELECT id FROM a") == [(500,), (510,), (520,)]
    assert asked(mariadb_url, "SELECT NEXTVAL(numbers)") == [(520,)], "the old database's sequence was drawn from"


@pytest.mark.long
def test_a_view_whose_definer_is_gone_is_restored_under_another_name(mariadb_url: str, tmp_path: Path) -> None:
    """MariaDB then writes the old database's name before each of its columns."""
    name = sa.make_url(mariadb_url).database
    run_sql(
        mariadb_url,
        "CREATE TABLE a (id int)",
        "INSERT INTO a VALUES (7)",
        f"CREATE DEFINER = gone@nowhere VIEW v AS SELECT id, '`{name}`.' AS who FROM a",
    )
    dumps = Dumps(mariadb_url, tmp_path)
    result = dumps.take()
    assert b"`.`a`.`id`" in dumps.content(result), "the dump names no database: the test would prove nothing"
    assert result.proven, result.message
    with restored(dumps, mariadb_url) as into:
        (definition,) = asked(
            into, "SELECT VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE()"
        )
        assert f"'`{name}`.'" in str(definition[0])
        assert f"`{name}`.`a`" not in str(definition[0])


# Each breaks in another way. A dump can hold those whose definer is gone or lost its rights, so they are kept.
VIEWS = (
    "CREATE VIEW lost_table AS SELECT * FROM gone", "CREATE VIEW lost_column AS SELECT id, c FROM a",
    "CREATE VIEW lost_function AS SELECT f(id) AS x FROM a", "CREATE VIEW lost_chain AS SELECT * FROM lost_table",
    "CREATE DEFINER = {gone} VIEW kept_definer AS SELECT id FROM a",
    "CREATE DEFINER = {gone} SQL SECURITY INVOKER VIEW kept_invoker AS SELECT id FROM a",
    "CREATE DEFINER = {poor} VIEW kept_poor AS SELECT id FROM a",
    "CREATE VIEW lost_on_definer AS SELECT * FROM kept_definer", "CREATE VIEW lost_on_poor AS SELECT * FROM kept_poor",
    "CREATE VIEW lost_on_lost AS SELECT * FROM lost_on_poor",
    "CREATE VIEW `lost``d%v\nDROP DATABASE x;\n'i` AS SELECT 'a\nb''*/ `{name}`.' AS x, id FROM gone",
)  # fmt: skip
LOST = [
    "lost_chain", "lost_column", "lost_function", "lost_on_definer", "lost_on_lost", "lost_on_poor", "lost_table",
    "lost`d%v\nDROP DATABASE x;\n'i",
]  # fmt: skip


@pytest.fixture(params=["mariadb", "mysql", "mysql by its own programs"])
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[str, Engine]]:
    """A database with broken views and some that are not, and its server."""
    kind = request.param.split()[0]
    if " " in request.param:
        request.getfixturevalue("oracle")
    url: str = request.getfixturevalue(f"{kind}_url")
    server: Engine = request.getfixturevalue(f"{kind}_server")
    users = {"gone": "gone_away@nowhere", "poor": "poor_one@nowhere"}
    for user in users.values():
        server.execute(f"CREATE USER {user}", f"GRANT SELECT, EXECUTE ON *.* TO {user}")
    try:
        run_sql(
            url, "CREATE TABLE a (id int PRIMARY KEY, c int, f float)", "CREATE TABLE gone (id int)",
            "INSERT INTO a VALUES (1, 2, 16777216)", "CREATE FUNCTION f(a int) RETURNS int DETERMINISTIC RETURN a",
            *(view.format(**users, name=sa.make_url(url).database) for view in VIEWS),
            "CREATE VIEW sound AS SELECT id FROM a", "DROP TABLE gone", "ALTER TABLE a DROP COLUMN c",
            "DROP FUNCTION f",
        )  # fmt: skip
        server.execute(f"DROP USER {users['gone']}", f"REVOKE SELECT, EXECUTE ON *.* FROM {users['poor']}")
        yield url, server
    finally:
        server.execute(*(f"DROP USER IF EXISTS {user}" for user in users.values()))


@pytest.mark.long
def test_broken_views_are_named_and_all_else_is_dumped_and_proven(broken: tuple[str, Engine], tmp_path: Path) -> None:
    url, _ = broken
    dumps = Dumps(url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert result.contents.broken_views == LOST
    assert "8 broken views are not in it" in result.message
    assert "lost_column" in result.message
    manifest = read_manifest(dumps.storage, result.manifest.name)
    assert manifest.contents["broken_views"] == LOST
    views = {name for name in manifest.contents["definitions"] if name.startswith("view ")}
    assert views == {"view sound", "view kept_definer", "view kept_invoker", "view kept_poor"}
    assert "select" not in (dumps.folder / result.manifest.name).read_text().lower(), "no definition in the manifest"

    text = dumps.content(result).decode()
    assert text.endswith("-- Dump completed\n")
    for name in LOST:
        assert f"-- Broken view {name}".partition("\n")[0] in text
    kept = text[text.index("-- Broken views") :]
    assert "VIEW `lost_column` AS select" in kept
    assert "`.`gone`.`id`" not in kept, "it names the database that it was in"
    assert "DROP DATABASE x;" in kept
    comments = kept[: kept.index("-- Dump completed")].splitlines()
    assert all(line.startswith("-- ") for line in comments)

    with restored(dumps, url) as into:
        kept_views = asked(into, "SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE()")
        assert {str(name) for (name,) in kept_views} == {"sound", "kept_definer", "kept_invoker", "kept_poor"}
        assert asked(into, "SELECT id, f + 0e0 FROM a") == [(1, 16777216.0)]
    dry = dumps.restore(dry_run=True, replace=sa.make_url(url).database)
    assert any(s.startswith("NOT IN IT: views that were broken") and "lost_chain" in s for s in dry.sentences())
    # Over the database itself, broken views and all.
    again = dumps.restore(replace=sa.make_url(url).database)
    assert any("lost_chain" in note for note in again.left_out)
    assert Dumps(url, tmp_path / "again").take().contents.broken_views == []


@pytest.mark.long
def test_a_definition_of_a_broken_view_can_be_executed_once_its_table_is_there_again(
    broken: tuple[str, Engine], tmp_path: Path
) -> None:
    url, _ = broken
    dumps = Dumps(url, tmp_path)
    text = dumps.content(dumps.take()).decode()
    with restored(dumps, url) as into:
        run_sql(into, "CREATE TABLE gone (id int)")
        lines = text[text.index("-- Broken view lost_table\n") :].splitlines()[1:3]
        run_sql(into, *(line.removeprefix("-- ").removesuffix(";") for line in lines))
        assert asked(into, "SELECT * FROM lost_table") == []


def test_a_broken_view_in_sqlite_is_in_the_file_itself(sqlite_url: str, tmp_path: Path) -> None:
    Path(str(sa.make_url(sqlite_url).database)).touch()
    run_sql(sqlite_url, "CREATE TABLE a (id int)", "CREATE VIEW v AS SELECT id FROM a", "DROP TABLE a")
    dumps = Dumps(sqlite_url, tmp_path)
    result = dumps.take()
    assert (result.proven, result.contents.broken_views) == (True, [])
    target = f"sqlite:///{tmp_path / 'other.db'}"
    dumps.restore(target)
    assert asked(target, "SELECT name FROM sqlite_schema") == [("v",)]


def test_a_dump_of_before_has_no_list_of_broken_views(mariadb_url: str, tmp_path: Path) -> None:
    run_sql(mariadb_url, "CREATE TABLE a (id int)")
    raw = Dumps(mariadb_url, tmp_path).take().manifest.contents
    assert raw.pop("broken_views") == []
    assert Contents.from_json(raw).broken_views == []


def test_a_view_that_breaks_while_it_is_dumped_is_dumped_again(
    mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the program's work: the dump is spoilt, and the next one knows of it."""
    run_sql(mariadb_url, "CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE VIEW v AS SELECT a.id FROM a, b")
    real, looked = taking.broken_views, []

    def then_drop(*args: object) -> object:
        found = real(*args)  # type: ignore[arg-type]
        if not looked:
            run_sql(mariadb_url, "DROP TABLE b")
        looked.append(found)
        return found

    monkeypatch.setattr(taking, "broken_views", then_drop)
    # Were anything else written at that moment, another way to dump would look once more, and find it broken.
    monkeypatch.setattr(taking, "_log_position", lambda look: 1)
    dumps = Dumps(mariadb_url, tmp_path)
    result = dumps.take()
    assert result.proven
    assert result.tries == 2
    assert result.contents.broken_views == ["v"]
    assert dumps.said[0].startswith("A view broke while it was dumped.")
    assert looked[0] == {}


@pytest.mark.long
def test_names_that_differ_in_their_case_alone_are_no_change(mariadb_url: str, tmp_path: Path) -> None:
    """The server lists them now in one order, now in the other."""
    names = ["a1", "b2", "c3", "mixed", "Mixed", "z"]
    run_sql(mariadb_url, *(f"CREATE TABLE {name} (id int)" for name in names), "CREATE VIEW seen AS SELECT 1")
    assert len({open_engine(sa.make_url(mariadb_url)).schema_state() for _ in range(9)}) == 1
    result = Dumps(mariadb_url, tmp_path).take(tries=1)
    assert sorted(result.contents.tables) == sorted(names)


@pytest.mark.long
def test_a_mariadb_package_is_replaced_too(mariadb_url: str, tmp_path: Path) -> None:
    with sa.create_engine(mariadb_url).begin() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = 'ORACLE'")
        connection.exec_driver_sql("CREATE PACKAGE p AS FUNCTION f RETURN INT; END")
        connection.exec_driver_sql("CREATE PACKAGE BODY p AS FUNCTION f RETURN INT AS BEGIN RETURN 7; END; END")
    dumps = Dumps(mariadb_url, tmp_path)
    assert dumps.take().proven
    dumps.restore(replace=sa.make_url(mariadb_url).database)
    listed = "SELECT ROUTINE_TYPE FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE() ORDER BY 1"
    assert asked(mariadb_url, listed) == [("PACKAGE",), ("PACKAGE BODY",)]


@pytest.mark.long
@pytest.mark.parametrize("password", ["한글 🔑", "pässwörd"])
@both_servers
def test_a_password_in_any_language_opens_the_database(server_url: str, password: str, tmp_path: Path) -> None:
    with sa.create_engine(server_url).begin() as connection:
        connection.exec_driver_sql("DROP USER IF EXISTS speaker@'127.0.0.1'")
        connection.exec_driver_sql("CREATE USER speaker@'127.0.0.1' IDENTIFIED BY %s", (password,))
        connection.exec_driver_sql("GRANT ALL ON *.* TO speaker@'127.0.0.1'")
    try:
        assert Dumps(login(server_url, "speaker", password), tmp_path).take().proven
    finally:
        run_sql(server_url, "DROP USER speaker@'127.0.0.1'")


# --- SQLite ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE a (t TEXT COLLATE korean); CREATE INDEX i ON a (t)",
        "CREATE TABLE a (t TEXT); CREATE INDEX i ON a (folded(t))",
        "CREATE TABLE a (t TEXT, f AS (folded(t)))",
        "CREATE TABLE a (t TEXT CHECK (folded(t) <> ''))",
    ],
)
def test_what_the_service_itself_taught_sqlite_is_no_damage(made: str, sqlite_url: str, tmp_path: Path) -> None:
    """A sort order or a function that only the service's own connections know."""
    with closing(sqlite3.connect(str(sa.make_url(sqlite_url).database))) as connection:
        connection.create_collation("korean", lambda a, b: (a > b) - (a < b))
        connection.create_function("folded", 1, str.casefold, deterministic=True)
        connection.executescript(f"{made}; INSERT INTO a (t) VALUES ('가'), ('B'), ('a')")
    dumps = Dumps(sqlite_url, tmp_path)
    result = dumps.take()
    assert result.proven
    cut = dumps.content(result)[:-4096]
    with pytest.raises(ProofFailed, match="damaged"):
        open_engine(sa.make_url(f"{sqlite_url}.again")).load(iter([cut]), "test", drill=True)


def test_a_file_that_is_no_database_stops_only_its_own_dump(sqlite_url: str, tmp_path: Path) -> None:
    Path(str(sa.make_url(sqlite_url).database)).write_bytes(b"not one" * 999)
    other = sa.make_url(f"sqlite:///{tmp_path / 'other.db'}")
    with closing(sqlite3.connect(str(other.database))) as connection:
        connection.execute("CREATE TABLE a (id INTEGER)")
    run = dump_databases([sa.make_url(sqlite_url), other], Dumps(sqlite_url, tmp_path).storage, options())
    assert [r.proven for r in run.results] == [True]
    (problem,) = run.problems.values()
    assert "file is not a database" in problem
