"""What becomes of calls when their worker, their pilot or its job ends; how often each of them ran is counted.

A node that fails is in `test_deaths`. Those that take Slurm's own time need nothing of each other, so that they can
run side by side.
"""

import logging
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import (
    InitializerError,
    JobCancelled,
    JobError,
    JobFailed,
    JobOutOfMemory,
    JobPreempted,
    JobTimeout,
    PilotsBroken,
    PilotsExecutor,
    SlurmExecutor,
    SlurmFuture,
    SubmitError,
)
from slurmfutures._remote.states import JobState
from tests import calls
from tests.cluster import cgroups
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, submitted
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

LONG = 150.0  # seconds in which a job has come to any end
MUCH = {"mem": "3000M"}  # of a node: of two jobs with that, one has to make way

OpenPilots = Callable[..., PilotsExecutor]


@pytest.fixture(scope="module")
def root(open_for_all: OpenSlurm) -> SlurmExecutor:
    return open_for_all()


@pytest.fixture
def open_pilots(root: SlurmExecutor, queue: Queue) -> Iterator[OpenPilots]:
    """Open pilots; nothing of them is in the queue when they are closed."""
    opened: dict[str, PilotsExecutor] = {}

    def open_pilots(root: SlurmExecutor = root, **options: Any) -> PilotsExecutor:
        name = f"pilots-{uuid.uuid4().hex[:8]}"
        opened[name] = root.pilots(**{"workers": 1, "job_name": name, **options})
        return opened[name]

    yield open_pilots
    for pilots in opened.values():
        pilots.shutdown(cancel_futures=True)
    # Where one has left by itself, its script's last lines may still run.
    until(lambda: not [job for job in queue.active() if job.name.startswith(tuple(opened))], 10)


class Log:
    """What calls write down: a line each time that they run."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def lines(self) -> list[str]:
        path = Path(self.path)
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def submit(self, pilots: PilotsExecutor, line: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        return pilots.submit(work.counted, self.path, line, function, *arguments)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def died(future: SlurmFuture[Any], kind: type[JobError], seconds: float = 60.0) -> JobError:
    """Return the error of a call that ended with its worker or its job; it has to be of this very kind."""
    error = future.exception(seconds)
    assert type(error) is kind, repr(error)
    assert isinstance(error, JobError)
    assert error.job_id is not None
    assert error.job_id == future.job_id
    assert error.state is future.state
    assert str(error).startswith(f"job {error.job_id} ")
    return error


def job_of(pilots: PilotsExecutor) -> str:
    """Return the job that runs calls at the moment."""
    job_id: str = pilots.submit(work.place).result(LONG)[0]
    return job_id


# ---- a worker ends


def test_a_worker_that_dies_takes_its_call_along_and_no_other_one(open_pilots: OpenPilots, log: Log) -> None:
    ways: dict[str, tuple[Any, ...]] = {
        "was killed by SIGSEGV on node": (calls.crash,),
        "failed with exit code 3 on node": (calls.leave, 3),
        "its worker left by os._exit(0)": (calls.leave, 0),
        "was killed by SIGKILL on node": (calls.kill_self, int(signal.SIGKILL)),
        "was killed by SIGTERM on node": (calls.kill_self, int(signal.SIGTERM)),
    }
    pilots = open_pilots(workers=2, workers_per_job=2)
    job_id = job_of(pilots)
    victims, others = {}, []
    for said, way in ways.items():
        victims[said] = log.submit(pilots, said, *way)
        others += [log.submit(pilots, number, calls.identity, number) for number in range(10)]
    for said, future in victims.items():
        error = died(future, JobFailed)
        assert said in str(error)
        assert (error.state, error.job_id) == (JobState.FAILED, job_id)
        assert (error.exit_code is None) == (error.signal_name in ("SIGSEGV", "SIGKILL", "SIGTERM"))
        assert error.node
    assert [future.result(60) for future in others] == [*range(10)] * len(ways)
    assert log.lines() == sorted([*map(str, range(10))] * len(ways) + [*ways])
    assert job_of(pilots) == job_id


def test_what_a_worker_said_last_is_told(open_pilots: OpenPilots) -> None:
    error = died(open_pilots().submit(calls.leave_saying, 3, "the disk is\nfull of käse"), JobFailed)
    assert error.stderr_tail.endswith("the disk is\nfull of käse\n")
    assert str(error).endswith("full of käse")


@pytest.mark.skipif(cgroups.mount_point() is None, reason="no memory cgroups to end a worker by")
def test_after_too_much_memory_the_job_goes_on_with_another_worker(open_pilots: OpenPilots) -> None:
    pilots = open_pilots(mem="150M")
    job_id, pid, _ = pilots.submit(work.place).result(60)
    error = died(pilots.submit(work.use_memory, 300), JobOutOfMemory)
    assert isinstance(error, MemoryError)
    assert (error.state, error.job_id) == (JobState.OUT_OF_MEMORY, job_id)
    assert "ask for more mem=" in str(error)
    again, other, _ = pilots.submit(work.place).result(60)
    assert again == job_id
    assert other != pid
    assert died(pilots.submit(calls.kill_self, int(signal.SIGKILL)), JobFailed).signal == signal.SIGKILL


# ---- and its call runs again


def test_with_retries_it_runs_again_in_another_worker(open_pilots: OpenPilots, log: Log, tmp_path: Path) -> None:
    pilots = open_pilots(retries=2)
    runs = str(tmp_path / "runs")
    assert log.submit(pilots, "x", calls.leave_at_first, runs, 2, "done").result(60) == "done"
    assert log.lines() == ["x"] * 3


def test_the_attempts_before_are_told_of(open_pilots: OpenPilots, log: Log, tmp_path: Path) -> None:
    pilots = open_pilots(retries=1)
    error = died(log.submit(pilots, "x", calls.leave, 5), JobFailed)
    assert [type(earlier) for earlier in error.earlier] == [JobFailed]
    assert "(attempt 2 of 2)\nattempt 1: job " in str(error)
    raised = log.submit(pilots, "y", calls.leave_at_first_and_fail, str(tmp_path / "runs"), ValueError(1)).exception(60)
    assert type(raised) is ValueError
    if hasattr(raised, "__notes__"):
        assert raised.__notes__[0].startswith("attempt 1: job ")
    assert log.lines() == ["x", "x", "y", "y"]


def test_a_call_that_has_ended_three_workers_is_to_blame(open_pilots: OpenPilots, log: Log) -> None:
    pilots = open_pilots(retries=10)
    error = died(log.submit(pilots, "x", calls.crash), JobFailed)
    assert log.lines() == ["x"] * 3
    assert len(error.earlier) == 2
    assert "it has taken 3 workers along and is not run again (attempt 3 of 11)\nattempt 1: " in str(error)
    assert job_of(pilots) == error.job_id


# ---- a pilot ends


def test_calls_of_a_pilot_that_is_killed_fail_and_are_not_run_twice(open_pilots: OpenPilots, log: Log) -> None:
    pilots = open_pilots()
    assert list(pilots.map(calls.square, range(500))) == [number * number for number in range(500)]
    killer = log.submit(pilots, "killer", work.kill_the_pilot)
    behind = [log.submit(pilots, line, calls.identity, line) for line in range(10, 40)]
    error = died(killer, JobFailed)
    assert (error.state, error.signal) == (JobState.FAILED, signal.SIGKILL)
    for line, future in enumerate(behind, 10):  # some were handed to it: nobody knows whether they ran
        if future.exception(60) is None:
            assert future.result() == line
        else:
            assert died(future, JobFailed).job_id == error.job_id
    done = [str(line) for line, future in enumerate(behind, 10) if future.exception() is None]
    assert log.lines().count("killer") == 1
    assert set(done) <= set(log.lines())
    assert len(set(log.lines())) == len(log.lines())


def test_with_retries_calls_of_a_pilot_that_is_killed_run_again(
    open_pilots: OpenPilots, log: Log, tmp_path: Path
) -> None:
    pilots = open_pilots(retries=1)
    assert list(pilots.map(calls.square, range(500))) == [number * number for number in range(500)]
    killer = log.submit(pilots, "killer", _kill_the_pilot_at_first, str(tmp_path / "runs"))
    behind = [log.submit(pilots, line, calls.identity, line) for line in range(10, 40)]
    assert killer.result(60) == "survived"
    assert [future.result(60) for future in behind] == list(range(10, 40))
    assert log.lines().count("killer") == 2
    assert all(1 <= log.lines().count(str(line)) <= 2 for line in range(10, 40))


def _kill_the_pilot_at_first(path: str) -> str:
    if calls._run_of(path) == 1:
        work.kill_the_pilot()
    return "survived"


def test_a_pilot_whose_job_somebody_cancels_gives_back_what_it_has_not_begun(
    open_pilots: OpenPilots, log: Log, queue: Queue, gate: Gate
) -> None:
    pilots = open_pilots()
    assert list(pilots.map(calls.square, range(500))) == [number * number for number in range(500)]
    job_id = job_of(pilots)
    victim = log.submit(pilots, "victim", calls.pass_gate, gate.folder)
    behind = [log.submit(pilots, line, work.place) for line in range(10, 20)]
    gate.wait()
    queue.run("scancel", job_id)
    error = died(victim, JobCancelled)
    assert not victim.cancelled()
    assert (error.state, error.cancelled_by, error.started) == (JobState.CANCELLED, "root", True)
    assert error.job_id == job_id
    assert "was cancelled by root on node" in str(error)
    assert job_id not in [future.result(60)[0] for future in behind]
    assert log.lines() == [*map(str, range(10, 20)), "victim"]


def test_a_pilot_that_is_warned_of_its_end_takes_no_more_calls(
    open_pilots: OpenPilots, log: Log, queue: Queue, gate: Gate
) -> None:
    pilots = open_pilots()
    running = log.submit(pilots, "running", calls.pass_gate, gate.folder, "done")
    gate.wait()
    job_id = submitted(running)
    queue.run("scancel", "--batch", "--signal=USR1", job_id)  # as by --signal=B:USR1@60
    assert job_of(pilots) != job_id
    assert not running.done()
    gate.open()
    assert running.result(60) == "done"
    assert log.lines() == ["running"]


@pytest.mark.parametrize(
    ("name", "kind", "state"),
    [("SIGTERM", JobFailed, JobState.FAILED), ("SIGKILL", JobCancelled, JobState.CANCELLED)],
)
def test_what_ends_all_processes_of_a_job_is_told_as_its_end(
    open_pilots: OpenPilots, log: Log, queue: Queue, gate: Gate, name: str, kind: type[JobError], state: JobState
) -> None:
    pilots = open_pilots(workers=3, workers_per_job=3)
    job_id = job_of(pilots)
    until(lambda: len(pilots.workers) == 3)  # else others may have been before the last victim
    victims = [log.submit(pilots, line, calls.pass_gate, gate.folder) for line in range(3)]
    behind = [log.submit(pilots, line, work.place) for line in range(10, 20)]
    gate.wait(3)
    queue.run("scancel", "--full", f"--signal={name}", job_id)
    for future in victims:
        error = died(future, kind, LONG)
        assert (error.state, error.job_id) == (state, job_id)
        assert "in the worker" not in str(error)
    gate.open()
    assert job_id not in [future.result(60)[0] for future in behind]
    assert log.lines() == [*map(str, (0, 1, *range(10, 20), 2))]


# ---- no pilot comes


def test_where_no_job_is_accepted_all_calls_fail_with_the_reason(open_pilots: OpenPilots) -> None:
    pilots = open_pilots(workers=3, partition="nonesuch")
    futures = [pilots.submit(calls.square, number) for number in range(5)]
    for future in futures:
        error = future.exception(60)
        assert type(error) is PilotsBroken
        assert "no job is accepted: invalid partition specified: nonesuch" in str(error)
        assert type(error.__cause__) is SubmitError
    with pytest.raises(PilotsBroken):
        pilots.submit(calls.square, 1)


def test_jobs_that_die_at_once_again_and_again_are_given_up(open_slurm: OpenSlurm, open_pilots: OpenPilots) -> None:
    root = open_slurm(setup='[ -z "$SLURM_JOB_ID" ] || { echo no licence >&2; exit 9; }')
    pilots = open_pilots(root, workers=2)
    error = pilots.submit(calls.square, 1).exception(60)
    assert type(error) is PilotsBroken
    assert re.match(
        r"[34] jobs have ended one after the other before they could run a call; the last one: job ", str(error)
    )
    assert "failed with exit code 9" in str(error)
    assert str(error).endswith("no licence")
    assert type(error.__cause__) is JobFailed
    assert error.__cause__.exit_code == 9


def test_where_jobs_die_on_one_node_others_go_elsewhere(
    open_slurm: OpenSlurm, open_pilots: OpenPilots, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    setup = f"[ -e '{bad}' ] || echo $SLURMD_NODENAME >'{bad}'; [ $SLURMD_NODENAME != $(cat '{bad}') ] || exit 9"
    pilots = open_pilots(open_slurm(setup=f"[ -z $SLURM_JOB_ID ] || {{ {setup}; }}"))
    assert pilots.submit(_node).result(60) != bad.read_text().strip()


def _node() -> str:
    return os.environ["SLURMD_NODENAME"]


def test_jobs_whose_workers_do_not_start_are_given_up(open_pilots: OpenPilots, log: Log) -> None:
    pilots = open_pilots(initializer=calls.leave_saying, initargs=(4, "no licence"))
    error = log.submit(pilots, "x", calls.square, 1).exception(60)
    assert type(error) is PilotsBroken
    assert "3 jobs have ended one after the other before they could run a call; the last one: job " in str(error)
    assert "workers do not start: the last one ended with exit code 4" in str(error)
    assert str(error).endswith("no licence")
    assert log.lines() == []


def test_an_initializer_that_raises_is_told_as_such(open_pilots: OpenPilots, log: Log) -> None:
    pilots = open_pilots(initializer=calls.fail_to_initialize, initargs=("no licence",))
    error = log.submit(pilots, "x", calls.square, 1).exception(60)
    assert type(error) is InitializerError
    assert log.lines() == []


def test_where_all_further_jobs_die_the_pilot_that_is_there_does_the_work(
    open_slurm: OpenSlurm,
    open_pilots: OpenPilots,
    log: Log,
    gate: Gate,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "slurmfutures.pilots")
    bad = tmp_path / "bad"
    pilots = open_pilots(open_slurm(setup=f"[ ! -e '{bad}' ] || [ -z \"$SLURM_JOB_ID\" ] || exit 9"), workers=4)
    first = log.submit(pilots, 1, calls.pass_gate, gate.folder, 1)
    gate.wait()
    bad.touch()
    others = [log.submit(pilots, line, calls.pass_gate, gate.folder, line) for line in range(2, 9)]
    until(lambda: caplog.text.count("before it could run a call: FAILED 9") >= 3)
    gate.open()
    assert [future.result(60) for future in (first, *others)] == list(range(1, 9))
    assert log.lines() == [str(line) for line in range(1, 9)]


@pytest.mark.slow
def test_where_jobs_are_held_all_calls_fail_with_the_reason(
    open_pilots: OpenPilots, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slurmfutures.pilots")
    pilots = open_pilots(workers=2, hold=True)
    futures = [pilots.submit(calls.square, number) for number in range(3)]
    for future in futures:
        error = future.exception(60)
        assert type(error) is PilotsBroken
        assert re.fullmatch(r"no worker will come: job \d+ waits in the queue: JobHeldUser", str(error))
    assert re.search(r"3 calls wait for a worker: job \d+ waits in the queue: JobHeldUser", caplog.text)


@pytest.mark.slow
def test_jobs_that_are_cancelled_while_they_wait_are_given_up(open_pilots: OpenPilots, queue: Queue) -> None:
    pilots = open_pilots(workers=3, begin="now+1hour")
    futures = [pilots.submit(calls.square, number) for number in range(3)]
    name = pilots._pool.settings.name
    waiting = until(lambda: [job for job in queue.active() if job.name.startswith(name)])
    queue.run("scancel", *{job.id.partition("_")[0] for job in waiting})
    for future in futures:
        error = future.exception(LONG)
        assert type(error) is PilotsBroken
        assert "3 jobs have ended one after the other before they could run a call; the last one: job " in str(error)
        assert "was cancelled by root before it started" in str(error)
        assert type(error.__cause__) is JobCancelled


# ---- Slurm ends a job


@pytest.mark.slow
def test_at_a_time_limit_the_call_that_ran_fails_and_the_others_run_elsewhere(
    open_pilots: OpenPilots, log: Log, queue: Queue
) -> None:
    pilots = open_pilots(partition="short")
    assert list(pilots.map(calls.square, range(500))) == [number * number for number in range(500)]
    job_id = job_of(pilots)
    victim = log.submit(pilots, "victim", time.sleep, 600)
    behind = [log.submit(pilots, line, work.place) for line in range(10, 20)]
    until(log.lines)
    queue.run("scontrol", "update", f"JobId={job_id}", "EndTime=now+1")  # else this takes a minute, and half of one
    error = died(victim, JobTimeout, LONG)
    assert isinstance(error, TimeoutError)
    assert (error.state, error.job_id) == (JobState.TIMEOUT, job_id)
    assert "was ended at its time limit on node" in str(error)
    assert "DUE TO TIME LIMIT" in error.stderr_tail
    assert job_id not in [future.result(60)[0] for future in behind]
    assert log.lines() == [*map(str, range(10, 20)), "victim"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"time": "00:01:00"}, {"partition": "short"}], ids=["of the job", "of the partition"]
)
def test_a_job_near_its_end_takes_no_call_and_is_replaced_before(
    open_pilots: OpenPilots, queue: Queue, gate: Gate, caplog: pytest.LogCaptureFixture, options: dict[str, str]
) -> None:
    caplog.set_level(logging.INFO, "slurmfutures.pilots")
    pilots = open_pilots(call_time=50, **options)
    job_id = job_of(pilots)
    running = pilots.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    until(lambda: f"job {job_id} is near its time limit and takes no more calls" in caplog.text)
    assert not running.done()
    assert job_of(pilots) != job_id
    assert not running.done()
    gate.open()
    assert running.result(60) == "done"
    until(lambda: queue.shown(job_id, "JobState") in ("COMPLETED", ""))


def _preempt(queue: Queue, node: str) -> None:
    queue.run("sbatch", "--partition=high", f"--nodelist={node}", "--mem=3000M", "--output=/dev/null", "--wrap=true")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("partition", "node"), [("low", "n2"), ("lowcancel", "n3")], ids=["and put back", "and cancelled"]
)
def test_of_a_pilot_that_is_preempted_the_call_that_ran_fails(
    open_pilots: OpenPilots, log: Log, queue: Queue, gate: Gate, partition: str, node: str
) -> None:
    pilots = open_pilots(partition=partition, nodelist=node, **MUCH)
    job_id = job_of(pilots)
    victim = log.submit(pilots, "victim", calls.pass_gate, gate.folder)
    behind = [log.submit(pilots, line, work.place) for line in range(10, 20)]
    gate.wait()
    _preempt(queue, node)
    error = died(victim, JobPreempted, LONG)
    assert (error.state, error.job_id, error.node) == (JobState.PREEMPTED, job_id, node)
    assert f"job {job_id} was preempted on node {node}" in str(error)
    places = {future.result(LONG)[::2] for future in behind}
    assert len(places) == 1
    assert (job_id, "0") not in places
    assert log.lines() == [*map(str, range(10, 20)), "victim"]


@pytest.mark.slow
def test_with_retries_the_call_of_a_preempted_pilot_runs_again(
    open_pilots: OpenPilots, log: Log, queue: Queue, gate: Gate
) -> None:
    pilots = open_pilots(partition="lowcancel", nodelist="n3", retries=1, **MUCH)
    job_id = job_of(pilots)
    victim = log.submit(pilots, "victim", calls.pass_gate, gate.folder, "done")
    gate.wait()
    _preempt(queue, "n3")
    gate.wait(2)
    gate.open()
    assert victim.result(LONG) == "done"
    assert victim.job_id != job_id
    assert log.lines() == ["victim"] * 2


@pytest.mark.slow
def test_a_pilot_whose_job_is_requeued_comes_again(open_pilots: OpenPilots, queue: Queue) -> None:
    pilots = open_pilots()
    job_id, _, run = pilots.submit(work.place).result(60)
    assert run == "0"
    queue.run("scontrol", "requeue", job_id)
    until(lambda: queue.shown(job_id, "Restarts") == "1")
    until(lambda: queue.shown(job_id, "JobState") == "RUNNING")
    until(lambda: job_id in [worker.job_id for worker in pilots.workers])
    again, _, run = pilots.submit(work.place).result(LONG)
    assert (again, run) == (job_id, "1")


@pytest.mark.slow
def test_of_a_pilot_that_is_requeued_the_call_that_ran_fails(
    open_pilots: OpenPilots, log: Log, queue: Queue, gate: Gate
) -> None:
    pilots = open_pilots()
    job_id = job_of(pilots)
    victim = log.submit(pilots, "victim", calls.pass_gate, gate.folder)
    behind = [log.submit(pilots, line, work.place) for line in range(10, 20)]
    gate.wait()
    queue.run("scontrol", "requeue", job_id)
    assert (job_id, "0") not in {future.result(60)[::2] for future in behind}
    error = died(victim, JobPreempted, LONG)
    assert (error.state, error.job_id) == (JobState.REQUEUED, job_id)
    assert f"job {job_id} was put back into the queue on node " in str(error)
    assert log.lines() == [*map(str, range(10, 20)), "victim"]
