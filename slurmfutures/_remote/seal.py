"""Who may talk, and that nothing was changed on the way: a handshake and keyed records around a stream of bytes.

    acceptor   MAGIC, its nonce
    caller     MAGIC, its nonce, the length of its words, its words (JSON), MAC of both nonces and the words
    acceptor   the length of its words, its words, MAC of both nonces and the words

Each side thus sees that the other one has the key, now: the nonces are new each time. The MACs of the two sides, and
the keys of the two directions, are made for their purpose, so that nobody gets on by sending back what he was sent.
What is said is authentic and not secret. A stream is then cut into records: length, digest of the record's number
and its content, content. Nothing is parsed before what it came with was verified. A record without content is a beat,
by which a side shows that it is there. docs/pilots-protocol.md has the reasons for all of it.

Pure: no input and no output here. Whatever is not right is a SealError, after which the stream is of no more use.
"""

import hashlib
import hmac
import json
import os
import struct
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from . import wire

KEY = 32  # bytes of a key
MAGIC = b"slurmfutures 2\r\n"
RECORD = 1 << 18  # bytes of content in a record at most
MOST_WORDS = 1 << 16  # bytes of words
_NONCE = 32
_MAC = 32
_DIGEST = 16
_LENGTH = struct.Struct(">I")
_COUNTER = struct.Struct(">Q")
_HEAD = _LENGTH.size + _DIGEST
_SMALL = 1 << 16  # bytes of content that are joined with their head
_FEW = 8  # buffers of a record that are not joined

_CALLER, _ACCEPTOR = b"sf caller proves", b"sf acceptor is"  # 16 bytes at most
_UP, _DOWN = b"sf up", b"sf down"


class SealError(wire.WireError):
    """What came is not from somebody who has the key, or not what he sent."""


class Agreed(NamedTuple):
    """What a handshake came to."""

    words: Mapping[str, Any]  # the other side's
    sealer: "Sealer"
    unsealer: "Unsealer"
    rest: bytes  # what came behind the handshake


class Handshake:
    """One side of a handshake; `agreed` is there when it is done."""

    def __init__(self, key: bytes, words: Mapping[str, Any]) -> None:
        if len(key) != KEY:
            raise ValueError("a key has %d bytes" % KEY)
        self._key = key
        self._words = json.dumps(words, separators=(",", ":")).encode()
        if len(self._words) > MOST_WORDS:
            raise ValueError("%d bytes of words are too many" % len(self._words))
        self._nonce = os.urandom(_NONCE)
        self._buffer = bytearray()
        self.agreed: Optional[Agreed] = None

    def feed(self, data: wire.Buffer) -> bytes:
        """Take what came; return what is to be sent. Raises SealError."""
        raise NotImplementedError

    def _take_magic(self) -> Optional[bytes]:
        """Return the other side's nonce once it is there, and leave it and MAGIC where they are."""
        if self._buffer[: len(MAGIC)] != MAGIC[: len(self._buffer)]:
            raise SealError("began with %r" % bytes(self._buffer[:40]))
        start = len(MAGIC)
        nonce = self._buffer[start : start + _NONCE]
        return bytes(nonce) if len(nonce) == _NONCE else None

    def _take_words(self, start: int, role: bytes, nonces: bytes) -> Optional[bytes]:
        """Return the other side's words, verified, once they are there, and drop all before their end."""
        at = start + _LENGTH.size
        if len(self._buffer) < at:
            return None
        length: int = _LENGTH.unpack_from(self._buffer, start)[0]
        if length > MOST_WORDS:
            raise SealError("announced %d bytes about itself" % length)
        end = at + length + _MAC
        if len(self._buffer) < end:
            return None
        words = bytes(self._buffer[at : at + length])
        if not hmac.compare_digest(self._mac(role, nonces, words), bytes(self._buffer[at + length : end])):
            raise SealError("does not have the key")
        del self._buffer[:end]
        return words

    def _said(self, role: bytes, nonces: bytes) -> bytes:
        return _LENGTH.pack(len(self._words)) + self._words + self._mac(role, nonces, self._words)

    def _mac(self, purpose: bytes, nonces: bytes, words: bytes = b"") -> bytes:
        return hashlib.blake2b(nonces + words, key=self._key, person=purpose, digest_size=_MAC).digest()

    def _agree(self, words: bytes, nonces: bytes, sends: bytes, receives: bytes) -> None:
        try:
            found = json.loads(words.decode())
        except (ValueError, RecursionError) as error:
            raise SealError("has words that are not JSON") from error
        if not isinstance(found, dict):
            raise SealError("has words that are no mapping")
        sealer, unsealer = Sealer(self._mac(sends, nonces)), Unsealer(self._mac(receives, nonces))
        self.agreed = Agreed(found, sealer, unsealer, bytes(self._buffer))
        self._buffer.clear()


class Acceptor(Handshake):
    """The side that was called; `greeting` is to be sent first."""

    @property
    def greeting(self) -> bytes:
        return MAGIC + self._nonce

    def feed(self, data: wire.Buffer) -> bytes:
        self._buffer += data
        nonce = self._take_magic()
        if nonce is None:
            return b""
        nonces = self._nonce + nonce
        words = self._take_words(len(MAGIC) + _NONCE, _CALLER, nonces)
        if words is None:
            return b""
        self._agree(words, nonces, _DOWN, _UP)
        return self._said(_ACCEPTOR, nonces)


class Caller(Handshake):
    """The side that calls; it waits for the acceptor's greeting."""

    def __init__(self, key: bytes, words: Mapping[str, Any]) -> None:
        super().__init__(key, words)
        self._nonces = b""

    def feed(self, data: wire.Buffer) -> bytes:
        self._buffer += data
        answer = b""
        if not self._nonces:
            nonce = self._take_magic()
            if nonce is None:
                return b""
            del self._buffer[: len(MAGIC) + _NONCE]
            self._nonces = nonce + self._nonce
            answer = MAGIC + self._nonce + self._said(_CALLER, self._nonces)
        words = self._take_words(0, _ACCEPTOR, self._nonces)
        if words is not None:
            self._agree(words, self._nonces, _UP, _DOWN)
        return answer


class Sealer:
    """Makes records of what is sent in one direction."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=_DIGEST)
        self._count = 0

    def seal(self, buffers: Sequence[wire.Buffer]) -> List[wire.Buffer]:
        """Return the buffers as records. Large ones are not copied, and must not be changed until all is sent."""
        size = sum(map(len, buffers))
        if size <= _SMALL:
            return [b"".join((self._head(buffers), *buffers))] if size else []
        sealed: List[wire.Buffer] = []
        group: List[wire.Buffer] = []
        room = RECORD
        for buffer in buffers:
            view = memoryview(buffer)
            while len(view) >= room:
                group.append(view[:room])
                view = view[room:]
                self._add(sealed, group)
                group, room = [], RECORD
            if view:
                group.append(view)
                room -= len(view)
        if group:
            self._add(sealed, group)
        return sealed

    def beat(self) -> bytes:
        """Return a record without content."""
        return self._head(())

    def _add(self, sealed: List[wire.Buffer], group: List[wire.Buffer]) -> None:
        if len(group) > _FEW:
            group = [b"".join(group)]
        sealed.append(self._head(group))
        sealed += group

    def _head(self, buffers: Sequence[wire.Buffer]) -> bytes:
        digest = self._keyed.copy()
        digest.update(_COUNTER.pack(self._count))
        self._count += 1
        size = 0
        if len(buffers) > _FEW:
            buffers = [b"".join(buffers)]
        for buffer in buffers:
            digest.update(buffer)
            size += len(buffer)
        return _LENGTH.pack(size) + digest.digest()


class Unsealer:
    """Takes records apart that came in one direction; keeps what is not whole yet."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=_DIGEST)
        self._count = 0
        self._begun = bytearray()  # a record: its head, or as much of that as there is; then with room for its content
        self._at = 0  # bytes of it that are there

    def feed(self, data: wire.Buffer) -> Iterator[memoryview]:
        """Yield the contents of the records that `data` completes: views, perhaps into `data`. Raises SealError.

        That of a beat is empty.
        """
        view = memoryview(data)
        if self._at:
            view = view[self._fill(view, _HEAD) :]
            if self._at < _HEAD:
                return
            length = self._length(self._begun, 0)
            if len(self._begun) == _HEAD:
                self._begun += bytes(length)
            view = view[self._fill(view, _HEAD + length) :]
            if self._at < len(self._begun):
                return
            record, self._begun, self._at = memoryview(self._begun), bytearray(), 0
            yield self._verified(record)
        at, size = 0, len(view)
        while size - at >= _HEAD:
            end = at + _HEAD + self._length(view, at)
            if end > size:
                break
            yield self._verified(view[at:end])
            at = end
        if at < size:
            self._fill(view[at:], _HEAD)
            if self._at == _HEAD:
                self._begun += bytes(self._length(view, at))
                self._fill(view[at + _HEAD :], len(self._begun))

    def _fill(self, data: memoryview, end: int) -> int:
        """Copy what belongs before `end`; return how much that was."""
        used = min(len(data), end - self._at)
        if used > 0:
            self._begun[self._at : self._at + used] = data[:used]
            self._at += used
        return max(0, used)

    def _length(self, data: wire.Buffer, at: int) -> int:
        length: int = _LENGTH.unpack_from(data, at)[0]
        if length > RECORD:
            raise SealError("sent what is no record, or not in its order")
        return length

    def _verified(self, record: memoryview) -> memoryview:
        content = record[_HEAD:]
        digest = self._keyed.copy()
        digest.update(_COUNTER.pack(self._count))
        digest.update(content)
        if not hmac.compare_digest(digest.digest(), record[_LENGTH.size : _HEAD]):
            raise SealError("sent a record that is forged, changed, or not in its order")
        self._count += 1
        return content
