"""A dump of what its user sees is no dump of the database: the server is asked for the rights, on each engine."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import parse_database_url
from saju_ops.dumps.mysql.rights import missing_rights
from saju_ops.dumps.open import open_engine
from saju_ops.errors import OperatorError
from saju_ops.masking.dump import take_masked_dump
from saju_ops_tests.accounts import Account, account, role
from saju_ops_tests.dumps.scene import AT_THREE, Dumps, options
from saju_ops_tests.dumps.test_contents import run_sql
from saju_ops_tests.engines import Engine

EVERYTHING = "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, EXECUTE, LOCK TABLES ON {db}.* TO {user}"
TABLES = (
    "CREATE TABLE notes (id int PRIMARY KEY, word varchar(9), mood varchar(9))",
    "INSERT INTO notes VALUES (1, 'a', 'b')",
)


@pytest.fixture(params=["mysql", "mariadb"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(engine: str, request: pytest.FixtureRequest) -> Engine:
    server: Engine = request.getfixturevalue(f"{engine}_server")
    return server


@pytest.fixture
def url(engine: str, request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{engine}_url")
    run_sql(url, *TABLES)
    return url


def hidden(ops: Account) -> str:
    return open_engine(parse_database_url(ops.url)).hidden()


@pytest.mark.long
@pytest.mark.parametrize("more", ["GRANT PROCESS ON *.* TO {user}", "GRANT SELECT ON mysql.* TO {user}"])
@pytest.mark.parametrize("visible", [True, False])
def test_a_dump_without_a_column_is_never_proven(
    server: Engine, url: str, tmp_path: Path, more: str, visible: bool
) -> None:
    if not visible:
        run_sql(url, "ALTER TABLE notes MODIFY mood varchar(9) INVISIBLE")
    with account(server, url, "GRANT SELECT (id, word), DELETE ON {db}.notes TO {user}", more) as ops:
        dumps = Dumps(ops.url, tmp_path)
        try:
            result = dumps.take(drill_servers=(sa.make_url(server.url),))
        except OperatorError:
            assert dumps.names() == []
        else:
            assert result.proven is False
            assert "tables (SELECT)" in result.message
        assert "tables (SELECT)" in hidden(ops)


@pytest.mark.long
@pytest.mark.parametrize("more", ["GRANT PROCESS ON *.* TO {user}", "GRANT SELECT ON mysql.* TO {user}"])
@pytest.mark.parametrize("rights", ["SELECT (id, word), DELETE ON {db}.notes", "SELECT, TRIGGER ON {db}.notes"])
def test_a_masked_dump_by_a_user_who_may_not_see_every_table_is_refused_before_anything_is_copied(
    server: Engine, url: str, tmp_path: Path, more: str, rights: str
) -> None:
    with account(server, url, f"GRANT {rights} TO {{user}}", more) as ops:
        dumps = Dumps(ops.url, tmp_path)
        with pytest.raises(OperatorError, match=r"may hold more than its user sees: tables \(SELECT\)"):
            take_masked_dump(
                dumps.url, dumps.storage, options(drill_servers=(sa.make_url(server.url),)), now=lambda: AT_THREE
            )
        assert dumps.names() == []


def test_the_rights_of_an_active_role_count_and_those_of_another_do_not(server: Engine, url: str) -> None:
    with role(server) as reader, account(server, url, f"GRANT {reader} TO {{user}}") as ops:
        ops.grant(EVERYTHING.replace("{user}", reader))
        ops.grant("GRANT SELECT ON {db}.notes TO {user}")
        assert hidden(ops).startswith("tables (SELECT), triggers (TRIGGER)")
        ops.grant(f"SET DEFAULT ROLE {reader} {'TO' if server.name == 'MySQL' else 'FOR'} {{user}}")
        assert hidden(ops) == ""


def test_an_escaped_sign_in_a_grant_is_that_sign_alone(server: Engine) -> None:
    database = f"my_{secrets.token_hex(4)}_db"
    server.create_database(database)
    try:
        with account(server, server.database_url(database)) as ops:
            escaped = database.replace("_", "\\_")
            ops.grant("GRANT SELECT ON {db}.* TO {user}")
            assert "tables" not in hidden(ops)
            ops.grant("REVOKE SELECT ON {db}.* FROM {user}", f"GRANT SELECT, TRIGGER ON `{escaped}`.* TO {ops.name}")
            assert hidden(ops).startswith("events")
            another = escaped.replace("my", "mine")
            ops.grant(f"REVOKE SELECT, TRIGGER ON `{escaped}`.* FROM {ops.name}", "GRANT CREATE ON {db}.* TO {user}")
            ops.grant(f"GRANT SELECT, TRIGGER, EVENT ON `{another}`.* TO {ops.name}")
            assert hidden(ops).startswith("tables (SELECT), triggers (TRIGGER), events (EVENT)")
    finally:
        server.drop_database(database)


def test_of_several_patterns_that_fit_only_the_rights_of_all_count() -> None:
    narrow, wide = "GRANT SELECT, TRIGGER ON `my_db`.* TO `u`@`h`", "GRANT SELECT, EVENT ON `m%`.* TO `u`@`h`"
    assert missing_rights([narrow, wide], "my_db", "mysql").startswith("triggers (TRIGGER), events (EVENT)")
    of_a_role = "GRANT SELECT, TRIGGER, EVENT, EXECUTE ON `my_db`.* TO `reader`"
    assert missing_rights([narrow, wide, of_a_role], "my_db", "mariadb") == ""


def test_partial_revokes_take_a_right_away_and_escapes_as_they_are(mysql_server: Engine) -> None:
    database = f"my_{secrets.token_hex(4)}"
    mysql_server.create_database(database)
    mysql_server.execute("SET GLOBAL partial_revokes = ON")
    try:
        with account(mysql_server, mysql_server.database_url(database)) as ops:
            ops.grant("GRANT SELECT, TRIGGER, EVENT, SHOW_ROUTINE ON *.* TO {user}")
            assert hidden(ops) == ""
            ops.grant("REVOKE SELECT, TRIGGER ON {db}.* FROM {user}", "GRANT CREATE ON {db}.* TO {user}")
            assert hidden(ops) == "tables (SELECT), triggers (TRIGGER)"
        with account(mysql_server, mysql_server.database_url(database)) as ops:
            escaped = database.replace("_", "\\_")
            ops.grant("GRANT CREATE ON {db}.* TO {user}")
            ops.grant(f"GRANT SELECT, TRIGGER, EVENT ON `{escaped}`.* TO {ops.name}")
            assert hidden(ops).startswith("tables (SELECT), triggers (TRIGGER), events (EVENT)")
    finally:
        mysql_server.execute("SET GLOBAL partial_revokes = OFF")
        mysql_server.drop_database(database)


@pytest.mark.long
@pytest.mark.parametrize(
    "narrow",
    [
        "GRANT SELECT (id) ON notes TO {user}",
        "GRANT SELECT ON notes TO {user}; ALTER TABLE notes ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY few ON notes USING (id > 1)",
        "GRANT SELECT ON notes TO {user}; CREATE SCHEMA other; CREATE TABLE other.more (id int)",
    ],
)
def test_a_dump_of_postgresql_fails_at_what_its_user_may_not_read(
    postgres_server: Engine, tmp_path: Path, narrow: str
) -> None:
    with postgres_server.database() as url:
        user = f"ops_{secrets.token_hex(4)}"
        run_sql(url, *TABLES, f"CREATE ROLE {user} LOGIN PASSWORD 'secret'", *narrow.format(user=user).split("; "))
        mine = sa.make_url(url).set(username=user, password="secret").render_as_string(hide_password=False)
        dumps = Dumps(mine, tmp_path)
        drills = options(drill_servers=(sa.make_url(postgres_server.url),))
        with pytest.raises(OperatorError):
            dumps.take(drill_servers=drills.drill_servers)
        with pytest.raises(OperatorError):
            take_masked_dump(dumps.url, dumps.storage, drills, now=lambda: AT_THREE)
        assert dumps.names() == []
        run_sql(url, f"DROP OWNED BY {user}", f"DROP ROLE {user}")
