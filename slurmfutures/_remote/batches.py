"""The batches that a client has handed over: submitted in parts, watched, explained, cancelled, cleared away.

All of it runs in the agent's loop, except what is given to a lane: scheduler commands and removals may take minutes.
"""

import contextlib
import functools
import itertools
import os
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from . import logs, outbox, own, payload, publish, script, ships, spool, trust, watch, wire
from .batch import Batch, Part, Range, Retry, collect_logs, parse_retry, ranges
from .death import explain
from .incoming import Incoming
from .lane import Lane
from .scheduler import Ending, Held, Limits, Outcome, Refused, Request, Row, Scheduler, Submitted
from .states import TERMINAL, JobState
from .succession import Succession

CANCEL_AFTER = 0.03  # seconds in which cancellations gather
CANCEL_AGAIN = 5.0  # seconds until those that failed are tried again
QUEUE_GROWTH = 1.5  # of the time between two looks at the queue, while nothing changes
LOOKS = (2.0, 10.0, 30.0)  # seconds before each search for a submission whose outcome is unclear
LOOKS_AFTER = (0.0, 2.0)  # the same for one of an earlier agent, of which it is known that sbatch has ended
BACKLOG = 8 << 20  # bytes on their way to the client above which no more results are read
LARGE = 1 << 20  # bytes of a batch that is written, or of a result that is read, beside the loop's other work
MOST_LARGE = 4  # large results on their way at once


class Place(NamedTuple):
    """Where this agent's things are, as the script has to name them."""

    work_dir: str
    code: str


class Pace(NamedTuple):
    """How often the scheduler is asked, and how long results may stay unseen; all in seconds."""

    queue_first: float  # from a submission to the first look at the queue, and the least between two
    queue_ceiling: float  # the most between two
    grace: float  # in which the results of a job that has left the queue may still come into sight


# Slurm's own advice is to keep queries to the minimum; centres ask for half a minute to two minutes between them.
CLUSTER_QUEUE_FIRST = 15.0
CLUSTER_QUEUE_CEILING = 180.0


class Batches:
    """All batches of one client.

    `send(head, body)` sends it an event, `stream(buffers)` a large one, `waiting()` is what is still unsent.
    """

    def __init__(
        self,
        *,
        place: Place,
        scheduler: Scheduler,
        limits: Limits,
        pace: Pace,
        max_workers: Optional[int],
        post: Callable[[Callable[[], None]], None],
        send: Callable[..., None],
        stream: Callable[[Sequence[outbox.Content]], None],
        waiting: Callable[[], outbox.Outbox],
        succession: Succession,
    ) -> None:
        self._place = place
        self._scheduler = scheduler
        self._limits = limits
        self._max_workers = max_workers
        self._pace = pace
        self._send = send
        self._stream = stream
        self._waiting = waiting
        self._succession = succession
        self._storing = Lane("store", post)
        self._numbers = itertools.count()
        self._submitting = Lane("submit", post)
        self._asking = Lane("ask", post)
        self._acting = Lane("act", post)
        self._batches: Dict[str, Batch] = {}
        self._busy: Optional[Batch] = None  # whose part is being submitted, or looked up
        self._looking = False  # it is being looked up: nothing is lost if that is cut off
        self._unclear: Deque[Tuple[Batch, Part]] = deque()  # of an earlier agent: were they submitted?
        self._stopped = False
        self._cancel_at: Optional[float] = None
        self._cancelling = 0  # scancels under way
        self._confirm: List[Callable[..., None]] = []  # replies to cancellations that are not through yet
        self._left_over: List[Tuple[str, Optional[List[int]]]] = []  # to be cancelled, of batches already released
        self._queue_at: Optional[float] = None
        self._queue_interval = self._pace.queue_first
        self._queue_asked = 0.0
        self._queue_busy = False
        self._held_up: Dict[str, List[Row]] = {}  # rows of jobs that waited then and say why
        self._alive: Set[str] = set()  # jobs of this user that the queue had when it was last seen
        self._why_at: Optional[float] = None
        self._why_interval = watch.WHY_FIRST
        self._why_asked = 0.0
        self._why_busy = False
        self._noticed: Set[Tuple[str, str]] = set()

    # ---- what the client asks for

    def incoming(self, folder: str) -> Incoming:
        """Return where the calls of a large batch can be written while they arrive; `folder` is on the same disk."""
        return Incoming(os.path.join(folder, "incoming-%d" % next(self._numbers)), self._storing)

    def submit(self, spec: Mapping[str, Any], calls: Union[wire.Buffer, Incoming], reply: Callable[..., None]) -> None:
        """Store a batch and queue it for submission; the reply says that it is stored.

        Raises OSError where it cannot be. A batch that is there already was sent by a client whose connection was lost
        before the reply.
        """
        wanted = set(range(spec["tasks"])).difference(spec["skip"])
        if self._resume(spec["batch"], wanted) is not None:
            if isinstance(calls, Incoming):
                calls.drop()
            reply(self.attach(spec["batch"], ranges(sorted(wanted))))
            return
        if own.is_own(spec):
            spec = own.placed(spec)
        batch = Batch(spec, spool.Batch(self._place.work_dir, spec["batch"]))
        if not isinstance(calls, Incoming) and len(calls) <= LARGE:
            self._store(batch, calls)
            self._batches[batch.id] = batch
            reply({})
            return

        def then(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                reply({"error": "os", "message": str(outcome)})
                return
            self._batches[batch.id] = batch
            reply({})

        self._storing.do(lambda: self._store(batch, calls), then)

    def _store(self, batch: Batch, calls: Union[wire.Buffer, Incoming]) -> None:
        spec, folder = batch.spec, batch.folder
        if own.is_own(spec):
            own.make_folders(spec)
            text = own.render(spec, folder)
        else:
            text = script.render(
                batch=batch.id,
                folder=folder.path,
                chdir=spec["chdir"],
                setup=spec["setup"],
                python=spec["python"],
                code=self._place.code,
                path=spec["path"],
                shipped=ships.folder_of(self._place.work_dir, spec["ship"]) if spec["ship"] else "",
                module="pilot" if "pilot" in spec else "job",
            )
        folder.create(spec, text, calls)

    def attach(self, batch_id: str, wanted: Sequence[Range], epoch: Optional[float] = None) -> Dict[str, Any]:
        """Go on with a batch of an earlier agent; return which parts of it were submitted, and as which jobs.

        What was over before `epoch`, by the clock of the file system, is told as such.
        """
        batch = self._resume(batch_id, {task for first, end in wanted for task in range(first, end)}, epoch)
        if batch is None:
            return {"error": "gone", "message": "it is not in %s any more" % self._place.work_dir}
        if batch.folder.owner(batch.spec) != self._succession.session:
            with contextlib.suppress(OSError):  # no room: nothing but the command line asks whose it is
                batch.folder.adopt(self._succession.session)
        unclear = any(part.watch is None for part in batch.parts)
        submitted = [[part.job, ranges(part.tasks)] for part in batch.parts if part.job is not None]
        attempts = sorted(batch.attempts.items())
        return {"parts": submitted, "submitted": not batch.waiting and not unclear, "attempts": attempts}

    def _resume(self, batch_id: str, wanted: Set[int], epoch: Optional[float] = None) -> Optional[Batch]:
        """Return a batch, as an earlier agent has left it if this one does not have it; None where there is none."""
        if batch_id in self._batches:
            return self._batches[batch_id]
        batch = Batch.found(spool.Batch(self._place.work_dir, batch_id), wanted)
        if batch is None:
            return None
        batch.epoch = epoch
        self._batches[batch_id] = batch
        for part in list(batch.parts):
            if not self._scheduler.keeps_jobs:
                self._resume_ended(batch, part)
            elif part.job is not None:
                self._begin_watch(batch, part, part.job, age=time.time() - part.time)
            else:
                self._unclear.append((batch, part))
        return batch

    def _resume_ended(self, batch: Batch, part: Part) -> None:
        """A part whose agent has ended, and its jobs mostly with it.

        Those that run on are watched, those that had not begun wait again, the others are over.
        """
        now = time.monotonic()
        job_id = part.job or part.name
        running = self._scheduler.adopt(job_id, self._request(batch, part))  # first: what ends meanwhile has begun
        begun = {name.task for name in map(spool.parse_name, part.folder.published()) if name is not None}
        begun |= running
        self._begin_watch(batch, part, job_id)
        assert part.watch is not None
        again = sorted(part.watch.open - begun)
        for index in again:
            part.watch.resolve(index)
        batch.wait_again(part, again)
        self._look(batch, part, now)
        node, reason = os.uname().nodename, "the agent has ended, and the embedded scheduler's jobs with it"
        ending = Ending(JobState.FAILED, None, None, node, reason, True, "", "", "")
        verdicts = []
        for index in sorted(part.watch.open - running):
            end = part.watch.end_of(index)  # it may have ended by itself while no agent was there
            verdicts.append(watch.Verdict(index, ending if end is None else ending._replace(reason=""), end))
        self._tell_ended(batch, part, part.watch, verdicts)

    def _begin_watch(self, batch: Batch, part: Part, job_id: str, age: float = 0.0) -> None:
        now = time.monotonic()
        part.job = job_id
        part.watch = watch.Watch(part.indices, job_id, part.array, now, self._pace.grace, age=max(0.0, age))
        for index in part.over:
            part.watch.resolve(index)
        self._queue_interval = self._pace.queue_first
        first = now + self._pace.queue_first
        self._queue_at = first if self._queue_at is None else min(self._queue_at, first)

    def retry(self, batch_id: str, retries: Sequence[Mapping[str, Any]], reply: Callable[..., None]) -> None:
        """Run tasks again that ended without their results; the reply says that this is written down.

        Each retry is a task, its attempt, nodes to exclude and ranges of calls that are not to be run again. It may be
        asked for twice. Raises OSError where it cannot be written.
        """
        batch = self._resume(batch_id, {words["task"] for words in retries})
        if batch is None:
            reply({"error": "gone", "message": "it is not in %s any more" % self._place.work_dir})
            return
        fresh = [it for it in map(parse_retry, retries) if it.attempt > batch.attempts.get(it.task, 0)]
        if fresh:
            batch.folder.record({"retries": [it._asdict() for it in fresh]})
            batch.again(fresh)
        reply({})

    def cancel(self, batch_id: str, tasks: Sequence[int], reply: Callable[..., None]) -> None:
        """End tasks: those that wait are dropped, those in the scheduler's hands cancelled with the next scancel.

        The reply says that it is done, however often it had to be tried.
        """
        batch = self._resume(batch_id, set(tasks))
        if batch is None:
            reply({})
            return
        waited = bool(batch.waiting)
        rest = batch.without(set(tasks))
        if waited and not batch.waiting:
            self._send({"op": "submitted", "batch": batch.id})
        for part in batch.parts if rest else ():
            part.unwanted.update(index for index in part.indices if part.at[index] in rest)
        if not rest:
            reply({})
            return
        self._confirm.append(reply)
        if self._cancel_at is None:
            self._cancel_at = time.monotonic() + CANCEL_AFTER

    def release(self, batch_id: str, remove: bool, logs: bool, reply: Callable[..., None]) -> None:
        """Stop watching a batch; `logs` has what its jobs printed sent along, `remove` its files cleared away.

        It may be one of which an earlier agent has cleared a part away.
        """
        if self._cancel_at is not None:
            self._flush_cancels()
        batch = self._resume(batch_id, set())
        self._batches.pop(batch_id, None)
        reply({"logs": collect_logs(batch) if batch is not None and logs else {}})
        if remove:
            self._acting.do(spool.Batch(self._place.work_dir, batch_id).remove, lambda _: None)

    def after_removals(self, then: Callable[[], None]) -> None:
        """Have `then` called when what was released up to now is cleared away."""
        self._acting.do(lambda: None, lambda _: then())

    def look_soon(self, batch_id: str) -> None:
        """List a batch's results with the next turn, and ask for the queue as soon as that may be."""
        batch = self._batches.get(batch_id)
        now = time.monotonic()
        for part in batch.parts if batch is not None else ():
            if part.watch is not None and part.watch.open:
                part.watch.hurry()
        soon = max(now, self._queue_asked + self._pace.queue_first)
        if self._queue_at is not None:
            self._queue_at = min(self._queue_at, soon)

    def reason(self, batch_id: str, task: int) -> str:
        """Return why a task waits in the queue, as the queue says it, or that it is not in there; else ""."""
        batch = self._batches.get(batch_id)
        for part in reversed(batch.parts) if batch is not None else ():
            if task in part.tasks:
                index = next(index for index in part.indices if part.at[index] == task)
                rows = [row for row in self._held_up.get(part.job or "", ()) if _covers(row, index)]
                return "job %s waits in the queue: %s" % (part.job, rows[0].reason) if rows else ""
        return "" if batch is None else "it is not submitted yet"

    def log(self, head: Mapping[str, Any]) -> Callable[[], Tuple[Dict[str, Any], bytes]]:
        """Return what reads a part of a task's "out" or "err", for another thread: see `logs`.

        It is that of its last submission or of part `head["part"]`. Of a pilot it may be that of one of its workers.
        """
        known = self._batches.get(head["batch"])
        place = _log_of(known, head) if known is not None else None

        def read() -> Tuple[Dict[str, Any], bytes]:
            found = place
            if known is None:
                batch = Batch.found(spool.Batch(self._place.work_dir, head["batch"]), set())
                found = _log_of(batch, head) if batch is not None else None
            if found is None:
                return {"part": None, "size": 0, "offset": 0, "same": None}, b""
            words, data = logs.read(found[1], head)
            return dict(words, part=found[0]), data

        return read

    def log_tail(self, batch_id: str, task: int, stream: str, limit: int) -> bytes:
        """Return the end of a task's log, of its last submission; nothing where there is none."""
        batch = self._batches.get(batch_id)
        found = _log_of(batch, {"task": task, "stream": stream}) if batch is not None else None
        return logs.tail(found[1], limit)[1] if found is not None else b""

    def stop(self) -> None:
        """Submit nothing more: the client is gone."""
        self._stopped = True

    def settled(self) -> bool:
        """Whether nothing is under way that must not be cut off: a submission, a cancellation, a removal."""
        submitting = self._busy is not None and not self._looking
        return not submitting and self._cancel_at is None and not self._acting.busy

    # ---- the loop's turn

    def tick(self, now: float) -> Optional[float]:
        """Do what is due; return when there is more to do, None where nothing is."""
        wanted: List[Optional[float]] = []
        for batch in self._batches.values():
            for part in batch.parts:
                if part.watch is not None and part.watch.open:
                    if now >= part.watch.look_at():
                        if self._waiting().waiting > BACKLOG:
                            wanted.append(now + watch.LOOK_FLOOR)
                            continue
                        self._look(batch, part, now)
                    if part.watch.open:
                        wanted.append(part.watch.look_at())
        wanted.append(self._pump(now))  # after the looks: they make room
        if self._cancel_at is not None and now >= self._cancel_at:
            self._flush_cancels()
        wanted.append(self._cancel_at)
        wanted.append(self._ask_queue(now))
        wanted.append(self._ask_why(now))
        times = [at for at in wanted if at is not None]
        return min(times) if times else None

    def _watched(self) -> List[Tuple[Batch, Part, watch.Watch]]:
        return [
            (batch, part, part.watch)
            for batch in self._batches.values()
            for part in batch.parts
            if part.watch is not None and part.watch.open
        ]

    # ---- submitting

    def _pump(self, now: float) -> Optional[float]:
        """Submit the next part if one may go; return when to try again where only time is in the way."""
        if self._busy is not None or self._stopped:
            return None
        wanted = None
        if self._unclear:
            batch, part = self._unclear.popleft()
            self._busy = batch
            self._look_up(batch, part, self._request(batch, part), len(part.tasks), 0, 0, LOOKS_AFTER)
            return None
        watched = self._watched()
        inside = sum(len(watch.open) for _, _, watch in watched)
        for batch in self._batches.values():
            if not batch.waiting and not batch.retries:
                continue
            if now < batch.pressure.until:
                wanted = batch.pressure.until if wanted is None else min(wanted, batch.pressure.until)
                continue
            alike = sum(len(it.open) for other, _, it in watched if other.spec["options"] == batch.spec["options"])
            size = self._size(batch, inside, alike)
            room = self._room(watched)
            if size < 1 or (room is not None and room < 1):
                continue
            if not self._succession.is_ours():
                self._stopped = True
                return None
            retries = batch.take_retries(size) if batch.retries else []
            tasks = [retry.task for retry in retries] if retries else batch.take(size)
            self._submit_part(batch, tasks, retries, room, alike)
            return None
        return wanted

    def _size(self, batch: Batch, inside: int, alike: int) -> int:
        """Return how many tasks the next submission may hold; `alike` of those inside count for the same limit."""
        most = own.most(batch)
        if most is not None:
            return most
        most = min(self._limits.max_array_index + 1, self._limits.max_jobs - inside)
        return min(most, batch.pressure.size(batch.remaining(), alike))

    def _room(self, watched: Sequence[Tuple[Batch, Part, watch.Watch]]) -> Optional[int]:
        """Return how many more tasks may run at once under `max_workers`, None where that is not bounded."""
        if self._max_workers is None:
            return None
        return self._max_workers - sum(min(part.throttle or 1 << 30, len(watch.open)) for _, part, watch in watched)

    def _submit_part(
        self, batch: Batch, tasks: List[int], retries: Sequence[Retry], room: Optional[int], alike: int
    ) -> None:
        self._busy = batch
        number = batch.numbers
        batch.numbers += 1
        name = "%s.sf-%s.%d" % (batch.spec["name"], batch.id, number)
        part = batch.part(number, tasks, name, retries)
        bounds = [bound for bound in (room, batch.throttle) if bound is not None and bound < len(tasks)]
        part.throttle = min(bounds) if bounds else None
        batch.parts.append(part)
        try:
            batch.folder.check()
            part.folder.create()
            if _mapping(part) == "map":
                publish.publish(part.folder.path, "map", [_map(part).encode()])
            intent = {"part": number, "tasks": ranges(tasks), "name": name, "time": part.time}
            intent["throttle"] = part.throttle
            if part.retries:
                intent["attempt"], intent["exclude"] = part.attempt, part.exclude
            batch.folder.record(intent)
        except OSError as error:
            self._busy = None
            self._hold(batch, part, "stuck", "the batch cannot be written: %s" % error)
            return
        self._try(batch, part, self._request(batch, part), alike)

    def _request(self, batch: Batch, part: Part) -> Request:
        comment, mark = batch.spec["comment"], "sf:%s.%d" % (batch.id, part.number)
        return Request(
            options=batch.spec["options"],
            script=batch.folder.script,
            arguments=[str(part.number), _mapping(part)],
            size=len(part.tasks),
            throttle=part.throttle,
            name=part.name,
            comment="%s %s" % (comment, mark) if comment else mark,
            chdir=batch.spec["chdir"],
            stdout=os.path.join(part.folder.logs, "%a.out" if part.array else "0.out"),
            stderr=os.path.join(part.folder.logs, "%a.err" if part.array else "0.err"),
            exclude=part.exclude,
            patterns=own.patterns(batch.spec),
            array=own.array_of(batch, part),
        )

    def _try(self, batch: Batch, part: Part, request: Request, alike: int) -> None:
        def then(outcome: Any) -> None:
            self._outcome(batch, part, request, alike, outcome)

        self._submitting.do(lambda: self._scheduler.submit(request), then)

    def _outcome(self, batch: Batch, part: Part, request: Request, alike: int, outcome: Outcome) -> None:
        if isinstance(outcome, Submitted):
            self._accepted(batch, part, alike, outcome.job_id)
        elif isinstance(outcome, Refused):
            self._busy = None
            self._refused(batch, part, outcome.message)
        elif isinstance(outcome, Held):
            self._busy = None
            self._held(batch, part, alike, outcome.message)
        else:
            words = outcome.message if not isinstance(outcome, Exception) else repr(outcome)
            self._notice(batch, "unclear", "the outcome of a submission is unclear (%s): looking it up" % words)
            self._look_up(batch, part, request, alike, 0, 0)

    def _look_up(
        self,
        batch: Batch,
        part: Part,
        request: Request,
        alike: int,
        look: int,
        failed: int,
        looks: Sequence[float] = LOOKS,
    ) -> None:
        """Search the scheduler for a submission by name, and submit again only when it is surely not there."""
        self._looking = True
        if failed == 5:
            self._notice(batch, "stuck", "Slurm does not answer whether it has %s: asking on" % part.name)

        def work() -> Tuple[Optional[List[str]], Optional[bool]]:
            # In the lane: nothing else may be submitted meanwhile.
            time.sleep(looks[min(max(look, failed), len(looks) - 1)])
            submitting = self._succession.may_be_submitting(part.name) if looks is LOOKS_AFTER else False
            return part.folder.owners() or self._scheduler.find(part.name), submitting

        def then(outcome: Any) -> None:
            found, submitting = outcome if isinstance(outcome, tuple) else (None, False)
            self._looking = False
            if isinstance(found, list) and found:
                self._accepted(batch, part, alike, found[0])
            elif self._stopped or not self._succession.is_ours():
                self._busy = None  # the next agent looks it up
            elif submitting is None:  # nor can anybody: it is given its time
                self._look_up(batch, part, request, alike, 0, 0)
            elif submitting:
                self._look_up(batch, part, request, alike, 1, 0, looks)
            elif isinstance(found, list) and look + 1 >= len(looks):
                if batch.id not in self._batches:  # released meanwhile
                    self._busy = None
                elif part.unwanted | part.over >= set(part.indices):
                    self._busy = None
                    self._give_back(batch, part)
                else:
                    self._try(batch, part, request, alike)
            elif isinstance(found, list):
                self._look_up(batch, part, request, alike, look + 1, 0, looks)
            else:
                self._look_up(batch, part, request, alike, look, failed + 1, looks)

        self._submitting.do(work, then)

    def _accepted(self, batch: Batch, part: Part, alike: int, job_id: str) -> None:
        self._busy = None
        if batch.id not in self._batches:  # released, all of it being cancelled, while sbatch ran
            self._left_over.append((job_id, None))
            self._flush_cancels()
            self._acting.do(batch.folder.remove, lambda _: None)
            return
        try:
            batch.folder.record({"part": part.number, "job": job_id})
        except OSError as error:  # the intent is there: the job can be found by its name
            self._notice(batch, "unrecorded", "the id of job %s cannot be written down: %s" % (job_id, error))
        batch.pressure.accepted(len(part.tasks), alike)
        self._begin_watch(batch, part, job_id)
        self._send({"op": "part", "batch": batch.id, "job": job_id, "tasks": ranges(part.tasks)})
        if not batch.waiting:
            self._send({"op": "submitted", "batch": batch.id})
        if part.unwanted:
            self._cancel_at = time.monotonic()

    def _refused(self, batch: Batch, part: Part, message: str) -> None:
        """The scheduler will not have this batch, neither this part nor the next."""
        self._void(batch, part)
        if part.retries:
            self._retry_refused(batch, part, message)
            return
        batch.give_back(part)
        self._confirm_cancels()
        tasks, batch.waiting = batch.waiting, []
        self._send({"op": "refused", "batch": batch.id, "tasks": tasks, "message": message})

    def _retry_refused(self, batch: Batch, part: Part, message: str) -> None:
        """It may be that there is no other node: then the same one will have to do."""
        batch.parts.remove(part)
        kept = {part.at[index] for index in part.left()}
        left = [retry for retry in part.retries if retry.task in kept]
        self._confirm_cancels()
        if part.exclude:
            batch.retries = [retry._replace(exclude=()) for retry in left] + batch.retries
        else:
            tasks = ranges([retry.task for retry in left])
            self._send({"op": "refused", "batch": batch.id, "tasks": tasks, "message": message})

    def _void(self, batch: Batch, part: Part) -> None:
        """Write down that a part was not accepted, so that nobody looks for it."""
        with contextlib.suppress(OSError):
            batch.folder.record({"part": part.number, "void": True})

    def _held(self, batch: Batch, part: Part, alike: int, message: str) -> None:
        """A limit on submitted jobs is reached: try half as many, or wait for room."""
        if batch.array is not None:  # which is not split
            words = "the array waits until all of its %d tasks have room: %s" % (len(part.tasks), message)
            self._hold(batch, part, "stuck", words)
        elif batch.pressure.refused(len(part.tasks), alike):
            self._give_back(batch, part)
            self._notice(batch, "held back", message)
        else:
            self._hold(batch, part, "held back", message)

    def _give_back(self, batch: Batch, part: Part) -> None:
        self._void(batch, part)
        batch.give_back(part)
        self._confirm_cancels()
        if not batch.waiting:  # all of it was cancelled meanwhile
            self._send({"op": "submitted", "batch": batch.id})

    def _hold(self, batch: Batch, part: Part, kind: str, message: str) -> None:
        self._give_back(batch, part)
        batch.pressure.wait(time.monotonic())
        self._notice(batch, kind, message)

    def _notice(self, batch: Batch, kind: str, message: str) -> None:
        if (batch.id, kind + message) not in self._noticed:
            self._noticed.add((batch.id, kind + message))
            self._send({"op": "notice", "batch": batch.id, "kind": kind, "message": message})

    # ---- looking

    def _look(self, batch: Batch, part: Part, now: float) -> None:
        """List a part's results once and send what is new."""
        assert part.watch is not None
        try:
            names = part.folder.published()
        except FileNotFoundError:
            names = []  # somebody has cleared it away
        except OSError as error:  # a file system that does not answer changes nothing
            part.watch.not_listed(now)
            self._notice(batch, "out of sight", "results cannot be looked for: %s" % error)
            return
        found: List[wire.Buffer] = []
        size = 0
        done: List[int] = []
        earlier: Set[int] = set()
        began: List[int] = []
        part.unread.clear()
        for name in part.watch.listed(names, now):
            if name.task in part.over and name.task not in part.passed_on:
                part.watch.taken(name)  # the client has it, or does not want it
                continue
            if name.kind == spool.CLAIM:
                part.watch.taken(name)
                if part.watch.enter(name.task, JobState.RUNNING):
                    began.append(part.at[name.task])
                continue
            if size > BACKLOG:
                part.unread.add(name.task)
                continue  # the next look finds it
            try:
                data = part.folder.read(name.text, LARGE, closed=name.kind != spool.END and not own.is_own(batch.spec))
                if data is None:
                    self._send_large(batch, part, name)
                    continue
            except trust.Untrusted as error:
                self._notice(batch, "out of sight", "%s is not used: %s" % (error.filename, error.strerror))
                part.watch.unreadable(name, now)
                continue
            except (OSError, ValueError):
                part.watch.unreadable(name, now)
                continue  # not there yet for this client of the file system: the next look finds it
            if name.kind == spool.END:
                end = watch.parse_end(data, name.run)
                if end is not None:
                    part.watch.ended(name, end)
                    self._why_soon(now)
                else:
                    part.watch.unreadable(name, now)
                continue
            body = own.reached(part, name, data) if own.is_own(batch.spec) else payload.unpack_results(data)
            if body is None:
                part.watch.unreadable(name, now)
                continue  # seen before it was whole
            part.watch.taken(name)
            found.append(body)
            size += len(body)
            if part.folder.is_earlier(name.text, batch.epoch):
                earlier.add(part.at[name.task])
            if name.kind == publish.FINAL and name.task in part.watch.open:
                part.watch.resolve(name.task)
                done.append(part.at[name.task])
        if began:
            self._tell_states(batch, [(task, JobState.RUNNING) for task in began])
        if found:
            self._send(_results(batch, part, done, sorted(earlier)), b"".join(found))
        if done:
            self._freed(now)

    def _send_large(self, batch: Batch, part: Part, name: spool.Name) -> None:
        """Send a large result piece by piece, behind what is small; raises as `spool.ResultSource` does."""
        watch_ = part.watch
        assert watch_ is not None
        if self._waiting().lanes >= MOST_LARGE:
            part.unread.add(name.task)
            return  # the next look finds it
        final = name.kind == publish.FINAL and name.task in watch_.open

        def then(good: bool) -> None:
            part.sending.remove(name.task)
            if not good:
                watch_.reopen(name)

        source = part.folder.source(name.text, then)
        watch_.taken(name)
        part.sending.append(name.task)
        if final:
            watch_.resolve(name.task)
        words = _results(batch, part, [part.at[name.task]] if final else [])
        self._stream([*wire.stretched(words, [], len(source)), source])
        if final:
            self._freed(time.monotonic())

    def _tell_states(self, batch: Batch, changes: Sequence[Tuple[int, JobState]]) -> None:
        by_state: Dict[str, List[int]] = {}
        for task, state in changes:
            by_state.setdefault(state.value, []).append(task)
        states = [[state, ranges(sorted(tasks))] for state, tasks in by_state.items()]
        self._send({"op": "states", "batch": batch.id, "states": states})

    def _freed(self, now: float) -> None:
        """Tasks have left the queue: what was held back may go in, and arrays may run more at once."""
        waiting = False
        for batch in self._batches.values():
            if batch.waiting or batch.retries:
                waiting = True
                batch.pressure.freed(now)
        if self._max_workers is None or waiting or self._busy is not None:
            return
        watched = self._watched()
        room = self._room(watched) or 0
        for batch, part, watch_ in watched:
            most = len(watch_.open) if batch.throttle is None else min(len(watch_.open), batch.throttle)
            if room > 0 and part.throttle is not None and part.throttle < most:
                part.throttle = min(part.throttle + room, most)
                job_id, tasks = watch_.job_id, part.throttle
                self._acting.do(functools.partial(self._scheduler.throttle, job_id, tasks), lambda _: None)
                return

    # ---- asking the scheduler

    def _ask_queue(self, now: float) -> Optional[float]:
        """Ask for the queue when that is due; return when it will be."""
        watched = self._watched()
        if not watched or self._queue_busy:
            return None
        if self._queue_at is None:
            self._queue_at = now + self._queue_interval
        if any(watch.wants_queue() for _, _, watch in watched):
            self._queue_at = min(self._queue_at, max(now, self._queue_asked + self._pace.queue_first))
        if now < self._queue_at:
            return self._queue_at
        self._queue_busy = True
        self._queue_asked = now

        def then(rows: Any) -> None:
            self._queue_busy = False
            later = time.monotonic()
            changed = isinstance(rows, list) and self._queue_seen(rows, now, later)
            if not changed:
                self._queue_interval = min(self._pace.queue_ceiling, self._queue_interval * QUEUE_GROWTH)
            self._queue_at = later + max(self._queue_interval, 5 * (later - now))

        self._asking.do(self._scheduler.queue, then)
        return None

    def _queue_seen(self, rows: Sequence[Row], asked: float, now: float) -> bool:
        self._alive = {row.job_id for row in rows if row.state not in TERMINAL}
        by_job: Dict[str, List[Row]] = {}
        self._held_up = {}
        for row in rows:
            by_job.setdefault(row.job_id, []).append(row)
            if row.state == JobState.PENDING and row.reason:
                self._held_up.setdefault(row.job_id, []).append(row)
        changed = False
        for batch, part, watch_ in self._watched():
            own = by_job.get(watch_.job_id, [])
            changes = watch_.queued(own, asked, now)
            if changes:
                changed = True
                self._tell_states(batch, [(part.at[index], state) for index, state in changes])
            if "pilot" in batch.spec:
                self._tell_ends(batch, part, own)
            for row in own:
                if watch.is_stuck(row):
                    self._notice(batch, "stuck", "job %s waits in the queue: %s" % (row.job_id, row.reason))
            if watch_.suspects():
                changed = True
                self._why_soon(now)
        return changed

    def _tell_ends(self, batch: Batch, part: Part, rows: Sequence[Row]) -> None:
        """Tell when the time of running pilots is over, where that is news."""
        ends: Dict[int, float] = {}
        for row in rows:
            if row.ends is not None and row.state == JobState.RUNNING:  # for others it is a guess, or past
                shown = [index for index in part.indices if _covers(row, index) and part.ends.get(index) != row.ends]
                ends.update(dict.fromkeys(shown, row.ends))
        if ends:
            part.ends.update(ends)
            told = [[part.at[index], at] for index, at in sorted(ends.items())]
            self._send({"op": "ends", "batch": batch.id, "ends": told})

    def _why_soon(self, now: float) -> None:
        """Something new was seen of a death: ask soon, also where older ones are asked for at leisure by now."""
        soon = now + watch.WHY_FIRST
        if self._why_at is not None or self._why_busy:
            soon = max(soon, self._why_asked + watch.WHY_AGAIN)
        if self._why_at is None or soon < self._why_at:
            self._why_at = soon
            self._why_interval = watch.WHY_FIRST

    def _ask_why(self, now: float) -> Optional[float]:
        """Ask what became of the tasks that look over, when that is due; return when it will be."""
        if self._why_at is None or self._why_busy or now < self._why_at:
            return None if self._why_busy else self._why_at
        suspected = [(part, watch) for _, part, watch in self._watched() if watch.suspects()]
        jobs = {watch.job_id: part.time for part, watch in suspected}
        doubted = {watch.job_id for _, watch in suspected if watch.doubts(now)}
        if not jobs:
            self._why_at = None
            return None
        self._why_busy = True
        self._why_asked = now
        self._why_at = None

        def then(endings: Any) -> None:
            self._why_busy = False
            later = time.monotonic()
            if isinstance(endings, dict):
                self._judge(endings, later)
            self._why_interval = min(watch.WHY_CEILING, self._why_interval * watch.WHY_GROWTH)
            settle = [at for _, _, watch_ in self._watched() for at in watch_.settle_at()]
            if settle:
                times = [later + self._why_interval, *(at for at in settle if at > later)]
                self._why_at = min(times if self._why_at is None else [*times, self._why_at])

        self._asking.do(lambda: self._scheduler.why(jobs, doubted), then)
        return None

    def _judge(self, endings: Mapping[Tuple[str, Optional[int]], Ending], now: float) -> None:
        for batch, part, watch_ in self._watched():
            if not watch_.suspects():
                continue
            self._look(batch, part, now)
            coming = part.unread.union(part.sending)  # their results first
            judged = [it for it in watch_.judge(endings, now) if it.task not in coming]
            verdicts = [it for it in judged if not self._has_twin(part, watch_, it.task)]
            if verdicts:
                self._tell_ended(batch, part, watch_, verdicts)
                self._freed(now)

    def _tell_ended(self, batch: Batch, part: Part, watch_: watch.Watch, verdicts: Sequence[watch.Verdict]) -> None:
        ended = [explain(batch, part, watch_, verdict) for verdict in verdicts]
        for record, verdict in zip(ended, verdicts):
            record["earlier"] = _is_earlier(batch, part, verdict)
        for verdict in verdicts:
            watch_.resolve(verdict.task)
        self._send({"op": "ended", "batch": batch.id, "ended": ended})

    def _has_twin(self, part: Part, watch_: watch.Watch, task: int) -> bool:
        """Whether a job that we know nothing of runs the task: an earlier submission that was accepted late."""
        owner = part.folder.owner(task)
        return owner != watch_.job_id and owner in self._alive

    # ---- cancelling

    def _flush_cancels(self) -> None:
        """Cancel all that is unwanted by as few commands as can be; try again later where that fails."""
        self._cancel_at = None
        targets, self._left_over = self._left_over, []
        released = list(targets)
        hit: List[Tuple[Batch, Part, Set[int]]] = []
        for batch in self._batches.values():
            for part in batch.parts:
                if not part.unwanted or part.watch is None:
                    continue
                indices = part.unwanted & part.watch.open
                part.unwanted = set()
                if indices:
                    targets.append(_target(part.watch, indices))
                    hit.append((batch, part, indices))
        if not targets:
            self._confirm_cancels()
            return

        def then(good: Any) -> None:
            self._cancelling -= 1
            now = time.monotonic()
            if good is not True:
                self._left_over += released
                self._cancel_at = now + CANCEL_AGAIN if self._cancel_at is None else self._cancel_at
            for batch, part, indices in hit:
                assert part.watch is not None
                if good is True:
                    for index in indices:
                        part.watch.resolve(index)
                elif batch.id in self._batches:
                    part.unwanted |= indices
                else:
                    self._left_over.append(_target(part.watch, indices))
            if good is True:
                self._confirm_cancels()
                self._freed(now)

        self._cancelling += 1
        self._acting.do(lambda: self._scheduler.cancel(targets), then)

    def _confirm_cancels(self) -> None:
        """Tell the client that what it had cancelled is, once there is nothing left to be."""
        if not self._cancelling and not any(part.unwanted for batch in self._batches.values() for part in batch.parts):
            replies, self._confirm = self._confirm, []
            for reply in replies:
                reply({})


def _log_of(batch: Batch, head: Mapping[str, Any]) -> Optional[Tuple[int, str]]:
    """Return the number of the part that a log is of, and the log's path; None where there is no such part."""
    task, number = head["task"], head.get("part")
    for part in reversed(batch.parts):
        if number is not None and part.number != number:
            continue
        if part.tasks[0] <= task <= part.tasks[-1] and task in part.tasks:
            index = next(index for index in part.indices if part.at[index] == task)
            return part.number, part.folder.log(index, head["stream"], head.get("worker", ""))
    return None


def _is_earlier(batch: Batch, part: Part, verdict: watch.Verdict) -> bool:
    """Whether a task was over before the driver was there that is told of it now."""
    if batch.epoch is None:
        return False
    if verdict.end is not None:
        return part.folder.is_earlier(spool.end_name(verdict.task, verdict.end.run), batch.epoch)
    if verdict.ending is None or not verdict.ending.end:
        return True
    try:
        return time.mktime(time.strptime(verdict.ending.end, "%Y-%m-%dT%H:%M:%S")) <= batch.epoch
    except ValueError:
        return True


def _covers(row: Row, index: int) -> bool:
    return row.tasks is None or any(first <= index <= last for first, last in row.tasks)


def _results(batch: Batch, part: Part, done: List[int], earlier: Sequence[int] = ()) -> Dict[str, Any]:
    """Return the head of an event that brings results; `done` are the tasks of which these are the last."""
    words: Dict[str, Any] = {"op": "results", "batch": batch.id, "done": done}
    if earlier:
        words["earlier"] = earlier
    if part.attempt:
        words["attempt"] = part.attempt
    return words


def _mapping(part: Part) -> str:
    """Return how the script finds the task of an array index: `job.share`."""
    in_a_row = part.tasks[-1] - part.tasks[0] == len(part.tasks) - 1
    return str(part.tasks[0]) if in_a_row and not any(retry.done for retry in part.retries) else "map"


def _map(part: Part) -> str:
    """Return what `job.share` reads: a word for each task, behind a colon the ranges of calls that are done."""
    words = [str(task) for task in part.tasks]
    for index, retry in enumerate(part.retries):
        words[index] += "".join(":%d-%d" % ends for ends in retry.done)
    return " ".join(words)


def _target(watch_: watch.Watch, indices: Set[int]) -> Tuple[str, Optional[List[int]]]:
    """Return what a scheduler's `cancel` takes for some tasks that are open."""
    return watch_.job_id, None if indices == watch_.open or not watch_.array else sorted(indices)
