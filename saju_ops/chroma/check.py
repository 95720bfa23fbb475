"""Opens a Chroma directory by Chroma and compares all of it with what its files hold.

Runs in the worker process. Promises: every record is read by Chroma itself, page by page, and compared with what
`chroma_files` read from the files; ids, documents and metadata exactly, by the sum of all records' digests, vectors one
by one and exactly but for the cosine distance, for which Chroma stores vectors normalized (a relative 1e-5); and
neighbours of a sample are looked up and compared with those that all vectors give. No embedding function is loaded and
no text is embedded.

Chroma changes a directory by opening it, so it opens a copy, and the directory stays as it is. It holds a collection's
whole index in memory, so it opens the copy anew for each. A collection whose index would take more memory than is
allowed is opened by Chroma without its index: Chroma gives every record, and the index is searched where it lies, by
its own links, as Chroma's search does (`chroma_index`). So memory stays within the limit at any size. Of one that has
no index yet, since it was fetched from a server and has no room, Chroma makes an index of the first vectors, as many as
have room, and neighbours are looked up among these.
"""

from __future__ import annotations

import functools
import shutil
import sqlite3
import struct
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saju_ops.chroma.engine import opened
from saju_ops.chroma.files import (
    DATABASE,
    ChromaFiles,
    Collection,
    Digest,
    Record,
    characters_of,
    contents,
    described,
    in_force,
    record_digest,
    refuse_other,
    vector_digest,
)
from saju_ops.chroma.index import LONGEST, SHORTEST, measurable
from saju_ops.chroma.sparse import copy_file
from saju_ops.chroma.vectors import UPSERT, Vectors, distances
from saju_ops.errors import TornCopy
from saju_ops.words import counted

if TYPE_CHECKING:
    import numpy as np

# Records at once. A page without a limit fails beyond some 30,000, for the number of SQL variables. Of 768 dimensions,
# 250 cost the least: their numbers, each an object of Python's, still fit into the processor's cache.
PAGE = 250
# Numbers in the vectors of a page, characters in its texts, and records of a collection's first pages, which tell how
# long those are.
PAGE_NUMBERS, PAGE_CHARACTERS, FIRST_PAGES = 250 * 768, 1 << 20, 25
# Of ids alone.
IDS = 5_000
RECORDS = ["documents", "uris", "metadatas"]
INCLUDE = [*RECORDS, "embeddings"]
SAMPLE, PLACES, NEAREST = 20, 5, 10
# How many of the nearest are kept on the way in a second and a third search, where an index whose parameters are small
# finds too few by its own (100 by default). Chroma can't answer with more than some 30,000.
WIDER = (1_000, 20_000)
# Bytes that this process takes beside an index (100 MB for 5,000 vectors as for 40,000), and what Chroma takes for one:
# the elements and links as they are, and for each id sixteen times what it takes in the file, for it stands in two
# tables of Chroma's (76 MB for 20,000 vectors, of which 64 MB elements and 0.7 MB ids).
BESIDE_AN_INDEX, FOR_IDS = 110 << 20, 16
# What Chroma takes for a vector that waits in its queue, when it makes an index of them: the element, the vector itself
# and an id in a pickle (6.9 kB for one of 768 dimensions, with 5,000 to 40,000 of them).
USUAL_ID = 24
# A sound index found 94 to 100 of 100 vectors when asked for themselves. How many of the ten nearest it finds hangs
# on the data and, for the worst of it, on how many there are: all of texts' vectors; of random ones in 768 dimensions
# 68 of 100 where there are 12,000, 58 of 20,000, 25 of 100,000. So the first is looked at strictly, at any size, and
# the second loosely, up to FEW records, and always against what the same snapshot found when it was taken.
THEMSELVES_AT_LEAST, NEIGHBOURS_AT_LEAST, FEW, FEWER_THAN_BEFORE = 0.8, 0.3, 20_000, 0.15


def check_folder(
    folder: Path, expected: dict[str, Any] | None, share: float = 0.0, twin: Path | None = None, *, memory_mb: int
) -> dict[str, Any]:
    """What the folder holds, proven. Raises TornCopy, naming collections and never a record.

    With `expected`, the contents that a manifest holds, they must be the same; `share` is that of neighbours that were
    found when the snapshot was taken. Chroma opens `twin`, which should hold the same and is removed; where none is
    given, it is copied beside the folder first. `memory_mb` as in `judged`.
    """
    if expected is None:
        with ChromaFiles(folder) as files:
            expected = contents(files)
    if twin is None:
        twin = folder.with_name(f"{folder.name}.opened")
        shutil.copytree(folder, twin, copy_function=copy_file)
    told = judged(folder, twin, memory_mb=memory_mb)
    refuse_other(expected, told["contents"])
    looked_for, neighbours = told["neighbours_looked_for"], told["neighbours_found"]
    if neighbours < (share - FEWER_THAN_BEFORE) * looked_for:
        raise TornCopy(
            f"its index finds {neighbours} of {looked_for} nearest neighbours; {share:.0%} when it was taken"
        )
    return told


def judged(
    folder: Path, twin: Path, *, memory_mb: int | None, digest_vectors: bool = True, keep: bool = False
) -> dict[str, Any]:
    """What Chroma gives of the twin, each vector compared with the folder's files. The twin is removed, unless it is to
    be kept. Raises TornCopy. Whether it is all that the folder holds is what `contents` tells. Without
    `digest_vectors`, the contents lack the digest of vectors, for who takes it from the same files meanwhile.

    `memory_mb`: Chroma opens or makes an index only if this process stays below that many MB by it, or whatever it
    takes (None). `searched_in_files` names the collections of the others, and `not_indexed` those of them that have no
    index, so that neighbours were looked for among those vectors only of which one was made.
    """
    with ChromaFiles(folder) as files:
        try:
            with opened(twin) as server:
                _same_names(server, files.collections())
            told = [_checked(files, c, twin, memory_mb, digest_vectors) for c in files.collections()]
        finally:
            if not keep:
                shutil.rmtree(twin, ignore_errors=True)
    looked_for = sum(t.neighbours_looked_for for t in told)
    neighbours = sum(t.neighbours_found for t in told)
    return {
        "contents": {"collections": [t.content for t in told]},
        "records_compared": sum(t.content["count"] for t in told),
        "neighbours_looked_for": looked_for,
        "neighbours_found": neighbours,
        "neighbours_share": round(neighbours / looked_for, 4) if looked_for else 1.0,
        "searched_in_files": [t.label for t in told if t.in_files],
        "not_indexed": [t.label for t in told if t.in_files and not t.indexed],
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

    label: str
    content: dict[str, Any]
    neighbours_looked_for: int
    neighbours_found: int
    in_files: bool
    indexed: bool


def _checked(
    files: ChromaFiles, collection: Collection, twin: Path, memory_mb: int | None, digest_vectors: bool
) -> _Told:
    vectors = files.vectors(collection)
    in_files = memory_mb is not None and memory_of(files, collection, vectors) > memory_mb << 20
    some: list[int] = []
    if memory_mb is not None and in_files:
        if not vectors.indexed:
            some = vectors.queue.first(max(0, (memory_mb << 20) - BESIDE_AN_INDEX) // _memory_of_one(collection))
        _without_index(twin, collection, files.last_write(collection), some)
    with opened(twin) as server:
        model = server.get_collection(collection.name, tenant=collection.tenant, database=collection.database)
        _same_settings(model, collection)
        try:
            return _Comparison(server, model, collection, vectors, in_files, some).told(digest_vectors)
        except KeyError:
            raise TornCopy(f"a record of the collection {collection.label} has no vector in its files") from None


def memory_of(files: ChromaFiles, collection: Collection, vectors: Vectors) -> int:
    """Bytes that this process will have taken when Chroma has opened that collection's index, or made it."""
    index = files.folder / collection.vector_segment

    def size(name: str) -> int:
        path = index / name
        return path.stat().st_size if path.is_file() else 0

    elements, ids = size("data_level0.bin") + vectors.upper_bytes, size("index_metadata.pickle")
    return BESIDE_AN_INDEX + elements + FOR_IDS * ids + vectors.waiting * _memory_of_one(collection)


def _memory_of_one(collection: Collection) -> int:
    """Bytes for a vector that waits, when Chroma makes an index of it."""
    links = 8 * int(collection.index["max_neighbors"])
    return 8 * (collection.dimension or 0) + links + FOR_IDS * USUAL_ID


def _without_index(twin: Path, collection: Collection, last_write: int, but: list[int]) -> None:
    """Has Chroma find an empty index there, that lacks nothing: it loads an index whole before it gives anything. What
    waits in the queue for the index alone goes, too, for Chroma reads that into memory, whatever its index has; `but`
    for these numbers, of which it makes one."""
    shutil.rmtree(twin / collection.vector_segment, ignore_errors=True)
    with closing(sqlite3.connect(twin / DATABASE)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        if not but:
            connection.execute(
                "INSERT OR REPLACE INTO max_seq_id (segment_id, seq_id) VALUES (?, ?)",
                (collection.vector_segment, last_write),
            )
        connection.execute("CREATE TEMP TABLE kept (seq_id INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO kept VALUES (?)", ((number,) for number in but))
        connection.execute(
            "DELETE FROM embeddings_queue WHERE topic LIKE ? ESCAPE '!' AND seq_id NOT IN (SELECT seq_id FROM kept)"
            " AND seq_id <= (SELECT seq_id FROM max_seq_id WHERE segment_id = ? AND typeof(seq_id) = 'integer')",
            ("%/" + collection.id, collection.metadata_segment),
        )
        # What one of them changed may be gone.
        connection.execute(
            f"UPDATE embeddings_queue SET operation = {UPSERT} WHERE seq_id IN (SELECT seq_id FROM kept)"  # noqa: S608
        )


def _same_settings(model: Any, collection: Collection) -> None:
    if (model.metadata or {}) != collection.metadata or model.dimension != collection.dimension:
        raise TornCopy(f"Chroma shows other metadata or dimensions of {collection.label} than its files hold")
    # Chroma shows what is written of the index, and goes by the segment's metadata where that is as usual.
    shown, name = shown_configuration(model), (collection.embedding_function or {}).get("name")
    same = in_force(shown["hnsw"], collection.legacy) == collection.index
    if not same or (name and (shown["embedding_function"] or {}).get("name") != name):
        raise TornCopy(f"Chroma shows another configuration of {collection.label} than its files hold")


def shown_configuration(model: Any) -> dict[str, Any]:
    """What a Chroma shows of a collection's index; nothing where it is older than 1.0."""
    config = model.configuration_json or {}
    hnsw = config.get("hnsw") or {}
    return {"space": hnsw.get("space"), "hnsw": hnsw, "embedding_function": config.get("embedding_function")}


Row = tuple[str, Record, Any]


def pages(
    server: Any, model: Any, tenant: str, database: str, size: int = PAGE, ids: Iterator[list[str]] | None = None,
    include: list[str] = INCLUDE,
) -> Generator[list[Row], None, None]:  # fmt: skip
    """Every record, a page at a time, in the order in which Chroma keeps them; or those of `ids`, page by page, whose
    time grows with their number only: Chroma counts its way to every page from the first record on. The next page is
    fetched by another thread while one is looked at: close it before Chroma is."""

    def fetch(start: int) -> Any:
        if ids is None:
            return _fetch(server, model, tenant, database, None, size, start, include)
        named = next(ids, None)
        return _fetch(server, model, tenant, database, named, len(named), 0, include) if named else _NOTHING

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(fetch, 0)
        for start in range(size, 1 << 60, size):
            got = coming.result()
            if got is _NOTHING:
                return
            coming = thread.submit(fetch, start)
            rows = rows_of(got)
            if rows:
                yield rows
            if ids is None and len(rows) < size:
                return


_NOTHING: dict[str, Any] = {name: [] for name in ("ids", *INCLUDE)}


def _fetch(
    server: Any, model: Any, tenant: str, database: str, ids: list[str] | None, limit: int, offset: int,
    include: list[str],
) -> Any:  # fmt: skip
    """A page. Of a folder as Chroma's Rust code answers it, which becomes Python's lists where it is used: in the
    thread that fetches, that would keep the other one waiting (0.6 s for 12,000 vectors, else 0.4 s)."""
    if bindings := getattr(server, "bindings", None):
        with suppress(TypeError):  # a version that is called otherwise
            got = bindings.get(str(model.id), ids, None, limit, offset, None, include, tenant, database)
            if all(hasattr(type(got), name) for name in include):
                return {name: functools.partial(getattr, got, name) for name in ("ids", *include)}
    return server._get(
        model.id, ids=ids, limit=limit, offset=offset, include=include, tenant=tenant, database=database
    )  # fmt: skip


def rows_of(got: Any) -> list[Row]:
    """Without vectors where none were asked for."""
    ids, documents, uris, metadatas, embeddings = (
        value() if callable(value := got.get(name)) else value for name in ("ids", *INCLUDE)
    )
    if not ids:
        return []
    nothing = [None] * len(ids)
    vectors = nothing if embeddings is None else _matrix(embeddings)
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
    again in 32-bit floats. Of what is too short or too long for that, Chroma gives back that it is so at best."""
    import numpy as np

    if stored.shape != given.shape:
        return False
    if space != "cosine" or not stored.size:
        return bool(np.array_equal(stored, given, equal_nan=True))
    scale = np.abs(stored).max(axis=1, keepdims=True)
    close = np.abs(stored - given) <= 1e-5 * np.abs(stored) + 1e-6 * scale
    close = (close | (np.isnan(stored) & np.isnan(given))).all(axis=1)
    if close.all():
        return True
    lost, still = (np.linalg.norm(each[~close].astype("<f8"), axis=1) for each in (stored, given))
    return not (measurable(lost) | measurable(still, 10 * SHORTEST, LONGEST / 10)).any()


# --- one collection --------------------------------------------------------------------------------------------


class _Comparison:
    """What Chroma gives of a collection, beside the vectors that the files hold, in one pass, and without holding
    anything for each record."""

    def __init__(
        self, server: Any, model: Any, collection: Collection, vectors: Vectors, in_files: bool, some: list[int]
    ) -> None:  # fmt: skip
        """`some`: the numbers in the queue of the only vectors of which Chroma makes an index."""
        import numpy as np

        self._server, self._model, self._collection, self._vectors = server, model, collection, vectors
        self._in_files = in_files
        self._last = some[-1] if some else None
        self._where = {"tenant": collection.tenant, "database": collection.database}
        self._count = int(server._count(model.id, **self._where))
        self._searched = len(some) if in_files and not vectors.indexed else self._count
        self._number = min(NEAREST, self._searched)
        spread = some[:: max(1, len(some) // SAMPLE)][:SAMPLE]
        sample = vectors.queue.named(spread) if some else self._sample() if self._number else []
        asked = vectors.of(sample if collection.dimension else [])
        self._asked = asked[measurable(np.linalg.norm(asked.astype("<f8"), axis=1))]
        self._largest = max(1, min(PAGE, PAGE_NUMBERS // (collection.dimension or 1)))
        self._page = min(FIRST_PAGES, self._largest)
        # Of each of the sample: how far the nearest are, of all vectors, and how far the farthest is.
        self._near = np.full((self._number, len(self._asked)), np.inf)
        self._farthest = np.zeros(len(self._asked))

    def _sample(self) -> list[str]:
        """From PLACES places: Chroma counts its way to each."""
        some = SAMPLE // PLACES
        last = max(self._count - some, 0)
        offsets = sorted({last * n // (PLACES - 1) for n in range(PLACES)})
        return list(dict.fromkeys(id for offset in offsets for id in self._ids(offset, some)))

    def _ids(self, offset: int, limit: int) -> list[str]:
        return list(self._server._get(self._model.id, limit=limit, offset=offset, include=[], **self._where)["ids"])

    def _named(self) -> Iterator[list[str]]:
        """Every id, a page at a time."""
        for offset in range(0, 1 << 60, IDS):
            ids = self._ids(offset, IDS)
            start = 0
            while start < len(ids):
                end = start + self._page
                yield ids[start:end]
                start = end
            if len(ids) < IDS:
                return

    def _fit(self, page: list[Row]) -> None:
        """Sets how many records the pages from the one after the next on have."""
        characters = sum(characters_of(record) for _, record, _ in page)
        self._page = max(1, min(self._largest, PAGE_CHARACTERS * len(page) // max(characters, 1)))

    def told(self, digest_vectors: bool) -> _Told:
        # Before the records are looked at: the index is what most often is torn.
        found = self._found()
        records, of_vectors = Digest(), Digest() if digest_vectors else None
        c, include = self._collection, RECORDS if self._in_files else INCLUDE
        where = (c.tenant, c.database)
        # Closed before Chroma is, whatever is found.
        with closing(pages(self._server, self._model, *where, ids=self._named(), include=include)) as coming:
            for page in coming:
                self._fit(page)
                for id, record, _ in page:
                    records.add(record_digest(id, record))
                self._compare(page, of_vectors)
        if records.count != self._count:
            raise TornCopy(f"Chroma counts {counted(self._count, 'record')} in {c.label} and gives {records.count}")
        looked_for, neighbours = self._judged(found)
        content = described(c, records, of_vectors)
        return _Told(c.label, content, looked_for, neighbours, self._in_files, self._vectors.indexed)

    def _compare(self, page: list[Row], digest: Digest | None) -> None:
        import numpy as np

        ids, space = [row[0] for row in page], self._collection.space
        stored = self._vectors.of(ids)
        if not self._in_files and not same_vectors(stored, np.stack([row[2] for row in page]), space):
            raise TornCopy(f"Chroma gives a vector of {self._collection.label} that differs from what its files hold")
        if digest is not None:
            for id, vector in zip(ids, stored, strict=True):
                digest.add(vector_digest(id, vector))
        if self._last is not None:
            stored = stored[self._vectors.queue.until(ids, self._last)]
        if len(self._asked) and len(stored):
            far = distances(stored, self._asked, space)
            self._farthest = np.maximum(self._farthest, np.abs(far).max(axis=0))
            both = np.concatenate([self._near, far])
            self._near = np.partition(both, self._number - 1, axis=0)[: self._number]

    def _found(self, width: int | None = None) -> list[np.ndarray]:
        """Of each of the sample, the vectors that the index finds nearest to it: by Chroma, or in its files. `width`:
        how many are kept on the way; else as many as the collection says."""
        if not len(self._asked):
            return []
        if self._in_files and self._last is None:
            return self._vectors.nearest(self._asked, self._number, width or int(self._collection.index["ef_search"]))
        return [
            self._vectors.of(answer[: self._number])
            # As many as are asked for are kept on the way, so one at a time.
            for some in ([self._asked] if width is None else self._asked[:, None])
            for answer in self._server._query(
                self._model.id, query_embeddings=some.tolist(), n_results=min(width or self._number, self._searched),
                include=["distances"], **self._where,
            )["ids"]
        ]  # fmt: skip

    def _judged(self, found: list[np.ndarray]) -> tuple[int, int]:
        """How many of the nearest neighbours of the sample were looked for and how many the index found. Raises
        TornCopy where they are too few, in a wide search too: an index of few links that keeps few on the way finds
        few, and is sound; one whose links lead nowhere finds few however many it keeps."""
        looked_for, neighbours, selves = self._neighbours(found)
        vectors = counted(len(found), "vector")
        told = f"finds {neighbours} of {looked_for} nearest neighbours and {selves} of {vectors} themselves"
        enough = self._enough(looked_for, neighbours, selves)
        for width in WIDER:
            if enough:
                break
            enough = self._enough(*self._neighbours(self._found(width)))
        if not enough:
            raise TornCopy(f"the index of {self._collection.label} {told} only")
        return looked_for, neighbours

    def _enough(self, looked_for: int, neighbours: int, selves: int) -> bool:
        least = NEIGHBOURS_AT_LEAST if self._searched <= FEW else 0
        return neighbours >= least * looked_for and selves >= THEMSELVES_AT_LEAST * len(self._asked)

    def _neighbours(self, found: list[np.ndarray]) -> tuple[int, int, int]:
        """How many of the nearest neighbours of the sample were looked for, how many of them and how many of the sample
        themselves were found. By distance, not by id: several records may be as near."""
        import numpy as np

        looked_for = neighbours = selves = 0
        for column, vectors in enumerate(found):
            asked, space = self._asked[column : column + 1], self._collection.space
            # What 32-bit floats leave open; a thousandth of the range, where the nearest is at zero.
            limit = float(self._near[:, column].max())
            limit += 1e-4 * max(abs(limit), 1e-3 * float(self._farthest[column]))
            near = np.sort(distances(vectors, asked, space)[:, 0])[: self._number] if len(vectors) else np.empty(0)
            own = float(distances(asked, asked, space)[0, 0]) + 1e-4
            looked_for += self._number
            neighbours += int((near <= limit).sum())
            # By inner product something else may be nearer; then being among the nearest is all there is to ask for.
            selves += bool((near <= own).any())
        return looked_for, neighbours, selves
