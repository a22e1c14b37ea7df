"""The daemons of one cluster: how each is started, recognised, stopped and killed."""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import config, processes
from .errors import ClusterError
from .install import SEARCH_PATH, program
from .processes import wait_until

MARK = "SLURMFUTURES_CLUSTER_DAEMON"
"""In the environment of every daemon: a number in a pid file may by now be anybody's."""


@dataclass(frozen=True)
class Daemon:
    """One daemon that goes to the background by itself and writes its own pid file."""

    name: str
    layout: config.Layout
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    socket: Path | None = None  # answers here when it is ready
    port: int | None = None  # or here, on the loopback interface

    def pid(self) -> int | None:
        """None unless it runs; a stale pid file counts for nothing."""
        try:
            pid = int(self.layout.pid_file(self.name).read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.state(pid) and self._is_marked(pid) else None

    @property
    def _mark(self) -> str:
        return f"{self.layout.directory} {self.name}"

    def _is_marked(self, pid: int) -> bool:
        return processes.environment(pid).get(MARK) == self._mark

    def is_paused(self) -> bool:
        pid = self.pid()
        return pid is not None and processes.state(pid) == "T"

    def start(self) -> None:
        """Start it, or resume it where it is paused, and return when it accepts connections."""
        if self.pid() is not None:
            self.signal(signal.SIGCONT)
            return
        self.kill()
        self.layout.pid_file(self.name).unlink(missing_ok=True)
        common = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", MARK: self._mark}
        with self.layout.log(self.name).open("ab") as log:
            subprocess.run(
                (program(self.command[0]), *self.command[1:]),
                env={**common, **dict(self.environment)},
                cwd="/",
                umask=0o022,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,  # what counts is that it answers
            )
        wait_until(self.is_ready, 60, f"{self.name} did not start (see {self.layout.log(self.name)})")

    def is_ready(self) -> bool:
        if self.pid() is None:
            return False
        return (self.socket is None or _answers(socket.AF_UNIX, str(self.socket))) and (
            self.port is None or _answers(socket.AF_INET, ("127.0.0.1", self.port))
        )

    def stop(self, seconds: float = 10) -> None:
        """End it in good order, by force after `seconds`."""
        pid = self.pid()
        if pid is not None:
            processes.send(pid, signal.SIGCONT)
            processes.send(pid, signal.SIGTERM)
            with suppress(ClusterError):
                wait_until(lambda: not processes.state(pid), seconds, f"{self.name} did not end")
        self.kill()

    def kill(self) -> None:
        """Kill it and its helper processes."""
        processes.kill_all(lambda: list(filter(self._is_marked, processes.pids())))

    def signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is None:
            raise ClusterError(f"{self.name} is not running")
        processes.send(pid, number)


def _answers(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        return connection.connect_ex(address) == 0


def daemons(layout: config.Layout) -> tuple[Daemon, ...]:
    """All of them in the order in which they must be started. An sshd would be one more."""
    return (munged(layout), mariadbd(layout), slurmdbd(layout), slurmctld(layout), *slurmds(layout))


def munged(layout: config.Layout) -> Daemon:
    command = (
        "munged",
        "--force",  # the state directory may lie below one that others can write
        f"--key-file={layout.munge_key}",
        f"--socket={layout.munge_socket}",
        f"--pid-file={layout.pid_file('munged')}",
        f"--log-file={layout.log('munged')}",
        f"--seed-file={layout.directory}/run/munge.seed",
    )
    return Daemon("munged", layout, command, socket=layout.munge_socket)


def mariadbd(layout: config.Layout) -> Daemon:
    command = (
        "setsid",  # it has no background mode of its own
        "--fork",
        "mariadbd",
        *mariadb_options(layout),
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.pid_file('mariadbd')}",
        "--skip-networking",
        "--innodb-lock-wait-timeout=900",  # slurmdbd asks for it
        "--innodb-fast-shutdown=2",
    )
    return Daemon("mariadbd", layout, command, socket=layout.database_socket)


def mariadb_options(layout: config.Layout) -> tuple[str, ...]:
    """Options for every use of the data directory."""
    return (
        "--no-defaults",
        "--user=root",
        f"--datadir={layout.database}",
        "--innodb-log-file-size=16M",
        "--innodb-buffer-pool-size=64M",
        "--performance-schema=off",
        "--innodb-flush-method=nosync",  # nothing here has to outlive the machine
        "--innodb-flush-log-at-trx-commit=0",
        "--skip-innodb-doublewrite",
        "--sync-frm=0",
    )


def slurmdbd(layout: config.Layout) -> Daemon:
    environment = (("SLURM_CONF", str(layout.slurm_conf)), ("MYSQL_UNIX_PORT", str(layout.database_socket)))
    return Daemon("slurmdbd", layout, ("slurmdbd",), environment, port=config.DATABASE_PORT)


def slurmctld(layout: config.Layout) -> Daemon:
    environment = (("SLURM_CONF", str(layout.slurm_conf)),)
    return Daemon("slurmctld", layout, ("slurmctld",), environment, port=config.CONTROLLER_PORT)


def slurmds(layout: config.Layout) -> tuple[Daemon, ...]:
    environment = (("SLURM_CONF", str(layout.slurm_conf)),)
    return tuple(
        Daemon(f"slurmd-{node}", layout, ("slurmd", "-N", node), environment, port=config.FIRST_NODE_PORT + index)
        for index, node in enumerate(config.NODES)
    )


def create_database(layout: config.Layout) -> None:
    """An empty data directory whose administrator is root over the local socket.

    mariadb-install-db does the same with help tables added, but needs programs of further packages.
    """
    tables = next((path for path in map(Path, ("/usr/share/mysql", "/usr/share/mariadb")) if path.is_dir()), None)
    if tables is None:
        raise ClusterError("MariaDB's SQL files are neither in /usr/share/mysql nor in /usr/share/mariadb")
    statements = ["create database mysql;\n", "use mysql;\n", "set @auth_root_socket='root';\n"]
    statements += [(tables / f"mysql_system_tables{part}.sql").read_text() for part in ("", "_data")]
    done = subprocess.run(
        (program("mariadbd"), *mariadb_options(layout), "--bootstrap", "--enforce-storage-engine="),
        input="".join(statements),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    layout.log("mariadbd").write_text(done.stderr)
    if done.returncode != 0:
        raise ClusterError(f"MariaDB could not create its tables (see {layout.log('mariadbd')})")


def create_munge_key(layout: config.Layout) -> None:
    layout.munge_key.touch(mode=0o600)
    layout.munge_key.write_bytes(os.urandom(128))
