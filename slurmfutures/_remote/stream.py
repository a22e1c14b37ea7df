"""A stream of bytes to and from another process, tied to a loop that never waits; here by TCP."""

import itertools
import socket
from collections import deque
from typing import Callable, Deque, Protocol, Sequence

from . import wire

CHUNK = 1 << 18  # bytes that are received at once
_VECTOR = 64  # buffers that are sent at once
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6), ("TCP_USER_TIMEOUT", 45_000))

Register = Callable[[socket.socket, Callable[[bool, bool], None], bool], None]
Unregister = Callable[[socket.socket], object]


class Lost(Exception):
    """The stream is over, for the reason that is its text."""


class Stream(Protocol):
    """Bytes to and fro. Everything in the loop's thread."""

    via: str  # "tcp" or "files"
    unsent: int  # bytes that are held because they could not be written yet

    def follow(self, readable: Callable[[], None]) -> None:
        """Have `readable` called, from the loop, when there may be something to `receive`, or when it is over."""

    def receive(self) -> wire.Buffer:
        """Return what has come, good until this is called again; nothing where that is nothing. Raises Lost."""

    def send(self, buffers: Sequence[wire.Buffer]) -> None: ...

    def close(self) -> None: ...


def tune(connection: socket.socket) -> None:
    """Have small writes go out at once, and a machine that is gone noticed within 45 s."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class SocketStream:
    """A stream over a connected socket, which is its own from now on. `scratch` is shared by the loop's streams."""

    via = "tcp"

    def __init__(
        self, connection: socket.socket, scratch: memoryview, register: Register, unregister: Unregister
    ) -> None:
        self._connection = connection
        self._scratch = scratch
        self._register = register
        self._unregister = unregister
        self._readable: Callable[[], None] = lambda: None
        self._out: Deque[memoryview] = deque()
        self._writing = False
        self._open = True
        self.unsent = 0
        connection.setblocking(False)
        register(connection, self._event, False)

    def follow(self, readable: Callable[[], None]) -> None:
        self._readable = readable

    def receive(self) -> wire.Buffer:
        try:
            count = self._connection.recv_into(self._scratch)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Lost(error.strerror or str(error)) from error
        if not count:
            raise Lost("the other side closed the connection")
        return self._scratch[:count]

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        if not self._open:
            return
        waits = bool(self._out)
        for buffer in buffers:
            self._out.append(memoryview(buffer))
            self.unsent += len(buffer)
        if not waits:
            self._flush()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._readable = lambda: None
            self._unregister(self._connection)
            self._connection.close()
            self._out.clear()
            self.unsent = 0

    def _event(self, readable: bool, writable: bool) -> None:
        if writable and self._open:
            self._flush()
        if readable and self._open:
            self._readable()

    def _flush(self) -> None:
        try:
            while self._out:
                if len(self._out) == 1:
                    sent = self._connection.send(self._out[0])
                else:
                    sent = self._connection.sendmsg(list(itertools.islice(self._out, _VECTOR)))
                self._sent(sent)
        except BlockingIOError:
            pass
        except OSError:  # reading will see the end
            self._out.clear()
            self.unsent = 0
        if self._writing != bool(self._out):
            self._writing = not self._writing
            self._register(self._connection, self._event, self._writing)

    def _sent(self, count: int) -> None:
        self.unsent -= count
        while count:
            first = self._out[0]
            if count < len(first):
                self._out[0] = first[count:]
                return
            count -= len(first)
            self._out.popleft()
