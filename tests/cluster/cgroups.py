"""The cgroup v1 tree that slurmd confines jobs in, where this machine has one."""

import os
from pathlib import Path

from . import config

CONTROLLERS = ("memory", "freezer")


def mount_point() -> Path | None:
    """The folder with the controllers that Slurm needs; None where they are not mounted or not ours to write."""
    mounts = [line.split()[1:4] for line in Path("/proc/mounts").read_text().splitlines()]
    for place, kind, options in mounts:
        folder = Path(place).parent
        if kind == "cgroup" and "memory" in options.split(",") and all(_is_writable(folder / c) for c in CONTROLLERS):
            return folder
    return None


def limits_swap(folder: Path) -> bool:
    return (folder / "memory" / "memory.memsw.limit_in_bytes").exists()


def members(node: str) -> list[int]:
    """Pids of all job processes on `node`, however they changed their environment or session."""
    found: list[int] = []
    for folder in _below(node):
        try:
            found += map(int, (folder / "cgroup.procs").read_text().split())
        except OSError:
            continue
    return found


def thaw(node: str) -> None:
    """Let the node's frozen processes go on: a slurmstepd that was killed can leave some, and they cannot die."""
    for folder in _below(node):
        try:
            (folder / "freezer.state").write_text("THAWED")
        except OSError:
            continue


def remove(node: str) -> None:
    """Remove the groups of jobs that were killed with their slurmstepd; those with processes in them stay."""
    for folder in _below(node):
        try:
            folder.rmdir()
        except OSError:
            continue


def _below(node: str) -> list[Path]:
    """The node's groups in every controller, inner ones first."""
    place = mount_point()
    if place is None or node not in config.NODES:
        return []
    tops = [folder / f"slurm_{node}" for folder in place.iterdir() if folder.is_dir()]
    return [Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


def _is_writable(folder: Path) -> bool:
    probe = folder / f"slurmfutures-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True
