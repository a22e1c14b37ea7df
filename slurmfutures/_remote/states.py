"""The states of a job in Slurm's own words."""

from enum import Enum
from typing import Optional


class JobState(str, Enum):
    """What Slurm says a job is doing; the value is Slurm's long name.

    The first twelve are base states: a job is in exactly one of them. The others are flags, which Slurm's commands show
    in place of the base state while they are set. Text and format give the value.
    """

    PENDING = "PENDING"  #: Waits for its turn, or is held.
    RUNNING = "RUNNING"  #: Has an allocation.
    SUSPENDED = "SUSPENDED"  #: Has an allocation, but is stopped and its CPUs are lent to others.
    COMPLETED = "COMPLETED"  #: Ended with exit code 0 on all nodes.
    CANCELLED = "CANCELLED"  #: Was cancelled by its user or an administrator, before it started or while it ran.
    FAILED = "FAILED"  #: Ended with another exit code than 0, or failed otherwise.
    TIMEOUT = "TIMEOUT"  #: Was ended at its time limit.
    NODE_FAIL = "NODE_FAIL"  #: Was ended because a node of its allocation failed; it may be queued again.
    PREEMPTED = "PREEMPTED"  #: Was ended for a job that goes first; it may be queued again.
    BOOT_FAIL = "BOOT_FAIL"  #: Was ended because its nodes did not start; it may be queued again.
    DEADLINE = "DEADLINE"  #: Was ended because it could not, or did not, end before its deadline.
    OUT_OF_MEMORY = "OUT_OF_MEMORY"  #: Was ended because it used more memory than it was given.

    COMPLETING = "COMPLETING"  #: Is over, but some process or epilog on its nodes is not; this may last minutes.
    CONFIGURING = "CONFIGURING"  #: Has an allocation whose nodes are not ready yet.
    EXPEDITING = "EXPEDITING"  #: Is being looked at for a requeue ahead of others.
    LAUNCH_FAILED = "LAUNCH_FAILED"  #: Could not be launched on its node, and is queued again or held.
    POWER_UP_NODE = "POWER_UP_NODE"  #: Waits for nodes that are switched off to start.
    RECONFIG_FAIL = "RECONFIG_FAIL"  #: Its nodes could not be reconfigured for it, and it is queued again or held.
    REQUEUED = "REQUEUED"  #: Is being put back into the queue under the same job id.
    REQUEUE_FED = "REQUEUE_FED"  #: Is being put back into the queue of a federation.
    REQUEUE_HOLD = "REQUEUE_HOLD"  #: Is put back into the queue, held.
    RESIZING = "RESIZING"  #: Is about to change its size.
    RESV_DEL_HOLD = "RESV_DEL_HOLD"  #: Is held because its reservation was deleted.
    REVOKED = "REVOKED"  #: Another cluster of the federation runs it.
    SIGNALING = "SIGNALING"  #: A signal is on its way to it.
    SPECIAL_EXIT = "SPECIAL_EXIT"  #: Is put back into the queue, held, because of how it ended.
    STAGE_OUT = "STAGE_OUT"  #: Is over, and its files are being copied from a burst buffer.
    STOPPED = "STOPPED"  #: Has an allocation, but was stopped with SIGSTOP and keeps its CPUs.
    UPDATE_DB = "UPDATE_DB"  #: Waits for the accounting records to be brought up to date.

    def __str__(self) -> str:
        return str(self.value)


#: A job in one of these runs no more. Everything else, an unknown word too, means: alive, ask again. After PREEMPTED,
#: NODE_FAIL and BOOT_FAIL the same job id may be PENDING again, where the job is put back into the queue.
TERMINAL = frozenset(
    {
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
        JobState.BOOT_FAIL,
        JobState.DEADLINE,
        JobState.OUT_OF_MEMORY,
    }
)

_COMPACT = {
    "BF": JobState.BOOT_FAIL,
    "CA": JobState.CANCELLED,
    "CD": JobState.COMPLETED,
    "CF": JobState.CONFIGURING,
    "CG": JobState.COMPLETING,
    "DL": JobState.DEADLINE,
    "F": JobState.FAILED,
    "NF": JobState.NODE_FAIL,
    "OOM": JobState.OUT_OF_MEMORY,
    "PD": JobState.PENDING,
    "PR": JobState.PREEMPTED,
    "R": JobState.RUNNING,
    "RD": JobState.RESV_DEL_HOLD,
    "RF": JobState.REQUEUE_FED,
    "RH": JobState.REQUEUE_HOLD,
    "RQ": JobState.REQUEUED,
    "RS": JobState.RESIZING,
    "RV": JobState.REVOKED,
    "S": JobState.SUSPENDED,
    "SE": JobState.SPECIAL_EXIT,
    "SI": JobState.SIGNALING,
    "SO": JobState.STAGE_OUT,
    "ST": JobState.STOPPED,
    "TO": JobState.TIMEOUT,
}


def parse_state(text: str) -> Optional[JobState]:
    """Return the state that a Slurm command printed as `text`, None where it is no state we know.

    Read are long and compact names in any case, "CANCELLED by 1000", and words that a narrow column cut, "OUT_OF_ME+".
    """
    words = text.split()
    if not words:
        return None
    word = words[0].upper()
    cut = word.endswith("+")
    word = word.rstrip("+")
    if word in JobState.__members__:
        return JobState[word]
    if not cut:
        return _COMPACT.get(word)
    matches = [state for name, state in JobState.__members__.items() if name.startswith(word)]
    return matches[0] if len(matches) == 1 else None
