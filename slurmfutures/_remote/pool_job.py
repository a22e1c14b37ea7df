"""A job of a pool, as its agent sees it; and what pools use of their agent."""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from . import door, payload, wire
from .batches import Batches
from .scheduler import Scheduler


class Surroundings(NamedTuple):
    """What pools use of their agent."""

    work_dir: str
    session: str
    scheduler: Scheduler
    batches: Batches
    send: Callable[..., None]  # an event to the client
    transmit: Callable[[Sequence[wire.Buffer]], None]  # a frame to the client
    shipped: Callable[[str], Optional[str]]
    register: Callable[..., None]
    unregister: Callable[..., object]
    post: Callable[[Callable[[], None]], None]


class Job:
    """A job that is, was or will be a pilot."""

    def __init__(self, batch: str, task: int) -> None:
        self.batch = batch
        self.task = task
        self.id = ""
        self.node = ""
        self.host = ""
        self.state = "PENDING"
        self.over = False
        self.came = False  # it has become a pilot, for this agent
        self.ready = False  # it has told by its connection what it has, and the next agent will know of it
        self.noted = False  # the ledger says that it has become one
        self.settled = False  # the client knows what became of all that it had, and so does the ledger
        self.useful = False  # it has had a worker that could take calls
        self.awaited = False  # it had become one for an earlier agent, and has not told this one what it has
        self.leaving = False  # it takes no more calls
        self.let_go = False  # it has been told that it may end
        self.run = 0
        self.guest: Optional[door.Guest] = None
        self.lost = 0.0  # when the connection was lost
        self.look_at = 0.0  # when to look for what became of it
        self.began_at = 0.0  # when it came
        self.workers = 0  # that can take calls
        self.ends: Optional[float] = None  # when its time is over, on the monotonic clock
        self.quota = 1
        self.done = 0  # calls
        self.since = 0.0  # when the last results came, or the first calls went
        self.known: Set[int] = set()  # functions
        # Calls that it has been given; None: of an earlier agent, and the client has not named it.
        self.handed: Dict[int, Optional[payload.Call]] = {}
        self.cut: Set[int] = set()  # of these, those that were running when the job was ended
        self.kept: Set[int] = set()  # of these, those whose results are about to come
        self.began: Dict[int, Tuple[float, str]] = {}  # of these, since when they run, and the worker that does it
        self.state_of_workers: List[List[Any]] = []

    def is_there(self) -> bool:
        """Whether it takes calls, or may one day. How one has ended that leaves without having taken any is awaited."""
        return not self.over and (not self.leaving or (self.came and not self.useful))

    def load(self) -> float:
        """Return how many calls it holds for each of its workers, of which there are some."""
        return len(self.handed) / self.workers

    def is_useless(self, words: Mapping[str, Any]) -> bool:
        """Whether it has ended, as `words` tell, before it could run a call, and not to make way for others."""
        taken_back = self.leaving and not self.came
        return not (self.useful or self.awaited or taken_back or (self.came and words["state"] == "PREEMPTED"))

    def hang_up(self) -> None:
        """Close its connection."""
        if self.guest is not None:
            self.guest.close()
        self.guest, self.ready = None, False
