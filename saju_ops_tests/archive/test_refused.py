"""A row that the database itself refuses to delete stays and is counted with the reason; all others go."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from saju_ops_tests.archive.scene import DAY, NEXT_DAY, SECRET, Scene


def _postgres(body: str, when: str = "BEFORE DELETE", kind: str = "TRIGGER", more: str = "") -> tuple[str, ...]:
    return (
        f"CREATE FUNCTION spare() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        f"CREATE {kind} spare {when} ON conversation_logs {more} FOR EACH ROW EXECUTE FUNCTION spare()",
    )


def _mysql(when: str, what: str) -> str:
    start = f"CREATE TRIGGER spare {when} DELETE ON conversation_logs FOR EACH ROW"
    return f"{start} IF OLD.content = 'hold' THEN {what} END IF"


def _sqlite(how: str) -> str:
    return f"CREATE TRIGGER spare BEFORE DELETE ON conversation_logs WHEN OLD.content = 'hold' BEGIN SELECT {how}; END"


SIGNAL = f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{SECRET}';"
RAISE = f"IF OLD.content = 'hold' THEN RAISE EXCEPTION '{SECRET}'; END IF;"
TRIGGERS = {
    "mysql before": ("mysql", (_mysql("BEFORE", SIGNAL),)),
    "mysql after": ("mysql", (_mysql("AFTER", SIGNAL),)),
    "mariadb before": ("mariadb", (_mysql("BEFORE", SIGNAL),)),
    "mariadb broken": ("mariadb", (_mysql("BEFORE", "INSERT INTO there_is_none VALUES (1);"),)),
    "postgres raises": ("postgres", _postgres(f"{RAISE} RETURN OLD;")),
    "postgres is silent": ("postgres", _postgres("IF OLD.content = 'hold' THEN RETURN NULL; END IF; RETURN OLD;")),
    "postgres at the commit": (
        "postgres",
        _postgres(f"{RAISE} RETURN OLD;", "AFTER DELETE", "CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED"),
    ),
    "postgres rule": (
        "postgres",
        ("CREATE RULE spare AS ON DELETE TO conversation_logs WHERE OLD.content = 'hold' DO INSTEAD NOTHING",),
    ),
    "sqlite abort": ("sqlite", (_sqlite(f"RAISE(ABORT, '{SECRET}')"),)),
    "sqlite fail": ("sqlite", (_sqlite(f"RAISE(FAIL, '{SECRET}')"),)),
    "sqlite rollback": ("sqlite", (_sqlite(f"RAISE(ROLLBACK, '{SECRET}')"),)),
    "sqlite ignore": ("sqlite", (_sqlite("RAISE(IGNORE)"),)),
}


@pytest.mark.long
@pytest.mark.parametrize("trigger", list(TRIGGERS))
@pytest.mark.parametrize("chunk_size", [7, 5000])
def test_a_row_that_a_trigger_refuses_stays_and_all_else_is_deleted(
    trigger: str, chunk_size: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine, statements = TRIGGERS[trigger]
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(20)
    scene.add(10, first=21, day=NEXT_DAY)
    scene.update("content = 'hold'", "log_id IN (5, 6, 13)")
    scene.run(*statements)
    original = scene.state()
    for day in (DAY, NEXT_DAY):
        scene.archive(day)
    assert scene.purge(dry_run=True).deletable == 30
    result = scene.purge(chunk_size=chunk_size)
    assert scene.ids() == [5, 6, 13]
    assert (result.deleted, result.kept, sum(result.kept_refused.values())) == (27, 3, 3)
    assert (result.stopped, result.problems, result.kept_unexplained) == ("finished", [], 0)
    assert "3 refused by the database: " in result.kept_because
    assert SECRET not in result.kept_because
    assert result.per_day == {"2026-10-01": 17, "2026-10-02": 10}
    again = scene.purge(chunk_size=chunk_size)
    assert (again.deleted, again.kept) == (0, 3)
    assert scene.restore(DAY, NEXT_DAY).written == 27
    assert scene.state() == original


@pytest.mark.long
def test_a_row_that_an_undeclared_restrict_key_holds_stays(database_url: str, tmp_path: Path) -> None:
    """The foreign key is there, but its table refers to a unique column by another collation, or over two tables: what
    the database says in the DELETE counts."""
    scene = Scene(database_url, tmp_path / "backups").create_table()
    kind = "bigint" if scene.family != "sqlite" else "integer"
    key = f"REFERENCES {scene.name} (log_id) ON DELETE"
    scene.run(
        f"CREATE TABLE notes (note_id int PRIMARY KEY, log_id {kind}, FOREIGN KEY (log_id) {key} CASCADE)",
        "CREATE TABLE stars (note_id int, FOREIGN KEY (note_id) REFERENCES notes (note_id) ON DELETE RESTRICT)",
    )
    scene.add(8)
    scene.run("INSERT INTO notes VALUES (1, 3), (2, 4)", "INSERT INTO stars VALUES (1)")
    scene.archive()
    result = scene.purge()
    assert (result.deleted, dict(result.kept_referenced), result.problems) == (6, {"notes": 2}, [])
    assert scene.ids() == [3, 4]


@pytest.mark.long
def test_where_every_row_is_refused_all_are_counted_and_other_days_go(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    scene.add(300)
    scene.update("content = 'hold'", "1 = 1")
    scene.add(10, first=1001, day=NEXT_DAY)
    scene.run(_sqlite("RAISE(ABORT, 'no')"))
    for day in (DAY, NEXT_DAY):
        scene.archive(day)
    result = scene.purge()
    assert (result.deleted, sum(result.kept_refused.values()), result.stopped) == (10, 300, "finished")


def test_a_right_that_is_lacking_is_no_rows_fault_and_ends_the_purge(postgres_server: object, tmp_path: Path) -> None:
    from saju_ops.errors import OperatorError

    with postgres_server.database() as url:  # type: ignore[attr-defined]
        scene = Scene(url, tmp_path / "backups").create_table()
        scene.add(5)
        scene.archive()
        scene.run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'r'")
        scene.run("GRANT SELECT, UPDATE ON conversation_logs TO reader")
        address = scene.engine.url.set(username="reader", password="r").render_as_string(hide_password=False)
        reader = Scene(address, tmp_path / "backups")
        with pytest.raises(OperatorError, match="permission denied"):
            reader.purge()
        assert scene.count() == 5
        scene.run("DROP OWNED BY reader", "DROP ROLE reader")


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_right_that_is_lacking_ends_the_purge_there_too(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from saju_ops.errors import OperatorError

    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(5)
    scene.archive()
    scene.run("DROP USER IF EXISTS reader", "CREATE USER reader IDENTIFIED BY 'r'")
    scene.run(f"GRANT SELECT, UPDATE ON `{scene.engine.url.database}`.* TO reader")
    address = scene.engine.url.set(username="reader", password="r").render_as_string(hide_password=False)
    try:
        with pytest.raises(OperatorError, match="DELETE command denied"):
            Scene(address, tmp_path / "backups").purge()
    finally:
        scene.run("DROP USER reader")
    assert scene.count() == 5


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_after_a_deadlock_nothing_is_deleted_by_what_was_compared_before_it(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The server ends the transaction, its savepoints and its locks. A row that was changed then was deleted."""
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.run("CREATE TABLE audit (id int PRIMARY KEY, deleted int)", "INSERT INTO audit VALUES (1, 0)")
    scene.run(
        "CREATE TRIGGER spare BEFORE DELETE ON conversation_logs FOR EACH ROW"
        " UPDATE audit SET deleted = deleted + 1 WHERE id = 1"
    )
    scene.add(4)
    scene.archive()
    scene.update("content = 'late'", "log_id = 3")  # so that the chunk is deleted row by row
    started = threading.Event()

    def change() -> None:
        with scene.connected() as connection, connection.execution_options(isolation_level="REPEATABLE READ"):
            run = connection.exec_driver_sql
            run("UPDATE audit SET deleted = deleted + 1000 WHERE id = 1")
            for n in range(2, 200):  # the server ends the transaction that changed less
                run(f"INSERT INTO audit VALUES ({n}, 0)")  # noqa: S608
            started.set()
            waiting = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
            for _ in range(200):
                if scene.run(waiting)[0][0]:
                    break
                time.sleep(0.05)
            run("UPDATE conversation_logs SET content = 'changed' WHERE log_id = 4")
            connection.commit()

    service = threading.Thread(target=change)
    service.start()
    assert started.wait(30)
    result = scene.purge()
    service.join()
    assert scene.run("SELECT log_id, content FROM conversation_logs ORDER BY 1") == [(3, "late"), (4, "changed")]
    assert (result.deleted, result.kept_changed, result.problems) == (2, 2, [])
    assert scene.run("SELECT deleted FROM audit WHERE id = 1") == [(1002,)]
