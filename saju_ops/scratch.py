"""Scratch folders: 0700, removed when the work ends, and a day later where a killed process left one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "saju_ops_chroma_"
LOCK = "in_use"


def scratch_root() -> Path:
    """TMPDIR."""
    return Path(tempfile.gettempdir())


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A private folder, removed at the end; first of all, those that killed runs left."""
    root = parent or scratch_root()
    for left in root.glob(f"{PREFIX}*"):
        _remove_if_unused(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_if_unused(folder: Path) -> None:
    """Only our own user's, and only when nobody holds its lock. One without a lock file is just being made."""
    with suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
