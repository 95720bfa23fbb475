"""Everything that a Chroma server holds, into a folder of Chroma's own format. Runs in the worker process.

A server offers no snapshot. So collections are read page by page, and read again until a whole pass finds no change.
Every record that existed before the first pass and did not change is in the folder. A server that is written to all the
time gives what the last pass saw, and the answer says how many records were changing.

Memory: 180 MB, at any size. Chroma's own code writes the folder, and would make each collection's index in memory, 4 KB
for a vector. So the folder first claims that its indexes are complete: documents and metadata are written into their
tables, and vectors stay in the queue, where Chroma keeps what it acknowledged and has not indexed yet. At the end the
claim is removed. Then an index is made for each collection that fits into memory (`make_indexes`); Chroma makes the
others when it opens them for the first time, as it does after every crash.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from saju_ops.chroma.check import memory_of
from saju_ops.chroma.contents import batched
from saju_ops.chroma.engine import opened, writable
from saju_ops.chroma.files import DATABASE, ChromaFiles, record_digest
from saju_ops.chroma.floats import ExactFloats
from saju_ops.chroma.pages import INCLUDE, Row, models, rows_of
from saju_ops.chroma.scratch_database import ScratchDatabase
from saju_ops.chroma.server import (
    REMOTE_BYTES,
    REMOTE_PAGE,
    TENANT,
    connect,
    create,
    drop_answers,
    make_database,
    server_databases,
    settings_of,
    weight,
    write,
)
from saju_ops.errors import TornCopy
from saju_ops.words import counted

# Reads of everything: the first fetches, the second confirms, the others pick up records that changed meanwhile.
PASSES = 5
# Records of the first page of a collection, from which the size of its records is known; and ids asked for by name.
FIRST_PAGE = 20
# The number of a write that comes after all others.
AHEAD = 1 << 62

Key = tuple[str, str]


def fetch_server(host: str, port: int, target: Path, **login: Any) -> dict[str, Any]:
    """Everything of the tenant into a new folder, in Chroma's own format. `login`: what `connect` takes besides."""
    server = connect(host, port, **login)
    target.mkdir(mode=0o700)
    held = _Held()
    moving, passes = 0, 0
    with _folder_that_makes_no_index(target, held.floats) as local:
        for passes in range(1, PASSES + 1):
            moving = _Pass(server, local, held, passes).changed()
            if passes > 1 and not moving:
                break
    _compare(target, held)
    return {
        "passes": passes,
        "records_moving": moving,
        "server_version": server.get_version(),
        "databases": sorted({database for database, _ in held.collections}),
        "lists_databases": held.lists_databases,
    }


def make_indexes(folder: Path, memory_mb: int) -> None:
    """Has Chroma index the vectors that wait, if this process then stays below that many MB. Collections with fewer
    records than their `sync_threshold` still wait, as usual."""
    with ChromaFiles(folder) as files:
        waiting = [(c, files.vectors(c)) for c in files.collections()]
        fit = [c for c, v in waiting if v.waiting and memory_of(files, c, v) <= memory_mb << 20]
    for collection in fit:
        with opened(folder) as engine:
            where = {"tenant": collection.tenant, "database": collection.database}
            # Any query makes Chroma index first what waits in the queue.
            engine.count(engine.get_collection(collection.name, **where).id, **where)


# --- the folder ------------------------------------------------------------------------------------------------


@contextmanager
def _folder_that_makes_no_index(folder: Path, floats: ExactFloats) -> Iterator[Any]:
    with writable(folder):
        pass  # makes its tables
    with _database(folder) as connection:
        configured = connection.execute("SELECT id, config_json_str FROM embeddings_queue_config").fetchall()
        for id, text in configured:
            kept = json.dumps({**json.loads(text), "automatically_purge": False})
            connection.execute("UPDATE embeddings_queue_config SET config_json_str = ? WHERE id = ?", (kept, id))
        connection.execute(
            "CREATE TRIGGER saju_ops_ahead AFTER INSERT ON segments WHEN NEW.scope = 'VECTOR'"  # noqa: S608 (a number)
            f" BEGIN INSERT INTO max_seq_id (segment_id, seq_id) VALUES (NEW.id, {AHEAD}); END"
        )
    with writable(folder) as local:
        yield local
    with _database(folder) as connection:
        connection.execute("DROP TRIGGER saju_ops_ahead")
        connection.execute("DELETE FROM max_seq_id WHERE seq_id = ?", (AHEAD,))
        connection.executemany("UPDATE embeddings_queue_config SET config_json_str = ?2 WHERE id = ?1", configured)
        _tidy_queue(connection)
        floats.write(connection)
        connection.execute("COMMIT")
        connection.execute("VACUUM")
        connection.execute("BEGIN")
    for left in folder.iterdir():
        # Without names, it is room that was made for an index.
        if left.is_dir() and not (left / "index_metadata.pickle").exists():
            shutil.rmtree(left)


@contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    """Never while Chroma has the folder open in this process: closing it would drop Chroma's locks."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def _tidy_queue(connection: sqlite3.Connection) -> None:
    """Deletes from the queue what belongs to no collection any more, and what the tables already hold."""
    connection.execute(
        "DELETE FROM embeddings_queue WHERE REPLACE(topic, RTRIM(topic, REPLACE(topic, '/', '')), '')"
        " NOT IN (SELECT id FROM collections)"
    )
    reached = connection.execute(
        "SELECT s.collection, m.seq_id FROM segments s JOIN max_seq_id m ON m.segment_id = s.id"
        " WHERE s.scope = 'METADATA'"
    ).fetchall()
    for collection, number in reached:
        connection.execute(
            "UPDATE embeddings_queue SET metadata = NULL WHERE topic LIKE ? ESCAPE '!' AND seq_id <= ?",
            ("%/" + collection, number),
        )


def _compare(folder: Path, held: _Held) -> None:
    """The folder, read without Chroma, holds each record as the server showed it. Raises TornCopy."""
    with ChromaFiles(folder) as files:
        for collection in files.collections():
            vectors, count, differ = files.vectors(collection), 0, 0
            for some in batched(files.records(collection), FIRST_PAGE):
                found = vectors.of([id for id, _ in some])
                shown = held.of(collection.id, [id for id, _ in some])
                rows = [(id, record, vector) for (id, record), vector in zip(some, found, strict=True)]
                differ += sum(row[0] not in shown or shown[row[0]][0] != _digest(row) for row in rows)
                count += len(rows)
            if differ or count != held.count(collection.id):
                raise TornCopy(
                    f"Chroma keeps {counted(differ, 'record')} of {collection.label} in its own folder otherwise than"
                    f" the server shows them, missing or too many: {abs(count - held.count(collection.id))}"
                )


# --- reading ---------------------------------------------------------------------------------------------------


class _Held:
    """What the folder holds: the digest of every record, and the pass that saw it last."""

    def __init__(self) -> None:
        # By database and name, the collection in the folder.
        self.collections: dict[Key, Any] = {}
        # Ids of collections in the folder that something was written to.
        self.begun: set[str] = set()
        # Whether the server says which databases it has.
        self.lists_databases = True
        self._records = ScratchDatabase(
            "CREATE TABLE held (collection TEXT, id TEXT, digest BLOB, seen INTEGER, PRIMARY KEY (collection, id))"
            " WITHOUT ROWID",
            "the ids of a server's records",
        )
        self.floats = ExactFloats()

    def count(self, collection: str) -> int:
        return int(self._records.execute("SELECT COUNT(*) FROM held WHERE collection = ?", (collection,)).fetchone()[0])

    def of(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[bytes, int]]:
        marks = ",".join("?" * len(ids))
        asked = f"SELECT id, digest, seen FROM held WHERE collection = ? AND id IN ({marks})"  # noqa: S608
        return {id: (digest, seen) for id, digest, seen in self._records.execute(asked, (collection, *ids))}

    def keep(self, collection: str, number: int, digests: dict[str, bytes]) -> None:
        rows = ((collection, id, digest, number) for id, digest in digests.items())
        with self._records.transaction():
            self._records.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", rows)

    def not_seen(self, collection: str, number: int) -> Iterator[list[str]]:
        """Ids that no page of this pass has shown, some at a time. What is asked for meanwhile may be forgotten."""
        last = ""
        while True:
            some = self._records.execute(
                "SELECT id FROM held WHERE collection = ? AND seen < ? AND id > ? ORDER BY id LIMIT ?",
                (collection, number, last, FIRST_PAGE),
            ).fetchall()
            if not some:
                return
            last = some[-1][0]
            yield [id for (id,) in some]

    def forget(self, collection: str, ids: Sequence[str]) -> None:
        asked = "DELETE FROM held WHERE collection = ? AND id = ?"
        self._records.executemany(asked, ((collection, id) for id in ids))

    def forget_all(self, collection: str) -> int:
        """Returns how many there were."""
        return self._records.execute("DELETE FROM held WHERE collection = ?", (collection,)).rowcount


class _Pass:
    """Brings the folder to the server's present state."""

    def __init__(self, server: Any, local: Any, held: _Held, number: int) -> None:
        self._server, self._local, self._held, self._number = server, local, held, number

    def changed(self) -> int:
        """How many records and collections differed."""
        changed, there = 0, set[Key]()
        found, self._held.lists_databases = server_databases(self._server)
        for tenant, database in found:
            make_database(self._local, tenant, database)
            for model in models(self._server, tenant, database):
                there.add((database, model.name))
                changed += self._fetch(model, database)
        for key in self._held.collections.keys() - there:
            changed += 1 + self._drop(key)
        return changed

    def _drop(self, key: Key) -> int:
        mine = self._held.collections.pop(key)
        self._local.delete_collection(key[1], tenant=TENANT, database=key[0])
        return self._held.forget_all(str(mine.id))

    def _fetch(self, model: Any, database: str) -> int:
        key = (database, model.name)
        mine = self._held.collections.get(key)
        if mine is not None and not _same_collection(mine, model):
            self._drop(key)
            mine = None
        if mine is None:
            mine = create(self._local, model, model.name, TENANT, database)
            self._held.collections[key] = mine
        changed = 0
        for page in _pages(self._server, model, database):
            changed += self._take(mine, database, page)
        # Deletions shift the pages behind them, so a record that a pass did not show may be there nevertheless.
        for ids in self._held.not_seen(str(mine.id), self._number):
            page = rows_of(self._server.get(model.id, ids=ids, include=INCLUDE, tenant=TENANT, database=database))
            changed += self._take(mine, database, page)
            gone = sorted(set(ids) - {row[0] for row in page})
            if gone:
                self._local._delete(mine.id, ids=gone, tenant=TENANT, database=database)
                self._held.forget(str(mine.id), gone)
            changed += len(gone)
        return changed

    def _take(self, mine: Any, database: str, page: list[Row]) -> int:
        """A page may show a record again that a deletion moved: records that this pass has seen are not taken again."""
        held = self._held.of(str(mine.id), [row[0] for row in page])
        shown = [row for row in page if row[0] not in held or held[row[0]][1] != self._number]
        digests = {row[0]: _digest(row) for row in shown}
        fresh = [row for row in shown if row[0] not in held or held[row[0]][0] != digests[row[0]]]
        # An upsert would leave metadata fields that are gone.
        again = [row[0] for row in fresh if row[0] in held]
        if again:
            self._local._delete(mine.id, ids=again, tenant=TENANT, database=database)
        self._write(mine, database, fresh)
        self._held.floats.keep(str(mine.id), fresh)
        self._held.keep(str(mine.id), self._number, digests)
        return len(fresh)

    def _write(self, mine: Any, database: str, rows: list[Row]) -> None:
        """Chroma obeys the folder's claim about an index from the second write on. So the first write has one record,
        for which Chroma writes no index: `sync_threshold` is 2 or more."""
        if rows and str(mine.id) not in self._held.begun:
            self._held.begun.add(str(mine.id))
            write(self._local, mine.id, TENANT, database, rows[:1])
            rows = rows[1:]
        write(self._local, mine.id, TENANT, database, rows)


def _same_collection(mine: Any, theirs: Any) -> bool:
    return (mine.metadata or {}) == (theirs.metadata or {}) and settings_of(mine) == settings_of(theirs)


def _digest(row: Row) -> bytes:
    id, record, vector = row
    return sha256(record_digest(id, record) + vector.tobytes()).digest()


def _pages(server: Any, model: Any, database: str) -> Iterator[list[Row]]:
    """Every record, in the order in which the server keeps them. The next page is fetched by another thread while one
    is looked at. Pages are as large as REMOTE_BYTES allow."""

    def fetch(offset: int, size: int) -> Any:
        return server.get(
            model.id, limit=size, offset=offset, include=INCLUDE, tenant=TENANT, database=database
        )  # fmt: skip

    offset, size = 0, FIRST_PAGE
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(fetch, offset, size)
        while True:
            rows = rows_of(coming.result())
            last = len(rows) < size
            if not last:
                offset += size
                size = max(1, min(REMOTE_PAGE, len(rows) * REMOTE_BYTES // sum(map(weight, rows))))
                coming = thread.submit(fetch, offset, size)
            if rows:
                yield rows
            if last:
                return
            del rows
            drop_answers()
