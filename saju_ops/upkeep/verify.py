"""Reads every stored backup back, says what is damaged, missing or strange, and restores some as a drill.

With `in_days` of 1 every file of every store is read whole and compared with its manifest; with N, a share of them each
day, so that all are read within any N consecutive days. Archives are read row by row, as far as ARCHIVE_PASSWORD opens
them; an intact file that needs another password is distinguished from a damaged one. One random archive day, the newest
dump of each database and the newest snapshot are restored into scratch places and compared. A data file of ours without
its manifest is reported. It changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from saju_ops.archive.manifest import FOLDER as ARCHIVES
from saju_ops.archive.manifest import PREFIX, Manifest, day_manifest_of
from saju_ops.archive.verify import verify_part
from saju_ops.bounds import ShareDays, bounds_of
from saju_ops.errors import OperatorError, Refused, shown
from saju_ops.storage import folders
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import CLOCKS_DIFFER, ENDING, FOLDERS, BackupManifest, manifest_of
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import LIST_NAME, Unsealed, read_bounded, read_list, read_sealed, require_seal
from saju_ops.upkeep.password import needs_another, opens, require_sound
from saju_ops.words import are, counted, its, them

# Folders whose manifests are those of archives, and folders with other files of saju_ops.
ROW_ARCHIVES = (folders.CONVERSATION_LOGS, folders.PURGED_JOBS)
OTHERS = (folders.REDIS_PENDING, folders.RECONCILED_JOBS, folders.REPORTS)
# Files of one kind that are named.
NAMED = 20
# Data files by the names that we give them, and nothing that somebody put there.
_FORM = r"[^/]+_\d{8}_\d{6}"
BACKUP_FILE = re.compile(rf"(?P<stem>(?:{'|'.join(FOLDERS.values())}){_FORM})\.(?:sql|tar|sqlite|db|dump)[^/]*")
DAY_FILE = re.compile(rf"(?P<stem>{ARCHIVES}/\d{{4}}/\d\d/{PREFIX}\d{{8}}(?:\.part\d+)?)\.csv[^/]*")
ROWS_FILE = re.compile(r"(?P<stem>purged_jobs/[^.]+)\.csv[^/]*")


@dataclass(frozen=True)
class Drill:
    """One restore that was tried. `text` says to the operator what was restored, or what went wrong."""

    name: str
    passed: bool
    # False where it could not be tried, for want of a right, a setting or a backup: that is no failure of a backup.
    tried: bool
    text: str
    records: int = 0
    seconds: float = 0.0
    # Not tried since there is no backup of the kind at all.
    absent: bool = False


@dataclass
class VerifyResult:
    in_days: int
    files: int = 0
    files_checked: int = 0
    bytes_read: int = 0
    # Files that differ from their manifest; files that a manifest names and that aren't there; files without a
    # manifest.
    rot: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    # Files whose stored bytes are right, and which the present ARCHIVE_PASSWORD doesn't open.
    other_password: list[str] = field(default_factory=list)
    # Manifests, and lists of seals, that no key of this installation sealed, though one is set: as sentences.
    unsealed: list[str] = field(default_factory=list)
    # Links inside a store: no run sees what is behind them.
    links: list[str] = field(default_factory=list)
    # Dumps and snapshots that a wrong clock dated in the future.
    future: list[str] = field(default_factory=list)
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
    def untried_drills(self) -> list[Drill]:
        return [d for d in self.drills if not (d.passed or d.tried or d.absent)]

    @property
    def passed(self) -> bool:
        """Strangers alone fail nothing: they are in nobody's way. See `warnings` too."""
        return not (self.rot or self.missing or self.unsealed or self.failed_drills)

    @property
    def warnings(self) -> list[str]:
        """What an operator must see although nothing is damaged. An empty store: it is normal in the first night, but a
        mistyped BACKUP_URI or a disk that isn't mounted looks the same. And files that need another password: only the
        operator knows whether the former one was kept."""
        sentences = [f"{self.uri} holds no backup. Look at BACKUP_URI."] if self.empty else []
        if number := len(self.other_password):
            now = "than ARCHIVE_PASSWORD holds now" if self.has_password else "and ARCHIVE_PASSWORD is not set"
            sentences.append(
                f"{counted(number, 'file')} {are(number)} intact, but encrypted with another password {now}. Keep the"
                f" old password: without it {'it' if number == 1 else 'they'} can't be restored. ARCHIVE_PASSWORD=<old>"
                f" saju-ops verify reads {them(number)}."
            )
        if number := len(self.future):
            sentences.append(
                f"{counted(number, 'backup')} {are(number)} dated in the future: this machine's"
                " clock is wrong, or that one's was."
                f" No restore takes {them(number)} unless it names {its(number)} time, and nothing is deleted for"
                f" {its(number)} sake."
            )
        if number := len(self.links):
            sentences.append(
                f"{counted(number, 'link')} inside the store {are(number)} not followed, so no run sees what is behind"
                f" {them(number)}, and nothing of that was read. Put the files themselves there, or mount their disk"
                " there (mount --bind)."
            )
        if self.untried_drills:
            names = ", ".join(d.name for d in self.untried_drills)
            sentences.append(f"It is unknown whether these can be restored, since no drill could be tried: {names}.")
        return sentences

    def sentences(self) -> list[str]:
        share = "" if self.in_days == 1 else f" (a share of 1 in {self.in_days} of {self.files})"
        lines = [f"{counted(self.files_checked, 'stored file')} read and compared{share}, {self.bytes_read:,} bytes."]
        lines += [f"ROT: {text}" for text in self.rot] + [f"MISSING: {text}" for text in self.missing]
        lines += [f"Not one of ours, or without a manifest: {text}" for text in self.strangers]
        lines += [f"OTHER PASSWORD: {text}" for text in self.other_password[:NAMED]]
        lines += [f"NOT SEALED: {text}" for text in self.unsealed[:NAMED]]
        if len(self.unsealed) > NAMED:
            lines.append(f"NOT SEALED: … and {len(self.unsealed) - NAMED} more")
        lines += [f"FUTURE: {text}" for text in self.future]
        if len(self.other_password) > NAMED:
            lines.append(f"OTHER PASSWORD: … and {len(self.other_password) - NAMED} more")
        lines += self.warnings
        marks = {(True, True): "restored", (False, True): "FAILED", (False, False): "not tried"}
        lines += [f"Drill {d.name}: {marks[d.passed, d.tried]}. {d.text}" for d in self.drills]
        return [shown(line) for line in lines]


def verify(
    storage: Storage,
    *,
    now: datetime,
    zone: ZoneInfo,
    in_days: int = 1,
    drills: Sequence[Callable[[], Sequence[Drill]]] = (),
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[VerifyResult, int], None] = lambda result, of: None,
) -> VerifyResult:
    """`progress` is called for each file, with how many there are. Raises Refused for an impossible share, StorageError
    for a store that can't be listed. Everything else that it finds is in the result."""
    if in_days not in (bounds := bounds_of(ShareDays)):
        days = counted(in_days, "day")
        raise Refused(f"The backups can't be read in {days}; it may be {bounds}. Nothing was read.")
    began, result = time.monotonic(), VerifyResult(in_days, uri=storage.uri, has_password=bool(storage.password))
    today = now.astimezone(zone).toordinal() % in_days
    stores = list(storage.copies())
    names = [sorted(store.names("")) for store in stores]
    number = sum(1 for there in names for _ in manifests_in(there))
    for store, there in zip(stores, names, strict=True):
        _verify_store(store, there, today, now, result, say=say, looked=lambda: progress(result, number))
    _compare_stores(stores, names, result)
    for drill in drills:
        try:
            found = list(drill())
        except OperatorError as error:  # such as a folder that the store doesn't list: the other drills go on
            found = [Drill("restore", False, True, str(error))]
        result.drills += found
        for each in found:
            say(f"Drill {each.name}: {each.text}")
    result.seconds = round(time.monotonic() - began, 3)
    return result


def _verify_store(
    store: Storage, names: list[str], today: int, now: datetime, result: VerifyResult, say: Callable[[str], None],
    looked: Callable[[], None],
) -> None:  # fmt: skip
    there, described, rotten = set(names), set(), set()
    for name in manifests_in(names):
        unsealed = ""
        try:
            manifest = read_any_manifest(store, name, untouched=True)
        except Unsealed as error:
            unsealed = str(error)
        except (OperatorError, OSError) as error:
            rotten.add(name)
            result.rot.append(_with_place(store, name, error))
            continue
        try:
            # What nobody sealed is compared with its file all the same: it may be rotten, too.
            manifest = look_at_manifest(store, name) if unsealed else manifest
        except (OperatorError, OSError) as error:
            rotten.add(name)
            result.rot.append(_with_place(store, name, error))
            continue
        described |= {name, manifest.file}
        result.files += 1
        looked()
        if isinstance(manifest, BackupManifest) and manifest.taken > now + CLOCKS_DIFFER:
            result.future.append(f"{store.location(manifest.file)}, of {manifest.taken:%Y-%m-%d %H:%M} UTC")
        if manifest.file not in there:
            result.missing.append(f"{store.location(manifest.file)}, though its manifest is there")
        elif _in_share(name, result.in_days, today):
            _verify_file(store, manifest, unsealed, result, say)
        elif unsealed and not needs_another(store, manifest):
            # A file that needs another password is reported as that, on the day on which it is read.
            result.unsealed.append(unsealed)
    _verify_lists(store, names, described, rotten, result)
    for name in (n for n in names if n not in described | rotten and not n.startswith(OTHERS)):
        manifest_of_it = _manifest_of_ours(name)
        if manifest_of_it is None:
            result.strangers.append(_stranger(store, name))
            result.links += [name] if _is_link(store, name) else []
        elif manifest_of_it not in rotten and _lost(store, name, manifest_of_it):
            result.missing.append(
                f"{store.location(manifest_of_it)}, though its file {name.rpartition('/')[2]} is there: nothing is"
                " known of that file, and no restore takes it. Look for a copy of the manifest; a run that was killed"
                " leaves such a file, too, and `prune` removes those of dumps and snapshots after a day."
            )


def _manifest_of_ours(name: str) -> str | None:
    """The manifest of a data file whose name has our own form; None for any other name."""
    for form in (DAY_FILE, ROWS_FILE, BACKUP_FILE):
        if found := form.fullmatch(name):
            return f"{found['stem']}{ENDING}"
    return None


def _lost(store: Storage, name: str, manifest: str) -> bool:
    """Whether it is so still: a run may be writing it, or have deleted the file, since the store was listed."""
    try:
        return store.exists(name) and not store.exists(manifest)
    except (OperatorError, OSError):
        return True


def _with_place(store: Storage, name: str, error: Exception) -> str:
    """Naming the manifest, which not every error does."""
    where, why = _stranger(store, name), str(error) if isinstance(error, OperatorError) else _why(error)
    if where in why:
        return why
    return why.replace(shown(name), where, 1) if shown(name) in why else f"{where}: {why}"


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _verify_lists(
    store: Storage, names: list[str], described: set[str], rotten: set[str], result: VerifyResult
) -> None:
    """The lists of `saju-ops seal`. Without a key nothing can be said of one but that it is there."""
    for name in (n for n in names if LIST_NAME.fullmatch(n)):
        described.add(name)
        try:
            if store.seals:
                read_list(store, name)
        except Unsealed as error:
            result.unsealed.append(str(error))
        except (OperatorError, OSError) as error:
            rotten.add(name)
            result.rot.append(_with_place(store, name, error))


def _stranger(store: Storage, name: str) -> str:
    try:
        where = store.location(name)
    except OperatorError:
        return shown(name)
    return f"{where} (a link, which is not followed)" if _is_link(store, name) else where


def _is_link(store: Storage, name: str) -> bool:
    return isinstance(store, LocalStorage) and (store.root / name).is_symlink()


def manifests_in(names: Iterable[str]) -> Iterator[str]:
    """Those of backups of every kind."""
    known = (*FOLDERS.values(), *ROW_ARCHIVES)
    return (n for n in names if n.endswith(ENDING) and n.startswith(known))


def _in_share(name: str, in_days: int, today: int) -> bool:
    return int(sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % in_days == today


def read_any_manifest(store: Storage, name: str, *, untouched: bool = False) -> BackupManifest | Manifest:
    """The manifest of any kind of backup, by the folder that it is stored in. Raises ProofFailed; Unsealed where a key
    is set and none of ours sealed it; OSError, StorageError."""
    return any_manifest_of(read_sealed(store, name, untouched=untouched), name)


def look_at_manifest(store: Storage, name: str) -> BackupManifest | Manifest:
    """The same, without regard to its seal: for callers that compare it with its file and rely on nothing in it."""
    return any_manifest_of(require_seal(read_bounded(store, name), name), name)


def any_manifest_of(raw: dict[str, Any], name: str) -> BackupManifest | Manifest:
    from saju_ops.expired.row_archive import FOLDER as ROWS
    from saju_ops.expired.row_archive import row_manifest_of

    if name.startswith(f"{ARCHIVES}/"):
        return day_manifest_of(raw, name)
    return row_manifest_of(raw, name) if name.startswith(f"{ROWS}/") else manifest_of(raw, name)


def _verify_file(
    store: Storage, manifest: BackupManifest | Manifest, unsealed: str, result: VerifyResult, say: Callable[[str], None]
) -> None:
    result.files_checked += 1
    try:
        opened = read_back(store, manifest)
    except OperatorError as error:
        result.rot.append(str(error))
        say(str(error))
        return
    except OSError as error:
        result.rot.append(f"{store.location(manifest.file)} can't be read ({_why(error)})")
        return
    result.bytes_read += manifest.stored_bytes
    if not opened:
        # An installation with that password also has the key that sealed it, if the key was derived from it.
        result.other_password.append(store.location(manifest.file))
    elif unsealed:
        result.unsealed.append(unsealed)


def read_back(store: Storage, manifest: BackupManifest | Manifest, *, decrypt: bool = False) -> bool:
    """Reads a stored file whole and compares it with its manifest, an archive row by row. Returns whether
    ARCHIVE_PASSWORD opens it. With `decrypt`, dumps and snapshots too are decrypted to their end: if that succeeds, the
    file was encrypted with our password. Raises OperatorError, OSError."""
    if isinstance(manifest, BackupManifest):
        require_sound(store, manifest)
        return opens(store, manifest, whole=decrypt)
    try:
        verify_part(store, manifest)
    except OperatorError:
        if manifest.encryption == "none":
            raise
        # Its rows can't be read; but first see whether it is damaged, then whether it opens.
        require_sound(store, manifest)
        if opens(store, manifest, whole=True):
            raise
        return False
    return True


def _compare_stores(stores: Sequence[Storage], names: list[list[str]], result: VerifyResult) -> None:
    """Finds backups present in only one of the two stores."""
    known = (*FOLDERS.values(), *ROW_ARCHIVES)
    everything = {n for there in names for n in there if n.startswith(known)}
    for store, there in zip(stores, names, strict=True):
        for name in sorted(everything - set(there)):
            result.missing.append(f"{_stranger(store, name)}, though another store has it")
