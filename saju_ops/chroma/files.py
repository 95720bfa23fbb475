"""Reads a Chroma directory that nobody uses, without Chroma: SQLite by SQLite, the vector index by its bytes.

A snapshot is compared with what this module reads, so it shares no code with what it judges. It says what the directory
holds (every collection, its configuration, every record with its vector), or raises `TornCopy` when the parts don't
belong together. It changes nothing. Never used on a directory that a chatbot has open.

How Chroma 1.5 keeps a directory (by its source, and by directories that it made): a write is acknowledged when it is in
the table `embeddings_queue`. From there Chroma copies it into `embeddings` and `embedding_metadata`, and every thousand
records into the index files, whose progress is in `max_seq_id`. Only then are those rows deleted from the queue. So a
record's text is in the metadata tables or the queue, and its vector in the index files or the queue.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from saju_ops.chroma.index import Index
from saju_ops.chroma.vectors import ADD, DELETE, UPDATE, Vectors, Waiting
from saju_ops.errors import TornCopy
from saju_ops.words import counted

if TYPE_CHECKING:
    import numpy as np

DATABASE = "chroma.sqlite3"
DOCUMENT, URI = "chroma:document", "chroma:uri"
# Chroma keeps metadata whose names begin so, and gives them to nobody.
HIDDEN = "chroma:"
# Where a collection is. Before Chroma 0.4.15 there was one place only.
DATABASES = "databases d ON d.id = c.database_id"
BEFORE_DATABASES = "(SELECT 'default_database' AS name, 'default_tenant' AS tenant_id) d"
# Records read at once, and characters of their texts.
BATCH, BATCH_CHARACTERS = 1_000, 1 << 20
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_MASK = (1 << 256) - 1


@dataclass
class Record:
    document: str | None = None
    uri: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Collection:
    tenant: str
    database: str
    id: str
    name: str
    dimension: int | None
    metadata: dict[str, Any]
    # The parameters with which Chroma makes and searches the index, and those in the metadata of the vectors' segment.
    index: dict[str, Any]
    legacy: dict[str, Any]
    embedding_function: dict[str, Any] | None
    metadata_segment: str
    vector_segment: str

    @property
    def space(self) -> str:
        return str(self.index["space"])

    @property
    def configuration(self) -> dict[str, Any]:
        """In the form that manifests use."""
        hnsw = {name: self.index[name] for name in ("ef_construction", "ef_search", "max_neighbors")}
        return {"space": self.space, "hnsw": hnsw, "embedding_function": self.embedding_function}

    @property
    def label(self) -> str:
        """How messages call it: the name, with its database where that isn't the usual one."""
        usual = (self.tenant, self.database) == ("default_tenant", "default_database")
        return self.name if usual else f"{self.tenant}/{self.database}/{self.name}"


class Digest:
    """A digest of a set of records, whatever the order in which they come: the sum of their SHA-256."""

    def __init__(self) -> None:
        self.count, self._sum = 0, 0

    def add(self, digest: bytes) -> None:
        self.count += 1
        self._sum = (self._sum + int.from_bytes(digest, "big")) & _MASK

    @property
    def hex(self) -> str:
        return f"{self._sum:064x}"


def record_digest(id: str, record: Record) -> bytes:
    """SHA-256 of id, document, URI and metadata; floats by their exact value."""
    value = [id, record.document, record.uri, record.metadata]
    return sha256(_ENCODER.encode(value).encode()).digest()


def vector_digest(id: str, vector: np.ndarray) -> bytes:
    """SHA-256 of the id and the vector as the files hold it: 32-bit floats, little-endian."""
    return sha256(id.encode() + b"\0" + vector.astype("<f4", copy=False).tobytes()).digest()


class ChromaFiles:
    """A directory, opened read-only. Use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / DATABASE
        if not path.is_file():
            raise TornCopy(f"there is no {DATABASE} in it")
        # immutable: nobody else uses it, and no -wal or -shm file may appear beside it.
        self._connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
        try:
            self._check()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise TornCopy(f"its {DATABASE} is damaged ({error})") from None

    def _check(self) -> None:
        (answer,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise TornCopy(f"its {DATABASE} is damaged ({answer})")
        kinds = ("table",)
        self._tables = {n for (n,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type=?", kinds)}
        missing = {"collections", "segments", "embeddings", "embedding_metadata", "embeddings_queue"} - self._tables
        if missing:
            raise TornCopy(f"its {DATABASE} is no Chroma database: it has no table {', '.join(sorted(missing))}")

    def __enter__(self) -> ChromaFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _rows(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _column(self, table: str, name: str) -> str:
        """What to select: NULL where an older Chroma made the table, without that column."""
        found = self._rows("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", table, name).fetchone()
        return name if found else "NULL"

    # --- collections ---------------------------------------------------------------------------------------

    def collections(self) -> list[Collection]:
        config, schema = (self._column("collections", name) for name in ("config_json_str", "schema_str"))
        databases = DATABASES if "databases" in self._tables else BEFORE_DATABASES
        found = self._rows(
            f"SELECT c.id, c.name, c.dimension, {config}, {schema}, d.name, d.tenant_id FROM collections c"  # noqa: S608
            f" JOIN {databases} ORDER BY d.tenant_id, d.name, c.name"
        ).fetchall()
        return [self._collection(*row) for row in found]

    def _collection(
        self, id: str, name: str, dimension: int | None, config: Any, schema: Any, database: str, tenant: str
    ) -> Collection:
        segments = dict(self._rows("SELECT scope, id FROM segments WHERE collection = ?", id).fetchall())
        if set(segments) < {"VECTOR", "METADATA"}:
            raise TornCopy(f"the collection {name} has no segments")
        index, embedding_function = _written(config, schema)
        legacy = self._described("segment", segments["VECTOR"])
        return Collection(
            tenant, database, id, name, dimension=dimension, metadata=self._described("collection", id),
            index=in_force(index, legacy), legacy=legacy, embedding_function=embedding_function,
            metadata_segment=segments["METADATA"], vector_segment=segments["VECTOR"],
        )  # fmt: skip

    def _described(self, what: str, id: str) -> dict[str, Any]:
        """The metadata of a collection or of a segment."""
        table = f"{what}_metadata"
        return {
            key: _value(*values)
            for key, *values in self._rows(
                f"SELECT key, str_value, int_value, float_value, {self._column(table, 'bool_value')} FROM {table}"  # noqa: S608
                f" WHERE {what}_id = ?",
                id,
            )
        }

    # --- records -------------------------------------------------------------------------------------------

    def records(self, collection: Collection) -> Iterator[tuple[str, Record]]:
        """Every record as a reader of the directory will find it: the tables, then what still waits in the queue."""
        waiting = self._waiting(collection, self._reached(collection.metadata_segment))
        changes: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for operation, id, metadata in waiting:
            changes.setdefault(id, []).append((operation, metadata))
        for id, stored in self._stored(collection.metadata_segment):
            record = _changed(stored, changes.pop(id, []))
            if record is not None:
                yield id, record
        for id, operations in changes.items():
            record = _changed(None, operations)
            if record is not None:
                yield id, record

    def _stored(self, segment: str) -> Iterator[tuple[str, Record]]:
        values = self._values("embedding_metadata", segment)
        lists = self._values("embedding_metadata_array", segment)
        numbers = self._rows("SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id", segment)
        for number, id in numbers:
            found: dict[str, Any] = {key: value for _, key, value in values.of(number)}
            several: dict[str, list[Any]] = {}
            for _, key, value in lists.of(number):
                several.setdefault(key, []).append(value)
            yield id, _record({**found, **several})

    def _values(self, table: str, segment: str) -> _Merged:
        """Metadata, by the record's number. That of lists is a newer table, which old directories lack."""
        if table not in self._tables:
            return _Merged(iter(()))
        rows = self._rows(
            f"SELECT m.id, m.key, m.string_value, m.int_value, m.float_value, {self._column(table, 'bool_value')}"  # noqa: S608
            f" FROM embeddings e JOIN {table} m ON m.id = e.id WHERE e.segment_id = ? ORDER BY e.id, m.rowid",
            segment,
        )
        return _Merged((number, key, _value(*values)) for number, key, *values in rows)

    def refuse_lost_rows(self) -> None:
        """Rows are found by their table's indexes. Raises TornCopy where one of these lacks some."""
        for table in ("embeddings", "embedding_metadata"):
            indexes = self._rows("SELECT name FROM pragma_index_list(?) WHERE partial = 0", table).fetchall()
            for (index,) in indexes:
                by_index = 'INDEXED BY "' + index.replace('"', '""') + '"'
                whole, found = (
                    self._rows(f"SELECT COUNT(*) FROM {table} {how}").fetchone()[0]  # noqa: S608
                    for how in ("NOT INDEXED", by_index)
                )
                if whole != found:
                    raise TornCopy(f"an index of its {DATABASE} has {found} of {counted(whole, 'row')} of {table}")

    def has_an_id_twice(self, collection: Collection) -> bool:
        """In the tables: a table without its index can hold that. What the queue holds counts once for each id."""
        return self._rows(
            "SELECT 1 FROM embeddings WHERE segment_id = ? GROUP BY embedding_id HAVING COUNT(*) > 1 LIMIT 1",
            collection.metadata_segment,
        ).fetchone() is not None  # fmt: skip

    def last_write(self, collection: Collection) -> int:
        """The number of the last write to it that the directory knows of."""
        (waiting,) = self._rows(
            "SELECT COALESCE(MAX(seq_id), 0) FROM embeddings_queue WHERE topic LIKE ? ESCAPE '!'", "%/" + collection.id
        ).fetchone()
        segments = (collection.metadata_segment, collection.vector_segment)
        return max(int(waiting), *(self._reached(segment) for segment in segments))

    def _waiting(self, collection: Collection, reached: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Operation, id and metadata of the queue's rows beyond `reached`, in order. They are few: Chroma copies what
        it acknowledged into its tables at once, even if it has not indexed it yet."""
        for operation, id, metadata in self._rows(
            "SELECT operation, id, metadata FROM embeddings_queue WHERE topic LIKE ? ESCAPE '!' AND seq_id > ?"
            " ORDER BY seq_id",
            "%/" + collection.id,
            reached,
        ):
            yield operation, id, json.loads(metadata) if metadata else {}

    def _reached(self, segment: str) -> int:
        """The number of the last write that the segment holds."""
        row = self._rows("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", segment).fetchone()
        if row is None:
            return 0
        # Old versions kept it as big-endian bytes.
        return int.from_bytes(row[0], "big") if isinstance(row[0], bytes) else int(row[0])

    # --- vectors -------------------------------------------------------------------------------------------

    def vectors(self, collection: Collection) -> Vectors:
        """Raises TornCopy where index files are cut, inconsistent or of different ages."""
        folder = self.folder / collection.vector_segment
        reached = self._reached(collection.vector_segment)
        index = Index(folder, collection) if (folder / "index_metadata.pickle").exists() else None
        if index is None and reached:
            raise TornCopy(f"the index files of the collection {collection.name} are missing")
        if index is not None and index.names.legacy_reached is not None:
            reached = max(reached, index.names.legacy_reached)
        return Vectors(index, Waiting(self._connection, collection, reached, index))

    def index_folders(self) -> list[str]:
        return [n for (n,) in self._rows("SELECT id FROM segments WHERE scope = 'VECTOR' ORDER BY id")]


class _Merged:
    """Values in the order of their records' numbers, those of one record at a time."""

    def __init__(self, values: Iterator[tuple[int, str, Any]]) -> None:
        self._values = values
        self._next = next(values, None)

    def of(self, number: int) -> Iterator[tuple[int, str, Any]]:
        while self._next is not None and self._next[0] == number:
            yield self._next
            self._next = next(self._values, None)


def _value(text: Any, whole: Any, real: Any, flag: Any) -> Any:
    if text is not None:
        return text
    if whole is not None:
        return whole
    return real if real is not None else None if flag is None else bool(flag)


def _record(found: dict[str, Any]) -> Record:
    shown = {k: v for k, v in found.items() if v is not None and not k.startswith(HIDDEN)}
    return Record(found.get(DOCUMENT), found.get(URI), shown)


def _changed(record: Record | None, operations: list[tuple[int, dict[str, Any]]]) -> Record | None:
    """The record after the operations that wait for it, by Chroma's rules: adding an existing record changes nothing,
    an update merges, and a null deletes the key."""
    for operation, metadata in operations:
        if operation == DELETE:
            record = None
        elif record is None:
            record = None if operation == UPDATE else _record({k: v for k, v in metadata.items() if v is not None})
        elif operation != ADD:
            everything = {DOCUMENT: record.document, URI: record.uri, **record.metadata, **metadata}
            record = _record({k: v for k, v in everything.items() if v is not None})
    return record


def _written(config: str | None, schema: str | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the database file says of an index, and the embedding function, wherever this version of Chroma keeps them.
    What Chroma 0.5.5 to 0.6 wrote there (`hnsw_configuration`) no version uses, nor did those."""
    if schema:
        index = json.loads(schema)["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
        return {**(index.get("hnsw") or {}), "space": index.get("space")}, index.get("embedding_function")
    loaded = json.loads(config or "{}")
    return (loaded.get("vector_index") or {}).get("hnsw") or {}, loaded.get("embedding_function")


# Chroma's defaults.
USUAL_INDEX = {
    "space": "l2", "ef_construction": 100, "ef_search": 100, "max_neighbors": 16, "resize_factor": 1.2,
    "sync_threshold": 1000,
}  # fmt: skip
# How a segment's metadata call these. Before Chroma 1.0 there was no other place for them.
LEGACY_INDEX = {
    "hnsw:space": "space", "hnsw:construction_ef": "ef_construction", "hnsw:search_ef": "ef_search",
    "hnsw:M": "max_neighbors", "hnsw:resize_factor": "resize_factor", "hnsw:sync_threshold": "sync_threshold",
}  # fmt: skip


def in_force(written: dict[str, Any], legacy: dict[str, Any]) -> dict[str, Any]:
    """The parameters with which Chroma makes and searches an index: those written or shown for the index, or, where
    they are missing or the default, those in the metadata of the vectors' segment."""
    index = {name: usual if written.get(name) is None else written[name] for name, usual in USUAL_INDEX.items()}
    if index == USUAL_INDEX:
        index.update({name: legacy[key] for key, name in LEGACY_INDEX.items() if legacy.get(key) is not None})
    return index


def damage(folder: Path) -> str:
    """What SQLite finds wrong with the database file of a folder that nobody uses, indexes too; nothing: ''. It takes
    some times as long as the look that each copy gets."""
    try:
        uri = f"file:{quote(str(folder / DATABASE))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if answer == "ok" else str(answer).splitlines()[-1]


# --- contents, in the form that manifests use ------------------------------------------------------------------
