"""Which tasks of a batch wait, in ranges, and which go into the next part."""

import random
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import arrays, own, spool
from slurmfutures._remote.batch import Batch, Part, Retry, ranges


def new_batch(tasks: int, skip: tuple[int, ...] = ()) -> Batch:
    return Batch({"batch": "0123456789ab", "tasks": tasks, "skip": list(skip)}, spool.Batch("/nowhere", "0123456789ab"))


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


# ---- a user's own array


def own_array(indices: str, array: str = "") -> Batch:
    size = len(arrays.parse(indices).indices)
    spec = {
        "batch": "0123456789ab",
        "tasks": size,
        "skip": [],
        "script": {"array": array or indices, "indices": indices},
    }
    return Batch(spec, spool.Batch("/nowhere", "0123456789ab"))


def test_a_task_has_the_array_index_that_the_user_gave_it() -> None:
    batch = own_array("5,8-9,2", "0-9%3")
    assert batch.throttle == 3
    part = batch.part(0, batch.take(4), "name")
    part.job = "7"
    assert [(index, part.at[index]) for index in part.indices] == [(5, 0), (8, 1), (9, 2), (2, 3)]
    assert part.job_id(9) == "7_9"
    assert own.array_of(batch, part) == "5,8-9,2"
    batch.parts.append(part)
    part.unwanted = {8}
    batch.give_back(part)
    assert tasks_of(batch.waiting) == [0, 2, 3]
    assert own.array_of(batch, batch.part(1, batch.take(4), "name")) == "2,5,9"


def test_a_single_task_of_an_array_is_an_array() -> None:
    batch = own_array("1000")
    part = batch.part(0, batch.take(1), "name")
    assert part.array
    assert list(part.indices) == [1000]


def test_what_is_run_again_of_an_array_waits_by_its_tasks() -> None:
    batch = own_array("0-90:10")
    batch.parts.append(batch.part(0, batch.take(10), "name"))
    retries = [Retry(task, 1, (), ()) for task in (3, 7)]
    batch.again(retries)
    assert batch.parts[0].over == {30, 70}
    again = batch.part(1, [retry.task for retry in batch.take_retries(9)], "name", retries)
    assert own.array_of(batch, again) == "30,70"
    batch.parts.append(again)
    again.unwanted = {30}
    batch.give_back(again)
    assert batch.retries == retries[1:]


def test_an_array_goes_in_as_a_whole_unless_a_command_line_cannot_hold_it() -> None:
    batch = own_array("0-80000:2")
    assert own.most(batch) == 40001
    batch.without({7})
    assert own.most(batch) == 10000
    assert own.most(own_array(",".join(map(str, range(0, 60000, 2))))) == 10000
    assert own.most(new_batch(10)) is None


# ---- retries, as an agent finds what another has left


def left_behind(folder: Path, *entries: dict[str, Any], wanted: set[int]) -> Batch:
    batch = spool.Batch(str(folder), "0123456789ab")
    batch.create({"batch": "0123456789ab", "tasks": 4, "skip": []}, "", b"")
    for entry in entries:
        batch.record(entry)
    found = Batch.found(batch, wanted)
    assert found is not None
    return found


def intent(part: int, first: int, end: int, **more: Any) -> dict[str, Any]:
    return {
        "part": part,
        "tasks": [[first, end]],
        "name": f"f.sf-0123456789ab.{part}",
        "time": 0.0,
        "throttle": None,
        **more,
    }


def retries(*tasks: int, attempt: int = 1) -> dict[str, Any]:
    return {
        "retries": [
            {"task": task, "attempt": attempt, "exclude": ["n1"], "done": [[7 * task, 7 * task + 1]]} for task in tasks
        ]
    }


FIRST = (intent(0, 0, 4), {"part": 0, "job": "12"})


def test_a_retry_that_was_not_submitted_waits(tmp_path: Path) -> None:
    batch = left_behind(tmp_path, *FIRST, retries(1, 2), wanted={1, 2, 3})
    assert batch.take_retries(9) == [Retry(1, 1, ("n1",), ((7, 8),)), Retry(2, 1, ("n1",), ((14, 15),))]
    assert batch.waiting == []
    assert batch.parts[0].over == {0, 1, 2}


def test_a_retry_that_was_submitted_is_the_newest_part_s(tmp_path: Path) -> None:
    entries = (retries(1, 2), intent(1, 1, 3, attempt=1, exclude=["n1"]), {"part": 1, "job": "13"})
    batch = left_behind(tmp_path, *FIRST, *entries, wanted={1, 2, 3})
    assert batch.retries == []
    assert [part.over for part in batch.parts] == [{0, 1, 2}, set()]
    assert (batch.parts[1].attempt, batch.parts[1].exclude, batch.parts[1].job) == (1, ("n1",), "13")


def test_a_retry_that_was_not_accepted_waits_again(tmp_path: Path) -> None:
    entries = (retries(1), intent(1, 1, 2, attempt=1, exclude=["n1"]), {"part": 1, "void": True})
    batch = left_behind(tmp_path, *FIRST, *entries, wanted={1})
    assert [retry.task for retry in batch.retries] == [1]


def test_a_second_retry_takes_the_first_one_s_place(tmp_path: Path) -> None:
    entries = (retries(1), intent(1, 1, 2, attempt=1, exclude=[]), {"part": 1, "job": "13"}, retries(1, attempt=2))
    batch = left_behind(tmp_path, *FIRST, *entries, wanted={1})
    assert [(retry.task, retry.attempt) for retry in batch.retries] == [(1, 2)]
    assert [part.over for part in batch.parts] == [{0, 1, 2, 3}, {0}]


def test_a_retry_of_what_is_not_wanted_any_more_does_not_wait(tmp_path: Path) -> None:
    assert left_behind(tmp_path, *FIRST, retries(1, 2), wanted={2}).remaining() == 1


def test_a_task_that_was_submitted_anew_is_over_in_the_part_before(tmp_path: Path) -> None:
    batch = left_behind(tmp_path, *FIRST, intent(1, 2, 4), {"part": 1, "job": "13"}, wanted={0, 1, 2, 3})
    assert [part.over for part in batch.parts] == [{2, 3}, set()]
    assert batch.waiting == []


def test_retries_go_together_where_attempt_and_nodes_are_the_same() -> None:
    batch = new_batch(10)
    batch.take(10)
    batch.again([Retry(5, 1, (), ()), Retry(3, 2, (), ()), Retry(4, 1, ("n1",), ()), Retry(2, 1, (), ())])
    assert batch.remaining() == 2
    assert [[retry.task for retry in batch.take_retries(9)] for _ in range(3)] == [[2, 5], [3], [4]]
    assert batch.remaining() == 0


def test_a_retry_that_waits_can_be_taken_off() -> None:
    batch = new_batch(4)
    batch.take(4)
    batch.again([Retry(1, 1, (), ()), Retry(2, 1, (), ())])
    assert batch.without({1, 3}) == {3}
    assert [retry.task for retry in batch.retries] == [2]
