"""What the records of a checkpoint say. Pure: records in, the state of all calls out.

OPENED   a driver has opened it, and where its jobs are
BATCH    calls that are about to be sent: which, by their keys; on disk before anything is sent
PART     a part of a batch has become a job
RESULT   a call's pickled result
FAILED   a call has raised, died, or was cancelled: it runs again when it is asked for
CLOSED   a batch has nothing left on the cluster that is wanted
"""

import json
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ._remote import ids, pool_files

KEY_SIZE = 20  # bytes of a call's key
NO_KEY = bytes(KEY_SIZE)  # of a call that cannot be remembered

OPENED, BATCH, PART, RESULT, FAILED, CLOSED = range(1, 7)

_BATCH = struct.Struct(">III")  # length of the JSON, tasks, calls
_MOST_POOL = (1 << 24) - 1  # as the name of a pool's folder has six hexadecimal digits
_MOST_CALL = (1 << 64) - 1  # its pool's number, and below that a count
_CALL = struct.Struct(">20s12sI")  # key, batch, number in the batch


class Batch:
    """What is known of a batch: its calls' keys, its jobs, and which of its calls have no end yet."""

    def __init__(self, words: Mapping[str, Any], firsts: Sequence[int], keys: Sequence[bytes]) -> None:
        """Raises ValueError for ids that are none: they become parts of paths."""
        ids.batch(words["batch"])
        if "pool" in words:
            ids.count(words["pool"], _MOST_POOL)
            ids.count(words["first"], _MOST_CALL)
        self.words = words  # "batch", "name", "time", "spool", "scheduler"; of calls for pilots "pool" and "first" too
        self.firsts = firsts  # the first call of each task
        self.keys = keys
        self.open = {call for call, key in enumerate(keys) if key != NO_KEY}
        self.parts: list[Mapping[str, Any]] = []
        self.failed = bool(words.get("failed"))
        self.closed = False

    @property
    def id(self) -> str:
        return str(self.words["batch"])

    @property
    def pool(self) -> str:
        """The pool that the calls are for, by the name of its folder; "" where they are a batch of their own."""
        return pool_files.name_of(self.words["pool"]) if "pool" in self.words else ""


class Failure(NamedTuple):
    batch: str
    call: int
    words: Mapping[str, Any]  # "said", "kind", "job", "time"


class Contents:
    """What the records up to here say. Whoever holds it guards it."""

    def __init__(self) -> None:
        self.opened: Mapping[str, Any] = {}  # by the last driver
        self.batches: dict[str, Batch] = {}
        self.finished: dict[bytes, tuple[int, int]] = {}  # key: offset and length of the pickled result
        self.flying: dict[bytes, tuple[str, int]] = {}  # key: batch and number of the attempt that has no end yet
        self.failures: dict[bytes, Failure] = {}  # key: the last one, of calls that are not finished
        self.dead = 0  # bytes of records that say nothing any more
        self._sizes: dict[str, int] = {}  # bytes of a batch's records

    def take(self, kind: int, body: bytes, offset: int) -> None:
        """Take a record in; its body is at `offset`. Raises ValueError where it makes no sense."""
        size = len(body)
        if kind == RESULT:
            self.finish(body[:KEY_SIZE], offset + KEY_SIZE, len(body) - KEY_SIZE)
        elif kind == FAILED:
            key, name, call = _CALL.unpack_from(body)
            self.fail(key, ids.batch(name.decode()), call, _loads(body[_CALL.size :]))
            self.dead += size  # nearly: the last one of a call is kept for those who ask
        elif kind == BATCH:
            found = _unpack_batch(body)
            self._sizes[found.id] = size
            self.begin(found)
        elif kind == PART:
            words = _loads(body)
            batch = self.batches.get(words["batch"])
            if batch is not None and not batch.closed:
                batch.parts.append(words)
                self._sizes[batch.id] += size
        elif kind == CLOSED:
            self.dead += size + self._sizes.pop(body.decode(), 0)
            self.close(body.decode())
        elif kind == OPENED:
            self.dead += size
            self.opened = _loads(body)
        else:
            raise ValueError(f"a record of the unknown kind {kind}")

    def begin(self, batch: Batch) -> None:
        self.batches[batch.id] = batch
        for call in batch.open:
            self.flying[batch.keys[call]] = batch.id, call
            self.failures.pop(batch.keys[call], None)

    def finish(self, key: bytes, offset: int, length: int) -> None:
        self.finished[key] = offset, length
        self.failures.pop(key, None)
        self._land(key, self.flying.pop(key, None))

    def fail(self, key: bytes, batch: str, call: int, words: Mapping[str, Any]) -> None:
        if batch in self.batches:
            self.batches[batch].failed = True
        self._land(key, (batch, call))
        if self.flying.get(key) == (batch, call):
            del self.flying[key]
        if key not in self.finished and key not in self.flying:
            self.failures[key] = Failure(batch, call, words)

    def _land(self, key: bytes, place: tuple[str, int] | None) -> None:
        if place is not None and place[0] in self.batches:
            self.batches[place[0]].open.discard(place[1])

    def close(self, batch: str) -> None:
        found = self.batches.get(batch)
        if found is not None:
            found.closed = True
            found.keys, found.firsts = (), ()
            for key in [key for key, (other, _) in self.flying.items() if other == batch] if found.open else ():
                del self.flying[key]
            found.open = set()


def dumps(words: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(words)).encode()


def _loads(data: bytes) -> dict[str, Any]:
    words = json.loads(data)
    if not isinstance(words, dict):
        raise ValueError("words that are no JSON object")
    return words


def pack_batch(words: Mapping[str, Any], firsts: Sequence[int], keys: Sequence[bytes]) -> bytes:
    text = dumps(words)
    numbers = array("I", firsts)
    if sys.byteorder == "little":
        numbers.byteswap()
    return b"".join((_BATCH.pack(len(text), len(firsts), len(keys)), text, numbers.tobytes(), *keys))


def _unpack_batch(body: bytes) -> Batch:
    length, tasks, calls = _BATCH.unpack_from(body)
    at = _BATCH.size
    words = _loads(body[at : at + length])
    at += length
    numbers = array("I", body[at : at + 4 * tasks])
    if sys.byteorder == "little":
        numbers.byteswap()
    at += 4 * tasks
    if len(body) != at + KEY_SIZE * calls:
        raise ValueError("a batch with fewer keys than calls")
    return Batch(words, numbers, [body[place : place + KEY_SIZE] for place in range(at, len(body), KEY_SIZE)])


def pack_failure(key: bytes, batch: str, call: int, words: Mapping[str, Any]) -> bytes:
    return _CALL.pack(key, batch.encode(), call) + dumps(words)
