"""Calls that are lost through no fault of their own: which of them run again, and what is told of the times before."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ._errors import JobError, JobPreempted, ResultLost, SlurmFuturesError, tell_attempts
from ._remote.batch import ranges


class Attempts:
    """The attempts of one task that have come to nothing, of at most `most`. The poller's thread only."""

    def __init__(self, most: int) -> None:
        self.errors: list[SlurmFuturesError] = []
        self._most = most
        self._blamed: dict[str, None] = {}  # nodes, in order

    def __len__(self) -> int:
        return len(self.errors)

    def told(self, error: BaseException) -> BaseException:
        """Return an error that ends the call, with what was before it told in its text, or in a note."""
        if not self.errors:
            return error
        if isinstance(error, JobError | ResultLost):
            error.earlier, error.attempts = tuple(self.errors), self._most
        elif hasattr(error, "add_note"):  # from Python 3.11 on
            with contextlib.suppress(Exception):  # what somebody else's exception class thinks of it
                error.add_note("\n".join(tell_attempts(self.errors)))
        return error

    def again(self, error: SlurmFuturesError, node: str) -> bool:
        """Take in that another attempt has ended; return whether there is to be one more."""
        if not error.transient or len(self.errors) + 1 >= self._most:
            return False
        self.errors.append(error)
        if node and not isinstance(error, JobPreempted):
            self._blamed[node] = None
        return True

    def last(self) -> SlurmFuturesError:
        """Return the error of an attempt after which there can be no other one, for a reason of its own."""
        error = self.errors.pop()
        self.told(error)
        return error

    def request(self, task: int, done: Sequence[int]) -> Mapping[str, Any]:
        """Return the agent's words for the next attempt; `done` are the calls that nobody waits for any more."""
        return {"task": task, "attempt": len(self.errors), "exclude": list(self._blamed), "done": ranges(done)}
