"""What a purge asks of a table whose months are partitions: which of them left as a whole, and why others stay.

The purge says which days may go; whoever knows partitions (`saju_ops.schema.partitions`) makes the promises of
`saju_ops.archive.deleting` for every row of a month, and moves it in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from saju_ops.rows.days import Day
from saju_ops.rows.engines.open import RowStore
from saju_ops.storage.open import Storage


@dataclass(frozen=True)
class Window:
    """The days that may leave: from `first` to before `cutoff`; and how many rows at most, None for any number."""

    first: Day
    cutoff: Day
    rows_left: Callable[[], int | None] = lambda: None


@dataclass(frozen=True)
class MonthOutcome:
    """One partition. `left` says why it stays; empty where it is gone."""

    name: str
    rows: int = 0
    per_day: dict[str, int] = field(default_factory=dict)
    # The archives that hold its rows.
    files: tuple[str, ...] = ()
    left: str = ""
    # Whether somebody must do something: the month won't leave by itself another day.
    needs_attention: bool = False
    seconds: float = 0.0


# Lets months leave, one a step. With dry_run it only says which would.
WholeMonths = Callable[[RowStore, Storage, Window, bool], Iterator[MonthOutcome]]
