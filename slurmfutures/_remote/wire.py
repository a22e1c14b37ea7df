"""Frames: what travels between client and agent, and between agent and workers.

A frame is a 13-byte prefix (kind, length of the head, length of the body), a head of JSON and a body of bytes. Heads
are data; bodies are opaque here. The hot kinds, CALLS and RESULTS, have no head at all: their body is a run of
records packed by `payload`.

A large frame travels in pieces, so that others can pass it: a PART has the number of a lane in place of a head's
length, and its body is the next piece of the frame that the lane carries. A PART without a body says that the rest
of that frame will not come. Each PART is acknowledged, so that the sender knows how many are on their way: a GOT has
a count of them in place of a head's length, and no body.

What the agent writes goes through a pipe that whatever a login shell has left in the background may write to as well.
So it travels in envelopes: eight bytes that were made up for this connection, a length, and no more than a pipe takes
in one piece. Whatever stands between two envelopes is skipped.
"""

import json
import struct
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Union

PROTOCOL = 3

MESSAGE = 1
CALLS = 2
RESULTS = 3
PART = 4
GOT = 5

PREFIX = struct.Struct(">BIQ")
_LARGE = 1 << 20  # bytes of a frame for which it is given a buffer of its own
_MAX_HEAD = 1 << 28
_SMALL = 1 << 16  # bytes of records that are joined into one buffer

Buffer = Union[bytes, bytearray, memoryview]
Body = Union[bytes, memoryview]


class WireError(Exception):
    """The other side sent something that is not a frame: the stream cannot be used any further."""


class Frame(NamedTuple):
    kind: int
    head: Any  # parsed JSON, None where there is none
    body: Body


def message(head: Any, body: Buffer = b"") -> List[Buffer]:
    """Return a control frame as buffers to be sent one after the other."""
    return stretched(head, [body] if body else [])


def stretched(head: Any, body: Sequence[Buffer], length: Optional[int] = None) -> List[Buffer]:
    """Return a control frame whose body is in several buffers, or still to come: `length` bytes of it."""
    text = json.dumps(head, separators=(",", ":")).encode()
    size = sum(map(len, body)) if length is None else length
    return [PREFIX.pack(MESSAGE, len(text), size) + text, *body]


def packed(kind: int, parts: Sequence[Buffer]) -> List[Buffer]:
    """Return a CALLS or RESULTS frame around packed records."""
    size = sum(map(len, parts))
    prefix = PREFIX.pack(kind, 0, size)
    return [prefix + b"".join(parts)] if size <= _SMALL else [prefix, *parts]


def got(pieces: int) -> List[Buffer]:
    """Return a frame that acknowledges so many pieces."""
    return [PREFIX.pack(GOT, pieces, 0)]


class Sink(Protocol):
    """Takes the body of a large frame while it arrives."""

    def write(self, data: Buffer) -> None: ...

    def drop(self) -> None:
        """The rest will not come."""


Place = Callable[[Any], Optional[Sink]]


class _Growing:
    """A large frame that is not all there yet."""

    def __init__(self, start: Buffer, place: Place) -> None:
        if len(start) < PREFIX.size:
            raise WireError("a large frame that begins with less than a prefix")
        self._kind, self._head, body = PREFIX.unpack_from(start)
        if not MESSAGE <= self._kind <= RESULTS or self._head > _MAX_HEAD:
            raise WireError("not a frame: %r" % bytes(start[:40]))
        self._place = place
        self._body = body
        self._data = bytearray(PREFIX.size + self._head)
        self._at = 0
        self._words: Any = None
        self._sink: Optional[Sink] = None
        self._left: int = len(self._data) + body

    def fill(self, data: memoryview) -> int:
        """Take as much of `data` as belongs to the frame; return how much that is."""
        used = min(len(data), self._left)
        self._left -= used
        rest = data[:used]
        start = PREFIX.size + self._head
        if self._at < start:
            rest = self._keep(rest, start)
            if self._at == start:
                self._words = _parse(self._data[PREFIX.size :])
                self._sink = self._place(self._words)
                if self._sink is None:
                    whole = bytearray(start + self._body)
                    whole[:start] = self._data
                    self._data = whole
        if rest and self._sink is not None:
            self._sink.write(rest)
        elif rest:
            self._keep(rest, len(self._data))
        return used

    def _keep(self, data: memoryview, end: int) -> memoryview:
        """Copy what goes before `end`; return what is left of `data`."""
        used = min(len(data), end - self._at)
        self._data[self._at : self._at + used] = data[:used]
        self._at += used
        return data[used:]

    def frame(self) -> Optional[Frame]:
        """Return the frame if it is all there."""
        if self._left:
            return None
        if self._sink is not None:
            return Frame(self._kind, {**self._words, "body": self._sink}, b"")
        return Frame(self._kind, self._words, memoryview(self._data)[PREFIX.size + self._head :])

    def drop(self) -> None:
        if self._sink is not None:
            self._sink.drop()


class Reader:
    """Turns received bytes into frames; keeps what is not whole yet, and counts pieces that are to be acknowledged.

    The count of a GOT is the head of its frame. `place` is given the head of a large frame and may return what takes
    its body: then that is "body" in the head.
    """

    def __init__(self, place: Place = lambda head: None) -> None:
        self._place = place
        self._buffer = bytearray()
        self._growing: Optional[_Growing] = None
        self._pieces = 0
        self._lanes: Dict[int, _Growing] = {}

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Yield the frames that `data` completes. Raises WireError on what cannot be a frame.

        What `data` holds may be another thing as soon as the first of them is there.
        """
        if self._growing is not None:
            view = memoryview(data)
            data = bytes(view[self._growing.fill(view) :])  # whoever is given a frame may use his buffer again
            frame = self._growing.frame()
            if frame is None:
                return
            self._growing = None
            yield frame
        buffer = self._buffer
        buffer += data
        at, size, unpack = 0, len(buffer), PREFIX.unpack_from
        try:
            while size - at >= PREFIX.size:
                kind, head_length, body_length = unpack(buffer, at)
                number = head_length
                if kind in (PART, GOT):
                    head_length = 0
                elif not MESSAGE <= kind <= RESULTS or head_length > _MAX_HEAD:
                    raise WireError("not a frame: %r" % bytes(buffer[at : at + 40]))
                start = at + PREFIX.size
                end = start + head_length + body_length
                if size < end:
                    if end - at > _LARGE:
                        self._growing = _Growing(buffer[at : at + PREFIX.size], self._place)
                        at += self._growing.fill(memoryview(buffer[at:]))
                    break
                head = _parse(buffer[start : start + head_length]) if head_length else None
                body = bytes(memoryview(buffer)[start + head_length : end])
                at = end
                if kind == PART:
                    self._pieces += 1
                    frame = self._piece(number, body)
                    if frame is not None:
                        yield frame
                elif kind == GOT:
                    yield Frame(GOT, number, b"")
                else:
                    yield Frame(kind, head, body)
        finally:
            del buffer[:at]

    def take_pieces(self) -> int:
        """Return how many pieces have come since this was last asked."""
        pieces, self._pieces = self._pieces, 0
        return pieces

    def _piece(self, lane: int, piece: bytes) -> Optional[Frame]:
        if not piece:
            dropped = self._lanes.pop(lane, None)
            if dropped is not None:
                dropped.drop()
            return None
        growing = self._lanes.get(lane)
        if growing is None:
            growing = self._lanes[lane] = _Growing(piece, self._place)
        if growing.fill(memoryview(piece)) < len(piece):
            raise WireError("a piece of a frame is longer than what was left of it")
        frame = growing.frame()
        if frame is not None:
            del self._lanes[lane]
        return frame


def _parse(text: Buffer) -> Any:
    if not text:
        return None
    try:
        return json.loads(bytes(text).decode())
    except ValueError as error:
        raise WireError("a frame whose head is not JSON") from error


# ---- envelopes

SYNC_SIZE = 8
_LENGTH = struct.Struct(">H")
_ENVELOPE = SYNC_SIZE + _LENGTH.size
ENVELOPED = 4096 - _ENVELOPE  # bytes in one: PIPE_BUF, within which nothing else is written in between
WIDE = 65536 - _ENVELOPE  # bytes in one where nobody else has the pipe


def enveloped(sync: bytes, data: Buffer) -> bytes:
    """Return up to ENVELOPED bytes, or WIDE, in an envelope."""
    return b"".join((sync, _LENGTH.pack(len(data)), data))


class Opener:
    """Takes the content out of envelopes and drops what is around them."""

    def __init__(self, sync: bytes) -> None:
        self._sync = sync
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the envelopes that `data` completes."""
        data = self._rest + data if self._rest else data
        found: List[Buffer] = []
        view, at = memoryview(data), 0
        while True:
            if data[at : at + SYNC_SIZE] != self._sync:
                start = data.find(self._sync, at)
                if start < 0:  # its beginning may be there
                    at = max(at, len(data) - SYNC_SIZE + 1)
                    break
                at = start
            start = at + _ENVELOPE
            if len(data) < start:
                break
            end = start + _LENGTH.unpack_from(data, at + SYNC_SIZE)[0]
            if len(data) < end:
                break
            found.append(view[start:end])
            at = end
        self._rest = data[at:]
        return b"".join(found)
