"""Calls that come close together with equal options become one batch. Pure: the clock is passed in."""

import bisect
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ._future import SlurmFuture
from ._remote import arrays, payload
from ._remote.states import JobState
from ._retries import Attempts
from ._ship import Shipment

QUIET = 0.02  # seconds without a further call after which a batch is closed
LONGEST = 0.5  # seconds after its first call after which a batch is closed in any case
MOST_BYTES = 64 << 20  # of arguments, after which it is closed at once


class OwnScript(NamedTuple):
    """What a user's own script is run by; no two are equal, so each is a batch by itself.

    The argument of its one call is empty; a job array has a call for each task, with the array index for an argument.
    """

    number: int
    cwd: str | None  # the folder that it begins in, None for where calls begin
    directives: tuple[str, ...]  # its `#SBATCH` lines
    interpreter: tuple[str, ...]
    output: str  # where it says that its output goes, or ""
    error: str
    check: bool  # whether a job that fails is an error
    retries: int  # how often a job that failed is submitted again
    array: str = ""  # its job array, in sbatch's words
    indices: str = ""  # of that, those that one batch has; known when it is handed over


class Spec(NamedTuple):
    """What the calls of one batch have in common; equal specs share batches."""

    options: tuple[str, ...]  # sbatch's, as words
    name: str | None  # the user's job name
    comment: str
    initializer: bytes  # pickled (function, arguments), or nothing
    script: OwnScript | None = None
    shipment: Shipment | None = None  # the user's own code


class Control(NamedTuple):
    """What a batch asks of the poller; all may be called from any thread."""

    cancel: Callable[["Batch", int], None]
    log: Callable[[Sequence[tuple["Batch", int]], str, int | None], str]
    hurry: Callable[["Batch"], None]


class Claim(NamedTuple):
    """What a call takes that was sent by an earlier driver, should it have to be sent again."""

    spec: Spec
    name: str
    function: bytes
    arguments: bytes


class Batch:
    """Calls that are submitted together, and what is known of their jobs.

    Its futures hold it, so it lives as long as anybody can still ask for a job id or a log. `calls` and `functions`
    are dropped once they are packed, what was packed once the agent has it on disk, `futures` one by one as they are
    resolved.
    """

    def __init__(self, spec: Spec, control: Control, now: float) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.spec = spec
        self.name = spec.name or ""
        self.opened = now
        self.latest = now
        self.size = 0
        self.hurried = False
        self.functions: dict[bytes, int] = {}
        self.calls: list[tuple[int, bytes]] = []
        self.firsts: list[int] = []
        self.futures: list[SlurmFuture[Any] | None] = []
        self.keys: list[bytes] = []  # of the calls, where there is a checkpoint
        self.unresolved = 0
        self.failed = False  # some call's files are worth keeping
        self.stored = False  # the agent has it on disk
        self.unwanted: set[int] = set()  # tasks to be cancelled once it is stored
        self.cancelling: set[int] = set()  # tasks whose cancellation the agent has not confirmed yet
        # Of a batch that an earlier driver has sent; the poller's lock guards the next three.
        self.restored = False
        self.attached = False  # and the agent has found it
        self.unclaimed: set[int] = set()  # calls that nobody has asked for yet
        self.claims: dict[int, Claim] = {}  # until it is attached
        self.unsaved = False  # some result could not be written into the checkpoint
        self.attempts: dict[int, Attempts] = {}  # of the tasks that were lost once; the poller's thread only
        self.stale: dict[int, BaseException] = {}  # what calls of these tasks raised for an earlier driver; the same
        self.indices: list[int] = []  # array indices of the tasks, where the script is an array
        self.lock = threading.Lock()  # guards _parts, _states, _kept; the poller writes, any thread reads
        self.control = control
        self._parts: list[tuple[str, list[range]]] = []
        self._states: dict[int, JobState] = {}
        self._kept: dict[str, list[str]] | None = None  # logs, after the batch's files went

    @classmethod
    def restore(
        cls, batch_id: str, spec: Spec, control: Control, firsts: Sequence[int], keys: Sequence[bytes], opened: set[int]
    ) -> "Batch":
        """Return a batch that an earlier driver has sent, of which the calls `opened` have no end yet."""
        batch = cls(spec, control, 0.0)
        batch.id = batch_id
        batch.hurried = batch.stored = batch.restored = True
        batch.firsts = list(firsts)
        batch.keys = list(keys)
        batch.futures = [SlurmFuture[Any](batch, call) if call in opened else None for call in range(len(keys))]
        batch.unresolved = len(opened)
        batch.unclaimed = set(opened)
        if spec.script is not None and spec.script.array:
            batch.indices = arrays.parse(spec.script.indices).indices
        return batch

    def add(
        self, function: bytes, name: str, arguments: Sequence[bytes], now: float, keys: Sequence[bytes] = ()
    ) -> list[SlurmFuture[Any]]:
        """Add one task of one call or more. The batcher's lock is held."""
        first = len(self.futures)
        futures: list[SlurmFuture[Any]] = [SlurmFuture(self, first + offset) for offset in range(len(arguments))]
        self._add(function, name, arguments, now, keys, futures)
        return futures

    def adopt(self, claim: Claim, future: SlurmFuture[Any], key: bytes, now: float) -> None:
        """Add a call whose future belonged to a batch that is gone. The batcher's lock is held."""
        future._place = self, len(self.futures)
        self._add(claim.function, claim.name, [claim.arguments], now, [key], [future])

    def _add(
        self,
        function: bytes,
        name: str,
        arguments: Sequence[bytes],
        now: float,
        keys: Sequence[bytes],
        futures: Sequence[SlurmFuture[Any]],
    ) -> None:
        number = self.functions.setdefault(function, len(self.functions))
        self.name = self.name or name
        self.firsts.append(len(self.futures))
        self.calls.extend((number, argument) for argument in arguments)
        self.size += sum(map(len, arguments))
        self.latest = now
        if self.spec.script is not None and self.spec.script.array:
            self.indices.append(int(arguments[0]))
        self.futures.extend(futures)
        self.keys.extend(keys)
        self.unresolved += len(futures)

    def packed(self) -> list[bytes]:
        """Return the file that holds this batch; the calls are kept nowhere else from now on."""
        packed = payload.pack_batch(self.spec.initializer, list(self.functions), self.calls, self.firsts)
        self.calls = []
        self.functions = {}
        self.hurried = True
        return packed

    def script(self) -> OwnScript | None:
        """Return what its script is run by."""
        script = self.spec.script
        if script is None or not script.array:
            return script
        whole = arrays.parse(script.array)
        return script._replace(indices=whole.text if whole.indices == self.indices else arrays.write(self.indices))

    def wanted(self) -> list[tuple[int, int]]:
        """Return the tasks that the agent has to care for, as ranges with the ends not included."""
        found: list[tuple[int, int]] = []
        for task in range(len(self.firsts)):
            if task in self.cancelling or any(self.futures[call] is not None for call in self.calls_of(task)):
                if found and found[-1][1] == task:
                    found[-1] = found[-1][0], task + 1
                else:
                    found.append((task, task + 1))
        return found

    def task_of(self, call: int) -> int:
        return bisect.bisect_right(self.firsts, call) - 1

    def calls_of(self, task: int) -> range:
        """Return the calls of a task. Raises IndexError where there is none of this number."""
        if task < 0:
            raise IndexError(f"task {task}")
        end = self.firsts[task + 1] if task + 1 < len(self.firsts) else len(self.futures)
        return range(self.firsts[task], end)

    # ---- what the agent says; the poller's thread

    def tasks_in(self, ranges: Iterable[Sequence[int]]) -> list[range]:
        """Return ranges of tasks. Raises ValueError for what is none: a range can be short to say, and without end."""
        found = [range(first, end) for first, end in ranges]
        if any(each.start < 0 or each.stop > len(self.firsts) for each in found):
            raise ValueError(f"tasks that a batch of {len(self.firsts)} does not have")
        return found

    def submitted(self, job_id: str, ranges: Iterable[range]) -> bool:
        """Note a job of this batch; False if it was known."""
        with self.lock:
            if any(job_id == known for known, _ in self._parts):
                return False
            self._parts.append((job_id, list(ranges)))
            return True

    def enter(self, tasks: Iterable[int], state: JobState) -> None:
        with self.lock:
            for task in tasks:
                self._states[task] = state

    def keep_logs(self, logs: dict[str, list[str]]) -> None:
        """Its files are gone; this is what was in its logs, by task."""
        with self.lock:
            self._kept = logs

    def kept_log(self, call: int, stream: str) -> str | None:
        """Return a log that was kept, None while the files are there to be read."""
        with self.lock:
            if self._kept is None:
                return None
            return self._kept.get(str(self.task_of(call)), ["", ""])[stream == "err"]

    # ---- as an owner of futures; any thread

    def job_id(self, call: int) -> str | None:
        task = self.task_of(call)
        with self.lock:
            if self.indices:
                jobs = (job_id for job_id, ranges in reversed(self._parts) if any(task in tasks for tasks in ranges))
                return next((f"{job_id}_{self.indices[task]}" for job_id in jobs), None)
            for job_id, ranges in reversed(self._parts):  # the last attempt
                index = 0
                for tasks in ranges:
                    if task in tasks:
                        alone = len(ranges) == 1 and len(tasks) == 1
                        return job_id if alone else f"{job_id}_{index + task - tasks.start}"
                    index += len(tasks)
        return None

    def state(self, call: int) -> JobState:
        with self.lock:
            return self._states.get(self.task_of(call), JobState.PENDING)

    def log(self, call: int, stream: str, limit: int | None) -> str:
        return self.control.log([(self, call)], stream, limit)

    def cancel(self, call: int) -> None:
        self.control.cancel(self, call)

    def hurry(self) -> None:
        if not self.hurried:
            self.control.hurry(self)


class Batcher:
    """The batches that are still open, at most one for each spec. The caller's lock guards all of it."""

    def __init__(self) -> None:
        self._open: dict[Spec, Batch] = {}
        self._sent: dict[Spec, Batch] = {}  # handed over, not yet wholly submitted

    def batch_for(self, spec: Spec, control: Control, now: float) -> Batch:
        """Return the batch that takes the next call with this spec."""
        batch = self._open.get(spec)
        if batch is None:
            batch = self._open[spec] = Batch(spec, control, now)
        return batch

    def due(self, now: float, *, all_of_them: bool) -> list[Batch]:
        """Take out the batches that are closed now. While one of a spec is on its way in, the next one gathers."""
        found = [
            spec
            for spec, batch in self._open.items()
            if spec not in self._sent and (all_of_them or now >= _closes(batch))
        ]
        for spec in found:
            self._sent[spec] = self._open[spec]
        return [self._open.pop(spec) for spec in found]

    def next_due(self) -> float | None:
        """Return when the next batch closes, None where that is not a matter of time."""
        return min((_closes(batch) for spec, batch in self._open.items() if spec not in self._sent), default=None)

    def submitted(self, batch: Batch) -> None:
        """A batch is wholly in the scheduler's hands: the next one of its spec may follow."""
        if self._sent.get(batch.spec) is batch:
            del self._sent[batch.spec]

    def opened(self) -> list[Batch]:
        return list(self._open.values())

    def take_all(self) -> list[Batch]:
        batches, self._open = list(self._open.values()), {}
        return batches

    def __bool__(self) -> bool:
        return bool(self._open)


def _closes(batch: Batch) -> float:
    if batch.hurried or batch.size >= MOST_BYTES:
        return 0.0
    return min(batch.latest + QUIET, batch.opened + LONGEST)
