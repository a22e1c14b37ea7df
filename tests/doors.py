"""Agents' doors and the pilots that find them, in one process and one loop."""

import threading
from pathlib import Path
from typing import Any

from slurmfutures._remote import door, home, wire
from slurmfutures._remote.guest import Guest
from tests.loops import Loop

LOCAL = "127.0.0.1"


def no_seekers() -> bool:
    return all(thread.name != "home" for thread in threading.enumerate())


class End:
    """What one side's guest has told."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.frames: list[wire.Frame] = []
        self.gone: list[str] = []
        guest.attach(self.frames.append, self.gone.append)

    def say(self, word: Any, body: wire.Buffer = b"") -> None:
        self.guest.send(wire.message({"op": word}, body))

    def has_heard(self, count: int) -> bool:
        return len(self.frames) == count

    @property
    def heard(self) -> list[str]:
        return [frame.head["op"] for frame in self.frames]


class World:
    """A folder of a session, its agents and its pilots, in one loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop()
        self.agents: list[Agent] = []
        self.pilots: list[Pilot] = []

    def agent(self, mark: str = "m1", **words: Any) -> "Agent":
        self.agents.append(Agent(self, mark, **words))
        return self.agents[-1]

    def pilot(self, name: str = "p") -> "Pilot":
        self.pilots.append(Pilot(self, name))
        return self.pilots[-1]

    def connect(self, **words: Any) -> tuple[End, End]:
        """Return the ends of a new connection: a new agent's, and a new pilot's."""
        agent, pilot = self.agent(**words), self.pilot()
        self.loop.until(lambda: agent.guests and pilot.agents)
        return agent.guests[0], pilot.agents[0]

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        for pilot in self.pilots:
            pilot.close()
        self.loop.until(no_seekers)
        self.loop.turn(0.0)  # what they have posted
        assert self.loop.watched() == 0
        self.loop.close()


class Agent:
    def __init__(self, world: World, mark: str, addresses: tuple[str, ...] = (LOCAL,), *, boxes: bool = False) -> None:
        self.world = world
        self.guests: list[End] = []
        self.log: list[str] = []
        self.door = door.Door(
            folder=str(world.folder),
            key=door.make_key(str(world.folder)),
            addresses=addresses,
            register=world.loop.register,
            unregister=world.loop.unregister,
            admit=lambda guest: self.guests.append(End(guest)),
            log=self.log.append,
            mark=mark,
        )
        self.places = self.door.places()
        door.write_agent_file(str(world.folder), self.places, [], mark)
        self.door.expect_boxes(boxes)
        world.loop.ticks.append(self.door.tick)

    def close(self) -> None:
        if self.door.tick in self.world.loop.ticks:
            self.world.loop.ticks.remove(self.door.tick)
            self.door.close()


class Pilot:
    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.agents: list[End] = []
        self.log: list[str] = []
        self.home = home.Home(
            folder=str(world.folder),
            words={"name": name},
            register=world.loop.register,
            unregister=world.loop.unregister,
            post=world.loop.post,
            arrived=lambda guest: self.agents.append(End(guest)),
            log=self.log.append,
        )
        self.home.start()
        world.loop.ticks.append(self.home.tick)

    def keep_coming(self) -> None:
        """Have it look for the agent again whenever the connection is lost, as a real one does."""
        self.home._arrived = self._arrived

    def _arrived(self, guest: Guest) -> None:
        end = End(guest)
        self.agents.append(end)

        def gone(why: str) -> None:
            end.gone.append(why)
            self.home.start()

        guest.attach(end.frames.append, gone)

    def has_agents(self, count: int = 1) -> bool:
        return len(self.agents) == count

    def close(self) -> None:
        if self.home.tick in self.world.loop.ticks:
            self.world.loop.ticks.remove(self.home.tick)
            self.home.close()
