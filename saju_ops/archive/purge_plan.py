"""The plan of a purge, and its result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from saju_ops.bounds import ChunkRows, DaysFromOne, LagSeconds, Most, PauseSeconds, RuntimeSeconds, require_bounds
from saju_ops.errors import Refused
from saju_ops.rows.days import Day

# A transaction of 5,000 rows takes some 50 ms: short for sessions that wait for its locks, and for a replica.
DEFAULT_CHUNK = 5_000


@dataclass(frozen=True)
class PurgePlan:
    """Scope and limits of a purge. Raises Refused for values that make no sense, before anything is touched."""

    retention_days: DaysFromOne
    dry_run: bool = True
    from_day: Day | None = None
    to_day: Day | None = None
    chunk_size: ChunkRows = DEFAULT_CHUNK
    pause_seconds: PauseSeconds = 0.0
    max_rows: Most | None = None
    max_runtime_seconds: RuntimeSeconds | None = None
    max_replica_lag_seconds: LagSeconds | None = None

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.from_day and self.to_day and self.to_day < self.from_day:
            raise Refused(f"to_day is {self.to_day}, before from_day {self.from_day}. Nothing was touched.")


@dataclass
class PurgeResult:
    cutoff: Day
    dry_run: bool
    days: int = 0
    deleted: int = 0
    # With dry_run: rows that would be deleted, compared just the same but without a lock.
    deletable: int = 0
    kept_late: int = 0
    kept_changed: int = 0
    kept_referenced: Counter[str] = field(default_factory=Counter)
    # Rows that a trigger or a foreign key of the database refused to let go, by the reason.
    kept_refused: Counter[str] = field(default_factory=Counter)
    # Rows that the archive holds unchanged and that are there all the same; `problems` names their days.
    kept_unexplained: int = 0
    unarchived_days: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    # A sentence that tables which the account may not see could reference the rows; empty if none do.
    doubt: str = ""
    # The archives that hold the rows of the purged days.
    files: list[str] = field(default_factory=list)
    per_day: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    row_by_row_chunks: int = 0
    seconds: float = 0.0
    lag_wait_seconds: float = 0.0
    stopped: str = "finished"
    # Partitions that left as a whole, their rows (part of `deleted`), and those that a dry run says would leave.
    months_dropped: list[str] = field(default_factory=list)
    rows_dropped: int = 0
    months_droppable: list[str] = field(default_factory=list)
    # Why partitions that lie beyond the retention are still there, and whether somebody must do something.
    months_left: dict[str, str] = field(default_factory=dict)
    months_need_attention: bool = False
    freed_bytes: int = 0
    table_bytes: int = 0
    reclaim_hint: str = ""

    @property
    def finished(self) -> bool:
        return self.stopped == "finished"

    @property
    def kept(self) -> int:
        referenced, refused = sum(self.kept_referenced.values()), sum(self.kept_refused.values())
        return self.kept_late + self.kept_changed + referenced + refused + self.kept_unexplained

    @property
    def kept_because(self) -> str:
        """How many rows of the purged days are still there, and why; empty where none are."""
        why = [
            f"{count} {reason}"
            for count, reason in (
                (self.kept_late, "came after their day was archived"),
                (self.kept_changed, "changed after their day was archived"),
                *((n, f"referenced by {table}") for table, n in self.kept_referenced.items()),
                *((n, f"refused by the database: {reason}") for reason, n in self.kept_refused.items()),
                (self.kept_unexplained, "still there for no known reason"),
            )
            if count
        ]
        return "; ".join(why)
