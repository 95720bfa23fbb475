"""Token buckets: so many at once, then so many a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Bucket:
    """Holds at most `per_minute`; refills evenly. Not for use across threads."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._most = self._left = max(1.0, per_minute)
        self._clock = clock
        self._seen = clock()

    def take(self) -> int:
        """0, or the seconds after which it is worth trying again; then nothing was taken."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left >= 1:
            self._left -= 1
            return 0
        return max(1, math.ceil((1 - self._left) / self._per_second))
