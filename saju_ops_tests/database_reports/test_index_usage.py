"""Index usage: what nobody read since the counters began, and what must stay all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops_tests.accounts import account
from saju_ops_tests.database_reports.scene import Reported, everything, row, rows, run
from saju_ops_tests.engines import Engine

PARENTS = "CREATE TABLE parents (id INT PRIMARY KEY, code VARCHAR(20) NOT NULL, CONSTRAINT one_code UNIQUE (code))"
THINGS = (
    "CREATE TABLE things (id INT PRIMARY KEY, parent_id INT, color VARCHAR(20), shape VARCHAR(20),"
    " CONSTRAINT of_parent FOREIGN KEY (parent_id) REFERENCES parents (id))"
)
INDEXES = [
    "CREATE INDEX by_parent ON things (parent_id)",
    "CREATE INDEX by_color ON things (color)",
    "CREATE INDEX by_shape ON things (shape)",
]
ROWS = [
    "INSERT INTO parents VALUES (1, 'a')",
    "INSERT INTO things VALUES (1, 1, 'red', 'round'), (2, 1, 'blue', 'flat')",
]


def read_by(index: str, column: str, value: str, url: str) -> list[str]:
    if "postgresql" in url:
        return ["SET enable_seqscan = off", f"SELECT id FROM things WHERE {column} = '{value}'"]  # noqa: S608
    return [f"SELECT id FROM things FORCE INDEX ({index}) WHERE {column} = '{value}'"]  # noqa: S608


@pytest.fixture
def service(counting_url: str) -> str:
    run(counting_url, PARENTS, THINGS, *INDEXES, *ROWS)
    return counting_url


def use(url: str, index: str, column: str, value: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        for statement in read_by(index, column, value, url):
            result = connection.execute(sa.text(statement))
            if result.returns_rows:
                result.all()


def test_an_index_that_nobody_read_may_go_and_one_that_was_read_stays(service: str, tmp_path: Path) -> None:
    use(service, "by_color", "color", "red")
    report = Reported([service], tmp_path).make("index_usage")
    unused, used = row(report, index="by_shape"), row(report, index="by_color")
    assert (unused["uses"], unused["may_go"], unused["needed_for"], unused["columns"]) == (0, True, "", "shape")
    assert used["uses"] >= 1
    assert not used["may_go"]
    assert report.missing == {}
    assert ("unused", "things.by_shape") in [(news.kind, news.what) for news in report.news]
    assert "things.by_color" not in [news.what for news in report.news]


def test_keys_and_what_a_foreign_key_needs_never_may_go(service: str, tmp_path: Path) -> None:
    report = Reported([service], tmp_path).make("index_usage")
    by_parent = row(report, index="by_parent")
    assert (by_parent["needed_for"], by_parent["may_go"]) == ("a foreign key", False)
    unique = row(report, index="one_code")
    assert (unique["unique"], unique["may_go"]) == (True, False)
    assert not any(each["may_go"] for each in rows(report) if each["needed_for"])
    assert {news.what for news in report.news} <= {"things.by_shape", "things.by_color"}


def test_the_indexes_of_the_services_common_queries_never_may_go(counting_url: str, tmp_path: Path) -> None:
    run(
        counting_url,
        "CREATE TABLE system_metrics (metric_id INT PRIMARY KEY, metric_name VARCHAR(100), recorded_at TIMESTAMP)",
        "CREATE TABLE conversation_logs (log_id INT PRIMARY KEY, session_id VARCHAR(255), created_at TIMESTAMP)",
        "CREATE INDEX of_metrics ON system_metrics (metric_name, recorded_at DESC)",
        "CREATE INDEX only_name ON system_metrics (metric_name)",
        "CREATE INDEX of_session ON conversation_logs (session_id, created_at DESC)",
        "CREATE INDEX of_day ON conversation_logs (created_at)",
        "INSERT INTO system_metrics VALUES (1, 'a', CURRENT_TIMESTAMP)",
        "INSERT INTO conversation_logs VALUES (1, 'a', CURRENT_TIMESTAMP)",
    )
    report = Reported([counting_url], tmp_path).make("index_usage")
    needed = {each["index"]: each["needed_for"] for each in rows(report)}
    assert needed["of_metrics"] == needed["of_session"] == needed["of_day"] == "the service's common queries"
    assert row(report, index="only_name")["may_go"]
    assert [news.what for news in report.news] == ["system_metrics.only_name"]


@pytest.mark.long
def test_only_what_was_not_unused_a_week_ago_is_new(service: str, tmp_path: Path) -> None:
    reported = Reported([service], tmp_path)
    use(service, "by_color", "color", "red")
    assert len(reported.make("index_usage", days_ago=7).news) == 1
    assert reported.make("index_usage").news == []
    # On MySQL this begins the counters of the table's other indexes anew.
    run(service, "CREATE INDEX by_both ON things (color, shape)", "SELECT * FROM things")
    assert [news.what for news in reported.make("index_usage").news] == ["things.by_both"]
    assert row(reported.make("index_usage"), index="by_color")["uses"] >= 1


def test_counters_that_are_off_make_no_index_unused(mariadb_url: str, mysql_server: Engine, tmp_path: Path) -> None:
    run(mariadb_url, PARENTS, THINGS, *INDEXES, *ROWS)
    report = Reported([mariadb_url], tmp_path).make("index_usage")
    assert len(rows(report)) >= 5
    assert not any(each["may_go"] for each in rows(report))
    assert "performance_schema=ON" in everything(report)
    change = "UPDATE performance_schema.setup_instruments SET ENABLED = '{}' WHERE NAME = 'wait/io/table/sql/handler'"
    mysql_server.execute(change.format("NO"))
    try:
        with mysql_server.database() as url:
            run(url, PARENTS, THINGS, *INDEXES, *ROWS)
            report = Reported([url], tmp_path).make("index_usage")
            assert not any(each["may_go"] for each in rows(report))
            assert "wait/io/table/sql/handler" in everything(report)
    finally:
        mysql_server.execute(change.format("YES"))


def test_an_account_with_one_table_learns_that_others_are_left_out(mysql_server: Engine, tmp_path: Path) -> None:
    grants = ("GRANT SELECT ON {db}.parents TO {user}", "GRANT SELECT ON performance_schema.* TO {user}")
    with mysql_server.database() as url:
        run(url, PARENTS, THINGS, *INDEXES)
        with account(mysql_server, url, *grants) as ops:
            reported = Reported([ops.url], tmp_path)
            for name in ("index_usage", "table_sizes"):
                report = reported.make(name)  # type: ignore[arg-type]
                assert {each["table"] for each in rows(report)} == {"parents"}
                ((sentence,),) = report.missing.values()
                assert "GRANT SELECT ON `" in sentence
                assert ops.name.split("@")[0] in sentence


def test_an_index_on_an_expression_shows_no_literal_of_it(counting_url: str, tmp_path: Path) -> None:
    if "mysql" in counting_url and "MariaDB" in everything_of_version(counting_url):
        return  # it has none
    run(counting_url, NOTES, "CREATE INDEX odd ON notes ((CASE WHEN text = 'geheim' THEN 1 ELSE 2 END), text)")
    report = Reported([counting_url], tmp_path).make("index_usage")
    assert row(report, index="odd")["columns"] == "(expression), text"
    assert "geheim" not in everything(report)


NOTES = "CREATE TABLE notes (id INT PRIMARY KEY, text VARCHAR(100))"


def everything_of_version(url: str) -> str:
    import sqlalchemy as sa

    with sa.create_engine(url, poolclass=sa.pool.NullPool).connect() as connection:
        return str(connection.exec_driver_sql("SELECT VERSION()").scalar())


def test_partitions_of_postgres_count_and_their_attached_indexes_stay(
    counting_postgres: Engine, tmp_path: Path
) -> None:
    with counting_postgres.database() as url:
        run(
            url,
            "CREATE TABLE logs (id INT, at DATE) PARTITION BY RANGE (at)",
            "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
            "CREATE INDEX by_day ON logs (at)",
        )
        report = Reported([url], tmp_path).make("index_usage")
        (found,) = rows(report)
        assert (found["table"], found["needed_for"]) == ("logs_1", "the index of the partitioned table")
        sizes = Reported([url], tmp_path).make("table_sizes")
        assert [each["table"] for each in rows(sizes)] == ["logs"]


def test_sqlite_lists_its_indexes_and_says_that_nobody_counts(sqlite_url: str, tmp_path: Path) -> None:
    run(sqlite_url, PARENTS, THINGS, *INDEXES, *ROWS)
    report = Reported([sqlite_url], tmp_path).make("index_usage")
    shape = row(report, index="by_shape")
    assert shape["bytes"] == 4096
    assert not shape["may_go"]
    assert row(report, index="by_parent")["needed_for"] == "a foreign key"
    assert report.news == []
    assert report.missing == {}
    assert "does not count" in everything(report)
