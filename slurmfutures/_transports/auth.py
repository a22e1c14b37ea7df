"""How a paramiko transport logs in: as OpenSSH does, with every question asked in the caller's thread.

paramiko's own handler asks in its transport's thread, where a notebook's prompt does not work, and signs with a key
before it knows whether the server takes it, so that it wants the passphrases of keys that are of no use. This handler
takes the place of that one: it only hands the server's messages over to the thread that logs in.
"""

import functools
import queue
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from paramiko import Channel, Message, Transport
from paramiko.ssh_exception import SSHException

from .._errors import AuthenticationError, HostUnreachable
from .._hosts import Hop
from .._printable import printable
from .asking import Asked, Secrets
from .identities import Agent, FileIdentity, Identity, identities
from .limits import MOST_QUESTIONS, MOST_ROUNDS, Clock, TooMuch, words
from .packets import Packets

_SERVICE_REQUEST, _SERVICE_ACCEPT = 5, 6
_REQUEST, _FAILURE, _SUCCESS, _BANNER = 50, 51, 52, 53
_PK_OK = _INFO_REQUEST = 60  # which of them it is, the method tells
_INFO_RESPONSE = 61
_CERTIFICATE = "-cert-v01@openssh.com"
_CHANNEL_DATA, _CHANNEL_EXTENDED_DATA = 94, 95
_LOOK = 0.1  # seconds between two looks at the clock
_MOST_UNREAD = 16  # messages: a server answers each request once
_MOST_EXTENSIONS = 64
WINDOW = 16 << 20  # bytes on their way to us that we have not asked for: 20 MB/s do not fill it in half a second


class Connection(Transport):
    """A transport of paramiko's with bounds on what the server sends.

    It keeps what the server says when it hangs up, or opens no channel.
    """

    farewell = ""
    refusal = ""
    server_extensions: Mapping[str, bytes | str]
    packetizer: Packets

    def __init__(self, end: Any) -> None:
        super().__init__(end, default_window_size=WINDOW, packetizer_class=Packets)
        self._channel_handler_table = {
            **Transport._channel_handler_table,  # type: ignore[attr-defined]
            _CHANNEL_DATA: _within_window(Channel._feed),  # type: ignore[attr-defined]
            _CHANNEL_EXTENDED_DATA: _within_window(Channel._feed_extended),  # type: ignore[attr-defined]
        }

    def _auth_trigger(self) -> None:
        self.packetizer.logged_in()
        super()._auth_trigger()  # type: ignore[misc]

    def _parse_ext_info(self, message: Message) -> None:
        count = message.get_int()
        if count > _MOST_EXTENSIONS:
            raise SSHException(f"it announced {count} extensions, and {_MOST_EXTENSIONS} are the most")
        message.rewind()
        super()._parse_ext_info(message)  # type: ignore[misc]

    def get_exception(self) -> Exception | None:
        """Return the error that ended the connection, printable: it may quote the server, and tracebacks show it."""
        error = super().get_exception()
        if error is not None:
            error.args = tuple(printable(word) if isinstance(word, str) else word for word in error.args)
        return error

    def _parse_disconnect(self, message: Message) -> None:
        message.get_int()
        self.farewell = words(message.get_string())

    def _parse_channel_open_failure(self, message: Message) -> None:
        message.get_int()
        message.get_int()
        self.refusal = words(message.get_string())
        message.rewind()
        super()._parse_channel_open_failure(message)  # type: ignore[misc]


def _within_window(feed: Callable[[Channel, Message], None]) -> Callable[[Channel, Message], None]:
    """Return what takes data in, but none beyond the channel's window: paramiko keeps all that comes."""

    def within_window(channel: Channel, message: Message) -> None:
        feed(channel, message)
        if len(channel.in_buffer) + len(channel.in_stderr_buffer) > WINDOW:
            raise SSHException("it sent more data than the window of the channel lets through")

    return within_window


class _Answer(NamedTuple):
    kind: int
    message: Message


class Conversation:
    """A transport's auth handler: what the server says goes into a queue, for one thread to read."""

    def __init__(self, transport: Connection, user: str, clock: Clock) -> None:
        self._transport = transport
        self._user = user
        self._clock = clock
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
        if self._answers.qsize() >= _MOST_UNREAD:
            raise SSHException("it sent answers to requests that were never made")
        if kind == _SUCCESS:
            self._authenticated = True
            self._transport._auth_trigger()
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

    @property
    def breach(self) -> SSHException | None:
        """Return by which of its messages the server has broken the protocol, None where it only hung up."""
        error = self._transport.get_exception()
        return error if isinstance(error, SSHException) else None

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

    def receive(self) -> _Answer:
        """Return the server's next message. Raises EOFError when the connection is gone, TooSlow, GaveUp."""
        while True:
            self._clock.check()
            try:
                answer = self._answers.get(timeout=_LOOK)
            except queue.Empty:
                if not self._transport.is_active() and self._answers.empty():
                    raise EOFError from None
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

    def __init__(
        self, conversation: Conversation, hop: Hop, where: str, asked: Asked, secrets: Secrets, clock: Clock
    ) -> None:
        self._talk = conversation
        self._hop = hop
        self._where = where
        self._asked = asked
        self._secrets = secrets
        self._clock = clock
        self._offered: list[str] = []
        self._tried: dict[str, list[str]] = {}
        self._rounds = 0  # of questions and answers
        self._partial = False  # one factor of several was accepted
        self._answered = False  # somebody was asked, and answered

    def run(self, timeout: float) -> None:
        """Log in within `timeout` seconds, counted from when the server names its methods.

        Raises AuthenticationError, HostUnreachable where the server breaks the protocol, TooSlow, GaveUp.
        """
        agent = Agent(self._hop.identity_agent)
        try:
            self._run(timeout, agent)
        except EOFError as error:
            if self._talk.farewell:
                raise self._denied(self._talk.farewell) from error
            breach = self._talk.breach  # without one, nobody refused us: it just broke
            why = f": {words(str(breach))}" if breach else ""
            raise HostUnreachable(self._where, f"the connection was closed during the login{why}") from error
        except SSHException as error:
            raise HostUnreachable(self._where, f"it does not talk SSH as we do: {words(str(error))}") from error
        except TooMuch as error:
            raise self._denied(str(error)) from error
        finally:
            agent.close()

    def _denied(self, reason: str) -> AuthenticationError:
        return AuthenticationError(self._where, self._attempts(), self._offered, reason)

    def _run(self, timeout: float, agent: Agent) -> None:
        self._talk.send(_SERVICE_REQUEST, "ssh-userauth")
        if self._talk.receive().kind != _SERVICE_ACCEPT:
            raise EOFError
        self._talk.send(_REQUEST, self._hop.user, "ssh-connection", "none")
        done = self._settled(self._talk.receive())
        self._clock.restart(timeout)
        keys = identities(self._hop, agent, self._asked, self._secrets)
        methods: Mapping[str, Callable[[], bool]] = {
            "publickey": functools.partial(self._by_keys, keys),
            "keyboard-interactive": self._by_answers,
            "password": self._by_password,
        }
        failed: set[str] = set()
        rounds = 0
        while not done:
            method = next((name for name in methods if name in self._offered and name not in failed), None)
            if method is None:
                nobody = self._asked.nobody
                raise self._denied("" if nobody is None else str(nobody)) from nobody
            rounds += 1
            if rounds > MOST_ROUNDS:
                raise TooMuch(f"it accepted {MOST_ROUNDS} answers and still wants more")
            self._partial = False
            self._answered = False
            done = methods[method]()
            if self._partial:
                failed = set()
            else:
                # Who gave a wrong answer is not asked for the same thing by another name.
                failed |= {method, "password"} if self._answered else {method}

    def _attempts(self) -> list[str]:
        return [f"{name} ({'; '.join(what)})" if any(what) else name for name, what in self._tried.items()]

    def _settled(self, answer: _Answer) -> bool:
        """Take a success or a failure in; return whether we are in."""
        if answer.kind == _SUCCESS:
            return True
        if answer.kind == _FAILURE:
            self._offered = words(_string(answer.message)).split(",")
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
        with self._clock.standing():  # an agent may ask its user
            signature = identity.sign(self._talk.signed_bytes(algorithm, blob), algorithm)
        if signature is None:
            return False
        return self._settled(self._talk.request("publickey", True, algorithm, blob, signature))

    def _by_answers(self) -> bool:
        self._tried.setdefault("keyboard-interactive", [])
        answer = self._talk.request("keyboard-interactive", "", "")
        while answer.kind == _INFO_REQUEST:
            self._rounds += 1
            if self._rounds > MOST_ROUNDS:
                raise TooMuch(f"it asked for more than {MOST_ROUNDS} rounds of answers")
            before, prompts = _questions(answer.message)
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


def _questions(message: Message) -> tuple[str, list[tuple[str, bool]]]:
    """Return what a server says first, and its prompts, each with whether the answer may be seen.

    Raises TooMuch, SSHException for a message that is cut off.
    """
    title, instructions, _ = (_string(message).decode("utf-8", "replace").strip() for _ in range(3))
    count = message.get_int()
    if count > MOST_QUESTIONS:
        raise TooMuch(f"it asked {count} questions at once, and {MOST_QUESTIONS} are the most")
    prompts = [(_string(message).decode("utf-8", "replace"), message.get_boolean()) for _ in range(count)]
    return "\n".join(filter(None, (title, instructions))), prompts


def _string(message: Message) -> bytes:
    """Return the next string; paramiko makes up what is missing of it."""
    size = message.get_int()
    if size > len(message.get_remainder()):
        raise SSHException("a message is cut off")
    return message.get_bytes(size)
