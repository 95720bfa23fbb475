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
    Held,
    Record,
    TornCopy,
    differences,
    held,
    record_digest,
)

if TYPE_CHECKING:
    import numpy as np

# Records at once. A page without a limit fails beyond some 30,000, for the number of SQL variables.
PAGE = 500
INCLUDE = ["documents", "metadatas", "embeddings", "uris"]
SAMPLE, NEAREST = 20, 10
# A sound index found 94 to 100 of 100 vectors when asked for themselves. How many of the ten nearest it finds hangs
# on the data: all of texts' vectors, 68 of 100 of 12,000 random ones in 768 dimensions. So the first is looked at
# strictly, and the second loosely, and against what the same snapshot found when it was taken.
THEMSELVES_AT_LEAST, NEIGHBOURS_AT_LEAST, FEWER_THAN_BEFORE = 0.8, 0.3, 0.15


def open_folder(folder: Path) -> Any:
    """Chroma's interface to a folder, below the client: it never loads an embedding function."""
    import chromadb
    from chromadb.config import Settings

    client: Any = chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))
    return client._server


def check_folder(folder: Path, expected: dict[str, Any] | None, share: float = 0.0) -> dict[str, Any]:
    """What the folder holds, proven. Raises TornCopy, naming collections and never a record.

    With `expected`, the contents that a manifest holds, they must be the same; `share` is that of neighbours that were
    found when the snapshot was taken. Needs room for a copy beside it.
    """
    with ChromaFiles(folder) as files:
        everything = [held(files, c) for c in files.collections()]
        contents = {"collections": [h.content for h in everything]}
        if expected is not None and (wrong := differences(expected, contents)):
            raise TornCopy("; ".join(wrong[:10]))
        opened = folder.with_name(f"{folder.name}.opened")
        shutil.copytree(folder, opened, copy_function=shutil.copyfile)
        try:
            server = open_folder(opened)
            _same_names(server, files.collections())
            told = [_check_collection(server, h) for h in everything]
        finally:
            shutil.rmtree(opened, ignore_errors=True)
    looked = sum(t["neighbours_looked_for"] for t in told)
    found = sum(t["neighbours_found"] for t in told)
    if found < (share - FEWER_THAN_BEFORE) * looked:
        raise TornCopy(f"its index finds {found} of {looked} nearest neighbours; {share:.0%} when it was taken")
    return {
        "contents": contents,
        "records_compared": sum(t["records"] for t in told),
        "neighbours_looked_for": looked,
        "neighbours_found": found,
        "neighbours_share": round(found / looked, 4) if looked else 1.0,
        "chroma_version": version("chromadb"),
    }


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


def _check_collection(server: Any, whole: Held) -> dict[str, int]:
    collection = whole.collection
    model = server.get_collection(collection.name, tenant=collection.tenant, database=collection.database)
    _same_settings(model, collection)
    count = server._count(model.id, tenant=collection.tenant, database=collection.database)
    if count != len(whole.digests):
        raise TornCopy(f"Chroma counts {count} records in {collection.label}, its files hold {len(whole.digests)}")
    seen: set[str] = set()
    for page in pages(server, model, collection.tenant, collection.database):
        _same_page(whole, page)
        seen.update(row[0] for row in page)
    if len(seen) != len(whole.digests):
        raise TornCopy(f"Chroma gave {len(seen)} of {len(whole.digests)} records of {collection.label}")
    looked, found, selves, sample = _neighbours(server, model, whole)
    if found < NEIGHBOURS_AT_LEAST * looked or selves < THEMSELVES_AT_LEAST * sample:
        raise TornCopy(
            f"the index of {collection.label} finds {found} of {looked} nearest neighbours and {selves} of {sample}"
            " vectors themselves only"
        )
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


def _same_page(whole: Held, page: list[Row]) -> None:
    import numpy as np

    label = whole.collection.label
    if any(whole.digests.get(id) != record_digest(id, record) for id, record, _ in page):
        raise TornCopy(f"Chroma gives a record of {label} that differs from what its files hold")
    stored = whole.vectors.of([row[0] for row in page])
    if not same_vectors(stored, np.stack([row[2] for row in page]), whole.collection.space):
        raise TornCopy(f"Chroma gives a vector of {label} that differs from what its files hold")


def same_vectors(stored: np.ndarray, given: np.ndarray, space: str) -> bool:
    """Row by row: exactly, but for the cosine distance, where both were normalized and multiplied by their length
    again in 32-bit floats."""
    import numpy as np

    if stored.shape != given.shape:
        return False
    if space != "cosine" or not stored.size:
        return bool(np.array_equal(stored, given, equal_nan=True))
    scale = np.abs(stored).max(axis=1, keepdims=True)
    close = np.abs(stored - given) <= 1e-5 * np.abs(stored) + 1e-6 * scale
    return bool((close | (np.isnan(stored) & np.isnan(given))).all())


# --- neighbours ------------------------------------------------------------------------------------------------


def _neighbours(server: Any, model: Any, whole: Held) -> tuple[int, int, int, int]:
    """How many of the nearest neighbours of a sample were looked for and how many the index found; how many of the
    sample found themselves, and how large it is. By distance, not by id: several records may be as near."""
    import numpy as np

    ids = sorted(whole.digests)
    if not ids or not whole.collection.dimension:
        return 0, 0, 0, 0
    sample = [ids[int(n)] for n in np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids)))]
    asked = whole.vectors.of(sample)
    number = min(NEAREST, len(ids))
    far = np.concatenate(
        [
            distances(whole.vectors.of(ids[start : start + PAGE]), asked, whole.collection.space)
            for start in range(0, len(ids), PAGE)
        ]
    )
    place = {id: n for n, id in enumerate(ids)}
    looked = found = selves = 0
    for column, answer in enumerate(_ask(server, model, whole, asked, number)):
        mine = far[:, column]
        limit = float(np.partition(mine, number - 1)[number - 1])
        # What 32-bit floats leave open; a thousandth of the range, where the nearest is at zero.
        limit += 1e-4 * max(abs(limit), 1e-3 * float(np.abs(mine).max()))
        near = [float(mine[place[id]]) for id in answer if id in place]
        own = float(mine[place[sample[column]]]) + 1e-4
        looked += number
        found += sum(1 for distance in near if distance <= limit)
        # By inner product something else may be nearer; then being among the nearest is all there is to ask for.
        selves += any(distance <= own for distance in near)
    return looked, found, selves, len(sample)


def _ask(server: Any, model: Any, whole: Held, vectors: np.ndarray, number: int) -> list[list[str]]:
    answer = server._query(
        model.id, query_embeddings=vectors.tolist(), n_results=number, include=["distances"],
        tenant=whole.collection.tenant, database=whole.collection.database,
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
