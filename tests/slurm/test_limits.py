"""What the cluster allows bounds how calls go in, never whether they succeed."""

import logging
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from slurmfutures import SlurmFuturesWarning, SubmitError
from tests import calls
from tests.cluster.config import SMALL_QOS, SMALL_QOS_MAX_SUBMIT
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, together
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


def test_a_batch_beyond_the_largest_array_goes_in_as_several(open_slurm: OpenSlurm, queue: Queue) -> None:
    executor = open_slurm(hold=True)
    futures = together(executor, calls.square, [(number,) for number in range(2500)])
    until(lambda: futures[-1].job_id)
    arrays = {future.job_id.partition("_")[0] for future in futures if future.job_id}
    assert len(arrays) == 3
    assert len(queue.jobs()) == 2500
    for future in futures:
        future.cancel()
    until(lambda: not queue.active())


def test_a_limit_on_submitted_jobs_holds_calls_back(
    open_slurm: OpenSlurm, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    executor = open_slurm()
    with caplog.at_level(logging.WARNING, "slurmfutures"):
        futures = together(executor.with_options(qos=SMALL_QOS), calls.square, [(number,) for number in range(50)])
        most = 0
        while not all(future.done() for future in futures):
            most = max(most, len(queue.jobs()))
    assert [future.result() for future in futures] == [number**2 for number in range(50)]
    assert 0 < most <= SMALL_QOS_MAX_SUBMIT


def test_a_queue_that_is_full_is_waited_for_and_said(
    open_slurm: OpenSlurm, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    executor = open_slurm(qos=SMALL_QOS)
    first = together(executor, calls.pass_gate, [(gate.folder, n) for n in range(SMALL_QOS_MAX_SUBMIT)])
    until(lambda: all(future.job_id for future in first))
    with caplog.at_level(logging.WARNING, "slurmfutures"):
        late = executor.submit(calls.square, 7)
        until(lambda: "QOSMaxSubmitJobPerUserLimit" in caplog.text)
    assert not late.done()
    assert late.job_id is None
    gate.open()
    assert late.result(120) == 49
    assert [future.result(60) for future in first] == list(range(SMALL_QOS_MAX_SUBMIT))


def test_max_workers_bounds_what_runs_at_once(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = open_slurm(max_workers=3)
    futures = together(executor, calls.overlap, [(str(log), 0.3)] * 8)
    futures += together(executor.with_options(comment="other"), calls.overlap, [(str(log), 0.3)] * 4)
    for future in futures:
        future.result(120)
    running, most = 0, 0
    for line in log.read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert running == 0
    assert 2 <= most <= 3


def test_room_that_appears_is_given_to_an_array_that_has_less(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    first, second = Gate(tmp_path / "first"), Gate(tmp_path / "second")
    executor = open_slurm(max_workers=3)
    ahead = together(executor, calls.pass_gate, [(first.folder,), (first.folder,)])
    first.wait(2)
    behind = together(executor.with_options(comment="other"), calls.pass_gate, [(second.folder,)] * 4)
    second.wait(1)
    assert len(second.entered()) == 1
    first.open()
    second.wait(3)
    second.open()
    for future in ahead + behind:
        future.result(60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": "nosuch"}, "invalid partition specified: nosuch"),
        ({"qos": "nosuch"}, "Invalid qos specification"),
        ({"mem": "64G"}, "Memory specification can not be satisfied"),
    ],
)
def test_what_sbatch_refuses_it_refuses_in_its_own_words(
    open_slurm: OpenSlurm, options: dict[str, str], words: str
) -> None:
    future = open_slurm().with_options(**options).submit(calls.square, 2)
    with pytest.raises(SubmitError, match=words) as caught:
        future.result(60)
    (name, value), *_ = options.items()
    assert f"--{name}={value}" in caught.value.options


def test_a_job_that_can_never_start_is_warned_of(open_slurm: OpenSlurm) -> None:
    executor = open_slurm()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        future = executor.with_options(partition="short", time="01:00:00").submit(calls.square, 2)
        until(lambda: any("PartitionTimeLimit" in str(warning.message) for warning in caught))
    assert all(warning.category is SlurmFuturesWarning for warning in caught)
    assert not future.done()
    assert future.cancel()


def test_options_win_over_the_environment(open_slurm: OpenSlurm, queue: Queue, gate: Gate) -> None:
    executor = open_slurm(
        {
            "SBATCH_PARTITION": "nosuch",
            "SBATCH_TIMELIMIT": "1",
            "SLURM_JOB_ID": "1",
            "SLURM_ARRAY_TASK_ID": "77",
            "SQUEUE_STATES": "FAILED",
            "SQUEUE_USERS": "nobody",
            "SACCT_FORMAT": "User",
        },
        partition="main",
        time="00:30:00",
    )
    future = executor.submit(calls.pass_gate, gate.folder, 5)
    gate.wait()
    assert future.job_id is not None
    assert queue.shown(future.job_id, "Partition") == "main"
    assert queue.shown(future.job_id, "TimeLimit") == "00:30:00"
    gate.open()
    assert future.result(60) == 5
    assert executor.submit(work.variables).result(60).get("SLURM_ARRAY_TASK_ID") is None


def test_a_driver_can_run_inside_a_job(open_slurm: OpenSlurm) -> None:
    assert open_slurm().submit(_drive).result(90) == ["9", True]


def _drive() -> list[object]:
    import os
    import shutil
    import tempfile

    from slurmfutures import SlurmExecutor

    folder = tempfile.mkdtemp(dir=os.environ["HOME"])
    try:
        with SlurmExecutor(work_dir=folder) as executor:
            inner = executor.submit(str, 9)
            return [inner.result(60), inner.job_id != os.environ["SLURM_JOB_ID"]]
    finally:
        shutil.rmtree(folder)


def test_a_thousand_calls_are_one_submission_and_few_questions(open_slurm: OpenSlurm, shadow: Shadow) -> None:
    for name in ("sbatch", "squeue", "sacct"):
        shadow.put(name)
    executor = open_slurm(shadow.env)
    assert list(executor.map(calls.square, range(300))) == [number**2 for number in range(300)]
    submissions = [called for called in shadow.called("sbatch") if "--version" not in called.words]
    assert len(submissions) == 1
    asked = [called.at for called in shadow.called("squeue")]
    assert all(later - earlier >= 10 for earlier, later in pairwise(asked))
    assert not shadow.called("sacct")
