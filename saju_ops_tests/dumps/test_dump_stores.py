"""Dumps and where they are kept: a full disk, and one of two stores that lost an older dump."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from saju_ops.database.connect import parse_database_url
from saju_ops.dumps.take import dump_databases
from saju_ops.storage.open import open_storage
from saju_ops_tests.dumps.scene import AT_THREE, fill, options


def test_an_old_dump_that_is_lost_in_two_stores_keeps_no_new_one_from_being_taken(
    sqlite_url: str, tmp_path: Path
) -> None:
    fill(sqlite_url)
    uri, url = f"{tmp_path}/one,{tmp_path}/two", parse_database_url(sqlite_url)
    old = dump_databases([url], open_storage(uri), options(), now=lambda: AT_THREE).results[0].manifest
    (tmp_path / "one" / old.file).write_bytes(b"rot")
    for name in (old.file, old.name):
        (tmp_path / "two" / name).unlink()
    run = dump_databases([url], open_storage(uri), options(), now=lambda: AT_THREE + timedelta(days=1))
    assert run.problems == {}
    assert f"{old.file} is missing or damaged" in run.incomplete
    new = run.results[0].manifest
    assert all((tmp_path / store / name).is_file() for store in ("one", "two") for name in (new.file, new.name))


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing_of_the_dump(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_url)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saju_ops.storage.local._LocalWriter._sync", full)
    run = dump_databases([parse_database_url(sqlite_url)], open_storage(str(tmp_path / "b")), options())
    assert [text for text in run.problems.values() if "No space left on device" in text]
    assert [p for p in (tmp_path / "b").rglob("*") if p.is_file()] == []
