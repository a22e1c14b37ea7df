"""The worker: takes frames of calls, returns frames of results, one call at a time.

It talks over one connected socket and keeps nothing else open: its stdin is empty, and what the user's code prints
goes where its stdout and stderr point. Each result is sent before the next call begins, so whoever feeds the worker
knows, if it dies, which call it was running: the first one that it has not answered.
"""

import contextlib
import os
import signal
import socket
import sys
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional, Tuple

from . import payload, wire

_CHUNK = 1 << 18
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Worker:
    """Everything here runs in the worker's only thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = wire.Reader()
        self._scratch = memoryview(bytearray(_CHUNK))  # to make room for each small frame would cost more than it does
        self._calls: Deque[payload.Call] = deque()
        self._functions: Dict[int, Tuple[Optional[Callable[..., Any]], bytes]] = {}
        self._sources: Dict[int, wire.Body] = {}
        self._given: Dict[str, Any] = {}  # what the initializer made global

    def run(self) -> None:
        """Serve until the other side closes the connection."""
        self._send(*wire.message({"op": "ready", "pid": os.getpid()}))
        while True:
            if not self._receive(wait=not self._calls):
                return
            if self._calls:
                call = self._calls.popleft()
                status, data = self._perform(call)
                self._send(*wire.packed(wire.RESULTS, payload.pack_record(call.call, status, data)))

    def _send(self, *buffers: wire.Buffer) -> None:
        for buffer in buffers:
            self._connection.sendall(buffer)

    def _receive(self, *, wait: bool) -> bool:
        """Take in what has arrived; False once the connection is closed."""
        try:
            size = self._connection.recv_into(self._scratch, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        if not size:
            return False
        for frame in self._reader.feed(self._scratch[:size]):
            if frame.kind == wire.CALLS:
                self._calls.extend(payload.calls(frame.body))
            else:
                self._message(frame.head, frame.body)
        return True

    def _message(self, head: Any, body: wire.Body) -> None:
        if head["op"] == "function":
            self._sources[head["function"]] = body
        elif head["op"] == "initialize":
            self._initialize(body)
        elif head["op"] == "drop":
            self._sources.pop(head["function"], None)
            self._functions.pop(head["function"], None)
        elif head["op"] == "cancel":
            unwanted = set(head["calls"])
            self._calls = deque(call for call in self._calls if call.call not in unwanted)

    def _initialize(self, initializer: wire.Body) -> None:
        status, problem, self._given = payload.initialize(initializer)
        self._send(*wire.message({"op": "initialized", "status": status}, problem))

    def _perform(self, call: payload.Call) -> Tuple[int, bytes]:
        if call.function not in self._functions:
            source = self._sources.pop(call.function)
            self._functions[call.function] = payload.load_function(source, self._given)
        function, problem = self._functions[call.function]
        if function is None:
            return payload.UNLOADABLE, problem
        return payload.perform(function, call.payload)


def _end_with_parent() -> None:
    """Have this process end when the one that has started it is killed, also in the middle of a call."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # no Linux, or a Python without ctypes
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def main() -> None:
    """Entry for a worker that inherits its connection: the descriptor's number is the first argument."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    sys.argv[1:] = []
    connection.set_inheritable(False)
    _end_with_parent()
    try:
        Worker(connection).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the agent is gone, and with it everybody who wanted the results
