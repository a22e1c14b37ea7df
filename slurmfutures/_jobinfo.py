"""`JobInfo`: how a job ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ._remote.states import JobState


@dataclass(frozen=True)
class JobInfo:
    """How the job of a batch script ended.

    Times are in UTC, None where they are not known. `signal` is the number of the one that ended it, if any; `nodes` is
    the list of its nodes in Slurm's words, "n[1-4]"; `reason` is Slurm's, or the script's last word on it.
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

    @property
    def ok(self) -> bool:
        """Whether the script has reached its end with exit code 0."""
        return self.state == JobState.COMPLETED and self.exit_code == 0


def job_info(record: Mapping[str, Any]) -> JobInfo:
    """Return what the agent says of the end of a script's job."""
    return JobInfo(
        job_id=record["job_id"],
        state=JobState(record.get("state") or JobState.COMPLETED),
        exit_code=record.get("exit_code", 0),
        signal=record.get("signal"),
        reason=record.get("reason", ""),
        submit=_time(record["submitted"]),
        start=_time(record["began"]),
        end=_time(record["ended"]),
        nodes=record["node"],
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
