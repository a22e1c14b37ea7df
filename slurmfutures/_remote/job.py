"""What an array task runs: its share of a batch, results published as they come.

Imports are counted here: each costs every array task of every user. Nothing is loaded that a call may not need.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` costs a millisecond
import os
import sys
import time

from . import payload, publish, trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Set, Tuple

PUBLISH_EVERY = 1.0  # seconds between publications within a task of several calls
PUBLISH_BYTES = 16 * 1024 * 1024  # or when this much has gathered
MOST_DONE = 1 << 20  # calls of a task that need not run again
ROOM_AGAIN = (0.2, 0.6, 1.8)  # seconds before each further attempt to write results for which there was no room


class _Publisher:
    """Gathers records and publishes them. The lock guards `_records`; the ticker thread and the main thread take it."""

    def __init__(self, directory: str, task: int, run: int) -> None:
        self._directory = directory
        self._task = task
        self._run = run
        self._records: List[payload.Buffer] = []
        self._size = 0
        self._number = 0
        self._lock: Any = None

    def start_ticker(self) -> None:
        """Publish once a second from now on, also while a call runs."""
        import threading

        self._lock = threading.Lock()
        threading.Thread(target=self._tick, name="slurmfutures-publish", daemon=True).start()

    def _tick(self) -> None:
        while True:
            time.sleep(PUBLISH_EVERY)
            with self._lock:
                self._try_partial()

    def add(self, call: int, status: int, data: bytes) -> None:
        record = payload.pack_record(call, status, data)
        if self._lock is None:
            self._records += record
            return
        with self._lock:
            self._records += record
            self._size += len(data)
            if self._size >= PUBLISH_BYTES:
                self._try_partial()

    def _try_partial(self) -> None:
        """Publish what has gathered, or leave that to the next time: there may be room again."""
        self._size = 0
        try:
            self._partial()
        except OSError:
            pass

    def _partial(self) -> None:
        if self._records:
            self._number += 1
            name = publish.partial_name(self._task, self._run, self._number)
            publish.publish(self._directory, name, payload.pack_results(self._records))
            self._records = []

    def finish(self) -> None:
        """Publish what is left under the name that says that the task is done."""
        if self._lock is not None:
            self._lock.acquire()  # never released: the ticker must not publish after this
        try:
            self._final()
        except OSError:
            self._finish_without_room()

    def _final(self) -> None:
        publish.publish(self._directory, publish.final_name(self._task), payload.pack_results(self._records))

    def _finish_without_room(self) -> None:
        """Publish the results for which there is room, and of the others why they are not there.

        Room may be short for a moment only: what others begin to write and does not fit either takes it until then.
        """
        waiting = sorted(payload.records(b"".join(self._records)), key=lambda record: len(record.payload))
        for pause in (0.0, *ROOM_AGAIN):
            time.sleep(pause)
            refusals: List[payload.Buffer] = []
            refused = []
            for record in waiting:
                self._records = payload.pack_record(record.call, record.status, record.payload)
                try:
                    self._partial()
                except OSError as error:
                    words = "%s (%d bytes)" % (error.strerror, len(record.payload))
                    said = payload.pack_error(OSError(error.errno, words, self._directory))
                    refusals += payload.pack_record(record.call, payload.UNPUBLISHED, said)
                    refused.append(record)
            waiting = refused
            if not waiting:
                break
        self._records = refusals
        try:
            self._final()
        except OSError:
            sys.exit(publish.NO_ROOM)  # all that can be told without writing


def share(index: int, mapping: str, part: str) -> Tuple[int, Set[int]]:
    """Return the batch's task number for an array index, and which calls of that are not to be run.

    `mapping` is the part's first task, or "map" for a file with a word for each index: "7", or, where a retry has some
    results already, "7:40-42:45-46".
    """
    if mapping != "map":
        return int(mapping) + index, set()
    path = os.path.join(part, "map")
    with trust.open_reader(path) as file:
        words = file.read().split()
    try:
        task, *done = words[index].split(b":")
        pairs = [ends.split(b"-") for ends in done]
        ranges = [range(_number(first), _number(end)) for first, end in pairs]
        if sum(map(len, ranges)) > MOST_DONE:
            raise ValueError
        return _number(task), {call for ends in ranges for call in ends}
    except (ValueError, IndexError):
        raise payload.Damaged("%s does not say which task has the array index %d" % (path, index)) from None


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise ValueError
    return int(digits)


def _already_published(directory: str, task: int) -> Set[int]:
    """Return the calls that an earlier run of this job has published results of."""
    from . import spool

    done: Set[int] = set()
    for text in os.listdir(directory):
        name = spool.parse_name(text)
        if name and name.task == task and name.kind == publish.PARTIAL:
            with trust.open_reader(os.path.join(directory, text)) as file:
                body = payload.unpack_results(file.read())
            try:
                done.update([record.call for record in payload.records(body or b"")])
            except payload.Damaged:
                pass  # those calls run again
    return done


class _Functions:
    """A batch's functions, each loaded when a call first needs it; `given` are what the initializer made global."""

    def __init__(self, batch: payload.BatchFile, given: Dict[str, Any]) -> None:
        self._batch = batch
        self._given = given
        self._loaded: Dict[int, Tuple[Optional[Callable[..., Any]], bytes]] = {}

    def get(self, number: int) -> Tuple[Optional[Callable[..., Any]], bytes]:
        """Return the function, or None and the packed error that loading it gave."""
        if number not in self._loaded:
            self._loaded[number] = payload.load_function(self._batch.function(number), self._given)
        return self._loaded[number]


def run_task(folder: str, part: str, index: int, run: int, mapping: str) -> bool:
    """Run one array task and publish its results. Returns whether every call returned a value."""
    batch = payload.BatchFile(os.path.join(folder, "calls"))
    task, done = share(index, mapping, part)
    calls = batch.task(task)
    directory = os.path.join(part, "r")
    publisher = _Publisher(directory, index, run)
    if run:
        done |= _already_published(directory, index)
    if len(calls) > 1:
        publisher.start_ticker()
    status, data, given = payload.initialize(batch.initializer())
    functions = _Functions(batch, given)
    broken = status != payload.OK
    good = not broken
    for call in calls:
        if call in done:
            continue
        if not broken:
            number, arguments = batch.call(call)
            function, problem = functions.get(number)
            status, data = (payload.UNLOADABLE, problem) if function is None else payload.perform(function, arguments)
        good = good and status == payload.OK
        publisher.add(call, status, data)
    publisher.finish()
    batch.close()
    return good


def main() -> None:
    """Entry of the batch script: folder, part, array index, run and mapping are the arguments."""
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_IGN:  # as bash has it for what runs in the background
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        _signal.signal(_signal.SIGQUIT, _signal.SIG_DFL)
    folder, part, index, run, mapping = sys.argv[1:6]
    sys.argv[1:] = []
    good = run_task(folder, os.path.join(folder, part), int(index), int(run), mapping)
    sys.exit(0 if good else 1)
