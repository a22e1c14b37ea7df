"""What can go wrong.

    SlurmFuturesError
     ├─ ConnectionLost               the way to the login node broke              (also ConnectionError)
     ├─ HostUnreachable              nothing answers there as an SSH server
     ├─ AuthenticationError          a host did not let us in
     ├─ HostKeyError                 a host's key is unknown, or not the one it was
     ├─ AgentError                   the cluster half could not start, ended, or sent nonsense
     ├─ PythonMismatch               the two Pythons cannot work together
     ├─ SchedulerNotFound            there is no sbatch on the login node
     ├─ SubmitError                  the job was not accepted
     ├─ PayloadError                 something cannot be pickled or unpickled    (also pickle.PickleError)
     ├─ InitializerError             the initializer failed on a worker          (also BrokenExecutor)
     ├─ PilotsBroken                 no job of a pool of pilots gets to work     (also BrokenExecutor)
     ├─ CheckpointLocked             another process uses the checkpoint
     ├─ CheckpointCorrupt            the checkpoint cannot be read
     ├─ ResultLost                   the call is done, and its result is not to be found
     └─ JobError                     the job ended without the result
         ├─ JobFailed                it exited, or was killed, for a reason of its own
         │   └─ RemoteImportError    the function cannot be imported over there  (also ImportError)
         ├─ JobTimeout               it was ended at its time limit              (also TimeoutError)
         ├─ JobOutOfMemory           it used more memory than it had             (also MemoryError)
         ├─ JobPreempted             it had to make way for another job
         ├─ NodeFailed               its node failed
         └─ JobCancelled             it was cancelled, but not through its future
    RemoteTraceback                  the cause of an exception that a function raised over there
    SlurmFuturesWarning              a warning: something may take for ever, or soon fail

The first line of a message says what, where, why, and what to do; what a program printed last follows it. `transient`
tells whether the same thing may well work at another time.

`str` of an error is safe on a terminal: control characters from servers, programs and files are escaped. The attributes
of an error keep the raw text.
"""

import contextlib
import pickle
import re
import signal as signals
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import BrokenExecutor
from typing import Any, ClassVar

from ._jobinfo import JobInfo, job_info
from ._printable import printable
from ._remote.states import JobState, parse_state

_TAIL_LINES = 20


class SlurmFuturesError(Exception):
    """Any error of this package; met as itself where `work_dir` cannot be used, or after a fault of our own."""

    transient: bool = False
    _fields: ClassVar[tuple[str, ...]] = ("message",)

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return printable(self._text())

    def _text(self) -> str:
        """Return the whole text, which may hold control characters."""
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {name: getattr(self, name) for name in self._fields}), dict(self.__dict__)


def _rebuild(kind: "type[SlurmFuturesError]", fields: Mapping[str, Any]) -> "SlurmFuturesError":
    return kind(**fields)


class SlurmFuturesWarning(UserWarning):
    """Nothing failed yet, but something may take for ever, or fail soon: a job that waits for what will not come, a
    connection that needs somebody to type a code, a `work_dir` with little room left.
    """


def give_warning(text: str) -> None:
    """Warn, and go on where the user made warnings errors: what it is about has not failed."""
    with contextlib.suppress(SlurmFuturesWarning):
        warnings.warn(SlurmFuturesWarning(printable(text)), stacklevel=2)


def add_note(error: BaseException, text: str) -> bool:
    """Add a printable note to any exception. Return whether it was added, which needs Python 3.11."""
    if not hasattr(error, "add_note"):
        return False
    with contextlib.suppress(Exception):  # another package's class may refuse notes
        error.add_note(printable(text))
        return True
    return False


def os_error(number: int, said: str, *names: Any) -> OSError:
    """Return an OSError that the other side reports. `names` are the arguments after the message: the files."""
    return OSError(int(number), printable(said), *names)


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that was raised over there; its text is the traceback it had there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{printable(self.text)}"""'


# ---- the way to the cluster


class ConnectionLost(SlurmFuturesError, ConnectionError):
    """The login node cannot be reached any more, or could not be reached while something ran there.

    Submitted jobs go on without us. What ran on the login node itself, a call of `login` or a command of `run`, may
    have run to its end, in part, or not at all: `may_have_run`.
    """

    transient = True
    _fields = ("host", "reason", "may_have_run")

    def __init__(self, host: str, reason: str = "", may_have_run: bool = False) -> None:
        why = f" ({reason})" if reason else ""
        if may_have_run:
            text = f"the connection to {host} was lost{why}: this may have run there, in part or wholly"
        else:
            text = f"no connection to {host} any more{why}; jobs go on there, and their files stay in work_dir"
        super().__init__(text)
        self.host = host
        self.reason = reason
        self.may_have_run = may_have_run


class HostUnreachable(SlurmFuturesError):
    """There is no way to a host now: its name is unknown, or nothing there, or on the way, answers as an SSH server."""

    transient = True
    _fields = ("host", "reason", "remedy")

    def __init__(self, host: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{host} cannot be reached: {reason}{f'; {remedy}' if remedy else ''}")
        self.host = host
        self.reason = reason
        self.remedy = remedy


class AuthenticationError(SlurmFuturesError):
    """A host did not let us in. `tried` tells with what, `offered` are the methods that it would have taken."""

    _fields = ("host", "tried", "offered", "reason")

    def __init__(self, host: str, tried: Iterable[str] = (), offered: Iterable[str] = (), reason: str = "") -> None:
        self.host = host
        self.tried = list(tried)
        self.offered = list(offered)
        self.reason = reason
        attempts = f"tried {', '.join(self.tried)}" if self.tried else "there was nothing to try"
        takes = f"; it takes {', '.join(self.offered)}" if self.offered else ""
        super().__init__(
            f"{host} did not let us in: {f'{reason}; ' if reason else ''}{attempts}{takes}; {self._remedy()}"
        )

    def _remedy(self) -> str:
        if not self.offered or "publickey" in self.offered:
            return "name a key that it accepts by Host(..., key=...), or load one by ssh-add"
        return "check the user's name and what was typed, and that this account is open"


class HostKeyError(SlurmFuturesError):
    """The key that a host showed is not in the list of known keys, or not the one that is.

    Connect once with `ssh` and compare the fingerprint with what the site publishes. A changed key is either a new
    machine or somebody in between: ask the site before removing the old one. `command` is what accepts the new key, or
    removes the old one.
    """

    _fields = ("host", "fingerprint", "expected", "file", "command", "note")

    def __init__(
        self,
        host: str,
        fingerprint: str,
        expected: str = "",
        file: str = "~/.ssh/known_hosts",
        command: str = "",
        note: str = "",
    ) -> None:
        shown = f": {fingerprint}" if fingerprint else ""
        if expected == "revoked":
            command = ""
            what = f"the host key of {host} is marked as revoked in {file}{shown}"
            remedy = "somebody may be in between, ask the site"
        elif expected:
            command = command or f"ssh-keygen -R {host} -f {file}"
            what = f"the host key of {host} has changed from {expected} to {fingerprint or 'another one'}"
            remedy = f"ask the site whether that is right, and if so remove the old one from {file}: {command}"
        else:
            command = command or f"ssh {host}"
            what = f"the host key of {host} is not in {file}{shown}"
            remedy = f"connect once with `{command}`, compare the fingerprint with the site's, and accept it there"
        super().__init__(f"{what}; {remedy}{f' ({note})' if note else ''}")
        self.host = host
        self.fingerprint = fingerprint
        self.expected = expected
        self.file = file
        self.command = command
        self.note = note


class AgentError(SlurmFuturesError):
    """The cluster half could not start, has ended, or sent what cannot be understood.

    `stderr_tail` is what it, or the shell before it, said last.
    """

    transient = True
    _fields = ("message", "stderr_tail")

    def __init__(self, message: str, stderr_tail: str = "", *, transient: bool = True) -> None:
        super().__init__(message)
        self.stderr_tail = stderr_tail
        self.transient = transient

    def _text(self) -> str:
        return _with_tail(self.message, self.stderr_tail)


class PythonMismatch(SlurmFuturesError):
    """The Python on the cluster is too old, or another minor version than ours where bytecode must be exchanged.

    Name a fitting one by `python=`, or put the function into a module that is installed on both sides.
    """


class SchedulerNotFound(SlurmFuturesError):
    """There is no sbatch where the agent runs: it is no login node, or Slurm is not on the PATH there."""

    def _text(self) -> str:
        return (
            f"{self.message}: name a login node as host, have setup= make Slurm available, "
            'or use scheduler="local" to run the jobs without it'
        )


# ---- submitting, results, the checkpoint


class SubmitError(SlurmFuturesError):
    """The job was not accepted; `message` is sbatch's own words, `options` what it was given."""

    _fields = ("message", "options")

    def __init__(self, message: str, options: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.options = tuple(options)

    def _text(self) -> str:
        given = f" (options: {' '.join(self.options)})" if self.options else ""
        return f"the job was not submitted: {self.message}{given}"


class PayloadError(SlurmFuturesError, pickle.PickleError):
    """A function, an argument, a result or an exception cannot be pickled or unpickled, on one of the two sides."""


class InitializerError(SlurmFuturesError, BrokenExecutor):
    """The initializer raised on a worker: no call of this executor can run, all pending ones fail with this."""


class PilotsBroken(SlurmFuturesError, BrokenExecutor):
    """No pilot will come: jobs are refused, end before they can take a call, or wait for what will not happen.

    All calls that wait fail with this, and those to come. Its cause, if there is one, is how the last job ended.
    """


class CheckpointLocked(SlurmFuturesError):
    """Another process has the checkpoint open. Let it end, or use another file."""

    transient = True
    _fields = ("path", "owner")

    def __init__(self, path: str, owner: str = "") -> None:
        by = f" by {owner}" if owner else ""
        super().__init__(f"the checkpoint {path} is in use{by}: let that end, or use another file")
        self.path = path
        self.owner = owner


class CheckpointCorrupt(SlurmFuturesError):
    """The checkpoint is no checkpoint of ours, or damaged before its end, from the byte `offset` on.

    `saved` is what can be saved of a damaged one, and by which command. An end that was torn off is no damage.
    """

    _fields = ("path", "reason", "offset", "saved")

    def __init__(self, path: str, reason: str, offset: int | None = None, saved: str = "") -> None:
        where = f" at byte {offset}" if offset is not None else ""
        remedy = saved or "move it away to begin anew"
        super().__init__(f"the checkpoint {path} cannot be used, {reason}{where}: {remedy}")
        self.path = path
        self.reason = reason
        self.offset = offset
        self.saved = saved


class _Attempt:
    """What an error says of the attempts before it.

    `earlier` are their errors, `attempts` is how many there might have been in all.
    """

    earlier: "tuple[SlurmFuturesError, ...]" = ()
    attempts: int = 1

    def _told(self, text: str) -> str:
        """Return the text of an error with the attempts in its first line and below it."""
        if self.attempts == 1:
            return text
        headline, *rest = text.split("\n", 1)
        number = len(self.earlier) + 1
        return "\n".join([f"{headline} (attempt {number} of {self.attempts})", *tell_attempts(self.earlier), *rest])


class ResultLost(_Attempt, SlurmFuturesError):
    """The call ran to its end, but its result did not show on the shared file system, or was removed from there.

    Where it was one of several attempts (`retries`), `earlier` are the errors of those before it.
    """

    transient = True

    def _text(self) -> str:
        return self._told(self.message)


# ---- jobs


class JobError(_Attempt, SlurmFuturesError):
    """A job ended without the call's result; one of the classes below says why.

    `job_id` is None for a call on the login node. `state` is Slurm's, None if Slurm did not know any more; `exit_code`
    and `signal` are those of the batch script. `stderr_tail` is the end of what the job wrote there, `where` the folder
    in which its files are kept. Where it was one of several attempts (`retries`), `earlier` are the errors of those
    before it. Of a batch script `info` says the rest of how its job ended. Of one that is a job array the error is that
    of the first task that failed, `failed_tasks` is how many failed, of how many, and `info` tells of them all.
    """

    info: JobInfo | None = None
    failed_tasks: tuple[int, int] | None = None
    _fields: ClassVar[tuple[str, ...]] = (
        *("job_id", "state", "exit_code", "signal", "node", "reason", "stderr_tail", "where"),
        *("cancelled_by", "started"),
    )

    def __init__(
        self,
        job_id: str | None = None,
        state: JobState | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        node: str = "",
        reason: str = "",
        stderr_tail: str = "",
        where: str = "",
        *,
        cancelled_by: str = "",
        started: bool = True,
    ) -> None:
        self.job_id = job_id
        self.state = state
        self.exit_code = exit_code
        self.signal = signal
        self.node = node
        self.reason = reason
        self.stderr_tail = stderr_tail
        self.where = where
        self.cancelled_by = cancelled_by
        self.started = started
        super().__init__(self._headline())

    def _text(self) -> str:
        return self._told(_with_tail(self._headline(), self.stderr_tail))

    @property
    def signal_name(self) -> str:
        """Return "SIGSEGV", or "" where no signal ended the job."""
        try:
            return signals.Signals(self.signal or 0).name
        except ValueError:
            return ""

    def _headline(self) -> str:
        remedy = self._remedy()
        kept = f" (its files: {self.where})" if self.where else ""
        return f"{self._what()}{self._among()}{': ' + remedy if remedy else ''}{kept}"

    def _what(self) -> str:
        return f"{self._job()} {self._end()}{self._at()}{self._why()}"

    def _among(self) -> str:
        return "" if self.failed_tasks is None else " ({} of {} array tasks failed)".format(*self.failed_tasks)

    def _job(self) -> str:
        return f"job {self.job_id}" if self.job_id else "the call"

    def _at(self) -> str:
        if not self.node:
            return ""
        return f" on {self.node}" if " " in self.node else f" on node {self.node}"

    def _why(self) -> str:
        return f", {self.reason}" if self.reason and self.reason not in _NO_REASONS else ""

    def _end(self) -> str:
        if self.signal_name:
            return f"was killed by {self.signal_name}"
        if self.exit_code:
            return f"failed with exit code {self.exit_code}"
        if self.state is None:
            return "ended, and Slurm has no record of how"
        return f"ended as {self.state} without a result"

    def _remedy(self) -> str:
        return ""


_AGAIN = "submit it again, or have that done by retries="
# What these words of Slurm's say is said by the exit code or the class already.
_NO_REASONS = ("None", "NonZeroExitCode", "TimeLimit", "OutOfMemory", "JobLaunchFailure", "RaisedSignal")


class JobFailed(JobError):
    """The job ended by itself: the interpreter crashed, left by `os._exit`, or was not there. Read its stderr.

    `transient` is true of one whose node could not see `work_dir`: another node may.
    """

    def _remedy(self) -> str:
        if self.transient:
            return "name a work_dir that all compute nodes share, or leave this node out by exclude="
        killed = self.signal == signals.SIGKILL and not self.stderr_tail
        return "nobody says who did that; a memory limit is the usual one" if killed else ""


class RemoteImportError(JobFailed, ImportError):
    """The function or its arguments need a module that is not there where they were to run, or is another one there."""

    _fields = ("said", "job_id", "node", "python", "module")

    def __init__(
        self, said: str, *, job_id: str | None = None, node: str = "", python: str = "", module: str | None = None
    ) -> None:
        self.said = said
        self.python = python
        self.module = module
        super().__init__(job_id=job_id, node=node)
        self.name = module

    def _what(self) -> str:
        job = f"job {self.job_id}" if self.job_id else ""
        details = ", ".join(filter(None, (self.python, job)))
        return f"{self.said}{self._at()}{f' ({details})' if details else ''}"

    def _remedy(self) -> str:
        if self.module is None:
            return "another version is there, send yours along by ship= or cloudpickle.register_pickle_by_value()"
        return send_along(self.module)


def send_along(module: str) -> str:
    """Return what to do about a module that is missing over there."""
    top = module.partition(".")[0]
    given = f"{top!r}" if top.isidentifier() else ""
    return f"send it along by ship={given} or cloudpickle.register_pickle_by_value({top}), or install it there"


class JobTimeout(JobError, TimeoutError):
    """The job was ended at its time limit or its deadline. Ask for more `time=`, or give each job fewer calls."""

    def _end(self) -> str:
        return "missed its deadline" if self.state is JobState.DEADLINE else "was ended at its time limit"

    def _remedy(self) -> str:
        return "" if self.state is JobState.DEADLINE else "ask for more time=, or give each job fewer calls"


class JobOutOfMemory(JobError, MemoryError):
    """The job used more memory than it had asked for. Ask for more `mem=`, or use less."""

    def _end(self) -> str:
        return "ran out of memory"

    def _remedy(self) -> str:
        return "ask for more mem="


class JobPreempted(JobError):
    """The job had to make way for another one and was not put back into the queue; or it was, without its calls.

    The latter is how calls of pilots end, whose jobs come again for others.
    """

    transient = True

    def _end(self) -> str:
        return "was put back into the queue" if self.state is JobState.REQUEUED else "was preempted"

    def _remedy(self) -> str:
        return _AGAIN


class NodeFailed(JobError):
    """A node of the job failed or did not start, and the job was not put back into the queue."""

    transient = True

    def _end(self) -> str:
        return (
            "ended because its node did not start"
            if self.state is JobState.BOOT_FAIL
            else "ended because its node failed"
        )

    def _remedy(self) -> str:
        return _AGAIN


class JobCancelled(JobError):
    """Somebody else cancelled the job: scancel in a shell, an administrator, Slurm itself.

    This is no `concurrent.futures.CancelledError`. That one says that a future was cancelled through its own `cancel`,
    and who catches it takes it for his own doing; here the future is not cancelled, it has failed.
    """

    def _end(self) -> str:
        by = f" by {self.cancelled_by}" if self.cancelled_by else ""
        return f"was cancelled{by}{'' if self.started else ' before it started'}"


_BY_STATE: dict[JobState, type[JobError]] = {
    JobState.TIMEOUT: JobTimeout,
    JobState.DEADLINE: JobTimeout,
    JobState.OUT_OF_MEMORY: JobOutOfMemory,
    JobState.PREEMPTED: JobPreempted,
    JobState.REQUEUED: JobPreempted,
    JobState.NODE_FAIL: NodeFailed,
    JobState.BOOT_FAIL: NodeFailed,
    JobState.CANCELLED: JobCancelled,
}

# slurmstepd's words where a site ends jobs over their memory in a way that shows as FAILED or CANCELLED.
_OUT_OF_MEMORY = re.compile(r"exceeded (?:job|step) memory limit|oom[-_ ]kill", re.IGNORECASE)
# What a script of steps says of the one that failed.
_STEP = re.compile(r"^slurmfutures: (.+)$", re.MULTILINE)
_NOT_FOUND = re.compile(
    r": line \d+: (?:exec: )?([^:\n]+): (?:(?:command )?not found|No such file or directory|Permission denied)"
)


def job_error(record: Mapping[str, Any], *, script: bool = False) -> JobError:
    """Return the error for what the agent reports of a job that ended without its result.

    What is absent, or of another type than it should be, is unknown. `script` is true of a job that is the user's own
    script, and not an interpreter with calls.
    """

    def text(name: str) -> str:
        value = record.get(name)
        return value if isinstance(value, str) else ""

    def number(name: str) -> int | None:
        value = record.get(name)
        return value if type(value) is int else None

    state = parse_state(text("state"))
    stderr, reason, exit_code = text("stderr"), text("reason"), number("exit_code")
    kind = _BY_STATE.get(state, JobFailed) if state else JobFailed
    if kind in (JobFailed, JobCancelled) and _OUT_OF_MEMORY.search(stderr):
        kind = JobOutOfMemory
    missing = _NOT_FOUND.findall(stderr) if exit_code in (126, 127) and not script else ()
    if missing and kind is JobFailed:
        reason = f"the interpreter {missing[-1].strip()} was not found there or cannot run; name another one by python="
    error = kind(
        job_id=text("job_id") or None,
        state=state,
        exit_code=exit_code,
        signal=number("signal"),
        node=text("node"),
        reason=reason,
        stderr_tail=stderr,
        where=text("where"),
        cancelled_by=text("cancelled_by"),
        started=record.get("started") is not False,
    )
    if record.get("unseen"):
        error.transient = True
    return error


def script_error(record: Mapping[str, Any]) -> JobError | ResultLost:
    """Return the error for what the agent reports of a batch script that has not reached its end."""
    if record["state"] is None:
        return ResultLost(
            f"job {record['job_id']} has left the queue, Slurm has no record of it any more, and nothing says that its "
            f"script has reached its end (its files: {record['where']})"
        )
    said = _STEP.findall(record["stderr"])
    reason = said[-1] if said else record["reason"]
    if record["state"] == JobState.COMPLETED:
        record = {**record, "state": JobState.FAILED}
        reason = "the script has not reached its end, although Slurm has the job as COMPLETED"
    error = job_error({**record, "reason": reason}, script=True)
    error.info = job_info({**record, "reason": error.reason, "state": error.state, "signal": error.signal})
    return error


def tell_attempts(earlier: Iterable[SlurmFuturesError]) -> list[str]:
    """Return a line for each error of an attempt, the first one first."""
    return [f"attempt {number}: {_brief(error)}" for number, error in enumerate(earlier, 1)]


def _brief(error: SlurmFuturesError) -> str:
    """Return what happened, without what to do about it."""
    if isinstance(error, JobError):
        return error._what()
    return re.split(r": | \(its files", error.message.partition("\n")[0])[0]


def _with_tail(headline: str, tail: str) -> str:
    lines = tail.rstrip().splitlines()[-_TAIL_LINES:]
    return "\n".join([headline, *lines])
