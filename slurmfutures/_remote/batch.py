"""A batch and its parts: which tasks wait for their submission, which were submitted together."""

import contextlib
import os
import time
from typing import Any, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from . import arrays, entries, ids, logs, spool, watch
from .backpressure import Backpressure

Range = Tuple[int, int]  # task numbers, the end not included

_LOG_LIMIT = 64 << 10  # bytes of a log that are kept for the client when a batch's files go
_LOGS_LIMIT = 8 << 20  # bytes of all of them


class Retry(NamedTuple):
    """A task that the client wants to be run again."""

    task: int
    attempt: int  # the first retry is 1
    exclude: Tuple[str, ...]  # nodes, or lists of nodes in Slurm's words
    done: Tuple[Range, ...]  # the calls that are not to be run again

    def goes_with(self, other: "Retry") -> bool:
        """Whether both may be in one submission."""
        return (self.attempt, self.exclude) == (other.attempt, other.exclude)


class Part:
    """One submission of a batch's tasks; array index i is the task `at[i]`.

    Where it is a retry, `retries` has one for each task, in their order, and all of them go together. Of a user's own
    array `places` are the array indices of the tasks; others are numbered from 0 on.
    """

    def __init__(
        self,
        number: int,
        tasks: List[int],
        folder: spool.Part,
        name: str,
        retries: Sequence[Retry] = (),
        places: Optional[Sequence[int]] = None,
    ) -> None:
        self.number = number
        self.tasks = tasks
        self.at: Union[List[int], Dict[int, int]] = tasks if places is None else dict(zip(places, tasks))
        self.indices: Collection[int] = range(len(tasks)) if places is None else dict.fromkeys(places)
        self.array = places is not None or len(tasks) > 1  # else it is a plain job
        self.retries = retries
        self.attempt = retries[0].attempt if retries else 0
        self.exclude = retries[0].exclude if retries else ()
        self.folder = folder
        self.name = name
        self.time = time.time()  # of the submission
        self.job: Optional[str] = None
        self.throttle: Optional[int] = None
        self.watch: Optional[watch.Watch] = None
        self.unwanted: Set[int] = set()  # array indices to be cancelled
        self.over: Set[int] = set()  # array indices whose end the client knows, or that are a later part's by now
        self.ends: Dict[int, float] = {}  # when the time of pilots is over, by array index, in seconds since the epoch
        self.passed_on: Set[int] = set()  # the latter: results of them that show after all are still results
        self.unread: Set[int] = set()  # array indices of which the last look has left results for the next one
        self.sending: List[int] = []  # array indices of large results on their way, each as often as it has some

    def left(self) -> List[int]:
        """Return the array indices that are still wanted, of a part that was not accepted."""
        return [index for index in self.indices if index not in self.unwanted and index not in self.over]

    def job_id(self, index: int) -> str:
        """Return the id of an array index's job, "123" or "123_7"."""
        return "%s_%d" % (self.job, index) if self.array else str(self.job)

    def give_up(self, tasks: Set[int]) -> None:
        """These tasks are a later part's from now on."""
        for index in self.indices:
            if self.at[index] in tasks:
                self.over.add(index)
                self.passed_on.add(index)
                if self.watch is not None:
                    self.watch.resolve(index)


class Batch:
    """What the client handed over as one; a task is an array task's share of its calls."""

    def __init__(self, spec: Mapping[str, Any], folder: spool.Batch) -> None:
        self.id: str = spec["batch"]
        self.spec = spec
        self.folder = folder
        # Of pilots: where they and their agents meet, work_dir/pilots/<session>/<pool>.
        self.meeting: str = spec["pilot"]["folder"] if "pilot" in spec else ""
        self.pool = os.path.basename(self.meeting)
        words = spec.get("script") or {}
        # Of a user's own array: task t is its t-th index.
        self.array = arrays.parse(words["indices"]) if words.get("array") else None
        self.throttle = arrays.parse(words["array"]).throttle if words.get("array") else None
        self.waiting: List[Range] = [(0, spec["tasks"])]
        self.retries: List[Retry] = []  # those that wait
        self.without(set(spec["skip"]))
        self.attempts: Dict[int, int] = {}  # of each task, the last that was asked for
        self.parts: List[Part] = []  # in the order of their numbers
        self.numbers = 0  # parts tried, the refused ones counted
        self.pressure = Backpressure()
        self.epoch: Optional[float] = None  # since when the driver is there, where an earlier one has sent this

    @classmethod
    def found(cls, folder: spool.Batch, wanted: Set[int]) -> "Optional[Batch]":
        """Return the batch as an earlier agent has left it, None where there is none.

        `wanted` are the tasks whose end the client does not know. A part without a job's id is one whose submission has
        an unclear outcome. Raises Untrusted, OSError, and ValueError where its files are damaged.
        """
        spec = folder.spec()
        if spec is None:
            return None
        batch = cls(spec, folder)
        parts: Dict[int, Part] = {}
        asked: Dict[Tuple[int, int], Retry] = {}
        for entry in folder.entries():
            entries.check_entry(entry, folder.id, spec["tasks"])
            if "retries" in entry:
                for retry in map(parse_retry, entry["retries"]):
                    asked[retry.task, retry.attempt] = retry
                    batch.attempts[retry.task] = retry.attempt
                continue
            number = entry["part"]
            batch.numbers = max(batch.numbers, number + 1)
            if "job" in entry:
                if number in parts:
                    parts[number].job = entry["job"]
            elif "void" in entry:
                parts.pop(number, None)
            else:
                tasks = [task for first, end in entry["tasks"] for task in range(first, end)]
                attempt, exclude = entry.get("attempt", 0), tuple(entry.get("exclude", ()))
                if attempt and any((task, attempt) not in asked for task in tasks):
                    raise ValueError("parts.jsonl has a retry that was not asked for")
                retries = [asked[task, attempt]._replace(exclude=exclude) for task in tasks] if attempt else []
                parts[number] = batch.part(number, tasks, entry["name"], retries)
                parts[number].time = entry["time"]
                parts[number].throttle = entry["throttle"]
        batch.parts = list(parts.values())
        owners = {task: part for part in batch.parts for task in part.tasks}  # the newest part has the say
        again = {
            task: attempt
            for task, attempt in batch.attempts.items()
            if task in wanted and (task not in owners or owners[task].attempt < attempt)
        }
        for part in batch.parts:
            part.over = {
                index
                for index in part.indices
                for task in [part.at[index]]
                if task not in wanted or task in again or owners[task] is not part
            }
        batch.retries = [asked[key] for key in sorted(again.items())]
        batch.waiting = ranges(sorted(wanted.difference(owners, again)))
        return batch

    def part(self, number: int, tasks: List[int], name: str, retries: Sequence[Retry] = ()) -> Part:
        """Return one more submission, of these tasks."""
        places = None if self.array is None else [self.array.indices[task] for task in tasks]
        return Part(number, tasks, self.folder.part(number), name, retries, places)

    def again(self, retries: Sequence[Retry]) -> None:
        """Have tasks run again: what there was of them before is over."""
        tasks = {retry.task for retry in retries}
        for part in self.parts:
            part.give_up(tasks)
        self.attempts.update((retry.task, retry.attempt) for retry in retries)
        self.retries += retries

    def remaining(self) -> int:
        """Return how many tasks wait for the same submission, 0 where none does."""
        if self.retries:
            return sum(retry.goes_with(self.retries[0]) for retry in self.retries)
        return sum(end - first for first, end in self.waiting)

    def take_retries(self, most: int) -> List[Retry]:
        """Take up to `most` retries that go together off those that wait."""
        taken = [retry for retry in self.retries if retry.goes_with(self.retries[0])][:most]
        self.retries = [retry for retry in self.retries if retry not in taken]
        return sorted(taken)

    def take(self, most: int) -> List[int]:
        """Take up to `most` task numbers off those that wait."""
        taken: List[int] = []
        while self.waiting and len(taken) < most:
            first, end = self.waiting[0]
            stop = min(end, first + most - len(taken))
            taken.extend(range(first, stop))
            if stop == end:
                del self.waiting[0]
            else:
                self.waiting[0] = stop, end
        return taken

    def give_back(self, part: Part) -> None:
        """A part was not accepted: its tasks wait again, but for those cancelled meanwhile."""
        self.parts.remove(part)
        self.wait_again(part, part.left())

    def wait_again(self, part: Part, indices: Sequence[int]) -> None:
        """Some array indices of a part have never begun and never will: their tasks wait."""
        if part.retries:
            asked = {retry.task: retry for retry in part.retries}
            self.retries = [asked[part.at[index]] for index in indices] + self.retries
        else:
            self.waiting = sorted(ranges([part.at[index] for index in indices]) + self.waiting)

    def without(self, tasks: Set[int]) -> Set[int]:
        """Take these tasks off those that wait; return the ones that were not waiting."""
        kept = []
        rest = set(tasks)
        for start, end in self.waiting:
            hit = sorted(task for task in tasks if start <= task < end)
            rest.difference_update(hit)
            first = start
            for task in hit:
                if task > first:
                    kept.append((first, task))
                first = task + 1
            if first < end:
                kept.append((first, end))
        self.waiting = kept
        rest.difference_update(retry.task for retry in self.retries)
        self.retries = [retry for retry in self.retries if retry.task not in tasks]
        return rest


def parse_retry(words: Mapping[str, Any]) -> Retry:
    """Read a retry as the client sends it, and as it is written down."""
    done = tuple((first, end) for first, end in words["done"])
    return Retry(words["task"], words["attempt"], tuple(words["exclude"]), done)


def ranges(numbers: Sequence[int]) -> List[Range]:
    """Return sorted numbers as ranges, the ends not included."""
    found: List[Range] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def _written(folder: str) -> List[str]:
    """Return the names of the logs that are not empty."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # a link to a file that is on a compute node
                if entry.stat().st_size:
                    found.append(entry.name)
    return sorted(found)


def collect_logs(batch: Batch) -> Dict[str, List[str]]:
    """Return what the last runs of a batch's tasks have printed, "task": [stdout, stderr], within bounds."""
    kept: Dict[str, List[str]] = {}
    total = 0
    owners = {task: part for part in batch.parts for task in part.tasks}
    for part in batch.parts:
        for name in _written(part.folder.logs):
            index, _, stream = name.partition(".")
            number = ids.number(index)
            if number is None or number not in part.indices or stream not in ("out", "err"):
                continue
            task = part.at[number]
            if owners[task] is not part:
                continue
            before, data = logs.tail(os.path.join(part.folder.logs, name), _LOG_LIMIT)
            text = logs.note(before, "the end is kept") + logs.whole(before, data).decode("utf-8", "replace")
            total += len(text)
            if total > _LOGS_LIMIT:
                return kept
            kept.setdefault(str(task), ["", ""])[stream == "err"] = text
    return kept
