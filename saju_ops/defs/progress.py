"""One way for a run to say how far it is: its Dagster log, and whoever else listens in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saju_ops.logins import hide_logins

LISTENERS: list[Callable[[str], None]] = []


def tell(log: Any, message: str) -> None:
    """Never message text, never a secret: it is kept in the event log and shown in the UI."""
    message = hide_logins(message)
    log.info(message)
    for listener in LISTENERS:
        listener(message)
