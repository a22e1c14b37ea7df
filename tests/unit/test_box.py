"""A stream through files: everything arrives once and in order, whatever the file system makes of it."""

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurmfutures._remote import box, wire
from slurmfutures._remote.stream import Lost
from tests.loops import fill


class End:
    """One side of a box, and what has come to it."""

    def __init__(self, side: box.Box) -> None:
        self.box = side
        self.now = 1000.0
        self.received = bytearray()
        self.lost = ""
        side.follow(self._read)

    def poll(self) -> float:
        """Poll it a second later than the last time."""
        self.now += 1.0
        return self.box.poll(self.now) - self.now

    def _read(self) -> None:
        try:
            self.received += self.box.receive()
        except Lost as lost:
            self.lost = str(lost)
            self.box.close()


@pytest.fixture
def rung() -> list[str]:
    return []


@pytest.fixture
def pair(weird_tmp_path: Path, rung: list[str]) -> tuple[End, End]:
    return connect(weird_tmp_path, lambda: rung.append("x"))


def connect(folder: Path, ring: Callable[[], None] = lambda: None) -> tuple[End, End]:
    """Return a pilot's side and an agent's."""
    pilot = box.make(str(folder), "b", ring)
    agent = box.claim(str(folder), "b", ring)
    assert agent is not None
    return End(pilot), End(agent)


@pytest.fixture
def small(small_disk: Path) -> Iterator[tuple[End, End, Path]]:
    """Both sides of a box on a small disk, and a file that fills it."""
    filler = small_disk / "filler"
    pilot, agent = connect(small_disk)
    fill(filler)
    yield pilot, agent, filler
    shutil.rmtree(small_disk / "b", ignore_errors=True)


def test_what_is_sent_arrives_and_leaves_no_file(pair: tuple[End, End], rung: list[str]) -> None:
    pilot, agent = pair
    pilot.box.send([b"one ", bytearray(b"two "), memoryview(b"three")])
    assert (pilot.box.unsent, rung) == (13, ["x"])
    pilot.poll()
    assert pilot.box.unsent == 0
    agent.box.send([b"and back"])
    agent.poll()
    pilot.poll()
    assert (bytes(agent.received), bytes(pilot.received)) == (b"one two three", b"and back")
    left = sorted(path.name for path in Path(pilot.box.path).rglob("*"))
    assert left == ["down", "taken", "up"]


def test_sends_between_two_turns_share_a_file_and_large_ones_are_cut(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    sent = [random.Random(n).randbytes(n) for n in [*range(100), box.FILE - 3, 2 * box.FILE + 5]]
    for data in sent:
        pilot.box.send([data])
    pilot.poll()
    sizes = [int(name.partition("-")[2]) for name in os.listdir(Path(pilot.box.path) / "up")]
    assert len(sizes) == 4
    assert max(sizes) == box.FILE
    agent.poll()
    assert bytes(agent.received) == b"".join(sent)


def test_what_is_sent_while_reading_goes_with_the_same_turn(pair: tuple[End, End], rung: list[str]) -> None:
    pilot, agent = pair
    pilot.box.send([b"question"])
    pilot.poll()
    rung.clear()

    def answer() -> None:
        assert agent.box.receive() == b"question"
        agent.box.send([b"answer"])

    agent.box.follow(answer)
    agent.poll()
    pilot.poll()
    assert (bytes(pilot.received), rung) == (b"answer", [])


def test_nobody_else_can_read_it(pair: tuple[End, End]) -> None:
    pilot, _ = pair
    pilot.box.send([b"x"])
    pilot.poll()
    path = Path(pilot.box.path)
    modes = {stat.S_IMODE(each.stat().st_mode) for each in [path, *path.rglob("*")]}
    assert modes == {0o600, 0o700}


def test_a_box_has_one_agent(tmp_path: Path) -> None:
    box.make(str(tmp_path), "b", lambda: None)
    assert box.names(str(tmp_path)) == {"b"}
    assert box.claim(str(tmp_path), "b", lambda: None) is not None
    assert box.claim(str(tmp_path), "b", lambda: None) is None
    assert box.claim(str(tmp_path), "none", lambda: None) is None


def test_a_file_that_shows_before_the_one_in_front_of_it_waits(pair: tuple[End, End], tmp_path: Path) -> None:
    pilot, agent = pair
    for data in (b"first ", b"second ", b"third"):
        pilot.box.send([data])
        pilot.poll()
    first = Path(pilot.box.path) / "up" / "0-6"
    first.rename(tmp_path / "hidden")
    agent.poll()
    assert agent.received == b""
    (tmp_path / "hidden").rename(first)
    agent.poll()
    assert agent.received == b"first second third"


def test_a_file_that_is_not_wholly_to_be_seen_waits(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    pilot.box.send([b"whole"])
    pilot.poll()
    path = Path(pilot.box.path) / "up" / "0-5"
    for torn in (b"", b"who"):
        path.write_bytes(torn)
        agent.poll()
        assert (bytes(agent.received), path.read_bytes()) == (b"", torn)
    path.write_bytes(b"whole")
    agent.poll()
    assert agent.received == b"whole"


def test_a_file_that_is_there_once_more_is_not_read_again(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    again = Path(pilot.box.path) / "up" / "0-3"
    pilot.box.send([b"one"])
    pilot.poll()
    agent.poll()
    again.write_bytes(b"one")
    pilot.box.send([b"two"])
    pilot.poll()
    agent.poll()
    assert agent.received == b"onetwo"
    assert not again.exists()


def test_a_file_that_never_comes_is_a_loss(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    pilot.box.send([b"one"])
    pilot.poll()
    (Path(pilot.box.path) / "up" / "0-3").rename(Path(pilot.box.path) / "up" / "1-3")
    for _ in range(300):
        agent.poll()
    assert agent.lost == ""
    for _ in range(5):
        agent.poll()
    assert "file 0 is missing" in agent.lost


def test_a_file_that_is_too_large_is_a_loss_and_not_read(pair: tuple[End, End]) -> None:
    _, agent = pair
    (Path(agent.box.path) / "up" / f"0-{box.FILE + 1}").touch()
    agent.poll()
    assert "wrote a file of" in agent.lost


def test_without_room_what_waits_is_kept_and_goes_later_in_its_order(small: tuple[End, End, Path]) -> None:
    pilot, agent, filler = small
    pilot.box.send([b"first ", bytes(100_000)])
    pilot.poll()
    assert pilot.box.trouble
    pilot.box.send([b"second"])
    pilot.poll()
    agent.poll()
    assert agent.received == b""
    assert pilot.box.unsent == 100_012
    assert list((Path(pilot.box.path) / "up").iterdir()) == []  # a part of a file takes no room
    filler.unlink()
    pilot.poll()
    agent.poll()
    assert (pilot.box.trouble, pilot.box.unsent) == ("", 0)
    assert bytes(agent.received) == b"first " + bytes(100_000) + b"second"


def test_no_more_files_are_written_than_are_read(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    sent = b""
    for number in range(200):
        data = b"%d " % number
        sent += data
        pilot.box.send([data])
        pilot.poll()
    folder = Path(pilot.box.path) / "up"
    assert len(list(folder.iterdir())) == 64
    assert pilot.box.unsent > 0
    while pilot.box.unsent or list(folder.iterdir()):
        agent.poll()
        pilot.poll()
    assert bytes(agent.received) == sent


@pytest.mark.parametrize("closer", [0, 1])
def test_who_closes_is_heard_out_and_the_other_side_removes_the_box(pair: tuple[End, End], closer: int) -> None:
    closing, other = pair[closer], pair[1 - closer]
    closing.box.send([b"last words"])
    closing.box.close()
    closing.box.send([b"too late"])
    other.poll()
    other.poll()
    assert (bytes(other.received), other.lost) == (b"last words", "the other side closed the box")
    assert not Path(other.box.path).exists()


def test_a_box_that_is_removed_is_a_loss_for_both(pair: tuple[End, End]) -> None:
    shutil.rmtree(pair[0].box.path)
    for end in pair:
        end.box.send([b"x"])
        end.poll()
        assert end.lost == "the box is not there any more"


def test_what_nobody_wants_yet_waits_for_who_follows(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    agent.box.follow(lambda: None)
    for data in (b"one ", b"two"):
        pilot.box.send([data])
        pilot.poll()
        agent.poll()
    agent.box.follow(agent._read)
    agent.poll()
    assert agent.received == b"one two"


def test_looks_fade_while_nothing_comes_and_are_close_again_when_something_does(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    pilot.box.send([b"x"])
    pilot.poll()
    assert agent.poll() == pytest.approx(box.QUICK)
    waits = [agent.poll() for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[0] > box.QUICK
    assert waits[-1] == pytest.approx(box.SLOW)
    agent.box.send([b"y"])
    assert agent.box.due == 0.0
    assert agent.poll() == pytest.approx(box.QUICK)


def test_old_boxes_are_cleared_away_and_others_are_not(tmp_path: Path) -> None:
    for name in ("old", "new", "used"):
        assert box.make(str(tmp_path), name, lambda: None)
        assert box.claim(str(tmp_path), name, lambda: None)
    for path in ("old/up", "old/down", "used/up", "old", "used"):
        os.utime(tmp_path / path, (1e9, 1e9))
    for name in ("old", "new", "used", "none"):
        box.clear(str(tmp_path), name, 3600.0)
    assert box.names(str(tmp_path)) == {"new", "used"}


def test_a_folder_that_is_not_there_has_no_boxes(tmp_path: Path) -> None:
    assert box.names(str(tmp_path / "none")) == set()


def test_buffers_may_be_of_any_kind(pair: tuple[End, End]) -> None:
    pilot, agent = pair
    buffers: list[wire.Buffer] = [b"x" * 5, bytearray(7), memoryview(bytes(9))]
    pilot.box.send(buffers)
    pilot.poll()
    agent.poll()
    assert len(agent.received) == 21
