"""What a value of one setting may be, where that takes more than a range: cron lines, e-mail addresses, time zones and
lists of database addresses. Each raises ValueError with the reason; none shows the value, which may hold a secret."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import available_timezones

from saju_ops.database.address import parse_database_url

# Listed among the zones and none: this machine's own, and the one of a machine that was never set up.
NO_ZONES = {"localtime", "Factory", "posixrules", "posix", "right"}
# By field of a cron line: its name and the longest step that reaches a second value.
STEPS = {"minutes": 59, "hours": 23, "days of the month": 31, "months": 12, "days of the week": 7}
_MAIL = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_NAMED_MAIL = re.compile(rf"[^<>@,;]*<({_MAIL.pattern})>")


def require_zone(name: str) -> None:
    if name not in available_timezones():
        raise ValueError("no such time zone is known")
    if name in NO_ZONES:
        raise ValueError("that is no zone of a place: its days begin wherever this machine was set up to think")


def require_cron(line: str) -> None:
    from cronsim import CronSim, CronSimError

    # CronSim takes a sixth field for seconds, which Dagster doesn't.
    if len(line.split()) != 5:
        raise ValueError("not a cron line: Wrong number of fields")
    _, _, monthday, _, weekday = line.upper().split()
    if "LW" in monthday or any(part.endswith("L") for part in weekday.split(",")):
        # CronSim knows "the last Friday" and "the last weekday", which Dagster doesn't either.
        raise ValueError("not a cron line: L is for the last day of the month alone")
    for field, (name, longest) in zip(line.split(), STEPS.items(), strict=True):
        for step in re.findall(r"/(\d+)", field):
            if int(step) > longest:
                raise ValueError(f"not a cron line: no {name} are {step} apart")
    try:
        CronSim(line, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"not a cron line: {error}") from None


def require_mail_addresses(text: str, *, one: bool = False) -> None:
    """`name@place` or `Words <name@place>`, several with commas between them."""
    found = [each.strip() for each in text.split(",")]
    if one and len(found) > 1:
        raise ValueError("it may be one address")
    for each in found:
        if not each.isascii() or not (_MAIL.fullmatch(each) or _NAMED_MAIL.fullmatch(each)):
            raise ValueError("not an e-mail address")


def listed_addresses(text: str) -> list[str]:
    """Database addresses that are separated by blanks; each can be read, and says one database."""
    found = text.split()
    for each in found:
        if each.endswith((",", ";")) or re.search(r"[,;][A-Za-z][\w+.-]*://", each):
            raise ValueError("addresses are separated by blanks here, not by commas or semicolons")
        parse_database_url(each)
    return found
