"""A restore says what it would do, refuses what isn't safe before its first write, and gives back what was."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.archive.restore_plan import RestorePlan
from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused
from saju_ops.rows.days import parse_day
from saju_ops.rows.engines.base import RowStore
from saju_ops.rows.engines.sqlite.store import SQLiteRowStore
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.open import StorageError
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, SEOUL, Scene
from saju_ops_tests.engines import Engine

THIRD_DAY = parse_day("2026-10-03", SEOUL)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    return Scene(database_url, tmp_path / "backups").create_table()


def purged(scene: Scene, rows: int = 20) -> list[tuple[object, ...]]:
    """Archives and purges a day; what it was."""
    scene.add(rows)
    original = scene.state()
    scene.archive()
    assert scene.purge().deleted == rows
    return original


@pytest.mark.long
def test_purged_rows_come_back_and_a_second_restore_finds_them(scene: Scene) -> None:
    original = purged(scene)
    result = scene.restore()
    assert (result.to_write, result.written, result.already_there) == (20, 20, 0)
    assert scene.state() == original
    again = scene.restore()
    assert (again.to_write, again.written, again.already_there) == (0, 0, 20)
    assert scene.state() == original


@pytest.mark.long
def test_a_dry_run_says_it_and_writes_nothing(scene: Scene) -> None:
    purged(scene)
    result = scene.restore(dry_run=True)
    assert (result.to_write, result.written, scene.count()) == (20, 0, 0)
    assert any("20 rows would be written" in s for s in result.sentences())
    other = scene.restore(table="copy_of_logs", dry_run=True)
    assert (other.creates_table, other.to_write) == (True, 20)
    with pytest.raises(Refused), Scene(scene.url, scene.folder, "copy_of_logs").store():
        pass


@pytest.mark.long
def test_rows_that_are_there_and_equal_are_skipped(scene: Scene) -> None:
    scene.add(20)
    original = scene.state()
    scene.archive()
    scene.remove("log_id > 15")
    result = scene.restore()
    assert (result.already_there, result.written) == (15, 5)
    assert scene.state() == original


@pytest.mark.long
def test_a_row_that_differs_stops_it_before_the_first_write_and_is_named(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    scene.remove("log_id > 15")
    scene.update("tokens = 9", "log_id IN (3, 7)")
    before = scene.state()
    with pytest.raises(Refused, match=r"2 rows are in .* differ .*keys: 3; 7\. Nothing was written"):
        scene.restore()
    assert scene.state() == before


@pytest.mark.long
def test_a_row_that_differs_on_a_later_day_stops_the_first_day_too(scene: Scene) -> None:
    for number, day in enumerate((DAY, NEXT_DAY)):
        scene.add(5, first=1 + 100 * number, day=day)
        scene.archive(day)
    scene.remove("log_id < 100")
    scene.update("tokens = 9", "log_id = 101")
    with pytest.raises(Refused, match="101"):
        scene.restore(DAY, NEXT_DAY)
    assert scene.count() == 5


@pytest.mark.long
def test_a_row_that_two_days_archives_hold_stops_it_before_the_first_write(scene: Scene) -> None:
    scene.add(3)
    scene.archive()
    scene.update("created_at = :t", "log_id = 2", t=scene.time(NEXT_DAY.start))
    scene.archive(NEXT_DAY)
    assert scene.purge().deleted == 3
    with pytest.raises(Refused, match=r"2.*Nothing was written"):
        scene.restore(DAY, NEXT_DAY)
    assert scene.count() == 0
    assert scene.restore(NEXT_DAY).written == 1


@pytest.mark.long
def test_a_new_table_is_made_without_foreign_keys_and_takes_the_rows(scene: Scene) -> None:
    original = purged(scene)
    result = scene.restore(table="copy_of_logs")
    assert (result.creates_table, result.written, scene.count()) == (True, 20, 0)
    assert scene.state("copy_of_logs") == original


@pytest.mark.long
def test_the_rows_go_to_another_database(scene: Scene, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    original = purged(scene)
    if scene.family == "sqlite":
        other = Scene(f"sqlite:///{tmp_path / 'other.db'}", scene.folder).create_table()
        check_other(scene, other, original)
        return
    server: Engine = next(
        s for s in (request.getfixturevalue(f"{n}_server") for n in ("mysql", "mariadb", "postgres"))
        if f":{s.port}/" in scene.url
    )  # fmt: skip
    with server.database() as url:
        check_other(scene, Scene(url, scene.folder).create_table(), original)


def check_other(scene: Scene, other: Scene, original: list[tuple[object, ...]]) -> None:
    assert scene.restore(url=other.url).written == 20
    assert other.state() == original
    assert scene.count() == 0


@pytest.mark.long
def test_missing_parents_are_reported_and_the_way_out_works(scene: Scene) -> None:
    kind = "varchar(64)"
    scene.run(f"CREATE TABLE user_sessions (session_id {kind} PRIMARY KEY)")
    table = scene.name
    scene.run(f"DROP TABLE {table}")
    when = {"mysql": "timestamp(6)", "postgresql": "timestamptz", "sqlite": "text"}[scene.family]
    number = "integer" if scene.family == "sqlite" else "bigint"
    scene.run(
        f"CREATE TABLE {table} (log_id {number} PRIMARY KEY, session_id {kind}, created_at {when} NOT NULL,"
        " FOREIGN KEY (session_id) REFERENCES user_sessions (session_id) ON DELETE CASCADE)"
    )
    scene.run("INSERT INTO user_sessions VALUES ('s1'), ('s2'), ('s3')")
    for number_of_day, day in enumerate((DAY, NEXT_DAY)):
        scene.insert(
            [
                {"log_id": 10 * number_of_day + i, "session_id": f"s{i}", "created_at": scene.time(day.start)}
                for i in (1, 2, 3)
            ]
        )
        scene.archive(day)
    original = scene.state()
    assert scene.purge().deleted == 6
    scene.run("DELETE FROM user_sessions WHERE session_id <> 's1'")
    with pytest.raises(Refused, match=r"2 parent rows are missing.*user_sessions s2; user_sessions s3.*--into-table"):
        scene.restore(DAY, NEXT_DAY)
    assert scene.count() == 0
    assert scene.restore(DAY, NEXT_DAY, table="conversation_logs_restored").written == 6
    assert scene.state("conversation_logs_restored") == original


CHANGING = {
    "mysql": ("CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW SET NEW.content = 'x'",),
    "postgresql": (
        "CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.content := ''x''; RETURN NEW; END'",
        "CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION changed()",
    ),
    "sqlite": (
        "CREATE TRIGGER t AFTER INSERT ON {name} BEGIN UPDATE {name} SET content = 'x' WHERE log_id = NEW.log_id; END",
    ),
}


@pytest.mark.long
def test_a_target_that_changes_what_is_written_gets_nothing(scene: Scene) -> None:
    original = purged(scene)
    scene.run(*(statement.format(name=scene.name) for statement in CHANGING[scene.family]))
    with pytest.raises(ProofFailed, match=r"or their contents differ; this file was rolled back\. 0 rows before it"):
        scene.restore()
    assert scene.count() == 0
    scene.run(f"DROP TRIGGER t{f' ON {scene.name}' if scene.family == 'postgresql' else ''}")
    assert scene.restore().written == 20
    assert scene.state() == original


@pytest.mark.long
def test_of_two_parts_the_later_one_counts(scene: Scene) -> None:
    scene.add(10)
    scene.archive()
    scene.update("tokens = 9", "log_id = 4")
    original = scene.state()
    scene.archive()
    scene.purge()
    result = scene.restore()
    assert (result.written, result.superseded) == (10, 1)
    assert scene.state() == original


def test_a_restore_steps_back_from_a_purge(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take away again what comes back."""
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    purged(scene)
    lock = SQLiteRowStore.lock
    monkeypatch.setattr(SQLiteRowStore, "lock", lambda store, name, wait: lock(store, name, 0.0))
    with scene.store() as purging, purging.lock("purge", 0.0):
        with pytest.raises(Busy, match="Another run works on purge"):
            scene.restore()
    assert scene.count() == 0
    assert scene.restore().written == 20


@pytest.mark.long
def test_days_that_were_restored_before_a_kill_are_skipped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, day in enumerate((DAY, NEXT_DAY, THIRD_DAY)):
        scene.add(5, first=1 + 100 * number, day=day)
        scene.archive(day)
    original = scene.state()
    assert scene.purge().deleted == 15
    with scene.store() as store:
        owner = type(store)
    loads: list[str] = []
    load = owner.restoring

    def killed(self: RowStore) -> AbstractContextManager[None]:
        loads.append("day")
        if len(loads) == 3:
            raise KeyboardInterrupt
        return load(self)

    monkeypatch.setattr(owner, "restoring", killed)
    with pytest.raises(KeyboardInterrupt):
        scene.restore(DAY, THIRD_DAY)
    monkeypatch.undo()
    assert scene.count() == 10
    result = scene.restore(DAY, THIRD_DAY)
    assert (result.already_there, result.written) == (10, 5)
    assert scene.state() == original


@pytest.mark.long
def test_a_damaged_archive_of_any_day_stops_it_before_the_first_write(scene: Scene) -> None:
    for number, day in enumerate((DAY, NEXT_DAY)):
        scene.add(5, first=1 + 100 * number, day=day)
        scene.archive(day)
    scene.purge()
    data = scene.data_file(NEXT_DAY)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ProofFailed, match="20261002"):
        scene.restore(DAY, NEXT_DAY)
    assert scene.count() == 0
    assert scene.restore(DAY).written == 5


def test_a_file_exchanged_while_the_restore_runs_writes_nothing(scene: Scene) -> None:
    scene.add(20, content="original")
    scene.archive()
    scene.remove("log_id > 0")
    file = scene.data_file()

    def exchange(_plan: RestorePlan) -> None:
        file.write_bytes(file.read_bytes().replace(b"original", b"replaced", 1))

    with pytest.raises(ProofFailed):
        scene.restore(announce=exchange)
    assert scene.ids() == []


@pytest.mark.long
def test_new_rows_are_numbered_after_the_highest_restored_one(scene: Scene, request: pytest.FixtureRequest) -> None:
    scene.add(5, first=1000)
    scene.archive()
    scene.run(f"DROP TABLE {scene.name}")
    scene.create_table()
    assert scene.restore().written == 5
    scene.insert([{"content": "new", "created_at": scene.time(NEXT_DAY.start)}])
    assert scene.ids()[-1] == 1005


def test_a_sequence_never_decreases(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups").create_table()
    purged(scene)
    scene.run("SELECT setval('conversation_logs_log_id_seq', 5000)")
    scene.restore()
    scene.insert([{"content": "new", "created_at": scene.time(NEXT_DAY.start)}])
    assert scene.ids()[-1] == 5001


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_where_load_data_is_not_allowed_inserts_give_the_same(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue(f"{engine}_server")
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(5, content='가 "b"\r\n\\N\0🙂')
    scene.add(1, first=50, content=None)
    scene.add(1, first=51, content="")
    original = scene.state()
    scene.archive()
    scene.purge()
    server.execute("SET GLOBAL local_infile = OFF")
    try:
        assert scene.restore().written == 7
    finally:
        server.execute("SET GLOBAL local_infile = ON")
    assert scene.state() == original


@pytest.mark.long
def test_a_live_writer_on_the_target_does_not_disturb_a_restore(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    when = {"mysql": "timestamp(6)", "postgresql": "timestamptz", "sqlite": "text"}[scene.family]
    scene.run(f"CREATE TABLE {scene.name} (log_id varchar(40) PRIMARY KEY, created_at {when} NOT NULL)")
    rows = [{"log_id": f"{i * 7919 % 10007:06}", "created_at": scene.time(DAY.start)} for i in range(3000)]
    scene.insert(rows)
    scene.archive()
    scene.purge()
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            written.append(f"{len(written) * 3 % 10007:06}-live")
            scene.insert([{"log_id": written[-1], "created_at": scene.time(NEXT_DAY.start)}])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert scene.restore().written == 3000
    finally:
        stop.set()
        writer.join()
    assert scene.count() == 3000 + len(written)


def test_a_table_with_a_column_less_is_refused(scene: Scene) -> None:
    purged(scene)
    scene.run(f"ALTER TABLE {scene.name} DROP COLUMN tokens")
    with pytest.raises(Refused, match=r"no column tokens.*Nothing was written"):
        scene.restore()


@pytest.mark.long
def test_a_file_whose_manifest_is_lost_is_named_and_not_passed_over(scene: Scene) -> None:
    purged(scene)
    scene.add(5, first=101, day=NEXT_DAY)
    scene.archive(NEXT_DAY)
    (lost,) = scene.folder.rglob("*_20261001.manifest.json")
    lost.unlink()
    result = scene.restore(last=NEXT_DAY, dry_run=True)
    assert any("NOT RESTORED" in s and "conversation_log_backup_20261001.csv" in s for s in result.sentences())
    assert "NOT RESTORED" in result.incomplete
    assert not any("NOT RESTORED" in s for s in scene.restore(NEXT_DAY, dry_run=True).sentences())
    with pytest.raises(Refused, match=r"no archive of any day .*without its manifest .*backup_20261001\.csv"):
        scene.restore()


def test_a_day_that_the_store_does_not_give_is_named_and_the_others_come_back(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose manifest is in Glacier."""
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    purged(scene)
    scene.add(5, first=101, day=NEXT_DAY)
    scene.archive(NEXT_DAY)
    given = LocalStorage.open

    def frozen(self: LocalStorage, name: str) -> object:
        if name.endswith("_20261002.manifest.json"):
            raise StorageError(f"S3 could not read {name} (InvalidObjectState).")
        return given(self, name)

    monkeypatch.setattr(LocalStorage, "open", frozen)
    result = scene.restore(last=NEXT_DAY)
    assert result.written == 20
    assert result.incomplete.startswith("NOT RESTORED: 2026-10-02: S3 could not read")


def test_a_day_range_without_any_archive_is_refused(scene: Scene) -> None:
    with pytest.raises(Refused, match="no archive of any day"):
        scene.restore()
    purged(scene)
    with pytest.raises(Refused, match="before the first"):
        scene.restore(NEXT_DAY, DAY)


@pytest.mark.long
def test_a_generated_column_comes_back_in_a_new_table_too(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    when = {"mysql": "timestamp(6)", "postgresql": "timestamptz", "sqlite": "text"}[scene.family]
    scene.run(
        f"CREATE TABLE {scene.name} (log_id int NOT NULL PRIMARY KEY,"
        " twice int GENERATED ALWAYS AS (log_id * 2) STORED,"
        f" created_at {when} NOT NULL)"
    )
    scene.insert([{"log_id": i, "created_at": scene.time(DAY.start)} for i in range(1, 6)])
    original = scene.state()
    scene.archive()
    assert scene.purge().deleted == 5
    assert scene.restore(table="copy_of_logs").written == 5
    assert scene.state("copy_of_logs") == original


PAIRS = [(a, b) for a in ("mysql", "postgres", "sqlite") for b in ("mysql", "mariadb", "postgres", "sqlite") if a != b]


@pytest.mark.long
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_simple_columns_can_be_restored_into_another_kind_of_database(
    source: str, target: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    one = Scene(request.getfixturevalue(f"{source}_url"), tmp_path / "backups").create_table()
    one.add(20, content='한글 "🙂"\r\n')
    one.update("content = NULL, tokens = NULL", "log_id = 3")
    one.archive()
    if target == "sqlite":
        two = Scene(f"sqlite:///{tmp_path / 'target.db'}", one.folder).create_table()
    else:
        two = Scene(request.getfixturevalue(f"{target}_url"), one.folder).create_table()
    assert one.restore(url=two.url).written == 20
    query = f"SELECT log_id, session_id, role, content, tokens FROM {one.table} ORDER BY log_id"  # noqa: S608
    assert [tuple(r) for r in two.run(query)] == [tuple(r) for r in one.run(query)]
    # The instants too: the target's own archive of the day holds all of them.
    assert Scene(two.url, tmp_path / "second").archive().rows == 20


def test_times_that_would_shift_in_another_kind_of_database_stop_it(
    sqlite_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """The archive's text is Seoul's clock, and the column holds instants."""
    scene = Scene(sqlite_url, tmp_path / "backups", zone=SEOUL).create_table()
    scene.add(3)
    scene.archive()
    target = Scene(postgres_url, tmp_path / "other").create_table()
    with pytest.raises(Refused, match=r"created_at is in UTC in the archive or in .*, and in Asia/Seoul in the other"):
        scene.restore(url=postgres_url)
    assert target.count() == 0


def test_values_that_do_not_fit_another_kind_of_database_stop_it(
    postgres_url: str, mysql_url: str, tmp_path: Path
) -> None:
    one = Scene(postgres_url, tmp_path / "backups").create_table()
    one.run(f"ALTER TABLE {one.name} ALTER tokens TYPE bigint")
    one.add(3, tokens=2**40)
    one.archive()
    two = Scene(mysql_url, tmp_path / "backups").create_table()
    with pytest.raises(OperatorError):
        one.restore(url=mysql_url)
    assert two.count() == 0


@pytest.mark.long
@pytest.mark.parametrize("table", ["a" * 65, "lent ", "newone"])
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_that_cannot_be_made_is_reported_in_a_sentence(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, table: str
) -> None:
    server = request.getfixturevalue(f"{engine}_server")
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(2)
    scene.archive()
    url = sa.make_url(scene.url)
    user = f"reader_{engine}@'127.0.0.1'"
    server.execute(f"CREATE USER {user} IDENTIFIED BY 'secret'", f"GRANT SELECT ON {url.database}.* TO {user}")
    try:
        narrow = url.set(username=f"reader_{engine}", password="secret").render_as_string(hide_password=False)
        with pytest.raises(OperatorError, match=r"can't be written to .* Nothing was written"):
            scene.restore(table=table, url=narrow)
    finally:
        server.execute(f"DROP USER {user}")
