"""`map`, as `concurrent.futures` has it, and what `chunksize` and `buffersize` do here."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FuturesTimeout
from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor
from tests import calls
from tests.fix_executors import AnyExecutor
from tests.fix_gate import Gate
from tests.waiting import until


class Counted:
    """Numbers from 0 on, and how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return self.taken - 1


def test_results_come_in_the_order_of_the_arguments(executor: AnyExecutor) -> None:
    assert list(executor.map(calls.square, range(20))) == [number**2 for number in range(20)]


def test_a_result_waits_for_those_before_it(executor: AnyExecutor, gate: Gate) -> None:
    def first_is_slow(number: int, folder: str = gate.folder) -> int:
        from tests import calls

        return int(calls.pass_gate(folder, number)) if number == 0 else number

    results = executor.map(first_is_slow, range(3))
    gate.wait()
    gate.open()
    assert list(results) == [0, 1, 2]


def test_several_iterables_end_with_the_shortest(executor: AnyExecutor) -> None:
    assert list(executor.map(calls.add, range(100), [10, 20, 30])) == [10, 21, 32]
    assert list(executor.map(calls.add, [], range(3))) == []


@pytest.mark.parametrize("chunksize", [1, 5])
def test_nothing_to_map_gives_nothing(executor: AnyExecutor, chunksize: int) -> None:
    assert list(executor.map(calls.square, [], chunksize=chunksize)) == []
    assert list(executor.map(calls.square)) == []


@pytest.mark.parametrize("chunksize", [2, 3, 7, 100])
def test_chunks_of_any_size_give_the_same_results(executor: AnyExecutor, chunksize: int) -> None:
    assert list(executor.map(calls.add, range(7), itertools.count(1), chunksize=chunksize)) == list(range(1, 15, 2))


@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunk_holds_one_call_at_least(executor: AnyExecutor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(calls.square, [1], chunksize=chunksize)


@pytest.mark.parametrize("chunksize", [1, 4])
def test_results_before_a_failing_call_are_yielded_and_then_its_exception(
    executor: AnyExecutor, chunksize: int
) -> None:
    results = executor.map(calls.fail_at, itertools.repeat(2), range(5), chunksize=chunksize)
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ValueError, match="2"):
        next(results)
    assert list(results) == []


def test_one_failing_call_of_a_chunk_leaves_the_others_theirs(jobs: SlurmExecutor, tmp_path: Path) -> None:
    def noted(number: int, folder: str = str(tmp_path)) -> None:
        from tests import calls

        calls.mark(folder, str(number))
        calls.fail_at(1, number)

    results = jobs.map(noted, range(4), chunksize=4)
    assert next(results) is None
    until(lambda: sorted(path.read_text() for path in tmp_path.iterdir()) == ["0", "1", "2", "3"])
    with pytest.raises(ValueError, match="1"):
        next(results)


def test_one_argument_that_cannot_be_pickled_fails_alone(executor: AnyExecutor) -> None:
    results = executor.map(calls.identity, [1, calls.square(2), iter_of_pipes(), 3], chunksize=2)
    assert next(results) == 1
    assert next(results) == 4
    with pytest.raises(Exception, match="cannot be pickled"):
        next(results)


def iter_of_pipes() -> Iterator[int]:
    yield os.getpid()


def test_a_timeout_counts_from_the_call_of_map(executor: AnyExecutor, gate: Gate) -> None:
    results = executor.map(calls.pass_gate, [gate.folder], timeout=0.05)
    with pytest.raises(FuturesTimeout):
        next(results)


def test_a_timeout_that_is_not_reached_changes_nothing(executor: AnyExecutor) -> None:
    assert list(executor.map(calls.square, range(3), timeout=60)) == [0, 1, 4]


def test_a_timeout_cancels_what_is_left(executor: AnyExecutor, gate: Gate) -> None:
    results = executor.map(calls.pass_gate, [gate.folder] * 3, timeout=0)
    with pytest.raises(FuturesTimeout):
        next(results)
    until(lambda: not executor._pending())
    assert list(results) == []


def test_closing_the_iterator_cancels_what_is_left(executor: AnyExecutor, gate: Gate) -> None:
    def first_is_quick(number: int, folder: str = gate.folder) -> int:
        from tests import calls

        return int(calls.pass_gate(folder, number)) if number else number

    results = executor.map(first_is_quick, range(5))
    assert next(results) == 0
    assert executor._pending()
    results.close()  # type: ignore[attr-defined]
    until(lambda: not executor._pending())


def test_all_arguments_are_taken_at_once(executor: AnyExecutor) -> None:
    numbers = iter(range(5))
    executor.map(calls.square, numbers)
    assert next(numbers, None) is None


@pytest.mark.parametrize("chunksize", [1, 3])
def test_with_a_buffersize_arguments_are_taken_as_results_are_yielded(executor: AnyExecutor, chunksize: int) -> None:
    numbers = Counted()
    results = executor.map(calls.square, numbers, buffersize=2, chunksize=chunksize)
    assert numbers.taken == 2 * chunksize
    for number in range(7):
        assert next(results) == number**2
        assert numbers.taken == (2 + number // chunksize + 1) * chunksize


def test_a_buffersize_beyond_the_end_takes_what_there_is(executor: AnyExecutor) -> None:
    assert list(executor.map(calls.square, range(3), buffersize=100)) == [0, 1, 4]
    assert list(executor.map(calls.square, [], buffersize=1)) == []
    assert list(executor.map(calls.square, range(10), buffersize=1)) == [number**2 for number in range(10)]


def test_an_error_of_the_arguments_iterator_comes_out_of_map(executor: AnyExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        executor.map(calls.square, (1 // number for number in (1, 0)))
    results = executor.map(calls.square, (1 // number for number in (1, 0)), buffersize=1)
    with pytest.raises(ZeroDivisionError):
        list(results)


@pytest.mark.parametrize("buffersize", [0, -1])
def test_a_buffer_holds_one_task_at_least(executor: AnyExecutor, buffersize: int) -> None:
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        executor.map(calls.square, [1], buffersize=buffersize)


@pytest.mark.parametrize("buffersize", ["2", 1.0])
def test_a_buffersize_is_an_integer(executor: AnyExecutor, buffersize: object) -> None:
    with pytest.raises(TypeError, match="buffersize must be an integer or None"):
        executor.map(calls.square, [1], buffersize=buffersize)  # type: ignore[arg-type]


def test_a_map_that_is_not_used_takes_nothing_from_the_next(executor: AnyExecutor) -> None:
    executor.map(calls.square, range(2))
    assert list(executor.map(calls.square, range(3))) == [0, 1, 4]
