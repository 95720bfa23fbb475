"""A dump on its way into the storage and back: compressed, encrypted if wanted, hashed on both sides.

Memory is constant. Content that `unpacked` has yielded to its end is whole and matches the manifest; a caller that must
not act on anything less reads it twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

from saju_ops.errors import ProofFailed
from saju_ops.storage.encryption import ENDING, METHOD, decrypting, encrypting
from saju_ops.storage.open import Writer

CHUNK = 1 << 20
# Bytes of content that a piece may become.
LARGEST = 4 << 20
GZIP = 31
# Fastest that still gives a quarter: level 1 of ISA-L packs 0.5 GB a second here, zlib's level 1 a fifth of it.
LEVEL = 1


@dataclass(frozen=True)
class Packed:
    content_sha256: str
    content_bytes: int
    stored_sha256: str
    stored_bytes: int


class _Stored:
    """Counts and hashes what is written into the storage."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.sha256, self.bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        self._writer.write(data)
        return len(data)


class Packer:
    """`with Packer(...) as packer:` write the dump program's output, then leave the block, then call `result`."""

    def __init__(self, writer: Writer, password: str | None, name: str) -> None:
        from isal import isal_zlib

        self._stored = _Stored(writer)
        self._content, self._bytes = hashlib.sha256(), 0
        self._gzip = isal_zlib.compressobj(level=LEVEL, wbits=GZIP)
        inner = name.rpartition("/")[2].removesuffix(ENDING)
        self._encrypting: AbstractContextManager[Any] | None = (
            encrypting(self._stored, password, inner) if password else None
        )
        self._sink: Any = self._encrypting or self._stored

    def write(self, data: bytes) -> None:
        self._content.update(data)
        self._bytes += len(data)
        if packed := self._gzip.compress(data):
            self._sink.write(packed)

    def __enter__(self) -> Packer:
        if self._encrypting:
            self._encrypting.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._sink.write(self._gzip.flush())
        if self._encrypting:
            self._encrypting.__exit__(*error)

    @property
    def result(self) -> Packed:
        return Packed(self._content.hexdigest(), self._bytes, self._stored.sha256.hexdigest(), self._stored.bytes)


class _Hashed:
    """The stored bytes as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256, self.bytes = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.bytes += len(data)
        return data

    def close(self) -> None:
        self._stream.close()


def unpacked(stream: BinaryIO, packed: Packed, encryption: str, password: str | None, name: str) -> Iterator[bytes]:
    """The content of a stored dump. Closes the stream. Raises WrongPassword before the first byte, and ProofFailed by
    the end at the latest, unless it is exactly what was stored."""
    with stream:
        hashed = _Hashed(stream)
        source: Any = decrypting(hashed, password) if encryption == METHOD else hashed  # type: ignore[arg-type]
        content, size = hashlib.sha256(), 0
        for piece in _gunzipped(source, name):
            content.update(piece)
            size += len(piece)
            yield piece
        while hashed.read(CHUNK):
            pass
        found = Packed(content.hexdigest(), size, hashed.sha256.hexdigest(), hashed.bytes)
    if found != packed:
        raise ProofFailed(
            f"{name} is not what was stored: it has {found.stored_bytes:,} bytes with {found.content_bytes:,} bytes of"
            f" content, {packed.stored_bytes:,} and {packed.content_bytes:,} are right, or other bytes than those."
            " Don't restore from it; take an older one."
        )


def _gunzipped(source: Any, name: str) -> Iterator[bytes]:
    from isal import isal_zlib

    gzip = isal_zlib.decompressobj(wbits=GZIP)
    while data := source.read(CHUNK):
        try:
            # A bound on what one piece may become: memory stays flat however well the data was packed.
            piece = gzip.decompress(data, LARGEST)
            while piece:
                yield piece
                more = not gzip.eof and (len(piece) == LARGEST or gzip.unconsumed_tail)
                piece = gzip.decompress(gzip.unconsumed_tail, LARGEST) if more else b""
        except (isal_zlib.error, EOFError) as error:  # type: ignore[misc]
            raise ProofFailed(f"{name} can't be unpacked ({error}): it is damaged. Take an older one.") from None
        if gzip.eof and gzip.unused_data:
            raise ProofFailed(f"{name} has data after its end: it is damaged. Take an older one.")
    if not gzip.eof:
        raise ProofFailed(f"{name} ends before its content does: it was cut. Take an older one.")
