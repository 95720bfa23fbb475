"""The dump that must be there before anything is dropped or rewritten: which one counts, what is said without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saju_ops.database.address import parse_database_url
from saju_ops.dumps.take import DumpOptions, take_dump
from saju_ops.errors import Refused
from saju_ops.local_state import state_folder
from saju_ops.schema.recent_dump import require_recent_dump
from saju_ops.storage.ledger import FILE as LEDGER
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import BackupManifest
from saju_ops.storage.open import open_storage
from saju_ops.storage.seal import Seals

KST = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 20, 19, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "backups")


def database(tmp_path: Path, name: str = "service.db") -> sa.URL:
    with sqlite3.connect(tmp_path / name) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO t DEFAULT VALUES")
    return parse_database_url(f"sqlite:///{tmp_path / name}")


def dumped(url: sa.URL, storage: LocalStorage, hours_old: float) -> BackupManifest:
    taken = NOW - timedelta(hours=hours_old)
    return take_dump(url, storage, DumpOptions(KST), now=lambda: taken).manifest


def refused(url: sa.URL, storage: LocalStorage) -> str:
    with pytest.raises(Refused) as error:
        require_recent_dump(url, storage, NOW, "The migration 0003")
    assert "`saju-ops dump`" in str(error.value)
    assert "Nothing was touched" in str(error.value)
    return str(error.value)


def test_a_proven_dump_of_this_database_that_is_some_hours_old_is_enough(tmp_path: Path, storage: LocalStorage) -> None:
    url = database(tmp_path)
    newest = dumped(url, storage, 23.9)
    assert require_recent_dump(url, storage, NOW) == newest


def test_of_several_dumps_the_newest_that_can_be_relied_on_is_taken(tmp_path: Path, storage: LocalStorage) -> None:
    url = database(tmp_path)
    good, damaged = dumped(url, storage, 5), dumped(url, storage, 2)
    (tmp_path / "backups" / damaged.file).write_bytes(b"cut")
    assert require_recent_dump(url, storage, NOW) == good


def test_without_any_dump_the_command_that_makes_one_is_named(tmp_path: Path, storage: LocalStorage) -> None:
    assert refused(database(tmp_path), storage).startswith("The migration 0003 drops or rewrites data in sqlite:///")


def test_a_dump_of_another_database_does_not_count(tmp_path: Path, storage: LocalStorage) -> None:
    dumped(database(tmp_path, "other.db"), storage, 1)
    assert "other" not in refused(database(tmp_path), storage).split("Nothing")[0].replace(str(tmp_path), "")


def test_a_dump_of_a_day_ago_is_too_old(tmp_path: Path, storage: LocalStorage) -> None:
    url = database(tmp_path)
    dumped(url, storage, 24)
    assert "it was taken at 2026-11-19 19:30 UTC" in refused(url, storage)


def test_a_dump_from_the_future_does_not_count(tmp_path: Path, storage: LocalStorage) -> None:
    url = database(tmp_path)
    dumped(url, storage, -2)
    assert "its time is in the future" in refused(url, storage)


def test_a_dump_whose_proof_only_the_store_claims_does_not_count(tmp_path: Path, storage: LocalStorage) -> None:
    """Whoever can write into the store can write `proven: true` there: the ledger is lost, and no key is set."""
    url = database(tmp_path)
    dumped(url, storage, 1)
    (state_folder() / LEDGER).unlink()
    assert "no key of this installation sealed its manifest" in refused(url, storage)


def test_a_dump_that_a_key_of_ours_sealed_counts_on_another_machine_too(tmp_path: Path) -> None:
    def opened(keys: Sequence[str]) -> LocalStorage:
        return open_storage(str(tmp_path / "backups"), seals=Seals(keys))  # type: ignore[return-value]

    url = database(tmp_path)
    sealed = dumped(url, opened(["a long enough key"]), 1)
    (state_folder() / LEDGER).unlink()
    assert require_recent_dump(url, opened(["a long enough key"]), NOW) == sealed
    assert "saju-ops seal" in refused(url, opened(["another key of ours"]))


def test_a_dump_that_is_no_longer_what_was_stored_does_not_count(tmp_path: Path, storage: LocalStorage) -> None:
    url = database(tmp_path)
    made = dumped(url, storage, 1)
    path = tmp_path / "backups" / made.file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "is not the one that was stored" in refused(url, storage)


def test_a_dump_that_was_never_proven_does_not_count(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.dumps.drill import Drill

    monkeypatch.setattr("saju_ops.dumps.take.drill", lambda *_, **__: Drill(why_not="no room"))
    url = database(tmp_path)
    dumped(url, storage, 1)
    assert "it was never restored and compared" in refused(url, storage)
