"""Where backups live: one small interface.

A name is a relative path with forward slashes. A write is create-only and atomic: the name exists, whole,
only after `commit`, and a name that exists is never written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from saju_ops.errors import OperatorError


class StorageError(OperatorError):
    """The storage can't do what was asked. What was there before is still there."""


class AlreadyThere(StorageError):
    """The name exists. It was not overwritten."""


class Writer(Protocol):
    """A file on its way. Leaving the `with` block without `commit` leaves nothing."""

    def write(self, data: bytes | memoryview) -> int: ...

    def read_back(self) -> BinaryIO:
        """What has been written, made durable and read again from where it lies. Nothing may be written after."""

    def commit(self) -> None:
        """Makes the file durable and gives it its name. Raises AlreadyThere."""


class Storage(Protocol):
    # What encrypted files are written and read with; None writes new files unencrypted.
    password: str | None

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
        """Where an operator finds the file."""

    def clear_unfinished(self, prefix: str) -> int:
        """Removes what killed writers left of files whose names start with prefix. The caller holds the
        lock under which such files are written. Returns how many."""

    def delete(self, name: str) -> None:
        """Removes a complete file, durably. A name that isn't there is fine. For retention alone: delete a
        backup's manifest first, so that what is left never counts."""

    def complete(self, prefix: str) -> list[str]:
        """Copies what only one of two stores has of files whose names start with prefix, each copy proven by
        SHA-256, manifests last. Returns the names it copied; a single store has nothing to do. Call it first in
        every run that writes, under the lock under which such files are written. Raises StorageError."""
