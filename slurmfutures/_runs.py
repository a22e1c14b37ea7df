"""`run` and `run_python`: commands on the login node, waited for in the caller's thread."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ._errors import os_error
from ._poller import Poller
from ._printable import printable
from ._remote import wire


def run(
    poller: Poller,
    command: str | Sequence[str],
    words: Mapping[str, Any],
    script: bytes,
    given: str | bytes | None,
    *,
    check: bool,
) -> "subprocess.CompletedProcess[Any]":
    """Have the agent run something and return its outcome; raise what `subprocess.run` would.

    `words` say what it runs; `script` and `given`, its stdin, go along. `command` is for whoever reads the outcome.
    """
    binary = isinstance(given, (bytes, bytearray))
    data = given.encode() if isinstance(given, str) else bytes(given or b"")
    head = {"op": "run", **words, "input": given is not None, "split": len(script)}
    number, reply = poller.request(head, [script, data])
    try:
        head, body = poller.reply_to(reply)  # type: ignore[assignment]
    except BaseException:
        poller.link.send(wire.message({"op": "kill", "run": number}))
        raise
    if "error" in head:
        if head.get("errno"):
            raise os_error(head["errno"], head["strerror"], head["filename"])
        raise ValueError(printable(head["message"]))
    out, err = bytes(body[: head["split"]]), bytes(body[head["split"] :])
    streams: tuple[Any, Any] = (out, err) if binary else (out.decode(errors="replace"), err.decode(errors="replace"))
    if head["timeout"]:
        raise subprocess.TimeoutExpired(command, words["timeout"], *streams)
    done = subprocess.CompletedProcess(command, head["code"], *streams)
    if check:
        done.check_returncode()
    return done
