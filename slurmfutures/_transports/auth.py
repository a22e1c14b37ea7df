"""How a paramiko transport logs in: as OpenSSH does, with every question asked in the caller's thread.

paramiko's own handler asks in its transport's thread, where a notebook's prompt does not work, and signs with a key
before it knows whether the server takes it, so that it wants the passphrases of keys that are of no use. This handler
takes the place of that one: it only hands the server's messages over to the thread that logs in.
"""

import functools
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from paramiko import Message, PKey, Transport
from paramiko.agent import AgentKey, AgentSSH
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import PasswordRequiredException, SSHException

from .._errors import AuthenticationError, HostUnreachable
from .._hosts import Hop
from .asking import Asked, Secrets
from .base import logger

_SERVICE_REQUEST, _SERVICE_ACCEPT = 5, 6
_REQUEST, _FAILURE, _SUCCESS, _BANNER = 50, 51, 52, 53
_PK_OK = _INFO_REQUEST = 60  # which of them it is, the method tells
_INFO_RESPONSE = 61
_CERTIFICATE = "-cert-v01@openssh.com"
_LOOK = 0.1  # seconds between two looks at `stop`
_AGENT_TIMEOUT = 10.0  # seconds for the list of keys; for a signature it may ask a person
_MOST_ROUNDS = 20  # of one server: no more factors than that


class GaveUp(Exception):
    """`stop` was set."""


class _Answer(NamedTuple):
    kind: int
    message: Message


class Conversation:
    """A transport's auth handler: what the server says goes into a queue, for one thread to read."""

    def __init__(self, transport: Transport, user: str, stop: threading.Event | None) -> None:
        self._transport = transport
        self._user = user
        self._stop = stop
        self._answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._authenticated = False
        self.banner: bytes | None = None
        kinds = (_SERVICE_ACCEPT, _FAILURE, _SUCCESS, _BANNER, _INFO_REQUEST)
        self._handler_table = {kind: functools.partial(self._receive, kind) for kind in kinds}
        transport.auth_handler = self  # type: ignore[assignment]

    # ---- paramiko's thread

    def _receive(self, kind: int, message: Message) -> None:
        if kind == _BANNER:
            self.banner = message.get_string()
            return
        if kind == _SUCCESS:
            self._authenticated = True
            self._transport._auth_trigger()  # type: ignore[attr-defined]
        self._answers.put(_Answer(kind, message))

    def abort(self) -> None:
        """The transport has ended."""
        self._answers.put(None)

    def is_authenticated(self) -> bool:
        return self._authenticated

    def get_username(self) -> str:
        return self._user

    # ---- the thread that logs in

    def send(self, kind: int, *fields: str | bytes | bool | int) -> None:
        message = Message()
        message.add_byte(bytes([kind]))
        for value in fields:
            if isinstance(value, bool):
                message.add_boolean(value)
            elif isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        try:
            self._transport._send_message(message)  # type: ignore[attr-defined]
        except (OSError, EOFError, SSHException) as error:
            raise EOFError from error

    def request(self, method: str, *fields: str | bytes | bool) -> _Answer:
        self.send(_REQUEST, self._user, "ssh-connection", method, *fields)
        return self.receive()

    def receive(self, timeout: float | None = None) -> _Answer:
        """Return the server's next message. Raises EOFError when the connection is gone, TimeoutError, GaveUp."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._stop is not None and self._stop.is_set():
                raise GaveUp
            try:
                answer = self._answers.get(timeout=_LOOK)
            except queue.Empty:
                if not self._transport.is_active() and self._answers.empty():
                    raise EOFError from None
                if end is not None and time.monotonic() > end:
                    raise TimeoutError from None
                continue
            if answer is None:
                raise EOFError
            return answer

    def signed_bytes(self, algorithm: str, blob: bytes) -> bytes:
        """Return what a key signs to log in here."""
        message = Message()
        message.add_string(self._transport.session_id)
        message.add_byte(bytes([_REQUEST]))
        for text in (self._user, "ssh-connection", "publickey"):
            message.add_string(text)
        message.add_boolean(True)
        message.add_string(algorithm)
        message.add_string(blob)
        return message.asbytes()

    def algorithm(self, kind: str) -> str:
        """Return the name of the signature for a type of key: an RSA key can make several."""
        bare = kind.removesuffix(_CERTIFICATE)
        if bare != "ssh-rsa":
            return kind
        taken = self._transport.server_extensions.get("server-sig-algs", b"")
        names = (taken.decode("utf-8", "replace") if isinstance(taken, bytes) else taken).split(",")
        best = next((name for name in ("rsa-sha2-512", "rsa-sha2-256") if name in names), "rsa-sha2-512")
        return best + kind[len(bare) :]


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
        except (SSHException, OSError) as error:
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
    from paramiko import ECDSAKey, Ed25519Key, RSAKey

    for kind in (Ed25519Key, ECDSAKey, RSAKey):
        try:
            return kind.from_private_key_file(path, phrase)
        except PasswordRequiredException:
            raise
        except (SSHException, UnknownKeyType, OSError, ValueError) as error:
            if not isinstance(error, SSHException) and isinstance(error, OSError):
                logger.warning("%s cannot be read: %s", path, error.strerror)
                return None
    return None


def _public_file(path: str) -> tuple[str, bytes] | None:
    import base64
    import binascii

    try:
        kind, data = Path(path).read_text().split()[:2]
        return kind, base64.b64decode(data)
    except (OSError, ValueError, binascii.Error):
        return None


def _public_inside(path: str) -> tuple[str, bytes] | None:
    """Return the public part that stands before the encrypted one in a file of OpenSSH's own format."""
    import base64
    import binascii

    try:
        rows = Path(path).read_text().strip().splitlines()
        data = base64.b64decode("".join(rows[1:-1]))
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
    return Message(blob).get_text(), blob


class Agent(AgentSSH):
    """The ssh-agent at a socket; has no keys where there is none."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if path is None:
            return
        self._socket.settimeout(_AGENT_TIMEOUT)
        try:
            self._socket.connect(path)
            self._connect(self._socket)  # type: ignore[attr-defined]
        except (OSError, SSHException) as error:
            logger.info("the ssh-agent at %s cannot be used: %s", path, error)
            self._keys = ()
        else:
            self._socket.settimeout(None)

    def close(self) -> None:
        self._socket.close()


def _identities(hop: Hop, agent: Agent, asked: Asked, secrets: Secrets) -> Iterator[Identity]:
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


class Login:
    """Logs in to one hop."""

    def __init__(self, conversation: Conversation, hop: Hop, where: str, asked: Asked, secrets: Secrets) -> None:
        self._talk = conversation
        self._hop = hop
        self._where = where
        self._asked = asked
        self._secrets = secrets
        self._offered: list[str] = []
        self._tried: dict[str, list[str]] = {}
        self._partial = False

    def run(self, timeout: float) -> None:
        """Raises AuthenticationError, HostUnreachable where the server never came to it, GaveUp."""
        agent = Agent(self._hop.identity_agent)
        try:
            self._run(timeout, agent)
        except EOFError as error:
            if not self._offered:
                raise HostUnreachable(self._where, "the connection was closed before the login") from error
            reason = "it closed the connection after these tries"
            raise AuthenticationError(self._where, self._attempts(), self._offered, reason) from error
        finally:
            agent.close()

    def _run(self, timeout: float, agent: Agent) -> None:
        self._talk.send(_SERVICE_REQUEST, "ssh-userauth")
        try:
            if self._talk.receive(timeout).kind != _SERVICE_ACCEPT:
                raise EOFError
            self._talk.send(_REQUEST, self._hop.user, "ssh-connection", "none")
            done = self._settled(self._talk.receive(timeout))
        except TimeoutError:
            raise HostUnreachable(self._where, f"it did not answer within {timeout:g} s") from None
        identities = _identities(self._hop, agent, self._asked, self._secrets)
        methods: Mapping[str, Callable[[], bool]] = {
            "publickey": functools.partial(self._by_keys, identities),
            "keyboard-interactive": self._by_answers,
            "password": self._by_password,
        }
        failed: set[str] = set()
        for _ in range(_MOST_ROUNDS):
            if done:
                return
            method = next((name for name in methods if name in self._offered and name not in failed), None)
            if method is None:
                break
            self._partial = False
            done = methods[method]()
            if self._partial:
                failed = set()
            else:
                failed.add(method)
        if done:
            return
        nobody = self._asked.nobody
        raise AuthenticationError(
            self._where, self._attempts(), self._offered, "" if nobody is None else str(nobody)
        ) from nobody

    def _attempts(self) -> list[str]:
        return [f"{name} ({'; '.join(what)})" if any(what) else name for name, what in self._tried.items()]

    def _settled(self, answer: _Answer) -> bool:
        """Take a success or a failure in; return whether we are in."""
        if answer.kind == _SUCCESS:
            return True
        if answer.kind == _FAILURE:
            self._offered = list(answer.message.get_list())
            self._partial = answer.message.get_boolean()
        return False

    def _by_keys(self, identities: Iterator[Identity]) -> bool:
        """Offer keys until one is taken; those that are left are for when the server wants another one."""
        tried = self._tried.setdefault("publickey", [])
        blind: list[FileIdentity] = []
        for identity in identities:
            public = identity.public()
            if not public and isinstance(identity, FileIdentity):
                blind.append(identity)
            for kind, blob in public:
                if self._by_key(identity, kind, blob) or self._partial:
                    tried.append(identity.label)
                    return not self._partial
                if "publickey" not in self._offered:
                    break
            tried.append(identity.label)
        for file in blind:
            key = file.private()
            taken = key is not None and self._by_key(file, key.get_name(), key.asbytes())
            tried.append(file.label)
            if taken or self._partial:
                return taken
        return False

    def _by_key(self, identity: Identity, kind: str, blob: bytes) -> bool:
        algorithm = self._talk.algorithm(kind)
        answer = self._talk.request("publickey", False, algorithm, blob)
        if answer.kind != _PK_OK:
            return self._settled(answer)
        signature = identity.sign(self._talk.signed_bytes(algorithm, blob), algorithm)
        if signature is None:
            return False
        return self._settled(self._talk.request("publickey", True, algorithm, blob, signature))

    def _by_answers(self) -> bool:
        self._tried.setdefault("keyboard-interactive", [])
        answer = self._talk.request("keyboard-interactive", "", "")
        while answer.kind == _INFO_REQUEST:
            message = answer.message
            title, instructions, _ = message.get_text(), message.get_text(), message.get_binary()
            prompts = [(message.get_text(), message.get_boolean()) for _ in range(message.get_int())]
            before = "\n".join(filter(None, (title.strip(), instructions.strip())))
            replies = []
            for prompt, echo in prompts:
                reply = self._asked(f"{before}\n{prompt}" if before else prompt, echo)
                if reply is None:
                    return False  # the next method, or the end, breaks this one off
                replies.append(reply)
                before = ""
            if replies:
                # Somebody answered; to be asked once more for another method would look as if it had not counted.
                self._tried.setdefault("password", []) if not self._partial else None
            self._talk.send(_INFO_RESPONSE, len(replies), *replies)
            answer = self._talk.receive()
        return self._settled(answer)

    def _by_password(self) -> bool:
        self._tried.setdefault("password", [])
        what = f"password of {self._where}"
        password = self._secrets.get(what)
        if password is None:
            password = self._asked("Password:")
        if password is None:
            return False
        answer = self._talk.request("password", False, password)
        if answer.kind == _INFO_REQUEST:
            self._tried["password"].append("it has expired: log in by ssh and change it")
            return False
        done = self._settled(answer)
        if done or self._partial:
            self._secrets.keep(what, password)
        else:
            self._secrets.forget(what)
        return done


def _bytes(signature: Any) -> bytes:
    return signature if isinstance(signature, bytes) else bytes(signature.asbytes())


def _short(path: str) -> str:
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") else path
