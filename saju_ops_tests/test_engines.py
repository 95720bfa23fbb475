"""The test servers are what they claim to be, and leave nothing behind however their owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from saju_ops_tests import engines
from saju_ops_tests.engines import ENGINES, Engine, MySQL, PostgreSQL

SERVERS = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name.lower())
PROJECT = Path(engines.__file__).parent.parent


def gone(pids: list[int], folder: Path, seconds: float = 20) -> bool:
    """Whether, within the time given, none of the processes and not the folder is left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(running(pid) for pid in pids) and not folder.exists():
            return True
        time.sleep(0.1)
    return False


def running(pid: int) -> bool:
    # An orphan's parent is the machine's init, which in a container may never collect it.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tree_of(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@pytest.mark.parametrize(
    ("server_fixture", "version"),
    [("mysql_server", "9.7."), ("mariadb_server", "10.11."), ("postgres_server", "15.")],
)
def test_a_server_has_the_version_it_claims(server_fixture: str, version: str, request: pytest.FixtureRequest) -> None:
    server: Engine = request.getfixturevalue(server_fixture)
    [(shown,)] = server.execute("SHOW server_version" if "postgres" in server_fixture else "SELECT version()")
    assert str(shown).startswith(version)
    assert ("MariaDB" in str(shown)) == (server_fixture == "mariadb_server")


@pytest.mark.parametrize("server_fixture", ["mysql_server", "mariadb_server", "postgres_server"])
def test_a_server_listens_on_loopback_only(server_fixture: str, request: pytest.FixtureRequest) -> None:
    server: Engine = request.getfixturevalue(server_fixture)
    listening = {
        connection.laddr
        for connection in psutil.Process(server.pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", server.port)}


def test_the_mysql_account_uses_caching_sha2_password(mysql_server: Engine) -> None:
    [(plugin,)] = mysql_server.execute("SELECT plugin FROM mysql.user WHERE concat(user, '@', host) = current_user()")
    assert plugin == "caching_sha2_password"


def test_a_database_is_empty_and_keeps_emoji(database_url: str) -> None:
    engine = create_engine(database_url)
    try:
        assert inspect(engine).get_table_names() == []
        with engine.begin() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
            connection.execute(text("CREATE TABLE t (content varchar(20))"))
            connection.execute(text("INSERT INTO t VALUES (:content)"), {"content": "사주 🔮"})
            assert connection.execute(text("SELECT content FROM t")).scalar_one() == "사주 🔮"
    finally:
        engine.dispose()


@pytest.mark.parametrize("server_fixture", ["mysql_server", "mariadb_server", "postgres_server"])
def test_a_database_is_dropped_even_while_a_transaction_is_open_in_it(
    server_fixture: str, request: pytest.FixtureRequest
) -> None:
    server: Engine = request.getfixturevalue(server_fixture)
    with server.database() as url:
        engine = create_engine(url)
        connection = engine.connect()
        connection.execute(text("CREATE TABLE t (a int)"))
        connection.commit()
        connection.execute(text("SELECT * FROM t"))
    databases = "SELECT datname FROM pg_database" if "postgres" in server_fixture else "SHOW DATABASES"
    assert (make_url(url).database,) not in server.execute(databases)
    connection.invalidate()
    connection.close()
    engine.dispose()


@pytest.mark.long
def test_extra_arguments_win_over_the_defaults() -> None:
    with MySQL(["--default-time-zone=+09:00", "--log-bin=binlog", "--server-id=7"]) as server:
        [row] = server.execute("SELECT @@time_zone, @@log_bin, @@server_id")
    assert row == ("+09:00", 1, 7)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = PostgreSQL(["--no-such-option"])
    with pytest.raises(engines.EngineError, match="no-such-option"):
        server.start()
    assert server.folder is None


@pytest.mark.long
@SERVERS
def test_a_stopped_server_leaves_nothing(engine: type[Engine]) -> None:
    server = engine().start()
    pids, folder = tree_of(server.pid), server.folder
    assert folder is not None
    server.stop()
    assert gone(pids, folder, seconds=0.2)


@pytest.mark.long
@SERVERS
def test_a_killed_owner_leaves_no_server_behind(engine: type[Engine]) -> None:
    script = (
        "import time; from saju_ops_tests import engines;"
        f"server = engines.{engine.__name__}().start();"
        "print(server.supervisor.pid, server.pid, server.folder, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    supervisor, pid, folder = owner.stdout.readline().split()
    pids = [int(supervisor), *tree_of(int(pid))]
    owner.kill()
    owner.communicate()
    assert gone(pids, Path(folder))


@pytest.mark.long
@SERVERS
def test_a_killed_supervisor_takes_the_server_along(engine: type[Engine]) -> None:
    server = engine().start()
    pids, folder = tree_of(server.pid), server.folder
    assert folder is not None
    assert server.supervisor is not None
    os.kill(server.supervisor.pid, signal.SIGKILL)
    server.supervisor.wait()
    try:
        # Nobody is left to remove the folder: that is this test's own task.
        assert gone(pids, folder / "not-looked-at")
    finally:
        engines.remove_folder(folder)
        server.stop()


def test_a_missing_engine_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "run `make test`" in str(MySQL.problem())
    with pytest.raises(engines.EngineError, match="not installed"):
        MySQL().start()


def test_policy_rc_d_is_not_left_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(engines, "POLICY", policy)
    with engines.services_stay_off():
        assert "exit 101" in policy.read_text()
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    policy.unlink()
    with engines.services_stay_off():
        assert policy.exists()
    assert list(tmp_path.iterdir()) == []
