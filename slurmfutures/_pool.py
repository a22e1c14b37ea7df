"""Calls for pilots: which are out, what they need to be sent again, and what the agent says of them.

    any thread        adds calls and cancels them
    poller's thread   writes them down where there is a checkpoint, takes results in, acknowledges them

Everything that a call needs stays here until it is resolved: where a connection or an agent is lost, all of it is sent
again under the same numbers, and what pilots have of it is not run twice. A call that is run again gets a new number.
"""

import hashlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from itertools import repeat
from typing import Any, NamedTuple

from ._checkpoint import Checkpoint
from ._errors import PilotsBroken, SlurmFuturesError, SubmitError, give_warning, job_error
from ._future import SlurmFuture, settle
from ._link import Link, Reply, Words
from ._logs import get_logger
from ._pickling import result_of
from ._records import NO_KEY
from ._remote import jsons, payload, wire
from ._remote.batch import ranges
from ._remote.states import JobState
from ._retries import Attempts

logger = get_logger("pilots")

BITS = 40  # of a call's number that are its own; above them is the pool's
MOST_KILLS = 3  # workers that a call may take along before it is blamed, however many retries there are
PILOT = "a pilot"
_FRAME = 64  # calls
_FUNCTIONS_KEPT = 128  # that no call needs at the moment
_ACK_COUNT = 512  # results, and
_ACK_BYTES = 4 << 20  # of results, after which they are acknowledged, and
_ACK_AFTER = 0.2  # seconds


class Settings(NamedTuple):
    """What `ex.pilots` was told, checked and rendered."""

    workers: int
    per_job: int
    max_jobs: int
    idle: float
    call_time: float | None
    most_calls: int | None
    start_timeout: float | None
    address: str | None
    retries: int
    options: tuple[str, ...]
    name: str
    comment: str
    initializer: bytes


class _Function:
    def __init__(self, source: bytes, ship: str) -> None:
        self.source = source
        self.ship = ship
        self.calls = 0  # that need it


class Ran(NamedTuple):
    """Where a call runs or has run: the owner of its future once it is over."""

    pool: "Pool"
    job: str | None
    worker: Mapping[str, Any]  # in the agent's words; nothing where it is not known

    def job_id(self, call: int) -> str | None:
        return self.job

    def state(self, call: int) -> JobState:
        return JobState.RUNNING  # its result is being told

    def log(self, call: int, stream: str, limit: int | None) -> str:
        return self.pool.read_log({**self.worker, "stream": stream}, limit) if self.worker else ""

    def cancel(self, call: int) -> None:
        pass

    def hurry(self) -> None:
        pass


class _Entry:
    """A call that is not resolved."""

    __slots__ = ("arguments", "attempts", "function", "future", "handful", "key", "ran")

    def __init__(self, future: SlurmFuture[Any], arguments: bytes, function: int, key: bytes) -> None:
        self.future = future
        self.function = function
        self.arguments = arguments
        self.key = key
        self.handful: Handful | None = None  # what the checkpoint knows it by
        self.attempts: Attempts | None = None
        self.ran: Ran | None = None  # known of a call that takes its time


class Handful:
    """Calls that are written down together: a batch, as the checkpoint sees it."""

    def __init__(self, batch_id: str, first: int, keys: Sequence[bytes], settings: Settings | None) -> None:
        self.id = batch_id
        self.first = first  # number of the first call; they follow each other
        self.keys = list(keys)
        self.name = settings.name if settings is not None else ""
        self.options = settings.options if settings is not None else ()
        self.open = sum(key != NO_KEY for key in keys)
        self.unclaimed: set[int] = set()  # calls of an earlier driver that nobody has asked for


class Pool:
    """Owner of the futures of one `ex.pilots(...)`."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        common: Mapping[str, Any],
        link: Link,
        wake: Callable[[], None],
        read_log: Callable[[Mapping[str, Any], int | None], str],
        checkpoint: Checkpoint | None,
        earlier: Sequence[Handful] = (),
        epoch: float | None = None,
    ) -> None:
        """`common` is what every batch is submitted with; `wake` has the poller look at what is new here.

        `read_log` returns the end of a log, which it asks the agent for in its words. `earlier` is what drivers before
        this one have sent, which began at `epoch` by work_dir's clock.
        """
        self.id = number
        self.settings = settings
        self.lock = threading.Lock()  # guards all below but what is the poller's, and that frames go out in order
        self.up = True  # the agent that is there knows this pool
        self._common = common
        self._link = link
        self._wake = wake
        self.read_log = read_log
        self._checkpoint = checkpoint
        self._entries: dict[int, _Entry] = {}
        self._next = (number << BITS) + 1
        self._functions: OrderedDict[int, _Function] = OrderedDict()  # the one used last at the end
        self._sent: set[int] = set()  # functions that the agent knows
        self._cancels: list[int] = []  # calls that the agent has still to be told of
        self._cancelled: list[tuple[int, _Entry]] = []  # the same for the checkpoint
        self._restored = {handful.id: handful for handful in earlier}  # what earlier drivers have sent
        self._epoch = epoch
        self._unwritten: list[_Entry] = []  # calls that the checkpoint does not know yet, and so are not sent
        self._closed = False
        self.broken: BaseException | None = None
        self.done = 0
        # The poller's thread only.
        self._acks: list[int] = []
        self._ack_size = 0
        self._ack_at: float | None = None
        self._over: list[Handful] = []  # of which nothing is wanted any more, once that is on disk

    # ---- any thread

    def open(self) -> "Future[Reply]":
        """Have the agent know this pool, and, where that may be news to it, all that it is to do."""
        with self.lock:
            remembered = self._checkpoint is not None
            return self._open(again=remembered, epoch=self._epoch if remembered else None)

    def _open(self, *, again: bool, epoch: float | None = None) -> "Future[Reply]":
        """Do that; `again` where calls of this pool may be with pilots already. Holds the lock.

        By `epoch` the ends of jobs that were over by then, or of which nobody knows when that was, count as unheard of.
        """
        settings = self.settings
        spec = {**self._common, "options": settings.options, "name": settings.name, "comment": settings.comment}
        words = {
            "op": "pool_open",
            "pool": self.id,
            "spec": spec,
            "workers": settings.workers,
            "per_job": settings.per_job,
            "max_jobs": settings.max_jobs,
            "idle": settings.idle,
            "call_time": settings.call_time,
            "most_calls": settings.most_calls,
            "start_timeout": settings.start_timeout,
            "address": settings.address,
            "again": again,
            "epoch": epoch,
        }
        body = [settings.initializer] if settings.initializer else []
        reply = self._link.request(words, body, key=self._key)[1]
        if again:
            self._send_calls(sorted(self._entries))
            left = [call for handful in self._restored.values() for call in handful.unclaimed]
            self._send({"op": "pool_sent", "keep": ranges(sorted(left))})
        return reply

    def end(self) -> "Future[Reply]":
        """Have the agent end the jobs; the reply comes when none is left."""
        return self._link.request({"op": "pool_close", "pool": self.id}, again=True, key=self._key)[1]

    @property
    def _key(self) -> tuple[str, int]:
        return "pool", self.id

    def submit(
        self, function: bytes, arguments: Sequence[bytes], ship: str, keys: Sequence[bytes] | None
    ) -> list[SlurmFuture[Any]]:
        """Add calls of one function and return their futures; `ship` is the version of the user's own code."""
        futures: list[SlurmFuture[Any]] = [SlurmFuture(self, 0) for _ in arguments]
        number = _number_of(function, ship)
        entries = [
            _Entry(future, argument, number, key)
            for future, argument, key in zip(futures, arguments, keys or repeat(NO_KEY), strict=False)
        ]
        with self.lock:
            if self.broken is not None:
                raise self.broken
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._use(number, function, ship, len(entries))
            self._unwritten += entries
            if self._checkpoint is None:
                self._send_unwritten()
        if self._checkpoint is not None:
            self._wake()
        return futures

    def claim(self, place: tuple[str, int], function: bytes, arguments: bytes, ship: str) -> SlurmFuture[Any] | None:
        """Return the future of a call that an earlier driver has sent, None where nothing is known of it any more."""
        with self.lock:
            found = self._restored.get(place[0])
            if found is None or found.first + place[1] not in found.unclaimed:
                return None
            call = found.first + place[1]
            found.unclaimed.discard(call)
            future: SlurmFuture[Any] = SlurmFuture(self, call)
            number = _number_of(function, ship)
            self._use(number, function, ship, 1)
            entry = _Entry(future, arguments, number, found.keys[place[1]])
            entry.handful = found
            self._entries[call] = entry
            self._send_calls([call])
        return future

    def _use(self, number: int, source: bytes, ship: str, calls: int) -> None:
        """So many more calls need a function. Holds the lock."""
        found = self._functions.get(number)
        if found is None:
            found = self._functions[number] = _Function(source, ship)
        else:
            self._functions.move_to_end(number)
        found.calls += calls

    def _send_unwritten(self) -> None:
        """Number what was added, and send it. Holds the lock."""
        self._send_calls(self._number_unwritten())

    def _number_unwritten(self) -> range:
        """Number what was added. Holds the lock."""
        entries, self._unwritten = self._unwritten, []
        numbers = range(self._next, self._next + len(entries))
        self._next += len(entries)
        for number, entry in zip(numbers, entries, strict=True):
            entry.future._place = self, number
            self._entries[number] = entry
        return numbers

    def _send_calls(self, numbers: Sequence[int]) -> None:
        """Send calls, and their functions before them. Holds the lock."""
        if not self.up:
            return  # all is sent when there is an agent again
        for start in range(0, len(numbers), _FRAME):
            packed: list[wire.Buffer] = []
            for number in numbers[start : start + _FRAME]:
                entry = self._entries[number]
                if entry.function not in self._sent:
                    self._send_function(entry.function)
                packed += payload.pack_call(number, entry.function, entry.arguments)
            self._link.send(wire.packed(wire.CALLS, packed), self._key)

    def _send_function(self, number: int) -> None:
        function = self._functions[number]
        head = {"op": "function", "pool": self.id, "function": number, "ship": function.ship}
        self._link.send(wire.message(head, function.source), self._key)
        self._sent.add(number)

    def _forget(self, entries: Sequence[_Entry]) -> None:
        """Calls need their functions no more. Holds the lock."""
        for entry in entries:
            self._functions[entry.function].calls -= 1
        if len(self._functions) > _FUNCTIONS_KEPT:
            for number, idle in list(self._functions.items())[:-_FUNCTIONS_KEPT]:
                if not idle.calls:
                    del self._functions[number]
                    if number in self._sent:
                        self._sent.discard(number)
                        self._send_cancels()  # else calls that still wait there would miss it
                        self._send({"op": "drop", "function": number})

    def _send(self, words: Mapping[str, Any], body: wire.Buffer = b"") -> None:
        if self.up:
            self._link.send(wire.message({**words, "pool": self.id}, body), self._key)

    def state_of_agent(self) -> "Future[Reply]":
        return self._link.request({"op": "pool_state", "pool": self.id}, again=True)[1]

    def close(self) -> None:
        """Take no more calls; the jobs end when the last one is done. Any thread, also from a finalizer."""
        self._closed = True
        self._wake()

    def is_over(self) -> bool:
        """Whether there are no calls, and none will come."""
        with self.lock:
            return (self._closed or self.broken is not None) and not len(self)

    @property
    def closed(self) -> bool:
        return self._closed

    def pending(self) -> list[SlurmFuture[Any]]:
        with self.lock:
            return [entry.future for entry in [*self._entries.values(), *self._unwritten]]

    def __len__(self) -> int:
        return len(self._entries) + len(self._unwritten)

    # ---- the connection; the poller's thread

    def lost(self) -> None:
        """There is no agent. Holds the lock."""
        self.up = False
        self._sent.clear()
        self._acks.clear()
        self._ack_size, self._ack_at = 0, None

    def connected_again(self) -> "Future[Reply]":
        """Send everything to the next agent."""
        with self.lock:
            self.up = True
            return self._open(again=True)

    # ---- the checkpoint

    @property
    def most_call(self) -> int:
        """The highest number that a call of an earlier driver can have; there is room behind it."""
        return (self.id << BITS) + (1 << BITS - 1)

    def number_after(self, handed: int) -> None:
        """Number calls so that no pilot has one of another driver; `handed` is the highest that one may know."""
        with self.lock:
            ends = [handful.first + len(handful.keys) for handful in self._restored.values()]
            self._next = max([self._next, handed + 1, *ends])

    def write_down(self, greeting: Mapping[str, Any], where: str) -> None:
        """Have what was added in the checkpoint, and then sent; where it cannot be written, the calls fail."""
        checkpoint = self._checkpoint
        if checkpoint is None or not self._unwritten:
            return
        with self.lock:
            wanted: list[_Entry] = []
            unwanted: list[_Entry] = []
            for entry in self._unwritten:
                (unwanted if entry.future.cancelled() else wanted).append(entry)
            self._forget(unwanted)
            entries, self._unwritten = list(wanted), wanted
            numbers = self._number_unwritten()
            handful = Handful(uuid.uuid4().hex[:12], numbers.start, [entry.key for entry in entries], self.settings)
            for entry in entries if handful.open else ():
                entry.handful = handful
        if handful.open:
            try:
                checkpoint.begin_calls(handful, self.id, greeting, where)
            except OSError as error:
                self._fail_unwritten(numbers, checkpoint.path, error)
                return
        with self.lock:
            self._send_calls(self._still_wanted(numbers))

    def _still_wanted(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers whose calls were not cancelled, also before they had them. Holds the lock."""
        for number in numbers:
            entry = self._entries.get(number)
            if entry is not None and entry.future.cancelled():
                self._cancel(number)
        return [number for number in numbers if number in self._entries]

    def _fail_unwritten(self, numbers: Sequence[int], path: str, error: OSError) -> None:
        with self.lock:
            entries = [self._entries.pop(number) for number in numbers if number in self._entries]
            for entry in entries:
                self._forget([entry])
        failed = SlurmFuturesError(f"the checkpoint {path} cannot be written: {error.strerror}; nothing was sent")
        for entry in entries:
            settle(entry.future, None, failed)

    # ---- what the agent says; the poller's thread

    def results(self, body: wire.Body) -> None:
        """Take in the results of calls, and how others have ended."""
        records = list(payload.records(body))
        crashed = [record for record in records if record.status == payload.CRASHED]
        good = records if not crashed else [record for record in records if record.status != payload.CRASHED]
        with self.lock:
            found = [self._entries.pop(record.call, None) for record in good]
            self._forget([entry for entry in found if entry is not None])
        unsaved = self._keep(good, found)
        for record, entry in zip(good, found, strict=True):
            if entry is not None:
                value, error = result_of(record, entry.ran.job if entry.ran is not None else None, PILOT)
                if error is not None and entry.attempts is not None:
                    error = entry.attempts.told(error)
                if entry.ran is not None:
                    entry.future._place = entry.ran, record.call
                settle(entry.future, value, error)
        self.done += len(found) - found.count(None)
        for record in crashed:
            self._crashed(record)
        self._acknowledge([record for record in records if record.call not in unsaved], len(body))

    def _keep(self, records: Sequence[payload.Record], found: Sequence[_Entry | None]) -> set[int]:
        """Have results in the checkpoint; return the calls for which there was no room there."""
        unsaved: set[int] = set()
        if self._checkpoint is not None:
            for record, entry in zip(records, found, strict=True):
                error = None if record.status == payload.OK else result_of(record, None, PILOT)[1]
                if not self._note_end(record, entry, error):
                    unsaved.add(record.call)
        return unsaved

    def _note_end(self, record: payload.Record, entry: _Entry | None, error: BaseException | None) -> bool:
        """Write down how a call has ended, which may be one of an earlier driver; False where there was no room."""
        if entry is not None:
            return entry.handful is None or self._write(entry.handful, record, error)
        with self.lock:  # who claims it finds it here or there
            handful = next((it for it in self._restored.values() if record.call in it.unclaimed), None)
            if handful is None:
                return True
            good = self._write(handful, record, error)
            handful.unclaimed.discard(record.call)
            return good

    def _write(self, handful: Handful, record: payload.Record, error: BaseException | None) -> bool:
        assert self._checkpoint is not None
        place = record.call - handful.first
        good = True
        if error is None:
            good = self._checkpoint.finish(handful, [(place, record.payload)])
        else:
            self._checkpoint.fail(handful, [place], error)
        self._landed(handful, place)
        return good

    def _landed(self, handful: Handful, place: int) -> None:
        if handful.keys[place] != NO_KEY:
            handful.open -= 1
            if not handful.open:
                self._over.append(handful)

    def _crashed(self, record: payload.Record) -> None:
        """A call has ended with its worker, or with its job: it runs again where that is wanted, or fails."""
        words = jsons.loads(record.payload)
        error = job_error(words)
        with self.lock:
            entry = self._entries.pop(record.call, None)
        if entry is None:
            self._note_end(record, None, error)
            return
        most = 1 + self.settings.retries
        attempts = entry.attempts = entry.attempts or Attempts(most, whatever=min(most, MOST_KILLS))
        if self.broken is None and attempts.again(error, words.get("node") or ""):
            logger.warning("a call is run again: %s", error)
            if entry.handful is not None:
                self._landed(entry.handful, record.call - entry.handful.first)
            self._run_again(entry)
            return
        if most > MOST_KILLS and attempts.blames(error):
            said = f"it has taken {MOST_KILLS} workers along and is not run again"
            error = job_error({**words, "reason": f"{error.reason}; {said}" if error.reason else said})
        self._note_end(record, entry, error)
        with self.lock:
            self._forget([entry])
        entry.future._place = entry.ran or Ran(self, error.job_id, {}), entry.future._place[1]
        settle(entry.future, None, attempts.told(error))

    def _run_again(self, entry: _Entry) -> None:
        """Send a call once more, under another number."""
        entry.handful = entry.ran = None
        with self.lock:
            self._unwritten.append(entry)
            if self._checkpoint is None:
                self._send_calls(self._still_wanted(self._number_unwritten()))

    def _acknowledge(self, records: Sequence[payload.Record], size: int) -> None:
        self._acks += [record.call for record in records]
        self._ack_size += size
        if len(self._acks) >= _ACK_COUNT or self._ack_size >= _ACK_BYTES:
            self.flush_acks()
        elif self._ack_at is None:
            self._ack_at = time.monotonic() + _ACK_AFTER

    def ack_at(self) -> float | None:
        """Return when `flush_acks` is due."""
        return self._ack_at

    def flush_acks(self) -> None:
        """Tell pilots which results are here for good."""
        self._ack_at = None
        if not self._acks:
            return
        if self._checkpoint is not None and not self._checkpoint.sync():
            self._ack_at = time.monotonic() + 10 * _ACK_AFTER  # there may be room again
            return
        acks, self._acks, self._ack_size = self._acks, [], 0
        self._send({"op": "pool_ack"}, payload.pack_numbers(acks))
        for handful in self._over:
            assert self._checkpoint is not None
            self._checkpoint.closed(handful.id)
        self._over.clear()

    def flush_cancels(self) -> None:
        """Tell the agent what was cancelled, and the checkpoint."""
        if not self._cancels and not self._cancelled:
            return
        with self.lock:
            self._send_cancels()
            cancelled, self._cancelled = self._cancelled, []
        for call, entry in cancelled:
            if entry.handful is not None and self._checkpoint is not None:
                place = call - entry.handful.first
                self._checkpoint.fail(entry.handful, [place], None)
                self._landed(entry.handful, place)

    def _send_cancels(self) -> None:
        """Holds the lock."""
        if self._cancels and self.up:
            calls, self._cancels = self._cancels, []
            self._send({"op": "pool_cancel", "calls": calls})

    def began(self, words: Mapping[str, Any]) -> list[SlurmFuture[Any]]:
        """Note what runs calls; return their futures."""
        ran = Ran(self, words["job_id"], {name: words[name] for name in ("batch", "task", "worker")})
        with self.lock:
            entries = [entry for entry in map(self._entries.get, words["calls"]) if entry is not None]
            for entry in entries:
                entry.ran = ran
        return [entry.future for entry in entries]

    def noted(self, kind: str, message: str) -> None:
        """Log what the agent says of the pool's jobs."""
        logger.log(logging.INFO if kind == "info" else logging.WARNING, "%s: %s", self.settings.name, message)
        if kind == "stuck":
            give_warning(f"{self.settings.name}: {message}")

    def uninitialized(self, head: Mapping[str, Any], body: wire.Body) -> None:
        _, error = result_of(payload.Record(0, head["status"], body), head["job_id"], PILOT)
        assert error is not None
        self.break_down(error)

    def broke(self, head: Mapping[str, Any]) -> None:
        """Nothing will come of the calls that wait, nor of those to come."""
        record, message = head["record"], Words(head, "pool").text("message")
        cause: SlurmFuturesError | None = None
        if "job_id" in record:
            cause = job_error(record)
            message += f"; the last one: {cause}"
        elif "refused" in record:
            cause = SubmitError(Words(record, "pool").text("refused"), self.settings.options)
        error = PilotsBroken(message)
        error.__cause__ = cause
        self.break_down(error, head["spared"])

    def break_down(self, error: BaseException, spared: Collection[int] = ()) -> None:
        """Fail all calls but `spared`, and those to come; in the checkpoint too: there they run at the next start."""
        for entry in self._take_all(error, spared):
            if entry.handful is not None and self._checkpoint is not None:
                place = entry.future._place[1] - entry.handful.first
                self._checkpoint.fail(entry.handful, [place], error)
            settle(entry.future, None, error)

    def abandon(self, error: BaseException) -> None:
        """Fail all calls of this driver: there is no connection any more. In the checkpoint they go on."""
        for entry in self._take_all(error):
            settle(entry.future, None, error)

    def _take_all(self, error: BaseException, spared: Collection[int] = ()) -> list[_Entry]:
        with self.lock:
            self.broken = self.broken or error
            kept = {call: self._entries.pop(call) for call in spared if call in self._entries}
            entries = [*self._entries.values(), *self._unwritten]
            self._entries, self._unwritten = kept, []
            if not kept:
                self._functions.clear()
            else:
                self._forget(entries)
        return entries

    # ---- as an owner of futures; any thread

    def _ran(self, call: int) -> Ran | None:
        with self.lock:
            entry = self._entries.get(call)
        return entry.ran if entry is not None else None

    def job_id(self, call: int) -> str | None:
        ran = self._ran(call)
        return ran.job if ran is not None else None

    def state(self, call: int) -> JobState:
        with self.lock:
            entry = self._entries.get(call)
        return JobState.RUNNING if entry is not None and entry.future.running() else JobState.PENDING

    def log(self, call: int, stream: str, limit: int | None) -> str:
        ran = self._ran(call)
        return ran.log(call, stream, limit) if ran is not None else ""

    def cancel(self, call: int) -> None:
        with self.lock:
            self._cancel(call)  # one that has no number yet never gets one
        self._wake()

    def _cancel(self, call: int) -> None:
        """Holds the lock."""
        entry = self._entries.pop(call, None)
        if entry is None:
            return
        self._cancels.append(call)
        if self._checkpoint is not None:
            self._cancelled.append((call, entry))
        self._forget([entry])
        if entry.ran is not None:
            entry.future._place = entry.ran, call

    def hurry(self) -> None:
        pass


def _number_of(function: bytes, ship: str) -> int:
    """Return the number by which pilots know a function: a hash of it, so that they never take it for another."""
    digest = hashlib.blake2b(function, digest_size=8, key=ship.encode()[:64]).digest()
    return int.from_bytes(digest, "big") >> 1
