"""Two stores at once: every file is written to both, and a backup counts once its manifest is in both.

If one store fails while a run writes, the other still gets its copy. The run then fails at its end and says where each
file is, and `complete` of the next run copies what is missing, file or manifest, proven by SHA-256. Every copy is read
back, not only the first. A purge, which doesn't call `complete`, refuses to list while one of the two is down.

`reading` is for restores, which need only one good copy. A file's copies are compared with its manifest before the
first is opened, so that a damaged copy never hides a good one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from hashlib import sha256
from typing import Any, BinaryIO

from saju_ops.errors import ProofFailed
from saju_ops.storage.base import AlreadyThere, Storage, StorageError, Writer, is_name
from saju_ops.storage.mirrored.copy import T, _copy_backup, _described, _sha256_and_size, _stem, _TargetFailed, _text
from saju_ops.storage.remote import BUFFER, Written, buffered
from saju_ops.storage.seal import NO_SEALS, Seals, read_sealed

MANIFEST = ".manifest.json"


class MirroredStorage:
    def __init__(
        self, stores: Sequence[Storage], password: str | None = None, *, reading: bool = False,
        seals: Seals = NO_SEALS,
    ) -> None:  # fmt: skip
        if len({store.uri for store in stores}) < 2:
            raise StorageError("BACKUP_URI names the same place twice; two stores must be two places.")
        self.stores = tuple(stores)
        self.password = password
        self.seals = seals
        # Whether a store that is down may be left aside: while restoring, and after `complete` of a run that
        # writes, which fails at its end for it.
        self._lenient = reading
        self._reading = reading
        # Whether `complete` was called: then the next run's `complete` copies files that this run can't write.
        self.writing = False
        self.down: dict[str, str] = {}
        # While reading: by name, the store with a good copy, or None where no copy is known to be good.
        self._good: dict[str, Storage | None] = {}

    @property
    def uri(self) -> str:
        return ",".join(store.uri for store in self.stores)

    def location(self, name: str) -> str:
        good = self._good.get(name)
        return good.location(name) if good else ", ".join(store.location(name) for store in self.stores)

    # --- which stores can be used --------------------------------------------------------------------------

    @property
    def usable(self) -> list[Storage]:
        return [store for store in self.stores if store.uri not in self.down]

    def note(self, store: Storage, error: Exception) -> None:
        self.down[store.uri] = _text(error)

    def nothing_left(self) -> StorageError:
        return StorageError("No store can be used: " + "; ".join(f"{u}: {why}" for u, why in self.down.items()))

    def _of_each(self, work: Callable[[Storage], T]) -> dict[str, T]:
        """The answer of each usable store. A store that fails is left out if that is allowed, and raises otherwise."""
        found: dict[str, T] = {}
        for store in self.usable:
            try:
                found[store.uri] = work(store)
            except (StorageError, OSError) as error:
                self.note(store, error)
                if not self._lenient:
                    self.down.pop(store.uri)
                    raise StorageError(
                        f"One of two stores can't be used, and a backup counts only once it is in both. {store.uri}:"
                        f" {_text(error)} To work with the other alone, name it alone in BACKUP_URI."
                    ) from None
        if not found:
            raise self.nothing_left()
        return found

    def require_all(self) -> None:
        if self.down and not self._reading:
            used = ", ".join(store.uri for store in self.usable)
            raise StorageError(
                f"What this run wrote is in {used} alone, and counts once it is in both stores; the next run copies"
                " what is missing. " + " ".join(f"{uri}: {why}" for uri, why in self.down.items())
            )

    # --- reading -------------------------------------------------------------------------------------------

    def names(self, prefix: str) -> Iterator[str]:
        listed = list(self._of_each(lambda store: set(store.names(prefix))).values())
        anywhere, everywhere = set.union(*listed), set.intersection(*listed)
        if not self._reading:
            anywhere = {name for name in anywhere if not name.endswith(MANIFEST)} | everywhere
        yield from sorted(anywhere)

    def open(self, name: str) -> BinaryIO:
        good = self._good_copy(name) if self._reading else None
        if good is not None:
            return good.open(name)
        return self._first(name, lambda store: store.open(name))

    def size(self, name: str) -> int:
        return self._first(name, lambda store: store.size(name))

    def _first(self, name: str, work: Callable[[Storage], T]) -> T:
        for store in self.usable:
            try:
                return work(store)
            except FileNotFoundError:
                continue
            except (StorageError, OSError) as error:
                if not self._lenient:
                    raise
                self.note(store, error)
        if not self.usable:
            raise self.nothing_left()
        raise FileNotFoundError(2, "No such file", self.location(name))

    def _good_copy(self, name: str) -> Storage | None:
        if name not in self._good:
            described = None if name.endswith(MANIFEST) else self._described(name)
            self._good[name] = next((store for store in self.usable if self._is_good(store, name, described)), None)
        return self._good[name]

    def _is_good(self, store: Storage, name: str, described: tuple[str, int] | None) -> bool:
        try:
            if name.endswith(MANIFEST):
                read_sealed(store, name, untouched=True)
                return True
            with store.open(name) as stream:
                return described is None or _sha256_and_size(stream) == described
        except (FileNotFoundError, ProofFailed):
            return False
        except (StorageError, OSError) as error:
            self.note(store, error)
            return False

    def _described(self, name: str) -> tuple[str, int] | None:
        """SHA-256 and size of a file by its manifest; None where none describes it."""
        folder, _, file = name.rpartition("/")
        while "." in file:
            file = file.rpartition(".")[0]
            try:
                raw = read_sealed(self, f"{folder}/{file}{MANIFEST}")
            except (FileNotFoundError, ProofFailed):
                continue
            if raw.get("file") == name and (found := _described(raw)):
                return found
        return None

    def exists(self, name: str) -> bool:
        return any(self._of_each(lambda store: store.exists(name)).values())

    def copies(self) -> tuple[Storage, ...]:
        return tuple(copy for store in self.stores for copy in store.copies())

    def remains(self) -> str:
        return "; ".join(filter(None, self._of_each(lambda store: store.remains()).values()))

    def free_space(self) -> str:
        return "; ".join(filter(None, self._of_each(lambda store: store.free_space()).values()))

    # --- writing -------------------------------------------------------------------------------------------

    @contextmanager
    def create(self, name: str) -> Iterator[_MirroredWriter]:
        with ExitStack() as stack:
            writers: dict[str, tuple[Storage, Writer]] = {}
            for store in self.usable:
                try:
                    if store.exists(name):
                        raise AlreadyThere(f"{store.location(name)} exists and was not overwritten.")
                    entered: AbstractContextManager[Writer] = store.create(name)
                    writers[store.uri] = store, stack.enter_context(entered)
                except AlreadyThere:
                    raise
                except (StorageError, OSError) as error:
                    self.note(store, error)
            if not writers:
                raise self.nothing_left()
            yield _MirroredWriter(self, name, writers)

    def delete(self, name: str) -> None:
        """From both; a store that is down keeps its copy, and the error says so after the other was tried."""
        failed = []
        for store in self.stores:
            try:
                store.delete(name)
            except (StorageError, OSError) as error:
                failed.append(f"{store.location(name)} is still there: {_text(error)}")
        if failed:
            raise StorageError(" ".join(failed))

    def clear_unfinished(self, prefix: str) -> int:
        """Also where one store is down: what writes after this calls `complete`, which notes it."""
        removed = 0
        for store in self.usable:
            try:
                removed += store.clear_unfinished(prefix)
            except (StorageError, OSError):
                continue
        return removed

    # --- completing ----------------------------------------------------------------------------------------

    def complete(self, prefix: str) -> list[str]:
        """One backup that can't be completed keeps no other from it: the error comes at the end."""
        self._lenient = self.writing = True
        listed = self._of_each(lambda store: set(store.names(prefix)))
        anywhere = set.union(*listed.values())
        lacking = {uri: {_stem(name) for name in anywhere - there} for uri, there in listed.items()}
        copied: list[str] = []
        failed: list[str] = []
        for name in sorted(n for n in anywhere if n.endswith(MANIFEST) and is_name(n)):
            for target in [s for s in self.usable if _stem(name) in lacking.get(s.uri, ())]:
                others = [(s, listed[s.uri]) for s in self.usable if s.uri in listed and s is not target]
                if not others:
                    continue  # it failed as a target since
                try:
                    copied += _copy_backup(others, target, listed[target.uri], name)
                except _TargetFailed as error:
                    self.note(target, error)
                except StorageError as error:
                    failed.append(str(error))
        if failed:
            raise StorageError(" ".join(failed))
        return copied


class _MirroredWriter:
    def __init__(self, storage: MirroredStorage, name: str, writers: dict[str, tuple[Storage, Writer]]) -> None:
        self._storage, self._name, self._writers = storage, name, writers
        self._written = {uri: Written(store.location(name)) for uri, (store, _) in writers.items()}

    def _of_each(self, work: Callable[[str, Writer], Any]) -> None:
        for uri, (store, writer) in list(self._writers.items()):
            try:
                work(uri, writer)
            except AlreadyThere:
                raise
            except (StorageError, OSError) as error:
                self._drop(store, error)

    def _drop(self, store: Storage, error: Exception) -> None:
        self._storage.note(store, error)
        del self._writers[store.uri]
        if not self._writers:
            raise self._storage.nothing_left() from None

    def write(self, data: bytes | memoryview) -> int:
        def one(uri: str, writer: Writer) -> None:
            writer.write(data)
            self._written[uri].add(data)

        self._of_each(one)
        return len(data)

    def read_back(self) -> BinaryIO:
        return buffered(_ReadBack(self))

    def first(self) -> tuple[str, Writer]:
        uri, (_, writer) = next(iter(self._writers.items()))
        return uri, writer

    def drop_first(self, error: Exception) -> None:
        store, _ = next(iter(self._writers.values()))
        self._drop(store, error)

    def written(self, uri: str) -> Written:
        return self._written[uri]

    def commit(self) -> None:
        def one(uri: str, writer: Writer) -> None:
            if not self._written[uri].proven:
                self._written[uri].prove(writer.read_back())

        self._of_each(one)
        self._of_each(lambda uri, writer: writer.commit())
        if self._name.endswith(MANIFEST) or not self._storage.writing:
            # A file without a manifest of its own, in a run that completes nothing, has no second chance.
            self._storage.require_all()


class _ReadBack(io.RawIOBase):
    """Reads back from one store, and continues from the other if that fails: at the end the content is proven."""

    def __init__(self, writers: _MirroredWriter) -> None:
        self._writers = writers
        self._stream: BinaryIO | None = None
        self._hash, self._position, self._uri = sha256(), 0, ""
        # Why the store failed that handed out the beginning.
        self._failed: Exception | None = None
        self._open_first()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        self._hash.update(data)
        self._position += len(data)
        if not data and len(view):
            self._require_what_was_written()
        return len(data)

    def _require_what_was_written(self) -> None:
        written = self._writers.written(self._uri)
        if self._failed is None:
            written.require(self._hash.hexdigest(), self._position)
        elif (self._hash.hexdigest(), self._position) != (written.sha256, written.bytes):
            raise StorageError(
                f"{_text(self._failed)} What it gave back before differs from what was written. Nothing was kept;"
                " launch again."
            )
        # Else a part came from elsewhere, and this copy is yet to be proven.

    def _next(self, size: int) -> bytes:
        while True:
            if self._stream is None:
                self._open_first()
            try:
                assert self._stream is not None
                return self._stream.read(size)
            except (StorageError, OSError) as error:
                self._give_up(error)

    def _open_first(self) -> None:
        while self._stream is None:
            self._uri, writer = self._writers.first()
            try:
                self._stream = writer.read_back()
                self._skip(self._stream, self._position)
            except (StorageError, OSError) as error:
                if isinstance(error, AlreadyThere):
                    raise
                self._give_up(error)

    @staticmethod
    def _skip(stream: BinaryIO, size: int) -> None:
        while size and (data := stream.read(min(size, BUFFER))):
            size -= len(data)

    def _give_up(self, error: Exception) -> None:
        self._close_stream()
        if self._position:
            self._failed = self._failed or error
        self._writers.drop_first(error)

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(StorageError, OSError):
                stream.close()

    def close(self) -> None:
        if not self.closed:
            self._close_stream()
        super().close()
