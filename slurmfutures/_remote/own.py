"""Batches that are a batch script of the user's own: where it runs and writes, and how its end is told."""

import json
import os
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import arrays, payload, script, spool, watch
from .batch import Batch, Part

# Of array indices in one submission, since a word of a command line may have 128 kB.
_MOST_WORDS = 100000  # bytes, where they are as the script has them
_MOST_NAMED = 10000  # where they are listed


def is_own(spec: Mapping[str, Any]) -> bool:
    """Whether a batch is a user's own script, and not calls."""
    return spec.get("script") is not None


def placed(spec: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a batch's spec with the absolute path of the folder in which its script begins."""
    cwd = os.path.expanduser(spec["script"]["cwd"] or "")
    return dict(spec, chdir=os.path.normpath(os.path.join(spec["chdir"], cwd)))


def patterns(spec: Mapping[str, Any]) -> Optional[Tuple[str, str]]:
    """Return where output goes by a script's own words, as sbatch's file name patterns; "" is the default.

    Slurm knows the job by another name than the script does, and takes a "%" in the folder's name for a pattern's. None
    for a batch of calls. Raises ValueError where Slurm cannot name the files.
    """
    if not is_own(spec):
        return None
    output, error = (_pattern(spec, spec["script"][stream]) for stream in ("output", "error"))
    if not output and _is_escaped(spec):
        return "", error  # by Slurm's own default the folder's name is no part of the pattern
    return output or _pattern(spec, "slurm-%A_%a.out" if spec["script"].get("array") else "slurm-%j.out"), error


def _pattern(spec: Mapping[str, Any], own: str) -> str:
    def named(match: "re.Match[str]") -> str:
        return match[0] if match[0] == "%%" else spec["name"].replace("%", "%%")

    if own and not own.startswith("/") and _is_escaped(spec):
        why = (
            "Slurm drops the backslash from %r and writes the output elsewhere: give --output and --error as absolute "
        )
        raise ValueError(why % spec["chdir"] + "paths, or have the script start in another folder by cwd=")
    return own and os.path.join(spec["chdir"].replace("%", "%%"), re.sub(r"%%|%[0-9]*x", named, own))


def _is_escaped(spec: Mapping[str, Any]) -> bool:
    """Whether Slurm takes the name of the folder in which a script begins for an escaped pattern."""
    return "\\" in spec["chdir"] and spec.get("scheduler") != "local"


def most(batch: Batch) -> Optional[int]:
    """Return how many tasks the next submission of a user's own array is to have; None for anything else."""
    if batch.array is None:
        return None
    remaining = batch.remaining()
    whole = remaining == len(batch.array.indices) and len(batch.array.text) <= _MOST_WORDS
    return remaining if whole else min(remaining, _MOST_NAMED)


def array_of(batch: Batch, part: Part) -> Optional[str]:
    """Return the indices of one submission of a user's own array, as sbatch has them; None for anything else."""
    if batch.array is None:
        return None
    whole = len(part.tasks) == len(batch.array.indices)
    return batch.array.text if whole else arrays.write(sorted(part.indices))


def make_folders(spec: Mapping[str, Any]) -> None:
    """Make the folders in which a script begins and its output goes: Slurm does not. Raises OSError."""
    folders: List[str] = [os.path.dirname(pattern) for pattern in patterns(spec) or ()]
    for folder in (spec["chdir"].replace("%", "%%"), *folders):
        if folder and "%" not in folder.replace("%%", ""):
            os.makedirs(folder.replace("%%", "%"), exist_ok=True)


def render(spec: Mapping[str, Any], folder: spool.Batch) -> str:
    """Return what is submitted in a script's place."""
    return script.render_around(
        batch=spec["batch"],
        folder=folder.path,
        directives=spec["script"]["directives"],
        interpreter=spec["script"]["interpreter"],
        environment=_environment(spec),
        script=folder.own,
    )


def _environment(spec: Mapping[str, Any]) -> Dict[str, str]:
    """Return what is to be as if the whole of the script was submitted by sbatch, under its own name."""
    array = spec["script"].get("array")
    return dict(arrays.parse(array).environment() if array else {}, SLURM_JOB_NAME=spec["name"])


def reached(part: Part, name: spool.Name, data: bytes) -> Optional[bytes]:
    """Return the record that a script has reached its end, None where the file is not whole (yet)."""
    end = watch.parse_end(data, name.run)
    if end is None or not data.endswith(b"\n"):
        return None
    times = {"submitted": part.time, "began": end.start, "ended": end.end}
    words = dict(times, job_id=part.job_id(name.task), node=end.nodes or end.node)
    call = part.at[name.task]
    return b"".join(payload.pack_record(call, payload.REACHED, json.dumps(words).encode()))
