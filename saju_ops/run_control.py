"""How a long run hears that it is to stop, says how far it is, and knows what time it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


class Stop(Exception):
    """A limit was reached or the run is to stop; raised only between two transactions."""


@dataclass(frozen=True)
class RunControl:
    """`should_stop` gives the reason to stop, or None; it is asked between two transactions. `progress` gets the result
    as far as it is. `clock` counts seconds from any instant."""

    should_stop: Callable[[], str | None] = lambda: None
    progress: Callable[..., None] = lambda *_: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def check(self) -> None:
        """Raises Stop."""
        if reason := self.should_stop():
            raise Stop(reason)

    def check_runtime(self, started: float, most_seconds: float | None) -> None:
        """Raises Stop where the run that `started` then, by `clock`, has taken that long."""
        if most_seconds is not None and self.clock() - started >= most_seconds:
            raise Stop(f"max_runtime_seconds ({most_seconds:g}) reached")


# Nobody stops the run and nobody listens.
TO_THE_END = RunControl()
