"""What an error may say: never the words of a trigger or a function, which may quote a row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect, error_text, parse_database_url
from saju_ops.dumps.programs import words_of
from saju_ops.reports.safe_errors import RaisedError, shown

PERSONAL = "홍길동 1990-03-02 quoted by a trigger"


def refused(url: str, *statements: str) -> sa.exc.DBAPIError:
    """What the last statement raises."""
    with connect(parse_database_url(url)).connect() as connection:
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement.replace("%", "%%"))
            connection.commit()
        with pytest.raises(sa.exc.DBAPIError) as caught:
            connection.exec_driver_sql(statements[-1])
        connection.rollback()
    return caught.value


def as_in_history(error: sa.exc.DBAPIError) -> str:
    return shown(RaisedError(type(error).__name__, f"sqlalchemy.exc.{type(error).__name__}: {error}"))


@pytest.mark.parametrize("url_fixture", ["mysql_url", "mariadb_url"])
@pytest.mark.parametrize(
    "signal",
    ["SQLSTATE '45000' SET MESSAGE_TEXT = '{}'", "SQLSTATE '77777' SET MESSAGE_TEXT = '{}', MYSQL_ERRNO = 31001",
     "SQLSTATE '02001' SET MESSAGE_TEXT = '{}'", "SQLSTATE '45000' SET MESSAGE_TEXT = '{}', MYSQL_ERRNO = 1205",
     "SQLSTATE '42000' SET MESSAGE_TEXT = '{}', MYSQL_ERRNO = 1142"],
)  # fmt: skip
def test_the_words_of_a_signal_are_not_shown(url_fixture: str, signal: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(url_fixture)
    error = refused(
        url,
        "CREATE TABLE t (id int PRIMARY KEY)",
        f"CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW SIGNAL {signal.format(PERSONAL)}",
        "INSERT INTO t VALUES (1)",
    )
    assert PERSONAL in str(error.orig)
    for said in (error_text(error), as_in_history(error)):
        assert "홍길동" not in said
        assert str(error.orig.args[0]) in said


@pytest.mark.parametrize("raised", ["", *(f"USING ERRCODE = '{code}'" for code in ("55P03", "ZZ123", "42501"))])
def test_the_words_of_a_raise_are_not_shown(postgres_url: str, raised: str) -> None:
    error = refused(
        postgres_url,
        "CREATE TABLE t (id int PRIMARY KEY)",
        f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ begin RAISE EXCEPTION '{PERSONAL}' {raised};"
        " end $$",
        "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()",
        "INSERT INTO t VALUES (1)",
    )
    assert PERSONAL in str(error.orig)
    for said in (error_text(error), as_in_history(error)):
        assert "홍길동" not in said
    assert "the database's own code" in error_text(error)


def test_the_words_of_a_raise_in_sqlite_are_not_shown(sqlite_url: str) -> None:
    sa.create_engine(sqlite_url).connect().close()
    import sqlite3

    sqlite3.connect(sqlite_url.removeprefix("sqlite:///")).execute("CREATE TABLE t (id)").connection.close()
    error = refused(
        sqlite_url,
        f"CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, '{PERSONAL}'); END",
        "INSERT INTO t VALUES (1)",
    )
    assert PERSONAL in str(error.orig)
    for said in (error_text(error), as_in_history(error)):
        assert "홍길동" not in said


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"ERROR 1644 (45000) at line 12: {PERSONAL}", "ERROR 1644 (45000) at line 12: …"),
        (f"ERROR 31001 (77777) at line 3: {PERSONAL}", None),
        (f"psql:<stdin>:9: ERROR:  {PERSONAL}\nCONTEXT:  PL/pgSQL function no() line 1 at RAISE", None),
        ("psql:<stdin>:9: ERROR:  permission denied for schema chat", "psql:<stdin>:9: ERROR:  permission denied for"),
        ("ERROR 1142 (42000) at line 1: INSERT command denied to user 'a'@'b' for table 't'", "INSERT command denied"),
    ],
)
def test_the_words_that_a_program_repeats_of_a_trigger_are_not_shown(said: str, kept: str | None) -> None:
    assert "홍길동" not in words_of(said)
    assert (kept or "…") in words_of(said)


@pytest.fixture
def locked(request: pytest.FixtureRequest) -> Callable[[str], str]:
    def text(url: str) -> str:
        return error_text(refused(url, "SELECT * FROM no_such_table"))

    return text


@pytest.mark.parametrize("url_fixture", ["mysql_url", "mariadb_url", "postgres_url"])
def test_what_the_server_says_of_names_stays(
    url_fixture: str, request: pytest.FixtureRequest, locked: Callable[[str], str]
) -> None:
    assert "no_such_table" in locked(request.getfixturevalue(url_fixture))
