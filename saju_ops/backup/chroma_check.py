"""Opens a Chroma directory by Chroma and compares all of it with what its files hold.

Runs in the worker process. Promises: every record is read by Chroma itself, page by page, and compared with what
`chroma_files` read from the files; ids, documents and metadata exactly, by the sum of all records' digests, vectors one
by one and exactly but for the cosine distance, for which Chroma stores vectors normalized (a relative 1e-5); and
neighbours of a sample are looked up and compared with those that all vectors give. No embedding function is loaded and
no text is embedded.

Chroma changes a directory by opening it, so it opens a copy, and the directory stays as it is. It holds a collection's
whole index in memory, so it opens the copy anew for each: memory is that of the largest collection.
"""

from __future__ import annotations

import functools
import shutil
import struct
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saju_ops.backup.chroma_engine import opened
from saju_ops.backup.chroma_files import (
    ChromaFiles,
    Collection,
    Digest,
    Record,
    TornCopy,
    Vectors,
    contents,
    described,
    record_digest,
    refuse_other,
    vector_digest,
)

if TYPE_CHECKING:
    import numpy as np

# Records at once. A page without a limit fails beyond some 30,000, for the number of SQL variables. Of 768 dimensions,
# 250 cost the least: their numbers, each an object of Python's, still fit into the processor's cache.
PAGE = 250
# Of ids alone.
IDS = 5_000
INCLUDE = ["documents", "uris", "metadatas", "embeddings"]
SAMPLE, NEAREST = 20, 10
# A sound index found 94 to 100 of 100 vectors when asked for themselves. How many of the ten nearest it finds hangs
# on the data: all of texts' vectors, 68 of 100 of 12,000 random ones in 768 dimensions. So the first is looked at
# strictly, and the second loosely, and against what the same snapshot found when it was taken.
THEMSELVES_AT_LEAST, NEIGHBOURS_AT_LEAST, FEWER_THAN_BEFORE = 0.8, 0.3, 0.15


def check_folder(
    folder: Path, expected: dict[str, Any] | None, share: float = 0.0, twin: Path | None = None
) -> dict[str, Any]:
    """What the folder holds, proven. Raises TornCopy, naming collections and never a record.

    With `expected`, the contents that a manifest holds, they must be the same; `share` is that of neighbours that were
    found when the snapshot was taken. Chroma opens `twin`, which should hold the same and is removed; where none is
    given, it is copied beside the folder first.
    """
    if expected is None:
        with ChromaFiles(folder) as files:
            expected = contents(files)
    if twin is None:
        twin = folder.with_name(f"{folder.name}.opened")
        shutil.copytree(folder, twin, copy_function=shutil.copyfile)
    told = judged(folder, twin)
    refuse_other(expected, told["contents"])
    looked_for, neighbours = told["neighbours_looked_for"], told["neighbours_found"]
    if neighbours < (share - FEWER_THAN_BEFORE) * looked_for:
        raise TornCopy(
            f"its index finds {neighbours} of {looked_for} nearest neighbours; {share:.0%} when it was taken"
        )
    return told


def judged(folder: Path, twin: Path) -> dict[str, Any]:
    """What Chroma gives of the twin, each vector compared with the folder's files. The twin is removed. Raises
    TornCopy. Whether it is all that the folder holds is what `contents` tells."""
    with ChromaFiles(folder) as files:
        try:
            with opened(twin) as server:
                _same_names(server, files.collections())
            told = [_checked(files, collection, twin) for collection in files.collections()]
        finally:
            shutil.rmtree(twin, ignore_errors=True)
    looked_for = sum(t.neighbours_looked_for for t in told)
    neighbours = sum(t.neighbours_found for t in told)
    return {
        "contents": {"collections": [t.content for t in told]},
        "records_compared": sum(t.content["count"] for t in told),
        "neighbours_looked_for": looked_for,
        "neighbours_found": neighbours,
        "neighbours_share": round(neighbours / looked_for, 4) if looked_for else 1.0,
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


@dataclass(frozen=True)
class _Told:
    """`content` holds the digests of the records that Chroma gave, and of the vectors that the files hold of them."""

    content: dict[str, Any]
    neighbours_looked_for: int
    neighbours_found: int


def _checked(files: ChromaFiles, collection: Collection, twin: Path) -> _Told:
    vectors = files.vectors(collection)
    with opened(twin) as server:
        model = server.get_collection(collection.name, tenant=collection.tenant, database=collection.database)
        _same_settings(model, collection)
        try:
            return _Comparison(server, model, collection, vectors).told()
        except KeyError:
            raise TornCopy(f"a record of the collection {collection.label} has no vector in its files") from None


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


def pages(
    server: Any, model: Any, tenant: str, database: str, size: int = PAGE, ids: list[str] | None = None
) -> Generator[list[Row], None, None]:
    """Every record, a page at a time, in the order in which Chroma keeps them; or those of `ids`, whose time grows with
    their number only: Chroma counts its way to every page from the first record on. The next page is fetched by another
    thread while one is looked at: close it before Chroma is."""

    def fetch(start: int) -> Any:
        return _fetch(server, model, tenant, database, size, start, ids)

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(fetch, 0)
        for start in range(size, 1 << 60, size):
            got = coming.result()
            coming = thread.submit(fetch, start)
            rows = rows_of(got)
            if rows:
                yield rows
            if len(rows) < size:
                return


def _fetch(
    server: Any, model: Any, tenant: str, database: str, size: int, start: int, ids: list[str] | None
) -> Any:  # fmt: skip
    """A page. Of a folder as Chroma's Rust code answers it, which becomes Python's lists where it is used: in the
    thread that fetches, that would keep the other one waiting (0.6 s for 12,000 vectors, else 0.4 s)."""
    if ids is None:
        named, limit, offset = None, size, start
    elif not (named := ids[start : start + size]):
        return {name: [] for name in ("ids", *INCLUDE)}
    else:
        limit, offset = len(named), 0
    if bindings := getattr(server, "bindings", None):
        with suppress(TypeError):  # a version that is called otherwise
            got = bindings.get(str(model.id), named, None, limit, offset, None, INCLUDE, tenant, database)
            if all(hasattr(type(got), name) for name in INCLUDE):
                return {name: functools.partial(getattr, got, name) for name in ("ids", *INCLUDE)}
    return server._get(
        model.id, ids=named, limit=limit, offset=offset, include=INCLUDE, tenant=tenant, database=database
    )  # fmt: skip


def rows_of(got: Any) -> list[Row]:
    ids, documents, uris, metadatas, embeddings = (
        value() if callable(value := got[name]) else value for name in ("ids", *INCLUDE)
    )
    if not ids:
        return []
    nothing = [None] * len(ids)
    vectors = _matrix(embeddings)
    columns = zip(ids, documents or nothing, uris or nothing, metadatas or nothing, vectors, strict=True)
    return [
        (id, Record(document, uri, {k: v for k, v in (metadata or {}).items() if v is not None}), vector)
        for id, document, uri, metadata, vector in columns
    ]


def _matrix(vectors: Any) -> np.ndarray:
    """Of a folder's vectors, which are lists of Python's numbers, by `struct`: 0.10 s for 20,000 of 768 dimensions,
    0.24 s by numpy."""
    import numpy as np

    if type(vectors) is list and type(vectors[0]) is list and vectors[0]:
        packed = struct.Struct(f"<{len(vectors[0])}f")
        with suppress(struct.error, OverflowError):  # numpy says what is wrong with them
            data = b"".join([packed.pack(*vector) for vector in vectors])
            return np.frombuffer(data, "<f4").reshape(len(vectors), -1)
    return np.asarray(vectors, "<f4")


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


# --- one collection --------------------------------------------------------------------------------------------


class _Comparison:
    """What Chroma gives of a collection, beside the vectors that the files hold, in one pass."""

    def __init__(self, server: Any, model: Any, collection: Collection, vectors: Vectors) -> None:
        import numpy as np

        self._server, self._model, self._collection, self._vectors = server, model, collection, vectors
        self._ids = self._listed()
        ids = sorted(self._ids)
        self._number = min(NEAREST, len(ids))
        sample = np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids)) if collection.dimension else 0)
        self._sample = [ids[int(n)] for n in sample]
        self._asked = vectors.of(self._sample)
        # Of each record: its place, and how far it is from each of the sample.
        self._place: dict[str, int] = {}
        self._far = np.empty((len(ids), len(self._sample)))

    def _listed(self) -> list[str]:
        """Every id, once. Raises TornCopy unless they are as many as Chroma counts."""
        c, found = self._collection, []
        count = self._server._count(self._model.id, tenant=c.tenant, database=c.database)
        for offset in range(0, count + 1, IDS):
            found += self._server._get(
                self._model.id, limit=IDS, offset=offset, include=[], tenant=c.tenant, database=c.database
            )["ids"]  # fmt: skip
        if len(set(found)) != count or len(found) != count:
            raise TornCopy(f"Chroma counts {count} records in {c.label} and gives {len(found)}")
        return found

    def told(self) -> _Told:
        records, of_vectors = Digest(), Digest()
        c = self._collection
        # Closed before Chroma is, whatever is found.
        with closing(pages(self._server, self._model, c.tenant, c.database, ids=self._ids)) as coming:
            for page in coming:
                for id, record, _ in page:
                    records.add(record_digest(id, record))
                self._compare(page, of_vectors)
        if len(self._place) != len(self._far) or records.count != len(self._far):
            raise TornCopy(f"Chroma gave {len(self._place)} of {len(self._far)} records of {c.label}")
        looked_for, found = self._neighbours()
        return _Told(described(c, records, of_vectors), looked_for, found)

    def _compare(self, page: list[Row], digest: Digest) -> None:
        import numpy as np

        ids, space = [row[0] for row in page], self._collection.space
        stored = self._vectors.of(ids)
        if not same_vectors(stored, np.stack([row[2] for row in page]), space):
            raise TornCopy(f"Chroma gives a vector of {self._collection.label} that differs from what its files hold")
        for id, vector in zip(ids, stored, strict=True):
            digest.add(vector_digest(id, vector))
        start = len(self._place)
        self._place.update((id, start + n) for n, id in enumerate(ids))
        if self._sample and len(self._place) == start + len(ids) <= len(self._far):
            self._far[start : start + len(ids)] = distances(stored, self._asked, space)

    def _neighbours(self) -> tuple[int, int]:
        """How many of the nearest neighbours of the sample were looked for and how many the index found. By distance,
        not by id: several records may be as near. Raises TornCopy where they are too few."""
        import numpy as np

        looked_for = found = selves = 0
        for column, answer in enumerate(self._ask()):
            mine = self._far[:, column]
            limit = float(np.partition(mine, self._number - 1)[self._number - 1])
            # What 32-bit floats leave open; a thousandth of the range, where the nearest is at zero.
            limit += 1e-4 * max(abs(limit), 1e-3 * float(np.abs(mine).max()))
            near = [float(mine[self._place[id]]) for id in answer if id in self._place]
            own = float(mine[self._place[self._sample[column]]]) + 1e-4
            looked_for += self._number
            found += sum(1 for distance in near if distance <= limit)
            # By inner product something else may be nearer; then being among the nearest is all there is to ask for.
            selves += any(distance <= own for distance in near)
        if found < NEIGHBOURS_AT_LEAST * looked_for or selves < THEMSELVES_AT_LEAST * len(self._sample):
            raise TornCopy(
                f"the index of {self._collection.label} finds {found} of {looked_for} nearest neighbours and {selves}"
                f" of {len(self._sample)} vectors themselves only"
            )
        return looked_for, found

    def _ask(self) -> list[list[str]]:
        if not self._sample:
            return []
        c = self._collection
        answer = self._server._query(
            self._model.id, query_embeddings=self._asked.tolist(), n_results=self._number, include=["distances"],
            tenant=c.tenant, database=c.database,
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
