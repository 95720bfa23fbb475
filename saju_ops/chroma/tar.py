"""Reads the tar of a snapshot as `chroma/pack.py` writes it, and refuses every other: a person who can write into the
store must not decide how much disk or memory this machine uses, or which of its other folders is written to.

Each name is below the one folder, is there once, and comes after its folder. A file has as many bytes as its header
says, all of them in the tar (no holes of sparse files). Nothing is read beyond `limit` bytes, and a header takes 64 KiB
at most. Links, devices and all other kinds of entries are refused. tarfile reads the headers here, but not the whole
tar: it would keep extended headers and maps of sparse files in memory, whatever their size.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import Any

from saju_ops.errors import ProofFailed

ROOT = "chroma_db"
# Bytes of an extended header: a name of 4,096 bytes and three numbers are less than 5,000.
LONGEST_HEADER = 1 << 16
# Linux takes 255 bytes a name and 4,096 a path; Chroma's own are below 60.
LONGEST_NAME, LONGEST_PATH = 255, 2048
# What Python's tarfile writes into extended headers of files and folders.
KEYS = {"path", "size", "mtime"}
RECORD = re.compile(rb"(\d{1,6}) ([^=]+)=")


class LimitedTar:
    """Passes on the bytes of the tar. Raises ProofFailed if there are more than `limit`."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ProofFailed("it holds more than its manifest says")
        return data

    def exactly(self, size: int) -> bytes:
        """For small pieces."""
        parts = []
        while size:
            data = self.read(size)
            if not data:
                raise ProofFailed("it is cut off or damaged (its tar has no end)")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def end(self, piece: int) -> None:
        """Reads on to the end, and refuses anything but the zeros that fill a tar's last record."""
        while data := self.read(piece):
            if data.count(0) != len(data):
                raise ProofFailed("data follow its end")


class _File:
    """The content of one file, to be read to its end before the next member."""

    def __init__(self, tar: LimitedTar, size: int) -> None:
        self._tar, self.left = tar, size

    def read(self, size: int) -> bytes:
        if not self.left:
            return b""
        data = self._tar.read(min(size, self.left))
        if not data:
            raise ProofFailed("it is cut off or damaged (a file of it has no end)")
        self.left -= len(data)
        return data


def members(tar: LimitedTar) -> Iterator[tuple[str, _File | None]]:
    """Each name inside ROOT, `.` for ROOT itself, in the order of the tar, with the file's content, or None for a
    folder. Raises ProofFailed."""
    kinds: dict[str, bool] = {}  # name → whether it is a folder
    while (header := _header(tar)) is not None:
        name = _name_inside(header)
        if name in kinds:
            raise ProofFailed("it holds a name twice")
        if name != "." and not kinds.get(name.rpartition("/")[0] or ".", False):
            raise ProofFailed("it holds a name whose folder is not there")
        kinds[name] = header.type == tarfile.DIRTYPE
        file = None if kinds[name] else _File(tar, header.size)
        yield name, file
        if file is not None:
            if file.left:
                raise AssertionError("a member was not read to its end")
            tar.exactly(-header.size % tarfile.BLOCKSIZE)


def _header(tar: LimitedTar) -> tarfile.TarInfo | None:
    """The next member, with the values of an extended header before it; None at the tar's end."""
    block = tar.exactly(tarfile.BLOCKSIZE)
    if not block.strip(b"\0"):
        return None
    header = _parsed(block)
    if header.type == tarfile.XHDTYPE:
        more = _extended(tar, header.size)
        header = _parsed(tar.exactly(tarfile.BLOCKSIZE))
        header.name = more.get("path", header.name)
        header.size = _number(more.get("size", str(header.size)))
    if header.type not in (tarfile.REGTYPE, tarfile.DIRTYPE) or (header.type == tarfile.DIRTYPE and header.size):
        raise _strange()
    return header


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeError, ValueError) as error:
        raise ProofFailed(f"it is cut off or damaged ({type(error).__name__})") from None
    if header.size < 0:
        raise _strange()
    return header


def _extended(tar: LimitedTar, size: int) -> dict[str, str]:
    if not 0 < size <= LONGEST_HEADER:
        raise _strange()
    data = tar.exactly(size)
    tar.exactly(-size % tarfile.BLOCKSIZE)
    found: dict[str, str] = {}
    while data:
        start = RECORD.match(data)
        length = int(start[1]) if start else 0
        record, data = data[:length], data[length:]
        if start is None or len(record) != length or length < start.end() + 1 or record[-1:] != b"\n":
            raise _strange()
        try:
            found[start[2].decode()] = record[start.end() : -1].decode()
        except UnicodeError:
            raise _strange() from None
    if not found.keys() <= KEYS:
        raise _strange()
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _strange()
    return int(text)


def _name_inside(header: tarfile.TarInfo) -> str:
    """The name without ROOT. Raises ProofFailed for a name that isn't below it, or that a disk may not take."""
    name = header.name.removesuffix("/") if header.type == tarfile.DIRTYPE else header.name
    root, *parts = name.split("/")
    sound = all(0 < len(part.encode()) <= LONGEST_NAME and part not in (".", "..") for part in parts)
    if root != ROOT or not sound or len(name.encode()) > LONGEST_PATH or not name.isprintable():
        raise _strange()
    if not parts and header.type != tarfile.DIRTYPE:
        raise _strange()
    return "/".join(parts) or "."


def _strange() -> ProofFailed:
    return ProofFailed("it holds something that no snapshot holds")
