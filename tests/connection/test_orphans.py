"""Embedded jobs whose agent is killed by force: they run on, once, and the next agent waits for them."""

import os
import signal
from pathlib import Path

import pytest

from slurmfutures import JobFailed, SlurmExecutor
from tests import calls
from tests.connection.lines import agent_of, until_connected_again
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


@pytest.fixture(params=["paramiko", "openssh"])
def executor(request: pytest.FixtureRequest, opener: Opener) -> SlurmExecutor:
    """One on a login node far away, that runs one job at once."""
    return opener.root(request.param, max_workers=1)


def kill_agent(executor: SlurmExecutor) -> None:
    agent = agent_of(executor)
    os.kill(agent, signal.SIGKILL)
    until_connected_again(executor, agent)


def test_a_running_call_and_one_that_waits_run_once(executor: SlurmExecutor, gate: Gate, tmp_path: Path) -> None:
    running = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    waiting = executor.submit(calls.append_and_square, str(tmp_path / "written"), 3)
    until(lambda: waiting.job_id)
    for _ in range(2):
        kill_agent(executor)
        assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9  # it has looked at its batches
        assert not running.done()
        assert not (tmp_path / "written").exists()  # there is room for one
    gate.open()
    assert running.result(DEADLINE) == "done"
    assert waiting.result(DEADLINE) == 9
    assert len(gate.entered()) == 1
    assert (tmp_path / "written").read_text() == "3\n"


def test_of_a_chunk_that_runs_on_all_results_come(executor: SlurmExecutor, gate: Gate, tmp_path: Path) -> None:
    path = str(tmp_path / "written")
    results = executor.map(calls.leave_once_at_one, [path] * 3, [gate.folder] * 3, [0, 5, 2], chunksize=3)
    assert next(results) == 0
    kill_agent(executor)
    gate.open()
    assert list(results) == [5, 2]
    assert (tmp_path / "written").read_text().split() == ["0", "5", "2"]


def test_how_one_ends_without_a_result_is_told(executor: SlurmExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate_and_exit, gate.folder, 3)
    gate.wait()
    kill_agent(executor)
    gate.open()
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert error.exit_code == 3
    assert len(gate.entered()) == 1


def test_one_can_be_cancelled(executor: SlurmExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate_with_a_child, gate.folder)
    (child,) = gate.wait()
    kill_agent(executor)
    assert future.cancel()
    until(lambda: not lives(int(child)), DEADLINE / 3)  # before it ends by itself
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9


def test_they_end_with_the_executor(executor: SlurmExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate_with_a_child, gate.folder)
    (child,) = gate.wait()
    kill_agent(executor)
    assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9  # it has looked at its batches
    agent = agent_of(executor)
    os.kill(agent, signal.SIGTERM)
    until(lambda: not lives(int(child)), DEADLINE / 3)  # before it ends by itself
    until_connected_again(executor, agent)
    assert isinstance(future.exception(DEADLINE), JobFailed)
