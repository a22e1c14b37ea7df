"""The GPUs of a job, divided among its workers."""

import os
from typing import Dict, List, Mapping

# Set by Slurm's gres plugins, and read by the vendors' libraries: NVIDIA's, AMD's two, Intel's.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GPU_DEVICE_ORDINAL",
)


def share(slot: int, workers: int, environment: Mapping[str, str] = os.environ) -> Dict[str, str]:
    """Return what the worker in `slot` sees of the job's GPUs: its part, or, where they are too few, one of them."""
    found = {}
    for name in _VARIABLES:
        devices = [word for word in environment.get(name, "").split(",") if word]
        if devices:
            found[name] = ",".join(_part(devices, slot, workers))
    return found


def _part(devices: List[str], slot: int, workers: int) -> List[str]:
    if len(devices) < workers:
        return [devices[slot % len(devices)]]
    return devices[slot * len(devices) // workers : (slot + 1) * len(devices) // workers]
