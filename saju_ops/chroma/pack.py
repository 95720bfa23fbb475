"""A folder as one compressed tar, hashed and encrypted while it streams, and back. Constant memory both ways.

The tar holds one folder, `chroma_db`, and in it files and folders only. `tar xzf` opens it; an encrypted one is a zip
around that (`storage/encryption.py`). Extraction takes what `chroma_tar` lets through, and no more of it than the
manifest says. Looking through one (`look_through`) takes and refuses the same, and hashes each file where extraction
writes it.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, BinaryIO

from saju_ops.chroma.sparse import write_file
from saju_ops.chroma.tar import ROOT, LimitedTar, members
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.storage.encryption import decrypting, encrypting
from saju_ops.storage.open import Writer

PIECE = 1 << 20
# Pieces that may wait to be hashed.
AHEAD = 4


@dataclass(frozen=True)
class Hashes:
    content_sha256: str
    content_bytes: int
    stored_sha256: str
    stored_bytes: int


# The content of a folder by the names inside it: the SHA-256 of a file, FOLDER for a folder.
Listing = dict[str, str]
FOLDER = "folder"


class _HashingSink:
    """Passes on what is written, hashed and counted."""

    def __init__(self, sink: Any, watch: Callable[[], None] = lambda: None) -> None:
        self._sink, self._watch, self._hash, self.bytes = sink, watch, sha256(), 0

    def write(self, data: Any) -> int:
        self._watch()
        view = memoryview(data)
        self._hash.update(view)
        self.bytes += view.nbytes
        self._sink.write(view)
        return view.nbytes

    def flush(self) -> None:
        pass

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


def pack(
    folder: Path, writer: Writer, *, password: str | None, name: str, watch: Callable[[], None] = lambda: None
) -> Hashes:
    """Writes the folder's files, sorted by name. `name`: the file's name inside an encrypted archive. `watch` is called
    again and again; an error that it raises ends the packing."""
    from isal import igzip

    stored = _HashingSink(writer)
    with ExitStack() as stack:
        sink: Any = stack.enter_context(encrypting(stored, password, name)) if password else stored
        zipped = stack.enter_context(igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=sink, mtime=0))
        content = _HashingSink(zipped, watch)
        with tarfile.open(fileobj=content, mode="w|", bufsize=PIECE, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            tar.add(folder, ROOT, recursive=False, filter=_plain)
            for path in sorted(folder.rglob("*")):
                tar.add(path, f"{ROOT}/{path.relative_to(folder).as_posix()}", recursive=False, filter=_plain)
    return Hashes(content.hex, content.bytes, stored.hex, stored.bytes)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner of this machine's files, which means nothing on another."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o700 if member.isdir() else 0o600
    return member


class _HashingSource(io.RawIOBase):
    """Passes on the bytes it reads; another thread hashes them: unpacking 110 MB takes 0.4 s instead of 0.6 s."""

    def __init__(self, stream: Any, thread: ThreadPoolExecutor) -> None:
        self._stream, self._thread, self._hash, self.bytes = stream, thread, sha256(), 0
        self._pending: deque[Future[None]] = deque()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.bytes += len(data)
        if len(self._pending) == AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._hash.update, data))
        return data

    @property
    def hex(self) -> str:
        while self._pending:
            self._pending.popleft().result()
        return self._hash.hexdigest()


def unpack(
    stream: BinaryIO, target: Path, *, password: str | None, encrypted: bool, content_bytes: int,
    disk_bytes: int | None = None,
) -> Hashes:  # fmt: skip
    """Extracts at most `content_bytes` of a tar into `target`, a new folder. `disk_bytes`: what the files take on the
    disk if they have holes.

    Raises ProofFailed for a file that is cut, altered or holds anything unexpected, WrongPassword, OperatorError if the
    disk is too small. The caller compares the hashes before it uses what was extracted.
    """
    _require_room(target.parent, content_bytes if disk_bytes is None else min(disk_bytes, content_bytes))
    return _read_through(stream, lambda tar: _extract(tar, target), password, encrypted, content_bytes)


def look_through(
    stream: BinaryIO, *, password: str | None, encrypted: bool, content_bytes: int
) -> tuple[Hashes, Listing]:
    """What `unpack` would extract. Raises the same, and needs no room."""
    found: Listing = {}
    hashes = _read_through(stream, lambda tar: _list(tar, found), password, encrypted, content_bytes)
    return hashes, found


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OperatorError(
            f"{folder} has {free:,} bytes free, and the snapshot takes {needed:,}. Nothing was extracted; make"
            " room, or name another folder in TMPDIR."
        )


def listed(folder: Path) -> Listing:
    """What `look_through` finds of this folder when it was packed. Reads it whole."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {".": FOLDER, **{name: FOLDER if path.is_dir() else _sha256(path) for name, path in paths.items()}}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _read_through(
    stream: BinaryIO, take: Callable[[LimitedTar], None], password: str | None, encrypted: bool, content_bytes: int
) -> Hashes:
    """Passes the tar to `take`, and reads the bytes after it."""
    from gzip import BadGzipFile

    from isal import igzip, igzip_lib

    try:
        # One thread for both hashes: their pieces, each in order, are hashed in order.
        with ThreadPoolExecutor(1) as thread:
            stored = _HashingSource(stream, thread)
            opened: Any = decrypting(stored, password) if encrypted else stored  # type: ignore[arg-type]
            content = _HashingSource(igzip.IGzipFile(fileobj=opened, mode="rb"), thread)
            tar = LimitedTar(content, content_bytes)
            take(tar)
            tar.end(PIECE)
            while opened.read(PIECE):
                pass
            while stored.read(PIECE):
                pass
    except (tarfile.TarError, EOFError, zlib.error, igzip_lib.IsalError, BadGzipFile) as error:  # type: ignore[misc]
        raise ProofFailed(f"it is cut off or damaged ({type(error).__name__})") from None
    return Hashes(content.hex, content.bytes, stored.hex, stored.bytes)


def _extract(tar: LimitedTar, target: Path) -> None:
    target.mkdir(mode=0o700)
    for name, source in members(tar):
        # Below a new folder, without "..", and with no link on the way.
        path = target / name
        if source is not None:
            _write(source, path)
        elif name != ".":
            path.mkdir(mode=0o700)


def _list(tar: LimitedTar, found: Listing) -> None:
    for name, source in members(tar):
        found[name] = FOLDER if source is None else _hashed(source)


def _hashed(source: Any) -> str:
    found = sha256()
    while data := source.read(PIECE):
        found.update(data)
    return found.hexdigest()


def _write(source: Any, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        write_file(source, file, PIECE)
