"""A dump holds every value, is proven before it counts, and is restored value by value, on every engine and client."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect, parse_database_url
from saju_ops.dumps.mysql.clients import dump_client, options_file
from saju_ops.dumps.take import distinct, label_of
from saju_ops.storage.encryption import WrongPassword
from saju_ops.storage.manifest import read_manifest
from saju_ops_tests.dumps.scene import (
    AT_THREE,
    Dumps,
    everything,
    fill,
    oracle,
    oracle_clients,
    scratch_databases,
)
from saju_ops_tests.engines import Engine, MySQL

__all__ = ["oracle"]


def other(url: str, tmp_path: Path) -> str:
    """An address beside, of a database that isn't there yet."""
    parsed = sa.make_url(url)
    name = str(tmp_path / "restored.db") if "sqlite" in url else f"{parsed.database}_restored"
    return parsed.set(database=name).render_as_string(hide_password=False)


def drop(url: str) -> None:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        admin = parsed.set(database="postgres" if "postgresql" in url else None)
        with sa.create_engine(admin, isolation_level="AUTOCOMMIT").connect() as connection:
            force = " WITH (FORCE)" if "postgresql" in url else ""
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {parsed.database}{force}")


@pytest.mark.long
def test_every_value_comes_back(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "mysql" in database_url:
        monkeypatch.setenv("PATH", oracle_clients(tmp_path / "oracle", only=False))
    fill(database_url)
    dumps = Dumps(database_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    assert result.contents.proof == "exact"
    target = other(database_url, tmp_path)
    try:
        restored = dumps.restore(target)
        assert everything(target) == everything(database_url)
        assert restored.rows == result.contents.rows >= 7
    finally:
        drop(target)


@pytest.mark.long
def test_the_manifest_says_what_is_in_it_and_is_written_last(database_url: str, tmp_path: Path) -> None:
    fill(database_url)
    dumps = Dumps(database_url, tmp_path)
    result = dumps.take()
    manifest = read_manifest(dumps.storage, result.manifest.name)
    assert manifest.proven
    assert manifest.proof["tables"] == len(manifest.contents["tables"]) >= 5
    assert manifest.taken == AT_THREE
    assert manifest.file.startswith("database/")
    assert "_20261001_030000." in manifest.file
    assert sorted(dumps.names()) == sorted([manifest.file, manifest.name])
    newest = max(dumps.files(), key=lambda p: p.stat().st_mtime_ns)
    assert newest.name.endswith(".manifest.json")
    assert all(p.stat().st_mode & 0o077 == 0 for p in dumps.files())
    password = parse_database_url(database_url).password
    if password:
        assert str(password) not in manifest.to_json().decode()


def test_two_dumps_in_one_second_have_two_names(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    assert dumps.take().manifest.file != dumps.take().manifest.file
    assert len(dumps.names()) == 4


@pytest.mark.long
@pytest.mark.parametrize("server", ["mysql", "mariadb"])
def test_oracles_client_dumps_both_servers(
    server: str, oracle: None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{server}_url")
    fill(url)
    assert not dump_client(server).mariadb
    result = Dumps(url, tmp_path).take()
    assert result.proven, result.message
    assert "MariaDB" not in result.manifest.tool


@pytest.mark.long
@pytest.mark.parametrize("server", ["mysql", "mariadb"])
def test_mariadbs_client_dumps_both_servers(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue(f"{server}_url")
    fill(url)
    assert dump_client(server).mariadb
    dumps = Dumps(url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    # Its first line is a command for its own client, on which others choke.
    assert not dumps.content(result).startswith(b"/*")


@pytest.mark.long
def test_mariadbs_client_restores_what_oracles_dumped(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mysql_url)
    dumps = Dumps(mysql_url, tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", oracle_clients(tmp_path / "oracle"))
        dumps.take()
    target = other(mysql_url, tmp_path)
    try:
        dumps.restore(target)
        assert everything(target) == everything(mysql_url)
    finally:
        drop(target)


def test_an_encrypted_dump_needs_the_password(postgres_url: str, tmp_path: Path) -> None:
    fill(postgres_url)
    dumps = Dumps(postgres_url, tmp_path, "correct horse battery staple")
    result = dumps.take()
    assert result.proven
    assert result.manifest.file.endswith(".sql.gz.zip")
    wrong = Dumps(postgres_url, tmp_path, "wrong horse battery staple")
    target = other(postgres_url, tmp_path)
    with pytest.raises(WrongPassword):
        wrong.restore(target)
    try:
        dumps.restore(target)
        assert everything(target) == everything(postgres_url)
    finally:
        drop(target)


def test_the_drill_leaves_no_database(mysql_server: Engine, mysql_url: str, oracle: None, tmp_path: Path) -> None:
    fill(mysql_url)
    assert Dumps(mysql_url, tmp_path).take().proven
    assert scratch_databases(mysql_server) == []


def test_a_password_is_in_no_command_line_and_no_file(mariadb_server: Engine, mariadb_url: str, tmp_path: Path) -> None:
    """A password with everything in it that an options file could stumble over."""
    fill(mariadb_url)
    password = "p#a\"s's\\w;o rd=%"
    user = "odd_user"
    name = sa.make_url(mariadb_url).database
    quoted = password.replace("\\", "\\\\").replace("'", "''").replace("%", "%%").replace(":", "\\:")
    mariadb_server.execute(
        f"CREATE OR REPLACE USER {user}@'127.0.0.1' IDENTIFIED BY '{quoted.replace('%%', '%')}'",
        f"GRANT ALL ON *.* TO {user}@'127.0.0.1'",
    )
    url = sa.make_url(mariadb_url).set(username=user, password=password, database=name)
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for process in psutil.Process().children(recursive=True):
                try:
                    seen.add(" ".join(process.cmdline()))
                    seen.add(" ".join(process.environ().values()))
                except psutil.Error:
                    continue
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = Dumps(url.render_as_string(hide_password=False), tmp_path).take()
    finally:
        stop.set()
        watcher.join()
        mariadb_server.execute(f"DROP USER {user}@'127.0.0.1'")
    assert result.proven, result.message
    assert any("dump" in line for line in seen), "the dump program was never seen: the test would prove nothing"
    assert not any(password in line or "p#a" in line for line in seen)
    leaked = subprocess.run(["grep", "-rlF", "p#a", str(tmp_path)], capture_output=True, text=True, check=False)
    assert leaked.stdout == ""


def test_tls_options_reach_the_client() -> None:
    url = sa.make_url("mysql+pymysql://u:p@db.example/app?ssl_ca=/etc/ca.pem&ssl_check_hostname=true")
    assert 'ssl-mode="VERIFY_IDENTITY"' in options_file(url, mariadb=False)
    assert 'ssl-ca="/etc/ca.pem"' in options_file(url, mariadb=False)
    assert 'loose-ssl-verify-server-cert="1"' in options_file(url, mariadb=True)


def test_names_of_files_say_which_database_it_is() -> None:
    app = sa.make_url("mysql+pymysql://u:p@h/app")
    assert label_of(app) == "app"
    dotted = label_of(sa.make_url("mysql+pymysql://u:p@h/my.app 1"))
    assert dotted.startswith("my_app_1-")
    assert "." not in dotted
    twin = sa.make_url("postgresql+psycopg://u:p@h/app")
    assert label_of(app, [app, twin]) != label_of(twin, [app, twin])
    assert "p@" not in label_of(twin, [app, twin])
    assert distinct([app, app.set(password="x"), twin]) == [app, twin]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_dump_is_one_instant_while_the_database_is_written(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tables get a row each in every transaction; in the dump they have the same number of rows."""
    if engine == "mysql":
        monkeypatch.setenv("PATH", oracle_clients(tmp_path / "oracle", only=False))
    url = request.getfixturevalue(f"{engine}_url")
    with connect(url).connect() as connection:
        for table in ("one", "two"):
            connection.exec_driver_sql(f"CREATE TABLE {table} (id int PRIMARY KEY, v varchar(200))")
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES (0, 'first')")
        connection.commit()
    stop = threading.Event()

    def write() -> None:
        with connect(url).connect() as connection:
            for number in range(1, 1_000_000):
                if stop.is_set():
                    return
                for table in ("one", "two"):
                    connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({number}, '{'x' * 100}')")
                connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.3)
        result = Dumps(url, tmp_path).take()
    finally:
        stop.set()
        writer.join()
    assert result.proven, result.message
    assert result.contents.proof == "exact"
    rows = {t.rows for t in result.contents.tables.values()}
    assert len(rows) == 1
    assert rows.pop() > 20


@pytest.mark.long
def test_without_the_right_to_lock_a_written_table_is_proven_by_two_snapshots(
    mysql_server: Engine, mysql_url: str, tmp_path: Path, oracle: None
) -> None:
    fill(mysql_url)
    database = sa.make_url(mysql_url).database
    drills = "`saju\\_ops\\_drill\\_%`.*"
    password = "long enough"
    connection = sa.create_engine(sa.make_url(mysql_url), isolation_level="AUTOCOMMIT").connect()
    with connection:
        for statement in (
            f"CREATE USER plain@'127.0.0.1' IDENTIFIED BY '{password}'",
            f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, EXECUTE ON {database}.* TO plain@'127.0.0.1'",
            f"GRANT ALL ON {drills} TO plain@'127.0.0.1' WITH GRANT OPTION",
            "GRANT CREATE USER, SHOW_ROUTINE ON *.* TO plain@'127.0.0.1'",
        ):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    stop = threading.Event()

    def write() -> None:
        with connect(mysql_url).connect() as busy:
            number = 100
            while not stop.is_set():
                number += 1
                busy.exec_driver_sql(f"INSERT INTO no_key VALUES ('n', {number})")
                busy.commit()

    writer = threading.Thread(target=write)
    writer.start()
    url = sa.make_url(mysql_url).set(username="plain", password=password)
    try:
        result = Dumps(url.render_as_string(hide_password=False), tmp_path).take()
    finally:
        stop.set()
        writer.join()
        mysql_server.execute("DROP USER plain@'127.0.0.1'")
    assert result.proven, result.message
    assert result.contents.proof in ("bracketed", "range")
    assert result.contents.tables["parent"].proof == "bracketed"
    assert result.contents.tables["parent"].checksum


def test_the_tree_of_oracles_client_is_there() -> None:
    assert MySQL.program("usr/bin/mysqldump")
