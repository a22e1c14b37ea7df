"""What is large lets others pass, and everything arrives."""

import random

import pytest

from slurmfutures._remote import wire
from slurmfutures._remote.outbox import Outbox
from slurmfutures._remote.window import FIRST, SMALL_PIECE

LARGE = 5 * SMALL_PIECE + 3


def frames(outbox: Outbox, size: int = 10_000, begun: wire.Buffer = b"") -> list[wire.Frame]:
    """Return what the other side gets, in the order in which it gets it, when it has got `begun` already."""
    reader = wire.Reader()
    found = list(reader.feed(begun))
    while outbox:
        found.extend(reader.feed(bytes(outbox.take(size))))
        outbox.acknowledged(reader.take_pieces())
    return found


def names(found: list[wire.Frame]) -> list[str]:
    return [frame.head["op"] for frame in found]


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_everything_arrives_as_it_was(size: int) -> None:
    outbox = Outbox()
    chosen = random.Random(size)
    sent = {str(n): chosen.randbytes(chosen.choice([0, 10, 3000, SMALL_PIECE, LARGE // size + 1])) for n in range(20)}
    for name, body in sent.items():
        outbox.add(wire.message({"op": name}, body))
    assert {frame.head["op"]: bytes(frame.body) for frame in frames(outbox, size)} == sent
    assert outbox.waiting == 0
    assert outbox.take(100) == b""


def test_a_small_frame_passes_large_ones() -> None:
    outbox = Outbox()
    outbox.add(wire.message({"op": "large"}, bytes(LARGE)))
    outbox.add(wire.message({"op": "larger"}, bytes(10 * LARGE)))
    begun = outbox.take(100)
    outbox.add(wire.message({"op": "small"}))
    assert names(frames(outbox, begun=begun)) == ["small", "large", "larger"]


def test_no_more_pieces_are_written_than_are_let_and_small_frames_still_pass() -> None:
    outbox, reader = Outbox(), wire.Reader()
    outbox.add(wire.message({"op": "large"}, bytes(100 * SMALL_PIECE)))
    written = 0
    while outbox:
        data = bytes(outbox.take(10_000))
        written += len(data)
        assert list(reader.feed(data)) == []
    assert FIRST <= written <= FIRST + 2 * SMALL_PIECE
    assert (outbox.take(1), outbox.lanes) == (b"", 1)
    outbox.add(wire.message({"op": "small"}))
    assert [frame.head["op"] for frame in reader.feed(bytes(outbox.take(1000)))] == ["small"]
    assert not outbox
    outbox.acknowledged(reader.take_pieces())
    assert outbox


def test_what_waits_in_memory_is_counted_unless_somebody_else_bounds_it() -> None:
    outbox = Outbox()
    outbox.add(wire.message({"op": "transfer"}, bytes(LARGE)), 7)
    outbox.add([*wire.stretched({"op": "file"}, [], LARGE), Source(LARGE, 1 << 40)])
    assert outbox.waiting < 1000
    outbox.add(wire.message({"op": "results"}, bytes(LARGE)))
    assert LARGE <= outbox.waiting < LARGE + 1000
    outbox.add([*wire.stretched({"op": "broken"}, [b"x"], LARGE), Source(LARGE, 1)])
    assert len(frames(outbox)) == 3
    assert outbox.waiting == 0


def test_acknowledgements_of_an_earlier_stream_do_no_harm() -> None:
    outbox = Outbox()
    outbox.add(wire.message({"op": "large"}, bytes(LARGE)))
    outbox.take(1)
    outbox.clear()
    outbox.acknowledged(3)
    outbox.add(wire.message({"op": "large"}, bytes(LARGE)))
    assert names(frames(outbox)) == ["large"]


def test_large_frames_share_the_way() -> None:
    outbox = Outbox()
    outbox.add(wire.message({"op": "larger"}, bytes(10 * LARGE)))
    outbox.add(wire.message({"op": "large"}, bytes(LARGE)))
    assert names(frames(outbox)) == ["large", "larger"]


def test_frames_of_one_key_keep_their_order() -> None:
    outbox = Outbox()
    outbox.add(wire.message({"op": "function"}, bytes(LARGE)), 7)
    outbox.add(wire.message({"op": "call"}), 7)
    outbox.add(wire.message({"op": "other"}), 8)
    assert names(frames(outbox)) == ["other", "function", "call"]
    outbox.add(wire.message({"op": "call"}), 7)
    assert outbox.lanes == 0


def test_bulk_waits_for_everything_else() -> None:
    outbox = Outbox()
    for number in range(3):
        outbox.add(wire.message({"op": f"bulk {number}"}, bytes(100)), "t", bulk=True)
    outbox.add(wire.message({"op": "small"}))
    assert names(frames(outbox)) == ["small", "bulk 0", "bulk 1", "bulk 2"]


class Source:
    """A body of zeros that breaks off after `good` bytes."""

    def __init__(self, size: int, good: int) -> None:
        self._size = size
        self._good = good
        self.told: list[bool] = []

    def __len__(self) -> int:
        return self._size

    def read(self, limit: int) -> bytes:
        if self._good <= 0:
            raise ValueError("not whole")
        self._good -= limit
        return bytes(min(limit, 1000))

    def over(self, *, good: bool) -> None:
        self.told.append(good)


def test_a_source_is_read_when_its_turn_comes() -> None:
    outbox = Outbox()
    source = Source(LARGE, 1 << 40)
    outbox.add([*wire.stretched({"op": "source"}, [], LARGE), source])
    outbox.add(wire.message({"op": "small"}))
    small, large = frames(outbox)
    assert (small.head["op"], bytes(large.body), source.told) == ("small", bytes(LARGE), [True])


def test_a_frame_whose_source_breaks_off_does_not_arrive_and_others_do() -> None:
    outbox = Outbox()
    source = Source(LARGE, LARGE // 2)
    outbox.add([*wire.stretched({"op": "source"}, [], LARGE), source], 7)
    outbox.add(wire.message({"op": "next"}), 7)
    assert (names(frames(outbox)), source.told) == (["next"], [False])


def test_what_is_cleared_is_told() -> None:
    outbox = Outbox()
    source = Source(LARGE, LARGE)
    outbox.add([*wire.stretched({"op": "source"}, [], LARGE), source])
    outbox.add(wire.message({"op": "small"}))
    outbox.clear()
    assert (frames(outbox), source.told, outbox.waiting) == ([], [False], 0)


class Kept:
    """Takes the body of a frame."""

    def __init__(self) -> None:
        self.data = b""
        self.dropped = False

    def write(self, data: wire.Buffer) -> None:
        self.data += bytes(data)

    def drop(self) -> None:
        self.dropped = True


@pytest.mark.parametrize("size", [97, 1000, 1 << 20])
def test_a_large_body_can_go_elsewhere_while_it_arrives(size: int) -> None:
    outbox, kept = Outbox(), Kept()
    body = random.Random(size).randbytes(LARGE)
    outbox.add(wire.message({"op": "large"}, body))
    outbox.add(wire.message({"op": "other"}, body))
    reader = wire.Reader(lambda head, size: kept if head["op"] == "large" else None)
    found = {}
    while outbox:
        found.update({frame.head["op"]: frame for frame in reader.feed(bytes(outbox.take(size)))})
        outbox.acknowledged(reader.take_pieces())
    assert found["large"].head["body"] is kept
    assert found["large"].body == b""
    assert kept.data == body
    assert bytes(found["other"].body) == body
    assert not kept.dropped


def test_a_body_that_goes_elsewhere_is_dropped_with_its_frame() -> None:
    outbox, kept = Outbox(), Kept()
    outbox.add([*wire.stretched({"op": "large"}, [], LARGE), Source(LARGE, 50 * SMALL_PIECE)])
    reader = wire.Reader(lambda head, size: kept)
    while outbox:
        assert list(reader.feed(bytes(outbox.take(10_000)))) == []
        outbox.acknowledged(reader.take_pieces())
    assert kept.dropped


def test_no_more_large_frames_are_begun_than_the_other_side_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_LANES", 3)
    outbox = Outbox()
    for number in range(20):
        outbox.add(wire.message({"op": str(number)}, bytes(LARGE)))
    assert outbox.lanes == 20
    assert sorted(map(int, names(frames(outbox)))) == list(range(20))
    assert (outbox.lanes, outbox.waiting) == (0, 0)
