"""Processes of pilots: none outlives what it is for, wherever it is in a call."""

import os
import signal
from pathlib import Path

from slurmfutures import AgentError, JobFailed, SlurmExecutor
from tests import calls
from tests.connection.lines import agent_of
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_embedded_ones_end_with_their_agent(local: SlurmExecutor, gate: Gate) -> None:
    pilots = local.pilots(workers=1)
    future = pilots.submit(calls.pass_gate_with_a_child, gate.folder)
    (child,) = gate.wait()
    (worker,) = until(lambda: pilots.workers)
    os.kill(agent_of(local), signal.SIGTERM)
    until(lambda: not lives(int(child)) and not lives(worker.pid), DEADLINE / 3)  # before they end by themselves
    assert isinstance(future.exception(DEADLINE), AgentError)


def test_workers_end_with_their_pilot(local: SlurmExecutor, gate: Gate) -> None:
    pilots = local.pilots(workers=1)
    future = pilots.submit(calls.pass_gate, gate.folder)
    gate.wait()
    (worker,) = until(lambda: pilots.workers)
    os.kill(parent_of(worker.pid), signal.SIGKILL)
    until(lambda: not lives(worker.pid), DEADLINE / 3)
    assert isinstance(future.exception(DEADLINE), JobFailed)
