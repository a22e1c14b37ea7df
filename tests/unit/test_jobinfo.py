"""What is told of a job array as a whole."""

from datetime import datetime, timedelta, timezone

from slurmfutures import JobInfo, JobState
from slurmfutures._jobinfo import info_of_array

BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def at(minutes: int) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def test_an_array_ends_as_its_tasks_do() -> None:
    tasks = [
        JobInfo("7_2", JobState.COMPLETED, 0, submit=at(0), start=at(2), end=at(9), nodes="n1"),
        JobInfo("8_5", JobState.COMPLETED, 0, submit=at(3), start=at(4), end=at(5), nodes="n[2-3]"),
        JobInfo("7_6", JobState.COMPLETED, 0, submit=at(0), start=at(1), end=at(3), nodes="n1"),
    ]
    whole = info_of_array(tasks)
    assert whole.ok
    assert whole.tasks == tuple(tasks)
    assert (whole.job_id, whole.state, whole.exit_code, whole.signal) == ("7", JobState.COMPLETED, 0, None)
    assert (whole.submit, whole.start, whole.end, whole.nodes) == (at(0), at(1), at(9), "n1,n[2-3]")


def test_the_first_failure_says_why_and_the_largest_exit_code_counts() -> None:
    tasks = [
        JobInfo("7_0", JobState.COMPLETED, 0),
        JobInfo("7_1", JobState.TIMEOUT, None, 15, "TimeLimit"),
        JobInfo("7_2", JobState.FAILED, 3),
    ]
    whole = info_of_array(tasks)
    assert not whole.ok
    assert (whole.state, whole.exit_code, whole.signal, whole.reason) == (JobState.TIMEOUT, 3, 15, "TimeLimit")
    assert (whole.submit, whole.start, whole.end, whole.nodes) == (None, None, None, "")
    assert not info_of_array(tasks[:2]).ok
    assert info_of_array(tasks[:2]).exit_code == 0
    assert info_of_array(tasks[1:2]).exit_code is None
