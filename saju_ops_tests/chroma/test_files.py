"""A Chroma folder read without Chroma says what Chroma says; a torn one is found."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saju_ops.chroma import check as chroma_check
from saju_ops.chroma import comparison, scratch_database
from saju_ops.chroma import engine as chroma_engine
from saju_ops.chroma import index as chroma_index
from saju_ops.chroma import names as chroma_names
from saju_ops.chroma import pages as chroma_pages
from saju_ops.chroma.contents import contents, differences
from saju_ops.chroma.engine import open_folder
from saju_ops.chroma.files import ChromaFiles
from saju_ops.chroma.pages import databases, models, pages, shown_configuration
from saju_ops.chroma.vectors import distances
from saju_ops.errors import OperatorError, TornCopy
from saju_ops_tests.chroma.scene import (
    SPACES,
    add,
    change,
    close,
    held_in,
    make_collection,
    make_folder,
    serving,
)

# MB: room for every index of these tests, and for none.
ROOM, NO_ROOM = 256, 0
COUNTS = {"saju_knowledge": 250, "interpretation_rules": 120, "fortune_patterns": 40}


def check_folder(
    folder: Path, expected: dict[str, Any] | None, twin: Path | None = None, memory_mb: int = ROOM
) -> dict[str, Any]:
    return chroma_check.check_folder(folder, expected, twin=twin, memory_mb=memory_mb)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index files of several ages, and a queue that is not empty."""
    return make_folder(tmp_path_factory.mktemp("made") / "chroma_db", COUNTS, sync=100)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "chroma_db"))


def index_of(folder: Path, name: str) -> Path:
    with ChromaFiles(folder) as files:
        (segment,) = (c.vector_segment for c in files.collections() if c.name == name)
    return folder / segment


def test_every_value_is_what_chroma_itself_says(folder: Path) -> None:
    said = held_in(folder)
    with ChromaFiles(folder) as files:
        assert {c.name for c in files.collections()} == {name for _, name in said}
        for collection in files.collections():
            _, configuration, rows = said["default_database", collection.name]
            assert collection.space == configuration["space"]
            vectors, seen = files.vectors(collection), 0
            for id, record in files.records(collection):
                seen += 1
                document, uri, metadata, vector = rows[id]
                assert (record.document, record.uri, record.metadata) == (document, uri, metadata), id
                assert np.allclose(vectors.of([id])[0], vector, rtol=1e-5, atol=1e-6), id
            assert seen == len(rows) == len(vectors)


def test_both_the_index_files_and_the_queue_are_read(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        (waiting,) = connection.execute("SELECT COUNT(*) FROM embeddings_queue").fetchone()
    assert 0 < waiting < sum(COUNTS.values())
    assert (index_of(folder, "saju_knowledge") / "data_level0.bin").is_file()


@pytest.mark.parametrize("space", SPACES.values())
def test_what_still_waits_in_the_queue_counts_as_chroma_will_count_it(tmp_path: Path, space: str) -> None:
    """As a writer leaves it that was killed after the acknowledgement."""
    server = open_folder(tmp_path / "chroma_db")
    change(server, make_collection(server, "waiting", space, 30))
    close(server)
    with closing(sqlite3.connect(tmp_path / "chroma_db" / "chroma.sqlite3")) as connection:
        for table in ("embedding_metadata", "embedding_metadata_array", "embeddings", "max_seq_id"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608
        connection.execute("DELETE FROM embedding_fulltext_search")
        connection.commit()
    judgement = check_folder(tmp_path / "chroma_db", None)
    assert judgement["records_compared"] == 30 + 1 - 1
    assert judgement["neighbours_share"] > 0.9


def test_reading_changes_nothing(folder: Path) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    check_folder(folder, None)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_check_counts_every_record_and_looks_for_neighbours(folder: Path) -> None:
    judgement = check_folder(folder, None)
    assert judgement["records_compared"] == sum(c["count"] for c in judgement["contents"]["collections"])
    assert judgement["neighbours_looked_for"] == 3 * 20 * 10
    assert judgement["neighbours_share"] > 0.9


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def tear(index: Path) -> None:
        data = (index / name).read_bytes()
        (index / name).write_bytes(data[: int(len(data) * keep)])

    return tear


def gone(name: str) -> Callable[[Path], None]:
    return lambda index: (index / name).unlink()


def overwritten(name: str, start: float, byte: bytes = b"\xff") -> Callable[[Path], None]:
    def tear(index: Path) -> None:
        data = bytearray((index / name).read_bytes())
        at = int(len(data) * start)
        data[at : at + 400] = byte * len(data[at : at + 400])
        (index / name).write_bytes(data)

    return tear


TORN = {
    "data cut": cut("data_level0.bin", 0.7),
    "data cut in an element": cut("data_level0.bin", 0.999),
    "data empty": cut("data_level0.bin", 0),
    "data half written": overwritten("data_level0.bin", 0.5, b"\0"),
    "data with other links": overwritten("data_level0.bin", 0.3),
    "header cut": cut("header.bin", 0.9),
    "header of zeros": overwritten("header.bin", 0, b"\0"),
    "lengths cut": cut("length.bin", 0.5),
    "upper links cut": cut("link_lists.bin", 0.5),
    "names cut": cut("index_metadata.pickle", 0.8),
    "no names": gone("index_metadata.pickle"),
    "no header": gone("header.bin"),
    "no data": gone("data_level0.bin"),
    "no upper links": gone("link_lists.bin"),
}


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN.keys())
def test_a_torn_index_is_found(folder: Path, tear: Callable[[Path], None]) -> None:
    tear(index_of(folder, "saju_knowledge"))
    with ChromaFiles(folder) as files, pytest.raises(TornCopy, match="saju_knowledge"):
        contents(files)


def test_a_changed_vector_is_found_even_where_nothing_else_shows_it(folder: Path) -> None:
    with ChromaFiles(folder) as files:
        before = contents(files)
    path = index_of(folder, "interpretation_rules") / "data_level0.bin"
    data = bytearray(path.read_bytes())
    # Behind 33 words of links and 16 numbers comes the label: every vector's first number.
    for at in range(4 * 33, len(data), 4 * 33 + 4 * 16 + 8):
        data[at] ^= 1
    path.write_bytes(data)
    with ChromaFiles(folder) as files:
        assert differences(before, contents(files)) == ["the digest of vectors of interpretation_rules differs"]
    with pytest.raises(TornCopy, match="digest of vectors"):
        check_folder(folder, before)


def test_index_and_database_of_different_ages_are_found(tmp_path: Path) -> None:
    """An index of yesterday beside a database whose queue was emptied since."""
    folder = make_folder(tmp_path / "chroma_db", {"saju_knowledge": 100}, sync=100, changed=False)
    index = index_of(folder, "saju_knowledge")
    shutil.copytree(index, tmp_path / "old")
    server = open_folder(folder)
    add(server, server.get_collection("saju_knowledge"), range(100, 400))
    close(server)
    shutil.rmtree(index)
    shutil.copytree(tmp_path / "old", index)
    with pytest.raises(TornCopy, match="no vector"):
        check_folder(folder, None)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_cut_database_file_is_found(folder: Path, keep: float) -> None:
    cut("chroma.sqlite3", keep)(folder)
    with pytest.raises(TornCopy, match=r"chroma\.sqlite3"), ChromaFiles(folder) as files:
        contents(files)


def test_a_pickle_that_would_run_code_is_refused(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return (Path.touch, (Path("ran"),))

    (index_of(folder, "saju_knowledge") / "index_metadata.pickle").write_bytes(pickle.dumps(Evil()))
    with ChromaFiles(folder) as files, pytest.raises(TornCopy):
        contents(files)
    assert not Path("ran").exists()


def test_differences_name_collections_and_never_a_record(folder: Path) -> None:
    with ChromaFiles(folder) as files:
        before = contents(files)
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        connection.execute("UPDATE embedding_metadata SET string_value = '비밀' WHERE key = 'category' AND id = 1")
        connection.execute("UPDATE collections SET name = 'renamed' WHERE name = 'fortune_patterns'")
        connection.commit()
    with ChromaFiles(folder) as files:
        said = differences(before, contents(files))
    assert len(said) == 3
    assert "the collection fortune_patterns is missing" in said
    assert "비밀" not in " ".join(said)


# --- what Chroma gives, compared with the files ------------------------------------------------------------------


def twin_of(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("twin")))


def contents_of(folder: Path) -> dict[str, object]:
    with ChromaFiles(folder) as files:
        return contents(files)


@pytest.mark.parametrize("tried", [chroma_engine.TRIED, ()], ids=["engine", "client"])
def test_chroma_opens_the_twin_and_leaves_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tried: tuple[str, ...]
) -> None:
    monkeypatch.setattr(chroma_engine, "TRIED", tried)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    twin, wanted = twin_of(folder), contents_of(folder)
    judgement = check_folder(folder, wanted, twin=twin)
    assert judgement["contents"] == wanted
    assert not twin.exists()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_engine_alone_gives_what_the_client_gives(folder: Path) -> None:
    def given(server: Any) -> list[Any]:
        answers: list[Any] = [list(databases(server, ["default_tenant"]))]
        for shown in models(server, "default_tenant", "default_database"):
            model = server.get_collection(shown.name, tenant="default_tenant", database="default_database")
            where = {"tenant": "default_tenant", "database": "default_database"}
            answers += [{n: getattr(m, n) for n in ("id", "name", "metadata", "dimension")} for m in (shown, model)]
            answers += [shown_configuration(shown), shown_configuration(model), server.count(model.id, **where)]
            answers.append(server.get(model.id, limit=7, offset=3, include=[], **where)["ids"])
            asked = server.get(model.id, limit=2, offset=0, include=["embeddings"], **where)["embeddings"]
            answers += [asked, rows(server, model)]
            answers.append(server.query(model.id, query_embeddings=asked, n_results=5, include=["distances"], **where))
            answers[-1] = {name: answers[-1][name] for name in ("ids", "distances")}
        return answers

    def rows(server: Any, model: Any) -> list[Any]:
        with closing(pages(server, model, "default_tenant", "default_database")) as coming:
            return [(id, record, vector.tolist()) for page in coming for id, record, vector in page]

    with chroma_engine.opened(twin_of(folder)) as engine:
        assert isinstance(engine, chroma_engine.Engine), "of this version of Chroma the client is used"
        by_engine = given(engine)
    shutil.rmtree(folder.with_name("twin"))
    client = open_folder(twin_of(folder))
    assert by_engine == given(client)
    close(client)
    assert len(by_engine) > 10


def test_no_client_is_imported_to_open_a_folder(folder: Path) -> None:
    """It would take half a second and 60 MB of the process that opens a snapshot."""
    code = (
        "import sys; from pathlib import Path; from saju_ops.chroma import check, engine;"
        "engine.warm(); check.check_folder(Path(sys.argv[1]), None, memory_mb=256);"
        "print('chromadb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.long
def test_no_embedding_model_is_loaded_by_any_task(folder: Path, tmp_path: Path) -> None:
    """The collections name one, which is not installed here; Chroma's own would be run by onnxruntime."""
    code = (
        "import json, sys; sys.argv = ['chroma_worker']; from saju_ops.chroma import worker as chroma_worker;"
        "asked = json.loads(sys.stdin.read());"
        "[chroma_worker.TASKS[task](request) for task, request in asked];"
        "print([m for m in ('onnxruntime', 'tokenizers', 'sentence_transformers', 'torch') if m in sys.modules])"
    )
    copy = str(tmp_path / "copy")
    with serving(folder) as port, serving(tmp_path / "empty") as other:
        where = {"host": "127.0.0.1", "port": port}
        tasks = [
            ("fetch", {**where, "target": copy}), ("read", {"folder": copy}),
            ("check", {"folder": copy, "expected": None, "memory_mb": 256}),
            ("push", {**where, "port": other, "folder": copy, "replace": [], "stamp": "x", "dry_run": False}),
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(tasks), capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "[]"


def test_a_folder_without_the_usual_tenant_is_not_opened(folder: Path) -> None:
    """As by a client, which the chatbot is."""
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        connection.execute("DELETE FROM tenants")
        connection.commit()
    with pytest.raises(Exception, match="tenant"), chroma_engine.opened(folder):
        pass


def test_vectors_are_packed_as_numpy_reads_them() -> None:
    given = [[0.1, -2.5, float(np.float32(1e-45))], [float("inf"), float("-inf"), 3.0]]
    given = np.asarray(given, "<f4").tolist()
    assert chroma_pages._matrix(given).tobytes() == np.asarray(given, "<f4").tobytes()
    assert np.isnan(chroma_pages._matrix([[float("nan")]])).all()
    # What is no list of equal lists of numbers is left to numpy, whatever it says.
    with np.errstate(over="ignore"):
        assert chroma_pages._matrix([[1e300]]).tolist() == [[float("inf")]]
    assert chroma_pages._matrix([[], []]).shape == (2, 0)
    with pytest.raises(ValueError, match="inhomogeneous"):
        chroma_pages._matrix([[1.0, 2.0], [1.0]])


@pytest.mark.parametrize("key", ["category", "chroma:document"])
def test_a_record_that_chroma_gives_otherwise_is_found(folder: Path, key: str) -> None:
    twin = twin_of(folder)
    with closing(sqlite3.connect(twin / "chroma.sqlite3")) as connection:
        changed = connection.execute(
            "UPDATE embedding_metadata SET string_value = '비밀' WHERE key = ?"
            " AND id = (SELECT MIN(id) FROM embeddings)",
            (key,),
        )
        assert changed.rowcount == 1
        connection.commit()
    with pytest.raises(TornCopy, match=r"digest of ids, documents and metadata of .* differs") as said:
        check_folder(folder, contents_of(folder), twin=twin)
    assert "비밀" not in str(said.value)


def test_a_record_that_chroma_lacks_is_found(folder: Path) -> None:
    twin = twin_of(folder)
    server = open_folder(twin)
    model = server.get_collection("saju_knowledge")
    gone = server.get(model.id, limit=1, include=[])["ids"]
    server._delete(model.id, ids=gone)
    close(server)
    with pytest.raises(TornCopy, match="count of saju_knowledge"):
        check_folder(folder, contents_of(folder), twin=twin)


@pytest.mark.parametrize("name", ["saju_knowledge", "interpretation_rules", "fortune_patterns"])
def test_a_vector_that_chroma_gives_otherwise_is_found(tmp_path: Path, name: str) -> None:
    """In each distance: a single number of a single vector in the index that Chroma opens."""
    folder = make_folder(tmp_path / "chroma_db", {name: 100}, sync=100, changed=False)
    twin = twin_of(folder)
    path = index_of(twin, name) / "data_level0.bin"
    data = bytearray(path.read_bytes())
    at = 4 * 33 + 4 * 5 + 2
    data[at] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(TornCopy, match=f"a vector of {name} that differs"):
        check_folder(folder, contents_of(folder), twin=twin)


def test_a_collection_that_only_one_of_both_has_is_found(folder: Path) -> None:
    twin = twin_of(folder)
    server = open_folder(twin)
    server.delete_collection("fortune_patterns")
    close(server)
    with pytest.raises(TornCopy, match="other collections"):
        check_folder(folder, contents_of(folder), twin=twin)


# --- an index that takes more memory than is allowed -------------------------------------------------------------


def test_an_index_that_is_searched_in_its_files_is_judged_alike(folder: Path) -> None:
    """Changed and deleted records, all three distances, some of the vectors still in the queue."""
    by_chroma, in_files = check_folder(folder, None), check_folder(folder, None, memory_mb=NO_ROOM)
    assert by_chroma.pop("searched_in_files") == []
    assert sorted(in_files.pop("searched_in_files")) == sorted(c["name"] for c in by_chroma["contents"]["collections"])
    assert in_files.pop("contents") == by_chroma.pop("contents")
    # One has no index yet; Chroma makes it when it opens it.
    assert (by_chroma.pop("not_indexed"), in_files.pop("not_indexed")) == ([], ["fortune_patterns"])
    assert (by_chroma.pop("neighbours_looked_for"), in_files.pop("neighbours_looked_for")) == (3 * 200, 2 * 200)
    assert by_chroma.pop("neighbours_found") == by_chroma["neighbours_share"] * 3 * 200
    assert in_files.pop("neighbours_found") == in_files["neighbours_share"] * 2 * 200
    assert in_files == by_chroma
    assert in_files["neighbours_share"] > 0.9


def test_only_what_has_no_room_is_searched_in_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {name: (index_of(folder, name) / "data_level0.bin").stat().st_size for name in COUNTS}
    largest, second = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:2]
    assert sizes[largest] - sizes[second] > 20_000
    # The ids of each take some 4 kB, which count sixteen times for those that have any in a file.
    with ChromaFiles(folder) as files:
        memory = {c.name: chroma_check.memory_of(files, c, files.vectors(c)) for c in files.collections()}
    monkeypatch.setattr(chroma_check, "BESIDE_AN_INDEX", (110 << 20) + (1 << 20) - memory[largest] + 1)
    assert check_folder(folder, None, memory_mb=1)["searched_in_files"] == [largest]


@pytest.mark.long
@pytest.mark.parametrize("space", SPACES.values())
def test_the_files_give_the_neighbours_that_chroma_gives(tmp_path: Path, space: str) -> None:
    """Where neither finds all: 3,000 random vectors, keeping only a few on the way, a fifth of them deleted."""
    server = open_folder(tmp_path / "chroma_db")
    server.bindings.create_collection(
        "many", f'{{"hnsw": {{"space": "{space}", "sync_threshold": 500, "ef_search": 15}}}}', None, None, False,
        "default_tenant", "default_database",
    )  # fmt: skip
    model, given = server.get_collection("many"), np.random.default_rng(4).standard_normal((3000, 48)).astype("<f4")
    ids = [f"{n:04d}" for n in range(3000)]
    for start in range(0, 3000, 500):
        some = slice(start, start + 500)
        server._add(collection_id=model.id, ids=ids[some], embeddings=given[some].tolist(), documents=["가"] * 500)
    server._delete(model.id, ids=ids[::5])
    # More writes, so that the deletion reaches the files.
    server._upsert(model.id, ids=ids[1:2501:5], embeddings=given[1:2501:5].tolist(), documents=["나"] * 500)
    server.count(model.id)
    asked = np.random.default_rng(5).standard_normal((40, 48)).astype("<f4")
    close(server)
    # Opened anew: what was in memory was linked otherwise than what was written.
    with chroma_engine.opened(twin_of(tmp_path / "chroma_db")) as engine:
        answered = engine.query(
            model.id, query_embeddings=asked.tolist(), n_results=10, include=["distances"],
            tenant="default_tenant", database="default_database",
        )["ids"]  # fmt: skip
    same = right = 0
    with ChromaFiles(tmp_path / "chroma_db") as files:
        (collection,) = files.collections()
        vectors = files.vectors(collection)
        everything = vectors.of([id for n, id in enumerate(ids) if n % 5])
        for one, found, theirs in zip(asked, vectors.nearest(asked, 10, 15), answered, strict=True):
            limit = np.sort(distances(everything, one[None, :], space)[:, 0])[9] + 1e-5
            mine = np.sort(distances(found, one[None, :], space)[:, 0])[:10]
            chroma = np.sort(distances(vectors.of(theirs), one[None, :], space)[:, 0])
            same += int(np.isclose(mine, chroma, atol=1e-4).sum())
            right += int((mine <= limit).sum())
    assert same == 400
    assert 100 < right < 390, "too easy to prove anything"


def test_links_that_lead_nowhere_are_found_in_the_files_too(folder: Path) -> None:
    path = index_of(folder, "saju_knowledge") / "data_level0.bin"
    data, stride = bytearray(path.read_bytes()), 4 + 4 * 32 + 4 * 16 + 8
    for at in range(0, len(data) - stride, stride):
        data[at : at + 2] = b"\0\0"
    path.write_bytes(data)
    with pytest.raises(TornCopy, match=r"the index of saju_knowledge finds \d+ of 200"):
        check_folder(folder, None, memory_mb=NO_ROOM)


@pytest.mark.parametrize("key", ["category", "chroma:document"])
def test_a_record_that_chroma_gives_otherwise_is_found_without_its_index(folder: Path, key: str) -> None:
    twin = twin_of(folder)
    with closing(sqlite3.connect(twin / "chroma.sqlite3")) as connection:
        connection.execute(
            "UPDATE embedding_metadata SET string_value = '비밀' WHERE key = ?"
            " AND id = (SELECT MIN(id) FROM embeddings)",
            (key,),
        )
        connection.commit()
    with pytest.raises(TornCopy, match=r"digest of ids, documents and metadata of .* differs"):
        check_folder(folder, contents_of(folder), twin=twin, memory_mb=NO_ROOM)


@pytest.mark.parametrize("memory_mb", [ROOM, NO_ROOM])
def test_how_many_neighbours_an_index_must_find_is_asked_of_few_records_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, memory_mb: int
) -> None:
    """In many random vectors a sound index finds few. That it finds each vector itself is required at any size."""
    monkeypatch.setattr(comparison, "NEIGHBOURS_AT_LEAST", 1.01)
    with pytest.raises(TornCopy, match="nearest neighbours"):
        check_folder(folder, None, memory_mb=memory_mb)
    monkeypatch.setattr(comparison, "FEW", 0)
    check_folder(folder, None, memory_mb=memory_mb)
    monkeypatch.setattr(comparison, "THEMSELVES_AT_LEAST", 1.01)
    with pytest.raises(TornCopy, match="vectors themselves only"):
        check_folder(folder, None, memory_mb=memory_mb)


# --- the names of an index ---------------------------------------------------------------------------------------


class PersistentData:
    """As Chroma before 1.0 pickled it."""

    def __init__(self, names: dict[str, int], reached: int | None) -> None:
        self.dimensionality, self.total_elements_added, self.max_seq_id = 16, len(names), reached
        self.id_to_label, self.label_to_id = names, {v: k for k, v in names.items()}
        self.id_to_seq_id = dict(names)


PersistentData.__module__ = "chromadb.segment.impl.vector.local_persistent_hnsw"


def pickled(kind: str, names: dict[str, int], protocol: int) -> bytes:
    data = PersistentData(names, 77)
    if kind == "dict":
        return pickle.dumps(vars(data), protocol)
    if kind == "refs":
        # The ids stand first elsewhere, and are only referred to where they have their labels.
        fields = vars(data)
        return pickle.dumps({name: fields[name] for name in reversed(fields)}, protocol)
    module = type(sys)(PersistentData.__module__)
    module.PersistentData = PersistentData  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, PersistentData.__module__, module)
        return (pickle._dumps if kind == "python" else pickle.dumps)(data, protocol)  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.parametrize("whole", [1 << 30, -1], ids=["loaded", "streamed"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001, 2500])
@pytest.mark.parametrize("kind", ["dict", "refs", "object", "python"])
def test_every_form_of_the_names_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int, protocol: int, count: int, kind: str
) -> None:
    monkeypatch.setattr(chroma_names, "WHOLE_PICKLE", whole)
    names = {("기록-" if n % 3 else "x" * 300) + str(n): (n * 7) << (n % 34) for n in range(1, count + 1)}
    path = tmp_path / "index_metadata.pickle"
    path.write_bytes(pickled(kind, names, protocol))
    read = chroma_names.Names(path)
    assert len(read) == count
    assert read.labels(list(names)).tolist() == list(names.values())
    assert sorted(label for some in read.all_labels() for label in some.tolist()) == sorted(names.values())
    assert read.legacy_reached == 77
    assert "없다" not in read
    with pytest.raises(KeyError):
        read.labels(["없다"])


@pytest.mark.long
@pytest.mark.parametrize("whole", [1 << 30, -1], ids=["loaded", "streamed"])
def test_cut_names_are_found_wherever_they_are_cut(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr(chroma_names, "WHOLE_PICKLE", whole)
    data = (index_of(folder, "saju_knowledge") / "index_metadata.pickle").read_bytes()
    path = tmp_path / "index_metadata.pickle"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(chroma_index._DAMAGE):
            chroma_names.Names(path)
    path.write_bytes(data)
    assert len(chroma_names.Names(path)) > 30


def test_names_that_would_run_something_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index_metadata.pickle"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/run'\ntR.")
    for whole in (1 << 30, -1):
        monkeypatch.setattr(chroma_names, "WHOLE_PICKLE", whole)
        with pytest.raises(pickle.UnpicklingError):
            chroma_names.Names(path)
    assert not (tmp_path / "run").exists()


def test_a_full_temporary_folder_is_no_torn_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*given: Any, **more: Any) -> sqlite3.Connection:
        connection = sqlite3.Connection(*given, **more)
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    path = tmp_path / "index_metadata.pickle"
    path.write_bytes(pickled("dict", {f"기록-{n}": n for n in range(2500)}, 3))
    monkeypatch.setattr(scratch_database.sqlite3, "connect", small)
    with pytest.raises(OperatorError, match=r"full.*TMPDIR") as said:
        chroma_names.Names(path)
    assert not isinstance(said.value, TornCopy)
