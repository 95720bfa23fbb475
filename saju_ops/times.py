"""Times as operators write and read them: in TIMEZONE, in the form that names of backups use."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
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
        found = found.replace(second=59, microsecond=999_999)  # the whole minute
    elif len(given) == len("2026-10-01 03:00:00"):
        found = found.replace(microsecond=999_999)  # the whole second, which is what `shown` prints
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 1970-01-01, 0001-01-01 and 0000-00-00 mean "no time" in many programs; no such service is that old.
EARLIEST_YEAR = 2000
PLAIN_LENGTHS = (19, 26)
_SLOW = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?)?"
    r"\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?",
    re.IGNORECASE,
)


def parse_instant(value: Any, zone: ZoneInfo) -> datetime | None:
    """The instant, UTC, that a stored value means; None if that is unclear."""
    if type(value) is str and len(value) in PLAIN_LENGTHS and zone.key == "UTC" and value[10] in " T":
        # The form that most programs write, read three times as fast as by the general way.
        with suppress(ValueError):
            found = datetime.fromisoformat(value)
            if found.tzinfo is None and value[4] == "-":
                return found.replace(tzinfo=UTC) if found.year >= EARLIEST_YEAR else None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        parsed = _parsed(text)
        if parsed is None or parsed.year < EARLIEST_YEAR:
            return None
        return _in_utc(parsed, zone)
    except (ValueError, OverflowError):
        return None


def _parsed(text: str) -> datetime | None:
    # fromisoformat alone would read the milliseconds 1712011112345 as a day in the year 1712.
    if len(text) > 10 and text[4] == "-" and text[7] == "-" and text[10] in " T":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    match = _SLOW.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        # A day alone: its last moment, the latest that it can mean.
        hour, minute, second, fraction = "23", "59", "59", "999999"
    iso = f"{year}-{int(month):02}-{int(day):02}T{int(hour):02}:{minute}:{second or '00'}.{fraction or '0'}"
    zone = {"z": "+00:00", "utc": "+00:00", "gmt": "+00:00"}.get((offset or "").lower(), offset or "")
    return datetime.fromisoformat(iso + zone)


def _in_utc(found: datetime, zone: ZoneInfo) -> datetime:
    if found.tzinfo is not None:
        return found.astimezone(UTC)
    if zone.key == "UTC":
        return found.replace(tzinfo=UTC)
    # An hour that the clocks show twice in autumn, or skip in spring, has two readings.
    return max(found.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
