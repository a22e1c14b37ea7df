"""The client's end of the pipe: frames out from any thread, frames in for the poller, requests and their replies.

A link outlives the streams that it uses one after the other. While there is none, frames gather and requests wait.
"""

import itertools
import reprlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ._bootstrap import Started, is_path
from ._errors import AgentError, SlurmFuturesError, os_error
from ._heartbeat import Heartbeat
from ._logs import get_logger
from ._printable import printable
from ._remote import wire
from ._remote.outbox import Outbox

logger = get_logger("link")

MOST_EVENT = 1 << 26  # bytes of the body of what is neither a result nor a reply
MOST_SIZE = 1 << 62  # bytes of a file, so that an offset behind its end is still a C integer
MOST_NUMBER = (1 << 64) - 1
_CHUNK = 1 << 18


class Reply(NamedTuple):
    head: Mapping[str, Any]
    body: wire.Body


class Words:
    """The head of a message from the agent; each word is checked when it is read.

    `op` and `what` name the reply in errors. A method that is named by a type raises AgentError where the word is
    missing or of another type. Nothing is copied.
    """

    __slots__ = ("_found", "_op", "_what")

    def __init__(self, found: Mapping[str, Any], op: str, what: str = "the reply to") -> None:
        self._found = found
        self._op = op
        self._what = what

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def misfit(self, what: str) -> AgentError:
        """Return the error for a reply; `what` names the fault."""
        where = f"in {self._what} {self._op!r}"
        return AgentError(f"what came from the agent cannot be understood: {printable(what)} {where}")

    def wrong(self, name: str) -> AgentError:
        """Return the error for a missing or invalid word."""
        if name not in self._found:
            return self.misfit(f"{name!r:.60} is missing")
        return self.misfit(f"{name!r:.60} is {_SHORT.repr(self._found[name]):.120}")

    def lacks(self, name: str) -> bool:
        """Whether a word is null or missing."""
        return self._found.get(name) is None

    def text(self, name: str) -> str:
        value = self._found.get(name)
        if type(value) is not str:
            raise self.wrong(name)
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text, None where the word is null or missing."""
        return None if self.lacks(name) else self.text(name)

    def path(self, name: str) -> str:
        """Return a path that file systems take."""
        value = self.text(name)
        if not is_path(value):
            raise self.wrong(name)
        return value

    def number(self, name: str, *, least: int = 0, most: int = MOST_NUMBER) -> int:
        value = self._found.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name)
        return value

    def number_or_none(self, name: str, *, least: int = 0, most: int = MOST_NUMBER) -> int | None:
        """Return a number, None where the word is null or missing."""
        return None if self.lacks(name) else self.number(name, least=least, most=most)

    def seconds(self, name: str) -> float:
        """Return a finite number of seconds."""
        value: Any = self._found.get(name)
        if type(value) not in (int, float) or not abs(value) <= _LONGEST_TIME:  # NaN compares as false
            raise self.wrong(name)
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._found.get(name)
        if type(value) is not bool:
            raise self.wrong(name)
        return value

    def flag_or_none(self, name: str) -> bool | None:
        """Return a truth value, None where the word is null or missing."""
        return None if self.lacks(name) else self.flag(name)

    def items(self, name: str, kind: type = object, length: int | None = None) -> list[Any]:
        """Return a list, all of whose items are of one type, and as many as `length`, if that is given."""
        value = self._found.get(name)
        if type(value) is not list or (length is not None and len(value) != length):
            raise self.wrong(name)
        if kind is not object and not {kind}.issuperset(map(type, value)):
            raise self.wrong(name)
        return value

    def each(self, name: str) -> "list[Words]":
        """Return a list of objects, as words of their own."""
        return [Words(item, self._op, self._what) for item in self.items(name, dict)]

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object as it is."""
        value = self._found.get(name)
        if type(value) is not dict:
            raise self.wrong(name)
        return value

    def inner(self, name: str) -> "Words":
        """Return an object, as words of its own."""
        return Words(self.mapping(name), self._op, self._what)

    def message(self) -> str:
        """Return the message of an error, with its control characters as escapes."""
        return printable(self.text("message"))

    def os_error(self, *names: str | None) -> OSError:
        """Return the OSError that a reply reports; `names` are the arguments after its message."""
        return os_error(self.number("errno", least=1, most=_MOST_ERRNO), self.text_or_none("strerror") or "", *names)


_LONGEST_TIME = 1e20  # seconds: times of files have 64 bits
_MOST_ERRNO = 4095
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class LinkDown(Exception):
    """The stream cannot be used any more; `last_words` is what its process wrote to stderr."""

    def __init__(self, reason: str, last_words: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.last_words = last_words


class _Awaited(Future[Reply]):
    """A reply to come. `misfit` is what kept a callback from understanding it: a Future only logs that."""

    misfit: Exception | None = None

    def add_done_callback(self, fn: Callable[[Future[Reply]], object]) -> None:
        def understood(reply: Future[Reply]) -> None:
            try:
                fn(reply)
            except (*wire.MISFITS, AgentError) as error:
                # By the argument: a reference to itself would keep alive what its callbacks refer to.
                assert isinstance(reply, _Awaited)
                reply.misfit = error
                logger.debug("a reply of the agent's that cannot be used", exc_info=True)

        super().add_done_callback(understood)


class _Request(NamedTuple):
    head: Mapping[str, Any]
    body: Sequence[wire.Buffer]
    key: Hashable
    again: bool  # whether it may be sent a second time
    reply: _Awaited


class _Nowhere:
    """Takes the body of a reply that nothing waits for."""

    def write(self, data: wire.Buffer) -> None:
        pass

    def drop(self) -> None:
        pass


class Link:
    """Talks to one agent after the other.

    `wake` is called, from any thread, when the poller has to look at `pending()` anew. `heartbeat` is how many seconds
    of silence count as a lost connection, None for streams that tell by themselves.
    """

    def __init__(self, wake: Callable[[], None], heartbeat: float | None) -> None:
        self._wake = wake
        self._limit = heartbeat
        # Guards all below but the poller's own, and the stream's writing end; taken by all threads.
        self._lock = threading.Lock()
        self._started: Started | None = None
        self._outbox = Outbox()
        self._unsent: wire.Buffer = b""  # what the stream did not take of the last piece
        self._requests: dict[int, _Request] = {}
        self._sent: set[int] = set()  # those of the requests that were sent on the present stream
        self._numbers = itertools.count(1)
        self._closed: SlurmFuturesError | None = None
        # The poller's thread only.
        self._heartbeat: Heartbeat | None = None

    def send(self, buffers: Sequence[wire.Buffer], key: Hashable = None, *, bulk: bool = False) -> None:
        """Send a frame, now where the pipe takes it, else as soon as it does. Any thread; never blocks.

        Frames of one key keep their order. What is `bulk` waits for everything else, and is dropped where there is no
        connection.
        """
        with self._lock:
            if self._closed is not None or (bulk and self._started is None):
                return  # what this was part of has failed already, or fails now by the same loss
            idle = not self._outbox and not self._unsent
            self._outbox.add(buffers, key, bulk=bulk)
            if idle:
                self._write()
            left = bool(self._outbox) or bool(self._unsent)
        if left:
            self._wake()

    def request(
        self,
        head: Mapping[str, Any],
        body: Sequence[wire.Buffer] = (),
        *,
        again: bool = False,
        key: Hashable = None,
    ) -> tuple[int, "Future[Reply]"]:
        """Send a request. Its reply, or the loss of the agent, resolves the future in the poller's thread.

        One that may be sent `again` is repeated after a lost connection until it is answered; the others are sent once,
        when there is a connection, and fail with what `lose` is given. Any thread.
        """
        reply = _Awaited()
        number = next(self._numbers)
        with self._lock:
            closed = self._closed
            if closed is None:
                self._requests[number] = _Request(head, body, key, again, reply)
                connected = self._started is not None
                if connected:
                    self._sent.add(number)
        if closed is not None:
            reply.set_exception(closed)
        elif connected:
            self._send_request(number)
        return number, reply

    def _send_request(self, number: int) -> None:
        request = self._requests.get(number)
        if request is not None:
            self.send(wire.stretched({**request.head, "id": number}, request.body), request.key)

    @property
    def connected(self) -> bool:
        return self._started is not None

    # ---- the poller's thread only

    def connect(self, started: Started) -> None:
        """Use a new stream from now on; what was left unanswered is asked again by `repeat`."""
        started.reader.place = self._place
        with self._lock:
            self._started = started
        if self._limit is not None:
            self._heartbeat = Heartbeat(self._limit, time.monotonic(), slept)

    def repeat(self) -> None:
        """Send all requests that wait for it, in their order."""
        with self._lock:
            numbers = sorted(self._requests.keys() - self._sent)
            self._sent.update(numbers)
        for number in numbers:
            self._send_request(number)

    def readable(self) -> int:
        assert self._started is not None
        return self._started.stream.readable()

    def writable(self) -> int:
        assert self._started is not None
        return self._started.stream.writable()

    def pending(self) -> bool:
        """Whether there is something left to write."""
        with self._lock:
            return self._started is not None and bool(self._outbox or self._unsent)

    def flush(self) -> None:
        """Write what can be written."""
        with self._lock:
            wrote = self._write()
        if wrote and self._heartbeat is not None:
            self._heartbeat.heard(time.monotonic())  # it was full, and somebody has made room

    def _write(self) -> bool:
        """Holds the lock. Return whether anything was written."""
        wrote = False
        if self._started is None:
            return wrote
        try:
            while self._unsent or self._outbox:
                if not self._unsent:
                    self._unsent = memoryview(self._outbox.take(_CHUNK))
                sent = self._started.stream.write(memoryview(self._unsent))
                self._unsent = self._unsent[sent:]
                wrote = True
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""
            self._outbox.clear()  # the reading end tells what happened
        return wrote

    def receive(self) -> Iterator[wire.Frame]:
        """Yield the frames that have come in, replies excepted. Raises LinkDown once the agent is gone."""
        started = self._started
        if started is None:
            return
        try:
            data = started.stream.read(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise LinkDown(started.stream.why_ended() or "the agent has ended", started.stream.last_words())
        if self._heartbeat is not None:
            self._heartbeat.heard(time.monotonic())
        for frame in self._frames(started, data):
            if frame.kind == wire.GOT:
                with self._lock:
                    self._outbox.acknowledged(frame.head)
                    self._write()
                continue
            if frame.kind == wire.RESULTS or (frame.kind == wire.MESSAGE and frame.head["op"] != "reply"):
                yield frame
                continue
            number = frame.head.get("id") if frame.kind == wire.MESSAGE else None
            if type(number) is not int:
                raise LinkDown("what came from the agent cannot be understood: it is neither an event nor a reply")
            with self._lock:
                request = self._requests.pop(number, None)
                self._sent.discard(number)
            if request is not None:
                request.reply.set_result(Reply(frame.head, frame.body))
                if request.reply.misfit is not None:
                    raise not_understood(request.reply.misfit) from request.reply.misfit
        pieces = started.reader.take_pieces()
        if pieces:
            self.send(wire.got(pieces))

    def _place(self, head: Any, size: int) -> wire.Sink | None:
        """Bound what is held of frames that nothing here has asked for."""
        op = head["op"] if head is not None else "results"
        if op == "reply":
            number = head.get("id")
            with self._lock:
                return None if type(number) is int and number in self._sent else _Nowhere()
        if op != "results" and size > MOST_EVENT:
            raise wire.WireError(f"{size} bytes behind {op[:40]!r}")
        return None

    def _frames(self, started: Started, data: bytes) -> Iterator[wire.Frame]:
        try:
            yield from started.reader.feed(started.opener.feed(data))
        except wire.WireError as error:
            raise LinkDown(f"what came from the agent cannot be understood: {error}") from error

    def next_beat(self) -> float | None:
        """Return when `beat` is due, on the monotonic clock."""
        return self._heartbeat.next_due() if self._heartbeat is not None else None

    def beat(self) -> None:
        """Ask for a sign of life when it is time to; raise LinkDown where there has been none for too long."""
        if self._heartbeat is None:
            return
        now = time.monotonic()
        reason = self._heartbeat.lost(now)
        if reason is not None:
            raise LinkDown(reason)
        if self._heartbeat.due(now):
            self.send(wire.message({"op": "ping"}))

    def disconnect(self, clear: Callable[[Callable[[], None]], None]) -> None:
        """Give the stream up. `clear` is given a function that drops all frames which have not been written."""
        with self._lock:
            started, self._started = self._started, None
        self._heartbeat = None
        clear(self._drop_frames)
        if started is not None:
            started.stream.close(0.0)

    def _drop_frames(self) -> None:
        with self._lock:
            self._outbox.clear()
            self._unsent = b""

    def fail_sent(self, error: SlurmFuturesError) -> None:
        """Fail the requests that were sent and cannot be repeated; the others wait."""
        with self._lock:
            gone = [number for number in self._sent if not self._requests[number].again]
            requests = [self._requests.pop(number) for number in gone]
            self._sent.clear()
        for request in requests:
            request.reply.set_exception(error)

    def end(self, error: SlurmFuturesError) -> None:
        """Fail all requests that wait, and those to come."""
        with self._lock:
            self._closed = self._closed or error
            requests, self._requests = self._requests, {}
            self._sent.clear()
        for request in requests.values():
            request.reply.set_exception(error)

    def close(self, timeout: float) -> None:
        """Close the stream and let the agent end, for at most `timeout` seconds."""
        with self._lock:
            started = self._started
            self._closed = self._closed or AgentError("the connection is closed", "")
            # Said in words too: a child that the driver forked may hold copies of the pipe open.
            self._outbox.add(wire.message({"op": "bye"}))
            self._write()
            self._started = None
        self.end(self._closed)
        if started is not None:
            started.stream.close(timeout)


def not_understood(error: Exception) -> LinkDown:
    """Return the LinkDown for an error that a handler raised."""
    if isinstance(error, AgentError):
        return LinkDown(error.message)
    return LinkDown(f"what came from the agent cannot be understood: {type(error).__name__}: {error}")


def slept() -> float:
    """Return for how many seconds this machine has slept since it was started, as far as that can be known."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return 0.0
