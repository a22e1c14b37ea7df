"""A pilot: what a job runs that stays for many calls. A hub with workers of its own, and a connection to the agent.

The loop's thread does all of it; the connection is looked for in a thread of `home.Home`. What workers do is known here
exactly, and survives the agent: a result is kept until the client has it, a call that killed its worker until the
client knows, and what nobody has begun is given back. The job ends when it has had nothing to do for its idle time,
when the agent says so, or at SIGTERM; what could not be handed over by then is left in a file beside the others.
With that file it says too that nobody has begun what else it was handed.
"""

import functools
import json
import os
import signal
import sys
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from . import hub, job, memory, payload, publish, shares, ships, spool, trust, wire
from .door import Guest
from .home import Home
from .loop import Loop
from .pool_files import PoolFiles, pilot_name

TERM_GRACE = 3.0  # seconds from SIGTERM in which running calls may end; Slurm kills after KillWait, 30 by default
TOGETHER = 1.0  # seconds in which what ends all processes of the job ends this one too
HANDING_OVER = 10.0  # seconds in which a pilot that leaves may be told that all it has is known
TELL_EVERY = 1.0  # seconds between two words on the workers' state
RUN_DRY = 86  # exit code of a pilot whose workers do not start


class Pilot:
    """`batch` and `part` are folders; `index` is the array task, `run` counts its requeues."""

    def __init__(self, batch: str, part: str, index: int, run: int, mapping: str) -> None:
        with trust.open_reader(os.path.join(batch, "batch.json")) as text:
            spec = json.loads(text.read().decode())
        file = payload.BatchFile(os.path.join(batch, "calls"))
        initializer = file.initializer()
        file.close()
        words = spec["pilot"]
        self._files = PoolFiles(words["folder"])
        self._part = part
        self._index = index
        self._run = run
        self._name = pilot_name(spec["batch"], job.share(index, mapping, part)[0], run)
        self._workers: int = words["workers"]
        self._idle_after: float = words["idle"]
        self._job = os.environ.get("SLURM_ARRAY_JOB_ID", "")
        self._job = "%s_%d" % (self._job, index) if self._job else os.environ.get("SLURM_JOB_ID", "")
        self._node = os.environ.get("SLURMD_NODENAME", "") or os.uname().nodename
        self._loop = Loop()
        self._kept: Dict[int, wire.Buffer] = {}  # records that the client has not acknowledged
        self._guest: Optional[Guest] = None
        self._used = time.monotonic()  # when there was last something to do
        self._ready: Optional[int] = None  # how many workers the agent was told can take calls
        self._uninitialized: Optional[Dict[str, Any]] = None  # how the initializer failed, and
        self._why: wire.Buffer = b""  # what it raised
        self._state: Any = None  # what the agent was told of the workers last
        self._state_at = 0.0
        self._leaving: Optional[float] = None  # since when
        self._may_go = False  # the agent will send no more calls
        self._term_at: Optional[float] = None  # when running calls are ended
        self._doubtful: List[Tuple[float, Dict[str, Any]]] = []  # ends of workers that may be the job's, and until when
        self._hopeless: Optional[Dict[str, Any]] = None  # why workers do not start
        self._kills = memory.kills()
        logs = spool.Part(part).workers
        os.makedirs(logs, 0o700, exist_ok=True)
        self._hub = hub.Hub(
            most=self._workers,
            command=[sys.executable, "-u", os.path.join(sys.path[0], "start.py"), "worker"],
            environment=dict(os.environ),
            logs=logs,
            prefix="%d-%d" % (index, run),
            shipped=lambda ship: ships.folder_of(words["work_dir"], ship),
            register=self._loop.register,
            unregister=self._loop.unregister,
            results=self._results,
            tell=self._tell,
            initializer=initializer,
            most_calls=words["most_calls"],
            idle_after=float("inf"),
            own=lambda slot: shares.share(slot, self._workers),
            give_back=self._give_back,
            ship=words["ship"],
        )
        self._home = Home(
            folder=words["folder"],
            words={"pilot": self._name},
            register=self._loop.register,
            unregister=self._loop.unregister,
            post=self._loop.post,
            arrived=self._arrived,
            log=_log,
        )
        self._ends = _end_of_job(words["time"])

    def serve(self) -> int:
        """Serve until there is nothing more to do here; return the exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self._loop.post(self._terminated))
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # by sbatch's --signal, some time before the end
            signal.signal(number, lambda number, _: self._loop.post(functools.partial(self._warned, number)))
        self._hub.fill()
        self._home.start()
        while not self._is_over():
            now = time.monotonic()
            times = [self._hub.tick(now), self._home.tick(now), self._tick(now)]
            self._loop.turn(min(at for at in times if at is not None))
        return self._end()

    # ---- the agent's side

    def _arrived(self, guest: Guest) -> None:
        """There is an agent, the first one or the next: it is told what is here."""
        self._guest = guest
        guest.attach(self._frame, self._gone)
        held = self._hub.held() + [call for _, head in self._doubtful for call in head["calls"]]
        left = None if self._ends is None else max(0.0, self._ends - time.time())
        words = {"job_id": self._job, "node": self._node, "host": os.uname().nodename, "pid": os.getpid()}
        self._ready = self._hub.ready()
        words.update(held=held, kept=list(self._kept), workers=self._ready)
        self._send({"op": "here", "left": left, **words})
        self._tell_workers(time.monotonic())
        if self._uninitialized is not None:
            self._send(self._uninitialized, self._why)
        if self._kept:
            guest.send(wire.packed(wire.RESULTS, list(self._kept.values())))
        for call, worker in self._hub.told():
            self._began([call], worker)
        if self._leaving is not None:
            self._send({"op": "leaving"})

    def _gone(self, why: str) -> None:
        _log("the agent is lost: %s" % why)
        self._guest = None
        self._home.start()

    def _send(self, head: Dict[str, Any], body: wire.Buffer = b"") -> None:
        if self._guest is not None:
            self._guest.send(wire.message(head, body))

    def _frame(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALLS:
            self._used = time.monotonic()
            self._hub.calls(frame.body)
            if self._leaving is not None:  # they were on their way when this was told
                self._give_back(self._hub.recall())
            return
        head = frame.head
        op = head["op"]
        if op == "function":
            self._hub.function(head["function"], frame.body, head["ship"])
        elif op == "drop":
            self._hub.drop(head["function"])
        elif op == "ack":
            for call in payload.numbers(frame.body):
                self._kept.pop(call, None)
        elif op == "cancel":
            self._hub.cancel(head["calls"])
        elif op == "leave":
            self._may_go = True
            self._leave()
            if head.get("now"):
                self._hub.close()
                self._kept.clear()
                self._doubtful.clear()

    # ---- the workers' side

    def _results(self, calls: List[int], records: List[wire.Buffer]) -> None:
        self._kept.update(zip(calls, records))
        if self._guest is not None:
            self._guest.send(wire.packed(wire.RESULTS, records))
        self._used = time.monotonic()

    def _tell(self, head: Dict[str, Any], body: wire.Buffer = b"") -> None:
        if head["op"] == "began":
            self._began(head["calls"], head["worker"])
        elif head["op"] == "uninitialized":
            self._uninitialized, self._why = head, body
            self._send(head, body)
        elif head.get("start"):
            self._hopeless = head
            self._send({"op": "back", "calls": head["calls"]})
            self._leave()
        else:
            self._crashed(head)

    def _began(self, calls: Sequence[int], worker: int) -> None:
        name = spool.worker_name(self._run, worker)
        self._send({"op": "began", "calls": calls, "job_id": self._job, "worker": name})

    def _crashed(self, head: Dict[str, Any]) -> None:
        """A worker has died in a call."""
        kills = memory.kills() if head["signal"] == signal.SIGKILL else None
        if kills is not None and kills > (self._kills or 0):
            self._kills = kills
            self._failed(head, out_of_memory=True)
        elif head["signal"] not in (signal.SIGTERM, signal.SIGKILL):
            self._failed(head)
        elif self._term_at is not None:
            self._cut_off(head["calls"])
        else:
            self._doubtful.append((time.monotonic() + TOGETHER, head))

    def _failed(self, head: Dict[str, Any], *, out_of_memory: bool = False) -> None:
        """A call has ended with its worker, and not with the job."""
        left = head["exit_code"] == 0
        words = {
            "state": "OUT_OF_MEMORY" if out_of_memory else "FAILED",
            "exit_code": head["exit_code"],
            "signal": None if out_of_memory else head["signal"],
            "stderr": head["stderr"],
            "job_id": self._job,
            "node": self._node,
            "reason": "its worker left by os._exit(0), or as if by it" if left else "in the worker that ran the call",
        }
        self._record(head["calls"], json.dumps(words).encode())

    def _cut_off(self, calls: Sequence[int]) -> None:
        """Calls end with their job: what that was, is for the agent to find out."""
        self._record(calls, b"")

    def _record(self, calls: Sequence[int], words: bytes) -> None:
        records = [b"".join(map(bytes, payload.pack_record(call, payload.CRASHED, words))) for call in calls]
        self._kept.update(zip(calls, records))
        if self._guest is not None and records:
            self._guest.send(wire.packed(wire.RESULTS, records))

    def _give_back(self, calls: List[payload.Call]) -> None:
        if calls:
            self._send({"op": "back", "calls": [call.call for call in calls]})

    # ---- the end

    def _tick(self, now: float) -> float:
        """Do what is due; return when there is more to do."""
        if self._term_at is not None and now >= self._term_at:
            self._cut_off(self._hub.running())
            self._hub.close()
            self._term_at = float("inf")
        while self._doubtful and now >= self._doubtful[0][0]:
            self._failed(self._doubtful.pop(0)[1])
        if self._leaving is None:
            if self._hub.is_idle():
                if now >= self._used + self._idle_after:
                    self._leave()
            else:
                self._used = now
            self._hub.fill()
        ready = self._hub.ready()
        if ready != self._ready:
            self._ready, self._state_at = ready, 0.0
            self._send({"op": "ready", "workers": ready})
        if now >= self._state_at + TELL_EVERY and self._guest is not None and self._hub.state() != self._state:
            self._tell_workers(now)
        if self._leaving is not None or self._doubtful:
            return now + 0.1
        return min(now + TELL_EVERY, self._used + self._idle_after)

    def _tell_workers(self, now: float) -> None:
        self._state, self._state_at = self._hub.state(), now
        self._send({"op": "workers", "workers": self._state})

    def _leave(self) -> None:
        """Take no more calls; end when those that run are done."""
        if self._leaving is None:
            self._leaving = time.monotonic()
            self._hub.stop()
            self._give_back(self._hub.recall())
            self._send({"op": "leaving"})

    def _warned(self, number: int) -> None:
        """A signal that the user has asked for: no call begins any more, and those that run may want to know."""
        self._hub.signal(number)
        self._leave()

    def _terminated(self) -> None:
        """SIGTERM: the time limit, a preemption or a cancellation."""
        if self._term_at is None:
            self._term_at = time.monotonic() + TERM_GRACE
            doubtful, self._doubtful = self._doubtful, []
            for until, head in doubtful:
                if head["signal"] == signal.SIGTERM:
                    self._cut_off(head["calls"])
                else:
                    self._doubtful.append((until, head))
            self._leave()

    def _is_over(self) -> bool:
        if self._leaving is None or self._doubtful or self._hub.running():
            return False
        if self._hopeless is not None or (self._may_go and not self._kept):
            return True
        patience = HANDING_OVER if self._guest is not None and self._term_at is None else 1.0
        return time.monotonic() >= max(self._leaving, self._used) + patience

    def _end(self) -> int:
        lost: Optional[OSError] = None
        if self._kept or self._term_at is not None or self._hopeless is not None:
            try:
                self._files.leave(self._name, list(self._kept.values()))
            except OSError as error:
                lost = error
        self._hub.close()
        if self._hopeless is not None:
            how = "exit code %s" % self._hopeless["exit_code"]
            if self._hopeless["signal"]:
                how = "signal %d" % self._hopeless["signal"]
            sys.stderr.write("slurmfutures: workers do not start: the last one ended with %s\n" % how)
            sys.stderr.write(self._hopeless["stderr"])
            code = RUN_DRY
        elif lost is not None:  # then this must not look as if there had been none
            words = len(self._kept), self._files.path, lost.strerror or lost
            sys.stderr.write("slurmfutures: %d results cannot be left in %s: %s\n" % words)
            code = publish.NO_ROOM
        elif self._term_at is not None:  # Slurm may begin this job once more: then it is not done
            code = 128 + signal.SIGTERM
        else:
            publish.publish(os.path.join(self._part, "r"), publish.final_name(self._index), payload.pack_results([]))
            code = 0
        self._home.close()
        return code


def _end_of_job(limit: Optional[float]) -> Optional[float]:
    """Return when the job's time is over, in seconds since the epoch; `limit` is what it has asked for, in seconds."""
    told = os.environ.get("SLURM_JOB_END_TIME", "")  # from Slurm 23.02 on
    if told.isdigit():
        return float(told)
    return None if limit is None else time.time() + limit


def _log(text: str) -> None:
    sys.stderr.write("slurmfutures: %s %s\n" % (time.strftime("%H:%M:%S"), text))
    sys.stderr.flush()


def main() -> None:
    """Entry of the batch script; the arguments are those of `job.main`."""
    folder, part, index, run, mapping = sys.argv[1:6]
    sys.argv[1:] = []
    sys.exit(Pilot(folder, os.path.join(folder, part), int(index), int(run), mapping).serve())
