"""Slurm through its command line.

`commands` has the words; here they are run. Two threads call `Slurm`, one that submits and one that asks. What they
share is the bucket, which has a lock, and two facts about the site, which go from true to false once. Nothing here
retries: "could not find out" is an answer, and the agent decides when to ask again.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from typing import Callable, Collection, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

from . import commands
from .scheduler import NOT_FOUND_OUT, UNKNOWN, Held, Limits, Outcome, Refused, Request, Row
from .states import TERMINAL

#: sbatch itself waits up to two minutes where the queue is full; ended sooner, it might have submitted after all.
SUBMIT_SECONDS = 240.0
QUERY_SECONDS = 60.0
#: How long a cancel waits for a token. It may leave the bucket in debt: the next queries pay.
CANCEL_PATIENCE = 2.0

_IDS_A_QUERY = 200  # more job ids in one sacct make a slow query for the database
_NODES_TRIED = 32  # nodes of which it is looked up how they are reached
_MOST_MISSING = 20  # jobs without a record of which slurmctld is asked at once, one by one


class Bucket:
    """Tokens for commands: `size` at once, then `rate` a second. Any thread may call it.

    It promises to say how long to wait, and does not wait itself. A patient caller waits its turn; one with less
    patience goes earlier, and those who come after it wait longer for that.
    """

    def __init__(self, size: float, rate: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()  # guards the next two, which change together
        self._tokens = size
        self._when = clock()

    def take(self, patience: Optional[float] = None) -> float:
        """Take a token and return the seconds to wait before using it, `patience` at most."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._size, self._tokens + max(now - self._when, 0.0) * self._rate)
            self._when = now
            self._tokens -= 1
            wait = max(-self._tokens / self._rate, 0.0)
        return wait if patience is None else min(wait, patience)


class _Done(NamedTuple):
    """How a command ended; `returncode` is None where it was stopped at its time limit, or could not be started."""

    returncode: Optional[int]
    stdout: str
    stderr: str


class Slurm:
    """The cluster's Slurm, as the user this process runs as.

    `environ` is where PATH and SLURM_CONF are looked up, and what jobs are given (sbatch exports it). All commands but
    sbatch draw on one bucket: twenty at once, then two a second, as slurmctld's own limiter by default.
    """

    keeps_jobs = True
    #: How far back jobs are looked up by name in the accounting records.
    FIND_DAYS = 14

    def __init__(
        self,
        environ: Optional[Mapping[str, str]] = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._submit_environment = commands.client_environment(environ)
        self._query_environment = commands.query_environment(environ)
        self._sleep = sleep
        self._bucket = Bucket(20, 2.0, clock)
        # Of its own, so that a hundred scripts hold up neither each other nor what is asked meanwhile. Where slurmctld
        # has a limiter, sbatch itself waits for it.
        self._submissions = Bucket(100, 10.0, clock)
        self._queries: Set[int] = set()  # process ids; added and taken out by the threads that ask, read by `close`
        self._accounting = True  # until Slurm says that there is none
        self._reason_known = True  # sacct has the field; until it says that it does not

    def version(self) -> str:
        """Return "slurm 22.05.8"; FileNotFoundError where there is no sbatch, OSError with its words where it fails."""
        done = _run(["sbatch", "--version"], self._query_environment, QUERY_SECONDS)
        found = re.search(r"\d+\.\d+\S*", done.stdout)
        if done.returncode != 0 or found is None:
            raise OSError("sbatch --version failed: " + (commands.words(done.stderr) or "no answer"))
        return "slurm " + found[0]

    def limits(self) -> Optional[Limits]:
        """Return the limits of this cluster, None where they cannot be read now."""
        done = self._ask(["scontrol", "show", "config"])
        return commands.parse_limits(done.stdout) if done.returncode == 0 else None

    def submit(self, request: Request) -> Outcome:
        """Submit once; may take minutes where slurmctld is busy."""
        try:
            argv = commands.submit_argv(request)
            done = self._call(argv, self._submit_environment, SUBMIT_SECONDS, self._submissions)
        except FileNotFoundError:
            return Refused("there is no sbatch on this machine's PATH")
        except OSError as error:
            return Held(f"sbatch could not be started: {error}")
        return commands.classify(done.returncode, done.stdout, done.stderr)

    def node_addresses(self) -> List[str]:
        """Return the addresses by which Slurm's daemons reach some of the nodes; OSError where it does not say."""
        done = self._ask(["sinfo", "--noheader", "--Node", "--format=%o"])
        found = list(dict.fromkeys(done.stdout.split()))
        if done.returncode != 0 or not found:
            raise OSError("sinfo failed: " + (commands.words(done.stderr) or "no answer"))
        return found[:: -(-len(found) // _NODES_TRIED)]

    def adopt(self, job_id: str, request: Request) -> Set[int]:
        return set()  # slurmctld looks after all of them

    def find(self, name: str) -> Optional[List[str]]:
        """Return the ids of this user's jobs called exactly `name`, queued or ended; None if it could not be found out.

        Ended ones are found for as long as slurmctld keeps them, and for FIND_DAYS where there is accounting.
        """
        rows = self.queue()
        found = {row.job_id for row in rows or () if row.name == name}
        if found:
            return sorted(found, key=commands.numeric_order)
        if self._accounting:
            done = self._ask(commands.named_argv(name, os.getuid(), self.FIND_DAYS))
            if done.returncode == 0:
                for line in done.stdout.splitlines():
                    job, _, its_name = line.partition("|")
                    if its_name == name:
                        found.update(job_id for job_id, _ in commands.job_keys(job))
            elif self._has_accounting(done):
                return None
        return sorted(found, key=commands.numeric_order) if found or rows is not None else None

    def queue(self) -> Optional[List[Row]]:
        """Return this user's jobs, those that ended within slurmctld's MinJobAge included; None if the query failed."""
        done = self._ask(commands.queue_argv())
        if done.returncode != 0:
            return None
        try:
            return commands.parse_queue(done.stdout)
        except ValueError:
            return None

    def why(self, jobs: Mapping[str, float], doubted: Collection[str] = ()) -> Optional[commands.Records]:
        """Return what is recorded of jobs, as `Scheduler.why` says; None is never the answer.

        The accounting records may be seconds, and in trouble hours, behind. Those of older jobs, whose ids are in use
        again, are left out by the time of submission in `jobs`. slurmctld itself is asked for jobs of which there is no
        record at all, and for those of `doubted` that are not over by their records.
        """
        recorded = self._recorded(jobs) if self._accounting else None
        if recorded is None:
            return self._shown(jobs, recorded=False)
        unending = {job_id for (job_id, _), ending in recorded.items() if ending.state not in TERMINAL}
        doubted = unending.intersection(doubted)
        missing = sorted(set(jobs).difference(job_id for job_id, _ in recorded), key=commands.numeric_order)
        shown = self._shown([*doubted, *missing[:_MOST_MISSING]], recorded=True)
        return {**shown, **{key: it for key, it in recorded.items() if key[0] not in doubted or it.state in TERMINAL}}

    def _shown(self, job_ids: Iterable[str], *, recorded: bool) -> commands.Records:
        """Return what slurmctld knows of jobs; those it has forgotten are left out.

        But for that to be an answer, the records must have been asked too: `recorded`, or there are none.
        """
        shown: commands.Records = {}
        answers = True
        for job_id in job_ids:
            if answers:
                done = self._ask(["scontrol", "--oneliner", "show", "job", job_id])
                if done.returncode == 0:
                    shown.update(commands.parse_shown(done.stdout))
                    continue
                answers = commands.OVER.search(done.stderr) is not None
                if answers and (recorded or not self._accounting):
                    continue
            shown[job_id, UNKNOWN] = NOT_FOUND_OUT
        return shown

    def cancel(self, targets: commands.Targets) -> bool:
        """End jobs, whole or by array indices; True if none of them is left, False if a command failed."""
        worked = True
        for argv in commands.cancel_argvs(targets):
            done = self._ask(argv, CANCEL_PATIENCE)
            worked = commands.cancel_worked(done.returncode, done.stderr) and worked
        return worked

    def throttle(self, job_id: str, tasks: int) -> bool:
        """Let `tasks` tasks of an array run at once; False if that failed, as it does where the job is over."""
        done = self._ask(["scontrol", "update", "JobId=" + job_id, f"ArrayTaskThrottle={tasks}"])
        return commands.throttle_worked(done.returncode, done.stdout + done.stderr)

    def _recorded(self, jobs: Mapping[str, float]) -> Optional[commands.Records]:
        """Return what sacct knows of jobs, None where it does not answer."""
        found: commands.Records = {}
        job_ids = sorted(jobs, key=commands.numeric_order)
        for start in range(0, len(job_ids), _IDS_A_QUERY):
            some = job_ids[start : start + _IDS_A_QUERY]
            done = self._ask(commands.records_argv(some, os.getuid(), self._reason_known))
            if done.returncode != 0 and "Invalid field requested" in done.stderr and self._reason_known:
                self._reason_known = False
                done = self._ask(commands.records_argv(some, os.getuid(), False))
            if done.returncode != 0:
                self._has_accounting(done)
                return None
            found.update(commands.parse_records(done.stdout, jobs))
        return found

    def _has_accounting(self, failed: _Done) -> bool:
        """Tell whether sacct may still answer one day after it failed this way, and remember if not."""
        if failed.returncode is not None and commands.NO_ACCOUNTING.search(failed.stderr):
            self._accounting = False
        return self._accounting

    def _ask(self, argv: Sequence[str], patience: Optional[float] = None) -> _Done:
        try:
            return self._call(argv, self._query_environment, QUERY_SECONDS, self._bucket, patience, self._queries)
        except OSError as error:
            return _Done(None, "", str(error))

    def close(self) -> None:
        """Kill queries that hang. A submission is never cut off: it might have been accepted."""
        for leader in list(self._queries):
            _kill_session(leader)

    def _call(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        seconds: float,
        bucket: Bucket,
        patience: Optional[float] = None,
        running: Optional[Set[int]] = None,
    ) -> _Done:
        wait = bucket.take(patience)
        if wait > 0:
            self._sleep(wait)
        return _run(argv, environ, seconds, running)


def _run(argv: Sequence[str], environ: Mapping[str, str], seconds: float, running: Optional[Set[int]] = None) -> _Done:
    """Run a command to its end, or kill it and what it started after `seconds`; OSError if it cannot be started.

    Its process id is in `running` meanwhile.
    """
    # Encoded here, because the locale this process was started in need not be able to.
    process = subprocess.Popen(
        [word.encode("utf-8", "surrogateescape") for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environ),
        start_new_session=True,
    )
    if running is not None:
        running.add(process.pid)
    with process:
        returncode: Optional[int]
        try:
            stdout, stderr = process.communicate(timeout=seconds)
            returncode = process.returncode
        except subprocess.TimeoutExpired:
            # A site's sbatch is often a shell script: ended alone, it leaves the real one with our pipes.
            _kill_session(process.pid)
            try:
                stdout, stderr = process.communicate(timeout=5.0)
            except subprocess.TimeoutExpired:
                stdout = stderr = b""  # something has left the session and keeps the pipes
            returncode = None
        finally:
            if running is not None:
                running.discard(process.pid)
    return _Done(returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))


def _kill_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
