"""A set of 64-bit hashes, of however many, in some 30 MB of memory.

The newest are in memory. The others are sorted in a temporary file without a name (TMPDIR), which disappears with the
process, however that ends; looking one up reads one page of it. The key is in memory only: without it, nobody can find
out from a hash what was hashed.

A database (`scratch_database`) would be slower: hashes come in no order, so it would read and write a page for each. 3
million hashes took SQLite 30 s and this 2 s.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO

from saju_ops.errors import OperatorError

if TYPE_CHECKING:
    import numpy as np

# Hashes that are gathered in memory before they go into the file: 2 MB, and 20 MB while they are
# sorted.
GATHERED = 1 << 18
# Arrays of them: a small one takes as much as a dozen hashes.
PIECES = 4096
# What is merged at once: the hashes of one first byte, over which they are spread evenly.
RANGES = 256
# Hashes in a page, the first of which is held in memory: 3 % of the file's size.
PAGE = 256
# Hashes looked up at once, each in a page of its own in the worst case: 8 MB.
ASKED = 4096
HASH_BYTES = 8


def hashed(texts: Iterable[str], key: bytes) -> np.ndarray[Any, Any]:
    """A 64-bit keyed hash of each text."""
    import numpy as np

    each = (blake2b(text.encode(errors="surrogatepass"), key=key, digest_size=HASH_BYTES).digest() for text in texts)
    return np.frombuffer(b"".join(each), dtype=np.uint64)


class HashSet:
    """Raises OperatorError where the temporary folder is full. Not for use across threads."""

    def __init__(self, what: str) -> None:
        """`what` it holds hashes of, in the plural, as messages call it."""
        import numpy as np

        self._what = what
        self._fresh: list[Any] = []
        self._fresh_count = 0
        # Sorted, in memory.
        self._held = np.empty(0, np.uint64)
        # For each sorted run: where its ranges begin in the file, counted in hashes, and where it ends.
        self._runs: list[Any] = []
        self._file: BinaryIO | None = None
        # The first hash of each page, once the file holds all runs as one.
        self._first_of_page: Any = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, hashes: np.ndarray[Any, Any]) -> None:
        if len(hashes):
            self._fresh.append(hashes)
            self._fresh_count += len(hashes)
        if self._fresh_count >= GATHERED or len(self._fresh) >= PIECES:
            self._gather()

    def holds(self, hashes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """True or False for each."""
        import numpy as np

        self._gather()
        found = _among(self._held, hashes)
        if self._runs:
            self._merge()
            each, places = np.unique(hashes, return_inverse=True)
            some = (each[start : start + ASKED] for start in range(0, len(each), ASKED))
            found |= np.concatenate([np.empty(0, bool), *map(self._in_file, some)])[places]
        return found

    def __contains__(self, one: np.uint64) -> bool:
        self._gather()
        if _is_among(self._held, one):
            return True
        if not self._runs:
            return False
        self._merge()
        page = int(self._first_of_page.searchsorted(one, "right")) - 1
        return page >= 0 and _is_among(self._read(page * PAGE, PAGE), one)

    def _gather(self) -> None:
        import numpy as np

        if not self._fresh:
            return
        self._held = np.unique(np.concatenate([self._held, *self._fresh]))
        self._fresh, self._fresh_count = [], 0
        if len(self._held) >= GATHERED:
            if self._file is None:
                self._file = self._new_file()
            begins = self._held.searchsorted(np.arange(RANGES, dtype=np.uint64) << np.uint64(56))
            end = os.fstat(self._file.fileno()).st_size // HASH_BYTES
            self._runs.append(end + np.append(begins, len(self._held)))
            self._append(self._file, self._held)
            self._held = np.empty(0, np.uint64)
            self._first_of_page = None

    def _merge(self) -> None:
        """Makes one run of all, range after range, in a new file."""
        import numpy as np

        if self._first_of_page is not None:
            return
        merged, count, first_of_page = self._new_file(), 0, []
        bounds = np.zeros(RANGES + 1, np.int64)
        for number in range(RANGES):
            parts = [self._read(run[number], run[number + 1] - run[number]) for run in self._runs]
            hashes = np.unique(np.concatenate(parts))
            first_of_page.append(hashes[-count % PAGE :: PAGE].copy())
            self._append(merged, hashes)
            count += len(hashes)
            bounds[number + 1] = count
        self.close()
        self._file, self._runs = merged, [bounds]
        self._first_of_page = np.concatenate(first_of_page)

    def _in_file(self, asked: Any) -> Any:
        """For sorted hashes."""
        import numpy as np

        pages = np.unique(self._first_of_page.searchsorted(asked, "right") - 1)
        read = [self._read(page * PAGE, PAGE) for page in pages.tolist() if page >= 0]
        return _among(np.concatenate([np.empty(0, np.uint64), *read]), asked)

    def _read(self, first: int, count: int) -> Any:
        import numpy as np

        assert self._file is not None
        data = os.pread(self._file.fileno(), count * HASH_BYTES, first * HASH_BYTES)
        return np.frombuffer(data, np.uint64)

    def _new_file(self) -> BinaryIO:
        try:
            return tempfile.TemporaryFile(buffering=0)
        except OSError as error:
            raise self._no_room(error) from None

    def _append(self, file: BinaryIO, hashes: Any) -> None:
        left = memoryview(hashes.view("u1"))
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise self._no_room(error) from None

    def _no_room(self, error: OSError) -> OperatorError:
        return OperatorError(
            f"Hashes of {self._what} can't be kept in the temporary folder {tempfile.gettempdir()} (TMPDIR):"
            f" {error.strerror}. It needs up to {2 * HASH_BYTES} bytes for each of them."
        )


def _among(held: Any, asked: Any) -> Any:
    """Which of `asked` are in the sorted `held`."""
    import numpy as np

    if not len(held):
        return np.zeros(len(asked), bool)
    return held[np.minimum(held.searchsorted(asked), len(held) - 1)] == asked


def _is_among(held: Any, one: Any) -> bool:
    place = int(held.searchsorted(one))
    return place < len(held) and bool(held[place] == one)
