"""What an SSH server says while somebody logs in."""

import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from paramiko import Message
from paramiko.ssh_exception import SSHException

from slurmfutures import AuthenticationError
from slurmfutures._hosts import Hop, Host
from slurmfutures._transports import auth
from slurmfutures._transports.limits import Clock, TooMuch
from tests.fuzz.harness import Parser
from tests.fuzz.subjects.keys import string


class _Talk:
    """A server that says one thing, and hangs up."""

    farewell = ""

    def __init__(self, kind: int, said: bytes) -> None:
        self._answer = auth._Answer(kind, Message(said))

    def request(self, *words: Any) -> Any:
        return self._answer

    def send(self, *words: Any) -> None: ...

    def receive(self, *words: Any) -> Any:
        raise EOFError


class _Asked:
    nobody = None

    def __call__(self, prompt: str, echo: bool = False) -> str:
        return "secret"


class _Secrets:
    def get(self, what: str) -> None: ...

    def keep(self, what: str, value: str) -> None: ...

    def forget(self, what: str) -> None: ...


def _login(kind: int, said: bytes) -> auth.Login:
    talk: Any = _Talk(kind, said)
    asked: Any = _Asked()
    secrets: Any = _Secrets()
    return auth.Login(talk, Hop(Host("login"), "login", 22, "me"), "me@login", asked, secrets, Clock(60.0))


def _answers(data: bytes, folder: Path) -> object:
    try:
        return _login(auth._INFO_REQUEST, data)._by_answers()
    except EOFError:  # it hung up
        return None


def _failure(data: bytes, folder: Path) -> object:
    login = _login(auth._FAILURE, data)
    return login._by_password(), login._offered, login._partial


def _disconnect(data: bytes, folder: Path) -> object:
    connection = auth.Connection.__new__(auth.Connection)
    connection._parse_disconnect(Message(data))
    return connection.farewell


def _info(title: bytes, prompts: list[bytes], count: int) -> bytes:
    rest = b"".join(string(prompt) + b"\1" for prompt in prompts)
    return string(title) + string(b"instructions") + string(b"") + struct.pack(">I", count) + rest


_REQUESTS = [_info(b"title", [b"Code: "], 1), _info(b"", [b"a", b"b"], 2), _info(b"", [], 0)]
_COUNTS = st.sampled_from((0, 1, 3, 20, 1 << 10, 1 << 31, (1 << 32) - 1))
_BYTES = st.one_of(st.binary(max_size=10), st.sampled_from((b"\xff\xfe", b"Code: ", "ü".encode())))
_SIZES = [struct.pack(">I", size) for size in (1 << 19, 1 << 20, 1 << 31, (1 << 32) - 1)]
_OWN = (AuthenticationError, SSHException, TooMuch)  # `Login.run` makes errors of the package of the last two

PARSERS = (
    Parser(
        "_transports.auth:Login._by_answers",
        _answers,
        _REQUESTS,
        _OWN,
        st.builds(_info, _BYTES, st.lists(_BYTES, max_size=3), _COUNTS),
        tokens=_SIZES,
    ),
    Parser(
        "_transports.auth:Login._settled",
        _failure,
        [string(b"publickey,password") + b"\0", string(b"") + b"\1"],
        _OWN,
        repeated=[b","],
        tokens=_SIZES,
    ),
    Parser(
        "_transports.auth:Connection._parse_disconnect",
        _disconnect,
        [struct.pack(">I", 2) + string(b"Too many authentication failures") + string(b"")],
        tokens=_SIZES,
    ),
)
