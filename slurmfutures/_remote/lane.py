"""A thread for what may take minutes, so that the agent's loop never waits."""

import functools
import queue
import threading
from typing import Any, Callable, Tuple


class Lane:
    """A thread that does one slow thing after the other and posts what came of it to the agent's loop."""

    def __init__(self, name: str, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self.busy = 0  # things given to it and not yet done; the loop's thread only
        self._work: queue.Queue[Tuple[Callable[[], Any], Callable[[Any], None]]] = queue.Queue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have `work()` done in the lane's thread and `then(its result)` in the loop's. Called in the loop."""
        self.busy += 1
        self._work.put((work, then))

    def _run(self) -> None:
        while True:
            work, then = self._work.get()
            try:
                result = work()
            except Exception as error:  # a lane must outlive what it does; the callback decides what it means
                result = error
            self._post(functools.partial(self._done, then, result))

    def _done(self, then: Callable[[Any], None], result: Any) -> None:
        self.busy -= 1
        then(result)
