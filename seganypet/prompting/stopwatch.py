"""How long somebody worked, without the pauses."""

import time
from collections.abc import Callable

MAX_GAP_S = 60.0  # a longer gap counts as this much; lunch is no annotation time


class Stopwatch:
    """Active time: the sum of the gaps between actions, of which long ones count only in part.

    Args:
        clock: Function that returns seconds from any origin.
        seconds: Active seconds of an earlier sitting.

    >>> ticks = iter([100.0, 110.0, 4000.0])
    >>> watch = Stopwatch(clock=lambda: next(ticks))
    >>> for _ in range(3):
    ...     watch.tick()
    >>> watch.seconds
    70.0
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = 0.0):
        self.seconds = float(seconds)
        self._clock = clock
        self._last: float | None = None

    def tick(self) -> None:
        """Record that something was done now."""
        now = self._clock()
        if self._last is not None:
            self.seconds += min(now - self._last, MAX_GAP_S)
        self._last = now
