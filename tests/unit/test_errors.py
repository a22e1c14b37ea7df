import concurrent.futures
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slurmfutures import _errors
from slurmfutures._errors import (
    AgentError,
    AuthenticationError,
    CheckpointCorrupt,
    CheckpointLocked,
    ConnectionLost,
    HostKeyError,
    HostUnreachable,
    InitializerError,
    JobCancelled,
    JobError,
    JobFailed,
    JobOutOfMemory,
    JobPreempted,
    JobTimeout,
    NodeFailed,
    PayloadError,
    PilotsBroken,
    PythonMismatch,
    RemoteImportError,
    RemoteTraceback,
    ResultLost,
    SchedulerNotFound,
    SlurmFuturesError,
    SubmitError,
    job_error,
)
from slurmfutures._remote.states import TERMINAL, JobState

DIED: dict[str, Any] = {
    "job_id": "12_3",
    "state": JobState.FAILED,
    "exit_code": 3,
    "signal": None,
    "node": "n1",
    "reason": "",
    "stderr_tail": "Traceback\nBoom\n",
    "where": "/scratch/sf/batches/ab",
}

EXAMPLES = [
    SlurmFuturesError("work_dir /x cannot be used: Permission denied"),
    ConnectionLost("login.example", "Connection reset by peer"),
    HostUnreachable("me@login.example", "port 22 of login.example: Connection refused", "check host and port"),
    AuthenticationError("me@login.example", ["publickey (~/.ssh/id)"], ["publickey", "password"]),
    HostKeyError("login.example", "ED25519 SHA256:abc"),
    HostKeyError("login.example", "ED25519 SHA256:abc", "ED25519 SHA256:def", "/home/me/.ssh/known_hosts"),
    AgentError("the agent could not start on login.example", "bash: python3: command not found\n"),
    PythonMismatch("Python 3.6 on login.example is older than 3.8: name another one by python="),
    SchedulerNotFound("sbatch was not found on login.example"),
    SubmitError("Invalid partition name specified", options=("--partition=nope", "--time=1")),
    PayloadError("the function 'f' cannot be pickled: no"),
    InitializerError("the initializer raised ValueError: no, on node n1"),
    PilotsBroken("no job is accepted: Invalid partition specified"),
    CheckpointLocked("sweep.ckpt", "process 7 on laptop"),
    CheckpointCorrupt("sweep.ckpt", "record 3 is damaged"),
    ResultLost("job 12 is done but has left no result of this call"),
    RemoteImportError("No module named 'a.b'", job_id="12", node="n1", python="/usr/bin/python3", module="a.b"),
    *(kind(**DIED) for kind in (JobError, JobFailed, JobTimeout, JobOutOfMemory, JobPreempted, NodeFailed)),
    JobCancelled(**DIED, cancelled_by="root", started=False),
]


def kinds(base: type[SlurmFuturesError] = SlurmFuturesError) -> Iterator[type[SlurmFuturesError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


def test_every_class_has_an_example_here() -> None:
    assert {type(error) for error in EXAMPLES} == set(kinds())


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {
        line.split()[0].strip()
        for line in _errors.__doc__.replace("├─", "").replace("└─", "").replace("│", "").splitlines()
        if line.startswith("    ")
    }
    assert {kind.__name__ for kind in kinds()} <= drawn


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
@pytest.mark.parametrize("through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_survive_pickling_and_copying_whole(
    error: SlurmFuturesError, through: Callable[[SlurmFuturesError], SlurmFuturesError]
) -> None:
    error = copy.copy(error)
    vars(error)["__notes__"] = ["a note"]  # as `add_note` does from Python 3.11 on
    again = through(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(again) == repr(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_any_pickle_protocol_will_do(protocol: int) -> None:
    for error in EXAMPLES:
        assert str(pickle.loads(pickle.dumps(error, protocol))) == str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_messages_begin_with_one_line_that_tells_it(error: SlurmFuturesError) -> None:
    first = str(error).splitlines()[0]
    assert len(first) > 20
    assert "None" not in first


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (JobTimeout, TimeoutError),
        (JobOutOfMemory, MemoryError),
        (RemoteImportError, ImportError),
        (PayloadError, pickle.PickleError),
        (PilotsBroken, concurrent.futures.BrokenExecutor),
        (InitializerError, concurrent.futures.BrokenExecutor),
        (RemoteImportError, JobFailed),
        (JobFailed, JobError),
    ],
)
def test_errors_are_also_what_python_calls_them(kind: type[BaseException], base: type[BaseException]) -> None:
    assert issubclass(kind, base)


def test_a_job_that_was_cancelled_by_others_is_no_cancelled_future() -> None:
    assert not issubclass(JobCancelled, concurrent.futures.CancelledError)
    assert issubclass(JobCancelled, Exception)


def test_transient_says_whether_another_try_may_help() -> None:
    transient = {kind for kind in kinds() if kind.transient}
    assert transient == {
        ConnectionLost,
        HostUnreachable,
        AgentError,
        CheckpointLocked,
        ResultLost,
        JobPreempted,
        NodeFailed,
    }


# ---- messages


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            JobFailed(**DIED),
            "job 12_3 failed with exit code 3 on node n1 (its files: /scratch/sf/batches/ab)\nTraceback\nBoom",
        ),
        (JobFailed("12", JobState.FAILED, signal=11, node="n1"), "job 12 was killed by SIGSEGV on node n1"),
        (
            JobFailed("12", JobState.FAILED, signal=9, node="n1"),
            "job 12 was killed by SIGKILL on node n1: nobody says who did that; a memory limit is the usual one",
        ),
        (JobFailed("12"), "job 12 ended, and Slurm has no record of how"),
        (JobFailed("12", JobState.COMPLETED, 0), "job 12 ended as COMPLETED without a result"),
        (
            JobFailed("12", JobState.FAILED, 1, reason="NonZeroExitCode"),
            "job 12 failed with exit code 1",
        ),
        (
            JobFailed("12", JobState.FAILED, 1, reason="some plugin's words"),
            "job 12 failed with exit code 1, some plugin's words",
        ),
        (
            JobFailed(None, JobState.FAILED, signal=6, node="the login node", stderr_tail="abort"),
            "the call was killed by SIGABRT on the login node\nabort",
        ),
        (
            JobTimeout("12", JobState.TIMEOUT, node="n1", reason="TimeLimit"),
            "job 12 was ended at its time limit on node n1: ask for more time=, or give each job fewer calls",
        ),
        (JobTimeout("12", JobState.DEADLINE), "job 12 missed its deadline"),
        (
            JobOutOfMemory("12", JobState.OUT_OF_MEMORY, signal=125, node="n1"),
            "job 12 ran out of memory on node n1: ask for more mem=",
        ),
        (
            NodeFailed("12", JobState.NODE_FAIL, node="n1"),
            "job 12 ended because its node failed on node n1: submit it again, or have that done by retries=",
        ),
        (
            JobCancelled("12", JobState.CANCELLED, cancelled_by="alice", started=False),
            "job 12 was cancelled by alice before it started",
        ),
        (JobCancelled("12", JobState.CANCELLED, node="n1"), "job 12 was cancelled on node n1"),
        (
            RemoteImportError("No module named 'a.b'", job_id="12", node="n1", python="/usr/bin/python3", module="a.b"),
            (
                "No module named 'a.b' on node n1 (/usr/bin/python3, job 12): "
                "send it along by ship='a' or cloudpickle.register_pickle_by_value(a), or install it there"
            ),
        ),
        (
            RemoteImportError("Can't get attribute 'f' on <module 'a'>", node="n1", python="/usr/bin/python3"),
            (
                "Can't get attribute 'f' on <module 'a'> on node n1 (/usr/bin/python3): "
                "another version is there, send yours along by ship= or cloudpickle.register_pickle_by_value()"
            ),
        ),
        (
            SubmitError("Invalid qos specification", options=["--qos=x"]),
            "the job was not submitted: Invalid qos specification (options: --qos=x)",
        ),
        (
            AgentError("the agent could not start on login", "bash: python3: not found\n"),
            "the agent could not start on login\nbash: python3: not found",
        ),
        (
            SchedulerNotFound("sbatch was not found on vm"),
            (
                "sbatch was not found on vm: name a login node as host, have setup= make Slurm available, "
                'or use scheduler="local" to run the jobs without it'
            ),
        ),
    ],
)
def test_a_message_says_what_where_why_and_what_to_do(error: SlurmFuturesError, message: str) -> None:
    assert str(error) == message


def test_only_the_end_of_a_long_stderr_is_told() -> None:
    lines = [f"line {number}" for number in range(1000)]
    told = str(JobFailed("1", JobState.FAILED, 1, stderr_tail="\n".join(lines) + "\n\n")).splitlines()
    assert told[1:] == lines[-20:]


def test_a_changed_host_key_is_told_apart_from_an_unknown_one() -> None:
    unknown, changed = (str(error) for error in EXAMPLES if isinstance(error, HostKeyError))
    assert "is not in ~/.ssh/known_hosts" in unknown
    assert "has changed" in changed
    assert "ssh-keygen -R login.example" in changed


def test_the_job_id_may_be_learnt_later() -> None:
    error = RemoteImportError("No module named 'a'", node="n1", module="a")
    assert "job" not in str(error)
    error.job_id = "12"
    assert "job 12" in str(error)
    assert error.name == "a"


def test_the_remote_traceback_shows_as_the_cause_s_text() -> None:
    cause = RemoteTraceback("Traceback (most recent call last):\nValueError: no\n")
    assert str(cause) == '\n"""\nTraceback (most recent call last):\nValueError: no\n"""'
    assert str(pickle.loads(pickle.dumps(cause))) == str(cause)


# ---- from the agent's record to the error

RECORD = {
    "task": 3,
    "job_id": "12_3",
    "state": "FAILED",
    "exit_code": 3,
    "signal": None,
    "node": "n1",
    "reason": "NonZeroExitCode",
    "cancelled_by": "",
    "start": "2026-11-23T13:14:11",
    "end": "2026-11-23T13:14:16",
    "stderr": "Boom\n",
    "where": "/scratch/sf/batches/ab",
}


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("FAILED", JobFailed),
        ("COMPLETED", JobFailed),
        (None, JobFailed),
        ("A_NEW_STATE", JobFailed),
        ("TIMEOUT", JobTimeout),
        ("DEADLINE", JobTimeout),
        ("OUT_OF_MEMORY", JobOutOfMemory),
        ("PREEMPTED", JobPreempted),
        ("NODE_FAIL", NodeFailed),
        ("BOOT_FAIL", NodeFailed),
        ("CANCELLED", JobCancelled),
    ],
)
def test_the_state_makes_the_class(state: str | None, kind: type[JobError]) -> None:
    error = job_error({**RECORD, "state": state})
    assert type(error) is kind
    assert error.job_id == "12_3"
    assert error.exit_code == 3
    assert error.node == "n1"
    assert error.stderr_tail == "Boom\n"
    assert error.where == "/scratch/sf/batches/ab"


def test_every_terminal_state_has_a_class_of_its_own_but_for_the_plain_ones() -> None:
    plain = {state for state in TERMINAL if type(job_error({"state": state})) is JobFailed}
    assert plain == {JobState.FAILED, JobState.COMPLETED}


@pytest.mark.parametrize(
    "stderr",
    [
        "slurmstepd: error: Exceeded job memory limit\n",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5.batch.\n",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=5.batch. Some of the tasks have been OOM Killed.\n",
        "slurmstepd: error: Job 5 exceeded memory limit (2 > 1)\nslurmstepd: error: Exceeded job memory limit\n",
    ],
)
@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", None])
def test_running_out_of_memory_is_seen_however_a_site_ends_it(state: str | None, stderr: str) -> None:
    assert type(job_error({**RECORD, "state": state, "stderr": stderr})) is JobOutOfMemory


@pytest.mark.parametrize("state", ["TIMEOUT", "PREEMPTED", "NODE_FAIL"])
def test_a_clearer_state_beats_the_words_on_stderr(state: str) -> None:
    error = job_error({**RECORD, "state": state, "stderr": "slurmstepd: error: Detected 1 oom_kill event\n"})
    assert not isinstance(error, JobOutOfMemory)


@pytest.mark.parametrize(
    ("code", "stderr", "program"),
    [
        (127, "/var/spool/slurmd/job5/slurm_script: line 44: python3.99: command not found\n", "python3.99"),
        (
            127,
            "/var/spool/slurmd/job5/slurm_script: line 44: /opt/py/bin/python: No such file or directory\n",
            "/opt/py",
        ),
        (126, "/var/spool/slurmd/job5/slurm_script: line 44: /opt/py/bin/python: Permission denied\n", "/opt/py"),
        (127, "x: line 3: module: command not found\nx: line 44: exec: python9: not found\n", "python9"),
    ],
)
def test_a_missing_interpreter_is_named_with_the_keyword_that_changes_it(code: int, stderr: str, program: str) -> None:
    error = job_error({**RECORD, "exit_code": code, "stderr": stderr})
    assert type(error) is JobFailed
    assert program in str(error).splitlines()[0]
    assert "python=" in str(error).splitlines()[0]


def test_exit_code_127_alone_is_only_an_exit_code() -> None:
    assert "python=" not in str(job_error({**RECORD, "exit_code": 127, "stderr": "not found: x\n"}))


def test_who_cancelled_a_job_is_told() -> None:
    error = job_error({**RECORD, "state": "CANCELLED", "cancelled_by": "alice", "exit_code": 0})
    assert str(error).startswith("job 12_3 was cancelled by alice on node n1")


def test_a_dead_worker_on_the_login_node_is_a_job_error_without_a_job() -> None:
    error = job_error({"job_id": None, "state": "FAILED", "signal": 11, "node": "the login node", "stderr": ""})
    assert str(error) == "the call was killed by SIGSEGV on the login node"
    assert error.state is JobState.FAILED


def test_an_empty_record_is_an_error_too() -> None:
    assert str(job_error({})) == "the call ended, and Slurm has no record of how"
