"""Slurm's commands fail, hang, lie and say what nobody knows: calls resolve all the same, and each runs once."""

import subprocess
from pathlib import Path

import pytest

from tests import calls
from tests.cluster import Cluster
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, submitted, together
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


ODD_ANSWERS = {
    "fails": "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    "hangs": "sleep 3600",
    "is empty": "echo; exit 0",
    "has a state that nobody knows": '"$real" "$@" | sed "s/RUNNING/FROBNICATED/"; exit 0',
}


def test_a_squeue_that_answers_oddly_changes_nothing(open_slurm: OpenSlurm, gate: Gate, tmp_path: Path) -> None:
    shadows = {how: Shadow(tmp_path / how) for how in ODD_ANSWERS}
    for how, shadow in shadows.items():
        shadow.put("squeue", ODD_ANSWERS[how])
    futures = {how: open_slurm(shadow.env).submit(calls.pass_gate, gate.folder, how) for how, shadow in shadows.items()}
    until(lambda: all(shadow.called("squeue") for shadow in shadows.values()))
    assert not any(future.done() for future in futures.values())
    gate.open()
    assert {how: future.result(60) for how, future in futures.items()} == {how: how for how in ODD_ANSWERS}


def test_a_controller_that_pauses_is_waited_for(open_slurm: OpenSlurm, faulty: Cluster, gate: Gate) -> None:
    executor = open_slurm()
    running = executor.submit(calls.pass_gate, gate.folder, 1)
    gate.wait()
    faulty.pause_controller()
    late = executor.submit(calls.square, 5)
    gate.open()
    assert running.result(60) == 1  # seen by its file alone
    faulty.resume_controller()
    assert late.result(120) == 25


def test_a_submission_that_was_accepted_and_reported_as_failed_is_found(
    open_slurm: OpenSlurm, queue: Queue, shadow: Shadow, tmp_path: Path
) -> None:
    shadow.put(
        "sbatch",
        'case "$*" in *--parsable*) "$real" "$@" >/dev/null;'
        " echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2;"
        " exit 1;; esac",
    )
    log = tmp_path / "log"
    future = open_slurm(shadow.env).submit(work.write_job, str(log))
    assert future.result(90) == log.read_text().strip()
    assert len([called for called in shadow.called("sbatch") if "--parsable" in called.words]) == 1


def test_what_a_site_prints_around_the_job_id_is_not_read(open_slurm: OpenSlurm, shadow: Shadow) -> None:
    shadow.put(
        "sbatch",
        'case "$*" in *--parsable*) echo "Welcome, 3 jobs left today"; "$real" "$@"; code=$?;'
        ' echo "Have fun"; exit $code;; esac',
    )
    assert open_slurm(shadow.env).submit(calls.square, 5).result(60) == 25


def test_a_second_submission_of_the_same_calls_ends_harmlessly(
    open_slurm: OpenSlurm, queue: Queue, gate: Gate, tmp_path: Path
) -> None:
    executor = open_slurm(work_dir=str(tmp_path / "work"))
    future = executor.submit(calls.pass_gate, gate.folder, 3)
    gate.wait()
    (script,) = (tmp_path / "work" / "batches").glob("*/script.sh")
    said = queue.run("sbatch", "--parsable", f"--output={tmp_path}/twin", str(script), "0", "0")
    until(lambda: said.strip() not in [job.id for job in queue.jobs()])
    assert "has these calls already" in (tmp_path / "twin").read_text()
    assert not future.done()
    gate.open()
    assert future.result(60) == 3
    assert len(gate.entered()) == 1


def test_a_requeued_task_is_the_same_job_and_gives_its_result(
    open_slurm: OpenSlurm, queue: Queue, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    futures = together(open_slurm(), work.wait_for_the_second_run, [(str(log),), (str(log),)])
    until(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
    for future in futures:
        queue.run("scontrol", "requeue", submitted(future))
    array = submitted(futures[0]).partition("_")[0]
    assert [future.result(100) for future in futures] == [f"{array} 1"] * 2


def test_suspended_and_held_jobs_are_waited_for(open_slurm: OpenSlurm, queue: Queue, gate: Gate) -> None:
    executor = open_slurm()
    future = executor.submit(calls.pass_gate, gate.folder, 4)
    gate.wait()
    queue.run("scontrol", "suspend", submitted(future))
    queue.wait(future, "SUSPENDED")
    held = executor.with_options(hold=True).submit(calls.square, 3)
    queue.wait(held, "PENDING")
    gate.open()
    queue.run("scontrol", "resume", submitted(future))
    queue.run("scontrol", "release", submitted(held))
    assert (future.result(60), held.result(60)) == (4, 9)


def test_without_the_database_the_controller_says_why(open_slurm: OpenSlurm, faulty: Cluster) -> None:
    executor = open_slurm()
    assert executor.submit(calls.square, 2).result(60) == 4
    faulty.stop_database()
    failing = executor.submit(calls.leave, 3)
    submitted(failing)
    faulty.start_database()
    error = failing.exception(100)
    assert error is not None
    assert "exit code 3" in str(error)


def test_files_of_finished_batches_go_and_those_of_dead_jobs_stay(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    executor = open_slurm(work_dir=str(tmp_path / "work"))
    batches = tmp_path / "work" / "batches"
    assert executor.submit(calls.square, 2).result(60) == 4
    until(lambda: not list(batches.iterdir()))
    error = executor.submit(calls.leave, 3).exception(60)
    where = getattr(error, "where", "")
    assert where
    executor.shutdown()
    assert [str(path) for path in batches.iterdir()] == [where]
    assert subprocess.run(["ls", where], check=True, capture_output=True).stdout
