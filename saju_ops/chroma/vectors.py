"""The vectors of one collection of a Chroma directory: its index files, and the writes that wait in Chroma's queue.

A vector waits in the queue from its acknowledgement until the index is written, every `sync_threshold` records. In a
folder that was fetched from a server and has no index yet, all of them wait. They are read from the queue on demand; a
`ScratchDatabase` holds only the id and the queue number of each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from saju_ops.chroma.index import Described, Index
from saju_ops.chroma.names import ASKED_AT_ONCE
from saju_ops.chroma.scratch_database import ScratchDatabase
from saju_ops.errors import TornCopy

if TYPE_CHECKING:
    import numpy as np

# The operations of the queue, by their numbers there.
ADD, UPDATE, UPSERT, DELETE = range(4)


class Queued(Described, Protocol):
    """What the queue needs to know of a collection."""

    @property
    def id(self) -> str: ...


class Waiting:
    """The queue's rows beyond `reached`, as Chroma will put them into the index: adding an existing id changes nothing,
    nor does updating a missing one."""

    def __init__(self, connection: sqlite3.Connection, collection: Queued, reached: int, index: Index | None) -> None:
        self._connection, self._index, self.space = connection, index, collection.space
        # Without a number: deleted.
        self._ids = ScratchDatabase(
            "CREATE TABLE waiting (id TEXT PRIMARY KEY, seq_id INTEGER) WITHOUT ROWID", "the ids that wait in a queue"
        )
        with self._ids.transaction():
            self._take(collection, reached)
        ((self.changed, self.count),) = self._ids.execute("SELECT COUNT(*), COUNT(seq_id) FROM waiting")

    def _take(self, collection: Queued, reached: int) -> None:
        for number, operation, id, size, encoding in self._connection.execute(
            # SQLite knows the length of a blob without reading it.
            "SELECT seq_id, operation, id, LENGTH(vector), encoding FROM embeddings_queue"
            " WHERE topic LIKE ? ESCAPE '!' AND seq_id > ? ORDER BY seq_id",
            ("%/" + collection.id, reached),
        ):
            if operation == DELETE:
                self._ids.execute("INSERT OR REPLACE INTO waiting VALUES (?, NULL)", (id,))
                continue
            if size is None:
                continue
            if encoding not in (None, "FLOAT32"):
                raise TornCopy(f"a vector of {collection.name} is encoded as {encoding}, which is not known")
            if size % 4 or size != 4 * (collection.dimension or size // 4):
                raise TornCopy(f"a vector of {collection.name} that waits in the queue has {size / 4:g} dimensions")
            if operation == UPSERT or self._there(id) == (operation == UPDATE):
                self._ids.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?)", (id, number))

    def _there(self, id: str) -> bool:
        row = self._ids.execute("SELECT seq_id FROM waiting WHERE id = ?", (id,)).fetchone()
        return row[0] is not None if row else self._in_index(id)

    def _in_index(self, id: str) -> bool:
        return self._index is not None and id in self._index.names

    def more_than_the_index(self) -> int:
        """By how many vectors the collection has more than its index."""
        more = 0
        for id, number in self._ids.execute("SELECT id, seq_id FROM waiting"):
            more += (number is not None) - self._in_index(id)
        return more

    def of(self, ids: Sequence[str]) -> dict[str, np.ndarray | None]:
        """Vectors of those ids that wait, or None for an id that is deleted."""
        import numpy as np

        if not self.changed:
            return {}
        found: dict[str, np.ndarray | None] = {}
        for start in range(0, len(ids), ASKED_AT_ONCE):
            some = ids[start : start + ASKED_AT_ONCE]
            marks = ",".join("?" * len(some))
            asked = f"SELECT id, seq_id FROM waiting WHERE id IN ({marks})"  # noqa: S608
            numbers = dict(self._ids.execute(asked, some))
            vectors = self._read([number for number in numbers.values() if number is not None])
            found.update((id, np.frombuffer(vectors[n], "<f4") if n is not None else None) for id, n in numbers.items())
        return found

    def _read(self, numbers: Sequence[int]) -> dict[int, bytes]:
        marks = ",".join("?" * len(numbers))
        asked = f"SELECT seq_id, vector FROM embeddings_queue WHERE seq_id IN ({marks})"  # noqa: S608
        return dict(self._connection.execute(asked, numbers))

    def first(self, count: int) -> list[int]:
        """The numbers in the queue of so many that wait, the first ones."""
        asked = "SELECT seq_id FROM waiting WHERE seq_id IS NOT NULL ORDER BY seq_id LIMIT ?"
        return [number for (number,) in self._ids.execute(asked, (count,))]

    def named(self, numbers: Sequence[int]) -> list[str]:
        """Their ids."""
        return [self._ids.execute("SELECT id FROM waiting WHERE seq_id = ?", (n,)).fetchone()[0] for n in numbers]

    def until(self, ids: Sequence[str], last: int) -> list[bool]:
        """For each id, whether it waits with a number of at most `last`."""
        found: set[str] = set()
        for start in range(0, len(ids), ASKED_AT_ONCE):
            some = ids[start : start + ASKED_AT_ONCE]
            asked = f"SELECT id FROM waiting WHERE seq_id <= ? AND id IN ({','.join('?' * len(some))})"  # noqa: S608
            found.update(id for (id,) in self._ids.execute(asked, (last, *some)))
        return [id in found for id in ids]

    def pages(self) -> Iterator[np.ndarray]:
        """Every vector that waits, some rows at a time."""
        import numpy as np

        numbers = self._ids.execute("SELECT seq_id FROM waiting WHERE seq_id IS NOT NULL ORDER BY seq_id")
        while some := [number for (number,) in numbers.fetchmany(ASKED_AT_ONCE)]:
            yield np.stack([np.frombuffer(vector, "<f4") for vector in self._read(some).values()])

    def changed_elements(self) -> np.ndarray | None:
        """For each element of the index, whether the queue has its id too. None if it has none of them."""
        import numpy as np

        if self._index is None or not self.changed:
            return None
        marked = np.zeros(len(self._index), bool)
        ids = self._ids.execute("SELECT id FROM waiting")
        while some := [id for (id,) in ids.fetchmany(ASKED_AT_ONCE)]:
            marked[self._index.elements([id for id in some if self._in_index(id)])] = True
        return marked if marked.any() else None


class Vectors:
    """Vectors by id."""

    def __init__(self, index: Index | None, waiting: Waiting) -> None:
        self._index, self.queue = index, waiting

    @property
    def indexed(self) -> bool:
        """Whether there is an index at all, or there is nothing to make one of."""
        return self._index is not None or not self.queue.count

    @property
    def waiting(self) -> int:
        return self.queue.count

    @property
    def upper_bytes(self) -> int:
        """What the index has of links above the lowest level."""
        return self._index.upper_bytes if self._index else 0

    def __len__(self) -> int:
        return (len(self._index.names) if self._index else 0) + self.queue.more_than_the_index()

    def nearest(self, asked: np.ndarray, number: int, width: int) -> list[np.ndarray]:
        """For each row of `asked` some vectors, among them the `number` that are found nearest to it: in the index by
        its own links, keeping `width` on the way, and by looking at all that wait in the queue, which Chroma will put
        into the index when it opens it."""
        import numpy as np

        found = self._nearest_waiting(asked, number)
        if self._index is None:
            return found
        besides = self.queue.changed_elements()
        searched = [self._index.nearest(one, number, width, besides) for one in asked]
        return [np.concatenate(both) for both in zip(searched, found, strict=True)]

    def _nearest_waiting(self, asked: np.ndarray, number: int) -> list[np.ndarray]:
        import numpy as np

        vectors = [np.empty((0, asked.shape[1]), "<f4") for _ in asked]
        far = [np.empty(0) for _ in asked]
        for page in self.queue.pages():
            for n, column in enumerate(distances(page, asked, self.queue.space).T):
                both = np.concatenate([far[n], column])
                nearest = np.argsort(both, kind="stable")[:number]
                far[n], vectors[n] = both[nearest], np.concatenate([vectors[n], page])[nearest]
        return vectors

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Their vectors as they were given to Chroma, a row each. Raises KeyError where one has none."""
        import numpy as np

        if not ids:
            return np.empty((0, 0), "<f4")
        over = self.queue.of(ids)
        gone = [id for id, vector in over.items() if vector is None]
        kept = [n for n, id in enumerate(ids) if id not in over]
        if gone or (kept and self._index is None):
            raise KeyError(gone[0] if gone else ids[kept[0]])
        found = self._index.of([ids[n] for n in kept]) if kept and self._index is not None else None
        if found is not None and not over:
            return found
        width = found.shape[1] if found is not None else len(next(v for v in over.values() if v is not None))
        whole = np.empty((len(ids), width), "<f4")
        if found is not None:
            whole[kept] = found
        for n, id in enumerate(ids):
            if id in over:
                whole[n] = over[id]
        return whole


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
