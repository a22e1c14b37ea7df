"""Trying again until it works, or must not be tried."""

import threading

import pytest

from slurmfutures._errors import (
    AgentError,
    AuthenticationError,
    HostKeyError,
    PythonMismatch,
    SchedulerNotFound,
    SlurmFuturesWarning,
)
from slurmfutures._reconnect import Reconnect
from tests.waiting import DEADLINE, until


class Place:
    """Fails with each of `errors` in turn, and then connects."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.woken = threading.Event()

    def connect(self, stop: threading.Event) -> str:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "connected"

    def reconnect(self, timeout: float | None = None) -> Reconnect[str]:
        return Reconnect(self.connect, self.woken.set, timeout, 0.0)


def test_it_goes_on_until_it_works() -> None:
    place = Place(AgentError("not yet", transient=False), SchedulerNotFound("not yet"))
    reconnect = place.reconnect()
    assert place.woken.wait(DEADLINE)
    assert reconnect.take() == "connected"
    assert place.tries == 3


@pytest.mark.filterwarnings("always::slurmfutures.SlurmFuturesWarning")
def test_a_host_key_that_is_not_known_is_told_once_and_may_be_accepted_meanwhile(
    recwarn: pytest.WarningsRecorder,
) -> None:
    place = Place(*[HostKeyError("host", "SHA256:x", command="ssh host")] * 3)
    reconnect = place.reconnect()
    assert place.woken.wait(DEADLINE)
    assert reconnect.take() == "connected"
    (warning,) = recwarn
    assert warning.category is SlurmFuturesWarning
    assert "connect once with `ssh host`" in str(warning.message)


@pytest.mark.parametrize("error", [PythonMismatch("no"), AuthenticationError("host"), ValueError("a bug")])
def test_what_will_be_no_better_is_not_tried_again(error: Exception) -> None:
    place = Place(error)
    reconnect = place.reconnect()
    assert place.woken.wait(DEADLINE)
    assert reconnect.take() is error
    assert place.tries == 1


def test_a_time_limit_ends_it_with_what_stood_in_the_way() -> None:
    place = Place(*[AgentError(f"no {number}") for number in range(1000)])
    reconnect = place.reconnect(timeout=1.0)
    assert place.woken.wait(DEADLINE)
    found = reconnect.take()
    assert isinstance(found, AgentError)
    assert found.message == f"no {place.tries - 1}"
    assert 2 <= place.tries <= 6


def test_giving_up_ends_the_waiting() -> None:
    place = Place(*[AgentError("no")] * 1000)
    reconnect = place.reconnect()
    until(lambda: place.tries > 1)
    found = reconnect.give_up()
    assert isinstance(found, AgentError | None)
    tries = place.tries
    assert not reconnect._thread.is_alive()
    assert place.tries == tries
