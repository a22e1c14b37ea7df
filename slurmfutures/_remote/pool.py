"""A pool of pilots: which call goes to which job, and what becomes of calls when jobs end.

Everything runs in the agent's loop. A call that was handed to a pilot is that pilot's until its result is here, the
pilot gives it back, or its job is known to be over: it is never handed out again while somebody may be running it.

An agent that takes over knows from the ledger which pilots have come to earlier ones. What the client sends again, and
may have been handed out, is held back until each of these has told what it has, or its job is known to be over.
"""

import functools
import json
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import door, payload, pool_files, wire
from .pool_door import open_door
from .pool_job import Job, Surroundings
from .pool_jobs import PoolJobs

AHEAD = 0.02  # seconds of work, of all its workers together, that a pilot may hold beside the calls they run
MOST_AHEAD = 128  # calls for each of its workers
LOOK_FIRST = 0.05  # seconds until it is looked for what became of a pilot whose connection is lost
LOOK_CEILING = 5.0
LOOK_FADES = 0.02  # of the time since then, where that is longer: it may be suspended for hours
LOOK_LONGEST = 180.0
LOOK_AFTER = 1.0  # seconds, at most, between two looks at all jobs
MARGIN = 2.0  # seconds before its end in which a job is given no call
SLOW_DOWN = 0.99  # by which the longest call is forgotten with each that was shorter
NEVER_DUE = float("inf")
CLOSING = 2.0  # seconds in which pilots may leave by themselves when their pool is closed
_TOLD = "state exit_code signal node reason stderr job_id cancelled_by started unseen".split()  # of how a job ended
# slurmstepd's last words in a job that is put back into the queue, and the state that this would be otherwise.
_PUT_BACK = (
    ("DUE TO PREEMPTION", "PREEMPTED"),
    ("DUE TO JOB REQUEUE", "REQUEUED"),
    ("DUE TO NODE FAILURE", "NODE_FAIL"),
)
_QUEUED_AGAIN = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_TAIL = 4000  # bytes of a job's stderr that are told


class Pool:
    """What one `ex.pilots(...)` of the client is here."""

    def __init__(self, around: Surroundings, words: Mapping[str, Any], initializer: wire.Buffer) -> None:
        """Raises OSError where its folder cannot be written."""
        self.id: int = words["pool"]
        self._around = around
        self._words = words
        path = pool_files.folder(around.work_dir, around.session, self.id)
        self._files = pool_files.PoolFiles(path)
        self._files.create()
        self._door: Optional[door.Door] = None
        self._by_files = False  # a pilot has come that way, and that was told
        self._jobs = PoolJobs(around, words, bytes(initializer), self._files, self, self._note, self._wake)
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
        self._broken: Dict[str, Any] = {}  # what the client was told, once nothing will come of calls any more
        self._stopped = False
        self._closing: Optional[float] = None  # when what is left is cancelled
        self._close_replies: List[Callable[..., None]] = []

    def begin(self) -> None:
        """Go on where earlier agents have stopped, and let pilots in."""
        self._restore()
        address: str = self._words["address"] or ""
        open_door(self._around, self._files.path, address, self._admit, self._note, self._open)

    def _open(self, listen: Callable[[], door.Door]) -> None:
        if not self._stopped:
            self._door = listen()

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
            jobs = self._jobs.enter(batch, tasks)
            for task, run in came.get(batch, {}).items():
                job = jobs[task]
                job.run, job.lost = run, time.monotonic()
                job.settled = (batch, task, run) in settled
                job.useful = job.settled  # or an earlier agent has counted that it was not
                job.noted, job.awaited = True, not job.settled
            words = self._around.batches.attach(batch, [(0, tasks)], self._words["epoch"])
            if "error" in words:  # its files are gone, and it with them
                for job in list(jobs.values()):
                    self.over(job, None)

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
        for job in self._jobs.all:
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
        for job in self._jobs.all:
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
        by_job: Dict[Job, List[int]] = {}
        for call in payload.numbers(data):
            job = self._owner.pop(call, None)
            if job is not None:
                by_job.setdefault(job, []).append(call)
        for job, numbers in by_job.items():
            if job.guest is not None:
                job.guest.send(wire.message({"op": "ack"}, payload.pack_numbers(numbers)))
                self._let_go(job)
            elif job.over:
                self._account_for(job)
                self._jobs.release(job.batch)

    def state(self) -> Dict[str, Any]:
        """Return counts of calls, and the workers."""
        workers = [
            [job.host, job.id, pid, since, done, job.guest.via]
            for job in self._jobs.all
            if job.guest is not None
            for pid, since, done in job.state_of_workers
        ]
        handed = sum(len(job.handed) for job in self._jobs.all)
        running = min(handed, sum(min(len(job.handed), job.workers) for job in self._jobs.all))
        waiting = len(self._waiting) + len(self._unsure) + handed - running
        return {"workers": workers, "waiting": waiting, "running": running, "reason": self._jobs.reason}

    def close(self, reply: Callable[..., None]) -> None:
        """End all jobs; the reply says that none is left."""
        self._close_replies.append(reply)
        if self._closing is None:
            self._closing = time.monotonic() + CLOSING
            self._jobs.closed = True
            self._due = 0.0
            self._waiting.clear()
            self._unsure.clear()
            for job in self._jobs.all:
                if job.guest is not None:
                    job.guest.send(wire.message({"op": "leave", "now": True}))
            self._jobs.cancel([job for job in self._jobs.all if job.guest is None])
        self._closed_if_over()

    def _closed_if_over(self) -> bool:
        if self._closing is None or any(not job.over for job in self._jobs.all):
            return False
        replies, self._close_replies = self._close_replies, []
        self._jobs.release_all()
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
        name = pool_files.parse_pilot(guest.words.get("pilot"))
        job = self._jobs.find(name.batch, name.task) if name is not None else None
        if name is None or job is None or job.over or name.run < job.run or self._closing is not None:
            guest.attach(lambda frame: None, lambda why: None)
            guest.send(wire.message({"op": "leave", "now": True}))
            return
        if job.guest is not None:
            job.guest.close()
            job.guest = None
        if name.run > job.run:
            job = self._requeued(job)
            job.run = name.run
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
            if guest.is_false or not (job.leaving or self._closing):
                kind = "door" if guest.is_false else "info"
                self._note(kind, "the connection to job %s is lost: %s" % (job.id or job.batch, why))

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
            self._jobs.ask_soon()
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
            self._jobs.of_use(job)
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
        for call, status, length in payload.heads(body):
            if status == payload.CRASHED and not length:
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
            self._jobs.ask_soon()

    def _fail_unshipped(self, ship: str) -> None:
        words = {"state": "FAILED", "exit_code": None, "signal": None, "stderr": "", "reason": self._unshipped[ship]}
        lost = [call for call in self._waiting if self._ships.get(call.function) == ship]
        self._waiting = deque(call for call in self._waiting if self._ships.get(call.function) != ship)
        self._crash([call.call for call in lost], words)

    def _with_room(self, now: float) -> Optional[Job]:
        best: Optional[Job] = None
        for job in self._jobs.all:
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
            self._jobs.ask_soon()

    def _feed(self, job: Job, now: float) -> None:
        pilots = sum(job.guest is not None and not job.leaving for job in self._jobs.all)
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

    # ---- what jobs are needed for

    def waiting(self) -> int:
        return len(self._waiting) + len(self._unsure)

    def ship(self) -> Optional[str]:
        ship = self._ships.get(self._waiting[0].function, "") if self._waiting else ""
        return None if ship and self._around.shipped(ship) is None else ship  # `hand_out` asks again when it is there

    def owes(self, batch: str) -> bool:
        return any(job.batch == batch for job in [*self._owner.values(), *(job for job, _ in self._silent)])

    def demand(self) -> int:
        handed = sum(len(job.handed) for job in self._jobs.all if not job.leaving)
        most: int = self._words["workers"]
        return min(most, self.waiting() + handed)

    # ---- what becomes of jobs

    def event(self, head: Mapping[str, Any]) -> None:
        """Take in what `batches` tells of a batch of this pool."""
        jobs = self._jobs.by_batch.get(head["batch"], {})
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
                self.over(jobs[task], None)
        elif op == "ended":
            for record in head["ended"]:
                self.over(jobs[record["task"]], record)
        elif op == "refused":
            self._jobs.refused(head["batch"], head["tasks"], head["message"])
            self._closed_if_over()
        elif op == "notice":
            self._note(head["kind"], head["message"])

    def _state(self, job: Job, state: str) -> None:
        job.state = state
        self._due = 0.0
        if state in _QUEUED_AGAIN and job.guest is None and (job.came or job.awaited):
            self._requeued(job)

    def _requeued(self, job: Job) -> Job:
        """The job is in the queue again, and what ran in it is not: return what it is from now on."""
        again = self._jobs.replace(job)
        job.over = True
        job.hang_up()
        said = self._around.batches.log_tail(job.batch, job.task, "err", _TAIL).decode("utf-8", "replace")
        state = next((state for words, state in _PUT_BACK if words in said), "REQUEUED" if job.leaving else "NODE_FAIL")
        words = {"state": state, "exit_code": None, "signal": None, "stderr": said, "node": job.node}
        self._settle(job, dict(words, job_id=job.id, reason=""))
        self._told(job)
        self._jobs.ask_soon()
        return again

    def over(self, job: Job, record: Optional[Mapping[str, Any]]) -> None:
        """A job is over, by itself or as `record` tells."""
        if job.over:
            return
        job.over = True
        job.hang_up()
        words = None if record is None else {name: record[name] for name in _TOLD}
        self._settle(job, words, earlier=record is not None and record["earlier"])
        if words is not None:
            self._jobs.ended(job, words)
        self._told(job)
        self._jobs.release(job.batch)
        if not self._closed_if_over():
            self.hand_out()
            self._jobs.ask_soon()

    def _settle(self, job: Job, words: Optional[Mapping[str, Any]], *, earlier: bool = False) -> None:
        """Take in what a job has left, and tell the end of the calls that it has taken along.

        Those of one that was over before this driver began, `earlier`, run again if they are asked for, when no pilot
        has told that it runs them by now: nobody was told of their end.
        """
        if job.settled:
            return
        left = self._files.left(pool_files.pilot_name(job.batch, job.task, job.run))
        if left is not None:
            for record in payload.records(left):
                if record.call not in job.handed and not (earlier and _is_cut(record)):
                    job.handed[record.call] = self._unsure.pop(record.call, None)
                    self._owner[record.call] = job
            self._results(job, bytes(left))
            self._back(job, [call for call in job.handed if call not in job.cut])
        elif words is None or earlier:
            self._back(job, list(job.handed))
        elif job.awaited:  # it has told nobody what it had
            self._silent.append((job, dict(words)))
        lost = list(job.handed)
        job.handed.clear()
        job.cut.clear()
        job.began.clear()
        if lost:
            self._crash(lost, words or {"state": None, "job_id": job.id, "node": job.node})
        self._account_for(job)

    def _account_for(self, job: Job) -> None:
        """Write down that the client knows what became of all that a job had, which is over, once that is so."""
        if not job.noted or job.settled or self._closing is not None:
            return
        if any(other is job for other in [*self._owner.values(), *(silent for silent, _ in self._silent)]):
            return
        job.settled = True
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
        return not self._sent_again or any(job.awaited for job in self._jobs.all)

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
            self._jobs.release(job.batch)
        if unsure:
            self.hand_out()

    def give_up(self, message: str, words: Mapping[str, Any]) -> None:
        """Nothing will come of the calls that wait; those that are with a pilot go on."""
        self._jobs.closed = True
        self._broken = {"op": "pool_broken", "pool": self.id, "message": message, "record": words}
        self._fail_waiting()
        self._jobs.cancel([job for job in self._jobs.all if not job.handed])

    def _fail_waiting(self) -> None:
        self._waiting.clear()
        self._unsure.clear()
        self._around.send({**self._broken, "spared": [call for job in self._jobs.all for call in job.handed]})

    # ---- the loop's turn

    def tick(self, now: float) -> float:
        """Do what is due; return when there is more to do."""
        if now >= self._due:
            self._due = self._look_after(now)
        at = self._door.tick(now) if self._door is not None else None
        return self._due if at is None else min(self._due, at)

    def _wake(self, at: float) -> None:
        self._due = min(self._due, at)

    def _look_after(self, now: float) -> float:
        """See to jobs, and to what is a matter of time; return when to do so again if nothing comes up before."""
        jobs = [job for job in self._jobs.all if not job.over]
        wanted: List[Optional[float]] = [now + LOOK_AFTER if jobs else None]
        if self._door is not None:
            self._door.expect_boxes(any(job.guest is None and job.state == "RUNNING" for job in jobs))
        if self._closing is not None:
            if now >= self._closing:
                self._closing = NEVER_DUE
                self._jobs.cancel(jobs)
            wanted.append(self._closing)
        wanted.append(self._jobs.ask_if_due(now))
        for job in jobs:
            if job.guest is None and (job.came or job.awaited):
                if now >= job.look_at:
                    self._around.batches.look_soon(job.batch)
                    away = now - job.lost
                    job.look_at = now + min(LOOK_LONGEST, max(LOOK_FIRST, min(LOOK_CEILING, away), LOOK_FADES * away))
                wanted.append(job.look_at)
            elif job.guest is not None and not job.leaving and not self._has_time(job, now):
                self._retire(job)
            elif job.guest is not None and job.came and not job.ready and not job.noted:
                self._make_ready(job)
                self.hand_out()
        wanted.append(self._jobs.see_reasons(now, jobs))
        wanted.append(self._jobs.see_idle(now, jobs))
        return min((at for at in wanted if at is not None), default=NEVER_DUE)

    def _note(self, kind: str, message: str) -> None:
        self._around.send({"op": "pool_note", "pool": self.id, "kind": kind, "message": message})

    def owns(self, batch: str) -> bool:
        """Whether a batch is one of this pool's jobs."""
        return batch in self._jobs.by_batch


def _is_cut(record: payload.Record) -> bool:
    """Whether a call was running when its job was ended: of how that ended others can tell."""
    return record.status == payload.CRASHED and not record.payload
