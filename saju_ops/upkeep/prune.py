"""Which old backups go, and their deletion: small, separate and easy to review.

Promises: a backup is deleted only if the policy allows it and a newer proven one of the same kind and database is
really there, in every store, read back and equal to its manifest in that same run. The newest `minimum` proven ones are
never deleted. What is not proven, or only says so of itself (`ledger`), counts for nothing when others are judged. The
manifest is deleted first and then the file, so that a killed deletion leaves a file without a manifest, which is no
backup for anyone, and which the next run removes.

Refuses: an empty policy, and to delete anything it doesn't know by its name. Conversation-log archives stay for ever
unless ARCHIVE_RETENTION_YEARS says otherwise. Reports (`reports/`) are deleted after REPORT_DAYS, but never the newest
ones of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from itertools import takewhile
from typing import get_args
from zoneinfo import ZoneInfo

from saju_ops.errors import Busy, OperatorError, ProofFailed, shown
from saju_ops.local_state import one_at_a_time
from saju_ops.storage.manifest import (
    FOLDERS,
    Kind,
    manifest_name,
    read_manifest,
)
from saju_ops.storage.open import Storage
from saju_ops.storage.stored_reports import StoredReport, stored_reports
from saju_ops.upkeep.inventory import STRAY_AGE, inventory
from saju_ops.upkeep.password import require_sound
from saju_ops.upkeep.policy import Held, Policy, Verdict, judge, years_after
from saju_ops.words import counted, were

KINDS: tuple[Kind, ...] = get_args(Kind)
# As many newest backups of a database, over that time, that are not proven are no chance.
UNPROVEN, UNPROVEN_AGE = 3, timedelta(days=2)
# Days that reports are kept: a year, and the month of a year ago beside this one. NEWEST_REPORTS of each are never
# deleted, whatever the clock says.
REPORT_DAYS, NEWEST_REPORTS = 400, 30
# A clock that is further ahead of the newest archived day than this is not believed: archives are the only copy.
LONGEST_IDLE = timedelta(days=366)


@dataclass
class PruneResult:
    dry_run: bool
    verdicts: list[Verdict] = field(default_factory=list)
    strays: list[Verdict] = field(default_factory=list)
    archives: list[Verdict] = field(default_factory=list)
    reports: list[Verdict] = field(default_factory=list)
    # Names that no rule knows, and manifests that can't be read: reported, never touched.
    strangers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    remains: str = ""

    @property
    def going(self) -> list[Verdict]:
        return [v for v in [*self.verdicts, *self.strays, *self.archives, *self.reports] if v.to_delete]

    @property
    def staying(self) -> list[Verdict]:
        return [v for v in [*self.verdicts, *self.strays, *self.archives] if not v.to_delete]


# --- judging: pure ---------------------------------------------------------------------------------------------


# --- looking ---------------------------------------------------------------------------------------------------


# --- deleting --------------------------------------------------------------------------------------------------


def prune(
    storage: Storage,
    policy: Policy,
    *,
    now: datetime,
    zone: ZoneInfo,
    dry_run: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> PruneResult:
    """Deletes in every store what the policy doesn't keep; with `dry_run` only says what would be deleted, and why each
    of the others is kept.

    Raises Refused for an empty policy. A kind that a run is writing right now, and a database whose newest backup can't
    be proven any more, are left whole and named in `problems`.
    """
    policy.require()
    result = PruneResult(dry_run, remains=storage.remains())
    for kind in KINDS:
        try:
            with ExitStack() as locks:
                if not dry_run:
                    locks.enter_context(one_at_a_time(lock_of(storage, kind)))
                _prune_kind(storage, kind, policy, now, zone=zone, result=result, say=say)
        except (Busy, ProofFailed) as error:
            result.problems.append(f"{kind}: {error}")
    if policy.archive_years is not None:
        _prune_archives(storage, policy.archive_years, now, zone, result, say)
    _prune_reports(storage, now, zone, result, say)
    return result


def lock_of(storage: Storage, kind: Kind) -> str:
    """The lock under which backups of the kind are written on this machine."""
    return f"snapshots in {storage.uri}" if kind == "chroma_snapshot" else f"dumps in {storage.uri}{FOLDERS[kind]}"


def _prune_kind(
    storage: Storage, kind: Kind, policy: Policy, now: datetime, zone: ZoneInfo, result: PruneResult,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    found = inventory(storage, kind, zone)
    result.strangers += found.strangers
    for label in sorted({h.label for h in found.held}):
        group = [h for h in found.held if h.label == label]
        verdicts = judge(group, policy, now, zone)
        result.problems += unproven_for_nights(kind, label, group, now, zone)
        if any(v.to_delete for v in verdicts):
            verdicts = _relied_on(storage, kind, label, [h for h in group if h.taken <= now], verdicts, result)
        result.verdicts += verdicts
        for verdict in (v for v in verdicts if v.to_delete):
            _delete(storage, [manifest_name(verdict.file), verdict.file], verdict, result, say)
    for name, at, size in found.strays:
        old = now - at > STRAY_AGE
        why = "it has no manifest, and is older than a day" if old else "it has no manifest; it is not a day old"
        verdict = Verdict(name, size, at, old, why)
        result.strays.append(verdict)
        if old:
            _delete(storage, [name], verdict, result, say)


def unproven_for_nights(kind: Kind, label: str, group: Sequence[Held], now: datetime, zone: ZoneInfo) -> list[str]:
    """A sentence if the newest backups of a database are not proven, night after night: they justify no deletion, so
    its backups become more and more, and no new one can be relied on."""
    newest_first = sorted((h for h in group if h.taken <= now), key=lambda h: h.taken, reverse=True)
    unproven = list(takewhile(lambda h: not h.proven, newest_first))
    if len(unproven) < UNPROVEN or now - unproven[-1].taken < UNPROVEN_AGE:
        return []
    why = f" The newest: {shown(unproven[0].why_not)}" if unproven[0].why_not else ""
    return [
        f"{kind} {label}: none of the newest {counted(len(unproven), 'backup')} is proven, since"
        f" {unproven[-1].taken.astimezone(zone):%Y-%m-%d}."
        f" No older one is deleted for their sake, and `restore` takes none of them by itself.{why}"
    ]


def _relied_on(
    storage: Storage, kind: Kind, label: str, group: Sequence[Held], verdicts: list[Verdict], result: PruneResult
) -> list[Verdict]:
    """Reads the newest good backup back in every store, since older ones are deleted only because it exists. If it is
    not what its manifest says, no backup of its database is deleted."""
    newest = max((h for h in group if h.good), key=lambda h: (h.taken, h.file))
    try:
        for store in storage.copies():
            manifest = read_manifest(store, manifest_name(newest.file), untouched=True)
            if manifest.taken != newest.taken:
                raise ProofFailed(f"{store.location(manifest.name)} has another time than its other copy.")
            require_sound(store, manifest)
    except OperatorError as error:
        result.problems.append(f"{kind} {label}: nothing was deleted, since its newest backup fails: {error}")
        return [
            replace(v, to_delete=False, why="the newest backup can't be proven") if v.to_delete else v for v in verdicts
        ]
    return verdicts


def _delete(
    storage: Storage, names: Sequence[str], verdict: Verdict, result: PruneResult, say: Callable[[str], None]
) -> None:
    """In the order given: the manifest first. What is left of a killed deletion never counts as a backup."""
    if result.dry_run:
        return
    try:
        # Name by name through all stores: as long as any has the manifest and the file, it is whole there.
        for name in names:
            for store in storage.copies():
                store.delete(name)
    except OperatorError as error:
        result.problems.append(f"{verdict.file} was not deleted everywhere: {error}")
        return
    result.deleted.append(verdict.file)
    result.freed_bytes += verdict.bytes
    say(f"Deleted {verdict.file}: {verdict.why}.")


# --- archives of the conversation log ----------------------------------------------------------------------------


def _prune_archives(
    storage: Storage, years: int, now: datetime, zone: ZoneInfo, result: PruneResult, say: Callable[[str], None]
) -> None:
    from saju_ops.archive.manifest import archived_days, day_files
    from saju_ops.archive.manifest import manifest_name as day_manifest
    from saju_ops.rows.days import parse_day

    days = [parse_day(f"{s[:4]}-{s[4:6]}-{s[6:]}", zone) for s in archived_days(storage)]
    due = [day for day in days if years_after(day.end, years) <= now]
    newest = max(days, key=lambda d: d.end, default=None)
    if due and newest is not None and now - newest.end > LONGEST_IDLE:
        result.problems.append(
            f"{counted(len(due), 'archived day')} older than {counted(years, 'year')} {were(len(due))} left: it is"
            f" {now:%Y-%m-%d} by this machine's"
            f" clock, and the newest archived day is {newest}. Either the clock is wrong, or nothing was archived for a"
            " year."
        )
        return
    for day in due:
        try:
            parts = day_files(storage, day).parts
        except (OperatorError, OSError) as error:
            why = error if isinstance(error, OperatorError) else error.strerror or type(error).__name__
            result.problems.append(f"The archive of {day} was left: {why}")
            continue
        # The oldest part first: left alone by a kill, it would bring back rows as they were before they changed.
        for part in sorted(parts, key=lambda p: p.part):
            verdict = Verdict(part.file, part.stored_bytes, day.start, True, f"older than {counted(years, 'year')}")
            result.archives.append(verdict)
            _delete(storage, [day_manifest(day, part.part), part.file], verdict, result, say)


# --- reports -----------------------------------------------------------------------------------------------------


def _prune_reports(
    storage: Storage, now: datetime, zone: ZoneInfo, result: PruneResult, say: Callable[[str], None]
) -> None:
    oldest = now.astimezone(zone).date() - timedelta(days=REPORT_DAYS)
    there: dict[str, list[StoredReport]] = {}
    for stored in stored_reports(storage):
        there.setdefault(stored.report, []).append(stored)
    for found in there.values():
        newest_first = sorted(found, key=lambda s: (s.day, s.number), reverse=True)
        for stored in (s for s in newest_first[NEWEST_REPORTS:] if s.day < oldest):
            taken = datetime.combine(stored.day, time(), zone)
            verdict = Verdict(stored.file, _size(storage, stored.file), taken, True, f"older than {REPORT_DAYS} days")
            result.reports.append(verdict)
            _delete(storage, [stored.manifest, stored.file], verdict, result, say)


def _size(storage: Storage, name: str) -> int:
    try:
        return storage.size(name)
    except (OperatorError, OSError):
        return 0
