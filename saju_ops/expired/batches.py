"""What the purges of expired jobs and sessions have in common: which are due, limits, and batches that are halved until
the one row is found that the database refuses to delete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.deleting import is_lock_conflict
from saju_ops.bounds import BatchRoots, Most, PauseSeconds, RuntimeSeconds, require_bounds
from saju_ops.database.connect import error_text, redacted
from saju_ops.errors import OperatorError, Refused
from saju_ops.expired.catalogue import shown
from saju_ops.expired.conditions import Identity, bindable
from saju_ops.expired.expiry import COLUMN, Expiry
from saju_ops.expired.foreign_keys import Closure
from saju_ops.rows.engines.base import WRONG_KEYS
from saju_ops.rows.engines.interface import NoSuchTable
from saju_ops.rows.engines.open import RowStore, open_row_store
from saju_ops.rows.traits import Altered, Traits
from saju_ops.run_control import RunControl, Stop

T = TypeVar("T")
LOCK_WAIT = 10.0
# 250 jobs of four files are one request to S3; their rows are locked for as long as it takes.
DEFAULT_BATCH = 250
# Rows looked at in one run; the rest are the next run's.
CANDIDATES = 200_000
NAMED = 20
TRIES = 3


@dataclass(frozen=True)
class Limits:
    """The limits of a run. Raises Refused for values that make no sense, before anything is touched."""

    dry_run: bool = True
    # Roots (jobs, sessions) to delete at most.
    most: Most | None = None
    max_runtime_seconds: RuntimeSeconds | None = None
    batch: BatchRoots = DEFAULT_BATCH
    pause_seconds: PauseSeconds = 0.0
    # What the operator knows `most` and `batch` as.
    names: tuple[str, str] = ("max_jobs", "batch_jobs")

    def __post_init__(self) -> None:
        require_bounds(self, dict(zip(("most", "batch"), self.names, strict=True)))


@dataclass
class Outcome:
    """What went and what stayed, of jobs as of sessions."""

    now: datetime
    dry_run: bool
    expired: int = 0
    # Roots deleted; with dry_run those that would be.
    deleted: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    # Rows that stay and lost their reference (ON DELETE SET NULL).
    detached: Counter[str] = field(default_factory=Counter)
    stayed: Counter[str] = field(default_factory=Counter)
    # The first of them, with the reason.
    stayed_named: list[tuple[str, str]] = field(default_factory=list)
    # Rows whose expires_at isn't clearly a time; they never expire.
    unreadable: int = 0
    orphans: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    doubts: tuple[str, ...] = ()
    batches: int = 0
    seconds: float = 0.0
    stopped: str = "finished"

    @property
    def finished(self) -> bool:
        return self.stopped == "finished"

    def stay(self, root: Identity, reason: str) -> None:
        self.stayed[reason] += 1
        if len(self.stayed_named) < NAMED:
            self.stayed_named.append((self.shown(root), reason))

    def shown(self, root: Identity) -> str:
        """As reports may name it."""
        return name_of(root)


class AlteredStop(Stop):
    """Somebody altered a table that the run deletes from."""


def settled(store: RowStore, look: Callable[[], Closure]) -> tuple[Closure, Traits]:
    """The tables that reference the store's table, and the traits of all of them at that time. Every batch compares
    them again, under its locks. Raises Refused."""
    closure = look()
    for _ in range(TRIES):
        traits = Traits(store, closure.tables)
        store.end_read()
        again = look()
        if again == closure:
            store.pass_over_wrong_keys([name for _, name in closure.tables])
            return closure, traits
        closure = again
    raise Refused(
        f"Tables that hang on {shown(closure.root)} are being altered. Nothing was deleted; launch again when that has"
        " ended."
    )


def open_table(url: sa.URL, table: str, zone: ZoneInfo, setting: str) -> RowStore:
    """`zone` is the zone of times without one. Raises NoSuchTable, Refused, OperatorError."""
    try:
        return open_row_store(url, table, zone)
    except NoSuchTable:
        raise NoSuchTable(
            f"{setting} holds {table!r}, but the database {redacted(url)} has no such table. Nothing was done."
        ) from None


def missing_table(url: sa.URL, table: str, zone: ZoneInfo, setting: str) -> str | None:
    """The reason why there is nothing to purge, as a sentence: no such table, or a table that doesn't expire. None if
    there is such a table, and also if the database doesn't answer: the run itself reports that, loudly."""
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return f"There is no database {redacted(url)}."
    try:
        with open_table(url, table, zone, setting) as store:
            return None if COLUMN in store.table.names else f"The table {table} has no column {COLUMN}."
    except NoSuchTable as error:
        return str(error)
    except OperatorError:
        return None


@dataclass
class Batches:
    """The rows of one root table, batch by batch. `work` does one batch, as a whole or not at all."""

    store: RowStore
    closure: Closure
    expiry: Expiry
    limits: Limits
    result: Outcome
    control: RunControl
    started: float
    traits: Traits
    all_looked_at: bool = True

    def __post_init__(self) -> None:
        if not self.store.enforces_keys:
            self.result.doubts = (*self.result.doubts, WRONG_KEYS)

    @property
    def identity(self) -> tuple[str, ...]:
        return self.closure.tables[self.closure.root].identity

    def candidates(self) -> list[tuple[Identity, datetime]]:
        """Expired roots, those that expired first at the head, each with its instant. Counts the unreadable."""
        identity = [self.store.col(c).label(f"c{i}") for i, c in enumerate(self.identity)]
        query = sa.select(*identity, *self.expiry.shown()).select_from(self.store.from_)
        query = query.where(*self.expiry.conditions()).order_by(self.expiry.column).limit(CANDIDATES)
        found = []
        rows = self.store.connection.execute(query).all()
        self.all_looked_at = len(rows) < CANDIDATES
        for row in rows:
            own, times = row[: len(identity)], row[len(identity) :]
            past = self.expiry.is_past(times)
            self.result.unreadable += past is None
            if past:
                found.append((tuple(map(bindable, own)), self.expiry.instant(times) or self.result.now))
        if self.store.table.engine != "sqlite":
            unreadable = sa.select(sa.func.count()).select_from(self.store.from_).where(*self.expiry.unreadable())
            self.result.unreadable = int(self.store.connection.execute(unreadable).scalar_one())
        self.store.end_read()
        self.result.expired = len(found)
        return found

    def in_chunks(self, roots: Sequence[T], size: int, work: Callable[[Sequence[T]], None]) -> bool:
        """All of them, as long as limits allow; why it ended is in the result. False where somebody altered a table:
        then nothing more is to be asked of it."""
        try:
            while roots:
                self.check_limits()
                some = min(size, self.left() or size)
                work(roots[:some])
                roots = roots[some:]
            self.require_all()
        except Stop as stop:
            self.result.stopped = str(stop)
            return not isinstance(stop, AlteredStop)
        return True

    def run(self, roots: Sequence[Identity], work: Callable[[Sequence[Identity]], None]) -> None:
        """Raises Stop at a limit, and DBAPIError where the connection is lost."""
        while roots:
            self.check_limits()
            size = min(self.limits.batch, self.left() or self.limits.batch)
            self._halving(roots[:size], work)
            roots = roots[size:]
            self.result.batches += 1
            if self.limits.pause_seconds and not self.limits.dry_run:
                self.control.sleep(self.limits.pause_seconds)

    def _halving(self, roots: Sequence[Identity], work: Callable[[Sequence[Identity]], None]) -> None:
        reason = self._try(roots, work)
        if reason is None:
            return
        self.store.end_read()
        if len(roots) == 1:
            self.result.stay(roots[0], reason)
            return
        half = len(roots) // 2
        self._halving(roots[:half], work)
        self._halving(roots[half:], work)

    def _try(self, roots: Sequence[Identity], work: Callable[[Sequence[Identity]], None]) -> str | None:
        """Why it could not be done; None where it was."""
        for attempt in range(TRIES):
            try:
                work(roots)
                return None
            except Altered as altered:
                raise self._altered(str(altered)) from None
            except sa.exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise
                self.stop_if_altered(error)
                if is_lock_conflict(error) and self.store.table.engine == "sqlite":
                    # The whole file is somebody's, and was waited for long enough: the halves would wait again.
                    raise Stop(f"the database was locked by others ({error_text(error)})") from None
                if not _is_deadlock(error) or attempt == TRIES - 1:
                    return f"the database refused ({error_text(error)})"
                self.store.end_read()
                self.control.sleep(0.2 * 2**attempt)
            except OperatorError as error:
                return str(error)
        return None

    def stop_if_altered(self, error: sa.exc.DBAPIError) -> None:
        """For an error such as that of a column that is there no more. Raises Stop."""
        if is_lock_conflict(error):
            return
        self.store.end_read()
        what = self.traits.changed()
        self.store.end_read()
        if what:
            raise self._altered(what)

    def _altered(self, what: str) -> AlteredStop:
        """Counts as a problem, too."""
        sentence = (
            f"tables were altered since the run began: {what}. {self.result.deleted} of {shown(self.closure.root)} were"
            " deleted before, with all that hangs on them; all others are untouched. Launch again: the next run looks"
            " at the tables anew, and archives anew what is to be kept"
        )
        self.result.problems.append(f"{sentence[0].upper()}{sentence[1:]}.")
        return AlteredStop(sentence)

    def require_all(self) -> None:
        """Raises Stop where more have expired than one run looks at."""
        if not self.all_looked_at:
            raise Stop(f"the first {CANDIDATES} expired ones were looked at")

    def left(self) -> int | None:
        return None if self.limits.most is None else self.limits.most - self.result.deleted

    def check_limits(self) -> None:
        self.control.check()
        left = self.left()
        if left is not None and left <= 0:
            raise Stop(f"{self.limits.names[0]} ({self.limits.most}) reached")
        self.control.check_runtime(self.started, self.limits.max_runtime_seconds)


def _is_deadlock(error: sa.exc.DBAPIError) -> bool:
    """Whether the same may go through in a moment. A row that somebody holds was waited for already."""
    code = getattr(error.orig, "args", (None,))[0]
    return code == 1213 or getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


def name_of(root: Identity) -> str:
    return "/".join(v.hex() if isinstance(v, bytes) else str(v) for v in root)
