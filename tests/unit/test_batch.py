"""Which tasks of a batch wait, in ranges, and which go into the next part."""

import random
from typing import Any

import pytest

from slurmfutures._remote import spool
from slurmfutures._remote.batch import Batch, Part, ranges


def new_batch(tasks: int, skip: tuple[int, ...] = ()) -> Batch:
    return Batch({"batch": "abc", "tasks": tasks, "skip": list(skip)}, spool.Batch("/nowhere", "abc"))


def tasks_of(found: list[Any]) -> list[int]:
    return [task for first, end in found for task in range(first, end)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([], []), ([5], [(5, 6)]), ([0, 1, 2], [(0, 3)]), ([0, 2, 3, 9], [(0, 1), (2, 4), (9, 10)])],
)
def test_numbers_become_ranges(numbers: list[int], expected: list[tuple[int, int]]) -> None:
    assert ranges(numbers) == expected


@pytest.mark.parametrize(
    ("skip", "waiting"),
    [
        ((), [(0, 10)]),
        ((0,), [(1, 10)]),
        ((9,), [(0, 9)]),
        ((3, 4, 7), [(0, 3), (5, 7), (8, 10)]),
        (tuple(range(10)), []),
    ],
)
def test_tasks_that_are_not_wanted_do_not_wait(skip: tuple[int, ...], waiting: list[tuple[int, int]]) -> None:
    assert new_batch(10, skip).waiting == waiting


def test_tasks_are_taken_in_order_across_gaps() -> None:
    batch = new_batch(10, skip=(3, 4, 7))
    assert batch.take(2) == [0, 1]
    assert batch.take(3) == [2, 5, 6]
    assert batch.take(0) == []
    assert batch.take(99) == [8, 9]
    assert batch.take(1) == []


def test_without_tells_which_were_not_waiting() -> None:
    batch = new_batch(10)
    batch.take(3)
    assert batch.without({1, 2, 5, 99}) == {1, 2, 99}
    assert batch.waiting == [(3, 5), (6, 10)]


def test_a_part_that_was_not_accepted_waits_again_but_for_what_was_cancelled() -> None:
    batch = new_batch(10, skip=(1,))
    part = Part(0, batch.take(4), batch.folder.part(0), "name")
    batch.parts.append(part)
    part.unwanted = {1}  # by array index: task 2
    batch.give_back(part)
    assert batch.parts == []
    assert tasks_of(batch.waiting) == [0, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("seed", range(20))
def test_no_task_is_lost_or_taken_twice(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randrange(1, 200)
    batch = new_batch(size, skip=tuple(chance.sample(range(size), chance.randrange(size))))
    wanted = set(tasks_of(batch.waiting))
    taken: list[int] = []
    while batch.waiting:
        if chance.random() < 0.3:
            unwanted = set(chance.sample(range(size), chance.randrange(size)))
            rest = batch.without(unwanted)
            assert rest >= unwanted & set(taken)
            wanted -= unwanted - rest
        tasks = batch.take(chance.randrange(1, 20))
        if tasks and chance.random() < 0.3:
            part = Part(0, tasks, batch.folder.part(0), "name")
            batch.parts.append(part)
            batch.give_back(part)
        else:
            taken += tasks
    assert taken == sorted(wanted)
