"""Whether the kernel has killed a process of this job for its memory. From the kernel's documentation of cgroups."""

import os
from typing import Iterator, Optional, Tuple

_UPWARDS = 3  # folders above a process's own in which version 2 may count: Slurm's user, step and job


def kills(process: str = "/proc/self") -> Optional[int]:
    """Return how many processes of a process's cgroup were killed so far, None where nobody counts them."""
    try:
        for folder, name in _counters(process):
            with open(os.path.join(folder, name)) as file:
                counts = dict(line.split() for line in file)
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    except (OSError, ValueError):
        pass
    return None


def _counters(process: str) -> Iterator[Tuple[str, str]]:
    """Yield the file that counts, as folder and name, of each version of cgroups that has the memory."""
    with open(os.path.join(process, "cgroup")) as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            yield _folder(process, "cgroup", "memory", path), "memory.oom_control"
    for number, _, path in groups:
        if number == "0":
            folder = _folder(process, "cgroup2", "", path)
            for _ in range(_UPWARDS):
                if os.path.exists(os.path.join(folder, "memory.events")):
                    break
                folder = os.path.dirname(folder)
            yield folder, "memory.events"


def _folder(process: str, kind: str, controller: str, path: str) -> str:
    """Return where a cgroup is to be seen; ValueError where it is not."""
    with open(os.path.join(process, "mountinfo")) as file:
        for line in file:
            before, _, after = line.partition(" - ")
            root, place = before.split()[3:5]
            words = after.split()
            if words[0] == kind and (not controller or controller in words[2].split(",")):
                inside = os.path.relpath(path, root)  # a container sees its own part only
                if not inside.startswith(".."):
                    return os.path.normpath(os.path.join(place, inside))
    raise ValueError(path)
