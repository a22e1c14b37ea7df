"""The loop of agents and pilots."""

import pytest

from slurmfutures._remote.loop import Loop


@pytest.mark.parametrize("until", [float("inf"), 1e12, None])
def test_a_turn_without_an_end_in_sight_ends_when_something_happens(until: float | None) -> None:
    loop = Loop()
    said: list[str] = []
    loop.post(lambda: said.append("here"))
    loop.turn(until)
    assert said == ["here"]
    for part in loop._selector, loop._wake_in, loop._wake_out:  # it lives as long as its process otherwise
        part.close()
