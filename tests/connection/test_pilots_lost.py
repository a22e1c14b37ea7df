"""Link, agent or driver of pilots is lost: they finish what they run, keep the results, and find the next agent."""

from pathlib import Path

import pytest

from slurmfutures import PilotsExecutor, SlurmExecutor
from tests import calls
from tests.connection.lines import Line, agent_of, until_connected_again
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def warmed_up(pilots: PilotsExecutor, workers: int) -> set[str]:
    """Return the jobs of all workers once they are there."""
    return until(lambda: len(found := pilots.workers) == workers and {worker.job_id for worker in found}) or set()


# ---- a link that is down


def test_results_that_came_meanwhile_arrive_after(executor: SlurmExecutor, line: Line, gate: Gate) -> None:
    with executor.pilots(workers=2) as pilots:
        futures = [pilots.submit(calls.pass_gate, gate.folder, number) for number in range(2)]
        gate.wait(2)
        jobs = warmed_up(pilots, 2)
        line.down()
        gate.open()
        late = pilots.submit(calls.square, 7)
        line.up()
        assert [future.result(DEADLINE) for future in futures] == [0, 1]
        assert late.result(DEADLINE) == 49
        assert {worker.job_id for worker in pilots.workers} <= jobs
        assert len(gate.entered()) == 2


def test_calls_run_once_however_often_it_breaks(executor: SlurmExecutor, line: Line, tmp_path: Path) -> None:
    path = tmp_path / "written"
    with executor.pilots(workers=4, workers_per_job=2) as pilots:
        pilots.submit(calls.square, 1).result(DEADLINE)
        futures = []
        for number in range(1000):
            futures.append(pilots.submit(calls.append_and_square, str(path), number))
            if number % 250 == 249:
                agent = agent_of(executor)
                line.cut()
                until_connected_again(executor, agent)
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(1000)]
    assert sorted(map(int, lines(path))) == list(range(1000))


def test_what_is_cancelled_meanwhile_is_ended_or_never_runs(
    executor: SlurmExecutor, line: Line, gate: Gate, tmp_path: Path
) -> None:
    with executor.pilots(workers=1) as pilots:
        running = pilots.submit(calls.pass_gate_with_a_child, gate.folder)
        (child,) = gate.wait()
        waiting = pilots.submit(calls.append_and_square, str(tmp_path / "written"), 3)
        line.down()
        assert running.cancel()
        assert waiting.cancel()
        line.up()
        assert pilots.submit(calls.square, 3).result(DEADLINE) == 9
        until(lambda: not lives(int(child)), DEADLINE / 3)  # before it ends by itself
    assert not (tmp_path / "written").exists()
