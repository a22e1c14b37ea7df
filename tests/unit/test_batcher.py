"""Which calls become one batch, and when: the clock is passed in."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from slurmfutures import JobState
from slurmfutures._batcher import LONGEST, MOST_BYTES, QUIET, Batch, Batcher, Control, Spec
from slurmfutures._remote import payload

ONE = Spec(options=("--mem=1G",), name=None, comment="", initializer=b"")
TWO = Spec(options=("--mem=2G",), name=None, comment="", initializer=b"")


class Orders:
    """What a batch asks of its poller."""

    def __init__(self) -> None:
        self.cancelled: list[tuple[Batch, int]] = []
        self.hurried: list[Batch] = []
        self.control = Control(
            cancel=lambda batch, call: self.cancelled.append((batch, call)),
            log=lambda calls, stream, limit: "".join(f"{stream} of {call}" for _, call in calls),
            hurry=self.hurried.append,
        )


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def batcher() -> Batcher:
    return Batcher()


def put(batcher: Batcher, orders: Orders, now: float, spec: Spec = ONE, size: int = 1) -> Batch:
    batch = batcher.batch_for(spec, orders.control, now)
    batch.add(b"function", "name", [b"x" * size], now)
    return batch


def due(batcher: Batcher, now: float, *, all_of_them: bool = False) -> list[Batch]:
    return batcher.due(now, all_of_them=all_of_them)


def test_calls_with_equal_options_gather(batcher: Batcher, orders: Orders) -> None:
    first = put(batcher, orders, 0.0)
    assert put(batcher, orders, 0.001) is first
    assert put(batcher, orders, 0.002, Spec(*ONE)) is first
    assert put(batcher, orders, 0.002, TWO) is not first


def test_a_batch_is_closed_when_it_was_quiet_for_a_moment(batcher: Batcher, orders: Orders) -> None:
    batch = put(batcher, orders, 0.0)
    put(batcher, orders, 0.003)
    assert batcher.next_due() == pytest.approx(0.003 + QUIET)
    assert due(batcher, 0.003 + 0.9 * QUIET) == []
    assert due(batcher, 0.003 + QUIET) == [batch]
    assert due(batcher, 100.0) == []
    assert not batcher


def test_a_batch_that_is_never_quiet_is_closed_in_the_end(batcher: Batcher, orders: Orders) -> None:
    now = 0.0
    batch = put(batcher, orders, now)
    while not (found := due(batcher, now)):
        now += QUIET / 2
        put(batcher, orders, now)
    assert found == [batch]
    assert now == pytest.approx(LONGEST, abs=QUIET)


def test_a_batch_that_somebody_waits_for_is_closed_at_once(batcher: Batcher, orders: Orders) -> None:
    batch = put(batcher, orders, 5.0)
    batch.hurry()
    assert orders.hurried == [batch]
    batch.hurried = True
    assert batcher.next_due() == 0.0
    assert due(batcher, 5.0) == [batch]


def test_who_waits_hurries_a_batch_once(batcher: Batcher, orders: Orders) -> None:
    batch = put(batcher, orders, 0.0)
    batch.packed()
    batch.hurry()
    assert orders.hurried == []


def test_a_batch_with_many_bytes_is_closed_at_once(batcher: Batcher, orders: Orders) -> None:
    batch = put(batcher, orders, 5.0, size=MOST_BYTES - 1)
    assert due(batcher, 5.0) == []
    put(batcher, orders, 5.0)
    assert due(batcher, 5.0) == [batch]


def test_while_a_batch_is_on_its_way_in_the_next_one_gathers(batcher: Batcher, orders: Orders) -> None:
    first = put(batcher, orders, 0.0)
    other = put(batcher, orders, 0.0, TWO)
    assert set(due(batcher, 1.0)) == {first, other}
    second = put(batcher, orders, 2.0)
    assert due(batcher, 100.0) == []
    assert batcher.next_due() is None
    assert put(batcher, orders, 101.0) is second
    batcher.submitted(other)
    assert due(batcher, 102.0) == []
    batcher.submitted(first)
    batcher.submitted(first)
    assert due(batcher, 102.0) == [second]


def test_at_the_end_all_that_can_go_goes(batcher: Batcher, orders: Orders) -> None:
    first = put(batcher, orders, 0.0)
    assert due(batcher, 0.0, all_of_them=True) == [first]
    second = put(batcher, orders, 0.0)
    assert due(batcher, 0.0, all_of_them=True) == []
    assert batcher.opened() == [second]
    assert batcher
    assert batcher.take_all() == [second]
    assert not batcher


def test_a_batch_is_named_by_its_first_function_or_by_the_user(orders: Orders) -> None:
    named = Batch(ONE._replace(name="mine"), orders.control, 0.0)
    unnamed = Batch(ONE, orders.control, 0.0)
    for batch in (named, unnamed):
        batch.add(b"1", "first", [b""], 0.0)
        batch.add(b"2", "second", [b""], 0.0)
    assert (named.name, unnamed.name) == ("mine", "first")
    assert named.id != unnamed.id


@pytest.fixture
def batch(orders: Orders) -> Batch:
    """Tasks of 2, 1 and 3 calls."""
    batch = Batch(ONE, orders.control, 0.0)
    for size, function in ((2, b"f"), (1, b"g"), (3, b"f")):
        batch.add(function, "f", [b"%d" % number for number in range(size)], 0.0)
    return batch


def test_calls_know_their_task_and_tasks_their_calls(batch: Batch) -> None:
    assert [batch.task_of(call) for call in range(6)] == [0, 0, 1, 2, 2, 2]
    assert [list(batch.calls_of(task)) for task in range(3)] == [[0, 1], [2], [3, 4, 5]]


def test_a_batch_packs_each_function_once(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(b"".join(batch.packed()))
    file = payload.BatchFile(str(tmp_path / "calls"))
    assert [list(file.task(task)) for task in range(3)] == [[0, 1], [2], [3, 4, 5]]
    calls = [file.call(call) for call in range(6)]
    assert [(file.function(number), arguments) for number, arguments in calls] == [
        (b"f", b"0"),
        (b"f", b"1"),
        (b"g", b"0"),
        (b"f", b"0"),
        (b"f", b"1"),
        (b"f", b"2"),
    ]
    assert len({number for number, _ in calls}) == 2
    file.close()


def test_job_ids_follow_the_parts_that_were_submitted(batch: Batch) -> None:
    ids = [batch.job_id(call) for call in range(6)]
    assert ids == [None] * 6
    batch.submitted("7", [range(1)])
    batch.submitted("8", [range(1, 3)])
    assert [batch.job_id(call) for call in range(6)] == ["7", "7", "8_0", "8_1", "8_1", "8_1"]


def test_array_indices_count_on_over_gaps(orders: Orders) -> None:
    batch = Batch(ONE, orders.control, 0.0)
    for _ in range(10):
        batch.add(b"f", "f", [b""], 0.0)
    batch.submitted("7", [range(2), range(5, 7), range(9, 10)])
    ids = [batch.job_id(call) for call in range(10)]
    assert ids == ["7_0", "7_1", None, None, None, "7_2", "7_3", None, None, "7_4"]


def test_calls_of_a_task_share_its_state_and_logs(batch: Batch) -> None:
    batch.enter([0, 2], JobState.RUNNING)
    assert [str(batch.state(call)) for call in range(6)] == ["RUNNING", "RUNNING", "PENDING", *["RUNNING"] * 3]
    assert batch.log(4, "err", 1) == "err of 4"
    assert batch.kept_log(4, "err") is None
    batch.keep_logs({"2": ["out", "err"]})
    assert [batch.kept_log(call, "err") for call in (0, 3, 4)] == ["", "err", "err"]
    assert batch.kept_log(5, "out") == "out"


def test_a_future_asks_its_batch(batch: Batch, orders: Orders) -> None:
    future = batch.futures[4]
    assert isinstance(future, Future)
    batch.submitted("7", [range(3)])
    assert (future.job_id, future.state, future.stderr()) == ("7_2", JobState.PENDING, "err of 4")
    assert future.cancel()
    assert orders.cancelled == [(batch, 4)]
    assert future.state == JobState.CANCELLED
