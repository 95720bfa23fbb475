"""A local folder as storage: temporary name, fsync, hard link to the final name, fsync of the folder.

The link makes a write create-only: unlike a plain rename it fails when the name exists. Files are 0600 and folders
0700, because they hold people's conversations.

A listing is whole or an error: an unreadable folder is never taken for an empty one. Errors of the file system come as
FolderError, in words; only a missing file that is opened or measured is a FileNotFoundError.

The store's own folder may be a link. Links inside it are not followed by reading, writing or deleting: a person who can
write there could otherwise make a prune delete other people's files. A listing contains the link itself, which is no
backup, and opening or writing through a link is refused (LinkFound).
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from saju_ops.errors import ProofFailed, shown
from saju_ops.storage.base import AlreadyThere, StorageError, require_name
from saju_ops.storage.seal import NO_SEALS, Seals

UNFINISHED = ".unfinished"
# Bytes after which written data is moved to the disk, where a reader that follows the writer may read it.
HANDED_OVER = 1 << 20
PAGE = 4096


class FolderError(StorageError):
    """What the file system refused: a full disk, a right that is missing. `why` is its own word for it."""

    def __init__(self, path: Path, done: str, error: OSError) -> None:
        self.why = error.strerror or type(error).__name__
        super().__init__(
            f"{shown(str(path))} can't be {done} ({self.why}). What was there before is still there; mend that, and"
            " launch again."
        )


class LinkFound(StorageError, ProofFailed):
    """A symbolic link inside the store."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{shown(str(path))} is a link, and links inside a store are not followed. Nothing was read or changed"
            " through it; put the files themselves there, or mount their disk there (mount --bind)."
        )


class LocalStorage:
    def __init__(self, root: Path, password: str | None = None, seals: Seals = NO_SEALS) -> None:
        self.root = root.expanduser().absolute()
        self.password = password
        self.seals = seals

    @property
    def uri(self) -> str:
        return self.root.as_uri()

    def location(self, name: str) -> str:
        return shown(str(self.root.joinpath(*require_name(name))))

    def _path(self, name: str) -> Path:
        """Raises LinkFound where a folder on the way there is a link."""
        path = self.root
        for part in require_name(name)[:-1]:
            path /= part
            if _is_link(path):
                raise LinkFound(path)
        return self.root.joinpath(*require_name(name))

    def _no_link(self, name: str) -> Path:
        path = self._path(name)
        if _is_link(path):
            raise LinkFound(path)
        return path

    @contextmanager
    def create(self, name: str) -> Iterator[_LocalWriter]:
        path = self._path(name)
        # One leading dot hides it from Excel's file dialog; the suffix is what clear_unfinished looks for.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
        with _in_words("written", path, writing=True):
            _make_folders(path.parent)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            _let_owner(temporary, 0o600)
        writer = _LocalWriter(descriptor, temporary, path)
        try:
            yield writer
        finally:
            writer.close()
            temporary.unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        with _in_words("read", path):
            try:
                return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise LinkFound(path) from None
                raise

    def exists(self, name: str) -> bool:
        """A link counts as existing: nothing can be written under its name."""
        path = self._path(name)
        with _in_words("looked at", path):
            return path.is_symlink() or path.is_file()

    def size(self, name: str) -> int:
        """The size of a link is its own."""
        path = self._path(name)
        with _in_words("looked at", path):
            return path.lstat().st_size

    def names(self, prefix: str) -> Iterator[str]:
        start = prefix.rpartition("/")[0]
        folder = self._no_link(start) if start else self.root
        with _in_words("listed", folder):
            if not folder.exists():
                require_can_be_made(folder)
                return
            found = [path.relative_to(self.root).as_posix() for path in _files(folder)]
        yield from sorted(name for name in found if name.startswith(prefix))

    def clear_unfinished(self, prefix: str) -> int:
        path = self._path(prefix)
        removed = 0
        with _in_words("tidied", path.parent):
            for leftover in path.parent.glob(f".{path.name}*{UNFINISHED}"):
                leftover.unlink(missing_ok=True)
                removed += 1
        return removed

    def delete(self, name: str) -> None:
        path = self._path(name)
        with _in_words("deleted", path):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            _sync_folder(path.parent)

    def complete(self, prefix: str) -> list[str]:
        return []

    def require_all(self) -> None:
        return

    def copies(self) -> tuple[LocalStorage]:
        return (self,)

    def remains(self) -> str:
        return ""

    def free_space(self) -> str:
        space = os.statvfs(self.root)
        return f"{space.f_bavail * space.f_frsize / 1e9:.1f} GB free"


class _LocalWriter:
    def __init__(self, descriptor: int, temporary: Path, path: Path) -> None:
        self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._temporary = temporary
        self._path = path
        self._written = 0
        # Bytes that a follower may read, and whether there will be no more; shared with its thread.
        self.handed_over = 0
        self.ended = self.given_up = False
        self.changed = threading.Condition()

    def write(self, data: bytes | memoryview) -> int:
        self._written += len(data)
        try:
            self._file.write(data)
            if self._written - self.handed_over >= HANDED_OVER:
                self._hand_over()
        except OSError as error:
            raise FolderError(self._path, "written", error) from None
        return len(data)

    def _hand_over(self, ended: bool = False) -> None:
        self._file.flush()
        # Starts writing to the disk, and lets the same pages of memory be used again for the next bytes: new ones cost
        # more than the writing does (0.9 s of CPU time for 340 MB, instead of 0.1 s).
        os.posix_fadvise(self._file.fileno(), self.handed_over, 0, os.POSIX_FADV_DONTNEED)
        with self.changed:
            self.handed_over, self.ended = self._written, ended
            self.changed.notify_all()

    def end(self) -> None:
        with _in_words("written", self._path, writing=True):
            self._hand_over(ended=True)

    def follow(self) -> BinaryIO:
        return cast(BinaryIO, _Follower(self, self._temporary))

    def read_back(self) -> BinaryIO:
        with _in_words("written", self._path, writing=True):
            self._sync()
            # Drop the cached pages, so that the disk answers and not the memory that the bytes came from.
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return self._temporary.open("rb")

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        with _in_words("written", self._path, writing=True):
            self._sync()
            try:
                _give_name(self._temporary, self._path)
            except FileExistsError:
                raise AlreadyThere(f"{shown(str(self._path))} exists and was not overwritten.") from None
            _sync_folder(self._path.parent)

    def close(self) -> None:
        with self.changed:
            self.given_up = not self.ended
            self.changed.notify_all()
        # A full disk fails again when the buffer is flushed on close; the first error is the one to report.
        try:
            self._file.close()
        except OSError:
            os.close(self._file.fileno()) if not self._file.closed else None


def _give_name(temporary: Path, path: Path) -> None:
    """Raises FileExistsError. Where the file system has no hard links (exFAT, most of SMB), a rename that refuses
    to replace; where it has neither, StorageError: a plain rename could overwrite a backup."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # Over NFS the answer may get lost and the question be repeated: then the name is this very file.
        if not path.samefile(temporary):
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK):
            raise
        _rename_no_replace(temporary, path)


def _rename_no_replace(old: Path, new: Path) -> None:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        at_cwd, no_replace = -100, 1
        if renameat2(at_cwd, os.fsencode(old), at_cwd, os.fsencode(new), no_replace) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number), str(new))
    raise StorageError(
        f"The file system at {new.parent} has neither hard links nor a rename that refuses to replace, so a backup on"
        " it could be overwritten. Nothing was written; name a folder on another file system in BACKUP_URI."
    )


class _Follower(io.RawIOBase):
    """Reads the bytes of a writer as soon as they are on the disk."""

    def __init__(self, writer: _LocalWriter, path: Path) -> None:
        self._writer = writer
        self._file = path.open("rb", buffering=0)
        self._position = self._durable = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Less than asked for only at the end: a CSV parser takes a short block for a record cut in two."""
        pieces: list[bytes] = []
        while size and self._more():
            most = self._durable - self._position
            piece = self._file.read(min(size, most) if size > 0 else most)
            if not piece:
                raise OSError("the file is shorter than what was written")
            pieces.append(piece)
            self._position += len(piece)
            size -= len(piece) if size > 0 else 0
        return b"".join(pieces)

    def _more(self) -> bool:
        if self._position < self._durable:
            return True
        writer = self._writer
        with writer.changed:
            writer.changed.wait_for(
                lambda: writer.ended or writer.given_up or writer.handed_over - self._durable >= PAGE
            )
            if writer.given_up:
                raise OSError("the file was given up while it was being written")
            # The last page may still be added to, so it waits till it is whole.
            there = writer.handed_over if writer.ended else writer.handed_over // PAGE * PAGE
        if there == self._durable:
            return False
        os.fdatasync(self._file.fileno())
        # Dropped from memory, so that the disk answers and not the memory that the bytes came from.
        os.posix_fadvise(self._file.fileno(), self._durable, there - self._durable, os.POSIX_FADV_DONTNEED)
        self._durable = there
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _is_link(path: Path) -> bool:
    """False if it can't be looked at: the next use of the path then says why."""
    try:
        return path.is_symlink()
    except OSError:
        return False


@contextmanager
def _in_words(done: str, path: Path, *, writing: bool = False) -> Iterator[None]:
    """Turns errors of the file system into words. Unless writing, FileNotFoundError stays as it is."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise
        raise FolderError(path, done, error) from None


def _files(folder: Path) -> Iterator[Path]:
    """Every complete file below, and every link, which leads nowhere here. Raises OSError for a folder that can't be
    read."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except FileNotFoundError:
            continue  # gone since it was seen
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                # lost+found is the file system's own, for root alone, where the store is the root of a disk.
                if entry.name != "lost+found":
                    waiting.append(here / entry.name)
            elif (entry.is_symlink() or entry.is_file()) and not entry.name.endswith(UNFINISHED):
                yield here / entry.name


def require_can_be_made(folder: Path) -> None:
    """Raises StorageError for a path that isn't there and can't be: below a file, or behind a link that leads nowhere,
    such as to a disk that isn't mounted. Taken for an empty folder, either would hide every backup."""
    for each in (folder, *folder.parents):
        # In this order: another writer may be making it at this moment.
        if each.exists():
            if not each.is_dir():
                raise StorageError(f"{each} is not a folder")
            return
        if each.is_symlink():
            raise StorageError(f"{each} is a link to {each.readlink()}, which isn't there; is its disk mounted?")


def _let_owner(made: Path, mode: int) -> None:
    """Gives the owner back the rights that an odd umask took away. Does nothing if none is missing: FAT file systems
    have no such rights, and refuse the change."""
    if made.stat().st_mode & mode != mode:
        made.chmod(mode)


def _make_folders(folder: Path) -> None:
    """Like mkdir -p with 0700, whatever the umask says, and each new folder's entry made durable in its parent."""
    require_can_be_made(folder)
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:
            continue  # another writer was faster
        _let_owner(each, 0o700)
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no such thing for a folder.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)
