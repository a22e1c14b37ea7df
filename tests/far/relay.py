"""A TCP relay that delays, stalls, cuts and refuses, in a process of its own.

    with closing(Relay(port_of_sshd)) as relay:  # rate=1e6: so many bytes a second each way
        relay.set(delay=0.05)       # each way, in seconds
        relay.cut()                 # all connections, now
        relay.cut_after(up=1000)    # the present or next connection, when so many bytes in all have gone that way

Bytes wait for their time in a queue, so a delay takes no bandwidth away.
"""

import json
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

CHUNK = 1 << 18
MOST_QUEUED = 64 << 20  # bytes on their way in one direction
BUFFER = 1 << 16  # bytes that a slow line holds by itself
UP, DOWN = 0, 1  # to the server, to the client


class Sent(NamedTuple):
    """How much has gone through."""

    up: int
    down: int
    connections: int


class Relay:
    """The handle of a relay's process; each method returns when what it says is done."""

    def __init__(self, target: int, rate: float | None = None) -> None:
        words = [str(target)] if rate is None else [str(target), str(rate)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self.port = int(self._ask(None)["port"])

    def set(self, **how: Any) -> None:
        """Set `delay` in seconds each way, `stall` (nothing is passed on) or `refuse` (connections are)."""
        self._ask(how)

    def cut(self) -> None:
        """Reset all connections."""
        self._ask({"cut": True})

    def cut_after(self, *, up: int | None = None, down: int | None = None) -> None:
        """Reset the connection on which this many bytes have gone one way in all, once; those get through."""
        self._ask({"after": [up, down]})

    def sent(self) -> Sent:
        """Return the bytes of the latest connection, and how many there were."""
        return Sent(*self._ask({})["sent"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if words is not None:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


# ---- the relay's process


class _Way:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.queue: deque[tuple[float, memoryview]] = deque()  # when each may go on
        self.queued = 0
        self.sent = 0
        self.ended = False  # the source has nothing more
        self.shut = False
        self.blocked = False  # what is due waits for room at the target
        self.free_at = 0.0  # when a slow line has passed on what it was given


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ways = (_Way(client, server), _Way(server, client))
        self.sockets = (client, server)


class _Process:
    def __init__(self, target: int, rate: float | None = None) -> None:
        self._target = target
        self._rate = rate
        self._most = MOST_QUEUED if rate is None else BUFFER
        self._delay = 0.0
        self._stalled = False
        self._refusing = False
        self._after: list[int | None] = [None, None]
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []
        self._latest: _Connection | None = None
        self._accepted = 0
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        if self._rate is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._selector.register(listener, selectors.EVENT_READ, listener)
        return listener

    def serve(self) -> None:
        self._say({"port": self.port})
        while True:
            for key, _ in self._selector.select(self._wait()):
                if key.data is None:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self._obey(json.loads(line))
                elif key.data is self._listener:
                    self._accept()
                elif isinstance(key.data, _Connection):
                    self._event(key.data, key.fileobj)
            for connection in list(self._connections):
                self._pass_on(connection)

    def _say(self, words: Any) -> None:
        print(json.dumps(words), flush=True)

    def _obey(self, words: Any) -> None:
        self._delay = words.get("delay", self._delay)
        self._stalled = words.get("stall", self._stalled)
        if words.get("refuse", self._refusing) != self._refusing:
            self._refusing = not self._refusing
            if self._refusing:
                self._selector.unregister(self._listener)
                self._listener.close()
            else:
                self._listener = self._listen(self.port)
        if "cut" in words:
            for connection in list(self._connections):
                self._reset(connection)
        self._after = words.get("after", self._after)
        sent = [way.sent for way in self._latest.ways] if self._latest else [0, 0]
        self._say({"sent": [*sent, self._accepted]})

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket()
        if self._rate is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        try:
            server.connect(("127.0.0.1", self._target))
        except OSError:
            server.close()
            client.close()
            return
        connection = self._latest = _Connection(client, server)
        self._accepted += 1
        for end in connection.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end, selectors.EVENT_READ, connection)
        self._connections.append(connection)

    def _event(self, connection: _Connection, end: Any) -> None:
        if connection not in self._connections:
            return
        way = connection.ways[connection.sockets.index(end)]
        if way.ended or way.queued > self._most:
            return
        try:
            data = end.recv(CHUNK if self._rate is None else BUFFER // 8)
        except BlockingIOError:
            return
        except OSError:
            self._reset(connection)
            return
        if data:
            at = time.monotonic()
            if self._rate is not None:
                at = way.free_at = max(at, way.free_at) + len(data) / self._rate
            way.queue.append((at + self._delay, memoryview(data)))
            way.queued += len(data)
        else:
            way.ended = True

    def _pass_on(self, connection: _Connection) -> None:
        """Send what may go, and say what to wait for."""
        now = time.monotonic()
        for direction, way in enumerate(connection.ways):
            while way.queue and way.queue[0][0] <= now and not self._stalled:
                data = way.queue[0][1]
                last = self._after[direction]
                if last is not None and way.sent >= last:
                    last = None  # an older connection, or it was asked for too late
                if last is not None:
                    data = data[: last - way.sent]
                try:
                    sent = way.target.send(data) if data else 0
                except BlockingIOError:
                    break
                except OSError:
                    self._reset(connection)
                    return
                way.sent += sent
                way.queued -= sent
                if last is not None and way.sent >= last:
                    self._after = [None, None]
                    self._reset(connection, gently=True)
                    return
                if sent == len(way.queue[0][1]):
                    way.queue.popleft()
                else:
                    way.queue[0] = way.queue[0][0], way.queue[0][1][sent:]
            if way.ended and not way.queue and not way.shut:
                way.shut = True
                try:
                    way.target.shutdown(socket.SHUT_WR)
                except OSError:
                    self._reset(connection)
                    return
        if all(way.shut for way in connection.ways):
            self._reset(connection, gently=True)
            return
        for end in connection.sockets:
            into = connection.ways[1 - connection.sockets.index(end)]
            out_of = connection.ways[connection.sockets.index(end)]
            into.blocked = bool(into.queue) and into.queue[0][0] <= now and not self._stalled
            events = (selectors.EVENT_WRITE if into.blocked else 0) | (
                selectors.EVENT_READ if not out_of.ended and out_of.queued <= self._most else 0
            )
            self._watch(end, events, connection)

    def _watch(self, end: socket.socket, events: int, connection: _Connection) -> None:
        known = self._selector.get_map().get(end.fileno())
        if events and known is None:
            self._selector.register(end, events, connection)
        elif known is not None and not events:
            self._selector.unregister(end)
        elif known is not None and known.events != events:
            self._selector.modify(end, events, connection)

    def _reset(self, connection: _Connection, *, gently: bool = False) -> None:
        self._connections.remove(connection)
        for end in connection.sockets:
            self._watch(end, 0, connection)
            if not gently:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def _wait(self) -> float | None:
        if self._stalled:
            return None
        waiting = [way for one in self._connections for way in one.ways if way.queue and not way.blocked]
        return max(0.0, min(way.queue[0][0] for way in waiting) - time.monotonic()) if waiting else None


if __name__ == "__main__":
    _Process(int(sys.argv[1]), *map(float, sys.argv[2:])).serve()
