"""Scripts of steps, as jobs."""

from pathlib import Path
from typing import Any

import pytest

from slurmfutures import JobFailed, Script, SlurmExecutor, Step, gpu_parallel
from tests.waiting import DEADLINE, until


def test_a_step_that_fails_is_named(jobs: SlurmExecutor, weird_tmp_path: Path) -> None:
    script = Script(["true", Step("exit 7", checkpoint="mark"), "true"], teardown="echo gone >teardown")
    with pytest.raises(JobFailed, match=r"slurmfutures: step 2 of 3 \(mark\) failed with exit code 7") as caught:
        jobs.submit_script(script, cwd=weird_tmp_path).result(DEADLINE)
    assert caught.value.exit_code == 7
    assert (weird_tmp_path / "teardown").read_text() == "gone\n"


def test_a_job_that_runs_again_skips_what_has_succeeded(jobs: SlurmExecutor, tmp_path: Path) -> None:
    once = "[ -e go{0} ] || {{ touch go{0}; exit 3; }}"
    groups = [[Step(f"echo {name} >>log{name}; {once.format(name)}", checkpoint=name)] for name in "bc"]
    steps: list[Any] = [Step("echo a >>log", checkpoint="a"), gpu_parallel(groups, devices=[0, 0]), "echo end >>log"]
    info = jobs.submit_script(Script(steps), cwd=tmp_path, retries=1).result(DEADLINE)
    assert info.ok
    assert (tmp_path / "log").read_text().split() == ["a", "end"]
    assert (tmp_path / "logb").read_text().split() == ["b", "b"]


def test_a_job_that_is_cancelled_has_its_teardown(jobs: SlurmExecutor, tmp_path: Path) -> None:
    waiting = "bash -c 'echo >at; exec sleep 1000'"  # as a signal just before a command's start can miss it in bash
    script = Script([Step(waiting, checkpoint="mark")], teardown="echo gone >.gone; mv .gone gone")
    future = jobs.submit_script(script, cwd=tmp_path)
    until((tmp_path / "at").exists)
    assert future.cancel()
    until((tmp_path / "gone").exists)
    assert not (tmp_path / "mark").exists()
