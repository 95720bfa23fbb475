"""Copies a Chroma directory that a chatbot is using, without opening it by Chroma.

Everything that was acknowledged before it began is in the copy: it is in SQLite then, and SQLite is copied under its
own write lock. The index files are written outside that lock, so a file that changed while it was copied is copied
again, and the whole copy is then read (`chroma_files`): what doesn't fit raises TornCopy, and the caller takes it
again.

Runs in a process of its own. SQLite's locks are those of the process: any other code in it that opened and closed
the database file would drop them, and Chroma brings an SQLite of its own that would not even see them.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from saju_ops.chroma.files import DATABASE
from saju_ops.chroma.sparse import copy_file, disk_bytes
from saju_ops.errors import Busy, ProofFailed, Refused

# A chatbot's own writes take milliseconds. Chroma waits for a lock without end (40 s tried), we don't.
LOCK_SECONDS = 60.0
# How long an index that is being written may take to come to rest, while the chatbot's writes wait for us.
REST_SECONDS = 2.0


@dataclass
class Copied:
    """What was copied, and how long the chatbot's writes had to wait at most, in seconds."""

    bytes: int = 0
    # What they take of the disk: less, where a file has holes.
    disk_bytes: int = 0
    files: int = 0
    locked_seconds: float = 0.0
    waited_for_lock_seconds: float = 0.0
    files_copied_again: int = 0
    # Top-level names that are not Chroma's, or index folders of collections that are gone.
    left_out: list[str] = field(default_factory=list)


def copy_live(source: Path, target: Path) -> Copied:
    """Copies into `target`, a new folder. Raises Refused for a folder that is no Chroma directory or can't be read,
    Busy if the lock can't be had, ProofFailed for a damaged database file."""
    if not (source / DATABASE).is_file():
        raise Refused(
            f"CHROMA_DB_PATH names {source}, where there is no {DATABASE}; it may name the folder that the chatbot"
            " gives to Chroma."
        )
    target.mkdir(mode=0o700)
    copied = Copied()
    try:
        # First without the lock: it is then held only for the files that change during this first copy.
        known = _copy_indexes(source, target, _index_folders(source), {}, copied)
        _copy_under_lock(source, target, known, copied)
    except PermissionError as error:
        raise Refused(
            f"{error.filename} can't be read by this user; saju_ops must run as the chatbot's user or as root."
        ) from None
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Busy(f"{source / DATABASE} stayed locked by another process for {LOCK_SECONDS:.0f} s.") from None
        raise Refused(
            f"{source / DATABASE} can't be read ({error}); the folder must be writable for its lock."
        ) from None
    except sqlite3.DatabaseError as error:
        raise damaged(source / DATABASE, str(error)) from None
    ours = {DATABASE, *known}
    leave = {f"{DATABASE}-journal", f"{DATABASE}-wal", f"{DATABASE}-shm"}
    copied.left_out = sorted({p.name for p in source.iterdir()} - ours - leave)
    return copied


def damaged(database: Path, found: str) -> ProofFailed:
    """What SQLite found wrong with the database file that the chatbot uses."""
    return ProofFailed(
        f"{database}, which the chatbot uses, is damaged itself ({found}): no copy of it can be proven. Nothing was"
        f' stored, and older snapshots are untouched. With the chatbot stopped, `sqlite3 {database} "REINDEX"` makes'
        " damaged indexes anew; if more is damaged, restore the newest snapshot."
    )


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LOCK_SECONDS)


def _index_folders(source: Path) -> list[str]:
    with _closing(_connect(source / DATABASE)) as connection:
        return _segments(connection)


def _segments(connection: sqlite3.Connection) -> list[str]:
    return [n for (n,) in connection.execute("SELECT id FROM segments WHERE scope = 'VECTOR' ORDER BY id")]


class _closing:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


# Size, time of change and inode of every file: if one of them differs, the file was written to.
State = dict[str, tuple[int, int, int]]


def _copy_under_lock(source: Path, target: Path, known: dict[str, State], copied: Copied) -> None:
    began = time.monotonic()
    # Two connections: SQLite can't copy through the connection that holds the write lock.
    with _closing(_connect(source / DATABASE)) as holder, _closing(_connect(source / DATABASE)) as reader:
        holder.execute("BEGIN IMMEDIATE")
        locked = time.monotonic()
        copied.waited_for_lock_seconds = round(locked - began, 3)
        try:
            known.update(_copy_indexes(source, target, _segments(reader), known, copied))
            for gone in known.keys() - set(_segments(reader)):
                _remove(target / gone)
                del known[gone]
            with _closing(sqlite3.connect(target / DATABASE)) as copy:
                copy.execute("PRAGMA synchronous = OFF")
                reader.backup(copy)
        finally:
            holder.execute("ROLLBACK")
            copied.locked_seconds = round(time.monotonic() - locked, 3)
    # Its journal mode went with it; a snapshot is one file, with nothing beside it.
    with _closing(sqlite3.connect(target / DATABASE)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
    (target / DATABASE).chmod(0o600)
    files = [p for p in target.rglob("*") if p.is_file()]
    copied.files, copied.bytes = len(files), sum(p.stat().st_size for p in files)
    copied.disk_bytes = sum(disk_bytes(p) for p in files)


def settle(folder: Path) -> None:
    """Brings a folder of ours to rest that another process has opened by Chroma, and that has ended. Chroma empties its
    queue by a thread of its own; were that cut off, SQLite takes it back now, and not when somebody reads the folder
    without a look at its journal."""
    with _closing(_connect(folder / DATABASE)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _copy_indexes(
    source: Path, target: Path, names: list[str], known: dict[str, State], copied: Copied
) -> dict[str, State]:
    """Copies the folders that are not as they were in `known`, until none changes while it is copied."""
    found: dict[str, State] = {}
    deadline = time.monotonic() + REST_SECONDS
    for name in names:
        state = _state(source / name)
        while known.get(name) != state:
            if name in known or (target / name).exists():
                copied.files_copied_again += len(state)
            _remove(target / name)
            _copy_folder(source / name, target / name, state)
            after = _state(source / name)
            if after == state:
                break
            if time.monotonic() > deadline:
                # The first, unlocked round may fail: the locked one does it again.
                break
            state = after
        found[name] = state
    return found


def _state(folder: Path) -> State:
    found: State = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found[entry.name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def _copy_folder(source: Path, target: Path, state: State) -> None:
    if not state:
        return  # a collection without an index yet
    target.mkdir(mode=0o700)
    for name in state:
        with suppress(FileNotFoundError):
            copy_file(source / name, target / name)  # in the kernel: 2 GB/s here


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
