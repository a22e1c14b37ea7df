"""A process of this machine: for drivers that run on the login node, and for the embedded scheduler."""

import os
import signal
import subprocess
import tempfile

_LAST_WORDS = 4000  # bytes


class LocalStream:
    """Runs a line of shell here and talks to it."""

    def __init__(self, line: str) -> None:
        # A file and not a pipe: nobody reads it until something is wrong.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def readable(self) -> int:
        return self._out

    def writable(self) -> int:
        return self._in

    def read(self, limit: int) -> bytes:
        return os.read(self._out, limit)

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
        self._stderr.seek(max(0, size - _LAST_WORDS))
        return self._stderr.read().decode("utf-8", "replace")
