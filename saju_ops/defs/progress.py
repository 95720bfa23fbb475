"""One way for a run to report its progress: in its Dagster log, and to listeners in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saju_ops.logins import hide_logins

LISTENERS: list[Callable[[str], None]] = []


def log_progress(log: Any, message: str) -> None:
    """Never pass message text or a secret: the line is kept in the event log and shown in the UI."""
    message = hide_logins(message)
    log.info(message)
    for listener in LISTENERS:
        listener(message)
