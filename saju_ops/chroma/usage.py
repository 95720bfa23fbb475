"""How much the vector store holds: documents per collection, bytes on disk, and the age of the newest snapshot.

A folder is measured by SQLite's own tables, in a separate process and without Chroma; a server by its API.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saju_ops.chroma.files import DATABASE
from saju_ops.chroma.live_copy import LOCK_SECONDS
from saju_ops.chroma.snapshot import Source
from saju_ops.chroma.worker_client import ask
from saju_ops.errors import OperatorError, Refused
from saju_ops.scratch import scratch_folder
from saju_ops.storage.manifest import BackupManifest, backups
from saju_ops.storage.open import Storage


@dataclass
class Usage:
    """Bytes are 0 for a server, which doesn't report them."""

    source: str
    collections: list[dict[str, Any]] = field(default_factory=list)
    bytes_on_disk: int = 0
    database_bytes: int = 0
    index_bytes: int = 0
    waiting_writes: int = 0
    # Index folders of collections that are gone; Chroma leaves them behind.
    orphaned_folders: int = 0
    orphaned_bytes: int = 0
    newest: BackupManifest | None = None
    snapshots: int = 0
    snapshot_bytes: int = 0
    age_hours: float | None = None

    @property
    def documents(self) -> int:
        return sum(int(c["count"]) for c in self.collections)

    def per_collection(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for c in self.collections:
            usual = (c["tenant"], c["database"]) == ("default_tenant", "default_database")
            found[c["name"] if usual else f"{c['tenant']}/{c['database']}/{c['name']}"] = int(c["count"])
        return found


def usage(source: Source, storage: Storage, *, now: datetime) -> Usage:
    """Changes nothing. Raises Refused for a folder that is no Chroma directory, OperatorError for a server that doesn't
    answer."""
    found = Usage(str(source))
    with scratch_folder() as scratch:
        if source.host:
            found.collections = ask("usage", scratch, **source.server)["collections"]
        else:
            for key, value in ask("usage_folder", scratch, folder=str(source.folder)).items():
                setattr(found, key, value)
    held = [m for m in backups(storage, "chroma_snapshot") if m.proven]
    found.snapshots, found.snapshot_bytes = len(held), sum(m.stored_bytes for m in held)
    if held:
        found.newest = held[-1]
        found.age_hours = round((now - held[-1].taken).total_seconds() / 3600, 2)
    return found


def folder_usage(folder: Path) -> dict[str, Any]:
    """Runs in the worker process: opening and closing the file would drop another's locks in this one."""
    path = folder / DATABASE
    if not path.is_file():
        raise Refused(f"CHROMA_DB_PATH names {folder}, where there is no {DATABASE}.")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=LOCK_SECONDS)) as connection:
            collections, waiting, indexes = _tables(connection)
    except sqlite3.Error as error:
        raise OperatorError(f"{path} can't be read ({error}). Nothing was changed.") from None
    sizes = {p.name: _bytes(p) for p in folder.iterdir()}
    database = sum(size for name, size in sizes.items() if name.startswith(DATABASE))
    orphans = [n for n in sizes if n not in indexes and (folder / n / "header.bin").is_file()]
    return {
        "collections": collections,
        "waiting_writes": waiting,
        "bytes_on_disk": sum(sizes.values()),
        "database_bytes": database,
        "index_bytes": sum(sizes.get(n, 0) for n in indexes),
        "orphaned_folders": len(orphans),
        "orphaned_bytes": sum(sizes[n] for n in orphans),
    }


def _tables(connection: sqlite3.Connection) -> tuple[list[dict[str, Any]], int, set[str]]:
    found = connection.execute(
        "SELECT d.tenant_id, d.name, c.name, c.dimension,"
        " (SELECT COUNT(*) FROM embeddings e JOIN segments s ON s.id = e.segment_id"
        "  WHERE s.collection = c.id AND s.scope = 'METADATA')"
        " FROM collections c JOIN databases d ON d.id = c.database_id ORDER BY 1, 2, 3"
    )
    names = ("tenant", "database", "name", "dimension", "count")
    collections = [dict(zip(names, row, strict=True)) for row in found]
    (waiting,) = connection.execute("SELECT COUNT(*) FROM embeddings_queue").fetchone()
    return collections, int(waiting), {n for (n,) in connection.execute("SELECT id FROM segments WHERE scope='VECTOR'")}


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(_bytes(p) for p in path.iterdir())
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a journal that has just gone
        return 0
