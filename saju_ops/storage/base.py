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
    """The storage can't do what was asked. Nothing that was stored before is lost."""


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
    """Whether a run could have written a file of this name; a bucket may hold other files too, such as `a//b`."""
    try:
        return bool(require_name(name))
    except StorageError:
        return False


class Writer(Protocol):
    """A file on its way. Leaving the `with` block without `commit` leaves nothing."""

    def write(self, data: bytes | memoryview) -> int: ...

    def read_back(self) -> BinaryIO:
        """Makes the written content durable and reads it again from the store. Nothing may be written after."""

    def commit(self) -> None:
        """Makes the file durable, proves it by its SHA-256 (in a remote store), and gives it its name. Raises
        AlreadyThere."""


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
        """Every complete file whose name starts with prefix, sorted; no file that is still being written."""

    def location(self, name: str) -> str:
        """Where an operator finds the file, fit for a message: what isn't printed in its name is escaped."""

    def clear_unfinished(self, prefix: str) -> int:
        """Removes unfinished files of killed writers whose names start with prefix. The caller holds the lock under
        which such files are written. Returns how many."""

    def delete(self, name: str) -> None:
        """Removes a complete file, durably. A name that isn't there is no error. Only retention calls it. Delete a
        backup's manifest first: without it, the other files count for nothing."""

    def complete(self, prefix: str) -> list[str]:
        """Copies files that only one of two stores has and whose names start with prefix, each copy proven by SHA-256,
        manifests last. Returns the names of the copied files; a single store has nothing to do. Call it first in every
        run that writes, under the lock under which such files are written. Raises StorageError for files that can't be
        copied, after copying the rest."""

    def require_all(self) -> None:
        """At the end of a run that writes: raises StorageError, which says where each file is, if the run could not use
        one of two stores."""

    def copies(self) -> Sequence[Storage]:
        """Each single store that holds a copy: what proves files before a deletion looks at every one."""

    def remains(self) -> str:
        """What remains after a delete, in words: old versions, a trash. Empty if nothing does."""

    def free_space(self) -> str:
        """The free space, in words; empty if the store doesn't report it."""
