"""The `#SBATCH` lines of a batch script, read as sbatch reads them: those before the first command."""

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from ._options import OURS, names_like
from ._printable import printable
from ._remote import arrays
from ._remote.times import parse_time

_MARK = "#SBATCH"
_BLANK = " \t\n\r\v\f"
_SHORT = dict(
    word.split("=")
    for word in """A=account B=extra_node_info C=constraint D=chdir F=nodefile G=gpus J=job_name L=licenses
    M=clusters N=nodes S=core_spec a=array b=begin c=cpus_per_task d=dependency e=error i=input m=distribution n=ntasks
    o=output p=partition q=qos t=time w=nodelist x=exclude""".split()
)
_SHORT_FLAGS = dict(
    word.split("=")
    for word in "H=hold O=overcommit Q=quiet V=version W=wait h=help k=no_kill s=oversubscribe v=verbose".split()
)
_SHORT_EITHER = "k"  # what is behind it in the same word is its value
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
        if not line.startswith(_MARK):
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
    words = _words(line[len(_MARK) :])
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            options = [_long(word, words)]
        elif re.match("-.", word):
            options = _short(word, words)
        else:
            raise ValueError(f"{word!r} is not an option: they begin with dashes")
        for name, value in options:
            if name == "array":
                arrays.check(value)
            if name in ("time", "time_min"):
                parse_time(value)
            _check_free(name)
            found[name] = value
    return found


def _words(text: str) -> list[str]:
    """Return the words of a directive: quotes and backslashes count, and a "#" outside of quotes ends them."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split = _BLANK, True
    return list(lexer)


def _check_free(name: str) -> None:
    if name in OURS and name not in _FREE:
        raise ValueError(f"the option {name!r} cannot be set: {OURS[name]}")


def _long(word: str, words: list[str]) -> tuple[str, str]:
    """Return name and value of a long option; the value may be the next of `words`.

    sbatch takes the beginning of a name for it where its version has no other option that begins so.
    """
    spelt, equals, value = word[2:].partition("=")
    if not equals and words and not words[0].startswith("-"):
        value = words.pop(0)
    name = spelt.replace("-", "_")
    alike = names_like(name) if name else []
    for other in alike:
        _check_free(other)
    return alike[0] if len(alike) == 1 else name, value


def _short(word: str, words: list[str]) -> list[tuple[str, str]]:
    """Return names and values of the short options in a word: flags, and at the end perhaps one that has a value.

    The value is the rest of the word, or the next of `words`.
    """
    name = word[1:].partition("=")[0].replace("-", "_")
    if names_like(name) == [name]:
        raise ValueError(f"long options begin with two dashes: -{word}")
    found: list[tuple[str, str]] = []
    for at, letter in enumerate(word[1:], 2):
        rest = word[at:]
        if letter in _SHORT:
            return [*found, (_SHORT[letter], rest or (words.pop(0) if words else ""))]
        if letter not in _SHORT_FLAGS:
            raise ValueError(f"-{letter} in {word!r} is not an option of sbatch")
        found.append((_SHORT_FLAGS[letter], rest if letter in _SHORT_EITHER else ""))
        if letter in _SHORT_EITHER:
            break
    return found
