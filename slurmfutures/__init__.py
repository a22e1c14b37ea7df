"""`concurrent.futures` for Slurm."""

from ._errors import (
    AgentError,
    ConnectionLost,
    InitializerError,
    JobCancelled,
    JobError,
    JobFailed,
    JobOutOfMemory,
    JobPreempted,
    JobTimeout,
    NodeFailed,
    PayloadError,
    PythonMismatch,
    RemoteImportError,
    RemoteTraceback,
    ResultLost,
    SchedulerNotFound,
    SlurmFuturesError,
    SlurmFuturesWarning,
    SubmitError,
)
from ._executor import LoginExecutor, SlurmExecutor, SlurmView
from ._future import SlurmFuture
from ._remote.states import JobState

__version__ = "0.1.0"

__all__ = [
    "AgentError",
    "ConnectionLost",
    "InitializerError",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobOutOfMemory",
    "JobPreempted",
    "JobState",
    "JobTimeout",
    "LoginExecutor",
    "NodeFailed",
    "PayloadError",
    "PythonMismatch",
    "RemoteImportError",
    "RemoteTraceback",
    "ResultLost",
    "SchedulerNotFound",
    "SlurmExecutor",
    "SlurmFuture",
    "SlurmFuturesError",
    "SlurmFuturesWarning",
    "SlurmView",
    "SubmitError",
]
