"""Opens a Chroma directory with Chroma and compares all of it with the content of its files.

Runs in the worker process. Chroma itself reads every record, page by page, and each is compared with what
`chroma/files.py` read from the files. Ids, documents and metadata must be equal (by the sum of all records' digests).
Vectors are compared exactly, except for the cosine distance, for which Chroma stores them normalized (a relative
1e-5). The neighbours of a sample are searched and compared with those that all vectors give. No embedding function is
loaded and no text is embedded.

Opening a directory changes it, so Chroma opens a copy, and the directory stays as it is. Chroma holds a collection's
whole index in memory, so the copy is opened anew for each collection. Where an index would take more memory than
allowed, Chroma opens the collection without it: Chroma still gives every record, and the index is searched in its file,
along its own links, as Chroma's search does (`chroma/index.py`). So memory stays within the limit at any size. A
collection that was fetched from a server and was too large for an index has none; then Chroma indexes as many of its
first vectors as fit into memory, and neighbours are searched among these.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saju_ops.chroma.comparison import FEWER_THAN_BEFORE, _Compared, _Comparison
from saju_ops.chroma.contents import contents, refuse_other
from saju_ops.chroma.engine import opened
from saju_ops.chroma.files import DATABASE, ChromaFiles, Collection, in_force
from saju_ops.chroma.pages import databases, models, shown_configuration
from saju_ops.chroma.sparse import copy_file
from saju_ops.chroma.vectors import UPSERT, Vectors
from saju_ops.errors import TornCopy

# Bytes that this process takes beside an index (100 MB for 5,000 vectors as for 40,000), and bytes that Chroma takes
# for an index: elements and links at their size in the file, and sixteen times the file's bytes for each id, since two
# of Chroma's tables hold it (76 MB for 20,000 vectors, of which 64 MB elements and 0.7 MB ids).
BESIDE_AN_INDEX, FOR_IDS = 110 << 20, 16
# Chroma's memory for a vector that waits in its queue, while it indexes them: the element, the vector itself and an id
# in a pickle (6.9 kB for a vector of 768 dimensions, with 5,000 to 40,000 of them).
USUAL_ID = 24


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
    judgement = judged(folder, twin, memory_mb=memory_mb)
    refuse_other(expected, judgement["contents"])
    looked_for, neighbours = judgement["neighbours_looked_for"], judgement["neighbours_found"]
    if neighbours < (share - FEWER_THAN_BEFORE) * looked_for:
        raise TornCopy(
            f"its index finds {neighbours} of {looked_for} nearest neighbours; {share:.0%} when it was taken"
        )
    return judgement


def judged(
    folder: Path, twin: Path, *, memory_mb: int | None, digest_vectors: bool = True, keep: bool = False
) -> dict[str, Any]:
    """Reads the twin by Chroma and compares each vector with the folder's files. Removes the twin, unless `keep`.
    Raises TornCopy. `contents` says what Chroma gave; the caller compares it with what the folder holds. Without
    `digest_vectors` the contents lack the digest of vectors, which another process then takes from the same files.

    `memory_mb`: Chroma opens or makes an index only if this process stays below that many MB (None: no limit).
    `searched_in_files` names the collections whose index was searched without Chroma. `not_indexed` names those among
    them that have no index: neighbours were searched only among the vectors for which one was made.
    """
    with ChromaFiles(folder) as files:
        try:
            with opened(twin) as server:
                _same_names(server, files.collections())
            results = [_checked(files, c, twin, memory_mb, digest_vectors) for c in files.collections()]
        finally:
            if not keep:
                shutil.rmtree(twin, ignore_errors=True)
    looked_for = sum(r.neighbours_looked_for for r in results)
    neighbours = sum(r.neighbours_found for r in results)
    return {
        "contents": {"collections": [r.content for r in results]},
        "records_compared": sum(r.content["count"] for r in results),
        "neighbours_looked_for": looked_for,
        "neighbours_found": neighbours,
        "neighbours_share": round(neighbours / looked_for, 4) if looked_for else 1.0,
        "searched_in_files": [r.label for r in results if r.in_files],
        "not_indexed": [r.label for r in results if r.in_files and not r.indexed],
        "chroma_version": version("chromadb"),
    }


def _same_names(server: Any, collections: list[Collection]) -> None:
    tenants = sorted({c.tenant for c in collections} | {"default_tenant"})
    shown = {(t, d, m.name) for t, d in databases(server, tenants) for m in models(server, t, d)}
    if shown != {(c.tenant, c.database, c.name) for c in collections}:
        raise TornCopy("Chroma shows other collections than the database file holds")


def _checked(
    files: ChromaFiles, collection: Collection, twin: Path, memory_mb: int | None, digest_vectors: bool
) -> _Compared:
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
            return _Comparison(server, model, collection, vectors, in_files, some).compared(digest_vectors)
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
    """Gives Chroma an empty index that claims to be complete, since Chroma loads a whole index before it gives any
    record. Rows that the queue keeps only for the index are deleted too: Chroma would read them into memory. `but`:
    numbers of the rows to keep, from which Chroma makes an index."""
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
    # Chroma shows what is written for the index; where that is the default, the segment's metadata apply.
    shown, name = shown_configuration(model), (collection.embedding_function or {}).get("name")
    same = in_force(shown["hnsw"], collection.legacy) == collection.index
    if not same or (name and (shown["embedding_function"] or {}).get("name") != name):
        raise TornCopy(f"Chroma shows another configuration of {collection.label} than its files hold")


# --- one collection --------------------------------------------------------------------------------------------
