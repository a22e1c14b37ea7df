"""The agent starts whatever the login shell is, and whatever it says."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slurmfutures._bootstrap import handshake, new_mark, start_here, start_script
from slurmfutures._transports.process import ProcessStream
from tests import calls
from tests.cluster import Cluster
from tests.far.sshd import Farm, Sshd, far_options
from tests.far.users import PROFILES, User
from tests.fix_executors import Opener
from tests.waiting import DEADLINE

pytestmark = pytest.mark.slurm

MEGABYTES = 3
# Talks before the agent starts, while it does, and for a while after, on both of its outputs.
NOISE = f"""\
#!/bin/bash
head -c {MEGABYTES}000000 /dev/urandom
echo
echo "Welcome! slurmfutures:0123456789abcdef01234567: 3.99.0 1"
head -c {MEGABYTES}00000 /dev/urandom >&2
( for number in {{1..40}}; do echo "You have mail ($number)"; head -c 50000 /dev/urandom; sleep 0.05; done ) &
"""


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise"
    path.write_text(NOISE)
    path.chmod(0o755)
    return path


@pytest.fixture(params=[*PROFILES])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[User]:
    with closing(User(tmp_path, f"sf-{request.param}", request.param)) as user:
        yield user


@pytest.fixture(scope="module")
def bare(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, farm: Farm) -> Iterator[Sshd]:
    """A login node whose sessions find neither Slurm nor our Python until the login shell has said where they are."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "banner").write_text("Authorized users only!\n" * 100)
    lines = [f"Banner {folder}/banner"]
    with closing(Sshd(folder / "sshd", farm.key.with_suffix(".pub"), env={}, lines=lines)) as sshd:
        farm.know(sshd.known_host())
        yield sshd


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The name of an interpreter that is on nobody's PATH, in a folder `bin`."""
    path = tmp_path / "bin/python-of-the-site"
    path.parent.mkdir()
    path.symlink_to(sys.executable)
    return path.name


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_slurm_and_python_are_found_through_the_login_shell_s_noise(
    transport: str, bare: Sshd, farm: Farm, user: User, noise: Path, python: str, opener: Opener, cluster: Cluster
) -> None:
    folder = noise.parent / "bin"
    settings = {**cluster.env, "PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    lines = [str(noise), *(user.set_variable(name, value) for name, value in settings.items()), f"cd {noise.parent}"]
    user.write_profiles(always=str(noise), login="\n".join(lines))
    host = f"{user.name}@127.0.0.1:{bare.port}"
    options = {**far_options(farm, transport), "python": python, "work_dir": "~/.slurmfutures"}
    executor = opener.root("slurm", host=host, **options)
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9
    assert list(executor.login.map(calls.square, range(100))) == [number**2 for number in range(100)]
    assert executor.run("pwd").stdout.strip() == str(user.home)
    assert executor.run("echo $SLURMFUTURES_START").stdout.strip() == ""
    assert (user.home / ".slurmfutures").is_dir()


def test_setup_makes_what_the_login_shell_does_not_have(
    bare: Sshd, farm: Farm, tmp_path: Path, python: str, opener: Opener, cluster: Cluster
) -> None:
    with closing(User(tmp_path, "sf-module")) as user:
        settings = {**cluster.env, "PYTHONPATH": str(Path(__file__).parents[2])}
        loaded = "; ".join(f"export {name}={value}" for name, value in settings.items())
        module = f"module() {{ [[ $* == 'load slurm' ]] && {{ {loaded}; PATH={tmp_path}/bin:$PATH; }}; }}"
        user.write_profiles(always="", login=f"{module}\nexport -f module")
        options = {**far_options(farm, "paramiko"), "python": python, "setup": "module load slurm"}
        executor = opener.root("slurm", host=f"{user.name}@127.0.0.1:{bare.port}", **options)
        assert executor.submit(calls.square, 3).result(DEADLINE) == 9
        assert executor.login.submit(calls.square, 4).result(DEADLINE) == 16


# ---- how much goes to and fro


class Watched(ProcessStream):
    """Keeps who spoke, one letter for each change of direction."""

    def __init__(self, script: str) -> None:
        super().__init__(*start_here(script))
        self.turns = "w"  # the script itself
        self.written = 0

    def read(self, limit: int) -> bytes:
        data = super().read(limit)
        self.turns += "r" * (self.turns[-1] != "r")
        return data

    def write(self, data: memoryview) -> int:
        self.turns += "w" * (self.turns[-1] != "w")
        size = super().write(data)
        self.written += size
        return size


def hello(work_dir: Path) -> dict[str, object]:
    words = {"scheduler": "local", "work_dir": str(work_dir), "python": sys.executable, "setup": "", "path": []}
    return {
        **words,
        "max_workers": 1,
        "login_workers": 1,
        "session": "0123456789ab",
        "silence": None,
        "envelope": 4086,
        "looks": False,
    }


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], Watched]:
    def start() -> Watched:
        mark, work_dir = new_mark(), tmp_path / "work"
        stream = Watched(start_script(mark, str(work_dir), sys.executable, ""))
        try:
            handshake(stream, mark, hello(work_dir), "here", sys.executable)
        finally:
            stream.close(5.0)
        return stream

    return start


def test_a_start_takes_two_round_trips_and_the_source_travels_once(start: Callable[[], Watched]) -> None:
    first, second = start(), start()
    assert (first.turns, second.turns) == ("wrwr", "wrwr")
    assert first.written > 20_000
    assert second.written < 1_000
