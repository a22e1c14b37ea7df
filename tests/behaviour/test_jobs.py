"""What is particular to calls that are jobs: their ids and states, arrays, initializers, limits, files."""

import functools
import re
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import (
    InitializerError,
    JobError,
    JobFailed,
    JobState,
    JobTimeout,
    ResultLost,
    SlurmExecutor,
    SlurmFuture,
)
from tests import calls
from tests.fix_executors import HERE, OpenJobs
from tests.fix_gate import Gate
from tests.slurm.queue import together
from tests.waiting import DEADLINE, until


def array_of(job_id: str | None) -> str:
    assert job_id is not None
    return job_id.partition("_")[0]


def folders(work_dir: Path) -> list[Path]:
    """Return the folders of the batches that have any files."""
    return [path for path in (work_dir / "batches").iterdir() if any(path.iterdir())]


# ---- ids and states


def test_state_and_job_id_follow_the_job(open_jobs: OpenJobs, gate: Gate) -> None:
    executor = open_jobs(max_workers=1)
    running = executor.submit(calls.pass_gate, gate.folder)
    waiting = executor.submit(calls.square, 2)
    failing = executor.submit(calls.fail, ValueError())
    unwanted = executor.submit(calls.square, 3)
    assert running.state in (JobState.PENDING, JobState.RUNNING)
    until(running.running)
    assert running.state == JobState.RUNNING
    assert re.fullmatch(r"\d+(_\d+)?", running.job_id or "")
    assert waiting.state == JobState.PENDING
    assert not waiting.running()
    unwanted.cancel()
    gate.open()
    waiting.result(DEADLINE)
    failing.exception(DEADLINE)
    futures = [running, waiting, failing, unwanted]
    ends = [JobState.COMPLETED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
    assert [future.state for future in futures] == ends
    ids = [future.job_id for future in futures]
    executor.shutdown()
    assert [future.state for future in futures] == ends
    assert [future.job_id for future in futures] == ids
    assert len(set(ids)) == 4


def test_a_call_has_no_job_before_it_is_submitted(jobs: SlurmExecutor, gate: Gate) -> None:
    with jobs._connection.poller._lock:  # the poller closes no batch meanwhile
        future = jobs.submit(calls.pass_gate, gate.folder)
        assert future.job_id is None
    gate.open()
    future.result(DEADLINE)
    assert future.job_id is not None


# ---- how a job can end


@pytest.mark.parametrize("code", [1, 3, 127])
def test_leaving_without_a_result_fails_the_call_with_the_exit_code(jobs: SlurmExecutor, code: int) -> None:
    bad = jobs.submit(calls.leave_saying, code, "last words")
    good = jobs.submit(calls.square, 2)
    with pytest.raises(JobFailed, match=f"failed with exit code {code}") as caught:
        bad.result(DEADLINE)
    error = caught.value
    assert (error.exit_code, error.signal, error.state) == (code, None, JobState.FAILED)
    assert error.job_id == bad.job_id
    assert error.node
    assert error.stderr_tail.strip() == "last words"
    assert str(error).endswith("last words")
    assert bad.state == JobState.FAILED
    assert good.result(DEADLINE) == 4


def test_leaving_without_a_result_and_without_an_error_is_told_so(jobs: SlurmExecutor) -> None:
    with pytest.raises(ResultLost, match=r"the function left by os\._exit\(0\)"):
        jobs.submit(calls.leave, 0).result(DEADLINE)


def test_a_crash_fails_the_call_with_the_signal(jobs: SlurmExecutor) -> None:
    error = jobs.submit(calls.crash).exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert error.signal_name == "SIGSEGV"
    assert "was killed by SIGSEGV" in str(error)


def test_a_crash_leaves_earlier_results_of_its_chunk(jobs: SlurmExecutor, gate: Gate) -> None:
    def work(number: int, folder: str = gate.folder) -> int:
        from tests import calls

        if number == 2:
            calls.pass_gate(folder)
            calls.leave(5)
        return number

    results = jobs.map(work, range(4), chunksize=4)
    futures = jobs._pending()
    gate.wait()
    until(lambda: futures[1].done())  # they are published while a later call runs
    gate.open()
    assert [next(results), next(results)] == [0, 1]
    for future in futures[2:]:
        error = future.exception(DEADLINE)
        assert isinstance(error, JobFailed)
        assert error.exit_code == 5


def test_a_job_beyond_its_time_limit_is_a_timeout(open_jobs: OpenJobs, scheduler: str, gate: Gate) -> None:
    if scheduler == "slurm":
        pytest.skip("Slurm's shortest limit is a minute: see the tests of failures")
    executor = open_jobs(time="00:00:01")
    future = executor.submit(calls.pass_gate, gate.folder)
    with pytest.raises(JobTimeout, match="time limit") as caught:
        future.result(DEADLINE)
    assert isinstance(caught.value, TimeoutError)
    assert future.state == JobState.TIMEOUT


# ---- arrays


def arrays_of(futures: Iterable[SlurmFuture[Any]]) -> set[str]:
    """Wait for calls and return the ids of their jobs or arrays."""
    return {array_of(future.job_id) for future in futures if future.exception(DEADLINE) is None}


def test_calls_submitted_in_a_loop_are_one_array(jobs: SlurmExecutor) -> None:
    # Where this process is held up for milliseconds in between, they are two: not every time.
    until(lambda: len(arrays_of([jobs.submit(calls.square, number) for number in range(12)])) == 1)


def test_different_functions_share_an_array(jobs: SlurmExecutor) -> None:
    def share() -> bool:
        futures: list[SlurmFuture[Any]] = [jobs.submit(calls.square, 3), jobs.submit(calls.add, 1, 2)]
        futures.append(jobs.submit(lambda: "lambda"))
        assert [future.result(DEADLINE) for future in futures] == [9, 3, "lambda"]
        return len(arrays_of(futures)) == 1

    until(share)


def test_a_single_call_is_a_plain_job(jobs: SlurmExecutor) -> None:
    future = jobs.submit(calls.square, 2)
    future.result(DEADLINE)
    assert (future.job_id or "").isdigit()


def test_a_map_is_one_array_whose_tasks_are_its_calls(jobs: SlurmExecutor, gate: Gate) -> None:
    results = jobs.map(calls.pass_gate, [gate.folder] * 12)
    futures = jobs._pending()
    gate.open()
    list(results)
    array = array_of(futures[0].job_id)
    assert [future.job_id for future in futures] == [f"{array}_{task}" for task in range(12)]


def test_the_calls_of_a_chunk_are_one_task(jobs: SlurmExecutor, gate: Gate) -> None:
    results = jobs.map(calls.pass_gate, [gate.folder] * 8, chunksize=3)
    futures = jobs._pending()
    gate.open()
    list(results)
    array = array_of(futures[0].job_id)
    assert [future.job_id for future in futures] == [f"{array}_{task}" for task in (0, 0, 0, 1, 1, 1, 2, 2)]


def test_calls_with_other_options_are_another_array(jobs: SlurmExecutor) -> None:
    views = [jobs, jobs.with_options(time="00:20:00"), jobs.with_options(time="00:20:00")]

    def submit() -> list[set[str]]:
        futures = [view.submit(calls.square, number) for number in range(3) for view in views]
        own, other, same = (arrays_of(futures[start::3]) for start in range(3))
        assert own.isdisjoint(other | same)
        return [own, other, same]

    until(lambda: [len(arrays) for arrays in submit()] == [1, 1, 1])
    until(lambda: (arrays := submit())[1] == arrays[2])


def test_a_function_is_stored_once_a_batch(open_jobs: OpenJobs, tmp_path: Path, gate: Gate) -> None:
    weight = bytes(1 << 20)

    def heavy(folder: str, number: int) -> int:
        from tests import calls

        calls.pass_gate(folder)
        return len(weight) + number

    executor = open_jobs(work_dir=tmp_path / "work")
    results = executor.map(heavy, [gate.folder] * 20, range(20))
    gate.wait()
    (folder,) = folders(tmp_path / "work")
    assert 1 << 20 < (folder / "calls").stat().st_size < 2 << 20
    gate.open()
    assert list(results) == [(1 << 20) + number for number in range(20)]


# ---- options


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("partitoin", "partition"), ("walltime", "time"), ("cpus_per_tsk", "cpus_per_task"), ("work_dri", "work_dir")],
)
def test_a_wrong_option_fails_at_once_with_the_nearest_right_one(
    jobs: SlurmExecutor, name: str, suggestion: str
) -> None:
    open_with: Callable[..., SlurmExecutor] = functools.partial(SlurmExecutor, scheduler="local")
    with pytest.raises(TypeError, match=f"unknown sbatch option {name!r}; did you mean {suggestion!r}"):
        jobs.with_options(**{name: "x"})
    with pytest.raises(TypeError, match=f"did you mean {suggestion!r}"):
        open_with(**{name: "x"})


@pytest.mark.parametrize("name", ["array", "output", "chdir", "wait", "parsable", "wrap"])
def test_an_option_that_the_executor_owns_is_refused_with_the_reason(jobs: SlurmExecutor, name: str) -> None:
    with pytest.raises(TypeError, match=f"sbatch option {name!r} cannot be set: .+"):
        jobs.with_options(**{name: "x"})


def test_options_of_a_view_change_those_of_its_origin(open_jobs: OpenJobs, scheduler: str, gate: Gate) -> None:
    executor = open_jobs(time="00:00:01" if scheduler == "local" else "00:01:00", job_name="mine")
    longer = executor.with_options(time=5)
    longest = longer.with_options(time=None)
    for view in (longer, longest):
        assert view.submit(calls.square, 2).result(DEADLINE) == 4
    assert [list(view._spec.options) for view in (longer, longest)] == [["--time=5"], []]
    assert longest._spec.name == "mine"


# ---- initializers


def test_the_initializer_is_called_once_in_each_job_s_process(open_jobs: OpenJobs, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    executor = open_jobs(initializer=calls.initialize, initargs=(str(marks), "one", 2))
    seen = list(executor.map(call_initialized, range(6), chunksize=3))
    assert seen == [[("one", 2)]] * 6
    assert len(list(marks.iterdir())) == 2


call_initialized = lambda _: __import__("tests.calls").calls.initialized()  # noqa: E731 - travels by value


SCRIPT = """\
table = None

def load(size):
    global table, extra
    table, extra = list(range(size)), "new"

def look_up(index):
    return table[index], extra

def elsewhere():
    return len(table)
"""


def test_calls_see_what_a_script_s_initializer_has_assigned(open_jobs: OpenJobs) -> None:
    script: dict[str, Any] = {"__name__": "a_script"}
    exec(SCRIPT, script)
    executor = open_jobs(initializer=script["load"], initargs=(5,))
    futures = [
        executor.submit(script["look_up"], 3),
        executor.submit(functools.partial(script["look_up"], 4)),
        executor.submit(script["elsewhere"]),
    ]
    assert [future.result(DEADLINE) for future in futures] == [(3, "new"), (4, "new"), 5]


def test_an_initializer_of_another_module_leaves_a_script_s_names_alone(open_jobs: OpenJobs) -> None:
    script: dict[str, Any] = {"__name__": "a_script"}
    other: dict[str, Any] = {"__name__": "another_script"}
    for names in (script, other):
        exec(SCRIPT, names)
    script["table"] = ["mine"]
    executor = open_jobs(initializer=other["load"], initargs=(5,))
    assert executor.submit(script["elsewhere"]).result(DEADLINE) == 1


def test_an_initializer_that_raises_breaks_the_executor(open_jobs: OpenJobs, gate: Gate) -> None:
    executor = open_jobs(initializer=calls.fail_to_initialize, initargs=("no licence",), max_workers=1)
    futures = [executor.submit(calls.square, number) for number in range(4)]
    for future in futures:
        with pytest.raises(InitializerError, match="the initializer raised OSError: no licence") as caught:
            future.result(DEADLINE)
        assert isinstance(caught.value, BrokenExecutor)
        assert "in fail_to_initialize" in str(caught.value.__cause__)
    with pytest.raises(BrokenExecutor, match="no licence"):
        executor.submit(calls.square, 1)
    with pytest.raises(BrokenExecutor):
        executor.map(calls.square, [1])


def test_an_initializer_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        SlurmExecutor(scheduler="local", initializer=5)  # type: ignore[arg-type]


# ---- max_workers


def peak(log: Path) -> int:
    """Return how many calls of `calls.overlap` ran at once."""
    count = highest = 0
    for line in log.read_text().splitlines():
        count += 1 if line == "+" else -1
        highest = max(highest, count)
    assert count == 0
    return highest


@pytest.mark.parametrize("submit", ["one by one", "with other options"])
def test_no_more_calls_run_at_once_than_max_workers(open_jobs: OpenJobs, tmp_path: Path, submit: str) -> None:
    log = tmp_path / "log"
    executor = open_jobs(max_workers=1)
    views: list[Any] = [executor, executor]
    if submit == "with other options":
        views[1] = executor.with_options(time=20)
    futures = [view.submit(calls.overlap, str(log), 0.05) for _ in range(3) for view in views]
    for future in futures:
        future.result(DEADLINE)
    assert peak(log) == 1


def test_as_many_calls_run_at_once_as_max_workers(open_jobs: OpenJobs, gate: Gate) -> None:
    """Three: more than this machine may have cores, which is the default."""
    executor = open_jobs(max_workers=3)
    futures = [executor.submit(calls.pass_gate, gate.folder) for _ in range(4)]
    gate.wait(3)
    gate.open()
    for future in futures:
        future.result(DEADLINE)


@pytest.mark.parametrize("number", [0, -1, 1.5, "2"])
@pytest.mark.parametrize("name", ["max_workers", "login_workers"])
def test_a_number_of_workers_is_one_at_least(name: str, number: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer of 1 or more"):
        SlurmExecutor(scheduler="local", **{name: number})


# ---- files


def test_files_go_when_nobody_refers_to_the_batch(open_jobs: OpenJobs, tmp_path: Path) -> None:
    executor = open_jobs(work_dir=tmp_path / "work")
    futures = together(executor, calls.square, [(number,) for number in range(3)])
    assert [future.result(DEADLINE) for future in futures] == [0, 1, 4]
    assert len(folders(tmp_path / "work")) == 1
    del futures
    until(lambda: not list((tmp_path / "work/batches").iterdir()))


def test_files_go_when_the_executor_is_shut_down(open_jobs: OpenJobs, tmp_path: Path) -> None:
    with open_jobs(work_dir=tmp_path / "work") as executor:
        futures = [executor.submit(calls.square, number) for number in range(3)]
        failed = executor.submit(calls.fail, ValueError())
        executor.submit(calls.square, 4).result(DEADLINE)
    assert not list((tmp_path / "work/batches").iterdir())
    assert [future.result() for future in futures] == [0, 1, 4]
    assert isinstance(failed.exception(), ValueError)


def test_files_of_a_single_call_that_is_forgotten_at_once_go(open_jobs: OpenJobs, tmp_path: Path) -> None:
    for _ in range(5):
        with open_jobs(work_dir=tmp_path / "work") as executor:
            assert executor.submit(calls.square, 2).result(DEADLINE) == 4
        assert not list((tmp_path / "work/batches").iterdir())


def test_files_of_a_cancelled_batch_go(open_jobs: OpenJobs, tmp_path: Path, gate: Gate) -> None:
    with open_jobs(work_dir=tmp_path / "work") as executor:
        futures = [executor.submit(calls.pass_gate, gate.folder) for _ in range(3)]
        gate.wait()
        for future in futures:
            future.cancel()
    assert not list((tmp_path / "work/batches").iterdir())


def test_files_of_a_job_that_died_stay_and_the_exception_says_where(open_jobs: OpenJobs, tmp_path: Path) -> None:
    with open_jobs(work_dir=tmp_path / "work") as executor:
        futures: list[SlurmFuture[Any]] = [executor.submit(calls.leave_saying, 3, "last words")]
        futures.append(executor.submit(calls.square, 2))
    error = futures[0].exception()
    assert isinstance(error, JobError)
    (folder,) = folders(tmp_path / "work")
    assert error.where == str(folder)
    assert str(folder) in str(error)
    assert any("last words" in path.read_text() for path in folder.glob("*/l/*.err"))


def test_work_dir_is_private_and_is_made(open_jobs: OpenJobs, tmp_path: Path) -> None:
    open_jobs(work_dir=tmp_path / "new/work")
    assert (tmp_path / "new/work").stat().st_mode & 0o777 == 0o700


@HERE
def test_work_dir_may_be_relative_or_below_home(
    open_jobs: OpenJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home of mine"))
    for work_dir in ("rela tive", "~/be low"):
        assert open_jobs(work_dir=work_dir).submit(calls.square, 2).result(DEADLINE) == 4
    assert (tmp_path / "rela tive/batches").is_dir()
    assert (tmp_path / "home of mine/be low/batches").is_dir()


@HERE
def test_calls_run_where_the_driver_is(open_jobs: OpenJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a b'c"
    place.mkdir()
    monkeypatch.chdir(place)
    assert Path(open_jobs().submit(Path.cwd).result(DEADLINE)) == place


def test_setup_comes_before_the_interpreter(open_jobs: OpenJobs) -> None:
    executor = open_jobs(setup="export GREETING='hello there'\nsay() { export GREETING=\"$GREETING $1\"; }\nsay you")
    assert executor.submit(lambda: __import__("os").environ["GREETING"]).result(DEADLINE) == "hello there you"
    assert executor.login.submit(lambda: __import__("os").environ["GREETING"]).result(DEADLINE) == "hello there you"


def test_signals_do_in_a_call_what_they_do_in_any_program(jobs: SlurmExecutor) -> None:
    def handlers() -> list[bool]:
        import signal

        default = [signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1]
        return [
            signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            *(signal.getsignal(number) is signal.SIG_DFL for number in default),
        ]

    assert jobs.submit(handlers).result(DEADLINE) == [True] * 4
