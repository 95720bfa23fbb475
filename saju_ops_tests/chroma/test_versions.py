"""Folders that Chroma 0.4 to 1.1 made (`chroma_folders`): whatever this Chroma answers from is stored as it is, proven
and restored; and what else is sound, though it looks odd."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from saju_ops.chroma import vectors as chroma_vectors
from saju_ops.chroma.check import check_folder
from saju_ops.chroma.contents import contents, differences
from saju_ops.chroma.engine import open_folder
from saju_ops.chroma.files import ChromaFiles
from saju_ops.chroma.pack import listed
from saju_ops.chroma.push import push_server
from saju_ops.chroma.restore import restore_snapshot
from saju_ops.chroma.server import connect, settings_of
from saju_ops.chroma.snapshot import Snapshot, Source, drill_snapshot, extract_snapshot, take_snapshot
from saju_ops.chroma.sparse import copy_file
from saju_ops.chroma.usage import usage
from saju_ops.errors import ProofFailed, TornCopy
from saju_ops.storage.local import LocalStorage
from saju_ops_tests.chroma.chroma_folders.versions import VERSIONS, packed
from saju_ops_tests.chroma.scene import (
    DATABASE,
    TENANT,
    assert_same,
    close,
    held_by,
    held_in,
    make_folder,
    serving,
    vectors,
)

pytestmark = pytest.mark.usefixtures("own_scratch")
KST = ZoneInfo("Asia/Seoul")
AT = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)
SPACES = {
    "usual": "l2", "usual_indexed": "l2", "cosine": "cosine", "cosine_waiting": "cosine", "inner": "ip",
    "poor_search": "cosine", "renamed_metadata": "cosine", "emptied": "l2", "empty": "l2", "configured": "cosine",
}  # fmt: skip
Said = dict[str, dict[str, dict[str, Any]]]


def unpacked(version: str, folder: Path) -> tuple[Path, Said]:
    """The folder, and what its own version said of it."""
    with tarfile.open(packed(version)) as tar:
        tar.extractall(folder, filter="data")
    said = json.loads((folder / "said.json").read_text())
    (folder / "said.json").unlink()
    return folder, said


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "backups")


def take(storage: LocalStorage, folder: Path, **more: Any) -> Snapshot:
    return take_snapshot(storage, Source(folder=folder), zone=KST, clock=lambda: AT, **more)


def opened_by_this_chroma(folder: Path) -> None:
    server = open_folder(folder)
    try:
        for model in server.list_collections():
            server.get(model.id, include=["embeddings"])
    except BaseException as error:
        # Seen once: Chroma's engine reads a column before its own migration has added it. The next opening finds it.
        if type(error).__name__ != "PanicException":
            raise
        close(server)
        return opened_by_this_chroma(folder)
    close(server)


def assert_holds(folder: Path, said: Said) -> None:
    """Chroma gives of the folder what the version said that made it."""
    held = held_in(folder)
    assert {name for _, name in held} == said.keys()
    for name, rows in said.items():
        shown = held["default_database", name][2]
        assert shown.keys() == rows.keys()
        for id, row in rows.items():
            assert (shown[id][0], shown[id][2]) == (row["document"], row["metadata"]), (name, id)
            assert np.allclose(shown[id][3], row["vector"], rtol=1e-5, atol=1e-6), (name, id)


@pytest.mark.long
@pytest.mark.parametrize("opened", [False, True], ids=["untouched", "opened"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_of_an_older_chroma_is_stored_as_it_is_proven_and_restored(
    tmp_path: Path, storage: LocalStorage, version: str, opened: bool
) -> None:
    folder, said = unpacked(version, tmp_path / "chroma_db")
    if opened:
        opened_by_this_chroma(folder)
    snapshot = take(storage, folder)
    assert (snapshot.attempts, snapshot.records) == (1, sum(map(len, said.values())))
    restore_snapshot(storage, Source(folder=tmp_path / "restored"), dry_run=False, zone=KST, clock=lambda: AT)
    here, there = listed(folder), listed(tmp_path / "restored")
    # SQLite's own copy differs from its source in the header; Chroma leaves folders of indexes that it never wrote.
    assert {n for n in there if there[n] != here[n]} <= {"chroma.sqlite3"}
    assert tables_of(tmp_path / "restored") == tables_of(folder)
    assert drill_snapshot(storage, snapshot.manifest)["records_compared"] == snapshot.records
    assert_holds(tmp_path / "restored", said)


def tables_of(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        return found + [connection.execute(f"SELECT * FROM {t}").fetchall() for t in ("collections", "max_seq_id")]  # noqa: S608


@pytest.mark.parametrize("version", VERSIONS)
def test_the_distance_of_an_older_collection_is_the_one_that_chroma_measures(tmp_path: Path, version: str) -> None:
    """Whatever a stale configuration says, and though the collection's metadata were replaced since."""
    folder, said = unpacked(version, tmp_path / "chroma_db")
    with ChromaFiles(folder) as files:
        collections = {c.name: c for c in files.collections()}
    assert {name: c.space for name, c in collections.items()} == {name: SPACES[name] for name in said}
    poor = collections["poor_search"].configuration["hnsw"]
    assert poor == {"ef_construction": 40, "ef_search": 12, "max_neighbors": 4}
    opened_by_this_chroma(folder)
    server = open_folder(folder)
    for name, rows in said.items():
        if rows:
            asked = 3.0 * np.array([next(iter(rows.values()))["vector"]])
            answer = server._query(
                server.get_collection(name).id, query_embeddings=asked.tolist(), n_results=1, include=["distances"]
            )
            near = np.array([rows[answer["ids"][0][0]]["vector"]])
            measured = chroma_vectors.distances(near, asked, SPACES[name])[0, 0]
            assert answer["distances"][0][0] == pytest.approx(measured, abs=1e-3), name
    close(server)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_of_an_older_chroma_is_proven_without_room_for_its_indexes(tmp_path: Path, version: str) -> None:
    folder, said = unpacked(version, tmp_path / "chroma_db")
    judgement = check_folder(folder, None, memory_mb=0)
    assert judgement["records_compared"] == sum(map(len, said.values()))
    assert sorted(judgement["not_indexed"]) == sorted({"usual", "cosine_waiting", "configured"} & said.keys())


@pytest.mark.long
def test_the_records_of_an_older_folder_are_counted(tmp_path: Path, storage: LocalStorage) -> None:
    for version in VERSIONS:
        folder, said = unpacked(version, tmp_path / version)
        found = usage(Source(folder=folder), storage, now=AT)
        assert found.per_collection() == {name: len(rows) for name, rows in said.items()}


@pytest.mark.long
@pytest.mark.parametrize("version", ["0.4.24", "0.5.23"])
def test_an_older_folder_gets_into_a_server_and_back_with_its_distances(
    tmp_path: Path, storage: LocalStorage, version: str
) -> None:
    folder, said = unpacked(version, tmp_path / "chroma_db")
    with serving(tmp_path / "server") as port:
        push_server("127.0.0.1", port, folder, replace=[], stamp="x", dry_run=False)
        server = connect("127.0.0.1", port)
        shown = {model.name: settings_of(model)["space"] for model in server.list_collections()}
        held = held_by(server)
        back = take_snapshot(storage, Source(host="127.0.0.1", port=port), zone=KST, clock=lambda: AT)
    assert shown == {name: SPACES[name] for name in said}
    extract_snapshot(storage, back.manifest, tmp_path / "out")
    assert_same(held_in(tmp_path / "out"), held)
    assert_holds(tmp_path / "out", said)


@pytest.mark.long
def test_a_server_over_an_older_folder_is_read_with_its_distances(tmp_path: Path, storage: LocalStorage) -> None:
    """It shows the usual distance, and measures the one of the metadata."""
    folder, said = unpacked("0.5.23", tmp_path / "chroma_db")
    with serving(folder) as port:
        taken = take_snapshot(storage, Source(host="127.0.0.1", port=port), zone=KST, clock=lambda: AT)
    assert (taken.copied["passes"], taken.copied["records_moving"]) == (2, 0)
    found = {c["name"]: c["configuration"]["space"] for c in taken.collections}
    assert {**found, "renamed_metadata": "cosine"} == {name: SPACES[name] for name in said}


def test_a_manifest_that_leaves_out_what_an_older_folder_does_not_write_is_as_good_as_ever(tmp_path: Path) -> None:
    folder, _ = unpacked("0.4.24", tmp_path / "chroma_db")
    with ChromaFiles(folder) as files:
        now = contents(files)
    before = json.loads(json.dumps(now))
    for collection in before["collections"]:
        collection["configuration"] = {"space": None, "hnsw": {}, "embedding_function": None}
    assert differences(before, now) == []
    before["collections"][0]["configuration"]["hnsw"] = {"ef_search": 7}
    assert len(differences(before, now)) == 1


# --- sound, though it looks odd ----------------------------------------------------------------------------------


def collection_of(
    folder: Path, rows: np.ndarray, *, sync: int = 1000, metadata: dict[str, Any] | None = None, **index: Any
) -> Path:
    server = open_folder(folder)
    configuration = json.dumps({"hnsw": {"space": "cosine", "sync_threshold": sync, **index}})
    server.bindings.create_collection("odd", configuration, None, None, False, TENANT, DATABASE)
    model = server.get_collection("odd")
    for start in range(0, len(rows), 100):
        some = range(start, min(start + 100, len(rows)))
        server._add(
            collection_id=model.id, ids=[f"기록-{n}" for n in some], embeddings=rows[some.start : some.stop].tolist(),
            metadatas=[metadata or {"a": 1} for _ in some], documents=["문서" for _ in some],
        )  # fmt: skip
    close(server)
    return folder


@pytest.mark.parametrize(
    "metadata",
    [{"chroma:x": "v", "b": 1}, {"chroma:": True}, {"chroma:list": ["가"], "b": [1, 2]}, {"chroma:document": "other"}],
)
def test_metadata_that_chroma_keeps_and_never_shows_are_no_difference(
    tmp_path: Path, storage: LocalStorage, metadata: dict[str, Any]
) -> None:
    folder = collection_of(tmp_path / "chroma_db", vectors(10), metadata=metadata)
    snapshot = take(storage, folder)
    assert (snapshot.attempts, snapshot.records) == (1, 10)
    extract_snapshot(storage, snapshot.manifest, tmp_path / "out")
    tables = ("embedding_metadata", "embedding_metadata_array")
    with closing(sqlite3.connect(tmp_path / "out" / "chroma.sqlite3")) as connection:
        asked = [f"SELECT COUNT(*) FROM {table} WHERE key LIKE 'chroma:%'" for table in tables]  # noqa: S608
        assert sum(connection.execute(each).fetchone()[0] for each in asked) >= 10


@pytest.mark.long
@pytest.mark.parametrize("sync", [1000, 10], ids=["waiting", "indexed"])
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-25, 1e-20, 1e-10, 1e10, 1e19, 1e37])
def test_vectors_that_chroma_can_not_normalize_are_no_damage(tmp_path: Path, sync: int, size: float) -> None:
    rows = vectors(30).astype("<f8")
    rows[[0, 3, 29]] *= size
    folder = collection_of(tmp_path / "chroma_db", rows.astype("<f4"), sync=sync)
    for memory_mb in (256, 0):
        assert check_folder(folder, None, memory_mb=memory_mb)["records_compared"] == 30


@pytest.mark.long
def test_an_index_of_few_links_that_finds_few_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).standard_normal((4000, 256)).astype("<f4")
    folder = collection_of(tmp_path / "chroma_db", rows, sync=4000, max_neighbors=3, ef_search=5, ef_construction=5)
    for memory_mb in (256, 0):
        assert check_folder(folder, None, memory_mb=memory_mb)["neighbours_share"] < 0.3
    monkeypatch.setattr("saju_ops.chroma.comparison.WIDER", ())
    with pytest.raises(TornCopy, match=r"the index of odd finds \d+ of 200"):
        check_folder(folder, None, memory_mb=256)


def test_an_index_most_of_whose_elements_were_deleted_is_no_damage(tmp_path: Path) -> None:
    folder = collection_of(tmp_path / "chroma_db", vectors(60), sync=20)
    server = open_folder(folder)
    model = server.get_collection("odd")
    for start in range(0, 60, 20):
        server._delete(model.id, ids=[f"기록-{n}" for n in range(start, start + 20)])
    for n in range(25):
        row = vectors(100)[60 + n : 61 + n].tolist()
        server._add(collection_id=model.id, ids=[f"새-{n}"], embeddings=row, documents=["나"])
    close(server)
    for memory_mb in (256, 0):
        assert check_folder(folder, None, memory_mb=memory_mb)["neighbours_share"] > 0.9


# --- the chatbot's own file is damaged ---------------------------------------------------------------------------


def lose_an_entry(folder: Path, table: str) -> None:
    """Damages an index of the database: it has a row less than the table."""
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        asked = "SELECT rootpage FROM sqlite_master WHERE tbl_name = ? AND name LIKE 'sqlite_autoindex%'"
        (root,) = connection.execute(asked, (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with (folder / "chroma.sqlite3").open("r+b") as file:
        file.seek((root - 1) * size + 3)
        count = int.from_bytes(file.read(2), "big")
        file.seek((root - 1) * size + 3)
        file.write((count - 1).to_bytes(2, "big"))


@pytest.mark.parametrize("table", ["embeddings", "embedding_metadata"])
def test_a_damaged_index_of_the_live_database_is_said_to_be_the_live_one(
    tmp_path: Path, storage: LocalStorage, table: str
) -> None:
    folder = make_folder(tmp_path / "chroma_db", {"interpretation_rules": 40})
    lose_an_entry(folder, table)
    attempts: list[str] = []
    with pytest.raises(ProofFailed) as said:
        take(storage, folder, progress=attempts.append)
    assert str(said.value).startswith(f"{folder}/chroma.sqlite3, which the chatbot uses, is damaged itself (")
    assert "Nothing was stored" in str(said.value)
    assert attempts == [], "another copy would be no better"
    assert [p for p in storage.root.rglob("*") if p.is_file()] == []


def test_a_live_database_that_is_cut_is_said_to_be_damaged(tmp_path: Path, storage: LocalStorage) -> None:
    folder = make_folder(tmp_path / "chroma_db", {"interpretation_rules": 40})
    size = (folder / "chroma.sqlite3").stat().st_size
    os.truncate(folder / "chroma.sqlite3", size // 2)
    with pytest.raises(ProofFailed, match="which the chatbot uses, is damaged itself"):
        take(storage, folder)


# --- holes -------------------------------------------------------------------------------------------------------

HOLE = 64 << 20


def test_holes_of_an_index_stay_holes_and_take_no_memory(tmp_path: Path, storage: LocalStorage) -> None:
    folder = make_folder(tmp_path / "chroma_db", {"saju_knowledge": 250}, sync=100)
    links = next(p for p in folder.glob("*/link_lists.bin") if p.stat().st_size)
    os.truncate(links, HOLE)
    snapshot = take(storage, folder)
    assert snapshot.records == 250
    assert snapshot.copied["bytes"] > HOLE
    assert snapshot.copied["disk_bytes"] < 5 << 20
    extract_snapshot(storage, snapshot.manifest, tmp_path / "out")
    path = tmp_path / "out" / links.relative_to(folder)
    assert path.stat().st_size == HOLE
    twin = Path(shutil.copytree(path.parent, tmp_path / "twin", copy_function=copy_file))
    for copy in (path, twin / path.name):
        assert copy.stat().st_blocks * 512 < 5 << 20
    assert snapshot.manifest.contents == contents_of(tmp_path / "out")


def contents_of(folder: Path) -> dict[str, Any]:
    with ChromaFiles(folder) as files:
        return contents(files)


@pytest.mark.parametrize("name", ["link_lists.bin", "length.bin", "header.bin", "index_metadata.pickle"])
def test_reading_an_index_with_holes_takes_little_memory(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "chroma_db", {"saju_knowledge": 250}, sync=100)
    for path in folder.glob(f"*/{name}"):
        os.truncate(path, 4 << 30)
    code = (
        "import sys; from pathlib import Path\n"
        "from saju_ops.chroma.contents import contents; from saju_ops.chroma.files import ChromaFiles\n"
        "try:\n    with ChromaFiles(Path(sys.argv[1])) as files: contents(files)\n"
        "except Exception as error: print(type(error).__name__)\n"
        # For this program alone: getrusage begins with the memory of the process that started it.
        "(peak,) = (line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    *failed, memory = done.stdout.split()
    assert int(memory) < 256
    assert failed == (["TornCopy"] if name == "header.bin" else [])
