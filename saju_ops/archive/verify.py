"""Reads stored archives back and compares them with their manifests; passes their rows to callers that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, BinaryIO, Protocol

from saju_ops.archive.manifest import Manifest
from saju_ops.errors import ProofFailed
from saju_ops.rows.ahead import one_ahead
from saju_ops.rows.csvfile import BLOCK, LARGEST_BLOCK, ArchiveReader, Packing, RecordTooLarge
from saju_ops.rows.digest import EMPTY, Digest, row_hashes
from saju_ops.rows.pieces import Key, PieceHasher, Pieces, key_at
from saju_ops.rows.table import Column
from saju_ops.storage.encryption import WrongPassword
from saju_ops.storage.open import Storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


# Gets a batch, and what gives its row hashes: they cost 1.1 µs a row, and not everybody needs them.
Visit = Callable[["pa.RecordBatch", Callable[[], "np.ndarray"]], None]


@dataclass(frozen=True)
class ReadBack:
    digest: Digest | Pieces
    first_key: Key | None
    last_key: Key | None
    content_sha256: str
    content_bytes: int
    stored_sha256: str
    stored_bytes: int
    block: int


def read_back(
    reopen: Callable[[], BinaryIO],
    packing: Packing,
    columns: Sequence[Column],
    key: Sequence[str],
    block: int = BLOCK,
    start_visit: Callable[[], Visit] | None = None,
    cuts: Sequence[int] | None = None,
) -> ReadBack:
    """Reads a whole stored file and hashes its rows. Raises ProofFailed, OSError.

    The visitor that `start_visit` returns gets each batch with its row hashes. If a record doesn't fit into a block,
    the file is read again from the start with larger blocks, and `start_visit` is called again. With `cuts`, the
    numbers of rows of its pieces, the digest is one of pieces.
    """
    while True:
        reader = ArchiveReader(reopen(), packing, [c.name for c in columns], block)
        try:
            hasher = RowHasher() if cuts is None else PieceHasher(cuts, columns, key)
            return _read(reader, columns, key, block, start_visit() if start_visit else None, hasher)
        except RecordTooLarge:
            if block >= LARGEST_BLOCK:
                raise ProofFailed("a row in it is larger than this machine reads at once") from None
            block *= 4
        finally:
            reader.close()


class Hasher(Protocol):
    def add(self, batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None: ...

    def result(self) -> Digest | Pieces: ...


class RowHasher:
    """The digest of all rows by a hash of each."""

    def __init__(self) -> None:
        self._found = EMPTY

    def add(self, batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None:
        self._found += Digest.of(hashes())

    def result(self) -> Digest:
        return self._found


def _read(
    reader: ArchiveReader, columns: Sequence[Column], key: Sequence[str], block: int, visit: Visit | None,
    hasher: Hasher,
) -> ReadBack:  # fmt: skip
    first, last = None, None
    batches = reader.batches()
    # A batch is parsed (0.6 µs a row, without Python's lock) while the one before is hashed row by row (1.1 µs). Pieces
    # are hashed so fast (0.4 µs) that the hand-over costs more than it gains.
    for batch in batches if isinstance(hasher, PieceHasher) else one_ahead(batches):
        hashes = cache(partial(row_hashes, batch, columns))
        hasher.add(batch, hashes)
        if batch.num_rows:
            first = first or key_at(batch, key, 0)
            last = key_at(batch, key, batch.num_rows - 1)
        if visit is not None:
            visit(batch, hashes)
    reader.finish()
    return ReadBack(
        hasher.result(), first, last, reader.content_sha256, content_bytes=reader.content_bytes,
        stored_sha256=reader.stored_sha256, stored_bytes=reader.stored_bytes, block=block,
    )  # fmt: skip


def keys_of(batch: pa.RecordBatch, key: Sequence[str]) -> list[tuple[bytes, ...]]:
    import pyarrow as pa

    return list(zip(*(batch.column(name).cast(pa.binary()).to_pylist() for name in key), strict=True))


def each_visit(*visits: Visit) -> Visit:
    def both(batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None:
        for visit in visits:
            visit(batch, hashes)

    return both


def verify_part(storage: Storage, manifest: Manifest, start_visit: Callable[[], Visit] | None = None) -> ReadBack:
    """Reads a stored part back. Raises ProofFailed, naming the file, if it doesn't match its manifest."""
    where = storage.location(manifest.file)
    try:
        found = read_back(
            lambda: storage.open(manifest.file), manifest.packing(storage.password), manifest.table_columns,
            manifest.key, block=manifest.largest_block, start_visit=start_visit, cuts=manifest.cuts,
        )  # fmt: skip
    except FileNotFoundError:
        raise ProofFailed(f"The archive {where} is missing, though its manifest is there.") from None
    except WrongPassword as error:
        raise WrongPassword(f"{where}: {error}") from None
    except ProofFailed as error:
        raise ProofFailed(f"The archive {where} is damaged: {error}.") from None
    except OSError as error:
        raise ProofFailed(f"The archive {where} can't be read ({error.strerror}).") from None
    wrong = [
        name
        for name, have, want in (
            ("size", found.stored_bytes, manifest.stored_bytes),
            ("SHA-256 of the file", found.stored_sha256, manifest.stored_sha256),
            ("SHA-256 of the rows' text", found.content_sha256, manifest.content_sha256),
            ("number of rows", found.digest.rows, manifest.rows),
            ("row digest", found.digest.hex, manifest.digest),
        )
        if have != want
    ]
    if wrong:
        raise ProofFailed(f"The archive {where} is damaged. What differs from its manifest: {', '.join(wrong)}.")
    return found


def verify_stored_bytes(storage: Storage, manifest: Manifest) -> None:
    """The quick form: only the stored bytes, not the rows, of every copy. Raises ProofFailed, StorageError."""
    for copy in storage.copies():
        _verify_copy(copy, manifest)


def _verify_copy(storage: Storage, manifest: Manifest) -> None:
    from hashlib import sha256

    where = storage.location(manifest.file)
    content, size = sha256(), 0
    try:
        with storage.open(manifest.file) as stream:
            while data := stream.read(1 << 20):
                content.update(data)
                size += len(data)
    except OSError as error:
        raise ProofFailed(f"The archive {where} can't be read ({error.strerror}).") from None
    if (size, content.hexdigest()) != (manifest.stored_bytes, manifest.stored_sha256):
        raise ProofFailed(f"The archive {where} is damaged: its SHA-256 or size differs from the manifest.")


def part_batches(storage: Storage, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """The rows of a stored part. The caller checks them: the file may change after it was verified.

    Raises WrongPassword, naming the file.
    """
    stream = storage.open(manifest.file)
    names = [c.name for c in manifest.table_columns]
    try:
        reader = ArchiveReader(stream, manifest.packing(storage.password), names, manifest.largest_block)
    except WrongPassword as error:
        raise WrongPassword(f"{storage.location(manifest.file)}: {error}") from None
    try:
        yield from reader.batches()
    finally:
        reader.close()
