"""Snapshots: of a folder in use, of a server; proven from where they are stored; torn ones taken again."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from saju_ops.chroma import snapshot as chroma
from saju_ops.chroma.check import check_folder
from saju_ops.chroma.contents import contents
from saju_ops.chroma.engine import MIGRATIONS, TRIED, newer_migrations
from saju_ops.chroma.files import DATABASE, ChromaFiles
from saju_ops.chroma.pack import FOLDER, Hashes, Listing, listed, look_through, pack, unpack
from saju_ops.chroma.server import connect
from saju_ops.chroma.snapshot import Source, drill_snapshot, extract_snapshot, take_snapshot
from saju_ops.chroma.usage import usage
from saju_ops.chroma.worker_client import _environment, ask
from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused, TornCopy
from saju_ops.local_state import one_at_a_time
from saju_ops.scratch import PREFIX, scratch_folder
from saju_ops.storage.encryption import WrongPassword
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import BackupManifest, backups, read_manifest
from saju_ops.storage.open import open_storage
from saju_ops_tests.chroma.scene import (
    WRITER_KEEPS,
    assert_same,
    held_by,
    held_in,
    make_collection,
    make_folder,
    serving,
    writing,
)

pytestmark = pytest.mark.usefixtures("own_scratch")
KST = ZoneInfo("Asia/Seoul")
AT = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)  # 03:30 on 1 October in Seoul
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"saju_knowledge": 250, "interpretation_rules": 40}
    return make_folder(tmp_path_factory.mktemp("made") / "chroma_db", counts, sync=100)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "chroma_db"))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "backups")


@pytest.fixture(scope="module")
def stored(made: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    """A snapshot that several tests look at, each in a copy of its own."""
    storage = LocalStorage(tmp_path_factory.mktemp("stored"))
    take(storage, made)
    return storage


@pytest.fixture
def taken(stored: LocalStorage, tmp_path: Path) -> tuple[LocalStorage, BackupManifest]:
    storage = LocalStorage(Path(shutil.copytree(stored.root, tmp_path / "taken")))
    (manifest,) = backups(storage, "chroma_snapshot")
    return storage, manifest


Taken = tuple[LocalStorage, BackupManifest]


def take(storage: Any, folder: Path, **more: Any) -> chroma.Snapshot:
    return take_snapshot(storage, Source(folder=folder), zone=KST, clock=lambda: AT, **more)


def scratch_left(scratch: Path) -> list[Path]:
    return list(scratch.glob(f"{PREFIX}*"))


# --- what is stored ----------------------------------------------------------------------------------------------


def test_a_snapshot_has_its_name_in_the_zone_and_a_manifest_that_says_what_it_holds(
    folder: Path, storage: LocalStorage, own_scratch: Path
) -> None:
    snapshot = take(storage, folder, run_id="run-1")
    assert list(storage.names("")) == [
        "chroma/chromadb_20261001_033000.manifest.json", "chroma/chromadb_20261001_033000.tar.gz",
    ]  # fmt: skip
    manifest = read_manifest(storage, "chroma/chromadb_20261001_033000.manifest.json")
    assert manifest == snapshot.manifest
    assert (manifest.proven, manifest.run_id, manifest.engine) == (True, "run-1", "chroma directory")
    assert manifest.taken_at == "2026-09-30T18:30:00+00:00"
    with ChromaFiles(folder) as files:
        assert manifest.contents == contents(files)
    assert manifest.proof["records_compared"] == snapshot.records == 250 + 40 + 2 - 2
    assert manifest.stored_bytes == storage.size(manifest.file)
    assert scratch_left(own_scratch) == []


def test_what_is_extracted_is_what_was_there(folder: Path, taken: Taken, tmp_path: Path) -> None:
    extract_snapshot(*taken, tmp_path / "out")
    assert_same(held_in(tmp_path / "out"), held_in(folder))
    for path in (tmp_path / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_tar_alone_opens_a_snapshot(folder: Path, taken: Taken, tmp_path: Path) -> None:
    file = Path(taken[0].location(taken[1].file))
    subprocess.run(["tar", "xzf", str(file), "-C", str(tmp_path / "tmp")], check=True)
    assert_same(held_in(tmp_path / "tmp" / "chroma_db"), held_in(folder))


def test_the_live_folder_is_left_as_it_was(folder: Path, storage: LocalStorage) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    take(storage, folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_files_that_are_not_chromas_are_left_out_and_named(folder: Path, storage: LocalStorage) -> None:
    (folder / "notes.txt").write_text("mine")
    assert take(storage, folder).copied["left_out"] == ["notes.txt"]


def test_a_folder_that_is_no_chroma_directory_is_refused(tmp_path: Path, storage: LocalStorage) -> None:
    with pytest.raises(Refused, match=r"CHROMA_DB_PATH names .*nothing, where there is no chroma\.sqlite3"):
        take(storage, tmp_path / "nothing")
    assert list(storage.names("")) == []


def test_two_runs_over_the_same_storage_take_no_snapshot_at_once(folder: Path, storage: LocalStorage) -> None:
    with one_at_a_time(f"snapshots in {storage.uri}"):
        with pytest.raises(Busy, match="Another run works on snapshots in"):
            take(storage, folder)
    assert list(storage.names("")) == []


def test_a_second_snapshot_of_the_same_second_overwrites_nothing(folder: Path, taken: Taken) -> None:
    first = Path(taken[0].location(taken[1].file))
    before = first.read_bytes()
    with pytest.raises(OperatorError, match="not overwritten"):
        take(taken[0], folder)
    assert first.read_bytes() == before


def test_an_empty_chroma_is_a_snapshot_too(tmp_path: Path, storage: LocalStorage) -> None:
    snapshot = take(storage, make_folder(tmp_path / "empty", {}))
    assert snapshot.records == 0
    assert drill_snapshot(storage, snapshot.manifest)["records_compared"] == 0


@pytest.mark.long
@pytest.mark.parametrize(("taken_with", "drilled_with"), [(1, 256), (256, 1), (1, 1)])
def test_a_snapshot_is_proven_within_whatever_memory_is_allowed(
    folder: Path, storage: LocalStorage, taken_with: int, drilled_with: int
) -> None:
    manifest = take(storage, folder, memory_mb=taken_with).manifest
    count = len(manifest.contents["collections"])
    assert len(manifest.proof["searched_in_files"]) == (count if taken_with == 1 else 0)
    assert all(len(c["vectors_digest"]) == 64 for c in manifest.contents["collections"])
    drilled = drill_snapshot(storage, manifest, memory_mb=drilled_with)
    assert len(drilled["searched_in_files"]) == (count if drilled_with == 1 else 0)
    assert drilled["records_compared"] == manifest.proof["records_compared"] == 290


# --- encryption --------------------------------------------------------------------------------------------------


def test_with_a_password_it_is_encrypted_and_a_wrong_one_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "backups")
    manifest = take(open_storage(uri, PASSWORD), folder).manifest
    assert manifest.file == "chroma/chromadb_20261001_033000.tar.gz.zip"
    assert b"chroma.sqlite3" not in (tmp_path / "backups" / manifest.file).read_bytes()
    assert drill_snapshot(open_storage(uri, PASSWORD), manifest)["records_compared"] == 290
    for wrong in ("another password", None):
        with pytest.raises(WrongPassword, match="ARCHIVE_PASSWORD"):
            extract_snapshot(open_storage(uri, wrong), manifest, tmp_path / "out")


# --- torn copies -------------------------------------------------------------------------------------------------


def tear_first(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first copies are torn as by a writer: the names are of another age than the vectors."""
    copy, torn = chroma._copy, []

    def torn_copy(source: Source, work: Path, memory_mb: int) -> dict[str, Any]:
        answer = copy(source, work, memory_mb)
        if len(torn) < times:
            torn.append(1)
            # A folder without names is an index that was only made room for.
            index = next((work / "copy").glob("*/index_metadata.pickle")).with_name("data_level0.bin")
            index.write_bytes(index.read_bytes()[:-500])
        return answer

    monkeypatch.setattr(chroma, "_copy", torn_copy)


def test_a_torn_copy_is_thrown_away_and_taken_again(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tear_first(monkeypatch, 2)
    snapshot = take(storage, folder)
    assert snapshot.attempts == 3
    assert len(snapshot.torn) == 2
    assert "cut" in snapshot.torn[0]
    assert len(list(storage.names(""))) == 2


def test_when_every_copy_is_torn_nothing_is_stored(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, own_scratch: Path
) -> None:
    tear_first(monkeypatch, 99)
    with pytest.raises(ProofFailed, match=r"None of 2 copies .* could be proven; nothing was stored"):
        take(storage, folder, attempts=2)
    assert [p for p in storage.root.rglob("*") if p.is_file()] == []
    assert scratch_left(own_scratch) == []


def test_a_crash_of_chroma_does_not_end_the_run(folder: Path, own_scratch: Path) -> None:
    """What Chroma does with links that lead nowhere, were they not looked at before."""
    with scratch_folder() as scratch, chroma.Worker(scratch) as worker:
        worker.start("read", folder=str(folder))
        worker._process.send_signal(signal.SIGSEGV)
        with pytest.raises(TornCopy, match="SIGSEGV"):
            worker.answer()


@pytest.mark.long
def test_a_storage_that_changes_a_byte_is_found_before_the_file_has_its_name(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.storage.local import _LocalWriter

    read_back = _LocalWriter.read_back

    def rotten(self: Any) -> Any:
        with read_back(self) as stream:
            data = bytearray(stream.read())
        data[len(data) // 2] ^= 1
        return io.BytesIO(data)

    monkeypatch.setattr(_LocalWriter, "read_back", rotten)
    with pytest.raises(ProofFailed):
        take(storage, folder, attempts=1)
    assert list(storage.names("")) == []


# --- what is stored is what Chroma opened ------------------------------------------------------------------------


def lose(folder: Path) -> str:
    path = next(folder.glob("*/length.bin"))
    path.unlink()
    return path.relative_to(folder).as_posix()


def add(folder: Path) -> str:
    (folder / "more.bin").write_bytes(b"more")
    return "more.bin"


def add_folder(folder: Path) -> str:
    (folder / "more").mkdir()
    return "more"


def change(folder: Path) -> str:
    path = next(folder.glob("*/data_level0.bin"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.relative_to(folder).as_posix()


@pytest.mark.long
@pytest.mark.parametrize("harm", [lose, add, add_folder, change])
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_file_that_is_stored_otherwise_than_chroma_opened_it_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], str], password: str | None
) -> None:
    """Packed from another folder, so that every SHA-256 of the stored file is right, and both processes see a sound
    copy: only the comparison of the files shows it."""
    harmed: list[str] = []

    def other(packed: Path, *args: Any, **more: Any) -> Hashes:
        twin = Path(shutil.copytree(packed, tmp_path / "harmed"))
        harmed.append(harm(twin))
        return pack(twin, *args, **more)

    monkeypatch.setattr(chroma, "pack", other)
    storage = open_storage(str(tmp_path / "backups"), password)
    with pytest.raises(ProofFailed, match="what was stored is not what Chroma opened: ") as said:
        take(storage, folder, attempts=1)
    assert f"opened: {harmed[0]}." in str(said.value)
    assert [p for p in (tmp_path / "backups").rglob("*") if p.is_file()] == []


def test_what_chroma_changes_in_its_clone_is_no_difference(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its opening changes, it comes after the clone was hashed: here more than it ever did."""
    cloned = chroma._cloned

    def changed(work: Path) -> Listing:
        before = cloned(work)
        add(work / "opened")
        with closing(sqlite3.connect(work / "opened" / "chroma.sqlite3")) as connection:
            connection.execute("CREATE TABLE migrated (at TEXT)")
        assert listed(work / "opened") != before
        return before

    monkeypatch.setattr(chroma, "_cloned", changed)
    snapshot = take(storage, folder)
    assert (snapshot.attempts, snapshot.records) == (1, 290)


def test_the_stored_files_are_listed_as_the_folder_is(folder: Path, taken: Taken) -> None:
    storage, manifest = taken
    with storage.open(manifest.file) as stream:
        hashes, stored = look_through(stream, password=None, encrypted=False, content_bytes=manifest.content_bytes)
    assert hashes.stored_sha256 == manifest.stored_sha256
    assert stored["."] == FOLDER
    assert {n for n, kind in stored.items() if kind != FOLDER} == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    }
    # SQLite's own copy differs from its source in the header; the index files are the same.
    here = listed(folder)
    assert {n for n in here if here[n] != stored[n]} <= {"chroma.sqlite3"}


def test_a_copy_that_only_chroma_finds_torn_ends_the_packing(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, own_scratch: Path
) -> None:
    cloned, ended = chroma._cloned, []

    def torn(work: Path) -> Listing:
        before = cloned(work)
        path = next((work / "opened").glob("*/index_metadata.pickle"))
        path.write_bytes(path.read_bytes()[:-20])
        return before

    def endless(packed: Path, writer: Any, *, watch: Callable[[], None], **more: Any) -> Hashes:
        """It continues until it is stopped."""
        deadline = time.monotonic() + 60
        writer.write(b"begun")
        while time.monotonic() < deadline:
            try:
                watch()
            except TornCopy as error:
                ended.append(str(error))
                raise
            time.sleep(0.02)
        return pack(packed, writer, **more)

    monkeypatch.setattr(chroma, "_cloned", torn)
    monkeypatch.setattr(chroma, "pack", endless)
    with pytest.raises(ProofFailed, match="None of 1 copy "):
        take(storage, folder, attempts=1)
    assert len(ended) == 1
    assert [p for p in storage.root.rglob("*") if p.is_file()] == []
    assert scratch_left(own_scratch) == []


def test_packing_ends_where_its_watch_says_so(folder: Path) -> None:
    written: list[int] = []

    class Sink:
        def write(self, data: Any) -> int:
            written.append(len(data))
            return len(data)

    def watch() -> None:
        if written:
            raise TornCopy("seen by another process")

    with pytest.raises(TornCopy, match="seen by another"):
        pack(folder, Sink(), password=None, name="x", watch=watch)  # type: ignore[arg-type]


@pytest.mark.long
def test_a_record_that_chroma_gives_otherwise_than_the_copy_holds_it_is_found(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned = chroma._cloned

    def changed(work: Path) -> Listing:
        before = cloned(work)
        with closing(sqlite3.connect(work / "opened" / "chroma.sqlite3")) as connection:
            connection.execute(
                "UPDATE embedding_metadata SET string_value = 'x' WHERE key = 'chroma:document'"
                " AND id = (SELECT MIN(id) FROM embeddings)"
            )
            connection.commit()
        return before

    monkeypatch.setattr(chroma, "_cloned", changed)
    with pytest.raises(ProofFailed, match=r"the digest of ids, documents and metadata of \w+ differs"):
        take(storage, folder, attempts=1)
    assert list(storage.names("")) == []


@pytest.mark.long
def test_a_storage_that_keeps_the_same_content_in_other_bytes_is_found(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.storage.local import _LocalWriter

    read_back = _LocalWriter.read_back

    def rewritten(self: Any) -> Any:
        with read_back(self) as stream:
            return io.BytesIO(gzip.compress(gzip.decompress(stream.read())))

    monkeypatch.setattr(_LocalWriter, "read_back", rewritten)
    with pytest.raises(ProofFailed, match="what was stored differs from what was written"):
        take(storage, folder, attempts=1)
    assert list(storage.names("")) == []


# --- what is stored, damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99, 0.9999])
def test_a_cut_snapshot_is_found(taken: Taken, tmp_path: Path, share: float) -> None:
    storage, manifest = taken
    file = Path(storage.location(manifest.file))
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(ProofFailed, match=r"chromadb_20261001_033000\.tar\.gz is damaged"):
        extract_snapshot(storage, manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_anywhere_is_found(taken: Taken, tmp_path: Path) -> None:
    storage, manifest = taken
    file, random = Path(storage.location(manifest.file)), Random(1)
    whole = file.read_bytes()
    for at in [*range(12), *(random.randrange(len(whole)) for _ in range(30)), *range(len(whole) - 8, len(whole))]:
        data = bytearray(whole)
        data[at] ^= 1 << random.randrange(8)
        file.write_bytes(data)
        with pytest.raises(ProofFailed):
            extract_snapshot(storage, manifest, tmp_path / "out")
        assert not (tmp_path / "out").exists()


# --- while the chatbot writes ------------------------------------------------------------------------------------


def acknowledged(log: Path) -> tuple[int, dict[tuple[str, str], int]]:
    """How many batches there were, and each record that must be there: acknowledged and not about to be deleted."""
    lines = [line.split() for line in log.read_text().splitlines()]
    # By the time of the copy the writer may be on: what it deletes next is not asked for.
    kept = lines[-WRITER_KEEPS // 4 :]
    return len(lines), {(name, f"{n}-{i}"): int(n) for name, n in kept for i in range(10)}


@pytest.mark.long
def test_fifty_snapshots_of_a_folder_in_use_each_hold_everything_acknowledged(tmp_path: Path) -> None:
    """Each is copied, packed, unpacked and opened by Chroma; only the processes are saved that `take_snapshot` has."""
    folder, log, torn, locked = tmp_path / "live", tmp_path / "log", [], []
    with writing(folder, log), scratch_folder() as scratch:
        for number in range(50):
            _, wanted = acknowledged(log)
            for _ in range(chroma.ATTEMPTS):
                work = scratch / f"{number}-{len(torn)}"
                work.mkdir()
                try:
                    locked.append(ask("copy", work, source=str(folder), target=str(work / "copy"))["locked_seconds"])
                    held = proven(work)
                    break
                except TornCopy as error:
                    torn.append(str(error))
            else:
                pytest.fail(f"{chroma.ATTEMPTS} copies in a row were torn: {torn[-1]}")
            missing = {key for key in wanted if key not in held}
            assert not missing, f"snapshot {number} lacks {len(missing)} acknowledged records"
            shutil.rmtree(work)
        batches, _ = acknowledged(log)
    assert batches > 200, "the writer hardly wrote"
    assert max(locked) < 2.0


def proven(work: Path) -> set[tuple[str, str]]:
    with ChromaFiles(work / "copy") as files:
        before = contents(files)
        held = {(c.name, id) for c in files.collections() for id, _ in files.records(c)}
    with (work / "tar").open("wb") as file:
        packed = pack(work / "copy", file, password=None, name="x")  # type: ignore[arg-type]
    with (work / "tar").open("rb") as file:
        unpack(file, work / "proof", password=None, encrypted=False, content_bytes=packed.content_bytes)
    judgement = check_folder(work / "proof", before, memory_mb=256)
    assert judgement["records_compared"] == len(held)
    return held


@pytest.mark.long
def test_whole_snapshots_of_a_folder_in_use_can_be_restored(tmp_path: Path, storage: LocalStorage) -> None:
    folder, log = tmp_path / "live", tmp_path / "log"
    with writing(folder, log):
        for number in range(3):
            _, wanted = acknowledged(log)
            snapshot = take_snapshot(
                storage, Source(folder=folder), zone=KST, clock=lambda n=number: AT + timedelta(minutes=n)
            )
            extract_snapshot(storage, snapshot.manifest, tmp_path / str(number))
            with ChromaFiles(tmp_path / str(number)) as files:
                held = {(c.name, id) for c in files.collections() for id, _ in files.records(c)}
            assert wanted.keys() <= held
    assert len(list(backups(storage, "chroma_snapshot"))) == 3


def test_a_writer_waits_for_the_lock_and_is_not_refused(folder: Path, storage: LocalStorage) -> None:
    """Another process holds the lock for a second: the snapshot waits, and says how long."""
    code = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(1.5); c.execute('ROLLBACK')"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder / "chroma.sqlite3")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    snapshot = take(storage, folder)
    holder.wait()
    holder.stdout.close()
    assert snapshot.copied["waited_for_lock_seconds"] > 0.3
    assert snapshot.copied["locked_seconds"] < 1.0


# --- killed ------------------------------------------------------------------------------------------------------

KILLED = """
import sys
from datetime import datetime, timezone, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo
from saju_ops.chroma import worker_client as chroma_process
chroma_process.scratch_root = lambda: Path(sys.argv[3])
from saju_ops.chroma.snapshot import Source, take_snapshot
from saju_ops.local_state import one_at_a_time
from saju_ops.storage.open import open_storage
print("begun", flush=True)
at = datetime(2026, 9, 30, 18, 30, int(sys.argv[4]), tzinfo=timezone.utc)
port = sys.argv[1]
source = Source(host="127.0.0.1", port=int(port)) if port.isdigit() else Source(folder=Path(sys.argv[1]))
take_snapshot(open_storage(sys.argv[2]), source, zone=ZoneInfo("Asia/Seoul"), clock=lambda: at)
"""


def killed_at_random(source: str, storage: LocalStorage, scratch: Path, rounds: int, longest_seconds: float) -> None:
    random = Random(7)
    for number in range(rounds):
        command = [sys.executable, "-c", KILLED, source, str(storage.root), str(scratch), str(number)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0, longest_seconds))
        process.kill()
        process.wait()
        process.stdout.close()
    for manifest in backups(storage, "chroma_snapshot"):
        assert drill_snapshot(storage, manifest)["records_compared"] == 290


def assert_scratch_is_cleaned(scratch: Path) -> None:
    with scratch_folder():
        pass
    deadline = time.monotonic() + 10
    while scratch_left(scratch) and time.monotonic() < deadline:
        time.sleep(0.2)  # a worker ends a moment after its parent
        with scratch_folder():
            pass
    assert scratch_left(scratch) == []


@pytest.mark.long
def test_killed_at_any_moment_it_leaves_no_half_snapshot_and_the_next_run_cleans_up(
    folder: Path, storage: LocalStorage, own_scratch: Path
) -> None:
    before = held_in(folder)
    killed_at_random(str(folder), storage, own_scratch, 4, 2.2)
    take(storage, folder, run_id="last") if not storage.exists("chroma/chromadb_20261001_033000.tar.gz") else None
    assert_scratch_is_cleaned(own_scratch)
    assert_same(held_in(folder), before)


@pytest.mark.long
def test_killed_while_a_server_is_read_neither_a_half_snapshot_nor_the_folder_of_it_is_left(
    folder: Path, storage: LocalStorage, own_scratch: Path, tmp_path: Path
) -> None:
    with serving(folder) as port:
        killed_at_random(str(port), storage, own_scratch, 4, 4.0)
        source, later = Source(host="127.0.0.1", port=port), AT + timedelta(hours=1)
        snapshot = take_snapshot(storage, source, zone=KST, clock=lambda: later)
        shown = held_by(connect("127.0.0.1", port))
    assert_scratch_is_cleaned(own_scratch)
    extract_snapshot(storage, snapshot.manifest, tmp_path / "out")
    assert_same(held_in(tmp_path / "out"), shown)


# --- a server ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_server_is_read_through_its_api_into_the_same_kind_of_file(
    folder: Path, storage: LocalStorage, tmp_path: Path
) -> None:
    with serving(folder) as port:
        server = connect("127.0.0.1", port)
        server.create_database("second")
        make_collection(server, "more_than_a_page", "cosine", 1200, database="second")
        snapshot = take_snapshot(storage, Source(host="127.0.0.1", port=port), zone=KST, clock=lambda: AT)
        shown = held_by(server)
    assert snapshot.manifest.engine == "chroma server"
    assert snapshot.copied["passes"] == 2
    assert snapshot.copied["records_moving"] == 0
    extract_snapshot(storage, snapshot.manifest, tmp_path / "out")
    assert_same(held_in(tmp_path / "out"), shown)


def test_a_server_that_does_not_answer_is_named(storage: LocalStorage) -> None:
    with pytest.raises(OperatorError, match=r"No Chroma server answers at 127\.0\.0\.1:1 "):
        take_snapshot(storage, Source(host="127.0.0.1", port=1), zone=KST)


# --- how much there is -------------------------------------------------------------------------------------------


def test_usage_counts_documents_bytes_and_the_age_of_the_newest_snapshot(folder: Path, taken: Taken) -> None:
    storage, _ = taken
    shutil.copytree(next(folder.glob("*/")), folder / "00000000-0000-0000-0000-000000000000")
    found = usage(Source(folder=folder), storage, now=AT + timedelta(hours=5))
    assert found.per_collection() == {"empty_one": 0, "interpretation_rules": 40, "saju_knowledge": 250}
    assert found.age_hours == 5.0
    assert found.orphaned_folders == 1
    assert found.bytes_on_disk == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert found.database_bytes + found.index_bytes + found.orphaned_bytes == found.bytes_on_disk
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        assert found.waiting_writes == connection.execute("SELECT COUNT(*) FROM embeddings_queue").fetchone()[0]


def test_usage_without_a_snapshot_says_so(folder: Path, storage: LocalStorage) -> None:
    found = usage(Source(folder=folder), storage, now=AT)
    assert (found.age_hours, found.newest, found.snapshots) == (None, None, 0)


def test_the_process_that_opens_snapshots_gets_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("BACKUP_SEAL_KEY", "JOBS_DATABASE_URL", "GOOGLE_APPLICATION_CREDENTIALS", "REDIS_URL", "MYSQL_PWD")
    for name in (*secrets, "ARCHIVE_PASSWORD", "CLEANUP_TRIGGER_TOKEN", "CHROMA_SERVER_AUTHN_CREDENTIALS"):
        monkeypatch.setenv(name, "s3cret-value")
    code = "import os; print(open('/proc/self/environ').read())"
    shown = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=True)
    assert "s3cret-value" not in shown.stdout
    assert "PATH=" in shown.stdout


def migrated(folder: Path, version: int) -> None:
    """The folder's database says that a Chroma of later days has changed its tables."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection, connection:
        connection.execute("INSERT INTO migrations VALUES ('sysdb', ?, 'later.sql', '', '')", (version,))


def test_the_chroma_that_is_installed_is_known_to_the_reader_of_its_files(folder: Path) -> None:
    assert newer_migrations(folder / DATABASE) == []
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        newest = dict(connection.execute("SELECT dir, MAX(version) FROM migrations GROUP BY dir").fetchall())
    assert newest == MIGRATIONS


def test_a_copy_of_a_newer_chroma_that_cant_be_proven_says_which_version_is_known(
    folder: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated(folder, 99)
    tear_first(monkeypatch, 1)
    with pytest.raises(ProofFailed, match=rf"newer Chroma than {TRIED[-1]}.* migrations sysdb 99"):
        take(storage, folder, attempts=1)
    assert list(storage.names("")) == []
    # What can be proven is proven, whoever wrote it.
    assert take(storage, folder).attempts == 1
