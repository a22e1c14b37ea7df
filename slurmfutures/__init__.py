"""`concurrent.futures` for Slurm."""

import logging

from ._config import ClusterConfig
from ._errors import (
    AgentError,
    AuthenticationError,
    CheckpointCorrupt,
    CheckpointLocked,
    ConnectionLost,
    HostKeyError,
    HostUnreachable,
    InitializerError,
    JobCancelled,
    JobError,
    JobFailed,
    JobOutOfMemory,
    JobPreempted,
    JobTimeout,
    NodeFailed,
    PayloadError,
    PilotsBroken,
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
from ._hosts import Host
from ._jobinfo import JobInfo
from ._paths import ClusterPath
from ._pilots import PilotCounts, PilotsExecutor, PilotWorker
from ._remote.states import JobState
from .scripts import Script, Step, gpu_parallel

__version__ = "0.1.0"

logging.getLogger("slurmfutures").addHandler(logging.NullHandler())  # silent by default

__all__ = [
    "AgentError",
    "AuthenticationError",
    "CheckpointCorrupt",
    "CheckpointLocked",
    "ClusterConfig",
    "ClusterPath",
    "ConnectionLost",
    "Host",
    "HostKeyError",
    "HostUnreachable",
    "InitializerError",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobInfo",
    "JobOutOfMemory",
    "JobPreempted",
    "JobState",
    "JobTimeout",
    "LoginExecutor",
    "NodeFailed",
    "PayloadError",
    "PilotCounts",
    "PilotWorker",
    "PilotsBroken",
    "PilotsExecutor",
    "PythonMismatch",
    "RemoteImportError",
    "RemoteTraceback",
    "ResultLost",
    "SchedulerNotFound",
    "Script",
    "SlurmExecutor",
    "SlurmFuture",
    "SlurmFuturesError",
    "SlurmFuturesWarning",
    "SlurmView",
    "Step",
    "SubmitError",
    "gpu_parallel",
]

for _name in __all__:  # tracebacks and help say where to import it from
    globals()[_name].__module__ = __name__
