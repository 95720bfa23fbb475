"""The vector store put back: into a folder, into a server, and what is refused; nothing is ever deleted."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from saju_ops.chroma import restore as chroma_restore
from saju_ops.chroma.push import UNFINISHED
from saju_ops.chroma.restore import ChromaRestore, restore_snapshot
from saju_ops.chroma.server import connect
from saju_ops.chroma.snapshot import Snapshot, Source, take_snapshot
from saju_ops.cli.main import main
from saju_ops.errors import ProofFailed, Refused
from saju_ops.storage.local import LocalStorage
from saju_ops.times import instant_of
from saju_ops_tests.chroma.scene import Everything, assert_same, held_by, held_in, make_folder, serving

pytestmark = pytest.mark.usefixtures("own_scratch")
KST = ZoneInfo("Asia/Seoul")
AT = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LocalStorage, Snapshot, Everything]:
    folder = tmp_path_factory.mktemp("made") / "chroma_db"
    make_folder(folder, {"saju_knowledge": 250, "fortune_patterns": 40}, sync=100)
    storage = LocalStorage(tmp_path_factory.mktemp("backups"))
    snapshot = take_snapshot(storage, Source(folder=folder), zone=KST, clock=lambda: AT)
    return folder, storage, snapshot, held_in(folder)


@pytest.fixture
def storage(taken: Any) -> LocalStorage:
    return taken[1]


@pytest.fixture
def wanted(taken: Any) -> Everything:
    return taken[3]


def restore(storage: LocalStorage, target: Path, **more: Any) -> ChromaRestore:
    given = {"dry_run": False, "clock": lambda: AT, "zone": KST, **more}
    return restore_snapshot(storage, Source(folder=target), **given)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- into a folder -----------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_made_and_holds_every_value(
    storage: LocalStorage, wanted: Everything, tmp_path: Path
) -> None:
    plan = restore(storage, tmp_path / "target")
    assert_same(held_in(tmp_path / "target"), wanted)
    assert plan.records == 290
    assert plan.collections == {"empty_one": 0, "fortune_patterns": 40, "saju_knowledge": 250}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["target", "tmp"]


def test_an_empty_folder_is_filled(storage: LocalStorage, wanted: Everything, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    restore(storage, tmp_path / "target")
    assert_same(held_in(tmp_path / "target"), wanted)
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o755


def test_a_dry_run_proves_the_snapshot_and_touches_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    plan = restore(storage, tmp_path / "target", dry_run=True)
    assert plan.records == 290
    assert not (tmp_path / "target").exists()
    assert "read back, opened and proven" in " ".join(plan.sentences())


def test_a_folder_that_is_not_empty_is_refused(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("x")
    for dry_run in (True, False):
        with pytest.raises(Refused, match=r"is not empty\. Nothing was touched\..*--replace target"):
            restore(storage, tmp_path / "target", dry_run=dry_run)
    assert tree(tmp_path / "target") == {"mine": b"x"}


def test_another_name_given_for_replacement_replaces_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("x")
    with pytest.raises(Refused):
        restore(storage, tmp_path / "target", replace=["chroma_db"])
    assert tree(tmp_path / "target") == {"mine": b"x"}


def test_what_is_replaced_by_name_is_moved_aside_and_its_mode_kept(
    taken: Any, storage: LocalStorage, wanted: Everything, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(taken[0], tmp_path / "target"))
    target.chmod(0o750)
    (target / "chroma.sqlite3").chmod(0o640)
    before = tree(target)
    plan = restore(storage, target, replace=["target"])
    aside = tmp_path / "target.before_restore_20261001_033000"
    assert plan.moved_aside == str(aside)
    assert tree(aside) == before
    assert_same(held_in(target), wanted)
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert {stat.S_IMODE(p.stat().st_mode) for p in target.rglob("*") if p.is_file()} == {0o640}


def test_a_mount_point_is_filled_from_inside_and_the_old_files_are_moved_aside_in_it(
    taken: Any, storage: LocalStorage, wanted: Everything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(taken[0], tmp_path / "volume"))
    (target / "lost+found").mkdir()
    before, ismount = tree(target), os.path.ismount
    monkeypatch.setattr(chroma_restore.os.path, "ismount", lambda path: path == target or ismount(path))
    plan = restore(storage, target, replace=["volume"])
    assert plan.moved_aside is not None
    assert tree(Path(plan.moved_aside)) == before
    assert_same(held_in(target), wanted)
    assert (target / "lost+found").is_dir()


def test_a_folder_that_a_process_has_open_is_refused_and_named(
    taken: Any, storage: LocalStorage, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(taken[0], tmp_path / "target"))
    code = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(target / "chroma.sqlite3")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert user.stdout is not None
    user.stdout.readline()
    before = tree(target)
    with pytest.raises(Refused, match=f"is in use by process {user.pid} .*stop the chatbot"):
        restore(storage, target, replace=["target"])
    user.communicate()
    assert tree(target) == before
    restore(storage, target, replace=["target"])


def test_a_folder_whose_database_is_locked_is_refused(
    taken: Any, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another container sees it, whose files /proc doesn't show."""
    target = Path(shutil.copytree(taken[0], tmp_path / "target"))
    monkeypatch.setattr(chroma_restore, "_processes_using", lambda folder: ([], 0))
    with closing(sqlite3.connect(target / "chroma.sqlite3", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Refused, match="is locked by another process"):
            restore(storage, target, replace=["target"])


def test_a_damaged_snapshot_stops_it_before_anything_is_touched(taken: Any, tmp_path: Path) -> None:
    folder, storage, snapshot, _ = taken
    mine = LocalStorage(Path(shutil.copytree(storage.root, tmp_path / "backups")))
    target = Path(shutil.copytree(folder, tmp_path / "target"))
    file = Path(mine.location(snapshot.manifest.file))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    before = tree(target)
    with pytest.raises(ProofFailed, match=r"chromadb_20261001_033000\.tar\.gz is damaged"):
        restore(mine, target, replace=["target"])
    assert tree(target) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backups", "target", "tmp"]
    later = take_snapshot(mine, Source(folder=folder), zone=KST, clock=lambda: AT + timedelta(days=1)).manifest
    Path(mine.location(later.file)).write_bytes(b"cut")
    with pytest.raises(ProofFailed, match=r'The one before is chroma/\S+_033000\S+: --at "2026-10-01 03:30:00"'):
        restore(mine, target, replace=["target"], clock=lambda: AT + timedelta(days=1))
    Path(mine.location(later.file)).unlink()
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    sentences = restore(mine, tmp_path / "new", clock=lambda: AT + timedelta(days=1)).sentences()
    assert any(s.startswith("NEWER") and "chromadb_20261002_033000 (its data file is gone)" in s for s in sentences)


@pytest.mark.long
def test_an_older_snapshot_is_found_by_its_time(taken: Any, tmp_path: Path) -> None:
    folder, storage, snapshot, _ = taken
    mine = LocalStorage(Path(shutil.copytree(storage.root, tmp_path / "backups")))
    later = take_snapshot(mine, Source(folder=folder), zone=KST, clock=lambda: AT + timedelta(days=1))
    target, now = tmp_path / "x", AT + timedelta(days=1)
    assert restore(mine, target, dry_run=True, clock=lambda: now).manifest == later.manifest
    for text, found in (
        ("2026-10-01", snapshot), ("2026-10-02", later), ("2026-10-02 03:29", snapshot), ("2026-10-02 03:30", later),
    ):  # fmt: skip
        at = instant_of(text, KST, "at")
        assert restore(mine, target, dry_run=True, at=at, clock=lambda: now).manifest == found.manifest, text
    with pytest.raises(Refused, match=r"no proven snapshot from .*; the oldest is of 2026-10-01 03:30:00 KST"):
        restore(mine, target, at=instant_of("2026-09-30", KST, "at"))


def test_without_any_snapshot_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no proven snapshot of Chroma"):
        restore(LocalStorage(tmp_path / "backups"), tmp_path / "x")


KILLED = """
import sys
from pathlib import Path
from zoneinfo import ZoneInfo
from saju_ops.chroma.snapshot import Source
from saju_ops.chroma.restore import restore_snapshot
from saju_ops.storage.open import open_storage
print("begun", flush=True)
restore_snapshot(open_storage(sys.argv[1]), Source(folder=Path(sys.argv[2])), replace=["target"], dry_run=False,
                 zone=ZoneInfo("Asia/Seoul"))
"""


@pytest.mark.long
def test_killed_at_any_moment_nothing_is_lost_and_launching_again_restores(
    taken: Any, storage: LocalStorage, wanted: Everything, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(taken[0], tmp_path / "target"))
    (target / "old").write_text("old")
    moments = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(storage.root), str(target)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.2, 1.8))
        process.kill()
        process.wait()
        process.stdout.close()
        held = [p for p in tmp_path.glob("target*") if (p / "old").exists()]
        assert len(held) == 1, "what was there is there, or moved aside"
    time.sleep(0.3)  # a worker ends a moment after its parent
    restore(storage, target, replace=["target"] if target.exists() else [])
    assert_same(held_in(target), wanted)
    assert list(tmp_path.glob("saju_ops_chroma_*")) == []


# --- into a server -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_snapshot_of_a_folder_is_restored_into_a_server_and_back(
    storage: LocalStorage, wanted: Everything, tmp_path: Path
) -> None:
    with serving(tmp_path / "server") as port:
        target = Source(host="127.0.0.1", port=port)
        dry = restore_snapshot(storage, target, dry_run=True, zone=KST, clock=lambda: AT)
        server = connect("127.0.0.1", port)
        assert dry.records == 290
        assert held_by(server) == {}
        restore_snapshot(storage, target, dry_run=False, zone=KST, clock=lambda: AT)
        assert_same(held_by(server), wanted)
        other = LocalStorage(tmp_path / "backups")
        take_snapshot(other, target, zone=KST, clock=lambda: AT)
        restore(other, tmp_path / "back")
        assert_same(held_in(tmp_path / "back"), wanted)

        # What is there is refused, and renamed where it was named.
        server._delete(server.get_collection("fortune_patterns").id, ids=["기록-1"])
        live = held_by(server)
        with pytest.raises(Refused, match="has collections of these names already: empty_one, fortune_patterns, saju"):
            restore_snapshot(storage, target, dry_run=False, zone=KST)
        assert_same(held_by(server), live)
        with pytest.raises(Refused, match="holds no collection nonsense"):
            restore_snapshot(storage, target, dry_run=False, zone=KST, replace=["nonsense", *(n for _, n in live)])
        server._modify(server.get_collection("saju_knowledge").id, new_name="saju_knowledge" + UNFINISHED)
        plan = restore_snapshot(
            storage, target, dry_run=False, zone=KST, clock=lambda: AT, replace=["empty_one", "fortune_patterns"]
        )
        aside = "fortune_patterns.before_restore_20261001_033000"
        assert plan.renamed["fortune_patterns"] == aside
        now = held_by(server)
        assert_same({k: now[k] for k in wanted}, wanted)
        kept = {("default_database", "fortune_patterns"): now["default_database", aside]}
        assert_same(kept, {k: live[k] for k in kept})


# --- as operators call it ----------------------------------------------------------------------------------------


def test_the_command_restores_and_says_what_it_did(
    storage: LocalStorage, wanted: Everything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_URI", str(storage.root))
    monkeypatch.setenv("CHROMA_DB_PATH", str(tmp_path / "live"))
    dry = CliRunner().invoke(main, ["restore-chroma", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "Nothing was touched (--dry-run)." in dry.output
    assert not (tmp_path / "live").exists()
    done = CliRunner().invoke(main, ["restore-chroma", "--at", "2026-10-01"])
    assert done.exit_code == 0, done.output
    assert "Done: 290 records in 3 collections" in done.output
    assert_same(held_in(tmp_path / "live"), wanted)
    again = CliRunner().invoke(main, ["restore-chroma"])
    assert again.exit_code == 1
    assert "--replace live" in again.output
    wrong = CliRunner().invoke(main, ["restore-chroma", "--at", "gestern"])
    assert (wrong.exit_code, "'gestern'" in wrong.output) == (1, True)
