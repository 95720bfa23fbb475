"""Reads every stored backup back, says what rotted, is missing or strange, and restores some as a drill.

Promises: with `in_days` of 1 every file of every store is read whole and compared with its manifest; with N, a share of
them each day, so that all is read in any N days on end. Archives are read row by row, as
far as ARCHIVE_PASSWORD opens them: what is intact and needs an older password is told apart from what rotted. One
random archive day, the newest dump of each database and the newest snapshot are restored into scratch places and
compared. It changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from zoneinfo import ZoneInfo

from saju_ops.archive.manifest import FOLDER as ARCHIVES
from saju_ops.archive.manifest import Manifest, parse_manifest
from saju_ops.archive.verify import verify_part
from saju_ops.backup.manifest import ENDING, FOLDERS, read_manifest
from saju_ops.backup.password import Stored, opens
from saju_ops.backup.retention import require_sound
from saju_ops.errors import OperatorError, Refused
from saju_ops.sealed import require_seal
from saju_ops.storage import Storage

# Folders whose manifests are those of archives, and those that hold something else of saju_ops's.
ROW_ARCHIVES = (f"{ARCHIVES}/", "purged_jobs/")
OTHERS = ("redis_pending/", "reconciled_jobs/")
# Files of one kind that are named.
NAMED = 20


@dataclass(frozen=True)
class Drill:
    """One restore that was tried. `text` says what was restored, or what went wrong, for the operator."""

    name: str
    passed: bool
    # False where it could not be tried, for want of a right, a setting or a backup: that is no failure of a backup.
    tried: bool
    text: str
    records: int = 0
    seconds: float = 0.0


@dataclass
class VerifyResult:
    in_days: int
    files: int = 0
    files_checked: int = 0
    bytes_read: int = 0
    # What differs from its manifest; what a manifest names and isn't there; what no manifest names.
    rot: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    # Whose stored bytes are right, and which ARCHIVE_PASSWORD as it is now doesn't open.
    other_password: list[str] = field(default_factory=list)
    drills: list[Drill] = field(default_factory=list)
    seconds: float = 0.0
    # Where it looked, and whether ARCHIVE_PASSWORD was set.
    uri: str = "The store"
    has_password: bool = True

    @property
    def empty(self) -> bool:
        """No backup at all, not even a damaged one."""
        return not (self.files or self.rot or self.missing)

    @property
    def failed_drills(self) -> list[Drill]:
        return [d for d in self.drills if not d.passed and d.tried]

    @property
    def passed(self) -> bool:
        """Strangers alone fail nothing: they are in nobody's way. See `warnings` too."""
        return not (self.rot or self.missing or self.failed_drills)

    @property
    def warnings(self) -> list[str]:
        """What an operator must see although nothing is damaged. An empty store is one: the first night's is, and so is
        a mistyped BACKUP_URI or a disk that isn't mounted. Files that need another password are the other: nobody but
        who changed it knows whether the old one was kept."""
        told = [f"{self.uri} holds no backup. Look at BACKUP_URI."] if self.empty else []
        if self.other_password:
            now = "than ARCHIVE_PASSWORD holds now" if self.has_password else "and ARCHIVE_PASSWORD is not set"
            told.append(
                f"{len(self.other_password)} files are intact, but encrypted with another password {now}. Keep the old"
                " password: without it they can't be restored. ARCHIVE_PASSWORD=<old> saju-ops verify reads them."
            )
        return told

    def sentences(self) -> list[str]:
        share = "" if self.in_days == 1 else f" (a share of 1 in {self.in_days} of {self.files})"
        lines = [f"{self.files_checked} stored files read and compared{share}, {self.bytes_read:,} bytes."]
        lines += [f"ROT: {text}" for text in self.rot] + [f"MISSING: {text}" for text in self.missing]
        lines += [f"Not one of ours, or without a manifest: {text}" for text in self.strangers]
        lines += [f"OTHER PASSWORD: {text}" for text in self.other_password[:NAMED]]
        if len(self.other_password) > NAMED:
            lines.append(f"OTHER PASSWORD: … and {len(self.other_password) - NAMED} more")
        lines += self.warnings
        marks = {(True, True): "restored", (False, True): "FAILED", (False, False): "not tried"}
        lines += [f"Drill {d.name}: {marks[d.passed, d.tried]}. {d.text}" for d in self.drills]
        return lines


def verify(
    storage: Storage,
    *,
    now: datetime,
    zone: ZoneInfo,
    in_days: int = 1,
    drills: Sequence[Callable[[], Sequence[Drill]]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> VerifyResult:
    """Raises Refused for an impossible share, StorageError for a store that can't be listed. Everything else that it
    finds is in the result."""
    if not 1 <= in_days <= 366:
        raise Refused(f"The backups can't be read in {in_days} days; it may be from 1 to 366. Nothing was read.")
    began, result = time.monotonic(), VerifyResult(in_days, uri=storage.uri, has_password=bool(storage.password))
    today = now.astimezone(zone).toordinal() % in_days
    stores = list(storage.copies())
    names = [sorted(store.names("")) for store in stores]
    for store, there in zip(stores, names, strict=True):
        _verify_store(store, there, today, result, say)
    _compare_stores(stores, names, result)
    for drill in drills:
        found = list(drill())
        result.drills += found
        for each in found:
            say(f"Drill {each.name}: {each.text}")
    result.seconds = round(time.monotonic() - began, 3)
    return result


def _verify_store(
    store: Storage, names: list[str], today: int, result: VerifyResult, say: Callable[[str], None]
) -> None:
    there, described = set(names), set()
    for name in _manifests(names):
        try:
            file = _described_by(store, name)
        except (OperatorError, OSError) as error:
            result.rot.append(f"{store.location(name)}: {error}")
            continue
        described |= {name, file}
        result.files += 1
        if file not in there:
            result.missing.append(f"{store.location(file)}, though its manifest is there")
        elif _in_share(name, result.in_days, today):
            _verify_file(store, name, result, say)
    for name in names:
        if name not in described and not name.startswith(OTHERS) and not _rotten(store, name, result):
            result.strangers.append(store.location(name))


def _manifests(names: list[str]) -> Iterator[str]:
    known = (*FOLDERS.values(), *ROW_ARCHIVES)
    return (n for n in names if n.endswith(ENDING) and n.startswith(known))


def _in_share(name: str, in_days: int, today: int) -> bool:
    return int(sha256(name.encode()).hexdigest()[:8], 16) % in_days == today


def _rotten(store: Storage, name: str, result: VerifyResult) -> bool:
    """Told already as a manifest that can't be read."""
    return any(text.startswith(f"{store.location(name)}: ") for text in result.rot)


def _described_by(store: Storage, name: str) -> str:
    """The file that a manifest describes. Raises ProofFailed."""
    if not name.startswith(ROW_ARCHIVES):
        return read_manifest(store, name, untouched=True).file
    with store.open(name) as stream:
        data = stream.read()
    require_seal(data, name)
    return _archive_manifest(store, name).file


def _archive_manifest(store: Storage, name: str) -> Manifest:
    from saju_ops.queue.row_archive import read_row_manifest

    if not name.startswith(f"{ARCHIVES}/"):
        return read_row_manifest(store, name)
    with store.open(name) as stream:
        return parse_manifest(stream.read(), name)


def _verify_file(store: Storage, name: str, result: VerifyResult, say: Callable[[str], None]) -> None:
    try:
        manifest, opened = _read_back(store, name)
    except OperatorError as error:
        result.rot.append(str(error))
        say(str(error))
    except OSError as error:
        result.rot.append(f"{store.location(name)} can't be read ({error.strerror or type(error).__name__})")
    else:
        result.bytes_read += manifest.stored_bytes
        if not opened:
            result.other_password.append(store.location(manifest.file))
    result.files_checked += 1


def _read_back(store: Storage, name: str) -> tuple[Stored, bool]:
    """What is proven, and whether ARCHIVE_PASSWORD opens it. Raises OperatorError, OSError."""
    if not name.startswith(ROW_ARCHIVES):
        manifest = read_manifest(store, name)
        require_sound(store, manifest)
        return manifest, opens(store, manifest, whole=False)
    part = _archive_manifest(store, name)
    try:
        verify_part(store, part)
    except OperatorError:
        if part.encryption == "none":
            raise
        # What its rows are can't be said; what lies there can: first whether it rotted, then whether it opens.
        require_sound(store, part)
        if opens(store, part, whole=True):
            raise
        return part, False
    return part, True


def _compare_stores(stores: Sequence[Storage], names: list[list[str]], result: VerifyResult) -> None:
    """Of two stores, what only one of them has of backups."""
    known = (*FOLDERS.values(), *ROW_ARCHIVES)
    everything = {n for there in names for n in there if n.startswith(known)}
    for store, there in zip(stores, names, strict=True):
        for name in sorted(everything - set(there)):
            result.missing.append(f"{store.location(name)}, though another store has it")

