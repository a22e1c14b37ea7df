"""slurmctld or slurmdbd is away for a while: nothing fails for it, nothing is lost, nothing is done twice."""

import threading
from pathlib import Path

import pytest

from slurmfutures import JobFailed, JobState
from tests import calls
from tests.cluster import Cluster
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, died, submitted
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(150)]

LONG = 100.0  # seconds

# Write down how the command ended.
EXIT_CODES = '"$real" "$@"; code=$?; echo "$code ${*@Q}" >>"$here/codes"; exit $code'

# What scontrol says as soon as slurmctld has forgotten a job.
FORGOTTEN = """\
[[ "$*" == *job* ]] || exec "$real" "$@"
echo 'slurm_load_jobs error: Invalid job id specified' >&2
exit 1
"""


def _failed(shadow: Shadow, word: str) -> bool:
    """Whether a command with such a word has ended badly."""
    codes = shadow.folder / "codes"
    return codes.exists() and any(line[0] != "0" and word in line for line in codes.read_text().splitlines())


class Pause:
    """For longer than Slurm's commands have patience, the controller accepts connections and answers none."""

    def __init__(self, open_slurm: OpenSlurm, queue: Queue, folder: Path) -> None:
        sbatch, scancel = Shadow(folder / "sbatch"), Shadow(folder / "scancel")
        sbatch.put("sbatch", EXIT_CODES)
        scancel.put("scancel", EXIT_CODES)
        gate, closed = Gate(folder / "gate"), Gate(folder / "closed")
        submitting, cancelling, ending = open_slurm(sbatch.env), open_slurm(scancel.env), open_slurm()
        self.lines = folder / "lines"

        running = submitting.submit(calls.pass_gate, gate.folder, 3)
        self.cancelled = cancelling.submit(calls.pass_gate, closed.folder)
        self.dropped = ending.submit(calls.pass_gate, closed.folder)
        gate.wait(1)
        closed.wait(2)

        queue.cluster.pause_controller()
        try:
            self.submitted = submitting.submit(work.write_job, str(self.lines))
            self.cancelled.cancel()
            self.dropped.cancel()
            end = threading.Thread(target=ending.shutdown)
            end.start()
            gate.open()
            self.result_meanwhile = running.result(30)
            until(lambda: _failed(sbatch, "--parsable") and _failed(scancel, ""))
        finally:
            queue.cluster.resume_controller()
        end.join()
        self.submissions = sbatch


@pytest.fixture(scope="module")
def pause(open_for_all: OpenSlurm, queue: Queue, tmp_path_factory: pytest.TempPathFactory) -> Pause:
    return Pause(open_for_all, queue, tmp_path_factory.mktemp("pause"))


def test_results_arrive_while_the_controller_is_away(pause: Pause) -> None:
    assert pause.result_meanwhile == 3


def test_a_submission_that_the_controller_did_not_answer_is_found_and_not_repeated(pause: Pause) -> None:
    job = pause.submitted.result(LONG)
    assert job == f"{pause.submitted.job_id} 0"
    assert pause.lines.read_text().splitlines() == [job]
    submitted_calls = [called for called in pause.submissions.called("sbatch") if "--parsable" in called.words]
    assert len(submitted_calls) == 2  # the other is that of the call that ran meanwhile


def test_what_was_cancelled_while_the_controller_was_away_is_cancelled_after_all(pause: Pause, queue: Queue) -> None:
    until(lambda: not queue.of(pause.cancelled))


def test_what_was_cancelled_before_the_executor_ended_does_not_stay(pause: Pause, queue: Queue) -> None:
    until(lambda: not queue.of(pause.dropped))


def test_without_the_database_the_controller_says_why(open_slurm: OpenSlurm, faulty: Cluster) -> None:
    executor = open_slurm(nodelist="n1")
    faulty.stop_database()
    error = died(executor.submit(calls.leave_saying, 3, "no more disk"), JobFailed)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 3, "n1")
    assert "no more disk" in str(error)


def test_what_the_controller_has_forgotten_waits_for_the_database(
    open_slurm: OpenSlurm, faulty: Cluster, shadow: Shadow
) -> None:
    shadow.put("scontrol", FORGOTTEN)
    executor = open_slurm(shadow.env, nodelist="n1")
    faulty.stop_database()
    future = executor.submit(calls.leave, 3)
    until(lambda: [called for called in shadow.called("scontrol") if submitted(future) in called.words])
    assert not future.done()
    faulty.start_database()
    error = died(future, JobFailed, LONG)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 3, "n1")
