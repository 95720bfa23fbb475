"""Opens a Chroma directory by Chroma and compares all of it with what its files hold.

Runs in the worker process. Promises: every record is read by Chroma's client, page by page, and compared with what
`chroma_files` read from the files before; ids, documents and metadata exactly, vectors exactly but for the cosine
distance, for which Chroma stores vectors normalized (a relative 1e-5); and neighbours of a sample are looked up and
compared with those that all vectors give. No embedding function is loaded and no text is embedded.

Chroma changes a directory by opening it, so it opens a copy beside it, and the directory stays as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saju_ops.backup.chroma_files import (
    ChromaFiles,
    Collection,
    Record,
    TornCopy,
    Vectors,
    contents,
    differences,
    record_digest,
)

if TYPE_CHECKING:
    import numpy as np

# Records at once. A page without a limit fails beyond some 30,000, for the number of SQL variables.
PAGE = 2_000
INCLUDE = ["documents", "metadatas", "embeddings", "uris"]
# A sound index of this kind finds 94 to 100 of 100 of the nearest; a torn one finds few or crashes.
SAMPLE, NEAREST, FOUND_AT_LEAST = 20, 10, 0.8


def open_folder(folder: Path) -> Any:
    """Chroma's interface to a folder, below the client: it never loads an embedding function."""
    import chromadb
    from chromadb.config import Settings

    client: Any = chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))
    return client._server


def check_folder(folder: Path, expected: dict[str, Any] | None) -> dict[str, Any]:
    """What the folder holds, proven. Raises TornCopy, naming collections and never a record.

    With `expected`, the contents that a manifest holds, they must be the same. Needs room for a copy beside it.
    """
    with ChromaFiles(folder) as files:
        held = contents(files)
        if expected is not None and (wrong := differences(expected, held)):
            raise TornCopy("; ".join(wrong[:10]))
        opened = folder.with_name(f"{folder.name}.opened")
        shutil.copytree(folder, opened, copy_function=shutil.copyfile)
        try:
            server = open_folder(opened)
            _same_names(server, files.collections())
            told = [_check_collection(server, _Held(files, c)) for c in files.collections()]
        finally:
            shutil.rmtree(opened, ignore_errors=True)
    looked = sum(t["neighbours_looked_for"] for t in told)
    found = sum(t["neighbours_found"] for t in told)
    return {
        "contents": held,
        "records_compared": sum(t["records"] for t in told),
        "neighbours_looked_for": looked,
        "neighbours_found": found,
        "neighbours_share": round(found / looked, 4) if looked else 1.0,
        "chroma_version": version("chromadb"),
    }


class _Held:
    """One collection as its files hold it."""

    def __init__(self, files: ChromaFiles, collection: Collection) -> None:
        self.collection = collection
        self.vectors: Vectors = files.vectors(collection)
        self.digests = {id: record_digest(id, record) for id, record in files.records(collection)}


def databases(server: Any, tenants: list[str]) -> Iterator[tuple[str, str]]:
    for tenant in tenants:
        for offset in range(0, 1 << 30, 100):
            page = server.list_databases(limit=100, offset=offset, tenant=tenant)
            yield from ((tenant, d["name"]) for d in page)
            if len(page) < 100:
                break


def models(server: Any, tenant: str, database: str) -> Iterator[Any]:
    for offset in range(0, 1 << 30, 100):
        page = server.list_collections(limit=100, offset=offset, tenant=tenant, database=database)
        yield from page
        if len(page) < 100:
            break


def _same_names(server: Any, collections: list[Collection]) -> None:
    tenants = sorted({c.tenant for c in collections} | {"default_tenant"})
    shown = {(t, d, m.name) for t, d in databases(server, tenants) for m in models(server, t, d)}
    if shown != {(c.tenant, c.database, c.name) for c in collections}:
        raise TornCopy("Chroma shows other collections than the database file holds")


def _check_collection(server: Any, held: _Held) -> dict[str, int]:
    collection = held.collection
    model = server.get_collection(collection.name, tenant=collection.tenant, database=collection.database)
    _same_settings(model, collection)
    count = server._count(model.id, tenant=collection.tenant, database=collection.database)
    if count != len(held.digests):
        raise TornCopy(f"Chroma counts {count} records in {collection.label}, its files hold {len(held.digests)}")
    seen: set[str] = set()
    for page in pages(server, model, collection.tenant, collection.database):
        for id, record, vector in page:
            _same_record(held, id, record, vector)
            seen.add(id)
    if len(seen) != len(held.digests):
        raise TornCopy(f"Chroma gave {len(seen)} of {len(held.digests)} records of {collection.label}")
    looked, found = _neighbours(server, model, held)
    if found < FOUND_AT_LEAST * looked:
        raise TornCopy(f"the index of {collection.label} finds {found} of {looked} nearest neighbours only")
    return {"records": len(seen), "neighbours_looked_for": looked, "neighbours_found": found}


def _same_settings(model: Any, collection: Collection) -> None:
    if (model.metadata or {}) != collection.metadata or model.dimension != collection.dimension:
        raise TornCopy(f"Chroma shows other metadata or dimensions of {collection.label} than its files hold")
    shown = shown_configuration(model)
    wanted = collection.configuration
    same = shown["space"] == collection.space
    same = same and all(shown["hnsw"].get(k) == v for k, v in wanted["hnsw"].items())
    name = (wanted["embedding_function"] or {}).get("name")
    if not same or (name and (shown["embedding_function"] or {}).get("name") != name):
        raise TornCopy(f"Chroma shows another configuration of {collection.label} than its files hold")


def shown_configuration(model: Any) -> dict[str, Any]:
    config = model.configuration_json or {}
    hnsw = config.get("hnsw") or {}
    return {"space": hnsw.get("space"), "hnsw": hnsw, "embedding_function": config.get("embedding_function")}


Row = tuple[str, Record, Any]


def pages(server: Any, model: Any, tenant: str, database: str, size: int = PAGE) -> Iterator[list[Row]]:
    """Every record, a page at a time, in the order in which Chroma keeps them."""
    for offset in range(0, 1 << 60, size):
        got = server._get(
            model.id, limit=size, offset=offset, include=INCLUDE, tenant=tenant, database=database
        )  # fmt: skip
        rows = rows_of(got)
        if rows:
            yield rows
        if len(rows) < size:
            return


def rows_of(got: Any) -> list[Row]:
    import numpy as np

    ids = got["ids"]
    if not ids:
        return []
    nothing = [None] * len(ids)
    vectors = np.asarray(got["embeddings"], "<f4")
    columns = zip(
        ids, got["documents"] or nothing, got["uris"] or nothing, got["metadatas"] or nothing, vectors, strict=True
    )
    return [
        (id, Record(document, uri, {k: v for k, v in (metadata or {}).items() if v is not None}), vector)
        for id, document, uri, metadata, vector in columns
    ]


def _same_record(held: _Held, id: str, record: Record, vector: np.ndarray) -> None:
    if held.digests.get(id) != record_digest(id, record):
        raise TornCopy(f"Chroma gives a record of {held.collection.label} that differs from what its files hold")
    try:
        stored = held.vectors.of(id)
    except KeyError:
        raise TornCopy(f"a record of {held.collection.label} has no vector in its files") from None
    if not same_vector(stored, vector, held.collection.space):
        raise TornCopy(f"Chroma gives a vector of {held.collection.label} that differs from what its files hold")


def same_vector(stored: np.ndarray, given: np.ndarray, space: str) -> bool:
    import numpy as np

    if stored.shape != given.shape:
        return False
    if space != "cosine":
        return bool(np.array_equal(stored, given, equal_nan=True))
    # Normalized and multiplied by their length again, in 32-bit floats.
    scale = float(np.abs(stored).max()) if stored.size else 0.0
    return bool(np.allclose(stored, given, rtol=1e-5, atol=1e-6 * max(scale, 1e-30), equal_nan=True))


# --- neighbours ------------------------------------------------------------------------------------------------


def _neighbours(server: Any, model: Any, held: _Held) -> tuple[int, int]:
    """How many of the nearest neighbours of a sample were looked for, and how many the index found.

    By distance, not by id: several records may be as near."""
    import numpy as np

    ids = sorted(held.digests)
    if not ids or not held.collection.dimension:
        return 0, 0
    sample = [ids[int(n)] for n in np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids)))]
    asked = np.stack([held.vectors.of(id) for id in sample])
    number = min(NEAREST, len(ids))
    far = np.concatenate(
        [
            distances(np.stack([held.vectors.of(id) for id in ids[start : start + PAGE]]), asked, held.collection.space)
            for start in range(0, len(ids), PAGE)
        ]
    )
    place = {id: n for n, id in enumerate(ids)}
    looked = found = 0
    for column, answer in enumerate(_ask(server, model, held, asked, number)):
        mine = far[:, column]
        limit = float(np.partition(mine, number - 1)[number - 1])
        # What 32-bit floats leave open; a thousandth of the range, where the nearest is at zero.
        limit += 1e-4 * max(abs(limit), 1e-3 * float(np.abs(mine).max()))
        looked += number
        found += sum(1 for id in answer if id in place and mine[place[id]] <= limit)
    return looked, found


def _ask(server: Any, model: Any, held: _Held, vectors: np.ndarray, number: int) -> list[list[str]]:
    answer = server._query(
        model.id, query_embeddings=vectors.tolist(), n_results=number, include=["distances"],
        tenant=held.collection.tenant, database=held.collection.database,
    )  # fmt: skip
    return list(answer["ids"])


def distances(some: np.ndarray, asked: np.ndarray, space: str) -> np.ndarray:
    """From each of some vectors to each of those asked for, as Chroma measures them."""
    import numpy as np

    some, asked = some.astype("<f8"), asked.astype("<f8")
    products = some @ asked.T
    if space == "ip":
        return 1 - products
    if space == "cosine":
        lengths = np.linalg.norm(some, axis=1)[:, None] * np.linalg.norm(asked, axis=1)
        return 1 - products / np.maximum(lengths, 1e-30)
    squares = (some**2).sum(axis=1)[:, None] + (asked**2).sum(axis=1)
    return np.maximum(squares - 2 * products, 0)
