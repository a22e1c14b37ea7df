"""How much of a batch may go in while the cluster bounds the jobs that a user may have submitted.

Slurm tells of such limits (MaxSubmitJobs of an association or a QOS, MaxJobCount) by refusing a submission, and not how
large they are. They are of a QOS, an account or a partition, so what has the same options counts as alike.
"""

from typing import Optional

WAIT_FIRST = 5.0  # seconds between tries while a limit is reached
WAIT_CEILING = 60.0
WAIT_FREED = 1.0  # where jobs have left the queue meanwhile


class Backpressure:
    """What refusals and acceptances have told about the limit that holds for one batch."""

    def __init__(self) -> None:
        self.until = 0.0  # when the next try may be
        self._wait = WAIT_FIRST
        self._next: Optional[int] = None  # tasks in the next submission, at most
        self._bound: Optional[int] = None  # jobs that may be inside at once, as far as refusals tell
        self._reached = 0  # jobs that were inside at once

    def size(self, remaining: int, alike: int) -> int:
        """Return how many of the `remaining` tasks to submit while `alike` are inside; 0: wait for more room."""
        size = remaining if self._next is None else min(remaining, self._next)
        if self._bound is None:
            return size
        free = self._bound - alike
        if alike and free < min(remaining, max(1, self._bound // 4)):
            return 0  # a few places are not worth a submission of their own
        return min(size, max(free, 1))

    def accepted(self, size: int, alike: int) -> None:
        """A submission of this size went in."""
        self._wait = WAIT_FIRST
        self._reached = max(self._reached, alike + size)
        if self._bound is not None and self._reached > self._bound:
            self._bound = None
        if self._next is not None:
            self._next = 2 * size

    def refused(self, size: int, alike: int) -> bool:
        """A submission of this size met a limit; return whether half as many are worth a try at once.

        They are not where as many were inside before: then some that are over for us are not yet over for Slurm.
        """
        self._next = max(1, size // 2)
        if alike + size <= self._reached:
            return False
        self._bound = min(alike + size - 1, self._bound or alike + size)
        return size > 1

    def wait(self, now: float) -> None:
        """Leave it for a while, longer each time."""
        self.until = now + self._wait
        if self._wait >= WAIT_CEILING:
            self._bound, self._reached = None, 0  # what they tell was long ago
        self._wait = min(WAIT_CEILING, 2 * self._wait)

    def freed(self, now: float) -> None:
        """Jobs have left the queue."""
        self.until = min(self.until, now + WAIT_FREED)
