"""The machines and folders that the pages speak of, made of what the tests have."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster import Cluster
from tests.far.codes import asking_daemon
from tests.far.sshd import Farm, cluster_environment
from tests.far.users import User

PASSWORD = "correct horse"
# The tests' cluster is small, others use it too, and it has no GPUs: sizes are for readers.
_SMALL = (
    (r'mem( ?)=( ?)"\d+G"', r'mem\1=\2"100M"'),
    (r"--ntasks=\d+", "--ntasks=1"),
    (r"--gpus=\d+", "--ntasks=1"),
    (r"\bgpus(_per_node)?=\d", "cpus_per_task=1"),
)
_GPUS = "0,1"  # what Slurm would say that a job has
_MAIN = "from slurmfutures._cli import main; import sys; sys.exit(main())"


class World:
    """A laptop's home, and where there is a cluster, a user `me` on it, who has a scratch there.

    Each page begins with folders of its own.
    """

    def __init__(self, folder: Path, user: User | None = None) -> None:
        self.folder = folder
        self.home = folder / "laptop"
        self.scratch = folder / "scratch0"
        self._pages = 0
        self.programs = folder / "bin"
        for made in (self.home / ".ssh", self.programs):
            made.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        config = shlex.quote(str(self.home / ".ssh" / "config"))
        ssh = shlex.quote(shutil.which("ssh") or "ssh")
        self.add_program("python", f'exec {python} "$@"')
        self.add_program("python3", f'exec {python} "$@"')
        self.add_program("slurmfutures", f'exec {python} -c {shlex.quote(_MAIN)} "$@"')
        self.add_program("ssh", f'exec {ssh} -F {config} "$@"')
        self.add_program("module", "exit 0")
        self.add_program("cp2k.psmp", "exit 0")
        self.add_program("pass", f"echo {shlex.quote(PASSWORD)}")
        self._user = user

    @property
    def names(self) -> Mapping[str, str]:
        """What the pages say, and what is meant here."""
        return {
            "/scratch/me": str(self.scratch),
            "/opt/py311/bin/python3": str(self.programs / "python3"),
            'partition="cpu"': 'partition="main"',
            'partition = "cpu"': 'partition = "main"',
            'partition="gpu"': 'partition="main"',
        }

    def add_program(self, name: str, text: str) -> None:
        """Add a program to the PATH, here and on the cluster."""
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def begin(self) -> Path:
        """Return a new folder to work in, on the laptop, where nothing is left of what was done before."""
        shutil.rmtree(self.home / ".slurmfutures", ignore_errors=True)
        self._pages += 1
        self.scratch = self.folder / f"scratch{self._pages}"
        folder = self.home / f"work{self._pages}"
        self.scratch.mkdir()
        folder.mkdir()
        return folder

    def run(self, line: str, folder: Path) -> str:
        """Run a line of shell and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=self.env(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def meant(self, text: str, names: Mapping[str, str]) -> str:
        """Return a page's words with what is meant here for them, and for `names`."""
        for name, here in {**self.names, **names}.items():
            text = text.replace(name, here)
        if self._user is not None:
            text = re.sub(r"\bme@", f"{self._user.name}@", text)
        for pattern, here in _SMALL:
            text = re.sub(pattern, here, text)
        return text

    def env(self) -> dict[str, str]:
        """Return the environment of a page's code."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return {
            **os.environ,
            "HOME": str(self.home),
            "PATH": path,
            "PYTHONUNBUFFERED": "1",
            "CUDA_VISIBLE_DEVICES": _GPUS,
        }


@contextmanager
def cluster_world(folder: Path, cluster: Cluster, farm: Farm) -> Iterator[World]:
    """A world with a login node, a gate, and a login node that asks for a password and a code."""
    with ExitStack() as stack:
        user = User(folder / "homes", "me", password=PASSWORD)
        stack.callback(user.close)
        world = World(folder / "world", user)
        login = f"export CUDA_VISIBLE_DEVICES={_GPUS} PATH={shlex.quote(str(world.programs))}:$PATH"
        user.write_profiles("true", login)
        (user.home / "env" / "bin").mkdir(parents=True)
        (user.home / "env" / "bin" / "python").symlink_to(world.programs / "python")
        shutil.copy(farm.key, world.home / ".ssh" / "cluster_key")
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="sf-"))  # their names must be short
        codes = stack.enter_context(asking_daemon(folder / "codes", user, cluster_environment(cluster.env)))
        farm.know(codes.known_host())
        hosts = {"login": farm.login, "gate": farm.gates[0], "codes": codes}
        aliases = {"login": "login cluster"}
        blocks = [
            f"Host {aliases.get(name, name)} {name}.example.org\n    HostName 127.0.0.1\n    Port {daemon.port}\n"
            for name, daemon in hosts.items()
        ]
        rest = [
            f"User {user.name}",
            f"IdentityFile {farm.key}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {farm.known_hosts}",
            "GlobalKnownHostsFile none",
            f"ControlPath {sockets}/%C",
        ]
        (world.home / ".ssh" / "config").write_text("".join([*blocks, "Host *\n", *(f"    {line}\n" for line in rest)]))
        yield world
