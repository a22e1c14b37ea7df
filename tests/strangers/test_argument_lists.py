"""What the user has written stands in no argument list: every account can read those."""

import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import calls
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.strangers.accounts import Stranger
from tests.waiting import DEADLINE, until

TOKEN = "hunter2-is-no-token"


class Watcher:
    """Reads the argument lists of all processes, as any account can, until it is closed; keeps those with a word."""

    def __init__(self, *words: str) -> None:
        self._words = [word.encode() for word in words]
        self.found: set[bytes] = set()
        self.rounds = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            self.rounds += 1
            for process in os.listdir("/proc"):
                if not process.isdigit():
                    continue
                try:
                    line = Path(f"/proc/{process}/cmdline").read_bytes()
                except OSError:
                    continue
                if any(word in line for word in self._words):
                    self.found.add(line)

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    # In base64 at each of the three places that it can begin at.
    watcher = Watcher(TOKEN, *_encoded(TOKEN))
    yield watcher
    watcher.close()


def _encoded(word: str) -> list[str]:
    return [base64.b64encode((" " * ahead + word).encode()).decode()[4 if ahead else 0 : -4] for ahead in range(3)]


@pytest.mark.parametrize(
    "scheduler",
    [
        "local",
        pytest.param("paramiko", marks=pytest.mark.ssh),
        pytest.param("openssh", marks=pytest.mark.ssh),
        pytest.param("slurm", marks=pytest.mark.slurm),
    ],
)
def test_setup_and_commands_stand_in_no_argument_list(
    scheduler: str, opener: Opener, watcher: Watcher, gate: Gate, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if scheduler == "slurm":
        request.getfixturevalue("cluster")
    executor = opener.root(scheduler, setup=f"export TOKEN={TOKEN}")
    assert executor.submit(os.getenv, "TOKEN").result(DEADLINE) == TOKEN
    assert executor.login.submit(os.getenv, "TOKEN").result(DEADLINE) == TOKEN
    assert executor.run(f"TOKEN={TOKEN}; printenv TOKEN").stdout.strip() == TOKEN
    script = f'#!/bin/bash\n[ {TOKEN} = "$TOKEN" ]\n'
    assert executor.submit_script(script, cwd=str(tmp_path)).result(DEADLINE).exit_code == 0
    with executor.pilots(workers=1) as pilots:
        running = pilots.submit(calls.pass_gate, gate.folder, "done")  # all that there is runs at one time
        gate.wait()
        seen = watcher.rounds
        until(lambda: watcher.rounds > seen + 2)
        gate.open()
        assert running.result(DEADLINE) == "done"
        assert pilots.submit(os.getenv, "TOKEN").result(DEADLINE) == TOKEN
    assert not watcher.found


def test_what_is_sent_before_the_agent_has_a_bound(opener: Opener) -> None:
    executor = opener.root("local", setup=f"# {'x' * 29_000}\nexport LONG=1")
    assert executor.submit(os.getenv, "LONG").result(DEADLINE) == "1"
    with pytest.raises(ValueError, match=r"setup= has 31002 bytes, and at most 30000 are sent: put it into a file"):
        opener.root("local", setup=f"# {'x' * 31_000}")
    with pytest.raises(ValueError, match="setup= holds a NUL character"):
        opener.root("local", setup="export A='\0'")


@pytest.mark.ssh
@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_a_long_setup_gets_through_every_pipe(transport: str, opener: Opener) -> None:
    executor = opener.root(transport, setup=f"# {'x' * 29_000}\nexport LONG=1")
    assert executor.login.submit(os.getenv, "LONG").result(DEADLINE) == "1"


def test_the_environment_of_our_processes_is_closed_to_others(opener: Opener, stranger: Stranger) -> None:
    """A setup goes by the environment: only the user and root can read that."""
    executor = opener.root("local", setup=f"export TOKEN={TOKEN}")
    worker = executor.login.submit(os.getpid).result(DEADLINE)
    for process in (worker, executor._connection.greeting["pid"]):
        done = stranger.run(["cat", f"/proc/{process}/environ"], check=False)
        assert done.returncode != 0
