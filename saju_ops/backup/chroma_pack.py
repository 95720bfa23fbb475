"""A folder as one compressed tar, hashed and encrypted while it streams, and back. Constant memory both ways.

The tar holds one folder, `chroma_db`, and in it files and folders only. `tar xzf` opens it; an encrypted one is a zip
around that (`storage/encryption.py`). Extraction takes nothing else than such names, and never a link or a device.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from saju_ops.errors import ProofFailed
from saju_ops.storage import Writer
from saju_ops.storage.encryption import decrypting, encrypting

ROOT = "chroma_db"
PIECE = 1 << 20
# Pieces that may wait to be hashed.
AHEAD = 4


@dataclass(frozen=True)
class Hashes:
    content_sha256: str
    content_bytes: int
    stored_sha256: str
    stored_bytes: int


class _HashingSink:
    """Passes on what is written, hashed and counted."""

    def __init__(self, sink: Any) -> None:
        self._sink, self._hash, self.bytes = sink, sha256(), 0

    def write(self, data: Any) -> int:
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


def pack(folder: Path, writer: Writer, *, password: str | None, name: str) -> Hashes:
    """Writes the folder's files, sorted by name. `name` is what the file inside an encrypted one is called."""
    from isal import igzip

    stored = _HashingSink(writer)
    with ExitStack() as stack:
        sink: Any = stack.enter_context(encrypting(stored, password, name)) if password else stored
        zipped = stack.enter_context(igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=sink, mtime=0))
        content = _HashingSink(zipped)
        with tarfile.open(fileobj=content, mode="w|", bufsize=PIECE, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            tar.add(folder, ROOT, recursive=False, filter=_plain)
            for path in sorted(folder.rglob("*")):
                tar.add(path, f"{ROOT}/{path.relative_to(folder).as_posix()}", recursive=False, filter=_plain)
    return Hashes(content.hex, content.bytes, stored.hex, stored.bytes)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose files they were on this machine is nobody's business on the next."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o700 if member.isdir() else 0o600
    return member


class _HashingSource(io.RawIOBase):
    """Hands on what is read, hashed by another thread meanwhile: unpacking 110 MB takes 0.4 s so, else 0.6 s."""

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


def unpack(stream: BinaryIO, target: Path | None, *, password: str | None, encrypted: bool) -> Hashes:
    """Extracts into `target`, a new folder, or only reads everything where that is None.

    Raises ProofFailed for a file that is cut, altered or holds anything unexpected, WrongPassword. The caller compares
    the hashes before it uses what was extracted.
    """
    from gzip import BadGzipFile

    from isal import igzip, igzip_lib

    try:
        # One thread for both hashes: their pieces, each in order, are hashed in order.
        with ThreadPoolExecutor(1) as thread:
            stored = _HashingSource(stream, thread)
            opened: Any = decrypting(stored, password) if encrypted else stored  # type: ignore[arg-type]
            content = _HashingSource(igzip.IGzipFile(fileobj=opened, mode="rb"), thread)
            if target is not None:
                target.mkdir(mode=0o700)
                _extract(content, target)
            while content.read(PIECE):
                pass
            while opened.read(PIECE):
                pass
            while stored.read(PIECE):
                pass
    except (tarfile.TarError, EOFError, zlib.error, igzip_lib.IsalError, BadGzipFile) as error:  # type: ignore[misc]
        raise ProofFailed(f"it is cut off or damaged ({type(error).__name__})") from None
    return Hashes(content.hex, content.bytes, stored.hex, stored.bytes)


def _extract(content: Any, target: Path) -> None:
    with tarfile.open(fileobj=content, mode="r|", bufsize=PIECE) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not parts or parts[0] != ROOT or ".." in parts or not (member.isfile() or member.isdir()):
                raise ProofFailed("it holds something that no snapshot holds")
            # Below a new folder, without "..", and with no link on the way; tarfile.data_filter, which would say the
            # same, is not in the Python 3.11.2 of Debian 12.
            path = target.joinpath(*parts[1:])
            if member.isdir():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                _write(tar.extractfile(member), path)


def _write(source: Any, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(source, file, PIECE)
