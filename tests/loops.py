"""A loop as the agent and a pilot have one, in the test's own thread."""

import contextlib
import queue
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.waiting import DEADLINE

T = TypeVar("T")


class Loop:
    """Watches sockets, does what threads post, and calls the ticks of its members."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ears, self._hand = socket.socketpair()
        self._hand.setblocking(False)
        self.ticks: list[Callable[[float], float | None]] = []
        self.register(self._ears, lambda readable, writable: self._woken(), False)

    def register(self, connection: socket.socket, callback: Callable[[bool, bool], None], writing: bool) -> None:
        """Like the agent's: a socket that is known keeps its callback if only that differs."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if connection not in self._selector.get_map():
            self._selector.register(connection, events, callback)
        elif self._selector.get_key(connection).events != events:
            self._selector.modify(connection, events, callback)

    def unregister(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)

    def post(self, action: Callable[[], None]) -> None:
        """Have the loop do something. Any thread."""
        self._posted.put(action)
        with contextlib.suppress(OSError):  # it is awake, or closed
            self._hand.send(b"x")

    def turn(self, most: float = 0.05) -> None:
        """Do what there is, or wait for it for up to `most` seconds."""
        now = time.monotonic()
        times = [at for at in [tick(now) for tick in list(self.ticks)] if at is not None]
        wait = min([most, *(at - time.monotonic() for at in times)])
        for key, events in self._selector.select(max(0.0, wait)):
            key.data(bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE))

    def until(self, condition: Callable[[], T], seconds: float = DEADLINE) -> T:
        """Run until `condition()` is true, and return it; AssertionError where it does not become that."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"nothing true within {seconds} s, at last {value!r}"
            self.turn()
        return value

    def watched(self) -> int:
        """Return how many sockets of others are watched."""
        return len(self._selector.get_map()) - 1

    def close(self) -> None:
        self._selector.close()
        self._ears.close()
        self._hand.close()

    def _woken(self) -> None:
        self._ears.recv(4096)
        while not self._posted.empty():
            self._posted.get()()


def fill(path: Path) -> None:
    """Make a file that takes all the room that its disk has."""
    with path.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
