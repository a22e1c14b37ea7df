"""`put` and `get`: files and trees, to and fro, in the caller's thread.

All work on local files is done in that thread; the poller's thread only puts what arrives into a queue.
"""

import os
import posixpath
import queue
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ._errors import ConnectionLost, SlurmFuturesError, os_error
from ._link import Reply
from ._remote import tree, wire
from ._remote.transfers import ACK, WINDOW

T = TypeVar("T")

Progress = Callable[[int, int], object]
Listener = Callable[[Mapping[str, Any] | None, wire.Body], None]


class Channel(Protocol):
    """What a transfer needs of the connection; any thread."""

    def request(self, head: Mapping[str, Any]) -> "Future[Reply]":
        """Send a request; its reply fails with ConnectionLost where the connection is lost before it."""

    def wait(self, reply: "Future[Reply]") -> Reply:
        """Wait for a reply, also in a callback."""

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when `condition()` is true where only the poller can wait for it: in a callback; else at once."""

    def send(self, head: Mapping[str, Any], body: wire.Buffer = b"") -> None:
        """Send a frame of a transfer, behind everything else; dropped where there is no connection."""

    def listen(self, transfer: str, listener: Listener) -> None:
        """Have `listener` called, in the poller's thread, for each frame; with None when the connection is lost."""

    def unlisten(self, transfer: str) -> None: ...

    def wait_until_connected(self) -> None:
        """Return when there is a connection (again). Raises ConnectionLost where there will be none."""


def put(
    channel: Channel, local: "str | os.PathLike[str]", remote: "str | os.PathLike[str]", progress: Progress | None
) -> str:
    """Copy a file or a tree to the login node and return its path there."""
    source = os.path.abspath(os.path.expanduser(os.fspath(local)))
    found = tree.measure(source)
    words = {"target": os.fspath(remote), "name": os.path.basename(source), "folder": found.folder}

    def once(transfer: _Transfer) -> str:
        begun = transfer.request("put", **words)
        transfer.begin_at(begun["size"], found.size)
        room = WINDOW
        for chunk in tree.pack(source, begun["after"]):
            while room < len(chunk) or transfer.has_news():
                room = min(WINDOW, room + transfer.acknowledged())
            room -= len(chunk)
            transfer.send("put-data", chunk)
        while room < WINDOW:
            room += transfer.acknowledged()
        transfer.request("put-end")
        return str(begun["path"])

    return _Transfer(channel, progress).until_done(once)


def name_of(remote: str) -> str:
    """Return the name of a file on the cluster as its path has it, "" where the path has none, as "~" or ".."."""
    path = posixpath.normpath(remote)
    name = posixpath.basename(path)
    return "" if name in (".", "..") or (path == name and name.startswith("~")) else name


def get(channel: Channel, remote: str, name: str, local: "str | os.PathLike[str]", progress: Progress | None) -> Path:
    """Copy a file or a tree from the login node and return its path here.

    Its name, where it gets into a folder, is `name`: the other side must not choose it.
    """
    source, target = remote, os.path.expanduser(os.fspath(local))
    unpackers: list[tree.Unpacker] = []  # one for each connection
    folders: list[bool] = []

    def once(transfer: _Transfer) -> Path:
        if folders:
            unpackers[-1].close()
            unpackers.append(tree.Unpacker(target, transfer.name, name, folder=folders[0]))
        after = unpackers[-1].after if unpackers else None
        begun = transfer.request("get", source=source, after=after)
        if not folders:
            unpackers.append(tree.Unpacker(target, transfer.name, name, folder=bool(begun["folder"])))
            folders.append(bool(begun["folder"]))
        unpacker = unpackers[-1]
        transfer.begin_at(unpacker.size, begun["size"])
        written = 0
        while True:
            head, body = transfer.news()
            if head["op"] == "get-end":
                unpacker.finish()
                return Path(unpacker.target)
            unpacker.feed(bytes(body))
            written += len(body)
            if written >= ACK:
                transfer.send("get-ack", bytes=written)
                transfer.count(written)
                written = 0

    try:
        return _Transfer(channel, progress).until_done(once)
    except tree.TreeError as error:
        raise SlurmFuturesError(f"{source} cannot be copied: {error}") from error
    finally:
        for unpacker in unpackers:
            unpacker.discard()  # where it has its name, nothing is left to be discarded


class _Lost(Exception):
    """The connection was lost in the middle."""


class _Transfer:
    """One transfer, however many connections it takes. All of it is the caller's thread's but `_receive`."""

    def __init__(self, channel: Channel, progress: Progress | None) -> None:
        self.name = uuid.uuid4().hex[:12]
        self._channel = channel
        self._progress = progress
        self._inbox: queue.SimpleQueue[tuple[Mapping[str, Any], wire.Body] | None] = queue.SimpleQueue()
        self._done = 0
        self._total = 0

    def until_done(self, once: "Callable[[_Transfer], T]") -> "T":
        """Return what `once(self)` returns, after as many tries as connections are lost in it."""
        while True:
            self._inbox = queue.SimpleQueue()
            self._channel.listen(self.name, self._receive)
            try:
                result = once(self)
                if self._progress is not None:
                    self._progress(self._total, self._total)
                return result
            except (_Lost, ConnectionLost):
                self._channel.wait_until_connected()
            except BaseException:
                self._channel.send({"op": "cancel-transfer", "transfer": self.name})
                raise
            finally:
                self._channel.unlisten(self.name)

    def _receive(self, head: Mapping[str, Any] | None, body: wire.Body) -> None:
        self._inbox.put(None if head is None else (head, body))

    def request(self, op: str, **words: Any) -> Mapping[str, Any]:
        """Send a request and return what is replied. Raises what the other side says went wrong."""
        reply = self._channel.wait(self._channel.request({"op": op, "transfer": self.name, **words}))
        return _checked(reply.head)

    def send(self, op: str, body: wire.Buffer = b"", **words: Any) -> None:
        self._channel.send({"op": op, "transfer": self.name, **words}, body)

    def has_news(self) -> bool:
        return not self._inbox.empty()

    def news(self) -> tuple[Mapping[str, Any], wire.Body]:
        """Return the next frame. Raises what the other side says went wrong."""
        self._channel.wait_for(self.has_news)
        found = self._inbox.get()
        if found is None:
            raise _Lost
        return _checked(found[0]), found[1]

    def acknowledged(self) -> int:
        """Wait until the other side has written more, and return how much."""
        size = int(self.news()[0]["bytes"])
        self.count(size)
        return size

    def begin_at(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self.count(0)

    def count(self, size: int) -> None:
        """So many bytes more are there; names and the like count too, so it never says more than the total."""
        self._done = min(self._total, self._done + size)
        if self._progress is not None:
            self._progress(self._done, self._total)


def _checked(words: Mapping[str, Any]) -> Mapping[str, Any]:
    if "error" not in words:
        return words
    if words["error"] == "os":
        raise os_error(words["errno"], words["strerror"], words["filename"])
    raise SlurmFuturesError(f"the transfer failed on the login node: {words['message']}")
