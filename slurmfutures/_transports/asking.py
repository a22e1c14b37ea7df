"""Who is asked for passphrases, passwords and one-time codes, and what is remembered of the answers.

A question is text from a server. Control characters in it are escaped, and each line but the first is indented. So no
host can write a line that looks like the question of another host.
"""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from .._printable import printable
from .base import Ask, NobodyToAsk

_INDENT = "    "
_USUAL_WIDTH = 80  # columns of a terminal that does not know how many it has


def ask_on_terminal(host: str, prompt: str, echo: bool) -> str:
    """Ask the person at the terminal, or in the notebook. Raises NobodyToAsk where there is neither.

    The row in which the answer is typed begins with the name of the host. Other text from the host stands above that
    row, indented.
    """
    host, prompt = printable(host), _host_words(prompt).strip()
    if _in_notebook():
        question = _question(host, prompt, None)
        return input(question) if echo else getpass.getpass(question)
    try:
        with _terminal() as (source, target):
            question = _question(host, prompt, os.get_terminal_size(target.fileno()).columns or _USUAL_WIDTH)
            if not echo:
                return getpass.getpass(question, target)
            target.write(question)
            target.flush()
            line = source.readline()
    except OSError:
        raise NobodyToAsk(f"{host} asks {prompt!r}, and there is no terminal to answer on") from None
    except EOFError:
        line = ""
    if not line:
        raise NobodyToAsk(f"{host} asks {prompt!r}, and the terminal was closed")
    return line.rstrip("\n")


def _host_words(text: str) -> str:
    """Return a host's text printable, with each line but the first indented. A second call changes nothing."""
    lines = printable(text.replace("\r\n", "\n")).expandtabs().split("\n")
    return "\n".join([lines[0], *(_INDENT + line.removeprefix(_INDENT) for line in lines[1:])])


def _question(host: str, prompt: str, width: int | None) -> str:
    """Return the question as it is shown on a terminal of `width` columns; with None no line is folded."""
    *above, last = (line.removeprefix(_INDENT) for line in prompt.split("\n"))
    question = f"{host}: {last} " if last else f"{host}: "
    if last and width is not None and _columns(question) >= width:
        above.append(last)
        question = f"{host}: "
    if not above:
        return question
    rows = [row for line in above for row in ([line] if width is None else _folded(line, width - len(_INDENT) - 1))]
    return "\n".join([f"{host} says:", *(_INDENT + row for row in rows), question])


def _folded(line: str, width: int) -> Iterator[str]:
    """Break a line before the terminal does, which would begin the next row without an indent."""
    start = used = 0
    for at, character in enumerate(line):
        used += _columns(character)
        if used > width and at > start:
            yield line[start:at]
            start, used = at, _columns(character)
    yield line[start:]


def _columns(text: str) -> int:
    """Return how many columns a text takes at most: a character beyond ASCII may take two."""
    return sum(2 - character.isascii() for character in text)


@contextmanager
def _terminal() -> Iterator[tuple[TextIO, TextIO]]:
    # What the driver reads and writes may be redirected; a person is at the terminal all the same.
    with open("/dev/tty") as source, open("/dev/tty", "w", errors="replace") as target:
        yield source, target


def _in_notebook() -> bool:
    module = sys.modules.get("IPython")
    if module is None:
        return False
    shell: Any = module.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


class Secrets:
    """What was typed and may be used again, for the life of one executor: passphrases, and passwords that worked.

    Answers to other questions are not kept: a one-time code is good once.
    """

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def get(self, what: str) -> str | None:
        return self._kept.get(what)

    def keep(self, what: str, answer: str) -> None:
        self._kept[what] = answer

    def forget(self, what: str) -> None:
        self._kept.pop(what, None)

    def __repr__(self) -> str:
        return f"<Secrets [{len(self._kept)} kept]>"


class Asked:
    """Asks for one hop, and knows why nobody answered."""

    def __init__(self, ask: Ask, host: str) -> None:
        self._ask = ask
        self._host = printable(host)
        self.nobody: NobodyToAsk | None = None

    def __call__(self, prompt: str, echo: bool = False) -> str | None:
        """Return the answer, None where nobody is there to answer."""
        try:
            return self._ask(self._host, _host_words(prompt), echo)
        except NobodyToAsk as error:
            self.nobody = error
            return None
