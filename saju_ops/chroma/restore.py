"""Puts a snapshot of the vector store back: into a folder, or into a Chroma server.

Before anything is touched, the stored file is read whole, its SHA-256 is compared with its manifest, and Chroma opens
its content in a place of its own, where every record is compared. A folder appears by one rename; a folder that it
replaces is renamed, not deleted. Refused are: a folder that any process has open, a folder that is not empty and was
not named for replacement, and a server that has collections of the same names, unless they were named. Killed at any
moment, it leaves the old folder, the new one, or the old one under its new name, and can be launched again.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

from saju_ops.chroma.files import DATABASE
from saju_ops.chroma.limits import PROOF_MEMORY_MB
from saju_ops.chroma.live_copy import settle
from saju_ops.chroma.snapshot import Source, expectation, extract_snapshot
from saju_ops.chroma.sparse import copy_file
from saju_ops.chroma.worker_client import ask
from saju_ops.errors import OperatorError, ProofFailed, Refused, TornCopy
from saju_ops.scratch import PREFIX, scratch_folder
from saju_ops.storage.manifest import BackupManifest, held, latest_time, passed_over, stamp
from saju_ops.storage.open import Storage
from saju_ops.times import shown
from saju_ops.words import are, counted

# Processes named in a message.
NAMED = 5
UTC_ZONE = ZoneInfo("UTC")


@dataclass
class ChromaRestore:
    """The plan of a restore, or its result."""

    manifest: BackupManifest
    location: str
    target: str
    dry_run: bool
    collections: dict[str, int] = field(default_factory=dict)
    moved_aside: str | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    # Number of processes whose open files this user may not see.
    unseen_processes: int = 0
    # Newer files that are no backups, with the reason.
    passed_over: list[str] = field(default_factory=list)
    zone: ZoneInfo = UTC_ZONE
    # What the process may take in which Chroma opens it.
    memory_mb: int = PROOF_MEMORY_MB
    # Collections whose index is not in the snapshot, since memory was too small for it, and whether it was made now.
    not_indexed: list[str] = field(default_factory=list)
    index_failed: bool = False
    # Floats of metadata that the server can't keep: it has the nearest that it can.
    floats_rounded: int = 0
    seconds: float = 0.0

    @property
    def records(self) -> int:
        return sum(self.collections.values())

    def sentences(self) -> list[str]:
        """For the operator, before and after."""
        held = ", ".join(f"{name} ({count:,})" for name, count in self.collections.items()) or "no collection"
        lines = [
            f"From {self.location}, taken {shown(self.manifest.taken, self.zone)} from {self.manifest.source};"
            " read back, opened and proven.",
            f"{counted(len(self.collections), 'collection')}, {counted(self.records, 'record')}: {held}.",
            f"Into {self.target}.",
        ]
        if self.passed_over:
            lines.insert(1, f"NEWER, and can't be restored: {', '.join(self.passed_over[-NAMED:])}.")
        if self.moved_aside:
            verb = "would be" if self.dry_run else "was"
            lines.append(f"What is there now {verb} moved to {self.moved_aside}; delete it when you need it no more.")
        for name, aside in self.renamed.items():
            lines.append(f"The server's old collection {name} is now called {aside}.")
        if self.floats_rounded:
            lines.append(
                f"{counted(self.floats_rounded, 'float')} of metadata {are(self.floats_rounded)} rounded by this"
                " Chroma server, by up to four units in the last place; everything else reads as in the snapshot."
            )
        lines += self.about_indexes()
        if self.unseen_processes:
            lines.append(
                f"{counted(self.unseen_processes, 'process', 'processes')} of other users could not be looked at;"
                " make sure yourself that none uses the folder, or run this as root."
            )
        return lines

    def about_indexes(self) -> list[str]:
        if not self.not_indexed:
            return []
        names = ", ".join(self.not_indexed)
        if self.index_failed:
            return [f"The index of {names} could not be made: Chroma makes it when the collection is first used."]
        verb = "would make" if self.dry_run else "makes"
        return [f"The snapshot holds no index of {names}: Chroma {verb} it before the folder is put in its place."]


def choose(storage: Storage, at: datetime | None, zone: ZoneInfo, now: datetime) -> BackupManifest:
    """The newest proven snapshot, or the newest that was taken at `at` or before. Raises Refused."""
    there = held(storage, "chroma_snapshot")
    proven = [m for m in there.backups if m.proven]
    fit = [m for m in proven if m.taken <= latest_time(at, now)]
    if fit:
        return fit[-1]
    if not proven:
        raise Refused(f"{storage.uri} holds no proven snapshot of Chroma. Nothing was touched.{there.about_refused()}")
    if at is None:
        raise Refused(
            f"Every proven snapshot in {storage.uri} is dated in the future, the first {shown(proven[0].taken, zone)}:"
            " this machine's clock is wrong, or that one's was. Nothing was touched; name a time to take the newest up"
            f" to then.{there.about_refused()}"
        )
    raise Refused(
        f"{storage.uri} holds no proven snapshot from {shown(at or proven[0].taken, zone)} or before; the oldest is of"
        f" {shown(proven[0].taken, zone)}. Nothing was touched.{there.about_refused()}"
    )


def restore_snapshot(
    storage: Storage,
    target: Source,
    *,
    at: datetime | None = None,
    replace: Sequence[str] = (),
    dry_run: bool = True,
    zone: ZoneInfo,
    memory_mb: int = PROOF_MEMORY_MB,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    announce: Callable[[ChromaRestore], None] = lambda plan: None,
) -> ChromaRestore:
    """Restores the newest snapshot (until `at`) into a folder or a server.

    `replace` names what may be moved aside: the folder's own name, or the server's collections. Raises Refused,
    ProofFailed or WrongPassword; then folder or server is as it was.
    """
    began = time.monotonic()
    manifest = choose(storage, at, zone, clock())
    plan = ChromaRestore(
        manifest, storage.location(manifest.file), str(target), dry_run, zone=zone, memory_mb=memory_mb
    )
    plan.passed_over = passed_over(storage, manifest, stamp(at, zone) if at else None, clock())
    plan.collections = {_shown(c): int(c["count"]) for c in manifest.collections}
    mark = stamp(clock(), zone)
    if target.host:
        _into_server(storage, plan, target, list(replace), mark, announce)
    else:
        assert target.folder is not None
        _into_folder(storage, plan, target.folder.expanduser().absolute(), replace, mark, announce)
    plan.seconds = round(time.monotonic() - began, 3)
    return plan


def _shown(collection: dict[str, object]) -> str:
    usual = (collection["tenant"], collection["database"]) == ("default_tenant", "default_database")
    return str(collection["name"]) if usual else f"{collection['tenant']}/{collection['database']}/{collection['name']}"


def _extracted(storage: Storage, plan: ChromaRestore, scratch: Path) -> Path:
    """The snapshot's folder, proven by its SHA-256 and by Chroma. Raises ProofFailed, which names the one before."""
    try:
        return _proven(storage, plan, scratch)
    except ProofFailed as error:
        raise ProofFailed(f"{error}{_the_one_before(storage, plan)}") from None


def _the_one_before(storage: Storage, plan: ChromaRestore) -> str:
    try:
        before = plan.manifest.taken - timedelta(seconds=1)
        older = choose(storage, before, plan.zone, before)
    except Refused:
        return " There is no older one."
    return f' The one before is {older.file}: --at "{shown(older.taken, plan.zone).rpartition(" ")[0]}".'


def _proven(storage: Storage, plan: ChromaRestore, scratch: Path) -> Path:
    folder = scratch / "chroma_db"
    extract_snapshot(storage, plan.manifest, folder)
    try:
        judgement = ask("check", scratch, folder=str(folder), memory_mb=plan.memory_mb, **expectation(plan.manifest))
    except TornCopy as error:
        raise ProofFailed(
            f"The snapshot {storage.location(plan.manifest.file)} can't be restored: {error}. Nothing was touched."
        ) from None
    plan.not_indexed = list(judgement["not_indexed"])
    return folder


def _indexed(plan: ChromaRestore, folder: Path, scratch: Path) -> Path:
    """A copy of the folder with the indexes that it lacks, made by Chroma and compared with it. It takes the memory
    that the chatbot's Chroma takes. Where it can't be made, the folder itself, which is sound."""
    if not plan.not_indexed:
        return folder
    whole = scratch / "indexed"
    try:
        shutil.copytree(folder, whole, copy_function=_copy)
        whole.chmod(0o700)
        ask("complete", scratch, folder=str(folder), twin=str(whole))
        settle(whole)
    except (TornCopy, OSError, sqlite3.Error):
        plan.index_failed = True
        return folder
    return whole


def _copy(source: str, target: str) -> None:
    shutil.copymode(source, copy_file(source, target))


def _into_server(
    storage: Storage, plan: ChromaRestore, target: Source, replace: list[str], mark: str,
    announce: Callable[[ChromaRestore], None],
) -> None:  # fmt: skip
    with scratch_folder() as scratch:
        folder = str(_extracted(storage, plan, scratch))
        plan.not_indexed = []  # the server makes its own
        request = {**target.server, "folder": folder, "replace": replace, "stamp": mark}
        if plan.dry_run:
            ask("push", scratch, **request, dry_run=True)
            announce(plan)
            return
        announce(plan)
        done = ask("push", scratch, **request, dry_run=False)
        plan.renamed, plan.floats_rounded = dict(done["renamed"]), int(done["floats_rounded"])


# --- into a folder ---------------------------------------------------------------------------------------------


def _into_folder(
    storage: Storage, plan: ChromaRestore, target: Path, replace: Sequence[str], mark: str,
    announce: Callable[[ChromaRestore], None],
) -> None:  # fmt: skip
    if target.is_symlink():
        target = target.resolve()
    _refuse_unusable(target, replace)
    plan.unseen_processes = refuse_if_in_use(target)
    inside = target.is_dir() and os.path.ismount(target)
    if _entries(target):
        aside = f"before_restore_{mark}" if inside else f"{target.name}.before_restore_{mark}"
        plan.moved_aside = str(target / aside if inside else target.with_name(aside))
        if Path(plan.moved_aside).exists():
            raise Refused(f"{plan.moved_aside} is there already. Nothing was touched; launch again.")
    # Beside the target, so that it gets there by a rename; a dry run leaves no trace there.
    beside = None if plan.dry_run else target if inside else target.parent
    try:
        with scratch_folder(beside) as scratch:
            folder = _extracted(storage, plan, scratch)
            announce(plan)
            if plan.dry_run:
                return
            folder = _indexed(plan, folder, scratch)
            _like(target, folder)
            _make_durable(folder)
            refuse_if_in_use(target)
            _place_inside(folder, target, plan.moved_aside) if inside else _place(folder, target, plan.moved_aside)
    except OSError as error:
        raise OperatorError(
            f"The restore into {target} broke off ({error.strerror or type(error).__name__}: {error.filename})."
            f" {_state_after(target, plan.moved_aside)}"
        ) from None


def _refuse_unusable(target: Path, replace: Sequence[str]) -> None:
    if target.exists() and not target.is_dir():
        raise Refused(f"{target} is a file, not a folder. Nothing was touched.")
    if not target.parent.is_dir():
        raise Refused(f"{target.parent} doesn't exist, so {target.name} can't be made in it. Nothing was touched.")
    named = {Path(name).name for name in replace}
    if _entries(target) and target.name not in named:
        raise Refused(
            f"{target} is not empty. Nothing was touched. Restore elsewhere, or name it for replacement"
            f" (--replace {target.name}, in the job's config replace: [{target.name}]): it is then moved aside, not"
            " deleted."
        )
    if replace and target.name not in named:
        raise Refused(
            f"{', '.join(replace)} was named for replacement, but the target is called {target.name}. Nothing was"
            " touched."
        )


def _entries(target: Path) -> list[Path]:
    if not target.is_dir():
        return []
    # A volume has lost+found by itself; a killed restore left the other.
    return [p for p in target.iterdir() if p.name != "lost+found" and not p.name.startswith(PREFIX)]


def refuse_if_in_use(target: Path) -> int:
    """Raises Refused where a process has a file of the folder open, or SQLite's lock on it. Returns how many processes
    could not be looked at. It sees this machine only: not another container, not another host of a shared disk."""
    if not target.is_dir():
        return 0
    users, unseen = _processes_using(target.resolve())
    if users:
        shown = ", ".join(users[:NAMED]) + (f" and {len(users) - NAMED} more" if len(users) > NAMED else "")
        raise Refused(f"{target} is in use by {shown}. Nothing was touched; stop the chatbot and launch again.")
    database = target / DATABASE
    if database.is_file():
        with suppress(sqlite3.DatabaseError):  # a damaged one is nobody's, and perhaps why we are here
            _refuse_if_locked(database)
    return unseen


def _refuse_if_locked(database: Path) -> None:
    uri = f"file:{quote(str(database))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Refused(
                    f"{database} is locked by another process. Nothing was touched; stop the chatbot and launch again."
                ) from None
            return
        connection.execute("ROLLBACK")


def _processes_using(folder: Path) -> tuple[list[str], int]:
    found, unseen = [], 0
    inside = f"{folder}/"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            names = [str(p.readlink()) for p in (process / "fd").iterdir()]
        except PermissionError:
            unseen += 1
            continue
        except OSError:
            continue  # it has just ended
        if any(name.startswith(inside) for name in names):
            found.append(f"process {process.name} ({_command(process)})")
    return sorted(found), unseen


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"


def _like(target: Path, folder: Path) -> None:
    """The mode and owner that the folder had, so that the chatbot's user can go on using it."""
    if not target.is_dir():
        return
    status = target.stat()
    inner = target / DATABASE
    file_mode = inner.stat().st_mode & 0o777 if inner.is_file() else status.st_mode & 0o666
    for path in [folder, *folder.rglob("*")]:
        with suppress(PermissionError):
            os.chown(path, status.st_uid, status.st_gid)
        path.chmod(status.st_mode & 0o7777 if path.is_dir() else file_mode)


def _make_durable(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _place(folder: Path, target: Path, aside: str | None) -> None:
    if aside:
        target.rename(aside)
    # An empty folder is replaced by the rename itself.
    folder.rename(target)
    _sync(target.parent)


def _place_inside(folder: Path, target: Path, aside: str | None) -> None:
    """Into a mount point, such as a container's volume, which can't be renamed. The database file comes last: until
    then Chroma finds nothing there."""
    there = _entries(target)
    if aside and there:
        Path(aside).mkdir(mode=0o700)
        for path in sorted(there, key=lambda p: p.name != DATABASE):
            path.rename(Path(aside) / path.name)
    for path in sorted(folder.iterdir(), key=lambda p: p.name == DATABASE):
        path.rename(target / path.name)
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _state_after(target: Path, aside: str | None) -> str:
    if aside and Path(aside).exists():
        return f"The former content is in {aside}."
    return "The former content is untouched." if target.exists() else "Nothing was there before."
