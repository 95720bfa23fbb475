"""A table that is altered while expired jobs or sessions are deleted stops the run; no unknown row is deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.expired.dependents import Hanging
from saju_ops.run_control import RunControl
from saju_ops.schema import tables as schema
from saju_ops_tests.expired.job_scene import TABLES, JobScene, job_id
from saju_ops_tests.expired.test_expired_sessions import OLD, SessionScene

JOBS, SESSIONS, BATCH = 6, 6, 2


@pytest.fixture
def jobs(database_url: str, tmp_path: Path) -> JobScene:
    scene = JobScene(database_url, tmp_path / "backups").create()
    scene.add(range(1, JOBS + 1))
    return scene


@pytest.fixture
def sessions(database_url: str, tmp_path: Path) -> SessionScene:
    scene = SessionScene(database_url, tmp_path / "backups")
    for number in range(1, SESSIONS + 1):
        scene.add(f"s{number}", OLD, [OLD])
    scene.archive(OLD)
    return scene


def once(action: Callable[[], object]) -> Callable[..., None]:
    """Called after each batch; acts after the first one that deleted anything."""
    done: list[bool] = []

    def progress(result: Any) -> None:
        if result.deleted and not done:
            done.append(True)
            action()

    return progress


def new_child(engine: sa.Engine, parent: sa.Column[Any], rows: list[Any], rule: str = "CASCADE") -> None:
    """A table `notes` with a foreign key to a column, and rows."""
    metadata = sa.MetaData()
    other = sa.Table(parent.table.name, metadata, sa.Column(parent.name, parent.type, primary_key=True))
    key = sa.ForeignKey(other.c[parent.name], ondelete=rule)
    notes = sa.Table(
        "notes", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("owner", parent.type, key)
    )
    with engine.connect() as connection:
        notes.create(connection)
        connection.execute(sa.insert(notes), [{"id": i, "owner": row} for i, row in enumerate(rows, 1)])


def count(engine: sa.Engine, table: str = "notes") -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text(f"SELECT COUNT(*) FROM {table} WHERE owner IS NOT NULL")).scalar_one())  # noqa: S608


def every_job(scene: JobScene) -> list[str]:
    return sorted(scene.ids())


@pytest.mark.long
@pytest.mark.parametrize("rule", ["CASCADE", "SET NULL"])
def test_a_table_that_begins_to_hang_on_jobs_between_two_batches_keeps_its_rows(jobs: JobScene, rule: str) -> None:
    act = once(lambda: new_child(jobs.engine, jobs.table("jobs").c.id, every_job(jobs), rule))
    result = jobs.purge(tables=TABLES, batch_jobs=BATCH, passed={"control": RunControl(progress=act)})
    assert f"references jobs with ON DELETE {rule}" in result.stopped
    assert "notes" in result.stopped
    assert f"{BATCH} of jobs were deleted before" in result.stopped
    assert (result.deleted, len(result.problems)) == (BATCH, 1)
    assert count(jobs.engine) == JOBS - BATCH
    assert set(jobs.wholeness(range(BATCH + 1, JOBS + 1)).values()) == {True}


@pytest.mark.long
def test_a_table_that_begins_to_hang_on_what_hangs_on_jobs_keeps_its_rows(jobs: JobScene) -> None:
    def act() -> None:
        new_child(jobs.engine, jobs.table("reports").c.id, sorted(jobs.ids("reports")))

    result = jobs.purge(tables=TABLES, batch_jobs=BATCH, passed={"control": RunControl(progress=once(act))})
    assert "references reports with ON DELETE CASCADE" in result.stopped
    assert count(jobs.engine) == JOBS - BATCH


@pytest.mark.long
def test_a_column_that_payments_get_between_two_batches_is_archived_before_they_go(jobs: JobScene) -> None:
    def act() -> None:
        jobs.run("ALTER TABLE payments ADD COLUMN memo varchar(50)")
        jobs.run("UPDATE payments SET memo = 'no archive holds this'")

    result = jobs.purge(tables=TABLES, batch_jobs=BATCH, passed={"control": RunControl(progress=once(act))})
    assert "the column memo was added to payments" in result.stopped
    assert len(jobs.ids("payments")) == JOBS - BATCH
    again = jobs.purge(tables=TABLES, batch_jobs=BATCH)
    assert (again.deleted, again.finished) == (JOBS - BATCH, True)
    memos = [row["id"] for row in jobs.archived("payments") if row.get("memo") == "no archive holds this"]
    assert sorted(map(int, memos)) == list(range(BATCH + 1, JOBS + 1))


@pytest.mark.long
def test_a_column_of_payments_that_is_renamed_stops_the_run_in_one_sentence(jobs: JobScene) -> None:
    act = once(lambda: jobs.run("ALTER TABLE payments RENAME COLUMN method TO paid_by"))
    result = jobs.purge(tables=TABLES, batch_jobs=BATCH, passed={"control": RunControl(progress=act)})
    assert "the column paid_by was added to payments" in result.stopped
    assert (result.deleted, sum(result.stayed.values())) == (BATCH, 0)


@pytest.mark.long
def test_an_index_and_a_table_of_its_own_stop_no_run(jobs: JobScene) -> None:
    def act() -> None:
        jobs.run("CREATE INDEX by_amount ON payments (amount)")
        jobs.run("CREATE TABLE other (a integer PRIMARY KEY)")

    result = jobs.purge(tables=TABLES, batch_jobs=BATCH, passed={"control": RunControl(progress=once(act))})
    assert (result.deleted, result.finished) == (JOBS, True)


def test_mariadb_lets_a_table_hang_on_jobs_under_their_lock_and_its_rows_stay(
    mariadb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made after the rows were found and locked, before they are deleted: that is rolled back."""
    scene = JobScene(mariadb_url, tmp_path / "backups").create(
        "CREATE TABLE notes (id int PRIMARY KEY, owner varchar(36))"
    )
    scene.add(range(1, 3))
    scene.run("INSERT INTO notes VALUES (1, :job)", job=job_id(1))
    original, done = Hanging.delete, []

    def delete(self: Hanging) -> Any:
        if not done:
            done.append(True)
            with scene.engine.connect() as connection:
                connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
                kind = connection.exec_driver_sql("SHOW COLUMNS FROM jobs LIKE 'id'").one()[1]
                connection.exec_driver_sql(f"ALTER TABLE notes MODIFY owner {kind}")
                connection.exec_driver_sql(
                    "ALTER TABLE notes ADD FOREIGN KEY (owner) REFERENCES jobs (id) ON DELETE CASCADE,"
                    " ALGORITHM=INPLACE"
                )
        return original(self)

    monkeypatch.setattr(Hanging, "delete", delete)
    result = scene.purge(tables=TABLES)
    assert "references jobs with ON DELETE CASCADE" in result.stopped
    assert (result.deleted, count(scene.engine)) == (0, 1)
    assert scene.wholeness([1, 2]) == {1: True, 2: True}


# --- sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_column_that_the_log_gets_between_two_batches_keeps_the_sessions(sessions: SessionScene) -> None:
    def act() -> None:
        sessions.run("ALTER TABLE conversation_logs ADD COLUMN note varchar(50)")
        sessions.run("UPDATE conversation_logs SET note = 'no archive holds this'")

    result = sessions.purge(batch_sessions=BATCH, passed={"control": RunControl(progress=once(act))})
    assert "the column note was added to conversation_logs" in result.stopped
    assert result.deleted == BATCH
    assert sessions.count("conversation_logs") == sessions.count("user_sessions") == SESSIONS - BATCH
    assert sessions.purge().deleted == 0
    sessions.archive(OLD)
    assert (sessions.purge().deleted, sessions.count("conversation_logs")) == (SESSIONS - BATCH, 0)


@pytest.mark.long
def test_a_table_that_begins_to_hang_on_calculations_keeps_its_rows(sessions: SessionScene) -> None:
    column = schema.chatbot.tables["saju_calculations"].c.calculation_id

    def act() -> None:
        left = [row[0] for row in sessions.run("SELECT calculation_id FROM saju_calculations")]
        new_child(sessions.engine, column, left)

    result = sessions.purge(batch_sessions=BATCH, passed={"control": RunControl(progress=once(act))})
    assert "references saju_calculations with ON DELETE CASCADE" in result.stopped
    assert (result.deleted, count(sessions.engine)) == (BATCH, SESSIONS - BATCH)
    assert sessions.count("user_sessions") == SESSIONS - BATCH


@pytest.mark.long
def test_a_trigger_on_sessions_that_is_made_between_two_batches_never_fires(sessions: SessionScene) -> None:
    family = sessions.engine.dialect.name
    insert = "INSERT INTO kept VALUES (1)"
    body = f"BEGIN {insert}; END" if family == "sqlite" else f"FOR EACH ROW {insert}"
    made = [f"CREATE TRIGGER seen AFTER DELETE ON user_sessions {body}"]
    if family == "postgresql":
        made = [
            f"CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {insert}; RETURN OLD; END'",
            "CREATE TRIGGER seen AFTER DELETE ON user_sessions FOR EACH ROW EXECUTE FUNCTION keep()",
        ]
    sessions.run("CREATE TABLE kept (a integer)")
    act = once(lambda: [sessions.run(statement) for statement in made])
    result = sessions.purge(batch_sessions=BATCH, passed={"control": RunControl(progress=act)})
    assert "the trigger seen was added to user_sessions" in result.stopped
    assert sessions.count("kept") == 0
