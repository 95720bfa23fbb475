"""What this machine knows of its processes: which one listens on a port, and whether a process is still the same.

Read from /proc. On a machine without it nothing is known, and each question is answered as if all were well.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from saju_ops.errors import OperatorError

PROC = Path("/proc")
LISTENS = "0A"
# Seconds. The kernel gives a process's start in whole seconds, and clocks are set.
SLACK = 5.0


def require_free(host: str, port: int, setting: str) -> None:
    """Raises OperatorError where somebody listens on the port already. `setting` is what names the port."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise OperatorError(
            f"{host}:{port} can't be listened on ({os.strerror(error.errno or 0)}): another program, such as another"
            f" Dagster, may run there. {setting} names the port; end that program or choose another port. Nothing was"
            " started."
        ) from None


def is_family_of(pid: int, port: int) -> bool:
    """Whether the port has a listener that is this process or a descendant of it."""
    if not (PROC / "net" / "tcp").exists():
        return True
    listening = {f"socket:[{inode}]" for inode in _listeners(port)}
    return bool(listening) and listening <= {*_sockets(pid)}


def is_alive(pid: int, seen_at: float) -> bool:
    """Whether the process that had this number at that time, in seconds since 1970, still runs. A process that has the
    number now and began later is another."""
    if not (PROC / "stat").exists():
        return True
    state = _stat(pid)
    if state is None or state[0] == "Z":
        return False
    booted = next(int(line.split()[1]) for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    began = booted + int(state[19]) / os.sysconf("SC_CLK_TCK")
    return began <= seen_at + SLACK


def _listeners(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on the port, at any address."""
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def descendants(pid: int) -> Iterator[int]:
    """The living processes that descend from one, without itself."""
    children: dict[int, list[int]] = {}
    for each in (int(p.name) for p in PROC.iterdir() if p.name.isdigit()):
        if (state := _stat(each)) is not None and state[0] != "Z":
            children.setdefault(int(state[1]), []).append(each)
    family = [pid]
    for each in family:
        family += children.get(each, [])
    yield from family[1:]


def daemon_of(home: Path) -> int | None:
    """The number of a process of this user that is Dagster's daemon on this history; None where there is none."""
    if not (PROC / "stat").exists():
        return None
    wanted = os.path.realpath(home)
    for each in (int(p.name) for p in PROC.iterdir() if p.name.isdigit()):
        with suppress(OSError):
            command = (PROC / str(each) / "cmdline").read_bytes()
            if b"dagster._daemon\0" not in command and b"dagster-daemon\0" not in command:
                continue
            environment = (PROC / str(each) / "environ").read_bytes().split(b"\0")
            given = next((e.partition(b"=")[2] for e in environment if e.startswith(b"DAGSTER_HOME=")), b"")
            if given and os.path.realpath(os.fsdecode(given)) == wanted:
                return each
    return None


def _sockets(pid: int) -> Iterator[str]:
    """The open sockets of a process and of all that descend from it."""
    for each in (pid, *descendants(pid)):
        with suppress(OSError):
            for descriptor in (PROC / str(each) / "fd").iterdir():
                with suppress(OSError):
                    yield str(descriptor.readlink())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on, which follows the name; None where there is none."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
