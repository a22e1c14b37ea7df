"""Who is asked for passphrases, passwords and one-time codes, and what is remembered of the answers."""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from .base import Ask, NobodyToAsk


def ask_on_terminal(host: str, prompt: str, echo: bool) -> str:
    """Ask the person at the terminal, or in the notebook. Raises NobodyToAsk where there is neither."""
    question = f"{host}: {prompt.strip()} "
    if _in_notebook():
        return input(question) if echo else getpass.getpass(question)
    try:
        with _terminal() as (source, target):
            if not echo:
                return getpass.getpass(question, target)
            target.write(question)
            target.flush()
            line = source.readline()
    except OSError:
        raise NobodyToAsk(f"{host} asks {prompt.strip()!r}, and there is no terminal to answer on") from None
    except EOFError:
        line = ""
    if not line:
        raise NobodyToAsk(f"{host} asks {prompt.strip()!r}, and the terminal was closed")
    return line.rstrip("\n")


@contextmanager
def _terminal() -> Iterator[tuple[TextIO, TextIO]]:
    # What the driver reads and writes may be redirected; a person is at the terminal all the same.
    with open("/dev/tty") as source, open("/dev/tty", "w") as target:
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
        self._host = host
        self.nobody: NobodyToAsk | None = None

    def __call__(self, prompt: str, echo: bool = False) -> str | None:
        """Return the answer, None where nobody is there to answer."""
        try:
            return self._ask(self._host, prompt, echo)
        except NobodyToAsk as error:
            self.nobody = error
            return None
