"""The plan of a run, and its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, TypeVar

from saju_ops.bounds import StaleHours, require
from saju_ops.errors import Refused
from saju_ops.stale.audit import Spool, StaleJob, check_run_id
from saju_ops.stale.tables import OPEN, Tables, normal

T = TypeVar("T")
Mode = Literal["check", "apply", "stats"]
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
    # Hours without a move after which a job is stale.
    hours: StaleHours = 24
    # With mode apply: list what would be changed, change nothing.
    dry_run: bool = True
    # The new status of a job none of whose files has a result.
    empty_status: str = "failed"
    run_id: str = ""

    @property
    def changes(self) -> bool:
        return self.mode == "apply" and not self.dry_run

    def check(self) -> None:
        """Raises Refused, naming the wrong value."""
        if self.mode not in ("check", "apply", "stats"):
            raise Refused(f"mode is {self.mode!r}; it may be check, apply or stats. Nothing was touched.")
        require("hours", self.hours, StaleHours, "a whole number ")
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
    # Reasons that would stop an apply, as far as reading can show.
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
        """Whether anything but the time of creation shows that a job is still worked on."""
        return any(not e.endswith("analysis_jobs.created_at") for e in self.evidence)


def _batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch


def _batch_jobs(tables: Tables) -> int:
    return BATCH_JOBS if tables.results_indexed else UNINDEXED_BATCH_JOBS
