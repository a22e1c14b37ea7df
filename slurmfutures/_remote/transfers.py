"""Files on their way, on the agent's side: a thread for each transfer, so that a slow file system holds up nobody.

The sender has at most WINDOW bytes on the way that the receiver has not written and acknowledged: memory is bounded on
both sides, and what else goes over the connection is not stuck behind them. A put that the connection broke stays
beside its target, for the client to go on with.

    put       {transfer, target, name, folder}    reply: {path, after, size}
    put-data  {transfer} body                     put-ack {transfer, bytes}
    put-end   {transfer}                          reply, when the target has its name
    get       {transfer, source, after}           reply: {folder, size, entries}; then get-data {transfer} body
    get-ack   {transfer, bytes}                   get-end {transfer}, with an error or without
    cancel-transfer {transfer}
"""

import os
import queue
import threading
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from . import tree, wire

WINDOW = 16 << 20  # bytes
ACK = 1 << 20  # bytes after which what was written is acknowledged

Reply = Callable[..., None]
_Message = Tuple[Mapping[str, Any], wire.Body, Optional[Reply]]


class Transfers:
    """All that is on its way. The agent's loop calls it."""

    def __init__(self, post: Callable[[Callable[[], None]], None], send: Callable[..., None]) -> None:
        self._post = post
        self._send = send
        self._running: Dict[str, _Transfer] = {}

    def message(self, head: Mapping[str, Any], body: wire.Body, reply: Optional[Reply]) -> None:
        """Take a message of a transfer; the first one starts its thread."""
        name, op = head["transfer"], head["op"]
        if op in ("put", "get"):
            kind = _Put if op == "put" else _Get
            self._running[name] = kind(name, self._post, self._send, lambda: self._ended(name))
        transfer = self._running.get(name)
        if transfer is not None:
            transfer.inbox.put((head, body, reply))
        elif reply is not None:
            reply({"error": "value", "message": "there is no transfer %s" % name})

    def _ended(self, name: str) -> None:
        del self._running[name]

    def close(self) -> None:
        """End all threads."""
        for transfer in self._running.values():
            transfer.inbox.put(None)


class _Transfer:
    """A thread that takes messages from `inbox`, None to end."""

    def __init__(
        self,
        name: str,
        post: Callable[[Callable[[], None]], None],
        send: Callable[..., None],
        over: Callable[[], None],
    ) -> None:
        self.inbox: queue.SimpleQueue[Optional[_Message]] = queue.SimpleQueue()
        self._name = name
        self._post = post
        self._send = send
        self._over = over
        threading.Thread(target=self._run, name="transfer-%s" % name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._post(self._over)

    def _work(self) -> None:
        raise NotImplementedError

    def _tell(self, op: str, body: wire.Buffer = b"", **words: Any) -> None:
        head = dict(words, op=op, transfer=self._name)
        self._post(lambda: self._send(head, body))

    def _answer(self, reply: Optional[Reply], **words: Any) -> None:
        if reply is not None:
            answer = reply
            self._post(lambda: answer(words))


def _words(error: Exception) -> Dict[str, Any]:
    """Return what a reply says of an error."""
    if isinstance(error, OSError) and error.errno:
        name = error.filename
        told = os.fsdecode(name) if isinstance(name, (str, bytes)) else None
        return {
            "error": "os",
            "errno": error.errno,
            "strerror": error.strerror,
            "filename": told,
            "message": str(error),
        }
    return {"error": "tree", "message": str(error)}


class _Put(_Transfer):
    def _work(self) -> None:
        unpacker: Optional[tree.Unpacker] = None
        problem: Optional[Dict[str, Any]] = None
        acknowledged = written = 0
        while True:
            message = self.inbox.get()
            if message is None:
                if unpacker is not None:
                    unpacker.close()
                return
            head, body, reply = message
            op = head["op"]
            try:
                if op == "put":
                    target = os.path.expanduser(head["target"])
                    unpacker = tree.Unpacker(target, self._name, head["name"], folder=head["folder"])
                    self._answer(reply, path=unpacker.target, after=unpacker.after, size=unpacker.size)
                elif op == "put-data" and unpacker is not None and problem is None:
                    unpacker.feed(bytes(body))
                    written += len(body)
                    if written - acknowledged >= ACK or self.inbox.empty():
                        self._tell("put-ack", bytes=written - acknowledged)
                        acknowledged = written
                elif op == "put-end" and unpacker is not None:
                    if problem is None:
                        unpacker.finish()
                    self._answer(reply, **(problem or {}))
                    return
                elif op == "cancel-transfer":
                    if unpacker is not None:
                        unpacker.discard()
                    return
            except (OSError, tree.TreeError, ValueError) as error:
                problem = _words(error)
                if unpacker is not None:
                    unpacker.discard()
                if reply is not None:
                    self._answer(reply, **problem)
                    return
                self._tell("put-failed", **problem)


class _Get(_Transfer):
    def _work(self) -> None:
        message = self.inbox.get()
        if message is None:
            return
        head, _, reply = message
        source = os.path.abspath(os.path.expanduser(head["source"]))
        try:
            found = tree.measure(source)
        except (OSError, ValueError) as error:
            self._answer(reply, **_words(error))
            return
        self._answer(reply, folder=found.folder, size=found.size, entries=found.entries)
        room = WINDOW
        try:
            for chunk in tree.pack(source, head["after"]):
                while room < len(chunk) or not self.inbox.empty():
                    message = self.inbox.get()
                    if message is None or message[0]["op"] == "cancel-transfer":
                        return
                    room += message[0]["bytes"]
                room -= len(chunk)
                self._tell("get-data", chunk)
        except (OSError, ValueError) as error:
            self._tell("get-end", **_words(error))
            return
        self._tell("get-end")
