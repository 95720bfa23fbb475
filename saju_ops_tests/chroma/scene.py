"""Chroma folders and servers for tests, and what they hold, value by value."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from saju_ops.chroma.engine import open_folder
from saju_ops.chroma.pages import databases, models, pages, shown_configuration
from saju_ops_tests.engines import free_port

# As the chatbot's is written down; nothing of it is installed here.
EMBEDDING = {
    "type": "known",
    "name": "sentence_transformer",
    "config": {
        "model_name": "jhgan/ko-sroberta-multitask", "device": "cpu", "normalize_embeddings": False, "kwargs": {},
    },
}  # fmt: skip
SPACES = {"saju_knowledge": "cosine", "interpretation_rules": "l2", "fortune_patterns": "ip"}
TENANT, DATABASE = "default_tenant", "default_database"


def vectors(count: int, dimension: int = 16, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype("<f4")


def metadata(number: int) -> dict[str, Any]:
    return {
        "category": ("오행", "십성", "신살")[number % 3], "importance": number, "confidence": number / 3,
        "active": number % 2 == 0, "keywords": ["목", "화", str(number)],
    }  # fmt: skip


def make_collection(
    server: Any, name: str, space: str, count: int, *, sync: int = 1000, dimension: int = 16, database: str = DATABASE
) -> Any:
    """Records with every kind of value: no document, no metadata, a URI, lists, Korean."""
    index = {"space": space, "sync_threshold": sync, "ef_search": 120}
    configuration = {"hnsw": index, "embedding_function": EMBEDDING}
    body = {"model": "ko-sroberta", "번호": 7, "ratio": 1.5, "live": True}
    if hasattr(server, "bindings"):
        server.bindings.create_collection(name, json.dumps(configuration), None, body, False, TENANT, database)
    else:
        path = f"/tenants/{TENANT}/databases/{database}/collections"
        server._make_request("post", path, json={"name": name, "metadata": body, "configuration": configuration})
    model = server.get_collection(name, database=database)
    add(server, model, range(count), dimension, database)
    return server.get_collection(name, database=database)


def add(server: Any, model: Any, numbers: range, dimension: int = 16, database: str = DATABASE) -> None:
    rows = vectors(numbers.stop, dimension)
    for start in range(numbers.start, numbers.stop, 100):
        some = range(start, min(start + 100, numbers.stop))
        server._add(
            collection_id=model.id, ids=[f"기록-{n}" for n in some], embeddings=rows[some.start : some.stop].tolist(),
            metadatas=[None if n % 11 == 5 else metadata(n) for n in some],
            documents=[None if n % 7 == 3 else f"문서 {n}: 갑목\n'\"\\ 끝" for n in some],
            uris=[f"s3://x/{n}" if n % 13 == 1 else None for n in some],
            tenant=TENANT, database=database,
        )  # fmt: skip


def change(server: Any, model: Any) -> None:
    """What a chatbot does besides adding."""
    server._update(model.id, ids=["기록-1"], metadatas=[{"importance": 99, "active": None}])
    server._update(model.id, ids=["기록-2"], documents=["바뀐 문서"])
    server._update(model.id, ids=["기록-4"], embeddings=vectors(1, seed=9).tolist())
    server._update(model.id, ids=["없는-기록"], documents=["무시"])
    server._upsert(model.id, ids=["기록-6", "새-기록"], embeddings=vectors(2, seed=5).tolist(), documents=["가", "나"])
    server._delete(model.id, ids=["기록-8", "기록-9"])
    server._add(collection_id=model.id, ids=["기록-8"], embeddings=vectors(1, seed=6).tolist(), documents=["다시"])
    server._add(collection_id=model.id, ids=["기록-10"], embeddings=vectors(1, seed=7).tolist(), documents=["무시"])


def make_folder(path: Path, counts: dict[str, int], *, sync: int = 1000, changed: bool = True) -> Path:
    """A folder as a chatbot leaves it."""
    server = open_folder(path)
    for name, count in counts.items():
        model = make_collection(server, name, SPACES[name], count, sync=sync)
        if changed and count > 10:
            change(server, model)
    server.create_collection("empty_one")
    close(server)
    return path


def close(server: Any) -> None:
    """Lets go of the files; Chroma keeps every folder open that a process ever opened."""
    from chromadb.api.shared_system_client import SharedSystemClient

    server._system.stop()
    SharedSystemClient.clear_system_cache()


Everything = dict[tuple[str, str], tuple[Any, Any, dict[str, Any]]]


def held_by(server: Any) -> Everything:
    """Everything that a Chroma shows, by its own client."""
    found: Everything = {}
    for tenant, database in databases(server, [TENANT]):
        for model in models(server, tenant, database):
            rows = {
                row[0]: (row[1].document, row[1].uri, row[1].metadata, row[2])
                for page in pages(server, model, tenant, database)
                for row in page
            }
            shown = shown_configuration(model)
            settings = {k: shown["hnsw"].get(k) for k in ("space", "ef_search", "ef_construction", "max_neighbors")}
            found[database, model.name] = (model.metadata, {**settings, "ef": shown["embedding_function"]}, rows)
    return found


def held_in(folder: Path) -> Everything:
    """The same of a folder, of a copy, for Chroma changes what it opens."""
    scratch = Path(tempfile.mkdtemp())
    try:
        server = open_folder(Path(shutil.copytree(folder, scratch / "copy")))
        found = held_by(server)
        close(server)
    finally:
        shutil.rmtree(scratch)
    return found


def assert_same(one: Everything, other: Everything) -> None:
    """Value by value; vectors to a millionth, since Chroma normalizes them anew when it moves them."""
    assert one.keys() == other.keys()
    for key in one:
        assert one[key][:2] == other[key][:2], key
        mine, theirs = one[key][2], other[key][2]
        assert mine.keys() == theirs.keys(), key
        for id, row in mine.items():
            assert row[:3] == theirs[id][:3], (key, id)
            assert np.allclose(row[3], theirs[id][3], rtol=1e-5, atol=1e-6), (key, id)


# --- a chatbot that writes ---------------------------------------------------------------------------------------

WRITER = """
import sys, json, chromadb, numpy as np
from chromadb.config import Settings
path, out = sys.argv[1:]
client = chromadb.PersistentClient(path=path, settings=Settings(anonymized_telemetry=False))
server, generator = client._server, np.random.default_rng(2)
configuration = {"hnsw": {"space": "cosine", "sync_threshold": 60, "batch_size": 30}}
names = ("saju_knowledge", "fortune_patterns")
for name in names:
    server.bindings.create_collection(name, json.dumps(configuration), None, None, True, "default_tenant",
                                      "default_database")
models = [server.get_collection(name) for name in names]
with open(out, "a", buffering=1) as log:
    n = 0
    while True:
        model = models[n % 2]
        ids = [f"{n}-{i}" for i in range(10)]
        server._add(collection_id=model.id, ids=ids, embeddings=generator.standard_normal((10, 16)).tolist(),
                    documents=["문서"] * 10, metadatas=[{"n": n}] * 10)
        log.write(f"{model.name} {n}\\n")
        n += 1
        if n > 200:
            old = n - 200
            server._delete(models[old % 2].id, ids=[f"{old}-{i}" for i in range(10)])
"""
# The writer deletes a batch when it is so many batches old.
WRITER_KEEPS = 200


@contextmanager
def writing(folder: Path, acknowledged: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that adds and deletes as fast as it can, and notes what was acknowledged."""
    acknowledged.touch()
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(acknowledged)])
    try:
        deadline = time.monotonic() + 30
        while acknowledged.stat().st_size == 0:
            assert process.poll() is None, "the writer ended"
            assert time.monotonic() < deadline, "the writer did not begin"
            time.sleep(0.05)
        yield process
        assert process.poll() is None, "the writer was stopped by the snapshot"
    finally:
        process.kill()
        process.wait()


# --- a server ----------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The Chroma server of the installed package; gives its port."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--port", str(port)]
    environment = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=log, stderr=log, env=environment)
        try:
            _wait_for(port, process, log)
            yield port
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Any) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    log.seek(0)
    raise AssertionError(f"the Chroma server did not start: {log.read()[-2000:]!r}")
