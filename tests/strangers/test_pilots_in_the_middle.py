"""Somebody between pilots and agent drops, holds back or changes what they say: they go on by another connection."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurmfutures._remote import box, door, home, pulse, seal, wire
from tests.doors import LOCAL, Agent, End, Pilot, World
from tests.taps import Tap

BOTH_WAYS = pytest.mark.parametrize("up", [True, False], ids=["up", "down"])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Agents and pilots that do not wait for long."""
    monkeypatch.setattr(pulse, "INTERVAL", {"tcp": 0.2, "files": 0.4})
    monkeypatch.setattr(home, "BY_TCP_AFTER", (0.5, 1.0))
    made = World(tmp_path / "pilots" / "s")
    yield made
    made.close()


class Line:
    """A pilot and its agent, and who is between them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agent: Agent = world.agent(boxes=True)
        self.tap = Tap(self.agent.places[0])
        door.write_agent_file(str(world.folder), [[LOCAL, self.tap.port]], [], "m1")
        self.pilot: Pilot = world.pilot()
        self.pilot.keep_coming()
        self.until_connected(1)

    def until_connected(self, count: int) -> None:
        """Wait until so many connections were made in all."""
        agents, guests = self.pilot.agents, self.agent.guests
        self.world.loop.until(lambda: len(agents) == len(guests) == count)

    def ends(self, up: bool) -> tuple[End, End]:
        """Return who sends, and who receives, on the latest connection."""
        ends = self.pilot.agents[-1], self.agent.guests[-1]
        return ends if up else (ends[1], ends[0])

    def passes(self) -> None:
        """Say something both ways, and wait for it."""
        for up in (True, False):
            sender, receiver = self.ends(up)
            sender.say("passes")
            self.world.loop.until(lambda receiver=receiver: "passes" in receiver.heard)  # type: ignore[misc]


@pytest.fixture
def line(world: World) -> Iterator[Line]:
    line = Line(world)
    yield line
    line.tap.close()


def drop_one(up: bool) -> Callable[[bool, bytes], bytes]:
    """Return what lets the next record that goes one way disappear."""
    dropped: list[bytes] = []

    def change(upwards: bool, data: bytes) -> bytes:
        if upwards == up and not dropped:
            dropped.append(data)
            return b""
        return data

    return change


# ---- what is dropped


@BOTH_WAYS
def test_a_dropped_record_behind_which_nothing_follows_costs_the_connection(line: Line, up: bool) -> None:
    sender, receiver = line.ends(up)
    line.tap.change = drop_one(up)
    sender.say("dropped")
    line.world.loop.until(lambda: sender.gone and receiver.gone)
    assert receiver.heard == []
    assert "forged, changed, or not in its order" in receiver.gone[0]
    line.until_connected(2)
    line.passes()


@BOTH_WAYS
def test_a_dropped_beat_costs_the_connection(line: Line, up: bool) -> None:
    _, receiver = line.ends(up)
    line.tap.change = drop_one(up)
    line.world.loop.until(lambda: receiver.gone)
    assert "forged, changed, or not in its order" in receiver.gone[0]
    line.until_connected(2)
    line.passes()


@pytest.mark.parametrize("ways", [{True}, {False}, {True, False}], ids=["up", "down", "both"])
@pytest.mark.parametrize("tells_ends", [True, False])
def test_a_connection_that_falls_silent_is_ended_by_both_sides(line: Line, ways: set[bool], tells_ends: bool) -> None:
    line.tap.tells_ends = tells_ends
    line.tap.change = lambda up, data: b"" if up in ways else data
    pilot, agent = line.ends(True)
    line.world.loop.until(lambda: pilot.gone and agent.gone)
    silent = [end.gone[0] for end, up in ((agent, True), (pilot, False)) if up in ways]
    assert any("nothing was heard for" in why for why in silent)
    line.tap.change = lambda up, data: data
    line.world.loop.until(lambda: not line.pilot.agents[-1].gone and not line.agent.guests[-1].gone)
    line.passes()


@BOTH_WAYS
def test_bytes_that_complete_no_record_are_silence(line: Line, up: bool) -> None:
    _, receiver = line.ends(up)
    begun: list[bytes] = []

    def trickle(upwards: bool, data: bytes) -> bytes:
        if upwards != up:
            return data
        begun.append(data)
        return seal.RECORD.to_bytes(4, "big") if len(begun) == 1 else b"x"

    line.tap.change = trickle
    line.world.loop.until(lambda: receiver.gone)
    assert "nothing was heard for" in receiver.gone[0]


@pytest.mark.parametrize("by", ["tcp", "files"])
def test_a_connection_without_traffic_is_kept_up_by_beats(world: World, by: str) -> None:
    agent, pilot = world.connect(**({} if by == "tcp" else {"addresses": (), "boxes": True}))
    for end in (agent, pilot):
        count = end.guest._unsealer._count
        world.loop.until(lambda end=end, count=count: end.guest._unsealer._count > count + 5)  # type: ignore[misc]
    assert (agent.gone, pilot.gone, agent.heard, pilot.heard) == ([], [], [], [])


@BOTH_WAYS
def test_by_files_a_connection_that_falls_silent_is_ended_too(world: World, up: bool) -> None:
    agent, pilot = world.agent(addresses=(), boxes=True), world.pilot()
    pilot.keep_coming()
    world.loop.until(lambda: agent.guests and pilot.agents)
    end = agent.guests[0] if up else pilot.agents[0]
    stream = end.guest._stream
    assert isinstance(stream, box.Box)
    other = world.folder / "empty"
    other.mkdir()
    stream._reads = str(other)  # what is written does not show
    world.loop.until(lambda: end.gone)
    assert "nothing was heard for" in end.gone[0]
    world.loop.until(lambda: len(agent.guests) == len(pilot.agents) == 2)


# ---- again and again


@pytest.mark.parametrize("how", ["drops", "changes"])
@BOTH_WAYS
def test_who_spoils_each_connection_cannot_keep_them_apart(line: Line, how: str, up: bool) -> None:
    def spoil(upwards: bool, data: bytes) -> bytes:
        """Let handshakes pass: what begins with MAGIC, and the agent's answer."""
        if upwards != up or data.startswith(seal.MAGIC) or (not upwards and b'"mark"' in data[:80]):
            return data
        return b"" if how == "drops" else data[:-1] + bytes([data[-1] ^ 1])

    line.tap.change = spoil
    line.world.loop.until(lambda: line.pilot.agents[-1].guest.via == "files" and not line.pilot.agents[-1].gone)
    line.world.loop.until(lambda: line.agent.guests[-1].guest.via == "files")
    line.passes()
    assert any("by files in" in text for text in line.pilot.log)
    line.tap.change = lambda upwards, data: data
    line.world.loop.until(lambda: line.pilot.agents[-1].guest.via == "tcp" and not line.pilot.agents[-1].gone)
    line.world.loop.until(lambda: line.agent.guests[-1].guest.via == "tcp" and not line.agent.guests[-1].gone)
    line.passes()


# ---- what is wrong though it is authentic


def test_a_frame_with_wrong_content_costs_the_connection_and_not_the_agent(world: World) -> None:
    agent, pilot = world.connect()
    said: list[str] = []

    def handle(frame: wire.Frame) -> None:
        said.append(frame.head["missing"])

    agent.guest.attach(handle, agent.gone.append)
    pilot.say("surprise")
    world.loop.until(lambda: agent.gone)
    assert agent.gone == ["sent a frame with wrong content (KeyError: 'missing')"]


# ---- strangers at the port

FLOOD = """
import socket, sys, time
held = []
for number in range(1000):
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    try:
        connection.sendall(bytes.fromhex(sys.argv[2])[:number % 60])
    except OSError:
        pass  # it had to make way
    held.append(connection)
print("all", flush=True)
time.sleep(3600)
"""


def test_a_thousand_strangers_take_no_more_than_their_share_and_keep_no_pilot_out(world: World) -> None:
    agent = world.agent(boxes=True)
    most: list[int] = []
    world.loop.ticks.append(lambda now: most.append(len(agent.door._arrivals)))
    hello = seal.MAGIC + bytes(32) + b"\0\0\xff\xff" + bytes(8)
    words = [sys.executable, "-I", "-c", FLOOD, str(agent.places[0][1]), hello.hex()]
    flood = subprocess.Popen(words, stdout=subprocess.PIPE)
    said: list[bytes] = []
    assert flood.stdout is not None
    reader = threading.Thread(target=lambda: said.append(flood.stdout.readline()))  # type: ignore[union-attr]
    reader.start()
    try:
        world.loop.until(lambda: most and max(most) > 10)
        pilot = world.pilot()
        world.loop.until(lambda: pilot.agents and agent.guests)
        world.loop.until(lambda: said == [b"all\n"])
        another = world.pilot()
        world.loop.until(lambda: another.agents)
        assert max(most) <= door.MOST_ARRIVALS + 2  # and boxes
        held = sum(len(arrival.side._buffer) for arrival in agent.door._arrivals)
        assert held <= door.MOST_ARRIVALS * 100
        assert len(agent.log) <= 20
    finally:
        flood.kill()
        flood.wait()
        reader.join()
        flood.stdout.close()


def test_a_stranger_who_says_all_that_he_may_is_bounded(world: World) -> None:
    agent = world.agent()
    with socket.create_connection(tuple(agent.places[0])) as connection:
        connection.sendall(seal.MAGIC + bytes(32) + seal.MOST_WORDS.to_bytes(4, "big") + bytes(seal.MOST_WORDS))
        world.loop.until(lambda: agent.door._arrivals and len(agent.door._arrivals[0].side._buffer) > seal.MOST_WORDS)
        connection.setblocking(False)
        sent = 0

        def refused() -> bool:
            nonlocal sent
            try:
                sent += connection.send(bytes(1 << 16))
            except BlockingIOError:
                pass
            except OSError:
                return True
            return bool(agent.log)

        world.loop.until(refused)
    assert "does not have the key" in agent.log[0]


# ---- a way to another agent


@pytest.mark.parametrize("by", ["tcp", "files"])
def test_a_pilot_that_is_led_to_another_agent_of_its_pool_does_not_stay(world: World, by: str) -> None:
    there = {"addresses": (), "boxes": True} if by == "files" else {}
    old = world.agent("old" if by == "tcp" else "", **there)
    if by == "tcp":  # who is in the middle leads the connection to the agent that is about to end
        door.write_agent_file(str(world.folder), old.places, [], "new")
    else:  # it takes any box
        door.write_agent_file(str(world.folder), [], [], "new")
    pilot = world.pilot()
    world.loop.until(lambda: old.guests and any("another agent of this pool" in text for text in pilot.log))
    assert pilot.agents == []
