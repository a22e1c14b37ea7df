"""Where pilots and their agent find each other: work_dir/pilots/<session>/.

key     what both have and nobody else
agent   where the agent listens now, and a mark by which it differs from those before and after it
box/    streams through files, see `box`
"""

import contextlib
import json
import os
import re
import socket
from collections import Counter
from typing import Any, List, NamedTuple, Optional, Sequence

from . import pool_files, seal, trust
from .publish import publish

BOXES = "box"
_KEY, _AGENT = "key", "agent"
_MOST_NODES = 32  # of a cluster's nodes, that are looked up
_MARK = re.compile("[0-9A-Za-z]{0,64}", re.ASCII)  # it becomes a part of names of boxes
_MOST_WORDS = 1 << 16  # bytes of the agent's file


class KeyRefused(OSError):
    """A key that others may know, or that is none."""


def make_key(folder: str) -> bytes:
    """Return the key of a folder, which is made where there is none. Raises OSError, KeyRefused among others."""
    pool_files.make(folder)
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
    with trust.open_reader(path, closed=False) as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            why = "%s may be read by others (mode %o), who may know the key: close these pilots and open new ones"
            raise KeyRefused(why % (path, mode))
        key = file.read(seal.KEY + 1)
    if len(key) != seal.KEY:
        raise KeyRefused("%s is no key: it has %d bytes" % (path, len(key)))
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
    """Return what the last agent said; None where there was none, or that cannot be seen at the moment.

    Raises trust.Untrusted.
    """
    try:
        words = json.loads(trust.read(os.path.join(folder, _AGENT), _MOST_WORDS).decode())
        places: List[List[Any]] = [[str(address), int(port)] for address, port in words["places"]]
        mark = str(words["mark"])
        if not _MARK.fullmatch(mark) or not all(0 < port < 1 << 16 for _, port in places):
            return None
        return Whereabouts(places, [str(name) for name in words["names"]], mark)
    except trust.Untrusted:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
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
