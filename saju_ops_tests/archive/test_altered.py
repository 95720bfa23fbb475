"""A table that is altered while its rows are purged loses none that no archive holds in the shape that it has then."""

from __future__ import annotations

import csv
import io
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.archive.purge_plan import PurgeResult
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.engines.base import RowStore
from saju_ops_tests.archive.scene import Scene

ROWS, CHUNK = 40, 10
NO_FOREIGN_KEY_CHECKS = "SET SESSION foreign_key_checks = 0"


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    return archived(Scene(database_url, tmp_path / "backups").create_table())


def archived(scene: Scene) -> Scene:
    scene.add(ROWS)
    scene.archive()
    return scene


def purge_with(scene: Scene, *statements: str, after: int = CHUNK) -> PurgeResult:
    """A purge in four chunks; another connection runs the statements when so many rows are gone."""
    ran: list[bool] = []

    def progress(result: PurgeResult, _day: object) -> None:
        if result.deleted == after and not ran:
            ran.append(True)
            scene.run(*statements)

    result = scene.purge(chunk_size=CHUNK, progress=progress)
    assert ran
    return result


def child_of(scene: Scene, rule: str = "ON DELETE CASCADE", name: str = "notes") -> str:
    return (
        f"CREATE TABLE {name} (id integer PRIMARY KEY, log_id {'integer' if scene.family == 'sqlite' else 'bigint'}"
        f" REFERENCES {scene.name} (log_id) {rule})"
        if scene.family != "mysql"
        else f"CREATE TABLE {name} (id int PRIMARY KEY, log_id bigint,"
        f" FOREIGN KEY (log_id) REFERENCES {scene.name} (log_id) {rule})"
    )


def trigger_on(scene: Scene) -> list[str]:
    if scene.family == "mysql":
        return [f"CREATE TRIGGER seen AFTER DELETE ON {scene.name} FOR EACH ROW INSERT INTO kept VALUES (OLD.log_id)"]  # noqa: S608
    if scene.family == "sqlite":
        return [f"CREATE TRIGGER seen AFTER DELETE ON {scene.name} BEGIN INSERT INTO kept VALUES (OLD.log_id); END"]  # noqa: S608
    return [
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO kept VALUES (OLD.log_id); RETURN OLD; END'",
        f"CREATE TRIGGER seen AFTER DELETE ON {scene.name} FOR EACH ROW EXECUTE FUNCTION keep()",
    ]


def require_stopped(scene: Scene, result: PurgeResult, what: str, deleted: int = CHUNK) -> None:
    assert what in result.stopped
    assert f"{deleted} rows were deleted before" in result.stopped
    assert result.problems == [f"{result.stopped}."]
    assert not result.finished
    assert result.deleted == deleted
    assert scene.count() == ROWS - deleted


def test_a_column_that_is_added_and_filled_between_two_chunks_stops_the_purge(scene: Scene) -> None:
    result = purge_with(
        scene, f"ALTER TABLE {scene.name} ADD COLUMN note varchar(100)",
        f"UPDATE {scene.name} SET note = 'no archive holds this'",  # noqa: S608
    )  # fmt: skip
    require_stopped(scene, result, "the column note was added to conversation_logs")


@pytest.mark.long
def test_archived_again_in_its_new_shape_the_rest_is_purged_and_restored_whole(scene: Scene) -> None:
    purge_with(
        scene, f"ALTER TABLE {scene.name} ADD COLUMN note varchar(100)", f"UPDATE {scene.name} SET note = 'n'"  # noqa: S608
    )  # fmt: skip
    left = scene.state()
    assert scene.archive().rows_written == ROWS - CHUNK
    assert [names_of(part) for part in scene.files().parts][1][-1] == "note"
    result = scene.purge(chunk_size=CHUNK)
    assert (result.deleted, result.finished, scene.count()) == (ROWS - CHUNK, True, 0)
    scene.restore()
    assert [row for row in scene.state() if row in left] == left
    assert scene.count() == ROWS


def names_of(part: Any) -> list[str]:
    return [column.name for column in part.table_columns]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("{modify} content {type}", "the column content of conversation_logs was changed"),
        ("RENAME COLUMN content TO body", "the column body was added"),
        ("DROP COLUMN tokens", "the column tokens was taken from conversation_logs"),
        ("ADD COLUMN twice int GENERATED ALWAYS AS (tokens * 2) STORED", "the column twice was added"),
    ],
)
def test_a_column_that_is_changed_stops_the_purge(
    engine: str, change: str, what: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = archived(Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table())
    words = ("MODIFY", "varchar(500)") if scene.family == "mysql" else ("ALTER", "TYPE varchar(500)")
    result = purge_with(scene, f"ALTER TABLE {scene.name} {change.format(modify=words[0], type=words[1])}")
    require_stopped(scene, result, what)


@pytest.mark.long
@pytest.mark.parametrize("options", [", ALGORITHM=INSTANT", ", ALGORITHM=INPLACE", ", ALGORITHM=COPY"])
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_an_invisible_column_stops_the_purge_however_it_is_added(
    engine: str, options: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = archived(Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table())
    column = "note text DEFAULT NULL INVISIBLE"
    result = purge_with(scene, f"ALTER TABLE {scene.name} ADD COLUMN {column}{options}")
    require_stopped(scene, result, "the column note was added")


@pytest.mark.long
@pytest.mark.parametrize("rule", ["CASCADE", "SET NULL"])
def test_a_child_that_is_made_between_two_chunks_keeps_its_rows(scene: Scene, rule: str) -> None:
    result = purge_with(
        scene, child_of(scene, f"ON DELETE {rule}"), "INSERT INTO notes (id, log_id) VALUES (1, 35), (2, 36)"
    )
    require_stopped(scene, result, "notes")
    assert f"references conversation_logs with ON DELETE {rule}" in result.stopped
    assert scene.run("SELECT log_id FROM notes ORDER BY id") == [(35,), (36,)]


def test_a_trigger_that_is_made_between_two_chunks_never_fires(scene: Scene) -> None:
    scene.run("CREATE TABLE kept (log_id bigint)")
    result = purge_with(scene, *trigger_on(scene))
    require_stopped(scene, result, "the trigger seen was added to conversation_logs")
    assert scene.run("SELECT COUNT(*) FROM kept")[0][0] == 0


@pytest.mark.long
def test_what_was_there_before_the_purge_began_does_not_stop_it(scene: Scene) -> None:
    scene.run("CREATE TABLE kept (log_id bigint)", child_of(scene), *trigger_on(scene))
    scene.run("INSERT INTO notes (id, log_id) VALUES (1, 35)")
    result = scene.purge(chunk_size=CHUNK)
    assert (result.deleted, result.finished, scene.ids()) == (ROWS - 1, True, [35])


@pytest.mark.long
def test_what_changes_no_row_does_not_stop_it(scene: Scene) -> None:
    """An index, a default, another table: nothing that a row is made of."""
    default = [] if scene.family == "sqlite" else [f"ALTER TABLE {scene.name} ALTER COLUMN tokens SET DEFAULT 7"]
    result = purge_with(
        scene, f"CREATE INDEX by_tokens ON {scene.name} (tokens)", "CREATE TABLE other (a int PRIMARY KEY)", *default
    )
    assert (result.deleted, result.finished, result.problems) == (ROWS, True, [])


@pytest.mark.long
def test_another_table_under_the_same_name_loses_only_rows_that_are_archived(scene: Scene) -> None:
    """As gh-ost and pt-online-schema-change leave it: what came meanwhile and what changed stays."""
    copy = (
        f"CREATE TABLE fresh LIKE {scene.name}" if scene.family == "mysql"
        else f"CREATE TABLE fresh (LIKE {scene.name} INCLUDING ALL)" if scene.family == "postgresql"
        else scene.run("SELECT sql FROM sqlite_schema WHERE name = 'conversation_logs'")[0][0].replace(
            "conversation_logs", "fresh")
    )  # fmt: skip
    swap = (
        ["RENAME TABLE conversation_logs TO old, fresh TO conversation_logs"] if scene.family == "mysql"
        else ["ALTER TABLE conversation_logs RENAME TO old", "ALTER TABLE fresh RENAME TO conversation_logs"]
    )  # fmt: skip
    result = purge_with(
        scene, copy, f"INSERT INTO fresh SELECT * FROM {scene.name}", "UPDATE fresh SET tokens = 9 WHERE log_id = 33",  # noqa: S608
        *swap,
    )  # fmt: skip
    assert (result.deleted, scene.ids()) == (ROWS - 1, [33])
    assert scene.run("SELECT COUNT(*) FROM old") == [(ROWS - CHUNK,)]


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_another_table_with_a_further_column_stops_it(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = archived(Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table())
    result = purge_with(
        scene, f"CREATE TABLE fresh LIKE {scene.name}", "ALTER TABLE fresh ADD COLUMN note text",
        f"INSERT INTO fresh SELECT *, 'new' FROM {scene.name}",  # noqa: S608
        "RENAME TABLE conversation_logs TO old, fresh TO conversation_logs",
    )  # fmt: skip
    require_stopped(scene, result, "the column note was added")


def test_a_table_that_is_gone_stops_it_with_a_sentence(scene: Scene) -> None:
    result = purge_with(scene, f"ALTER TABLE {scene.name} RENAME TO away")
    assert "there is no table conversation_logs any more" in result.stopped
    assert scene.run("SELECT COUNT(*) FROM away") == [(ROWS - CHUNK,)]


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_that_lost_its_transactions_stops_it(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = archived(Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table())
    result = purge_with(scene, f"ALTER TABLE {scene.name} ENGINE = MyISAM")
    require_stopped(scene, result, "conversation_logs is of the kind MyISAM now (InnoDB before)")


# --- at the exact moments -----------------------------------------------------------------------------------


def at_once(monkeypatch: pytest.MonkeyPatch, method: str, action: Callable[[], object]) -> None:
    """Another connection acts inside the first chunk's transaction, just before the store's own step."""
    original, done = getattr(RowStore, method), []

    def stepping(self: RowStore, *args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(True)
            action()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RowStore, method, stepping)


@pytest.mark.parametrize("alter", [False, True], ids=["new table", "table that was there"])
def test_mariadb_lets_a_child_be_made_under_the_lock_and_its_rows_stay(
    mariadb_url: str, alter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the DELETE, which cascades into the child and is rolled back."""
    scene = archived(Scene(mariadb_url, tmp_path / "backups").create_table())
    made = [child_of(scene)]
    if alter:
        scene.run("CREATE TABLE notes (id int PRIMARY KEY, log_id bigint)", "INSERT INTO notes VALUES (1, 5)")
        made = [
            f"ALTER TABLE notes ADD FOREIGN KEY (log_id) REFERENCES {scene.name} (log_id) ON DELETE CASCADE,"
            " ALGORITHM=INPLACE"
        ]
    rows = [] if alter else ["INSERT INTO notes VALUES (1, 5)"]
    at_once(monkeypatch, "delete", lambda: scene.run(NO_FOREIGN_KEY_CHECKS, *made, *rows))
    result = scene.purge(chunk_size=CHUNK)
    require_stopped(scene, result, "references conversation_logs with ON DELETE CASCADE", deleted=0)
    assert scene.run("SELECT log_id FROM notes") == [(5,)]


def test_a_child_of_a_single_partition_that_is_made_under_the_lock_keeps_its_rows(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint, session_id text, role text, content text, tokens int,"
        " created_at timestamptz NOT NULL, PRIMARY KEY (log_id)) PARTITION BY RANGE (log_id)",
        f"CREATE TABLE first PARTITION OF {scene.name} FOR VALUES FROM (1) TO (1000)",
    )
    archived(scene)
    made = child_of(scene).replace(scene.name, "first")
    # A lock on the whole isn't one on its part: the key is made before the chunk has a row of that.
    at_once(monkeypatch, "state", lambda: scene.run(made, "INSERT INTO notes VALUES (1, 5)"))
    result = scene.purge(chunk_size=CHUNK)
    require_stopped(scene, result, "the table notes (notes_log_id_fkey) references conversation_logs", deleted=0)
    assert scene.run("SELECT log_id FROM notes") == [(5,)]


def test_a_table_that_inherits_and_has_a_column_of_its_own_is_refused_before_anything_is_deleted(
    postgres_url: str, tmp_path: Path
) -> None:
    scene = archived(Scene(postgres_url, tmp_path / "backups").create_table())
    scene.run(f"CREATE TABLE more (extra text) INHERITS ({scene.name})")
    with pytest.raises(Refused, match=r"more.extra: rows of a table that inherits from .*Nothing was done"):
        scene.purge()
    assert scene.count() == ROWS


def test_a_table_that_begins_to_inherit_between_two_chunks_stops_it(postgres_url: str, tmp_path: Path) -> None:
    scene = archived(Scene(postgres_url, tmp_path / "backups").create_table())
    result = purge_with(scene, f"CREATE TABLE more (extra text) INHERITS ({scene.name})")
    require_stopped(scene, result, "more.extra was added to conversation_logs")


def test_a_rule_that_is_made_between_two_chunks_stops_it(postgres_url: str, tmp_path: Path) -> None:
    scene = archived(Scene(postgres_url, tmp_path / "backups").create_table())
    scene.run("CREATE TABLE kept (log_id bigint)")
    result = purge_with(
        scene,
        f"CREATE RULE too AS ON DELETE TO {scene.name} DO ALSO INSERT INTO kept VALUES (OLD.log_id)",  # noqa: S608
    )
    require_stopped(scene, result, "the rule too was added to conversation_logs")
    assert scene.run("SELECT COUNT(*) FROM kept") == [(0,)]


def test_a_role_whose_transactions_repeat_their_reads_sees_the_change_too(postgres_url: str, tmp_path: Path) -> None:
    scene = archived(Scene(postgres_url, tmp_path / "backups").create_table())
    database = scene.engine.url.database
    scene.run(f"ALTER DATABASE \"{database}\" SET default_transaction_isolation = 'repeatable read'")
    result = purge_with(scene, f"ALTER TABLE {scene.name} ADD COLUMN note text DEFAULT 'x'")
    require_stopped(scene, result, "the column note was added")


def test_rows_that_were_loaded_again_after_a_truncate_are_compared_anew(scene: Scene) -> None:
    empty = f"DELETE FROM {scene.name}" if scene.family == "sqlite" else f"TRUNCATE TABLE {scene.name}"  # noqa: S608
    result = purge_with(
        scene, f"CREATE TABLE aside AS SELECT * FROM {scene.name}", "UPDATE aside SET content = 'x' WHERE log_id > 30",  # noqa: S608
        empty, f"INSERT INTO {scene.name} SELECT * FROM aside",  # noqa: S608
    )  # fmt: skip
    assert (result.deleted, scene.ids()) == (30, list(range(31, 41)))


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_rows_of_a_partition_that_was_exchanged_are_compared_anew(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    columns = "(log_id bigint PRIMARY KEY, session_id varchar(64), role varchar(10), content text, tokens int,"
    columns += " created_at datetime(6) NOT NULL)"
    scene.run(
        f"CREATE TABLE {scene.name} {columns} PARTITION BY RANGE (log_id)"
        " (PARTITION a VALUES LESS THAN (21), PARTITION b VALUES LESS THAN (1000))",
        f"CREATE TABLE other {columns}",
    )
    archived(scene)
    scene.run(
        f"INSERT INTO other SELECT * FROM {scene.name} WHERE log_id > 20",  # noqa: S608
        "UPDATE other SET tokens = 9 WHERE log_id < 31",
    )
    result = purge_with(scene, f"ALTER TABLE {scene.name} EXCHANGE PARTITION b WITH TABLE other")
    assert (result.deleted, scene.ids()) == (30, list(range(21, 31)))
    assert scene.run("SELECT COUNT(*) FROM other") == [(20,)]


@pytest.mark.long
@pytest.mark.parametrize("process", [False, True], ids=["without PROCESS", "with PROCESS"])
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_an_account_with_rights_on_the_database_alone_sees_the_changes(
    engine: str, process: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With the PROCESS privilege by InnoDB's own list of foreign keys, which can't be read without it."""
    scene = archived(Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table())
    url = sa.make_url(scene.url)
    user = f"'limited_{url.database}'@'%'"
    scene.run(f"CREATE USER {user} IDENTIFIED BY 'pw'", f"GRANT SELECT, DELETE ON `{url.database}`.* TO {user}")
    if process:
        scene.run(f"GRANT PROCESS ON *.* TO {user}")
    limited = url.set(username=f"limited_{url.database}", password="pw")
    scene.url = limited.render_as_string(hide_password=False)
    result = purge_with(scene, child_of(scene), "INSERT INTO notes (id, log_id) VALUES (1, 35)")
    require_stopped(scene, result, "references conversation_logs")


@pytest.mark.long
def test_a_target_that_is_altered_between_plan_and_insert_gets_no_row(scene: Scene) -> None:
    scene.purge()
    added = f"ALTER TABLE {scene.name} ADD COLUMN note varchar(100)"
    with pytest.raises(OperatorError, match=r"was altered since the restore began: the column note .*rolled back"):
        scene.restore(announce=lambda _plan: scene.run(added))
    assert scene.count() == 0
    assert scene.restore().written == ROWS


# --- at random moments ----------------------------------------------------------------------------------------


class Alterer(threading.Thread):
    """A service that gets columns with values, child tables with rows, and changes rows; it writes down what a row has
    from then on, as the database says it after each step."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene, self.stopped, self.steps = scene, threading.Event(), 0
        self.rows: dict[int, dict[str, str]] = defaultdict(dict)
        self.children: dict[str, set[int]] = {}

    def run(self) -> None:
        moments = random.Random(11)
        while not self.stopped.is_set() and self.steps < 9:
            with suppress(sa.exc.DBAPIError):  # SQLite's file is locked, or a deadlock
                (self.add_column, self.add_child, self.change_rows)[self.steps % 3](self.steps)
            self.steps += 1
            self.stopped.wait(moments.random() * 0.15)

    def add_column(self, number: int) -> None:
        self.scene.run(f"ALTER TABLE {self.scene.name} ADD COLUMN c{number} varchar(20)")
        self._set(f"c{number}", f"v{number}", "1 = 1")

    def change_rows(self, number: int) -> None:
        self._set("tokens", str(number), f"log_id % 5 = {number % 5}")

    def _set(self, column: str, value: str, where: str) -> None:
        self.scene.update(f"{column} = '{value}'", where)
        for (log_id,) in self.scene.run(f"SELECT log_id FROM {self.scene.name} WHERE {column} = '{value}'"):  # noqa: S608
            self.rows[log_id][column] = value

    def add_child(self, number: int) -> None:
        name = f"n{number}"
        some = f"SELECT log_id, log_id FROM {self.scene.name} WHERE log_id % 7 = 3"  # noqa: S608
        self.scene.run(child_of(self.scene, name=name), f"INSERT INTO {name} (id, log_id) {some}")
        self.children[name] = self.ids_of(name)

    def ids_of(self, child: str) -> set[int]:
        return {row[0] for row in self.scene.run(f"SELECT log_id FROM {child}")}  # noqa: S608


def archived_rows(folder: Path) -> dict[int, list[dict[str, str]]]:
    """Per key every row of every file that has a manifest, read by the csv module."""
    found: dict[int, list[dict[str, str]]] = defaultdict(list)
    for manifest in folder.rglob("*.manifest.json"):
        text = manifest.with_name(manifest.name.replace(".manifest.json", ".csv")).read_bytes().decode("utf-8-sig")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            found[int(row["log_id"])].append(row)
    return found


@pytest.mark.long
def test_whatever_is_altered_at_random_moments_no_row_is_deleted_that_no_archive_holds(scene: Scene) -> None:
    """Archive and purge again and again: each deleted row is in an archive with every value that it had."""
    scene.add(400, first=100)
    every = set(scene.ids())
    service = Alterer(scene)
    service.start()
    try:
        for _ in range(40):
            with suppress(OperatorError):
                scene.archive()
                scene.purge(chunk_size=25, pause_seconds=0.005)
            if not service.is_alive():
                break
    finally:
        service.stopped.set()
        service.join()
    scene.archive()
    scene.purge()
    gone, archived = every - set(scene.ids()), archived_rows(scene.folder)
    assert len(gone) > 100
    for log_id in gone:
        has = service.rows[log_id]
        assert any(has.items() <= row.items() for row in archived[log_id]), (log_id, has, archived[log_id])
    assert {name: service.ids_of(name) for name in service.children} == service.children
