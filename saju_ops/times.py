"""Times as operators write and read them: in TIMEZONE, as they stand in the names of backups."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from saju_ops.errors import Refused


def shown(instant: datetime, zone: ZoneInfo) -> str:
    """`2026-10-01 03:00:00 KST`; without the zone's name, what `--at` takes."""
    return f"{instant.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def instant_of(text: str | None, zone: ZoneInfo, name: str) -> datetime | None:
    """`2026-10-01` (the end of that day), `2026-10-01 03:30` or with seconds, in `zone` unless it names another."""
    if text is None or not text.strip():
        return None
    given = text.strip()
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise Refused(
            f"{name} is {text!r}; it may be a date and time as YYYY-MM-DD or YYYY-MM-DD HH:MM. Nothing was touched."
        ) from None
    if len(given) <= len("2026-10-01"):
        found = found.replace(hour=23, minute=59, second=59, microsecond=999_999)
    elif len(given) == len("2026-10-01 03:00"):
        found = found.replace(second=59, microsecond=999_999)  # that minute included
    elif len(given) == len("2026-10-01 03:00:00"):
        found = found.replace(microsecond=999_999)  # that second, as `shown` tells it
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
