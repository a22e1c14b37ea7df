"""Whether the kernel has killed a process of this job for its memory. From the kernel's documentation of cgroups."""

import os
from typing import Optional


def kills() -> Optional[int]:
    """Return how many processes of this process's cgroup were killed so far, None where nobody counts them."""
    try:
        with open("/proc/self/cgroup") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
        for _, controllers, path in groups:
            if "memory" in controllers.split(","):
                return _count(_mounted("cgroup", "memory"), path, "memory.oom_control")
        for number, _, path in groups:
            if number == "0":
                return _count(_mounted("cgroup2", ""), path, "memory.events")
    except (OSError, ValueError):
        pass
    return None


def _mounted(kind: str, controller: str) -> str:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            words = after.split()
            if words[0] == kind and (not controller or controller in words[2].split(",")):
                return before.split()[4]
    raise ValueError(kind)


def _count(mounted: str, path: str, name: str) -> Optional[int]:
    with open(os.path.join(mounted, path.lstrip("/"), name)) as file:
        counts = dict(line.split() for line in file)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None
