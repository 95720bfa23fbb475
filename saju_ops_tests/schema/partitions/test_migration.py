"""The opt-in migration, as `saju-ops migrate up partitioned_logs@head` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops.errors import Refused
from saju_ops.schema.migrate.run import Options
from saju_ops_tests.schema.scene import down, run, up, versions

LABEL, REVISION = "partitioned_logs", "p001_log_partitions"
ROW = "INSERT INTO conversation_logs (session_id, message_order, role, content) VALUES ('s', 1, 'user', 'x')"
SESSION = (
    "INSERT INTO users (user_id) VALUES ('u')",
    "INSERT INTO user_sessions (session_id, user_id) VALUES ('s', 'u')",
)


@pytest.fixture(params=["mysql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def partitions(url: str) -> int:
    query = (
        "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE()"
        " AND TABLE_NAME = 'conversation_logs' AND PARTITION_NAME IS NOT NULL"
    )
    return int(run(url, query)[0][0])


@pytest.mark.long
def test_up_without_a_target_leaves_it_out_and_with_its_label_makes_partitions(url: str) -> None:
    up(url)
    assert (partitions(url), REVISION in versions(url)) == (0, False)
    definition = run(url, "SHOW CREATE TABLE conversation_logs")
    said: list[str] = []
    up(url, f"{LABEL}@head", say=said.append)
    assert partitions(url) == 5  # this month, three ahead, p_future
    assert REVISION in versions(url)
    assert any("monthly partitions of conversation_logs" in line for line in said)
    down(url, f"{LABEL}@base")
    assert run(url, "SHOW CREATE TABLE conversation_logs") == definition
    assert (partitions(url), REVISION in versions(url)) == (0, False)


@pytest.mark.long
def test_a_dry_run_prints_the_statements_and_changes_nothing(url: str) -> None:
    up(url)
    text = up(url, f"{LABEL}@head", dry_run=True).plan.sql()
    assert "PARTITION BY RANGE (UNIX_TIMESTAMP(`created_at`))" in text
    assert partitions(url) == 0


@pytest.mark.long
def test_rows_are_not_touched_without_a_proven_dump(url: str, tmp_path: Path) -> None:
    from saju_ops.storage.open import open_storage

    up(url)
    run(url, *SESSION, ROW)
    storage = open_storage(str(tmp_path / "backups"))
    with pytest.raises(Refused, match="saju-ops dump"):
        up(url, f"{LABEL}@head", Options(storage=lambda: storage))
    assert partitions(url) == 0


def test_other_engines_leave_it_out_and_say_why(sqlite_url: str) -> None:
    up(sqlite_url)
    result = up(sqlite_url, f"{LABEL}@head")
    assert "Partitions are not supported on SQLite" in " ".join(result.plan.notes)
