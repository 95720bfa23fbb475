"""Compares a copy's collections with what was listed: records exactly, neighbours with a tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saju_ops.chroma.contents import characters_of, described
from saju_ops.chroma.files import Collection, Digest, record_digest, vector_digest
from saju_ops.chroma.index import LONGEST, SHORTEST, measurable
from saju_ops.chroma.pages import INCLUDE, PAGE, RECORDS, Row, pages
from saju_ops.chroma.vectors import Vectors, distances
from saju_ops.errors import TornCopy
from saju_ops.words import counted

if TYPE_CHECKING:
    import numpy as np


# Numbers in the vectors of a page, characters in its texts, and records in the first pages of a collection, from which
# the length of its texts is known.
PAGE_NUMBERS, PAGE_CHARACTERS, FIRST_PAGES = 250 * 768, 1 << 20, 25
# Ids in a page that holds nothing else.
IDS = 5_000
SAMPLE, PLACES, NEAREST = 20, 5, 10
# How many of the nearest vectors are kept during a second and a third search. An index with small parameters finds too
# few with its own (100 by default). Chroma can't answer with more than some 30,000.
WIDER = (1_000, 20_000)
# A sound index found 94 to 100 of 100 vectors when asked for themselves. How many of the ten nearest it finds depends
# on the data and, for the hardest data, on their number: all of them for texts' vectors; for random vectors in 768
# dimensions 68 of 100 among 12,000, 58 among 20,000, 25 among 100,000. So the first share has a strict limit at any
# size, and the second a loose one up to FEW records; both are compared with what the same snapshot found when it was
# taken.
THEMSELVES_AT_LEAST, NEIGHBOURS_AT_LEAST, FEW, FEWER_THAN_BEFORE = 0.8, 0.3, 20_000, 0.15


@dataclass(frozen=True)
class _Compared:
    """`content` holds digests of the records that Chroma gave, and of their vectors as the files hold them."""

    label: str
    content: dict[str, Any]
    neighbours_looked_for: int
    neighbours_found: int
    in_files: bool
    indexed: bool


def same_vectors(stored: np.ndarray, given: np.ndarray, space: str) -> bool:
    """Row by row: exactly, except for the cosine distance, where both were normalized and multiplied by their length
    again in 32-bit floats. For a vector too short or too long for that, Chroma reports at best that it is so."""
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


class _Comparison:
    """Compares a collection as Chroma gives it with the vectors in the files, in one pass, without holding anything for
    each record."""

    def __init__(
        self, server: Any, model: Any, collection: Collection, vectors: Vectors, in_files: bool, some: list[int]
    ) -> None:  # fmt: skip
        """`some`: the numbers in the queue of the only vectors of which Chroma makes an index."""
        import numpy as np

        self._server, self._model, self._collection, self._vectors = server, model, collection, vectors
        self._in_files = in_files
        self._last = some[-1] if some else None
        self._where = {"tenant": collection.tenant, "database": collection.database}
        self._count = int(server.count(model.id, **self._where))
        self._searched = len(some) if in_files and not vectors.indexed else self._count
        self._number = min(NEAREST, self._searched)
        spread = some[:: max(1, len(some) // SAMPLE)][:SAMPLE]
        sample = vectors.queue.named(spread) if some else self._sample() if self._number else []
        asked = vectors.of(sample if collection.dimension else [])
        self._asked = asked[measurable(np.linalg.norm(asked.astype("<f8"), axis=1))]
        self._largest = max(1, min(PAGE, PAGE_NUMBERS // (collection.dimension or 1)))
        self._page = min(FIRST_PAGES, self._largest)
        # For each vector of the sample: the distances of the nearest among all vectors, and that of the farthest.
        self._near = np.full((self._number, len(self._asked)), np.inf)
        self._farthest = np.zeros(len(self._asked))

    def _sample(self) -> list[str]:
        """From PLACES places: Chroma counts its way to each."""
        some = SAMPLE // PLACES
        last = max(self._count - some, 0)
        offsets = sorted({last * n // (PLACES - 1) for n in range(PLACES)})
        return list(dict.fromkeys(id for offset in offsets for id in self._ids(offset, some)))

    def _ids(self, offset: int, limit: int) -> list[str]:
        return list(self._server.get(self._model.id, limit=limit, offset=offset, include=[], **self._where)["ids"])

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

    def compared(self, digest_vectors: bool) -> _Compared:
        # The index comes first: it is the part that is torn most often.
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
        return _Compared(c.label, content, looked_for, neighbours, self._in_files, self._vectors.indexed)

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
        """For each vector of the sample, those that the index finds nearest to it: by Chroma, or in its files. `width`:
        how many are kept during the search; the collection's own number by default."""
        if not len(self._asked):
            return []
        if self._in_files and self._last is None:
            return self._vectors.nearest(self._asked, self._number, width or int(self._collection.index["ef_search"]))
        return [
            self._vectors.of(answer[: self._number])
            # As many as are asked for are kept on the way, so one at a time.
            for some in ([self._asked] if width is None else self._asked[:, None])
            for answer in self._server.query(
                self._model.id, query_embeddings=some.tolist(), n_results=min(width or self._number, self._searched),
                include=["distances"], **self._where,
            )["ids"]
        ]  # fmt: skip

    def _judged(self, found: list[np.ndarray]) -> tuple[int, int]:
        """How many nearest neighbours of the sample were searched and how many the index found. Raises TornCopy where
        they are too few in a wide search too: an index with few links finds few in a narrow search, and is sound; an
        index whose links are broken finds few in any."""
        looked_for, neighbours, selves = self._neighbours(found)
        vectors = counted(len(found), "vector")
        found_so_many = f"finds {neighbours} of {looked_for} nearest neighbours and {selves} of {vectors} themselves"
        enough = self._enough(looked_for, neighbours, selves)
        for width in WIDER:
            if enough:
                break
            enough = self._enough(*self._neighbours(self._found(width)))
        if not enough:
            raise TornCopy(f"the index of {self._collection.label} {found_so_many} only")
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
