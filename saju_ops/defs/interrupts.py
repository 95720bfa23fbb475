"""A run's cancellation, seen between two transactions. Dagster's private names are used here and nowhere else.

Dagster turns a cancel (the UI's *Terminate*, SIGTERM, Ctrl-C) into an exception at whatever line is being executed,
unless its interrupts are captured; then it sets a flag. Capturing them isn't part of its public interface (tried:
1.13.27). Where this Dagster has no such functions, a cancelled run ends at once. That is safe, since each job may be
killed at any instruction, but the transaction under way is rolled back and the run reports no numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

CANCELLED = "cancelled by the operator"

try:
    from dagster._utils.interrupts import capture_interrupts, check_captured_interrupt
except ImportError:
    KNOWN = False
else:
    KNOWN = True


@contextmanager
def cancellable() -> Iterator[Callable[[], str | None]]:
    """Inside, a cancel only sets a flag. Gives a function that says why the run is to stop, or None."""
    if not KNOWN:
        logging.getLogger(__name__).warning(
            "Dagster %s has no functions to capture interrupts (1.13.27 has): a cancelled run ends at once, not between"
            " two transactions.",
            dg.__version__,
        )
        yield lambda: None
        return
    with capture_interrupts():
        yield lambda: CANCELLED if check_captured_interrupt() else None


def raise_if_cancelled(stopped: str) -> None:
    """After what was done has been reported: the run ends as cancelled. Raises DagsterExecutionInterruptedError."""
    if stopped == CANCELLED:
        raise dg.DagsterExecutionInterruptedError
