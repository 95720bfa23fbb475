"""A cancel from the UI, heard between two transactions: none is cut in two.

The one place that touches the private names of Dagster that this needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._utils.interrupts import capture_interrupts, check_captured_interrupt

CANCELLED = "cancelled by the operator"


@contextmanager
def cancellable() -> Iterator[Callable[[], str | None]]:
    """Inside, a cancel only sets a flag. Gives a function that says why the run is to stop, or None."""
    with capture_interrupts():
        yield lambda: CANCELLED if check_captured_interrupt() else None


def raise_if_cancelled(stopped: str) -> None:
    """After what was done has been reported: the run ends as cancelled. Raises DagsterExecutionInterruptedError."""
    if stopped == CANCELLED:
        raise dg.DagsterExecutionInterruptedError
