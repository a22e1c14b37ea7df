"""The `#SBATCH` lines of a batch script, read as sbatch reads them: those before the first command."""

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from ._options import OURS, names_like
from ._printable import printable
from ._remote import arrays
from ._remote.times import parse_time

_MARK = re.compile(r"#SBATCH\s")
_SHORT = dict(
    word.split("=")
    for word in """A=account B=extra_node_info C=constraint D=chdir F=nodefile G=gpus J=job_name L=licenses
    M=clusters N=nodes S=core_spec a=array b=begin c=cpus_per_task d=dependency e=error i=input m=distribution n=ntasks
    o=output p=partition q=qos t=time w=nodelist x=exclude""".split()
)
_SHORT_FLAGS = {
    "H": "hold",
    "O": "overcommit",
    "Q": "quiet",
    "V": "version",
    "W": "wait",
    "h": "help",
    "k": "no_kill",
    "s": "oversubscribe",
    "v": "verbose",
}
#: Of the options that an executor keeps for itself, those that a script may have.
_FREE = frozenset(("array", "chdir", "error", "ignore_pbs", "input", "output", "parsable", "quiet", "verbose"))


class Directives(NamedTuple):
    """What a script says of its job."""

    interpreter: tuple[str, ...]  # words of the first line, as the kernel takes it apart
    lines: tuple[str, ...]  # as they stand there
    options: Mapping[str, str]  # by long names, "-" written "_"; "" for those without a value
    late: tuple[str, ...]  # lines that look like directives but come after a command


def read_directives(text: str) -> Directives:
    """Read the directives of a script.

    Raises ValueError for a script that sbatch would not take, and for options that would leave its job unwatched; each
    names the line and the remedy.
    """
    first, _, _ = text.partition("\n")
    if not re.match(r"#!\s*/", first):
        raise ValueError(f"a script must begin with '#!' and an interpreter, as in '#!/bin/bash', not with {first!r}")
    if "\0" in text:
        raise ValueError("a script must be text: it has a NUL byte in it")
    if "\r\n" in text:
        raise ValueError("a script must end its lines with '\\n', as on Unix: it has '\\r\\n' in it")
    lines: list[str] = []
    options: dict[str, str] = {}
    late: list[str] = []
    begun = False
    for number, line in enumerate(text.split("\n")[1:], 2):
        begun = begun or bool(line.strip() and not line.lstrip().startswith("#"))
        if not _MARK.match(line):
            continue
        if begun:
            late.append(line)
            continue
        lines.append(line)
        try:
            options.update(_read(line))
        except ValueError as error:
            raise ValueError(printable(f"line {number} of the script, {line!r}: {error}")) from None
    interpreter = tuple(first[2:].strip().split(None, 1))
    return Directives(interpreter, tuple(lines), options, tuple(late))


def _read(line: str) -> dict[str, str]:
    words = shlex.split(line, comments=False)[1:]
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word.startswith("#"):
            break
        if word.startswith("--"):
            spelt, equals, value = word[2:].partition("=")
            name = _long(spelt)
            if not equals and words and not words[0].startswith(("-", "#")):
                value = words.pop(0)
        elif word.startswith("-") and word[1:2] in _SHORT:
            name, value = _SHORT[word[1]], word[2:]
            if _is_long(word[1:].partition("=")[0]):
                raise ValueError(f"long options begin with two dashes: -{word}")
            if not value:
                value = words.pop(0) if words else ""
        elif word.startswith("-") and word[1:2] in _SHORT_FLAGS:
            name, value = _SHORT_FLAGS[word[1]], ""
        else:
            raise ValueError(f"{word!r} is not an option: they begin with dashes")
        if name == "array":
            arrays.check(value)
        if name in ("time", "time_min"):
            parse_time(value)
        if name in OURS and name not in _FREE:
            raise ValueError(f"the option {name!r} cannot be set: {OURS[name]}")
        found[name] = value
    return found


def _is_long(spelt: str) -> bool:
    name = spelt.replace("-", "_")
    return names_like(name) == [name]


def _long(spelt: str) -> str:
    """Return an option's name; sbatch takes what begins like one option only for it."""
    name = spelt.replace("-", "_")
    alike = names_like(name)
    return alike[0] if len(alike) == 1 else name
