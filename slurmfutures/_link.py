"""The client's end of the pipe: frames out from any thread, frames in for the poller, requests and their replies."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ._errors import AgentError
from ._remote import wire
from ._transports.base import Stream

_CHUNK = 1 << 18


class Reply(NamedTuple):
    head: Mapping[str, Any]
    body: bytes


class Link:
    """Talks to one agent over one stream.

    `wake` is called, from any thread, when the poller has to look at `pending()` anew.
    """

    def __init__(self, stream: Stream, reader: wire.Reader, wake: Callable[[], None]) -> None:
        self._stream = stream
        self._reader = reader
        self._wake = wake
        self._lock = threading.Lock()  # guards _out, _replies and the stream's writing end; taken by all threads
        self._out: deque[memoryview] = deque()
        self._replies: dict[int, Future[Reply]] = {}
        self._numbers = itertools.count(1)
        self._lost: AgentError | None = None

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        """Send a frame, now where the pipe takes it, else as soon as it does. Any thread; never blocks."""
        with self._lock:
            if self._lost is not None:
                return  # what this was part of has failed already, or fails now by the same loss
            idle = not self._out
            self._out.extend(memoryview(buffer) for buffer in buffers)
            if idle:
                self._write()
            left = bool(self._out)
        if left:
            self._wake()

    def request(self, head: Mapping[str, Any], body: Sequence[wire.Buffer] = ()) -> tuple[int, Future[Reply]]:
        """Send a request; its reply, or the loss of the agent, resolves the future in the poller's thread."""
        reply: Future[Reply] = Future()
        number = next(self._numbers)
        joined = b"".join(body) if body else b""
        with self._lock:
            lost = self._lost
            if lost is None:
                self._replies[number] = reply
        if lost is not None:
            reply.set_exception(lost)
        else:
            self.send(wire.message({**head, "id": number}, joined))
        return number, reply

    # ---- the poller's thread only

    def readable(self) -> int:
        return self._stream.readable()

    def writable(self) -> int:
        return self._stream.writable()

    def pending(self) -> bool:
        """Whether there is something left to write."""
        with self._lock:
            return bool(self._out)

    def flush(self) -> None:
        """Write what can be written."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        """Holds the lock."""
        try:
            while self._out:
                sent = self._stream.write(self._out[0])
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # the reading end tells what happened

    def receive(self) -> Iterator[wire.Frame]:
        """Yield the frames that have come in, replies excepted. Raises AgentError once the agent is gone."""
        try:
            data = self._stream.read(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise AgentError("the agent has ended", self._stream.last_words())
        for frame in self._reader.feed(data):
            if frame.kind == wire.MESSAGE and frame.head["op"] == "reply":
                with self._lock:
                    reply = self._replies.pop(frame.head["id"])
                reply.set_result(Reply(frame.head, frame.body))
            else:
                yield frame

    def lose(self, error: AgentError) -> None:
        """Fail all requests that wait, and those to come."""
        with self._lock:
            self._lost = error
            replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.set_exception(error)

    def close(self, timeout: float) -> None:
        """Close the stream and let the agent end, for at most `timeout` seconds."""
        with self._lock:
            self._lost = self._lost or AgentError("the connection is closed", "")
            # Said in words too: a child that the driver forked may hold copies of the pipe open.
            self._out.extend(memoryview(buffer) for buffer in wire.message({"op": "bye"}))
            self._write()
        self.lose(self._lost)
        self._stream.close(timeout)
