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
from typing import Any, NamedTuple, Protocol, TypeVar

from ._errors import AgentError, ConnectionLost, SlurmFuturesError
from ._link import MOST_SIZE, Reply, Words
from ._remote import tree, wire
from ._remote.transfers import ACK, WINDOW

T = TypeVar("T")

_MOST_FRAMES = WINDOW // tree.CHUNK + 2  # that wait to be used: all but the last of the data have CHUNK bytes or more
_FRAME = "a frame of"

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
        path, after = begun.path("path"), None if begun.lacks("after") else begun.path("after")
        transfer.begin_at(begun.number("size", most=MOST_SIZE), found.size)
        room = WINDOW
        for chunk in tree.pack(source, after):
            while room < len(chunk) or transfer.has_news():
                room += transfer.acknowledged(WINDOW - room)
            room -= len(chunk)
            transfer.send("put-data", chunk)
        while room < WINDOW:
            room += transfer.acknowledged(WINDOW - room)
        transfer.request("put-end")
        return path

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
            folder = begun.flag("folder")
            unpackers.append(tree.Unpacker(target, transfer.name, name, folder=folder))
            folders.append(folder)
        unpacker = unpackers[-1]
        transfer.begin_at(unpacker.size, begun.number("size", most=MOST_SIZE))
        written = 0
        while True:
            op, words, body = transfer.news()
            if op == "get-end":
                unpacker.finish()
                return Path(unpacker.target)
            if op != "get-data" or not body:
                raise words.misfit(f"{op!r} with {len(body)} bytes")
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


class _News(NamedTuple):
    """A frame of a transfer that is not a reply."""

    op: str
    words: Words
    body: wire.Body


class _Inbox:
    """Frames received over one connection and not used yet, at most as many as the protocol allows.

    The caller's thread takes; all else is the poller's.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_News | AgentError | None] = queue.SimpleQueue()
        self._received = 0  # bytes
        self._taken = 0  # bytes; set in the caller's thread
        self._over = False  # nothing may follow

    def receive(self, head: Mapping[str, Any] | None, body: wire.Body) -> None:
        """Take a frame, None where the connection is lost. Raises AgentError, which the caller gets too."""
        if head is None:
            self._queue.put(None)
            return
        try:
            self._queue.put(self._checked(head, body))
        except AgentError as error:
            if not self._over:
                self._queue.put(error)
            self._over = True
            raise

    def _checked(self, head: Mapping[str, Any], body: wire.Body) -> _News:
        op, words = head["op"], Words(head, "transfer", _FRAME)
        self._received += len(body)
        if self._over or self._queue.qsize() >= _MOST_FRAMES or self._received - self._taken > WINDOW:
            raise words.misfit("more frames than may be on their way")
        if "error" in head or op == "get-end":
            self._over = True
        elif op in ("get-data", "put-ack"):
            head = {"bytes": words.number_or_none("bytes")}  # nothing else of it is held
        else:
            raise words.wrong("op")
        return _News(op, Words(head, "transfer", _FRAME), body)

    def __bool__(self) -> bool:
        return not self._queue.empty()

    def take(self) -> _News:
        """Return the next frame. Raises _Lost, and AgentError after a frame that cannot be."""
        found = self._queue.get()
        if found is None:
            raise _Lost
        if isinstance(found, AgentError):
            raise found
        self._taken += len(found.body)
        return found


class _Transfer:
    """One transfer, however many connections it takes. All of it is the caller's thread's."""

    def __init__(self, channel: Channel, progress: Progress | None) -> None:
        self.name = uuid.uuid4().hex[:12]
        self._channel = channel
        self._progress = progress
        self._inbox = _Inbox()
        self._done = 0
        self._total = 0

    def until_done(self, once: "Callable[[_Transfer], T]") -> "T":
        """Return what `once(self)` returns, after as many tries as connections are lost in it."""
        while True:
            self._inbox = _Inbox()
            self._channel.listen(self.name, self._inbox.receive)
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

    def request(self, op: str, **words: Any) -> Words:
        """Send a request and return what is replied. Raises what the other side says went wrong."""
        reply = self._channel.wait(self._channel.request({"op": op, "transfer": self.name, **words}))
        return _checked(Words(reply.head, op))

    def send(self, op: str, body: wire.Buffer = b"", **words: Any) -> None:
        self._channel.send({"op": op, "transfer": self.name, **words}, body)

    def has_news(self) -> bool:
        return bool(self._inbox)

    def news(self) -> _News:
        """Return the next frame. Raises what the other side says went wrong."""
        self._channel.wait_for(self.has_news)
        found = self._inbox.take()
        _checked(found.words)
        return found

    def acknowledged(self, most: int) -> int:
        """Wait until the agent acknowledges more bytes, at most `most`; return how many."""
        found = self.news()
        if found.op != "put-ack":
            raise found.words.misfit(f"{found.op!r}")
        size = found.words.number("bytes", least=1, most=most)
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


def _checked(words: Words) -> Words:
    if "error" not in words:
        return words
    if words.text("error") == "os":
        raise words.os_error(words.text_or_none("filename"))
    raise SlurmFuturesError(f"the transfer failed on the login node: {words.message()}")
