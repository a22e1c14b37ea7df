"""`wait` and `as_completed` of the standard library on our futures."""

from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from concurrent.futures import TimeoutError as FuturesTimeout
from typing import Any

import pytest

from tests import calls
from tests.fix_executors import AnyExecutor
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


def test_wait_for_the_first(executor: AnyExecutor, gate: Gate) -> None:
    quick = executor.submit(calls.square, 2)
    slow = executor.submit(calls.pass_gate, gate.folder)
    done, not_done = wait([quick, slow], DEADLINE, FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})


def test_wait_for_the_first_exception(executor: AnyExecutor, gate: Gate) -> None:
    quick = executor.submit(calls.square, 2)
    quick.result(DEADLINE)
    bad = executor.submit(calls.fail, ValueError("bad"))
    slow = executor.submit(calls.pass_gate, gate.folder)
    futures: list[Future[Any]] = [quick, bad, slow]
    done, not_done = wait(futures, DEADLINE, FIRST_EXCEPTION)
    assert (done, not_done) == ({quick, bad}, {slow})


def test_wait_for_an_exception_where_there_is_none_waits_for_all(executor: AnyExecutor) -> None:
    futures = {executor.submit(calls.square, number) for number in range(3)}
    assert wait(futures, DEADLINE, FIRST_EXCEPTION) == (futures, set())


def test_wait_for_all(executor: AnyExecutor) -> None:
    futures: set[Future[Any]] = {executor.submit(calls.square, 1), executor.submit(calls.fail, KeyError())}
    assert wait(futures, DEADLINE, ALL_COMPLETED) == (futures, set())


def test_wait_returns_at_its_timeout(executor: AnyExecutor, gate: Gate) -> None:
    quick = executor.submit(calls.square, 2)
    quick.result(DEADLINE)
    slow = executor.submit(calls.pass_gate, gate.folder)
    assert wait([quick, slow], 0.01) == ({quick}, {slow})


@pytest.mark.parametrize("before", [True, False], ids=["cancelled before", "cancelled meanwhile"])
def test_wait_returns_when_the_last_one_is_cancelled(executor: AnyExecutor, gate: Gate, before: bool) -> None:
    quick = executor.submit(calls.square, 2)
    slow = executor.submit(calls.pass_gate, gate.folder)
    if before:
        slow.cancel()
    else:
        quick.add_done_callback(lambda _: slow.cancel())
    assert wait([quick, slow], DEADLINE) == ({quick, slow}, set())
    assert slow.cancelled()


def test_as_completed_yields_each_future_when_it_is_done(executor: AnyExecutor, gate: Gate) -> None:
    slow = executor.submit(calls.pass_gate, gate.folder)
    quick = executor.submit(calls.square, 2)
    bad = executor.submit(calls.fail, ValueError())
    order = []
    for future in as_completed([slow, quick, bad], DEADLINE):
        order.append(future)
        if len(order) == 2:
            gate.open()
    assert set(order[:2]) == {quick, bad}
    assert order[2] is slow


def test_as_completed_gives_up_at_its_timeout(executor: AnyExecutor, gate: Gate) -> None:
    quick = executor.submit(calls.square, 2)
    quick.result(DEADLINE)
    slow = executor.submit(calls.pass_gate, gate.folder)
    seen = as_completed([quick, slow], 0.01)
    assert next(seen) is quick
    with pytest.raises(FuturesTimeout, match=r"1 \(of 2\) futures unfinished"):
        next(seen)


def test_as_completed_yields_cancelled_futures(executor: AnyExecutor, gate: Gate) -> None:
    before = executor.submit(calls.pass_gate, gate.folder)
    before.cancel()
    meanwhile = executor.submit(calls.pass_gate, gate.folder)
    seen = set()
    for future in as_completed([before, meanwhile], DEADLINE):
        seen.add(future)
        meanwhile.cancel()
    assert seen == {before, meanwhile}


def test_as_completed_yields_a_future_that_was_given_twice_once(executor: AnyExecutor) -> None:
    future = executor.submit(calls.square, 3)
    assert list(as_completed([future, future], DEADLINE)) == [future]


def test_who_waits_for_a_result_hears_of_the_cancellation(executor: AnyExecutor, gate: Gate) -> None:
    trigger = executor.submit(calls.pass_gate, gate.folder + "/nowhere")
    slow = executor.submit(calls.pass_gate, gate.folder)
    trigger.add_done_callback(lambda _: slow.cancel())
    with pytest.raises(CancelledError):
        slow.result(DEADLINE)
    until(lambda: not executor._pending())
