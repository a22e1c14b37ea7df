"""The programs a cluster is made of, and the packages that bring them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ClusterError

PACKAGES = {
    "munged": "munge",
    "mariadbd": "mariadb-server-core",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "sacct": "slurm-client",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "openssl": "openssl",
    "sshfs": "sshfs",
    "zsh": "zsh",
    "fish": "fish",
    "csh": "csh",
    "tcsh": "tcsh",
}
"""Program to Debian package: Slurm's daemons and commands, and what a login node has."""

POLICY = Path("/usr/sbin/policy-rc.d")
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"))


def program(name: str) -> str:
    """Absolute path of an installed program; raises ClusterError where there is none."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise ClusterError(f"{name} is not installed; {_advice([PACKAGES.get(name, name)])}")
    return found


def missing_packages() -> list[str]:
    """Packages to install before a cluster can start."""
    return sorted({package for name, package in PACKAGES.items() if shutil.which(name, path=SEARCH_PATH) is None})


def require_root() -> None:
    """Raise ClusterError, with what to run, for users who can neither install nor start the daemons."""
    if os.geteuid() != 0:
        packages = missing_packages()
        what = f"{_advice(packages)}; then, as root too," if packages else "run as root:"
        raise ClusterError(f"a cluster confines jobs and serves all users; {what} python tests/cluster up")


def install(packages: list[str]) -> None:
    """Install `packages` without starting their services; raises ClusterError with what to run where that fails."""
    apt_get = shutil.which("apt-get", path=SEARCH_PATH)
    if apt_get is None:
        raise ClusterError(f"not a Debian: install what Debian has as {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                [apt_get, "-q", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        if done.returncode != 0:  # of the installation: a failed update may leave lists that are good enough
            last_lines = "\n".join(done.stdout.splitlines()[-10:])
            raise ClusterError(f"could not {_advice(packages).removeprefix('run as root: ')}\n{last_lines}")


def _advice(packages: list[str]) -> str:
    return f"run as root: apt-get install -y --no-install-recommends {' '.join(packages)}"


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep package scripts from starting services, in the way Debian provides for it."""
    try:
        with POLICY.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()
