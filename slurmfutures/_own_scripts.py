"""A batch script of the user's own, made ready to be submitted."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ._batcher import OwnScript, Spec
from ._directives import read_directives
from ._errors import give_warning
from ._options import render_options, split_labels

_numbers = itertools.count()
# Of these a script's own word for one leaves no room for an executor's word for another.
_EXCLUSIVE = [
    frozenset(("mem", "mem_per_cpu", "mem_per_gpu")),
    frozenset(("exclusive", "oversubscribe")),
    frozenset(("requeue", "no_requeue")),
]
_REPEATED = ("exclude", "time")  # of the directives, those that have to be known to whoever runs the job


@runtime_checkable
class Rendered(Protocol):
    """What makes the text of a batch script, as `Script` does."""

    def render(self) -> str: ...


def script_text(script: "str | os.PathLike[str] | Rendered") -> str:
    """Return the text of a script that is given in one of several ways. Raises OSError for a file."""
    if isinstance(script, Rendered):
        return script.render()
    if isinstance(script, os.PathLike):
        return Path(script).read_bytes().decode()
    if not isinstance(script, str):
        raise TypeError(f"a script is its text, a path or a Script, not {script!r}")
    return script


def own_spec(
    text: str,
    sbatch: Mapping[str, Any],
    *,
    known: Iterable[str],
    name: str | None,
    cwd: str | None,
    check: bool,
    retries: int,
) -> Spec:
    """Return how a script is to be submitted; `sbatch` are the options for what it leaves open itself.

    Raises ValueError as `read_directives` does, and as `render_options` does for the script's own options.
    """
    directives = read_directives(text)
    if directives.late:
        give_warning(
            f"{directives.late[0]!r} comes after the first command of the script, where Slurm does not read it any more"
        )
    own = directives.options
    job_name, comment, options = split_labels(sbatch)
    options = {key: value for key, value in options.items() if not _decided(key, own)}
    repeated = [f"--{key}={own[key]}" for key in _REPEATED if own.get(key)]
    return Spec(
        options=(*render_options(options, known), *repeated),
        name=job_name_of(name or own.get("job_name") or job_name or "script"),
        comment=own.get("comment") or comment,
        initializer=b"",
        script=OwnScript(
            number=next(_numbers),
            cwd=cwd or own.get("chdir") or None,
            directives=directives.lines,
            interpreter=directives.interpreter,
            output=own.get("output", ""),
            error=own.get("error", ""),
            check=check,
            retries=retries,
            array=own.get("array", ""),
        ),
    )


def _decided(option: str, own: Mapping[str, str]) -> bool:
    """Whether a script's own options leave no room for this one."""
    return option in own or any(option in group and not group.isdisjoint(own) for group in _EXCLUSIVE)


def job_name_of(name: str) -> str:
    """Return a name that is the same in every place that Slurm shows it."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:60] or "call"
