"""Which agent serves a driver, as its file says."""

import os
from pathlib import Path
from typing import Any

from slurmfutures._remote import succession
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like

_SESSION = "0123456789ab"
_AGENT: Any = {"host": os.uname().nodename, "pid": 1 << 22, "mark": "slurmfutures:x:", "code": "/w/code/a", "ships": []}


def _agent(data: bytes, folder: Path) -> object:
    (folder / "sessions").mkdir(mode=0o700, exist_ok=True)
    path = folder / "sessions" / _SESSION
    path.write_bytes(data)
    path.chmod(0o600)
    found = succession.agent_of(str(folder), _SESSION)
    succession.is_live(str(folder), _SESSION)
    successor = succession.Succession(str(folder), _SESSION, "slurmfutures:y:")
    successor.is_ours()
    successor._see_predecessor(end=False)  # it would signal the process that the file names
    successor.may_be_submitting("no such job")
    return found


PARSERS = (Parser("_remote.succession:agent_of", _agent, [as_json(_AGENT)], (), json_like([_AGENT])),)
