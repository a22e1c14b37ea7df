"""`run` and `run_python`: commands on the login node, waited for in the caller's thread."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ._link import Words
from ._poller import Poller
from ._remote import wire

_LEAST_CODE, _MOST_CODE = -64, 255  # of a process: below 0 the signal that ended it


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
        found = poller.reply_to(reply)
    except BaseException:
        poller.link.send(wire.message({"op": "kill", "run": number}))
        raise
    said, body = Words(found.head, "run"), found.body
    if "error" in said:
        if said.text("error") == "os" and not said.lacks("errno"):
            raise said.os_error(said.text_or_none("filename"))
        raise ValueError(said.message())
    split = said.number("split", most=len(body))
    out, err = bytes(body[:split]), bytes(body[split:])
    streams: tuple[Any, Any] = (out, err) if binary else (out.decode(errors="replace"), err.decode(errors="replace"))
    if said.flag("timeout"):
        if words["timeout"] is None:
            raise said.wrong("timeout")
        raise subprocess.TimeoutExpired(command, words["timeout"], *streams)
    done = subprocess.CompletedProcess(command, said.number("code", least=_LEAST_CODE, most=_MOST_CODE), *streams)
    if check:
        done.check_returncode()
    return done
