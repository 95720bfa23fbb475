"""Archive, purge, restore, dump, expired sessions and masked dump on a partitioned table, as on a plain one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saju_ops.dumps.take import DumpOptions, take_dump
from saju_ops.expired.sessions import SessionTables, open_sessions, purge_expired_sessions, session_limits
from saju_ops.storage.open import open_storage
from saju_ops_tests.archive.scene import NOW, SEOUL
from saju_ops_tests.schema.partitions.scene import AUGUST, JULY, three_months
from saju_ops_tests.schema.partitions.test_convert import PlainScene


@pytest.fixture(params=["mysql", "mariadb"])
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> PlainScene:
    url = request.getfixturevalue(f"{request.param}_url")
    scene = PlainScene(url, tmp_path / "backups").plain()
    three_months(scene)
    scene.convert()
    return scene


@pytest.mark.long
def test_a_day_is_archived_purged_in_chunks_and_restored(converted: PlainScene) -> None:
    before = converted.state()
    assert converted.archive(JULY).rows == 20
    assert converted.archive(JULY).outcome == "unchanged"
    result = converted.purge()
    assert (result.deleted, result.kept, result.unarchived_days) == (20, 0, ["2026-08-10", "2026-09-10"])
    converted.restore(JULY)
    assert converted.state() == before
    assert converted.partitions()["p202607"] == 20


@pytest.mark.long
def test_a_dump_comes_back_with_its_partitions(converted: PlainScene, tmp_path: Path) -> None:
    options = DumpOptions(SEOUL)
    storage = open_storage(str(tmp_path / "dumps"))
    result = take_dump(sa.make_url(converted.url), storage, options, now=lambda: datetime.now(UTC))
    assert result.proven, result.message
    assert result.contents.tables["conversation_logs"].rows == 63


@pytest.mark.long
def test_a_dump_waits_for_a_month_that_is_at_work(converted: PlainScene, tmp_path: Path) -> None:
    import threading
    import time

    from saju_ops.database.snapshots import alone

    done: list[float] = []

    def dump() -> None:
        storage = open_storage(str(tmp_path / "dumps"))
        take_dump(sa.make_url(converted.url), storage, DumpOptions(SEOUL))
        done.append(time.monotonic())

    with converted.store() as store:
        with alone(store.connection, 1.0):
            thread = threading.Thread(target=dump)
            thread.start()
            time.sleep(3.0)
            assert done == []
        thread.join(60)
    assert done


@pytest.mark.long
def test_expired_sessions_take_archived_rows_with_them_and_stay_for_others(converted: PlainScene) -> None:
    """The foreign key is gone, so no cascade of the database does it."""
    converted.run("UPDATE user_sessions SET expires_at = '2026-01-01 00:00:00'")
    converted.archive(JULY)
    converted.archive(AUGUST)
    storage = converted.storage
    with open_sessions(sa.make_url(converted.url), "user_sessions", ZoneInfo("UTC")) as store:
        result = purge_expired_sessions(
            store, storage, SessionTables("user_sessions", ("conversation_logs",), "conversation_logs"),
            session_limits(dry_run=False), now=NOW, grace_days=30, retention_days=30, zone=SEOUL,
        )  # fmt: skip
    # Each session has rows of September, which no archive holds.
    assert result.deleted == 0
    assert converted.count() == 63
    converted.archive_all()
    converted.remove("log_id >= 1000")
    with open_sessions(sa.make_url(converted.url), "user_sessions", ZoneInfo("UTC")) as store:
        result = purge_expired_sessions(
            store, storage, SessionTables("user_sessions", ("conversation_logs",), "conversation_logs"),
            session_limits(dry_run=False), now=NOW, grace_days=30, retention_days=30, zone=SEOUL,
        )  # fmt: skip
    assert (result.deleted, result.log_rows) == (7, 60)
    assert converted.count() == 0


@pytest.mark.long
def test_rows_keep_their_values_through_a_month_s_drop_and_its_restore(converted: PlainScene) -> None:
    texts = [None, "", '"', "두\n줄\r\n", "🙂", ",", "N", "x" * 3000, "\\", "\x1f"]
    converted.remove("log_id <= 20")
    converted.insert([
        {"log_id": i, "session_id": "s1", "content": text, "tokens": None if i % 2 else i,
         "created_at": converted.time(JULY.start + timedelta(minutes=i))}
        for i, text in enumerate(texts, 1)
    ])  # fmt: skip
    before = converted.state()
    converted.archive_all()
    assert converted.rotate().months_dropped == ["p202607", "p202608", "p202609"]
    for day in (JULY, AUGUST):
        converted.restore(day)
    assert [row for row in before if row in converted.state()] == converted.state()


@pytest.mark.long
def test_the_cli_purge_says_what_left_in_one_piece(converted: PlainScene, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from saju_ops.cli.main import main

    monkeypatch.setenv("DATABASE_URL", converted.url)
    monkeypatch.setenv("BACKUP_URI", str(converted.folder))
    converted.archive_all()
    said = CliRunner().invoke(main, ["purge", "--apply"])
    assert "Left in one piece: p202607, p202608, p202609, with 60 rows." in said.output, said.output
    assert "통째로 삭제된 달" in said.output


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_masked_dump_of_a_partitioned_log_is_proven(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    from saju_ops.rows.engines.open import open_log_store
    from saju_ops.schema.partitions.convert import convert
    from saju_ops_tests.masking.test_masking import masked, people

    url = request.getfixturevalue(f"{engine}_url")
    people(url)
    with open_log_store(url, "conversation_logs", ZoneInfo("UTC")) as store:
        convert(store, now=datetime.now(UTC), ahead=3, zone=SEOUL, way="alter")
    result = masked(url, tmp_path)
    assert result.proven, result.message


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_the_schema_of_a_partitioned_log_is_that_of_the_migrations(request: pytest.FixtureRequest, engine: str) -> None:
    from saju_ops.schema.migrate.compare import compare
    from saju_ops_tests.schema.scene import HERE, address, up, versions

    url = request.getfixturevalue(f"{engine}_url")
    up(url)
    up(url, "partitioned_logs@head")
    assert compare(address(url), HERE, versions(url)).differences == []
