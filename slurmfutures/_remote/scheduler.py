"""What the agent asks of a scheduler, and the answers it may get.

The real one is `slurm`, the embedded one is `local`. All methods are called from the agent's command threads, never
from its loop, and may block. "I could not find out" is an answer of its own (`None`, `Unclear`): it changes nothing.
"""

from typing import (
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
    Union,
)

from .states import JobState


class Limits(NamedTuple):
    """What one submission may hold."""

    max_array_index: int  # the highest array index a task may have; 0 where job arrays are switched off
    max_jobs: int  # jobs, each array task counted, that the scheduler keeps at all


class Request(NamedTuple):
    """One submission: an array of `size` tasks with indices 0 to size - 1, or a plain job where size is 1.

    By `array` it is an array of a user's own, of `size` tasks with those indices.
    """

    options: Sequence[str]  # the user's options as sbatch arguments, "--mem=4G"
    script: str  # absolute path of the script
    arguments: Sequence[str]  # words passed to the script
    size: int
    throttle: Optional[int]  # tasks that may run at once; None is no bound
    name: str  # carries the batch's token
    comment: str  # carries the batch's token
    chdir: str
    stdout: str  # absolute path; "%a" in the file's name stands for the array index
    stderr: str
    exclude: Sequence[str] = ()  # nodes, or lists of them in Slurm's words, beside those that the options exclude
    patterns: Optional[Tuple[str, str]] = None  # of a user's own script: where its output goes, in place of the above
    array: Optional[str] = None  # in sbatch's words, "1-10:3"


class Submitted(NamedTuple):
    """The scheduler has it."""

    job_id: str  # "123": of an array, the array's id


class Refused(NamedTuple):
    """A final no; `message` is the scheduler's own words."""

    message: str


class Held(NamedTuple):
    """A limit on submitted jobs is reached, nothing was accepted: try again when there is room."""

    message: str


class Unclear(NamedTuple):
    """The command failed in a way that leaves open whether the job was accepted: look it up by name first."""

    message: str


Outcome = Union[Submitted, Refused, Held, Unclear]


class Row(NamedTuple):
    """One line of the queue: a job, or some tasks of an array that share a state."""

    job_id: str  # of an array, the array's id
    tasks: Optional[Tuple[Tuple[int, int], ...]]  # ranges of array indices, both ends included; None: a plain job
    state: Optional[JobState]  # None: a word we do not know
    reason: str
    name: str
    comment: str
    ends: Optional[float] = None  # when its time is over, in seconds since the epoch; None where nobody says


class Ending(NamedTuple):
    """How a job, or one array task, stands according to the scheduler's records."""

    state: Optional[JobState]  # None: a word we do not know
    exit_code: Optional[int]
    signal: Optional[int]
    node: str  # node list, "" if it never started
    reason: str
    started: bool  # whether it ever ran
    cancelled_by: str  # user name or id where the state is CANCELLED, else ""
    start: str  # as the scheduler prints times, "" if unknown
    end: str


#: Stands for an array index in what `why` returns: all of the job that is not there by itself could not be found out.
UNKNOWN = -1
NOT_FOUND_OUT = Ending(None, None, None, "", "", True, "", "", "")


class Scheduler(Protocol):
    """Submit, list, explain, cancel."""

    #: Whether jobs go on when the agent ends.
    keeps_jobs: bool

    def version(self) -> str:
        """Return the scheduler's name and version, "slurm 22.05.8"; raise FileNotFoundError where it is not there."""

    def limits(self) -> Optional[Limits]:
        """Return the limits, None where they cannot be read now."""

    def submit(self, request: Request) -> Outcome:
        """Submit once."""

    def adopt(self, job_id: str, request: Request) -> Set[int]:
        """Look after a job of an earlier agent; return the array indices that still run.

        For schedulers that do not keep jobs: theirs run on where the agent was killed.
        """

    def find(self, name: str) -> Optional[List[str]]:
        """Return the ids of jobs with this name, queued or ended; None if it could not be found out."""

    def queue(self) -> Optional[List[Row]]:
        """Return this user's jobs, ended ones that are still listed included; None if the query failed."""

    def why(
        self, jobs: Mapping[str, float], doubted: Collection[str] = ()
    ) -> Optional[Dict[Tuple[str, Optional[int]], Ending]]:
        """Return what is recorded of jobs, keyed by (job id, array index or None); None if the query failed.

        `jobs` has when each was submitted, by the agent's clock (seconds since the epoch): an older record is that of
        another job. That one of `doubted` is not over is answered only where the scheduler itself confirms it. With the
        index UNKNOWN comes NOT_FOUND_OUT.
        """

    def cancel(self, targets: Iterable[Tuple[str, Optional[Sequence[int]]]]) -> bool:
        """End jobs: (job id, array indices), or None for the whole job. False if the command failed."""

    def close(self) -> None:
        """End what lives with the agent. Any thread."""

    def node_addresses(self) -> List[str]:
        """Return addresses or names of nodes on which jobs may run, some at least; raise OSError if nobody can say."""

    def throttle(self, job_id: str, tasks: int) -> bool:
        """Let `tasks` tasks of an array run at once. False if the command failed."""
