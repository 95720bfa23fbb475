"""Names of databases that a program, a shell or a driver may take for something else; tables and values of any size."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.dumps import sqlite as dump_sqlite
from saju_ops.masking.dump import take_masked_dump
from saju_ops_tests.dumps.scene import AT_THREE, Dumps, options, oracle
from saju_ops_tests.engines import Engine

__all__ = ["oracle"]


def quoted(server: Engine, name: str) -> str:
    sign = '"' if server.name == "PostgreSQL" else "`"
    return sign + name.replace(sign, sign * 2) + sign


@pytest.mark.long
@pytest.mark.parametrize("name", ["-dash", "it's", 'quo"te', "back\\slash", "with blank", "per%cent", "do.t", "한글"])
@pytest.mark.parametrize("server", ["mysql", "mariadb", "postgres"])
def test_a_database_of_any_name_is_dumped_tried_restored_and_masked(
    server: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine: Engine = request.getfixturevalue(f"{server}_server")
    if server == "mysql":
        request.getfixturevalue("oracle")
    named = quoted(engine, name)
    url = sa.make_url(engine.url).set(database=name)
    with sa.create_engine(engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as admin:

        def execute(statement: str) -> None:
            admin.exec_driver_sql(statement.replace("%", "%%"))

        execute(f"CREATE DATABASE {named}")
        try:
            with sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
                connection.exec_driver_sql("CREATE TABLE conversation_logs (log_id int PRIMARY KEY, content text)")
                connection.exec_driver_sql("INSERT INTO conversation_logs VALUES (1, 'some words')")
                connection.exec_driver_sql("CREATE VIEW seen AS SELECT log_id FROM conversation_logs")
            dumps = Dumps(url.render_as_string(hide_password=False), tmp_path)
            assert dumps.take().proven
            assert dumps.restore(replace=name).rows == 1
            execute(f"DROP DATABASE {named}")
            assert dumps.restore().rows == 1
            masked = take_masked_dump(dumps.url, dumps.storage, options(), now=lambda: AT_THREE)
            assert masked.proven
            assert dumps.restore(masked=True, replace=name).rows == 1
        finally:
            execute(f"DROP DATABASE IF EXISTS {named}")


@pytest.mark.parametrize("name", ["-dash", "it's", "per%cent ?#", "한글", "do.t.s"])
def test_a_sqlite_file_of_any_name_is_dumped_and_restored(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    url = sa.URL.create("sqlite", database=str(path))
    dumps = Dumps("sqlite:///nothing.db", tmp_path)
    dumps.url = url
    assert dumps.take().proven
    path.unlink()
    dumps.restore()
    assert path.is_file()


@pytest.mark.long
def test_a_view_over_a_function_is_in_a_masked_dump(mariadb_url: str, tmp_path: Path) -> None:
    with sa.create_engine(mariadb_url, poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("CREATE FUNCTION two() RETURNS int DETERMINISTIC RETURN 2")
        connection.exec_driver_sql("CREATE VIEW twice AS SELECT two() AS n")
    dumps = Dumps(mariadb_url, tmp_path)
    assert take_masked_dump(dumps.url, dumps.storage, options(), now=lambda: AT_THREE).proven


def test_a_sqlite_table_of_more_than_a_thousand_columns_is_proven(tmp_path: Path) -> None:
    path = tmp_path / "wide.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"CREATE TABLE wide ({', '.join(f'c{n}' for n in range(2_000))})")
        made.execute("INSERT INTO wide (c0, c1999) VALUES (1, 'a'), (NULL, x'61')")
        made.commit()
    result = Dumps(f"sqlite:///{path}", tmp_path).take()
    assert result.proven
    assert result.contents.tables["wide"].rows == 2


def test_large_values_and_wide_tables_have_the_checksum_that_they_always_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dumps of before are tried again by it."""
    values = [None, 1, -(2**63), 0.1, float("inf"), "", "a'b", 'a"b', "a'\"b", "한글\n\\", "x" * 3_000_000 + "'", b"",
              b"\x00'", bytes(range(256)) * 9_000, b'\\"' * 700_000]  # fmt: skip
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = bytes
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", zip(values, reversed(values), strict=True))
        before = dump_sqlite._measure(connection, "t", True)
        monkeypatch.setattr(dump_sqlite, "LARGE", 1_000)
        assert dump_sqlite._measure(connection, "t", True) == before
        monkeypatch.setattr(dump_sqlite, "MOST_COLUMNS", 1)
        assert dump_sqlite._measure(connection, "t", True) == before


MEASURED = """
import sqlite3, sys
from saju_ops.dumps.sqlite import SQLiteDumps
import sqlalchemy as sa
print(SQLiteDumps(sa.URL.create("sqlite", database=sys.argv[1])).contents().rows)
# Not ru_maxrss, which a child inherits from the process that forked it.
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) >> 10)
"""


@pytest.mark.long
def test_a_blob_of_120_mb_is_measured_in_little_more_than_its_own_memory(tmp_path: Path) -> None:
    path = tmp_path / "blob.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE t (b BLOB)")
        made.execute("INSERT INTO t VALUES (zeroblob(125829120)), (x'00')")
        made.commit()
    run = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
    rows, megabytes = map(int, run.stdout.split())
    assert rows == 2
    # SQLite's copy, Python's, and what the modules take.
    assert megabytes < 420
