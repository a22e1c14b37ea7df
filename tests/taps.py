"""A tap on the connections to an address: who listens there, and changes what is said."""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any


class Tap:
    """Between pilots and an agent: it records, and changes what it is told to."""

    def __init__(self, target: Sequence[Any]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.up, self.down = bytearray(), bytearray()
        self.change: Callable[[bool, bytes], bytes] = lambda up, data: data
        self.tells_ends = True  # an end of one side is passed on to the other
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._run, daemon=True, name="tap").start()

    def _run(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            other = socket.create_connection(tuple(self._target))
            self._pairs.append((one, other))
            for up, source, sink in ((True, one, other), (False, other, one)):
                threading.Thread(target=self._pass, args=(up, source, sink), daemon=True, name="tap").start()

    def _pass(self, up: bool, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                (self.up if up else self.down).extend(data)
                sink.sendall(self.change(up, data))
            if self.tells_ends:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for pair in self._pairs:
            for connection in pair:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
