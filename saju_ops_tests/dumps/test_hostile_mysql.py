"""A person who can write into the store can't do anything on the server by a MySQL or MariaDB dump: neither in the
drill, which nobody asked for, nor by a restore."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.dumps.engine import ForeignToDumps
from saju_ops.dumps.mysql.allowed import Statements
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.programs import ProgramFailed
from saju_ops.errors import OperatorError
from saju_ops.storage.manifest import BackupManifest, backups
from saju_ops.upkeep.drills import dump_drills
from saju_ops_tests.dumps.hostile_scene import NOW, before, database_named, run, state, tamper
from saju_ops_tests.dumps.scene import Dumps, everything, fill, scratch_databases
from saju_ops_tests.engines import Engine, MariaDB, MySQL

PROJECT = Path(__file__).parents[2]
LIVE = "app"
# Before a table's definition, where statements of a dump stand.
MARK = b"DROP TABLE IF EXISTS `parts`;"
PAYLOADS = {
    # Statements named in the issue.
    "delete": b"DELETE FROM app.users;",
    "use": b" USE app; DROP TABLE users;",
    "user": b"CREATE USER evil@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO evil@'%';",
    # Other databases and rights.
    "delete, quoted": b"DELETE FROM `app`.`users`;",
    "use, on its own line": b"USE app;",
    "grant": b"GRANT ALL ON *.* TO CURRENT_USER() WITH GRANT OPTION;",
    "insert elsewhere": b"INSERT INTO `app`.`users` VALUES (9,'evil');",
    "insert, select": b"INSERT INTO `parent` SELECT id, name FROM app.users;",
    "insert, function": b"INSERT INTO `parent` VALUES (LOAD_FILE('/etc/passwd'));",
    "two in one": b"INSERT INTO `parent` VALUES (7,'x'); DELETE FROM app.users;",
    "two, in a comment that is executed": b"/*!40000 ALTER TABLE `parent` ENABLE KEYS; DELETE FROM app.users */;",
    "executed comment": b"/*!50001 DELETE FROM app.users */;",
    "executed comment without version": b"/*! DELETE FROM app.users */;",
    "executed comment of MariaDB": b"/*M!100000 DELETE FROM app.users */;",
    "comment in a comment": b"/*!40000 /*!50000 DELETE FROM app.users */ */;",
    "split word": b"DEL/**/ETE FROM app.users;",
    "behind a dash comment": b"-- nothing\rDELETE FROM app.users;\nDELETE FROM app.users;",
    "hash comment": b"# nothing\nDELETE FROM app.users;",
    "delimiter": b"DELIMITER $$\nDELETE FROM app.users$$\nDELIMITER ;",
    "delimiter of a routine": b"DELIMITER ;;\nDELETE FROM app.users ;;\nDELIMITER ;",
    "two in a routine": b"DELIMITER ;;\nCREATE PROCEDURE `p`()\nBEGIN END; DELETE FROM app.users ;;\nDELIMITER ;",
    "library": b"DELIMITER ;;\nCREATE FUNCTION sys_exec RETURNS INTEGER SONAME 'udf.so' ;;\nDELIMITER ;",
    "routine elsewhere": b"DELIMITER ;;\nCREATE PROCEDURE `app`.`p`() SELECT 1 ;;\nDELIMITER ;",
    "trigger elsewhere": b"DELIMITER ;;\n/*!50003 CREATE*/ /*!50003 TRIGGER app.t AFTER INSERT ON app.users FOR EACH"
    b" ROW SET @x=1 */;;\nDELIMITER ;",
    "trigger on a table of elsewhere": b"DELIMITER ;;\n/*!50003 CREATE*/ /*!50003 TRIGGER t AFTER INSERT ON app.users"
    b" FOR EACH ROW SET @x=1 */;;\nDELIMITER ;",
    "trigger, then a row": b"DELIMITER ;;\n/*!50003 CREATE*/ /*!50003 TRIGGER t AFTER INSERT ON parent FOR EACH ROW"
    b" DELETE FROM app.users */;;\nDELIMITER ;\nINSERT INTO `parent` VALUES (7,'x');",
    "view, then a row": b"/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`root`@`%` SQL SECURITY DEFINER */\n"
    b"/*!50001 VIEW `v` AS select `app`.`users`.`id` AS `id`,`app`.`users`.`name` AS `name` from `app`.`users` */;\n"
    b"INSERT INTO `v` VALUES (9,'evil');",
    "event at once": b"DELIMITER ;;\n/*!50106 CREATE*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 SECOND ENABLE DO DELETE"
    b" FROM app.users */ ;;\nDELIMITER ;",
    "event elsewhere": b"DELIMITER ;;\n/*!50106 CREATE*/ /*!50106 EVENT `app`.`e` ON SCHEDULE EVERY 1 SECOND ON"
    b" COMPLETION NOT PRESERVE ENABLE DO DELETE FROM app.users */ ;;\nDELIMITER ;",
    "table, select": b"CREATE TABLE `x` (\n  `id` int\n) ENGINE=InnoDB SELECT * FROM app.users;",
    "table, like": b"CREATE TABLE `x` (LIKE `app`.`users`);",
    "table elsewhere": b"CREATE TABLE `app`.`x` (\n  `id` int\n);",
    "reference elsewhere": b"CREATE TABLE `x` (\n  `id` int,\n  FOREIGN KEY (`id`) REFERENCES `app`.`users` (`id`)\n);",
    "union elsewhere": b"CREATE TABLE `x` (\n  `id` int\n) ENGINE=MRG_MyISAM UNION=(`app`.`users`) INSERT_METHOD=LAST;",
    "federated": b"CREATE TABLE `x` (\n  `id` int\n) ENGINE=FEDERATED CONNECTION='mysql://root@127.0.0.1/app/users';",
    "connect": b"CREATE TABLE `x` (\n  `id` int\n) ENGINE=CONNECT TABLE_TYPE=CSV FILE_NAME='/etc/passwd';",
    "directory": b"CREATE TABLE `x` (\n  `id` int\n) ENGINE=MyISAM DATA DIRECTORY='/tmp';",
    "directory, in a comment": b"CREATE TABLE `x` (\n  `id` int\n) ENGINE=MyISAM /*!40000 DATA DIRECTORY='/tmp' */;",
    "global": b"SET GLOBAL log_bin_trust_function_creators = 1;",
    "global by @@": b"SET @@GLOBAL.log_bin_trust_function_creators = 1;",
    "persist": b"SET PERSIST log_bin_trust_function_creators = 1;",
    "assigned query": b"SET @x = (SELECT COUNT(*) FROM app.users);",
    "outfile": b"SELECT 1 INTO OUTFILE '/tmp/saju_ops_evil';",
    "load data": b"LOAD DATA INFILE '/etc/passwd' INTO TABLE `parent`;",
    "prepare": b"PREPARE s FROM 'DELETE FROM app.users';",
    "execute": b"EXECUTE IMMEDIATE 'DELETE FROM app.users';",
    "call": b"CALL `app`.`clear`();",
    "handler": b"HANDLER app.users OPEN;",
    "rename": b"RENAME TABLE app.users TO app.gone;",
    "alter": b"ALTER TABLE `app`.`users` ADD COLUMN x int;",
    "lock elsewhere": b"LOCK TABLES `app`.`users` WRITE;",
    "drop database": b"/*!40000 DROP DATABASE IF EXISTS `app`*/;",
    "drop elsewhere": b"DROP TABLE IF EXISTS `app`.`users`;",
    "shell": b"\\! touch /tmp/saju_ops_evil",
    "shell, blank": b" \\! touch /tmp/saju_ops_evil",
    "shell, word": b"system touch /tmp/saju_ops_evil",
    "source": b"source /etc/passwd",
    "tee": b"tee /tmp/saju_ops_evil",
    "pager": b"pager touch /tmp/saju_ops_evil",
    "delimiter, short": b"\\d $$\nDELETE FROM app.users$$",
    "other quotes": b"SET sql_mode='ANSI_QUOTES';\nINSERT INTO `parent` VALUES (7,\"x\");\nDELETE FROM app.users;",
    "no escapes": b"SET sql_mode='NO_BACKSLASH_ESCAPES';\nINSERT INTO `parent` VALUES (7,'\\'),(8,'); DELETE FROM"
    b" app.users;-- ');",
    "another character set": b"SET NAMES gbk;\nINSERT INTO `parent` VALUES (7,'\xbf\\'),(8,'); DELETE FROM"
    b" app.users;-- ');",
    "introduced character set": b"INSERT INTO `parent` VALUES (7,_gbk'\xbf\\'),(8,'); DELETE FROM app.users;-- ');",
    "NUL": b"DELETE\0FROM app.users;",
    "without an end": b"DELETE FROM app.users",
}


@pytest.fixture(params=["mysql", "mariadb"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Dumps, bytes]]:
    server: Engine = request.getfixturevalue(f"{request.param}_server")
    with database_named(server, LIVE) as live, database_named(server, f"hostile_{request.param}") as url:
        run(live, "CREATE TABLE users (id int PRIMARY KEY, name varchar(20))", "INSERT INTO users VALUES (1, 'kim')")
        run(live, "CREATE PROCEDURE clear() DELETE FROM users")
        fill(url)
        dumps = Dumps(url, tmp_path)
        result = dumps.take()
        assert result.proven, result.message
        yield server, dumps, dumps.content(result)


# What some server doesn't execute at all; what is a form of a dump's, and one statement more for no server.
NOT_EXECUTED = {("mysql", "executed comment of MariaDB")}
OF_THE_SERVER = {"two in a routine"}
# Through the drill of `verify` and a restore, each with its manifest made to agree.
IN_FULL = (
    "delete", "use", "user", "executed comment", "delimiter", "trigger, then a row", "view, then a row",
    "event elsewhere", "shell, blank", "two in a routine",
)  # fmt: skip


@pytest.mark.long
def test_no_statement_of_a_changed_dump_is_executed(scene: tuple[Engine, Dumps, bytes]) -> None:
    server, dumps, content = scene
    evil = Path("/tmp/saju_ops_evil")
    evil.unlink(missing_ok=True)
    was, live, wrong = state(server, LIVE), everything(dumps.url), []
    with open_engine(dumps.url).scratch(None, datetime.now(UTC)) as scratch:
        for name, payload in PAYLOADS.items():
            if (scratch.engine, name) in NOT_EXECUTED:
                continue
            changed = content + payload if name == "without an end" else before(content, MARK, payload)
            refused = (ForeignToDumps, ProgramFailed) if name in OF_THE_SERVER else ForeignToDumps
            with suppress(refused):
                scratch.load(iter([changed]), dumps.url.database or "", drill=True)
                wrong.append(name)
    assert wrong == []
    assert everything(dumps.url) == live
    assert not evil.exists()
    now = state(server, LIVE)
    assert {k: (was[k], v) for k, v in now.items() if was[k] != v} == {}


@pytest.mark.long
def test_a_changed_dump_is_a_failed_drill_and_is_not_restored(scene: tuple[Engine, Dumps, bytes]) -> None:
    server, dumps, content = scene
    result, was, live = _only(dumps), state(server, LIVE), everything(dumps.url)
    with database_named(server, "hostile_into") as into:
        for name in IN_FULL:
            tamper(dumps, result, before(content, MARK, PAYLOADS[name]))
            (drill,) = dump_drills(dumps.storage, [dumps.url], [], now=NOW)
            assert drill.tried, name
            assert not drill.passed, name
            assert name in OF_THE_SERVER or "no dump program writes" in drill.text, (name, drill.text)
            with pytest.raises(OperatorError):
                dumps.restore(into, replace="hostile_into")
            if name not in OF_THE_SERVER:
                assert everything(into) == {}, name
    assert everything(dumps.url) == live
    now = state(server, LIVE)
    assert {k: (was[k], v) for k, v in now.items() if was[k] != v} == {}
    assert scratch_databases(server) == []


def _only(dumps: Dumps) -> BackupManifest:
    (manifest,) = backups(dumps.storage, "database_dump")
    return manifest


@pytest.mark.long
def test_what_runs_in_a_drill_has_rights_on_its_scratch_database_alone(scene: tuple[Engine, Dumps, bytes]) -> None:
    """Were a statement allowed that should not be, it would still be the drill's user's."""
    server, dumps, _ = scene
    with open_engine(dumps.url).scratch(None, datetime.now(UTC)) as scratch:
        assert scratch.url.username != dumps.url.username
        with connect(scratch.url).connect() as connection:
            for statement in (
                "DELETE FROM app.users", "SELECT * FROM mysql.user", "CREATE DATABASE more", "CALL app.clear()",
                "SET GLOBAL max_connections = 5", "SELECT * FROM app.users", "CREATE USER evil",
            ):  # fmt: skip
                with pytest.raises(sa.exc.DBAPIError, match="denied"):
                    connection.exec_driver_sql(statement)
        name = scratch.url.username
    assert name not in [user for user, _ in state(server, LIVE)["users"]]


@pytest.mark.long
def test_a_view_of_another_database_is_named_and_not_tried(scene: tuple[Engine, Dumps, bytes]) -> None:
    _, dumps, _ = scene
    run(dumps.url.render_as_string(hide_password=False), "CREATE VIEW abroad AS SELECT id FROM app.users",
        "CREATE VIEW over_it AS SELECT id FROM abroad")  # fmt: skip
    result = dumps.take()
    assert result.proven, result.message
    assert any("abroad" in sentence and "not tried" in sentence for sentence in result.drill.left_out)


@pytest.mark.long
@pytest.mark.parametrize("kind", [MySQL, MariaDB])
def test_with_a_binary_log_triggers_and_functions_are_proven_too(kind: type[Engine], tmp_path: Path) -> None:
    with kind(["--log-bin=binlog", "--server-id=3"]) as server, server.database() as url:
        fill(url)
        result = Dumps(url, tmp_path).take()
        assert result.proven, result.message
        assert result.contents.definitions["trigger before_parts"]


@pytest.mark.long
def test_the_user_of_a_killed_drill_is_dropped_by_a_later_one(scene: tuple[Engine, Dumps, bytes]) -> None:
    server, dumps, _ = scene
    code = (
        "import sys, time; from datetime import datetime, UTC; import sqlalchemy as sa;"
        "from saju_ops.dumps.open import open_engine\n"
        "with open_engine(sa.make_url(sys.argv[1])).scratch(None, datetime.now(UTC)) as s:\n"
        "    print(s.url.username, flush=True); time.sleep(60)"
    )
    url = dumps.url.render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-c", code, url], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert name in [user for user, _ in state(server, LIVE)["users"]]
    with open_engine(dumps.url).scratch(None, datetime.now(UTC) + timedelta(days=2)):
        assert name not in [user for user, _ in state(server, LIVE)["users"]]
        assert len(scratch_databases(server)) == 1


@pytest.mark.long
@pytest.mark.parametrize("named", [True, False])
def test_an_account_that_may_make_no_user_and_has_rights_elsewhere_is_not_used(
    scene: tuple[Engine, Dumps, bytes], named: bool
) -> None:
    server, dumps, _ = scene
    account = "drill@'127.0.0.1'"
    server.execute(f"DROP USER IF EXISTS {account}", f"CREATE USER {account} IDENTIFIED BY 'long enough'")
    server.execute(rf"GRANT ALL ON `saju\_ops\_drill\_%`.* TO {account}", f"GRANT SELECT ON app.* TO {account}")
    url = sa.make_url(server.url).set(username="drill", password="long enough")
    try:
        if not named:
            url = dumps.url.set(username="drill", password="long enough")
            server.execute(f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON {dumps.url.database}.* TO {account}")
            kept = "SELECT ON mysql.proc" if server.name == "MariaDB" else "SHOW_ROUTINE ON *.*"
            server.execute(f"GRANT {kept} TO {account}")
        source = dumps.url if named else url
        result = Dumps(source.render_as_string(hide_password=False), dumps.folder / "x").take(
            **({"drill_servers": (url,)} if named else {})
        )
        assert not result.proven
        assert "GRANT CREATE USER ON *.* TO 'drill'@'127.0.0.1'" in result.drill.why_not
        assert ("SELECT ON app.*" in result.drill.why_not) is named
        if named:
            server.execute(f"REVOKE SELECT ON app.* FROM {account}")
            proven = Dumps(source.render_as_string(hide_password=False), dumps.folder / "y").take(drill_servers=(url,))
            assert proven.proven, proven.message
    finally:
        server.execute(f"DROP USER {account}")


@pytest.mark.long
def test_events_are_restored_switched_off_and_named(scene: tuple[Engine, Dumps, bytes]) -> None:
    server, dumps, _ = scene
    with database_named(server, "hostile_into") as into:
        (note,) = dumps.restore(into).left_out
        assert "ALTER EVENT `sweeping` ENABLE" in note
        assert server.execute("SELECT STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'hostile_into'") == [
            ("DISABLED",)
        ]


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_statements_are_the_same_wherever_the_chunks_end(size: int, scene: tuple[Engine, Dumps, bytes]) -> None:
    _, dumps, content = scene
    engine = open_engine(dumps.url)
    version = {"mysql": 90704, "mariadb": 101106}[engine.engine]

    def read(step: int) -> list[bytes]:
        parser = Statements(engine.database, "x", mariadb=engine.engine == "mariadb", version=version)
        return [s.sql for s in parser.read(content[i : i + step] for i in range(0, len(content), step))]

    assert read(size) == read(len(content))


# --- a table of the database's own name -------------------------------------------------------------------------


@pytest.mark.long
def test_views_on_a_table_of_the_databases_own_name_are_proven_and_restored(
    scene: tuple[Engine, Dumps, bytes], tmp_path: Path
) -> None:
    server, _, _ = scene
    with database_named(server, "jobs") as url, database_named(server, "jobs_restored") as into:
        run(
            url,
            "CREATE TABLE jobs (id int PRIMARY KEY, created datetime, name varchar(20))",
            "CREATE TABLE users (id int PRIMARY KEY, job_id int)",
            "INSERT INTO jobs VALUES (1, '2026-01-02', 'x')",
            "INSERT INTO users VALUES (1, 1)",
            "CREATE FUNCTION adding(a int) RETURNS int DETERMINISTIC RETURN a + 1",
            "CREATE VIEW seen AS SELECT jobs.id, EXTRACT(YEAR FROM jobs.created) AS y, jobs.adding(jobs.id) AS n,"
            " TRIM(LEADING 'x' FROM jobs.name) AS t FROM jobs",
            "CREATE VIEW joined AS SELECT jobs.id, users.id AS user_id FROM jobs JOIN users ON users.job_id = jobs.id",
            "CREATE VIEW whole AS SELECT jobs.jobs.id FROM jobs.jobs WHERE EXISTS (SELECT 1 FROM jobs.users AS jobs2"
            " WHERE jobs2.job_id = jobs.jobs.id)",
            "CREATE VIEW aliased AS SELECT jobs.id FROM users AS jobs",
            "CREATE TRIGGER jobs.touched BEFORE UPDATE ON jobs.jobs FOR EACH ROW SET NEW.name = NEW.name",
        )
        dumps = Dumps(url, tmp_path / "jobs")
        result = dumps.take()
        assert result.proven, result.message
        dumps.restore(into)
        assert everything(into) == everything(url)
        dumps.restore(replace="jobs")
        assert everything(into) == everything(url)


# --- nothing is emptied before it is known that the dump loads -----------------------------------------------------


@pytest.mark.long
def test_an_unproven_dump_that_does_not_load_leaves_the_target_as_it_was(scene: tuple[Engine, Dumps, bytes]) -> None:
    server, dumps, content = scene
    result = _only(dumps)
    # A form that is a dump's, and that no server takes.
    tamper(dumps, result, content.replace(b"`v` varchar(10)", b"`v` varchra(10)", 1))
    live = everything(dumps.url)
    with pytest.raises(OperatorError, match=r"could not be tried beside .* Nothing was touched"):
        dumps.restore(replace=dumps.url.database, unproven=True)
    assert everything(dumps.url) == live
    assert scratch_databases(server) == []


@pytest.mark.long
def test_where_no_trial_is_possible_a_target_is_emptied_only_on_request(scene: tuple[Engine, Dumps, bytes]) -> None:
    server, dumps, _ = scene
    name, account = dumps.url.database, "owner@'127.0.0.1'"
    server.execute(f"DROP USER IF EXISTS {account}", f"CREATE USER {account} IDENTIFIED BY 'long enough'",
                   f"GRANT ALL ON {name}.* TO {account}", f"GRANT {_definers(server)} ON *.* TO {account}")  # fmt: skip
    if server.name == "MariaDB":
        server.execute(f"GRANT SELECT ON mysql.proc TO {account}")
    owner = dumps.url.set(username="owner", password="long enough").render_as_string(hide_password=False)
    live = everything(dumps.url)
    try:
        with pytest.raises(OperatorError, match="--without-trial"):
            dumps.restore(owner, replace=name)
        assert everything(dumps.url) == live
        run(dumps.url.render_as_string(hide_password=False), "DROP TABLE empty_one")
        dumps.restore(owner, replace=name, without_trial=True)
        assert everything(dumps.url) == live
    finally:
        server.execute(f"DROP USER {account}")


def _definers(server: Engine) -> str:
    return "SET USER" if server.name == "MariaDB" else "SET_ANY_DEFINER, SYSTEM_USER, SHOW_ROUTINE"


def test_a_postgresql_dump_that_does_not_load_leaves_the_target_as_it_was(postgres_url: str, tmp_path: Path) -> None:
    fill(postgres_url)
    dumps = Dumps(postgres_url, tmp_path)
    content = dumps.content(dumps.take())
    tamper(dumps, _only(dumps), content.replace(b"v character varying(10)", b"v charakter varying(10)", 1))
    live = everything(dumps.url)
    with pytest.raises(OperatorError, match="Nothing was touched"):
        dumps.restore(replace=dumps.url.database, unproven=True)
    assert everything(dumps.url) == live
