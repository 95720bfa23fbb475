"""Reads one vector index of a Chroma directory from its files, and searches it there.

It shares no code with Chroma. An index is five files (Chroma's build of hnswlib, persistence version 1): the elements
with their vectors and links (`data_level0.bin`), the links above (`link_lists.bin`), the vectors' lengths, a header,
and a pickle that says which id has which label. Opening one reads it whole and raises TornCopy where its parts don't
belong together.

Memory: 30 MB, and some 30 bytes a vector. Vectors stay in the file, names in a `ScratchDatabase`.
"""

from __future__ import annotations

import heapq
import os
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from saju_ops.chroma.names import Names
from saju_ops.errors import TornCopy

if TYPE_CHECKING:
    import numpy as np

INDEX_FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle")
_HEADER = struct.Struct("<iQQQQQQiIQQQdQ")
# In the first word of an element: how many links it has, and whether it is deleted.
_DEGREE, _DELETED = 0xFFFF, 0x10000
# What reading a cut or altered file raises.
_DAMAGE = (
    struct.error, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, OverflowError,
)  # fmt: skip
# Bytes of an index read at once.
AT_ONCE = 16 << 20
# Bytes of the links above read at once, mostly four for an element.
UPPER_AT_ONCE = 1 << 20
# Where an index has so few vectors and more than this share of its elements are deleted, Chroma looks at each element:
# the few links that are left connect too little.
LOOKED_AT_EACH, DELETED_SHARE = 100, 0.2
# The lengths of vectors that 32-bit floats can be squared and divided by. Chroma's arithmetic makes nothing, rubbish or
# no number at all of the direction of shorter and longer ones, which a collection may hold nevertheless.
SHORTEST, LONGEST = 1e-18, 1e18


class Described(Protocol):
    """The collection's properties that an index needs."""

    @property
    def name(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def dimension(self) -> int | None: ...


class Index:
    """The files of one index, checked as a whole. Elements are called by their place in the file, from 0."""

    def __init__(self, folder: Path, collection: Described) -> None:
        self._what = f"the index of the collection {collection.name}"
        self._space = collection.space
        try:
            header = _HEADER.unpack(_start_of(folder / "header.bin", _HEADER.size + 1))
            self.names = Names(folder / "index_metadata.pickle")
            self._read(folder, header)
        except FileNotFoundError as error:
            raise TornCopy(f"{self._what} has no file {Path(str(error.filename)).name}") from None
        except _DAMAGE as error:
            raise TornCopy(f"{self._what} is cut or damaged ({type(error).__name__})") from None
        if collection.dimension is not None and self.dimension != collection.dimension:
            raise TornCopy(f"{self._what} has {self.dimension} dimensions, the collection {collection.dimension}")

    def _read(self, folder: Path, header: tuple[Any, ...]) -> None:
        version, offset, capacity, count, stride, label_at, data_at, level, entry, m, m0, *_ = header
        data_bytes = label_at - data_at
        whole = version == 1 and offset == 0 and count <= capacity and label_at + 8 == stride and data_at == 4 + 4 * m0
        whole = whole and max(stride, 4 + 4 * m) <= AT_ONCE
        if not whole or data_bytes <= 0 or data_bytes % 4 or (count and (entry >= count or level < 0)):
            raise TornCopy(f"{self._what} has a header that can't be")
        self.dimension = data_bytes // 4
        if (folder / "data_level0.bin").stat().st_size < count * stride:
            raise TornCopy(f"{self._what} is cut: data_level0.bin is shorter than its header says")
        # Read by calls, not mapped: a mapped file's pages around each element count as this process's memory too,
        # 230 MB for a search in 100,000 vectors.
        self._elements = (folder / "data_level0.bin").open("rb", buffering=0)
        self._stride, self._count = stride, count
        self._links, self._data, self._label_at = slice(0, data_at), slice(data_at, label_at), label_at
        self._lengths = self._read_lengths(folder, count)
        self._place_labels(count, m0)
        self._entry, self._level, self._upper_size = entry, max(level, 0), 4 + 4 * m
        self._upper = (folder / "link_lists.bin").open("rb", buffering=0)
        with (folder / "link_lists.bin").open("rb", buffering=UPPER_AT_ONCE) as stream:
            self._check_upper_links(stream, count)

    def _read_lengths(self, folder: Path, count: int) -> np.ndarray:
        """The lengths that vectors had before they were normalized, for the cosine distance; noise for others."""
        import numpy as np

        lengths = np.fromfile(folder / "length.bin", "<f4", count)
        if len(lengths) < count:
            raise TornCopy(f"{self._what} is cut: length.bin is shorter than its header says")
        return lengths

    def _place_labels(self, count: int, m0: int) -> None:
        import numpy as np

        step = max(1, AT_ONCE // self._stride)
        labels = np.empty(count, "<u8")
        deleted = np.empty(count, bool)
        for start in range(0, count, step):
            part = self._part(start, min(step, count - start))
            words = part[:, self._links].copy().view("<u4")
            degree = words[:, 0] & _DEGREE
            linked = np.arange(m0) < degree[:, None]
            if (degree > m0).any() or (words[:, 1:][linked] >= count).any():
                self._lost_links()
            deleted[start : start + step] = (words[:, 0] & _DELETED) != 0
            labels[start : start + step] = part[:, self._label_at : self._label_at + 8].copy().view("<u8")[:, 0]
            self._check_norms(part, self._lengths[start : start + step])
        # Elements by label: a 32-bit number each, as everywhere in the format.
        self._order = np.argsort(labels).astype("<u4")
        self._sorted = labels[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise TornCopy(f"{self._what} has a label twice")
        for wanted in self.names.all_labels():
            place = self._places(wanted)
            if not count or (self._sorted[place] != wanted).any() or deleted[self._order[place]].any():
                raise TornCopy(f"{self._what} lacks records that its list of ids names")
        self._deleted = deleted if deleted.any() else None

    def _part(self, start: int, number: int) -> np.ndarray:
        """Elements that follow each other, a row of bytes each."""
        import numpy as np

        part = np.empty((number, self._stride), "u1")
        view, at = memoryview(part.data).cast("B"), start * self._stride
        while view:
            read = os.preadv(self._elements.fileno(), [view], at)
            if not read:
                raise EOFError
            view, at = view[read:], at + read
        return part

    def _lost_links(self) -> NoReturn:
        raise TornCopy(f"{self._what} has links to elements that it doesn't have")

    def _places(self, labels: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.minimum(np.searchsorted(self._sorted, labels), max(len(self._sorted) - 1, 0))

    def _check_norms(self, part: Any, lengths: np.ndarray) -> None:
        import numpy as np

        if self._space == "cosine":
            norms = np.linalg.norm(part[:, self._data].copy().view("<f4"), axis=1)
            if not (np.isclose(norms, 1, atol=1e-3) | (norms < 1e-6) | ~measurable(lengths[: len(norms)])).all():
                raise TornCopy(f"{self._what} has vectors that were cut while they were written")

    def _check_upper_links(self, stream: Any, count: int) -> None:
        """And notes where those of an element begin, and on how many levels it is; one in sixteen is on any. Reads no
        further than the last element's: what comes then, Chroma doesn't read either, and it may be GB of holes."""
        at, size = 0, self._upper_size
        self._upper_at: dict[int, tuple[int, int]] = {}
        for element in range(count):
            (length,) = struct.unpack("<I", stream.read(4))
            at += 4
            if length:
                levels = length // size
                data = stream.read(length) if length <= min(levels * size, AT_ONCE) and levels <= self._level else b""
                if len(data) != length:
                    raise TornCopy(f"{self._what} is cut: link_lists.bin doesn't fit its header")
                self._upper_at[element] = (at, levels)
                for level in range(levels):
                    if any(other >= count for other in self._linked_in(data[level * size : (level + 1) * size])):
                        self._lost_links()
            at += length
        self.upper_bytes = at

    def _linked_in(self, data: bytes) -> tuple[int, ...]:
        """The links of an element on one upper level."""
        degree = int.from_bytes(data[:2], "little")
        if 4 + 4 * degree > self._upper_size:
            self._lost_links()
        return struct.unpack_from(f"<{degree}I", data, 4)

    def _linked_above(self, element: int, level: int) -> tuple[int, ...]:
        """Its links on an upper level, from 1. Raises TornCopy where it isn't on that level."""
        at, levels = self._upper_at.get(element, (0, 0))
        if level > levels:
            self._lost_links()
        return self._linked_in(
            os.pread(self._upper.fileno(), self._upper_size, at + (level - 1) * self._upper_size)
        )  # fmt: skip

    # --- vectors -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Elements, deleted ones too."""
        return int(self._count)

    def elements(self, ids: Sequence[str]) -> np.ndarray:
        """Raises KeyError where one is not in the index."""
        return self._order[self._places(self.names.labels(ids))]

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Their vectors as they were given to Chroma, a row each. Raises KeyError."""
        return self._vectors_of(self.elements(ids))

    def _vectors_of(self, elements: np.ndarray) -> np.ndarray:
        vectors = self._stored(elements.tolist())
        return vectors * self._lengths[elements][:, None] if self._space == "cosine" else vectors

    def _stored(self, elements: list[int]) -> np.ndarray:
        """Their vectors as the file holds them."""
        import numpy as np

        if len(elements) > 1 and elements == list(range(elements[0], elements[0] + len(elements))):
            # Records are mostly stored in the order of their arrival.
            return np.ascontiguousarray(self._part(elements[0], len(elements))[:, self._data]).view("<f4")
        width = self._data.stop - self._data.start
        vectors = np.empty((len(elements), width), "u1")
        view, descriptor = memoryview(vectors.data).cast("B") if elements else memoryview(b""), self._elements.fileno()
        for n, element in enumerate(elements):
            to = view[n * width : (n + 1) * width]
            if os.preadv(descriptor, [to], element * self._stride + self._data.start) != width:
                raise EOFError
        return vectors.view("<f4")

    # --- searching -----------------------------------------------------------------------------------------

    def nearest(self, vector: np.ndarray, number: int, width: int, besides: np.ndarray | None = None) -> np.ndarray:
        """The vectors of the `number` elements that the index finds nearest to one, by hnswlib's search: down the upper
        levels to the nearest element of each, then over the links of the lowest, keeping the `width` nearest.
        `besides` says of each element whether it is passed but not found, as deleted ones are.
        """
        import numpy as np

        if not self._count:
            return np.empty((0, self.dimension), "<f4")
        asked = vector.astype("<f4")
        if self._space == "cosine":
            asked = asked / (np.linalg.norm(asked) + 1e-30)
        passed = self._deleted
        if besides is not None:
            passed = besides if passed is None else passed | besides
        if self._is_looked_through():
            return self._vectors_of(self._living(besides))
        found = self._search(asked, max(number, width), passed)[:number]
        return self._vectors_of(np.array([element for _, element in found], "<i8"))

    def _is_looked_through(self) -> bool:
        deleted = 0 if self._deleted is None else int(self._deleted.sum())
        return self._count - deleted < LOOKED_AT_EACH and deleted > DELETED_SHARE * self._count

    def _living(self, besides: np.ndarray | None) -> np.ndarray:
        import numpy as np

        passed = np.zeros(self._count, bool) if besides is None else besides
        return np.flatnonzero(~(passed if self._deleted is None else passed | self._deleted))

    def _far(self, elements: list[int], asked: np.ndarray) -> list[float]:
        if not elements:
            return []
        stored = self._stored(elements)
        if self._space == "l2":
            difference = stored - asked
            return list((difference * difference).sum(axis=1).tolist())
        return list((1 - stored @ asked).tolist())

    def _descended(self, asked: np.ndarray) -> tuple[float, int]:
        here = self._entry
        (distance,) = self._far([here], asked)
        for level in range(self._level, 0, -1):
            moved = True
            while moved:
                moved = False
                linked = list(self._linked_above(here, level))
                for other, far in zip(linked, self._far(linked, asked), strict=True):
                    if far < distance:
                        distance, here, moved = far, other, True
        return distance, here

    def _linked(self, element: int) -> tuple[int, ...]:
        """Its links on the lowest level."""
        data = os.pread(self._elements.fileno(), self._links.stop, element * self._stride)
        return struct.unpack_from(f"<{int.from_bytes(data[:2], 'little')}I", data, 4)

    def _search(self, asked: np.ndarray, width: int, passed: np.ndarray | None) -> list[tuple[float, int]]:
        """The nearest first, of those that `passed` doesn't mark."""
        distance, here = self._descended(asked)
        visited, candidates = {here}, [(distance, here)]
        # The farthest first: by the negative distance.
        best: list[tuple[float, int]] = []
        self._keep(best, distance, here, width, passed)
        limit = distance
        while candidates:
            distance, here = heapq.heappop(candidates)
            if distance > limit and (len(best) == width or passed is None):
                break
            linked = [other for other in self._linked(here) if other not in visited]
            visited.update(linked)
            for other, far in zip(linked, self._far(linked, asked), strict=True):
                if len(best) < width or far < limit:
                    heapq.heappush(candidates, (far, other))
                    self._keep(best, far, other, width, passed)
                    limit = -best[0][0] if best else far
        return sorted((-negative, element) for negative, element in best)

    def _keep(
        self, best: list[tuple[float, int]], distance: float, element: int, width: int, passed: np.ndarray | None
    ) -> None:  # fmt: skip
        if passed is None or not passed[element]:
            heapq.heappush(best, (-distance, element))
            if len(best) > width:
                heapq.heappop(best)


def measurable(lengths: np.ndarray, shortest: float = SHORTEST, longest: float = LONGEST) -> np.ndarray:
    """For each length, whether Chroma keeps the direction of a vector of that length."""
    return (lengths > shortest) & (lengths < longest)


def _start_of(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(size)


# --- names -------------------------------------------------------------------------------------------------------
