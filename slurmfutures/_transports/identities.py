"""The keys that may let us in: in files, and held by an ssh-agent."""

import base64
import binascii
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from paramiko import ECDSAKey, Ed25519Key, Message, PKey, RSAKey
from paramiko.agent import AgentKey, AgentSSH
from paramiko.ssh_exception import PasswordRequiredException, SSHException

from .._hosts import Hop
from .asking import Asked, Secrets
from .base import logger

_MOST_SAID = 1 << 18  # bytes of an agent's answer, as many as OpenSSH takes
_IDENTITIES_ANSWER = 12
_LEAST_IDENTITY = 8  # bytes: the lengths of a key and of its comment
_AGENT_TIMEOUT = 10.0  # seconds for the list of keys; for a signature it may ask a person


class Identity(Protocol):
    """A key that may let us in."""

    label: str

    def public(self) -> Sequence[tuple[str, bytes]]:
        """Return type and public part, of a certificate first; nothing where only the passphrase would tell."""

    def sign(self, data: bytes, algorithm: str) -> bytes | None:
        """Return the signature; None where the passphrase is not to be had."""


@dataclass
class AgentIdentity:
    """A key that ssh-agent holds."""

    key: AgentKey
    label: str

    def public(self) -> Sequence[tuple[str, bytes]]:
        return [(self.key.name, self.key.blob)]

    def sign(self, data: bytes, algorithm: str) -> bytes | None:
        try:
            return _bytes(self.key.sign_ssh_data(data, algorithm))
        except Exception as error:  # whatever paramiko makes of a strange answer
            logger.warning("the agent did not sign with %s: %s", self.label, error)
            return None


class FileIdentity:
    """A key in a file, perhaps encrypted, perhaps with its public part or a certificate beside it."""

    def __init__(self, path: str, asked: Asked, secrets: Secrets) -> None:
        self.path = path
        self.label = _short(path)
        self._asked = asked
        self._secrets = secrets
        self._key: PKey | None = None
        self._failed = False

    def public(self) -> Sequence[tuple[str, bytes]]:
        beside = [_public_file(f"{self.path}-cert.pub"), _public_file(f"{self.path}.pub")]
        found = [each for each in beside if each is not None]
        if beside[1] is None:
            try:
                key = self._load(None)
            except (PasswordRequiredException, TypeError):
                inside = _public_inside(self.path)
                return [*found, inside] if inside is not None else found
            if key is not None:
                found.append((key.get_name(), key.asbytes()))
        return found

    def sign(self, data: bytes, algorithm: str) -> bytes | None:
        key = self.private()
        return None if key is None else _bytes(key.sign_ssh_data(data, algorithm))

    def private(self) -> PKey | None:
        """Return the key, decrypted by a passphrase that may have to be asked for."""
        if self._key is not None or self._failed:
            return self._key
        what = f"passphrase of {self.path}"
        try:
            self._key = self._load(None)
        except (PasswordRequiredException, TypeError):
            known = self._secrets.get(what)
            phrase = known if known is not None else self._asked(f"Passphrase for {self.label}:")
            if phrase is None:
                self.label += " (locked)"
            else:
                self._unlock(what, phrase)
        self._failed = self._key is None
        return self._key

    def _unlock(self, what: str, phrase: str) -> None:
        try:
            self._key = self._load(phrase)
        except (PasswordRequiredException, TypeError):
            self._key = None
        if self._key is None:
            self.label += " (wrong passphrase)"
            self._secrets.forget(what)
        else:
            self._secrets.keep(what, phrase)

    def _load(self, phrase: str | None) -> PKey | None:
        """Raises PasswordRequiredException, or cryptography's TypeError, for an encrypted key without a phrase."""
        return load_key(self.path, phrase)


def load_key(path: str, phrase: str | None) -> PKey | None:
    """Read a private key; None for what is none, or of a type that is unknown here, or where the phrase is wrong."""
    for kind in (Ed25519Key, ECDSAKey, RSAKey):
        try:
            return kind.from_private_key_file(path, phrase)
        except PasswordRequiredException:
            raise
        except OSError as error:
            logger.warning("%s cannot be read: %s", path, error.strerror)
            return None
        except TypeError:
            if phrase is None:  # so cryptography says that it needs one
                raise
        except Exception:  # paramiko and cryptography raise anything for a damaged file, AssertionError among it
            continue
    return None


def _public_file(path: str) -> tuple[str, bytes] | None:
    try:
        kind, data = Path(path).read_bytes().split()[:2]
        return kind.decode("ascii"), base64.b64decode(data)
    except (OSError, ValueError, binascii.Error):
        return None


def _public_inside(path: str) -> tuple[str, bytes] | None:
    """Return the public part that stands before the encrypted one in a file of OpenSSH's own format."""
    try:
        rows = Path(path).read_bytes().strip().split(b"\n")
        data = base64.b64decode(b"".join(rows[1:-1]))
    except (OSError, ValueError, binascii.Error):
        return None
    magic = b"openssh-key-v1\0"
    if not data.startswith(magic):
        return None
    message = Message(data[len(magic) :])
    for _ in range(3):  # cipher, kdf, its options
        message.get_binary()
    if message.get_int() != 1:
        return None
    blob = message.get_binary()
    return Message(blob).get_binary().decode("ascii", "replace"), blob


class Agent(AgentSSH):
    """The ssh-agent at a socket; has no keys where there is none, or where its answers make no sense."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if path is None:
            return
        self._socket.settimeout(_AGENT_TIMEOUT)
        try:
            self._socket.connect(path)
            self._connect(self._socket)  # type: ignore[attr-defined]
        except Exception as error:  # whatever paramiko makes of a strange answer
            logger.info("the ssh-agent at %s cannot be used: %s", path, error)
            self._keys = ()
        else:
            self._socket.settimeout(None)

    def close(self) -> None:
        self._socket.close()

    def _read_all(self, wanted: int) -> bytes:
        if wanted > _MOST_SAID:
            raise SSHException(f"it announced {wanted} bytes, and {_MOST_SAID} are the most")
        data: bytes = super()._read_all(wanted)  # type: ignore[misc]
        return data

    def _send_message(self, message: Any) -> tuple[int, Message]:
        kind: int
        answer: Message
        kind, answer = super()._send_message(message)  # type: ignore[misc]
        if kind == _IDENTITIES_ANSWER:
            count = answer.get_int()
            if count * _LEAST_IDENTITY > len(answer.get_remainder()):
                raise SSHException(f"it announced {count} keys, and sent fewer")
            answer.rewind()
            answer.get_byte()  # the kind
        return kind, answer


def identities(hop: Hop, agent: Agent, asked: Asked, secrets: Secrets) -> Iterator[Identity]:
    """Yield the keys in the order in which they are tried: explicit ones, the agent's, those of the configuration.

    What the agent holds, it signs with: then nobody need be asked for the passphrase of the file.
    """
    explicit = [FileIdentity(path, asked, secrets) for path in hop.explicit_keys]
    configured = [FileIdentity(path, asked, secrets) for path in hop.identity_files if Path(path).is_file()]
    held = {key.blob: AgentIdentity(key, f"agent: {key.comment or key.name}") for key in agent.get_keys()}

    def in_agent(file: FileIdentity) -> list[AgentIdentity]:
        return [held.pop(blob) for _, blob in file.public() if blob in held]

    for file in explicit:
        found = in_agent(file)
        yield from found
        if not found:
            yield file
    own = [(file, in_agent(file)) for file in configured] if held else [(file, []) for file in configured]
    for _, keys in own:
        yield from keys
    if not hop.identities_only:
        yield from held.values()
    for file, keys in own:
        if not keys:
            yield file


def _bytes(signature: Any) -> bytes:
    return signature if isinstance(signature, bytes) else bytes(signature.asbytes())


def _short(path: str) -> str:
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") else path
