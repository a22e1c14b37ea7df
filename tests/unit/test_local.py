"""The embedded scheduler: a queue of processes that looks like Slurm's."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import local
from slurmfutures._remote.local import Local
from slurmfutures._remote.scheduler import Ending, Held, Outcome, Request, Submitted
from slurmfutures._remote.states import TERMINAL, JobState
from tests.processes import lives
from tests.waiting import DEADLINE, until

# What a job may do: the script gets one of these words.
SCRIPT = """\
case "$1" in
    well) echo out "$2"; echo err >&2 ;;
    fail) exit 3 ;;
    crash) kill -SEGV $$ ;;
    wait) touch "$2/$$.pid"; until [ -e "$2/open" ]; do sleep 0.01; done ;;
    stay) trap '' TERM; touch "$2/$$.pid"; while :; do sleep 0.01; done ;;
    hide) set -m; (trap '' TERM; touch "$2/$BASHPID.pid"; while :; do sleep 0.01; done) & wait ;;
    show) env -0 > "$2/env"; pwd > "$2/pwd"; cat > "$2/stdin" ;;
esac
"""


class Queue:
    """A scheduler, and the folder that its jobs see."""

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self.scheduler = Local(str(path), slots)
        (path / "script.sh").write_text(SCRIPT)
        (path / "job").mkdir()

    def submit(self, *words: str, size: int = 1, throttle: int | None = None, options: tuple[str, ...] = ()) -> str:
        outcome = self.try_submit(*words, size=size, throttle=throttle, options=options)
        assert isinstance(outcome, Submitted)
        return outcome.job_id

    def try_submit(
        self, *words: str, size: int = 1, throttle: int | None = None, options: tuple[str, ...] = ()
    ) -> Outcome:
        index = "%a" if size > 1 else "0"
        return self.scheduler.submit(
            Request(
                options=options,
                script=str(self.path / "script.sh"),
                arguments=[words[0], *(words[1:] or [str(self.path / "job")])],
                size=size,
                throttle=throttle,
                name="name",
                comment="comment",
                chdir=str(self.path / "job"),
                stdout=str(self.path / f"{index}.out"),
                stderr=str(self.path / f"{index}.err"),
            )
        )

    def endings(self, job_id: str) -> dict[Any, Ending]:
        found = self.scheduler.why({job_id: 0.0})
        assert found is not None
        return {index: ending for (_, index), ending in found.items()}

    def ended(self, job_id: str, index: int | None = None) -> Ending:
        """Wait for a task's end."""
        return (
            until(lambda: (ending := self.endings(job_id)[index]).state in TERMINAL and ending.end and ending)
            or self.endings(job_id)[index]
        )

    def states(self, job_id: str) -> dict[int | None, JobState | None]:
        rows = self.scheduler.queue()
        assert rows is not None
        states: dict[int | None, JobState | None] = {}
        for row in rows:
            if row.job_id == job_id:
                tasks = (
                    [None] if row.tasks is None else [n for first, last in row.tasks for n in range(first, last + 1)]
                )
                assert states.keys().isdisjoint(tasks)
                states.update(dict.fromkeys(tasks, row.state))
        return states

    def running(self, number: int) -> list[int]:
        """Wait until so many jobs have said that they run; return their process ids."""
        files = until(lambda: len(found := list((self.path / "job").glob("*.pid"))) >= number and found) or []
        return [int(path.stem) for path in files]

    def open(self) -> None:
        (self.path / "job/open").touch()


@pytest.fixture
def queue(weird_tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(weird_tmp_path, slots=2)
    yield queue
    queue.open()
    queue.scheduler.close()


def test_a_job_runs_with_its_words_and_its_output_goes_to_its_files(queue: Queue) -> None:
    job_id = queue.submit("well", "a 'b' $c")
    ending = queue.ended(job_id)
    assert (ending.state, ending.exit_code, ending.signal) == (JobState.COMPLETED, 0, 0)
    assert ending.started
    assert ending.start <= ending.end
    assert ending.node == os.uname().nodename
    assert (queue.path / "0.out").read_text() == "out a 'b' $c\n"
    assert (queue.path / "0.err").read_text() == "err\n"


@pytest.mark.parametrize(("word", "code", "number"), [("fail", 3, 0), ("crash", 0, signal.SIGSEGV)])
def test_a_job_that_fails_has_its_exit_code_or_signal(queue: Queue, word: str, code: int, number: int) -> None:
    ending = queue.ended(queue.submit(word))
    assert (ending.state, ending.exit_code, ending.signal) == (JobState.FAILED, code, number)


def test_an_array_has_a_task_for_each_index_with_files_of_its_own(queue: Queue) -> None:
    job_id = queue.submit("well", "x", size=5)
    assert [queue.ended(job_id, index).state for index in range(5)] == [JobState.COMPLETED] * 5
    assert sorted(path.name for path in queue.path.glob("*.out")) == [f"{index}.out" for index in range(5)]


def test_no_more_jobs_run_at_once_than_there_are_slots(queue: Queue) -> None:
    first = queue.submit("wait", size=3)
    second = queue.submit("wait")
    queue.running(2)
    assert sorted(map(str, queue.states(first).values())) == ["PENDING", "RUNNING", "RUNNING"]
    assert queue.states(second) == {None: JobState.PENDING}
    queue.open()
    for index in range(3):
        queue.ended(first, index)
    queue.ended(second)
    assert queue.states(first) == queue.states(second) == {}


def test_an_array_runs_no_more_tasks_at_once_than_its_throttle(queue: Queue) -> None:
    job_id = queue.submit("wait", size=3, throttle=1)
    other = queue.submit("wait")
    queue.running(2)  # one of the array, and the other job
    assert queue.states(other) == {None: JobState.RUNNING}
    assert sorted(map(str, queue.states(job_id).values())) == ["PENDING", "PENDING", "RUNNING"]
    queue.scheduler.cancel([(other, None)])
    queue.scheduler.throttle(job_id, 2)
    until(lambda: list(map(str, queue.states(job_id).values())).count("RUNNING") == 2)


def test_neighbours_in_the_same_state_are_one_row(queue: Queue) -> None:
    job_id = queue.submit("wait", size=9)
    queue.running(2)
    queue.scheduler.cancel([(job_id, [4])])
    rows = queue.scheduler.queue()
    assert rows is not None
    assert [(row.tasks, str(row.state)) for row in rows] == [
        (((0, 1),), "RUNNING"),
        (((2, 3),), "PENDING"),
        (((5, 8),), "PENDING"),
    ]


def test_a_job_at_its_time_limit_is_ended(queue: Queue) -> None:
    ending = queue.ended(queue.submit("wait", options=("--mem=1G", "--time=00:00:01")))
    assert (ending.state, ending.signal, ending.reason) == (JobState.TIMEOUT, signal.SIGTERM, "TimeLimit")
    assert not any(map(lives, queue.running(1)))


def test_a_job_that_ignores_its_time_limit_is_killed(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "KILL_WAIT", 0.1)
    ending = queue.ended(queue.submit("stay", options=("--time=00:00:01",)))
    assert (ending.state, ending.signal) == (JobState.TIMEOUT, signal.SIGKILL)


def test_a_running_job_that_is_cancelled_ends(queue: Queue) -> None:
    job_id = queue.submit("wait")
    (process,) = queue.running(1)
    assert queue.scheduler.cancel([(job_id, None)])
    ending = queue.ended(job_id)
    assert (ending.state, ending.started) == (JobState.CANCELLED, True)
    until(lambda: not lives(process))


@pytest.mark.parametrize("word", ["stay", "hide"])
def test_a_cancelled_job_that_ignores_it_is_killed(word: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "KILL_WAIT", 0.1)
    job_id = queue.submit(word)
    (process,) = queue.running(1)
    queue.scheduler.cancel([(job_id, None)])
    until(lambda: not lives(process))
    assert queue.endings(job_id)[None].state == JobState.CANCELLED


def test_a_waiting_job_that_is_cancelled_never_starts(queue: Queue) -> None:
    running = queue.submit("wait", size=2)
    queue.running(2)
    waiting = queue.submit("well", "x")
    queue.scheduler.cancel([(waiting, None)])
    assert queue.states(waiting) == {}
    assert queue.endings(waiting)[None].started is False
    queue.open()
    for index in range(2):
        queue.ended(running, index)
    assert queue.ended(queue.submit("fail")).exit_code == 3  # comes after it
    assert queue.endings(waiting)[None].state == JobState.CANCELLED
    assert not (queue.path / "0.out").read_text()


def test_of_an_array_only_the_tasks_that_are_named_are_cancelled(queue: Queue) -> None:
    job_id = queue.submit("wait", size=4)
    queue.running(2)
    queue.scheduler.cancel([(job_id, [1, 3])])
    queue.open()
    assert [str(queue.ended(job_id, index).state) for index in (0, 2)] == ["COMPLETED"] * 2
    assert [str(queue.endings(job_id)[index].state) for index in (1, 3)] == ["CANCELLED"] * 2


def test_what_is_over_or_unknown_can_be_cancelled_without_harm(queue: Queue) -> None:
    job_id = queue.submit("well", "x")
    queue.ended(job_id)
    assert queue.scheduler.cancel([(job_id, None), ("999999", None), (job_id, [7])])
    assert queue.endings(job_id)[None].state == JobState.COMPLETED


def test_jobs_see_what_slurm_s_jobs_see(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPU_BIND", "outer job's")
    monkeypatch.setenv("SBATCH_PARTITION", "outer job's")
    monkeypatch.setenv("MINE", "kept")
    job_id = queue.submit("show")
    queue.ended(job_id)
    seen = dict(line.split("=", 1) for line in (queue.path / "job/env").read_text().split("\0") if line)
    assert seen["MINE"] == "kept"
    assert (seen["SLURM_JOB_ID"], seen["SLURM_JOB_NAME"], seen["SLURM_RESTART_COUNT"]) == (job_id, "name", "0")
    assert not {"SLURM_CPU_BIND", "SBATCH_PARTITION", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_JOB_ID"} & seen.keys()
    assert (queue.path / "job/pwd").read_text() == f"{queue.path}/job\n"
    assert (queue.path / "job/stdin").read_text() == ""


def test_tasks_of_an_array_know_their_index(queue: Queue) -> None:
    job_id = queue.submit("show", size=2)
    for index in range(2):
        queue.ended(job_id, index)
    seen = (queue.path / "job/env").read_text().split("\0")
    assert f"SLURM_ARRAY_JOB_ID={job_id}" in seen
    assert {"SLURM_ARRAY_TASK_ID=0", "SLURM_ARRAY_TASK_ID=1"} & set(seen)


def test_ids_are_never_used_again(queue: Queue, weird_tmp_path: Path) -> None:
    first = int(queue.submit("well", "x"))
    (queue.path / "local_job_id").write_text("99998")
    later = [int(queue.submit("well", "x")) for _ in range(3)]
    assert later == [99999, 100000, 100001]
    assert first == 1
    another = Local(str(weird_tmp_path), 1)
    assert another._next_ids(1) == range(100002, 100003)


def test_jobs_are_found_by_name(queue: Queue) -> None:
    job_id = queue.submit("well", "x")
    assert queue.scheduler.find("name") == [job_id]
    assert queue.scheduler.find("other") == []
    queue.ended(job_id)
    assert queue.scheduler.find("name") == [job_id]


def test_nothing_is_said_of_unknown_jobs(queue: Queue) -> None:
    assert queue.scheduler.why({"999": 0.0}) == {}


def test_a_script_that_cannot_be_started_fails(queue: Queue) -> None:
    (queue.path / "0.out").mkdir()
    ending = queue.ended(queue.submit("well", "x"))
    assert (ending.state, ending.exit_code) == (JobState.FAILED, 127)
    (queue.path / "0.out").rmdir()
    assert queue.ended(queue.submit("well", "x")).state == JobState.COMPLETED


def test_no_job_outlives_the_scheduler(queue: Queue) -> None:
    queue.submit("stay")
    queue.submit("wait", size=3)
    processes = queue.running(2)
    queue.scheduler.close()
    until(lambda: not any(map(lives, processes)), DEADLINE)


@pytest.mark.parametrize("text", ["x", "-1", "07", "1e3", "9" * 11, "7\n8"])
def test_a_damaged_count_of_jobs_holds_up_submissions_with_the_remedy(queue: Queue, text: str) -> None:
    (queue.path / "local_job_id").write_text(text)
    outcome = queue.try_submit("well", "x")
    assert isinstance(outcome, Held)
    assert "local_job_id" in outcome.message
    assert "it is damaged: remove it" in outcome.message
    (queue.path / "local_job_id").unlink()
    assert queue.ended(queue.submit("well", "x")).state == JobState.COMPLETED


def test_a_count_of_jobs_that_is_no_file_holds_up_submissions(queue: Queue) -> None:
    os.mkfifo(queue.path / "local_job_id")
    assert isinstance(queue.try_submit("well", "x"), Held)
