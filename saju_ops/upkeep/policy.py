"""Which backups are kept, and why: a pure decision."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from saju_ops.errors import Refused
from saju_ops.storage.manifest import Kind
from saju_ops.words import counted

# `app_20261001_030000.sql.gz`, and nothing that somebody put there.
OURS = re.compile(r"(?P<label>.+)_(?P<stamp>\d{8}_\d{6})(?P<ending>\.(?:sql|tar|sqlite|db|dump|custom)\S*)?")


@dataclass(frozen=True)
class Policy:
    """What is kept. Days are counted back from now; days, weeks and months are those of `zone`."""

    days: int
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    minimum: int = 3
    archive_years: int | None = None

    def require(self) -> None:
        """Raises Refused for a policy that keeps nothing."""
        if min(self.days, self.daily, self.weekly, self.monthly) < 0 or self.minimum < 1:
            raise Refused("A retention can't be negative, and KEEP_MINIMUM is at least 1. Nothing was deleted.")
        if not (self.days or self.daily or self.weekly or self.monthly):
            raise Refused(
                "The retention policy is empty: BACKUP_RETENTION_DAYS, BACKUP_KEEP_DAILY, BACKUP_KEEP_WEEKLY and"
                " BACKUP_KEEP_MONTHLY are all 0. Nothing was deleted; set one of them."
            )


@dataclass(frozen=True)
class Held:
    """One backup as the stores have it: its manifest, and whether every store has manifest and whole file."""

    kind: Kind
    file: str
    taken: datetime
    bytes: int
    proven: bool
    everywhere: bool
    # Whether that it is proven is this installation's own word: a key of ours sealed it, or the ledger has it.
    ours: bool = True
    # Why it isn't proven.
    why_not: str = ""

    @property
    def label(self) -> str:
        """Which database it is of; each has its own retention."""
        match = OURS.fullmatch(self.file.rpartition("/")[2])
        return match["label"] if match else self.file

    @property
    def good(self) -> bool:
        return self.proven and self.everywhere and self.ours


@dataclass(frozen=True)
class Verdict:
    file: str
    bytes: int
    taken: datetime | None
    to_delete: bool
    why: str


def judge(held: Sequence[Held], policy: Policy, now: datetime, zone: ZoneInfo) -> list[Verdict]:
    """Which backups of one kind and database are deleted, and why each of the others is kept; the newest first."""
    policy.require()
    newest_first = sorted(held, key=lambda h: (h.taken, h.file), reverse=True)
    # A backup from the future was taken by a wrong clock: its age is unknown, so it justifies no deletion.
    good = [h for h in newest_first if h.good and h.taken <= now]
    reasons = _kept_by_bucket(good, policy, zone)
    for h in good[: policy.minimum]:
        reasons.setdefault(h.file, f"one of the newest {policy.minimum} proven ones")
    return [_verdict(h, good, reasons.get(h.file), policy, now) for h in newest_first]


def _newer(h: Held, good: Sequence[Held]) -> int:
    return sum(g.taken > h.taken for g in good)


def _verdict(h: Held, good: Sequence[Held], reason: str | None, policy: Policy, now: datetime) -> Verdict:
    to_delete, why = False, reason or ""
    age = now - h.taken
    if h.taken > now:
        why = "its time is in the future"
    elif policy.days and age < timedelta(days=policy.days):
        why = f"younger than {counted(policy.days, 'day')}"
    elif not reason:
        newer = _newer(h, good)
        if not newer:
            why = "no newer proven backup is there"
        elif h.proven and not h.ours and newer < policy.minimum:
            # Taken before there was a ledger, or by somebody else: its word alone makes it none of the newest.
            proven = counted(newer, "newer one")
            why = f"this installation has no record of its proof, and has proven only {proven} itself"
        else:
            to_delete = True
            why = f"{counted(age.days, 'day')} old" + _weakness(h)
    return Verdict(h.file, h.bytes, h.taken, to_delete, why)


def _weakness(h: Held) -> str:
    if not h.proven:
        return ", and never proven"
    if not h.ours:
        return ", and this installation has no record of its proof"
    return "" if h.everywhere else ", and not whole in every store"


def _kept_by_bucket(good: Sequence[Held], policy: Policy, zone: ZoneInfo) -> dict[str, str]:
    """The newest of each of the last so many days, weeks and months that have one."""
    found: dict[str, str] = {}
    buckets: list[tuple[int, str, Callable[[datetime], object]]] = [
        (policy.daily, "day", lambda t: t.date()),
        (policy.weekly, "week", lambda t: t.isocalendar()[:2]),
        (policy.monthly, "month", lambda t: (t.year, t.month)),
    ]
    for number, name, bucket in buckets:
        seen: set[object] = set()
        for h in good:
            key = bucket(h.taken.astimezone(zone))
            if key not in seen and len(seen) < number:
                seen.add(key)
                found.setdefault(h.file, f"the newest of its {name} ({number} kept)")
    return found


def years_after(instant: datetime, years: int) -> datetime:
    """The same date and time so many years later; 29 February becomes 1 March."""
    try:
        return instant.replace(year=instant.year + years)
    except ValueError:
        return instant.replace(year=instant.year + years, month=3, day=1)
