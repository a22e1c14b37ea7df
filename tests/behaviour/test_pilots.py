"""Pilots: workers that stay. What they share with all executors is tested where that is."""

import functools
import gc
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, NoReturn

import pytest

from slurmfutures import (
    InitializerError,
    JobFailed,
    JobState,
    PilotCounts,
    PilotsBroken,
    PilotsExecutor,
    SlurmExecutor,
    SlurmFuturesError,
)
from tests import calls
from tests.cluster import Cluster
from tests.fix_executors import HERE, Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.slurm.queue import Job, Queue
from tests.waiting import DEADLINE, until

SHORT = 0.3  # seconds that a job may be idle


@pytest.fixture(scope="module")
def shared_root(module_opener: Opener, scheduler: str) -> SlurmExecutor:
    """Has room for all pilots of a test."""
    return module_opener.root(scheduler, max_workers=None if scheduler == "slurm" else 8)


@pytest.fixture
def root(shared_root: SlurmExecutor) -> Iterator[SlurmExecutor]:
    yield shared_root
    for pool in shared_root._connection.poller._pools():
        for future in pool.pending():
            future.cancel()
        pool.close()


@pytest.fixture
def local(opener: Opener) -> SlurmExecutor:
    return opener.root("local", max_workers=8)


@pytest.fixture(scope="module")
def shared_local(module_opener: Opener) -> SlurmExecutor:
    return module_opener.root("local")


def warm(pilots: PilotsExecutor) -> list[tuple[str, int]]:
    """Have all workers there, and their calls taken for short ones; return their jobs and processes."""
    list(pilots.map(calls.square, range(100)))
    seen = until(lambda: len(workers := pilots.workers) == pilots._pool.settings.workers and workers) or []
    list(pilots.map(calls.square, range(300)))
    return [(worker.job_id, worker.pid) for worker in seen]


def jobs_of(workers: list[tuple[str, int]]) -> set[str]:
    return {job for job, _ in workers}


class Jobs:
    """The jobs of this module's pilots, as Slurm has them."""

    def __init__(self, cluster: Cluster) -> None:
        self._queue = Queue(cluster)

    def named(self, name: str) -> list[Job]:
        return [job for job in self._queue.active() if job.name.startswith(f"{name}.sf-")]


@pytest.fixture
def queue(scheduler: str, request: pytest.FixtureRequest) -> Callable[[str], list[Job]]:
    """Return what of a name is in the queue; nothing where there is none."""
    return Jobs(request.getfixturevalue("cluster")).named if scheduler == "slurm" else lambda name: []


# ---- how many there are


@HERE
def test_jobs_are_asked_for_as_calls_wait(
    root: SlurmExecutor, gate: Gate, queue: Callable[[str], list[Job]], scheduler: str, tmp_path: Path
) -> None:
    name = tmp_path.name
    with root.pilots(3, job_name=name) as pilots:
        assert pilots.workers == []
        assert queue(name) == []
        futures = [pilots.submit(calls.whereabouts_at, gate.folder)]
        gate.wait(1)
        assert len(until(lambda: pilots.workers)) == 1
        futures += [pilots.submit(calls.whereabouts_at, gate.folder) for _ in range(4)]
        gate.wait(3)
        assert len(until(lambda: len(workers := pilots.workers) == 3 and workers) or []) == 3
        assert len(queue(name)) == (3 if scheduler == "slurm" else 0)
        assert len(gate.entered()) == 3
        gate.open()
        assert len(jobs_of([future.result(DEADLINE) for future in futures])) == 3
    until(lambda: not queue(name))


@HERE
def test_workers_share_jobs(root: SlurmExecutor, gate: Gate) -> None:
    with root.pilots(4, workers_per_job=2) as pilots:
        futures = [pilots.submit(calls.whereabouts_at, gate.folder) for _ in range(4)]
        gate.wait(4)
        gate.open()
        seen = [future.result(DEADLINE) for future in futures]
        assert len(set(seen)) == 4
        assert sorted(Counter(job for job, _ in seen).values()) == [2, 2]


def test_there_are_no_more_jobs_than_may_be(local: SlurmExecutor, gate: Gate) -> None:
    pilots = local.pilots(6, workers_per_job=2, max_jobs=2)
    futures = [pilots.submit(calls.whereabouts_at, gate.folder) for _ in range(8)]
    gate.wait(4)
    assert until(lambda: pilots.counts == PilotCounts(waiting=4, running=4, done=0))
    gate.open()
    assert len(jobs_of([future.result(DEADLINE) for future in futures])) == 2


@HERE
def test_idle_jobs_leave_and_others_come(
    root: SlurmExecutor, queue: Callable[[str], list[Job]], tmp_path: Path
) -> None:
    name = tmp_path.name
    with root.pilots(2, idle_timeout=SHORT, job_name=name) as pilots:
        for _ in range(2):
            job, process = pilots.submit(calls.whereabouts).result(DEADLINE)
            until(lambda process=process: not lives(process))  # type: ignore[misc]
            until(lambda: not pilots.workers and not queue(name))
        assert pilots.submit(calls.whereabouts).result(DEADLINE)[0] != job


def test_jobs_that_are_not_needed_any_more_are_taken_out_of_the_queue(
    opener: Opener, gate: Gate, tmp_path: Path
) -> None:
    batches = tmp_path / "work" / "batches"
    pilots = opener.root("local", max_workers=1, work_dir=tmp_path / "work").pilots(2, idle_timeout=SHORT)
    running = pilots.submit(calls.pass_gate, gate.folder)
    gate.wait()
    waiting = pilots.submit(calls.square, 1)
    until(lambda: len(list(batches.iterdir())) == 2)
    waiting.cancel()
    until(lambda: len(list(batches.iterdir())) == 1)
    gate.open()
    assert running.result(DEADLINE) is None


def test_a_job_near_its_time_limit_is_replaced(local: SlurmExecutor) -> None:
    """Nothing that begins in it is cut off."""
    with local.pilots(1, time="0:04", call_time=1) as pilots:
        jobs: list[str] = []
        while len(set(jobs)) < 3:
            jobs.append(pilots.submit(calls.whereabouts).result(DEADLINE)[0])
        assert jobs == sorted(jobs, key=list(dict.fromkeys(jobs)).index)


def test_a_call_that_no_job_has_time_for_is_given_to_a_fresh_one(local: SlurmExecutor) -> None:
    """Past calls took nearly as long as a job may: that is no reason to submit jobs for ever."""

    def sleep(seconds: float) -> None:
        import time

        time.sleep(seconds)

    with local.pilots(1, time="0:03") as pilots:
        for seconds in (1.6, 0.0, 0.0):
            pilots.submit(sleep, seconds).result(DEADLINE)


# ---- who gets what


@HERE
@pytest.mark.parametrize("per_job", [1, 2])
def test_a_long_call_holds_up_none_behind_it(root: SlurmExecutor, gate: Gate, tmp_path: Path, per_job: int) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with root.pilots(2, workers_per_job=per_job) as pilots:
        warm(pilots)
        for _ in range(3):
            long = pilots.submit(calls.pass_gate, gate.folder)
            assert list(pilots.map(calls.square, range(50))) == [number**2 for number in range(50)]
            assert not long.done()
            long.cancel()
        long = pilots.submit(calls.pass_gate, gate.folder)
        futures = [pilots.submit(calls.mark, str(marks)) for _ in range(300)]
        names = [future.result(DEADLINE) for future in futures]
        gate.open()
        long.result(DEADLINE)
    assert sorted(path.name for path in marks.iterdir()) == sorted(names)  # each was made once


@HERE
@pytest.mark.parametrize("per_job", [1, 3])
def test_long_calls_are_never_behind_each_other_while_a_worker_is_idle(
    root: SlurmExecutor, gate: Gate, per_job: int
) -> None:
    with root.pilots(3, workers_per_job=per_job) as pilots:
        warm(pilots)
        futures = [pilots.submit(calls.pass_gate, gate.folder, number) for number in range(3)]
        gate.wait(3)
        gate.open()
        assert [future.result(DEADLINE) for future in futures] == [0, 1, 2]


def test_calls_do_not_wait_for_a_worker_that_takes_long_to_start(local: SlurmExecutor, gate: Gate) -> None:
    """The second job's initializer is at the gate: the first job's worker does all calls."""

    def wait_unless_first(folder: str) -> None:
        from tests import calls

        first = os.path.join(folder, "first")
        try:
            os.mkdir(first)
        except FileExistsError:
            calls.pass_gate(folder)

    with local.pilots(2, initializer=wait_unless_first, initargs=(gate.folder,)) as pilots:
        futures = [pilots.submit(calls.square, number) for number in range(2)]
        gate.wait(1)
        futures += [pilots.submit(calls.square, number) for number in range(2, 100)]
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(100)]
        assert len(pilots.workers) == 1
        gate.open()


def test_a_large_default_is_unpickled_once_a_worker(local: SlurmExecutor, tmp_path: Path) -> None:
    local_pilots = local.pilots(2, workers_per_job=2)
    large = calls.Marked(str(tmp_path), 1 << 20)

    def size(number: int, large: calls.Marked = large) -> int:
        return number + len(large.data)

    for _ in range(2):
        assert list(local_pilots.map(size, range(50))) == [number + (1 << 20) for number in range(50)]
    assert local_pilots.submit(size, 1).result(DEADLINE) == 1 + (1 << 20)
    assert len(list(tmp_path.iterdir())) <= 2


def test_more_functions_than_are_kept_also_where_calls_of_them_were_cancelled(local: SlurmExecutor, gate: Gate) -> None:
    def make(number: int) -> Callable[[], int]:
        return lambda: number

    functions = [make(number) for number in range(300)]
    pilots = local.pilots(1)
    for _ in range(2):
        held = pilots.submit(calls.pass_gate, gate.folder)
        futures = [pilots.submit(function) for function in functions]
        for future in futures[1::2]:
            future.cancel()
        again = [pilots.submit(function) for function in functions[:10]]
        held.cancel()
        assert [future.result(DEADLINE) for future in futures[::2]] == list(range(0, 300, 2))
        assert [future.result(DEADLINE) for future in again] == list(range(10))


# ---- cancelling


@HERE
def test_cancelling_a_running_call_replaces_its_worker_and_harms_no_other(root: SlurmExecutor, gate: Gate) -> None:
    with root.pilots(2, workers_per_job=2) as pilots:
        before = warm(pilots)
        unwanted = pilots.submit(calls.pass_gate_with_a_child, gate.folder)
        (child,) = map(int, gate.wait())
        kept = [pilots.submit(calls.square, number) for number in range(50)]
        other = pilots.submit(calls.whereabouts_at, gate.folder)
        gate.wait(2)
        assert unwanted.cancel()
        assert [future.result(DEADLINE) for future in kept] == [number**2 for number in range(50)]
        until(lambda: not lives(child))
        gate.open()
        assert other.result(DEADLINE) in before
        after = until(lambda: len(workers := warm(pilots)) == 2 and set(workers) != set(before) and workers) or []
        assert jobs_of(after) == jobs_of(before)
        assert len(set(after) & set(before)) == 1


def test_cancelling_a_waiting_call_ends_no_worker(local: SlurmExecutor, gate: Gate) -> None:
    pilots = local.pilots(1)
    (worker,) = warm(pilots)
    running = pilots.submit(calls.pass_gate, gate.folder)
    waiting = [pilots.submit(calls.square, number) for number in range(10)]
    gate.wait()
    for future in waiting[::2]:
        future.cancel()
    until(lambda: pilots.counts.waiting == 5)
    gate.open()
    assert running.result(DEADLINE) is None
    assert [future.result(DEADLINE) for future in waiting[1::2]] == [1, 9, 25, 49, 81]
    assert pilots.submit(calls.whereabouts).result(DEADLINE) == worker


def test_calls_cancelled_as_they_are_handed_out_are_no_harm(local: SlurmExecutor) -> None:
    pilots = local.pilots(2)
    kept = []
    for number in range(300):
        future = pilots.submit(calls.square, number)
        if number % 3:
            future.cancel()
        else:
            kept.append((number, future))
    assert [future.result(DEADLINE) for _, future in kept] == [number**2 for number, _ in kept]
    until(lambda: pilots.counts == PilotCounts(0, 0, pilots.counts.done))


# ---- the end


@HERE
def test_nothing_is_left_behind_the_with_block(
    root: SlurmExecutor, queue: Callable[[str], list[Job]], tmp_path: Path
) -> None:
    name = tmp_path.name
    with root.pilots(2, job_name=name) as pilots:
        before = warm(pilots)
        last = pilots.submit(calls.square, 3)
    assert last.result(0) == 9
    until(lambda: not queue(name))  # Slurm takes its time to see that a job is over
    assert not [process for _, process in before if lives(process)]


def test_an_exception_that_leaves_the_with_block_cancels_calls_and_ends_jobs(local: SlurmExecutor, gate: Gate) -> None:
    futures: list[Future[Any]] = []

    def use() -> NoReturn:
        with local.pilots(1) as pilots:
            futures.append(pilots.submit(calls.pass_gate_with_a_child, gate.folder))
            futures.append(pilots.submit(calls.square, 2))
            gate.wait()
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert [future.cancelled() for future in futures] == [True, True]
    assert not lives(int(gate.entered()[0]))


@HERE
def test_forgotten_pilots_end_when_their_calls_are_done(
    root: SlurmExecutor, gate: Gate, queue: Callable[[str], list[Job]], tmp_path: Path
) -> None:
    name = tmp_path.name
    future = root.pilots(1, job_name=name).submit(calls.whereabouts_at, gate.folder)
    gate.wait()
    gc.collect()
    gate.open()
    _, process = future.result(DEADLINE)
    until(lambda: not lives(process) and not queue(name))


def test_shutdown_without_waiting_ends_the_jobs_later(local: SlurmExecutor, gate: Gate) -> None:
    pilots = local.pilots(1)
    running = pilots.submit(calls.whereabouts_at, gate.folder)
    gate.wait()
    pilots.shutdown(wait=False)
    assert pilots.counts.running == 1
    gate.open()
    _, process = running.result(DEADLINE)
    until(lambda: not lives(process))
    assert pilots.workers == []


@pytest.mark.parametrize("wait", [True, False])
def test_the_executor_may_be_shut_down_before_its_pilots(opener: Opener, gate: Gate, wait: bool) -> None:
    root = opener.root("local")
    with root.pilots(1) as pilots:
        future = pilots.submit(calls.whereabouts_at, gate.folder)
        gate.wait()
        if not wait:
            root.shutdown(wait=False)
        gate.open()
        if wait:
            root.shutdown()
    _, process = future.result(0)
    until(lambda: not lives(process))
    assert pilots.workers == []
    assert pilots.counts == PilotCounts(0, 0, 1)
    pilots.shutdown()


def test_what_a_call_has_started_ends_with_the_pilots(local: SlurmExecutor, gate: Gate) -> None:
    with local.pilots(1) as pilots:
        future = pilots.submit(calls.pass_gate_with_a_child, gate.folder)
        (child,) = map(int, gate.wait())
        future.cancel()
    assert not lives(child)


def test_pools_are_beside_each_other(local: SlurmExecutor) -> None:
    with local.pilots(1, initializer=calls.initialize, initargs=("/tmp", 1)) as first:
        second = local.pilots(1)
        ends = [pool.submit(calls.whereabouts).result(DEADLINE) for pool in (first, second, first, second)]
        assert ends[:2] == ends[2:]
        assert ends[0] != ends[1]
    assert second.submit(calls.whereabouts).result(DEADLINE) == ends[1]


# ---- what each worker is


@HERE
def test_the_initializer_is_called_once_by_each_worker(root: SlurmExecutor, gate: Gate, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with root.pilots(2, initializer=calls.initialize, initargs=(str(marks), "one", 2)) as pilots:
        warm(pilots)
        seen = list(pilots.map(lambda _: calls.initialized(), range(20)))
    assert seen == [[("one", 2)]] * 20
    assert len(list(marks.iterdir())) == 2


SCRIPT = """\
def load(size):
    global table
    table = list(range(size))

def look_up(index):
    return table[index]
"""


def test_calls_see_what_a_script_s_initializer_has_assigned(opener: Opener) -> None:
    script: dict[str, Any] = {"__name__": "a_script"}
    exec(SCRIPT, script)
    root = opener.root("local", initializer=script["load"], initargs=(5,))
    own = root.pilots(1, initializer=script["load"], initargs=(3,))
    assert root.pilots(1).submit(script["look_up"], 4).result(DEADLINE) == 4
    assert own.submit(functools.partial(script["look_up"], 2)).result(DEADLINE) == 2
    assert isinstance(own.submit(script["look_up"], 4).exception(DEADLINE), IndexError)


@HERE
def test_an_initializer_that_raises_fails_all_calls_and_ends_the_jobs(
    root: SlurmExecutor, queue: Callable[[str], list[Job]], tmp_path: Path
) -> None:
    name = tmp_path.name
    with root.pilots(2, initializer=calls.fail_to_initialize, initargs=("no licence",), job_name=name) as pilots:
        futures = [pilots.submit(calls.square, number) for number in range(5)]
        for future in futures:
            with pytest.raises(InitializerError, match="the initializer raised OSError: no licence") as caught:
                future.result(DEADLINE)
            assert isinstance(caught.value, BrokenExecutor)
            assert "in fail_to_initialize" in str(caught.value.__cause__)
        with pytest.raises(InitializerError, match="no licence"):
            pilots.submit(calls.square, 1)
        until(lambda: not queue(name))
        assert pilots.workers == []
        assert pilots.counts == PilotCounts(0, 0, 0)
    with root.pilots(1) as others:
        assert others.submit(calls.square, 3).result(DEADLINE) == 9


def test_a_worker_is_replaced_after_so_many_calls(local: SlurmExecutor) -> None:
    with local.pilots(2, max_calls_per_worker=3) as pilots:
        processes = [process for _, process in pilots.map(lambda _: calls.whereabouts(), range(20))]
    assert max(Counter(processes).values()) == 3
    assert len(processes) == 20


def test_the_gpus_of_a_job_are_divided_among_its_workers(opener: Opener, gate: Gate) -> None:
    def gpus(folder: str = gate.folder) -> str:
        from tests import calls

        calls.pass_gate(folder)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    root = opener.root("local", setup="export CUDA_VISIBLE_DEVICES=4,5,6,7")
    with root.pilots(2, workers_per_job=2) as pilots:
        first = pilots.submit(calls.pass_gate, gate.folder + "/nowhere")  # its worker is replaced in its place
        first.exception(DEADLINE)
        futures = [pilots.submit(gpus) for _ in range(2)]
        gate.wait(2)
        gate.open()
        assert sorted(future.result(DEADLINE) for future in futures) == ["4,5", "6,7"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_a_job_is_sent_is_for_the_call(local: SlurmExecutor, gate: Gate, number: int) -> None:
    """As Slurm does before the end of a job's time, where `signal=` asks for it: no other call begins there."""
    pilots = local.pilots(1)
    pilot = pilots.submit(os.getppid).result(DEADLINE)
    heard = pilots.submit(calls.hear, f"{gate.folder}/entered", number)
    gate.wait()
    os.kill(pilot, number)
    assert heard.result(DEADLINE) == number
    assert pilots.submit(os.getppid).result(DEADLINE) != pilot


# ---- what can be seen


@HERE
def test_workers_and_counts(root: SlurmExecutor, gate: Gate) -> None:
    with root.pilots(2) as pilots:
        assert pilots.counts == PilotCounts(waiting=0, running=0, done=0)
        assert repr(pilots) == "<PilotsExecutor of 2 workers: 0 calls pending>"
        processes = {process: job for job, process in warm(pilots)}
        futures = [pilots.submit(calls.pass_gate, gate.folder) for _ in range(3)]
        gate.wait(2)
        until(lambda: pilots.counts == PilotCounts(waiting=1, running=2, done=400))
        workers = until(lambda: all(worker.busy_since for worker in pilots.workers) and pilots.workers) or []
        assert {worker.pid: worker.job_id for worker in workers} == processes
        assert {worker.host for worker in workers} == {os.uname().nodename}
        assert {worker.via for worker in workers} == {"tcp"}
        assert sum(worker.calls for worker in workers) == 400
        until(lambda: [future.running() for future in futures].count(True) == 2)
        running = next(future for future in futures if future.running())
        assert running.state is JobState.RUNNING
        assert running.job_id in processes.values()
        gate.open()
        for future in futures:
            future.result(DEADLINE)
        until(lambda: not any(worker.busy_since for worker in pilots.workers))
        assert pilots.counts == PilotCounts(waiting=0, running=0, done=403)


# ---- where none come; on Slurm, see tests/slurm/test_pilots.py


def test_jobs_that_end_at_once_again_and_again_fail_the_calls(opener: Opener) -> None:
    root = opener.root("local", setup='[ -z "$SLURM_JOB_ID" ] || { echo no module >&2; exit 9; }')
    with root.pilots(2) as pilots:
        futures = [pilots.submit(calls.square, number) for number in range(3)]
        for future in futures:
            with pytest.raises(
                PilotsBroken, match="jobs have ended one after the other before they could run a"
            ) as caught:
                future.result(DEADLINE)
            assert isinstance(caught.value, BrokenExecutor)
            assert re.search(r"; the last one: job \d+(_\d+)? failed with exit code 9 on node ", str(caught.value))
            assert "no module" in str(caught.value)
            assert isinstance(caught.value.__cause__, JobFailed)
        with pytest.raises(PilotsBroken):
            pilots.submit(calls.square, 1)
        with pytest.raises(PilotsBroken):
            pilots.map(calls.square, [1])
        assert pilots.workers == []
    assert root.login.submit(calls.square, 2).result(DEADLINE) == 4


def test_a_first_worker_that_takes_too_long_fails_the_calls(opener: Opener, gate: Gate) -> None:
    root = opener.root("local", max_workers=1)
    in_the_way = root.submit(calls.pass_gate, gate.folder)
    gate.wait()
    future = root.pilots(1, start_timeout=0.2).submit(calls.square, 1)
    with pytest.raises(PilotsBroken, match=r"no worker has come within 0\.2 s: "):
        future.result(DEADLINE)
    gate.open()
    in_the_way.result(DEADLINE)


def test_where_nothing_can_be_written_the_calls_fail(opener: Opener, tmp_path: Path) -> None:
    root = opener.root("local", work_dir=tmp_path / "work")
    (tmp_path / "work" / "pilots").write_text("in the way")
    future = root.pilots(1).submit(calls.square, 1)
    with pytest.raises(SlurmFuturesError, match=f"pilots cannot be had: .*{tmp_path}/work/pilots"):
        future.result(DEADLINE)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": 0}, "workers must be an integer of 1 or more, not 0"),
        ({"workers": 2.0}, "workers must be an integer of 1 or more, not 2.0"),
        ({"workers_per_job": None}, "workers_per_job must be an integer of 1 or more, not None"),
        ({"workers": 5, "workers_per_job": 2}, "workers=5 do not fill jobs of workers_per_job=2: ask for 4 or 6"),
        ({"workers": 1, "workers_per_job": 2}, "workers=1 do not fill jobs of workers_per_job=2: ask for 2"),
        ({"max_jobs": 0}, "max_jobs must be an integer of 1 or more, not 0"),
        ({"max_calls_per_worker": True}, "max_calls_per_worker must be an integer of 1 or more, not True"),
        ({"retries": -1}, "retries must be an integer of 0 or more, not -1"),
        ({"idle_timeout": 0}, "idle_timeout must be a number of seconds greater than 0, not 0"),
        ({"idle_timeout": None}, "idle_timeout must be a number of seconds greater than 0, not None"),
        ({"call_time": "1"}, "call_time must be a number of seconds greater than 0, not '1'"),
        ({"start_timeout": float("nan")}, "start_timeout must be a number of seconds greater than 0, not nan"),
        ({"call_time": 60, "time": 1}, "call_time=60 s does not fit into jobs of time='1': ask for more time="),
        ({"address": 5}, "address must be the login node's name or address, as a string, not 5"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_what_can(shared_local: SlurmExecutor, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        shared_local.pilots(**{"workers": 4, **wrong})


def test_an_option_that_pilots_do_not_have_is_refused(local: SlurmExecutor) -> None:
    with pytest.raises(TypeError, match=r"partitoin.*partition"):
        local.pilots(1, partitoin="cpu")
    with pytest.raises(TypeError, match="sbatch option 'array' cannot be set"):
        local.pilots(1, array="1-3")
    with pytest.raises(TypeError, match="initializer must be a callable, not 5"):
        local.pilots(1, initializer=5)  # type: ignore[arg-type]


# ---- beside the executor's other ways


@HERE
def test_options_are_those_of_the_view_that_pilots_are_made_by(
    root: SlurmExecutor, queue: Callable[[str], list[Job]], scheduler: str, tmp_path: Path
) -> None:
    name = tmp_path.name
    view = root.with_options(job_name=name, time=10)
    with view.pilots(1) as pilots, view.pilots(1, time=None, job_name="other") as others:
        assert pilots._pool.settings.options == ("--time=10",)
        assert others._pool.settings.options == ()
        assert pilots.submit(calls.square, 2).result(DEADLINE) == 4
        assert len(queue(name)) == (scheduler == "slurm")


def test_pilots_are_as_many_as_jobs_may_be(opener: Opener) -> None:
    assert opener.root("local", max_workers=3).pilots()._pool.settings.workers == 3
    root = opener.root("local")
    assert root.pilots()._pool.settings.workers == os.cpu_count()
    assert root.pilots(workers_per_job=1000)._pool.settings.workers == 1000


@pytest.mark.ssh
def test_pilots_of_a_login_node_far_away(opener: Opener, gate: Gate) -> None:
    root = opener.root("paramiko", max_workers=3)
    with root.pilots(2, workers_per_job=2, initializer=calls.initialize, initargs=(gate.folder, 1)) as pilots:
        before = warm(pilots)
        unwanted = pilots.submit(calls.pass_gate, gate.folder)
        gate.wait()
        unwanted.cancel()
        assert pilots.submit(calls.initialized).result(DEADLINE) == [(1,)]
        assert list(pilots.map(calls.square, range(500), buffersize=20)) == [number**2 for number in range(500)]
        data = calls.noise(1 << 20)
        assert pilots.submit(calls.identity, data).result(DEADLINE) == data
        assert isinstance(pilots.submit(calls.leave, 3).exception(DEADLINE), JobFailed)
    assert not [process for _, process in before if lives(process)]
