"""Batch scripts of the user's own that are job arrays: one future for all of their tasks."""

import subprocess
import warnings
from itertools import accumulate
from pathlib import Path
from shlex import quote

import pytest

from slurmfutures import (
    JobCancelled,
    JobFailed,
    JobInfo,
    JobState,
    SlurmExecutor,
    SlurmFuturesWarning,
    SubmitError,
)
from tests.cluster.config import SMALL_QOS, SMALL_QOS_MAX_SUBMIT
from tests.drivers import Driver
from tests.fix_executors import HERE, Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

PASS = """pass_gate() {
    mkdir -p "$1/entered"; echo "$SLURM_ARRAY_TASK_ID" > "$1/entered/.$BASHPID"
    mv "$1/entered/.$BASHPID" "$1/entered/$BASHPID"
    until [ -e "$1/open" ]; do sleep 0.02; done
}"""


def bash(array: str, *lines: str) -> str:
    return "\n".join(["#!/bin/bash", f"#SBATCH --array={array}", *lines, ""])


def indices(info: JobInfo) -> list[str]:
    return [task.job_id.partition("_")[2] for task in info.tasks]


def runs(path: Path) -> list[int]:
    """Return the array indices whose script has noted them in a file, each as often as it ran."""
    return sorted(map(int, path.read_text().split())) if path.exists() else []


@pytest.fixture
def cwd(weird_tmp_path: Path) -> Path:
    return weird_tmp_path / "run 1"


def noting(path: Path) -> str:
    return f'echo "$SLURM_ARRAY_TASK_ID" >> {quote(str(path))}'


def test_it_is_one_array_with_the_indices_of_its_own(jobs: SlurmExecutor, cwd: Path) -> None:
    words = 'echo "$SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT: $SLURM_ARRAY_JOB_ID"'
    future = jobs.submit_script(bash("1-10:3,0%3", words), cwd=cwd)
    info = future.result(DEADLINE)
    assert info.ok
    assert (info.state, info.exit_code, info.job_id) == (JobState.COMPLETED, 0, future.job_id)
    assert [task.job_id for task in info.tasks] == [f"{info.job_id}_{index}" for index in (0, 1, 4, 7, 10)]
    assert all(task.ok for task in info.tasks)
    assert info.start is not None
    assert info.start == min(task.start for task in info.tasks if task.start)
    assert info.end == max(task.end for task in info.tasks if task.end)
    said = [f"{index} of 5: {info.job_id}\n" for index in (0, 1, 4, 7, 10)]
    assert future.stdout() == "".join(said)
    assert [(cwd / f"slurm-{task.job_id}.out").read_text() for task in info.tasks] == said


def test_its_output_goes_where_it_says(jobs: SlurmExecutor, cwd: Path) -> None:
    own = ["#SBATCH -o %x-%A-%3a.out", "#SBATCH -e err.%j"]
    future = jobs.submit_script(bash("3,12", *own, "echo to out", 'echo "$SLURM_JOB_ID" >&2'), cwd=cwd, name="mine")
    info = future.result(DEADLINE)
    assert (
        (cwd / f"mine-{info.job_id}-003.out").read_text()
        == "to out\n"
        == (cwd / f"mine-{info.job_id}-012.out").read_text()
    )
    own_ids = future.stderr().split()
    assert len(set(own_ids)) == 2
    assert [(cwd / f"err.{job_id}").read_text() for job_id in own_ids] == [f"{job_id}\n" for job_id in own_ids]


def test_an_array_may_have_one_task(jobs: SlurmExecutor, cwd: Path) -> None:
    future = jobs.submit_script(bash("1000", "echo $SLURM_ARRAY_TASK_ID"), cwd=cwd)
    info = future.result(DEADLINE)
    assert [task.job_id for task in info.tasks] == [f"{info.job_id}_1000"]
    assert future.stdout() == "1000\n"


def test_those_that_fail_are_told_of_when_all_are_over(jobs: SlurmExecutor, cwd: Path, gate: Gate) -> None:
    lines = ['[ "$SLURM_ARRAY_TASK_ID" -lt 7 ] || exit "$SLURM_ARRAY_TASK_ID"', PASS, f"pass_gate {quote(gate.folder)}"]
    future = jobs.submit_script(bash("5-8", *lines), cwd=cwd)
    until(lambda: sorted(gate.entered()) == ["5\n", "6\n"])
    until(future.running)
    assert future.state == JobState.RUNNING
    assert not future.done()
    gate.open()
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert f"job {future.job_id}_7 failed with exit code 7 on node" in str(error)
    assert "(2 of 4 array tasks failed)" in str(error)
    assert error.failed_tasks == (2, 4)
    assert error.info is not None
    assert (error.info.job_id, error.info.state, error.info.exit_code) == (future.job_id, JobState.FAILED, 8)
    assert [task.exit_code for task in error.info.tasks] == [0, 0, 7, 8]


def test_without_check_failures_are_an_answer(local: SlurmExecutor, cwd: Path) -> None:
    info = local.submit_script(bash("0-2", 'exit "$SLURM_ARRAY_TASK_ID"'), cwd=cwd, check=False).result(DEADLINE)
    assert not info.ok
    assert (info.state, info.exit_code) == (JobState.FAILED, 2)
    assert [task.ok for task in info.tasks] == [True, False, False]


def test_only_what_has_failed_is_run_again(jobs: SlurmExecutor, cwd: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    been = '"been.$SLURM_ARRAY_TASK_ID"'
    once = f'[ "$SLURM_ARRAY_TASK_ID" -lt 4 ] || [ -e {been} ] || {{ touch {been}'
    words = 'echo "$SLURM_ARRAY_TASK_ID in $SLURM_ARRAY_TASK_MIN-$SLURM_ARRAY_TASK_MAX:$SLURM_ARRAY_TASK_STEP"'
    future = jobs.submit_script(bash("1-7:3", noting(count), words, f"{once}; exit 3; }}"), cwd=cwd, retries=1)
    info = future.result(DEADLINE)
    assert info.ok
    assert runs(count) == [1, 4, 4, 7, 7]
    assert indices(info) == ["1", "4", "7"]
    assert future.stdout() == "1 in 1-7:3\n4 in 1-7:3\n7 in 1-7:3\n"  # also of those in an array of their own


def test_what_fails_for_good_tells_of_each_attempt(local: SlurmExecutor, cwd: Path) -> None:
    future = local.submit_script(bash("2-3", '[ "$SLURM_ARRAY_TASK_ID" -eq 2 ] || exit 5'), cwd=cwd, retries=1)
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert "(1 of 2 array tasks failed)" in str(error)
    assert "(attempt 2 of 2)" in str(error)
    assert f"attempt 1: job {future.job_id}_3 failed with exit code 5" in str(error)


def test_cancelled_all_of_it_ends(jobs: SlurmExecutor, cwd: Path, gate: Gate) -> None:
    lines = [PASS, "trap 'touch ended.$SLURM_ARRAY_TASK_ID; exit 9' TERM", f"pass_gate {quote(gate.folder)} & wait"]
    future = jobs.submit_script(bash("3,5", *lines), cwd=cwd)
    gate.wait(2)
    assert future.cancel()
    assert future.cancelled()
    until(lambda: (cwd / "ended.3").exists() and (cwd / "ended.5").exists())


def test_a_view_waits_for_it(jobs: SlurmExecutor, cwd: Path) -> None:
    with jobs.with_options(time="00:05:00") as view:
        future = view.submit_script(bash("0-1", "true"), cwd=cwd)
    assert future.done()
    assert future.result().ok


def test_equal_arrays_are_arrays_of_their_own(jobs: SlurmExecutor, cwd: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    futures = [jobs.submit_script(bash("1,4", noting(count)), cwd=cwd) for _ in range(2)]
    assert len({future.result(DEADLINE).job_id for future in futures}) == 2
    assert runs(count) == [1, 1, 4, 4]


@HERE
@pytest.mark.parametrize(("array", "bound"), [("0-5%2", 2), ("0-5%5", 3)])
def test_no_more_run_at_once_than_it_and_max_workers_allow(
    opener: Opener, scheduler: str, cwd: Path, array: str, bound: int
) -> None:
    executor = opener.root(scheduler, max_workers=3)
    lines = ["echo 1 >> here", "sleep 0.05", "echo -1 >> here"]
    assert executor.submit_script(bash(array, *lines), cwd=cwd).result(DEADLINE).ok
    assert max(accumulate(map(int, (cwd / "here").read_text().split()))) <= bound


@HERE
@pytest.mark.parametrize("array", ["", "1-", "3-1", "1-3:0", "1-3%0", "[1-3]", "a", "1 2", "0-5000000"])
def test_nonsense_is_told_before_anything_is_submitted(jobs: SlurmExecutor, array: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the script, '#SBATCH --array="):
        jobs.submit_script(bash(f'"{array}"'))
    assert not jobs._pending()


@pytest.mark.slurm
class TestOnSlurm:
    """What only the real Slurm does."""

    @pytest.fixture
    def here(self, cluster: object, opener: Opener) -> SlurmExecutor:
        return opener.root("slurm")

    def test_one_that_is_too_large_is_refused_in_its_words(self, here: SlurmExecutor, cwd: Path) -> None:
        with pytest.raises(SubmitError, match="Invalid job array specification"):
            here.submit_script(bash("0,2000000", "true"), cwd=cwd, check=False).result(DEADLINE)

    def test_where_there_is_no_room_it_waits_as_a_whole(self, here: SlurmExecutor, cwd: Path, gate: Gate) -> None:
        most = SMALL_QOS_MAX_SUBMIT
        qos = f"#SBATCH --qos={SMALL_QOS}"
        first = here.submit_script(bash(f"1-{most}", qos, PASS, f"pass_gate {quote(gate.folder)}"), cwd=cwd)
        until(lambda: first.job_id)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SlurmFuturesWarning)
            second = here.submit_script(bash("0-2", qos, "true"), cwd=cwd)
            words = "the array waits until all of its 3 tasks have room"
            until(lambda: any(words in str(one.message) for one in caught))
        gate.open()
        info = second.result(DEADLINE)
        assert [task.job_id for task in info.tasks] == [f"{info.job_id}_{index}" for index in range(3)]
        assert first.result(DEADLINE).ok

    def test_somebody_else_cancels_a_task(self, here: SlurmExecutor, cwd: Path, gate: Gate) -> None:
        future = here.submit_script(bash("2,9", PASS, f"pass_gate {quote(gate.folder)}"), cwd=cwd)
        gate.wait(2)
        assert future.job_id is not None
        ours = [path for path in Path(gate.folder, "entered").iterdir() if path.read_text() == "9\n"]
        subprocess.run(["scancel", f"{future.job_id}_9"], check=True)
        until(lambda: not lives(int(ours[0].name)))  # else it may reach its end before the signal gets there
        gate.open()
        error = future.exception(DEADLINE)
        assert isinstance(error, JobCancelled)
        assert error.job_id == f"{future.job_id}_9"
        assert error.failed_tasks == (1, 2)


class TestCheckpoint:
    """Arrays that a checkpoint remembers."""

    def test_only_tasks_that_have_not_succeeded_are_submitted_again(
        self, opener: Opener, cwd: Path, tmp_path: Path
    ) -> None:
        count, good = tmp_path / "count", tmp_path / "good"
        fails = f'[ "$SLURM_ARRAY_TASK_ID" -ne 4 ] || [ -e {quote(str(good))} ]'
        words = 'echo "$SLURM_ARRAY_TASK_COUNT"'
        found = []
        for _ in range(3):
            with opener.forgotten("local", checkpoint=tmp_path / "ckpt") as executor:
                future = executor.submit_script(bash("1-7:3", noting(count), words, fails), cwd=cwd, check=False)
                found.append(future.result(DEADLINE))
                said = future.stdout()
            if len(found) == 2:
                assert said == "3\n"  # of the one that ran; it sees the array as a whole
            good.touch()
        assert [info.ok for info in found] == [False, True, True]
        assert runs(count) == [1, 4, 4, 7]
        assert found[0].tasks[0] == found[1].tasks[0]
        assert found[1] == found[2]
        assert indices(found[2]) == ["1", "4", "7"]

    @HERE
    def test_what_a_killed_driver_has_left_is_waited_for(
        self, opener: Opener, scheduler: str, cwd: Path, tmp_path: Path, gate: Gate
    ) -> None:
        count = tmp_path / "count"
        options = opener.options(scheduler, checkpoint=tmp_path / "ckpt", max_workers=4)
        lines = [noting(count), '[ "$SLURM_ARRAY_TASK_ID" -gt 2 ] || exit "$SLURM_ARRAY_TASK_ID"']
        text = bash("0,2,11,30", *lines, PASS, f"pass_gate {quote(gate.folder)}")
        driver = Driver(
            tmp_path / "driver.py",
            "executor = SlurmExecutor(**options)\nexecutor.submit_script(arguments[0], cwd=arguments[1]).result()\n",
            options,
            text,
            str(cwd),
        )
        assert sorted(gate.wait(2)) == ["11\n", "30\n"]
        until(lambda: len(runs(count)) == 4)
        driver.kill()
        with opener.forgotten(scheduler, checkpoint=tmp_path / "ckpt") as executor:
            future = executor.submit_script(text, cwd=cwd, check=False)
            gate.open()
            info = future.result(DEADLINE)
        assert indices(info) == ["0", "2", "11", "30"]
        assert [task.exit_code for task in info.tasks] == [0, 2, 0, 0]
        again = runs(count)
        assert again.count(0) == 1
        if scheduler == "slurm":  # the embedded default's jobs end with their driver, and begin anew
            assert again.count(11) == again.count(30) == 1

    def test_one_that_is_gone_from_work_dir_begins_anew(
        self, opener: Opener, cwd: Path, tmp_path: Path, gate: Gate
    ) -> None:
        places = {"checkpoint": tmp_path / "ckpt", "work_dir": str(tmp_path / "work"), "max_workers": 3}
        text = bash("1,5,8", PASS, f"[ $SLURM_ARRAY_TASK_ID -eq 5 ] || pass_gate {quote(gate.folder)}", "echo again")
        driver = Driver(
            tmp_path / "driver.py",
            "with SlurmExecutor(**options) as executor:\n    executor.submit_script(arguments[0], cwd=arguments[1])\n",
            opener.options("local", **places),
            text,
            str(cwd),
        )
        gate.wait(2)
        driver.kill()
        until(lambda: not list((tmp_path / "work" / "login").iterdir()))  # its agent has ended
        subprocess.run(["rm", "-r", str(tmp_path / "work" / "batches")], check=True)
        gate.open()
        with opener.forgotten("local", **places) as executor:
            info = executor.submit_script(text, cwd=cwd).result(DEADLINE)
        assert info.ok
        assert indices(info) == ["1", "5", "8"]
