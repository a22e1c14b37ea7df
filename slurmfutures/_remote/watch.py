"""When to look at what, and what it means: the watch over one submitted part of a batch.

Nothing here does anything: listings, queue rows, records and the time come in as values, and decisions come out. The
rule behind it: a task fails only when it is known to be over and its results had every chance to be seen.
"""

import re
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from . import ids, publish, spool
from .scheduler import UNKNOWN, Ending, Row
from .states import TERMINAL, JobState

LOOK_SHARE = 0.02  # of the age of what is waited for: the time between two listings
LOOK_FLOOR = 0.01  # seconds
LOOK_CEILING = 10.0  # seconds
DOUBT_AFTER = 600.0  # seconds out of the queue after which a record that says "running" is to be confirmed
UNREADABLE_FOR = 300.0  # seconds for which the content of a file whose name is there may still come into sight
WHY_FIRST = 0.3  # seconds after a death was suspected
WHY_GROWTH = 2.0
WHY_CEILING = 30.0  # seconds
WHY_AGAIN = 5.0  # seconds, at least, between two questions where further deaths are suspected meanwhile
SETTLED_AFTER = 2.0  # seconds after a submission before a job's absence from the queue means anything
_LARGEST_CODE = 255  # of a process
_LONGEST_END = 1 << 16  # bytes of an end record that are read
LAG = 10.0  # seconds for which the scheduler may still show a task as it was before it ended

# Reasons for which a job may wait for ever; the others pass by themselves. From squeue(1), JOB REASON CODES.
STUCK_REASONS = frozenset(
    "AccountNotAllowed BadConstraints DependencyNeverSatisfied InvalidAccount InvalidQOS JobHeldAdmin JobHeldUser "
    "NodeDown PartitionConfig PartitionDown PartitionInactive PartitionNodeLimit PartitionTimeLimit QOSNotAllowed "
    "ReqNodeNotAvail ReservationDeleted".split()
)

# Ends after which Slurm may put the job back into the queue, under the same id.
MAY_COME_BACK = frozenset((JobState.PREEMPTED, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.REQUEUED))


class End(NamedTuple):
    """What the exit trap of a task wrote."""

    run: int
    exit_code: int
    node: str
    start: Optional[float] = None  # seconds since the epoch, by the node's clock
    end: Optional[float] = None
    nodes: str = ""  # of the allocation, in Slurm's words


class Verdict(NamedTuple):
    """A task is over and will not give (more) results."""

    task: int
    ending: Optional[Ending]  # None: the scheduler knows nothing of it any more
    end: Optional[End]  # None: the exit trap did not get to run, or its record is not visible


def parse_end(data: bytes, run: int) -> Optional[End]:
    """Read an end record: "job run code node start end nodes", of which the last may be missing."""
    words = data[:_LONGEST_END].decode("utf-8", "replace").split()
    code = ids.number(words[2]) if len(words) > 2 else None
    if code is None or code > _LARGEST_CODE:
        return None
    start = end = None
    if len(words) > 5:
        if not all(re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", word) for word in words[4:6]):
            return None
        start, end = float(words[4]), float(words[5])
    return End(run, code, words[3] if len(words) > 3 else "", start, end, "".join(words[6:7]))


def is_stuck(row: Row) -> bool:
    """Whether a queue row tells of a job that may never start."""
    reason = row.reason.strip("()")
    first = reason.replace(",", " ").partition(" ")[0]
    return row.state == JobState.PENDING and (
        first in STUCK_REASONS or reason.endswith(("in held state", "requeued held"))
    )


class Watch:
    """The tasks of one part: which are open, what was seen of them, which look over."""

    def __init__(
        self, tasks: Iterable[int], job_id: str, array: bool, now: float, grace: float, *, age: float = 0.0
    ) -> None:
        """`tasks` are array indices, `age` is how many seconds ago it was submitted. The first look is due at once."""
        self.job_id = job_id
        self.array = array
        self.open: Set[int] = set(tasks)
        self._submitted = now - age
        self._grace = grace
        self._looked = now if not age else now - LOOK_CEILING  # the last listing
        self._tried = self._looked  # the same, failed ones counted
        self._listings = 0
        self._hurried = False
        self._seen: Set[str] = set()
        self._unread: Dict[str, Tuple[int, Optional[float]]] = {}  # files in sight: task, since when reading them fails
        self._states: Dict[int, JobState] = {}
        self._ends: Dict[int, Tuple[End, int, float]] = {}  # with the number of listings when it was seen, and when
        self._gone: Dict[int, float] = {}  # since when the queue has not had it
        self._unsure: Set[int] = set()  # ended, but the records alone do not say for good

    # ---- files

    def look_at(self) -> float:
        """Return when the next listing is due."""
        return self._tried if self._hurried else self._tried + self.interval()

    def hurry(self) -> None:
        """Have the next listing due at once: there is a hint that something is to be seen."""
        self._hurried = True

    def interval(self) -> float:
        """Return the seconds between two listings at the present age."""
        return min(LOOK_CEILING, max(LOOK_FLOOR, LOOK_SHARE * (self._tried - self._submitted)))

    def listed(self, names: Iterable[str], now: float) -> List[spool.Name]:
        """Take in a listing and return what is new: results first, so that no end is judged before them."""
        self._looked = self._tried = now
        self._hurried = False
        self._listings += 1
        new = []
        for text in set(names) - self._seen:
            name = spool.parse_name(text)
            if name is not None:
                new.append(name)
        new.sort(key=lambda name: (name.kind == spool.END, name.kind == spool.CLAIM, name.task, name.text))
        unread = [name for name in new if name.kind != spool.CLAIM]
        self._unread = {name.text: self._unread.get(name.text, (name.task, None)) for name in unread}
        return new

    def not_listed(self, now: float) -> None:
        """A listing has failed: it says nothing, neither of results nor that there are none."""
        self._tried = now
        self._hurried = False

    def unreadable(self, name: spool.Name, now: float) -> None:
        """A published file could not be read, or is not whole yet."""
        task, since = self._unread.get(name.text, (name.task, None))
        self._unread[name.text] = task, now if since is None else since

    def taken(self, name: spool.Name) -> None:
        """A published file was read and is done with."""
        self._seen.add(name.text)
        self._unread.pop(name.text, None)

    def ended(self, name: spool.Name, end: End) -> None:
        """The exit trap of a task says that a run of it is over."""
        self.taken(name)
        if name.task in self.open:
            self._ends[name.task] = end, self._listings, self._looked

    def end_of(self, task: int) -> Optional[End]:
        """Return what the exit trap of an open task has written, None where nothing of that is seen."""
        return self._ends[task][0] if task in self._ends else None

    def resolve(self, task: int) -> None:
        """A task is done with, one way or the other."""
        self.open.discard(task)
        self._ends.pop(task, None)
        self._gone.pop(task, None)
        self._states.pop(task, None)
        self._unsure.discard(task)

    def reopen(self, name: spool.Name) -> None:
        """A result that was taken turned out not to be whole: it is looked for again."""
        self._seen.discard(name.text)
        if name.kind == publish.FINAL:
            self.open.add(name.task)

    def enter(self, task: int, state: JobState) -> bool:
        """Note a task's state; False if that is no news."""
        if task not in self.open or self._states.get(task, JobState.PENDING) == state:
            return False
        self._states[task] = state
        return True

    # ---- the queue

    def queued(self, rows: Sequence[Row], asked: float, now: float) -> List[Tuple[int, JobState]]:
        """Take in this job's rows of a queue listing that was asked for at `asked`; return changes of state."""
        if asked < self._submitted + SETTLED_AFTER:
            return []
        changes = []
        missing = set(self.open)
        for row in rows:
            covered = self._covered(row)
            if row.state in TERMINAL:
                for task in covered:
                    self.enter(task, row.state)
                continue
            missing -= covered
            for task in covered:
                self._gone.pop(task, None)
                self._unsure.discard(task)
                self._forget_end(task, row.state, asked)
                if row.state is not None and self.enter(task, row.state):
                    changes.append((task, row.state))
        for task in missing:
            self._gone.setdefault(task, now)
        return changes

    def _forget_end(self, task: int, state: Optional[JobState], asked: float) -> None:
        """Forget an end where the queue shows that there is another run: it was that of an earlier one."""
        if task in self._ends:
            _, _, seen = self._ends[task]
            if (state == JobState.PENDING and asked > seen) or (state == JobState.RUNNING and asked > seen + LAG):
                del self._ends[task]

    def _covered(self, row: Row) -> Set[int]:
        if row.tasks is None:
            return set(self.open)
        covered: Set[int] = set()
        for first, last in row.tasks:
            if last - first < len(self.open):
                covered.update(task for task in range(first, last + 1) if task in self.open)
            else:
                covered.update(task for task in self.open if first <= task <= last)
        return covered

    # ---- deaths

    def wants_queue(self) -> bool:
        """Whether a fresh look at the queue would help to judge a suspect."""
        return bool((self._unsure - self._gone.keys()) & self.open)

    def suspects(self) -> Set[int]:
        """Return the tasks that look over but have not given their results."""
        return (set(self._ends) | set(self._gone)) & self.open

    def settle_at(self) -> List[float]:
        """Return, of each suspect, when the time is over in which its results may still come into sight."""
        return [self._gone.get(task, float("-inf")) + self._grace for task in self.suspects()]

    def doubts(self, now: float) -> bool:
        """Whether a task is out of the queue for so long that a record that says otherwise is to be confirmed."""
        return any(now - self._gone[task] >= DOUBT_AFTER for task in self._gone.keys() & self.open)

    def _unread_tasks(self, now: float) -> Set[int]:
        """Return the tasks of which files are in sight that are still to be read, or may still become whole."""
        patience = max(UNREADABLE_FOR, self._grace)
        return {task for task, since in self._unread.values() if since is None or now < since + patience}

    def judge(self, endings: Mapping[Tuple[str, Optional[int]], Ending], now: float) -> List[Verdict]:
        """Decide on the suspects by the scheduler's records. What is left undecided is asked again."""
        verdicts = []
        for task in sorted(self.suspects() - self._unread_tasks(now)):
            ending = endings.get((self.job_id, task if self.array else None), endings.get((self.job_id, UNKNOWN)))
            end, listings, seen = self._ends.get(task, (None, 0, now))
            waited = now - self._gone.get(task, now)
            if ending is not None and ending.state not in TERMINAL:
                if waited >= DOUBT_AFTER and ending.state is not None:
                    self._gone[task] = now  # it was confirmed: the queue does not show all there is
                if now >= seen + LAG:
                    self._unsure.add(task)  # either that record is behind, or it was requeued: the queue knows
                continue
            if ending is not None and ending.state in MAY_COME_BACK and task not in self._gone:
                self._unsure.add(task)
                continue  # only the queue can say that it was not requeued
            if ending is None:
                self._unsure.add(task)
            if end is not None and ending is not None:
                sure = self._listings > listings
            elif ending is not None and not ending.started:
                sure = True
            else:
                sure = waited >= self._grace and self._looked >= self._gone.get(task, now) + self._grace
            if sure:
                verdicts.append(Verdict(task, ending or self._never_started(task, endings), end))
        return verdicts

    def _never_started(self, task: int, endings: Mapping[Tuple[str, Optional[int]], Ending]) -> Optional[Ending]:
        """Return the ending of an array task that was cancelled while it waited, of which Slurm keeps no record.

        That is: it is in no record, other tasks are, and nothing was ever seen of a start or of another end.
        """
        others = self.array and any(job_id == self.job_id and other is not None for job_id, other in endings)
        recorded = (self.job_id, task) in endings or self._states.get(task, JobState.PENDING) != JobState.PENDING
        if recorded or not others:
            return None
        return Ending(JobState.CANCELLED, None, None, "", "", False, "", "", "")
