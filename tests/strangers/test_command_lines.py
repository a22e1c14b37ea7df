"""Processes of another account whose command lines have our words in them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slurmfutures._remote import succession
from slurmfutures._remote.succession import Succession
from tests.strangers.accounts import Stranger

SESSION = "0123456789ab"
MARK = "slurmfutures:0123456789abcdef:"
JOB = "f.sf-0123456789ab.0"
WAITS = ["/bin/sh", "-c", "echo; read line", "sbatch", JOB, MARK]


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    """Ends processes when the test is over."""
    with ExitStack() as stack:
        yield stack


def started(process: "subprocess.Popen[bytes]", ended: ExitStack) -> int:
    """Return the number of a process once it has its own command line."""
    ended.enter_context(process)
    ended.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()
    return process.pid


@pytest.fixture
def theirs(stranger: Stranger, ended: ExitStack) -> int:
    return started(stranger.start(WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE), ended)


@pytest.fixture
def mine(ended: ExitStack) -> int:
    return started(subprocess.Popen(WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE), ended)


@pytest.fixture
def heir(tmp_path: Path) -> Iterator[Succession]:
    """An agent whose predecessor was on this machine."""
    Succession(str(tmp_path), SESSION, "earlier").claim()
    heir = Succession(str(tmp_path), SESSION, "later")
    heir.claim()
    yield heir
    heir.leave(for_good=True)


def test_a_stranger_s_process_does_not_hold_up_a_submission(heir: Succession, theirs: int) -> None:
    assert heir.may_be_submitting(JOB) is False


def test_a_process_of_one_s_own_does(heir: Succession, theirs: int, mine: int) -> None:
    assert heir.may_be_submitting(JOB) is True


@pytest.mark.parametrize("whose", ["theirs", "mine"])
def test_only_a_process_of_one_s_own_is_ended(tmp_path: Path, request: pytest.FixtureRequest, whose: str) -> None:
    number = request.getfixturevalue(whose)
    words = {"host": os.uname().nodename, "pid": number, "mark": MARK, "code": "", "ships": []}
    (tmp_path / "sessions").mkdir(mode=0o700)
    (tmp_path / "sessions" / SESSION).write_text(json.dumps(words))
    heir = Succession(str(tmp_path), SESSION, "later")
    heir._see_predecessor(end=True)
    if whose == "mine":
        assert os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT).si_status == signal.SIGTERM  # type: ignore[union-attr]
    else:
        assert os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None


def test_the_words_of_a_stranger_s_process_are_not_read(theirs: int, mine: int) -> None:
    assert succession._command_line(str(theirs)) == ""
    assert MARK in succession._command_line(str(mine))
    assert succession._command_line(str(os.getpid())).startswith(sys.orig_argv[0])
    assert succession._command_line("no process") == ""
