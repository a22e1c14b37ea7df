"""A batch and its parts: which tasks wait for their submission, which were submitted together."""

import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import spool, watch
from .backpressure import Backpressure

Range = Tuple[int, int]  # task numbers, the end not included

_LOG_LIMIT = 64 << 10  # bytes of a log that are kept for the client when a batch's files go
_LOGS_LIMIT = 8 << 20  # bytes of all of them


class Part:
    """One submission of a batch's tasks; array index i is the task `tasks[i]`."""

    def __init__(self, number: int, tasks: List[int], folder: spool.Part, name: str) -> None:
        self.number = number
        self.tasks = tasks
        self.folder = folder
        self.name = name
        self.time = time.time()  # of the submission
        self.job: Optional[str] = None
        self.throttle: Optional[int] = None
        self.watch: Optional[watch.Watch] = None
        self.unwanted: Set[int] = set()  # array indices to be cancelled
        self.over: Set[int] = set()  # array indices that the client knows the end of, from before a lost connection


class Batch:
    """What the client handed over as one; a task is an array task's share of its calls."""

    def __init__(self, spec: Mapping[str, Any], folder: spool.Batch) -> None:
        self.id: str = spec["batch"]
        self.spec = spec
        self.folder = folder
        self.waiting: List[Range] = [(0, spec["tasks"])]
        self.without(set(spec["skip"]))
        self.parts: List[Part] = []
        self.numbers = 0  # parts tried, the refused ones counted
        self.pressure = Backpressure()
        self.epoch: Optional[float] = None  # since when the driver is there, where an earlier one has sent this

    @classmethod
    def found(cls, folder: spool.Batch, wanted: Set[int]) -> "Optional[Batch]":
        """Return the batch as an earlier agent has left it, None where there is none.

        `wanted` are the tasks whose end the client does not know. A part without a job's id is one whose submission has
        an unclear outcome.
        """
        spec = folder.spec()
        if spec is None:
            return None
        batch = cls(spec, folder)
        parts: Dict[int, Part] = {}
        for entry in folder.entries():
            number = entry["part"]
            batch.numbers = max(batch.numbers, number + 1)
            if "job" in entry:
                if number in parts:
                    parts[number].job = entry["job"]
            elif "void" in entry:
                parts.pop(number, None)
            else:
                tasks = [task for first, end in entry["tasks"] for task in range(first, end)]
                parts[number] = Part(number, tasks, folder.part(number), entry["name"])
                parts[number].time = entry["time"]
                parts[number].throttle = entry["throttle"]
        batch.parts = list(parts.values())
        for part in batch.parts:
            part.over = {index for index, task in enumerate(part.tasks) if task not in wanted}
        submitted = {task for part in batch.parts for task in part.tasks}
        batch.waiting = ranges(sorted(wanted - submitted))
        return batch

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
        tasks = [task for index, task in enumerate(part.tasks) if index not in part.unwanted and index not in part.over]
        self.waiting = ranges(tasks) + self.waiting

    def numbers_waiting(self) -> Set[int]:
        return {task for first, end in self.waiting for task in range(first, end)}

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
        return rest


def ranges(numbers: Sequence[int]) -> List[Range]:
    """Return sorted numbers as ranges, the ends not included."""
    found: List[Range] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def collect_logs(batch: Batch) -> Dict[str, List[str]]:
    """Return what the tasks of a batch have printed, "task": [stdout, stderr], within bounds."""
    kept: Dict[str, List[str]] = {}
    total = 0
    for part in batch.parts:
        try:
            written = sorted(entry.name for entry in os.scandir(part.folder.logs) if entry.stat().st_size)
        except OSError:
            continue
        for name in written:
            index, _, stream = name.partition(".")
            text = spool.read_tail(os.path.join(part.folder.logs, name), _LOG_LIMIT).decode("utf-8", "replace")
            total += len(text)
            if total > _LOGS_LIMIT:
                return kept
            kept.setdefault(str(part.tasks[int(index)]), ["", ""])[stream == "err"] = text
    return kept
