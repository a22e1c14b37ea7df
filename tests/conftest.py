"""What all tests share: a place to work in, a real Slurm where a test asks for one, and nothing left behind."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import cluster as slurm_cluster
from tests.cluster import Cluster

pytest_plugins = ["tests.fix_executors", "tests.fix_far", "tests.fix_gate"]

START = "python tests/cluster up"
# A busy machine is no slow test, and the folder that the tests run in may be another one next time.
settings.register_profile("tests", deadline=None, database=None)
settings.load_profile("tests")
SECONDS_TO_END = 15  # for what was told to end at a test's end; a job cancelled while it runs has KillWait


def pytest_configure() -> None:
    """Have signals work, also in the background and under nohup; leave the user's own cluster alone."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # a bash that is started with that can have no trap for it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name in ("SLURMFUTURES_HOST", "SLURMFUTURES_WORK_DIR"):  # what a user has for himself
        os.environ.pop(name, None)


def must_have_slurm() -> bool:
    """Whether a missing Slurm is a failure rather than a reason to skip."""
    return bool(os.environ.get("SLURMFUTURES_TEST_SLURM") or os.environ.get("CI"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster whose Slurm the commands of this process, and of its children, talk to.

    No job of the tests may outlive them.
    """
    found = slurm_cluster.up() if must_have_slurm() else slurm_cluster.find()
    if found is None:
        pytest.skip(f"no Slurm is running here; this starts one: {START}")
    before = {name: os.environ.get(name) for name in found.env}
    os.environ.update(found.env)
    yield found
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    folder = f"{tmp_path_factory.getbasetemp()}/"
    left = _settled(lambda: [job for job in found.run("squeue", "-h", "-o", "%i %T %Z").splitlines() if folder in job])
    assert not left, f"jobs left behind: {left}"


@pytest.fixture
def weird_tmp_path(tmp_path: Path) -> Path:
    """A folder with what shells stumble over in its name."""
    path = tmp_path / "a b'c;\"d $HOME %a (e)"
    path.mkdir()
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system: run the tests as root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No thread, no child process and no process that works in the tests' folders outlives the tests."""
    threads, children = set(threading.enumerate()), set(_children())
    folder = f"{tmp_path_factory.getbasetemp()}/"
    yield
    left = _settled(
        lambda: [thread.name for thread in threading.enumerate() if thread not in threads and _ours(thread)]
    )
    assert not left, f"threads left behind: {left}"
    processes = _settled(lambda: sorted({*_children()} - children | {*_working_in(folder)}))
    assert not processes, f"processes left behind: {[(process, _command_line(process)) for process in processes]}"


def _ours(thread: threading.Thread) -> bool:
    """Whether a thread comes from tests or package; pytest-timeout has a timer for this very teardown."""
    if thread.name.startswith("pytest_timeout"):
        return False
    return not thread.daemon or thread.name.startswith("slurmfutures")


def _settled(left: Callable[[], list[str]]) -> list[str]:
    """Return what is left as soon as nothing is, or after a while."""
    end = time.monotonic() + SECONDS_TO_END
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _children() -> list[str]:
    return [child for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()]


def _working_in(folder: str) -> list[str]:
    """Processes that have a folder in their command line, this one apart."""
    processes = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [process for process in processes if process != str(os.getpid()) and folder in _command_line(process)]


def _command_line(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
