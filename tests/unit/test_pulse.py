"""When pilots and agent show each other that they are there, and when a connection between them counts as lost."""

import pytest

from slurmfutures._remote import pulse
from slurmfutures._remote.pulse import Look, Pulse

QUIET, BEAT = Look(beat=False, lost=False), Look(beat=True, lost=False)


@pytest.fixture(params=["tcp", "files"])
def via(request: pytest.FixtureRequest) -> str:
    word: str = request.param
    return word


def looks(one: Pulse, count: int) -> list[Look]:
    """Return what comes of so many looks in time."""
    return [one.look(one.due) for _ in range(count)]


def test_a_silent_connection_is_lost_within_the_named_time(via: str) -> None:
    one = Pulse(via, 100.0)
    looks(one, 1)
    found = looks(one, pulse.MISSED)
    assert [look.lost for look in found] == [False] * (pulse.MISSED - 1) + [True]
    assert one.silence == {"tcp": 30.0, "files": 180.0}[via]
    assert one.due == 100.0 + {"tcp": 50.0, "files": 300.0}[via]  # it is lost an interval earlier


def test_a_beat_goes_out_only_where_nothing_else_did(via: str) -> None:
    one = Pulse(via, 0.0)
    assert looks(one, 3) == [QUIET, BEAT, BEAT]
    for _ in range(10):
        one.sent = one.heard = True
        assert looks(one, 1) == [QUIET]


def test_two_sides_that_only_beat_keep_each_other_up(via: str) -> None:
    one, other = Pulse(via, 0.0), Pulse(via, 0.9 * pulse.INTERVAL[via])
    for _ in range(100):
        for mine, theirs in ((one, other), (other, one)):
            look = mine.look(mine.due)
            assert not look.lost
            theirs.heard = theirs.heard or look.beat


def test_who_did_not_look_for_long_does_not_take_that_for_silence(via: str) -> None:
    one = Pulse(via, 0.0)
    now = 0.0
    for _ in range(pulse.MISSED):
        now += 5000.0
        assert not one.look(now).lost
        assert one.due == now + pulse.INTERVAL[via]


def test_what_came_just_before_a_look_counts(via: str) -> None:
    one = Pulse(via, 0.0)
    looks(one, pulse.MISSED)
    one.heard = True
    assert [look.lost for look in looks(one, pulse.MISSED)] == [False] * pulse.MISSED
