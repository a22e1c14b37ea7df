"""Pilots find their agent and are let in; nobody else is; what is sent arrives or its loss is told."""

import functools
import os
import random
import resource
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import box, door, home, meeting, seal, trust
from slurmfutures._remote.guest import Guest
from tests.doors import LOCAL, Agent, End, World, no_seekers
from tests.loops import fill
from tests.taps import Tap


@pytest.fixture
def world(weird_tmp_path: Path) -> Iterator[World]:
    made = World(weird_tmp_path / "pilots" / "s")
    yield made
    made.close()


BY = {"tcp": {}, "files": {"addresses": (), "boxes": True}}


@pytest.fixture(params=list(BY))
def by(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What gives an agent whose pilots come by TCP, or by files."""
    words: dict[str, Any] = BY[request.param]
    return words


# ---- both ways


def test_both_sides_know_each_other_and_frames_go_to_and_fro(world: World, by: dict[str, Any]) -> None:
    agent, pilot = world.connect(**by)
    assert agent.guest.via == pilot.guest.via == ("files" if by else "tcp")
    assert agent.guest.words == {"name": "p"}
    assert pilot.guest.words["mark"] == "m1"
    for number in range(20):
        agent.say(f"down {number}")
        pilot.say(f"up {number}")
    world.loop.until(lambda: len(agent.heard) == len(pilot.heard) == 20)
    assert agent.heard == [f"up {number}" for number in range(20)]
    assert pilot.heard == [f"down {number}" for number in range(20)]
    assert (agent.gone, pilot.gone) == ([], [])


def test_large_bodies_arrive_between_small_ones(world: World, by: dict[str, Any]) -> None:
    agent, pilot = world.connect(**by)
    bodies = [random.Random(size).randbytes(size) for size in (3, 20_000_000, 5, 1 << 20, 0, 300_000)]
    for body in bodies:
        agent.say("body", body)
        pilot.say("body", body)
    for end in (agent, pilot):
        world.loop.until(functools.partial(end.has_heard, len(bodies)))
        assert [bytes(frame.body) for frame in end.frames] == bodies
        assert end.guest.unsent == 0


def test_what_is_sent_as_soon_as_somebody_is_there_arrives(world: World, by: dict[str, Any]) -> None:
    agent = world.agent(**by)
    greeted: list[End] = []

    def admit(guest: Guest) -> None:
        greeted.append(End(guest))
        greeted[-1].say("welcome")
        assert greeted[-1].frames == []

    agent.door._admit = admit
    pilot = world.pilot()
    world.loop.until(lambda: pilot.agents and pilot.agents[0].heard)
    assert pilot.agents[0].heard == ["welcome"]


def test_a_pilot_that_closes_is_gone_for_the_agent_once_and_for_itself_never(world: World, by: dict[str, Any]) -> None:
    agent, pilot = world.connect(**by)
    pilot.say("bye")
    pilot.guest.close()
    pilot.guest.close()
    pilot.say("too late")
    world.loop.until(lambda: agent.gone)
    agent.say("too late")
    agent.guest.close()
    for _ in range(3):
        world.loop.turn()
    assert agent.heard == ["bye"]
    assert (len(agent.gone), pilot.gone) == (1, [])
    assert "closed" in agent.gone[0]


def test_an_agent_that_turns_a_pilot_away_is_gone_for_it(world: World, by: dict[str, Any]) -> None:
    agent = world.agent(**by)
    agent.door._admit = lambda guest: guest.close()
    pilot = world.pilot()
    world.loop.until(lambda: pilot.agents and pilot.agents[0].gone)


def test_a_pilot_finds_the_next_agent(world: World, by: dict[str, Any]) -> None:
    agent, pilot = world.agent("m1", **by), world.pilot()
    world.loop.until(lambda: pilot.agents)
    agent.close()
    world.loop.until(lambda: pilot.agents[0].gone)
    pilot.home.start()
    pilot.home.start()
    other = world.agent("m2", **by)
    world.loop.until(lambda: other.guests and len(pilot.agents) == 2)
    pilot.agents[1].say("here")
    world.loop.until(lambda: other.guests[0].heard)
    assert pilot.agents[1].guest.words["mark"] == "m2"
    assert (len(pilot.agents[0].gone), len(other.guests)) == (1, 1)


def test_a_pilot_that_is_there_first_waits_for_the_agent(world: World, by: dict[str, Any]) -> None:
    pilot = world.pilot()
    world.loop.turn()
    agent = world.agent(**by)
    world.loop.until(lambda: agent.guests and pilot.agents)


def test_a_search_can_be_given_up(world: World) -> None:
    pilot = world.pilot()
    pilot.home.close()
    agent = world.agent()
    world.loop.until(no_seekers)
    world.loop.turn(0.0)
    assert (pilot.agents, agent.guests) == ([], [])


def test_many_pilots_are_told_apart(world: World, by: dict[str, Any]) -> None:
    agent = world.agent(**by)
    pilots = [world.pilot(f"p{number}") for number in range(8)]
    world.loop.until(lambda: len(agent.guests) == 8 and all(pilot.agents for pilot in pilots))
    for end in agent.guests:
        end.say(end.guest.words["name"])
    world.loop.until(lambda: all(pilot.agents[0].heard for pilot in pilots))
    assert [pilot.agents[0].heard for pilot in pilots] == [[f"p{number}"] for number in range(8)]


# ---- which way


def test_a_pilot_tries_all_places_and_then_names_and_says_why_it_goes_by_files(world: World) -> None:
    agent = world.agent(addresses=(LOCAL,), boxes=True)
    (_, port), closed = agent.places[0], socket.socket()
    closed.bind((LOCAL, 0))  # nobody listens
    dead = closed.getsockname()[1]
    door.write_agent_file(str(world.folder), [[LOCAL, dead], [LOCAL, port]], [], "m1")
    first = world.pilot()
    world.loop.until(lambda: first.agents)
    door.write_agent_file(str(world.folder), [["192.0.2.999", port]], [LOCAL], "m1")
    second = world.pilot()
    world.loop.until(lambda: second.agents)
    assert [pilot.agents[0].guest.via for pilot in (first, second)] == ["tcp", "tcp"]
    assert (first.log, second.log) == ([], [])
    door.write_agent_file(str(world.folder), [[LOCAL, dead]], [LOCAL], "m1")
    third = world.pilot()
    world.loop.until(lambda: third.agents)
    closed.close()
    assert third.agents[0].guest.via == "files"
    refused = f"{LOCAL} port {dead} (Connection refused)"
    where = world.folder / "box"
    assert third.log == [f"no way by TCP to {refused}, {refused}: by files in {where}"]


def test_who_listens_in_the_agents_place_and_says_nothing_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "HANDSHAKE", 0.2)
    agent = world.agent(addresses=(), boxes=True)
    with socket.create_server((LOCAL, 0)) as deaf:
        door.write_agent_file(str(world.folder), [[LOCAL, deaf.getsockname()[1]]], [], "m1")
        pilot = world.pilot()
        world.loop.until(lambda: pilot.agents)
    assert agent.guests[0].guest.via == "files"
    assert "(timed out)" in pilot.log[0]


def test_an_agent_that_listens_nowhere_says_why(world: World) -> None:
    agent = world.agent(addresses=("192.0.2.77", "::bad"), boxes=True)
    assert agent.places == []
    assert len(agent.log) == 2
    assert "192.0.2.77" in agent.log[0]
    pilot = world.pilot()
    world.loop.until(lambda: pilot.agents)
    assert pilot.log == [f"the agent does not listen: by files in {world.folder / 'box'}"]


def test_an_agent_listens_on_each_of_its_addresses(world: World) -> None:
    agent = world.agent(addresses=(LOCAL, "::1", "127.0.0.2"))
    assert [address for address, _ in agent.places] == [LOCAL, "::1", "127.0.0.2"]
    for place in agent.places:
        door.write_agent_file(str(world.folder), [place], [], "m1")
        pilot = world.pilot()
        world.loop.until(pilot.has_agents)
        assert pilot.log == []


def test_boxes_are_looked_for_only_where_somebody_may_come_by_files(world: World) -> None:
    agent, pilot = world.agent(addresses=()), world.pilot()
    folder = world.folder / "box"
    world.loop.until(lambda: folder.exists() and list(folder.iterdir()))
    assert agent.door.tick(0.0) is None
    assert agent.guests == []
    agent.door.expect_boxes(True)
    world.loop.until(lambda: agent.guests and pilot.agents)
    agent.door.expect_boxes(False)
    pilot.agents[0].say("still heard")
    world.loop.until(lambda: agent.guests[0].heard)


def test_a_box_that_nobody_takes_is_given_up_for_another_try_by_tcp(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "BY_FILES", (0.05, 0.1))
    world.folder.mkdir(parents=True)
    door.make_key(str(world.folder))
    with socket.socket() as closed:
        closed.bind((LOCAL, 0))
        door.write_agent_file(
            str(world.folder), [[LOCAL, closed.getsockname()[1]]], [], "m0"
        )  # an agent that was killed
        pilot = world.pilot()
        world.loop.until(lambda: any("nobody took the box" in text for text in pilot.log))
    agent = world.agent("m1")
    world.loop.until(lambda: agent.guests and pilot.agents)
    assert pilot.agents[0].guest.via == "tcp"
    assert list((world.folder / "box").iterdir()) == []


def test_a_search_that_is_given_up_leaves_no_box(world: World) -> None:
    agent, pilot = world.agent(addresses=(), boxes=False), world.pilot()
    folder = world.folder / "box"
    world.loop.until(lambda: folder.exists() and any(folder.glob("*/knock")))
    pilot.close()
    assert list(folder.iterdir()) == []
    assert agent.guests == []


def test_a_pilot_by_files_sees_that_another_agent_is_there_and_tries_tcp_first(world: World) -> None:
    agent, pilot = world.agent("m1", addresses=(), boxes=True), world.pilot()
    world.loop.until(lambda: pilot.agents)
    world.loop.ticks.remove(agent.door.tick)  # it was killed: nothing is closed
    other = world.agent("m2")
    world.loop.until(lambda: pilot.agents[0].gone)
    pilot.home.start()
    world.loop.until(lambda: len(pilot.agents) == 2)
    assert pilot.agents[0].gone == ["another agent is there"]
    assert (pilot.agents[1].guest.via, len(other.guests)) == ("tcp", 1)
    assert list((world.folder / "box").iterdir()) == []
    agent.door.close()


def test_an_agent_takes_no_box_of_another_one(world: World) -> None:
    agent = world.agent("m1", addresses=(), boxes=True)
    box.make(str(world.folder / "box"), "m2.x", lambda: None)
    pilot = world.pilot()
    world.loop.until(lambda: pilot.agents)
    assert (world.folder / "box" / "m2.x" / "knock").exists()
    assert agent.log == []


def test_an_agent_without_a_mark_is_found_by_files_too(world: World) -> None:
    agent, _ = world.connect(mark="", addresses=(), boxes=True)
    assert agent.guest.via == "files"


def test_boxes_of_nobody_are_cleared_away_when_they_are_old(world: World) -> None:
    meeting.make_key(str(world.folder))
    for name in ("m0.old", "m0.new"):
        box.make(str(world.folder / "box"), name, lambda: None)
    for side in ("up", "down"):
        os.utime(world.folder / "box" / "m0.old" / side, (1e9, 1e9))
    world.agent(addresses=(), boxes=True)
    world.loop.until(lambda: not (world.folder / "box" / "m0.old").exists())
    assert (world.folder / "box" / "m0.new").exists()


def test_a_box_whose_pilot_is_dead_is_removed_a_while_after_it_was_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_LEFT", 0.05)
    agent, pilot = world.agent(addresses=(), boxes=True), world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    world.loop.ticks.remove(pilot.home.tick)
    agent.guests[0].guest.close()
    world.loop.until(lambda: not list((world.folder / "box").iterdir()))
    assert agent.guests[0].gone == []
    pilot.home.close()


def test_without_room_what_is_sent_by_files_comes_later_and_is_said(small_disk: Path) -> None:
    world = World(small_disk / "s")
    agent, pilot = world.connect(addresses=(), boxes=True)
    filler = small_disk / "filler"
    fill(filler)
    for word in ("one", "two"):
        pilot.say(word, bytes(100_000))
    (log,) = (pilot.log for pilot in world.pilots)
    world.loop.until(lambda: len(log) == 2)
    assert "No space left" in log[1]
    assert agent.heard == []
    filler.unlink()
    world.loop.until(lambda: len(agent.heard) == 2)
    assert agent.heard == ["one", "two"]
    world.close()


# ---- what may be in the way


def test_a_machine_that_is_gone_is_noticed_within_45_seconds_by_both(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[socket.socket] = []
    register = world.loop.register

    def noting(connection: socket.socket, callback: Callable[[bool, bool], None], writing: bool) -> None:
        ends.append(connection)
        register(connection, callback, writing)

    monkeypatch.setattr(world.loop, "register", noting)
    agent.door._register = noting
    pilot = world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    assert len(ends) == 2
    names = ["TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"]
    for end in ends:
        values = [end.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert values == [1, 15, 5, 6, 45_000]
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_without_descriptors_pilots_wait_for_those_that_are_closed(
    world: World, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_DEAF", 0.05)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    connection = call(world, agent)
    resource.setrlimit(resource.RLIMIT_NOFILE, (connection.fileno() + 1, before[1]))
    try:
        world.loop.until(lambda: len(agent.log) > 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "no connection can be taken: Too many open files" in agent.log[0]
    assert read(world, connection, len(seal.MAGIC)) == seal.MAGIC
    connection.close()


# ---- strangers


@pytest.fixture
def agent(world: World) -> Agent:
    return world.agent()


def call(world: World, agent: Agent) -> socket.socket:
    """Return a stranger's connection to an agent, that has said who it is."""
    connection = socket.create_connection(tuple(agent.places[0]))
    connection.setblocking(False)
    return connection


def read(world: World, connection: socket.socket, size: int) -> bytes:
    """Return so many bytes, less where it is closed."""
    data = b""

    def full() -> bool:
        nonlocal data
        try:
            piece = connection.recv(size - len(data))
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        data += piece
        return not piece or len(data) == size

    world.loop.until(full)
    return data


def must_be_turned_away(world: World, agent: Agent, connection: socket.socket, why: str) -> None:
    read(world, connection, 1 << 20)
    world.loop.until(lambda: agent.log)
    (host, port), (line,) = connection.getsockname(), agent.log
    assert line.startswith(f"turned away {host} port {port}: ")
    assert why in line
    assert agent.guests == []
    connection.close()


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.0\r\n\r\n", b"\0" * 200_000, os.urandom(1000)])
def test_noise_is_turned_away(world: World, agent: Agent, noise: bytes) -> None:
    connection = call(world, agent)
    connection.setblocking(True)
    connection.send(noise)
    connection.setblocking(False)
    must_be_turned_away(world, agent, connection, "began with")


def test_who_says_nothing_is_turned_away_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE", 0.1)
    agent = world.agent()
    must_be_turned_away(world, agent, call(world, agent), "did not say in time")


def test_who_says_half_of_it_is_turned_away_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE", 0.2)
    agent = world.agent()
    connection = call(world, agent)
    said = seal.Caller(door.make_key(str(world.folder)), {}).feed(read(world, connection, len(seal.MAGIC) + 32))
    connection.send(said[:-1])
    must_be_turned_away(world, agent, connection, "did not say in time")


def test_who_leaves_amid_the_handshake_is_forgotten(world: World, agent: Agent) -> None:
    connection = call(world, agent)
    connection.send(seal.MAGIC)
    connection.shutdown(socket.SHUT_WR)
    must_be_turned_away(world, agent, connection, "closed the connection")


def test_another_key_is_turned_away(world: World, agent: Agent) -> None:
    connection = call(world, agent)
    connection.send(seal.Caller(bytes(32), {"name": "p"}).feed(read(world, connection, len(seal.MAGIC) + 32)))
    must_be_turned_away(world, agent, connection, "does not have the key")


def test_who_sends_back_what_he_was_sent_is_turned_away(world: World, agent: Agent) -> None:
    connection = call(world, agent)
    connection.send(read(world, connection, len(seal.MAGIC) + 32))
    connection.send(struct.pack(">I", 2) + b"{}" + bytes(32))
    must_be_turned_away(world, agent, connection, "does not have the key")


def test_too_much_is_turned_away_before_it_comes(world: World, agent: Agent) -> None:
    connection = call(world, agent)
    connection.send(seal.MAGIC + bytes(32) + b"\xff" * 4)
    must_be_turned_away(world, agent, connection, "announced")


def test_the_oldest_stranger_makes_way_where_there_are_many(world: World, agent: Agent) -> None:
    strangers = []
    for _ in range(door.MOST_ARRIVALS + 1):
        strangers.append(call(world, agent))
        read(world, strangers[-1], 1)
    world.loop.until(lambda: agent.log)
    assert "made way" in agent.log[0]
    assert f"port {strangers[0].getsockname()[1]}:" in agent.log[0]
    pilot = world.pilot()  # and yet pilots are let in
    world.loop.until(lambda: pilot.agents)
    for stranger in strangers:
        stranger.close()


def test_a_flood_of_strangers_is_no_flood_in_the_log(world: World, agent: Agent) -> None:
    for _ in range(50):
        connection = call(world, agent)
        connection.send(b"noise")
        read(world, connection, 1 << 10)
        connection.close()
    assert len(agent.log) == 20


@pytest.fixture
def relay(world: World, agent: Agent) -> Iterator[Tap]:
    made = Tap(agent.places[0])
    door.write_agent_file(str(world.folder), [[LOCAL, made.port]], [], "m1")
    yield made
    made.close()


def test_a_recorded_session_gets_nobody_in(world: World, agent: Agent, relay: Tap) -> None:
    pilot = world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    pilot.agents[0].say("delete everything")
    world.loop.until(lambda: agent.guests[0].heard)
    recorded = bytes(relay.up)
    agent.guests.clear()
    connection = call(world, agent)
    connection.send(recorded)
    must_be_turned_away(world, agent, connection, "does not have the key")


@pytest.mark.parametrize("up", [True, False])
def test_a_changed_byte_ends_the_connection_and_nothing_of_it_is_heard(
    world: World, agent: Agent, relay: Tap, up: bool
) -> None:
    pilot = world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    ends = [pilot.agents[0], agent.guests[0]] if up else [agent.guests[0], pilot.agents[0]]
    ends[0].say("before")
    world.loop.until(lambda: ends[1].heard)
    relay.change = lambda upwards, data: data[:-1] + bytes([data[-1] ^ 1]) if upwards == up else data
    ends[0].say("changed")
    world.loop.until(lambda: ends[1].gone)
    assert ends[1].heard == ["before"]
    assert "forged, changed" in ends[1].gone[0]
    world.loop.until(lambda: ends[0].gone)
    assert len(ends[0].gone) == len(ends[1].gone) == 1


@pytest.mark.parametrize("up", [True, False])
def test_a_frame_that_comes_twice_ends_the_connection(world: World, agent: Agent, relay: Tap, up: bool) -> None:
    pilot = world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    ends = [pilot.agents[0], agent.guests[0]] if up else [agent.guests[0], pilot.agents[0]]
    relay.change = lambda upwards, data: data * 2 if upwards == up else data
    ends[0].say("once")
    world.loop.until(lambda: ends[1].gone)
    assert ends[1].heard == ["once"]


def test_frames_sent_back_end_the_connection(world: World, agent: Agent, relay: Tap) -> None:
    pilot = world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    agent.guests[0].say("mine")
    world.loop.until(lambda: pilot.agents[0].heard)
    sent = bytes(relay.down)
    relay.change = lambda upwards, data: sent[-len(data) :] if upwards else data
    pilot.agents[0].say("mine")
    world.loop.until(lambda: agent.guests[0].gone)
    assert agent.guests[0].heard == []


def test_a_truncated_frame_is_a_loss(world: World, agent: Agent, relay: Tap) -> None:
    pilot = world.pilot()
    world.loop.until(lambda: agent.guests and pilot.agents)
    relay.change = lambda upwards, data: data[:-1] if upwards else data
    pilot.agents[0].say("cut")
    relay.change = lambda upwards, data: data[:-1]
    pilot.home.close()
    world.loop.until(lambda: agent.guests[0].gone)
    assert agent.guests[0].heard == []


def test_a_false_agent_is_not_believed(world: World) -> None:
    """It has the port of an agent that is gone, and not its key."""
    true = world.agent("m1", addresses=(), boxes=True)
    false = World(world.folder.parent / "other")
    liar = false.agent("m1")
    door.write_agent_file(str(world.folder), liar.places, [], "m1")
    pilot = world.pilot()
    world.loop.ticks.append(lambda now: false.loop.turn(0.0))
    world.loop.until(lambda: pilot.agents)
    assert pilot.agents[0].guest.via == "files"
    assert (len(true.guests), liar.guests) == (1, [])
    assert len(liar.log) == 1
    world.loop.ticks.pop()
    false.close()


# ---- key and agent file


def test_a_key_is_made_once_for_its_owner_alone(weird_tmp_path: Path) -> None:
    folder = weird_tmp_path / "new" / "s"
    key = meeting.make_key(str(folder))
    assert len(key) == 32
    assert meeting.make_key(str(folder)) == meeting.read_key(str(folder)) == key
    assert [path.name for path in folder.iterdir()] == ["key"]
    assert (folder / "key").stat().st_mode & 0o777 == 0o600


def test_makers_of_a_key_agree_on_one(tmp_path: Path) -> None:
    keys: list[bytes] = []
    start = threading.Barrier(2)

    def make() -> None:
        start.wait()
        for number in range(50):
            keys.append(meeting.make_key(str(tmp_path / str(number))))

    context = [threading.Thread(target=make) for _ in range(2)]
    for thread in context:
        thread.start()
    for thread in context:
        thread.join()
    assert len(keys) == 100
    assert len(set(keys)) == 50


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_may_know_is_refused(tmp_path: Path, mode: int) -> None:
    meeting.make_key(str(tmp_path))
    (tmp_path / "key").chmod(mode)
    for find in (meeting.make_key, meeting.read_key):
        with pytest.raises(meeting.KeyRefused, match=f"mode {mode:o}"):
            find(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(meeting.KeyRefused, match="no key"):
        meeting.make_key(str(tmp_path))


def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away: run the tests as root")
    meeting.make_key(str(tmp_path))
    os.chown(tmp_path / "key", 12345, -1)
    with pytest.raises(trust.Untrusted, match=r"a file of uid 12345, mode 0600 and not yours"):
        meeting.make_key(str(tmp_path))


def test_a_link_is_no_key(tmp_path: Path) -> None:
    meeting.make_key(str(tmp_path / "a"))
    (tmp_path / "key").symlink_to(tmp_path / "a" / "key")
    with pytest.raises(OSError):
        meeting.make_key(str(tmp_path))


def test_a_pilot_says_that_its_key_is_refused_and_comes_when_it_is_not(world: World) -> None:
    agent = world.agent()
    (world.folder / "key").chmod(0o644)
    pilot = world.pilot()
    world.loop.until(lambda: pilot.log)
    assert "may be read by others" in pilot.log[0]
    (world.folder / "key").chmod(0o600)
    world.loop.until(lambda: agent.guests)


def test_the_agents_file_is_private_and_read_back(weird_tmp_path: Path) -> None:
    folder = str(weird_tmp_path)
    assert meeting.read_agent_file(folder) is None
    meeting.write_agent_file(folder, [["10.0.0.1", 5], ["::1", 6]], ["login"], "m")
    assert meeting.read_agent_file(folder) == ([["10.0.0.1", 5], ["::1", 6]], ["login"], "m")
    assert (weird_tmp_path / "agent").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"places": [[1]], "names": [], "mark": ""}', b"\xff", b'"x"']
)
def test_what_is_no_agents_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent").write_bytes(content)
    assert meeting.read_agent_file(str(tmp_path)) is None


def test_addresses_are_those_on_the_ways_to_the_nodes() -> None:
    assert meeting.reachable_addresses([]) == []
    assert meeting.reachable_addresses(["127.0.0.1", "no such host!", "localhost", "::1", "127.0.0.1"])[0] == LOCAL
    assert meeting.reachable_addresses(["127.0.0.1"] * 10_000 + ["::1"]) == [LOCAL]


def test_a_session_folder_that_is_removed_is_a_loss_by_files(world: World) -> None:
    agent, pilot = world.connect(addresses=(), boxes=True)
    shutil.rmtree(world.folder)
    world.loop.until(lambda: agent.gone and pilot.gone)


# ---- a way that was not there before, or an agent that does not know that it is no more


def test_a_pilot_by_files_goes_over_to_tcp_where_there_is_a_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "BY_TCP_AFTER", (0.05, 0.1))
    agent = world.agent("m1", boxes=True)
    door.write_agent_file(str(world.folder), [[LOCAL, unused_port()]], [], "m1")
    pilot = world.pilot()
    world.loop.until(lambda: pilot.agents)
    tries = len(agent.guests)
    door.write_agent_file(str(world.folder), agent.places, [], "m1")
    world.loop.until(lambda: pilot.agents[0].gone)
    pilot.home.start()
    world.loop.until(lambda: len(pilot.agents) == 2 and len(agent.guests) == tries + 1)
    assert pilot.agents[0].gone == ["there is a way by TCP now"]
    assert [end.guest.via for end in pilot.agents] == ["files", "tcp"]
    agent.guests[-1].say("to you")
    pilot.agents[-1].say("to me")
    world.loop.until(lambda: pilot.agents[-1].heard == ["to you"] and agent.guests[-1].heard == ["to me"])
    assert sum(text.startswith("no way by TCP") for text in pilot.log) == 1


def test_a_pilot_whose_box_nobody_takes_tries_tcp_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "BY_TCP", 0.05)
    agent = world.agent("m1")
    door.write_agent_file(str(world.folder), [[LOCAL, unused_port()]], [], "m1")
    pilot = world.pilot()
    world.loop.until(lambda: list((world.folder / "box").glob("m1.*")))
    door.write_agent_file(str(world.folder), agent.places, [], "m1")
    world.loop.until(lambda: pilot.agents)
    assert pilot.agents[0].guest.via == "tcp"
    assert list((world.folder / "box").iterdir()) == []


def test_a_pilot_by_tcp_sees_that_another_agent_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(home._MARK, "tcp", 0.05)
    _, pilot = world.connect(mark="m1")
    other = world.agent("m2")
    world.loop.until(lambda: pilot.gone)
    world.pilots[0].home.start()
    world.loop.until(lambda: other.guests)
    assert pilot.gone == ["another agent is there"]


def unused_port() -> int:
    with socket.create_server((LOCAL, 0)) as server:
        return int(server.getsockname()[1])
