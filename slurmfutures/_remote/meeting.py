"""Where pilots and their agent find each other: work_dir/pilots/<session>/.

key     what both have and nobody else
agent   where the agent listens now, and a mark by which it differs from those before and after it
box/    streams through files, see `box`
"""

import contextlib
import json
import os
import socket
import stat
from collections import Counter
from typing import Any, List, NamedTuple, Optional, Sequence

from . import seal
from .publish import publish

BOXES = "box"
_KEY, _AGENT = "key", "agent"
_MOST_NODES = 32  # of a cluster's nodes, that are looked up


class KeyRefused(OSError):
    """A key that others may know, or that is none."""


def make_key(folder: str) -> bytes:
    """Return the key of a folder, which is made where there is none. Raises OSError, KeyRefused among others."""
    os.makedirs(folder, 0o700, exist_ok=True)
    path = os.path.join(folder, _KEY)
    try:
        return read_key(folder)
    except FileNotFoundError:
        pass
    temporary = "%s.%s" % (path, os.urandom(6).hex())
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, os.urandom(seal.KEY))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(temporary, path)  # the first one's counts
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.rename(temporary, path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    return read_key(folder)


def read_key(folder: str) -> bytes:
    """Return the key of a folder. Raises OSError: FileNotFoundError where there is none, KeyRefused."""
    path = os.path.join(folder, _KEY)
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            raise KeyRefused("%s is not a file of ours" % path)
        if found.st_mode & 0o077:
            raise KeyRefused("%s may be read by others (mode %o)" % (path, found.st_mode & 0o777))
        key = os.read(handle, seal.KEY + 1)
    finally:
        os.close(handle)
    if len(key) != seal.KEY:
        raise KeyRefused("%s is no key" % path)
    return key


class Whereabouts(NamedTuple):
    """What an agent says of itself."""

    places: List[List[Any]]  # [address, port], to be tried in this order
    names: List[str]  # of the host that it is on, to be tried after them
    mark: str


def write_agent_file(folder: str, places: Sequence[Sequence[Any]], names: Sequence[str], mark: str) -> None:
    """Tell pilots where this agent is, in place of the one before. Raises OSError."""
    words = {"places": [list(place) for place in places], "names": list(names), "mark": mark}
    publish(folder, _AGENT, [json.dumps(words).encode()])


def read_agent_file(folder: str) -> Optional[Whereabouts]:
    """Return what the last agent said; None where there was none, or that cannot be seen at the moment."""
    try:
        with open(os.path.join(folder, _AGENT), "rb") as file:
            words = json.loads(file.read().decode())
        places = [[str(address), int(port)] for address, port in words["places"]]
        return Whereabouts(places, [str(name) for name in words["names"]], str(words["mark"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reachable_addresses(nodes: Sequence[str]) -> List[str]:
    """Return this machine's addresses on the ways to these nodes, those of most nodes first. May take seconds.

    Nothing is sent to the nodes. Of many nodes some are looked up, from all over the list.
    """
    step = max(1, -(-len(nodes) // _MOST_NODES))
    count: Counter[str] = Counter()
    for node in nodes[::step]:
        try:
            found = socket.getaddrinfo(node, 9, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            continue
        count.update({address for family, _, _, _, place in found for address in _way(family, place)})
    return [address for address, _ in count.most_common()]


def _way(family: int, place: Any) -> List[str]:
    """Return the address from which this machine would send there, if there is a way."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            address = str(probe.getsockname()[0])
    except OSError:
        return []
    return [] if address.startswith("fe80:") else [address]  # those are good for one wire only, and with its name
