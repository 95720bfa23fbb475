"""A snapshot of the vector store: taken while the chatbot writes, proven from where it is stored, then named.

Every record that was acknowledged before the snapshot began is in it. The file gets its name only after two proofs:
Chroma opened the copy and gave every record as the copy's files hold it; and the stored file was read back and holds
exactly the files that Chroma opened, each with the same SHA-256. The manifest comes last. A copy that the chatbot's own
writing tore is thrown away and taken again, at most ATTEMPTS times. It never opens a live directory with Chroma, never
loads an embedding model, and never overwrites anything.

Three processes work on one copy at once: this one packs it, stores it and reads it back; one reads it without Chroma;
and one opens a clone of it with Chroma, which takes the longest. Chroma changes what it opens, so the clone's files are
hashed before. To extract and open what was read back instead would take a second more for 20,000 vectors.

A snapshot of a server holds what its API shows, which is no single moment: see `chroma/fetch.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from saju_ops.chroma.contents import refuse_other
from saju_ops.chroma.engine import TRIED, newer_migrations
from saju_ops.chroma.files import DATABASE
from saju_ops.chroma.limits import PROOF_MEMORY_MB
from saju_ops.chroma.live_copy import damaged, settle
from saju_ops.chroma.pack import Hashes, Listing, listed, look_through, pack, unpack
from saju_ops.chroma.sparse import copy_file
from saju_ops.chroma.worker_client import Worker, ask
from saju_ops.errors import OperatorError, ProofFailed, TornCopy
from saju_ops.local_state import one_at_a_time
from saju_ops.scratch import scratch_folder
from saju_ops.storage import folders
from saju_ops.storage.encryption import ENDING as ENCRYPTED
from saju_ops.storage.encryption import METHOD
from saju_ops.storage.ledger import enter
from saju_ops.storage.manifest import FORMAT, BackupManifest, manifest_name, stamp, write_manifest
from saju_ops.storage.open import Storage, StorageError, Writer
from saju_ops.words import counted

FOLDER = folders.CHROMA
# One copy in fifteen was torn with a writer adding hundreds of records a second: five in a row, one in a million.
ATTEMPTS = 5
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Source:
    """A directory that a chatbot uses, or a server."""

    folder: Path | None = None
    host: str | None = None
    port: int = 8000
    tls: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def server(self) -> dict[str, Any]:
        """For the worker."""
        return {"host": self.host, "port": self.port, "tls": self.tls, "token": self.token}

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host else str(self.folder)


@dataclass
class Snapshot:
    """What was stored, and what it took. Seconds are those of the attempt that succeeded: `store_seconds` while the
    other processes worked on the proof, `proof_seconds` what the proof took after that."""

    manifest: BackupManifest
    location: str
    attempts: int
    torn: list[str] = field(default_factory=list)
    copied: dict[str, Any] = field(default_factory=dict)
    copy_seconds: float = 0.0
    store_seconds: float = 0.0
    proof_seconds: float = 0.0
    completed: list[str] = field(default_factory=list)
    # What of older snapshots one of two stores lacks, and can't be copied there.
    incomplete: str = ""

    @property
    def collections(self) -> list[dict[str, Any]]:
        return self.manifest.collections

    @property
    def records(self) -> int:
        return sum(int(c["count"]) for c in self.collections)


def take_snapshot(
    storage: Storage,
    source: Source,
    *,
    zone: ZoneInfo,
    clock: Clock = lambda: datetime.now(UTC),
    run_id: str = "",
    attempts: int = ATTEMPTS,
    memory_mb: int = PROOF_MEMORY_MB,
    progress: Callable[[str], None] = lambda text: None,
) -> Snapshot:
    """Stores `chroma/chromadb_<time in zone>.tar.gz` and its manifest. `memory_mb`: limit for the process in which
    Chroma opens the copy (CHROMA_PROOF_MEMORY_MB).

    Raises ProofFailed when no copy could be proven, Refused for a folder that is no Chroma directory, Busy when another
    run takes a snapshot. Then nothing was stored.
    """
    with one_at_a_time(f"snapshots in {storage.uri}"), scratch_folder() as scratch:
        storage.clear_unfinished(FOLDER + "chromadb_")
        completed, incomplete = _completed(storage)
        torn: list[str] = []
        for attempt in range(1, attempts + 1):
            work = scratch / str(attempt)
            work.mkdir()
            try:
                taken = _attempt(
                    storage, source, work, clock, zone=zone, run_id=run_id, torn=torn, memory_mb=memory_mb, say=progress
                )
            except TornCopy as error:
                _refuse_damaged(source, work)
                torn.append(str(error) + _if_untried(work))
                progress(f"Attempt {attempt} was torn: {error}. It is thrown away.")
                shutil.rmtree(work, ignore_errors=True)
                time.sleep(0.2 * attempt)
                continue
            except OSError as error:
                raise OperatorError(
                    f"The snapshot of {source} broke off ({error.strerror or type(error).__name__}, {scratch});"
                    " nothing was stored. Scratch files lie under TMPDIR and need twice the space of the collections."
                ) from None
            if not taken.copied.get("lists_databases", True):
                progress(
                    f"The server {source} is older than 0.6 and can't list its databases: only default_database is in"
                    " the snapshot."
                )
            taken.completed = completed
            taken.incomplete = incomplete
            storage.require_all()
            return taken
    raise ProofFailed(
        f"None of {counted(attempts, 'copy', 'copies')} of {source} could be proven; nothing was stored, and older"
        " snapshots are untouched."
        f" The last error: {torn[-1]}. If this repeats, the directory itself may be damaged: try the chatbot."
    )


def _refuse_damaged(source: Source, work: Path) -> None:
    """SQLite copies its file under a lock, so damage in the copy is damage in the chatbot's file, and another copy
    would be no better. Raises ProofFailed."""
    copy = work / "copy"
    if source.folder is None or not (copy / DATABASE).is_file():
        return
    if found := ask("damage", work, folder=str(copy))["found"]:
        raise damaged(source.folder / DATABASE, found)


def _if_untried(work: Path) -> str:
    """Files of a Chroma that this version doesn't know are read as if it knew them: the proof shows whether it may."""
    database = work / "copy" / DATABASE
    if not database.is_file() or not (found := newer_migrations(database)):
        return ""
    return (
        f" (it was written by a newer Chroma than {TRIED[-1]}, which is the newest that this version of saju_ops knows:"
        f" migrations {', '.join(found)})"
    )


def _completed(storage: Storage) -> tuple[list[str], str]:
    """What was copied from one of two stores to the other, and what can't be. The latter doesn't stop tonight's
    snapshot: else one lost old snapshot would block all new ones."""
    try:
        return storage.complete(FOLDER), ""
    except StorageError as error:
        return [], str(error)


def _attempt(
    storage: Storage, source: Source, work: Path, clock: Clock, zone: ZoneInfo, run_id: str, torn: list[str],
    memory_mb: int, say: Callable[[str], None],
) -> Snapshot:  # fmt: skip
    taken_at, began = clock(), time.monotonic()
    name = _free_name(storage, taken_at, zone)
    # Started now, so that it has imported Chroma by the time that there is something to open.
    with Worker(work, warm=True) as judge, Worker(work) as reader:
        copied = _copy(source, work, memory_mb)
        copy_seconds, began = time.monotonic() - began, time.monotonic()
        opened = _start(judge, reader, work, memory_mb)
        with storage.create(name) as writer:
            hashes = _store(writer, work, storage.password, name, (judge, reader))
            store_seconds, began = time.monotonic() - began, time.monotonic()
            _read_back(writer.read_back(), hashes, opened, storage.password)
            contents, proof = _proof(judge, reader)
            writer.commit()
    shutil.rmtree(work / "copy")
    proof_seconds = time.monotonic() - began
    manifest = _manifest(
        source,
        name,
        storage,
        taken_at,
        now=clock(),
        hashes=hashes,
        contents=contents,
        proof=proof,
        copied=copied,
        run_id=run_id,
    )
    write_manifest(storage, manifest)
    enter(manifest, clock(), say)
    return Snapshot(
        manifest, storage.location(name), len(torn) + 1, list(torn), copied=copied, copy_seconds=round(copy_seconds, 3),
        store_seconds=round(store_seconds, 3), proof_seconds=round(proof_seconds, 3),
    )  # fmt: skip


def _start(judge: Worker, reader: Worker, work: Path, memory_mb: int) -> Listing:
    """Starts to read the copy without Chroma and to open a clone of it with Chroma. Returns what the clone held
    before."""
    reader.start("read", folder=str(work / "copy"))
    opened = _cloned(work)
    judge.start("judge", folder=str(work / "copy"), twin=str(work / "opened"), memory_mb=memory_mb)
    return opened


def _cloned(work: Path) -> Listing:
    """Hashes the clone, not the copy: Chroma will open the clone."""
    shutil.copytree(work / "copy", work / "opened", copy_function=copy_file)
    return listed(work / "opened")


def _store(writer: Writer, work: Path, password: str | None, name: str, at_work: tuple[Worker, ...]) -> Hashes:
    """Raises TornCopy as soon as a process that looks at the copy meanwhile has found it torn."""

    def watch() -> None:
        for worker in at_work:
            worker.look()

    inner = name.rpartition("/")[2].removesuffix(ENCRYPTED)
    return pack(work / "copy", writer, password=password, name=inner, watch=watch)


def _free_name(storage: Storage, taken_at: datetime, zone: ZoneInfo) -> str:
    ending = ".tar.gz" + (ENCRYPTED if storage.password else "")
    name = f"{FOLDER}chromadb_{stamp(taken_at, zone)}{ending}"
    if storage.exists(name) or storage.exists(manifest_name(name)):
        raise OperatorError(f"{storage.location(name)} is there already and was not overwritten; launch again.")
    return name


def _copy(source: Source, work: Path, memory_mb: int) -> dict[str, Any]:
    target = str(work / "copy")
    if source.host:
        fetched = ask("fetch", work, **source.server, target=target)
        ask("index", work, folder=target, memory_mb=memory_mb)
        settle(Path(target))
        return fetched
    return ask("copy", work, source=str(source.folder), target=target)


def _read_back(stream: Any, hashes: Hashes, opened: Listing, password: str | None) -> None:
    """Compares the stored file with what was written and with the files that Chroma opens. Raises TornCopy."""
    with stream:
        try:
            found, stored = look_through(
                stream, password=password, encrypted=password is not None, content_bytes=hashes.content_bytes
            )
        except ProofFailed as error:
            raise TornCopy(f"what was stored can't be read back: {error}") from None
    if found != hashes:
        raise TornCopy("what was stored differs from what was written: its SHA-256 or size is another")
    if stored != opened:
        other = sorted(name for name in stored.keys() | opened.keys() if stored.get(name) != opened.get(name))
        raise TornCopy(f"what was stored is not what Chroma opened: {', '.join(other[:5])}")


def _proof(judge: Worker, reader: Worker) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the copy holds, read without Chroma, and how it was proven: Chroma gives the same records, and compared each
    vector with that of the files. Raises TornCopy."""
    contents, proof = dict(reader.answer()["contents"]), judge.answer()
    held = [{k: v for k, v in c.items() if k != "vectors_digest"} for c in contents["collections"]]
    refuse_other({"collections": held}, proof.pop("contents"))
    return contents, proof


def _manifest(
    source: Source, name: str, storage: Storage, taken_at: datetime, now: datetime, hashes: Hashes,
    contents: dict[str, Any], proof: dict[str, Any], copied: dict[str, Any], run_id: str,
) -> BackupManifest:  # fmt: skip
    chroma = str(proof["chroma_version"])
    return BackupManifest(
        kind="chroma_snapshot",
        format=FORMAT,
        file=name,
        source=str(source),
        engine="chroma server" if source.host else "chroma directory",
        server_version=str(copied.get("server_version", chroma)),
        taken_at=taken_at.astimezone(UTC).isoformat(timespec="seconds"),
        compression="gzip",
        encryption=METHOD if storage.password else "none",
        contents=contents,
        proven=True,
        proof={**proof, "proven_at": now.astimezone(UTC).isoformat(timespec="seconds")},
        tool=f"saju_ops {version('saju-ops')}, chromadb {chroma}",
        run_id=run_id,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        extra=copied,
        **asdict(hashes),
    )


# --- reading stored ones ---------------------------------------------------------------------------------------


def extract_snapshot(storage: Storage, manifest: BackupManifest, target: Path) -> None:
    """Extracts a stored snapshot into `target`, a new folder. Raises ProofFailed, naming the file, where it is not
    what its manifest says; then the folder is gone again. WrongPassword, before anything is extracted."""
    where = storage.location(manifest.file)
    try:
        with storage.open(manifest.file) as stream:
            found = unpack(
                stream, target, password=storage.password, encrypted=manifest.encryption != "none",
                content_bytes=manifest.content_bytes, disk_bytes=manifest.extra.get("disk_bytes"),
            )  # fmt: skip
    except FileNotFoundError:
        raise ProofFailed(f"The snapshot {where} is missing, though its manifest is there.") from None
    except ProofFailed as error:
        shutil.rmtree(target, ignore_errors=True)
        raise ProofFailed(f"The snapshot {where} is damaged or was altered: {error}.") from None
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise OperatorError(
            f"The snapshot {where} could not be extracted ({error.strerror or type(error).__name__}). Scratch files"
            " need the room of the collections under TMPDIR. Nothing was touched."
        ) from None
    wanted = Hashes(
        manifest.content_sha256, manifest.content_bytes, manifest.stored_sha256, manifest.stored_bytes
    )  # fmt: skip
    if found != wanted:
        shutil.rmtree(target, ignore_errors=True)
        raise ProofFailed(f"The snapshot {where} is damaged: its SHA-256 or size differs from the manifest.")


def expectation(manifest: BackupManifest) -> dict[str, Any]:
    """What the worker's check compares a restored snapshot with."""
    # Among some of the vectors a larger share is found than among all: of a collection that had no index then, it says
    # nothing of the index that there will be.
    share = 0.0 if manifest.proof.get("not_indexed") else float(manifest.proof.get("neighbours_share", 0.0))
    return {"expected": manifest.contents, "share": share}


def drill_snapshot(storage: Storage, manifest: BackupManifest, *, memory_mb: int = PROOF_MEMORY_MB) -> dict[str, Any]:
    """Restores a stored snapshot into a scratch folder, opens it with Chroma and compares all with its manifest.

    Raises ProofFailed. Returns what was compared, in plain numbers. Touches nothing but the scratch folder.
    """
    began = time.monotonic()
    with scratch_folder() as scratch, Worker(scratch, warm=True) as checker:
        extract_snapshot(storage, manifest, scratch / "drill")
        try:
            checker.start("check", folder=str(scratch / "drill"), memory_mb=memory_mb, **expectation(manifest))
            proof = checker.answer()
        except TornCopy as error:
            where = storage.location(manifest.file)
            raise ProofFailed(f"The snapshot {where} can't be restored: {error}.") from None
    del proof["contents"]
    return {**proof, "seconds": round(time.monotonic() - began, 3)}
