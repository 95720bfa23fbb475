"""A server's records into a folder: whatever changes meanwhile, whatever its size, within the same memory."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from saju_ops import scratch as scratch_folders
from saju_ops.chroma import check as chroma_check
from saju_ops.chroma import comparison, scratch_database
from saju_ops.chroma import fetch as chroma_fetch
from saju_ops.chroma import restore as chroma_restore
from saju_ops.chroma import worker_client as chroma_process
from saju_ops.chroma.contents import contents
from saju_ops.chroma.engine import open_folder
from saju_ops.chroma.fetch import fetch_server, make_indexes
from saju_ops.chroma.files import ChromaFiles
from saju_ops.chroma.floats import nearly
from saju_ops.chroma.live_copy import settle
from saju_ops.chroma.pages import databases, models
from saju_ops.chroma.restore import restore_snapshot
from saju_ops.chroma.server import connect
from saju_ops.chroma.snapshot import Snapshot, Source, drill_snapshot, extract_snapshot, take_snapshot
from saju_ops.errors import OperatorError, TornCopy
from saju_ops.storage.local import LocalStorage
from saju_ops_tests.chroma.scene import (
    DATABASE,
    TENANT,
    Everything,
    add,
    assert_same,
    change,
    close,
    held_by,
    held_in,
    make_collection,
    make_folder,
    serving,
    vectors,
)

pytestmark = pytest.mark.usefixtures("own_scratch")
KST = ZoneInfo("Asia/Seoul")
AT = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)
WHERE = {"tenant": TENANT, "database": DATABASE}
NO_ROOM = 1


def rows_in(folder: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{folder}/chroma.sqlite3?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


# --- what changes while it is read -------------------------------------------------------------------------------


class Between:
    """A server that is changed by `changes`, one before each pass over it but the first."""

    def __init__(self, server: Any, changes: list[Callable[[Any], None]]) -> None:
        self._server, self._changes, self._passes = server, changes, 0

    def list_databases(self, **asked: Any) -> Any:
        if self._passes and self._changes:
            self._changes.pop(0)(self._server)
        self._passes += 1
        return self._server.list_databases(**asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """Chroma's own interface is the same for a folder."""
    made = open_folder(make_folder(tmp_path / "server", {"saju_knowledge": 130, "interpretation_rules": 40}))
    yield made
    close(made)


def fetched(server: Any, monkeypatch: pytest.MonkeyPatch, target: Path, *changes: Any) -> dict[str, Any]:
    monkeypatch.setattr(chroma_fetch, "connect", lambda host, port: Between(server, list(changes)))
    answer = fetch_server("host", 1, target)
    assert_same(held_in(target), held_by(server))
    return answer


def test_a_server_that_rests_is_read_twice(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = fetched(server, monkeypatch, tmp_path / "target")
    assert (answer["passes"], answer["records_moving"], answer["databases"]) == (2, 0, [DATABASE])


def nasty_floats(number: int) -> list[float]:
    """Chroma rounds a fifth of them when it reads its own JSON."""
    random = Random(number)
    kinds = (lambda: random.random(), lambda: random.uniform(-1, 1) * 1e-13, lambda: random.random() * 1e6)
    wide = [random.uniform(-1, 1) * 10.0 ** random.randint(-300, 300) for _ in range(number // 4)]
    return [5e-324, 1.7976931348623157e308, 0.1 + 0.2, *wide, *(kinds[n % 3]() for n in range(number - 3))]


def holds(server: Any, name: str) -> dict[str, tuple[Any, Any]]:
    got = server._get(server.get_collection(name).id, include=["metadatas"], tenant=TENANT, database=DATABASE)
    return {id: (repr(m["one"]), repr(m["many"])) for id, m in zip(got["ids"], got["metadatas"], strict=True)}


@pytest.fixture
def exact(tmp_path: Path) -> Iterator[tuple[Any, dict[str, tuple[Any, Any]]]]:
    """What a server shows that keeps every float, as 0.6.3 does, and what it is to show."""
    folder, floats = tmp_path / "exact", nasty_floats(400)
    made = open_folder(make_folder(folder, {}))
    model = make_collection(made, "floats", "l2", 0)
    made._add(
        collection_id=model.id, ids=[f"f-{n}" for n in range(len(floats))],
        embeddings=vectors(len(floats)).tolist(), tenant=TENANT, database=DATABASE,
        metadatas=[{"one": f, "many": [f, 1.5, f], "n": n} for n, f in enumerate(floats)],
    )  # fmt: skip
    made._count(model.id, tenant=TENANT, database=DATABASE)
    close(made)
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        ids = "SELECT id FROM embeddings WHERE embedding_id = ?"
        for n, value in enumerate(floats):
            for table in ("embedding_metadata", "embedding_metadata_array"):
                connection.execute(
                    f"UPDATE {table} SET float_value = ? WHERE id = ({ids}) AND float_value <> 1.5",  # noqa: S608
                    (value, f"f-{n}"),
                )
        connection.commit()
    server = open_folder(folder)
    wanted = {f"f-{n}": (repr(f), repr([f, 1.5, f])) for n, f in enumerate(floats)}
    assert holds(server, "floats") == wanted
    yield server, wanted
    close(server)


def test_every_float_of_a_server_s_metadata_is_fetched_as_it_is(
    exact: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, wanted = exact

    def changed(server: Any) -> None:
        model = server.get_collection("floats")
        server._update(model.id, ids=["f-1"], metadatas=[{"one": 2.5, "many": [2.5]}])
        server._delete(model.id, ids=["f-2"])

    fetched(server, monkeypatch, tmp_path / "target", changed)
    after = {**wanted, "f-1": ("2.5", "[2.5]")}
    del after["f-2"]
    copy = open_folder(Path(shutil.copytree(tmp_path / "target", tmp_path / "copy")))
    try:
        assert holds(copy, "floats") == after
    finally:
        close(copy)


@pytest.mark.long
def test_a_folder_that_chroma_filled_otherwise_than_the_server_shows_is_thrown_away(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = chroma_fetch.write

    def loses_a_document(local: Any, id: Any, tenant: str, database: str, rows: Any) -> None:
        other = [(n, replace(record, document="다른 문서") if i == 3 else record, v) for i, (n, record, v) in
                 enumerate(rows)]  # fmt: skip
        real(local, id, tenant, database, other)

    monkeypatch.setattr(chroma_fetch, "write", loses_a_document)
    monkeypatch.setattr(chroma_fetch, "connect", lambda host, port: server)
    with pytest.raises(TornCopy, match=r"keeps \d+ records of \w+ in its own folder otherwise"):
        fetch_server("host", 1, tmp_path / "target")


@pytest.mark.long
def test_floats_go_from_a_server_into_another_as_they_are(tmp_path: Path) -> None:
    """What a 1.5 server shows was rounded once; read from JSON again, a share of it would be rounded once more."""
    floats = nasty_floats(1200)
    with serving(tmp_path / "one") as port:
        server = connect("127.0.0.1", port)
        model = make_collection(server, "floats", "l2", 0)
        for start in range(0, len(floats), 100):
            some = floats[start : start + 100]
            server._add(
                collection_id=model.id, ids=[f"f-{start + n}" for n in range(len(some))],
                embeddings=vectors(len(some)).tolist(), metadatas=[{"one": f, "many": [f, f]} for f in some],
                **WHERE,
            )  # fmt: skip
        wanted = holds(server, "floats")
        storage = LocalStorage(tmp_path / "backups")
        take_snapshot(storage, Source(host="127.0.0.1", port=port), zone=KST, clock=lambda: AT)
    with serving(tmp_path / "two") as port:
        plan = restore_snapshot(storage, Source(host="127.0.0.1", port=port), dry_run=False, zone=KST)
        assert holds(connect("127.0.0.1", port), "floats") == wanted
        assert plan.floats_rounded == 0


@pytest.mark.long
def test_a_float_that_a_server_cannot_keep_is_the_nearest_and_counted(
    exact: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, wanted = exact
    storage = LocalStorage(tmp_path / "backups")
    take_snapshot(storage, Source(folder=tmp_path / "exact"), zone=KST, clock=lambda: AT)
    with serving(tmp_path / "two") as port:
        plan = restore_snapshot(storage, Source(host="127.0.0.1", port=port), dry_run=False, zone=KST)
        shown = holds(connect("127.0.0.1", port), "floats")
    assert shown.keys() == wanted.keys()
    off = {id for id in wanted if shown[id][0] != wanted[id][0]}
    assert 0 < len(off) < len(wanted) / 3
    assert all(nearly(float(shown[id][0]), float(wanted[id][0])) for id in off)
    assert plan.floats_rounded >= len(off)
    assert any(f"{plan.floats_rounded:,} floats of metadata are rounded" in s for s in plan.sentences())


@pytest.mark.long
def test_what_changed_between_passes_is_followed(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def records(server: Any) -> None:
        model = server.get_collection("saju_knowledge")
        add(server, model, range(130, 190))
        server._update(model.id, ids=["기록-12"], metadatas=[{"importance": None, "new": 1}])
        server._update(model.id, ids=["기록-13"], embeddings=vectors(1, seed=8).tolist())
        server._delete(model.id, ids=[f"기록-{n}" for n in range(20, 90)])

    def collections(server: Any) -> None:
        server.delete_collection("interpretation_rules")
        make_collection(server, "interpretation_rules", "cosine", 25)
        make_collection(server, "late", "ip", 15)
        server._delete(server.get_collection("saju_knowledge").id, ids=["기록-100"])

    def gone(server: Any) -> None:
        server.delete_collection("late")
        change(server, server.get_collection("interpretation_rules"))

    answer = fetched(server, monkeypatch, tmp_path / "target", records, collections, gone)
    assert (answer["passes"], answer["records_moving"]) == (5, 0)
    # What belongs to none of its collections any more is not in it.
    topics = rows_in(tmp_path / "target", "SELECT DISTINCT topic FROM embeddings_queue")
    assert {t.rpartition("/")[2] for (t,) in topics} <= {
        i for (i,) in rows_in(tmp_path / "target", "SELECT id FROM collections")
    }


def test_a_server_that_never_rests_gives_what_the_last_pass_saw(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def more(server: Any) -> None:
        model = server.get_collection("saju_knowledge")
        count = server._count(model.id)
        add(server, model, range(count + 100, count + 107))

    answer = fetched(server, monkeypatch, tmp_path / "target", *[more] * 9)
    assert (answer["passes"], answer["records_moving"]) == (5, 7)


def test_a_record_that_a_deletion_moved_past_the_pages_is_not_lost(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While pages are read, records before them go, so that one behind them is skipped; and it changes, too."""
    monkeypatch.setattr(chroma_fetch, "FIRST_PAGE", 10)
    monkeypatch.setattr(chroma_fetch, "REMOTE_PAGE", 10)
    pages, reads = chroma_fetch._pages, []

    def torn(server: Any, model: Any, database: str) -> Iterator[Any]:
        reads.append(model.name)
        shown = [row for page in pages(server, model, database) for row in page]
        if reads.count("saju_knowledge") == 2 and model.name == "saju_knowledge":
            server._update(model.id, ids=[shown[31][0]], documents=["지나간 문서"])
            shown = shown[:30] + shown[35:]
        yield shown

    monkeypatch.setattr(chroma_fetch, "_pages", torn)
    answer = fetched(server, monkeypatch, tmp_path / "target")
    assert (answer["passes"], answer["records_moving"]) == (3, 0)


def test_pages_are_as_large_as_their_records_allow(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chroma_fetch, "REMOTE_BYTES", chroma_fetch.REMOTE_BYTES // 20)
    model = make_collection(server, "large", "l2", 120)
    server._update(model.id, ids=[f"기록-{n}" for n in range(120)], documents=["가" * 5_000] * 120)
    asked: list[tuple[str, int]] = []

    class Noted(Between):
        def get(self, id: Any, **more: Any) -> Any:
            got = self._server.get(id, **more)
            asked.append(("large" if id == model.id else "other", len(got["ids"])))
            return got

    for name in ("large", "saju_knowledge"):
        of = next(m for t, d in databases(server, [TENANT]) for m in models(server, t, d) if m.name == name)
        shown = [row[0] for page in chroma_fetch._pages(Noted(server, []), of, DATABASE) for row in page]
        assert len(shown) == len(set(shown)) == server._count(of.id)
    assert [n for name, n in asked if name == "large"] == [20, *[10] * 10, 0]
    assert [n for name, n in asked if name == "other"] == [20, 110]


# --- the folder --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_folder_is_as_chroma_leaves_one_before_it_makes_an_index(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    fetched(server, monkeypatch, target)
    assert [p.name for p in target.iterdir()] == ["chroma.sqlite3"]
    assert rows_in(target, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'saju%'") == []
    (config,) = rows_in(target, "SELECT config_json_str FROM embeddings_queue_config")
    assert json.loads(config[0])["automatically_purge"] is True
    vector = "SELECT id FROM segments WHERE scope = 'VECTOR'"
    assert rows_in(target, f"SELECT * FROM max_seq_id WHERE segment_id IN ({vector})") == []  # noqa: S608
    # Texts stand in the tables and not twice.
    assert rows_in(target, "SELECT COUNT(*) FROM embeddings_queue WHERE metadata IS NOT NULL") == [(0,)]
    with ChromaFiles(target) as files:
        assert all(files.vectors(c).waiting > 10 for c in files.collections() if c.name != "empty_one")


def test_an_index_is_made_of_what_has_room_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = open_folder(tmp_path / "server")
    for name, count in (("large", 300), ("small", 150), ("waiting", 60)):
        make_collection(server, name, "cosine", count, sync=100)
    target = tmp_path / "target"
    fetched(server, monkeypatch, target)
    close(server)
    with ChromaFiles(target) as files:
        before = contents(files)
        needed = {c.name: chroma_fetch.memory_of(files, c, files.vectors(c)) for c in files.collections()}
    assert needed["small"] < needed["large"]
    monkeypatch.setattr(
        chroma_fetch, "memory_of", lambda files, c, v: needed[c.name] - needed["large"] + (1 << 20) + 1
    )  # fmt: skip
    make_indexes(target, 1)
    with ChromaFiles(target) as files:
        made = {c.name: files.vectors(c) for c in files.collections()}
        assert {name: v.indexed for name, v in made.items()} == {"large": False, "small": True, "waiting": False}
        assert made["small"].waiting < 100
        # Normalized for the index and multiplied again: the same to a millionth.
        after = contents(files)["collections"]
    kept = [{k: v for k, v in c.items() if k != "vectors_digest"} for c in before["collections"]]
    assert [{k: v for k, v in c.items() if k != "vectors_digest"} for c in after] == kept


def test_what_chroma_was_ended_in_is_taken_back(tmp_path: Path) -> None:
    """As if a process was killed while it empties the queue: its journal is beside the database."""
    folder = make_folder(tmp_path / "chroma_db", {"saju_knowledge": 130})
    with ChromaFiles(folder) as files:
        before = contents(files)
    code = (
        "import sqlite3, sys, os; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN'); c.execute('DELETE FROM embeddings_queue');"
        "c.execute('DELETE FROM embedding_metadata'); c.execute('CREATE TABLE filler AS SELECT zeroblob(200000) AS b');"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "chroma.sqlite3")], check=True)
    assert (folder / "chroma.sqlite3-journal").exists()
    settle(folder)
    assert not (folder / "chroma.sqlite3-journal").exists()
    with ChromaFiles(folder) as files:
        assert contents(files) == before


# --- collections whose index does not fit into memory ---------------------------------------------------------


@pytest.fixture(scope="module")
def without_room(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStorage, Snapshot, Everything]:
    folder = make_folder(
        tmp_path_factory.mktemp("server") / "chroma_db", {"saju_knowledge": 350, "fortune_patterns": 130}, sync=100
    )
    storage = LocalStorage(tmp_path_factory.mktemp("backups"))
    with serving(folder) as port:
        source = Source(host="127.0.0.1", port=port)
        taken = take_snapshot(storage, source, zone=KST, clock=lambda: AT, memory_mb=NO_ROOM)
        return storage, taken, held_by(connect("127.0.0.1", port))


WithoutRoom = tuple[LocalStorage, Snapshot, Everything]


def neighbours_of(folder: Path, name: str, number: int) -> list[str]:
    server = open_folder(folder)
    try:
        model = server.get_collection(name)
        vector = server._get(model.id, ids=[f"기록-{number}"], include=["embeddings"])["embeddings"]
        return list(server._query(model.id, query_embeddings=[list(map(float, vector[0]))], n_results=3)["ids"][0])
    finally:
        close(server)


def test_its_snapshot_says_so_and_is_proven_with_any_memory(without_room: WithoutRoom) -> None:
    storage, taken, _ = without_room
    proof = taken.manifest.proof
    assert proof["not_indexed"] == ["fortune_patterns", "saju_knowledge"]
    assert (proof["neighbours_looked_for"], proof["neighbours_found"], proof["neighbours_share"]) == (0, 0, 1.0)
    assert proof["records_compared"] == taken.records == 480
    by_chroma = drill_snapshot(storage, taken.manifest, memory_mb=256)
    assert (by_chroma["not_indexed"], by_chroma["neighbours_looked_for"]) == ([], 400)
    assert by_chroma["neighbours_share"] > 0.9
    assert drill_snapshot(storage, taken.manifest, memory_mb=NO_ROOM)["not_indexed"] == proof["not_indexed"]


def room_for(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """With 1 MB allowed, Chroma may make an index of so many vectors of 16 dimensions."""
    one = 8 * 16 + 8 * 16 + chroma_check.FOR_IDS * chroma_check.USUAL_ID
    monkeypatch.setattr(chroma_check, "BESIDE_AN_INDEX", (1 << 20) - count * one)


def test_chroma_makes_an_index_of_as_many_as_have_room_and_finds_neighbours_among_them(
    without_room: WithoutRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, taken, _ = without_room
    extract_snapshot(storage, taken.manifest, tmp_path / "out")
    room_for(monkeypatch, 150)
    answer = chroma_check.check_folder(tmp_path / "out", taken.manifest.contents, memory_mb=1)
    assert (answer["not_indexed"], answer["searched_in_files"]) == (["saju_knowledge"], ["saju_knowledge"])
    assert (answer["neighbours_looked_for"], answer["records_compared"]) == (400, 480)
    assert answer["neighbours_share"] > 0.9
    monkeypatch.setattr(comparison, "THEMSELVES_AT_LEAST", 1.01)
    with pytest.raises(TornCopy, match="vectors themselves only"):
        chroma_check.check_folder(tmp_path / "out", taken.manifest.contents, memory_mb=1)


def test_an_index_of_others_than_the_files_hold_is_found(
    without_room: WithoutRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma is handed other vectors than the files hold: what it finds near is not what is near."""
    storage, taken, _ = without_room
    extract_snapshot(storage, taken.manifest, tmp_path / "out")
    twin = tmp_path / "twin"
    subprocess.run(["cp", "-r", str(tmp_path / "out"), str(twin)], check=True)
    with closing(sqlite3.connect(twin / "chroma.sqlite3")) as connection, connection:
        mine = "topic LIKE '%' || (SELECT id FROM collections WHERE name = 'saju_knowledge')"
        rows = connection.execute(f"SELECT seq_id, vector FROM embeddings_queue WHERE {mine}").fetchall()  # noqa: S608
        moved = [(rows[n - 100][1], number) for n, (number, _) in enumerate(rows)]
        connection.executemany("UPDATE embeddings_queue SET vector = ? WHERE seq_id = ?", moved)
    room_for(monkeypatch, 150)
    with pytest.raises(TornCopy, match=r"the index of \w+ finds \d+ of 200 nearest neighbours"):
        chroma_check.judged(tmp_path / "out", twin, memory_mb=1)


def test_changes_that_wait_are_in_the_index_of_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose chatbot has its index written every 10,000 records: updates, deletions, and records added anew."""
    folder = make_folder(tmp_path / "chroma_db", {"saju_knowledge": 140, "fortune_patterns": 90}, sync=10_000)
    room_for(monkeypatch, 80)
    answer = chroma_check.check_folder(folder, None, memory_mb=1)
    assert sorted(answer["not_indexed"]) == ["fortune_patterns", "saju_knowledge"]
    assert answer["neighbours_looked_for"] == 400
    assert answer["neighbours_share"] > 0.9


def test_chroma_makes_the_index_of_what_was_extracted_when_it_opens_it(
    without_room: WithoutRoom, tmp_path: Path
) -> None:
    storage, taken, shown = without_room
    extract_snapshot(storage, taken.manifest, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "chroma.sqlite3"]
    assert_same(held_in(tmp_path / "out"), shown)
    assert neighbours_of(tmp_path / "out", "saju_knowledge", 7)[0] == "기록-7"
    assert len(list((tmp_path / "out").glob("*/data_level0.bin"))) == 1, "of the one that was asked for anything"


def test_a_restore_makes_the_index_before_the_folder_is_in_its_place(without_room: WithoutRoom, tmp_path: Path) -> None:
    storage, _, shown = without_room
    target = Source(folder=tmp_path / "target")
    dry = restore_snapshot(storage, target, zone=KST, memory_mb=NO_ROOM)
    assert "holds no index of fortune_patterns, saju_knowledge: Chroma would make it" in " ".join(dry.sentences())
    plan = restore_snapshot(storage, target, zone=KST, dry_run=False, memory_mb=NO_ROOM)
    assert not plan.index_failed
    assert len(list((tmp_path / "target").glob("*/data_level0.bin"))) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["target", "tmp"]
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "target").rglob("*") if p.is_file()} == {0o600}
    assert_same(held_in(tmp_path / "target"), shown)
    assert neighbours_of(tmp_path / "target", "saju_knowledge", 7)[0] == "기록-7"


def test_a_restore_whose_index_can_not_be_made_leaves_it_to_chroma(
    without_room: WithoutRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that has not the memory: the process that makes it is killed halfway."""
    ask = chroma_restore.ask

    def killed(task: str, scratch: Path, **request: Any) -> Any:
        answer = ask(task, scratch, **request)
        if task == "complete":
            next(Path(request["twin"]).glob("*/data_level0.bin")).write_bytes(b"half")
            raise TornCopy("the process that opened it by Chroma ended with SIGKILL")
        return answer

    monkeypatch.setattr(chroma_restore, "ask", killed)
    storage, _, shown = without_room
    plan = restore_snapshot(
        storage, Source(folder=tmp_path / "target"), zone=KST, dry_run=False, memory_mb=NO_ROOM
    )  # fmt: skip
    assert plan.index_failed
    assert "could not be made: Chroma makes it when the collection is first used" in " ".join(plan.sentences())
    assert_same(held_in(tmp_path / "target"), shown)
    assert neighbours_of(tmp_path / "target", "saju_knowledge", 7)[0] == "기록-7"


@pytest.mark.long
def test_a_restore_into_a_server_needs_no_index(without_room: WithoutRoom, tmp_path: Path) -> None:
    storage, _, shown = without_room
    with serving(tmp_path / "other") as port:
        plan = restore_snapshot(
            storage, Source(host="127.0.0.1", port=port), zone=KST, dry_run=False, memory_mb=NO_ROOM
        )  # fmt: skip
        assert_same(held_by(connect("127.0.0.1", port)), shown)
    assert plan.about_indexes() == []


@pytest.mark.long
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_vector_that_is_not_in_the_queue_as_it_was_is_found(
    without_room: WithoutRoom, tmp_path: Path, damage: str
) -> None:
    storage, taken, _ = without_room
    extract_snapshot(storage, taken.manifest, tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out" / "chroma.sqlite3")) as connection, connection:
        (number,) = connection.execute("SELECT seq_id FROM embeddings_queue WHERE id = '기록-77'").fetchone()
        done = {
            "gone": "DELETE FROM embeddings_queue WHERE seq_id = ?",
            "cut": "UPDATE embeddings_queue SET vector = SUBSTR(vector, 1, 60) WHERE seq_id = ?",
            "other": "UPDATE embeddings_queue SET vector = ZEROBLOB(64) WHERE seq_id = ?",
        }
        connection.execute(done[damage], (number,))
    said = {"gone": "has no vector", "cut": "that waits in the queue has 15 dimensions", "other": "digest of vectors"}
    with pytest.raises(TornCopy, match=said[damage]):
        chroma_process.ask(
            "check", tmp_path, folder=str(tmp_path / "out"), expected=taken.manifest.contents, memory_mb=NO_ROOM
        )  # fmt: skip


# --- memory ------------------------------------------------------------------------------------------------------

PEAK = """
import json, sys
sys.argv = ["chroma_worker"]
from saju_ops.chroma import worker as chroma_worker
request = json.loads(sys.stdin.read())
chroma_worker.TASKS[request["task"]](request)
# For this program alone: getrusage begins with the memory of the process that started it.
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) >> 10)
"""


def peak_of(task: str, **request: Any) -> int:
    """MB."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK], input=json.dumps({"task": task, **request}), capture_output=True, text=True,
        check=True, env=chroma_process._environment(),
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.long
def test_fetching_proving_and_pushing_take_the_same_memory_for_many_vectors_as_for_few(tmp_path: Path) -> None:
    """7,000 of 1,024 dimensions more: they themselves, and an index of them, are 30 MB each."""
    peaks: dict[str, list[int]] = {"fetch": [], "judge": [], "read": [], "push": []}
    for count in (2000, 9000):
        work = tmp_path / str(count)
        work.mkdir()
        with serving(work / "server") as port:
            server = connect("127.0.0.1", port)
            model = make_collection(server, "many", "l2", 0)
            for start in range(0, count, 500):
                given = vectors(500, 1024, seed=start).astype(np.float32)
                server._add(
                    collection_id=model.id, ids=[f"{n}" for n in range(start, start + 500)],
                    embeddings=given.tolist(), documents=["문서"] * 500,
                )  # fmt: skip
            where = {"host": "127.0.0.1", "port": port}
            folder = str(work / "copy")
            peaks["fetch"].append(peak_of("fetch", **where, target=folder))
            peaks["read"].append(peak_of("read", folder=folder))
            with scratch_folders.scratch_folder() as scratch:
                twin = scratch / "twin"
                subprocess.run(["cp", "-r", folder, str(twin)], check=True)
                peaks["judge"].append(peak_of("judge", folder=folder, twin=str(twin), memory_mb=NO_ROOM))
            server._modify(model.id, new_name="older")
            peaks["push"].append(peak_of("push", **where, folder=folder, replace=[], stamp="x", dry_run=False))
            assert server._count(server.get_collection("many").id) == count
    for task, (few, many) in peaks.items():
        assert many < 200, peaks
        assert many - few < 25, (task, peaks)


@pytest.mark.long
def test_long_texts_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """300 of 100,000 characters: 90 MB in the file, 60 MB in Python, and both in Chroma, which takes minutes to store
    such texts itself."""
    folder = tmp_path / "chroma_db"
    made = open_folder(folder)
    make_collection(made, "long", "l2", 300)
    close(made)
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection, connection:
        connection.execute(
            "UPDATE embedding_metadata SET string_value = id || ?1 WHERE key = 'category'"
            " OR (key = 'chroma:document' AND id NOT IN (SELECT id FROM embedding_metadata WHERE key = 'category'))",
            ("가" * 100_000,),
        )
    assert (folder / "chroma.sqlite3").stat().st_size > 80_000_000
    assert peak_of("read", folder=str(folder)) < 100
    twin = tmp_path / "twin"
    subprocess.run(["cp", "-r", str(folder), str(twin)], check=True)
    assert peak_of("judge", folder=str(folder), twin=str(twin), memory_mb=256) < 150


def test_a_full_temporary_folder_ends_a_fetch_in_a_sentence(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def small(*given: Any, **more: Any) -> sqlite3.Connection:
        connection = connect_really(*given, **more)
        if given == ("",):
            connection.execute("PRAGMA max_page_count = 2")
        return connection

    connect_really = sqlite3.connect
    monkeypatch.setattr(scratch_database.sqlite3, "connect", small)
    full = r"The (ids of a server's records|floats of a server's metadata) can't be kept in .*full.*TMPDIR"
    with pytest.raises(OperatorError, match=full):
        fetched(server, monkeypatch, tmp_path / "target")
