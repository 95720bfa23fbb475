"""Finds parts of many texts that may be one of many names: it tries every part of every length that a name has.

A filter in memory: what it rejects is no name; what it lets through is looked up. It holds keyed hashes that are
updated from one character to the next, so that trying a part costs a few operations on an array.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

BITS = 24
# Characters that are tried at once.
ROOM = 1 << 16
# Lengths of names that are tried; any more are left to be compared as a whole.
MOST_LENGTHS = 128


class Windows:
    LONGEST = 128

    def __init__(self) -> None:
        import numpy as np

        self._lengths = np.zeros(self.LONGEST + 1, bool)
        self._filter = np.zeros(1 << BITS, bool)
        base, self._salt, self._mix = (np.uint64(secrets.randbits(64) | 1) for _ in range(3))
        inverse = np.uint64(pow(int(base), -1, 1 << 64))
        self._powers = _powers(base, ROOM + 1)
        self._inverse = _powers(inverse, ROOM + 1)

    def add(self, names: list[str]) -> None:
        import numpy as np

        for text, begins in _packed(names):
            lengths = np.array([text.index("\n", b) - b for b in begins])
            self._lengths[lengths] = True
            self._filter[self._places(self._sums(text), np.array(begins), lengths)] = True

    def likely(self, texts: list[str]) -> Iterator[tuple[int, int, str]]:
        """The number of a text, where in it a likely name begins, and the name."""
        import numpy as np

        lengths = np.flatnonzero(self._lengths)[:MOST_LENGTHS].tolist()
        if not lengths:
            return
        cut = [(number, at, part) for number, t in enumerate(texts) for at, part in _cut(t)]
        done = 0
        for text, begins in _packed([part for _, _, part in cut]):
            sums, starts = self._sums(text), np.array(begins)
            for length in lengths:
                if length > len(text) - 1:
                    break
                first = np.arange(len(text) - length)
                for at in first[self._filter[self._places(sums, first, length)]].tolist():
                    name = text[at : at + length]
                    if "\n" not in name:
                        which = int(starts.searchsorted(at, "right")) - 1
                        number, offset, _ = cut[done + which]
                        yield number, offset + at - begins[which], name
            done += len(begins)

    def _sums(self, text: str) -> Any:
        import numpy as np

        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        codes = (codes + np.uint64(1)) * self._salt
        codes ^= codes >> np.uint64(29)
        codes *= self._mix
        return np.append(np.uint64(0), np.cumsum(codes * self._powers[: len(codes)], dtype=np.uint64))

    def _places(self, sums: Any, begins: Any, lengths: Any) -> Any:
        import numpy as np

        rolled = (sums[begins + lengths] - sums[begins]) * self._inverse[begins]
        rolled ^= rolled >> np.uint64(31)
        return (rolled * self._mix) >> np.uint64(64 - BITS)


def _powers(base: Any, count: int) -> Any:
    import numpy as np

    steps = np.full(count, base, np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)


def _cut(text: str) -> Iterator[tuple[int, str]]:
    """Pieces that fit, each of which begins before the last one ends by as much as a name is long."""
    step = ROOM - 1 - Windows.LONGEST
    for at in range(0, max(len(text), 1), step):
        yield at, text[at : at + ROOM - 1]


def _packed(texts: list[str]) -> Iterator[tuple[str, list[int]]]:
    """Texts put together, each with a line's end, and where each begins."""
    some: list[str] = []
    begins: list[int] = []
    size = 0
    for text in texts:
        if size + len(text) + 1 > ROOM and some:
            yield "\n".join(some) + "\n", begins
            some, begins, size = [], [], 0
        begins.append(size)
        some.append(text)
        size += len(text) + 1
    if some:
        yield "\n".join(some) + "\n", begins
