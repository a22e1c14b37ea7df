"""The jobs of a pool: asked for as calls wait, again where one was of no use, taken back when nobody needs them.

Jobs are tasks of batches like any others, so `batches` submits them, looks after them and tells of their ends.
"""

import functools
import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence

from . import commands, payload
from .pool_files import PoolFiles
from .pool_job import Job, Surroundings
from .times import parse_time

GATHER = 0.01  # seconds in which calls come in before jobs are asked for
GIVE_UP = 3  # jobs that end one after the other without having been of use
AGAIN_FIRST, AGAIN_CEILING = 0.4, 300.0  # seconds after one that was of no use until the next is asked for
NO_ROOM_AGAIN = 5.0  # seconds until a batch is tried again that could not be written
REFUSED_AGAIN = 60.0  # seconds until more jobs are asked for, where some are there
REASON_EVERY = 5.0  # seconds between two looks at why nothing moves
# Queue reasons that do not pass by themselves. From squeue(1), JOB REASON CODES.
NEVER = frozenset(
    "AccountNotAllowed BadConstraints DependencyNeverSatisfied InvalidAccount InvalidQOS JobHeldAdmin JobHeldUser "
    "PartitionNodeLimit PartitionTimeLimit QOSNotAllowed ReservationDeleted".split()
)
HELD = "in held state", "requeued held"  # how the words end for a job that was put back, and not let go


class Calls(Protocol):
    """The pool's calls, for whose sake there are jobs."""

    def waiting(self) -> int:
        """Return how many calls no pilot has."""

    def demand(self) -> int:
        """Return how many workers would have something to do."""

    def ship(self) -> Optional[str]:
        """Return the version of the client's code that the next call needs, or nothing; None while it is not there."""

    def owes(self, batch: str) -> bool:
        """Whether the client may ask again for what jobs of a batch had."""

    def over(self, job: Job, record: Optional[Mapping[str, Any]]) -> None:
        """A job is over, by itself or as `record` tells."""

    def give_up(self, message: str, words: Mapping[str, Any]) -> None:
        """Nothing will come of the calls that wait; `words` are how the last job has ended, if that is why."""


class PoolJobs:
    """Owner of the jobs of one pool."""

    def __init__(
        self,
        around: Surroundings,
        words: Mapping[str, Any],
        initializer: bytes,
        files: PoolFiles,
        calls: Calls,
        note: Callable[[str, str], None],
        wake: Callable[[float], None],
    ) -> None:
        """`words` are the pool's; `note(kind, message)` is for the client; `wake(at)` has `ask_if_due` called then."""
        self.by_batch: Dict[str, Dict[int, Job]] = {}
        self.all: List[Job] = []  # the same, in a row
        self.closed = False  # no job is asked for any more
        self.reason = ""  # why nothing moves
        self._around = around
        self._words = words
        self._initializer = initializer
        self._files = files
        self._calls = calls
        self._note = note
        self._wake = wake
        self._ask_at: Optional[float] = None  # when jobs may be asked for
        self._strikes = 0  # jobs that have ended without having been of use, one after the other
        self._shunned: Dict[str, None] = {}  # nodes on which such jobs have ended, in order
        self._refused_until = 0.0
        self._wanted = time.monotonic()  # when a call last waited for a worker
        self._waits_since: Optional[float] = None  # for a first worker
        self._reason_at = 0.0
        limit = [word[len("--time=") :] for word in words["spec"]["options"] if word.startswith("--time=")]
        self._time = parse_time(limit[-1]) if limit else None

    def find(self, batch: str, task: int) -> Optional[Job]:
        return self.by_batch.get(batch, {}).get(task)

    def enter(self, batch: str, tasks: int) -> Dict[int, Job]:
        """Take up a batch of jobs."""
        jobs = self.by_batch[batch] = {task: Job(batch, task) for task in range(tasks)}
        self.all += jobs.values()
        return jobs

    def _drop(self, batch: str) -> None:
        self.by_batch.pop(batch, None)
        self.all = [job for job in self.all if job.batch != batch]

    def replace(self, job: Job) -> Job:
        """A job is in the queue again: return what it is from now on."""
        again = Job(job.batch, job.task)
        again.id, again.run, again.state = job.id, job.run, job.state
        self.by_batch[job.batch][job.task] = again
        self.all[self.all.index(job)] = again
        return again

    # ---- asking

    def ask_soon(self) -> None:
        self._wanted = time.monotonic()
        if self._ask_at is None:
            self._ask_at = time.monotonic() + GATHER
            self._wake(self._ask_at)

    def ask_if_due(self, now: float) -> Optional[float]:
        """Submit as many jobs as calls can use, when it is time to; return when to try again."""
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None
            self._ask(now)
        return self._ask_at

    def _ask(self, now: float) -> None:
        """Submit as many jobs as calls can use."""
        per_job: int = self._words["per_job"]
        wanted = min(self._words["max_jobs"], -(-self._calls.demand() // per_job))
        present = sum(job.is_there() for job in self.all)
        if present > self._words["max_jobs"]:  # one that was replaced has been put back into the queue
            self.cancel(self._unused(self.all)[: present - self._words["max_jobs"]])
        ship = self._calls.ship()
        if wanted <= present or self.closed or ship is None:
            return
        if now < self._refused_until:
            self._ask_at = self._refused_until
            return
        number = wanted - present
        batch = os.urandom(6).hex()
        pilot = {
            "folder": self._files.path,
            "work_dir": self._around.work_dir,
            "workers": per_job,
            "idle": self._words["idle"],
            "most_calls": self._words["most_calls"],
            "time": self._time,
            "ship": ship,
        }
        options = commands.excluding(self._words["spec"]["options"], list(self._shunned))
        spec = dict(
            self._words["spec"], options=options, batch=batch, tasks=number, skip=[], ship="", script=None, pilot=pilot
        )
        try:
            self._files.record({"batch": batch, "tasks": number}, sync=True)
            self.enter(batch, number)
            file = b"".join(payload.pack_batch(self._initializer, [], [], [0] * number))
            self._around.batches.submit(spec, file, lambda words: None)
        except OSError as error:
            self._drop(batch)
            self._refused_until = now + NO_ROOM_AGAIN
            self._ask_at = self._refused_until
            self._note("stuck", "a batch of pilots cannot be written: %s" % error)

    def _unused(self, jobs: Sequence[Job]) -> List[Job]:
        """Return those that wait in the queue, as far as is known."""
        return [it for it in jobs if it.state == "PENDING" and not (it.came or it.awaited or it.over or it.leaving)]

    # ---- what becomes of them

    def of_use(self, job: Job) -> None:
        """A job has workers that can take calls."""
        job.useful = True
        self._strikes = 0

    def ended(self, job: Job, words: Mapping[str, Any]) -> None:
        """A job has ended as `words` tell, and not by itself."""
        if job.is_useless(words):
            self._struck(words)

    def _struck(self, words: Mapping[str, Any]) -> None:
        """A job has ended before it was of any use. Whoever is still to come may fare better."""
        if self.closed:
            return
        self._strikes += 1
        pause = min(AGAIN_CEILING, AGAIN_FIRST * 2.0 ** (self._strikes - 1))
        self._refused_until = time.monotonic() + pause
        if self._strikes >= GIVE_UP and self._left_alone():
            self._calls.give_up(
                "%d jobs have ended one after the other before they could run a call" % self._strikes, words
            )
            return
        how = " ".join(str(words[name]) for name in ("state", "exit_code") if words[name])
        where = ""
        if words["node"]:
            where = " on node %s" % words["node"]
            self._shunned[words["node"]] = None
        self._note("info", "job %s ended%s before it could run a call: %s" % (words["job_id"], where, how or "?"))

    def _left_alone(self) -> bool:
        """Whether no job is there that takes calls, or may one day."""
        return not any(job.is_there() for job in self.all)

    def refused(self, batch: str, tasks: Sequence[Sequence[int]], message: str) -> None:
        """The scheduler will not have some jobs."""
        for first, end in tasks:
            for task in range(first, end):
                self.by_batch[batch][task].over = True
        self.release(batch)
        if self._shunned:  # it may be that there are no other nodes
            self._shunned.clear()
            self.ask_soon()
        elif not self._left_alone():
            self._refused_until = time.monotonic() + REFUSED_AGAIN
            self._note("stuck", "no more jobs: %s" % message)
        elif not self.closed:
            self._calls.give_up("no job is accepted: %s" % message, {"refused": message})

    def release(self, batch: str) -> None:
        """Have a batch's files cleared away when its jobs are over and nobody may ask for what they had again."""
        jobs = self.by_batch.get(batch, {})
        if not jobs or any(not job.over for job in jobs.values()):
            return
        if self._calls.owes(batch):
            return
        try:
            self._files.record({"over": batch})
            self._files.clear(batch)
        except OSError:
            return  # the next agent finds out for itself
        self._drop(batch)
        self._around.batches.release(batch, True, False, lambda words: None)

    def release_all(self) -> None:
        """Have the files of all batches cleared away: nobody asks for anything any more."""
        for batch in self.by_batch:
            self._around.batches.release(batch, True, False, lambda words: None)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Take jobs out of the queue, or end them."""
        by_batch: Dict[str, List[int]] = {}
        for job in jobs:
            if not job.over:
                job.leaving = True  # it may come yet
                by_batch.setdefault(job.batch, []).append(job.task)
        for batch, tasks in by_batch.items():
            self._around.batches.cancel(batch, tasks, functools.partial(self._cancelled, batch, tasks))

    def _cancelled(self, batch: str, tasks: Sequence[int], _: Mapping[str, Any]) -> None:
        for task in tasks:
            job = self.by_batch.get(batch, {}).get(task)
            if job is not None:
                self._calls.over(job, None)

    # ---- what is a matter of time

    def see_reasons(self, now: float, jobs: Sequence[Job]) -> Optional[float]:
        """While calls wait for a first worker: tell why that takes long, and give up where it will not come."""
        served = any(it.guest is not None or it.came or it.awaited for it in jobs if not it.leaving)
        if served or not self._calls.waiting() or self.closed:
            self._waits_since, self.reason = None, ""
            return None
        if self._waits_since is None:
            self._waits_since = self._reason_at = now
        patience: Optional[float] = self._words["start_timeout"]
        if now >= self._reason_at:
            self._reason_at = now + REASON_EVERY
            reasons = [self._around.batches.reason(job.batch, job.task) for job in jobs]
            reason = next(filter(None, reasons), "")
            if reason and reason != self.reason:
                self.reason = reason
                waiting = self._calls.waiting()
                calls = "a call waits" if waiting == 1 else "%d calls wait" % waiting
                self._note("info", "%s for a worker: %s" % (calls, reason))
            if reasons and all(map(_is_final, reasons)):
                self._calls.give_up("no worker will come: %s" % reason, {})
        if patience is not None and now >= self._waits_since + patience and not self.closed:
            self._calls.give_up("no worker has come within %g s: %s" % (patience, self.reason or "the jobs wait"), {})
        if self.closed:
            return None
        return self._reason_at if patience is None else min(self._reason_at, self._waits_since + patience)

    def see_idle(self, now: float, jobs: Sequence[Job]) -> Optional[float]:
        """Take jobs out of the queue that nobody has anything to do for any more."""
        if self._calls.waiting():
            self._wanted = now
        pending = self._unused(jobs)
        if not pending or self.closed:
            return None
        at: float = self._wanted + self._words["idle"]
        if now < at:
            return at
        self.cancel(pending)
        return None


def _is_final(reason: str) -> bool:
    """Whether a job that waits for this reason, as `batches` says it, will wait for ever."""
    word = reason.rpartition(": ")[2].strip("()")
    return word.partition(",")[0] in NEVER or word.endswith(HELD)
