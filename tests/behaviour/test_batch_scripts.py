"""Batch scripts of the user's own: submitted, watched, found again, and told of."""

import asyncio
import shutil
import signal
import subprocess
from concurrent.futures import as_completed
from datetime import timedelta
from pathlib import Path
from shlex import quote

import pytest

from slurmfutures import (
    JobCancelled,
    JobFailed,
    JobInfo,
    JobOutOfMemory,
    JobState,
    JobTimeout,
    SlurmExecutor,
    SlurmFuturesWarning,
    SubmitError,
)
from tests.drivers import Driver
from tests.fix_executors import HERE, Opener, OpenJobs
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

ENTER = 'mkdir -p "$1/entered"; echo x > "$1/entered/.$BASHPID"; mv "$1/entered/.$BASHPID" "$1/entered/$BASHPID"'
PASS = f"""pass_gate() {{
    {ENTER}
    until [ -e "$1/open" ]; do sleep 0.02; done
}}"""


def bash(*lines: str) -> str:
    return "\n".join(["#!/bin/bash", *lines, ""])


@pytest.fixture
def cwd(weird_tmp_path: Path) -> Path:
    return weird_tmp_path / "not there yet" / "run 1"


def counting(path: Path, *lines: str) -> str:
    """Return a script that leaves a line for each of its runs."""
    return bash(f"echo x >> {quote(str(path))}", *lines)


def runs(path: Path) -> int:
    return len(path.read_text().split()) if path.exists() else 0


def test_a_script_says_how_its_job_went(jobs: SlurmExecutor, cwd: Path) -> None:
    future = jobs.submit_script(bash('echo "out $PWD"', "echo err >&2", "echo done > file"), cwd=cwd)
    info = future.result(DEADLINE)
    assert isinstance(info, JobInfo)
    assert info.ok
    assert (info.job_id, info.state, info.exit_code, info.signal) == (future.job_id, JobState.COMPLETED, 0, None)
    assert info.nodes
    assert info.submit is not None
    assert info.start is not None
    assert info.end is not None
    slack = timedelta(seconds=1)
    assert info.submit - slack <= info.start <= info.end
    assert (cwd / "file").read_text() == "done\n"
    assert sorted(future.stdout().splitlines()) == sorted([f"out {cwd}", "err"])  # in one file, as sbatch has it
    assert future.stdout() == future.stderr() == (cwd / f"slurm-{info.job_id}.out").read_text()
    assert future.state == JobState.COMPLETED


def test_its_own_directives_count(jobs: SlurmExecutor, cwd: Path) -> None:
    own = ["#SBATCH -J 'my job' --output=%x.%j.out", "", "# a comment", "#SBATCH -e err # the rest is for readers"]
    future = jobs.submit_script(bash(*own, 'echo "$SLURM_JOB_NAME"', "echo to err >&2"), cwd=cwd)
    info = future.result(DEADLINE)
    assert (cwd / f"my_job.{info.job_id}.out").read_text() == "my_job\n" == future.stdout()
    assert (cwd / "err").read_text() == "to err\n" == future.stderr()


def test_a_folder_of_its_own_may_be_named_by_the_script(jobs: SlurmExecutor, tmp_path: Path) -> None:
    jobs.submit_script(bash(f"#SBATCH -D {tmp_path}", "pwd > here")).result(DEADLINE)
    assert (tmp_path / "here").read_text() == f"{tmp_path}\n"


@pytest.mark.slurm
def test_what_its_directives_leave_open_is_as_the_executor_has_it(
    cluster: object, opener: Opener, tmp_path: Path
) -> None:
    executor = opener.root("slurm", time="00:07:00", mem="30M", comment="mine")
    show = 'scontrol show job "$SLURM_JOB_ID"'
    shown = executor.submit_script(bash("#SBATCH --mem-per-cpu=20M --ntasks 2", show), cwd=tmp_path)
    shown.result(DEADLINE)
    assert "TimeLimit=00:07:00" in shown.stdout()
    assert "MinMemoryCPU=20M" in shown.stdout()
    assert "NumTasks=2" in shown.stdout()
    assert "Comment=mine sf:" in shown.stdout()
    shown = executor.with_options(time="00:09:00").submit_script(bash("#SBATCH -t 3", show), cwd=tmp_path, name="this")
    shown.result(DEADLINE)
    assert "TimeLimit=00:03:00" in shown.stdout()
    assert "MinMemoryNode=30M" in shown.stdout()
    assert "JobName=this.sf-" in shown.stdout()


@pytest.mark.parametrize("interpreter", ["/usr/bin/env python3", "/bin/sh -eu"])
def test_any_interpreter_runs_it(jobs: SlurmExecutor, cwd: Path, interpreter: str) -> None:
    text = 'print("hello")' if "python" in interpreter else "echo hello; echo $-"
    future = jobs.submit_script(f"#! {interpreter}\n{text}\n", cwd=cwd)
    assert future.result(DEADLINE).ok
    said = future.stdout().split()
    assert said[0] == "hello"
    assert "python" in interpreter or {"e", "u"} <= set(said[1])


def test_a_script_may_be_a_file_or_render_itself(jobs: SlurmExecutor, cwd: Path, tmp_path: Path) -> None:
    class Made:
        def render(self) -> str:
            return bash("echo made")

    path = tmp_path / "job.sh"
    path.write_text(bash("echo filed"))
    futures = [jobs.submit_script(script, cwd=cwd) for script in (Made(), path)]
    assert [(future.result(DEADLINE).ok, future.stdout()) for future in futures] == [
        (True, "made\n"),
        (True, "filed\n"),
    ]


def test_a_large_script_arrives_whole(jobs: SlurmExecutor, cwd: Path) -> None:
    rows = [f"# {number} {'x' * 100}" for number in range(30_000)]
    future = jobs.submit_script(bash(*rows, "echo end"), cwd=cwd)
    assert future.result(DEADLINE).ok
    assert future.stdout() == "end\n"


def test_a_script_that_fails_raises(jobs: SlurmExecutor, cwd: Path) -> None:
    future = jobs.submit_script(bash("echo why >&2", "exit 7"), cwd=cwd)
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert f"job {future.job_id} failed with exit code 7 on node" in str(error)
    assert str(error).endswith("why")
    assert error.info is not None
    assert not error.info.ok
    assert (error.info.state, error.info.exit_code) == (JobState.FAILED, 7)
    assert error.info.start is not None


def test_a_missing_command_is_not_taken_for_a_missing_interpreter(jobs: SlurmExecutor, cwd: Path) -> None:
    error = jobs.submit_script(bash("there-is-no-such-command"), cwd=cwd).exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert error.exit_code == 127
    assert "python" not in str(error)
    assert "there-is-no-such-command: command not found" in str(error)


def test_without_check_a_failure_is_an_answer(jobs: SlurmExecutor, cwd: Path) -> None:
    info = jobs.submit_script(bash("exit 7"), cwd=cwd, check=False).result(DEADLINE)
    assert not info.ok
    assert (info.state, info.exit_code) == (JobState.FAILED, 7)


def test_one_that_is_killed_has_not_reached_its_end(jobs: SlurmExecutor, cwd: Path) -> None:
    info = jobs.submit_script(bash("kill -KILL $$"), cwd=cwd, check=False).result(DEADLINE)
    assert info.state == JobState.FAILED
    assert info.signal == signal.SIGKILL


def test_it_fails_again_as_often_as_it_may(jobs: SlurmExecutor, cwd: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    fails_twice = counting(count, f"[ $(wc -l < {quote(str(count))}) -ge 3 ]")
    assert jobs.submit_script(fails_twice, cwd=cwd, retries=5).result(DEADLINE).ok
    assert runs(count) == 3


def test_what_fails_for_good_tells_of_each_attempt(jobs: SlurmExecutor, cwd: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    future = jobs.submit_script(counting(count, f"exit $((2 + $(wc -l < {quote(str(count))})))"), cwd=cwd, retries=1)
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert runs(count) == 2
    assert "failed with exit code 4" in str(error)
    assert "(attempt 2 of 2)" in str(error)
    assert "attempt 1: job" in str(error)
    assert "failed with exit code 3" in str(error)


def test_one_failure_abandons_no_other(jobs: SlurmExecutor, cwd: Path) -> None:
    codes = [0, 3, 0, 4]
    futures = {jobs.submit_script(bash(f"exit {code}"), cwd=cwd): code for code in codes}
    for future in as_completed(futures, DEADLINE):
        error = future.exception()
        assert (error.exit_code if isinstance(error, JobFailed) else 0) == futures[future]  # type: ignore[index]


def test_scripts_are_gathered(jobs: SlurmExecutor, cwd: Path) -> None:
    async def gathered() -> list[JobInfo | BaseException]:
        futures = [jobs.submit_script(bash(f"exit {code}"), cwd=cwd) for code in (0, 3, 0)]
        return await asyncio.gather(*futures, return_exceptions=True)

    first, failed, last = asyncio.run(gathered())
    assert isinstance(first, JobInfo)
    assert isinstance(failed, JobFailed)
    assert isinstance(last, JobInfo)


def test_equal_scripts_are_jobs_of_their_own(jobs: SlurmExecutor, cwd: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    futures = [jobs.submit_script(counting(count), cwd=cwd) for _ in range(3)]
    assert len({future.result(DEADLINE).job_id for future in futures}) == 3
    assert runs(count) == 3


def test_signals_reach_the_script_and_its_traps(jobs: SlurmExecutor, cwd: Path, gate: Gate) -> None:
    trapping = bash(
        PASS, "trap 'echo trapped > trapped; exit 9' TERM", f"pass_gate {quote(gate.folder)} & wait", "echo on"
    )
    future = jobs.submit_script(trapping, cwd=cwd)
    gate.wait()
    assert future.cancel()
    until((cwd / "trapped").exists)
    assert "on\n" not in future.stdout().splitlines(keepends=True)


def test_output_can_be_read_while_it_runs(jobs: SlurmExecutor, cwd: Path, gate: Gate) -> None:
    future = jobs.submit_script(bash(PASS, "echo so far", f"pass_gate {quote(gate.folder)}"), cwd=cwd)
    gate.wait()
    assert until(future.stdout) == "so far\n"
    until(future.running)
    gate.open()
    assert future.result(DEADLINE).ok


@HERE
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("echo hello\n", "must begin with '#!'"),
        ("#!/bin/bash\r\necho\r\n", r"\r\n"),
        ("#!/bin/bash\n\0", "NUL"),
        (bash("#SBATCH --array=3-1"), "line 2 of the script, '#SBATCH --array=3-1': '3-1' has no array index"),
        (bash("", "#SBATCH -W"), "line 3 of the script, '#SBATCH -W': the option 'wait' cannot be set"),
        (bash("#SBATCH -partition=main"), "long options begin with two dashes: --partition=main"),
        (bash("#SBATCH partition=main"), "'partition=main' is not an option"),
        (bash("#SBATCH --time=soon"), "'soon'"),
        (bash("#SBATCH --comment='open"), "No closing quotation"),
    ],
)
def test_nonsense_is_told_before_anything_is_submitted(jobs: SlurmExecutor, wrong: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        jobs.submit_script(wrong)
    assert words in str(caught.value)
    assert not jobs._pending()


def test_a_directive_behind_a_command_is_told_of(jobs: SlurmExecutor, cwd: Path) -> None:
    with pytest.warns(SlurmFuturesWarning, match=r"'#SBATCH --mem=1G' comes after the first command"):
        future = jobs.submit_script(bash("true", "#SBATCH --mem=1G"), cwd=cwd)
    assert future.result(DEADLINE).ok


def test_a_folder_that_cannot_be_made_is_told_of(jobs: SlurmExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SubmitError, match="file/below"):
        jobs.submit_script(bash("true"), cwd=tmp_path / "file" / "below").result(DEADLINE)


@pytest.mark.slurm
class TestOnSlurm:
    """What only the real Slurm does."""

    @pytest.fixture
    def here(self, cluster: object, opener: Opener) -> SlurmExecutor:
        return opener.root("slurm")

    def test_its_refusal_has_its_own_words(self, here: SlurmExecutor, cwd: Path) -> None:
        with pytest.raises(SubmitError, match="nowhere"):
            here.submit_script(bash("#SBATCH -p nowhere"), cwd=cwd, check=False).result(DEADLINE)

    def test_somebody_else_cancels_it(self, here: SlurmExecutor, cwd: Path, gate: Gate) -> None:
        futures = [
            here.submit_script(bash(PASS, f"pass_gate {quote(gate.folder)}"), cwd=cwd, check=check)
            for check in (True, False)
        ]
        gate.wait(2)
        for future in futures:
            assert future.job_id is not None
            subprocess.run(["scancel", future.job_id], check=True)
        assert isinstance(futures[0].exception(DEADLINE), JobCancelled)
        assert futures[1].result(DEADLINE).state == JobState.CANCELLED

    def test_one_that_runs_out_of_memory(self, here: SlurmExecutor, cwd: Path) -> None:
        said = "slurmstepd: error: Detected 1 oom-kill event(s)"
        error = here.submit_script(bash(f"echo {quote(said)} >&2", "exit 9"), cwd=cwd).exception(DEADLINE)
        assert isinstance(error, JobOutOfMemory)

    def test_slurm_s_word_alone_is_not_enough(self, here: SlurmExecutor, cwd: Path) -> None:
        error = here.submit_script(bash('rm -r "${0%/*}/0/r"'), cwd=cwd).exception(DEADLINE)
        assert isinstance(error, JobFailed)
        assert "the script has not reached its end, although Slurm has the job as COMPLETED" in str(error)

    def test_requeued_it_runs_again_and_counts_once(self, here: SlurmExecutor, cwd: Path, gate: Gate) -> None:
        waiting = bash(
            "#SBATCH --requeue", PASS, f"pass_gate {quote(gate.folder)}", 'echo "$SLURM_RESTART_COUNT" > run'
        )
        future = here.submit_script(waiting, cwd=cwd)
        gate.wait()
        assert future.job_id is not None
        subprocess.run(["scontrol", "requeue", future.job_id], check=True)
        subprocess.run(["scontrol", "update", f"JobId={future.job_id}", "StartTime=now"], check=True)
        gate.wait(2)  # the first run is over
        gate.open()
        assert future.result(DEADLINE).ok
        assert (cwd / "run").read_text() == "1\n"


def test_the_embedded_default_keeps_time_limits(local: SlurmExecutor, cwd: Path) -> None:
    error = local.submit_script(bash("#SBATCH -t 0:01", "sleep 60"), cwd=cwd).exception(DEADLINE)
    assert isinstance(error, JobTimeout)


def test_the_embedded_default_ends_all_of_a_job(opener: Opener, cwd: Path, gate: Gate) -> None:
    executor = opener.root("local")
    stubborn = bash("set -m", PASS, f"(trap '' TERM; pass_gate {quote(gate.folder)}) & wait")  # a group of its own
    future = executor.submit_script(stubborn, cwd=cwd)
    gate.wait()
    process = int(next(iter(Path(gate.folder, "entered").iterdir())).name)
    assert Path(f"/proc/{process}").exists()
    future.cancel()
    until(lambda: not lives(process))


class TestCheckpoint:
    """Scripts that a checkpoint remembers."""

    def test_one_that_has_succeeded_is_not_submitted_again(
        self, open_jobs: OpenJobs, cwd: Path, tmp_path: Path
    ) -> None:
        count = tmp_path / "count"
        found = []
        for _ in range(2):
            with open_jobs(checkpoint=tmp_path / "ckpt") as executor:
                found.append(executor.submit_script(counting(count), cwd=cwd).result(DEADLINE))
        assert found[0] == found[1]
        assert runs(count) == 1

    def test_other_words_and_other_folders_are_other_scripts(
        self, open_jobs: OpenJobs, cwd: Path, tmp_path: Path
    ) -> None:
        count = tmp_path / "count"
        for _ in range(2):
            with open_jobs(checkpoint=tmp_path / "ckpt") as executor:
                scripts = [(counting(count), cwd), (counting(count), cwd / "other"), (counting(count, "true"), cwd)]
                assert all(executor.submit_script(text, cwd=where).result(DEADLINE).ok for text, where in scripts)
        assert runs(count) == 3

    def test_one_that_has_failed_is_submitted_again(self, open_jobs: OpenJobs, cwd: Path, tmp_path: Path) -> None:
        count = tmp_path / "count"
        for check in (True, False):
            with open_jobs(checkpoint=tmp_path / "ckpt") as executor:
                future = executor.submit_script(counting(count, "exit 3"), cwd=cwd, check=check)
                error = future.exception(DEADLINE)
                assert isinstance(error, JobFailed) if check else future.result().exit_code == 3
        assert runs(count) == 2

    @HERE
    def test_one_that_a_killed_driver_has_left_is_waited_for(
        self, opener: Opener, scheduler: str, cwd: Path, tmp_path: Path, gate: Gate
    ) -> None:
        count = tmp_path / "count"
        options = opener.options(scheduler, checkpoint=tmp_path / "ckpt", max_workers=3)
        texts = [counting(count, PASS, f"pass_gate {quote(gate.folder)}", f"exit {code}") for code in (0, 3, 0)]
        driver = Driver(
            tmp_path / "driver.py",
            "executor = SlurmExecutor(**options)\n"
            "futures = [executor.submit_script(text, cwd=arguments[1], retries=1) for text in arguments[0]]\n"
            "futures[0].result()\n",
            options,
            texts,
            str(cwd),
        )
        gate.wait(3)
        driver.kill()
        with opener.forgotten(scheduler, checkpoint=tmp_path / "ckpt") as executor:
            futures = [executor.submit_script(text, cwd=cwd, check=False) for text in texts[:2]]
            gate.open()
            assert [future.result(DEADLINE).exit_code for future in futures] == [0, 3]
            assert futures[0].job_id == futures[0].result().job_id
        if scheduler == "slurm":  # the embedded default's jobs end with their driver, and begin anew
            assert runs(count) == 3

    def test_one_that_is_gone_from_work_dir_begins_anew(
        self, opener: Opener, cwd: Path, tmp_path: Path, gate: Gate
    ) -> None:
        places = {"checkpoint": tmp_path / "ckpt", "work_dir": str(tmp_path / "work")}
        text = bash(PASS, f"pass_gate {quote(gate.folder)}", "echo again")
        driver = Driver(
            tmp_path / "driver.py",
            "with SlurmExecutor(**options) as executor:\n    executor.submit_script(arguments[0], cwd=arguments[1])\n",
            opener.options("local", **places),
            text,
            str(cwd),
        )
        gate.wait()
        driver.kill()
        until(lambda: not list((tmp_path / "work" / "login").iterdir()))  # its agent has ended
        shutil.rmtree(tmp_path / "work" / "batches")
        gate.open()
        with opener.forgotten("local", **places) as executor:
            future = executor.submit_script(text, cwd=cwd)
            assert future.result(DEADLINE).ok
            assert future.stdout() == "again\n"
