"""A real sshd on a port of its own."""

import contextlib
import getpass
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from tests.cluster.install import program
from tests.processes import lives
from tests.waiting import until

PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd does not start without it


class Sshd:
    """A daemon that lets in whoever has a key of `authorized`; its sessions have `env`, or what finds the tests."""

    def __init__(
        self,
        folder: Path,
        authorized: Path,
        *,
        env: Mapping[str, str] | None = None,
        lines: Sequence[str] = (),
        binary: str | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.user = getpass.getuser()
        self.port = _free_port()
        self._binary = binary or program("sshd")
        self._pid_file = folder / "pid"
        key = folder / "host_key"
        make_key(key)
        env = cluster_environment({}) if env is None else env
        variables = " ".join(f'"{name}={value}"' for name, value in env.items())
        self._config = folder / "sshd_config"
        self._config.write_text(
            "\n".join(
                [
                    *lines,
                    "ListenAddress 127.0.0.1",
                    f"Port {self.port}",
                    f"HostKey {key}",
                    f"PidFile {self._pid_file}",
                    f"AuthorizedKeysFile {authorized}",
                    "StrictModes no",
                    "PermitRootLogin yes",
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PrintMotd no",
                    f"SetEnv {variables}" if variables else "",
                    "",
                ]
            )
        )
        self.start()

    @property
    def address(self) -> str:
        return f"{self.user}@127.0.0.1:{self.port}"

    def known_host(self, port: int | None = None) -> str:
        """Return the line of known_hosts for this daemon, or for a relay before it."""
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        return f"[127.0.0.1]:{port or self.port} {kind} {key}\n"

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
        command = [self._binary, "-f", str(self._config), "-E", str(self.folder / "log")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # Written once it listens. A connection to see whether it does would count for MaxStartups.
        until(lambda: self._pid_file.exists() and self._pid_file.read_text().endswith("\n"))

    def stop(self) -> None:
        """End the daemon; sessions go on."""
        daemon = int(self._pid_file.read_text())
        os.kill(daemon, signal.SIGTERM)
        until(lambda: not lives(daemon))

    def sessions(self) -> list[int]:
        """Return the processes of this daemon that serve a connection each."""
        daemon = int(self._pid_file.read_text())
        return [int(child) for child in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()]

    def kill_sessions(self) -> None:
        for session in self.sessions():
            os.kill(session, signal.SIGKILL)

    def close(self) -> None:
        if self._pid_file.exists():
            self.kill_sessions()
            self.stop()


def make_key(path: Path, passphrase: str = "") -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "slurmfutures", "-f", str(path)]
    subprocess.run(command, check=True)


def _free_port() -> int:
    """Return a port that nobody is on, and that no connection is given by itself meanwhile: those are above 32767."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Farm:
    """A login node and two jump hosts, the keys to them, and what a user would have in ~/.ssh."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.key = folder / "id"
        make_key(self.key)
        authorized = folder / "id.pub"
        self.login = Sshd(folder / "login", authorized, env=env)
        self.gates = [Sshd(folder / f"gate{number}", authorized) for number in (1, 2)]
        self.known_hosts = folder / "known_hosts"
        self.know(*(daemon.known_host() for daemon in (self.login, *self.gates)))
        self.config = self.write_config(folder / "config", keys=[self.key])

    def write_config(self, path: Path, *first: str, keys: Sequence[Path] = ()) -> Path:
        """Write an ssh configuration that knows these hosts; what the lines of `first` say holds everywhere."""
        hosts = {"sf-login": self.login, "sf-gate1": self.gates[0], "sf-gate2": self.gates[1]}
        blocks = [f"Host {name}\n    HostName 127.0.0.1\n    Port {daemon.port}\n" for name, daemon in hosts.items()]
        behind = (
            f"Host sf-behind\n    HostName 127.0.0.1\n    Port {self.login.port}\n    ProxyJump sf-gate1,sf-gate2\n"
        )
        proxy = f"ssh -F {path} -W %h:%p sf-gate1"
        proxied = f"Host sf-proxy\n    HostName 127.0.0.1\n    Port {self.login.port}\n    ProxyCommand {proxy}\n"
        everywhere = [
            f"User {self.login.user}",
            *(f"IdentityFile {key}" for key in keys or [Path("none")]),
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile none",
        ]
        rest = "".join(f"    {line}\n" for line in everywhere)
        path.write_text("".join([*(f"{line}\n" for line in first), *blocks, behind, proxied, "Host *\n", rest]))
        return path

    def know(self, *lines: str) -> None:
        """Add to known_hosts."""
        with self.known_hosts.open("a") as file:
            file.writelines(lines)

    def close(self) -> None:
        for daemon in (self.login, *self.gates):
            daemon.close()


def far_options(farm: Farm, transport: str) -> dict[str, Any]:
    """Return what an executor needs to get to the login node of a farm, beside the host."""
    return {"transport": transport, "ssh_config": str(farm.config), "python": quote(sys.executable)}


def cluster_environment(env: Mapping[str, str]) -> Mapping[str, str]:
    """Return what a session on the login node has to have for the tests' Slurm, and for their modules."""
    return {**env, "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
