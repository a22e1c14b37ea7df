"""Asking the person at the terminal: a real one, with somebody who types."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.terminals import Terminal
from tests.waiting import DEADLINE

# The first terminal that the leader of a session opens becomes its own.
CHILD = """\
import os, sys
if sys.argv[1]:
    os.open(sys.argv[1], os.O_RDWR)
from slurmfutures._transports.asking import ask_on_terminal
from slurmfutures._transports.base import NobodyToAsk
try:
    print("answer:", ask_on_terminal("me@gate", " Verification code: ", sys.argv[2] == "shown"))
except NobodyToAsk as nobody:
    print("nobody:", nobody)
"""
NOTEBOOK = """\
import sys, types
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
"""
PROMPT = "me@gate: Verification code: "


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@contextmanager
def asked(program: str, words: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process whose stdin and stdout are no terminal."""
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process


@pytest.mark.parametrize("how", ["hidden", "shown"])
def test_the_terminal_is_asked_whatever_is_redirected(terminal: Terminal, how: str) -> None:
    with asked(CHILD, [terminal.name, how]) as process:
        terminal.wait_for(PROMPT)
        terminal.type("123456\n")
        assert process.communicate(timeout=DEADLINE)[0] == "answer: 123456\n"
    assert ("123456" in terminal.seen()) == (how == "shown")


@pytest.mark.parametrize("how", ["hidden", "shown"])
def test_a_terminal_that_is_closed_is_nobody(terminal: Terminal, how: str) -> None:
    with asked(CHILD, [terminal.name, how]) as process:
        terminal.wait_for(PROMPT)
        terminal.type("\x04")
        said = process.communicate(timeout=DEADLINE)[0]
    assert said == "nobody: me@gate asks 'Verification code:', and the terminal was closed\n"


@pytest.mark.parametrize("how", ["hidden", "shown"])
def test_without_a_terminal_there_is_nobody(how: str) -> None:
    with asked(CHILD, ["", how]) as process:
        said = process.communicate(timeout=DEADLINE)[0]
    assert said == "nobody: me@gate asks 'Verification code:', and there is no terminal to answer on\n"


def test_in_a_notebook_the_notebook_asks() -> None:
    with asked(NOTEBOOK + CHILD, ["", "shown"]) as process:
        said = process.communicate("123456\n", timeout=DEADLINE)[0]
    assert said == f"{PROMPT}answer: 123456\n"
