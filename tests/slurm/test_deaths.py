"""A job that ends without its result says why. All of them end side by side: some take a minute or more."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import (
    JobCancelled,
    JobFailed,
    JobOutOfMemory,
    JobPreempted,
    JobTimeout,
    NodeFailed,
    RemoteImportError,
    ResultLost,
    SlurmExecutor,
    SlurmFuture,
    SlurmFuturesWarning,
)
from slurmfutures._remote.states import JobState
from tests import calls
from tests.cluster import Cluster, cgroups
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, died, submitted, together
from tests.slurm.shadow import Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.alone, pytest.mark.timeout(240)]

LONG = 150.0  # seconds in which a job is at its time limit, or its node is missed

# Each has a node of its own, because all jobs there end with them.
PREEMPTED_NODE, DOWN_NODE, DEAD_NODE = "n2", "n3", "n4"
UNSAFE = [DOWN_NODE, DEAD_NODE]

# sbatch such that the first attempt goes where it is to die.
FIRST_ON_THE_DEAD_NODE = f"""\
[[ "$*" != *--parsable* || "$*" == *--exclude=* ]] || exec "$real" --nodelist={DEAD_NODE} "$@"
"""

# sbatch such that the job finds nothing where work_dir is for us, and such that Slurm itself does not either.
UNSEEN_BY_THE_SCRIPT = """\
words=("$@")
if [[ "$*" == *--parsable* ]]; then
    script=$(($# - 3))
    sed "s#$WORK_DIR#/not/shared#g" "${words[script]}" >"$here/script"
    words[script]=$here/script
fi
exec "$real" "${words[@]}"
"""
UNSEEN_ON_ONE_NODE = '[[ "$*" != *--exclude=*n1* ]] || exec "$real" "$@"\nset -- --nodelist=n1 "$@"\n'
UNSEEN_BY_SLURM = """\
words=("$@")
for at in "${!words[@]}"; do words[at]=${words[at]/#--output=$WORK_DIR/--output=\\/not\\/shared}; done
exec "$real" "${words[@]}"
"""


class Deaths:
    """Jobs on their way to various ends."""

    def __init__(self, open_slurm: OpenSlurm, executor: SlurmExecutor, folder: Path, queue: Queue) -> None:
        self.runs = folder / "runs"
        self.restarted = folder / "restarted"
        self.power_cut = folder / "power cut"
        here = executor.with_options(nodelist="n1")

        self.timeout = here.with_options(time="00:01:00").submit(time.sleep, 600)
        self.timeout_of_partition = here.with_options(partition="short").submit(time.sleep, 600)
        self.timeout_of_chunk = here.with_options(time=1).map(_sleep_at_three, range(5), chunksize=5)

        alive = Gate(folder / "alive")
        there = executor.with_options(nodelist=DEAD_NODE, no_requeue=True)
        self.node_failed = there.submit(calls.pass_gate, alive.folder)
        pilots: dict[str, Any] = {"workers": 1, "nodelist": DEAD_NODE, "idle_timeout": 600}
        self.pilots = executor.pilots(**pilots, no_requeue=True), executor.pilots(**pilots, requeue=True)
        self.pilots_node_failed = [pilots.submit(calls.pass_gate, alive.folder) for pilots in self.pilots]
        there = executor.with_options(nodelist=DEAD_NODE)
        self.node_started_again = there.submit(work.wait_for_the_second_run, str(self.power_cut))
        there = executor.with_options(nodelist=DOWN_NODE)
        self.node_came_back = there.submit(work.wait_for_the_second_run, str(self.restarted))
        there = executor.with_options(nodelist=PREEMPTED_NODE, cpus_per_task=2)
        self.preempted = there.with_options(partition="lowcancel").submit(calls.pass_gate, alive.folder)
        self.preempted_and_requeued = there.with_options(partition="low").submit(
            work.wait_for_the_second_run, str(self.runs)
        )
        self.killed = here.submit(work.kill_the_batch_script)
        self.unseen_by_the_script = _unseen(UNSEEN_BY_THE_SCRIPT, folder / "script", open_slurm)
        self.unseen_by_slurm = _unseen(UNSEEN_BY_SLURM, folder / "slurm", open_slurm)

        self.seen_elsewhere = [
            _unseen(UNSEEN_ON_ONE_NODE + sbatch, folder / name, open_slurm, retries=1, nodelist=None, exclude=UNSAFE)
            for name, sbatch in (("other script", UNSEEN_BY_THE_SCRIPT), ("other slurm", UNSEEN_BY_SLURM))
        ]
        self.places = folder / "places"
        self.chunk_places = folder / "chunk places"
        first = Shadow(folder / "shadow")
        first.put("sbatch", FIRST_ON_THE_DEAD_NODE)
        again = open_slurm(first.env, retries=2)
        there = again.with_options(no_requeue=True)
        self.moved = there.submit(_stay_on, DEAD_NODE, str(self.places))
        self.moved_chunk = there.map(_stay_at_two, [str(self.chunk_places)] * 4, range(4), chunksize=4)
        once = open_slurm(retries=1)
        there = once.with_options(nodelist=PREEMPTED_NODE, partition="lowcancel")
        self.preempted_and_made_again = there.submit(_stay_at_first, str(folder / "preempted"))
        self.left = once.with_options(exclude=UNSAFE).submit(calls.leave_at_first, str(folder / "left"), 9)
        self.left_places = folder / "left"
        self.nowhere_else = once.with_options(nodelist="n1").submit(calls.leave_at_first, str(folder / "n1"), 1, "n1")
        assert [next(self.moved_chunk), next(self.moved_chunk)] == [0, 1]
        until(lambda: _lines(self.chunk_places)[2:] and _lines(self.places) and _lines(folder / "preempted"))
        alive.wait(4)
        until(lambda: _lines(self.runs) and _lines(self.restarted) and _lines(self.power_cut))

        queue.cluster.kill_node(DEAD_NODE)
        queue.run("scontrol", "update", f"NodeName={DOWN_NODE}", "State=DOWN", "Reason=test")
        queue.run("sbatch", "-phigh", f"-w{PREEMPTED_NODE}", "--exclusive", "-o/dev/null", "--wrap=true")


def _unseen(sbatch: str, folder: Path, open_slurm: OpenSlurm, **options: Any) -> SlurmFuture[int]:
    shadow = Shadow(folder / "shadow")
    shadow.put("sbatch", sbatch)
    work_dir = str(folder / "work")
    options = {"nodelist": "n1", **options}
    executor = open_slurm({**shadow.env, "WORK_DIR": work_dir}, work_dir=work_dir, **options)
    return executor.submit(calls.square, 3)


def _sleep_at_three(number: int) -> int:
    time.sleep(600 if number == 3 else 0)
    return number


def _stay_on(node: str, path: str) -> str:
    """Write down where this runs; it has no end on this node."""
    here = os.environ["SLURMD_NODENAME"]
    work.write(path, here)
    time.sleep(600 if here == node else 0)
    return here


def _stay_at_first(path: str) -> str:
    work.write_job(path)
    time.sleep(600 if len(_lines(Path(path))) == 1 else 0)
    return work.job()


def _stay_at_two(path: str, number: int) -> int:
    work.write(path, f"{number} {os.environ['SLURMD_NODENAME']}")
    time.sleep(600 if number == 2 and os.environ["SLURMD_NODENAME"] == DEAD_NODE else 0)
    return number


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def executor(open_for_all: OpenSlurm) -> SlurmExecutor:
    return open_for_all()


@pytest.fixture(scope="module", autouse=True)
def deaths(
    open_for_all: OpenSlurm, executor: SlurmExecutor, queue: Queue, tmp_path_factory: pytest.TempPathFactory
) -> Deaths:
    """Set all in motion that takes long, before the first test."""
    return Deaths(open_for_all, executor, tmp_path_factory.mktemp("deaths"), queue)


@pytest.fixture
def run(executor: SlurmExecutor) -> Callable[..., SlurmFuture[object]]:
    """Submit a call on the node on which nothing happens but by itself."""
    return executor.with_options(nodelist="n1").submit


# ---- ends that the script's trap tells of


def test_an_exit_code_and_last_words_are_told(run: Callable[..., SlurmFuture[object]]) -> None:
    future = run(calls.leave_saying, 3, "the disk is\nfull of käse")
    error = died(future, JobFailed)
    assert (error.state, error.exit_code, error.signal, error.node) == (JobState.FAILED, 3, None, "n1")
    assert error.stderr_tail.endswith("the disk is\nfull of käse\n")
    assert "exit code 3 on node n1" in str(error)
    assert str(error).endswith("full of käse")
    folder = Path(error.where)
    assert folder.is_dir()
    assert str(folder) in str(error)
    assert future.stderr() == error.stderr_tail


def test_a_segmentation_fault_is_told(run: Callable[..., SlurmFuture[object]]) -> None:
    error = died(run(calls.crash), JobFailed)
    assert (error.state, error.signal, error.node) == (JobState.FAILED, signal.SIGSEGV, "n1")
    assert "was killed by SIGSEGV" in str(error)


def test_a_killed_interpreter_is_told(run: Callable[..., SlurmFuture[object]]) -> None:
    error = died(run(calls.kill_self, int(signal.SIGKILL)), JobFailed)
    assert (error.state, error.signal, error.node) == (JobState.FAILED, signal.SIGKILL, "n1")
    assert "SIGKILL" in str(error)


def test_leaving_with_exit_code_0_is_a_lost_result(run: Callable[..., SlurmFuture[object]]) -> None:
    future = run(calls.leave, 0)
    error = future.exception(60)
    assert type(error) is ResultLost
    assert f"job {future.job_id} on node n1" in str(error)
    assert "os._exit(0)" in str(error)


def test_only_the_call_that_left_is_lost_of_an_array(executor: SlurmExecutor) -> None:
    here = executor.with_options(nodelist="n1")
    futures = together(here, _leave_at_one, [(number,) for number in range(3)])
    error = died(futures[1], JobFailed)
    assert error.exit_code == 7
    assert str(error.job_id).endswith("_1")
    assert [futures[0].result(60), futures[2].result(60)] == [0, 2]


def _leave_at_one(number: int) -> int:
    if number == 1:
        calls.leave(7)
    return number


def test_a_missing_interpreter_is_named(open_slurm: OpenSlurm) -> None:
    setup = 'interpreter=$(command -v python3)\n[ -z "$SLURM_JOB_ID" ] || interpreter=/no/such/python'
    executor = open_slurm(python='"$interpreter"', setup=setup, nodelist="n1")
    error = died(executor.submit(len, ()), JobFailed)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 127, "n1")
    assert "the interpreter /no/such/python was not found there" in str(error)


def test_a_module_that_is_missing_on_the_node_is_named(
    executor: SlurmExecutor, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "only_on_the_login_node.py"
    source.write_text("def function(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_on_the_login_node  # type: ignore[import-not-found]

    future = executor.with_options(nodelist="n1", hold=True).submit(only_on_the_login_node.function)
    job_id = submitted(future)
    source.unlink()
    queue.run("scontrol", "release", job_id)
    error = future.exception(60)
    assert type(error) is RemoteImportError
    assert error.name == "only_on_the_login_node"
    assert error.job_id == job_id
    assert "send it along by ship='only_on_the_login_node' or" in str(error)


@pytest.mark.skipif(cgroups.mount_point() is None, reason="no memory cgroups to end a job by")
def test_too_much_memory_is_told(executor: SlurmExecutor) -> None:
    error = died(executor.with_options(nodelist="n1", mem="100M").submit(work.use_memory, 300), JobOutOfMemory)
    assert (error.state, error.node) == (JobState.OUT_OF_MEMORY, "n1")
    assert error.signal == signal.SIGKILL
    assert "ask for more mem=" in str(error)
    assert isinstance(error, MemoryError)


# ---- ended by others


def test_a_running_job_that_somebody_cancels_is_no_cancelled_future(
    run: Callable[..., SlurmFuture[object]], queue: Queue, gate: Gate
) -> None:
    future = run(calls.pass_gate, gate.folder)
    gate.wait()
    queue.run("scancel", submitted(future))
    error = died(future, JobCancelled)
    assert not future.cancelled()
    assert (error.state, error.cancelled_by, error.started, error.node) == (JobState.CANCELLED, "root", True, "n1")
    assert "was cancelled by root" in str(error)


def test_of_an_array_only_the_task_that_somebody_cancels_fails(
    executor: SlurmExecutor, queue: Queue, gate: Gate
) -> None:
    futures = together(
        executor.with_options(nodelist="n1"), calls.pass_gate, [(gate.folder, number) for number in range(3)]
    )
    gate.wait(3)
    array = submitted(futures[0]).partition("_")[0]
    queue.run("scancel", f"{array}_1")
    error = died(futures[1], JobCancelled)
    assert error.job_id == f"{array}_1"
    gate.open()
    assert [futures[0].result(60), futures[2].result(60)] == [0, 2]


@pytest.mark.slow
def test_a_waiting_job_that_somebody_cancels_says_that_it_never_started(executor: SlurmExecutor, queue: Queue) -> None:
    held = executor.with_options(nodelist="n1", hold=True)
    single = held.with_options(comment="alone").submit(calls.square, 1)
    array = together(held, calls.square, [(number,) for number in range(2, 5)])
    name = submitted(array[0]).partition("_")[0]
    queue.run("scancel", submitted(single), f"{name}_1")
    queue.run("scontrol", "release", name)
    assert [array[0].result(60), array[2].result(60)] == [4, 16]
    error = died(single, JobCancelled)
    assert (error.state, error.started, error.node, error.stderr_tail) == (JobState.CANCELLED, False, "", "")
    assert "was cancelled by root before it started" in str(error)
    error = died(array[1], JobCancelled, LONG)  # Slurm itself keeps no record of it, nor of who did it
    assert (error.state, error.started, error.node, error.stderr_tail) == (JobState.CANCELLED, False, "", "")
    assert "was cancelled before it started" in str(error)


# ---- no end in sight


@pytest.mark.slow
def test_a_job_that_may_never_start_is_told_of_with_the_reason(executor: SlurmExecutor, queue: Queue) -> None:
    failed = queue.run("sbatch", "--parsable", "-wn1", "-o/dev/null", "--wrap=false").strip()
    stuck = {
        "PartitionTimeLimit": executor.with_options(partition="short", time="02:00:00"),
        "PartitionNodeLimit": executor.with_options(nodes=5),
        "DependencyNeverSatisfied": executor.with_options(dependency=f"afterok:{failed}"),
        "JobHeldUser": executor.with_options(hold=True),
        "JobHeldAdmin": executor.with_options(hold=True, comment="by an administrator"),
    }
    later = executor.with_options(begin="now+1hour").submit(calls.square, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        futures = {reason: view.submit(calls.square, 1) for reason, view in stuck.items()}
        queue.run("scontrol", "hold", submitted(futures["JobHeldAdmin"]))
        until(lambda: {reason for reason in stuck if reason in _said(caught)} == set(stuck))
    for reason, future in futures.items():
        assert f"job {future.job_id} waits in the queue: {reason}" in _said(caught)
        assert not future.done()
    assert str(later.job_id) not in _said(caught)
    assert all(warning.category is SlurmFuturesWarning for warning in caught)
    for future in (*futures.values(), later):
        future.cancel()


def _said(caught: list[warnings.WarningMessage]) -> str:
    return "\n".join(str(warning.message) for warning in caught)


# ---- what was set in motion at first


@pytest.mark.slow
def test_a_job_that_is_killed_with_its_script_is_told(deaths: Deaths) -> None:
    error = died(deaths.killed, JobFailed, LONG)
    assert (error.state, error.signal, error.node) == (JobState.FAILED, signal.SIGKILL, "n1")


@pytest.mark.slow
def test_a_work_dir_that_the_node_does_not_see_is_told(deaths: Deaths) -> None:
    error = died(deaths.unseen_by_the_script, JobFailed, LONG)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 66, "n1")
    assert "cannot be seen on node n1: is work_dir on a file system that the compute nodes share?" in str(error)
    assert "on node n1, where work_dir cannot be seen: name a work_dir that all compute nodes share" in str(error)
    assert error.transient


@pytest.mark.slow
def test_a_work_dir_in_which_slurm_cannot_write_the_output_is_told(deaths: Deaths) -> None:
    error = died(deaths.unseen_by_slurm, JobFailed, LONG)
    assert (error.state, error.exit_code, error.signal, error.node) == (JobState.FAILED, None, None, "n1")
    assert "on node n1, where Slurm cannot open its output files: name a work_dir that all compute" in str(error)
    assert error.transient


@pytest.mark.slow
def test_a_job_that_is_put_back_after_preemption_gives_its_result(deaths: Deaths) -> None:
    job_id = submitted(deaths.preempted_and_requeued)
    assert deaths.preempted_and_requeued.result(LONG) == f"{job_id} 1"
    assert _lines(deaths.runs) == [f"{job_id} 0", f"{job_id} 1"]


@pytest.mark.slow
def test_a_preempted_job_is_told(deaths: Deaths) -> None:
    error = died(deaths.preempted, JobPreempted, LONG)
    assert (error.state, error.node, error.transient) == (JobState.PREEMPTED, PREEMPTED_NODE, True)
    assert "was preempted" in str(error)


@pytest.mark.slow
def test_a_job_that_is_put_back_after_its_node_failed_gives_its_result(deaths: Deaths) -> None:
    job_id = submitted(deaths.node_came_back)
    assert deaths.node_came_back.result(LONG) == f"{job_id} 1"
    assert _lines(deaths.restarted) == [f"{job_id} 0", f"{job_id} 1"]


@pytest.mark.slow
def test_a_failed_node_is_told(deaths: Deaths, cluster: Cluster) -> None:
    error = died(deaths.node_failed, NodeFailed, LONG)
    assert (error.state, error.node, error.transient) == (JobState.NODE_FAIL, DEAD_NODE, True)
    assert "node failed" in str(error)
    cluster.start_node(DEAD_NODE)


@pytest.mark.slow
@pytest.mark.parametrize("put_back", [False, True], ids=["for good", "and is put back"])
def test_of_a_pilot_whose_node_failed_the_call_that_ran_fails(deaths: Deaths, put_back: bool) -> None:
    error = died(deaths.pilots_node_failed[put_back], NodeFailed, LONG)
    assert (error.state, error.node, error.transient) == (JobState.NODE_FAIL, DEAD_NODE, True)
    assert "ended because its node failed" in str(error)


# ---- lost, and made again


@pytest.mark.slow
def test_a_call_that_left_without_a_result_is_tried_elsewhere_and_told_of(deaths: Deaths) -> None:
    error = deaths.left.exception(LONG)
    assert isinstance(error, ResultLost)
    assert len(error.earlier) == 1
    assert "(attempt 2 of 2)\nattempt 1: job " in str(error)
    assert len(set(_lines(deaths.left_places))) == 2


@pytest.mark.slow
def test_where_no_other_node_will_do_it_is_tried_on_the_same_one(deaths: Deaths) -> None:
    assert deaths.nowhere_else.result(LONG) == "n1"


@pytest.mark.slow
@pytest.mark.parametrize("by", [0, 1], ids=["the script", "Slurm"])
def test_a_work_dir_that_one_node_does_not_see_is_used_on_another(deaths: Deaths, by: int) -> None:
    assert deaths.seen_elsewhere[by].result(LONG) == 9


@pytest.mark.slow
def test_a_preempted_job_is_made_again(deaths: Deaths) -> None:
    job = deaths.preempted_and_made_again.result(LONG)
    assert job == f"{deaths.preempted_and_made_again.job_id} 0"


@pytest.mark.slow
def test_a_job_whose_node_failed_is_made_again_on_another(deaths: Deaths) -> None:
    node = deaths.moved.result(LONG)
    assert _lines(deaths.places) == [DEAD_NODE, node]
    assert node != DEAD_NODE


@pytest.mark.slow
def test_calls_that_were_done_before_their_node_failed_are_not_made_again(deaths: Deaths) -> None:
    assert list(deaths.moved_chunk) == [2, 3]
    assert [line.split()[0] for line in _lines(deaths.chunk_places)] == ["0", "1", "2", "2", "3"]
    assert [DEAD_NODE in line for line in _lines(deaths.chunk_places)] == [True, True, True, False, False]


@pytest.mark.slow
def test_a_time_limit_is_told(deaths: Deaths) -> None:
    for future in (deaths.timeout, deaths.timeout_of_partition):
        error = died(future, JobTimeout, LONG)
        assert (error.state, error.node) == (JobState.TIMEOUT, "n1")
        assert error.signal in (signal.SIGTERM, signal.SIGKILL)
        assert isinstance(error, TimeoutError)
        assert "was ended at its time limit on node n1" in str(error)
        assert "DUE TO TIME LIMIT" in error.stderr_tail


@pytest.mark.slow
def test_the_calls_that_were_done_before_a_time_limit_have_their_results(deaths: Deaths) -> None:
    chunk = deaths.timeout_of_chunk
    assert [next(chunk), next(chunk), next(chunk)] == [0, 1, 2]
    with pytest.raises(JobTimeout):
        next(chunk)


@pytest.mark.slow
def test_a_job_whose_node_had_a_power_cut_gives_its_result(deaths: Deaths) -> None:
    job_id = submitted(deaths.node_started_again)
    assert deaths.node_started_again.result(LONG) == f"{job_id} 1"
    assert _lines(deaths.power_cut) == [f"{job_id} 0", f"{job_id} 1"]


@pytest.mark.slow
def test_a_pilot_whose_node_had_a_power_cut_comes_again(deaths: Deaths) -> None:
    _, pilots = deaths.pilots
    job_id, _, run = pilots.submit(work.place).result(LONG)
    assert (job_id, run) == (deaths.pilots_node_failed[True].job_id, "1")
