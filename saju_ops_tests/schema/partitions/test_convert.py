"""The opt-in migration: a plain table becomes one with monthly partitions, and plain again; nothing is lost."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from saju_ops.errors import OperatorError, Refused
from saju_ops.schema.partitions.convert import Conversion, convert, convert_back, plan_conversion
from saju_ops.schema.partitions.online import TOOL
from saju_ops_tests.archive.scene import NOW, SEOUL
from saju_ops_tests.schema.partitions.scene import AUGUST, JULY, PartitionScene, at, three_months


class PlainScene(PartitionScene):
    """The chatbot's table with its foreign key to the sessions."""

    def plain(self, created: str = "timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP", more: str = "") -> PlainScene:
        self.run(
            "CREATE TABLE user_sessions (session_id varchar(64) PRIMARY KEY, expires_at timestamp NULL)",
            "INSERT INTO user_sessions (session_id) VALUES ('s0'), ('s1'), ('s2'), ('s3'), ('s4'), ('s5'), ('s6')",
            f"CREATE TABLE {self.name} (log_id bigint AUTO_INCREMENT PRIMARY KEY, session_id varchar(64),"
            f" role varchar(10), content text, tokens int, created_at {created}, KEY ix_created (created_at){more},"
            " CONSTRAINT of_session FOREIGN KEY (session_id) REFERENCES user_sessions (session_id) ON DELETE CASCADE)"
            " COMMENT = '상담 로그'",
        )
        return self

    def definition(self) -> str:
        return str(self.run(f"SHOW CREATE TABLE {self.name}")[0][1])

    def convert(self, **more: Any) -> Conversion:
        said: list[str] = []
        options: dict[str, Any] = {"now": NOW, "ahead": 3, "zone": SEOUL, "way": "alter", **more}
        with self.store() as store:
            return convert(store, say=said.append, **options)

    def plan(self, **more: Any) -> Conversion:
        options: dict[str, Any] = {"now": NOW, "ahead": 3, "zone": SEOUL, "way": "alter", **more}
        with self.store() as store:
            return plan_conversion(store, **options)

    def back(self) -> bool:
        with self.store() as store:
            return convert_back(store)


@pytest.fixture(params=["mysql", "mariadb"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> PlainScene:
    url = request.getfixturevalue(f"{request.param}_url")
    scene = PlainScene(url, tmp_path / "backups").plain()
    three_months(scene)
    return scene


@pytest.mark.long
def test_the_table_gets_a_partition_for_each_month_and_keeps_every_row(plain: PlainScene) -> None:
    before = plain.state()
    plain.convert()
    assert plain.state() == before
    assert plain.partitions() == {
        "p202607": 20, "p202608": 20, "p202609": 20, "p202610": 0, "p202611": 3, "p202612": 0, "p202701": 0,
        "p202702": 0, "p_future": 0,
    }  # fmt: skip
    definition = plain.definition()
    assert "PRIMARY KEY (`log_id`,`created_at`)" in definition
    assert "FOREIGN KEY" not in definition
    plain.archive_all()
    assert plain.rotate().rows_dropped == 60


@pytest.mark.long
def test_the_way_back_makes_the_very_same_table(plain: PlainScene) -> None:
    definition, before = plain.definition(), plain.state()
    plain.convert()
    assert plain.back() is True
    assert (plain.definition(), plain.state()) == (definition, before)
    assert plain.back() is False


@pytest.mark.long
def test_archives_from_before_hold_for_the_partitioned_table(plain: PlainScene) -> None:
    plain.archive_all()
    plain.convert()
    result = plain.rotate()
    assert result.months_dropped == ["p202607", "p202608", "p202609"]
    plain.restore(JULY)
    assert plain.count() == 23


def test_a_second_run_finds_it_done(plain: PlainScene) -> None:
    plain.convert()
    assert plain.convert().done


@pytest.mark.long
def test_it_says_beforehand_how_and_how_long_and_changes_nothing(plain: PlainScene) -> None:
    definition, tables = plain.definition(), plain.tables()
    plan = plain.plan()
    text = " ".join(plan.sentences())
    assert "by one ALTER TABLE" in text
    assert "writers wait until it is done" in text
    assert "Foreign keys that go: of_session" in text
    assert "p202607 to p202702, and p_future" in text
    assert (plain.definition(), plain.tables()) == (definition, tables)


def test_rows_without_created_at_are_counted_and_refused(mysql_url: str, tmp_path: Path) -> None:
    scene = PlainScene(mysql_url, tmp_path / "backups").plain("timestamp NULL")
    scene.add(5)
    scene.update("created_at = NULL", "log_id IN (2, 3)")
    definition = scene.definition()
    with pytest.raises(Refused, match="2 rows of conversation_logs have no created_at"):
        scene.convert()
    assert scene.definition() == definition


@pytest.mark.long
def test_a_column_that_could_be_null_can_be_null_again_on_the_way_back(plain: PlainScene) -> None:
    plain.run("ALTER TABLE conversation_logs MODIFY created_at timestamp NULL DEFAULT NULL")
    definition = plain.definition()
    plain.convert()
    plain.back()
    assert plain.definition() == definition


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "ADD UNIQUE KEY once (session_id, tokens)",
            "The unique key once .session_id, tokens. doesn't contain created_at",
        ),
        ("ADD FULLTEXT KEY words (content)", "The index words is FULLTEXT"),
    ],
)
def test_what_partitions_can_not_have_is_refused_before_anything_is_changed(
    plain: PlainScene, change: str, words: str
) -> None:
    plain.run("UPDATE conversation_logs SET tokens = log_id", f"ALTER TABLE conversation_logs {change}")
    definition = plain.definition()
    with pytest.raises(Refused, match=words):
        plain.convert()
    assert plain.definition() == definition


def test_a_table_that_others_reference_is_refused(plain: PlainScene) -> None:
    plain.run(
        "CREATE TABLE notes (id int PRIMARY KEY, log_id bigint,"
        " FOREIGN KEY (log_id) REFERENCES conversation_logs (log_id))"
    )
    with pytest.raises(Refused, match="is referenced by foreign keys of notes"):
        plain.convert()


@pytest.mark.long
def test_an_open_transaction_stops_it_and_leaves_the_table_as_it_was(plain: PlainScene) -> None:
    definition = plain.definition()
    with plain.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
        number = other.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
        other.exec_driver_sql("SELECT COUNT(*) FROM conversation_logs").scalar()
        with pytest.raises(OperatorError, match=f"connection {number} of root"):
            plain.convert()
        other.rollback()
    assert plain.definition() == definition


@pytest.mark.long
def test_a_run_that_was_killed_behind_the_foreign_key_continues_and_the_way_back_has_the_key(plain: PlainScene) -> None:
    definition = plain.definition()
    from saju_ops.schema.partitions import convert as module

    class Killed(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_body", lambda *_: (_ for _ in ()).throw(Killed()))
        patch.setattr(module, "_undo", lambda *_: None)
        patch.setattr(module, "plan_conversion", lambda *_, **__: Conversion("t", "one ALTER TABLE", months=("a", "b")))
        with pytest.raises(Killed):
            plain.convert()
    assert "FOREIGN KEY" not in plain.definition()
    plain.convert()
    plain.back()
    assert plain.definition() == definition


def test_a_comment_that_only_looks_like_ours_is_executed_by_nobody(plain: PlainScene) -> None:
    key = {
        "name": "x", "columns": ["session_id"], "schema": "s", "parent": "p", "parent_columns": ["a"],
        "on_update": "CASCADE; DROP TABLE user_sessions", "on_delete": "CASCADE",
    }  # fmt: skip
    remember(plain, [key])
    with pytest.raises(Refused, match="The comment of conversation_logs begins like"):
        plain.convert()
    assert "user_sessions" in plain.tables()


@pytest.mark.long
@pytest.mark.skipif(shutil.which(TOOL) is None, reason="Percona's tool is not installed")
def test_percona_s_tool_does_it_while_the_service_writes(plain: PlainScene) -> None:
    stop, written = threading.Event(), []

    def write() -> None:
        number = 5_000
        while not stop.is_set():
            plain.insert([{"log_id": number, "session_id": "s1", "created_at": plain.time(at(2026, 11, 20, 9))}])
            written.append(number)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        plan = plain.convert(way=TOOL)
    finally:
        stop.set()
        thread.join(30)
    assert plan.way == TOOL
    assert {*written} <= {*plain.ids()}
    assert plain.count() == 63 + len(written)
    assert plain.partitions()["p202607"] == 20
    assert plain.tables() == ["conversation_logs", "user_sessions"]
    assert plain.run("SHOW TRIGGERS") == []


@pytest.mark.long
def test_what_a_killed_run_of_the_tool_left_is_dropped_triggers_first(plain: PlainScene) -> None:
    remember(plain, [])
    plain.run(
        "CREATE TABLE _conversation_logs_new LIKE conversation_logs",
        "CREATE TRIGGER pt_osc_x_conversation_logs_ins AFTER INSERT ON conversation_logs FOR EACH ROW"
        " REPLACE INTO _conversation_logs_new (log_id, created_at) VALUES (NEW.log_id, NEW.created_at)",
    )
    plain.convert()
    assert plain.run("SHOW TRIGGERS") == []
    assert plain.tables() == ["conversation_logs", "user_sessions"]
    plain.add(1, first=4000, day=AUGUST)


def remember(scene: PlainScene, keys: list[dict[str, Any]]) -> None:
    """What a run that was killed wrote into the comment first."""
    before = {"comment": "", "primary": ["log_id"], "keys": keys, "nullable": False}
    scene.run("ALTER TABLE conversation_logs COMMENT = :text", text=f"saju_ops before partitions: {json.dumps(before)}")


def test_mysql_cant_partition_by_fractions_of_a_second_and_says_what_helps(mysql_url: str, tmp_path: Path) -> None:
    scene = PlainScene(mysql_url, tmp_path / "backups").plain("timestamp(6) NOT NULL")
    three_months(scene)
    before = scene.definition()
    with pytest.raises(Refused, match=r"whole seconds only\. Nothing was done; make the column `timestamp`"):
        scene.convert()
    assert scene.definition() == before


def test_mariadb_partitions_by_fractions_of_a_second(mariadb_url: str, tmp_path: Path) -> None:
    scene = PlainScene(mariadb_url, tmp_path / "backups").plain("timestamp(6) NOT NULL")
    three_months(scene)
    scene.convert()
    assert "PARTITION BY RANGE" in scene.definition()
