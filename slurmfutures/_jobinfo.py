"""`JobInfo`: how a job ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ._remote.states import JobState


@dataclass(frozen=True)
class JobInfo:
    """How the job of a batch script ended.

    Times are in UTC, None where they are not known. `signal` is the number of the one that ended it, if any; `nodes` is
    the list of its nodes in Slurm's words, "n[1-4]"; `reason` is Slurm's, or the script's last word on it.

    Of a job array it tells of the whole: from the first submission and start to the last end, the largest exit code,
    the state, signal and reason of the first task that failed. `tasks` has how each task ended, in the order of the
    array's indices; their ids are "123_7".
    """

    job_id: str
    state: JobState
    exit_code: int | None
    signal: int | None = None
    reason: str = ""
    submit: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    nodes: str = ""
    tasks: "tuple[JobInfo, ...]" = ()

    @property
    def ok(self) -> bool:
        """Whether the script has reached its end with exit code 0, of an array in all of its tasks."""
        return self.state == JobState.COMPLETED and self.exit_code == 0


def job_info(record: Mapping[str, Any]) -> JobInfo:
    """Return what the agent says of the end of a script's job. Raises ValueError where that makes no sense."""
    try:
        return JobInfo(
            job_id=_text(record["job_id"]),
            state=JobState(record.get("state") or JobState.COMPLETED),
            exit_code=_number(record.get("exit_code", 0)),
            signal=_number(record.get("signal")),
            reason=_text(record.get("reason", "")),
            submit=_time(record["submitted"]),
            start=_time(record["began"]),
            end=_time(record["ended"]),
            nodes=_text(record["node"]),
        )
    except (LookupError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise ValueError(f"the record of a job's end is damaged: {error!r}") from error


def info_of_array(tasks: Sequence[JobInfo]) -> JobInfo:
    """Return how an array ended whose tasks ended so."""
    told = next((task for task in tasks if not task.ok), tasks[0])
    return JobInfo(
        job_id=tasks[0].job_id.partition("_")[0],
        state=told.state,
        exit_code=max((task.exit_code for task in tasks if task.exit_code is not None), default=None),
        signal=told.signal,
        reason=told.reason,
        submit=min((task.submit for task in tasks if task.submit is not None), default=None),
        start=min((task.start for task in tasks if task.start is not None), default=None),
        end=max((task.end for task in tasks if task.end is not None), default=None),
        nodes=",".join(dict.fromkeys(task.nodes for task in tasks if task.nodes)),
        tasks=tuple(tasks),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
