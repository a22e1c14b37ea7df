"""How a paramiko transport logs in: as OpenSSH does, with every question asked in the caller's thread.

paramiko's own handler asks in its transport's thread, where a notebook's prompt does not work, and signs with a key
before it knows whether the server takes it, so that it wants the passphrases of keys that are of no use. This handler
takes the place of that one: it only hands the server's messages over to the thread that logs in.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from paramiko import Message, Transport
from paramiko.ssh_exception import SSHException

from .._errors import AuthenticationError, HostUnreachable
from .._hosts import Hop
from .._printable import printable
from .asking import Asked, Secrets
from .base import GaveUp
from .identities import Agent, FileIdentity, Identity, identities

_SERVICE_REQUEST, _SERVICE_ACCEPT = 5, 6
_REQUEST, _FAILURE, _SUCCESS, _BANNER = 50, 51, 52, 53
_PK_OK = _INFO_REQUEST = 60  # which of them it is, the method tells
_INFO_RESPONSE = 61
_CERTIFICATE = "-cert-v01@openssh.com"
_LOOK = 0.1  # seconds between two looks at `stop`
_MOST_ROUNDS = 20  # of one server: no more factors than that


class Connection(Transport):
    """A transport of paramiko's that keeps what the server says when it hangs up, or opens no channel."""

    farewell = ""
    refusal = ""
    server_extensions: Mapping[str, bytes | str]

    def get_exception(self) -> Exception | None:
        """Return the error that ended the connection, printable: it may quote the server, and tracebacks show it."""
        error = super().get_exception()
        if error is not None:
            error.args = tuple(printable(word) if isinstance(word, str) else word for word in error.args)
        return error

    def _parse_disconnect(self, message: Message) -> None:
        message.get_int()
        self.farewell = message.get_text().strip()

    def _parse_channel_open_failure(self, message: Message) -> None:
        message.get_int()
        message.get_int()
        self.refusal = message.get_text().strip()
        message.rewind()
        super()._parse_channel_open_failure(message)  # type: ignore[misc]


class _Answer(NamedTuple):
    kind: int
    message: Message


class Conversation:
    """A transport's auth handler: what the server says goes into a queue, for one thread to read."""

    def __init__(self, transport: Connection, user: str, stop: threading.Event | None) -> None:
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

    @property
    def farewell(self) -> str:
        return self._transport.farewell

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
        assert self._transport.session_id is not None
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
        self._partial = False  # one factor of several was accepted
        self._answered = False  # somebody was asked, and answered

    def run(self, timeout: float) -> None:
        """Raises AuthenticationError, HostUnreachable where the server never came to it, GaveUp."""
        agent = Agent(self._hop.identity_agent)
        try:
            self._run(timeout, agent)
        except EOFError as error:
            if not self._talk.farewell:  # nobody refused us: it just broke
                raise HostUnreachable(self._where, "the connection was closed during the login") from error
            raise AuthenticationError(self._where, self._attempts(), self._offered, self._talk.farewell) from error
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
        keys = identities(self._hop, agent, self._asked, self._secrets)
        methods: Mapping[str, Callable[[], bool]] = {
            "publickey": functools.partial(self._by_keys, keys),
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
            self._answered = False
            done = methods[method]()
            if self._partial:
                failed = set()
            else:
                # Who gave a wrong answer is not asked for the same thing by another name.
                failed |= {method, "password"} if self._answered else {method}
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

    def _by_keys(self, keys: Iterator[Identity]) -> bool:
        """Offer keys until one is taken; those that are left are for when the server wants another one."""
        tried = self._tried.setdefault("publickey", [])
        blind: list[FileIdentity] = []
        for identity in keys:
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
            self._answered = self._answered or bool(replies)
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
