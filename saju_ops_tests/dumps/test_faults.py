"""A failure of a dump is noticed, leaves nothing that looks like a backup, and touches nobody else's data."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect, parse_database_url
from saju_ops.dumps import programs as dump_process
from saju_ops.dumps.drill import drill_stored
from saju_ops.dumps.engine import DrillNotPossible, DumpSpoilt, scratch_name
from saju_ops.dumps.mysql import engine as dump_mysql
from saju_ops.dumps.mysql import taking
from saju_ops.dumps.mysql.engine import MySQLDumps
from saju_ops.dumps.mysql.rights import missing_rights
from saju_ops.dumps.mysql.taking import MySQLTaking
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.pack import Packed, unpacked
from saju_ops.dumps.postgres.engine import PostgresTaking
from saju_ops.dumps.programs import Output, Program, words_of
from saju_ops.dumps.sqlite import SQLiteDumps
from saju_ops.dumps.take import dump_databases
from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused
from saju_ops.local_state import one_at_a_time
from saju_ops.storage.local import _LocalWriter
from saju_ops_tests.dumps.scene import (
    AT_THREE,
    Dumps,
    everything,
    fill,
    options,
    oracle,
    oracle_clients,
    scratch_databases,
)
from saju_ops_tests.engines import Engine, MariaDB

__all__ = ["oracle"]
PROJECT = Path(__file__).parents[2]


def run_sql(url: str, *statements: str) -> None:
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


# --- a cut or altered file -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("password", [None, "correct horse battery staple"])
def test_a_dump_cut_anywhere_is_found(mariadb_url: str, tmp_path: Path, password: str | None) -> None:
    fill(mariadb_url)
    dumps = Dumps(mariadb_url, tmp_path, password)
    m = dumps.take().manifest
    whole = (dumps.folder / m.file).read_bytes()
    packed = Packed(m.content_sha256, m.content_bytes, m.stored_sha256, m.stored_bytes)
    places = {0, 1, 10, 18, len(whole) // 2, len(whole) - 9, len(whole) - 8, len(whole) - 1}
    places |= set(random.Random(1).sample(range(len(whole)), 60))
    for place in sorted(places):
        cut = dumps.folder / "cut"
        cut.write_bytes(whole[:place])
        with pytest.raises((ProofFailed, Refused)):
            list(unpacked(cut.open("rb"), packed, m.encryption, password, m.file))
    for place in sorted(places - {len(whole)})[:40]:
        bad = dumps.folder / "bad"
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((ProofFailed, Refused)):
            list(unpacked(bad.open("rb"), packed, m.encryption, password, m.file))
    longer = dumps.folder / "longer"
    longer.write_bytes(whole + b"\0")
    with pytest.raises((ProofFailed, Refused)):
        list(unpacked(longer.open("rb"), packed, m.encryption, password, m.file))


@pytest.mark.long
@pytest.mark.parametrize("where", ["statement", "line", "middle", "completion", "header"])
def test_a_program_that_ends_early_but_well_makes_no_dump(
    where: str, mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut that restores with exit status 0: at the end of a statement."""
    fill(mariadb_url)
    whole = Dumps(mariadb_url, tmp_path / "whole").take()
    text = Dumps(mariadb_url, tmp_path / "whole").content(whole)
    place = {
        "statement": text.index(b"UNLOCK TABLES;\n") + 15,
        "line": text.index(b"\n", len(text) // 2) + 1,
        "middle": len(text) // 2,
        "completion": text.index(b"\n-- Dump completed"),
        "header": 200,
    }[where]
    cut = tmp_path / "cut.sql"
    cut.write_bytes(text[:place])
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    fake = fakes / "mariadb-dump"
    known = '*--version*) echo "Distrib 10.11-MariaDB";; *--help*) ;;'
    fake.write_text(f'#!/bin/sh\ncase "$*" in {known} *) cat {cut};; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}{os.pathsep}{os.environ['PATH']}")
    dumps = Dumps(mariadb_url, tmp_path)
    with pytest.raises(DumpSpoilt, match="not whole"):
        dumps.take(tries=1)
    assert dumps.files() == []


def test_a_pg_dump_whose_last_line_is_missing_makes_no_dump(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_url)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    real, fake = shutil.which("pg_dump"), fakes / "pg_dump"
    fake.write_text(f"#!/bin/sh\n{real} \"$@\" | sed '/^-- PostgreSQL database dump complete/,$d'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}{os.pathsep}{os.environ['PATH']}")
    dumps = Dumps(postgres_url, tmp_path)
    with pytest.raises(DumpSpoilt, match="not whole"):
        dumps.take(tries=1)
    assert dumps.files() == []


def test_rows_that_are_missing_in_a_whole_looking_dump_are_found(
    mariadb_url: str, mariadb_server: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mariadb_url)
    original = MySQLTaking.chunks

    def lossy(self: MySQLTaking) -> Iterator[bytes]:
        for chunk in original(self):
            yield chunk.replace(b"('twice',1),\n", b"", 1)

    monkeypatch.setattr(MySQLTaking, "chunks", lossy)
    dumps = Dumps(mariadb_url, tmp_path)
    with pytest.raises(ProofFailed, match=r"table no_key has 2 rows, 3 are right"):
        dumps.take()
    assert dumps.files() == []
    assert scratch_databases(mariadb_server) == []


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres", "sqlite"])
def test_a_value_that_changes_on_the_way_is_found(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    fill(url)
    module = {"mariadb": "mysql.taking.MySQLTaking", "postgres": "postgres.engine.PostgresTaking"}.get(
        engine, "sqlite.SQLiteTaking"
    )
    import importlib

    name, _, attribute = module.rpartition(".")
    taking = getattr(importlib.import_module(f"saju_ops.dumps.{name}"), attribute)
    original, true, false = taking.chunks, "부모".encode(), "부무".encode()
    monkeypatch.setattr(taking, "chunks", lambda self: (c.replace(true, false) for c in original(self)))
    dumps = Dumps(url, tmp_path)
    with pytest.raises(ProofFailed, match="parent has the right number of rows and another checksum"):
        dumps.take()
    assert dumps.files() == []


def test_a_definition_that_changes_on_the_way_is_found(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_url)
    with connect(parse_database_url(postgres_url)).begin() as connection:
        connection.exec_driver_sql("CREATE VIEW doubled AS SELECT 2 AS two")
    original, change = PostgresTaking.chunks, (b"SELECT 2 AS two", b"SELECT 3 AS two")
    monkeypatch.setattr(PostgresTaking, "chunks", lambda self: (c.replace(*change) for c in original(self)))
    dumps = Dumps(postgres_url, tmp_path)
    with pytest.raises(ProofFailed, match=r"view public\.doubled is defined differently"):
        dumps.take()
    assert dumps.files() == []


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres"])
def test_a_dump_that_the_server_will_not_take_is_not_kept_as_unproven(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    fill(url)
    taking: Any = MySQLTaking if engine == "mariadb" else PostgresTaking
    original = taking.chunks
    broken = (b"CREATE TABLE", b"CREATE TABEL")
    monkeypatch.setattr(taking, "chunks", lambda self: (c.replace(*broken) for c in original(self)))
    dumps = Dumps(url, tmp_path)
    with pytest.raises(ProofFailed, match=r"it can't be restored: .* It was not kept"):
        dumps.take()
    assert dumps.files() == []


def test_a_dump_of_which_no_restore_can_be_tried_is_read_back_all_the_same(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)

    @contextmanager
    def nowhere(*_: object) -> Iterator[Any]:
        raise DrillNotPossible("there is no room")
        yield

    monkeypatch.setattr(SQLiteDumps, "scratch", nowhere)
    assert not dumps.take().proven
    kept, original = dumps.names(), _LocalWriter.read_back

    def flipped(writer: _LocalWriter) -> Any:
        with original(writer) as stream:
            data = bytearray(stream.read())
        data[len(data) // 2] ^= 1
        return io.BytesIO(data)

    monkeypatch.setattr(_LocalWriter, "read_back", flipped)
    with pytest.raises(ProofFailed):
        dumps.take()
    assert dumps.names() == kept


def test_two_runs_over_the_same_storage_do_not_dump_at_once(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    with one_at_a_time(f"dumps in {dumps.storage.uri}database/"):
        with pytest.raises(Busy, match="Another run works on dumps in"):
            dump_databases([dumps.url], dumps.storage, options())
    assert dumps.files() == []


# --- a DDL meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "ddl", ["ALTER TABLE no_key ADD COLUMN more int", "TRUNCATE TABLE no_key", "DROP VIEW seen"], ids=lambda s: s[:8]
)
@pytest.mark.parametrize("engine", ["mariadb", "postgres"])
def test_a_ddl_during_the_dump_makes_it_be_taken_again(
    ddl: str, engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    fill(url)
    dumps = Dumps(url, tmp_path)
    done = []
    from saju_ops.dumps.take import _Dump

    original = _Dump._stream

    def stream(self, taking, writer, file):  # type: ignore[no-untyped-def]
        packed = original(self, taking, writer, file)
        if not done:
            done.append(ddl)
            if engine == "postgres":
                # pg_dump held its locks until it ended.
                run_sql(url, ddl)
            else:
                taking._after.rollback()
                run_sql(url, ddl)
        return packed

    monkeypatch.setattr(_Dump, "_stream", stream)
    result = dumps.take()
    assert done
    assert result.tries == 2
    assert result.proven
    assert any("changed while it was dumped" in said for said in dumps.said)
    assert len(dumps.names()) == 2


# --- killed ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_killed_dump_program_leaves_nothing(mariadb_url: str, tmp_path: Path) -> None:
    fill(mariadb_url)
    run_sql(mariadb_url, "INSERT INTO no_key SELECT 'many', seq FROM seq_1_to_400000")
    dumps = Dumps(mariadb_url, tmp_path)
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            for process in psutil.Process().children():
                try:
                    if "mariadb-dump" in process.name() and "--defaults-file" in " ".join(process.cmdline()):
                        process.kill()
                except psutil.Error:
                    continue
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(OperatorError, match="SIGKILL"):
            dumps.take()
    finally:
        stop.set()
        killer.join()
    assert dumps.files() == []


@pytest.mark.long
def test_a_killed_run_leaves_no_backup_and_the_next_one_cleans_up(
    mariadb_url: str, mariadb_server: Engine, tmp_path: Path
) -> None:
    """SIGKILL at many instants: no manifest, no named file; what the drill left is dropped a day later."""
    fill(mariadb_url)
    run_sql(mariadb_url, "INSERT INTO no_key SELECT 'many', seq FROM seq_1_to_60000")
    code = (
        "import sys; from saju_ops_tests.dumps.scene import Dumps; from pathlib import Path;"
        "print('ready', flush=True); print(Dumps(sys.argv[1], Path(sys.argv[2])).take().proven, flush=True)"
    )
    dumps = Dumps(mariadb_url, tmp_path)
    for delay in (0.05, 0.25, 0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", code, mariadb_url, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        manifests = [n for n in dumps.names() if n.endswith(".manifest.json")]
        assert len(manifests) * 2 == len(dumps.names()) or len(dumps.names()) - len(manifests) <= 1
    left = scratch_databases(mariadb_server)
    engine = open_engine(sa.make_url(mariadb_url))
    with engine.scratch(None, AT_THREE + timedelta(hours=1)):
        assert set(left) <= set(scratch_databases(mariadb_server)), "younger than a day: may still be in use"
    with engine.scratch(None, AT_THREE + timedelta(days=2)):
        assert not set(left) & set(scratch_databases(mariadb_server))


@pytest.mark.long
@pytest.mark.parametrize("server", ["mariadb", "postgres"])
def test_only_old_databases_of_our_own_are_dropped(server: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(f"{server}_server")
    url = request.getfixturevalue(f"{server}_url")
    old = scratch_name(datetime(2026, 1, 1, tzinfo=UTC))
    somebodys = "saju_ops_drill_mine"
    filled = scratch_name(datetime(2026, 1, 2, tzinfo=UTC))
    # Another run's, which may be at work still.
    young = scratch_name(datetime.now(UTC) - timedelta(hours=23))
    for name in (old, somebodys, filled, young):
        engine.execute(f"CREATE DATABASE {name}")
    # A database with our name, without our mark, and with something in it belongs to somebody else.
    if server == "postgres":
        engine.execute(f"COMMENT ON DATABASE {filled} IS 'in use'")
    else:
        engine.execute(f"CREATE TABLE {filled}.precious (id int)")
    try:
        with open_engine(sa.make_url(url)).scratch(None, datetime.now(UTC)) as scratch:
            assert scratch_databases(engine) == sorted([somebodys, filled, young, scratch.database])
        assert scratch_databases(engine) == sorted([somebodys, filled, young])
    finally:
        for name in (somebodys, filled, young):
            engine.execute(f"DROP DATABASE {name}")


# --- the drill stays in its own database -----------------------------------------------------------------------


@pytest.mark.long
def test_the_drill_does_not_change_the_database_that_it_copies(
    mysql_url: str, mysql_server: Engine, tmp_path: Path, oracle: None
) -> None:
    """mysqldump names the source in ALTER DATABASE lines when a routine is older than the database's collation; and
    a copied event would run, in the copy, with the source's name in it."""
    name = sa.make_url(mysql_url).database
    run_sql(
        mysql_url,
        "CREATE TABLE kept (id int PRIMARY KEY)",
        "INSERT INTO kept VALUES (1), (2)",
        f"ALTER DATABASE {name} CHARACTER SET latin1",
        "CREATE PROCEDURE older() SELECT 1",
        "CREATE TRIGGER old_trigger BEFORE INSERT ON kept FOR EACH ROW SET NEW.id = NEW.id",
        f"ALTER DATABASE {name} CHARACTER SET utf8mb4",
        f"CREATE EVENT eater ON SCHEDULE EVERY 1 SECOND STARTS '2037-01-01' ENABLE DO DELETE FROM {name}.kept",
    )
    before = mysql_server.execute(f"SELECT * FROM information_schema.schemata WHERE schema_name = '{name}'")
    dumps = Dumps(mysql_url, tmp_path)
    result = dumps.take()
    assert b"ALTER DATABASE" in dumps.content(result), "the dump names no database: the test would prove nothing"
    assert result.proven, result.message
    assert mysql_server.execute(f"SELECT * FROM information_schema.schemata WHERE schema_name = '{name}'") == before
    assert everything(mysql_url)["kept"] == ["(1,)", "(2,)"]
    seen = []
    with open_engine(sa.make_url(mysql_url)).scratch(None, datetime.now(UTC)) as scratch:
        scratch.load(iter([dumps.content(result)]), str(name), drill=True)
        with connect(scratch.url).connect() as connection:
            seen = connection.exec_driver_sql(
                "SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()"
            ).all()
    assert [tuple(r) for r in seen] == [("eater", "DISABLED")]


@pytest.mark.long
@pytest.mark.parametrize(
    "line",
    [
        b"USE production;", b"CREATE DATABASE x;", b"DROP DATABASE production;", b"use production;",
        b"ALTER DATABASE `production` CHARACTER SET latin1 COLLATE latin1_swedish_ci ;",
        b"/*!40000 DROP DATABASE IF EXISTS `x`*/;",
    ],
)  # fmt: skip
def test_a_line_that_leaves_the_database_is_refused(line: bytes, mariadb_url: str, mariadb_server: Engine) -> None:
    dump = b"CREATE TABLE a (id int);\n" + line + b"\nDROP TABLE a;\n-- Dump completed\n"
    with open_engine(sa.make_url(mariadb_url)).scratch(None, datetime.now(UTC)) as scratch:
        with pytest.raises(Refused, match="leaves its database"):
            scratch.load(iter([dump]), "app", drill=True)
    assert scratch_databases(mariadb_server) == []


def test_psqls_own_commands_are_refused(postgres_url: str) -> None:
    with open_engine(sa.make_url(postgres_url)).scratch(None, datetime.now(UTC)) as scratch:
        with pytest.raises(Refused, match="command of psql"):
            scratch.load(iter([b"CREATE TABLE a (id int);\n\\connect template1\n"]), "app", drill=True)


def test_a_foreign_key_into_another_database_forbids_a_copy_on_the_same_server(
    mariadb_server: Engine, mariadb_url: str, tmp_path: Path
) -> None:
    with mariadb_server.database() as other:
        run_sql(other, "CREATE TABLE parent (id int PRIMARY KEY)")
        run_sql(
            mariadb_url,
            f"CREATE TABLE child (id int, FOREIGN KEY (id) REFERENCES {sa.make_url(other).database}.parent (id))",
        )
        result = Dumps(mariadb_url, tmp_path).take()
        run_sql(mariadb_url, "DROP TABLE child")
    assert not result.proven
    assert "RESTORE_DRILL_URL" in result.message


# --- no drill possible -------------------------------------------------------------------------------------------


def test_without_the_right_to_a_scratch_database_the_dump_is_kept_and_unproven(
    mariadb_server: Engine, mariadb_url: str, tmp_path: Path
) -> None:
    fill(mariadb_url)
    name = sa.make_url(mariadb_url).database
    mariadb_server.execute(
        "CREATE OR REPLACE USER small@'127.0.0.1' IDENTIFIED BY 'long enough'",
        f"GRANT ALL ON {name}.* TO small@'127.0.0.1'", "GRANT SELECT ON mysql.proc TO small@'127.0.0.1'",
    )  # fmt: skip
    url = sa.make_url(mariadb_url).set(username="small", password="long enough")
    dumps = Dumps(url.render_as_string(hide_password=False), tmp_path)
    try:
        result = dumps.take()
        assert not result.proven
        assert "Grant ALL ON" in result.message
        assert "RESTORE_DRILL_URL" in result.message
        assert not result.manifest.proven
        with pytest.raises(Refused, match="none was ever proven"):
            dumps.restore(dry_run=True)
        # With a server where it is possible, the same user's dump is proven.
        assert dumps.take(drill_servers=(sa.make_url(mariadb_server.url),)).proven
    finally:
        mariadb_server.execute("DROP USER small@'127.0.0.1'")


@pytest.mark.long
@pytest.mark.parametrize(
    ("rights", "unseen"),
    [
        ("SELECT, SHOW VIEW, EVENT, EXECUTE", "triggers (TRIGGER)"),
        ("SELECT, SHOW VIEW, EVENT, TRIGGER", "routines (SELECT on mysql.proc)"),
        ("SELECT, SHOW VIEW, EVENT, TRIGGER, EXECUTE", ""),
    ],
)
def test_a_dump_by_a_user_who_sees_only_a_part_is_never_proven(
    rights: str, unseen: str, mariadb_server: Engine, mariadb_url: str, tmp_path: Path
) -> None:
    run_sql(mariadb_url, "CREATE TABLE t (id int)", "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.id = 1")
    if not unseen:
        run_sql(mariadb_url, "DROP TRIGGER tr")  # a drill by this user may not make it
    else:
        run_sql(mariadb_url, "CREATE PROCEDURE doing() SELECT 1")
    mariadb_server.execute(
        "CREATE OR REPLACE USER partly@'127.0.0.1' IDENTIFIED BY 'long enough'",
        f"GRANT {rights} ON {sa.make_url(mariadb_url).database}.* TO partly@'127.0.0.1'",
        *(["GRANT SELECT ON mysql.proc TO partly@'127.0.0.1'"] if "TRIGGER)" in unseen else []),
    )
    url = sa.make_url(mariadb_url).set(username="partly", password="long enough")
    try:
        result = Dumps(url.render_as_string(hide_password=False), tmp_path).take(
            drill_servers=(sa.make_url(mariadb_server.url),)
        )
    finally:
        mariadb_server.execute("DROP USER partly@'127.0.0.1'")
    assert result.proven is not bool(unseen), result.message
    assert unseen in result.message


ALL_OF_IT = "GRANT SELECT, TRIGGER, EVENT, EXECUTE ON {} TO `u`@`h`"


@pytest.mark.parametrize(
    ("grants", "engine", "unseen"),
    [
        ([ALL_OF_IT.format("`my_db`.*")], "mysql", ""),
        ([ALL_OF_IT.format(r"`my\_db`.*")], "mysql", ""),
        ([ALL_OF_IT.format("`m%`.*")], "mysql", ""),
        ([ALL_OF_IT.format("*.*")], "mysql", ""),
        (['GRANT ALL PRIVILEGES ON "my_db".* TO "u"@"h" WITH GRANT OPTION'], "mariadb", ""),
        ([ALL_OF_IT.format(r"`my\_d_`.*")], "mysql", ""),
        ([ALL_OF_IT.format("`myxdb`.*")], "mysql", "tables (SELECT), triggers (TRIGGER), events (EVENT), routines"),
        ([ALL_OF_IT.format("`my_db`.`logs`")], "mysql", "tables (SELECT), triggers"),
        (["GRANT EXECUTE ON PROCEDURE `my_db`.`p` TO `u`@`h`"], "mysql", "tables (SELECT), triggers"),
        (["GRANT SELECT, TRIGGER, EVENT ON *.* TO `u`@`h`"], "mysql", ""),
        (["GRANT SELECT, TRIGGER, EVENT ON `my_db`.* TO `u`@`h`"], "mysql", "routines (SHOW_ROUTINE)"),
        (["GRANT SELECT, TRIGGER, EVENT ON `my_db`.* TO `u`@`h`", "GRANT SHOW_ROUTINE ON *.* TO `u`@`h`"], "mysql", ""),
        ([ALL_OF_IT.format("*.*"), "REVOKE SELECT ON `my_db`.* FROM `u`@`h`"], "mysql", "tables (SELECT)"),
        ([ALL_OF_IT.format("*.*"), "REVOKE SELECT ON `other`.* FROM `u`@`h`"], "mysql", ""),
    ],
)
def test_grants_say_what_a_user_might_not_see(grants: list[str], engine: str, unseen: str) -> None:
    found = missing_rights(["GRANT USAGE ON *.* TO `u`@`h`", *grants], "my_db", engine)
    assert found.startswith(unseen)
    assert bool(found) is bool(unseen)


@pytest.mark.long
def test_a_drill_on_a_server_of_another_kind_says_so(mysql_server: Engine, mariadb_url: str, tmp_path: Path) -> None:
    fill(mariadb_url)
    result = Dumps(mariadb_url, tmp_path).take(drill_servers=(sa.make_url(mysql_server.url),))
    assert not result.proven
    assert "can only be tried on mariadb" in result.message


def test_a_missing_program_is_named(mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError, match="mariadb-dump or mysqldump, and none of them is on PATH"):
        Dumps(mariadb_url, tmp_path).take()


def test_the_operators_own_environment_says_nothing_to_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGOPTIONS", "PGSERVICE", "MYSQL_HOST", "MARIADB_HOST", "MYSQL_TEST_LOGIN_FILE"):
        monkeypatch.setenv(name, "the operator's")
    with Output(Program(["/usr/bin/env"], {"PGTZ": "UTC"})) as output:
        printed = b"".join(iter(output.read, b"")).decode()
        output.finish()
    assert "the operator's" not in printed
    assert "PGTZ=UTC" in printed


def test_a_programs_message_is_shown_without_values() -> None:
    said = words_of("ERROR 1062 (23000) at line 5: Duplicate entry '홍길동-010-1234-5678' for key 'users.PRIMARY'")
    assert "Duplicate entry" in said
    assert "홍길동" not in said
    assert "'bob'@'h'" in words_of("ERROR 1045 (28000): Access denied for user 'bob'@'h' (using password: YES)")
    assert "값" not in words_of('psql:<stdin>:7: ERROR:  invalid input syntax for type integer: "값"')


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("ERROR 1062 (23000) at line 5: Duplicate entry 'it's kim, kim's 010' for key 'a.k'", "for key 'a.k'"),
        ("--------------\nINSERT INTO a VALUES\n(1,1012345678,'an error of kim')\n--------------\n\n"
         "ERROR 1153 (08S01) at line 3: Got a packet bigger than 'max_allowed_packet' bytes", "Got a packet bigger"),
        ("(5,1012345678,'error of kim')\n--------------\n\nERROR 1114 (HY000): The table 'a' is full", "table 'a'"),
        ("mysqldump: Couldn't execute 'SHOW FIELDS FROM `v`': View 'app.v' refers to no table", "'app.v' refers"),
    ],
)  # fmt: skip
def test_a_programs_message_about_a_row_shows_the_cause_and_not_the_row(said: str, shown: str) -> None:
    words = words_of(said)
    assert shown in words
    assert not [w for w in ("kim", "010", "1012345678", "INSERT") if w in words]


def test_a_row_too_large_for_the_server_leaves_an_unproven_dump(mariadb_url: str, tmp_path: Path) -> None:
    """10 MB that the server took are 20 MB as hex. Nothing is known against the dump, so it is kept."""
    run_sql(mariadb_url, "CREATE TABLE a (b longblob)", "INSERT INTO a VALUES (REPEAT('\\0', 10000000))")
    result = Dumps(mariadb_url, tmp_path).take()
    assert not result.proven
    assert "max_allowed_packet" in result.drill.why_not


@pytest.mark.long
@pytest.mark.parametrize("fault", ["full", "killed"])
def test_a_drill_server_in_trouble_leaves_an_unproven_dump(
    fault: str, mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(mariadb_url, "CREATE TABLE a (b varchar(200))", "INSERT INTO a SELECT UUID() FROM seq_1_to_200000")
    small = ("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:20M")
    with MariaDB(small if fault == "full" else ()) as server:
        if fault == "killed":
            original = MySQLDumps.load

            def load(self: MySQLDumps, chunks: Iterator[bytes], *more: object, **named: object) -> list[str]:
                def killing() -> Iterator[bytes]:
                    for number, chunk in enumerate(chunks):
                        if number == 2:
                            os.kill(server.pid, signal.SIGKILL)
                        yield chunk

                return original(self, killing(), *more, **named)  # type: ignore[arg-type]

            monkeypatch.setattr(MySQLDumps, "load", load)
        result = Dumps(mariadb_url, tmp_path).take(drill_servers=(sa.make_url(server.url),))
        assert not result.proven
        assert result.drill.why_not


@pytest.mark.long
def test_a_drill_server_that_writes_names_otherwise_leaves_an_unproven_dump(mariadb_url: str, tmp_path: Path) -> None:
    run_sql(mariadb_url, "CREATE TABLE Users (id int)")
    with MariaDB(("--lower-case-table-names=1",)) as server:
        result = Dumps(mariadb_url, tmp_path).take(drill_servers=(sa.make_url(server.url),))
    assert not result.proven
    assert "lower_case_table_names" in result.drill.why_not


@pytest.mark.long
def test_the_lock_is_never_waited_for_long(mysql_url: str, tmp_path: Path, oracle: None) -> None:
    """A long query would make FLUSH TABLES WITH READ LOCK, and every new write behind it, wait."""
    fill(mysql_url)
    assert taking.LOCK_WAIT_SECONDS <= 2
    holder = connect(mysql_url).connect()
    holder.exec_driver_sql("LOCK TABLES parent WRITE")
    try:
        with connect(mysql_url).connect() as connection:
            began = time.monotonic()
            assert taking._read_lock(connection) is False
            assert time.monotonic() - began < 3
    finally:
        holder.close()


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres", "sqlite"])
def test_an_old_dump_can_be_tried_again(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    fill(url)
    dumps = Dumps(url, tmp_path)
    manifest = dumps.take().manifest
    assert drill_stored(dumps.storage, manifest, dumps.url, (), AT_THREE).proven
    if engine != "sqlite":
        run_sql(url, "DELETE FROM no_key")  # what is in the database today doesn't matter
        assert drill_stored(dumps.storage, manifest, dumps.url, (), AT_THREE).proven
    tables = {**manifest.contents["tables"]}
    wrong = replace(manifest, contents={**manifest.contents, "tables": {**tables, "more": {"rows": 1}}})
    assert any("more is missing" in d for d in drill_stored(dumps.storage, wrong, dumps.url, (), AT_THREE).differences)


def test_the_lock_is_given_back_when_the_dump_does_not_begin(
    mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump program that hangs while the service's writes wait: the third way is taken, without the lock."""
    fill(mariadb_url)
    monkeypatch.setattr(dump_mysql, "QUIET_TRIES", 0)
    monkeypatch.setattr(taking, "LOCK_HELD_SECONDS", 0.0)
    result = Dumps(mariadb_url, tmp_path).take()
    assert result.proven
    assert result.contents.proof == "bracketed"


def test_oracles_wrapper_is_oracles(tmp_path: Path) -> None:
    path = oracle_clients(tmp_path / "o")
    said = subprocess.run([f"{path}/mysqldump", "--version"], capture_output=True, text=True, check=True).stdout
    assert "MariaDB" not in said


# --- output in large pieces --------------------------------------------------------------------------------------


def program(folder: Path, text: str) -> Program:
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o700)
    return Program([str(path)])


def said_by(asked: Program) -> bytes:
    with Output(asked, wide=True) as output:
        said = b"".join(iter(output.read, b""))
        output.finish()
        return said


def test_without_stdbuf_or_with_one_that_fails_the_program_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = program(tmp_path, "print('x' * 10)")
    dump_process._wide.cache_clear()
    assert dump_process._wide("/bin/cat")
    for broken in (None, "#!/bin/sh\nexit 125\n", '#!/bin/sh\necho "cannot be preloaded" >&2\nshift\nexec "$@"\n'):
        (tmp_path / "bin").mkdir(exist_ok=True)
        if broken:
            (tmp_path / "bin" / "stdbuf").write_text(broken)
            (tmp_path / "bin" / "stdbuf").chmod(0o700)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        dump_process._wide.cache_clear()
        assert dump_process._wide(asked.command[0]) == ()
        assert said_by(asked) == b"x" * 10 + b"\n"
    dump_process._wide.cache_clear()


def test_a_dump_that_is_disturbed_while_large_pieces_are_awaited_is_taken_again_in_small_ones(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mysql_url)
    asked, position = [], taking._log_position
    begin = taking.MySQLTaking.begin

    def begun(self: Any, strategy: str, *, wide: bool = False) -> bool:
        asked.append((strategy, wide))
        if len(asked) == 1:
            moved = iter([1, 2])
            monkeypatch.setattr(taking, "_log_position", lambda _: next(moved))
        else:
            monkeypatch.setattr(taking, "_log_position", position)
        return begin(self, strategy, wide=wide)

    monkeypatch.setattr(taking.MySQLTaking, "begin", begun)
    result = Dumps(mysql_url, tmp_path).take()
    assert result.proven
    assert asked[:2] == [("quiet", True), ("quiet", False)]
