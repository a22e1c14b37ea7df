"""What lies in work_dir, whoever put it there: batches, how far their tasks are, whether their driver is there.

For a thread of its own: many folders are read, and the scheduler is asked. It is asked first, and once for all, so that
a task that ends meanwhile is found with its result. Nothing here changes anything.
"""

import os
import stat
import time
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from . import death, ids, logs, payload, publish, spool, succession, trust, watch
from .batch import Batch, Part, ranges
from .scheduler import Ending, Row, Scheduler
from .states import TERMINAL, JobState

DONE = "done"  # has left its results; what the calls raised is a result too
RUNNING = "running"
PENDING = "pending"  # in the queue
ENDED = "ended"  # without its results
UNSUBMITTED = "unsubmitted"  # waits for a driver that submits it
STATES = (DONE, RUNNING, PENDING, ENDED, UNSUBMITTED)
LOCAL, SLURM = "local", "slurm"  # schedulers, as a batch names its own

_LONGEST_END = 64 << 10  # bytes of what a task wrote of its end
_EXPLAINED = 20  # jobs whose records are asked for: where there is no accounting, each is a command
_NOT_BEGUN = frozenset(
    (
        JobState.PENDING,
        JobState.REQUEUED,
        JobState.REQUEUE_FED,
        JobState.REQUEUE_HOLD,
        JobState.RESV_DEL_HOLD,
        JobState.SPECIAL_EXIT,
    )
)
_DAMAGED = (OSError, ValueError, KeyError, TypeError)  # what reading a batch may raise
_GONE = "it has left the queue, and no result of it is seen"
_LOCAL_END = Ending(JobState.FAILED, None, None, "", "", True, "", "", "")
_LOCAL_LOSS = _LOCAL_END._replace(reason="its driver has gone, and the embedded scheduler's jobs with it")

Records = Mapping[Tuple[str, Optional[int]], Ending]


class Seen(NamedTuple):
    """A batch, and what was seen of it."""

    batch: Batch
    made: float  # seconds since the epoch
    active: float  # when a file of it changed last, in seconds since the epoch
    session: str  # its driver
    live: Optional[bool]  # whether its driver is connected; None if nobody can say
    asked: bool  # whether the queue could be asked about it
    queued: bool  # whether the queue has a job of it that is not over
    states: Dict[int, str]  # by task
    deaths: List["Death"]
    over: bool  # the files alone say that each submitted task is over


class Death(NamedTuple):
    """A task that ended without its results."""

    task: int
    part: Part
    place: int  # its array index in the part
    end: Optional[watch.End]
    ending: Optional[Ending]  # as the queue shows it, or as it is known to be
    reason: str  # where neither of them has one


def survey(work_dir: str, scheduler: Scheduler, own: str) -> Dict[str, Any]:
    """Return what there is, in words for JSON. `own` is the session that asks."""
    seen, unreadable, asked = look(work_dir, scheduler, own)
    records = _explained(scheduler, seen)
    return {
        "host": os.uname().nodename,
        "work_dir": work_dir,
        "now": time.time(),
        "queue": asked,
        "batches": [_words(one, records) for one in seen],
        "unreadable": unreadable,
    }


def look(work_dir: str, scheduler: Scheduler, own: str) -> Tuple[List[Seen], List[str], Optional[bool]]:
    """Return the batches, oldest first; names of folders that hold none, or not all of it; whether the queue answered.

    The last is None where no batch made it worth asking.
    """
    found: List[Batch] = []
    unreadable: List[str] = []
    for name in names(work_dir):
        try:
            batch = read(work_dir, name)
        except _DAMAGED:
            batch = None
        if batch is None:
            unreadable.append(name)
        else:
            found.append(batch)
    queue = None
    wanted = scheduler.keeps_jobs and any(_kind(batch, scheduler) == SLURM for batch in found)
    if wanted:
        rows = scheduler.queue()
        queue = None if rows is None else _Queue(rows)
    live = Sessions(work_dir, own)
    seen = []
    for batch in found:
        try:
            seen.append(_see(batch, _kind(batch, scheduler), queue, live))
        except _DAMAGED:
            if os.path.exists(batch.folder.path):  # else its driver has just cleared it away
                unreadable.append(batch.id)
    seen.sort(key=lambda one: one.made)
    return seen, sorted(unreadable), (queue is not None) if wanted else None


def names(work_dir: str) -> List[str]:
    """Return the names of the user's folders in which there should be batches; what else lies there is nobody's."""
    folder = os.path.join(work_dir, "batches")
    try:
        trust.check_folder(folder, closed=False)
        return [name for name, about in trust.entries(folder) if ids.is_batch(name) and stat.S_ISDIR(about.st_mode)]
    except OSError:
        return []


def read(work_dir: str, name: str) -> Optional[Batch]:
    """Return a batch as its files tell it, None where they do not tell all. Raises any of _DAMAGED."""
    folder = spool.Batch(work_dir, name)
    spec = folder.spec()
    if spec is None or not {"name", "options"} <= spec.keys():
        return None
    return Batch.found(folder, set(range(spec["tasks"])).difference(spec["skip"]))


def find(work_dir: str, call: str) -> Dict[str, Any]:
    """Return where a call's task is: "123", "123_7" or "BATCH:TASK"; nothing where it is not.

    For the id of an array, "123", it is the number of its tasks, as "size", and its "first" index. Of a pilot it has
    the names of its "workers" too.
    """
    name, colon, number = call.rpartition(":")
    if colon:
        return _find_task(work_dir, name, number)
    job, _, index = call.partition("_")
    found: List[Tuple[float, Dict[str, Any]]] = []
    for name in names(work_dir):
        try:
            batch = read(work_dir, name)
        except _DAMAGED:
            continue
        if batch is None:
            continue
        for part in batch.parts:
            place = ids.number(index or "0")
            if part.job != job or place is None or (index and place not in part.indices):
                continue
            if not index and part.array:
                found.append((part.time, {"size": len(part.tasks), "first": min(part.indices)}))
            else:
                words = {"batch": name, "task": part.at[place], "part": part.number}
                found.append((part.time, dict(words, **_workers(batch, part, place))))
    # Slurm begins its ids anew one day: the last of that id is meant.
    return max(found, key=lambda one: one[0])[1] if found else {}


def _find_task(work_dir: str, name: str, number: str) -> Dict[str, Any]:
    task = ids.number(number)
    if name not in names(work_dir) or task is None:
        return {}
    try:
        batch = read(work_dir, name)
    except _DAMAGED:
        return {}
    if batch is None or task >= batch.spec["tasks"]:
        return {}
    words = {"batch": name, "task": task, "part": None}
    for part in reversed(batch.parts):
        for place in part.indices:
            if part.at[place] == task:
                return dict(words, **_workers(batch, part, place))
    return words


def _workers(batch: Batch, part: Part, place: int) -> Dict[str, Any]:
    return {"workers": part.folder.workers_of(place)} if batch.pool else {}


def _kind(batch: Batch, scheduler: Scheduler) -> str:
    """Return which scheduler a batch was given to."""
    kind: str = batch.spec.get("scheduler", SLURM if scheduler.keeps_jobs else LOCAL)
    return kind


class Sessions:
    """Which drivers are connected; each is looked at once."""

    def __init__(self, work_dir: str, own: str) -> None:
        self._work_dir = work_dir
        self._known: Dict[str, Optional[bool]] = {own: True}

    def is_live(self, session: str) -> Optional[bool]:
        """Whether the driver of this session is connected; None if nobody can say."""
        if session not in self._known:
            self._known[session] = succession.is_live(self._work_dir, session) if session else False
        return self._known[session]


class _Queue:
    """The queue's rows, by job id and by job name."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_id: Dict[str, List[Row]] = {}
        self._by_name: Dict[str, List[Row]] = {}
        for row in rows:
            self._by_id.setdefault(row.job_id, []).append(row)
            self._by_name.setdefault(row.name, []).append(row)

    def of(self, part: Part) -> Iterator[Tuple[Set[int], Row]]:
        """Yield the rows of a part's jobs, each with the array indices that it tells of."""
        last = max(part.indices)
        rows = list(self._by_name.get(part.name, ()))
        rows += [row for row in self._by_id.get(part.job or "", ()) if row not in rows]
        for row in rows:
            if row.tasks is None:
                yield set(part.indices), row
            else:
                yield {i for first, end in row.tasks for i in range(first, min(end, last) + 1)}, row


def _see(batch: Batch, kind: str, queue: Optional[_Queue], sessions: Sessions) -> Seen:
    made = os.lstat(os.path.join(batch.folder.path, "batch.json")).st_mtime
    times = [made]
    session = batch.folder.owner(batch.spec)
    live = sessions.is_live(session)
    states = {task: UNSUBMITTED for first, end in batch.waiting for task in range(first, end)}
    deaths: Dict[int, Death] = {}
    over, queued = True, False
    for path in [batch.folder.parts, *(part.folder.results for part in batch.parts)]:
        try:
            times.append(os.lstat(path).st_mtime)
        except FileNotFoundError:
            pass  # nothing was submitted
    for part in batch.parts:
        rows = list(queue.of(part)) if queue is not None and kind == SLURM else []
        queued = queued or any(row.state not in TERMINAL for _, row in rows)
        files = _Files(part)
        over = over and len(files.done) + len(files.ends) == len(part.tasks)
        if kind == LOCAL:
            judged = _judge_local(part, files, live)
            queued = queued or (live is False and any(state == RUNNING for state, _ in judged.values()))
        else:
            judged = _judge(part, files, rows, asked=queue is not None)
        for index, (state, dead) in judged.items():
            task = part.at[index]
            if states.get(task) == DONE:
                continue
            states[task] = state  # a later submission of a task says what became of it
            deaths.pop(task, None)
            if dead is not None:
                deaths[task] = dead
    ended = [deaths[task] for task in sorted(deaths)]
    asked = queue is not None or kind == LOCAL
    return Seen(batch, made, max(times), session, live, asked, queued, states, ended, over)


class _Files:
    """What the tasks of a part have published, by array index."""

    def __init__(self, part: Part) -> None:
        self.done: Set[int] = set()
        self.claimed: Set[int] = set()
        self.ends: Dict[int, watch.End] = {}
        ends: Dict[int, spool.Name] = {}
        try:
            published = part.folder.published()
        except OSError:
            published = []
        for name in map(spool.parse_name, published):
            if name is None or name.task not in part.indices:
                continue
            if name.kind == publish.FINAL:
                self.done.add(name.task)
            elif name.kind == spool.CLAIM:
                self.claimed.add(name.task)
            elif name.kind == spool.END and (name.task not in ends or name.run > ends[name.task].run):
                ends[name.task] = name
        for index, name in ends.items():
            if index in self.done:
                continue
            try:
                end = watch.parse_end(part.folder.read(name.text, _LONGEST_END, closed=False) or b"", name.run)
            except OSError:
                end = None
            self.ends[index] = end or watch.End(name.run, 0, "")


Judged = Dict[int, Tuple[str, Optional[Death]]]


def _judge(part: Part, files: _Files, rows: Sequence[Tuple[Set[int], Row]], *, asked: bool) -> Judged:
    """Return the states of a part's tasks in Slurm's queue, by array index."""
    alive: Dict[int, Optional[JobState]] = {}
    shown: Dict[int, Ending] = {}
    for indices, row in rows:
        for index in indices:
            if row.state in TERMINAL:
                shown[index] = Ending(row.state, None, None, "", row.reason, True, "", "", "")
            else:
                alive[index] = row.state
    fresh = time.time() - part.time < watch.SETTLED_AFTER  # the queue may not show it yet
    judged: Judged = {}
    for index in part.indices:
        task = part.at[index]
        end = files.ends.get(index)
        begun = index in files.claimed
        dead: Optional[Death] = None
        if index in files.done:
            state = DONE
        elif index in alive and not (end is not None and alive[index] == JobState.COMPLETING):
            waits = alive[index] in _NOT_BEGUN or (alive[index] is None and not begun)
            state = PENDING if waits else RUNNING
        elif end is not None:
            state, dead = ENDED, Death(task, part, index, end, shown.get(index), "")
        elif index in shown:
            state, dead = ENDED, Death(task, part, index, None, shown[index], _GONE)
        elif not asked or fresh:
            state = RUNNING if begun else PENDING
        elif part.job is None and not begun:
            state = UNSUBMITTED  # so far as anybody knows
        else:
            state, dead = ENDED, Death(task, part, index, None, None, _GONE)
        judged[index] = state, dead
    return judged


def _lives(part: Part, index: int) -> bool:
    log = logs.held_log(part.folder.log(index, "out"))
    if log is None:
        return False
    log.close()
    return True


def _judge_local(part: Part, files: _Files, live: Optional[bool]) -> Judged:
    """Return the states of a part's tasks as embedded jobs, which live and die with their driver's agent."""
    judged: Judged = {}
    for index in part.indices:
        task = part.at[index]
        begun = index in files.claimed
        if index in files.done:
            judged[index] = DONE, None
        elif index in files.ends:
            judged[index] = ENDED, Death(task, part, index, files.ends[index], _LOCAL_END, "")
        elif live is not False:
            judged[index] = RUNNING if begun else PENDING, None
        elif begun and _lives(part, index):  # its agent was killed by force
            judged[index] = RUNNING, None
        elif begun:
            judged[index] = ENDED, Death(task, part, index, None, _LOCAL_LOSS, "")
        else:
            judged[index] = UNSUBMITTED, None
    return judged


# ---- in words


def _explained(scheduler: Scheduler, seen: Sequence[Seen]) -> Records:
    """Return what the scheduler has recorded of the newest jobs with deaths."""
    if not scheduler.keeps_jobs:
        return {}
    jobs: Dict[str, float] = {}
    for one in reversed(seen):
        if _kind(one.batch, scheduler) == SLURM:
            jobs.update((dead.part.job, dead.part.time) for dead in one.deaths if dead.part.job is not None)
    newest = dict(list(jobs.items())[:_EXPLAINED])
    return (scheduler.why(newest) or {}) if newest else {}


def _words(seen: Seen, records: Records) -> Dict[str, Any]:
    spec, pilot = seen.batch.spec, seen.batch.spec.get("pilot")
    by_state: Dict[str, List[int]] = {state: [] for state in STATES}
    for task in sorted(seen.states):
        by_state[seen.states[task]].append(task)
    try:
        file = payload.BatchFile(seen.batch.folder.calls)
        calls: Optional[int] = file.size()[1]
        file.close()
    except (OSError, ValueError):
        calls = None
    return {
        "batch": seen.batch.id,
        "name": spec["name"],
        "options": list(spec["options"]),
        "scheduler": spec.get("scheduler"),
        "made": seen.made,
        "active": seen.active,
        "tasks": len(seen.states),
        "calls": calls,
        "pool": seen.batch.pool or None,
        "workers": pilot["workers"] if pilot is not None else None,
        "jobs": [part.job for part in seen.batch.parts if part.job is not None],
        "states": {state: ranges(tasks) for state, tasks in by_state.items()},
        "failed": [_death_words(dead, records) for dead in seen.deaths],
        "session": seen.session,
        "live": seen.live,
        "asked": seen.asked,
    }


def _death_words(dead: Death, records: Records) -> Dict[str, Any]:
    part = dead.part
    ending = records.get((part.job or "", dead.place if part.array else None))
    if ending is None or ending.state not in TERMINAL:
        ending = dead.ending  # the records are behind, or there are none
    code, signal_, reason = death.how(ending, dead.end)
    node = (ending.node if ending is not None else "") or (dead.end.node if dead.end is not None else "")
    return {
        "task": dead.task,
        "job": part.job and part.job_id(dead.place),
        "state": ending.state.value if ending is not None and ending.state is not None else None,
        "exit_code": code,
        "signal": signal_,
        "node": node,
        "reason": reason or ("" if dead.end is not None or ending is not None else dead.reason),
    }
