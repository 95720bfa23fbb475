"""Which old backups go, and their deletion: small, separate and easy to review.

Promises: a backup is deleted only if the policy allows it and a newer proven one of the same kind and database is
really there, in every store, read back and equal to its manifest in that same run. The newest `minimum` proven ones are
never deleted. What is not proven, or only says so of itself (`ledger`), counts for nothing when others are judged. The
manifest is deleted first and then the file, so that a killed deletion leaves a file without a manifest, which is no
backup for anyone, and which the next run removes.

Refuses: an empty policy, and to delete anything it doesn't know by its name. Conversation-log archives stay for ever
unless ARCHIVE_RETENTION_YEARS says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import takewhile
from typing import get_args
from zoneinfo import ZoneInfo

from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused, shown
from saju_ops.local_state import one_at_a_time
from saju_ops.settings.settings import Settings
from saju_ops.storage.base import is_name
from saju_ops.storage.ledger import knows
from saju_ops.storage.manifest import (
    ENDING,
    FOLDERS,
    BackupManifest,
    Kind,
    manifest_name,
    manifest_of,
    read_manifest,
)
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import Unsealed, look, read_bounded, require_seal
from saju_ops.upkeep.password import Stored
from saju_ops.words import counted, were

KINDS: tuple[Kind, ...] = get_args(Kind)
# `app_20261001_030000.sql.gz`, and nothing that somebody put there.
OURS = re.compile(r"(?P<label>.+)_(?P<stamp>\d{8}_\d{6})(?P<ending>\.(?:sql|tar|sqlite|db|dump|custom)\S*)?")
STRAY_AGE = timedelta(days=1)
# As many newest backups of a database, over that time, that are not proven are no chance.
UNPROVEN, UNPROVEN_AGE = 3, timedelta(days=2)
# A clock that is further ahead of the newest archived day than this is not believed: archives are the only copy.
LONGEST_IDLE = timedelta(days=366)


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


def policy_of(settings: Settings) -> Policy:
    return Policy(
        days=settings.backup_retention_days, daily=settings.backup_keep_daily, weekly=settings.backup_keep_weekly,
        monthly=settings.backup_keep_monthly, minimum=settings.keep_minimum,
        archive_years=settings.archive_retention_years,
    )  # fmt: skip


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
    # Of one that isn't proven.
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
    goes: bool
    why: str


@dataclass
class PruneResult:
    dry_run: bool
    verdicts: list[Verdict] = field(default_factory=list)
    strays: list[Verdict] = field(default_factory=list)
    archives: list[Verdict] = field(default_factory=list)
    # Names that no rule knows, and manifests that can't be read: reported, never touched.
    strangers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    remains: str = ""

    @property
    def going(self) -> list[Verdict]:
        return [v for v in [*self.verdicts, *self.strays, *self.archives] if v.goes]

    @property
    def staying(self) -> list[Verdict]:
        return [v for v in [*self.verdicts, *self.strays, *self.archives] if not v.goes]


# --- judging: pure ---------------------------------------------------------------------------------------------


def judge(held: Sequence[Held], policy: Policy, now: datetime, zone: ZoneInfo) -> list[Verdict]:
    """What goes and why each stays, of one kind and database; the newest first."""
    policy.require()
    newest_first = sorted(held, key=lambda h: (h.taken, h.file), reverse=True)
    # One from the future was taken by a wrong clock: nobody knows how old it is, so nothing goes for its sake.
    good = [h for h in newest_first if h.good and h.taken <= now]
    reasons = _kept_by_bucket(good, policy, zone)
    for h in good[: policy.minimum]:
        reasons.setdefault(h.file, f"one of the newest {policy.minimum} proven ones")
    return [_verdict(h, good, reasons.get(h.file), policy, now) for h in newest_first]


def _newer(h: Held, good: Sequence[Held]) -> int:
    return sum(g.taken > h.taken for g in good)


def _verdict(h: Held, good: Sequence[Held], reason: str | None, policy: Policy, now: datetime) -> Verdict:
    goes, why = False, reason or ""
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
            goes = True
            why = f"{counted(age.days, 'day')} old" + _weakness(h)
    return Verdict(h.file, h.bytes, h.taken, goes, why)


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


# --- looking ---------------------------------------------------------------------------------------------------


@dataclass
class Inventory:
    """What all stores together have of one kind."""

    held: list[Held] = field(default_factory=list)
    # Files of ours without a manifest, by the time in their name; and what else lies there.
    strays: list[tuple[str, datetime, int]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def inventory(storage: Storage, kind: Kind, zone: ZoneInfo) -> Inventory:
    """Looks at every store. A manifest that can't be read protects its file: that is no stray."""
    told = Inventory()
    stores = list(storage.copies())
    names = [set(store.names(FOLDERS[kind])) for store in stores]
    everything = sorted(set().union(*names))
    described: set[str] = set()
    for name in (n for n in everything if n.endswith(ENDING)):
        manifest, ours, why = _manifest_anywhere(stores, names, name)
        if manifest is None or manifest.kind != kind:
            told.strangers.append(f"{shown(name)} ({why or 'a manifest of another kind'})")
            continue
        described.add(manifest.file)
        whole = all(_whole(s, n, manifest) for s, n in zip(stores, names, strict=True))
        m, why = manifest, "" if manifest.proven else str(manifest.proof.get("why_not") or "")
        told.held.append(Held(kind, m.file, m.taken, m.stored_bytes, m.proven, whole, ours, why))
    for name in (n for n in everything if not n.endswith(ENDING) and n not in described):
        at = stamp_in(name, zone)
        if at is None:
            told.strangers.append(shown(name))
        elif manifest_name(name) not in everything:
            told.strays.append((name, at, _size(stores, name)))
    return told


def stamp_in(name: str, zone: ZoneInfo) -> datetime | None:
    """The time that a backup's name holds; None for a name that is not one of ours."""
    match = OURS.fullmatch(name.rpartition("/")[2])
    if match is None or match["ending"] is None or not name.isprintable() or not is_name(name):
        return None
    try:
        return datetime.strptime(match["stamp"], "%Y%m%d_%H%M%S").replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _manifest_anywhere(
    stores: Sequence[Storage], names: Sequence[set[str]], name: str
) -> tuple[BackupManifest | None, bool, str]:
    """The first copy that is believed, and whether its word is ours; else why none is."""
    why = ""
    for store, there in zip(stores, names, strict=True):
        if name in there:
            try:
                data = read_bounded(store, name)
                manifest = manifest_of(require_seal(data, name, store), name)
            except Unsealed:
                why = "its manifest is not sealed by a key of this installation; see `saju-ops seal`"
            except (OperatorError, OSError):
                why = why or "a manifest that can't be read"
            else:
                return manifest, look(data, name, store).state == "keyed" or knows(manifest), ""
    return None, False, why


def _whole(store: Storage, names: set[str], manifest: BackupManifest) -> bool:
    there = manifest.name in names and manifest.file in names
    return there and store.size(manifest.file) == manifest.stored_bytes


def _size(stores: Iterable[Storage], name: str) -> int:
    for store in stores:
        try:
            return store.size(name)
        except (OperatorError, OSError):
            continue
    return 0


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
    """Deletes what the policy lets go, in every store; with `dry_run` only says what would go and why each stays.

    Raises Refused for an empty policy. A kind that a run is writing right now, and a database whose newest backup
    can't be proven any more, are left whole and named in `problems`.
    """
    policy.require()
    result = PruneResult(dry_run, remains=storage.remains())
    for kind in KINDS:
        try:
            with ExitStack() as locks:
                if not dry_run:
                    locks.enter_context(one_at_a_time(lock_of(storage, kind)))
                _prune_kind(storage, kind, policy, now, zone, result, say)
        except (Busy, ProofFailed) as error:
            result.problems.append(f"{kind}: {error}")
    if policy.archive_years is not None:
        _prune_archives(storage, policy.archive_years, now, zone, result, say)
    return result


def lock_of(storage: Storage, kind: Kind) -> str:
    """The lock under which backups of the kind are written on this machine."""
    return f"snapshots in {storage.uri}" if kind == "chroma_snapshot" else f"dumps in {storage.uri}{FOLDERS[kind]}"


def _prune_kind(
    storage: Storage, kind: Kind, policy: Policy, now: datetime, zone: ZoneInfo, result: PruneResult,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    told = inventory(storage, kind, zone)
    result.strangers += told.strangers
    for label in sorted({h.label for h in told.held}):
        group = [h for h in told.held if h.label == label]
        verdicts = judge(group, policy, now, zone)
        result.problems += unproven_for_nights(kind, label, group, now, zone)
        if any(v.goes for v in verdicts):
            verdicts = _relied_on(storage, kind, label, [h for h in group if h.taken <= now], verdicts, result)
        result.verdicts += verdicts
        for verdict in (v for v in verdicts if v.goes):
            _delete(storage, [manifest_name(verdict.file), verdict.file], verdict, result, say)
    for name, at, size in told.strays:
        old = now - at > STRAY_AGE
        why = "it has no manifest, and is older than a day" if old else "it has no manifest; it is not a day old"
        verdict = Verdict(name, size, at, old, why)
        result.strays.append(verdict)
        if old:
            _delete(storage, [name], verdict, result, say)


def unproven_for_nights(kind: Kind, label: str, group: Sequence[Held], now: datetime, zone: ZoneInfo) -> list[str]:
    """A sentence where the newest backups of a database are not proven, night after night: nothing goes for their sake,
    so its backups become more and more, and none of the new ones may be relied on."""
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
    """The newest good backup, for whose sake others go, is read back in every store. If it is not what its manifest
    says, nothing of its database goes."""
    newest = max((h for h in group if h.good), key=lambda h: (h.taken, h.file))
    try:
        for store in storage.copies():
            manifest = read_manifest(store, manifest_name(newest.file), untouched=True)
            if manifest.taken != newest.taken:
                raise ProofFailed(f"{store.location(manifest.name)} has another time than its other copy.")
            require_sound(store, manifest)
    except OperatorError as error:
        result.problems.append(f"{kind} {label}: nothing was deleted, since its newest backup fails: {error}")
        return [replace(v, goes=False, why="the newest backup can't be proven") if v.goes else v for v in verdicts]
    return verdicts


def require_sound(store: Storage, manifest: Stored) -> int:
    """Reads a stored file back and compares its size and SHA-256 with the manifest. Returns its bytes. Raises
    ProofFailed, naming the file."""
    where, digest, size = store.location(manifest.file), sha256(), 0
    try:
        with store.open(manifest.file) as stream:
            while data := stream.read(1 << 20):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        raise ProofFailed(f"{where} is missing, though its manifest is there.") from None
    except OSError as error:
        raise ProofFailed(f"{where} can't be read ({error.strerror or type(error).__name__}).") from None
    if (size, digest.hexdigest()) != (manifest.stored_bytes, manifest.stored_sha256):
        raise ProofFailed(f"{where} is damaged: its SHA-256 or size differs from the manifest.")
    return size


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


def years_after(instant: datetime, years: int) -> datetime:
    """The same date and time so many years later; 29 February becomes 1 March."""
    try:
        return instant.replace(year=instant.year + years)
    except ValueError:
        return instant.replace(year=instant.year + years, month=3, day=1)
