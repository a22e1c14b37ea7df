"""What an executor with a checkpoint remembers of its calls: which have results, and which are under way where.

    any thread        makes keys, and asks what became of the call with that key
    poller's thread   writes down what is sent and what comes back

A call's key is what it does (`_keys`), and which repeat of an identical call it is. Repeats are counted anew by each
executor. One that raised or died does not count: what is submitted in its place is the same repeat.
"""

import contextlib
import heapq
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from . import _keys, _records
from ._batcher import Batch
from ._errors import JobError, SlurmFuturesError, give_warning
from ._future import NOBODY, SlurmFuture
from ._journal import Journal
from ._logs import get_logger
from ._pickling import name_of, result_of
from ._records import NO_KEY
from ._remote import payload, wire
from ._ship import Shipment

logger = get_logger("checkpoint")

#: Given the function, its positional and its keyword arguments; returns what stands for the call, or None: forget it.
CheckpointKey = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], object]


class Found(NamedTuple):
    """What is known of a call that is made now."""

    key: bytes  # NO_KEY where it cannot be remembered
    future: SlurmFuture[Any] | None  # resolved, if it has its result
    place: tuple[str, int] | None  # the batch, and its number there, if it was sent and has no end yet


class Keyed(Protocol):
    """What was sent as one: a batch, or calls for pilots."""

    id: str
    keys: list[bytes]


class Calls(Keyed, Protocol):
    """Calls for pilots, whose numbers follow each other from `first` on."""

    name: str
    options: tuple[str, ...]
    first: int


class Checkpoint:
    """Owner of the journal from construction to `close`."""

    def __init__(self, path: Any, key: CheckpointKey | None, place: Mapping[str, Any]) -> None:
        """`place` is what the executor was told of where it is to work, in words for JSON.

        Raises CheckpointLocked, CheckpointCorrupt, SlurmFuturesError, as the journal does.
        """
        self._key = key
        self._place = place
        self._lock = threading.Lock()  # guards all below
        self._journal = Journal(path)
        self._contents = self._journal.contents
        self._taken: dict[bytes, int] = {}  # how many repeats of a call there are, by its digest
        self._free: dict[bytes, list[int]] = {}  # of these, those that have failed
        # The last function, its code, its pickle, what is shipped, and its digest; written and read as one, not locked.
        self._last: tuple[Any, Any, bytes, Shipment | None, bytes] = (None, None, b"", None, b"")
        self._unkeyable = False  # that has been said
        self._full = False  # that has been said
        self.path = self._journal.path
        self.id = self._journal.id

    # ---- any thread

    def digest_of(self, function: Callable[..., Any], pickled: bytes, shipment: Shipment | None = None) -> bytes | None:
        """Return what stands for a function, None where nothing stable does.

        Of what is shipped, the code that it may run counts.
        """
        if self._key is not None:
            return b""
        code = getattr(function, "__code__", None)
        last = self._last
        if function is last[0] and code is last[1] and pickled == last[2] and shipment is last[3]:
            return last[4]
        try:
            digest = _keys.function_digest(function, pickled)
            if shipment is not None:
                digest += shipment.code_behind(pickled)
            self._last = function, code, pickled, shipment, digest
            return digest
        except _keys.Unkeyable as why:
            self._warn(function, why)
            return None

    def find(
        self, function: Callable[..., Any], digest: bytes | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Found:
        """Return what is known of a call that is made now. Raises SlurmFuturesError where its result cannot be read."""
        try:
            if self._key is not None:
                name = self._key(function, args, kwargs)
                if name is None:
                    return _UNKNOWN
                digest = _keys.named_digest(name)
            elif digest is None:
                return _UNKNOWN
            else:
                digest = _keys.call_digest(digest, args, kwargs)
        except _keys.Unkeyable as why:
            self._warn(function, why)
            return _UNKNOWN
        return self._found(digest)

    def find_script(self, text: str, cwd: str | None) -> Found:
        """Return what is known of a script that is submitted now. Raises as `find` does."""
        return self._found(_keys.named_digest(("script", text, cwd)))

    def find_array(self, text: str, cwd: str | None, indices: Iterable[int]) -> list[Found]:
        """Return what is known of the tasks of a script that is a job array. Raises as `find` does."""
        whole = _keys.named_digest(("script", text, cwd))
        return [self._found(_keys.named_digest((whole, index))) for index in indices]

    def _found(self, digest: bytes) -> Found:
        with self._lock:
            free = self._free.get(digest)
            if free:
                repeat = heapq.heappop(free)
            else:
                repeat = self._taken.get(digest, 0)
                self._taken[digest] = repeat + 1
            key = digest + repeat.to_bytes(4, "big")
        # In this order: what lands in between is found by whoever claims it.
        place = self.flying(key)
        return Found(key, self.recall(key), place)

    def recall(self, key: bytes) -> SlurmFuture[Any] | None:
        """Return a resolved future for a call that has its result, None for any other. Raises as `find` does."""
        with self._lock:
            place = self._contents.finished.get(key)
            if place is None:
                return None
            try:
                data = self._journal.read(*place)
            except OSError as problem:
                raise SlurmFuturesError(f"the checkpoint {self.path} cannot be read: {problem}") from problem
        future: SlurmFuture[Any] = SlurmFuture(NOBODY, 0)
        value, error = result_of(payload.Record(0, payload.OK, data), None, self.path)
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
        return future

    def _warn(self, function: Callable[..., Any], why: Exception) -> None:
        with self._lock:
            said, self._unkeyable = self._unkeyable, True
        if not said:
            give_warning(
                f"calls of {name_of(function)} are not remembered in the checkpoint {self.path}, and run again at "
                f"the next start: {why}; give them a name of your own by checkpoint_key="
            )

    def give_back(self, key: bytes) -> None:
        """The call with this key will not be made after all."""
        if key != NO_KEY:
            with self._lock:
                self._release(key)

    def _release(self, key: bytes) -> None:
        digest, repeat = key[:-4], int.from_bytes(key[-4:], "big")
        if repeat < self._taken.get(digest, 0):  # else it was made by an earlier driver, and not by this one
            heapq.heappush(self._free.setdefault(digest, []), repeat)

    def flying(self, key: bytes) -> tuple[str, int] | None:
        """Return the batch, and the call's number in it, of a call that was sent and has no end yet."""
        with self._lock:
            return self._contents.flying.get(key)

    # ---- the poller's thread

    def unfinished(self) -> list[_records.Batch]:
        """Return the batches of earlier drivers that are not done with."""
        with self._lock:
            return [batch for batch in self._contents.batches.values() if not batch.closed]

    def check_place(self, greeting: Mapping[str, Any], where: str) -> None:
        """Raise SlurmFuturesError where calls are under way in another work_dir, or with another scheduler."""
        for batch in self.unfinished():
            if batch.open and (batch.words["spool"], batch.words["scheduler"]) != place_of(greeting):
                what = f"pool {batch.pool}" if batch.pool else f"batch {batch.id}"
                raise SlurmFuturesError(
                    f"the checkpoint {self.path} has calls under way in {batch.words['where']} ({what}), "
                    f"which is not what is found in {where_of(greeting, where)}: start there again, or, where they "
                    f"are gone for good, have them forgotten: slurmfutures cancel {self.path}"
                )

    def opened(self, words: Mapping[str, Any]) -> None:
        """Write down who goes on with this checkpoint, and where. Raises OSError."""
        words = {**words, "time": time.time(), "driver": socket.gethostname(), "place": self._place}
        with self._lock:
            self._append([(_records.OPENED, [_records.dumps(words)])])
            self._contents.opened = words

    def begin(self, batch: Batch, greeting: Mapping[str, Any], where: str) -> None:
        """Write down that a batch is about to be sent; it is on disk when this returns. Raises OSError."""
        words = _words_of_place(batch.id, batch.name, batch.spec.options, greeting, where)
        script = batch.script()
        if script is not None:
            words["script"] = script
        keys = [NO_KEY if future is None else key for key, future in zip(batch.keys, batch.futures, strict=True)]
        self._begin(words, batch.firsts, keys)

    def begin_calls(self, calls: Calls, pool: int, greeting: Mapping[str, Any], where: str) -> None:
        """Write down that calls are about to be sent to a pool of pilots; the same as `begin`."""
        words = _words_of_place(calls.id, calls.name, calls.options, greeting, where)
        self._begin({**words, "pool": pool, "first": calls.first}, range(len(calls.keys)), calls.keys)

    def _begin(self, words: Mapping[str, Any], firsts: Sequence[int], keys: Sequence[bytes]) -> None:
        with self._lock:
            self._append([(_records.BATCH, [_records.pack_batch(words, firsts, keys)])])
            self._journal.sync()
            self._contents.begin(_records.Batch(words, firsts, keys))

    def part(self, batch: str, job: str, tasks: Sequence[Sequence[int]]) -> None:
        """Write down that tasks of a batch have become a job: for those who ask, it is found without."""
        words = {"batch": batch, "job": job, "tasks": [list(ends) for ends in tasks]}
        with self._lock, self._tolerant():
            if batch in self._contents.batches and words not in self._contents.batches[batch].parts:
                self._append([(_records.PART, [_records.dumps(words)])])
                self._contents.batches[batch].parts.append(words)

    def finish(self, batch: Keyed, results: Sequence[tuple[int, wire.Buffer]]) -> bool:
        """Write down the pickled results of calls; False where there was no room for them."""
        keyed = [(batch.keys[call], data) for call, data in results if batch.keys[call] != NO_KEY]
        if not keyed:
            return True
        with self._lock, self._tolerant():
            places = self._append([(_records.RESULT, [key, data]) for key, data in keyed])
            for (key, data), place in zip(keyed, places, strict=True):
                self._contents.finish(key, place + _records.KEY_SIZE, len(data))
            return True
        return False

    def fail(self, batch: Keyed, calls: Sequence[int], error: BaseException | None) -> None:
        """Write down that calls have no result: they raised, died, or, by None, were cancelled."""
        keyed = [(batch.keys[call], call) for call in calls if batch.keys[call] != NO_KEY]
        if not keyed:
            return
        words = _words_of(error)
        with self._lock:
            for key, _ in keyed:
                self._release(key)
            with self._tolerant():
                self._append(
                    (_records.FAILED, [_records.pack_failure(key, batch.id, call, words)]) for key, call in keyed
                )
            for key, call in keyed:  # if not for the next driver, then for this one
                self._contents.fail(key, batch.id, call, words)

    def sync(self) -> bool:
        """Have all that was written on disk; False where that failed."""
        with self._lock, self._tolerant():
            self._journal.sync()
            return True
        return False

    def closed(self, batch: str) -> None:
        """Write down that nothing of a batch is wanted on the cluster any more."""
        with self._lock, self._tolerant():
            if batch in self._contents.batches:
                self._append([(_records.CLOSED, [batch.encode()])])
                self._contents.close(batch)
                del self._contents.batches[batch]

    def close(self) -> None:
        with self._lock:
            self._journal.close()

    def _append(self, records: Any) -> list[int]:
        """Holds the lock."""
        places = self._journal.append(records)
        self._full = False
        return places

    @contextlib.contextmanager
    def _tolerant(self) -> Any:
        """Go on where something cannot be written: it is on the cluster still. Holds the lock."""
        try:
            yield
        except OSError as error:
            logger.warning("the checkpoint %s cannot be written: %s", self.path, error)
            if not self._full:
                self._full = True
                give_warning(
                    f"the checkpoint {self.path} cannot be written ({error.strerror}): results stay in work_dir until "
                    "it can be, and are fetched from there at the next start"
                )


def place_of(greeting: Mapping[str, Any]) -> tuple[str, str]:
    """Return what must be the same for jobs to be found again: the work_dir's own id, and the kind of scheduler."""
    return greeting["spool"], greeting["scheduler"].partition(" ")[0]


def where_of(greeting: Mapping[str, Any], where: str) -> str:
    return f"{greeting['work_dir']} on {where}, with the scheduler {place_of(greeting)[1]}"


def _words_of_place(
    batch: str, name: str, options: Sequence[str], greeting: Mapping[str, Any], where: str
) -> dict[str, Any]:
    spool, scheduler = place_of(greeting)
    return {
        "batch": batch,
        "name": name,
        "options": options,
        "time": time.time(),
        "spool": spool,
        "scheduler": scheduler,
        "where": where_of(greeting, where),
    }


def _words_of(error: BaseException | None) -> dict[str, Any]:
    words = {"kind": "cancelled", "said": "cancelled", "time": time.time()}
    if error is not None:
        try:
            said = str(error).partition("\n")[0]
        except Exception:  # the user's own __str__
            said = ""
        words.update(kind=type(error).__name__, said=said[:500])
    if isinstance(error, JobError) and error.job_id is not None:
        words["job"] = error.job_id
    return words


_UNKNOWN = Found(NO_KEY, None, None)
