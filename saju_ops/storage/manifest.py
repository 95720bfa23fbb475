"""The manifest of a dump or snapshot, and the list of what a storage holds of them.

A backup exists only once its manifest does; the manifest is written last. `proof` says what was restored and compared:
a backup whose `proven` is false exists, but counts for nothing when old backups are deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NotRequired
from zoneinfo import ZoneInfo

from pydantic import with_config
from typing_extensions import TypedDict

from saju_ops.errors import OperatorError, ProofFailed, shown
from saju_ops.storage import folders
from saju_ops.storage.manifest_fields import STRICT, Instant, Name, Sha256, Size, Text, dataclass_of, validated
from saju_ops.storage.open import Storage, StorageError
from saju_ops.storage.seal import Unsealed, read_sealed, sealed, write_sealed
from saju_ops.words import counted

FORMAT = 1
# A clock may be off by some minutes. A backup that is dated further ahead was taken by a wrong clock, so nobody knows
# how old it is: no restore takes it unless a time is named, and nothing else is deleted for its sake.
CLOCKS_DIFFER = timedelta(minutes=10)
ENDING = ".manifest.json"
Kind = Literal["database_dump", "masked_database_dump", "chroma_snapshot"]
# Folder of each kind under the storage's root.
FOLDERS: dict[Kind, str] = {
    "database_dump": folders.DUMPS,
    "masked_database_dump": folders.MASKED_DUMPS,
    "chroma_snapshot": folders.CHROMA,
}


@dataclass(frozen=True)
class BackupManifest:
    kind: Kind
    format: int
    # Name of the data file in the storage, and its source: a database's name, a folder, a server.
    file: Name
    source: Text
    engine: Text
    server_version: Text
    # Instant, UTC, that the content belongs to: the snapshot's, not the end of the run.
    taken_at: Instant
    compression: Literal["none", "gzip"]
    encryption: Literal["none", "zip-aes256"]
    # The content before compression and encryption, and the file as it is stored.
    content_sha256: Sha256
    content_bytes: Size
    stored_sha256: Sha256
    stored_bytes: Size
    # What it holds and how to prove it: tables with rows and checksums, or collections with counts and digests.
    contents: dict[str, Any]
    # True once it was restored from the storage and everything in `contents` was found again.
    proven: bool
    proof: dict[str, Any]
    tool: Text
    run_id: Text
    created_at: Instant
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The manifest's own name in the storage."""
        return manifest_name(self.file)

    @property
    def taken(self) -> datetime:
        return datetime.fromisoformat(self.taken_at)

    @property
    def collections(self) -> list[dict[str, Any]]:
        """A snapshot's. Raises ProofFailed where the manifest names none."""
        if "collections" not in self.contents:
            raise ProofFailed(f"{self.name} doesn't say which collections its snapshot holds; it can't be proven.")
        return list(self.contents["collections"])

    def to_json(self) -> bytes:
        return sealed(asdict(self))


def manifest_name(file: str) -> str:
    """`database/app_20261001_030000.sql.gz` has `database/app_20261001_030000.manifest.json`."""
    folder, _, name = file.rpartition("/")
    stem = name.split(".", 1)[0] if "." in name else name
    return f"{folder}/{stem}{ENDING}" if folder else f"{stem}{ENDING}"


def stamp(instant: datetime, zone: ZoneInfo) -> str:
    """`YYYYMMDD_HHMMSS` in TIMEZONE, as used in a backup's name: the 03:00 dump is called _030000."""
    return f"{instant.astimezone(zone):%Y%m%d_%H%M%S}"


def write_manifest(storage: Storage, manifest: BackupManifest) -> None:
    """Raises AlreadyThere where the name exists; a manifest is never overwritten."""
    if storage.password and manifest.encryption == "none":
        raise RuntimeError(f"{manifest.file} was written without encryption though ARCHIVE_PASSWORD is set")
    write_sealed(storage, manifest.name, asdict(manifest))


def read_manifest(storage: Storage, name: str, *, untouched: bool = False) -> BackupManifest:
    """Raises ProofFailed unless it is a whole manifest, under its own name, in a format that this version knows;
    Unsealed if a key is set and no key of ours sealed it; with `untouched` also ProofFailed unless it is byte for byte
    what was written. OSError and StorageError if it can't be read."""
    return manifest_of(read_sealed(storage, name, untouched=untouched), name)


def manifest_of(raw: dict[str, Any], name: str) -> BackupManifest:
    """A manifest whose seal has been checked. Raises ProofFailed."""
    if str(raw.get("kind")) not in FOLDERS or raw.get("format") != FORMAT:
        raise ProofFailed(f"{shown(name)} is of a kind, format or file that this version doesn't know.")
    manifest = dataclass_of(BackupManifest, raw, shown(name))
    if manifest.name != name or not name.startswith(FOLDERS[manifest.kind]):
        raise ProofFailed(f"{shown(name)} is of a kind, format or file that this version doesn't know.")
    _require_parts(manifest, shown(name))
    return manifest


def _require_parts(manifest: BackupManifest, where: str) -> None:
    """Checks the types of what runs read from the free parts of a manifest. Raises ProofFailed."""
    validated(_Proof, manifest.proof, where)
    validated(_Extra, manifest.extra, where)
    if manifest.contents:
        if manifest.kind == "chroma_snapshot":
            validated(_Collections, manifest.contents, where)
        else:
            require_contents(manifest.contents, where)


@with_config(STRICT)
class _Collection(TypedDict):
    """A collection of Chroma, as far as a run works with it before it is compared."""

    tenant: str
    database: str
    name: str
    count: Size


@with_config(STRICT)
class _Collections(TypedDict):
    collections: list[_Collection]


@with_config(STRICT)
class _Proof(TypedDict):
    why_not: NotRequired[str | None]
    neighbours_share: NotRequired[float | int]
    not_indexed: NotRequired[list[str]]


@with_config(STRICT)
class _Extra(TypedDict):
    database: NotRequired[str | None]
    dumped_as: NotRequired[str | None]
    defaults: NotRequired[dict[str, str]]
    masking: NotRequired[dict[str, Any]]
    disk_bytes: NotRequired[int]


def latest_time(at: datetime | None, now: datetime) -> datetime:
    """Up to when a backup may have been taken that a restore takes: the time that was named, else now."""
    return at if at is not None else now + CLOCKS_DIFFER


def passed_over(storage: Storage, chosen: BackupManifest, until: str | None, now: datetime) -> list[str]:
    """Backups of the same source that are newer than the chosen one (up to `until`, a stamp) and can't be restored:
    each file's name with the reason."""
    folder, _, file = chosen.file.rpartition("/")
    label, mine = _label_and_stamp(file)
    names = {*storage.names(f"{folder}/{label}_")}
    unusable = []
    for stem in sorted({name.rpartition("/")[2].split(".", 1)[0] for name in names}):
        theirs = _label_and_stamp(stem)
        newer = theirs[0] == label and theirs[1] > mine and (until is None or theirs[1] <= until)
        if newer and (why := _why_not(storage, f"{folder}/{stem}{ENDING}", names, now)):
            unusable.append(f"{shown(folder)}/{shown(stem)} ({why})")
    return unusable


def _label_and_stamp(file: str) -> tuple[str, str]:
    """`app_20261001_030000.sql.gz` → `app`, `20261001_030000`."""
    label, *mark = file.split(".", 1)[0].rsplit("_", 2)
    return label, "_".join(mark)


def _why_not(storage: Storage, name: str, names: set[str], now: datetime) -> str:
    if name not in names:
        return "it has no manifest"
    try:
        manifest = read_manifest(storage, name)
    except Unsealed:
        return "no key of this installation sealed its manifest; see `saju-ops seal`"
    except (OperatorError, OSError):
        return "its manifest is damaged"
    if manifest.file not in names:
        return "its data file is gone"
    if manifest.taken > now + CLOCKS_DIFFER:
        return "its time is in the future: a wrong clock took it; naming a time not before that takes it"
    return "" if manifest.proven else "it was never proven"


@dataclass(frozen=True)
class Held:
    """The backups of a kind, oldest first, and why each other manifest counts for nothing, by its name."""

    backups: list[BackupManifest]
    refused: dict[str, str]
    # Those of the refused that no key of this installation sealed.
    unsealed: list[str]

    def about_refused(self) -> str:
        """For the end of a sentence that says that nothing was found; empty where nothing was refused."""
        if not self.refused:
            return ""
        first = next(iter(self.refused.values()))
        others = len(self.refused) - 1
        more = f"{counted(others, 'more manifest')} there {'counts' if others == 1 else 'count'} for nothing either."
        return f" {first}" + (f" ({more})" if others else "")


def held(storage: Storage, kind: Kind) -> Held:
    """Every backup of the kind that has a whole manifest and its data file, and the names of the others. A backup that
    is damaged, or that the store doesn't give (such as from Glacier), doesn't keep the rest from being listed. Raises
    StorageError if the store gives none of several."""
    names = list(storage.names(FOLDERS[kind]))
    there, found, not_given = set(names), Held([], {}, []), list[StorageError]()
    for name in (n for n in names if n.endswith(ENDING)):
        try:
            manifest = read_manifest(storage, name)
        except (OperatorError, OSError) as error:
            found.refused[name] = str(error)
            if isinstance(error, Unsealed):
                found.unsealed.append(name)
            elif isinstance(error, StorageError):
                not_given.append(error)
            continue
        if manifest.kind == kind and manifest.file in there:
            found.backups.append(manifest)
    if len(not_given) > 1 and not found.backups and len(not_given) == len(found.refused):
        raise not_given[-1]  # the store, and not a backup of it
    found.backups.sort(key=lambda m: (m.taken, m.file))
    return found


def backups(storage: Storage, kind: Kind) -> Iterator[BackupManifest]:
    """The backups alone. Others are left out: `verify` and `prune` are what reports them."""
    yield from held(storage, kind).backups


Proof = Literal["exact", "bracketed", "range"]


@with_config(STRICT)
class _Table(TypedDict):
    rows: Size
    checksum: NotRequired[str | None]
    proof: NotRequired[Proof]
    rows_most: NotRequired[Size | None]
    how: NotRequired[str | None]


@with_config(STRICT)
class _Form(TypedDict):
    tables: dict[str, _Table]
    definitions: dict[str, str]
    dialect: str
    notes: NotRequired[list[str]]
    broken_views: NotRequired[list[str]]


def require_contents(raw: Mapping[str, Any], where: str) -> None:
    """Raises ProofFailed unless `Contents.to_json` made it."""
    validated(_Form, raw, where)
