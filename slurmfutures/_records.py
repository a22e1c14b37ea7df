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

from ._remote import ids, jsons, pool_files

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
            ids.count(words.get("first"), _MOST_CALL)
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
            if size < KEY_SIZE:
                raise ValueError("a result without its call")
            self.finish(body[:KEY_SIZE], offset + KEY_SIZE, len(body) - KEY_SIZE)
        elif kind == FAILED:
            if size < _CALL.size:
                raise ValueError("a failure without its call")
            key, name, call = _CALL.unpack_from(body)
            self.fail(key, _name(name), call, _words(body[_CALL.size :], _FAILED_WORDS))
            self.dead += size  # nearly: the last one of a call is kept for those who ask
        elif kind == BATCH:
            found = _unpack_batch(body)
            self._sizes[found.id] = size
            self.begin(found)
        elif kind == PART:
            words = _words(body, _PART_WORDS)
            batch = self.batches.get(words["batch"])
            if batch is not None and not batch.closed:
                batch.parts.append(words)
                self._sizes[batch.id] += size
        elif kind == CLOSED:
            name = _name(body)
            self.dead += size + self._sizes.pop(name, 0)
            self.close(name)
        elif kind == OPENED:
            self.dead += size
            self.opened = _words(body, _OPENED_WORDS)
        else:
            raise ValueError(f"a record of the unknown kind {kind}")

    def begin(self, batch: Batch) -> None:
        self.close(batch.id)  # no other one has its name
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
            for call in found.open:
                if self.flying.get(found.keys[call]) == (batch, call):
                    del self.flying[found.keys[call]]
            found.keys, found.firsts = (), ()
            found.open = set()


def dumps(words: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(words)).encode()


def pack_batch(words: Mapping[str, Any], firsts: Sequence[int], keys: Sequence[bytes]) -> bytes:
    text = dumps(words)
    numbers = array("I", firsts)
    if sys.byteorder == "little":
        numbers.byteswap()
    return b"".join((_BATCH.pack(len(text), len(firsts), len(keys)), text, numbers.tobytes(), *keys))


def _name(name: bytes) -> str:
    """Return a batch's id. Raises ValueError."""
    return ids.batch(name.decode("ascii", "replace"))


_Words = Mapping[str, type | tuple[type, ...]]
_NONE = type(None)
_OPENED_WORDS: _Words = {"time": (int, float, _NONE), "where": (str, _NONE), "place": (dict, _NONE)}
_BATCH_WORDS: _Words = {
    **dict.fromkeys(("batch", "name", "spool", "scheduler", "where"), str),
    "options": list,
    "time": (int, float),
    "script": (list, _NONE),
}
_PART_WORDS: _Words = {"batch": str, "job": str}
_FAILED_WORDS: _Words = {**dict.fromkeys(("said", "kind", "job"), (str, _NONE)), "time": (int, float, _NONE)}


def _words(body: bytes, kinds: _Words) -> Mapping[str, Any]:
    """Return the words of a record. Raises ValueError where one is of another type than it is written with."""
    words = jsons.loads(body)
    if not isinstance(words, dict):
        raise ValueError("words that are no mapping")
    for name, kind in kinds.items():
        if not isinstance(words.get(name), kind):
            raise ValueError(f"{name} is {words.get(name)!r}")
    return words


def _unpack_batch(body: bytes) -> Batch:
    if len(body) < _BATCH.size:
        raise ValueError("a batch without calls")
    length, tasks, calls = _BATCH.unpack_from(body)
    at = _BATCH.size
    end = at + length + 4 * tasks
    if len(body) != end + KEY_SIZE * calls:
        raise ValueError("a batch with fewer keys than calls")
    words = _words(body[at : at + length], _BATCH_WORDS)
    if {"pool", "first"} & words.keys() and not (type(words.get("pool")) is type(words.get("first")) is int):
        raise ValueError("calls of a pool without its number, or that of the first")
    numbers = array("I", body[at + length : end])
    if sys.byteorder == "little":
        numbers.byteswap()
    at = end
    return Batch(words, numbers, [body[place : place + KEY_SIZE] for place in range(at, len(body), KEY_SIZE)])


def pack_failure(key: bytes, batch: str, call: int, words: Mapping[str, Any]) -> bytes:
    return _CALL.pack(key, batch.encode(), call) + dumps(words)
