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

What is announced takes no memory before it comes. A frame that is too large, or whose head is not what a head has to
be, is a WireError; a handler that finds a field missing or of a wrong type raises one of MISFITS, which is the same.
"""

import json
import struct
import sys
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Union

PROTOCOL = 3

MESSAGE = 1
CALLS = 2
RESULTS = 3
PART = 4
GOT = 5

PREFIX = struct.Struct(">BIQ")
MOST_HEAD = 1 << 26  # bytes of a head
MOST_BODY = 1 << 40  # bytes of a body
MOST_LANES = 4096  # large frames that are on their way at once
MISFITS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    OverflowError,
    RecursionError,
    struct.error,
)
_LARGE = 1 << 20  # bytes of a frame for which it is given a buffer of its own
_SMALL = 1 << 16  # bytes of records that are joined into one buffer
_MOST_DIGITS = 4300  # of an integer in a head

Buffer = Union[bytes, bytearray, memoryview]
Body = Union[bytes, memoryview]


class WireError(Exception):
    """The other side sent something that is not a frame: the stream cannot be used any further."""


class Frame(NamedTuple):
    kind: int
    head: Any  # of a MESSAGE: a dict that has an "op", which is a str; of a GOT: a count; else None
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


Place = Callable[[Any, int], Optional[Sink]]


class _Growing:
    """A large frame that is not all there yet."""

    __slots__ = ("_body", "_data", "_kind", "_left", "_place", "_sink", "_start", "_words")

    def __init__(self, start: Buffer, place: Place) -> None:
        if len(start) < PREFIX.size:
            raise WireError("a large frame that begins with less than a prefix")
        kind, head, body = PREFIX.unpack_from(start)
        most = MOST_HEAD if kind == MESSAGE else 0
        if not MESSAGE <= kind <= RESULTS or head > most or body > MOST_BODY:
            raise WireError("not a frame: %r" % bytes(start[:40]))
        self._kind = kind
        self._place = place
        self._start = PREFIX.size + head
        self._body = body
        self._data = bytearray()
        self._words: Any = None
        self._sink: Optional[Sink] = None
        self._left: int = self._start + body

    def fill(self, data: memoryview) -> int:
        """Take as much of `data` as belongs to the frame; return how much that is."""
        used = min(len(data), self._left)
        self._left -= used
        rest = data[:used]
        missing = self._start - len(self._data)
        if missing > 0:
            self._data += rest[:missing]
            rest = rest[missing:]
            if len(self._data) < self._start:
                return used
            self._words = _parse(self._kind, self._data[PREFIX.size :])
            self._sink = self._place(self._words, self._body)
        if rest and self._sink is not None:
            self._sink.write(rest)
        elif rest:
            self._data += rest
        return used

    def frame(self) -> Optional[Frame]:
        """Return the frame if it is all there."""
        if self._left:
            return None
        if self._sink is not None:
            return Frame(self._kind, {**self._words, "body": self._sink}, b"")
        return Frame(self._kind, self._words, memoryview(self._data)[self._start :])

    def drop(self) -> None:
        if self._sink is not None:
            self._sink.drop()


class Reader:
    """Turns received bytes into frames; keeps what is not whole yet, and counts pieces that are to be acknowledged.

    The count of a GOT is the head of its frame. `place` is given the head of a large frame, None where it has none, and
    the length of its body. It may return what takes the body: then that is "body" in the head. It may raise WireError.
    """

    def __init__(self, place: Place = lambda head, size: None) -> None:
        self.place = place
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
                    if body_length > (_LARGE if kind == PART else 0):
                        raise WireError("not a frame: %r" % bytes(buffer[at : at + 40]))
                else:
                    most = MOST_HEAD if kind == MESSAGE else 0
                    if not MESSAGE <= kind <= RESULTS or head_length > most or body_length > MOST_BODY:
                        raise WireError("not a frame: %r" % bytes(buffer[at : at + 40]))
                start = at + PREFIX.size
                end = start + head_length + body_length
                if size < end:
                    if end - at > _LARGE:
                        self._growing = _Growing(buffer[at : at + PREFIX.size], self.place)
                        at += self._growing.fill(memoryview(buffer[at:]))
                    break
                head = _parse(kind, buffer[start : start + head_length]) if kind == MESSAGE else None
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
            if len(self._lanes) >= MOST_LANES:
                raise WireError("more than %d large frames at once" % MOST_LANES)
            growing = self._lanes[lane] = _Growing(piece, self.place)
        if growing.fill(memoryview(piece)) < len(piece):
            raise WireError("a piece of a frame is longer than what was left of it")
        frame = growing.frame()
        if frame is not None:
            del self._lanes[lane]
        return frame


def _parse(kind: int, text: Buffer) -> Optional[Dict[str, Any]]:
    if kind != MESSAGE:
        return None
    try:
        head = _decode(bytes(text).decode())
    except (ValueError, RecursionError) as error:
        raise WireError("a frame whose head is not JSON") from error
    if not isinstance(head, dict) or not isinstance(head.get("op"), str):
        raise WireError("a frame whose head does not say what it is about: %r" % bytes(text[:40]))
    return head


def _constant(word: str) -> float:
    if word == "NaN":  # it has no order, and a time that is none would be waited for without end
        raise ValueError("NaN is no number")
    return float(word)


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


# Only Pythons that do not bound it themselves: there a long number takes time in the square of its digits.
_own_limit = {} if hasattr(sys, "get_int_max_str_digits") else {"parse_int": _integer}
_decode = json.JSONDecoder(parse_constant=_constant, **_own_limit).decode  # type: ignore[arg-type]


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
