"""How long somebody worked, without the pauses."""

import time
from collections.abc import Callable


class Stopwatch:
    """Active time: the sum of the gaps between actions, of which long ones count only in part.

    Args:
        clock: Seconds from any origin.
        longest_pause_s: What a longer gap counts as; lunch is no annotation time.
        seconds: Active seconds of an earlier sitting.

    >>> ticks = iter([100.0, 110.0, 4000.0])
    >>> watch = Stopwatch(clock=lambda: next(ticks))
    >>> for _ in range(3):
    ...     watch.tick()
    >>> watch.seconds
    70.0
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, longest_pause_s: float = 60.0, seconds: float = 0.0
    ):
        self.seconds = float(seconds)
        self._clock, self._longest_pause_s = clock, longest_pause_s
        self._last: float | None = None

    def tick(self) -> None:
        """Say that something was done now."""
        now = self._clock()
        if self._last is not None:
            self.seconds += min(now - self._last, self._longest_pause_s)
        self._last = now
