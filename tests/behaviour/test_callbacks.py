"""Callbacks of futures: which thread, which order, and what they may do."""

import logging
import threading
from concurrent.futures import Future
from typing import Any, NoReturn

import pytest

from tests import calls
from tests.fix_executors import AnyExecutor
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


def test_callbacks_are_called_once_in_their_order_with_the_future(executor: AnyExecutor, gate: Gate) -> None:
    seen: list[tuple[str, Future[Any]]] = []
    future = executor.submit(calls.pass_gate, gate.folder)
    future.add_done_callback(lambda done: seen.append(("first", done)))
    future.add_done_callback(lambda done: seen.append(("second", done)))
    gate.open()
    until(lambda: len(seen) == 2)
    assert seen == [("first", future), ("second", future)]


def test_a_callback_finds_the_result(executor: AnyExecutor, gate: Gate) -> None:
    seen: list[Any] = []
    good = executor.submit(calls.pass_gate, gate.folder, 7)
    bad = executor.submit(calls.fail, ValueError("bad"))
    good.add_done_callback(lambda done: seen.append(done.result(timeout=0)))
    bad.add_done_callback(lambda done: seen.append(type(done.exception(timeout=0))))
    gate.open()
    until(lambda: len(seen) == 2)
    assert set(seen) == {7, ValueError}


def test_a_callback_added_to_a_done_future_is_called_at_once(executor: AnyExecutor) -> None:
    future = executor.submit(calls.square, 2)
    future.result(DEADLINE)
    seen: list[int] = []
    future.add_done_callback(lambda _: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]


def test_a_callback_added_to_a_cancelled_future_is_called_at_once(executor: AnyExecutor, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder)
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append("before"))
    future.cancel()
    future.add_done_callback(lambda _: seen.append("after"))
    assert seen == ["before", "after"]


def test_a_callback_that_raises_is_logged_and_the_next_ones_are_called(
    executor: AnyExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Future[Any]) -> NoReturn:
        raise ValueError("in a callback")

    seen: list[Future[Any]] = []
    future = executor.submit(calls.pass_gate, gate.folder)
    future.add_done_callback(bad)
    future.add_done_callback(seen.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        until(lambda: seen)
    assert "in a callback" in caplog.text
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, calls.Stop])
def test_a_callback_that_wants_to_leave_ends_nothing(
    executor: AnyExecutor, gate: Gate, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def leave(_: Future[Any]) -> NoReturn:
        raise kind("in a callback")

    future = executor.submit(calls.pass_gate, gate.folder)
    future.add_done_callback(leave)
    with caplog.at_level(logging.ERROR, "slurmfutures"):
        gate.open()
        future.result(DEADLINE)
        assert executor.submit(calls.square, 3).result(DEADLINE) == 9
    assert "callback" in caplog.text


def test_a_cancelled_call_ends_also_where_a_callback_wants_to_leave(executor: AnyExecutor, gate: Gate) -> None:
    def leave(_: Future[Any]) -> NoReturn:
        raise SystemExit("in a callback")

    future = executor.submit(calls.pass_gate, gate.folder)
    future.add_done_callback(leave)
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    until(lambda: not executor._pending())


def test_a_callback_may_submit_more(executor: AnyExecutor) -> None:
    results: list[int] = []

    def again(future: Future[int]) -> None:
        results.append(future.result())
        if len(results) < 4:
            executor.submit(calls.add, future.result(), 1).add_done_callback(again)

    executor.submit(calls.add, 0, 1).add_done_callback(again)
    until(lambda: len(results) == 4)
    assert results == [1, 2, 3, 4]


def test_a_callback_may_cancel_other_calls(executor: AnyExecutor, gate: Gate) -> None:
    slow = executor.submit(calls.pass_gate, gate.folder)
    executor.submit(calls.square, 1).add_done_callback(lambda _: slow.cancel())
    until(slow.cancelled)
