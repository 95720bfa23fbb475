"""Slow queries: the digests of this database alone, without any value; and what is missing where none can be seen."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.errors import OperatorError
from saju_ops_tests.accounts import account
from saju_ops_tests.database_reports.scene import A_WEEK_AGO, TODAY, Reported, everything, row, rows, run, wait
from saju_ops_tests.engines import Engine, MySQL

NOTES = "CREATE TABLE notes (id INT PRIMARY KEY, text VARCHAR(100))"
ONE_NOTE = "INSERT INTO notes VALUES (1, 'canary-4711')"


@pytest.mark.long
def test_the_slowest_queries_come_first_with_their_calls_and_without_their_values(
    counting_url: str, tmp_path: Path
) -> None:
    run(counting_url, NOTES, ONE_NOTE, *[wait(0.05, counting_url)] * 3)
    report = Reported([counting_url], tmp_path).make("slow_queries")
    first = rows(report)[0]
    assert first["query"].startswith("SELECT COUNT" if "mysql" in counting_url else "SELECT count")
    assert first["calls"] == 3
    assert 150 <= first["total_ms"] <= 5000
    assert 50 <= first["mean_ms"] <= first["max_ms"]
    assert first["since"]
    assert report.missing == {}
    assert "canary" not in everything(report)
    assert "4711" not in everything(report)
    assert report.location.endswith(f"reports/slow_queries_{TODAY}.csv")


def test_queries_of_another_database_on_the_server_are_not_in_it(
    counting_server: Engine, counting_url: str, tmp_path: Path
) -> None:
    with counting_server.database() as other:
        run(counting_url, NOTES)
        run(other, NOTES.replace("notes", "others"), "SELECT COUNT(*) FROM others")
        report = Reported([counting_url], tmp_path).make("slow_queries")
    assert "others" not in everything(report)


@pytest.mark.parametrize("name", ["mysql", "mariadb"])
def test_a_database_whose_name_differs_by_case_or_accent_is_another_one(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Engine = request.getfixturevalue({"mysql": "counting_mysql", "mariadb": "counting_mariadb"}[name])
    mine = f"café_{secrets.token_hex(4)}"
    others = [mine.upper(), mine.replace("é", "e")]
    for database in (mine, *others):
        server.create_database(database)
    try:
        for number, database in enumerate((mine, *others)):
            run(server.database_url(database), f"CREATE TABLE t{number} (id INT)", f"SELECT * FROM t{number}")  # noqa: S608
        report = Reported([server.database_url(mine)], tmp_path).make("slow_queries")
    finally:
        for database in (mine, *others):
            server.drop_database(database)
    assert "t0" in everything(report)
    assert "t1" not in everything(report)
    assert "t2" not in everything(report)


SECRET = [
    "SELECT id FROM notes WHERE text = 'geheim-1' /* geheim-2 */",
    "SELECT id FROM notes WHERE id IN (271828, 314159) AND text LIKE '%geheim-3%' LIMIT 8675309",
    "INSERT INTO notes VALUES (2, 'geheim-4')",
    "UPDATE notes SET text = 'geheim-5' WHERE id = 2",
    "WITH x AS (SELECT 'geheim-6' AS y) SELECT * FROM x",
    "DELETE FROM notes WHERE text = 'geheim-7' -- geheim-8",
]


def test_no_literal_number_or_comment_of_a_query_is_shown(counting_url: str, tmp_path: Path) -> None:
    run(counting_url, NOTES, *SECRET)
    report = Reported([counting_url], tmp_path).make("slow_queries")
    text = everything(report)
    assert "geheim" not in text
    assert [number for number in ("271828", "314159", "8675309") if number in text] == []
    assert len([each for each in rows(report) if "notes" in each["query"]]) >= 5


def test_statements_that_change_no_rows_are_left_out_with_their_literals(counting_url: str, tmp_path: Path) -> None:
    utility = [
        "CREATE TABLE geheim_1 (id INT DEFAULT 271828)",
        "DROP TABLE geheim_1",
        "COMMENT ON TABLE notes IS 'geheim-2'"
        if "postgresql" in counting_url
        else "ALTER TABLE notes COMMENT 'geheim-2'",
        "SET application_name = 'geheim-3'" if "postgresql" in counting_url else "SET @a = 'geheim-3'",
    ]
    run(counting_url, NOTES, *utility)
    assert "geheim" not in everything(Reported([counting_url], tmp_path).make("slow_queries"))


def test_an_alias_that_is_somebodys_name_is_no_name_of_the_database(counting_url: str, tmp_path: Path) -> None:
    quoted = '"{}"' if "postgresql" in counting_url else "`{}`"
    names = ["김철수", "010-1234-5678", "kim@example.com"]
    run(counting_url, NOTES, *[f"SELECT id AS {quoted.format(name)} FROM notes" for name in names])  # noqa: S608
    run(counting_url, f"ALTER TABLE notes ADD COLUMN {quoted.format('생년월일')} INT",
        f"SELECT {quoted.format('생년월일')} FROM notes")  # fmt: skip  # noqa: S608
    report = Reported([counting_url], tmp_path).make("slow_queries")
    assert [name for name in names if name in everything(report)] == []
    assert "생년월일" in everything(report)


@pytest.mark.parametrize("name", ["mysql", "mariadb"])
def test_what_only_ever_failed_is_left_out_since_its_names_may_be_values(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Engine = request.getfixturevalue({"mysql": "counting_mysql", "mariadb": "counting_mariadb"}[name])
    with server.database() as url:
        run(url, NOTES)
        with pytest.raises(sa.exc.DBAPIError):
            run(url, "SET sql_mode = 'ANSI_QUOTES'", 'SELECT id FROM notes WHERE text = "geheim"')
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql("SET sql_mode = 'ANSI_QUOTES'")
            with pytest.raises(sa.exc.DBAPIError):
                connection.exec_driver_sql('SELECT id FROM notes WHERE text = "geheim"')
        engine.dispose()
        assert "geheim" not in everything(Reported([url], tmp_path).make("slow_queries"))


# --- what can't be seen -------------------------------------------------------------------------------------------


def test_mariadb_without_performance_schema_says_which_setting_is_missing(mariadb_url: str, tmp_path: Path) -> None:
    run(mariadb_url, NOTES, "SELECT * FROM notes")
    report = Reported([mariadb_url], tmp_path).make("slow_queries")
    assert rows(report) == []
    ((sentence,),) = report.missing.values()
    assert "performance_schema=ON" in sentence
    assert "restart" in sentence


@pytest.mark.parametrize("name", ["mysql", "mariadb"])
def test_an_account_without_rights_on_performance_schema_learns_the_grant_that_helps(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Engine = request.getfixturevalue({"mysql": "counting_mysql", "mariadb": "counting_mariadb"}[name])
    with server.database() as url, account(server, url, "GRANT SELECT ON {db}.* TO {user}") as ops:
        run(url, NOTES, "SELECT * FROM notes")
        reported = Reported([ops.url], tmp_path)
        report = reported.make("slow_queries")
        assert rows(report) == []
        ((sentence,),) = report.missing.values()
        grant = f"GRANT SELECT ON performance_schema.* TO '{ops.name.split('@')[0]}'@'127.0.0.1'"
        assert grant in sentence
        server.execute(sentence.split("may say: ")[1])
        mended = reported.make("slow_queries")
        assert mended.missing == {}
        assert "notes" in everything(mended)


@contextmanager
def switched(server: Engine, off: str, on: str) -> Iterator[None]:
    server.execute(off)
    try:
        yield
    finally:
        server.execute(on)


def test_a_consumer_that_is_off_is_named_with_the_statement_that_mends_it(
    counting_mysql: Engine, tmp_path: Path
) -> None:
    change = "UPDATE performance_schema.setup_consumers SET ENABLED = '{}' WHERE NAME = 'statements_digest'"
    with counting_mysql.database() as url, switched(counting_mysql, change.format("NO"), change.format("YES")):
        report = Reported([url], tmp_path).make("slow_queries")
        ((sentence,),) = report.missing.values()
        assert sentence.endswith("SET ENABLED = 'YES' WHERE NAME = 'statements_digest';")


def test_postgres_without_the_extension_says_how_to_get_it(postgres_url: str, tmp_path: Path) -> None:
    report = Reported([postgres_url], tmp_path).make("slow_queries")
    ((sentence,),) = report.missing.values()
    assert "shared_preload_libraries = 'pg_stat_statements'" in sentence
    assert "CREATE EXTENSION pg_stat_statements" in sentence


def test_postgres_with_the_extension_but_without_its_library_says_so(postgres_url: str, tmp_path: Path) -> None:
    run(postgres_url, "CREATE EXTENSION pg_stat_statements")
    report = Reported([postgres_url], tmp_path).make("slow_queries")
    ((sentence,),) = report.missing.values()
    assert "is not loaded" in sentence
    assert "restart" in sentence


def test_a_role_of_postgres_that_sees_only_its_own_statements_learns_the_grant(
    counting_postgres: Engine, tmp_path: Path
) -> None:
    role = f"ops_{secrets.token_hex(4)}"
    with counting_postgres.database() as url:
        run(url, "CREATE SCHEMA tools", "CREATE EXTENSION pg_stat_statements SCHEMA tools", NOTES,
            "SELECT text FROM notes")  # fmt: skip
        counting_postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'long enough'")
        try:
            run(url, f"GRANT USAGE ON SCHEMA tools TO {role}")
            mine = sa.make_url(url).set(username=role, password="long enough").render_as_string(hide_password=False)
            reported = Reported([mine], tmp_path)
            report = reported.make("slow_queries")
            ((sentence,),) = report.missing.values()
            assert sentence.endswith(f"GRANT pg_read_all_stats TO {role};")
            assert "notes" not in everything(report)
            counting_postgres.execute(sentence.split("may say: ")[1])
            mended = reported.make("slow_queries")
            assert mended.missing == {}
            assert "notes" in everything(mended)
        finally:
            run(url, f"DROP OWNED BY {role}")
            counting_postgres.execute(f"DROP ROLE {role}")


def test_sqlite_has_none_and_says_so_without_a_setting_to_change(sqlite_url: str, tmp_path: Path) -> None:
    run(sqlite_url, NOTES)
    report = Reported([sqlite_url], tmp_path).make("slow_queries")
    assert rows(report) == []
    assert report.missing == {}
    ((note,),) = report.notes.values()
    assert note.startswith("SQLite keeps no statistics of statements")


def test_a_server_that_is_down_is_a_problem_and_the_others_are_reported(
    mysql_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    run(sqlite_url, NOTES)
    down = "mysql+pymysql://u:s3cret-pw@127.0.0.1:1/gone"
    report = Reported([down, sqlite_url], tmp_path).make("table_sizes")
    assert [each["table"] for each in rows(report)] == ["notes"]
    ((problem,),) = [list(report.problems.values())]
    assert "s3cret" not in problem
    with pytest.raises(OperatorError, match="could not be looked at"):
        Reported([down], tmp_path).make("table_sizes")


# --- against the week before --------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_query_that_takes_twice_as_long_as_a_week_ago_is_new(counting_url: str, tmp_path: Path) -> None:
    reported = Reported([counting_url], tmp_path)
    run(counting_url, NOTES, ONE_NOTE, *[wait(0.02, counting_url)] * 10)
    assert reported.make("slow_queries", days_ago=7).news == []
    run(counting_url, *[wait(0.02, counting_url)] * 5)
    assert reported.make("slow_queries", days_ago=1).news == []
    run(counting_url, *[wait(0.2, counting_url)] * 5)
    report = reported.make("slow_queries")
    (news,) = report.news
    assert news.kind == "slower"
    assert "notes" in news.what
    assert "canary" not in news.what
    assert news.now > 2 * news.before > 40
    assert report.compared_with.endswith(f"slow_queries_{A_WEEK_AGO}.csv")


@pytest.mark.long
def test_a_report_of_one_server_restarted_since_is_compared_by_what_it_counted_anew(tmp_path: Path) -> None:
    with MySQL() as server, server.database() as url:
        reported = Reported([url], tmp_path)
        run(url, NOTES, ONE_NOTE, *[wait(0.02, url)] * 20)
        reported.make("slow_queries", days_ago=7)
        server.execute("TRUNCATE TABLE performance_schema.events_statements_summary_by_digest")
        run(url, *[wait(0.1, url)] * 4)
        (news,) = reported.make("slow_queries").news
        assert news.kind == "slower"
        found = row(reported.make("slow_queries"), query=news.what)
        assert found["calls"] == 4
