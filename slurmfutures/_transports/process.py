"""A process of this machine: the agent, for drivers that run on the login node, or a program that goes elsewhere."""

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from .base import LAST_WORDS

_LARGEST_READ = 1 << 18  # bytes
_PIPE_SIZE = 1 << 20  # bytes; as much as Linux lets everybody have
_PATIENCE = 0.2  # seconds in which a process that has closed its stdout ends


class ProcessStream:
    """Runs a program here and talks to it."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str] | None = None, first: bytes = b"") -> None:
        """`first` goes to the program's stdin at once: as much as a pipe holds, 64 kB or more."""
        # A file and not a pipe: nobody reads it until something is wrong.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=env,
            start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        for pipe in (self._in, self._out):
            with contextlib.suppress(AttributeError, OSError):  # not Linux, or over what the user may have
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._scratch = memoryview(bytearray(_LARGEST_READ))  # room that is made for each read costs more than a copy
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        with contextlib.suppress(OSError):  # it has ended already: the reading end tells how
            os.write(self._in, first)

    def readable(self) -> int:
        return self._out

    def writable(self) -> int:
        return self._in

    def read(self, limit: int) -> bytes:
        return bytes(self._scratch[: os.readv(self._out, [self._scratch[:limit]])])

    def write(self, data: memoryview) -> int:
        return os.write(self._in, data)

    def close(self, timeout: float) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stderr.close()

    def last_words(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        self._stderr.seek(max(0, size - LAST_WORDS))
        return self._stderr.read().decode("utf-8", "replace")

    def exit_code(self) -> int | None:
        """Return the process's exit code, negative for a signal, None while it runs."""
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return None

    def why_ended(self) -> str:
        code = self.exit_code() or 0
        if code < 0:
            return f"the agent's process was killed by {signal.Signals(-code).name}"
        return f"the agent's process ended with exit code {code}" if code else ""
