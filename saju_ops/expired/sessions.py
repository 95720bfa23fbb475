"""Deletes chat sessions that expired long ago, with calculations and analyses, and their keys in Redis.

For every deleted session: its expires_at, and its last_activity if there is such a column, were past by the grace
period under a lock that the deleting transaction still held; every table that references it is listed for deletion; and
each row of the conversation log that is deleted with it is unchanged in a proven archive of a day beyond the retention,
compared under that lock. Deleting two sessions once deleted nine log rows that no archive held: a session with such a
row stays. A log table without a foreign key (a partitioned one) is checked by its column's name just the same. If other
tables hold the session's id without a key, it becomes NULL with the session (`loose.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.bounds import Days, require
from saju_ops.errors import OperatorError, Refused
from saju_ops.errors import shown as shown_name
from saju_ops.expired.batches import (
    DEFAULT_BATCH,
    LOCK_WAIT,
    Batches,
    Limits,
    Outcome,
    open_table,
    settled,
)
from saju_ops.expired.catalogue import shown
from saju_ops.expired.clocks import Clock
from saju_ops.expired.conditions import Identity, bindable, chunks, one_of
from saju_ops.expired.dependents import Hanging
from saju_ops.expired.expiry import Expiry
from saju_ops.expired.foreign_keys import Closure, catalogue_of, child_of, parent_of, require_known, require_seen_whole
from saju_ops.expired.links import linked_closure
from saju_ops.expired.log_guard import LogGuard
from saju_ops.expired.loose import DEFAULT, LooseColumns, loose_columns
from saju_ops.expired.orphans import orphan_rows
from saju_ops.expired.session_cache import FOLDER, CacheDown, SessionCache, forget, remember, remembered
from saju_ops.rows.days import cutoff_day
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.engines.session import broken_off
from saju_ops.rows.table import ForeignKey
from saju_ops.run_control import TO_THE_END, RunControl, Stop
from saju_ops.storage.open import Storage, StorageError
from saju_ops.words import counted, them, were

# The setting's own values, which an installation without such tables needn't change.
MAY_BE_MISSING = ("saju_calculations", "saju_analyses")
# Sessions remembered in one file while their keys leave Redis.
REMEMBERED = 2_000
ARCHIVED_NOT = "a row of its conversation log is not archived as it is now, or not beyond the retention"


@dataclass(frozen=True)
class SessionTables:
    """Which table holds the sessions, which may go with them, and which of those is the conversation log."""

    root: str
    may_go: tuple[str, ...]
    log: str
    # Columns as table.column without a foreign key, in which the id of a session becomes NULL with it.
    cleared: tuple[str, ...] = (DEFAULT,)
    cleared_given: bool = False


def session_limits(
    *, dry_run: bool = True, max_sessions: int | None = None, max_runtime_seconds: float | None = None,
    batch_sessions: int = DEFAULT_BATCH, pause_seconds: float = 0.0,
) -> Limits:  # fmt: skip
    """Raises Refused for values that make no sense, before anything is touched."""
    names = ("max_sessions", "batch_sessions")
    return Limits(dry_run, max_sessions, max_runtime_seconds, batch_sessions, pause_seconds, names)


@dataclass
class SessionPurgeResult(Outcome):
    # Everything that was past at this instant: now less the grace period.
    past: datetime | None = None
    log_rows: int = 0
    # Rows whose column held a session's id without a key, and holds NULL now.
    cleared: Counter[str] = field(default_factory=Counter)
    cache_used: bool = False
    # Sessions whose key Redis was asked to remove, how many keys were there, and how many it still has to be asked for.
    cache_asked: int = 0
    cache_keys: int = 0
    cache_waiting: int = 0
    cache_problem: str = ""

    def shown(self, root: Identity) -> str:
        # A person who knows a session's whole id may speak as its user.
        return _session_id(root)[:8] + "…"


def open_sessions(url: sa.URL, table: str, zone: ZoneInfo) -> RowStore:
    """The table of sessions. `zone` is the zone of times without one. Raises NoSuchTable, Refused, OperatorError."""
    return open_table(url, table, zone, "SESSIONS_TABLE")


def last_use(store: RowStore) -> tuple[str, ...]:
    """The column by which the service says that a session is used, which extends no expires_at. Without a last_activity
    updated_at has to do: it may be renewed by others than the user, and then keeps a session for longer."""
    return next(((name,) for name in ("last_activity", "updated_at") if name in store.table.names), ())


def purge_expired_sessions(
    store: RowStore,
    storage: Storage,
    tables: SessionTables,
    limits: Limits,
    *,
    now: datetime,
    grace_days: int,
    retention_days: int,
    zone: ZoneInfo,
    cache: SessionCache | None = None,
    control: RunControl = TO_THE_END,
    wait: float = LOCK_WAIT,
) -> SessionPurgeResult:
    """Deletes the sessions that were past by `grace_days` at `now`. `zone` is that of the archive's days.

    Raises Refused or Busy before anything is touched, and OperatorError if the database is lost or the list for Redis
    can't be written. If Redis is down, the result says so, and nothing else changes.
    """
    require("grace_days", grace_days, Days)
    work = SessionPurge(
        store, storage, tables, limits, now, past=now - timedelta(days=grace_days), retention_days=retention_days,
        zone=zone, cache=cache, control=control,
    )  # fmt: skip
    with broken_off(work.broken_off):
        work.prepare()
        with store.lock("expired sessions", wait):
            return work.run()


@dataclass
class SessionPurge:
    store: RowStore
    storage: Storage
    tables: SessionTables
    limits: Limits
    now: datetime
    past: datetime
    retention_days: int
    zone: ZoneInfo
    cache: SessionCache | None
    control: RunControl
    guard: LogGuard | None = None
    log_key: ForeignKey | None = None
    gone: list[Identity] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.result = SessionPurgeResult(self.now, self.limits.dry_run, past=self.past)
        self.result.cache_used = self.cache is not None
        self.started = self.control.clock()

    def broken_off(self, text: str) -> str:
        return (
            f"The database broke off the purge of expired sessions ({text}). {counted(self.result.deleted, 'session')}"
            f" {were(self.result.deleted)} deleted before; those at work then are there with all their rows, or gone"
            " with all of them. Launch again to go on."
        )

    # --- before anything is touched ------------------------------------------------------------------------

    def prepare(self) -> None:
        """Reads the catalogue. Raises Refused."""
        self.expiry = Expiry(self.store, self.past, last_use(self.store))
        self.store.require_transactions()
        plain = catalogue_of(self.store).plain
        may_go = tuple(map(plain, self.tables.may_go))
        self.tables = replace(self.tables, may_go=may_go, log=plain(self.tables.log))
        self.store.end_read()
        self.closure: Closure
        self.closure, self.traits = settled(self.store, self._look_at_closure)
        require_known(self.closure, (*self.tables.may_go, self.tables.log), "SESSION_PURGE_TABLES")
        if not self.limits.dry_run:
            require_seen_whole(self.closure)
        clock = Clock(self.store, "DATABASE_TIMEZONE", self.now)
        late = [clock.ahead_sentence(at)] if (at := clock.ahead()) is not None else []
        self.loose: LooseColumns = loose_columns(
            self.store, self.closure, self.tables.cleared, given=self.tables.cleared_given, expiry=self.expiry
        )
        doubts = (*self.closure.doubts, *self.loose.doubts, *late)
        self.result.doubts = (*doubts, *clock.doubts([ZoneInfo("UTC"), self.zone]))
        self._guard()
        self.batches = Batches(
            self.store, self.closure, self.expiry, self.limits, self.result, control=self.control,
            started=self.started, traits=self.traits,
        )  # fmt: skip
        self.store.wait_briefly()

    def _closure(self, *implied: ForeignKey) -> Closure:
        return linked_closure(
            self.store, self.tables.may_go, "SESSION_PURGE_TABLES", may_be_missing=MAY_BE_MISSING, also=implied
        )

    def _look_at_closure(self) -> Closure:
        closure = self._closure()
        implied = self._implied(closure)
        return closure if implied is None else self._closure(implied)

    def _implied(self, closure: Closure) -> ForeignKey | None:
        """The log's reference to its session where no foreign key declares it: by the column's name."""
        log, identity = self.tables.log, closure.tables[closure.root].identity
        if closure.find(log) is not None or not self.store.has_table(log):
            return None
        table = self.store.sibling(log).table
        if not set(identity) <= set(table.names):
            raise Refused(
                f"The table {log} has no foreign key to {self.tables.root} and no column {', '.join(identity)}, so the"
                " log rows of a session can't be found. Nothing was deleted."
            )
        return ForeignKey("by its name", table.name, identity, closure.root[1], identity, "NO ACTION")

    def _guard(self) -> None:
        ref = self.closure.find(self.tables.log)
        if ref is None:
            return
        keys = [k for k in (*self.closure.hard, *self.closure.soft) if child_of(k) == ref]
        (key, *more) = keys
        if ref[0] is not None or more or parent_of(key) != self.closure.root or key in self.closure.soft:
            raise Refused(
                f"The table {shown(ref)} doesn't hang on {self.tables.root} by one foreign key of its own, so which of"
                " its rows go with a session can't be compared with the archive. Nothing was deleted."
            )
        store = self.store.sibling(ref[1])
        store.require_days()
        cutoff = cutoff_day(self.now, self.retention_days, self.zone)
        self.log_key = key
        self.guard = LogGuard(store, self.storage, self.closure, key, zone=self.zone, cutoff=cutoff)

    # --- the run ---------------------------------------------------------------------------------------------

    def run(self) -> SessionPurgeResult:
        try:
            if self.cache is not None and not self.limits.dry_run:
                self._make_good()
            sessions = [session for session, _ in self.batches.candidates()]
            unaltered = self.batches.in_chunks(sessions, REMEMBERED, self._chunk)
        except (StorageError, OSError) as error:
            raise self._storage_failed(error) from error
        if unaltered:
            self.result.problems += list(self.guard.problems.values()) if self.guard is not None else []
            self.result.orphans = orphan_rows(self.store, self._without_log())
        self.result.seconds = self.control.clock() - self.started
        return self.result

    def _without_log(self) -> Closure:
        """The log may have millions of rows, and orphans could be found only by its foreign key."""
        return replace(self.closure, hard=tuple(k for k in self.closure.hard if k is not self.log_key))

    def _storage_failed(self, error: Exception) -> OperatorError:
        why = getattr(error, "strerror", None) or str(error)
        return OperatorError(
            f"{self.storage.uri} can't be written or read ({why})."
            f" {counted(self.result.deleted, 'session')} {were(self.result.deleted)} deleted before that; no other"
            " was touched."
        )

    def _chunk(self, sessions: Sequence[Identity]) -> None:
        self.gone = []
        memory = None
        if self.cache is not None and not self.limits.dry_run:
            # Before the first row is deleted: whatever happens from here on, the next run knows what Redis may hold.
            memory = remember(self.storage, [_session_id(s) for s in sessions], self.now)
        try:
            self.batches.run(sessions, self._batch)
        except Stop:
            self._leave_cache(memory, [_session_id(s) for s in self.gone])
            raise
        self._leave_cache(memory, [_session_id(s) for s in self.gone])

    def _batch(self, sessions: Sequence[Identity]) -> None:
        if self.guard is not None:
            self.guard.prepare(sessions)
        if self.limits.dry_run:
            with self.store.snapshot():
                hanging = self._found(sessions, lock=False)
                log_rows = self._guarded(hanging)
                rows, detached = hanging.counts(), hanging.detachable()
                cleared = self.loose.count(list(hanging.going(self.closure.root)))
        else:
            with self.store.transaction():
                self.traits.hold(list(self.closure.going))
                hanging = self._found(sessions, lock=True)
                log_rows = self._guarded(hanging)
                detached = hanging.detachable()
                going = list(hanging.going(self.closure.root))
                rows = hanging.delete()
                cleared = self.loose.clear(going)
                self._require_only(rows, log_rows)
                self.store.check_now()
                self.traits.look_again()
        self._count(sessions, hanging, log_rows)
        self.result.rows += rows
        self.result.detached += detached
        self.result.cleared += cleared
        self.control.progress(self.result)

    def _found(self, sessions: Sequence[Identity], *, lock: bool) -> Hanging:
        hanging = Hanging(self.store, self.closure, self.expiry, lock=lock, wanted={})
        hanging.collect(sessions)
        return hanging

    def _guarded(self, hanging: Hanging) -> int:
        """Keeps every session with a log row that isn't held; gives how many log rows go with the others."""
        if self.guard is None:
            return 0
        named = self._named(hanging)
        count = self.guard.rows_held([name for _, name in named])
        if count is not None:
            return count
        total = 0
        for owner, name in named:
            count = self.guard.rows_held([name])
            if count is None:
                hanging.keep(owner, ARCHIVED_NOT)
        staying = hanging.staying()
        for owner, name in named:
            if hanging.roots[owner] not in staying:
                total += self.guard.rows_held([name]) or 0
        return total

    def _named(self, hanging: Hanging) -> list[tuple[int, Identity]]:
        """The sessions that go, each as its log rows name it."""
        root, columns = self.closure.root, self.log_key.parent_columns if self.log_key else ()
        return [
            (found.owner, tuple(hanging.cell(root, found, c) for c in columns))
            for found in hanging.going(root).values()
        ]

    def _require_only(self, rows: dict[str, int], log_rows: int) -> None:
        if self.log_key is None:
            return
        log = shown(child_of(self.log_key))
        if rows.get(log, 0) != log_rows:
            raise OperatorError(
                f"{counted(rows.get(log, 0), 'row')} of {log} would have gone where {log_rows} {were(log_rows)}"
                " compared with the archive"
            )

    def _count(self, sessions: Sequence[Identity], hanging: Hanging, log_rows: int) -> None:
        going = hanging.going(self.closure.root)
        self.result.deleted += len(going)
        self.result.log_rows += log_rows
        for session, reason in hanging.staying().items():
            self.result.stay(session, reason)
        self.gone += list(going)
        # Sessions that the database reported as gone already, or that were used again: looked up before Redis is asked.
        self.gone += [s for s in sessions if s not in hanging.rows[self.closure.root]]

    # --- Redis -----------------------------------------------------------------------------------------------

    def _make_good(self) -> None:
        """Keys that earlier runs could not remove from Redis, or were killed before."""
        left: list[str] = []
        for name, session_ids in list(remembered(self.storage, left)):
            self._leave_cache(name, session_ids)
        if left:
            self.result.doubts += (
                f"{counted(len(left), 'file')} under {FOLDER} can't be read, or no key of this installation"
                f" sealed {them(len(left))} (those of before the key are such), and {were(len(left))} left:"
                f" {shown_name(left[0])}. The keys of the sessions that they"
                " name may still be in Redis. A file that an earlier version wrote may be deleted once Redis has let"
                " those keys expire, or they were deleted there by hand.",
            )

    def _leave_cache(self, memory: str | None, session_ids: Sequence[str]) -> None:
        """Asks Redis to remove sessions that the database does not have, and forgets them once it has answered."""
        if self.cache is None or memory is None:
            return
        away = self._away(session_ids)
        if not self.result.cache_problem:
            try:
                self.result.cache_keys += self.cache.remove(away)
                self.result.cache_asked += len(away)
                forget(self.storage, memory)
                return
            except CacheDown as problem:
                self.result.cache_problem = str(problem)
        self.result.cache_waiting += len(away)

    def _away(self, session_ids: Sequence[str]) -> list[str]:
        identity = [self.store.col(c) for c in self.batches.identity]
        if len(identity) != 1 or not session_ids:
            return list(session_ids)
        there: set[str] = set()
        for chunk in chunks([(s,) for s in session_ids]):
            query = sa.select(identity[0]).where(one_of(identity, chunk))
            there |= {str(bindable(row[0])) for row in self.store.connection.execute(query)}
        self.store.end_read()
        return [s for s in session_ids if s not in there]


def _session_id(session: Identity) -> str:
    return "/".join(map(str, session))
