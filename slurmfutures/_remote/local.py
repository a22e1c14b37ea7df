"""The embedded scheduler: the same scripts, run as processes of this machine.

A queue in the order of submission, a thread for each job that may run at once, states and exit codes as Slurm gives
them. Of the options it honours `--time`, the rest is for clusters. It lives and dies with the agent; but where that is
killed by force its jobs run on. A lock on the file that is a job's stdout lives as long as any process of the job has
it open, so the next agent sees which do, and waits for them.
"""

import contextlib
import errno
import fcntl
import getpass
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import IO, Collection, Deque, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from . import arrays, ids, trust
from .logs import held_log
from .scheduler import Ending, Held, Limits, Outcome, Request, Row, Submitted
from .states import TERMINAL, JobState
from .times import parse_time

KILL_WAIT = 5.0  # seconds from SIGTERM to SIGKILL, Slurm's KillWait


class _Task:
    """One process to be. The scheduler's lock guards everything here."""

    __slots__ = (
        *("end", "exit_code", "index", "job_id", "limit", "number", "orphaned", "process", "request", "signal"),
        *("start", "state"),
    )

    def __init__(self, job_id: int, index: Optional[int], request: Request, limit: Optional[float]) -> None:
        self.job_id = job_id
        self.number = job_id  # what it is called itself, as each task of a user's own array is
        self.index = index
        self.request = request
        self.limit = limit
        self.state = JobState.PENDING
        self.exit_code: Optional[int] = None
        self.signal: Optional[int] = None
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.orphaned = False  # an agent that was killed has started it
        self.start = 0.0
        self.end = 0.0


class Local:
    """Runs at most `slots` tasks at once."""

    keeps_jobs = False

    def __init__(self, work_dir: str, slots: int) -> None:
        self._work_dir = work_dir
        self._slots = slots
        self._lock = threading.Lock()  # guards all below; taken by callers and by the slots' threads
        self._wake = threading.Condition(self._lock)
        self._waiting: Deque[_Task] = deque()
        self._jobs: Dict[str, List[_Task]] = {}
        self._threads = 0
        self._idle = 0
        self._running: Dict[int, int] = {}  # job id: tasks running
        self._throttles: Dict[int, int] = {}
        self._closed = False

    def version(self) -> str:
        return "local (%d at once)" % self._slots

    def limits(self) -> Optional[Limits]:
        return Limits(max_array_index=999_999, max_jobs=1_000_000)

    def submit(self, request: Request) -> Outcome:
        limit = _limit(request)
        try:
            numbers = self._next_ids(request.size if request.array is not None else 1)
        except OSError as error:
            return Held("jobs cannot be numbered: %s" % error)
        job_id = numbers[0]
        tasks = [_Task(job_id, index, request, limit) for index in _indices(request)]
        for task, number in zip(tasks, numbers):
            task.number = number
        with self._lock:
            self._jobs[str(job_id)] = tasks
            self._waiting.extend(tasks)
            if request.throttle is not None:
                self._throttles[job_id] = request.throttle
            for _ in range(min(self._slots - self._threads, len(self._waiting) - self._idle)):
                self._threads += 1
                threading.Thread(target=self._slot, name="local-%d" % self._threads, daemon=True).start()
            self._wake.notify_all()
        return Submitted(str(job_id))

    def node_addresses(self) -> List[str]:
        return ["127.0.0.1"]

    def adopt(self, job_id: str, request: Request) -> Set[int]:
        limit = _limit(request)  # which begins anew
        number = ids.number(job_id) or 0
        array = request.array is not None or request.size > 1
        adopted = set()
        for index in _logged(request):
            log = held_log(_log_path(request.stdout, index))
            if log is None:
                continue
            adopted.add(index)
            task = _Task(number, index if array else None, request, limit)
            task.orphaned, task.state, task.start = True, JobState.RUNNING, time.time()
            with self._lock:
                self._jobs.setdefault(job_id, []).append(task)
                self._running[number] = self._running.get(number, 0) + 1
                self._threads += 1
            threading.Thread(target=self._adopted, args=(task, log), name="local-adopted", daemon=True).start()
        return adopted

    def _next_ids(self, count: int) -> range:
        """Count on in a file, so that ids are not used again. Raises OSError."""
        path = os.path.join(self._work_dir, "local_job_id")
        handle = trust.open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            last = ids.number(os.read(handle, 32).decode("ascii", "replace") or "0")
            if last is None:
                raise OSError(errno.EINVAL, "it is damaged: remove it", path)
            number = last + 1
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, b"%d" % (number + count - 1))
        finally:
            os.close(handle)
        return range(number, number + count)

    def find(self, name: str) -> Optional[List[str]]:
        with self._lock:
            return [job_id for job_id, tasks in self._jobs.items() if tasks[0].request.name == name]

    def queue(self) -> Optional[List[Row]]:
        with self._lock:
            rows = []
            for job_id, tasks in self._jobs.items():
                request = tasks[0].request
                for state, first, last in _runs(tasks):
                    indices = None if first is None or last is None else ((first, last),)
                    reason = "Resources" if state == JobState.PENDING else ""
                    rows.append(Row(job_id, indices, state, reason, request.name, request.comment))
            return rows

    def why(
        self, jobs: Mapping[str, float], doubted: Collection[str] = ()
    ) -> Optional[Dict[Tuple[str, Optional[int]], Ending]]:
        with self._lock:
            found = {}
            for job_id in jobs:
                for task in self._jobs.get(job_id, ()):
                    found[job_id, task.index] = Ending(
                        state=task.state,
                        exit_code=task.exit_code,
                        signal=task.signal,
                        node=os.uname().nodename if task.start else "",
                        reason=_reason(task),
                        started=bool(task.start),
                        cancelled_by="",
                        start=_clock(task.start),
                        end=_clock(task.end),
                    )
            return found

    def cancel(self, targets: Iterable[Tuple[str, Optional[Sequence[int]]]]) -> bool:
        with self._lock:
            hit = []
            for job_id, indices in targets:
                wanted = None if indices is None else set(indices)
                for task in self._jobs.get(job_id, ()):
                    if task.state not in TERMINAL and (wanted is None or task.index is None or task.index in wanted):
                        hit.append(task)
            pending = {id(task) for task in hit if task.state == JobState.PENDING}
            self._waiting = deque(task for task in self._waiting if id(task) not in pending)
            for task in hit:
                task.state = JobState.CANCELLED
                self._terminate(task)
        return True

    def throttle(self, job_id: str, tasks: int) -> bool:
        with self._lock:
            self._throttles[int(job_id)] = tasks
            self._wake.notify_all()
        return True

    def close(self) -> None:
        """End everything: jobs of the embedded scheduler do not outlive it."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            for tasks in self._jobs.values():
                for task in tasks:
                    _signal(task, signal.SIGKILL)
            self._wake.notify_all()

    # ---- a slot's thread

    def _slot(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                while not self._closed and (task := self._next()) is None:
                    self._wake.wait()
                self._idle -= 1
                if self._closed:
                    return
                assert task is not None
                task.state = JobState.RUNNING
                task.start = time.time()
                self._running[task.job_id] = self._running.get(task.job_id, 0) + 1
                try:
                    task.process = _start(task)
                except OSError as error:
                    task.exit_code, task.state = 127, JobState.FAILED
                    print("slurmfutures: cannot start a job: %s" % error, file=sys.stderr)
            if task.process is not None:
                self._attend(task, task.process)
            self._over(task)

    def _adopted(self, task: _Task, log: IO[bytes]) -> None:
        """Wait until none of a task's processes has the log any more; then this is a slot's thread like any other."""
        timer = threading.Timer(task.limit or 0, self._expire, (task,))
        timer.daemon = True
        if task.limit is not None:
            timer.start()
        with contextlib.suppress(OSError), log:
            fcntl.flock(log, fcntl.LOCK_EX)
        timer.cancel()
        with self._lock:
            task.orphaned = False
            if task.state == JobState.RUNNING:
                task.state = JobState.FAILED
        self._over(task)
        self._slot()

    def _over(self, task: _Task) -> None:
        with self._lock:
            task.end = time.time()
            self._running[task.job_id] -= 1
            if task.job_id in self._throttles:
                self._wake.notify_all()

    def _next(self) -> Optional[_Task]:
        """Take the first waiting task that its job's throttle lets run. Holds the lock."""
        for place, task in enumerate(self._waiting):
            if self._running.get(task.job_id, 0) < self._throttles.get(task.job_id, self._slots):
                del self._waiting[place]
                return task
        return None

    def _attend(self, task: _Task, process: "subprocess.Popen[bytes]") -> None:
        try:
            code = process.wait(task.limit)
        except subprocess.TimeoutExpired:
            self._expire(task)
            code = process.wait()
        with self._lock:
            task.process = None
            if task.state == JobState.RUNNING:
                task.state = JobState.COMPLETED if code == 0 else JobState.FAILED
            else:
                _kill_group(process.pid, signal.SIGKILL)  # what ignored SIGTERM, the leader being gone
            task.exit_code, task.signal = (code, 0) if code >= 0 else (0, -code)

    def _expire(self, task: _Task) -> None:
        with self._lock:
            if task.state == JobState.RUNNING:
                task.state = JobState.TIMEOUT
            self._terminate(task)

    def _terminate(self, task: _Task) -> None:
        """Send SIGTERM to a task's processes, and SIGKILL if it is not gone after KILL_WAIT. Holds the lock."""
        if task.process is not None or task.orphaned:
            _signal(task, signal.SIGTERM)
            timer = threading.Timer(KILL_WAIT, self._kill, (task,))
            timer.daemon = True
            timer.start()

    def _kill(self, task: _Task) -> None:
        with self._lock:
            _signal(task, signal.SIGKILL)


def _indices(request: Request) -> List[Optional[int]]:
    """Return the array indices of a submission; of a plain job that is None."""
    if request.array is not None:
        return [*arrays.parse(request.array).indices]
    return [*range(request.size)] if request.size > 1 else [None]


def _limit(request: Request) -> Optional[float]:
    limit = None
    for option in request.options:
        if option.startswith("--time="):
            limit = parse_time(option.partition("=")[2])
    return limit


def _reason(task: _Task) -> str:
    if task.state == JobState.TIMEOUT:
        return "TimeLimit"
    if task.state == JobState.FAILED and task.exit_code is None:
        return "its agent was killed before, so that nobody saw how it ended"
    return ""


def _runs(tasks: Sequence[_Task]) -> List[Tuple[JobState, Optional[int], Optional[int]]]:
    """Return the tasks of a job that are not over, neighbours in the same state as one: state, first, last."""
    place = itertools.count()
    alive = (task for task in tasks if task.state not in TERMINAL)
    found = []
    for (state, _), run in itertools.groupby(alive, lambda task: (task.state, (task.index or 0) - next(place))):
        indices = [task.index for task in run]
        found.append((state, indices[0], indices[-1]))
    return found


def _signal(task: _Task, number: int) -> None:
    """Signal a task's processes, if it has any. Holds the scheduler's lock."""
    if task.process is not None:
        _kill_group(task.process.pid, number)
    elif task.orphaned:
        for group in _groups_with_stdout(_log_path(task.request.stdout, task.index or 0)):
            _kill_group(group, number)


def _groups_with_stdout(path: str) -> Set[int]:
    """Return the process groups of those that have this file as their stdout, as far as /proc tells."""
    path = os.path.realpath(path)
    found = set()
    for process in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError, ValueError):
            if os.readlink("/proc/%s/fd/1" % process) == path:
                found.add(os.getpgid(int(process)))
    return found - {os.getpgrp()}


def _kill_group(leader: int, number: int) -> None:
    """Signal a process group; SIGKILL is for all of the session that it leads, and for what they have started.

    A script may have groups of its own, and a pilot has workers in sessions of theirs: Slurm signals all of a job's
    processes.
    """
    others = _belonging_to(leader) if number == signal.SIGKILL else []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
    for process in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _belonging_to(leader: int) -> List[int]:
    """Return the processes of a session, and all that they have started, as far as /proc tells."""
    found: Set[int] = set()
    children: Dict[int, List[int]] = {}
    for process in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open("/proc/%s/stat" % int(process), "rb") as file:
                _, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
            children.setdefault(int(parent), []).append(int(process))
            if int(session) == leader:
                found.add(int(process))
    left = list(found)
    while left:
        new = set(children.get(left.pop(), ())) - found
        found |= new
        left += new
    return sorted(found)


def _start(task: _Task) -> "subprocess.Popen[bytes]":
    request = task.request
    index = 0 if task.index is None else task.index
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    environment.update(
        SLURM_JOB_ID=str(task.number),
        SLURM_JOBID=str(task.number),
        SLURM_JOB_NAME=request.name,
        SLURM_SUBMIT_DIR=request.chdir,
        SLURM_CLUSTER_NAME="local",
        SLURMD_NODENAME=os.uname().nodename,
        SLURM_RESTART_COUNT="0",
    )
    if task.limit is not None:
        environment.update(SLURM_JOB_END_TIME=str(int(time.time() + task.limit)))
    if task.index is not None:
        environment.update(SLURM_ARRAY_JOB_ID=str(task.job_id), SLURM_ARRAY_TASK_ID=str(index))
    if request.patterns is not None:
        _link_logs(task, *request.patterns)
    with open(_log_path(request.stdout, index), "wb") as out:
        with contextlib.suppress(OSError):  # a file system without locks: nobody will know that it runs on
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the job's from here on, as this descriptor is its stdout
        together = os.path.realpath(_log_path(request.stderr, index)) == os.path.realpath(out.name)
        with open(out.fileno() if together else _log_path(request.stderr, index), "wb", closefd=not together) as err:
            return subprocess.Popen(
                ["/bin/bash", request.script, *request.arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=request.chdir,
                env=environment,
                start_new_session=True,
            )


def _link_logs(task: _Task, output: str, error: str) -> None:
    """Have the logs of a user's own script be the files that it names, by the patterns of sbatch(1)."""
    words = {"%": "%", "j": str(task.number), "A": str(task.job_id), "N": os.uname().nodename, "n": "0", "t": "0"}
    words.update(a="4294967294" if task.index is None else str(task.index))
    words.update(u=getpass.getuser(), x=task.request.name, s="batch")

    def named(match: "re.Match[str]") -> str:
        word = words.get(match[2], match[0])
        return word.zfill(int(match[1] or 0)) if word.isdigit() else word

    for log, pattern in ((task.request.stdout, output), (task.request.stderr, error)):
        path = re.sub(r"%(\d*)([a-zA-Z%])", named, pattern or output)
        if os.path.isfile(path) or not os.path.exists(path):  # not /dev/null: it would be everybody's
            with contextlib.suppress(FileExistsError):
                os.symlink(path, _log_path(log, task.index or 0))


def _log_path(pattern: str, index: int) -> str:
    folder, name = os.path.split(pattern)
    return os.path.join(folder, name.replace("%a", str(index)))


def _logged(request: Request) -> List[int]:
    """Return the array indices that have been started at some time: those with a log."""
    names = {os.path.basename(_log_path(request.stdout, index or 0)): index or 0 for index in _indices(request)}
    try:
        return sorted(names[name] for name in os.listdir(os.path.dirname(request.stdout)) if name in names)
    except OSError:
        return []


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) if seconds else ""
