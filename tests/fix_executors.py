"""Executors of every kind: one behaviour suite runs on all of them."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import LoginExecutor, SlurmExecutor, SlurmView
from tests.far.sshd import Farm, far_options

AnyExecutor = SlurmExecutor | SlurmView | LoginExecutor
Open = Callable[..., SlurmExecutor | LoginExecutor]
OpenJobs = Callable[..., SlurmExecutor]

_SLURM = pytest.param("slurm", marks=pytest.mark.slurm)
HERE = pytest.mark.parametrize("scheduler", ["local", _SLURM], indirect=True)  # where driver and jobs share a machine
# The embedded scheduler on a login node far away, by each transport.
_FAR = [
    pytest.param("paramiko", marks=pytest.mark.ssh),
    pytest.param("openssh", marks=[pytest.mark.ssh, pytest.mark.thorough]),  # tests/connection has it all the time
]
WEIRD = "a b'c;\"d $HOME %a `e` & (f)"


@pytest.fixture(scope="session")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that executors share: the agent's source is unpacked there once."""
    path = tmp_path_factory.mktemp("work") / WEIRD
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session", params=["local", _SLURM, *_FAR])
def scheduler(request: pytest.FixtureRequest) -> str:
    """What runs jobs."""
    if request.param == "slurm":
        request.getfixturevalue("cluster")
    return str(request.param)


@pytest.fixture(scope="session", params=["local", _SLURM, "login", *_FAR])
def binding(request: pytest.FixtureRequest) -> str:
    """Whatever runs calls: jobs on a scheduler, or workers on the login node."""
    if request.param == "slurm":
        request.getfixturevalue("cluster")
    return str(request.param)


class Opener:
    """Opens executors and closes them, whatever state a test leaves them in."""

    def __init__(self, work_dir: Path, farm: Callable[[], Farm]) -> None:
        self._work_dir = work_dir
        self._farm = farm
        self._stack = ExitStack()

    def root(self, scheduler: str, **options: Any) -> SlurmExecutor:
        """Open an executor on a scheduler, or on the embedded one for the sake of its login node."""
        executor = self.forgotten(scheduler, **options)
        self._stack.callback(_close, executor)
        return executor

    def forgotten(self, scheduler: str, **options: Any) -> SlurmExecutor:
        """Open an executor that nobody closes."""
        return SlurmExecutor(**self.options(scheduler, **options))

    def options(self, scheduler: str, **options: Any) -> dict[str, Any]:
        """Return what an executor of this kind is made with."""
        options = {"work_dir": str(self._work_dir), **options}
        if scheduler in ("paramiko", "openssh"):
            farm = self._farm()
            options = {"host": farm.login.address, **far_options(farm, scheduler), **options}
        return {"scheduler": "slurm" if scheduler == "slurm" else "local", **options}

    def close(self) -> None:
        self._stack.close()


def _close(executor: SlurmExecutor) -> None:
    settle(executor)
    executor.shutdown()


def settle(executor: SlurmExecutor) -> None:
    """Cancel what a test left behind."""
    for future in [*executor._pending(), *executor.login._pending()]:
        future.cancel()


@pytest.fixture
def opener(work_dir: Path, request: pytest.FixtureRequest) -> Iterator[Opener]:
    opener = Opener(work_dir, lambda: request.getfixturevalue("farm"))
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def module_opener(work_dir: Path, request: pytest.FixtureRequest) -> Iterator[Opener]:
    opener = Opener(work_dir, lambda: request.getfixturevalue("farm"))
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def shared_jobs(module_opener: Opener, scheduler: str) -> SlurmExecutor:
    return module_opener.root(scheduler)


@pytest.fixture(scope="module")
def shared_binding(module_opener: Opener, binding: str) -> SlurmExecutor:
    return module_opener.root(binding)


@pytest.fixture
def jobs(shared_jobs: SlurmExecutor) -> Iterator[SlurmExecutor]:
    """An executor whose calls are jobs, one for all tests of a module."""
    yield shared_jobs
    settle(shared_jobs)


@pytest.fixture
def executor(shared_binding: SlurmExecutor, binding: str) -> Iterator[SlurmExecutor | LoginExecutor]:
    """An executor of any kind, one for all tests of a module."""
    yield shared_binding.login if binding == "login" else shared_binding
    settle(shared_binding)


@pytest.fixture
def open_jobs(opener: Opener, scheduler: str) -> OpenJobs:
    """Open executors of one's own whose calls are jobs."""
    return functools.partial(opener.root, scheduler)


@pytest.fixture
def open_executor(opener: Opener, binding: str) -> Open:
    """Open executors of one's own, of any kind."""

    def open_executor(**options: Any) -> SlurmExecutor | LoginExecutor:
        root = opener.root(binding, **options)
        return root.login if binding == "login" else root

    return open_executor


@pytest.fixture
def local(opener: Opener) -> SlurmExecutor:
    """An embedded executor of one's own."""
    return opener.root("local")
