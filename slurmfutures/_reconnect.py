"""Tries to connect again until it works, in a thread of its own, so that the poller never waits for the network."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import tenacity

from ._errors import AuthenticationError, HostKeyError, PythonMismatch, SlurmFuturesError, give_warning
from ._logs import get_logger

logger = get_logger("reconnect")

T = TypeVar("T")

FIRST_WAIT = 0.25  # seconds, doubled with each failure
LONGEST_WAIT = 60.0  # seconds
_NO = (AuthenticationError, PythonMismatch)
_PATIENCE = 5.0  # seconds in which an attempt ends that is told to
_JITTER = 0.25  # seconds, at most, that are added: a hundred drivers should not come back at once


def _may_work_later(error: BaseException) -> bool:
    """Whether what has worked before, and does not now, may work again: not where somebody said no.

    A host key that is not known is no such word: one name may stand for several login nodes, some networks answer in
    place of others, and the user can accept a key while this tries on.
    """
    return isinstance(error, SlurmFuturesError) and not isinstance(error, _NO)


class Reconnect(Generic[T]):
    """One attempt after the other to `connect`, from construction until `take` has the outcome.

    `wake` is called, from the thread of this, when there is an outcome. `timeout` is in seconds, None for no end, and
    `wait` in seconds before the first attempt.
    """

    def __init__(
        self,
        connect: Callable[[threading.Event], T],
        wake: Callable[[], None],
        timeout: float | None,
        wait: float,
    ) -> None:
        self._connect = connect
        self._wake = wake
        self._stop = threading.Event()
        self._wait = wait
        self._told = False  # that a host's key stands in the way
        self._outcome: T | BaseException | None = None  # written before `wake` is called, read after it
        stop = tenacity.stop_when_event_set(self._stop)
        self._retrying = tenacity.Retrying(
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT) + tenacity.wait_random(0, _JITTER),
            stop=stop if timeout is None else stop | tenacity.stop_after_delay(timeout),
            retry=tenacity.retry_if_exception(_may_work_later),
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=self._say,
            reraise=True,
        )
        self._thread = threading.Thread(target=self._run, name="slurmfutures-reconnect", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._stop.wait(self._wait)
        try:
            self._outcome = self._retrying(self._connect, self._stop)
        except BaseException as error:  # whatever it is, the poller must hear of it
            self._outcome = error
        self._wake()

    def _say(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        logger.info("not connected, next try in %.1f s: %s", wait, error)
        if isinstance(error, HostKeyError) and not self._told:
            self._told = True
            give_warning(f"the connection was lost, and another one is not made until this is settled: {error}")

    def take(self) -> T | BaseException | None:
        """Return what was connected or why that will not be, None while it is tried."""
        return self._outcome

    def give_up(self) -> T | BaseException | None:
        """End it and return the outcome that it may have had by then."""
        self._stop.set()
        self._thread.join(_PATIENCE)  # it may wait for somebody to type a password
        return self._outcome
