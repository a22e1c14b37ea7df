"""What is known of the job and the output of calls in pilots: those of the worker, once a call takes its time."""

import pytest

from slurmfutures import JobError, PilotsExecutor
from tests import calls
from tests.fix_executors import HERE, OpenJobs
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


@pytest.fixture
def pilots(open_jobs: OpenJobs) -> PilotsExecutor:
    return open_jobs().pilots(workers=1)


@HERE
def test_a_call_has_the_job_and_the_output_of_its_worker(pilots: PilotsExecutor, scheduler: str, gate: Gate) -> None:
    assert pilots.submit(calls.speak, "out before", "err before").result(DEADLINE) is None
    future = pilots.submit(calls.pass_gate, gate.folder, 7)
    until(future.running)
    (worker,) = until(lambda: pilots.workers)
    for _ in range(2):  # while it runs, and afterwards
        assert future.job_id == worker.job_id
        assert future.stdout() == "out before\n"  # calls of one worker share that
        assert future.stderr() == "err before\n"
        gate.open()
        assert future.result(DEADLINE) == 7


@HERE
def test_a_call_that_took_its_worker_along_has_the_job_and_the_worker_s_last_words(
    pilots: PilotsExecutor, scheduler: str
) -> None:
    pilots.submit(calls.speak, "nothing of it", "err before").result(DEADLINE)
    (worker,) = until(lambda: pilots.workers)
    future = pilots.submit(calls.leave_saying, 3, "last words")
    error = future.exception(DEADLINE)
    assert isinstance(error, JobError)
    assert (future.job_id, error.job_id, error.exit_code) == (worker.job_id, worker.job_id, 3)
    assert error.stderr_tail == "err before\nlast words\n"


@HERE
def test_a_call_that_was_cancelled_while_it_ran_keeps_its_job(
    pilots: PilotsExecutor, scheduler: str, gate: Gate
) -> None:
    future = pilots.submit(calls.pass_gate, gate.folder)
    until(future.running)
    job = future.job_id
    assert job is not None
    assert future.cancel()
    assert future.job_id == job


@pytest.mark.parametrize("scheduler", ["local"], indirect=True)
def test_of_a_call_that_waits_nothing_is_known(pilots: PilotsExecutor, gate: Gate) -> None:
    running, waiting = pilots.submit(calls.pass_gate, gate.folder), pilots.submit(calls.square, 4)
    until(running.running)
    assert (waiting.job_id, waiting.stdout(), waiting.stderr()) == (None, "", "")
    gate.open()
    assert waiting.result(DEADLINE) == 16
