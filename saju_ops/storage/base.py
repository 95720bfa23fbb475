"""Where backups live: one small interface.

A name is a relative path with forward slashes. A write is create-only and atomic: the name exists only whole, and
a name that exists is never written again. In S3 it exists from `read_back` on, since nothing can be read there
before; leaving without `commit` removes it. After a kill between the two it stays: whole, but without its
manifest, which is why a file without one counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, runtime_checkable

from saju_ops.errors import OperatorError
from saju_ops.storage.seal import Seals


class StorageError(OperatorError):
    """The storage can't do what was asked. What was there before is still there."""


class AlreadyThere(StorageError):
    """The name exists. It was not overwritten."""


def require_name(name: str) -> tuple[str, ...]:
    """The parts of a name. Raises StorageError where it leads out of the storage, or is written in a way that a folder
    and a bucket understand differently: `a//b` and `a/./b` are files of their own in S3."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or "/".join(parts) != name:
        raise StorageError(f"{name!r} is not a name inside the storage.")
    return parts


def is_name(name: str) -> bool:
    """Whether a listed name is one that a run could have written; in a bucket others may lie, such as `a//b`."""
    try:
        return bool(require_name(name))
    except StorageError:
        return False


class Writer(Protocol):
    """A file on its way. Leaving the `with` block without `commit` leaves nothing."""

    def write(self, data: bytes | memoryview) -> int: ...

    def read_back(self) -> BinaryIO:
        """What has been written, made durable and read again from where it lies. Nothing may be written after."""

    def commit(self) -> None:
        """Makes the file durable, proves it by its SHA-256 where it lies elsewhere, and gives it its name.
        Raises AlreadyThere."""


@runtime_checkable
class FollowedWriter(Writer, Protocol):
    """A file that can be read back while it is being written: a storage that can't has plain writers."""

    def follow(self) -> BinaryIO:
        """What is written, from its start, each piece once it is durable; at its end it waits for more till
        `end` or `close` is called. For another thread. Raises OSError where writing was given up."""

    def end(self) -> None:
        """Nothing more is written."""

    def close(self) -> None:
        """Gives the file up, unless it was committed."""


class Storage(Protocol):
    # What encrypted files are written and read with; None writes new files unencrypted.
    password: str | None
    # By which manifests are sealed and believed; see saju_ops.storage.seal.
    seals: Seals

    @property
    def uri(self) -> str:
        """Its address, without anything secret."""

    def create(self, name: str) -> AbstractContextManager[Writer]: ...

    def open(self, name: str) -> BinaryIO:
        """The stored bytes from the start. Raises FileNotFoundError."""

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes stored. Raises FileNotFoundError."""

    def names(self, prefix: str) -> Iterator[str]:
        """Every complete file whose name starts with prefix, sorted; never one that is on its way."""

    def location(self, name: str) -> str:
        """Where an operator finds the file, fit for a message: what isn't printed in its name is escaped."""

    def clear_unfinished(self, prefix: str) -> int:
        """Removes what killed writers left of files whose names start with prefix. The caller holds the
        lock under which such files are written. Returns how many."""

    def delete(self, name: str) -> None:
        """Removes a complete file, durably. A name that isn't there is fine. For retention alone: delete a
        backup's manifest first, so that what is left never counts."""

    def complete(self, prefix: str) -> list[str]:
        """Copies what only one of two stores has of files whose names start with prefix, each copy proven by
        SHA-256, manifests last. Returns the names it copied; a single store has nothing to do. Call it first in
        every run that writes, under the lock under which such files are written. Raises StorageError for what can't
        be completed, after it completed the rest."""

    def require_all(self) -> None:
        """At the end of a run that writes: raises StorageError, with what is where, if one of two stores could
        not be used in it."""

    def copies(self) -> Sequence[Storage]:
        """Each single store that holds a copy: what proves files before a deletion looks at every one."""

    def remains(self) -> str:
        """What a delete leaves behind, in words: old versions, a trash. Empty where nothing does."""

    def free_space(self) -> str:
        """What can be said of the room that is left, in words; empty where the store doesn't tell."""
