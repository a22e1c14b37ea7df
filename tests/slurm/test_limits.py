"""What the cluster allows bounds how calls go in, never whether they succeed."""

import logging
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SubmitError
from tests import calls
from tests.cluster import Cluster
from tests.cluster.config import SMALL_QOS, SMALL_QOS_MAX_SUBMIT
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, submitted, together
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.alone, pytest.mark.timeout(180)]

MOST_TASKS = 1001  # of an array, MaxArraySize of this cluster
MOST_JOBS = 5000  # MaxJobCount of this cluster, each array task counted


# ---- arrays


def test_calls_that_come_close_together_are_one_array_and_few_questions(open_slurm: OpenSlurm, shadow: Shadow) -> None:
    for name in ("sbatch", "squeue", "sacct"):
        shadow.put(name)
    executor = open_slurm(shadow.env)
    assert list(executor.map(calls.square, range(200))) == [number**2 for number in range(200)]
    (submission,) = [called for called in shadow.called("sbatch") if "--parsable" in called.words]
    assert "--array=0-199" in submission.words
    asked = [called.at for called in shadow.called("squeue")]
    assert all(later - earlier >= 10 for earlier, later in pairwise(asked))
    assert not shadow.called("sacct")


def test_a_batch_beyond_the_largest_array_goes_in_as_several(open_slurm: OpenSlurm, queue: Queue) -> None:
    executor = open_slurm(hold=True)
    futures = together(executor, calls.square, [(number,) for number in range(2500)])
    submitted(futures[-1])
    assert [future.job_id for future in futures].count(None) == 0
    arrays = sorted({str(future.job_id).partition("_")[0] for future in futures}, key=int)
    assert [future.job_id for future in futures] == [
        f"{arrays[number // MOST_TASKS]}_{number % MOST_TASKS}" for number in range(2500)
    ]
    assert len(queue.jobs()) == 2500
    for number in (0, MOST_TASKS - 1, MOST_TASKS, 2 * MOST_TASKS + 7, 2499):
        queue.run("scontrol", "release", submitted(futures[number]))
        assert futures[number].result(60) == number**2


def test_what_goes_beyond_the_queue_of_the_whole_cluster_waits(open_slurm: OpenSlurm) -> None:
    futures = together(open_slurm(hold=True), calls.square, [(number,) for number in range(MOST_JOBS + 100)])
    submitted(futures[3 * MOST_TASKS])
    assert futures[-1].job_id is None
    for future in futures[: 2 * MOST_TASKS]:
        future.cancel()
    submitted(futures[-1])
    assert not any(future.done() for future in futures[2 * MOST_TASKS :])


# ---- limits on submitted jobs


def test_a_limit_on_submitted_jobs_holds_calls_back_and_is_told(
    open_slurm: OpenSlurm, queue: Queue, shadow: Shadow, caplog: pytest.LogCaptureFixture
) -> None:
    shadow.put("sbatch")
    executor = open_slurm(shadow.env, qos=SMALL_QOS)
    most = 0
    with caplog.at_level(logging.WARNING, "slurmfutures"):
        futures = together(executor, calls.square, [(number,) for number in range(60)])
        while not all(future.done() for future in futures):
            most = max(most, len(queue.active()))
    assert [future.result() for future in futures] == [number**2 for number in range(60)]
    assert 0 < most <= SMALL_QOS_MAX_SUBMIT
    assert "QOSMaxSubmitJobPerUserLimit" in caplog.text
    assert len(shadow.called("sbatch")) < 40  # once the limit is known, calls go in as there is room for them


def test_a_queue_that_is_full_is_waited_for_and_told(
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


def test_a_limit_on_some_calls_does_not_keep_back_others(open_slurm: OpenSlurm, gate: Gate) -> None:
    executor = open_slurm(qos=SMALL_QOS)
    limited = together(executor, calls.pass_gate, [(gate.folder, n) for n in range(SMALL_QOS_MAX_SUBMIT + 10)])
    submitted(limited[0])
    others = executor.with_options(qos=None)
    assert list(others.map(calls.square, range(40))) == [number**2 for number in range(40)]
    gate.open()
    assert [future.result(60) for future in limited] == list(range(SMALL_QOS_MAX_SUBMIT + 10))


# ---- max_workers


def test_max_workers_bounds_what_runs_at_once_in_all_batches_together(open_slurm: OpenSlurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = open_slurm(max_workers=3)
    futures = together(executor, calls.overlap, [(str(log), 0.3)] * 12)
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
    assert len(second.entered()) == 3
    second.open()
    for future in ahead + behind:
        future.result(60)


# ---- options


@pytest.mark.parametrize(
    "options",
    [
        {"partition": "nosuch"},
        {"qos": "nosuch"},
        {"account": "nosuch"},
        {"mem": "64G"},
        {"begin": "banana"},
        {"nodelist": "nosuch"},
        {"sbatch_args": ["--nosuch=1"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_sbatch_refuses_it_refuses_in_its_own_words(
    open_slurm: OpenSlurm, cluster: Cluster, options: dict[str, Any]
) -> None:
    (name, value), *_ = options.items()
    words = value if isinstance(value, list) else [f"--{name}={value}"]
    done = subprocess.run(["sbatch", *words, "--wrap=true"], check=False, capture_output=True, text=True)
    said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines()]
    error = open_slurm().with_options(**options).submit(calls.square, 2).exception(60)
    assert isinstance(error, SubmitError)
    assert said
    assert error.message == "; ".join(said)
    assert error.message in str(error)
    assert words[0] in error.options


def test_calls_with_different_options_are_different_jobs(open_slurm: OpenSlurm) -> None:
    executor = open_slurm(partition="main", cpus_per_task=2)
    other = executor.with_options(partition="low", mem="300M", cpus_per_task=None, job_name="named", comment="a b")
    first, second = executor.submit(work.variables), other.submit(work.variables)
    of_first, of_second = first.result(60), second.result(60)
    names = ("SLURM_JOB_PARTITION", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE")
    assert [of_first.get(name) for name in names] == ["main", "2", None]
    assert [of_second.get(name) for name in names] == ["low", None, "300"]
    assert of_second["SLURM_JOB_NAME"].startswith("named")
    assert of_first["SLURM_JOB_NAME"].startswith("variables")


def test_a_user_s_own_variables_do_not_change_jobs(open_slurm: OpenSlurm, queue: Queue, gate: Gate) -> None:
    executor = open_slurm(
        {
            "SBATCH_PARTITION": "nosuch",
            "SBATCH_TIMELIMIT": "1",
            "SBATCH_ARRAY_INX": "0-3",
            "SBATCH_JOB_NAME": "theirs",
            "SBATCH_NO_REQUEUE": "1",
        },
        time="00:30:00",
    )
    future = executor.submit(calls.pass_gate, gate.folder, 5)
    gate.wait()
    job_id = submitted(future)
    assert [job.id for job in queue.active()] == [job_id]
    assert queue.shown(job_id, "Partition") == "main"
    assert queue.shown(job_id, "TimeLimit") == "00:30:00"
    assert queue.shown(job_id, "Requeue") == "1"
    assert queue.shown(job_id, "JobName").startswith("pass_gate")
    gate.open()
    assert future.result(60) == 5


# ---- inside a job

DRIVER = """\
import os, sys
sys.path[:] = {path!r}
from slurmfutures import SlurmExecutor
from tests import calls
from tests.slurm import work

with SlurmExecutor(scheduler=sys.argv[1], work_dir=sys.argv[2]) as executor:
    future = executor.submit(work.variables)
    inner = future.result(60)
    numbers = list(executor.map(calls.square, range(3)))
same = [name for name, value in inner.items() if name.startswith("SLURM_") and value == os.environ.get(name)]
print(numbers, future.job_id != os.environ["SLURM_JOB_ID"], inner.get("SLURM_ARRAY_TASK_ID"))
print(*[name for name in same if "CLUSTER" not in name and name != "SLURM_CONF"])
"""


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_a_driver_in_a_job_is_not_confused_by_that_job(queue: Queue, tmp_path: Path, scheduler: str) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(path=sys.path))
    words = ["sbatch", "--parsable", "--array=7", "--cpus-per-task=3", "--mem=900", "--time=5", "-wn2"]
    command = f"{sys.executable} {driver} {scheduler} {tmp_path}/work"
    job_id = queue.run(*words, f"--output={tmp_path}/said", f"--chdir={tmp_path}", f"--wrap={command}").strip()
    until(lambda: queue.shown(f"{job_id}_7", "JobState") not in ("PENDING", "RUNNING", "COMPLETING"))
    first, second = (tmp_path / "said").read_text().splitlines()
    print(second)
    assert first == "[0, 1, 4] True None"
