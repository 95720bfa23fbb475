"""How a setting's value is read, shown and bounded."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, SecretStr

_IDENTIFIER = re.compile(r"[^\x00/\\]{1,64}")
# Lowest and highest value of whole numbers; others lie from 0 to 10000.
_BOUNDS = {
    "chroma_port": (1, 65535),
    "chroma_proof_memory_mb": (128, 1_000_000),
    "backup_retention_days": (0, 36500),
    "keep_minimum": (1, 1000),
    "archive_retention_years": (1, 100),
    "smtp_port": (1, 65535),
    "slack_attach_max_mb": (1, 1000),
    "alert_reminder_hours": (1, 720),
    "alert_run_hours": (1, 720),
}


def _allowed(text: str, *, default: Any, alias: str) -> Any:
    return Field(default=default, validation_alias=alias, description=text)


def listed(text: str) -> tuple[str, ...]:
    """The names in a list that is separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _value(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
