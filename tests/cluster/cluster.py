"""One Slurm cluster on this machine: its state, its start and stop, and faults."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        """Standard output of a Slurm command; raises ClusterError with its standard error."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
        try:
            done = subprocess.run(
                (program(command[0]), *command[1:]),
                env={**inherited, **self.env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{' '.join(command)}: no answer within {timeout:g} s") from error
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # State

    def is_running(self) -> bool:
        """Whether every daemon runs, at the cost of a few files in /proc."""
        return self.layout.complete.exists() and all(daemon.pid() is not None for daemon in self.daemons.values())

    def is_healthy(self) -> bool:
        """Whether every daemon runs and every node takes jobs."""
        if not self.is_running() or any(daemon.is_paused() for daemon in self.daemons.values()):
            return False
        return self._all_nodes(USABLE)

    def is_configured(self) -> bool:
        """Whether a start was completed, with the files that a start would write now."""
        if not self.layout.complete.exists():
            return False
        return all(path.exists() and path.read_text() == text for path, text in self._files().items())

    def node_states(self) -> dict[str, str]:
        """State of each node as sinfo shows it ("idle*": does not answer); empty while the controller does not."""
        try:
            rows = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        except ClusterError:
            return {}
        return {node: state for node, state in map(str.split, rows)}

    def queue(self) -> list[str]:
        """Ids of all jobs that are not over, one for an array whose tasks are all pending."""
        return sorted(set(self.run("squeue", "--noheader", "--format=%A").split()))

    def _all_nodes(self, states: set[str]) -> bool:
        found = self.node_states()
        return all(found.get(node) in states for node in self.nodes)

    # Start and stop

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from starting or stopping this cluster."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def start(self, say: Callable[[str], None] = quiet) -> None:
        """Start what is not running and return when nodes take jobs and accounting works.

        Where no Slurm daemon runs, or the configuration is another, the cluster begins anew: no jobs, no records.
        """
        if packages := missing_packages():
            say(f"installing {' '.join(packages)}")
            install(packages)
        if os.geteuid() != 0:
            raise ClusterError("only root can start a cluster: it has to confine jobs and serve every user")
        slurm = [daemon for name, daemon in self.daemons.items() if name.startswith("slurm")]
        if not self.is_configured() or all(daemon.pid() is None for daemon in slurm):
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
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        for folder in self.layout.folders:
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
        }
        if place is not None:
            texts["cgroup.conf"] = config.cgroup_conf(place, cgroups.limits_swap(place))
        return {self.layout.slurm_conf.with_name(name): text for name, text in texts.items()}

    # Faults

    def stop_controller(self) -> None:
        """Stop slurmctld in good order; jobs go on."""
        self.daemons["slurmctld"].stop()

    def start_controller(self) -> None:
        """Start or resume slurmctld; returns when it answers."""
        self.daemons["slurmctld"].start()
        wait_until(lambda: bool(self.node_states()), 30, "slurmctld does not answer")

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
        self.daemons[f"slurmd-{name}"].kill()
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
                    self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
            return self._all_nodes(USABLE)

        wait_until(usable, 60, f"not all nodes take jobs (see {self.directory}/log)")

    def drain_queue(self) -> None:
        """Cancel the jobs of all users; returns when none is left, not even completing."""

        def is_empty() -> bool:
            jobs = self.queue()
            for start in range(0, len(jobs), 500):
                self.run("scancel", "--quiet", *jobs[start : start + 500])
            return not jobs

        wait_until(is_empty, 120, "the queue does not get empty")

    def reset(self) -> None:
        """All daemons running, the queue empty, all nodes idle."""
        with self.lock():
            self.start()
        self.drain_queue()
        wait_until(lambda: self._all_nodes({"idle"}), 60, "not all nodes are idle")


def job_processes(node: str) -> list[int]:
    """Pids of what jobs run on a node: by cgroup, and by environment where there are no cgroups."""

    def belongs(pid: int) -> bool:
        variables = processes.environment(pid)
        return variables.get("SLURMD_NODENAME") == node and variables.get("SLURM_CLUSTER_NAME") == config.CLUSTER_NAME

    return [*cgroups.members(node), *filter(belongs, processes.pids())]
