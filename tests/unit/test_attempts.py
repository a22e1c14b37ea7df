"""Which ends of a job are tried again, where, and what is said of it."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._errors import JobError, JobPreempted, NodeFailed, ResultLost, SlurmFuturesError, job_error
from slurmfutures._remote import job
from slurmfutures._remote.states import TERMINAL, JobState
from slurmfutures._retries import Attempts

LOST = ResultLost("job 3 on node n3 ended well but without a result: it left (its files: /scratch/x)\nlast: words")


def died(state: JobState, number: int, **more: Any) -> SlurmFuturesError:
    record = {"job_id": str(number), "state": state, "node": f"n{number}", "where": "/scratch/x", **more}
    return job_error(record)


def test_as_many_attempts_are_made_as_are_allowed() -> None:
    attempts = Attempts(3)
    assert [attempts.again(LOST, "n1") for _ in range(3)] == [True, True, False]
    assert not Attempts(1).again(LOST, "n1")


def test_what_may_fail_by_itself_is_tried_again_as_often_as_is_said() -> None:
    failed, lost = died(JobState.FAILED, 1, exit_code=7), died(JobState.NODE_FAIL, 1)
    attempts = Attempts(4, whatever=2)
    assert attempts.again(failed, "n1")
    assert attempts.request(0, [])["exclude"] == []
    assert not attempts.again(failed, "n1")
    assert attempts.again(lost, "n1")
    assert attempts.again(lost, "n2")
    assert not attempts.again(lost, "n3")


def test_a_task_is_blamed_for_its_own_ends_alone() -> None:
    failed, lost = died(JobState.FAILED, 1, exit_code=7), died(JobState.NODE_FAIL, 1)
    attempts = Attempts(9, whatever=2)
    assert [attempts.again(error, "n1") for error in (lost, lost, failed, lost)] == [True] * 4
    assert attempts.blames(failed)
    assert not attempts.again(failed, "n1")


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_what_the_job_did_itself_is_final(state: JobState) -> None:
    by_others = {JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.PREEMPTED}
    assert Attempts(2).again(died(state, 1), "n1") == (state in by_others)


def test_a_node_that_does_not_see_work_dir_is_another_one_s_chance() -> None:
    error = died(JobState.FAILED, 1, exit_code=66, reason="where work_dir cannot be seen", unseen=True)
    assert error.transient
    assert str(error).startswith(
        "job 1 failed with exit code 66 on node n1, where work_dir cannot be seen: "
        "name a work_dir that all compute nodes share, or leave this node out by exclude="
    )
    assert Attempts(2).again(error, "n1")
    assert pickle.loads(pickle.dumps(error)).transient


def test_nodes_are_blamed_once_and_not_for_a_preemption() -> None:
    attempts = Attempts(9)
    for error, node in ((LOST, "n2"), (died(JobState.PREEMPTED, 1), "n1"), (LOST, ""), (LOST, "n2"), (LOST, "n[4-5]")):
        attempts.again(error, node)
    assert attempts.request(7, [3, 4, 6]) == {
        "task": 7,
        "attempt": 5,
        "exclude": ["n2", "n[4-5]"],
        "done": [(3, 5), (6, 7)],
    }


def test_the_last_error_has_a_line_for_each_one_before_it_above_what_the_program_said() -> None:
    attempts = Attempts(4)
    for error in (died(JobState.NODE_FAIL, 1), died(JobState.PREEMPTED, 2, stderr="bye"), LOST):
        assert attempts.again(error, "")
    last = attempts.told(died(JobState.FAILED, 4, exit_code=3, stderr="Boom\n"))
    assert str(last).splitlines() == [
        "job 4 failed with exit code 3 on node n4 (its files: /scratch/x) (attempt 4 of 4)",
        "attempt 1: job 1 ended because its node failed on node n1",
        "attempt 2: job 2 was preempted on node n2",
        "attempt 3: job 3 on node n3 ended well but without a result",
        "Boom",
    ]
    assert isinstance(last, JobError)
    for again in (pickle.loads(pickle.dumps(last)), copy.copy(last), copy.deepcopy(last)):
        assert str(again) == str(last)
        assert [type(error) for error in again.earlier] == [NodeFailed, JobPreempted, ResultLost]


def test_without_earlier_attempts_nothing_is_said_of_any() -> None:
    error = died(JobState.FAILED, 4)
    text = str(error)
    assert str(Attempts(3).told(error)) == text


# ---- which calls a task of a part makes


@pytest.mark.parametrize(
    ("words", "task", "done"),
    [("5 7", 7, set()), ("5:1-3 7:40-42:45-46", 7, {40, 41, 45}), ("5 7:0-1", 7, {0})],
)
def test_the_map_of_a_part_says_what_is_done_already(tmp_path: Path, words: str, task: int, done: set[int]) -> None:
    (tmp_path / "map").write_text(words)
    assert job.share(1, "map", str(tmp_path)) == (task, done)


def test_a_part_in_a_row_needs_no_map() -> None:
    assert job.share(3, "20", "/nowhere") == (23, set())
