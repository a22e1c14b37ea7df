"""Slurm's commands fail, hang, lie and say what nobody knows: calls resolve all the same, and each runs once.

What takes long is set in motion before the first test, side by side.
"""

from itertools import pairwise
from pathlib import Path

import pytest

from slurmfutures import JobState, SlurmExecutor, SlurmFuture
from slurmfutures._remote.agent import GRACE_COHERENT
from tests import calls
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, submitted, together
from tests.slurm.shadow import Called, Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.alone, pytest.mark.timeout(180)]

LONG = 120.0  # seconds

ODD_QUEUES = {
    "fails": "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    "hangs": "sleep 3600",
    "is empty": "echo; exit 0",
    "has a state that nobody knows": '"$real" "$@" | sed "s/RUNNING/FROBNICATED/"; exit 0',
}

# sbatch submits, and says that it did not, or fails the first time, and did not.
ACCEPTED_BUT_FAILED = """\
[[ "$*" == *--parsable* ]] || exec "$real" "$@"
"$real" "$@" >/dev/null
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1
"""
FAILED_ONCE = """\
if [[ "$*" == *--parsable* && ! -e "$here/failed" ]]; then
    touch "$here/failed"
    echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)' >&2
    exit 1
fi
"""

# What users set for their own use of these commands.
HABITS = {
    "SQUEUE_STATES": "FAILED",
    "SQUEUE_USERS": "nobody",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_SORT": "i",
    "SACCT_FORMAT": "User",
    "SCANCEL_STATE": "SUSPENDED",
    "SLURM_TIME_FORMAT": "relative",
}


def _submissions(shadow: Shadow) -> list[Called]:
    return [called for called in shadow.called("sbatch") if "--parsable" in called.words]


class Troubles:
    """Calls whose Slurm is in trouble."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path, queue: Queue) -> None:
        self.lines = folder / "lines"
        requeued = together(open_slurm(), work.wait_for_the_second_run, [(str(self.lines),)] * 2)

        self.gate = Gate(folder / "gate")
        self.odd: dict[str, tuple[Shadow, SlurmFuture[str]]] = {}
        for how, body in ODD_QUEUES.items():
            shadow = Shadow(folder / how)
            shadow.put("squeue", body)
            self.odd[how] = shadow, open_slurm(shadow.env).submit(calls.pass_gate, self.gate.folder, how)

        self.once = Shadow(folder / "once")
        self.once.put("sbatch", FAILED_ONCE)
        self.log_of_once = folder / "log"
        self.failed_once = open_slurm(self.once.env).submit(work.write_job, str(self.log_of_once))

        self.habits = Shadow(folder / "habits")
        self.habits.put("squeue")
        self.with_habits = open_slurm({**self.habits.env, **HABITS})
        self.held = self.with_habits.with_options(hold=True).submit(calls.square, 5)

        self.twins = Shadow(folder / "twins")
        self.twins.put("sacct")
        self.gate_of_twins = Gate(folder / "gate of twins")
        executor = open_slurm(self.twins.env, work_dir=folder / "work", hold=True)
        self.late_twin = executor.submit(calls.pass_gate, self.gate_of_twins.folder, 3)
        job_id = submitted(self.late_twin)
        (script,) = (folder / "work" / "batches").glob("*/script.sh")
        queue.run("sbatch", "--output=/dev/null", str(script), "0", "0")
        self.gate_of_twins.wait()
        queue.run("scontrol", "release", job_id)

        until(lambda: self.lines.exists() and len(self.lines.read_text().splitlines()) == 2)
        for future in requeued:
            queue.run("scontrol", "requeue", submitted(future))
        self.requeued = requeued


@pytest.fixture(scope="module", autouse=True)
def troubles(open_for_all: OpenSlurm, queue: Queue, tmp_path_factory: pytest.TempPathFactory) -> Troubles:
    return Troubles(open_for_all, tmp_path_factory.mktemp("troubles"), queue)


@pytest.fixture(scope="module")
def executor(open_for_all: OpenSlurm) -> SlurmExecutor:
    return open_for_all()


# ---- sbatch


def test_a_submission_that_was_accepted_and_reported_as_failed_is_found(
    open_slurm: OpenSlurm, shadow: Shadow, tmp_path: Path
) -> None:
    shadow.put("sbatch", ACCEPTED_BUT_FAILED)
    log = tmp_path / "log"
    future = open_slurm(shadow.env).submit(work.write_job, str(log))
    assert future.result(60) == f"{future.job_id} 0"
    assert log.read_text().splitlines() == [f"{future.job_id} 0"]
    assert len(_submissions(shadow)) == 1


def test_what_a_site_prints_around_the_job_id_is_not_read(open_slurm: OpenSlurm, shadow: Shadow) -> None:
    shadow.put(
        "sbatch",
        'echo "Welcome, 3 jobs left"; echo "12 nodes are free"; "$real" "$@"; code=$?; echo "Have fun"; exit $code',
    )
    future = open_slurm(shadow.env).submit(work.job)
    assert future.result(60) == f"{future.job_id} 0"


@pytest.mark.slow
def test_a_submission_that_was_not_accepted_is_repeated(troubles: Troubles) -> None:
    job = troubles.failed_once.result(LONG)
    assert job == f"{troubles.failed_once.job_id} 0"
    assert troubles.log_of_once.read_text().splitlines() == [job]
    assert len(_submissions(troubles.once)) == 2


# ---- one job more than there should be


def test_a_second_submission_of_the_same_calls_ends_harmlessly(
    open_slurm: OpenSlurm, queue: Queue, gate: Gate, tmp_path: Path
) -> None:
    executor = open_slurm(work_dir=str(tmp_path / "work"))
    futures = together(executor, calls.pass_gate, [(gate.folder, number) for number in range(3)])
    gate.wait(3)
    (script,) = (tmp_path / "work" / "batches").glob("*/script.sh")
    twin = queue.run("sbatch", "--parsable", "--array=0-2", f"-o{tmp_path}/twin.%a", str(script), "0", "0").strip()
    until(lambda: not [job for job in queue.jobs() if job.id.startswith(twin)])
    job_id = submitted(futures[0]).partition("_")[0]
    for index in range(3):
        said = (tmp_path / f"twin.{index}").read_text()
        assert said == f"slurmfutures: job {job_id} has these calls already, nothing to do\n"
    assert not any(future.done() for future in futures)
    gate.open()
    assert [future.result(60) for future in futures] == [0, 1, 2]
    assert len(gate.entered()) == 3


@pytest.mark.slow
def test_a_job_that_finds_its_call_taken_by_a_twin_waits_for_the_twin(troubles: Troubles, queue: Queue) -> None:
    future = troubles.late_twin
    until(lambda: not queue.of(future))

    def asked() -> list[Called]:
        return [called for called in troubles.twins.called("sacct") if f"--jobs={future.job_id}" in called.words]

    until(lambda: asked() and asked()[-1].at - asked()[0].at >= GRACE_COHERENT)
    troubles.gate_of_twins.open()
    assert future.result(LONG) == 3
    assert len(troubles.gate_of_twins.entered()) == 1


# ---- the queue


@pytest.mark.slow
def test_a_squeue_that_answers_oddly_changes_nothing(troubles: Troubles) -> None:
    until(lambda: all(shadow.called("squeue") for shadow, _ in troubles.odd.values()))
    assert not any(future.done() for _, future in troubles.odd.values())
    troubles.gate.open()
    assert {how: future.result(60) for how, (_, future) in troubles.odd.items()} == {how: how for how in ODD_QUEUES}


@pytest.mark.slow
def test_a_user_s_own_variables_hide_no_jobs(troubles: Troubles, queue: Queue) -> None:
    until(lambda: len(troubles.habits.called("squeue")) >= 2)  # with the grace in between
    assert not troubles.held.done()
    assert queue.state(troubles.held) == "PENDING"
    asked = [called.at for called in troubles.habits.called("squeue")]
    assert min(later - earlier for earlier, later in pairwise(asked)) >= 10
    queue.run("scontrol", "release", submitted(troubles.held))
    assert troubles.held.result(60) == 25


def test_a_user_s_own_variables_keep_no_job_from_being_cancelled(troubles: Troubles, queue: Queue, gate: Gate) -> None:
    future = troubles.with_habits.submit(calls.pass_gate, gate.folder)
    gate.wait()
    job_id = submitted(future)
    future.cancel()
    until(lambda: job_id not in [job.id for job in queue.active()])


# ---- jobs that stop and go


def test_suspended_jobs_and_held_ones_are_waited_for(executor: SlurmExecutor, queue: Queue, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder, 4)
    gate.wait()
    queue.run("scontrol", "suspend", submitted(future))
    queue.wait(future, "SUSPENDED")
    held = executor.with_options(hold=True).submit(calls.square, 3)
    queue.wait(held, "PENDING")
    gate.open()
    assert not future.done()
    assert not held.done()
    assert held.state is JobState.PENDING
    queue.run("scontrol", "resume", submitted(future))
    queue.run("scontrol", "release", submitted(held))
    assert (future.result(60), held.result(60)) == (4, 9)


@pytest.mark.slow
def test_a_requeued_task_is_the_same_job_and_gives_its_result(troubles: Troubles) -> None:
    array = submitted(troubles.requeued[0]).partition("_")[0]
    assert [future.result(LONG) for future in troubles.requeued] == [f"{array} 1"] * 2
    assert sorted(troubles.lines.read_text().splitlines()) == [f"{array} 0", f"{array} 0", f"{array} 1", f"{array} 1"]
