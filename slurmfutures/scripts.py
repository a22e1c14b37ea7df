"""Batch scripts out of steps: values in, text out; nothing here needs a connection.

    script = Script(
        [
            "module load cp2k",
            Step(["cp2k.psmp", "-i", "water.inp"], cwd="water", checkpoint="done"),
            gpu_parallel([["python train.py 1"], ["python train.py 2"]]),
        ],
        header="#SBATCH --partition=gpu --gpus=2 --time=1:00:00",
        setup="source ~/env/bin/activate",
        teardown="rm -rf scratch",
    )
    executor.submit_script(script, cwd="/scratch/me/run1")

The text is one for bash, 4.2 or later.
"""

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Union

from . import _bash
from ._directives import read_directives
from ._printable import printable

AnyPath = Union[str, "os.PathLike[str]"]
Command = str | Sequence[AnyPath]

_BASH = re.compile(r"#!\s*(/\S*/)?(env\s+(-S\s+)?)?bash([ \t].*)?")
_SHORT = 60  # characters of a command in an error


@dataclass(frozen=True)
class Step:
    """A command of a script, with what is to be done around it.

    `cmd` is a piece of bash, of any number of lines, or the words of a command, which are quoted. All steps run in one
    shell: what one of them exports, loads or defines, the next ones have. Each starts in the folder `cwd`, relative to
    the script's, which is the one that its setup ends in; where a step itself goes to is of no concern to the next.

    `checkpoint` is a file, relative to `cwd`, of just this name. It appears, empty, once the step has succeeded, and
    while it is there the step is skipped: so a job that runs again goes on where it was. Folders to it are made.

    A step that fails ends the script, with the step's exit code; so does an `exit` in it, whatever its code, unless
    that is 0 and no step is left. With `exit_on_error=False` the failure is told on stderr and the script goes on, as
    if it had not been: such a step has a shell of its own, and what it exports ends with it.

    Raises ValueError for what cannot be a command or a path, TypeError where it has the wrong type.
    """

    cmd: Command
    cwd: AnyPath | None = None
    checkpoint: AnyPath | None = None
    exit_on_error: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.cmd, str):
            text = _text("a step's command", self.cmd)
            if not text.strip():
                raise ValueError("a step's command is empty: use ':' for one that does nothing")
            _check_misplaced("a step's command", text)
            object.__setattr__(self, "cmd", text)
        else:
            object.__setattr__(self, "cmd", _words(self.cmd))
        object.__setattr__(self, "cwd", _path("cwd", self.cwd))
        object.__setattr__(self, "checkpoint", _path("checkpoint", self.checkpoint))
        if self.checkpoint is not None and os.fspath(self.checkpoint).endswith("/"):
            raise ValueError(f"checkpoint={os.fspath(self.checkpoint)!r} is a folder: name a file in it")

    def _label(self) -> str:
        """What it is called in errors, in one line."""
        name = self.checkpoint if self.checkpoint is not None else _brief(self.cmd)
        return _line(os.fspath(name) + (f" in {os.fspath(self.cwd)}" if self.cwd is not None else ""))

    def _render(self, place: str, last: bool) -> list[str]:
        command = _eval(self.cmd) if isinstance(self.cmd, str) else _join(self.cmd)
        if not self.exit_on_error:
            command = f"sf_calm\n(\nsf_alone\nsf_strict\n{command}\n)"
        kind = "on" if not self.exit_on_error else "last" if last else "stop"
        return [
            _begin(kind, f"{place} ({self._label()})", self.cwd, self.checkpoint),
            command,
            'sf_done "$?"' + ("" if self.exit_on_error else "; sf_strict"),
            "fi",
        ]


@dataclass(frozen=True)
class GpuGroups:
    """Groups of steps for the GPUs of a node, one step of a script: what `gpu_parallel` returns."""

    groups: tuple[tuple[Step, ...], ...]
    devices: tuple[str, ...] = ()

    def _render(self, place: str, last: bool) -> list[str]:
        total = len(self.groups)
        lines = [
            _begin("last" if last else "stop", f"{place} (groups for GPUs: {total})", None, None),
            f"sf_calm\n(\nsf_alone\nsf_gpus {_quote(','.join(self.devices))}",
        ]
        for number, group in enumerate(self.groups, 1):
            lines += ["sf_next", "{", "builtin trap : HUP INT TERM USR1 USR2", "(", f"sf_on_gpu {number} {total}"]
            for position, step in enumerate(group, 1):
                lines += step._render(f"step {position} of {len(group)}", position == len(group))
            lines += [
                "exit 0",
                ")",
                f'printf \'%s {number} %s\\n\' "$sf_slot" "$?" >&"$sf_pipe"',
                "} </dev/null &",
            ]
        return [*lines, f"sf_groups_over {total}", ")", 'sf_done "$?"; sf_strict', "fi"]


AnyStep = Step | GpuGroups | Command
Group = Iterable[Step | Command] | Step | str


def gpu_parallel(groups: Iterable[Group], *, devices: Iterable[object] = ()) -> GpuGroups:
    """Return a step that runs groups of steps on the GPUs of the node, one group a GPU at a time.

    A group is a list of steps or commands that run one after the other in a shell of their own; a lone Step or text is
    a group too. A GPU that is free takes the next group. A group sees its one GPU by CUDA_VISIBLE_DEVICES, on AMD's by
    ROCR_VISIBLE_DEVICES, and where programs write to the same stdout their lines mix as they come.

    The GPUs are those that Slurm gave to the job, of CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES,
    SLURM_GPUS_ON_NODE or SLURM_STEP_GPUS; the step fails where there is none. `devices` names others; an id that is
    named twice takes two groups at a time.

    A step that fails ends its group, unless its `exit_on_error` is false, and is told on stderr; the other groups have
    their turn all the same. Then the script ends with the exit code of the first group that failed. Checkpoints of
    steps hold: when the job runs again, only what is missing does.

    Raises ValueError where there are no groups, or an empty one.
    """
    made = tuple(_group(number, group) for number, group in enumerate(groups, 1))
    if not made:
        raise ValueError("gpu_parallel() was given no groups")
    names = tuple(str(device).strip() for device in devices)
    for name in names:
        if not re.fullmatch(r"[\w./:][\w./:-]*", name):
            raise ValueError(f"devices: {name!r} cannot be the id of a GPU")
    return GpuGroups(made, names)


def _group(number: int, group: Group) -> tuple[Step, ...]:
    steps = [group] if isinstance(group, Step | str) else list(group)
    if not steps:
        raise ValueError(f"group {number} of gpu_parallel() has no steps")
    made = []
    for step in steps:
        if isinstance(step, GpuGroups):
            raise TypeError("gpu_parallel() cannot be a step of gpu_parallel()")
        made.append(step if isinstance(step, Step) else Step(step))
    return tuple(made)


@dataclass(frozen=True)
class Script:
    """A batch script for `SlurmExecutor.submit_script`, of steps that run one after the other.

    `steps` are Steps, plain commands, and what `gpu_parallel` returns. `header` has the #SBATCH lines. `setup` is a
    piece of bash that runs before the steps, in their shell. `teardown` is one that runs in the end, in a copy of that
    shell, however it came to it: also after a step that failed or called `exit`, and after SIGTERM, as by scancel or at
    the time limit. Only SIGKILL, Slurm's next word after its KillWait (30 seconds, mostly), leaves no time for it.

    The exit code is 0 where all steps succeeded or may fail, else that of the setup or step that failed, which the last
    line or so of stderr names: "slurmfutures: step 3 of 5 (train) failed with exit code 7". A teardown that fails after
    success counts as a failure. A signal to the script (SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2) goes to the running
    command; after the first three the script ends as soon as the command has. A trap on EXIT that setup or a step sets
    is called before the teardown.

    By `#SBATCH --array` in the header all steps run in each task of the array; then none may have a checkpoint.

    Raises ValueError for a script without steps, for a shebang that is not bash's, and for header lines that sbatch
    would not understand or not see.
    """

    steps: Sequence[AnyStep]
    header: str = ""
    setup: str = ""
    teardown: str = ""
    shebang: str = "#!/bin/bash"

    def __post_init__(self) -> None:
        if isinstance(self.steps, str | Step | GpuGroups):
            raise TypeError(f"steps is a list of steps, not {type(self.steps).__name__}: write [step]")
        steps = tuple(step if isinstance(step, Step | GpuGroups) else Step(step) for step in self.steps)
        if not steps:
            raise ValueError("a script needs a step")
        object.__setattr__(self, "steps", steps)
        for name in ("setup", "teardown"):
            text = _text(name, getattr(self, name))
            _check_misplaced(name, text)
            object.__setattr__(self, name, text)
        object.__setattr__(self, "shebang", _shebang(self.shebang))
        object.__setattr__(self, "header", _header(self.header))
        array = read_directives(f"{self.shebang}\n{self.header}\n").options.get("array")
        for step in self._all_steps() if array else ():
            if step.checkpoint is not None:
                raise ValueError(
                    f"the tasks of --array={array} would share checkpoint={os.fspath(step.checkpoint)!r}: leave "
                    "checkpoints out, or submit a script for each task"
                )

    def _all_steps(self) -> Iterator[Step]:
        for step in self.steps:
            if isinstance(step, GpuGroups):
                yield from chain.from_iterable(step.groups)
            elif isinstance(step, Step):
                yield step

    @classmethod
    def split(
        cls,
        steps: Iterable[AnyStep],
        jobs: int,
        *,
        header: str = "",
        setup: str = "",
        teardown: str = "",
        shebang: str = "#!/bin/bash",
    ) -> "list[Script]":
        """Return scripts that share out `steps` among so many jobs, in order and evenly: many steps in few jobs.

        There are fewer scripts where there are fewer steps, none of them empty. Raises ValueError unless `jobs` is
        at least 1, and as `Script` does.
        """
        if jobs < 1:
            raise ValueError(f"jobs={jobs!r}: steps cannot be split over less than 1 job")
        if isinstance(steps, str | Step | GpuGroups):
            raise TypeError(f"steps is a list of steps, not {type(steps).__name__}: write [step]")
        given = list(steps)
        jobs = min(jobs, len(given))
        bounds = [len(given) * number // jobs for number in range(jobs + 1)] if jobs else []
        return [
            cls(given[first:after], header=header, setup=setup, teardown=teardown, shebang=shebang)
            for first, after in pairwise(bounds)
        ]

    def render(self) -> str:
        """Return the text, which ends in a newline."""
        total = len(self.steps)
        parts = [self.shebang, *([self.header] if self.header else []), _bash.BEGIN.rstrip("\n")]
        if any(isinstance(step, GpuGroups) for step in self.steps):
            parts.append(_bash.GROUPS.rstrip("\n"))
        teardown = _eval(self.teardown) if self.teardown.strip() else ":"
        parts += [f"sf_teardown() {{\n{teardown}\n}}", _bash.START.rstrip("\n")]
        if self.setup.strip():
            parts += [_eval(self.setup), 'sf_ready "$?"']
        else:
            parts.append("sf_ready 0")
        for number, step in enumerate(self.steps, 1):
            assert isinstance(step, Step | GpuGroups)
            parts += step._render(f"step {number} of {total}", number == total)
        return "\n".join([*parts, _bash.END])


def _begin(kind: str, name: str, cwd: AnyPath | None, checkpoint: AnyPath | None) -> str:
    words = [kind, _quote(name), _place(cwd) if cwd is not None else ".", _place(checkpoint) if checkpoint else "''"]
    return f"if sf_begin {' '.join(words)}; then"


def _place(path: AnyPath) -> str:
    """Return a path as a word of bash that no command takes for an option; `~` is the user's home."""
    text = os.fspath(path)
    if text == "~" or text.startswith("~/"):
        return '"$HOME"' + (_quote(text[1:]) if text[1:] else "")
    return _quote(text if text.startswith("/") else "./" + text)


def _quote(text: str) -> str:
    """Return text as one word of bash; none of its lines ends as in DOS, which sbatch refuses, or is a directive."""
    return shlex.quote(text).replace("\r", "'$'\\r''").replace("\n#SBATCH", "\n'#'SBATCH")


def _eval(text: str) -> str:
    return "eval -- " + _quote(text + "\n" if text.endswith("\\") else text)


def _join(words: Iterable[AnyPath]) -> str:
    """Return a command of these words; the first one is never a keyword or an assignment."""
    first, *rest = (_quote(os.fspath(word)) for word in words)
    return " ".join([first if first.startswith("'") else f"'{first}'", *rest])


def _text(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be text, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError(f"{what} has a NUL in it: {text!r}")
    return text.replace("\r\n", "\n")


def _words(cmd: object) -> tuple[str, ...]:
    if not isinstance(cmd, Iterable) or isinstance(cmd, bytes | dict):
        raise TypeError(f"a step's command must be text or a list of words, not {type(cmd).__name__}")
    words = []
    for word in cmd:
        text = os.fspath(word) if isinstance(word, os.PathLike) else word
        if not isinstance(text, str):
            raise TypeError(f"the words of a command are text or paths, not {word!r}: write str({word!r})")
        if "\0" in text:
            raise ValueError(f"a word of a command has a NUL in it: {text!r}")
        words.append(text)
    if not words or not words[0]:
        raise ValueError("a step's command is empty")
    return tuple(words)


def _path(name: str, path: AnyPath | None) -> str | None:
    if path is None:
        return None
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be text or a path, not {text!r}")
    if not text or "\0" in text:
        raise ValueError(f"{name}={text!r} cannot be a path")
    return text


def _brief(cmd: Command) -> str:
    if not isinstance(cmd, str):
        return shlex.join(os.fspath(word) for word in cmd)
    lines = [line for line in cmd.splitlines() if line.strip()]
    return next((line for line in lines if not line.lstrip().startswith("#")), lines[0])


def _line(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."


def _shebang(text: object) -> str:
    line = _text("shebang", text).strip()
    if not _BASH.fullmatch(line):
        raise ValueError(f"shebang={line!r} is not bash's, and steps are run by bash: write '#!/bin/bash'")
    return line


def _header(text: object) -> str:
    lines = [line.strip() for line in _text("header", text).splitlines()]
    for number, line in enumerate(lines, 1):
        fault = _header_fault(line)
        if fault:
            raise ValueError(printable(f"line {number} of header: {line!r}: {fault}"))
    return "\n".join(lines).strip("\n")


def _header_fault(line: str) -> str:
    """Return what is wrong with a line that sbatch would pass over, or read as something else."""
    if not line:
        return ""
    if not line.startswith("#"):
        return "it is not an #SBATCH line; commands belong into setup"
    if not line.startswith("#SBATCH"):
        word = re.match(r"#(?!#)\s*(\w+)", line)
        meant = word is not None and difflib.SequenceMatcher(None, word[1].upper(), "SBATCH").ratio() > 0.8
        return "sbatch takes it for a comment; such lines begin with '#SBATCH '" if meant else ""
    if re.match(r"#SBATCH\S", line):
        return "sbatch takes it for a comment; there is a blank behind '#SBATCH'"
    found = re.match(r"#SBATCH\s+-([A-Za-z][A-Za-z-]*)=(\S*)", line)
    if found is None:
        return ""
    name, value = found.groups()
    if len(name) == 1:
        return f"sbatch reads '={value}' as the value; write '-{name} {value}'"
    return f"sbatch reads -{name[0]} with the value '{name[1:]}={value}'; write '--{name}={value}'"


def _check_misplaced(what: str, text: str) -> None:
    """Raise ValueError where text begins with lines that belong to the header: sbatch would not see them."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return
        if line.lstrip().startswith("#SBATCH"):
            raise ValueError(
                f"{what} begins with {line.strip()!r}, which sbatch does not see there: put it into header"
            )
