"""What a dump holds of a database beside its plain tables and rows, and what of it a restore brings back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.backup.dump_postgres import _Guard as PostgresGuard
from saju_ops.errors import Refused
from saju_ops_tests.backup.dump_scene import Dumps
from saju_ops_tests.engines import Engine


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
        "CREATE ROLE service_owner LOGIN CREATEDB PASSWORD 'long enough'",
        "CREATE ROLE reader LOGIN PASSWORD 'long too'",
        f'ALTER DATABASE "{database}" OWNER TO service_owner',
    )  # fmt: skip
    yield login(postgres_url, "service_owner", "long enough")
    for role in ("service_owner", "reader"):
        run_sql(postgres_url, f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP OWNED BY {role}")
        postgres_server.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP ROLE {role}")


def login(url: str, user: str, password: str) -> str:
    return sa.make_url(url).set(username=user, password=password).render_as_string(hide_password=False)


def test_after_a_replacing_restore_the_service_still_gets_at_its_tables(
    postgres_url: str, service: str, tmp_path: Path
) -> None:
    run_sql(postgres_url, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)", "GRANT SELECT ON kept TO reader")
    run_sql(postgres_url, "CREATE PUBLICATION told FOR ALL TABLES")
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


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_the_guard_passes_on_every_byte_but_what_it_leaves_out(size: int) -> None:
    rows = b"COPY a (v) FROM stdin;\n1\tGRANT x TO y;\n\\\\c x\n\\.\n\nCOPY public.empty  FROM stdin;\n\\.\n\n"
    text = (
        b"-- it's a comment\nALTER TABLE a OWNER TO b;\n"
        + rows
        + b"CREATE FUNCTION f() AS $_$ it's\nGRANT x TO y;\n$$ '\n"
        b"$_$;\nCOMMENT ON x IS E'a\\'\nBEGIN;\n''';\nBEGIN;\nSELECT lowrite(0, '\\x00');\nCOMMIT;\nGRANT x TO y;\n"
        b"CREATE VIEW \"o'dd\" AS SELECT 1;\nREVOKE x FROM y;\n/* it's */\n\\unrestrict a\nlast"
    )
    left_out = (b"ALTER TABLE a OWNER TO b;\n", b"\nBEGIN;\n", b"COMMIT;\nGRANT x TO y;\n", b"REVOKE x FROM y;\n")
    expected = text
    for line in left_out:
        head, _, tail = expected.rpartition(line)
        expected = head + (b"\n" if line.startswith(b"\n") else b"") + tail
    guard = PostgresGuard(strip=True)
    assert b"".join(guard.watch(iter([text[i : i + size] for i in range(0, len(text), size)]))) == expected
    assert guard.left_out == 3
    with pytest.raises(Refused):
        list(PostgresGuard(strip=False).watch(iter([rows + b"\\! ls\n"])))


def test_large_objects_do_not_end_the_one_transaction(
    postgres_url: str, postgres_server: Engine, tmp_path: Path
) -> None:
    run_sql(postgres_url, "SELECT lo_from_bytea(4711, '\\x00ff'::bytea)", "CREATE TABLE a (id int)")
    dumps = Dumps(postgres_url, tmp_path)
    assert b"\nCOMMIT;\n" in dumps.content(dumps.take()), "pg_dump ends no transaction: the test would prove nothing"
    engine = sa.make_url(postgres_url)
    with postgres_server.database() as into:
        from saju_ops.backup.dump_engine import open_engine
        from saju_ops.backup.dump_process import ProgramFailed

        text = dumps.content(dumps.take()) + b"SELECT nothing;\n"
        with pytest.raises(ProgramFailed):
            open_engine(sa.make_url(into)).load(iter([text]), str(engine.database), drill=True)
        assert open_engine(sa.make_url(into)).objects() == 0


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
        from saju_ops.database import connect

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
