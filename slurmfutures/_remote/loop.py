"""The one loop of an agent, or of a pilot: sockets and pipes that are ready, and what threads have to say."""

import collections
import selectors
import socket
import time
from typing import Callable, Deque, Optional, Union

LONGEST = 3600.0  # seconds of a turn in which nothing happens: the system takes no time without end
Callback = Callable[[bool, bool], None]  # readable, writable
Source = Union[int, socket.socket]


class Loop:
    """Belongs to the thread that calls `turn`; other threads may call `post` only."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._posted: Deque[Callable[[], None]] = collections.deque()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, lambda readable, writable: self._woken())

    def register(self, source: Source, callback: Callback, writing: bool, *, reading: bool = True) -> None:
        """Have `callback` called when `source` can be read, or written too if `writing`; again, to change that."""
        events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if writing else 0)
        try:
            key = self._selector.get_key(source)
        except KeyError:
            self._selector.register(source, events, callback)
        else:
            if key.events != events:
                self._selector.modify(source, events, callback)

    def unregister(self, source: Source) -> None:
        self._selector.unregister(source)

    def post(self, action: Callable[[], None]) -> None:
        """Have the loop do `action`. Any thread, and signal handlers."""
        self._posted.append(action)
        try:
            self._wake_in.send(b"x")
        except OSError:
            pass  # the loop is over, or has wake-ups enough

    def turn(self, until: Optional[float]) -> None:
        """Wait until something happens, or until then on the monotonic clock, and do all that it takes."""
        wait = None if until is None else min(max(0.0, until - time.monotonic()), LONGEST)
        for key, events in self._selector.select(wait):
            key.data(bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE))

    def _woken(self) -> None:
        self._wake_out.recv(4096)
        while self._posted:
            self._posted.popleft()()
