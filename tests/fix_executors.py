"""Executors of every kind: one behaviour suite runs on all of them."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import LoginExecutor, PilotsExecutor, SlurmExecutor, SlurmView
from tests.bindings import LOGIN, PILOTS, bound
from tests.far.sshd import Farm, far_options

AnyExecutor = SlurmExecutor | SlurmView | LoginExecutor | PilotsExecutor
Open = Callable[..., SlurmExecutor | LoginExecutor | PilotsExecutor]
OpenJobs = Callable[..., SlurmExecutor]

_SLURM = pytest.param("slurm", marks=pytest.mark.slurm)
HERE = pytest.mark.parametrize("scheduler", ["local", _SLURM], indirect=True)  # where driver and jobs share a machine
# The embedded scheduler on a login node far away, by each transport.
_FAR = [
    pytest.param("paramiko", marks=pytest.mark.ssh),
    pytest.param("openssh", marks=[pytest.mark.ssh, pytest.mark.thorough]),  # tests/connection has it all the time
]
SLURM_PILOTS = f"{PILOTS} on Slurm"
# Pilots are the same on the embedded scheduler all the time, and on Slurm in tests/behaviour/test_pilots.py.
_SLURM_PILOTS = pytest.param(SLURM_PILOTS, marks=[pytest.mark.slurm, pytest.mark.thorough])
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


@pytest.fixture(scope="session", params=["local", _SLURM, LOGIN, PILOTS, _SLURM_PILOTS, *_FAR])
def binding(request: pytest.FixtureRequest) -> str:
    """Whatever runs calls: jobs on a scheduler, workers on the login node, or pilots."""
    if request.param in ("slurm", SLURM_PILOTS):
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
        return {"scheduler": "slurm" if scheduler in ("slurm", SLURM_PILOTS) else "local", **options}

    def close(self) -> None:
        self._stack.close()


def _close(executor: SlurmExecutor) -> None:
    settle(executor)
    executor.shutdown()


def settle(executor: SlurmExecutor) -> None:
    """Cancel what a test left behind."""
    for future in [*executor._pending(), *executor.login._pending(), *executor._connection.poller._pilots_pending()]:
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


@pytest.fixture(scope="module")
def shared_view(shared_binding: SlurmExecutor, binding: str) -> AnyExecutor:
    return bound(shared_binding, binding)


@pytest.fixture
def executor(shared_binding: SlurmExecutor, shared_view: AnyExecutor) -> Iterator[AnyExecutor]:
    """An executor of any kind, one for all tests of a module."""
    yield shared_view
    settle(shared_binding)


@pytest.fixture
def open_jobs(opener: Opener, scheduler: str) -> OpenJobs:
    """Open executors of one's own whose calls are jobs."""
    return functools.partial(opener.root, scheduler)


@pytest.fixture
def open_executor(opener: Opener, binding: str) -> Open:
    """Open executors of one's own, of any kind."""

    def open_executor(**options: Any) -> SlurmExecutor | LoginExecutor | PilotsExecutor:
        return bound(opener.root(binding, **options), binding)

    return open_executor


@pytest.fixture
def local(opener: Opener) -> SlurmExecutor:
    """An embedded executor of one's own."""
    return opener.root("local")
