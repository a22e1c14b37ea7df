"""Whether the other end of a connection is there, and when to show that this one is. Pure: the clock is passed in.

Each side sends a beat when it has sent nothing for an interval, unasked. So the way in both directions is proved, and
what was dropped on it shows at the next beat: records are counted.
"""

from typing import NamedTuple

INTERVAL = {"tcp": 10.0, "files": 60.0}  # seconds between two looks, by the way
MISSED = 3  # looks in a row before which nothing has come: then the connection is lost


class Look(NamedTuple):
    """What is to be done about a connection."""

    beat: bool  # nothing was sent since the last look
    lost: bool  # nothing has come for too long


class Pulse:
    """Looks at a connection once an interval.

    A look counts once, however late it is. So a process that was stopped, or busy, for long does not take its own
    absence for the silence of the other side.
    """

    def __init__(self, via: str, now: float) -> None:
        self._interval = INTERVAL[via]
        self.due = now + self._interval  # when `look` is to be called
        self.heard = True  # since the last look: set by the owner for each record that is verified
        self.sent = True  # the same for each record that is sent
        self._missed = 0

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has come, at least."""
        return self._missed * self._interval

    def look(self, now: float) -> Look:
        self.due = now + self._interval
        self._missed = 0 if self.heard else self._missed + 1
        look = Look(not self.sent, self._missed >= MISSED)
        self.heard = self.sent = False
        return look
