"""The ids of an index and their places in it."""

from __future__ import annotations

import pickle
import pickletools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saju_ops.chroma.scratch_database import ScratchDatabase

if TYPE_CHECKING:
    import numpy as np

# Labels read at once, and ids asked for at once.
NAMES_AT_ONCE, ASKED_AT_ONCE = 10_000, 250
# Bytes of a pickle of names up to which it is loaded whole: its objects take ten times as much. A larger one is read
# operation by operation, 8 us a record instead of 1.
WHOLE_PICKLE = 2 << 20
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
# They remember a value, or frame some, and say nothing of any.
_SILENT = ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "FRAME", "PROTO")


class Names:
    """Which label each id has. `legacy_reached` is the number of the last write, where the pickle says it."""

    def __init__(self, path: Path) -> None:
        self._database = ScratchDatabase(
            "CREATE TABLE names (id TEXT PRIMARY KEY, label INTEGER) WITHOUT ROWID", "the names of an index"
        )
        self.legacy_reached: int | None = None
        with path.open("rb") as stream:
            if path.stat().st_size <= WHOLE_PICKLE:
                self._keep(self._loaded(stream))
            else:
                try:
                    self._keep(self._streamed(stream))
                except _OtherForm:
                    stream.seek(0)
                    self._keep(self._loaded(stream))
        (self._count,) = self._database.execute("SELECT COUNT(*) FROM names").fetchone()

    def _keep(self, pairs: Iterator[tuple[str, int]]) -> None:
        try:
            with self._database.transaction():
                self._database.executemany("INSERT INTO names VALUES (?, ?)", pairs)
        except sqlite3.Error:
            # An id that is there twice, or one that is neither a text nor a number.
            raise ValueError from None

    def _loaded(self, stream: Any) -> Iterator[tuple[str, int]]:
        loaded = _Plain(stream).load()
        names_and_progress = loaded if isinstance(loaded, dict) else vars(loaded)
        self.legacy_reached = names_and_progress.get("max_seq_id")
        names: dict[str, int] = names_and_progress["id_to_label"]
        return iter(names.items())

    def _streamed(self, stream: Any) -> Iterator[tuple[str, int]]:
        """The same, without loading it: the ids are written one after the other. Raises _OtherForm."""
        operations = _plain_operations(stream)
        before: Any = None
        reached_read = False
        for name, value in operations:
            if before == "max_seq_id":
                reached_read, self.legacy_reached = True, value if name in _NUMBERS else None
            if before == "id_to_label":
                if name != "EMPTY_DICT" or not reached_read:
                    raise _OtherForm
                break
            before = value if name in _TEXTS else None
        else:
            raise _OtherForm
        yield from _pairs(operations)
        # Read to the end, so that a file that is cut behind the ids is found.
        for _ in operations:
            pass

    def __len__(self) -> int:
        return int(self._count)

    def __contains__(self, id: str) -> bool:
        return self._database.execute("SELECT 1 FROM names WHERE id = ?", (id,)).fetchone() is not None

    def labels(self, ids: Sequence[str]) -> np.ndarray:
        """Raises KeyError."""
        import numpy as np

        found: dict[str, int] = {}
        for start in range(0, len(ids), ASKED_AT_ONCE):
            some = ids[start : start + ASKED_AT_ONCE]
            marks = ",".join("?" * len(some))
            found.update(self._database.execute(f"SELECT id, label FROM names WHERE id IN ({marks})", some))  # noqa: S608
        return np.fromiter((found[id] for id in ids), "<u8", len(ids))

    def all_labels(self) -> Iterator[np.ndarray]:
        import numpy as np

        rows = self._database.execute("SELECT label FROM names")
        while some := rows.fetchmany(NAMES_AT_ONCE):
            yield np.fromiter((label for (label,) in some), "<u8", len(some))


class _OtherForm(Exception):
    """The pickle's operations come in another order than Chroma writes them. It can only be loaded whole."""


def _plain_operations(stream: Any) -> Iterator[tuple[str, Any]]:
    """Raises ValueError where it is cut or damaged."""
    for operation, value, _ in pickletools.genops(stream):
        if operation.name not in _SILENT:
            yield operation.name, value


def _pairs(operations: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, int]]:
    """The items of the dictionary that was just begun: batches of MARK, id, label, id, label, …, SETITEMS, and perhaps
    one of id, label, SETITEM. Takes up to two operations of what follows. Raises _OtherForm."""

    def label() -> Any:
        number, value = next(operations, ("", None))
        return value if number in _NUMBERS else None

    for name, id in operations:
        if name == "MARK":
            for name, id in operations:
                if name == "SETITEMS":
                    break
                if name not in _TEXTS or (value := label()) is None:
                    raise _OtherForm
                yield id, value
        elif name in _TEXTS and (value := label()) is not None and next(operations, ("", None))[0] == "SETITEM":
            yield id, value
        else:
            return


class _Plain(pickle.Unpickler):
    """Dictionaries, texts and numbers only: a pickle may otherwise run anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData"):
            return _OldPersistentData
        raise pickle.UnpicklingError(f"{module}.{name}")


class _OldPersistentData:
    """How Chroma before 1.0 pickled the same names."""
