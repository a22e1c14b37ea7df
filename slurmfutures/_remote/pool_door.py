"""Where a pool awaits its pilots: found out in a thread, as it takes a command and names to be looked up."""

import os
from typing import Any, Callable, List

from . import door
from .lane import Lane
from .pool_job import Surroundings


def open_door(
    around: Surroundings,
    folder: str,
    address: str,
    admit: Callable[[door.Guest], None],
    note: Callable[[str, str], None],
    then: Callable[[Callable[[], door.Door]], None],
) -> None:
    """Find out where compute nodes can reach this machine; in the loop, `then(listen)` may have it listen there.

    `address` is what the user says about that, or nothing. `note(kind, message)` is for the client.
    """

    def work() -> List[str]:
        return [address] if address else door.reachable_addresses(around.scheduler.node_addresses())

    def found(addresses: Any) -> None:
        if isinstance(addresses, Exception):
            note("door", "nobody can say which addresses compute nodes reach: %s" % addresses)
            addresses = []
        then(lambda: listen(addresses))

    def listen(addresses: List[str]) -> door.Door:
        mark = os.urandom(8).hex()
        opened = door.Door(
            folder=folder,
            key=key,
            addresses=addresses,
            register=around.register,
            unregister=around.unregister,
            admit=admit,
            log=lambda text: note("door", text),
            mark=mark,
        )
        places = opened.places()
        try:
            door.write_agent_file(folder, places, [] if address else [os.uname().nodename], mark)
        except OSError as error:
            note("stuck", "pilots cannot be told where to connect to: %s" % error)
        where = ", ".join("%s port %d" % (place[0], place[1]) for place in places) or "nothing but files"
        note("info", "pilots are awaited at %s" % where)
        return opened

    key = door.make_key(folder)
    Lane("door", around.post).do(work, found)
