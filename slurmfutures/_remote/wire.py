"""Frames: what travels between client and agent, and between agent and workers.

A frame is a 13-byte prefix (kind, length of the head, length of the body), a head of JSON and a body of bytes. Heads
are data; bodies are opaque here. The hot kinds, CALLS and RESULTS, have no head at all: their body is a run of
records packed by `payload`.
"""

import json
import struct
from typing import Any, Iterator, List, NamedTuple, Union

PROTOCOL = 1

MESSAGE = 1
CALLS = 2
RESULTS = 3

_PREFIX = struct.Struct(">BIQ")
_MAX_HEAD = 1 << 28

Buffer = Union[bytes, bytearray, memoryview]


class WireError(Exception):
    """The other side sent something that is not a frame: the stream cannot be used any further."""


class Frame(NamedTuple):
    kind: int
    head: Any  # parsed JSON, None where there is none
    body: bytes


def message(head: Any, body: Buffer = b"") -> List[Buffer]:
    """Return a control frame as buffers to be sent one after the other."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return (
        [_PREFIX.pack(MESSAGE, len(text), len(body)) + text, body]
        if body
        else [_PREFIX.pack(MESSAGE, len(text), 0) + text]
    )


def packed(kind: int, parts: List[Buffer]) -> bytes:
    """Return a CALLS or RESULTS frame around packed records."""
    body = b"".join(parts)
    return _PREFIX.pack(kind, 0, len(body)) + body


class Reader:
    """Turns received bytes into frames; keeps what is not whole yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Yield the frames that `data` completes. Raises WireError on what cannot be a frame."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _PREFIX.size:
                kind, head_length, body_length = _PREFIX.unpack_from(buffer, at)
                if not MESSAGE <= kind <= RESULTS or head_length > _MAX_HEAD:
                    raise WireError("not a frame: %r" % bytes(buffer[at : at + 40]))
                start = at + _PREFIX.size
                end = start + head_length + body_length
                if len(buffer) < end:
                    break
                head = None
                if head_length:
                    try:
                        head = json.loads(buffer[start : start + head_length].decode())
                    except ValueError as error:
                        raise WireError("a frame whose head is not JSON") from error
                body = bytes(memoryview(buffer)[start + head_length : end])
                at = end
                yield Frame(kind, head, body)
        finally:
            del buffer[:at]
