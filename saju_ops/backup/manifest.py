"""The manifest of a dump or snapshot, and the list of what a storage holds of them.

A backup exists only once its manifest does; it is written last. `proof` says what was restored and compared:
a backup whose `proven` is false is there, but counts for nothing when old backups are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from saju_ops.errors import ProofFailed
from saju_ops.sealed import require_seal, sealed
from saju_ops.storage import Storage

FORMAT = 1
ENDING = ".manifest.json"
Kind = Literal["database_dump", "masked_database_dump", "chroma_snapshot"]
# Folder of each kind under the storage's root.
FOLDERS: dict[Kind, str] = {
    "database_dump": "database/",
    "masked_database_dump": "masked_database/",
    "chroma_snapshot": "chroma/",
}


@dataclass(frozen=True)
class BackupManifest:
    kind: Kind
    format: int
    # Name of the data file in the storage, and of what it was made: a database's name, a folder, a server.
    file: str
    source: str
    engine: str
    server_version: str
    # Instant, UTC, that the content belongs to: the snapshot's, not the end of the run.
    taken_at: str
    compression: Literal["none", "gzip"]
    encryption: str
    # The content before compression and encryption, and the file as it lies in the storage.
    content_sha256: str
    content_bytes: int
    stored_sha256: str
    stored_bytes: int
    # What it holds and how to prove it: tables with rows and checksums, or collections with counts and digests.
    contents: dict[str, Any]
    # True once it was restored from the storage and everything in `contents` was found again.
    proven: bool
    proof: dict[str, Any]
    tool: str
    run_id: str
    created_at: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The manifest's own name in the storage."""
        return manifest_name(self.file)

    @property
    def taken(self) -> datetime:
        return datetime.fromisoformat(self.taken_at)

    def to_json(self) -> bytes:
        return sealed(asdict(self))


def manifest_name(file: str) -> str:
    """`database/app_20261001_030000.sql.gz` has `database/app_20261001_030000.manifest.json`."""
    folder, _, name = file.rpartition("/")
    stem = name.split(".", 1)[0] if "." in name else name
    return f"{folder}/{stem}{ENDING}" if folder else f"{stem}{ENDING}"


def stamp(instant: datetime, zone: ZoneInfo) -> str:
    """`YYYYMMDD_HHMMSS` in TIMEZONE, as it stands in a backup's name: the 03:00 dump is called _030000."""
    return f"{instant.astimezone(zone):%Y%m%d_%H%M%S}"


def write_manifest(storage: Storage, manifest: BackupManifest) -> None:
    """Raises AlreadyThere where the name exists; a manifest is never overwritten."""
    with storage.create(manifest.name) as writer:
        writer.write(manifest.to_json())
        writer.commit()


def read_manifest(storage: Storage, name: str, *, untouched: bool = False) -> BackupManifest:
    """Raises ProofFailed for anything that is not a whole manifest of a format that this version knows; `untouched`
    also for one that isn't byte for byte what was written."""
    with storage.open(name) as stream:
        data = stream.read()
    if untouched:
        require_seal(data, name)
    try:
        raw = json.loads(data)
        known = {f.name for f in fields(BackupManifest)}
        manifest = BackupManifest(**{k: v for k, v in raw.items() if k in known})
        valid = manifest.kind in FOLDERS and manifest.format == FORMAT
        valid = valid and manifest.name == name and manifest.taken.tzinfo is not None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ProofFailed(f"{name} is not a whole manifest; what it describes counts as no backup.") from None
    if not valid:
        raise ProofFailed(f"{name} is of a kind, format or file that this version doesn't know.")
    return manifest


def passed_over(storage: Storage, chosen: BackupManifest, until: str | None) -> list[str]:
    """What is there of the same source that is newer than the chosen backup (up to `until`, a stamp) and can't be
    restored: each file's name with the reason."""
    folder, _, file = chosen.file.rpartition("/")
    label, mine = _label_and_stamp(file)
    names = {*storage.names(f"{folder}/{label}_")}
    told = []
    for stem in sorted({name.rpartition("/")[2].split(".", 1)[0] for name in names}):
        theirs = _label_and_stamp(stem)
        newer = theirs[0] == label and theirs[1] > mine and (until is None or theirs[1] <= until)
        if newer and (why := _why_not(storage, f"{folder}/{stem}{ENDING}", names)):
            told.append(f"{folder}/{stem} ({why})")
    return told


def _label_and_stamp(file: str) -> tuple[str, str]:
    """`app_20261001_030000.sql.gz` → `app`, `20261001_030000`."""
    label, *mark = file.split(".", 1)[0].rsplit("_", 2)
    return label, "_".join(mark)


def _why_not(storage: Storage, name: str, names: set[str]) -> str:
    if name not in names:
        return "it has no manifest"
    try:
        manifest = read_manifest(storage, name)
    except ProofFailed:
        return "its manifest is damaged"
    if manifest.file not in names:
        return "its data file is gone"
    return "" if manifest.proven else "it was never proven"


def backups(storage: Storage, kind: Kind) -> Iterator[BackupManifest]:
    """Every backup of the kind that has a whole manifest and its data file, oldest first. Others are left out:
    `verify` and `prune` are what reports them."""
    names = list(storage.names(FOLDERS[kind]))
    there, found = set(names), []
    for name in (n for n in names if n.endswith(ENDING)):
        try:
            manifest = read_manifest(storage, name)
        except ProofFailed:
            continue
        if manifest.kind == kind and manifest.file in there:
            found.append(manifest)
    yield from sorted(found, key=lambda m: (m.taken, m.file))
