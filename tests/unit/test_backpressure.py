"""How calls go in where a limit on submitted jobs is known only by what it refuses."""

import pytest

from slurmfutures._remote.backpressure import WAIT_CEILING, WAIT_FIRST, WAIT_FREED, Backpressure


def submit(pressure: Backpressure, limit: int, remaining: int, inside: int) -> tuple[int, int]:
    """Submit until it has to wait, as the agent does; return how many are inside then, and the refusals on the way."""
    refusals = 0
    while remaining and (size := pressure.size(remaining, inside)):
        if inside + size <= limit:
            pressure.accepted(size, inside)
            inside += size
            remaining -= size
        else:
            refusals += 1
            if not pressure.refused(size, inside):
                break
    return inside, refusals


def test_without_refusals_all_go_in_at_once() -> None:
    assert Backpressure().size(1000, 70) == 1000


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 100, 999])
def test_a_limit_is_found_and_filled_in_few_tries(limit: int) -> None:
    inside, refusals = submit(Backpressure(), limit, 1000, 0)
    assert limit * 3 / 4 <= inside <= limit
    assert refusals <= 11


def test_all_calls_go_in_as_room_appears() -> None:
    pressure, remaining, refusals = Backpressure(), 1000, 0
    while remaining:
        inside, tries = submit(pressure, 20, remaining, 0)
        assert inside
        remaining -= inside
        refusals += tries
    assert refusals <= 12  # nearly all of them while it looked for the limit


def test_a_few_places_are_not_worth_a_submission_unless_they_are_enough() -> None:
    pressure = Backpressure()
    submit(pressure, 100, 1000, 0)
    assert pressure.size(900, 99) == 0
    assert pressure.size(2, 90) == 2


def test_what_was_inside_before_and_is_refused_now_waits() -> None:
    pressure = Backpressure()
    pressure.accepted(50, 0)
    assert not pressure.refused(40, 0)
    assert pressure.refused(60, 0)


def test_a_limit_that_was_raised_is_noticed() -> None:
    pressure = Backpressure()
    submit(pressure, 8, 1000, 0)
    pressure.accepted(100, 0)
    assert pressure.size(150, 0) == 150


def test_waits_grow_to_a_ceiling_and_end_early_when_jobs_leave_the_queue() -> None:
    pressure = Backpressure()
    waits = []
    for _ in range(8):
        pressure.wait(1000.0)
        waits.append(pressure.until - 1000.0)
    assert waits[:3] == [WAIT_FIRST, 2 * WAIT_FIRST, 4 * WAIT_FIRST]
    assert waits[-1] == WAIT_CEILING
    pressure.freed(1010.0)
    assert pressure.until == 1010.0 + WAIT_FREED
    pressure.accepted(1, 0)
    pressure.wait(2000.0)
    assert pressure.until == 2000.0 + WAIT_FIRST
