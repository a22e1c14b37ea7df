"""Key files, and what an ssh-agent answers."""

import base64
import contextlib
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from paramiko.agent import AgentKey

from slurmfutures._transports import identities
from tests.fuzz.harness import Parser

_PEM_RSA = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n"


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


_PUBLIC = string(b"ssh-ed25519") + string(bytes(range(32)))


def _openssh(data: bytes) -> bytes:
    rows = base64.encodebytes(data).replace(b"\n", b"")
    body = b"\n".join(rows[at : at + 70] for at in range(0, len(rows), 70))
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + body + b"\n-----END OPENSSH PRIVATE KEY-----\n"


def _plain() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, none)


def _content(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.split(b"\n")[1:-2]))


_MAGIC = b"openssh-key-v1\0"
_LOCKED = (
    _MAGIC + string(b"aes256-ctr") + string(b"bcrypt") + string(string(bytes(16)) + struct.pack(">I", 1))
    + struct.pack(">I", 1) + string(_PUBLIC) + string(bytes(160))
)  # fmt: skip
_PRIVATE = [_plain(), _openssh(_LOCKED)]
_BESIDE = b"ssh-ed25519 " + base64.b64encode(_PUBLIC) + b" me@host\n"
_ANSWER = struct.pack(">BI", 12, 1) + string(_PUBLIC) + string("a comment, ü".encode())
_ANSWERS = [struct.pack(">I", len(data)) + data for data in (_ANSWER, struct.pack(">BI", 12, 0), b"\x05")]


def _load(data: bytes, folder: Path) -> object:
    path = folder / "key"
    path.write_bytes(data)
    if 64 < identities._rounds(str(path)) <= identities._MOST_ROUNDS:
        return None  # it takes as long as its owner has asked for
    nobody: Any = None
    public = identities.FileIdentity(str(path), nobody, nobody).public()
    return public, identities.load_key(str(path), "passphrase") is not None


def _beside(data: bytes, folder: Path) -> object:
    path = folder / "key.pub"
    path.write_bytes(data)
    return identities._public_file(str(path))


def _agent(data: bytes, folder: Path) -> object:
    """Ask an agent that answers this, whatever it is asked."""
    path = folder / "agent"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        agent = identities.Agent(str(path))
        try:
            return [(key.name, key.blob, key.comment) for key in agent.get_keys()]
        finally:
            agent.close()
            thread.join()


def _signed(data: bytes, folder: Path) -> object:
    """Have an agent sign that answers with this."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        agent: Any = identities.Agent(None)
        key = identities.AgentIdentity(AgentKey(agent, _PUBLIC, "c"), "agent: c")
        theirs.sendall(data[: 1 << 15])
        theirs.shutdown(socket.SHUT_WR)
        agent._conn = ours
        try:
            return key.sign(b"data", "ssh-ed25519")
        finally:
            agent.close()


def _lengths(content: bytes) -> st.SearchStrategy[bytes]:
    """Return an OpenSSH key whose content has another number somewhere."""
    numbers = st.sampled_from((0, 1, 1 << 20, 1 << 31, (1 << 32) - 1)).map(lambda number: struct.pack(">I", number))
    rounds = content.find(b"bcrypt") + 34  # of the passphrase's hash: many take as long as somebody has asked for
    places = st.integers(0, len(content)).filter(lambda at: not rounds - 4 < at < rounds + 4)
    return st.builds(lambda at, number: _openssh(content[:at] + number + content[at + 4 :]), places, numbers)


PARSERS = (
    Parser(
        "_transports.identities:load_key",
        _load,
        [*_PRIVATE, _PEM_RSA],
        more=st.one_of(_lengths(_content(_PRIVATE[0])), _lengths(_LOCKED)),
        repeated=[b"-----BEGIN ", b"-----BEGIN RSA PRIVATE KEY-----\n", b"AAAA\n"],
    ),
    Parser(
        "_transports.identities:_public_file",
        _beside,
        [_BESIDE, b""],
        repeated=[b"ssh-ed25519 ", b"A"],
    ),
    Parser(
        "_transports.identities:Agent",
        _agent,
        _ANSWERS,
        more=st.builds(
            lambda count, rest, size: struct.pack(">IBI", size or 5 + len(rest), 12, count) + rest,
            st.sampled_from((0, 1, 2, 1000, 1 << 31, (1 << 32) - 1)),
            st.one_of(st.binary(max_size=40), st.just(string(_PUBLIC) + string(b"\xff"))),
            st.sampled_from((0, 0, 0, 5, 1 << 20, (1 << 32) - 1)),
        ),
        tokens=[struct.pack(">I", size) for size in (1 << 18, 1 << 31, (1 << 32) - 1)],
        memory=16 << 20,  # paramiko fills each of several fields up
    ),
    Parser(
        "_transports.identities:AgentIdentity.sign",
        _signed,
        [struct.pack(">IB", 13, 14) + string(b"signature"[:4]), *_ANSWERS],
        tokens=[struct.pack(">I", size) for size in (1 << 18, 1 << 31, (1 << 32) - 1)],
    ),
)
