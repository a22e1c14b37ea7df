"""Cancelling, before, during and after."""

from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from slurmfutures import JobState, SlurmExecutor
from tests import calls
from tests.fix_executors import AnyExecutor, OpenJobs
from tests.fix_gate import Gate
from tests.processes import lives
from tests.slurm.queue import together
from tests.waiting import DEADLINE, until


def test_a_call_cancelled_at_once_is_never_made(executor: AnyExecutor, tmp_path: Path) -> None:
    unwanted = [executor.submit(calls.mark, str(tmp_path)) for _ in range(3)]
    assert [future.cancel() for future in unwanted] == [True] * 3
    assert all(future.cancelled() and future.done() and not future.running() for future in unwanted)
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4
    with pytest.raises(CancelledError):
        unwanted[0].result()
    with pytest.raises(CancelledError):
        unwanted[0].exception()
    assert {future.state for future in unwanted} == {JobState.CANCELLED}


def test_jobs_cancelled_at_once_are_never_submitted(jobs: SlurmExecutor, tmp_path: Path) -> None:
    unwanted = [jobs.submit(calls.mark, str(tmp_path)) for _ in range(10)]
    for future in unwanted:
        future.cancel()
    wanted = jobs.submit(calls.square, 2)
    assert wanted.result(DEADLINE) == 4
    assert [future.job_id for future in unwanted] == [None] * 10
    assert not list(tmp_path.iterdir())


def test_a_call_that_waits_its_turn_is_never_made(open_jobs: OpenJobs, gate: Gate, tmp_path: Path) -> None:
    batches = tmp_path / "work" / "batches"
    with open_jobs(max_workers=1, work_dir=tmp_path / "work") as executor:
        first = executor.submit(calls.pass_gate, gate.folder)
        gate.wait()
        marks = tmp_path / "marks"
        marks.mkdir()
        unwanted = executor.submit(calls.mark, str(marks))
        until(lambda: len(list(batches.iterdir())) == 2)
        assert unwanted.cancel()
        del unwanted
        until(lambda: len(list(batches.iterdir())) == 1)  # its job is cancelled before its files go
        gate.open()
        assert first.result(DEADLINE) is None
        assert executor.submit(calls.square, 2).result(DEADLINE) == 4
        assert not list(marks.iterdir())


def test_a_running_call_is_ended_with_all_its_processes(executor: AnyExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate_with_a_child, gate.folder)
    (child,) = map(int, gate.wait())
    assert lives(child)
    assert future.cancel()
    assert future.cancelled()
    until(lambda: not lives(child))


def test_a_call_that_is_over_cannot_be_cancelled(executor: AnyExecutor) -> None:
    future = executor.submit(calls.square, 3)
    future.result(DEADLINE)
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 9


def test_a_call_can_be_cancelled_twice(executor: AnyExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder)
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()


def test_cancelling_one_call_leaves_the_others_alone(executor: AnyExecutor, gate: Gate) -> None:
    unwanted, wanted = (executor.submit(calls.pass_gate, gate.folder, number) for number in range(2))
    gate.wait(2)
    unwanted.cancel()
    gate.open()
    assert wanted.result(DEADLINE) == 1
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4


def test_cancelling_one_task_of_an_array_leaves_the_others_alone(jobs: SlurmExecutor, gate: Gate) -> None:
    futures = together(jobs, calls.pass_gate, [(gate.folder, number) for number in range(2)])
    gate.wait(2)
    first, second = (future.job_id or "" for future in futures)
    assert first.partition("_")[0] == second.partition("_")[0]
    futures[0].cancel()
    gate.open()
    assert futures[1].result(DEADLINE) == 1


def test_a_task_of_several_calls_goes_on_while_one_of_them_is_wanted(jobs: SlurmExecutor, gate: Gate) -> None:
    results = jobs.map(calls.pass_gate, [gate.folder] * 3, range(3), chunksize=3)
    gate.wait()
    first, second, third = jobs._pending()
    assert first.cancel()
    assert third.cancel()
    gate.open()
    assert second.result(DEADLINE) == 1
    with pytest.raises(CancelledError):
        next(results)


def test_a_task_of_several_calls_is_ended_when_none_of_them_is_wanted(jobs: SlurmExecutor, gate: Gate) -> None:
    jobs.map(calls.pass_gate_with_a_child, [gate.folder] * 2, chunksize=2)
    (child,) = map(int, gate.wait())
    for future in jobs._pending():
        future.cancel()
    until(lambda: not lives(child))


def test_many_calls_are_cancelled(executor: AnyExecutor, gate: Gate) -> None:
    executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    futures = [executor.submit(calls.pass_gate, gate.folder) for _ in range(500)]
    assert [future.cancel() for future in futures] == [True] * 500
    gate.open()
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4


def test_calls_that_follow_a_cancelled_one_are_made_once_each(executor: AnyExecutor, tmp_path: Path) -> None:
    """Whoever gets a cancelled call's successors must not lose them, nor make them twice."""
    kept = []
    for _ in range(20):
        unwanted = [executor.submit(calls.square, 1) for _ in range(3)]
        kept.append(executor.submit(calls.mark, str(tmp_path)))
        for future in unwanted:
            future.cancel()
    names = [future.result(DEADLINE) for future in kept]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
