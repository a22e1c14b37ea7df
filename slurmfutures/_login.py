"""Calls on the login node: which are out, and which functions the agent has been sent."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ._future import SlurmFuture
from ._link import Link
from ._remote import payload, wire
from ._remote.states import JobState

_FUNCTIONS_KEPT = 128  # that the agent and its workers hold at once
_FRAME = 64  # calls


class LoginCalls:
    """Owner of the futures of `ex.login`. Any thread, unless said otherwise."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # Guards all below, and that frames go out in the order in which functions are numbered.
        self._lock = threading.Lock()
        self._futures: dict[int, SlurmFuture[Any]] = {}
        self._numbers = itertools.count(1)
        self._functions: OrderedDict[tuple[bytes, str], int] = OrderedDict()
        self._function_numbers = itertools.count(1)
        self._closed: Exception | None = None

    def submit(self, function: bytes, arguments: Sequence[bytes], ship: str = "") -> list[SlurmFuture[Any]]:
        """Send calls of one function and return their futures; `ship` is the version of the user's own code."""
        futures = []
        with self._lock:
            if self._closed is not None:
                raise self._closed
            number = self._number_of(function, ship)
            for start in range(0, len(arguments), _FRAME):
                packed: list[wire.Buffer] = []
                for argument in arguments[start : start + _FRAME]:
                    call = next(self._numbers)
                    future: SlurmFuture[Any] = SlurmFuture(self, call)  # with its type it would take twice as long
                    self._futures[call] = future
                    futures.append(future)
                    packed += payload.pack_call(call, number, argument)
                self._link.send(wire.packed(wire.CALLS, packed), number)  # not ahead of the function
        return futures

    def _number_of(self, function: bytes, ship: str) -> int:
        """Return the number under which the agent knows a function; it gets it if it is new. Holds the lock."""
        number = self._functions.get((function, ship))
        if number is not None:
            self._functions.move_to_end((function, ship))
            return number
        number = self._functions[function, ship] = next(self._function_numbers)
        self._link.send(wire.message({"op": "function", "function": number, "ship": ship}, function), number)
        if len(self._functions) > _FUNCTIONS_KEPT:
            _, oldest = self._functions.popitem(last=False)
            self._link.send(wire.message({"op": "drop", "function": oldest}), oldest)
        return number

    def take(self, call: int) -> SlurmFuture[Any] | None:
        """Take a call off the books: it is resolved by whoever gets its future."""
        with self._lock:
            return self._futures.pop(call, None)

    def get(self, call: int) -> SlurmFuture[Any] | None:
        with self._lock:
            return self._futures.get(call)

    def lost(self, drop_frames: Callable[[], None]) -> list[SlurmFuture[Any]]:
        """Begin anew with the next agent, which knows no function; return the futures of the calls that were out."""
        with self._lock:  # a call is either among these, or is sent after the frames were dropped
            drop_frames()
            self._functions.clear()
            futures, self._futures = list(self._futures.values()), {}
        return futures

    def close(self, error: Exception) -> list[SlurmFuture[Any]]:
        """Take no more calls: `submit` raises `error` from now on. Return the futures that are left."""
        with self._lock:
            self._closed = error
            futures, self._futures = list(self._futures.values()), {}
        return futures

    def pending(self) -> list[SlurmFuture[Any]]:
        with self._lock:
            return list(self._futures.values())

    def __len__(self) -> int:
        return len(self._futures)

    # ---- as an owner of futures

    def job_id(self, call: int) -> str | None:
        return None

    def state(self, call: int) -> JobState:
        future = self.get(call)
        return JobState.RUNNING if future is not None and future.running() else JobState.PENDING

    def log(self, call: int, stream: str, limit: int | None) -> str:
        return ""

    def cancel(self, call: int) -> None:
        if self.take(call) is not None:
            self._link.send(wire.message({"op": "cancel_calls", "calls": [call]}))

    def hurry(self) -> None:
        pass
