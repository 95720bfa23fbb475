"""Poolers and proxies: a connection has a session of its own, with our settings in it, or nothing is done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.stale.connections import read_write
from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.dumps.scene import Dumps, everything, fill
from saju_ops_tests.engines import Engine, MariaDB, MySQL, PgBouncer
from saju_ops_tests.expired.job_scene import UTC_ZONE, JobScene
from saju_ops_tests.fakes.mysql_proxy import proxied

# What a server, a database or a role may set, and what would change what is read, deleted or waited for.
POSTGRES_HOSTILE = {
    "timezone": "'Asia/Seoul'", "datestyle": "'German'", "statement_timeout": "'40ms'", "lock_timeout": "'1ms'",
    "idle_session_timeout": "'200ms'", "idle_in_transaction_session_timeout": "'200ms'", "array_nulls": "off",
    "standard_conforming_strings": "off", "xmloption": "'document'", "bytea_output": "'escape'",
}  # fmt: skip
MYSQL_HOSTILE = {
    "sql_select_limit": 3, "max_join_size": 2, "sql_safe_updates": 1, "sql_big_selects": 0, "wait_timeout": 1,
    "net_read_timeout": 1, "net_write_timeout": 1, "time_zone": "'+09:00'", "completion_type": 1,
}  # fmt: skip
OWN_HOSTILE: dict[type[Engine], dict[str, Any]] = {
    MySQL: {},
    MariaDB: {"idle_transaction_timeout": 1, "idle_write_transaction_timeout": 1},
}


@contextmanager
def pool(server: Engine, url: str, mode: str, **settings: str) -> Iterator[str]:
    """The address of the database behind a PgBouncer."""
    with PgBouncer(server, pool_mode=mode, **settings) as bouncer:
        yield bouncer.database_url(url.rpartition("/")[2])


@pytest.fixture(params=[{}, {"ignore_startup_parameters": "options,extra_float_digits"}], ids=["strict", "ignoring"])
def session_pool(request: pytest.FixtureRequest, postgres_server: Engine, postgres_url: str) -> Iterator[str]:
    with pool(postgres_server, postgres_url, "session", **request.param) as url:
        yield url


def one(url: str, statement: str) -> tuple[Any, ...]:
    with connect(url).connect() as connection:
        return tuple(connection.exec_driver_sql(statement).one())


# --- PgBouncer ---------------------------------------------------------------------------------------------------


def test_settings_hold_behind_a_pooler_in_session_mode(session_pool: str, postgres_server: Engine) -> None:
    database = session_pool.rpartition("/")[2]
    for name, value in POSTGRES_HOSTILE.items():
        postgres_server.execute(f"ALTER DATABASE {database} SET {name} = {value}")
    shown = ", ".join(f"current_setting('{name}')" for name in POSTGRES_HOSTILE)
    found = one(session_pool, f"SELECT {shown}")
    assert found == ("UTC", "ISO, MDY", "0", "10s", "0", "0", "on", "on", "content", "hex")


def test_the_addresss_own_options_hold_behind_a_pooler(session_pool: str) -> None:
    url = f"{session_pool}?options=-csearch_path%3Dpg_catalog%20--work-mem%3D77MB"
    assert one(url, "SELECT current_setting('search_path'), current_setting('work_mem')") == ("pg_catalog", "77MB")


@pytest.mark.long
def test_an_archive_a_purge_and_a_restore_work_behind_a_pooler_in_session_mode(
    session_pool: str, postgres_server: Engine, tmp_path: Path
) -> None:
    database = session_pool.rpartition("/")[2]
    postgres_server.execute(f"ALTER DATABASE {database} SET timezone = 'Asia/Seoul'")
    scene = Scene(session_pool, tmp_path / "backups").create_table()
    scene.add(30)
    before = scene.state()
    assert scene.archive().rows == 30
    assert "+00" in scene.data_file().read_text()
    assert (scene.purge(chunk_size=7).deleted, scene.count()) == (30, 0)
    assert scene.restore().to_write == 30
    assert scene.state() == before


@pytest.mark.long
def test_a_dump_is_taken_proven_and_restored_behind_a_pooler_in_session_mode(
    session_pool: str, postgres_url: str, tmp_path: Path
) -> None:
    fill(postgres_url)
    dumps = Dumps(f"{session_pool}?options=-csearch_path%3Dpublic", tmp_path)
    before = everything(postgres_url)
    assert dumps.take().proven
    with connect(postgres_url).begin() as connection:
        connection.exec_driver_sql("DELETE FROM no_key")
    dumps.restore(replace=dumps.url.database)
    assert everything(postgres_url) == before


def test_expired_jobs_go_behind_a_pooler_in_session_mode(session_pool: str, tmp_path: Path) -> None:
    scene = JobScene(session_pool, tmp_path / "backups").create()
    scene.add(range(3))
    assert (scene.purge().deleted, scene.counts()["jobs"]) == (3, 0)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize(
    "settings", [{}, {"server_round_robin": "1"}, {"default_pool_size": "1"}, {"ignore_startup_parameters": "options"}],
    ids=lambda settings: next(iter(settings), "default"),
)  # fmt: skip
def test_a_pooler_that_shares_sessions_is_refused_before_anything_is_set(
    mode: str, settings: dict[str, str], postgres_server: Engine, postgres_url: str
) -> None:
    with pool(postgres_server, postgres_url, mode, **settings) as url:
        # Sessions that are there already, in any number, as the service's queries made them.
        with pytest.raises(Refused, match=r"transaction or statement mode.*Nothing was done.*pool_mode = session"):
            one(url, "SELECT 1")
        with pytest.raises(Refused, match="transaction or statement mode"):
            with read_write(sa.make_url(url), UTC_ZONE).connect():
                pass
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as service:
            held = service.execute("SHOW lock_timeout").fetchone()
        assert held == ("0",), "what we set holds for the service"


@pytest.mark.long
def test_a_busy_pooler_that_shares_sessions_is_refused(
    postgres_server: Engine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's transactions take longer than our patience: none of our connections gets a session at once."""
    monkeypatch.setattr("saju_ops.database.own_session.PATIENCE", 0.3)
    with pool(postgres_server, postgres_url, "transaction", default_pool_size="1") as url, busy(url):
        with pytest.raises(Refused, match="transaction or statement mode"):
            one(url, "SELECT 1")


@contextmanager
def busy(url: str) -> Iterator[None]:
    over = threading.Event()

    def serve() -> None:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as service:
            while not over.is_set():
                with service.transaction():
                    service.execute("SELECT pg_sleep(0.6)")

    with ThreadPoolExecutor(2) as threads:
        served = [threads.submit(serve) for _ in range(2)]
        try:
            yield
        finally:
            over.set()
    for each in served:
        each.result()


def test_a_purge_through_a_pooler_in_transaction_mode_deletes_nothing(
    postgres_server: Engine, postgres_url: str, tmp_path: Path
) -> None:
    scene = Scene(postgres_url, tmp_path / "backups").create_table()
    scene.add(5)
    scene.archive()
    with pool(postgres_server, postgres_url, "transaction") as url:
        pooled = Scene(url, tmp_path / "backups")
        for work in (pooled.archive, pooled.purge, pooled.restore):
            with pytest.raises(Refused, match="pooler"):
                work()
        with pytest.raises(Refused, match="pooler"):
            Dumps(url, tmp_path / "dumps").take()
    assert (scene.count(), list((tmp_path / "dumps").rglob("*.gz"))) == (5, [])


def test_a_pool_whose_sessions_are_all_taken_is_waited_for_and_used(postgres_server: Engine, postgres_url: str) -> None:
    with pool(postgres_server, postgres_url, "session", default_pool_size="1") as url:
        assert one(url, "SELECT current_setting('timezone')") == ("UTC",)


def test_settings_are_made_again_after_a_reconnect(session_pool: str, postgres_server: Engine) -> None:
    engine = connect(session_pool)
    asked = "SELECT pg_backend_pid(), current_setting('timezone')"
    postgres_server.execute(f"ALTER DATABASE {session_pool.rpartition('/')[2]} SET timezone = 'Asia/Seoul'")
    with engine.connect() as connection:
        first = connection.exec_driver_sql(asked).one()
        postgres_server.execute(f"SELECT pg_terminate_backend({first[0]})")
        with pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql(asked)
        connection.invalidate()
        connection.rollback()
        again = connection.exec_driver_sql(asked).one()
    assert again[0] != first[0]
    assert (first[1], again[1]) == ("UTC", "UTC")


# --- settings of a server or a role ------------------------------------------------------------------------------


def test_a_purge_with_pauses_outlasts_the_limits_of_a_role(
    postgres_server: Engine, postgres_url: str, tmp_path: Path
) -> None:
    database = postgres_url.rpartition("/")[2]
    scene = Scene(postgres_url, tmp_path / "backups").create_table()
    scene.add(20)
    for name, value in POSTGRES_HOSTILE.items():
        postgres_server.execute(f"ALTER DATABASE {database} SET {name} = {value}")
    scene.archive()
    result = scene.purge(chunk_size=10, pause_seconds=0.4)
    assert (result.deleted, result.stopped) == (20, "finished")


@pytest.fixture(params=["mysql", "mariadb"])
def hostile(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of a server on which everything is set globally that a session may be bothered by."""
    server: Engine = request.getfixturevalue(f"{request.param}_server")
    url: str = request.getfixturevalue(f"{request.param}_url")
    settings = MYSQL_HOSTILE | OWN_HOSTILE[type(server)]
    before = {name: server.execute(f"SELECT @@GLOBAL.{name}")[0][0] for name in settings}
    try:
        for name, value in settings.items():
            server.execute(f"SET GLOBAL {name} = {value}")
        yield url
    finally:
        for name, value in before.items():
            server.execute(f"SET GLOBAL {name} = {value if not isinstance(value, str) else repr(value)}")


@pytest.mark.long
def test_limits_that_a_server_sets_globally_stop_no_purge_and_no_restore(hostile: str, tmp_path: Path) -> None:
    scene = Scene(hostile, tmp_path / "backups")
    with connect(hostile).begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE conversation_logs (log_id bigint PRIMARY KEY, content text, created_at datetime NOT NULL)"
        )
        rows = ", ".join(f"({number}, 'x', '2026-10-01 01:00:00')" for number in range(100))
        connection.exec_driver_sql(f"INSERT INTO conversation_logs VALUES {rows}")  # noqa: S608
    assert scene.archive().rows == 100
    result = scene.purge(chunk_size=30, pause_seconds=1.2)
    assert (result.deleted, result.kept, result.stopped) == (100, 0, "finished")
    assert scene.restore().to_write == 100
    assert one(hostile, "SELECT COUNT(*) FROM conversation_logs") == (100,)


# --- proxies of MySQL --------------------------------------------------------------------------------------------


@pytest.fixture(params=["mysql", "mariadb"])
def served(request: pytest.FixtureRequest) -> tuple[Engine, str]:
    return request.getfixturevalue(f"{request.param}_server"), request.getfixturevalue(f"{request.param}_url")


def through(url: str, port: int) -> str:
    return sa.make_url(url).set(port=port).render_as_string(hide_password=False)


def test_a_proxy_that_shares_sessions_is_refused_before_anything_is_set(served: tuple[Engine, str]) -> None:
    server, url = served
    with proxied(server.port, shared=True) as (proxy, port):
        service = sa.create_engine(through(url, port), poolclass=sa.NullPool).connect()
        with pytest.raises(Refused, match=r"shares sessions.*Nothing was done.*without multiplexing"):
            one(through(url, port), "SELECT 1")
        service.close()
    assert not [text for text in proxy.asked if "time_zone" in text]


@pytest.mark.long
def test_a_proxy_that_keeps_sessions_apart_is_used(served: tuple[Engine, str], tmp_path: Path) -> None:
    server, url = served
    with proxied(server.port) as (_, port):
        scene = Scene(through(url, port), tmp_path / "backups").create_table()
        scene.add(5)
        scene.archive()
        assert scene.purge().deleted == 5


@pytest.mark.long
@pytest.mark.parametrize(
    "error",
    [(1235, "This version of MariaDB doesn't yet support 'GET_LOCK in cluster (WSREP_ON=ON)'"),
     (1105, "Percona-XtraDB-Cluster prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING or MASTER")],
    ids=["mariadb", "percona"],
)  # fmt: skip
def test_a_cluster_that_forbids_get_lock_is_purged_under_a_lock_of_this_machine(
    error: tuple[int, str], served: tuple[Engine, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, url = served
    with proxied(server.port, forbidden={"GET_LOCK": error}) as (_, port), caplog.at_level(logging.WARNING):
        scene = Scene(through(url, port), tmp_path / "backups").create_table()
        scene.add(5)
        with scene.store() as other, other.lock("day 2026-10-01", 0), pytest.raises(Busy, match="Another run works on"):
            scene.archive(wait=0.3)
        scene.archive()
        assert scene.purge().deleted == 5
        assert scene.restore().to_write == 5
    assert "lock of this user on this machine alone" in caplog.text


@pytest.mark.long
def test_a_lock_that_the_connection_turns_out_not_to_hold_stops_the_work(
    served: tuple[Engine, str], tmp_path: Path
) -> None:
    server, url = served
    scene = Scene(url, tmp_path / "backups").create_table()
    scene.add(5)
    scene.archive()
    with proxied(server.port) as (proxy, port):
        pooled = Scene(through(url, port), tmp_path / "backups")
        proxy.replaced["SELECT GET_LOCK"] = "SELECT 1"
        with pytest.raises(Refused, match=r"doesn't hold it.*Nothing was done"):
            pooled.purge()
    assert scene.count() == 5


def test_a_setting_that_is_dropped_on_the_way_stops_the_work(served: tuple[Engine, str]) -> None:
    server, url = served
    with proxied(server.port) as (proxy, port):
        proxy.replaced["SET SESSION time_zone"] = "SET SESSION sql_select_limit = 5"
        with pytest.raises(Refused, match=r"doesn't keep what is set for a session \(.*sql_select_limit"):
            one(through(url, port), "SELECT 1")


# --- the binary log ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_restore_that_the_binary_logs_cache_is_too_small_for_says_what_to_raise_and_leaves_nothing_half_done(
    tmp_path: Path,
) -> None:
    arguments = ["--log-bin=log", "--server-id=1", "--binlog-format=ROW", "--max-binlog-cache-size=8192"]
    with MariaDB([*arguments, "--binlog-cache-size=4096"]) as server, server.database() as url:
        scene = Scene(url, tmp_path / "backups").create_table()
        for first in range(1, 200, 10):
            scene.add(10, first=first, content="글" * 100)
        scene.archive()
        assert scene.purge(chunk_size=10).deleted == 200
        with pytest.raises(OperatorError, match=r"Multi-statement .* was written.* first set max_binlog_cache_"):
            scene.restore()
        assert scene.count() == 0
        server.execute("SET GLOBAL max_binlog_cache_size = 16777216")
        assert scene.restore().to_write == 200
        assert scene.count() == 200
