"""A local folder as storage: temporary name, fsync, hard link to the final name, fsync of the folder.

The link is what makes a write create-only: unlike a rename it fails when the name exists. Files are 0600 and
folders 0700, because they hold people's conversations.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from saju_ops.storage.base import AlreadyThere, StorageError

UNFINISHED = ".unfinished"


class LocalStorage:
    def __init__(self, root: Path, password: str | None = None) -> None:
        self.root = root.expanduser().absolute()
        self.password = password

    @property
    def uri(self) -> str:
        return self.root.as_uri()

    def location(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise StorageError(f"{name!r} is not a name inside the storage.")
        return self.root.joinpath(*parts)

    @contextmanager
    def create(self, name: str) -> Iterator[_LocalWriter]:
        path = self._path(name)
        _make_folders(path.parent)
        # One leading dot hides it from Excel's file dialog; the suffix is what clear_unfinished looks for.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        writer = _LocalWriter(descriptor, temporary, path)
        try:
            yield writer
        finally:
            writer.close()
            temporary.unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO:
        return self._path(name).open("rb")

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def names(self, prefix: str) -> Iterator[str]:
        folder = self._path(prefix if prefix.endswith("/") else f"{prefix}x").parent
        folder = self._path(prefix) if prefix.endswith("/") else folder
        if not folder.is_dir():
            return
        found = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(UNFINISHED))
        for path in found:
            name = path.relative_to(self.root).as_posix()
            if name.startswith(prefix):
                yield name

    def clear_unfinished(self, prefix: str) -> int:
        path = self._path(prefix)
        removed = 0
        for leftover in path.parent.glob(f".{path.name}*{UNFINISHED}"):
            leftover.unlink(missing_ok=True)
            removed += 1
        return removed

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)

    def complete(self, prefix: str) -> list[str]:
        return []


class _LocalWriter:
    def __init__(self, descriptor: int, temporary: Path, path: Path) -> None:
        self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._temporary = temporary
        self._path = path

    def write(self, data: bytes | memoryview) -> int:
        return self._file.write(data)

    def read_back(self) -> BinaryIO:
        self._sync()
        # Drop the cached pages, so that the disk answers and not the memory that the bytes came from.
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return self._temporary.open("rb")

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        self._sync()
        try:
            os.link(self._temporary, self._path)
        except FileExistsError:
            raise AlreadyThere(f"{self._path} exists and was not overwritten.") from None
        _sync_folder(self._path.parent)

    def close(self) -> None:
        # A full disk shows again when the buffer is flushed on close; the first error is the one to tell.
        try:
            self._file.close()
        except OSError:
            os.close(self._file.fileno()) if not self._file.closed else None


def _make_folders(folder: Path) -> None:
    """Like mkdir -p with 0700, and each new folder's entry made durable in its parent."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
