"""What is left in work_dir, on the cluster's own file system."""

import logging
from pathlib import Path

import pytest

from slurmfutures import JobFailed, SubmitError
from tests import calls
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import died, together
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = pytest.mark.slurm

# The batch's list of what was submitted is on a full disk from the moment at which Slurm has accepted a part.
FULL_AFTER_SBATCH = """\
[[ "$*" == *--parsable* ]] || exec "$real" "$@"
"$real" "$@"
code=$?
words=("$@")
ln -sf /dev/full "$(dirname "${words[-3]}")/parts.jsonl"
exit $code
"""


def test_files_of_finished_batches_go_and_those_of_dead_jobs_stay(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    executor = open_slurm(work_dir=tmp_path / "work")
    batches = tmp_path / "work" / "batches"
    kept = executor.submit(calls.square, 2)
    assert kept.result(60) == 4
    assert list(executor.map(calls.square, range(4))) == [0, 1, 4, 9]
    until(lambda: len(list(batches.iterdir())) == 1)  # nobody can ask for the others' output any more
    error = died(executor.submit(calls.leave_saying, 3, "no more disk"), JobFailed)
    executor.shutdown()
    assert [str(path) for path in batches.iterdir()] == [error.where]
    assert "no more disk" in (Path(error.where) / "0" / "l" / "0.err").read_text()
    assert error.where in str(error)


def test_one_dead_task_keeps_the_files_of_its_array(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    executor = open_slurm(work_dir=tmp_path / "work")
    futures = together(executor, _leave_at_one, [(number,) for number in range(3)])
    error = died(futures[1], JobFailed)
    assert [futures[0].result(60), futures[2].result(60)] == [0, 2]
    executor.shutdown()
    assert [str(path) for path in (tmp_path / "work" / "batches").iterdir()] == [error.where]
    assert "leaving" in (Path(error.where) / "0" / "l" / "1.err").read_text()


def _leave_at_one(number: int) -> int:
    if number == 1:
        calls.leave_saying(7, "leaving")
    return number


def test_a_cancelled_call_leaves_no_files(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    executor = open_slurm(work_dir=tmp_path / "work", hold=True)
    future = executor.submit(calls.square, 2)
    until(lambda: future.job_id)
    future.cancel()
    executor.shutdown()
    assert list((tmp_path / "work" / "batches").iterdir()) == []


# ---- no room


def test_a_batch_for_which_there_is_no_room_fails_its_calls_alone(open_slurm: OpenSlurm, small_disk: Path) -> None:
    executor = open_slurm(work_dir=small_disk)
    error = executor.submit(len, bytes(8 << 20)).exception(60)
    assert isinstance(error, SubmitError)
    assert "the batch could not be written" in str(error)
    assert "No space left on device" in str(error)
    assert list((small_disk / "batches").iterdir()) == []
    assert executor.submit(calls.square, 3).result(60) == 9


def test_a_job_whose_id_cannot_be_written_down_goes_on(
    open_slurm: OpenSlurm, shadow: Shadow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shadow.put("sbatch", FULL_AFTER_SBATCH)
    with caplog.at_level(logging.WARNING, "slurmfutures"):
        future = open_slurm(shadow.env, work_dir=tmp_path / "work").submit(calls.square, 3)
        assert future.result(60) == 9
    assert f"the id of job {future.job_id} cannot be written down" in caplog.text
