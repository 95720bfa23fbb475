"""Copies a backup from one store to the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from typing import Any, BinaryIO, TypeVar

from saju_ops.errors import ProofFailed
from saju_ops.storage.base import Storage, StorageError
from saju_ops.storage.remote import BUFFER, Written
from saju_ops.storage.seal import read_bounded, require_seal

T = TypeVar("T")


def _sha256_and_size(stream: BinaryIO) -> tuple[str, int]:
    found, size = sha256(), 0
    while data := stream.read(BUFFER):
        found.update(data)
        size += len(data)
    return found.hexdigest(), size


class _TargetFailed(Exception):
    """The store that lacks a copy can't take it now."""


def _stem(name: str) -> str:
    """What the names of a backup's file and manifest have in common; those of a day's parts are alike too."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.', 1)[0]}"


def _copy_backup(
    others: Sequence[tuple[Storage, set[str]]], target: Storage, there: set[str], manifest_name: str
) -> list[str]:
    """Copies a backup's missing files to the target: its data file, and then its manifest. Raises StorageError if no
    other store has it whole."""
    described = [store for store, names in others if manifest_name in names]
    lacks_manifest = manifest_name not in there
    if not described and lacks_manifest:
        return []
    if lacks_manifest:
        found = _believed(described, manifest_name)
    else:
        found = _at_target(lambda: _believed([target], manifest_name))
    if found is None:
        return []  # it counts for nothing where it is, and `verify` reports it
    manifest, file, sha, size = found
    copied = []
    # What has file and manifest is not read again each time: that is `verify`'s work.
    if (lacks_manifest or file not in there) and not _has(target, file, sha, size):
        holding = [store for store, names in others if file in names]
        _copy(holding[0] if holding else others[0][0], target, file, (sha, size))
        copied.append(file)
    if lacks_manifest:
        _put(target, manifest_name, iter([manifest]))
        copied.append(manifest_name)
    return copied


def _believed(stores: Sequence[Storage], name: str) -> tuple[bytes, str, str, int] | None:
    """The first copy of a manifest that is sealed as it must be, and the file, SHA-256 and size that it says."""
    for store in stores:
        with suppress(ProofFailed):
            data = read_bounded(store, name)
            raw = require_seal(data, name, store, untouched=False)
            file = raw.get("file")
            if type(file) is str and _stem(file) == _stem(name) and (described := _described(raw)):
                return data, file, *described
    return None


def _described(raw: Mapping[str, Any]) -> tuple[str, int] | None:
    sha, size = raw.get("stored_sha256"), raw.get("stored_bytes")
    return (sha, size) if type(sha) is str and type(size) is int else None


def _has(target: Storage, file: str, sha: str, size: int) -> bool:
    """Whether the file is there already, from a copy that was broken off before its manifest."""
    try:
        if not target.exists(file):
            return False
        found = Written(target.location(file))
        with target.open(file) as stream:
            while data := stream.read(BUFFER):
                found.add(data)
    except (StorageError, OSError) as error:
        raise _TargetFailed(_text(error)) from None
    if (found.sha256, found.bytes) != (sha, size):
        raise StorageError(
            f"{target.location(file)} is another file than its counterpart in the other store. Nothing was changed;"
            " look at both, and take the wrong one away."
        )
    return True


def _copy(source: Storage, target: Storage, file: str, expected: tuple[str, int]) -> None:
    def chunks() -> Iterator[bytes]:
        read = Written(source.location(file))
        with source.open(file) as stream:
            while data := stream.read(BUFFER):
                read.add(data)
                yield data
        if (read.sha256, read.bytes) != expected:
            raise _Damaged

    try:
        _put(target, file, chunks())
    except (_Damaged, FileNotFoundError):
        raise StorageError(
            f"{source.location(file)} is missing or damaged, and {target.uri} has no copy of it to mend it with."
            " Nothing was changed."
        ) from None


class _Damaged(Exception):
    pass


def _put(target: Storage, name: str, chunks: Iterator[bytes]) -> None:
    """Raises _TargetFailed for errors at the target; errors of the chunks pass unchanged."""
    written = Written(target.location(name))
    with ExitStack() as stack:
        writer = _at_target(lambda: stack.enter_context(target.create(name)))
        for data in chunks:
            written.add(data)
            _at_target(lambda data=data: writer.write(data))  # type: ignore[misc]
        _at_target(lambda: written.prove(writer.read_back()))
        _at_target(writer.commit)


def _at_target(work: Callable[[], T]) -> T:
    try:
        return work()
    except (StorageError, OSError) as error:
        raise _TargetFailed(_text(error)) from None


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}"
    return str(error)
