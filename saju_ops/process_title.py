"""The command line of this process as every user of the machine sees it (`ps`, /proc/<pid>/cmdline).

Linux shows the memory in which the kernel put the arguments, so that memory is written over. That takes nothing away
from the parent's command line (sudo, a shell with -c) and from the shell's history.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from saju_ops.logins import hide_logins

# Fields of /proc/self/stat, counted from the one behind the program's name.
ARG_START, ARG_END = 45, 46


def hide_argument(value: str) -> bool:
    """Overwrites the login in an address among the arguments. False if it is still to be seen."""
    secret = os.fsencode(value)
    shown = os.fsencode(hide_logins(value))
    shown = shown.ljust(len(secret)) if len(shown) <= len(secret) else b"*" * len(secret)
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_END])
        if not 0 < start < end:
            return False
        line = ctypes.string_at(start, end - start)
        at = line.find(secret)
        while at >= 0:
            ctypes.memmove(start + at, shown, len(shown))
            at = line.find(secret, at + len(secret))
        return secret not in Path("/proc/self/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):  # another system than Linux
        return False
