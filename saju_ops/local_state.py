"""This user's files on this machine: locks, and the ledger of proven backups, in a folder of our own, 0700.

Everybody may make files in the shared temporary folder: any user who made our lock file first would stop every dump.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saju_ops.errors import Busy, OperatorError

POLL_SECONDS = 0.2


def state_folder() -> Path:
    """`$XDG_STATE_HOME/saju_ops`, else `~/.local/state/saju_ops`; where the user has no home, `saju_ops_state_<uid>` in
    the temporary folder. It is made where it isn't there.

    The home is that of the user database, not HOME: the daemon and a command by hand must find the same folder. Raises
    OperatorError where the folder is somebody else's or can't be made.
    """
    problems = []
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _require_ours(descriptor, folder)
            finally:
                os.close(descriptor)
        except OSError as error:
            problems.append(f"{folder} ({error.strerror or error})")
        else:
            return folder
    raise OperatorError(
        f"This user has no folder of its own for locks: {', '.join(problems)}. Nothing was done. Set XDG_STATE_HOME to"
        " a folder that belongs to this user, the same for every saju_ops process."
    )


def _candidates() -> list[Path]:
    if (given := os.environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return [Path(given) / "saju_ops"]
    try:
        home = [Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local" / "state" / "saju_ops"]
    except KeyError:  # a container's user that no user database knows
        home = []
    return [*home, Path(tempfile.gettempdir()) / f"saju_ops_state_{os.getuid()}"]


def _require_ours(descriptor: int, folder: Path) -> None:
    """Raises OSError for another owner; takes away what others may do there."""
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid():
        raise OSError(errno.EPERM, f"it belongs to the user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.fchmod(descriptor, 0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, "it can't be written")


@contextmanager
def one_at_a_time(what: str, wait: float = 0) -> Iterator[None]:
    """A lock of this user on this machine, by name; it ends with the process. Raises Busy after `wait` seconds,
    OperatorError."""
    name = hashlib.sha256(what.encode()).hexdigest()[:24]
    path = state_folder() / f"{name}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OperatorError(f"The lock {path} can't be made ({error.strerror}). Nothing was done.") from None
    try:
        end = time.monotonic() + wait
        while not _locked(descriptor):
            if time.monotonic() >= end:
                raise Busy(f"Another run works on {what}. Nothing was done; launch again when it has ended.")
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
