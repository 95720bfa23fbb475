"""What network stores have in common: reading continues after a broken connection, and files are proven by SHA-256.

A stream ends without an error only after as many bytes as the store said the file has. A connection that breaks,
stalls or ends early is opened again at the byte where it broke.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, BinaryIO, Protocol, cast

from saju_ops.storage.base import StorageError

# Bytes a reader asks for at once.
BUFFER = 1 << 20
# Times in a row that a stream may break without a byte in between, and the longest wait between two, in seconds.
TRIES = 6
LONGEST_WAIT = 10.0


class Broken(Exception):
    """The connection broke or the body was short; opening it again may help. Its text reaches the operator."""


class Body(Protocol):
    def read(self, size: int) -> bytes:
        """Raises Broken. Nothing means the end, early or not."""

    def close(self) -> None: ...


class ResumingReader(io.RawIOBase):
    """A stored file of `size` bytes. `fetch` opens it at a byte; raises StorageError where that can't help, Broken
    where it may."""

    def __init__(
        self, fetch: Callable[[int], Body], size: int, where: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._fetch, self._size, self._where, self._sleep = fetch, size, where, sleep
        self._body: Body | None = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(min(len(view), self._size - self._position))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _next(self, size: int) -> bytes:
        if size <= 0:
            return b""
        why = ""
        for attempt in range(TRIES):
            if attempt:
                self._sleep(min(0.2 * 2**attempt, LONGEST_WAIT))
            try:
                self._body = self._body or self._fetch(self._position)
                if data := self._body.read(size):
                    return data
                why = "the body ended early"
            except Broken as error:
                why = str(error)
            self._drop()
        raise StorageError(
            f"{self._where} can't be read: the connection broke {TRIES} times at byte {self._position} of {self._size}"
            f" ({why}). Nothing relies on what was read; launch again."
        )

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()


def buffered(raw: io.RawIOBase) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(raw, BUFFER))


class Written:
    """SHA-256 and size of the bytes sent to a store, and whether the bytes read back were the same."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._hash = sha256()
        self.bytes = 0
        self.proven = False

    def add(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def require(self, sha: str, size: int) -> None:
        """Raises StorageError where the store has something else."""
        if (sha, size) != (self.sha256, self.bytes):
            raise StorageError(
                f"{self.where} was stored, but what the store gives back differs: {size} bytes with SHA-256 {sha},"
                f" written were {self.bytes} with {self.sha256}. It was taken away again and counts for nothing;"
                " launch again."
            )
        self.proven = True

    def proving(self, stream: BinaryIO) -> BinaryIO:
        """The same stream; at its end what passed is compared."""
        return buffered(_Proving(stream, self))

    def prove(self, stream: BinaryIO) -> None:
        with self.proving(stream) as proving:
            while proving.read(BUFFER):
                pass


class _Proving(io.RawIOBase):
    def __init__(self, stream: BinaryIO, written: Written) -> None:
        self._stream, self._written = stream, written
        self._hash = sha256()
        self._bytes = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._hash.update(data)
        self._bytes += len(data)
        if not data and len(view) and not self._ended:
            self._ended = True
            self._written.require(self._hash.hexdigest(), self._bytes)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
