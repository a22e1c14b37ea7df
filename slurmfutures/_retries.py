"""Calls that are lost through no fault of their own: which of them run again, and what is told of the times before."""

from collections.abc import Mapping, Sequence
from typing import Any

from ._errors import JobError, JobPreempted, ResultLost, SlurmFuturesError, add_note, tell_attempts
from ._remote.batch import ranges


class Attempts:
    """The attempts of one task that have come to nothing, of at most `most`. The poller's thread only."""

    def __init__(self, most: int, before: int = 0, *, whatever: int = 1) -> None:
        """`before` is how many retries there were under earlier drivers: those do not count.

        `whatever` is how many attempts there may be after an end that is nobody's fault but the task's own.
        """
        self.errors: list[SlurmFuturesError] = []
        self.number = before  # of the attempt that is under way, from 0
        self._most = most
        self._whatever = whatever
        self._blamed: dict[str, None] = {}  # nodes, in order
        self._last: BaseException = ResultLost("it could not be run again")

    def told(self, error: BaseException) -> BaseException:
        """Return an error that ends the call, with what was before it told in its text, or in a note."""
        if not self.errors:
            return error
        if isinstance(error, JobError | ResultLost):
            error.earlier, error.attempts = tuple(self.errors), self._most
        else:
            add_note(error, "\n".join(tell_attempts(self.errors)))
        return error

    def again(self, error: SlurmFuturesError, node: str) -> bool:
        """Take in that another attempt has ended; return whether there is to be one more."""
        if len(self.errors) + 1 >= self._most or self.blames(error):
            return False
        self.errors.append(error)
        self.number += 1
        if node and error.transient and not isinstance(error, JobPreempted):
            self._blamed[node] = None
        return True

    def blames(self, error: SlurmFuturesError) -> bool:
        """Whether the task is not tried again after this end because too many were its own doing."""
        its_own = sum(not it.transient for it in [*self.errors, error])
        return not error.transient and its_own >= self._whatever

    def anew(self, error: BaseException) -> None:
        """Take in that an attempt had ended under an earlier driver: there is to be one more, whatever it was."""
        self.number += 1
        self._last = error

    def last(self) -> BaseException:
        """Return the error of an attempt after which there can be no other one, for a reason of its own."""
        return self.told(self.errors.pop() if self.errors else self._last)

    def request(self, task: int, done: Sequence[int]) -> Mapping[str, Any]:
        """Return the agent's words for the next attempt; `done` are the calls that nobody waits for any more."""
        return {"task": task, "attempt": self.number, "exclude": list(self._blamed), "done": ranges(done)}
