"""Files with holes: copied and written so that the holes stay holes.

Chroma's `link_lists.bin` may have many GB and take a few kB of the disk. What is no hole is copied in the kernel.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 512


def disk_bytes(path: Path) -> int:
    """Bytes that a file takes on the disk, or its size, if that is less."""
    status = path.stat()
    return min(status.st_size, status.st_blocks * BLOCK)


def copy_file(source: str | Path, target: str | Path) -> str:
    """For `shutil.copytree`, too. The mode is not copied."""
    with Path(source).open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_blocks * BLOCK >= status.st_size:
            return str(shutil.copyfile(source, target))
        with Path(target).open("wb") as to:
            _copy_data(file.fileno(), to.fileno(), status.st_size)
            to.truncate(status.st_size)
    return str(target)


def _copy_data(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # a hole to the end
        end = min(size, os.lseek(source, at, os.SEEK_HOLE))
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            sent = os.sendfile(target, source, at, end - at)
            if not sent:
                return  # somebody cut it meanwhile
            at += sent


def write_file(source: Any, file: BinaryIO, piece: int) -> None:
    """What `source` reads, with a hole for each piece of zeros."""
    while data := source.read(piece):
        if data[0] or data[-1] or data.strip(b"\0"):
            file.write(data)
        else:
            file.seek(len(data), os.SEEK_CUR)
    file.truncate()
