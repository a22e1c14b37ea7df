"""One Slurm cluster on this machine: its state, its start and stop, and faults."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, config, processes
from .daemons import Daemon, create_database, create_munge_key, daemons
from .errors import ClusterError
from .install import install, missing_packages, program
from .processes import wait_until

USABLE = {"idle", "mixed", "allocated", "completing"}
CLIENT_VARIABLES = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SALLOC_", "SRUN_")
"""Variables by which a job or a user's settings would change what a Slurm command does."""


def quiet(step: str) -> None:
    """The default for `say`: report nothing."""


@dataclass(frozen=True)
class Cluster:
    """The cluster in a state directory, running or not.

    Methods raise ClusterError where a wanted state is not reached in time. Faults and reset() disturb everybody who
    uses the cluster: there is no protection against that.
    """

    directory: Path
    nodes: tuple[str, ...] = config.NODES

    @property
    def layout(self) -> config.Layout:
        return config.Layout(self.directory)

    @property
    def env(self) -> dict[str, str]:
        """Variables to add to the environment of Slurm commands."""
        return {"SLURM_CONF": str(self.layout.slurm_conf)}

    @property
    def daemons(self) -> dict[str, Daemon]:
        """By name, in the order in which they start."""
        return {daemon.name: daemon for daemon in daemons(self.layout)}

    def run(self, *command: str, timeout: float = 60) -> str:
        """Standard output of a Slurm command; raises ClusterError with its standard error.

        What slurmctld asks to be tried again, as it does while a young job gets its place in the accounting, is.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                return self._run(command, timeout)
            except ClusterError as error:
                if "try again in a bit" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def _run(self, command: Sequence[str], timeout: float) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
        try:
            done = subprocess.run(
                (program(command[0]), *command[1:]),
                env={**inherited, **self.env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{' '.join(command)}: no answer within {timeout:g} s") from error
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # State

    def is_started(self) -> bool:
        """Whether it was started and a Slurm daemon is left of it, with or without faults."""
        slurm = (daemon for name, daemon in self.daemons.items() if name.startswith("slurm"))
        return self.layout.complete.exists() and any(daemon.pid() is not None for daemon in slurm)

    def is_healthy(self) -> bool:
        """Whether every daemon runs and every node takes jobs."""
        if any(daemon.pid() is None or daemon.is_paused() for daemon in self.daemons.values()):
            return False
        return self._all_nodes(USABLE)

    def is_configured(self) -> bool:
        """Whether its files are those that a start would write now."""
        return all(path.exists() and path.read_text() == text for path, text in self._files().items())

    def node_states(self) -> dict[str, str]:
        """State of each node as sinfo shows it ("idle*": does not answer); empty while the controller does not."""
        try:
            rows = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        except ClusterError:
            return {}
        return dict(row.split() for row in rows)

    def _all_nodes(self, states: set[str]) -> bool:
        found = self.node_states()
        return all(found.get(node) in states for node in self.nodes)

    # Start and stop

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from starting or stopping this cluster."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = self.directory / "lock"
        if any(self.directory.iterdir()) and not lock.exists():
            raise ClusterError(f"{self.directory} holds files, but no cluster: name an empty or a new folder")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def start(self, say: Callable[[str], None] = quiet) -> None:
        """Start what is not running and return when nodes take jobs and accounting works.

        Where no Slurm daemon runs, or the configuration is another, the cluster begins anew: no jobs, no records.
        """
        if packages := missing_packages():
            say(f"installing {' '.join(packages)}")
            install(packages)
        if not (self.is_started() and self.is_configured()):
            say(f"new cluster in {self.directory}")
            self.stop()
            self._create()
        for name, daemon in self.daemons.items():
            if daemon.pid() is None:
                say(f"starting {name}")
            daemon.start()
            if name == "slurmdbd" and not self.layout.complete.exists():
                for words in config.ACCOUNTING:
                    self.run("sacctmgr", "--immediate", *words.split())
        self.restore_nodes()
        self.run("sacct", "--allocations", "--noheader")
        self.layout.complete.touch()

    def stop(self) -> None:
        """Stop all daemons and kill all jobs; logs and configuration stay until the next start."""
        for name, daemon in reversed(self.daemons.items()):
            if name.startswith("slurmd-"):
                self.kill_node(name.removeprefix("slurmd-"))
            daemon.stop()

    def _create(self) -> None:
        self.layout.complete.unlink(missing_ok=True)
        for folder in self.layout.folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o755)
        for path, text in self._files().items():
            path.touch(mode=0o600 if path.name == "slurmdbd.conf" else 0o644)
            path.write_text(text)
        create_munge_key(self.layout)
        create_database(self.layout)

    def _files(self) -> dict[Path, str]:
        host = socket.gethostname().partition(".")[0]
        place = cgroups.mount_point()
        texts = {
            "slurm.conf": config.slurm_conf(self.layout, host, cgroups=place is not None),
            "slurmdbd.conf": config.slurmdbd_conf(self.layout, host),
            "cgroup.conf": config.cgroup_conf(place, cgroups.limits_swap(place)) if place else config.NO_CGROUPS_CONF,
        }
        return {self.layout.slurm_conf.with_name(name): text for name, text in texts.items()}

    # Faults

    def stop_controller(self) -> None:
        """Stop slurmctld in good order; jobs go on."""
        self.daemons["slurmctld"].stop()

    def start_controller(self) -> None:
        """Start or resume slurmctld; returns when it answers and has found the nodes that run."""
        self.daemons["slurmctld"].start()
        running = [name for name in self.nodes if self.daemons[f"slurmd-{name}"].pid() is not None]

        def knows_nodes() -> bool:
            states = self.node_states()
            return all(name in states and not states[name].endswith("*") for name in running)

        wait_until(knows_nodes, 60, "slurmctld does not answer or does not find its nodes")

    def pause_controller(self) -> None:
        """Let slurmctld accept connections and answer none."""
        self.daemons["slurmctld"].signal(signal.SIGSTOP)

    def resume_controller(self) -> None:
        self.start_controller()

    def stop_database(self) -> None:
        """Stop slurmdbd: sacct and sacctmgr fail, the controller keeps its records for later."""
        self.daemons["slurmdbd"].stop()

    def start_database(self) -> None:
        self.daemons["slurmdbd"].start()
        self.run("sacctmgr", "--noheader", "list", "cluster")

    def kill_node(self, name: str) -> None:
        """Kill a node's slurmd and its jobs at once, as a power cut would; the controller finds out by itself."""
        daemon = self.daemons[f"slurmd-{name}"]
        daemon.kill()
        # First slurmstepd, lest it reports the end of its job.
        processes.kill_all(lambda: step_daemons(self.layout.log(daemon.name)))
        cgroups.thaw(name)
        processes.kill_all(lambda: job_processes(name))
        cgroups.remove(name)

    def start_node(self, name: str) -> None:
        """Start a node's slurmd; returns when the node takes jobs."""
        self.daemons[f"slurmd-{name}"].start()
        wait_until(lambda: self.node_states().get(name) in USABLE, 30, f"node {name} does not take jobs")

    # Back to a clean state

    def restore_nodes(self) -> None:
        """Put nodes that are down or drained back to work; returns when every node takes jobs."""

        def usable() -> bool:
            for name, state in self.node_states().items():
                if state.startswith(("down", "drain", "fail")):
                    with suppress(ClusterError):  # it may have come back by itself
                        self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
            return self._all_nodes(USABLE)

        wait_until(usable, 60, f"not all nodes take jobs (see {self.directory}/log)")

    def drain_queue(self) -> None:
        """Cancel the jobs of all users; returns when none is left, not even completing."""

        def is_empty() -> bool:
            rows = [row.split() for row in self.run("squeue", "--noheader", "--format=%A %t").splitlines()]
            to_cancel = [job for job, state in rows if state != "CG"]
            for start in range(0, len(to_cancel), 500):
                self.run("scancel", "--quiet", *to_cancel[start : start + 500])
            return not rows

        wait_until(is_empty, 120, "the queue does not get empty")

    def reset(self) -> None:
        """All daemons running, the queue empty, all nodes idle."""
        with self.lock():
            self.start()
        self.drain_queue()
        wait_until(lambda: self._all_nodes({"idle"}), 60, "not all nodes are idle")


def step_daemons(log: Path) -> list[int]:
    """Pids of the slurmstepd processes of one slurmd: they overwrite their environment, but write to its log."""
    found = [pid for pid in processes.pids() if processes.name(pid).startswith("slurmstepd")]
    return [pid for pid in found if processes.has_open(pid, log.resolve())]


def job_processes(node: str) -> list[int]:
    """Pids of what jobs run on a node: by cgroup, and by environment where there are no cgroups."""

    def belongs(pid: int) -> bool:
        variables = processes.environment(pid)
        return variables.get("SLURMD_NODENAME") == node and variables.get("SLURM_CLUSTER_NAME") == config.CLUSTER_NAME

    return [*cgroups.members(node), *filter(belongs, processes.pids())]
