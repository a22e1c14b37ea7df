"""Commands on the login node: each is started from the loop and waited for by a thread of its own.

    run   {command | script, cwd, env, input, timeout, split} body    reply: {code, split, timeout} stdout and stderr
    kill  {run}

The body of a `run` is a Python script, `split` bytes of it, and what the command reads. A script is a file in a folder
of its own while it runs: tracebacks show its lines, stdin is free, and nothing large is on a command line.
"""

import os
import shutil
import signal
import subprocess
import threading
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from . import places, shell, wire
from .lane import Lane

Reply = Callable[..., None]
Command = Tuple[List[str], Dict[str, str]]  # its words, and what it needs in its environment


class Runs:
    """All commands that run. The agent's loop calls it.

    `python` is a phrase of shell that runs an interpreter; scripts are written below `folder`.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None], python: str, folder: str) -> None:
        self._post = post
        self._python = python
        self._folder = folder
        self._lane: Optional[Lane] = None  # writes scripts; there since the first one
        self._running: Dict[int, subprocess.Popen[bytes]] = {}  # by request id
        self._starting: Set[int] = set()  # whose scripts are being written

    def message(self, number: int, head: Mapping[str, Any], body: wire.Body, reply: Reply) -> None:
        """Run a command. Raises OSError and what else Popen does where it cannot be started."""
        script = head.get("script")
        if script is None:
            self._start(number, head, _command(head["command"]), body, None, reply)
        elif "path" in script:
            self._start(number, head, self._python_command(script["path"], script["args"]), body, None, reply)
        else:
            self._send(number, head, body, reply)

    def kill(self, number: int) -> None:
        """Nobody waits for this one any more."""
        self._starting.discard(number)
        if number in self._running:
            _kill_group(self._running[number])

    def close(self) -> None:
        for process in list(self._running.values()):
            _kill_group(process)

    def _python_command(self, path: str, args: Sequence[str]) -> Command:
        return [*shell.EVAL, path, *args], shell.variable('exec %s "$0" "$@"' % self._python)

    def _send(self, number: int, head: Mapping[str, Any], body: wire.Body, reply: Reply) -> None:
        """Write a script down, then run it."""
        view = memoryview(body)
        source, given = view[: head["split"]], view[head["split"] :]

        name = head["script"]["name"]
        if not places.is_name(name):  # the folder that it leads to would be removed
            raise ValueError("%r is not the name of a script" % name)

        def work() -> str:
            folder = os.path.join(self._folder, "run-" + os.urandom(6).hex())  # `tempfile` takes long to import
            os.mkdir(folder, 0o700)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with open(os.open(os.path.join(folder, name), flags, 0o600), "wb") as file:
                    file.write(source)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return folder

        def then(folder: Any) -> None:
            if isinstance(folder, Exception):
                reply(told(folder))
            elif number not in self._starting:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._starting.discard(number)
                try:
                    command = self._python_command(os.path.join(folder, name), head["script"]["args"])
                    self._start(number, head, command, given, folder, reply)
                except Exception as error:  # words that no process can be given, a folder that is not there
                    shutil.rmtree(folder, ignore_errors=True)
                    reply(told(error))

        self._starting.add(number)
        if self._lane is None:
            self._lane = Lane("scripts", self._post)
        self._lane.do(work, then)

    def _start(
        self,
        number: int,
        head: Mapping[str, Any],
        command: Command,
        given: wire.Body,
        folder: Optional[str],
        reply: Reply,
    ) -> None:
        process = subprocess.Popen(
            command[0],
            cwd=head["cwd"],
            env=dict(_environment(head), **command[1]),
            stdin=subprocess.PIPE if head["input"] else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._running[number] = process

        def work() -> None:
            timed_out = False
            try:
                out, err = process.communicate(bytes(given) if head["input"] else None, timeout=head["timeout"])
            except subprocess.TimeoutExpired:
                timed_out = True
                _kill_group(process)
                out, err = process.communicate()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            self._post(lambda: done(out, err, timed_out))

        def done(out: bytes, err: bytes, timed_out: bool) -> None:
            del self._running[number]
            reply({"code": process.returncode, "split": len(out), "timeout": timed_out}, out + err)

        threading.Thread(target=work, name="run-%d" % number, daemon=True).start()


def _command(command: Union[str, List[str]]) -> Command:
    return (list(shell.EVAL), shell.variable(command)) if isinstance(command, str) else (command, {})


def told(error: Exception) -> Dict[str, Any]:
    """Return what a reply says of what stands in the way of a command."""
    if isinstance(error, OSError):
        words = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        return dict(words, error="os", message=str(error))
    return {"error": "value", "message": str(error)}


def _environment(head: Mapping[str, Any]) -> Dict[str, str]:
    """Return the environment of a command; a script's modules are looked for first in what was shipped."""
    found = dict(os.environ, **(head["env"] or {}))
    ahead = (head.get("script") or {}).get("shipped")
    if ahead:
        found["PYTHONPATH"] = ":".join([*ahead, *filter(None, [found.get("PYTHONPATH")])])
    return found


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
