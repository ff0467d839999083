"""How long the timed part of a probe still takes, at its pace so far."""

import time
from collections.abc import Callable


class Pace:
    """Follows work that is done in parts, from the moment that it is made.

    Args:
        total: All that there is to do, in a unit of the caller's.
        now: Wall seconds.
    """

    def __init__(self, total: float, now: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._done = 0.0
        self._now = now
        self._began = now()

    def left(self, done: float) -> float:
        """Seconds that remain once ``done`` more of the work is done; 0 where nothing remains or none was planned."""
        self._done += done
        remaining = max(0.0, self._total - self._done)
        return (self._now() - self._began) * remaining / self._done if self._done else 0.0
