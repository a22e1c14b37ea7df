"""The agent and its pipe: what happens when one of the two sides is not what it was."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import AgentError, SchedulerNotFound, SlurmExecutor, SlurmFuturesError
from slurmfutures._remote import wire
from tests import calls
from tests.fix_executors import AnyExecutor, OpenJobs
from tests.fix_gate import Gate
from tests.processes import lives, run_script
from tests.waiting import DEADLINE, until


def agent_of(executor: AnyExecutor) -> int:
    return int(executor._connection.greeting["pid"])


# ---- an agent that dies

ENDED = "the agent has ended|the agent's process was killed by SIGKILL"  # it may not have been reaped yet


@pytest.fixture
def pending(local: SlurmExecutor, gate: Gate) -> list[Future[Any]]:
    """Calls in all stages: running and waiting, as jobs and on the login node."""
    futures: list[Future[Any]] = [local.submit(calls.pass_gate, gate.folder) for _ in range(4)]
    futures += [local.login.submit(calls.pass_gate, gate.folder) for _ in range(4)]
    futures += [local.with_options(time=10).submit(calls.pass_gate, gate.folder)]
    gate.wait(4)
    return futures


def test_an_agent_that_is_killed_fails_all_that_is_pending(
    local: SlurmExecutor, pending: list[Future[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(agent_of(local), signal.SIGKILL)
    for future in pending:
        assert isinstance(future.exception(DEADLINE), AgentError)
    submits: list[Callable[[], Any]] = [
        lambda: local.submit(calls.square, 1),
        lambda: local.map(calls.square, [1]),
        lambda: local.login.submit(calls.square, 1),
        lambda: local.with_options(time=10).submit(calls.square, 1),
        lambda: local.run("true"),
    ]
    for submit in submits:
        with pytest.raises(AgentError, match=ENDED):
            submit()
    local.shutdown()
    assert re.search(ENDED, caplog.text)


def test_a_future_of_a_dead_agent_answers_all_questions(local: SlurmExecutor, pending: list[Future[Any]]) -> None:
    done = local.submit(calls.speak, "out", "err")
    os.kill(agent_of(local), signal.SIGKILL)
    for each in [*pending, done]:
        each.exception(DEADLINE)
        assert each.stdout() in ("", "out\n")  # type: ignore[attr-defined]
        assert each.state  # type: ignore[attr-defined]
        assert not each.cancel()


def test_callbacks_of_calls_that_an_agent_took_with_it_may_ask_for_output(
    local: SlurmExecutor, pending: list[Future[Any]]
) -> None:
    seen: list[str] = []
    for future in pending:
        future.add_done_callback(lambda done: seen.append(done.stdout()))  # type: ignore[attr-defined]
    os.kill(agent_of(local), signal.SIGKILL)
    until(lambda: len(seen) == len(pending))


def test_a_run_that_an_agent_took_with_it_fails(local: SlurmExecutor, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            local.run(f"touch '{tmp_path}/there'; sleep 60")
        except AgentError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until((tmp_path / "there").exists)
    os.kill(agent_of(local), signal.SIGKILL)
    thread.join(DEADLINE)
    assert len(errors) == 1


def test_an_agent_ends_when_its_driver_is_killed(work_dir: Path, tmp_path: Path) -> None:
    text = (
        "import os, sys, signal\n"
        "from slurmfutures import SlurmExecutor\n"
        "from tests import calls\n"
        "executor = SlurmExecutor(scheduler='local', work_dir=sys.argv[1])\n"
        "executor.submit(calls.pass_gate, sys.argv[2])\n"
        "future = executor.login.submit(calls.pass_gate_with_a_child, sys.argv[2])\n"
        "calls.wait_for_files(sys.argv[2] + '/entered', 2)\n"
        "print(executor._connection.greeting['pid'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    gate = Gate(tmp_path / "gate")
    done = run_script(tmp_path / "driver.py", text, work_dir, gate.folder)
    assert done.returncode == -signal.SIGKILL
    agent = int(done.stdout)
    until(lambda: not lives(agent))
    gate.open()


def stdout_of_agent(executor: SlurmExecutor) -> Path:
    """Return the agent's end of the pipe, for those who write there uninvited."""
    pipe = os.readlink(f"/proc/self/fd/{executor._connection.poller.link.readable()}")
    descriptors = Path(f"/proc/{agent_of(executor)}/fd")
    (writing,) = (path for path in descriptors.iterdir() if os.readlink(path) == pipe)
    return writing


def test_what_others_write_into_the_agent_s_pipe_is_passed_over(local: SlurmExecutor) -> None:
    pipe = stdout_of_agent(local)
    for number in range(20):
        pipe.write_bytes(b"You have new mail.\n" + bytes(number))
        assert local.submit(calls.square, number).result(DEADLINE) == number**2
        assert local.login.submit(calls.square, number).result(DEADLINE) == number**2


def test_a_message_that_cannot_be_understood_leaves_no_future_pending(
    local: SlurmExecutor, pending: list[Future[Any]]
) -> None:
    started = local._connection.poller.link._started
    assert started is not None
    stdout_of_agent(local).write_bytes(wire.enveloped(started.opener._sync, b"Segmentation fault (core dumped)"))
    for future in pending:
        assert isinstance(future.exception(DEADLINE), AgentError)
    with pytest.raises(AgentError, match="cannot be understood: not a frame: b'Segm"):
        local.submit(calls.square, 1)


# ---- forks


@pytest.fixture
def _forks() -> Any:
    with warnings.catch_warnings():
        # Since 3.12 about fork() while there are threads: that is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.usefixtures("_forks")
def test_a_forked_child_cannot_submit_and_the_parent_can(local: SlurmExecutor) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for submit in (local.submit, local.login.submit, local.map):
            try:
                submit(calls.square, [2])  # type: ignore[arg-type]
            except BaseException as error:
                said.append(f"{type(error).__name__}: {error}")
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as pipe:
        said = pipe.read().splitlines()
    refusal = "RuntimeError: this executor belongs to the parent process: make one of your own after fork()"
    assert said == [refusal] * 3
    assert local.submit(calls.square, 2).result(DEADLINE) == 4


@pytest.mark.usefixtures("_forks")
def test_a_forked_child_ends_without_ending_its_parent_s_executor(local: SlurmExecutor, gate: Gate) -> None:
    future = local.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    child = multiprocessing.get_context("fork").Process(target=local.shutdown)
    child.start()
    child.join(DEADLINE)
    assert child.exitcode == 0
    gate.open()
    assert future.result(DEADLINE) == "done"
    assert local.submit(calls.square, 2).result(DEADLINE) == 4


@pytest.mark.usefixtures("_forks")
def test_the_agent_ends_with_its_executor_while_a_forked_child_lives(local: SlurmExecutor) -> None:
    agent = agent_of(local)
    local.login.submit(calls.square, 2).result(DEADLINE)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        local.shutdown()
        assert not lives(agent)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# ---- many threads


def test_wake_ups_from_many_threads_are_not_lost(local: SlurmExecutor) -> None:
    def work() -> None:
        for _ in range(200):
            local.submit(calls.square, 1).cancel()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert local.submit(calls.square, 2).result(DEADLINE) == 4


# ---- an agent that cannot start


def test_without_slurm_the_error_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SchedulerNotFound, match='scheduler="local"') as caught:
        SlurmExecutor(work_dir=tmp_path / "work", python=f"'{sys.executable}'")
    assert "\n" not in str(caught.value)


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="no-such-python") as caught:
        SlurmExecutor(scheduler="local", work_dir=tmp_path, python="no-such-python")
    assert "not found" in str(caught.value)


def test_a_setup_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="module: command not found"):
        SlurmExecutor(scheduler="local", work_dir=tmp_path, setup="module load gcc || exit 1")


def test_what_setup_prints_is_passed_over(tmp_path: Path) -> None:
    setup = "echo 'Welcome to the cluster'; echo slurmfutures:0: 3.99.0 1; printf '\\xff\\x00no newline'"
    with SlurmExecutor(scheduler="local", work_dir=tmp_path, setup=setup) as executor:
        assert executor.submit(calls.square, 2).result(DEADLINE) == 4
        assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9


def test_a_work_dir_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlurmFuturesError, match=r"cannot be used: .*Not a directory"):
        SlurmExecutor(scheduler="local", work_dir=tmp_path / "file/work")
    SlurmExecutor(scheduler="local", work_dir=tmp_path / "good").shutdown()
    (tmp_path / "other").touch()
    with pytest.raises(SlurmFuturesError, match=r"other on \S+ cannot be used"):
        SlurmExecutor(scheduler="local", work_dir=tmp_path / "other")


@pytest.mark.parametrize("scheduler", ["pbs", "", None])
def test_an_unknown_scheduler_is_refused(scheduler: Any) -> None:
    with pytest.raises(ValueError, match="is not known: it is 'slurm' or 'local'"):
        SlurmExecutor(scheduler=scheduler)


def test_variables_of_an_outer_job_do_not_reach_ours(open_jobs: OpenJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "77")
    monkeypatch.setenv("SLURM_CPU_BIND", "quiet")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    future = open_jobs().submit(lambda: dict(__import__("os").environ))
    variables = future.result(DEADLINE)
    assert variables["SLURM_JOB_ID"] == future.job_id
    assert "SLURM_ARRAY_TASK_ID" not in variables
    assert "SLURM_CPU_BIND" not in variables


def test_our_own_variables_do_not_reach_the_calls(local: SlurmExecutor) -> None:
    for executor in (local, local.login):
        variables = executor.submit(lambda: dict(__import__("os").environ)).result(DEADLINE)
        assert not [name for name in variables if name.startswith("SLURMFUTURES")]
