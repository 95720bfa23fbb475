"""What the account may not see is never archived in part, and never deleted: the server is asked for the rights."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.cli.status_report import report
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.engines.open import open_row_store
from saju_ops.rows.unseen_keys import _expected, _opened, _shown
from saju_ops_tests.accounts import Account, account, role
from saju_ops_tests.archive.scene import NEXT_DAY, UTC_ZONE, Scene
from saju_ops_tests.engines import Engine, MySQL

# All columns of the log but one.
SOME = "log_id, session_id, role, content, created_at"
LOG = "{db}.conversation_logs"
ON_DATABASE = "GRANT SELECT, DELETE ON {db}.* TO {user}"


@pytest.fixture(params=["mysql", "mariadb"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(engine: str, request: pytest.FixtureRequest) -> Engine:
    server: Engine = request.getfixturevalue(f"{engine}_server")
    return server


@pytest.fixture
def scene(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(4)
    return scene


@contextmanager
def another_database(server: Engine) -> Iterator[str]:
    with server.database() as url:
        yield str(sa.make_url(url).database)


def as_account(scene: Scene, ops: Account) -> None:
    scene.url = ops.url


def refuse_all(scene: Scene, ops: Account, match: str) -> None:
    """Neither archives nor purges, even if another account archived before."""
    as_root = scene.url
    scene.archive()
    as_account(scene, ops)
    for work in (scene.purge, lambda: scene.purge(dry_run=True), lambda: scene.archive(NEXT_DAY)):
        with pytest.raises(Refused, match=match):
            work()
    scene.url = as_root
    assert scene.count() == 4


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("more", ["GRANT PROCESS ON *.* TO {user}", "GRANT SELECT ON mysql.user TO {user}", ""])
def test_a_column_that_the_account_may_not_read_stops_archive_and_purge(
    server: Engine, scene: Scene, more: str
) -> None:
    with account(server, scene.url, f"GRANT SELECT ({SOME}), DELETE ON {LOG} TO {{user}}") as ops:
        if more:
            ops.grant(more)
        refuse_all(scene, ops, rf"may not read every column of {ops.database}\.conversation_logs \(tokens\)")


@pytest.mark.long
def test_select_on_another_database_shows_no_column_of_this_one(server: Engine, scene: Scene) -> None:
    with another_database(server) as other, account(server, scene.url) as ops:
        ops.grant(f"GRANT SELECT ({SOME}), DELETE ON {LOG} TO {{user}}", f"GRANT SELECT ON {other}.* TO {{user}}")
        refuse_all(scene, ops, r"\(tokens\).*GRANT SELECT ON `.*`\.`conversation_logs` TO 'ops_")


@pytest.mark.long
def test_a_role_that_is_active_counts_and_one_that_is_not_does_not(server: Engine, scene: Scene) -> None:
    with role(server) as reader, account(server, scene.url) as ops:
        ops.grant(
            f"GRANT SELECT, DELETE ON {{db}}.* TO {reader}", f"GRANT {reader} TO {{user}}",
            f"GRANT SELECT ({SOME}), DELETE ON {LOG} TO {{user}}",
        )  # fmt: skip
        refuse_all(scene, ops, r"\(tokens\)")
        default = "SET DEFAULT ROLE {} TO {{user}}" if server.name == "MySQL" else "SET DEFAULT ROLE {} FOR {{user}}"
        ops.grant(default.format(reader))
        as_account(scene, ops)
        assert scene.archive().outcome == "unchanged"
        assert scene.purge().deleted == 4


@pytest.mark.long
def test_an_invisible_column_that_the_account_may_not_read_is_named(server: Engine, scene: Scene) -> None:
    scene.run("ALTER TABLE conversation_logs ADD note text INVISIBLE", "UPDATE conversation_logs SET note = 'kept'")
    with account(server, scene.url) as ops:
        ops.grant(f"GRANT SELECT ({SOME}, tokens), DELETE ON {LOG} TO {{user}}")
        refuse_all(scene, ops, r"\(note\)")


def test_rights_on_columns_alone_can_not_show_that_there_are_no_others(server: Engine, scene: Scene) -> None:
    with account(server, scene.url, f"GRANT SELECT ({SOME}, tokens) ON {LOG} TO {{user}}") as ops:
        refuse_all(scene, ops, "rights on single columns alone")
        ops.grant(f"GRANT SELECT ON {LOG} TO {{user}}")
        as_account(scene, ops)
        assert scene.archive().outcome == "unchanged"


def test_an_account_that_may_only_delete_learns_what_it_may_not_read(server: Engine, scene: Scene) -> None:
    with account(server, scene.url, f"GRANT DELETE ON {LOG} TO {{user}}") as ops:
        refuse_all(scene, ops, r"\(log_id, session_id, role, content, tokens, created_at\)")


@pytest.mark.long
def test_a_right_that_was_revoked_after_the_archive_stops_the_purge(server: Engine, scene: Scene) -> None:
    with account(server, scene.url, f"GRANT SELECT, DELETE ON {LOG} TO {{user}}") as ops:
        ops.grant("GRANT PROCESS ON *.* TO {user}")
        as_root = scene.url
        as_account(scene, ops)
        scene.archive()
        ops.grant(f"REVOKE SELECT ON {LOG} FROM {{user}}")  # noqa: S608
        ops.grant(f"GRANT SELECT ({SOME}) ON {LOG} TO {{user}}")
        with pytest.raises(Refused, match=r"\(tokens\)"):
            scene.purge()
        scene.url = as_root
        assert scene.count() == 4


@pytest.mark.long
def test_names_with_signs_are_asked_for_as_they_are(server: Engine, scene: Scene) -> None:
    odd = "a `b` % :c"
    scene.run("ALTER TABLE conversation_logs ADD `a ``b`` % \\:c` text")
    with account(server, scene.url, f"GRANT SELECT ({SOME}, tokens), DELETE ON {LOG} TO {{user}}") as ops:
        as_account(scene, ops)
        with pytest.raises(Refused) as refusal:
            scene.archive()
        assert f"({odd})" in str(refusal.value)
        ops.grant(f"GRANT SELECT ON {LOG} TO {{user}}")
        assert scene.archive().outcome == "archived"


def test_a_view_is_no_log_table(server: Engine, scene: Scene) -> None:
    scene.run("CREATE VIEW seen AS SELECT * FROM conversation_logs")
    view = Scene(scene.url, scene.folder, table="seen")
    with pytest.raises(Refused, match=r"\.seen is a view.*name the table"):
        view.archive()


def test_rights_on_the_database_are_enough(server: Engine, scene: Scene) -> None:
    with account(server, scene.url, "GRANT SELECT ON {db}.* TO {user}", f"GRANT DELETE ON {LOG} TO {{user}}") as ops:
        as_account(scene, ops)
        assert scene.archive().outcome == "archived"
        assert scene.purge().deleted == 4


def test_a_right_that_everybody_has_counts(mariadb_server: Engine, mariadb_url: str, tmp_path: Path) -> None:
    scene = Scene(mariadb_url, tmp_path / "backups").create_table()
    scene.add(4)
    with account(mariadb_server, mariadb_url, f"GRANT DELETE ON {LOG} TO {{user}}") as ops:
        ops.grant("GRANT SELECT ON {db}.* TO PUBLIC")
        as_account(scene, ops)
        scene.archive()
        assert scene.purge().deleted == 4
        ops.grant("REVOKE SELECT ON {db}.* FROM PUBLIC")


def test_a_right_that_is_revoked_for_this_database_alone_is_missing(
    mysql_server: Engine, mysql_url: str, tmp_path: Path
) -> None:
    scene = Scene(mysql_url, tmp_path / "backups").create_table()
    scene.add(4)
    mysql_server.execute("SET GLOBAL partial_revokes = ON")
    try:
        with account(mysql_server, mysql_url, "GRANT SELECT, DELETE, PROCESS ON *.* TO {user}") as ops:
            ops.grant("REVOKE SELECT ON {db}.* FROM {user}", f"GRANT SELECT ({SOME}) ON {LOG} TO {{user}}")
            refuse_all(scene, ops, r"\(tokens\)")
    finally:
        mysql_server.execute("SET GLOBAL partial_revokes = OFF")


@pytest.mark.parametrize("part", ["column", "schema"])
def test_what_postgresql_lets_the_account_not_read_is_named(postgres_server: Any, tmp_path: Path, part: str) -> None:
    with postgres_server.database() as url:
        scene = Scene(url, tmp_path / "backups").create_table()
        scene.add(4)
        scene.archive()
        name = f"ops_{secrets.token_hex(4)}"
        scene.run(
            f"CREATE ROLE {name} LOGIN PASSWORD 'secret'",
            *([f"GRANT SELECT ({SOME}), DELETE ON conversation_logs TO {name}"] if part == "column" else
              [f"GRANT SELECT, DELETE ON conversation_logs TO {name}", "REVOKE USAGE ON SCHEMA public FROM PUBLIC"]),
        )  # fmt: skip
        as_root = scene.url
        scene.url = sa.make_url(url).set(username=name, password="secret").render_as_string(hide_password=False)
        wanted = (
            rf'public\.conversation_logs \(tokens\).*GRANT SELECT ON "public"\."conversation_logs" TO "{name}"'
            if part == "column" else "no such table"
        )  # fmt: skip
        for work in (scene.archive, scene.purge):
            with pytest.raises(Refused, match=wanted):
                work()
        scene.url = as_root
        assert scene.count() == 4
        scene.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_columns_that_only_an_inheriting_table_has_are_not_lost(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups").create_table()
    scene.run("CREATE TABLE alike () INHERITS (conversation_logs)")
    scene.add(4)
    scene.run(f"INSERT INTO alike (log_id, {SOME[8:]}) SELECT log_id + 10, {SOME[8:]} FROM conversation_logs")  # noqa: S608
    scene.archive()
    scene.run("CREATE TABLE later (note text) INHERITS (alike)", "UPDATE alike SET tokens = 2")
    scene.run("INSERT INTO later SELECT *, 'kept' FROM ONLY alike", "DELETE FROM ONLY alike")
    for work in (scene.archive, scene.purge):
        with pytest.raises(Refused, match=r"later\.note: rows of a table that inherits"):
            work()
    assert scene.run("SELECT DISTINCT note FROM later") == [("kept",)]


@pytest.mark.long
def test_a_restore_into_a_table_of_which_a_column_is_hidden_writes_nothing(server: Engine, scene: Scene) -> None:
    scene.archive()
    scene.remove("TRUE")
    with account(server, scene.url, f"GRANT SELECT ({SOME}), INSERT ON {LOG} TO {{user}}") as ops:
        for dry_run in (True, False):
            with pytest.raises(OperatorError, match=r"\(tokens\).*Nothing was done"):
                scene.restore(url=ops.url, dry_run=dry_run)
        assert scene.count() == 0
        ops.grant("GRANT SELECT ON {db}.* TO {user}")
        scene.restore(url=ops.url, dry_run=False)
    assert scene.count() == 4


def test_a_restore_whose_account_may_not_write_a_column_writes_nothing(server: Engine, scene: Scene) -> None:
    scene.archive()
    scene.remove("TRUE")
    with account(server, scene.url, "GRANT SELECT ON {db}.* TO {user}") as ops:
        ops.grant(f"GRANT INSERT ({SOME}) ON {LOG} TO {{user}}")
        with pytest.raises(OperatorError, match=r"can't be written to by this account.*GRANT INSERT"):
            scene.restore(url=ops.url, dry_run=False)
    assert scene.count() == 0


@pytest.mark.long
def test_status_says_what_the_account_may_not_see(
    server: Engine, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with account(server, scene.url, f"GRANT SELECT ({SOME}), DELETE ON {LOG} TO {{user}}") as ops:
        ops.grant("GRANT PROCESS ON *.* TO {user}")
        monkeypatch.setenv("DATABASE_URL", ops.url)
        assert status("DATABASE_URL").startswith("FAIL")
        assert "(tokens)" in status("DATABASE_URL")
        ops.grant(f"GRANT SELECT ON {LOG} TO {{user}}")
        assert status("DATABASE_URL").startswith("ok ")
    with another_database(server) as other, account(server, scene.url, ON_DATABASE) as ops:
        child(scene, other, "ON DELETE CASCADE")
        monkeypatch.setenv("DATABASE_URL", ops.url)
        assert status("DATABASE_URL").startswith("FAIL")
        assert "GRANT PROCESS ON *.* TO" in status("DATABASE_URL")
        scene.run(f"DROP TABLE {other}.kept")


def status(name: str) -> str:
    return next(line for line in report()[0] if line[5:].startswith(f"{name} "))


# --- tables that hang on the rows ---------------------------------------------------------------------------------


def child(scene: Scene, database: str, rule: str) -> None:
    mine = sa.make_url(scene.url).database
    scene.run(
        f"CREATE TABLE {database}.kept (id int PRIMARY KEY, log bigint, FOREIGN KEY (log) REFERENCES"
        f" {mine}.conversation_logs (log_id) {rule})",
        f"INSERT INTO {database}.kept VALUES (1, 3)",  # noqa: S608
    )


@pytest.mark.long
@pytest.mark.parametrize("rule", ["ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_a_table_of_another_database_that_is_not_seen_loses_nothing(server: Engine, scene: Scene, rule: str) -> None:
    scene.archive()
    as_root = scene.url
    with another_database(server) as other, account(server, scene.url, ON_DATABASE) as ops:
        child(scene, other, rule)
        as_account(scene, ops)
        with pytest.raises(Refused, match=r"opens \d other tables?.*GRANT PROCESS ON \*\.\* TO 'ops_"):
            scene.purge()
        assert "may not see every foreign key" in scene.purge(dry_run=True).doubt
        ops.grant("GRANT PROCESS ON *.* TO {user}")
        with pytest.raises(Refused, match=rf"{other}\.kept references rows that would go"):
            scene.purge()
        ops.grant(f"GRANT SELECT ON {other}.* TO {{user}}", "REVOKE PROCESS ON *.* FROM {user}")
        result = scene.purge()
        assert (result.deleted, dict(result.kept_referenced)) == (3, {"kept": 1})
        scene.url = as_root
        assert scene.run(f"SELECT id, log FROM {other}.kept") == [(1, 3)]  # noqa: S608
        scene.run(f"DROP TABLE {other}.kept")


@pytest.mark.long
def test_a_server_that_cascades_unseen_needs_the_right_to_its_list(tmp_path: Path) -> None:
    """As MySQL did before 9.6."""
    options = ["--innodb-native-foreign-keys=ON"]
    with MySQL(options) as server, server.database() as url, another_database(server) as other:
        scene = Scene(url, tmp_path / "backups").create_table()
        scene.add(4)
        scene.archive()
        child(scene, other, "ON DELETE CASCADE")
        with account(server, url, ON_DATABASE) as ops:
            as_account(scene, ops)
            with pytest.raises(Refused, match="GRANT PROCESS"):
                scene.purge()
        assert server.execute(f"SELECT id FROM {other}.kept") == [(1,)]  # noqa: S608
        server.execute(f"DROP TABLE {other}.kept")


@pytest.mark.long
def test_a_second_key_of_a_table_that_is_seen_is_found(server: Engine, scene: Scene) -> None:
    scene.run(
        "CREATE TABLE answers (id int PRIMARY KEY, log bigint, question bigint,"
        " FOREIGN KEY (log) REFERENCES conversation_logs (log_id) ON DELETE CASCADE,"
        " FOREIGN KEY (question) REFERENCES conversation_logs (log_id) ON DELETE CASCADE)",
        "INSERT INTO answers VALUES (1, NULL, 3)",
    )
    scene.archive()
    as_root = scene.url
    with account(server, scene.url, f"GRANT SELECT, DELETE ON {LOG} TO {{user}}") as ops:
        ops.grant("GRANT PROCESS ON *.* TO {user}", "GRANT SELECT (id, log) ON {db}.answers TO {user}")
        as_account(scene, ops)
        with pytest.raises(Refused, match=r"answers references rows that would go"):
            scene.purge()
    scene.url = as_root
    assert scene.run("SELECT id FROM answers") == [(1,)]


def test_an_account_that_sees_all_databases_needs_no_other_right(server: Engine, scene: Scene) -> None:
    scene.archive()
    with account(server, scene.url, "GRANT SELECT, DELETE ON *.* TO {user}") as ops:
        as_account(scene, ops)
        result = scene.purge()
    assert (result.deleted, result.doubt) == (4, "")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_a_delete_opens_the_tables_that_its_foreign_keys_lead_to(server: Engine, scene: Scene, seed: int) -> None:
    """Whatever the keys: the refusals above rely on this."""
    chance = random.Random(seed)
    size = 5
    rules = ["CASCADE", "NO ACTION"] if server.name == "MySQL" else ["CASCADE", "NO ACTION", "SET NULL"]
    for number in range(size):
        lower = range(number) if server.name == "MySQL" else range(number + 1)
        keys = "".join(
            f", p{n} int, FOREIGN KEY (p{n}) REFERENCES t{n} (id) ON DELETE {chance.choice(rules)}"
            f" ON UPDATE {chance.choice(['CASCADE', 'NO ACTION'])}"
            for n in lower if chance.random() < 0.6
        )  # fmt: skip
        scene.run(f"CREATE TABLE t{number} (id int PRIMARY KEY{keys})")
    with open_row_store(scene.url, "t0", UTC_ZONE) as store:
        keys = _shown(store)
        for number in range(size):
            path = f"{store.table.database}/t{number}"
            assert _opened(store, (None, f"t{number}")) == _expected(store.table.engine, keys, path)
