"""Whether the other side is still there. Pure: the clocks are passed in."""

from collections.abc import Callable

_PINGS = 3  # in the time after which silence means that the connection is lost


class Heartbeat:
    """Says when to ask the agent for a sign of life, and when to stop waiting for one.

    `limit` is in seconds. `slept()` is how long this machine has slept so far: a connection that was there before is
    taken for lost, for so will the other side have.
    """

    def __init__(self, limit: float, now: float, slept: Callable[[], float]) -> None:
        self._interval = limit / _PINGS
        self._limit = limit
        self._slept = slept
        self._slept_before = slept()
        self._heard = now
        self._asked = now
        self._unanswered: float | None = None  # since when a ping has been out

    def heard(self, now: float) -> None:
        """Something came from the agent, or it took what had been stuck on its way there."""
        self._heard = now
        self._unanswered = None

    def due(self, now: float) -> bool:
        """Whether to send a ping now; the caller does."""
        if now < self._asked + self._interval:
            return False
        self._asked = now
        if self._unanswered is None:
            self._unanswered = now
        return True

    def next_due(self) -> float:
        """Return when `due` and `lost` are to be asked again."""
        return self._asked + self._interval

    def lost(self, now: float) -> str | None:
        """Return why the connection counts as lost, None while it does not.

        A process that was stopped for long, or a poller that was busy with a callback, has not waited for an answer:
        what counts is the time since a ping.
        """
        asleep = self._slept() - self._slept_before
        if asleep > self._limit:
            return f"this machine slept for {asleep:.0f} s"
        if self._unanswered is not None and now - self._unanswered >= self._limit - self._interval:
            return f"nothing was heard for {now - self._heard:.0f} s"
        return None
