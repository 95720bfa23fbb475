"""What the copies of each engine share: rows in batches by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from saju_ops.dumps.programs import Output
from saju_ops.masking.masker import MaskedColumn

BATCH = 1_000
# Characters and bytes, after which a batch has no more rows.
BATCH_WEIGHT = 2 << 20
Row = tuple[Any, ...]
Change = Callable[[list[Row]], list[Row]]


class Copier(Protocol):
    """One engine's way. Every method reads the same snapshot."""

    # What is not copied, as sentences.
    notes: list[str]

    def columns(self) -> list[MaskedColumn]:
        """Every stored column of every table, without rules yet, in the tables' own order."""

    def keys(self) -> list[tuple[str, str, str, str]]:
        """Foreign keys: table, column, referred table, referred column."""

    def values(self, column: MaskedColumn) -> Iterator[Any]:
        """The different values of a column."""

    def begin(self) -> None:
        """Makes the tables, without triggers."""

    def copy(self, columns: Sequence[MaskedColumn], change: Change) -> int:
        """Copies one table; returns how many rows."""

    def finish(self) -> None:
        """Makes what had to wait for the rows."""

    def definitions(self) -> str:
        """After `finish`: the SQL by which the copy was made."""

    def counters(self) -> list[tuple[str, int]]:
        """What is counted on from in the copy, where the definitions don't say: the name and the number."""

    def rows(self, columns: Sequence[MaskedColumn]) -> Iterator[list[Row]]:
        """The rows of the copy."""


def _batches(rows: Iterable[Any]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    weight = 0
    for row in rows:
        batch.append(tuple(row))
        weight += sum(len(v) for v in row if isinstance(v, str | bytes | memoryview))
        if len(batch) == BATCH or weight >= BATCH_WEIGHT:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _ended(output: Output) -> Iterator[bytes]:
    output.finish()
    yield from ()
