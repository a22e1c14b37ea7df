"""What is known of a task that ended without its results, put together for the client."""

import time
from typing import Any, Dict, Optional, Tuple

from . import logs, publish, watch
from .batch import Batch, Part
from .own import is_own
from .scheduler import Ending

_TAIL = 4000  # bytes of a dead task's stderr that are told
# What slurmstepd's own errors look like where a signal would stand, and what they mean where the state does not say it.
_NO_OUTPUT = 53
_NO_SIGNALS = {
    _NO_OUTPUT: "where Slurm cannot open its output files",
    125: "",  # out of memory
}
# What the script says, and with which exit code, where its folder is not there.
_UNSEEN_CODE = 66
_UNSEEN_WORDS = "cannot be seen on node"
_NO_ROOM = "its results could not be written to %s, nor why: there is no room, or writing is not allowed there"


def explain(batch: Batch, part: Part, watch_: watch.Watch, verdict: watch.Verdict) -> Dict[str, Any]:
    """Return the words of a death: the scheduler's record, what the exit trap wrote, the end of stderr."""
    ending, end = verdict.ending, verdict.end
    code, signal_, reason = how(ending, end)
    if code == publish.NO_ROOM and end is None:  # the trap could write nothing either
        reason = _NO_ROOM % batch.folder.path
    stderr = logs.tail(part.folder.log(verdict.task, "err"), _TAIL)[1].decode("utf-8", "replace")
    unseen = ending is not None and ending.signal == _NO_OUTPUT and not is_own(batch.spec)
    if code == _UNSEEN_CODE and _UNSEEN_WORDS in stderr:
        unseen, reason = True, "where work_dir cannot be seen"
    return {
        "task": part.at[verdict.task],
        "attempt": part.attempt,
        "job_id": part.job_id(verdict.task),
        "state": ending.state.value if ending is not None and ending.state is not None else None,
        "exit_code": code,
        "signal": signal_,
        "node": (ending.node if ending is not None else "") or (end.node if end is not None else ""),
        "reason": reason,
        "unseen": unseen,
        "started": ending.started if ending is not None else True,
        "cancelled_by": ending.cancelled_by if ending is not None else "",
        "submitted": part.time,
        "began": (end.start if end is not None else None) or _seconds(ending.start if ending is not None else ""),
        "ended": (end.end if end is not None else None) or _seconds(ending.end if ending is not None else ""),
        "stderr": stderr,
        "where": batch.folder.path,
    }


def how(ending: Optional[Ending], end: Optional[watch.End]) -> Tuple[Optional[int], Optional[int], str]:
    """Return exit code, signal and reason of a death, by the scheduler's record and what the exit trap wrote."""
    code = ending.exit_code if ending is not None else None
    signal_ = ending.signal if ending is not None else None
    reason = ending.reason if ending is not None else ""
    if signal_ in _NO_SIGNALS:
        reason = _NO_SIGNALS[signal_] or reason
        signal_ = None
    if end is not None and not signal_:
        code = end.exit_code  # Slurm keeps seven bits of it
    if code is not None and 128 < code < 160 and not signal_:
        signal_ = code - 128  # bash's way to say that its child was killed
    return code, signal_ or None, reason


def _seconds(text: str) -> Optional[float]:
    """Return a time of the scheduler's as seconds since the epoch, None where it says none."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
