"""A job or session of which the database refuses to delete a row stays whole, with the reason; all others go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saju_ops_tests.expired.job_scene import NO_FILES, JobScene, job_id
from saju_ops_tests.expired.test_expired_sessions import SessionScene

SECRET = "비밀 secret-4711"
HOW = {
    "mysql": ("mysql", ""), "mariadb": ("mariadb", ""), "postgres": ("postgres", "BEFORE DELETE"),
    "postgres at the commit": ("postgres", "AFTER DELETE"), "sqlite": ("sqlite", "ABORT"),
    "sqlite and all of its transaction": ("sqlite", "ROLLBACK"),
}  # fmt: skip


def trigger(how: str, table: str, condition: str) -> list[str]:
    engine, kind = HOW[how]
    if engine in ("mysql", "mariadb"):
        signal = f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{SECRET}';"
        return [f"CREATE TRIGGER spare BEFORE DELETE ON {table} FOR EACH ROW IF {condition} THEN {signal} END IF"]
    if engine == "sqlite":
        raised = f"SELECT RAISE({kind}, '{SECRET}')"
        return [f"CREATE TRIGGER spare BEFORE DELETE ON {table} WHEN {condition} BEGIN {raised}; END"]
    late = kind == "AFTER DELETE"
    return [
        "CREATE FUNCTION spare() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {condition} THEN RAISE EXCEPTION '{SECRET}'; END IF; RETURN OLD; END $$",
        f"CREATE {'CONSTRAINT ' if late else ''}TRIGGER spare {kind} ON {table}"
        f" {'DEFERRABLE INITIALLY DEFERRED' if late else ''} FOR EACH ROW EXECUTE FUNCTION spare()",
    ]


@pytest.mark.long
@pytest.mark.parametrize("how", list(HOW))
@pytest.mark.parametrize("table", ["jobs", "payments", "report_knowledge"])
def test_a_job_of_which_a_trigger_refuses_a_row_stays_whole_and_the_others_go(
    how: str, table: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = JobScene(request.getfixturevalue(f"{HOW[how][0]}_url"), tmp_path / "backups").create()
    scene.add(range(1, 8))
    column, value = {"jobs": ("id", f"'{job_id(5)}'"), "report_knowledge": ("report_id", "5")}.get(
        table, ("job_id", f"'{job_id(5)}'")
    )
    kind = "::text" if "postgres" in how and column != "report_id" else ""
    for statement in trigger(how, table, f"OLD.{column}{kind} = {value}"):
        scene.run(statement)
    result = scene.purge()
    assert scene.wholeness(range(1, 8)) == dict.fromkeys(range(1, 8)) | {5: True}
    assert (result.deleted, sum(result.stayed.values()), result.stopped) == (6, 1, "finished")
    (reason,) = result.stayed
    assert reason.startswith("the database refused")
    assert SECRET not in reason


@pytest.mark.long
@pytest.mark.parametrize("how", list(HOW))
@pytest.mark.parametrize("table", ["user_sessions", "saju_calculations"])
def test_a_session_of_which_a_trigger_refuses_a_row_stays_whole_and_the_others_go(
    how: str, table: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = SessionScene(request.getfixturevalue(f"{HOW[how][0]}_url"), tmp_path / "backups")
    for number in range(1, 7):
        scene.add(f"s{number}")
    for statement in trigger(how, table, "OLD.session_id = 's4'"):
        scene.run(statement)
    result = scene.purge()
    assert scene.sessions() == ["s4"]
    assert scene.count("saju_calculations") == scene.count("saju_analyses") == 1
    assert (result.deleted, sum(result.stayed.values()), result.stopped) == (5, 1, "finished")


WRONG = {
    "columns that are not unique": "REFERENCES jobs (product)",
    "a column that is not there": "REFERENCES jobs (gone)",
    "a table that is not there": "REFERENCES gone (id)",
}


@pytest.mark.parametrize("key", list(WRONG))
def test_jobs_of_a_sqlite_with_a_wrong_key_go_all_the_same(sqlite_url: str, tmp_path: Path, key: str) -> None:
    scene = JobScene(sqlite_url, tmp_path / "backups")
    scene.metadata.create_all(scene.engine)
    with scene.engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLE notes (id integer PRIMARY KEY, about text {WRONG[key]})")
        connection.exec_driver_sql(
            "CREATE TABLE visits (id integer PRIMARY KEY, job_id text REFERENCES jobs (ID) ON DELETE SET NULL)"
        )
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("INSERT INTO notes VALUES (1, '다른 것')")
    scene.add([1, 2])
    with scene.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql(f"INSERT INTO visits VALUES (1, '{job_id(1)}'), (2, NULL)")  # noqa: S608
    # A key by which no row can hang makes its table none that hangs on jobs.
    may_go = (*NO_FILES.may_go, "notes") if "unique" in key else NO_FILES.may_go
    tables = replace(NO_FILES, may_go=may_go, keep=(*NO_FILES.keep, "visits"))
    result = scene.purge(tables=tables)
    assert (result.deleted, dict(result.stayed)) == (2, {})
    assert [scene.whole(1), scene.whole(2)] == [None, None]
    assert scene.run("SELECT id, job_id FROM visits") == [(1, None), (2, None)]
    assert scene.run("SELECT id, about FROM notes") == [(1, "다른 것")]
