"""Settles analysis jobs that a crash left in pending or processing.

Promises: a job is stale when neither it nor any of its results moved for N hours, by every time column that both
tables have; one that moved N hours ago to the second is not. A stale job of whose files some or all have results
becomes `completed`, one without any STALE_JOB_EMPTY_STATUS. Only `status` of `analysis_jobs` is changed, in short
transactions, each of which locks its jobs, looks at them and their results again, and leaves alone whatever is no
longer as it was seen. What is about to change is written under BACKUP_URI first, from which `undo` puts it back.
The run can be killed at any instruction and launched again.

Refuses to change anything when the column can't hold the new status, and to judge a job by a time that it
can't read or that lies ahead: such jobs are named and left alone. `check` and `stats` change nothing, neither in
the database nor in its files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.stale import status_check as stale_holds
from saju_ops.stale.audit import (
    Audit,
    Batch,
    Spool,
    StaleJob,
    check_run_id,
    key_from_json,
    key_shown,
    key_to_json,
)
from saju_ops.stale.connections import NoTables, Undecodable, data_version, errors_told, read_write, reading
from saju_ops.stale.moments import fate
from saju_ops.stale.tables import COMPLETED, OPEN, Files, OpenJob, Tables, normal, same_case
from saju_ops.storage.open import Storage
from saju_ops.words import counted, were

T = TypeVar("T")
Mode = Literal["check", "apply", "stats"]
MIN_HOURS, MAX_HOURS = 1, 87_600
OLD = timedelta(days=7)
# Jobs per transaction: 10 ms on SQLite with ten results each. Without an index on the results each transaction
# walks through all of them, so there are as few as possible.
BATCH_JOBS, UNINDEXED_BATCH_JOBS = 1_000, 20_000
# Transactions per part of the audit: two files for every 10,000 jobs.
PART_BATCHES = 10
# Jobs that can't be judged which a result names; the others are counted.
ODD_NAMED = 100
SCAN_TRIES = 3
FINISHED = "finished"


@dataclass(frozen=True)
class StalePlan:
    mode: Mode = "check"
    # Hours without a move after which a job is stale, 1 to 87600.
    hours: int = 24
    # With mode apply: list what would be changed, change nothing.
    dry_run: bool = True
    # What becomes of a job none of whose files has a result.
    empty_status: str = "failed"
    run_id: str = ""

    @property
    def changes(self) -> bool:
        return self.mode == "apply" and not self.dry_run

    def check(self) -> None:
        """Raises Refused, naming what is wrong."""
        if self.mode not in ("check", "apply", "stats"):
            raise Refused(f"mode is {self.mode!r}; it may be check, apply or stats. Nothing was touched.")
        if not MIN_HOURS <= self.hours <= MAX_HOURS:
            raise Refused(
                f"hours is {self.hours}; it may be a whole number from {MIN_HOURS} to {MAX_HOURS}. Nothing was touched."
            )
        if not normal(self.empty_status) or normal(self.empty_status) in OPEN:
            raise Refused(
                f"STALE_JOB_EMPTY_STATUS is {self.empty_status!r}; it may be any status but"
                f" {' and '.join(OPEN)}, in which a job would stay stale. Nothing was touched."
            )
        if self.changes:
            check_run_id(self.run_id)


@dataclass(frozen=True)
class OddJob:
    """An open job that can't be judged, and is left alone."""

    job_id: str
    status: str
    # "unreadable", "future" or "key".
    why: str
    column: str


@dataclass
class StaleResult:
    mode: Mode
    dry_run: bool
    hours: int
    empty_status: str
    at: datetime
    run_id: str
    database: str = ""
    # Jobs per status before anything was changed, in small letters; pending, processing and completed always.
    statuses: dict[str, int] = field(default_factory=dict)
    older_than_7_days: int = 0
    jobs: Spool[StaleJob] = field(default_factory=Spool)
    # A few of them for each status that would be written.
    samples: dict[str, list[StaleJob]] = field(default_factory=dict)
    to_complete: int = 0
    to_complete_partly: int = 0
    to_empty: int = 0
    odd_count: int = 0
    odd: list[OddJob] = field(default_factory=list)
    # The columns by which jobs were judged.
    evidence: list[str] = field(default_factory=list)
    results_indexed: bool = True
    # What would stop an apply, as far as a look can tell.
    hindrances: list[str] = field(default_factory=list)
    settled_completed: int = 0
    settled_partly: int = 0
    settled_empty: int = 0
    # Stale when they were listed, and no longer as they were seen, or locked, when their turn came.
    left_moved: int = 0
    transactions: int = 0
    audit_files: list[str] = field(default_factory=list)
    stopped: str = FINISHED
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.statuses.values())

    @property
    def stale(self) -> int:
        return len(self.jobs)

    @property
    def settled(self) -> int:
        return self.settled_completed + self.settled_empty

    @property
    def moves_are_seen(self) -> bool:
        """Whether anything but the time of creation tells that a job is still worked on."""
        return any(not e.endswith("analysis_jobs.created_at") for e in self.evidence)


ShouldStop = Callable[[], str | None]


def reconcile(
    url: sa.URL,
    storage: Storage | None,
    plan: StalePlan,
    *,
    now: datetime,
    zone_of_database: ZoneInfo,
    zone: ZoneInfo,
    busy_seconds: float | None = None,
    should_stop: ShouldStop = lambda: None,
    progress: Callable[[StaleResult], None] = lambda result: None,
) -> StaleResult:
    """Finds the stale jobs and, if the plan says so, settles them.

    `now` is aware; `zone` names the audit's folder. Raises Refused before anything is touched, Busy where a lock
    is held for longer than `busy_seconds` (SQLite) or the session's limit, OperatorError where the database or the
    storage ends the work: what was committed till then is in the audit.
    """
    plan.check()
    if plan.changes and storage is None:
        raise Refused("There is no storage for the audit of what is changed. Nothing was touched.")
    began = time.monotonic()
    if plan.changes and storage is not None:
        # Opened first: SQLite then repairs what a killed writer left, and tells whether anybody wrote since.
        with errors_told(url), read_write(url, zone_of_database, busy_seconds).connect() as connection:
            version = data_version(connection)
            connection.rollback()
            result = _looked(url, plan, now, zone_of_database, busy_seconds)
            if result.stale:
                tables = Tables(connection, url, zone_of_database)
                audit = Audit(storage, plan.run_id, result.database, now, zone, plan.hours)
                result.audit_files = audit.files
                _Settling(tables, audit, plan, result, now, version, should_stop, progress).run()
    else:
        result = _looked(url, plan, now, zone_of_database, busy_seconds)
    result.seconds = time.monotonic() - began
    return result


def missing_tables(url: sa.URL, zone_of_database: ZoneInfo) -> str | None:
    """Why there is nothing to settle in this installation: a sentence where the tables or the database's file
    don't exist. None where they do, and also where the database can't be asked."""
    try:
        reading(url, zone_of_database, None, lambda c: Tables(c, url, zone_of_database).evidence)
    except NoTables as error:
        return str(error)
    except OperatorError:
        return None
    return None


# --- looking ------------------------------------------------------------------------------------------------


def _looked(url: sa.URL, plan: StalePlan, now: datetime, zone: ZoneInfo, busy_seconds: float | None) -> StaleResult:
    found: StaleResult = reading(url, zone, busy_seconds, lambda c: _survey(Tables(c, url, zone), plan, now))
    return found


def _survey(tables: Tables, plan: StalePlan, now: datetime) -> StaleResult:
    result = StaleResult(plan.mode, plan.dry_run, plan.hours, plan.empty_status, now, plan.run_id)
    result.database, result.evidence = tables.database, tables.evidence
    result.results_indexed = tables.results_indexed
    spelled = tables.statuses()
    result.statuses = _by_name(spelled)
    result.older_than_7_days = tables.older_than(now - OLD)
    tables.end()
    spellings = [s for s, _ in spelled if s is not None and normal(s) in OPEN]
    _find(tables, spellings, plan, now, result)
    if plan.mode != "stats":
        found = [stale_holds.foreseen(tables, samples[0]) for samples in result.samples.values()]
        result.hindrances = [f for f in found if f is not None]
        tables.end()
    return result


def _by_name(spelled: Sequence[tuple[str | None, int]]) -> dict[str, int]:
    counts = dict.fromkeys((*OPEN, COMPLETED), 0)
    for status, number in spelled:
        name = normal(status)
        counts[name] = counts.get(name, 0) + number
    return counts


def _find(tables: Tables, spellings: list[str], plan: StalePlan, now: datetime, result: StaleResult) -> None:
    if not spellings:
        return
    cutoff = now - timedelta(hours=plan.hours)
    # Put aside, so that the query that finds them ends before anything else is done.
    candidates: Spool[OpenJob] = Spool()
    for job in tables.open_jobs(spellings, cutoff, now):
        # Its own times alone may show that it moved; only the others' results are looked at.
        if odd := _odd_key(job):
            _note(result, odd)
            continue
        what, column = fate(job.created, (job.updated,), cutoff, now)
        if what == "stale":
            candidates.append(job)
        elif what != "moving":
            _note(result, OddJob(_id(job), job.status, what, column))
    tables.end()
    for jobs in _batches(candidates, _batch_jobs(tables)):
        files = tables.files_of([job.key for job in jobs])
        tables.end()
        for job in jobs:
            found = _judge(job, files.get(job.key, Files()), plan, cutoff, now)
            if isinstance(found, OddJob):
                _note(result, found)
            elif found is not None:
                _list(result, found)


def _batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch


def _batch_jobs(tables: Tables) -> int:
    return BATCH_JOBS if tables.results_indexed else UNINDEXED_BATCH_JOBS


def _id(job: OpenJob) -> str:
    return key_shown(key_to_json(job.key))


def _odd_key(job: OpenJob) -> OddJob | None:
    if job.key is None or isinstance(job.key, Undecodable):
        return OddJob(repr(job.key), job.status, "key", "analysis_jobs.job_id")
    return None


def _judge(job: OpenJob, files: Files, plan: StalePlan, cutoff: datetime, now: datetime) -> StaleJob | OddJob | None:
    """What becomes of an open job; None if it moved."""
    what, column = fate(job.created, (job.updated, *files.moments), cutoff, now)
    if what == "moving":
        return None
    if what != "stale":
        return OddJob(_id(job), job.status, what, column)
    word = COMPLETED if files.done else plan.empty_status
    last = max(m.at for m in (job.created, job.updated, *files.moments) if m.at is not None)
    return StaleJob(
        key_to_json(job.key), job.status, same_case(job.status, word) if word == word.lower() else word, job.folder,
        job.created.at.isoformat() if job.created.at else "", last.isoformat(), files.total, files.done,
    )  # fmt: skip


def _note(result: StaleResult, odd: OddJob) -> None:
    result.odd_count += 1
    if len(result.odd) < ODD_NAMED:
        result.odd.append(odd)


def _list(result: StaleResult, job: StaleJob) -> None:
    result.jobs.append(job)
    samples = result.samples.setdefault(job.becomes, [])
    if len(samples) < stale_holds.TRIES:
        samples.append(job)
    if job.done:
        result.to_complete += 1
        result.to_complete_partly += job.partly_done
    else:
        result.to_empty += 1


# --- settling -----------------------------------------------------------------------------------------------


@dataclass
class _Settling:
    tables: Tables
    audit: Audit
    plan: StalePlan
    result: StaleResult
    now: datetime
    # SQLite's data_version before the jobs were looked at.
    version: int | None
    should_stop: ShouldStop
    progress: Callable[[StaleResult], None]

    def run(self) -> None:
        for samples in self.result.samples.values():
            stale_holds.tried(self.tables, samples)
        size = _batch_jobs(self.tables)
        per_part = 1 if size > BATCH_JOBS else PART_BATCHES
        for batches in _batches(_batches(self.result.jobs, size), per_part):
            if self.result.stopped == FINISHED and (why := self.should_stop()):
                self.result.stopped = why
            if self.result.stopped != FINISHED:
                return
            self._part(batches)

    def _part(self, batches: list[list[StaleJob]]) -> None:
        """Intent, transactions, outcome. An error in the third transaction still leaves the outcome of the first
        two; the third is then told by the rows themselves, should it ever be put back."""
        self.audit.intent(batches)
        done: list[Batch] = []
        failed: BaseException | None = None
        try:
            for number, batch in enumerate(batches):
                if why := self.should_stop():
                    self.result.stopped = why
                    break
                done.append(Batch(number, [key_to_json(k) for k in self._batch(batch)]))
                self.progress(self.result)
            done += [Batch(number, []) for number in range(len(done), len(batches))]
        except BaseException as error:
            failed = error
            raise
        finally:
            # A connection lost in a commit leaves that transaction unknown: then it must not stand as "nothing".
            self._tell_outcome(done, failed)

    def _tell_outcome(self, done: list[Batch], failed: BaseException | None) -> None:
        try:
            self.audit.outcome(done)
        except OperatorError as error:
            if failed is None:
                raise OperatorError(
                    f"{counted(self.result.settled, 'job')} {were(self.result.settled)} settled, but what was changed"
                    " could not be written down:"
                    f" {error} What was meant is in {self.audit.files[-1]}; undo works from that."
                ) from error

    def _batch(self, jobs: list[StaleJob]) -> list[Any]:
        """One transaction: lock, look again, change what is still as it was seen. Returns the keys changed."""
        wanted = {key_from_json(job.key): job for job in jobs}
        try:
            changed = self._still_as_seen(wanted)
            for (seen, becomes), keys in _grouped(changed, wanted).items():
                if self.tables.set_status(keys, seen, becomes) != len(keys):
                    raise OperatorError(
                        f"An update of {counted(len(keys), 'job')} changed another number of rows. It was rolled"
                        " back; a trigger or rule on analysis_jobs may be the cause."
                    )
            self.tables.commit()
        except BaseException:
            self.tables.end()
            raise
        self._count([wanted[key] for key in changed], len(jobs))
        return changed

    def _still_as_seen(self, wanted: dict[Any, StaleJob]) -> list[Any]:
        """Begins the transaction and locks; the keys of the jobs that are as they were seen."""
        tables = self.tables
        tables.end()
        tables.begin()
        if self.version is not None and data_version(tables.connection) == self.version:
            # Nobody has written to this SQLite database since, and nobody can before the commit.
            return list(wanted)
        if tables.scans_results and tables.scan_takes_long():
            now_jobs, files = self._look_before_the_lock(list(wanted))
        else:
            now_jobs = tables.jobs_now(list(wanted))
            files = tables.files_of(list(now_jobs)) if now_jobs else {}
        return [k for k, job in wanted.items() if self._unchanged(job, now_jobs.get(k), files.get(k, Files()))]

    def _look_before_the_lock(self, keys: list[Any]) -> tuple[dict[Any, OpenJob], dict[Any, Files]]:
        """Without an index the look takes seconds, for which no writer may wait: so look first, and begin only if
        nobody wrote meanwhile."""
        tables = self.tables
        for _ in range(SCAN_TRIES):
            tables.end()
            version = data_version(tables.connection)
            files = tables.files_of(keys)
            tables.end()
            tables.begin()
            if data_version(tables.connection) == version:
                return tables.jobs_now(keys), files
        raise Busy(
            "analysis_results has no index on job_id and is written to all the time, so it can't be looked through"
            " between two writes. CREATE INDEX analysis_results_job_id ON analysis_results (job_id), and launch again."
        )

    def _unchanged(self, seen: StaleJob, job: OpenJob | None, files: Files) -> bool:
        if job is None or job.status != seen.status:
            return False
        again = _judge(job, files, self.plan, self.now - timedelta(hours=self.plan.hours), self.now)
        return isinstance(again, StaleJob) and (again.becomes, again.files, again.done) == (
            seen.becomes, seen.files, seen.done,
        )  # fmt: skip

    def _count(self, changed: list[StaleJob], of: int) -> None:
        self.result.transactions += 1
        self.result.left_moved += of - len(changed)
        counts = Counter(("partly" if j.partly_done else "whole") if j.done else "empty" for j in changed)
        self.result.settled_completed += counts["whole"] + counts["partly"]
        self.result.settled_partly += counts["partly"]
        self.result.settled_empty += counts["empty"]


def _grouped(keys: Sequence[Any], jobs: dict[Any, StaleJob]) -> dict[tuple[str, str], list[Any]]:
    groups: dict[tuple[str, str], list[Any]] = {}
    for key in keys:
        groups.setdefault((jobs[key].status, jobs[key].becomes), []).append(key)
    return groups
