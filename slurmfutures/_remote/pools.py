"""Pools of pilots: which calls go to which job, how many jobs there are, and what becomes of calls when jobs end.

Everything runs in the agent's loop. Jobs are tasks of batches like any others, so `batches` submits them, looks after
them and tells of their ends. A call that was handed to a pilot is that pilot's until its result is here, the pilot
gives it back, or its job is known to be over: it is never handed out again while somebody may be running it.

An agent that takes over knows from the ledger which pilots have come to earlier ones. What the client sends again, and
may have been handed out, is held back until each of these has told what it has, or its job is known to be over.
"""

import functools
import json
import os
import struct
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from . import commands, door, payload, pool_files, wire
from .batches import Batches
from .lane import Lane
from .scheduler import Scheduler
from .times import parse_time

AHEAD = 0.02  # seconds of work, of all its workers together, that a pilot may hold beside the calls they run
MOST_AHEAD = 128  # calls for each of its workers
GATHER = 0.01  # seconds in which calls come in before jobs are asked for
GIVE_UP = 3  # jobs that end one after the other without having been of use
AGAIN_FIRST, AGAIN_CEILING = 0.4, 300.0  # seconds after one that was of no use until the next is asked for
LOOK_FIRST = 0.05  # seconds until it is looked for what became of a pilot whose connection is lost
LOOK_CEILING = 5.0
LOOK_AFTER = 1.0  # seconds, at most, between two looks at all jobs
REASON_EVERY = 5.0  # seconds between two looks at why nothing moves
MARGIN = 2.0  # seconds before its end in which a job is given no call
SLOW_DOWN = 0.99  # by which the longest call is forgotten with each that was shorter
POOL_BITS = 40  # a call's number is its pool's, above this many bits, and its own
NEVER_DUE = float("inf")
CLOSING = 2.0  # seconds in which pilots may leave by themselves when their pool is closed
# Queue reasons that do not pass by themselves. From squeue(1), JOB REASON CODES.
NEVER = frozenset(
    "AccountNotAllowed BadConstraints DependencyNeverSatisfied InvalidAccount InvalidQOS JobHeldAdmin JobHeldUser "
    "PartitionNodeLimit PartitionTimeLimit QOSNotAllowed ReservationDeleted".split()
)
HELD = "in held state", "requeued held"  # how the words end for a job that was put back, and not let go
_TOLD = "state exit_code signal node reason stderr job_id cancelled_by started unseen".split()  # of how a job ended
# slurmstepd's last words in a job that is put back into the queue, and the state that this would be otherwise.
_PUT_BACK = (
    ("DUE TO PREEMPTION", "PREEMPTED"),
    ("DUE TO JOB REQUEUE", "REQUEUED"),
    ("DUE TO NODE FAILURE", "NODE_FAIL"),
)
_QUEUED_AGAIN = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_TAIL = 4000  # bytes of a job's stderr that are told
_NUMBER = struct.Struct(">Q")


class Surroundings(NamedTuple):
    """What pools use of their agent."""

    work_dir: str
    session: str
    scheduler: Scheduler
    batches: Batches
    send: Callable[..., None]  # an event to the client
    transmit: Callable[[Sequence[wire.Buffer]], None]  # a frame to the client
    shipped: Callable[[str], Optional[str]]
    register: Callable[..., None]
    unregister: Callable[..., object]
    post: Callable[[Callable[[], None]], None]


class Job:
    """A job that is, was or will be a pilot."""

    def __init__(self, batch: str, task: int) -> None:
        self.batch = batch
        self.task = task
        self.id = ""
        self.node = ""
        self.host = ""
        self.state = "PENDING"
        self.over = False
        self.came = False  # it has become a pilot, for this agent
        self.ready = False  # it has told by its connection what it has, and the next agent will know of it
        self.noted = False  # the ledger says so, and not that the client knows what became of all that it had
        self.useful = False  # it has had a worker that could take calls
        self.awaited = False  # it had become one for an earlier agent, and has not told this one what it has
        self.leaving = False  # it takes no more calls
        self.let_go = False  # it has been told that it may end
        self.run = 0
        self.guest: Optional[door.Guest] = None
        self.lost = 0.0  # when the connection was lost
        self.look_at = 0.0  # when to look for what became of it
        self.began_at = 0.0  # when it came
        self.workers = 0  # that can take calls
        self.ends: Optional[float] = None  # when its time is over, on the monotonic clock
        self.quota = 1
        self.done = 0  # calls
        self.since = 0.0  # when the last results came, or the first calls went
        self.known: Set[int] = set()  # functions
        self.handed: Dict[
            int, Optional[payload.Call]
        ] = {}  # None: of an earlier agent, and the client has not named it
        self.cut: Set[int] = set()  # of these, those that were running when the job was ended
        self.kept: Set[int] = set()  # of these, those whose results are about to come
        self.began: Dict[int, Tuple[float, str]] = {}  # of these, since when they run, and the worker that does it
        self.state_of_workers: List[List[Any]] = []

    def is_there(self) -> bool:
        """Whether it takes calls, or may one day. How one has ended that leaves without having taken any is awaited."""
        return not self.over and (not self.leaving or (self.came and not self.useful))

    def load(self) -> float:
        """Return how many calls it holds for each of its workers, of which there are some."""
        return len(self.handed) / self.workers


class Pool:
    """What one `ex.pilots(...)` of the client is here."""

    def __init__(self, around: Surroundings, words: Mapping[str, Any], initializer: wire.Buffer) -> None:
        """Raises OSError where its folder cannot be written."""
        self.id: int = words["pool"]
        self._around = around
        self._words = words
        self._initializer = bytes(initializer)
        path = pool_files.folder(around.work_dir, around.session, self.id)
        self._files = pool_files.PoolFiles(path)
        self._files.create()
        self._key = door.make_key(path)
        self._door: Optional[door.Door] = None
        self._door_lane = Lane("door", around.post)
        self._by_files = False  # a pilot has come that way, and that was told
        self._jobs: Dict[str, Dict[int, Job]] = {}  # by batch
        self._all: List[Job] = []  # the same, in a row
        self._functions: Dict[int, wire.Body] = {}
        self._ships: Dict[int, str] = {}
        self._unshipped: Dict[str, str] = {}
        self._waiting: Deque[payload.Call] = deque()
        self._unsure: Dict[int, payload.Call] = {}  # calls that an earlier agent may have handed to somebody
        self._sent_again = not words["again"]  # the client has said all that it still wants
        self._may_be_out = self._files.handed  # the highest call that an earlier agent may have handed out
        self._keep: Set[int] = set()  # calls that the client may want later
        self._silent: List[Tuple[Job, Dict[str, Any]]] = []  # jobs that have not told what they had, and how they ended
        self._owner: Dict[int, Job] = {}  # of calls, until they are acknowledged
        self._longest = 0.0  # seconds, of a call, as far as it was seen
        self._due = 0.0  # when to look after the jobs
        self._ask_at: Optional[float] = None  # when jobs may be asked for
        self._strikes = 0  # jobs that have ended without having been of use, one after the other
        self._shunned: Dict[str, None] = {}  # nodes on which such jobs have ended, in order
        self._refused_until = 0.0
        self._wanted = time.monotonic()  # when a call last waited for a worker
        self._waits_since: Optional[float] = None  # for a first worker
        self._reason_at = 0.0
        self._reason = ""
        self._broken: Dict[str, Any] = {}  # what the client was told, once nothing will come of calls any more
        self._stopped = False
        self._closing: Optional[float] = None  # when what is left is cancelled
        self._close_replies: List[Callable[..., None]] = []
        limit = [word[len("--time=") :] for word in words["spec"]["options"] if word.startswith("--time=")]
        self._time = parse_time(limit[-1]) if limit else None

    def begin(self) -> None:
        """Go on where earlier agents have stopped, and let pilots in."""
        self._restore()
        self._open_door()

    # ---- the door

    def _open_door(self) -> None:
        """Find out where compute nodes can reach this machine, and listen there."""
        address = self._words["address"]
        scheduler = self._around.scheduler

        def work() -> List[str]:
            return [address] if address else door.reachable_addresses(scheduler.node_addresses())

        def then(found: Any) -> None:
            if isinstance(found, Exception):
                self._note("door", "nobody can say which addresses compute nodes reach: %s" % found)
                found = []
            if self._stopped:
                return
            mark = os.urandom(8).hex()
            self._door = door.Door(
                folder=self._files.path,
                key=self._key,
                addresses=found,
                register=self._around.register,
                unregister=self._around.unregister,
                admit=self._admit,
                log=lambda text: self._note("door", text),
                mark=mark,
            )
            places = self._door.places()
            names = [] if address else [os.uname().nodename]
            try:
                door.write_agent_file(self._files.path, places, names, mark)
            except OSError as error:
                self._note("stuck", "pilots cannot be told where to connect to: %s" % error)
            where = ", ".join("%s port %d" % (place[0], place[1]) for place in places) or "nothing but files"
            self._note("info", "pilots are awaited at %s" % where)

        self._door_lane.do(work, then)

    def _restore(self) -> None:
        """Take up the jobs that earlier agents have asked for."""
        came: Dict[str, Dict[int, int]] = {}
        settled: Set[Tuple[str, int, int]] = set()
        batches: Dict[str, int] = {}
        for entry in self._files.entries():
            if "batch" in entry:
                batches[entry["batch"]] = entry["tasks"]
            elif "came" in entry:
                came.setdefault(entry["came"], {})[entry["task"]] = entry["run"]
            elif "settled" in entry:
                settled.add((entry["settled"], entry["task"], entry["run"]))
            elif "over" in entry:
                batches.pop(entry["over"], None)
                self._around.batches.release(entry["over"], True, False, lambda words: None)  # it may be there in part
        for batch, tasks in batches.items():
            jobs = self._enter(batch, tasks)
            for task, run in came.get(batch, {}).items():
                job = jobs[task]
                job.run, job.lost = run, time.monotonic()
                job.useful = (batch, task, run) in settled  # or an earlier agent has counted that it was not
                job.noted = job.awaited = not job.useful
            words = self._around.batches.attach(batch, [(0, tasks)], self._words["epoch"])
            if "error" in words:  # its files are gone, and it with them
                for job in list(jobs.values()):
                    self._over(job, None)

    # ---- what the client says

    @property
    def handed(self) -> int:
        """Return the highest number of a call that a pilot may have."""
        return self._files.handed

    def function(self, number: int, source: wire.Body, ship: str) -> None:
        self._functions[number] = source
        self._ships[number] = ship

    def drop(self, number: int) -> None:
        """The client has no more calls of a function."""
        self._functions.pop(number, None)
        for job in self._all:
            if number in job.known:
                job.known.discard(number)
                if job.guest is not None:
                    job.guest.send(wire.message({"op": "drop", "function": number}))

    def calls(self, data: wire.Body) -> None:
        if self._broken:
            return  # they were under way when that was told
        sure = not self._unsure_until_told()
        for call in payload.calls(data):
            job = self._owner.get(call.call)
            if job is not None:  # a pilot has told of it
                if job.handed.get(call.call, call) is None:
                    job.handed[call.call] = call
                if call.call in job.began:
                    self._tell_began(job, [call.call], job.began[call.call][1])
            elif sure or call.call > self._may_be_out:
                self._waiting.append(call)
            else:
                self._unsure[call.call] = call
        self.hand_out()

    def sent_again(self, keep: Sequence[Sequence[int]]) -> None:
        """The client has sent all calls that it still wants; those of the ranges `keep` may be wanted later."""
        self._sent_again = True
        self._keep = {call for first, end in keep for call in range(first, min(end, self._may_be_out + 1))}
        for job in self._all:
            self._cancel_unwanted(job)
        self._resolve_unsure()

    def _cancel_unwanted(self, job: Job) -> None:
        unclaimed = [call for call, known in job.handed.items() if known is None]
        unwanted = [call for call in unclaimed if call not in job.kept and call not in self._keep]
        if unwanted and job.guest is not None:
            job.guest.send(wire.message({"op": "cancel", "calls": unwanted}))
        for call in unwanted:
            self._forget(job, call)

    def cancel(self, calls: Sequence[int]) -> None:
        unwanted = set(calls)
        self._keep -= unwanted
        if any(call not in self._owner for call in calls):
            self._waiting = deque(call for call in self._waiting if call.call not in unwanted)
        by_job: Dict[Job, List[int]] = {}
        for call in calls:
            self._unsure.pop(call, None)
            job = self._owner.get(call)
            if job is not None and call in job.handed:
                by_job.setdefault(job, []).append(call)
                self._forget(job, call)
        for job, numbers in by_job.items():
            if job.guest is not None:
                job.guest.send(wire.message({"op": "cancel", "calls": numbers}))
        self.hand_out()

    def acknowledge(self, data: wire.Body) -> None:
        """The client has these results for good: their pilots may drop them."""
        by_job: Dict[Job, List[bytes]] = {}
        for (call,) in _NUMBER.iter_unpack(data):
            job = self._owner.pop(call, None)
            if job is not None:
                by_job.setdefault(job, []).append(_NUMBER.pack(call))
        for job, numbers in by_job.items():
            if job.guest is not None:
                job.guest.send(wire.message({"op": "ack"}, b"".join(numbers)))
                self._let_go(job)
            elif job.over:
                self._account_for(job)
                self._release(job.batch)

    def state(self) -> Dict[str, Any]:
        """Return counts of calls, and the workers."""
        workers = [
            [job.host, job.id, pid, since, done, job.guest.via]
            for job in self._all
            if job.guest is not None
            for pid, since, done in job.state_of_workers
        ]
        handed = sum(len(job.handed) for job in self._all)
        running = min(handed, sum(min(len(job.handed), job.workers) for job in self._all))
        waiting = len(self._waiting) + len(self._unsure) + handed - running
        return {"workers": workers, "waiting": waiting, "running": running, "reason": self._reason}

    def close(self, reply: Callable[..., None]) -> None:
        """End all jobs; the reply says that none is left."""
        self._close_replies.append(reply)
        if self._closing is None:
            self._closing = time.monotonic() + CLOSING
            self._due = 0.0
            self._waiting.clear()
            self._unsure.clear()
            for job in self._all:
                if job.guest is not None:
                    job.guest.send(wire.message({"op": "leave", "now": True}))
            self._cancel_jobs([job for job in self._all if job.guest is None])
        self._closed_if_over()

    def _closed_if_over(self) -> bool:
        if self._closing is None or any(not job.over for job in self._all):
            return False
        replies, self._close_replies = self._close_replies, []
        for batch in list(self._jobs):
            self._around.batches.release(batch, True, False, lambda words: None)
        for reply in replies:  # not before: the next agent would know nothing of them
            self._around.batches.after_removals(functools.partial(reply, {}))
        return True

    def stop(self, *, for_good: bool) -> None:
        """Let go of everything; `for_good` of the folder too."""
        self._stopped = True
        if self._door is not None:
            self._door.close()
        self._files.close()
        if for_good:
            self._files.remove()

    # ---- pilots come and go

    def _admit(self, guest: door.Guest) -> None:
        batch, task, run = str(guest.words["pilot"]).rsplit(".", 2)
        job = self._jobs.get(batch, {}).get(int(task))
        if job is None or job.over or int(run) < job.run or self._closing is not None:
            guest.attach(lambda frame: None, lambda why: None)
            guest.send(wire.message({"op": "leave", "now": True}))
            return
        if job.guest is not None:
            job.guest.close()
            job.guest = None
        if int(run) > job.run:
            job = self._requeued(job)
            job.run = int(run)
        job.guest = guest
        job.known.clear()
        job.ready = job.let_go = False  # what was sent to it before it has told what it has may count as not received
        guest.attach(lambda frame: self._frame(job, frame), lambda why: self._gone(job, guest, why))

    def _gone(self, job: Job, guest: door.Guest, why: str) -> None:
        """A connection is lost: the pilot comes again, or its job is over."""
        if job.guest is guest:
            job.guest = None
            job.ready = False
            job.lost = time.monotonic()
            job.look_at = job.lost + LOOK_FIRST
            self._due = min(self._due, job.look_at)

    def _frame(self, job: Job, frame: wire.Frame) -> None:
        if frame.kind == wire.RESULTS:
            self._results(job, frame.body)
            return
        op = frame.head["op"]
        if op == "here":
            self._here(job, frame.head)
        elif op == "began":
            now = time.monotonic()
            for call in frame.head["calls"]:
                if call in job.handed:
                    job.began[call] = now, frame.head["worker"]
            self._tell_began(job, frame.head["calls"], frame.head["worker"])
        elif op == "back":
            self._back(job, frame.head["calls"])
        elif op == "ready":
            self._ready(job, frame.head["workers"])
        elif op == "leaving":
            job.leaving = True
            self._let_go(job)
            self._ask_soon()
        elif op == "workers":
            job.state_of_workers = frame.head["workers"]
        elif op == "uninitialized":
            words = dict(frame.head, op="pool_uninitialized", pool=self.id, job_id=job.id)
            self._around.send(words, frame.body)

    def _tell_began(self, job: Job, calls: Sequence[int], worker: str) -> None:
        words = {"batch": job.batch, "task": job.task, "job_id": job.id, "worker": worker}
        self._around.send({"op": "began", "pool": self.id, "calls": calls, **words})

    def _here(self, job: Job, words: Mapping[str, Any]) -> None:
        """A pilot tells what it has: all else that it was handed has not been begun and never will be."""
        now = time.monotonic()
        job.id, job.node, job.host = words["job_id"], words["node"], words["host"]
        if job.ends is None and words["left"] is not None:  # else the queue has told
            job.ends = now + words["left"]
        held, job.kept = set(words["held"]), set(words["kept"])
        missing = [call for call in job.handed if call not in held and call not in job.kept]
        self._back(job, missing)
        for call in sorted(held | job.kept):
            if call not in job.handed:
                job.handed[call] = self._unsure.pop(call, None)
                self._owner[call] = job
        if not job.came:
            job.came = True
            job.began_at = now
            self._tell_way(job)
        self._make_ready(job)
        job.since = now
        job.state = "RUNNING"
        self._due = 0.0
        self._told(job)
        if self._sent_again:
            self._cancel_unwanted(job)
        self._ready(job, words["workers"])

    def _tell_way(self, job: Job) -> None:
        """Say once that pilots do not reach this machine by the network."""
        if job.guest is not None and job.guest.via == "files" and not self._by_files:
            self._by_files = True
            said = "job %s on node %s has no way by TCP, and goes by files" % (job.id, job.node)
            self._note("info", "%s; `slurmfutures logs %s --stderr` says why" % (said, job.id))

    def _ready(self, job: Job, workers: int) -> None:
        """So many workers of a pilot can take calls now."""
        job.workers = workers
        job.quota = max(job.quota, workers)
        if workers:
            job.useful = True
            self._strikes = 0
        self.hand_out()

    def _make_ready(self, job: Job) -> None:
        """Let a pilot be given calls once it is written down that the next agent has to wait for it."""
        if not job.noted:
            try:
                self._files.record({"came": job.batch, "task": job.task, "run": job.run}, sync=True)
            except OSError as error:  # tried again with the next look at the jobs
                self._note("stuck", "the ledger of the pool cannot be written: %s" % error)
                return
            job.noted = True
        job.ready = True

    def _results(self, job: Job, body: wire.Body) -> None:
        now = time.monotonic()
        count = 0
        cut: Set[int] = set()  # calls that have ended with their job: how that has ended is not known yet
        for record in payload.records(body):
            call = record.call
            if record.status == payload.CRASHED and not record.payload:
                cut.add(call)
                continue
            if call in job.handed:
                del job.handed[call]
                job.kept.discard(call)
                count += 1
                began = job.began.pop(call, None)
                if began is not None:
                    self._longest = max(now - began[0], self._longest * SLOW_DOWN)
            self._owner.setdefault(call, job)
        job.cut |= cut
        told: List[wire.Buffer] = [body] if body and not cut else []
        for record in payload.records(body) if cut else ():
            if record.call not in cut:
                told += payload.pack_record(record.call, record.status, record.payload)
        if told:
            self._around.transmit(wire.packed(wire.RESULTS, told))
        if count:
            each = (now - job.since) / count
            ahead = int(AHEAD / each) if each > 0 else MOST_AHEAD * job.workers
            job.quota = max(job.workers, min(MOST_AHEAD * job.workers, 2 * job.quota, ahead))
            job.since = now
            job.done += count
            self._strikes = 0
        self._let_go(job)
        self.hand_out()

    def _back(self, job: Job, calls: Sequence[int]) -> None:
        """What was handed to a pilot and not begun waits again, before all others."""
        back = []
        for number in calls:
            call = job.handed.pop(number, None)
            self._owner.pop(number, None)
            job.began.pop(number, None)
            if call is not None:
                back.append(call)
        self._waiting.extendleft(sorted(back, key=lambda call: call.call, reverse=True))
        job.quota = job.workers
        self._let_go(job)
        if back and self._broken:
            self._fail_waiting()
        elif back:
            self.hand_out()

    def _forget(self, job: Job, call: int) -> None:
        job.handed.pop(call, None)
        job.kept.discard(call)
        job.began.pop(call, None)
        self._owner.pop(call, None)

    def _let_go(self, job: Job) -> None:
        """Let a pilot leave that wants to, or has no time left, once nothing of it is wanted any more."""
        if job.leaving and job.guest is not None and not job.handed and not job.let_go:
            job.let_go = True
            job.guest.send(wire.message({"op": "leave"}))

    # ---- handing out

    def _enter(self, batch: str, tasks: int) -> Dict[int, Job]:
        jobs = self._jobs[batch] = {task: Job(batch, task) for task in range(tasks)}
        self._all += jobs.values()
        return jobs

    def _drop_batch(self, batch: str) -> None:
        self._jobs.pop(batch, None)
        self._all = [job for job in self._all if job.batch != batch]

    def shipping(self, ship: str) -> None:
        """A version of the client's code is looked for, or on its way."""
        self._unshipped.pop(ship, None)

    def shipping_changed(self, ship: str = "", why: str = "") -> None:
        """A version of the client's code is there, or, by `why`, cannot be."""
        if why:
            self._unshipped[ship] = why
        self.hand_out()

    def hand_out(self) -> None:
        """Give waiting calls to pilots that have room; ask for jobs where there are not enough."""
        now = time.monotonic()
        if self._closing is not None:
            self._waiting.clear()
        while self._waiting:
            ship = self._ships.get(self._waiting[0].function, "")
            if ship and self._around.shipped(ship) is None:
                if ship in self._unshipped:
                    self._fail_unshipped(ship)
                    continue
                break  # this is called again when it is there
            job = self._with_room(now)
            if job is None:
                break
            self._feed(job, now)
        if self._waiting:
            self._wanted = now
            self._ask_soon()

    def _fail_unshipped(self, ship: str) -> None:
        words = {"state": "FAILED", "exit_code": None, "signal": None, "stderr": "", "reason": self._unshipped[ship]}
        lost = [call for call in self._waiting if self._ships.get(call.function) == ship]
        self._waiting = deque(call for call in self._waiting if self._ships.get(call.function) != ship)
        self._crash([call.call for call in lost], words)

    def _with_room(self, now: float) -> Optional[Job]:
        best: Optional[Job] = None
        for job in self._all:
            if not job.ready or job.leaving or not job.workers or len(job.handed) >= job.quota:
                continue
            if not self._has_time(job, now):
                self._retire(job)
            elif best is None or job.load() < best.load():
                best = job
        return best

    def _has_time(self, job: Job, now: float) -> bool:
        """Whether a call that begins now will end before the job; one that fits into no job is given to a new one."""
        if job.ends is None:
            return True
        longest = self._words["call_time"]
        need = MARGIN + (self._longest if longest is None else longest)
        return now + need < job.ends or (not job.done and job.began_at + need >= job.ends)

    def _retire(self, job: Job) -> None:
        if not job.leaving:
            job.leaving = True
            self._note("info", "job %s is near its time limit and takes no more calls" % job.id)
            self._let_go(job)
            self._ask_soon()

    def _feed(self, job: Job, now: float) -> None:
        pilots = sum(job.guest is not None and not job.leaving for job in self._all)
        share = -(-len(self._waiting) // max(1, pilots))
        number = max(1, min(job.quota - len(job.handed), share))
        parts: List[wire.Buffer] = []
        if not job.handed:
            job.since = now
        assert job.guest is not None
        highest = 0
        while self._waiting and number > 0:
            call = self._waiting[0]
            ship = self._ships.get(call.function, "")
            if ship and self._around.shipped(ship) is None:
                break
            self._waiting.popleft()
            number -= 1
            if call.function not in job.known:
                job.known.add(call.function)
                head = {"op": "function", "function": call.function, "ship": ship}
                job.guest.send(wire.message(head, self._functions[call.function]))
            job.handed[call.call] = call
            self._owner[call.call] = job
            highest = max(highest, call.call)
            parts += payload.pack_call(call.call, call.function, call.payload)
        self._files.hand(highest)
        job.guest.send(wire.packed(wire.CALLS, parts))

    # ---- the number of jobs

    def _ask_soon(self) -> None:
        if self._ask_at is None:
            self._ask_at = time.monotonic() + GATHER
            self._due = min(self._due, self._ask_at)

    def _demand(self) -> int:
        """Return how many workers would have something to do."""
        handed = sum(len(job.handed) for job in self._all if not job.leaving)
        most: int = self._words["workers"]
        return min(most, len(self._waiting) + len(self._unsure) + handed)

    def _ask(self, now: float) -> None:
        """Submit as many jobs as calls can use."""
        per_job: int = self._words["per_job"]
        wanted = min(self._words["max_jobs"], -(-self._demand() // per_job))
        present = sum(job.is_there() for job in self._all)
        if present > self._words["max_jobs"]:  # one that was replaced has been put back into the queue
            self._cancel_jobs(self._unused(self._all)[: present - self._words["max_jobs"]])
        if wanted <= present or self._broken or self._closing is not None:
            return
        ship = self._ships.get(self._waiting[0].function, "") if self._waiting else ""
        if ship and self._around.shipped(ship) is None:
            return  # `hand_out` is called when it is there: workers that need it for the initializer are to have it
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
            self._enter(batch, number)
            file = b"".join(payload.pack_batch(self._initializer, [], [], [0] * number))
            self._around.batches.submit(spec, file, lambda words: None)
        except OSError as error:
            self._drop_batch(batch)
            self._refused_until = now + LOOK_CEILING
            self._ask_at = self._refused_until
            self._note("stuck", "a batch of pilots cannot be written: %s" % error)

    def _unused(self, jobs: Sequence[Job]) -> List[Job]:
        """Return those that wait in the queue, as far as is known."""
        return [it for it in jobs if it.state == "PENDING" and not (it.came or it.awaited or it.over or it.leaving)]

    def owns(self, batch: str) -> bool:
        return batch in self._jobs

    # ---- what becomes of jobs

    def event(self, head: Mapping[str, Any]) -> None:
        """Take in what `batches` tells of a batch of this pool."""
        jobs = self._jobs.get(head["batch"], {})
        op = head["op"] if jobs else None
        if op == "states":
            for state, ranges in head["states"]:
                for task in [task for first, end in ranges for task in range(first, end)]:
                    self._state(jobs[task], state)
        elif op == "part":
            for task in [task for first, end in head["tasks"] for task in range(first, end)]:
                jobs[task].id = jobs[task].id or head["job"]
        elif op == "ends":
            for task, at in head["ends"]:
                jobs[task].ends = time.monotonic() + at - time.time()
            self._due = 0.0
        elif op == "results":
            for task in head["done"]:
                self._over(jobs[task], None)
        elif op == "ended":
            for record in head["ended"]:
                self._over(jobs[record["task"]], record)
        elif op == "refused":
            self._refused(head, jobs)
        elif op == "notice":
            self._note(head["kind"], head["message"])

    def _state(self, job: Job, state: str) -> None:
        job.state = state
        self._due = 0.0
        if state in _QUEUED_AGAIN and job.guest is None and (job.came or job.awaited):
            self._requeued(job)

    def _requeued(self, job: Job) -> Job:
        """The job is in the queue again, and what ran in it is not: return what it is from now on."""
        again = Job(job.batch, job.task)
        again.id, again.run, again.state = job.id, job.run, job.state
        self._jobs[job.batch][job.task] = again
        self._all[self._all.index(job)] = again
        job.over = True
        if job.guest is not None:
            job.guest.close()
            job.guest, job.ready = None, False
        said = self._around.batches.log(job.batch, job.task, "err")[-_TAIL:].decode("utf-8", "replace")
        state = next((state for words, state in _PUT_BACK if words in said), "REQUEUED" if job.leaving else "NODE_FAIL")
        words = {"state": state, "exit_code": None, "signal": None, "stderr": said, "node": job.node}
        self._settle(job, dict(words, job_id=job.id, reason=""))
        self._told(job)
        self._ask_soon()
        return again

    def _over(self, job: Job, record: Optional[Mapping[str, Any]]) -> None:
        """A job is over, by itself or as `record` tells."""
        if job.over:
            return
        job.over = True
        if job.guest is not None:
            job.guest.close()
            job.guest, job.ready = None, False
        words = None if record is None else {name: record[name] for name in _TOLD}
        self._settle(job, words, earlier=record is not None and record["earlier"])
        if words is not None and _is_useless(job, words):
            self._struck(job, words)
        self._told(job)
        self._release(job.batch)
        if not self._closed_if_over():
            self.hand_out()
            self._ask_soon()

    def _settle(self, job: Job, words: Optional[Mapping[str, Any]], *, earlier: bool = False) -> None:
        """Take in what a job has left, and tell the end of the calls that it has taken along.

        Those of one that was over before this driver began, `earlier`, run again if they are asked for: nobody was told
        of their end.
        """
        left = self._files.left(pool_files.pilot_name(job.batch, job.task, job.run))
        if left is not None:
            for record in payload.records(left):
                if record.call not in job.handed:
                    job.handed[record.call] = self._unsure.pop(record.call, None)
                    self._owner[record.call] = job
            self._results(job, bytes(left))
            self._back(job, [call for call in job.handed if call not in job.cut])
        elif words is not None and job.awaited and not earlier:  # it has told nobody what it had
            self._silent.append((job, dict(words)))
        if earlier or (left is None and words is None):
            self._back(job, list(job.handed))
        lost = list(job.handed)
        job.handed.clear()
        job.cut.clear()
        job.began.clear()
        if lost:
            self._crash(lost, words or {"state": None, "job_id": job.id, "node": job.node})
        self._account_for(job)

    def _account_for(self, job: Job) -> None:
        """Write down that the client knows what became of all that a job had, which is over, once that is so."""
        if not job.noted or self._closing is not None or any(owner is job for owner in self._owner.values()):
            return
        if any(silent is job for silent, _ in self._silent):
            return
        job.noted = False
        try:
            self._files.record({"settled": job.batch, "task": job.task, "run": job.run})
        except OSError as error:
            self._note("stuck", "the ledger of the pool cannot be written: %s" % error)

    def _crash(self, calls: Sequence[int], words: Mapping[str, Any]) -> None:
        """Tell the client that calls have ended with their job."""
        said = json.dumps(words).encode()
        records = [part for call in calls for part in payload.pack_record(call, payload.CRASHED, said)]
        self._around.transmit(wire.packed(wire.RESULTS, records))

    def _told(self, job: Job) -> None:
        """Whoever was awaited has told what it has, or cannot any more."""
        if job.awaited:
            job.awaited = False
            self._resolve_unsure()

    def _unsure_until_told(self) -> bool:
        return not self._sent_again or any(job.awaited for job in self._all)

    def _resolve_unsure(self) -> None:
        """Once everybody has told: what nobody has was not handed out, or was lost with who fell silent."""
        if self._unsure_until_told():
            return
        unsure, self._unsure = self._unsure, {}
        silent, self._silent = self._silent, []
        numbers = sorted(unsure)
        if silent and unsure:
            job, words = silent[-1]  # which of them had it nobody knows
            self._owner.update(dict.fromkeys(numbers, job))
            self._crash(numbers, words)
        else:
            self._waiting.extendleft(unsure[number] for number in reversed(numbers))
        for job, _ in silent:
            self._account_for(job)
            self._release(job.batch)
        if unsure:
            self.hand_out()

    def _struck(self, job: Job, words: Mapping[str, Any]) -> None:
        """A job has ended before it was of any use. Whoever is still to come may fare better."""
        if self._broken or self._closing is not None:
            return
        self._strikes += 1
        pause = min(AGAIN_CEILING, AGAIN_FIRST * 2.0 ** (self._strikes - 1))
        self._refused_until = time.monotonic() + pause
        if self._strikes >= GIVE_UP and self._is_left_alone():
            self._break("%d jobs have ended one after the other before they could run a call" % self._strikes, words)
            return
        how = " ".join(str(words[name]) for name in ("state", "exit_code") if words[name])
        where = ""
        if words["node"]:
            where = " on node %s" % words["node"]
            self._shunned[words["node"]] = None
        self._note("info", "job %s ended%s before it could run a call: %s" % (words["job_id"], where, how or "?"))

    def _is_left_alone(self) -> bool:
        """Whether no job is there that takes calls, or may one day."""
        return not any(job.is_there() for job in self._all)

    def _refused(self, head: Mapping[str, Any], jobs: Mapping[int, Job]) -> None:
        for first, end in head["tasks"]:
            for task in range(first, end):
                jobs[task].over = True
        self._release(head["batch"])
        if self._shunned:  # it may be that there are no other nodes
            self._shunned.clear()
            self._ask_soon()
        elif not self._is_left_alone():
            self._refused_until = time.monotonic() + 60.0
            self._note("stuck", "no more jobs: %s" % head["message"])
        elif self._closing is None:
            self._break("no job is accepted: %s" % head["message"], {"refused": head["message"]})
        self._closed_if_over()

    def _break(self, message: str, words: Mapping[str, Any]) -> None:
        """Nothing will come of the calls that wait; those that are with a pilot go on."""
        self._broken = {"op": "pool_broken", "pool": self.id, "message": message, "record": words}
        self._fail_waiting()
        self._cancel_jobs([job for job in self._all if not job.handed])

    def _fail_waiting(self) -> None:
        self._waiting.clear()
        self._unsure.clear()
        self._around.send({**self._broken, "spared": [call for job in self._all for call in job.handed]})

    def _release(self, batch: str) -> None:
        """Have a batch's files cleared away when its jobs are over and nobody may ask for what they had again."""
        jobs = self._jobs.get(batch, {})
        if not jobs or any(not job.over for job in jobs.values()):
            return
        unacknowledged = [*self._owner.values(), *(job for job, _ in self._silent)]
        if any(job.batch == batch for job in unacknowledged):
            return
        if self._closing is None:
            try:
                self._files.record({"over": batch})
                self._files.clear(batch)
            except OSError:
                return  # the next agent finds out for itself
        self._drop_batch(batch)
        self._around.batches.release(batch, True, False, lambda words: None)

    def _cancel_jobs(self, jobs: Sequence[Job]) -> None:
        by_batch: Dict[str, List[int]] = {}
        for job in jobs:
            if not job.over:
                job.leaving = True  # it may come yet
                by_batch.setdefault(job.batch, []).append(job.task)
        for batch, tasks in by_batch.items():
            self._around.batches.cancel(batch, tasks, functools.partial(self._cancelled, batch, tasks))

    def _cancelled(self, batch: str, tasks: Sequence[int], _: Mapping[str, Any]) -> None:
        for task in tasks:
            job = self._jobs.get(batch, {}).get(task)
            if job is not None:
                self._over(job, None)

    # ---- the loop's turn

    def tick(self, now: float) -> float:
        """Do what is due; return when there is more to do."""
        if now >= self._due:
            self._due = self._look_after(now)
        at = self._door.tick(now) if self._door is not None else None
        return self._due if at is None else min(self._due, at)

    def _look_after(self, now: float) -> float:
        """See to jobs, and to what is a matter of time; return when to do so again if nothing comes up before."""
        jobs = [job for job in self._all if not job.over]
        wanted: List[Optional[float]] = [now + LOOK_AFTER if jobs else None]
        if self._door is not None:
            self._door.expect_boxes(any(job.guest is None and job.state == "RUNNING" for job in jobs))
        if self._closing is not None:
            if now >= self._closing:
                self._closing = NEVER_DUE
                self._cancel_jobs(jobs)
            wanted.append(self._closing)
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None
            self._ask(now)
        wanted.append(self._ask_at)
        for job in jobs:
            if job.guest is None and (job.came or job.awaited):
                if now >= job.look_at:
                    self._around.batches.look_soon(job.batch)
                    job.look_at = now + min(LOOK_CEILING, max(LOOK_FIRST, now - job.lost))
                wanted.append(job.look_at)
            elif job.guest is not None and not job.leaving and not self._has_time(job, now):
                self._retire(job)
            elif job.guest is not None and job.came and not job.ready and not job.noted:
                self._make_ready(job)
                self.hand_out()
        wanted.append(self._see_reasons(now, jobs))
        wanted.append(self._see_idle(now, jobs))
        return min((at for at in wanted if at is not None), default=NEVER_DUE)

    def _see_reasons(self, now: float, jobs: Sequence[Job]) -> Optional[float]:
        """While calls wait for a first worker: tell why that takes long, and give up where it will not come."""
        served = any(it.guest is not None or it.came or it.awaited for it in jobs if not it.leaving)
        if served or not self._waiting or self._broken or self._closing is not None:
            self._waits_since, self._reason = None, ""
            return None
        if self._waits_since is None:
            self._waits_since = self._reason_at = now
        patience: Optional[float] = self._words["start_timeout"]
        if now >= self._reason_at:
            self._reason_at = now + REASON_EVERY
            reasons = [self._around.batches.reason(job.batch, job.task) for job in jobs]
            reason = next(filter(None, reasons), "")
            if reason and reason != self._reason:
                self._reason = reason
                waiting = len(self._waiting)
                calls = "a call waits" if waiting == 1 else "%d calls wait" % waiting
                self._note("info", "%s for a worker: %s" % (calls, reason))
            if reasons and all(map(_is_final, reasons)):
                self._break("no worker will come: %s" % reason, {})
        if patience is not None and now >= self._waits_since + patience and not self._broken:
            self._break("no worker has come within %g s: %s" % (patience, self._reason or "the jobs wait"), {})
        if self._broken:
            return None
        return self._reason_at if patience is None else min(self._reason_at, self._waits_since + patience)

    def _see_idle(self, now: float, jobs: Sequence[Job]) -> Optional[float]:
        """Take jobs out of the queue that nobody has anything to do for any more."""
        if self._waiting or self._unsure:
            self._wanted = now
        pending = self._unused(jobs)
        if not pending or self._closing is not None:
            return None
        at: float = self._wanted + self._words["idle"]
        if now < at:
            return at
        self._cancel_jobs(pending)
        return None

    def _note(self, kind: str, message: str) -> None:
        self._around.send({"op": "pool_note", "pool": self.id, "kind": kind, "message": message})


class Pools:
    """All pools of one client."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._pools: Dict[int, Pool] = {}

    def message(self, head: Mapping[str, Any], body: wire.Body, reply: Optional[Callable[..., None]]) -> None:
        """Do what the client says; raises OSError where a pool cannot be opened."""
        op, number = head["op"], head["pool"]
        pool = self._pools.get(number)
        if op == "pool_open":
            assert reply is not None
            if pool is None:
                pool = self._pools[number] = Pool(self._around, head, body)
                pool.begin()
            reply({"handed": pool.handed})
        elif pool is None:
            if reply is not None:
                reply({})
        elif op == "function":
            pool.function(head["function"], body, head["ship"])
        elif op == "drop":
            pool.drop(head["function"])
        elif op == "pool_cancel":
            pool.cancel(head["calls"])
        elif op == "pool_ack":
            pool.acknowledge(body)
        elif op == "pool_sent":
            pool.sent_again(head["keep"])
        elif op == "pool_state":
            assert reply is not None
            reply(pool.state())
        elif op == "pool_close":
            assert reply is not None
            self._close(number, pool, reply)

    def _close(self, number: int, pool: Pool, reply: Callable[..., None]) -> None:
        def then(words: Mapping[str, Any]) -> None:
            if self._pools.pop(number, None) is not None:
                pool.stop(for_good=True)
            reply(words)

        pool.close(then)

    def calls(self, data: wire.Body) -> None:
        """Take calls of one pool."""
        pool = self._pools.get(payload.first_call(data) >> POOL_BITS)
        if pool is not None:
            pool.calls(data)

    def owner(self, batch: str) -> Optional[Pool]:
        """Return the pool whose jobs a batch has."""
        return next((pool for pool in self._pools.values() if pool.owns(batch)), None)

    def shipping(self, ship: str) -> None:
        for pool in self._pools.values():
            pool.shipping(ship)

    def shipping_changed(self, ship: str = "", why: str = "") -> None:
        for pool in list(self._pools.values()):
            pool.shipping_changed(ship, why)

    def tick(self, now: float) -> Optional[float]:
        at = min((pool.tick(now) for pool in list(self._pools.values())), default=NEVER_DUE)
        return None if at == NEVER_DUE else at

    def stop(self) -> None:
        """Let go of all pools, whose pilots look for another agent."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.stop(for_good=False)


def _is_useless(job: Job, words: Mapping[str, Any]) -> bool:
    """Whether a job has ended, as `words` tell, before it could run a call, and not to make way for others."""
    taken_back = job.leaving and not job.came
    return not (job.useful or job.awaited or taken_back or (job.came and words["state"] == "PREEMPTED"))


def _is_final(reason: str) -> bool:
    """Whether a job that waits for this reason, as `batches` says it, will wait for ever."""
    word = reason.rpartition(": ")[2].strip("()")
    return word.partition(",")[0] in NEVER or word.endswith(HELD)


def is_pools(data: wire.Body) -> bool:
    """Whether a frame of calls is for a pool, and not for the login node."""
    return bool(payload.first_call(data) >> POOL_BITS)
