"""Dumps of PostgreSQL that somebody changed in the store, and what a drill's role may do at all."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import gzip
import hashlib
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from saju_ops.dumps.engine import ForeignToDumps, scratch_name
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.postgres.reader import Reader
from saju_ops.dumps.postgres.statements import examined, statements
from saju_ops.dumps.take import DumpResult
from saju_ops.errors import Refused
from saju_ops.storage.manifest import write_manifest
from saju_ops.upkeep.drills import dump_drills
from saju_ops_tests.dumps.scene import Dumps, everything, fill, scratch_databases
from saju_ops_tests.engines import Engine

CANARY = "/tmp/saju_ops_canary_of_a_test"
TOUCH = f"touch {CANARY}"
# Each is one or more lines of a dump. None of them is what pg_dump writes.
PAYLOADS = [
    f" \\! {TOUCH}", f"SELECT 1; \\! {TOUCH}", f"\\o\t|{TOUCH}", f"\\out |{TOUCH}", f"\\set x `{TOUCH}`",
    f"\\echo `{TOUCH}`", f"COPY (SELECT 1) TO PROGRAM '{TOUCH}';", f"\t\\! {TOUCH}", f";\\! {TOUCH}",
    f"SET lock_timeout = 0; \\! {TOUCH}", f"SET lock_timeout = 0 \\! {TOUCH}\n;", f"SET lock_timeout = 0 \\g |{TOUCH}",
    f"-- x\r\\! {TOUCH}", f"/* ' /* */ */ \\! {TOUCH}", f"COMMENT ON SCHEMA public IS $a$ x $a$ \\! {TOUCH}\n;",
    f"COMMENT ON SCHEMA public IS E'\\'' \\! {TOUCH}\n;", f"COMMENT ON SCHEMA public IS '\\'; \\! {TOUCH}\n--'",
    f"\\restrict a\n\\! {TOUCH}\n\\unrestrict a", "\\restrict `touch x`", "\\connect template1", "\\c - - evil 1",
    "\\i /etc/passwd", "\\ir /etc/passwd", "\\gexec", "\\w |sh", "\\lo_import /etc/passwd", "\\setenv PAGER sh",
    f"\\copy public.parent from program '{TOUCH}'", "\\if true", "\\.", f"COPY public.parent FROM PROGRAM '{TOUCH}';",
    "COPY public.parent FROM '/etc/passwd';", "COPY public.parent TO '/tmp/x';", "COPY public.parent (id) TO stdout;",
    "COPY public.parent FROM stdin WITH (FORMAT csv);\n1,x\n\\.",
    "COPY pg_catalog.pg_authid (rolname) FROM stdin;\n\\.",
    "SET client_encoding = 'SJIS';", "SET NAMES 'BIG5';", "SET client_encoding TO GBK;",
    "SET session_replication_role = replica;", "SET ROLE postgres;", "SET SESSION AUTHORIZATION postgres;",
    "RESET SESSION AUTHORIZATION;", "SET SESSION AUTHORIZATION DEFAULT;", "DROP TABLE public.parent;",
    "drop database postgres;", "ALTER SYSTEM SET archive_command = 'sh';", "ALTER ROLE postgres PASSWORD 'x';",
    "CREATE ROLE evil SUPERUSER LOGIN;", "CREATE USER evil;", "GRANT pg_execute_server_program TO PUBLIC;",
    "CREATE DATABASE evil;", "ALTER DATABASE postgres SET search_path TO evil;", "CREATE TABLESPACE x LOCATION '/tmp';",
    "CREATE SUBSCRIPTION s CONNECTION 'host=evil' PUBLICATION p;", "LOAD '/tmp/evil.so';",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE c AS 'libc.so.6', 'system';",
    "CREATE FUNCTION public.f() RETURNS int AS 'system' LANGUAGE 'internal';",
    "CREATE OR REPLACE FUNCTION public.f() RETURNS int AS $$ import os $$ LANGUAGE plpython3u;",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE U&\"\\0063\" AS 'libc', 'system';",
    "CREATE LANGUAGE evil HANDLER h;", f"DO $$ BEGIN COPY (SELECT 1) TO PROGRAM '{TOUCH}'; END $$;",
    "DO 'BEGIN EXECUTE format(''ALTER DATABASE %I SET \"a\" TO ''''b''''; ALTER SYSTEM SET a TO 1'',"
    " current_database()); EXCEPTION WHEN OTHERS THEN RAISE WARNING ''a setting of the database was left out'';"
    " END';",
    "SELECT pg_catalog.lo_export(1, '/tmp/x');", "SELECT pg_catalog.set_config('role', 'postgres', false);",
    "SELECT pg_catalog.setval((SELECT 'a'), 1, true);", "SELECT pg_read_file('/etc/passwd');",
    "INSERT INTO public.parent VALUES (9, 'x');", "UPDATE public.parent SET name = 'x';",
    "DELETE FROM public.parent;", "TRUNCATE public.parent;", "CALL evil();", "NOTIFY evil;", "VACUUM;",
    "CREATE TABLE public.x AS SELECT 1;", "CREATE SCHEMA x CREATE TABLE y (id int);",
    "CREATE FUNCTION pg_catalog.lower(int) RETURNS int LANGUAGE sql AS 'SELECT 1';", "PREPARE x AS SELECT 1;",
    "REASSIGN OWNED BY postgres TO PUBLIC;", "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE x;",
    "COMMENT ON ROLE postgres IS 'x';", "GRANT SET ON PARAMETER log_statement TO PUBLIC;", "SELECT 1 \x00;",
    "COMMENT ON SCHEMA public IS 'never closed", "SELECT 1E'x';", "COMMENT ON SCHEMA public IS E'a'\n'\\'';",
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(postgres_server: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dumps, DumpResult]]:
    with postgres_server.database() as url:
        fill(url)
        dumps = Dumps(url, tmp_path_factory.mktemp("sound"))
        result = dumps.take()
        assert result.proven, result.message
        yield dumps, result


def changed(sound: tuple[Dumps, DumpResult], folder: Path, payload: bytes, before: bytes = b"") -> Dumps:
    """The dump with the payload in it, and a manifest that agrees."""
    dumps, result = sound
    content = dumps.content(result)
    at = content.index(before) if before else len(content)
    content = content[:at] + payload + b"\n" + content[at:]
    packed = gzip.compress(content, 1)
    manifest = replace(
        result.manifest, content_sha256=hashlib.sha256(content).hexdigest(), content_bytes=len(content),
        stored_sha256=hashlib.sha256(packed).hexdigest(), stored_bytes=len(packed),
    )  # fmt: skip
    other = Dumps(dumps.url.render_as_string(hide_password=False), folder)
    with other.storage.create(manifest.file) as writer:
        writer.write(packed)
        writer.commit()
    write_manifest(other.storage, manifest)
    return other


def roles(server: Engine) -> list[str]:
    return sorted(str(n) for (n,) in server.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'saju%'"))


@pytest.mark.long
@pytest.mark.parametrize("before", [b"", b"CREATE TABLE"], ids=["at the end", "in the middle"])
def test_what_pg_dump_does_not_write_is_found_and_not_executed(
    before: bytes, sound: tuple[Dumps, DumpResult], postgres_server: Engine, tmp_path: Path
) -> None:
    Path(CANARY).unlink(missing_ok=True)
    live = everything(sound[0].url)
    known = postgres_server.execute("SELECT rolname FROM pg_roles ORDER BY 1")
    with postgres_server.database() as into:
        for number, payload in enumerate(PAYLOADS):
            dumps = changed(sound, tmp_path / str(number), payload.encode(), before)
            (drill,) = dump_drills(dumps.storage, [dumps.url], [], now=datetime.now(UTC))
            assert (drill.passed, drill.tried) == (False, True), payload
            assert "which no dump program writes" in drill.text, payload
            assert "look at who can write to the store" in drill.text
            with pytest.raises(Refused, match="which no dump program writes"):
                dumps.restore(into)
            assert open_engine(sa.make_url(into)).objects() == 0, payload
            assert not Path(CANARY).exists(), payload
    assert everything(sound[0].url) == live
    assert postgres_server.execute("SELECT rolname FROM pg_roles ORDER BY 1") == known
    assert scratch_databases(postgres_server) == []


def test_a_restore_over_a_database_refuses_before_anything_is_dropped(
    sound: tuple[Dumps, DumpResult], postgres_server: Engine, tmp_path: Path
) -> None:
    dumps = changed(sound, tmp_path, b" \\! true")
    live = everything(dumps.url)
    with pytest.raises(Refused, match=r"database/.* holds a command of psql's own"):
        dumps.restore(replace=str(dumps.url.database))
    assert everything(dumps.url) == live


@pytest.mark.long
def test_the_other_drills_go_on(sound: tuple[Dumps, DumpResult], postgres_server: Engine, tmp_path: Path) -> None:
    dumps = changed(sound, tmp_path, b"DROP TABLE public.parent;")
    with postgres_server.database() as url:
        fill(url)
        other = Dumps(url, tmp_path)
        assert other.take().proven
        drills = dump_drills(dumps.storage, [dumps.url, other.url], [], now=datetime.now(UTC))
    assert sorted((d.passed, d.tried) for d in drills) == [(False, True), (True, True)]


# A dump's own functions are executed while it is loaded, by the role that has no rights.
TRIED = [
    f"copy (select 1) to program '{TOUCH}'", f"copy (select 1) to '{CANARY}'", "perform pg_read_file('/etc/passwd')",
    "alter role postgres password 'x'", "create role evil", "grant postgres to current_user", "set role postgres",
    "set session authorization postgres", "perform lo_export(1, '/tmp/x')", "create extension dblink",
    "alter system set a.b = 1", "alter database {live} set search_path to evil", "comment on database {live} is 'x'",
    "perform pg_terminate_backend(pid) from pg_stat_activity where datname = '{live}'",
    "create language plpython3u", "alter database {live} rename to other", "grant connect on database {live} to public",
    "create publication p for all tables", "perform pg_reload_conf()", "alter role current_user createrole",
]  # fmt: skip


@pytest.mark.long
def test_a_dumps_own_function_may_do_nothing_outside_of_the_scratch_database(
    sound: tuple[Dumps, DumpResult], postgres_server: Engine, tmp_path: Path
) -> None:
    Path(CANARY).unlink(missing_ok=True)
    live = sound[0].url.database
    # A grant of nothing writes down the rights that hold by default.
    rights = "SELECT coalesce(datacl, acldefault('d', datdba))::text[] FROM pg_database"
    asked = f"SELECT setconfig FROM pg_db_role_setting UNION ALL {rights} ORDER BY 1"
    before = postgres_server.execute(asked)
    working = sa.create_engine(sound[0].url).connect()
    for number, tried in enumerate(TRIED):
        function = f"begin {tried.format(live=live)}; return true; end".replace("'", "''")
        payload = (
            f"CREATE FUNCTION public.evil() RETURNS boolean LANGUAGE plpgsql AS '{function}';\n"
            "CREATE TABLE public.evil (id int, CONSTRAINT evil CHECK (public.evil()));\n"
            "COPY public.evil (id) FROM stdin;\n1\n\\.\n"
        )
        dumps = changed(sound, tmp_path / str(number), payload.encode())
        (drill,) = dump_drills(dumps.storage, [dumps.url], [], now=datetime.now(UTC))
        assert not drill.passed, tried
        # A grant by somebody who has nothing to give is a warning, and nothing is granted.
        assert "ERROR" in drill.text or tried.startswith("grant connect"), (tried, drill.text)
        assert not Path(CANARY).exists(), tried
    assert working.exec_driver_sql("SELECT 1").scalar() == 1, "the service's connection was ended"
    working.close()
    assert postgres_server.execute(asked) == before
    assert (roles(postgres_server), scratch_databases(postgres_server)) == ([], [])


# --- the role ----------------------------------------------------------------------------------------------------


def test_the_drills_role_owns_the_scratch_database_and_has_no_other_right(
    postgres_server: Engine, postgres_url: str
) -> None:
    fill(postgres_url)
    with open_engine(sa.make_url(postgres_url)).scratch(None, datetime.now(UTC)) as scratch:
        name = scratch.url.username
        assert roles(postgres_server) == [name]
        flags = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit"
        (found,) = postgres_server.execute(f"SELECT {flags} FROM pg_roles WHERE rolname = '{name}'")
        assert not any(found)
        member = f"SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE rolname = '{name}'"
        assert postgres_server.execute(member) == [(0,)]
        owned = f"SELECT datname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE rolname = '{name}'"
        assert postgres_server.execute(owned) == [(scratch.database,)]
        kept = postgres_server.execute(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'")
        assert str(kept[0][0]).startswith("SCRAM-SHA-256$")
        elsewhere = sa.make_url(postgres_url).set(username=name, password=scratch.url.password)
        with (
            sa.create_engine(elsewhere, poolclass=sa.NullPool).connect() as connection,
            pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
        ):
            connection.exec_driver_sql("SELECT * FROM public.parent")
    assert (roles(postgres_server), scratch_databases(postgres_server)) == ([], [])


@pytest.mark.long
def test_what_a_killed_drill_left_is_dropped_by_a_later_one(postgres_server: Engine, postgres_url: str) -> None:
    script = (
        "import os, signal, sqlalchemy as sa\nfrom datetime import UTC, datetime\n"
        "from saju_ops.dumps.open import open_engine\n"
        f"with open_engine(sa.make_url({postgres_url!r})).scratch(None, datetime.now(UTC)):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = roles(postgres_server)
    somebodys = scratch_name(datetime(2026, 1, 1, tzinfo=UTC))
    postgres_server.execute(f"CREATE ROLE {somebodys}", f"COMMENT ON ROLE {somebodys} IS 'in use'")
    engine = open_engine(sa.make_url(postgres_url))
    try:
        with engine.scratch(None, datetime.now(UTC) + timedelta(hours=23)):
            assert left in roles(postgres_server), "younger than a day: may still be in use"
        with engine.scratch(None, datetime.now(UTC) + timedelta(days=2)) as scratch:
            assert roles(postgres_server) == sorted([somebodys, str(scratch.url.username)])
    finally:
        postgres_server.execute(f"DROP ROLE {somebodys}")
    assert (roles(postgres_server), scratch_databases(postgres_server)) == ([], [])


@pytest.fixture
def small(postgres_server: Engine, postgres_url: str) -> Iterator[sa.URL]:
    """An account that owns the database and may make others, but no roles."""
    database = sa.make_url(postgres_url).database
    postgres_server.execute(
        "CREATE ROLE small LOGIN CREATEDB PASSWORD 'long enough'", "CREATE ROLE for_drills LOGIN CREATEDB PASSWORD 'x'",
        f'ALTER DATABASE "{database}" OWNER TO small',
    )  # fmt: skip
    yield sa.make_url(postgres_url).set(username="small", password="long enough")
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("REASSIGN OWNED BY small TO CURRENT_USER")
        connection.exec_driver_sql("DROP OWNED BY small")
    postgres_server.execute("DROP ROLE small", "DROP ROLE for_drills")


@pytest.mark.long
def test_an_account_that_may_make_no_role_leaves_the_dump_unproven_and_says_what_would_help(
    small: sa.URL, postgres_server: Engine, tmp_path: Path
) -> None:
    fill(small.render_as_string(hide_password=False))
    dumps = Dumps(small.render_as_string(hide_password=False), tmp_path)
    result = dumps.take()
    assert not result.proven
    assert 'ALTER ROLE "small" CREATEROLE CREATEDB;' in result.message
    assert not dumps.take(drill_servers=(small,)).proven, "the same account, named for drills, is no other one"
    named = small.set(username="for_drills", password="x")
    proven = dumps.take(drill_servers=(named,))
    assert proven.proven, proven.message
    assert "//for_drills:" in proven.drill.where
    postgres_server.execute("GRANT pg_execute_server_program TO for_drills")
    refused = dumps.take(drill_servers=(named,))
    assert not refused.proven
    assert "it is a member of pg_execute_server_program" in refused.message
    postgres_server.execute("REVOKE pg_execute_server_program FROM for_drills")
    postgres_server.execute("ALTER ROLE small CREATEROLE")
    proven = dumps.take()
    assert proven.proven, proven.message
    assert "//saju_ops_drill_" in proven.drill.where
    assert (roles(postgres_server), scratch_databases(postgres_server)) == ([], [])


def test_an_account_that_may_make_roles_need_not_be_a_superuser_to_prove_a_dump_with_an_extension(
    small: sa.URL, postgres_server: Engine, tmp_path: Path
) -> None:
    postgres_server.execute("ALTER ROLE small CREATEROLE")
    with sa.create_engine(small, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        for statement in (
            "CREATE SCHEMA ext", "CREATE EXTENSION hstore WITH SCHEMA ext", "CREATE TABLE a (h ext.hstore)",
            "INSERT INTO a VALUES ('k=>v')",
        ):  # fmt: skip
            connection.exec_driver_sql(statement)
    result = Dumps(small.render_as_string(hide_password=False), tmp_path).take()
    assert result.proven, result.message
    assert (roles(postgres_server), scratch_databases(postgres_server)) == ([], [])


# --- a rich database ---------------------------------------------------------------------------------------------

RICH = [
    "CREATE SCHEMA ext", "CREATE EXTENSION hstore WITH SCHEMA ext", "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw", "COMMENT ON EXTENSION hstore IS 'ours'",
    "CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1')",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER away OPTIONS (user 'u', password 'p')",
    "CREATE FOREIGN TABLE far (id int, v text) SERVER away OPTIONS (table_name 'x')",
    "CREATE VIEW far_seen AS SELECT * FROM far", "CREATE MATERIALIZED VIEW far_kept AS SELECT * FROM far WITH NO DATA",
    "CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%')", "CREATE TYPE pair AS (a int, b text)",
    "CREATE TYPE span AS RANGE (subtype = float8)", "CREATE TYPE mood AS ENUM ('a;b', '$$', 'it''s')",
    "CREATE SEQUENCE numbers START 7 INCREMENT 3", "SELECT nextval('numbers')",
    "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, e email, p pair, s span, m mood, h ext.hstore,"
    " n int DEFAULT nextval('numbers'), price money)",
    "INSERT INTO a (e, p, s, m, h, price) VALUES ('x@y', (1, 'z'), '[1,2)', 'a;b', 'k=>v', 12.5)",
    "CREATE UNLOGGED TABLE light (id int)", "CREATE TABLE no_columns ()",
    "CREATE TABLE b (id int REFERENCES a (id), v text COLLATE \"C\")",
    "CREATE FUNCTION body(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN x > 0 THEN 1 ELSE 2 END;"
    " SELECT 3; END",
    "CREATE FUNCTION shut() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS"
    " $f$ begin -- \\! ls\nreturn $q$ ; ' \" \\ $q$; end $f$",
    "CREATE PROCEDURE doing() LANGUAGE sql AS 'SELECT 1'", "CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int)",
    "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
    "CREATE FUNCTION to_pair(int) RETURNS pair LANGUAGE sql IMMUTABLE AS 'SELECT ($1, ''x'')::public.pair'",
    "CREATE CAST (int AS pair) WITH FUNCTION to_pair(int)",
    "CREATE RULE twice AS ON INSERT TO b DO ALSO (INSERT INTO light VALUES (1); INSERT INTO light VALUES (2))",
    "ALTER TABLE a ENABLE ROW LEVEL SECURITY", "ALTER TABLE a FORCE ROW LEVEL SECURITY",
    "CREATE POLICY own ON a USING (id > 0)", "CREATE STATISTICS stats ON id, v FROM b",
    "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple)", "CREATE COLLATION plain (locale = 'C')",
    "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end'",
    "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON b DEFERRABLE FOR EACH ROW EXECUTE FUNCTION noted()",
    "CREATE VIEW loop AS SELECT 1 AS x", "CREATE VIEW loop_on AS SELECT x FROM loop",
    "CREATE OR REPLACE VIEW loop AS SELECT x FROM loop_on WHERE false", "DROP VIEW loop CASCADE",
    "CREATE VIEW quoted AS SELECT id AS \"a\"\"b ; \\! 한글\", 'E\\'::text AS c, 'it''s; --' AS d FROM b",
    "CREATE INDEX odd ON b ((v || E'\\''), id) WHERE v <> '$a$;'", "CREATE PUBLICATION all_of_it FOR ALL TABLES",
    "CREATE FUNCTION ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end'",
    "CREATE EVENT TRIGGER watched ON ddl_command_end EXECUTE FUNCTION ddl()",
    "SELECT lo_from_bytea(4711, decode(repeat('00ff27', 30000), 'hex'))", "COMMENT ON LARGE OBJECT 4711 IS 'it''s'",
    "CREATE TABLE parts (id int, v text) PARTITION BY LIST (v)",
    "CREATE TABLE \"part$a$s\" PARTITION OF parts FOR VALUES IN ('it''s', E'\\\\', ';')",
    "INSERT INTO parts VALUES (1, ';')", "COMMENT ON TABLE parts IS E'\\\\.\\n\\\\! ls\\n;'",
    "GRANT SELECT (id) ON b TO reader WITH GRANT OPTION", "GRANT ALL ON parts TO reader WITH GRANT OPTION",
    "SET SESSION AUTHORIZATION reader", "GRANT SELECT ON parts TO PUBLIC", "RESET SESSION AUTHORIZATION",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader", "ALTER TABLE light OWNER TO reader",
]  # fmt: skip
UNTRUSTED = "CREATE FUNCTION inner_abs(int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4abs'"


@pytest.fixture
def rich(postgres_server: Engine, postgres_url: str) -> Iterator[str]:
    postgres_server.execute("CREATE ROLE reader")
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        for statement in RICH:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    yield postgres_url
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("DROP OWNED BY reader CASCADE")
    postgres_server.execute("DROP ROLE reader")


@pytest.mark.long
def test_a_rich_database_is_proven_by_a_role_without_rights_and_comes_back(
    rich: str, postgres_server: Engine, tmp_path: Path
) -> None:
    dumps = Dumps(rich, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    (rights, others) = result.drill.left_out
    assert "owners and grants were left out" in rights
    for what in ("1 event triggers", "1 publications", "1 options of servers of foreign data"):
        assert what in others
    assert b"SET SESSION AUTHORIZATION" in dumps.content(result), "the test would prove nothing of it"
    engine = open_engine(sa.make_url(rich))
    with postgres_server.database() as into:
        restored = dumps.restore(into)
        assert restored.left_out == []
        found = open_engine(sa.make_url(into)).contents()
        assert found == engine.contents()
        assert found.tables["pg_largeobject"].rows == 44
        asked = "SELECT relacl::text FROM pg_class WHERE relname = 'parts'"
        with sa.create_engine(into, poolclass=sa.NullPool).connect() as connection:
            assert "=r/reader" in str(connection.exec_driver_sql(asked).scalar())
            with sa.create_engine(into, isolation_level="AUTOCOMMIT").connect() as other:
                other.exec_driver_sql("DROP OWNED BY reader CASCADE")
    dumps.restore(replace=str(sa.make_url(rich).database))
    assert (roles(postgres_server), scratch_databases(postgres_server)) == ([], [])


def test_a_function_in_an_untrusted_language_is_proven_but_for_its_body_and_not_restored(
    postgres_url: str, postgres_server: Engine, tmp_path: Path
) -> None:
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in (UNTRUSTED, "CREATE TABLE a (id int)", "CREATE VIEW v AS SELECT inner_abs(id) AS x FROM a"):
            connection.exec_driver_sql(statement)
    dumps = Dumps(postgres_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert any("1 bodies of functions in untrusted languages" in note for note in result.drill.left_out)
    with postgres_server.database() as into, pytest.raises(Refused, match="a language that can do anything"):
        dumps.restore(into)


def test_extensions_are_made_as_the_live_database_has_them_and_those_that_reach_out_are_shut(
    rich: str, postgres_server: Engine
) -> None:
    text = b"CREATE SCHEMA ext;\nCREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA ext;\n"
    text += b"CREATE EXTENSION IF NOT EXISTS dblink WITH SCHEMA public;\n"
    with open_engine(sa.make_url(rich)).scratch(None, datetime.now(UTC)) as scratch:
        scratch.load(iter([text]), "x", drill=True)
        with sa.create_engine(scratch.url, poolclass=sa.NullPool).connect() as connection:
            owned = "SELECT e.extname, r.rolname FROM pg_extension e JOIN pg_roles r ON r.oid = e.extowner ORDER BY 1"
            found = connection.exec_driver_sql(owned).all()
            assert [tuple(row) for row in found] == [(n, "postgres") for n in ("dblink", "hstore", "plpgsql")]
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied for function"):
                connection.exec_driver_sql("SELECT dblink_connect('host=127.0.0.1')")


# --- the cuts ----------------------------------------------------------------------------------------------------

TEXT = (
    b"-- it's a comment\n\\restrict abc\n\nALTER TABLE a OWNER TO b;\n"
    b"COPY a (v) FROM stdin;\n1\tGRANT x TO y;\n\\\\c x\n\\.\n\nCOPY public.empty  FROM stdin;\n\\.\n\n"
    b"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $_$ it's\nGRANT x TO y;\n$$ '\n$_$;\n"
    b"COMMENT ON TABLE x IS E'a\\'\nBEGIN;\n''';\nBEGIN;\nSELECT pg_catalog.lowrite(0, '\\x00');\nCOMMIT;\n"
    b"CREATE VIEW \"o'dd\" AS SELECT 1 AS a$b$c;\n/* it's /* ; */ */\nSET standard_conforming_strings = off;\n"
    b"COMMENT ON TABLE x IS 'a\\';';\nCREATE SEQUENCE s;\n\\unrestrict abc\n-- last"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_statements_are_cut_alike_wherever_a_chunk_ends(size: int) -> None:
    def chunks() -> Iterator[bytes]:
        return iter([TEXT[i : i + size] for i in range(0, len(TEXT), size)])

    found = [(sort, s.text.partition(b" ")[0], b"".join(rows)) for sort, s, rows in statements(chunks())]
    assert found == [
        ("rights", b"ALTER", b""), ("copy", b"COPY", b"1\tGRANT x TO y;\n\\\\c x\n"), ("copy", b"COPY", b""),
        ("run", b"CREATE", b""), ("run", b"COMMENT", b""), ("nothing", b"BEGIN", b""), ("run", b"SELECT", b""),
        ("nothing", b"COMMIT", b""), ("run", b"CREATE", b""), ("setting", b"SET", b""), ("run", b"COMMENT", b""),
        ("run", b"CREATE", b""),
    ]  # fmt: skip
    assert b"".join(examined(chunks())) == TEXT


PIECES = [
    "'", "''", "\"", "\\", "\\'", "E'", "e'", "U&'", "B'", "N'", "$$", "$a$", "$b$", "$1", "a$a$", "--", "\n", "\r",
    "/*", "*/", ";", "(", ")", " ", "x", "1", "1e5", "한", "E", "|", "::text", ",", "U&\"", "$한$", "-", "*", "/", "$",
]  # fmt: skip


def test_the_server_never_sees_more_than_one_statement_in_what_was_cut_as_one(postgres_server: Engine) -> None:
    """Random quoting: what the server says of it is a matter of syntax, never that there are several, nor that a text
    in it is not closed."""
    dice = random.Random(13)
    address = sa.make_url(postgres_server.url).set(drivername="postgresql").render_as_string(hide_password=False)
    cut = 0
    with psycopg.connect(address, autocommit=True) as connection:
        for number in range(6000):
            off = number % 5 == 0
            connection.execute(f"SET standard_conforming_strings = {'off' if off else 'on'}")
            text = "SELECT " + "".join(dice.choices(PIECES, k=dice.randint(2, 14))) + "; -- '\n"
            reader = Reader(iter([text.encode()]))
            reader.escapes = off
            try:
                found = [s.text for s in reader]
            except ForeignToDumps:
                continue
            cut += 1
            for one in found:
                try:
                    connection.execute(one, binary=True, prepare=False)
                except psycopg.Error as error:
                    said = str(error.diag.message_primary)
                    assert "multiple commands" not in said, text
                    assert "unterminated" not in said, (text, said)
    assert cut > 500
