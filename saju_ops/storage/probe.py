"""Whether a store can be used, by using it: a small file is written, read back, refused a second time and deleted."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from saju_ops.storage.base import AlreadyThere, Storage, StorageError
from saju_ops.storage.local import LocalStorage, require_can_be_made

FOLDER = "saju_ops_probe"


def probe(store: Storage) -> str:
    """A sentence about a store that works. Raises StorageError or OSError, in words, for a store that doesn't.

    A local folder that isn't there yet is not made: the sentence says whether it could be.
    """
    if isinstance(store, LocalStorage) and not store.root.exists():
        return f"{store.root}: a new folder, which isn't there yet (made at the first archive){_parent(store.root)}"
    if isinstance(store, LocalStorage) and not store.root.is_dir():
        raise StorageError(f"{store.root} is not a folder")
    name, data = f"{FOLDER}/{uuid.uuid4().hex}", os.urandom(1_000)
    try:
        notes = _tried(store, name, data)
    except BaseException:
        with suppress(StorageError, OSError):
            _delete(store, name)
        raise
    _delete(store, name)
    shown = str(store.root) if isinstance(store, LocalStorage) else store.uri
    return ", ".join([f"{shown}: written, read and deleted", *notes])


def _tried(store: Storage, name: str, data: bytes) -> list[str]:
    with store.create(name) as writer:
        writer.write(data)
        writer.commit()
    with store.open(name) as stream:
        if stream.read() != data:
            raise StorageError(f"{store.uri} gives back other bytes than were written.")
    return [note for note in (store.free_space(), _twice(store, name), store.remains()) if note]


def _twice(store: Storage, name: str) -> str:
    """Nothing where a second writer of one name is refused."""
    try:
        with store.create(name) as writer:
            writer.write(b"second")
            writer.commit()
    except AlreadyThere:
        if getattr(store, "conditional", True):
            return ""
        return "the store knows no conditional writes, so only the database's lock keeps two writers of a name apart"
    raise StorageError(f"{store.uri} lets a file be overwritten; it can't be used for backups.")


def _delete(store: Storage, name: str) -> None:
    store.delete(name)
    if isinstance(store, LocalStorage):
        folder = store.root / FOLDER
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _parent(root: Path) -> str:
    require_can_be_made(root)
    existing = next(each for each in root.parents if each.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"{existing} can't be written by this user")
    space = os.statvfs(existing)
    return f", {space.f_bavail * space.f_frsize / 1e9:.1f} GB free"
