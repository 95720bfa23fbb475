"""Sessions that expired long ago go with their calculations; never with a log row that no archive holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from saju_ops.archive.day import archive_day
from saju_ops.errors import Refused
from saju_ops.expired.dependents import Hanging
from saju_ops.expired.session_cache import SessionCache, remember
from saju_ops.expired.sessions import (
    ARCHIVED_NOT,
    SessionPurgeResult,
    SessionTables,
    open_sessions,
    purge_expired_sessions,
    session_limits,
)
from saju_ops.reports.expired import expired_sessions_report, in_korean
from saju_ops.rows.comeback import Doubts
from saju_ops.rows.days import day_of
from saju_ops.rows.engines.open import open_log_store
from saju_ops.schema import tables as schema
from saju_ops.storage.open import open_storage
from saju_ops.storage.seal import Seals
from saju_ops_tests.engines import Redis
from saju_ops_tests.expired.job_scene import SEOUL, UTC_ZONE

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
OLD = NOW - timedelta(days=60)
DAY = timedelta(days=1)
TABLES = SessionTables("user_sessions", ("saju_calculations", "saju_analyses"), "conversation_logs")


class SessionScene:
    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = sa.make_url(url), folder
        self.storage = open_storage(str(folder))
        self.engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        if self.engine.dialect.name in ("mysql", "mariadb"):
            sa.event.listen(self.engine, "connect", _pin, insert=True)
        schema.chatbot.create_all(self.engine)
        self.insert("users", {"user_id": "u"})

    def run(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            result = connection.execute(sa.text(statement), values)
            return list(result) if result.returns_rows else []

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        with self.engine.connect() as connection:
            connection.execute(sa.insert(schema.chatbot.tables[table]), list(rows))

    def add(
        self, session: str, expired: datetime = OLD, logs: list[datetime] | None = None, used: datetime | None = None
    ) -> None:
        """A session with a calculation, its analysis, and log rows of these instants; last used when it expired."""
        number = int(session.lstrip("s"))
        last = (used or expired).replace(tzinfo=None)
        row = {"session_id": session, "user_id": "u", "expires_at": expired.replace(tzinfo=None)}
        self.insert("user_sessions", row | {"last_activity": last, "created_at": last, "updated_at": last})
        ganji = {f"{pillar}_ganji": "갑자" for pillar in ("year", "month", "day", "time")}
        born = {"birth_datetime": datetime(1990, 1, 1, 5, 30)}  # noqa: DTZ001
        self.insert("saju_calculations", {"calculation_id": number, "session_id": session, **ganji, **born})
        self.insert(
            "saju_analyses", {"analysis_id": number, "calculation_id": number, "day_gan": "갑", "day_zhi": "자"}
        )
        for order, at in enumerate(logs or []):
            row = {"session_id": session, "message_order": order, "role": "user", "content": f"비밀 {session}"}
            self.insert("conversation_logs", row | {"created_at": at.replace(tzinfo=None)})

    def archive(self, at: datetime) -> None:
        with open_log_store(self.url, "conversation_logs", UTC_ZONE) as store:
            archive_day(store, self.storage, day_of(at, SEOUL), now=NOW)

    def purge(self, *, now: datetime = NOW, tables: SessionTables = TABLES, **options: Any) -> SessionPurgeResult:
        cache, grace = options.pop("cache", None), options.pop("grace_days", 30)
        retention, passed = options.pop("retention_days", 30), options.pop("passed", {})
        limits = session_limits(**{"dry_run": False, **options})
        with open_sessions(self.url, tables.root, UTC_ZONE) as store:
            return purge_expired_sessions(
                store, self.storage, tables, limits, now=now, grace_days=grace, retention_days=retention, zone=SEOUL,
                cache=cache, wait=5.0, **passed,
            )  # fmt: skip

    def sessions(self) -> list[str]:
        return [row[0] for row in self.run("SELECT session_id FROM user_sessions ORDER BY session_id")]

    def count(self, table: str) -> int:
        return int(self.run(f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608


def _pin(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION time_zone = '+00:00'")


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> SessionScene:
    return SessionScene(database_url, tmp_path / "backups")


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> SessionScene:
    return SessionScene(sqlite_url, tmp_path / "backups")


@pytest.mark.long
def test_sessions_beyond_the_grace_period_go_with_calculations_and_analyses(scene: SessionScene) -> None:
    scene.add("s1")
    scene.add("s2", NOW - 30 * DAY)  # exactly: not past
    scene.add("s3", NOW - 30 * DAY - timedelta(seconds=1))
    scene.add("s4", NOW + DAY)
    dry = scene.purge(dry_run=True)
    result = scene.purge()
    assert scene.sessions() == ["s2", "s4"]
    assert scene.count("saju_calculations") == scene.count("saju_analyses") == 2
    assert dict(result.rows) == dict(dry.rows) == {"user_sessions": 2, "saju_calculations": 2, "saju_analyses": 2}


@pytest.mark.long
def test_a_session_that_is_used_stays_however_long_ago_it_expired(scene: SessionScene) -> None:
    """expires_at is set when a session is made, and never again."""
    scene.add("s1", used=NOW)
    scene.add("s2", used=NOW - 30 * DAY)  # exactly: not past
    scene.add("s3", used=NOW - 30 * DAY - timedelta(seconds=1))
    result = scene.purge()
    assert (scene.sessions(), scene.count("saju_calculations"), result.expired) == (["s1", "s2"], 2, 1)


@pytest.mark.long
def test_a_session_that_is_used_after_it_was_found_stays(scene: SessionScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add("s1")
    scene.add("s2")
    collect = Hanging.collect

    def use_then_collect(self: Hanging, sessions: Any) -> None:
        if scene.engine.dialect.name != "sqlite":  # whose one writer is the purge itself by now
            used = "UPDATE user_sessions SET last_activity = :now WHERE session_id = 's1'"
            scene.run(used, now=NOW.replace(tzinfo=None))
        collect(self, sessions)

    monkeypatch.setattr(Hanging, "collect", use_then_collect)
    scene.purge()
    assert scene.sessions() == ([] if scene.engine.dialect.name == "sqlite" else ["s1"])


@pytest.mark.long
def test_without_a_column_for_the_last_use_expires_at_alone_counts(scene: SessionScene) -> None:
    scene.add("s1")
    scene.add("s2", used=NOW)
    scene.run("DROP INDEX ix_user_sessions_last_activity" + on_its_table(scene))
    scene.run("ALTER TABLE user_sessions DROP COLUMN last_activity")
    assert scene.purge(dry_run=True).expired == 1, "by updated_at"
    scene.run("ALTER TABLE user_sessions DROP COLUMN updated_at")
    scene.purge()
    assert scene.sessions() == []


def on_its_table(scene: SessionScene) -> str:
    return " ON user_sessions" if scene.engine.dialect.name in ("mysql", "mariadb") else ""


@pytest.mark.long
def test_a_session_without_a_known_last_use_is_judged_by_expires_at(scene: SessionScene) -> None:
    change = {
        "postgresql": "ALTER TABLE user_sessions ALTER last_activity DROP NOT NULL",
        "mysql": "ALTER TABLE user_sessions MODIFY last_activity DATETIME NULL",
    }
    name = scene.engine.dialect.name.replace("mariadb", "mysql")
    scene.add("s1")
    scene.add("s2", used=NOW)
    if name == "sqlite":
        scene.run("UPDATE user_sessions SET last_activity = '0000-00-00 00:00:00' WHERE session_id = 's1'")
    else:
        scene.run(change[name])
        scene.run("UPDATE user_sessions SET last_activity = NULL WHERE session_id = 's1'")
    scene.purge()
    assert scene.sessions() == ["s2"]


@pytest.mark.parametrize(("text", "stays"), [("2026-11-20T11:00:00+09:00", True), ("2026-09-01", False), ("?", True)])
def test_a_last_use_in_any_form_of_sqlite_is_read_or_keeps_its_session(
    lite: SessionScene, text: str, stays: bool
) -> None:
    lite.add("s1")
    lite.run("UPDATE user_sessions SET last_activity = :text", text=text)
    result = lite.purge()
    assert (lite.sessions() == ["s1"], result.unreadable) == (stays, int(text == "?"))


def test_a_last_use_that_is_no_time_is_refused_before_anything_is_deleted(postgres_url: str, tmp_path: Path) -> None:
    scene = SessionScene(postgres_url, tmp_path / "backups")
    scene.add("s1")
    scene.run("ALTER TABLE user_sessions ALTER last_activity DROP DEFAULT")
    scene.run("ALTER TABLE user_sessions ALTER last_activity TYPE bigint USING extract(epoch FROM last_activity)")
    with pytest.raises(Refused, match=r"user_sessions\.last_activity is a int8; it may be a timestamptz or timestamp"):
        scene.purge()
    assert scene.sessions() == ["s1"]


@pytest.mark.long
def test_a_session_with_a_log_row_that_no_archive_holds_stays(scene: SessionScene) -> None:
    """Two deleted sessions once took nine log rows with them."""
    archived, not_archived = OLD - 2 * DAY, OLD - DAY
    scene.add("s1", logs=[archived, archived])
    scene.add("s2", logs=[archived, not_archived])
    scene.add("s3")
    scene.archive(archived)
    result = scene.purge()
    assert scene.sessions() == ["s2"]
    assert scene.count("conversation_logs") == 2
    assert (result.deleted, result.log_rows, dict(result.stayed)) == (2, 2, {ARCHIVED_NOT: 1})
    scene.archive(not_archived)
    scene.purge()
    assert scene.sessions() == []


@pytest.mark.long
def test_a_log_row_that_changed_after_its_archive_keeps_its_session(scene: SessionScene) -> None:
    scene.add("s1", logs=[OLD])
    scene.add("s2", logs=[OLD])
    scene.archive(OLD)
    scene.run("UPDATE conversation_logs SET content = 'edited' WHERE session_id = 's1'")
    scene.purge()
    assert scene.sessions() == ["s1"]
    scene.archive(OLD)
    scene.purge()
    assert scene.sessions() == []


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_session_with_a_locked_log_row_stays_and_the_reason_is_reported(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = SessionScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.add("s1", logs=[OLD])
    scene.add("s2", logs=[OLD])
    scene.archive(OLD)
    with sa.create_engine(scene.url, poolclass=NullPool).connect() as holder:
        holder.execute(sa.text("SELECT * FROM conversation_logs WHERE session_id = 's1' FOR UPDATE"))
        result = scene.purge()
    assert scene.sessions() == ["s1"]
    ((reason, number),) = result.stayed.items()
    assert (number, "the database refused (" in reason, "lock" in reason.lower()) == (1, True, True)


@pytest.mark.long
def test_a_log_row_whose_json_the_archive_would_not_give_back_keeps_its_session(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive of an earlier version has no types of JSON; one of this version has."""
    scene = SessionScene(mysql_url, tmp_path / "backups")
    for session in ("s1", "s2"):
        scene.add(session, logs=[OLD])
    scene.run("UPDATE conversation_logs SET tool_calls = JSON_OBJECT('cost', 0.5) WHERE session_id = 's1'")
    with monkeypatch.context() as earlier:
        earlier.setattr(Doubts, "visit", lambda *_: None)
        scene.archive(OLD)
    scene.purge()
    assert scene.sessions() == ["s1"]
    for name in list(scene.storage.names("conversation_logs/")):
        scene.storage.delete(name)
    scene.archive(OLD)
    scene.purge()
    assert (scene.sessions(), scene.count("conversation_logs")) == ([], 0)


def test_a_damaged_archive_holds_nothing(lite: SessionScene) -> None:
    lite.add("s1", logs=[OLD])
    lite.archive(OLD)
    (file,) = lite.folder.rglob("*.csv")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes() + b"\n")
    result = lite.purge()
    assert lite.sessions() == ["s1"]
    assert "damaged" in result.problems[0]


def test_an_archive_of_another_database_holds_nothing(lite: SessionScene, tmp_path: Path) -> None:
    """Two databases with the same rows and one BACKUP_URI."""
    lite.add("s1", logs=[OLD])
    twin = SessionScene(f"sqlite:///{tmp_path / 'twin.db'}", lite.folder)
    twin.add("s1", logs=[OLD])
    twin.archive(OLD)
    result = lite.purge()
    assert (lite.sessions(), lite.count("conversation_logs")) == (["s1"], 1)
    assert "already holds" in result.problems[0]


def test_sessions_of_more_days_than_are_kept_in_memory_go_in_one_batch(
    lite: SessionScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.expired import log_guard

    monkeypatch.setattr(log_guard, "DAYS_KEPT", 2)
    for number in range(1, 6):
        lite.add(f"s{number}", logs=[OLD - number * DAY])
        lite.archive(OLD - number * DAY)
    lite.purge()
    assert lite.sessions() == []


def test_log_rows_within_the_retention_keep_their_session_even_if_archived(lite: SessionScene) -> None:
    recent = NOW - 10 * DAY
    lite.add("s1", logs=[recent])
    lite.archive(recent)
    lite.purge()
    assert lite.sessions() == ["s1"]
    lite.purge(retention_days=5)
    assert lite.sessions() == []


@pytest.mark.long
def test_a_log_table_without_a_foreign_key_is_looked_at_just_the_same(scene: SessionScene) -> None:
    """A partitioned table can't have one."""
    scene.add("s1", logs=[OLD])
    scene.add("s2")
    scene.run("CREATE TABLE logs2 AS SELECT * FROM conversation_logs")
    scene.run("DROP TABLE conversation_logs")
    if scene.engine.dialect.name == "sqlite":
        scene.run("CREATE UNIQUE INDEX logs2_key ON logs2 (log_id)")
        scene.run("CREATE TABLE conversation_logs (log_id INTEGER PRIMARY KEY, session_id TEXT, created_at TEXT)")
        scene.run("INSERT INTO conversation_logs SELECT log_id, session_id, created_at FROM logs2")
    else:
        scene.run("ALTER TABLE logs2 ADD PRIMARY KEY (log_id)")
        scene.run("ALTER TABLE logs2 RENAME TO conversation_logs")
    scene.purge()
    assert scene.sessions() == ["s1"]
    scene.archive(OLD)
    scene.purge()
    assert (scene.sessions(), scene.count("conversation_logs")) == ([], 0)


def before_the_delete(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Runs `action` once the log rows were compared, just before the first row is deleted."""
    original = Hanging.delete

    def delete(self: Hanging) -> Any:
        action()
        return original(self)

    monkeypatch.setattr(Hanging, "delete", delete)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres"])
def test_a_writer_waits_for_a_log_row_that_was_compared(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = SessionScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.add("s1", logs=[OLD])
    scene.archive(OLD)
    writer = threading.Thread(target=scene.run, args=["UPDATE conversation_logs SET content = 'edited'"])

    def start() -> None:
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()

    before_the_delete(monkeypatch, start)
    result = scene.purge()
    writer.join()
    assert (result.deleted, result.log_rows, scene.count("conversation_logs")) == (1, 1, 0)


def test_a_log_row_that_comes_between_the_comparison_and_the_delete_keeps_its_session(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a foreign key, as in a partitioned log, no lock on the session keeps it out."""
    scene = SessionScene(postgres_url, tmp_path / "backups")
    scene.add("s1", logs=[OLD])
    scene.archive(OLD)
    (key,) = sa.inspect(scene.engine).get_foreign_keys("conversation_logs")
    scene.run(f"ALTER TABLE conversation_logs DROP CONSTRAINT {key['name']}")
    late = {"session_id": "s1", "message_order": 9, "role": "user", "content": "late"}
    late |= {"created_at": OLD.replace(tzinfo=None)}
    before_the_delete(monkeypatch, lambda: scene.insert("conversation_logs", late))
    result = scene.purge()
    assert (result.deleted, scene.sessions(), scene.count("conversation_logs")) == (0, ["s1"], 2)
    (reason,) = result.stayed
    assert "2 rows of conversation_logs would have gone where 1 was compared" in reason


def test_a_table_that_is_not_listed_is_refused(lite: SessionScene) -> None:
    lite.add("s1")
    reference = "TEXT REFERENCES user_sessions ON DELETE CASCADE"
    lite.run(f"CREATE TABLE ratings (id INTEGER PRIMARY KEY, session_id {reference})")
    with pytest.raises(Refused, match=r"ratings references user_sessions .* SESSION_PURGE_TABLES doesn't name it"):
        lite.purge()
    assert lite.sessions() == ["s1"]


def test_a_session_is_never_named_whole(lite: SessionScene) -> None:
    token, at = {"session_id": "very-secret-session-token"}, OLD.replace(tzinfo=None)
    lite.insert("user_sessions", token | {"user_id": "u", "expires_at": at, "last_activity": at})
    message = {"message_order": 1, "role": "user", "content": "x", "created_at": at}
    lite.insert("conversation_logs", token | message)
    assert lite.purge().stayed_named == [("very-sec…", ARCHIVED_NOT)]


# --- Redis ------------------------------------------------------------------------------------------------


@pytest.fixture
def client(redis_server: Redis) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def cache(redis_server: Redis) -> Iterator[SessionCache]:
    cache = SessionCache(redis_server.url)
    yield cache
    cache.close()


def down() -> SessionCache:
    return SessionCache("redis://:topsecret@127.0.0.1:1/0")


def pending(scene: SessionScene) -> list[Path]:
    return list(scene.folder.glob("redis_pending/*.json"))


def test_the_keys_of_deleted_sessions_leave_redis_and_others_stay(lite: SessionScene, client: Any, cache: Any) -> None:
    lite.add("s1")
    lite.add("s2", logs=[OLD])
    lite.add("s3", NOW)
    for name in ("session:s1", "session:s2", "session:s3", "other:s1"):
        client.set(name, "x")
    result = lite.purge(cache=cache)
    assert set(client.keys()) == {b"session:s2", b"session:s3", b"other:s1"}
    assert (result.cache_asked, result.cache_keys, result.cache_waiting, pending(lite)) == (1, 1, 0, [])


@pytest.mark.long
def test_a_redis_that_is_down_is_reported_remembered_and_made_good(
    scene: SessionScene, client: Any, cache: Any
) -> None:
    scene.add("s1")
    client.set("session:s1", "x")
    result = scene.purge(cache=down())
    assert scene.sessions() == []
    assert (result.deleted, result.cache_waiting) == (1, 1)
    assert "Redis can't be used" in result.cache_problem
    assert "topsecret" not in repr(result)
    assert len(pending(scene)) == 1
    scene.purge(cache=down())
    assert client.exists("session:s1")
    result = scene.purge(cache=cache)
    assert not client.exists("session:s1")
    assert (result.cache_asked, pending(scene)) == (1, [])


def test_what_was_to_leave_redis_before_there_was_a_key_is_said_and_stays(
    lite: SessionScene, client: Any, cache: Any
) -> None:
    lite.add("s1")
    client.set("session:s1", "x")
    lite.purge(cache=down())
    (file,) = pending(lite)
    lite.storage = open_storage(str(lite.folder), seals=Seals(["0123456789abcdef" * 2]))
    result = lite.purge(cache=cache)
    assert pending(lite) == [file]
    (doubt,) = [each for each in result.doubts if file.name in each]
    assert "may still be in Redis" in doubt
    assert in_korean(doubt).startswith("redis_pending/의 파일 1개를 남겨 둠")


def test_a_session_that_somebody_else_deleted_meanwhile_leaves_redis_too(
    lite: SessionScene, client: Any, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.expired import sessions as expired_sessions

    lite.add("s1")
    client.set("session:s1", "x")
    real = expired_sessions.SessionPurge._chunk

    def gone_before(self: Any, sessions: Any) -> None:
        lite.run("DELETE FROM user_sessions")
        real(self, sessions)

    monkeypatch.setattr(expired_sessions.SessionPurge, "_chunk", gone_before)
    result = lite.purge(cache=cache)
    assert (result.deleted, client.exists("session:s1")) == (0, 0)


def test_a_session_used_again_after_a_run_was_killed_keeps_its_key(lite: SessionScene, client: Any, cache: Any) -> None:
    lite.add("s1", NOW + DAY)
    remember(lite.storage, ["s1", "s2"], NOW)
    client.set("session:s1", "x")
    client.set("session:s2", "x")
    lite.purge(cache=cache)
    assert client.keys() == [b"session:s1"]
    assert pending(lite) == []


def test_a_dry_run_leaves_redis_alone(lite: SessionScene, client: Any, cache: Any) -> None:
    lite.add("s1")
    remember(lite.storage, ["s2"], NOW)
    for name in ("session:s1", "session:s2"):
        client.set(name, "x")
    lite.purge(dry_run=True, cache=cache)
    assert client.exists("session:s1", "session:s2") == 2
    assert len(pending(lite)) == 1


# --- ids of sessions in columns without a key ---------------------------------------------------------------------


def metric(scene: SessionScene, number: int, session: str | None) -> None:
    row = {"metric_id": number, "metric_name": "응답", "metric_value": 1, "metric_unit": "ms", "session_id": session}
    scene.insert("system_metrics", row | {"endpoint": "/chat", "recorded_at": OLD.replace(tzinfo=None)})


def metrics(scene: SessionScene) -> list[Any]:
    return [tuple(row) for row in scene.run("SELECT metric_id, session_id FROM system_metrics ORDER BY metric_id")]


@pytest.mark.long
def test_the_id_of_a_purged_session_becomes_null_in_the_metrics_and_nothing_else_changes(scene: SessionScene) -> None:
    scene.add("s1")
    scene.add("s2", NOW + DAY)
    if scene.engine.dialect.name in ("mysql", "mariadb"):  # as an old server makes the first timestamp
        scene.run("ALTER TABLE system_metrics MODIFY recorded_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP"
                  " ON UPDATE CURRENT_TIMESTAMP")  # fmt: skip
    for number, session in enumerate(ids := ["s1", "s1", "s2", "elsewhere", None], 1):
        metric(scene, number, session)
    rest = "SELECT metric_id, metric_name, metric_value, endpoint, recorded_at FROM system_metrics ORDER BY 1"
    before = scene.run(rest)
    dry = scene.purge(dry_run=True)
    assert (dry.cleared, [s for _, s in metrics(scene)]) == ({"system_metrics": 2}, ids)
    result = scene.purge()
    assert (scene.sessions(), result.cleared, result.rows["system_metrics"]) == (["s2"], {"system_metrics": 2}, 0)
    assert metrics(scene) == [(1, None), (2, None), (3, "s2"), (4, "elsewhere"), (5, None)]
    assert scene.run(rest) == before
    assert "- 세션 ID를 지운 행 (외래 키 없음): system_metrics 2" in expired_sessions_report(result)


@pytest.mark.long
def test_the_rows_go_where_their_table_is_named_as_one_that_may(scene: SessionScene) -> None:
    scene.add("s1")
    metric(scene, 1, "s1")
    metric(scene, 2, "other")
    result = scene.purge(tables=replace(TABLES, may_go=(*TABLES.may_go, "system_metrics")))
    assert (metrics(scene), result.rows["system_metrics"], dict(result.cleared)) == ([(2, "other")], 1, {})


@pytest.mark.long
def test_the_switch_leaves_the_ids_where_they_are(scene: SessionScene) -> None:
    scene.add("s1")
    metric(scene, 1, "s1")
    result = scene.purge(tables=replace(TABLES, cleared=(), cleared_given=True))
    assert (scene.sessions(), metrics(scene), dict(result.cleared), result.doubts) == ([], [(1, "s1")], {}, ())


@pytest.mark.long
def test_any_other_table_that_keeps_the_ids_is_named_in_the_report_and_cleared_by_the_setting(
    scene: SessionScene,
) -> None:
    scene.add("s1")
    scene.add("s2")
    scene.run("CREATE TABLE feedback (id int PRIMARY KEY, session_id varchar(255))")
    scene.run("CREATE INDEX feedback_session ON feedback (session_id)")
    scene.run("INSERT INTO feedback VALUES (1, 's1'), (2, 's2'), (3, 's9')")
    result = scene.purge(max_sessions=1)
    (doubt,) = result.doubts
    assert "The ids of purged sessions stay in feedback.session_id: name it in SESSION_CLEAR_COLUMNS" in doubt
    assert "삭제된 세션의 ID가 feedback.session_id에 남음" in expired_sessions_report(result)
    named = replace(TABLES, cleared=("feedback.session_id",), cleared_given=True)
    result = scene.purge(tables=named)
    assert dict(result.cleared) == {"feedback": 1}
    left = [row[0] for row in scene.run("SELECT session_id FROM feedback ORDER BY id")]
    assert sorted(str(s) for s in left) in (["None", "s1", "s9"], ["None", "s2", "s9"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("column", "definition", "why"),
    [
        ("nowhere.session_id", None, "the database has no such table"),
        ("feedback.session", "session_id varchar(255)", "there is no column feedback.session"),
        ("feedback.session_id", "session_id varchar(255) NOT NULL", "it is NOT NULL"),
        ("feedback.session_id", "session_id varchar(255)", "no index begins with it"),
    ],
)
def test_a_column_that_cannot_be_cleared_is_refused_where_the_setting_names_it(
    scene: SessionScene, column: str, definition: str | None, why: str
) -> None:
    scene.add("s1")
    if definition:
        scene.run(f"CREATE TABLE feedback (id int PRIMARY KEY, {definition})")
    with pytest.raises(Refused, match=why):
        scene.purge(tables=replace(TABLES, cleared=(column,), cleared_given=True))
    assert scene.sessions() == ["s1"]


@pytest.mark.long
def test_a_default_column_that_cannot_be_cleared_keeps_no_session_and_is_said(scene: SessionScene) -> None:
    scene.add("s1")
    scene.run("DROP TABLE system_metrics")
    assert scene.purge(dry_run=True).doubts == ()  # an installation without metrics
    scene.run("CREATE TABLE system_metrics (metric_id int PRIMARY KEY, session_id varchar(255) NOT NULL)")
    scene.run("INSERT INTO system_metrics VALUES (1, 's1')")
    result = scene.purge()
    assert (scene.sessions(), metrics(scene)) == ([], [(1, "s1")])
    (doubt,) = result.doubts
    assert "The ids of purged sessions stay in system_metrics.session_id: it is NOT NULL" in doubt


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "column", "ids", "others"),
    [
        ("int", "varchar(40)", [1, 2], ["01", "1 other", "other"]),
        ("varchar(40)", "int", ["1", "2"], [0, 12]),
        ("varchar(40)", "varchar(40)", ["a", "b"], ["c"]),
    ],
)
def test_ids_of_another_type_are_cleared_and_no_other_is_taken_for_one(
    scene: SessionScene, key: str, column: str, ids: list[Any], others: list[Any]
) -> None:
    for table in ("system_metrics", "conversation_logs", "saju_analyses", "saju_calculations", "user_sessions"):
        scene.run(f"DROP TABLE IF EXISTS {table}{' CASCADE' if scene.engine.dialect.name == 'postgresql' else ''}")
    zone = "timestamptz" if scene.engine.dialect.name == "postgresql" else "datetime"
    scene.run(f"CREATE TABLE user_sessions (session_id {key} PRIMARY KEY, expires_at {zone})")
    scene.run(f"CREATE TABLE system_metrics (metric_id int PRIMARY KEY, session_id {column})")
    scene.run("CREATE INDEX metrics_session ON system_metrics (session_id)")
    for session in ids:
        scene.run("INSERT INTO user_sessions VALUES (:id, :at)", id=session, at=str(OLD.replace(tzinfo=None)))
    kept = str if column.startswith("varchar") else int
    for number, each in enumerate([*map(kept, ids), *others]):
        scene.run("INSERT INTO system_metrics VALUES (:n, :id)", n=number, id=each)
    assert scene.purge(dry_run=True).cleared == {"system_metrics": 2}
    result = scene.purge()
    assert (result.deleted, dict(result.stayed), dict(result.cleared)) == (2, {}, {"system_metrics": 2})
    assert [s for _, s in metrics(scene)] == [None, None, *others]


def in_collations(scene: SessionScene, key: str, column: str, living: str = "ABC") -> None:
    """Sessions, and tables whose session_id has another collation than their key."""
    for table in ("system_metrics", "conversation_logs", "saju_analyses", "saju_calculations", "user_sessions"):
        scene.run(f"DROP TABLE IF EXISTS {table}{' CASCADE' if scene.engine.dialect.name == 'postgresql' else ''}")
    if scene.engine.dialect.name == "postgresql":
        scene.run("CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    zone = "timestamptz" if scene.engine.dialect.name == "postgresql" else "datetime"
    scene.run(f"CREATE TABLE user_sessions (session_id {key} PRIMARY KEY, expires_at {zone})")
    scene.run(f"CREATE TABLE system_metrics (metric_id int PRIMARY KEY, session_id {column})")
    scene.run("CREATE INDEX metrics_session ON system_metrics (session_id)")
    for session, at in (("abc", OLD), (living, NOW + DAY)):
        scene.run("INSERT INTO user_sessions VALUES (:id, :at)", id=session, at=str(at.replace(tzinfo=None)))


EXACT = {
    "mysql": ("varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "varchar(40) COLLATE utf8mb4_0900_ai_ci"),
    "mariadb": ("varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "varchar(40) COLLATE utf8mb4_general_ci"),
    "postgres": ("varchar(40)", "varchar(40) COLLATE either_case"),
    "sqlite": ("varchar(40)", "varchar(40) COLLATE NOCASE"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("engine", list(EXACT))
def test_the_id_of_a_living_session_stays_where_only_the_metrics_collation_takes_it_for_the_expired_ones(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = SessionScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    in_collations(scene, *EXACT[engine])
    for number, session in enumerate(("abc", "ABC", "Abc"), 1):
        scene.run("INSERT INTO system_metrics VALUES (:n, :id)", n=number, id=session)
    assert scene.purge(dry_run=True).cleared == {"system_metrics": 1}
    assert scene.purge().cleared == {"system_metrics": 1}
    assert metrics(scene) == [(1, None), (2, "ABC"), (3, "Abc")]


@pytest.mark.long
@pytest.mark.parametrize("engine", list(EXACT))
def test_an_id_in_other_letter_case_is_cleared_where_the_sessions_key_takes_it_for_the_same(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = SessionScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    exact, either = EXACT[engine]
    in_collations(scene, either, exact, living="other")
    for number, session in enumerate(("abc", "ABC", "Other"), 1):
        scene.run("INSERT INTO system_metrics VALUES (:n, :id)", n=number, id=session)
    assert scene.purge(dry_run=True).cleared == {"system_metrics": 2}
    assert scene.purge().cleared == {"system_metrics": 2}
    assert metrics(scene) == [(1, None), (2, None), (3, "Other")]


@pytest.mark.long
@pytest.mark.parametrize("engine", list(EXACT))
def test_log_rows_of_a_living_session_stay_where_only_the_logs_collation_takes_its_id_for_the_expired_ones(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A log without a foreign key, all of whose rows are archived."""
    scene = SessionScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    exact, either = EXACT[engine]
    in_collations(scene, exact, either)
    zone = {"postgres": "timestamptz", "sqlite": "datetime"}.get(engine, "datetime(6)")
    scene.run(f"CREATE TABLE conversation_logs (log_id int PRIMARY KEY, session_id {either}, created_at {zone})")
    for number, session in enumerate(("abc", "ABC"), 1):
        scene.run("INSERT INTO conversation_logs VALUES (:n, :id, :at)", n=number, id=session,
                  at="2026-09-01 03:00:00")  # fmt: skip
    scene.archive(datetime(2026, 9, 1, 3, tzinfo=UTC))
    result = scene.purge()
    assert (result.deleted, result.log_rows) == (1, 1)
    assert [row[0] for row in scene.run("SELECT session_id FROM conversation_logs")] == ["ABC"]


@pytest.mark.long
@pytest.mark.parametrize("server", ["mysql", "mariadb"])
def test_an_account_that_may_not_change_the_metrics_purges_all_the_same_and_hears_the_grant(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = SessionScene(request.getfixturevalue(f"{server}_url"), tmp_path / "backups")
    scene.add("s1")
    metric(scene, 1, "s1")
    database = scene.url.database
    scene.run("DROP USER IF EXISTS 'clearless'@'%'")
    scene.run("CREATE USER 'clearless'@'%' IDENTIFIED BY 'pw'")
    scene.run(f"GRANT SELECT, DELETE, LOCK TABLES ON `{database}`.* TO 'clearless'@'%'")
    scene.run("GRANT PROCESS ON *.* TO 'clearless'@'%'")
    owner = scene.url
    scene.url = owner.set(username="clearless", password="pw")
    result = scene.purge()
    assert (scene.sessions(), metrics(scene)) == ([], [(1, "s1")])
    assert any("the account may not change it; GRANT UPDATE (session_id)" in doubt for doubt in result.doubts)
