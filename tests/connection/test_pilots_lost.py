"""Link, agent or driver of pilots is lost: they finish what they run, keep the results, and find the next agent."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import JobCancelled, JobError, JobFailed, PilotsExecutor, SlurmExecutor, _poller
from tests import calls
from tests.cluster import Cluster
from tests.connection.lines import Line, agent_of, until_connected_again
from tests.drivers import Driver
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
HERE = pytest.mark.parametrize("line", ["here"], indirect=True)
HERE_AND_FAR = pytest.mark.parametrize("line", ["here", "paramiko"], indirect=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def jobs_of(pilots: PilotsExecutor, workers: int) -> set[str]:
    """Return the jobs of all workers, once there are so many of these."""
    return until(lambda: len(found := pilots.workers) == workers and {worker.job_id for worker in found}) or set()


# ---- an agent, or the way to it


@HERE_AND_FAR
def test_results_that_came_meanwhile_arrive_after(executor: SlurmExecutor, line: Line, gate: Gate) -> None:
    with executor.pilots(workers=2) as pilots:
        futures = [pilots.submit(calls.pass_gate, gate.folder, number) for number in range(2)]
        gate.wait(2)
        jobs = jobs_of(pilots, 2)
        line.down()
        gate.open()
        late = pilots.submit(calls.square, 7)
        line.up()
        assert [future.result(DEADLINE) for future in futures] == [0, 1]
        assert late.result(DEADLINE) == 49
        assert jobs_of(pilots, 2) == jobs
    assert len(gate.entered()) == 2


@HERE_AND_FAR
def test_calls_run_once_however_often_it_breaks(
    executor: SlurmExecutor, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_poller, "MOST_WAIT", 0.5)  # what keeps breaking is waited for, up to a minute
    path = tmp_path / "written"
    with executor.pilots(workers=4, workers_per_job=2) as pilots:
        pilots.submit(calls.square, 1).result(DEADLINE)
        futures = []
        for number in range(600):
            futures.append(pilots.submit(calls.append_and_square, str(path), number))
            if number % 200 == 199:
                agent = agent_of(executor)
                line.cut()
                until_connected_again(executor, agent)
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(600)]
    assert sorted(map(int, lines(path))) == list(range(600))


@HERE_AND_FAR
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


@HERE
@pytest.mark.parametrize("retries", [0, 1])
def test_a_pilot_that_is_killed_meanwhile_takes_its_call_along_and_no_other(
    executor: SlurmExecutor, line: Line, gate: Gate, retries: int
) -> None:
    with executor.pilots(workers=2, retries=retries) as pilots:
        futures = [pilots.submit(calls.pass_gate_in, gate.folder, number) for number in range(2)]
        processes = {number: int(process) for number, process in map(str.split, gate.wait(2))}
        line.down()
        kill_pilot_of(processes["0"])
        gate.open()
        line.up()
        assert futures[1].result(DEADLINE) == 1
        error = futures[0].exception(DEADLINE)
        if retries:
            assert error is None
        else:
            assert isinstance(error, JobError)
            assert error.job_id
        assert pilots.submit(calls.square, 3).result(DEADLINE) == 9
    assert len(gate.entered()) == 2 + retries


def kill_pilot_of(worker: int) -> None:
    """Kill the process that has started a worker, and wait until that is gone too."""
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    until(lambda: not lives(worker))


@HERE
def test_a_pilot_that_is_cancelled_meanwhile_leaves_what_it_had(
    executor: SlurmExecutor, line: Line, gate: Gate, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    (tmp_path / "shut/entered").mkdir(parents=True)
    with executor.pilots(workers=2, workers_per_job=2) as pilots:
        done = pilots.submit(calls.pass_gate_and_append, gate.folder, str(path), 1)
        never = pilots.submit(calls.pass_gate, str(tmp_path / "shut"))
        gate.wait()
        until(lambda: list((tmp_path / "shut/entered").iterdir()))
        (job,) = jobs_of(pilots, 2)
        line.down()
        gate.open()
        until(lambda: lines(path))
        cluster.run("scancel", job)
        until(lambda: job not in cluster.run("squeue", "--noheader", "--array", "--format=%i"))
        line.up()
        assert done.result(DEADLINE) == 1
        with pytest.raises(JobCancelled):
            never.result(DEADLINE)
        assert pilots.submit(calls.square, 3).result(DEADLINE) == 9
    assert lines(path) == ["1"]


@HERE
def test_a_pool_that_is_closed_meanwhile_leaves_no_job(
    line: Line, gate: Gate, cluster: Cluster, tmp_path: Path
) -> None:
    executor = line.open(work_dir=tmp_path / "work")
    pilots = executor.pilots(workers=2)
    future = pilots.submit(calls.pass_gate, gate.folder)
    gate.wait()
    line.down()
    future.cancel()
    pilots.shutdown(wait=False)
    line.up()
    until(lambda: str(tmp_path) not in cluster.run("squeue", "--noheader", "--format=%Z %o"))
    until(lambda: list((tmp_path / "work/pilots").glob("*/*")) == [])


# ---- what stands still, and goes on


def stands_still(process: int) -> bool:
    """Whether a process is stopped, or frozen."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "TD"


@HERE
@pytest.mark.slow
def test_a_suspended_pilot_loses_no_call_and_runs_none_twice(
    executor: SlurmExecutor, gate: Gate, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "slurmfutures.pilots")
    path = tmp_path / "written"
    with executor.pilots(workers=2, workers_per_job=2) as pilots:
        futures = [pilots.submit(calls.pass_gate_and_append, gate.folder, str(path), number) for number in range(4)]
        gate.wait(2)
        (job,) = jobs_of(pilots, 2)
        workers = [worker.pid for worker in pilots.workers]
        cluster.run("scontrol", "suspend", job.partition("_")[0])
        until(lambda: all(stands_still(worker) for worker in workers))  # slurmd takes its time
        gate.open()
        futures.append(pilots.submit(calls.pass_gate_and_append, gate.folder, str(path), 4))
        until(lambda: "nothing was heard for" in caplog.text)
        assert lines(path) == []
        cluster.run("scontrol", "resume", job.partition("_")[0])
        assert [future.result(DEADLINE) for future in futures] == [0, 1, 2, 3, 4]
    assert sorted(map(int, lines(path))) == [0, 1, 2, 3, 4]


@HERE
@pytest.mark.slow
def test_an_agent_that_is_stopped_for_long_is_found_again(line: Line, gate: Gate, tmp_path: Path) -> None:
    executor = line.open(work_dir=tmp_path / "work")
    path = tmp_path / "written"
    with executor.pilots(workers=2, workers_per_job=2) as pilots:
        futures = [pilots.submit(calls.pass_gate_and_append, gate.folder, str(path), number) for number in range(4)]
        gate.wait(2)
        agent = agent_of(executor)
        os.kill(agent, signal.SIGSTOP)
        try:
            gate.open()
            logs = (tmp_path / "work").glob
            until(lambda: any("nothing was heard for" in log.read_text() for log in logs("batches/*/*/l/*.err")))
        finally:
            os.kill(agent, signal.SIGCONT)
        assert [future.result(DEADLINE) for future in futures] == [0, 1, 2, 3]
        assert agent_of(executor) == agent
    assert sorted(map(int, lines(path))) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_pilots_of_the_embedded_scheduler_end_with_an_agent_that_is_not_killed_by_force(
    opener: Opener, gate: Gate, how: signal.Signals
) -> None:
    executor = opener.root("paramiko")
    with executor.pilots(workers=2) as pilots:
        futures = [pilots.submit(calls.pass_gate, gate.folder, number) for number in range(2)]
        gate.wait(2)
        agent = agent_of(executor)
        os.kill(agent, how)
        until_connected_again(executor, agent)
        gate.open()
        errors = [future.exception(DEADLINE) for future in futures]
        if how is signal.SIGKILL:
            assert errors == [None, None]
        else:
            assert all(isinstance(error, JobFailed) for error in errors)
        assert pilots.submit(calls.square, 3).result(DEADLINE) == 9
    assert len(gate.entered()) == 2


# ---- a driver that is killed

SWEEP = """
folder, path, count = arguments
executor = SlurmExecutor(**options)
pilots = executor.pilots(workers=2, idle_timeout=IDLE)
futures = [pilots.submit(calls.pass_gate_and_append, folder, path, number) for number in range(count)]
tell("submitted")
results = [future.result() for future in futures]
assert results == list(range(count)), results
tell(" ".join(sorted({worker.job_id for worker in pilots.workers})))
executor.shutdown()
"""


@pytest.fixture
def sweep(opener: Opener, cluster: Cluster, gate: Gate, tmp_path: Path, request: pytest.FixtureRequest) -> "Sweep":
    return Sweep(opener, cluster, gate, tmp_path, request)


class Sweep:
    """A driver of calls that wait at the gate, two at a time, and what it has on the cluster."""

    def __init__(
        self, opener: Opener, cluster: Cluster, gate: Gate, folder: Path, request: pytest.FixtureRequest
    ) -> None:
        self._opener = opener
        self._cluster = cluster
        self._gate = gate
        self._folder = folder
        self._request = request
        self._path = folder / "written"

    def start(self, count: int = 3, *, idle: float = 60.0, **options: Any) -> Driver:
        options = self._opener.options("slurm", work_dir=self._folder / "work", **options)
        text = SWEEP.replace("IDLE", repr(idle))
        driver = Driver(self._folder / "driver.py", text, options, self._gate.folder, self._path, count)
        self._request.addfinalizer(driver.stop)
        driver.wait_for("submitted")
        return driver

    def queue(self) -> set[str]:
        """Return the jobs that are not over."""
        rows = self._cluster.run("squeue", "--noheader", "--array", "--format=%i %o").splitlines()
        return {row.split()[0] for row in rows if str(self._folder) in row}

    def ran(self) -> list[int]:
        """Return the calls that have passed the gate, a number for each time."""
        return sorted(map(int, lines(self._path)))

    def pools(self) -> list[Path]:
        return list((self._folder / "work/pilots").glob("*/*"))


def test_a_killed_driver_finds_its_pilots_and_their_calls_again(sweep: Sweep, gate: Gate, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    first = sweep.start(checkpoint=checkpoint)
    gate.wait(2)
    jobs = sweep.queue()
    assert len(jobs) == 2
    first.kill()
    second = sweep.start(checkpoint=checkpoint)
    second.kill()
    gate.open()
    until(lambda: sweep.ran() >= [0, 1])
    third = sweep.start(checkpoint=checkpoint)
    assert third.end() == 0, third.complaints()
    assert set(third.said()[-1].split()) == jobs
    assert sweep.ran() == [0, 1, 2]
    assert len(gate.entered()) == 3
    assert sweep.pools() == []
    until(lambda: not sweep.queue())


def test_what_pilots_have_left_that_are_gone_is_found_too(sweep: Sweep, gate: Gate, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    first = sweep.start(checkpoint=checkpoint, idle=0.5)
    gate.wait(2)
    first.kill()
    gate.open()
    until(lambda: not sweep.queue())
    second = sweep.start(checkpoint=checkpoint, idle=0.5)
    assert second.end() == 0, second.complaints()
    assert sweep.ran() == [0, 1, 2]
    assert len(gate.entered()) == 3
    assert sweep.pools() == []


def test_calls_that_died_before_the_next_start_run_again(
    sweep: Sweep, gate: Gate, tmp_path: Path, cluster: Cluster
) -> None:
    checkpoint = tmp_path / "checkpoint"
    first = sweep.start(checkpoint=checkpoint)
    gate.wait(2)
    first.kill()
    cluster.run("scancel", *{job.partition("_")[0] for job in sweep.queue()})
    until(lambda: not sweep.queue())
    second = sweep.start(checkpoint=checkpoint)
    gate.open()
    assert second.end() == 0, second.complaints()
    assert sweep.ran() == [0, 1, 2]
    assert len(gate.entered()) == 5


def test_without_a_checkpoint_pilots_leave(sweep: Sweep, gate: Gate) -> None:
    driver = sweep.start(idle=0.5)
    gate.wait(2)
    driver.kill()
    assert len(sweep.queue()) == 2
    gate.open()
    until(lambda: not sweep.queue())
    assert sweep.ran() == [0, 1]
