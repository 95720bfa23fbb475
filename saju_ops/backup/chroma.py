"""A snapshot of the vector store: taken while the chatbot writes, proven from where it is stored, then named.

Promises: every record that was acknowledged before the snapshot began is in it; the file gets its name only after it
was read back from the storage, extracted, compared with what was copied and opened by Chroma, record by record; the
manifest comes last. A copy that was torn by the chatbot's own writing is thrown away and taken again, ATTEMPTS times
at most. Refuses to open a live directory by Chroma, to load an embedding model, and to overwrite anything.

Of a server it holds what its API shows, which is no single moment: see `chroma_server`.
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

from saju_ops.backup.chroma_files import TornCopy
from saju_ops.backup.chroma_pack import Hashes, pack, unpack
from saju_ops.backup.chroma_process import Worker, ask, one_at_a_time, scratch_folder
from saju_ops.backup.manifest import FORMAT, BackupManifest, manifest_name, stamp, write_manifest
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.settings import Settings
from saju_ops.storage import Storage, StorageError, Writer
from saju_ops.storage.encryption import ENDING as ENCRYPTED
from saju_ops.storage.encryption import METHOD

FOLDER = "chroma/"
# One copy in fifteen was torn with a writer adding hundreds of records a second: five in a row, one in a million.
ATTEMPTS = 5
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Source:
    """A directory that a chatbot uses, or a server."""

    folder: Path | None = None
    host: str | None = None
    port: int = 8000

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host else str(self.folder)


def source_of(settings: Settings) -> Source:
    """CHROMA_HOST if it is set, else CHROMA_DB_PATH."""
    if settings.chroma_host:
        return Source(host=settings.chroma_host, port=settings.chroma_port)
    return Source(folder=Path(settings.chroma_db_path).expanduser().absolute())


@dataclass
class Snapshot:
    """What was stored, and what it took. Seconds are of the attempt that counted."""

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
        return list(self.manifest.contents["collections"])

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
    progress: Callable[[str], None] = lambda text: None,
) -> Snapshot:
    """Stores `chroma/chromadb_<time in zone>.tar.gz` and its manifest.

    Raises ProofFailed when no copy could be proven, Refused for what is no Chroma directory, Busy when another run
    takes one. Then nothing was stored.
    """
    with one_at_a_time(f"snapshots in {storage.uri}"), scratch_folder() as scratch:
        storage.clear_unfinished(FOLDER + "chromadb_")
        completed, incomplete = _completed(storage)
        torn: list[str] = []
        for attempt in range(1, attempts + 1):
            work = scratch / str(attempt)
            work.mkdir()
            try:
                taken = _attempt(storage, source, work, clock, zone, run_id, torn)
            except TornCopy as error:
                torn.append(str(error))
                progress(f"Attempt {attempt} was torn: {error}. It is thrown away.")
                shutil.rmtree(work, ignore_errors=True)
                time.sleep(0.2 * attempt)
                continue
            except OSError as error:
                raise OperatorError(
                    f"The snapshot of {source} broke off ({error.strerror or type(error).__name__}, {scratch});"
                    " nothing was stored. Scratch files lie under TMPDIR and need twice the space of the collections."
                ) from None
            taken.completed = completed
            taken.incomplete = incomplete
            storage.require_all()
            return taken
    raise ProofFailed(
        f"None of {attempts} copies of {source} could be proven; nothing was stored, and older snapshots are untouched."
        f" The last: {torn[-1]}. Where this goes on, the directory itself may be damaged: try the chatbot."
    )


def _completed(storage: Storage) -> tuple[list[str], str]:
    """What was copied from one of two stores to the other, and what can't be: no reason to go without tonight's
    snapshot, since an old one that is lost would block all new ones."""
    try:
        return storage.complete(FOLDER), ""
    except StorageError as error:
        return [], str(error)


def _attempt(
    storage: Storage, source: Source, work: Path, clock: Clock, zone: ZoneInfo, run_id: str, torn: list[str]
) -> Snapshot:
    taken_at, began = clock(), time.monotonic()
    name = _free_name(storage, taken_at, zone)
    # Started now, so that it has imported Chroma by the time that there is something to check.
    with Worker(work, warm=True) as checker:
        copied = _copy(source, work)
        copy_seconds, began = time.monotonic() - began, time.monotonic()
        with storage.create(name) as writer:
            hashes, contents = _store(writer, work, storage.password, name.rpartition("/")[2].removesuffix(ENCRYPTED))
            store_seconds, began = time.monotonic() - began, time.monotonic()
            proof = _prove(checker, writer.read_back(), work, hashes, contents, storage.password)
            writer.commit()
    shutil.rmtree(work / "copy")
    proof_seconds = time.monotonic() - began
    manifest = _manifest(source, name, storage, taken_at, clock(), hashes, contents, proof, copied, run_id)
    write_manifest(storage, manifest)
    return Snapshot(
        manifest, storage.location(name), len(torn) + 1, list(torn), copied, round(copy_seconds, 3),
        round(store_seconds, 3), round(proof_seconds, 3),
    )  # fmt: skip


def _store(writer: Writer, work: Path, password: str | None, inner: str) -> tuple[Hashes, dict[str, Any]]:
    """The copy is read without Chroma while it is packed: two processes, one copy."""
    with Worker(work) as reader:
        reader.start("read", folder=str(work / "copy"))
        hashes = pack(work / "copy", writer, password=password, name=inner)
        return hashes, reader.answer()["contents"]


def _free_name(storage: Storage, taken_at: datetime, zone: ZoneInfo) -> str:
    ending = ".tar.gz" + (ENCRYPTED if storage.password else "")
    name = f"{FOLDER}chromadb_{stamp(taken_at, zone)}{ending}"
    if storage.exists(name) or storage.exists(manifest_name(name)):
        raise OperatorError(f"{storage.location(name)} is there already and was not overwritten; launch again.")
    return name


def _copy(source: Source, work: Path) -> dict[str, Any]:
    target = str(work / "copy")
    if source.host:
        return ask("fetch", work, host=source.host, port=source.port, target=target)
    return ask("copy", work, source=str(source.folder), target=target)


def _prove(
    checker: Worker, stream: Any, work: Path, hashes: Hashes, contents: dict[str, Any], password: str | None
) -> dict[str, Any]:
    """What lies in the storage, extracted, opened by Chroma and compared with the copy. Raises TornCopy."""
    with stream:
        try:
            found = unpack(stream, work / "proof", password=password, encrypted=password is not None)
        except ProofFailed as error:
            raise TornCopy(f"what was stored can't be read back: {error}") from None
    if found != hashes:
        raise TornCopy("what was stored differs from what was written: its SHA-256 or size is another")
    # Chroma may change what it opens: it opens what was extracted, and the copy stays what that is compared with.
    checker.start("check", folder=str(work / "copy"), twin=str(work / "proof"), expected=contents)
    proof = checker.answer()
    del proof["contents"]
    return proof


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
                stream, target, password=storage.password, encrypted=manifest.encryption != "none"
            )  # fmt: skip
    except FileNotFoundError:
        raise ProofFailed(f"The snapshot {where} is missing, though its manifest is there.") from None
    except ProofFailed as error:
        shutil.rmtree(target, ignore_errors=True)
        raise ProofFailed(f"The snapshot {where} is damaged: {error}.") from None
    wanted = Hashes(
        manifest.content_sha256, manifest.content_bytes, manifest.stored_sha256, manifest.stored_bytes
    )  # fmt: skip
    if found != wanted:
        shutil.rmtree(target, ignore_errors=True)
        raise ProofFailed(f"The snapshot {where} is damaged: its SHA-256 or size differs from the manifest.")


def expectation(manifest: BackupManifest) -> dict[str, Any]:
    """What the worker's check compares a restored snapshot with."""
    return {"expected": manifest.contents, "share": float(manifest.proof.get("neighbours_share", 0.0))}


def drill_snapshot(storage: Storage, manifest: BackupManifest) -> dict[str, Any]:
    """Restores a stored snapshot into a scratch folder, opens it by Chroma and compares everything with its manifest.

    Raises ProofFailed. Returns what was compared, in plain numbers. Touches nothing but the scratch folder.
    """
    began = time.monotonic()
    with scratch_folder() as scratch, Worker(scratch, warm=True) as checker:
        extract_snapshot(storage, manifest, scratch / "drill")
        try:
            checker.start("check", folder=str(scratch / "drill"), **expectation(manifest))
            proof = checker.answer()
        except TornCopy as error:
            where = storage.location(manifest.file)
            raise ProofFailed(f"The snapshot {where} can't be restored: {error}.") from None
    del proof["contents"]
    return {**proof, "seconds": round(time.monotonic() - began, 3)}


