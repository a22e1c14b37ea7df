"""A checkpoint: what has a result is not run again, what has none is, and what is under way is waited for."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import (
    CheckpointCorrupt,
    CheckpointLocked,
    JobState,
    SlurmExecutor,
    SlurmFuturesError,
    SlurmFuturesWarning,
    SubmitError,
)
from tests import calls
from tests.fix_executors import HERE, OpenJobs
from tests.fix_gate import Gate
from tests.waiting import until

Start = Callable[..., SlurmExecutor]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return tmp_path / "lines"


@pytest.fixture
def start(open_jobs: OpenJobs, tmp_path: Path) -> Start:
    """Open an executor with the checkpoint of this test."""

    def start(**options: Any) -> SlurmExecutor:
        return open_jobs(**{"checkpoint": tmp_path / "sweep.ckpt", **options})

    return start


def ran(lines: Path) -> list[int]:
    """Return which calls have run, each as often as it did."""
    return sorted(map(int, lines.read_text().split())) if lines.exists() else []


def sweep(executor: SlurmExecutor, lines: Path, numbers: range, **options: Any) -> list[int]:
    return list(executor.map(calls.append_and_square, [str(lines)] * len(numbers), numbers, **options))


def test_what_has_a_result_is_not_run_again(start: Start, lines: Path) -> None:
    for _ in range(3):
        with start() as executor:
            assert sweep(executor, lines, range(5)) == [0, 1, 4, 9, 16]
            assert executor.submit(calls.append_and_square, str(lines), number=7).result() == 49
    assert ran(lines) == [0, 1, 2, 3, 4, 7]


def test_a_remembered_call_is_done_at_once(start: Start) -> None:
    with start() as executor:
        executor.submit(calls.square, 3).result()
    with start() as executor:
        future = executor.submit(calls.square, 3)
        assert future.done()
        assert (future.result(), future.state, future.stdout()) == (9, JobState.COMPLETED, "")
        assert not future.cancel()


def test_a_longer_sweep_runs_what_is_new_of_each_chunk(start: Start, lines: Path) -> None:
    with start() as executor:
        sweep(executor, lines, range(0, 9, 2), chunksize=2)
    with start() as executor:
        assert sweep(executor, lines, range(9), chunksize=4) == [number**2 for number in range(9)]
    assert ran(lines) == list(range(9))


def test_results_outlive_the_work_dir(start: Start, lines: Path, tmp_path: Path) -> None:
    with start(work_dir=tmp_path / "scratch") as executor:
        sweep(executor, lines, range(3))
    shutil.rmtree(tmp_path / "scratch")
    with start(work_dir=tmp_path / "another") as executor:
        assert sweep(executor, lines, range(3)) == [0, 1, 4]
    assert ran(lines) == [0, 1, 2]


def test_a_call_made_several_times_runs_as_often_and_no_more(start: Start, lines: Path) -> None:
    for _ in range(2):
        with start() as executor:
            for _ in range(3):
                executor.submit(calls.append_and_square, str(lines), 1)
    assert ran(lines) == [1, 1, 1]
    with start() as executor:
        for _ in range(4):
            executor.submit(calls.append_and_square, str(lines), 1)
    assert ran(lines) == [1, 1, 1, 1]


def fail_until(path: str, lines: str) -> str:
    from tests.calls import append_and_square

    append_and_square(lines, 0)
    if not os.path.exists(path):
        raise ValueError("not yet")
    return "now"


def test_what_raised_runs_again(start: Start, lines: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with start() as executor:
        future = executor.submit(fail_until, str(flag), str(lines))
        assert isinstance(future.exception(), ValueError)
    flag.touch()
    for _ in range(2):
        with start() as executor:
            assert executor.submit(fail_until, str(flag), str(lines)).result() == "now"
    assert ran(lines) == [0, 0]


def test_a_second_try_in_the_same_run_is_the_same_call(start: Start, lines: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with start() as executor:
        assert isinstance(executor.submit(fail_until, str(flag), str(lines)).exception(), ValueError)
        flag.touch()
        assert executor.submit(fail_until, str(flag), str(lines)).result() == "now"
    with start() as executor:
        assert executor.submit(fail_until, str(flag), str(lines)).result() == "now"
    assert ran(lines) == [0, 0]


def test_what_died_runs_again(start: Start, lines: Path) -> None:
    for _ in range(2):
        with start() as executor:
            executor.submit(calls.append_and_square, str(lines), 2).result()
            error = executor.submit(calls.leave, 3).exception()
            assert error is not None
            assert "exit code 3" in str(error)
    assert ran(lines) == [2]


def test_what_was_cancelled_runs_again(start: Start, gate: Gate) -> None:
    with start() as executor:
        future = executor.submit(calls.pass_gate, gate.folder, 1)
        gate.wait()
        future.cancel()
    gate.open()
    with start() as executor:
        assert executor.submit(calls.pass_gate, gate.folder, 1).result() == 1
    assert len(gate.entered()) == 2


def test_an_edited_function_runs_anew(start: Start, lines: Path) -> None:
    path = str(lines)

    def first(number: int) -> int:
        from tests.calls import append_and_square

        return append_and_square(path, number)

    def edited(number: int) -> int:
        from tests.calls import append_and_square

        return append_and_square(path, number) + 1

    edited.__name__, edited.__qualname__ = first.__name__, first.__qualname__
    for function, expected in ((first, 4), (first, 4), (edited, 5), (edited, 5), (first, 4)):
        with start() as executor:
            assert executor.submit(function, 2).result() == expected
    assert ran(lines) == [2, 2]


def test_a_user_s_own_key_decides(start: Start, lines: Path) -> None:
    def name(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> object:
        return None if kwargs["number"] < 0 else ("the same", kwargs["number"] // 10)

    for _ in range(2):
        with start(checkpoint_key=name) as executor:
            assert executor.submit(calls.append_and_square, str(lines), number=-1).result() == 1
            assert executor.submit(calls.append_and_square, str(lines), number=21).result() == 441
    with start(checkpoint_key=name) as executor:
        assert executor.submit(calls.append_and_square, str(lines), number=22).result() == 441
    assert ran(lines) == [-1, -1, 21]


class Opaque:
    """Pickles, but says something else about itself each time."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol != 4:
            return (Opaque, ())
        raise TypeError("no key")

    def __call__(self, lines: str) -> int:
        return calls.append_and_square(lines, 5)


def test_what_has_no_key_runs_each_time_and_is_told_of_once(start: Start, lines: Path) -> None:
    for _ in range(2):
        with start() as executor, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", SlurmFuturesWarning)
            opaque = Opaque()
            assert [executor.submit(opaque, str(lines)).result() for _ in range(2)] == [25, 25]
            assert len(said) == 1
            assert "checkpoint_key=" in str(said[0].message)
    assert ran(lines) == [5, 5, 5, 5]


def test_login_node_calls_are_not_remembered(start: Start, lines: Path) -> None:
    for _ in range(2):
        with start() as executor:
            executor.login.submit(calls.append_and_square, str(lines), 1).result()
    assert ran(lines) == [1, 1]


def test_calls_with_other_options_are_the_same_calls(start: Start, lines: Path) -> None:
    with start() as executor:
        executor.submit(calls.append_and_square, str(lines), 1).result()
    with start() as executor:
        executor.with_options(time="00:10:00").submit(calls.append_and_square, str(lines), 1).result()
    assert ran(lines) == [1]


def test_a_second_executor_is_told_who_has_the_checkpoint(start: Start) -> None:
    start()
    with pytest.raises(CheckpointLocked, match=f"process {os.getpid()} on {os.uname().nodename}"):
        start()


def test_the_lock_is_gone_after_an_executor_that_could_not_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlurmFuturesError):
        start(work_dir=tmp_path / "file" / "x")
    start()


def test_a_damaged_checkpoint_is_told_of_before_anything_is_done(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sweep.ckpt").write_text("mine" * 100)
    with pytest.raises(CheckpointCorrupt):
        start(host="nobody@127.0.0.1:1")


@pytest.mark.parametrize("wrong", [{"checkpoint_key": 3}, {"checkpoint_key": len, "checkpoint": None}])
def test_nonsense_is_told(start: Start, wrong: Any) -> None:
    with pytest.raises(TypeError, match="checkpoint_key"):
        start(**wrong)


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    path = disk / "filler"
    with path.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


@HERE
def test_without_room_for_the_checkpoint_nothing_is_sent(
    start: Start, scheduler: str, small_disk: Path, lines: Path, tmp_path: Path
) -> None:
    with start(checkpoint=small_disk / "c", work_dir=tmp_path / "scratch") as executor:
        filler = fill(small_disk)
        with pytest.raises(SubmitError) as caught:  # one batch, of more than what is left of the file's last block
            sweep(executor, lines, range(250))
        assert str(small_disk / "c") in str(caught.value)
        assert "No space left" in str(caught.value)
        assert "nothing was sent" in str(caught.value)
        assert list((tmp_path / "scratch" / "batches").glob("*")) == []
        filler.unlink()
        assert executor.submit(calls.append_and_square, str(lines), 1).result() == 1
    assert ran(lines) == [1]


@HERE
def test_a_result_for_which_there_is_no_room_is_fetched_at_the_next_start(
    start: Start, scheduler: str, small_disk: Path, lines: Path, tmp_path: Path
) -> None:
    size = 5 << 20
    with warnings.catch_warnings(record=True) as said, start(checkpoint=small_disk / "c") as executor:
        warnings.simplefilter("always", SlurmFuturesWarning)
        assert len(executor.submit(make, str(lines), size).result()) == size
        until(lambda: said)
    assert str(small_disk / "c") in str(said[0].message)
    shutil.copy(small_disk / "c", tmp_path / "c")
    with start(checkpoint=tmp_path / "c") as executor:
        assert len(executor.submit(make, str(lines), size).result()) == size
    assert ran(lines) == [0]


def make(lines: str, size: int) -> bytes:
    from tests.calls import append_and_square

    append_and_square(lines, 0)
    return os.urandom(size)


def test_a_map_that_an_exception_ends_goes_on_for_the_next_start(start: Start, gate: Gate, lines: Path) -> None:
    def interrupt() -> None:
        with start() as executor:
            kept.append(executor.map(calls.pass_gate, [gate.folder], [5]))
            gate.wait()
            raise KeyError

    kept: list[Any] = []
    with pytest.raises(KeyError):
        interrupt()
    kept.clear()
    gate.open()
    with start() as executor:
        assert list(executor.map(calls.pass_gate, [gate.folder], [5])) == [5]


def time_out(folder: str, number: int) -> int:
    from tests.calls import pass_gate

    if number == 0:
        raise TimeoutError
    pass_gate(folder)
    return number


def test_a_call_that_times_out_cancels_no_other(start: Start, gate: Gate) -> None:
    with start() as executor:
        results = executor.map(time_out, [gate.folder] * 2, [0, 1])
        with pytest.raises(TimeoutError):
            next(results)
        gate.open()
    with start() as executor:
        assert executor.submit(time_out, gate.folder, 1).done()


def test_a_view_that_is_left_by_an_exception_cancels_nothing(start: Start, gate: Gate) -> None:
    def use(executor: SlurmExecutor) -> None:
        with executor.with_options(time="00:10:00") as view:
            futures.append(view.submit(calls.pass_gate, gate.folder, 5))
            raise KeyError

    futures: list[Any] = []
    with start() as executor:
        with pytest.raises(KeyError):
            use(executor)
        assert not futures[0].done()
        gate.open()
        assert futures[0].result() == 5


def test_files_in_work_dir_go_when_their_results_are_in_the_checkpoint(
    start: Start, lines: Path, tmp_path: Path
) -> None:
    with start(work_dir=tmp_path / "scratch") as executor:
        sweep(executor, lines, range(3))
    assert list((tmp_path / "scratch" / "batches").glob("*")) == []
