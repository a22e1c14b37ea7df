"""Cancelling reaches Slurm: as little as can be, as much as must be."""

import pytest

from slurmfutures import JobState
from tests import calls
from tests.fix_gate import Gate
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, together
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.alone]


def test_a_pending_call_leaves_the_queue(open_slurm: OpenSlurm, queue: Queue) -> None:
    future = open_slurm(hold=True).submit(calls.square, 2)
    queue.wait(future, "PENDING")
    assert future.cancel()
    until(lambda: not queue.active())


def test_a_running_call_ends_its_job(open_slurm: OpenSlurm, queue: Queue, gate: Gate) -> None:
    future = open_slurm().submit(calls.pass_gate, gate.folder)
    gate.wait()
    assert future.cancel()
    assert future.state is JobState.CANCELLED
    until(lambda: not queue.active())


def test_of_an_array_only_the_cancelled_task_ends(open_slurm: OpenSlurm, queue: Queue, gate: Gate) -> None:
    futures = together(open_slurm(), calls.pass_gate, [(gate.folder, number) for number in range(4)])
    gate.wait(4)
    futures[1].cancel()
    until(lambda: len(queue.active()) == 3)
    gate.open()
    assert [future.result(60) for future in futures if future is not futures[1]] == [0, 2, 3]


def test_a_thousand_cancels_are_a_handful_of_commands(open_slurm: OpenSlurm, queue: Queue, shadow: Shadow) -> None:
    shadow.put("scancel")
    futures = together(open_slurm(shadow.env, hold=True), calls.square, [(number,) for number in range(1000)])
    until(lambda: futures[-1].job_id)
    kept = futures[500]
    for future in futures:
        if future is not kept:
            future.cancel()
    until(lambda: [job.id for job in queue.active()] == [kept.job_id])
    assert len(shadow.called("scancel")) <= 5
    kept.cancel()
    until(lambda: not queue.active())


def test_a_call_cancelled_while_it_is_being_submitted_does_not_stay(
    open_slurm: OpenSlurm, queue: Queue, shadow: Shadow
) -> None:
    shadow.put("sbatch", 'case "$*" in *--parsable*) while [ ! -e "$here/go" ]; do sleep 0.05; done;; esac')
    executor = open_slurm(shadow.env, hold=True)
    future = executor.submit(calls.square, 2)
    until(lambda: any("--parsable" in called.words for called in shadow.called("sbatch")))
    assert future.cancel()
    (shadow.folder / "go").touch()
    executor.shutdown()
    until(lambda: not queue.active())


def test_shutdown_leaves_nothing_in_the_queue(open_slurm: OpenSlurm, queue: Queue, gate: Gate) -> None:
    executor = open_slurm()
    running = executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    held = executor.with_options(hold=True).submit(calls.square, 2)
    until(lambda: held.job_id)
    executor.shutdown(wait=False, cancel_futures=True)
    assert held.cancelled()
    gate.open()
    assert running.result(60) is None
    executor.shutdown()
    until(lambda: not queue.active())
