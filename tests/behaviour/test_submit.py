"""`submit` and what comes of it, as `concurrent.futures` has it."""

import concurrent.futures
import functools
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import RemoteTraceback
from tests import calls
from tests.fix_executors import AnyExecutor
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


def test_it_is_an_executor_and_its_futures_are_futures(executor: AnyExecutor) -> None:
    assert isinstance(executor, Executor)
    future = executor.submit(calls.square, 3)
    assert isinstance(future, Future)
    assert future.result(DEADLINE) == 9
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_arguments_and_keywords_reach_the_function(executor: AnyExecutor) -> None:
    many = executor.submit(calls.told, 1, "zwei", None, self=3, fn="fn", b=[4.5])
    none = executor.submit(calls.told)
    assert many.result(DEADLINE) == ((1, "zwei", None), {"self": 3, "fn": "fn", "b": [4.5]})
    assert none.result(DEADLINE) == ((), {})


def test_the_function_is_passed_by_position_only(executor: AnyExecutor) -> None:
    with pytest.raises(TypeError):
        executor.submit(fn=calls.square)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]


def test_results_belong_to_their_calls(executor: AnyExecutor) -> None:
    futures = [executor.submit(calls.square, number) for number in range(40)]
    assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(40)]


def test_an_exception_arrives_as_itself_with_the_remote_traceback_as_its_cause(executor: AnyExecutor) -> None:
    future = executor.submit(calls.fail, KeyError("spam"))
    with pytest.raises(KeyError) as caught:
        future.result(DEADLINE)
    assert type(caught.value) is KeyError
    assert caught.value.args == ("spam",)
    assert future.exception() is caught.value
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "raise error" in cause.text
    assert "in fail\n" in cause.text
    assert "payload.py" not in cause.text
    assert "raise error" in "".join(traceback.format_exception(caught.value))


def test_the_remote_traceback_tells_of_causes_over_there(executor: AnyExecutor) -> None:
    error = executor.submit(calls.fail_in_a_chain).exception(DEADLINE)
    assert isinstance(error, ValueError)
    text = str(error.__cause__)
    assert text.index("KeyError: 'inner'") < text.index("direct cause") < text.index("ValueError: outer")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt("here"),
        GeneratorExit(),
        calls.Stop("stopped"),
        CancelledError(),
        TimeoutError("late"),
        OSError(2, "no such thing", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_function_raises_is_the_future_s_exception(executor: AnyExecutor, error: BaseException) -> None:
    failed = executor.submit(calls.fail, error)
    other = executor.submit(calls.square, 2)
    arrived = failed.exception(DEADLINE)
    assert type(arrived).__name__ == type(error).__name__
    assert isinstance(arrived, type(error))
    assert arrived.args == error.args
    assert not failed.cancelled()
    with pytest.raises(type(error)):
        failed.result()
    assert other.result(DEADLINE) == 4


def test_an_exception_keeps_its_attributes(executor: AnyExecutor) -> None:
    error = ValueError("one")
    error.detail = {"two": 2}  # type: ignore[attr-defined]
    arrived = executor.submit(calls.fail, error).exception(DEADLINE)
    assert vars(arrived) == {"detail": {"two": 2}}


def test_result_gives_up_at_its_timeout_and_can_be_asked_again(executor: AnyExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder, "late")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0.01)
    assert not future.done()
    gate.open()
    assert future.result(DEADLINE) == "late"


def test_a_call_that_has_begun_is_running(executor: AnyExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder)
    until(future.running)
    assert not future.done()
    gate.open()
    future.result(DEADLINE)
    assert not future.running()
    assert future.done()


def test_equal_arguments_of_two_calls_are_not_one_object(executor: AnyExecutor) -> None:
    shared: list[int] = []
    futures = [executor.submit(list.append, shared, 1), executor.submit(calls.identity, shared)]
    assert [future.result(DEADLINE) for future in futures] == [None, []]
    assert shared == []


def test_arguments_are_those_of_the_moment_of_the_call(executor: AnyExecutor) -> None:
    values = [1]
    future = executor.submit(calls.identity, values)
    values.append(2)
    assert future.result(DEADLINE) == [1]


def test_threads_that_submit_at_once_get_each_call_done_once(executor: AnyExecutor, tmp_path: Path) -> None:
    start = threading.Barrier(8)
    futures: list[Future[str]] = []

    def submit() -> None:
        start.wait(DEADLINE)
        for _ in range(5):
            futures.append(executor.submit(calls.mark, str(tmp_path)))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [future.result(DEADLINE) for future in futures]
    assert len(names) == 40
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "arguments", "value"),
    [
        (lambda number: number + 1, (1,), 2),
        (functools.partial(calls.add, 10), (1,), 11),
        (functools.partial(functools.partial(calls.add, second=5)), (1,), 6),
        ("a,b".split, (",",), ["a", "b"]),
        (int, ("7",), 7),
        (len, ("four",), 4),
        (dict.fromkeys, ("ab",), {"a": None, "b": None}),
    ],
    ids=["lambda", "partial", "nested partial", "bound method", "class", "builtin", "class method"],
)
def test_anything_that_can_be_called_can_be_submitted(
    executor: AnyExecutor, function: Callable[..., Any], arguments: tuple[Any, ...], value: Any
) -> None:
    assert executor.submit(function, *arguments).result(DEADLINE) == value


def test_a_closure_takes_its_variables_along(executor: AnyExecutor) -> None:
    offset = 100

    def shifted(number: int) -> int:
        return twice(number) + offset

    def twice(number: int) -> int:
        return 2 * number

    assert executor.submit(shifted, 1).result(DEADLINE) == 102
