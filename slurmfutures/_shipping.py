"""Which versions of the user's own code are on the cluster, and how those get there that are not."""

import threading
import weakref
from concurrent.futures import Future

from ._errors import AgentError, SlurmFuturesError
from ._link import Link, Reply, Words
from ._ship import Shipment


class Shipping:
    """Asks the agent for each version once a connection, and sends what it does not have. Any thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()  # guards what follows
        self._asked: dict[str, Future[None]] = {}  # by digest; done when the version is there
        self._alive: weakref.WeakValueDictionary[str, Shipment] = weakref.WeakValueDictionary()

    def send(self, shipment: Shipment) -> "Future[None]":
        """Have a version on the cluster. The future is done when it is there, or fails with what is in the way.

        It is resolved in the poller's thread.
        """
        with self._lock:
            self._alive.setdefault(shipment.digest, shipment)
            known = self._asked.get(shipment.digest)
            if known is not None:
                return known
            done = self._asked[shipment.digest] = Future()
        self._request(shipment, done, zipped=False)
        return done

    def connected_again(self) -> None:
        """There is another agent, which may be on another machine, or after a cleaning: ask it too."""
        with self._lock:
            for digest in [digest for digest, done in self._asked.items() if done.done()]:
                del self._asked[digest]
            alive = list(self._alive.values())
        for shipment in alive:
            self.send(shipment)

    def _request(self, shipment: Shipment, done: "Future[None]", *, zipped: bool) -> None:
        words = {"op": "ship", "ship": shipment.digest, "zip": zipped}
        _, reply = self._link.request(words, [shipment.data] if zipped else (), again=True)
        reply.add_done_callback(lambda reply: self._answered(shipment, done, reply, zipped=zipped))

    def _answered(self, shipment: Shipment, done: "Future[None]", reply: "Future[Reply]", *, zipped: bool) -> None:
        error = reply.exception()
        there = False
        if error is None:
            words = Words(reply.result().head, "ship")
            try:
                error = SlurmFuturesError(words.message()) if "error" in words else None
                there = error is None and words.flag("there")
                if zipped and error is None and not there:  # otherwise it would be sent again and again
                    error = words.wrong("there")
            except AgentError as misfit:  # a caller may wait for `done`
                error = misfit
        if error is not None:
            with self._lock:
                self._asked.pop(shipment.digest, None)  # what is submitted later tries again
            done.set_exception(error)
        elif there:
            done.set_result(None)
        else:
            self._request(shipment, done, zipped=True)
