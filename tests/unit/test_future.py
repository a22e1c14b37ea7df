"""Futures have the parts that the standard library's have, made in another way."""

import threading
from concurrent import futures
from concurrent.futures import Future, wait
from typing import Any

import pytest

from slurmfutures import SlurmFuture, _future
from slurmfutures._future import NOBODY, settle


def test_the_standard_library_s_futures_are_what_they_were() -> None:
    assert _future._KNOWN


@pytest.mark.parametrize("known", [True, False])
def test_a_future_has_all_that_one_of_the_standard_library_has(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_future, "_KNOWN", known)
    theirs: Future[Any] = Future()
    ours: SlurmFuture[Any] = SlurmFuture(NOBODY, 0)
    assert vars(ours).keys() == vars(theirs).keys() | {"_place"}
    for name, value in vars(theirs).items():
        assert isinstance(getattr(ours, name), type(value))
        assert name == "_condition" or getattr(ours, name) == value


def test_who_waits_is_woken_and_who_waits_too_long_is_told() -> None:
    future: SlurmFuture[int] = SlurmFuture(NOBODY, 0)
    with pytest.raises(futures.TimeoutError):
        Future.result(future, 0.01)
    waiting = threading.Event()
    found: list[int] = []

    def ask() -> None:
        with future._condition:  # nobody settles it before this waits
            waiting.set()
            found.append(Future.result(future, 30))

    asking = threading.Thread(target=ask)
    asking.start()
    waiting.wait(30)
    settle(future, 7, None)
    asking.join(30)
    assert found == [7]
    assert wait([future], 0).done == {future}


def test_its_condition_is_nobody_s_who_does_not_hold_it() -> None:
    future: SlurmFuture[int] = SlurmFuture(NOBODY, 0)
    with pytest.raises(RuntimeError, match="un-acquired"):
        future._condition.notify_all()
    with future._condition:
        assert future._condition.acquire(blocking=False)
        future._condition.release()
