"""Drivers of their own: scripts in another process, which tests interrupt and kill."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tests
from tests.waiting import DEADLINE, until

BEGIN = """\
import json, sys
from slurmfutures import SlurmExecutor
from tests import calls

options, arguments = json.loads(sys.argv[1]), json.loads(sys.argv[2])

def tell(text):
    print(text, flush=True)

"""


class Driver:
    """A script with `options` for its executor and `arguments` of its own; it says what it has done by `tell`."""

    def __init__(self, path: Path, text: str, options: Mapping[str, Any], *arguments: object) -> None:
        path.write_text(BEGIN + text)
        words = json.dumps(dict(options), default=str), json.dumps(arguments, default=str)
        self._out, self._err = path.with_suffix(".out"), path.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(path), *words],
                env=dict(os.environ, PYTHONPATH=str(Path(tests.__file__).parents[1])),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def said(self) -> list[str]:
        return self._out.read_text().splitlines()

    def complaints(self) -> str:
        return self._err.read_text()

    def wait_for(self, word: str) -> None:
        """Wait until it has said something."""

        def said() -> bool:
            assert self.process.poll() is None or word in self.said(), self.complaints()
            return word in self.said()

        until(said)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the driver alone, and wait for its end."""
        self.process.send_signal(number)
        self.end()

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        return self.process.wait(DEADLINE)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
