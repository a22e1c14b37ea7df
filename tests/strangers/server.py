"""A scripted SSH server that means no good.

    with closing(Server(rounds)) as server:
        ...  # connects to server.address, whose key is server.known_host

A script is a function of `Talk`: it is called once the keys are exchanged, and all that the client sends from then on
comes to it. A raw script is a function of a socket, called before anything is said.
"""

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paramiko import ECDSAKey, Message, ServerInterface, Transport
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

DISCONNECT, IGNORE, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 1, 2, 4, 5, 6, 7
REQUEST, FAILURE, SUCCESS, BANNER, INFO_REQUEST, INFO_RESPONSE = 50, 51, 52, 53, 60, 61
CHANNEL_OPEN, CHANNEL_CONFIRMED, WINDOW_ADJUST, CHANNEL_DATA, CHANNEL_REQUEST, CHANNEL_SUCCESS = 90, 91, 93, 94, 98, 99
CHANNEL_EXTENDED_DATA, CHANNEL_EOF, CHANNEL_CLOSE = 95, 96, 97
MOST = 2**32 - 1

GREETING = b"SSH-2.0-OpenSSH_9.2\r\n"

Script = Callable[["Talk"], None]
Raw = Callable[[socket.socket], None]

_BROKEN = (OSError, EOFError, SSHException)


class Ended(Exception):
    """The client has gone."""


class Talk:
    """What a script sees of one connection."""

    def __init__(self, transport: "_Transport") -> None:
        self._transport = transport
        self._messages: queue.SimpleQueue[tuple[int, Message] | None] = queue.SimpleQueue()
        self.answers: list[str] = []  # what the client's user has answered
        self.channel = 0  # the client's number of it
        # paramiko looks for handlers in here; nothing that comes after the keys is its own business.
        self._handler_table = {kind: self._receiver(kind) for kind in (SERVICE_REQUEST, *range(50, 101))}

    def _receiver(self, kind: int) -> Callable[[Message], None]:
        return lambda message: self._messages.put((kind, message))

    def abort(self) -> None:
        self._messages.put(None)

    def is_authenticated(self) -> bool:
        return True

    # ---- for scripts

    def send(self, kind: int, *fields: str | bytes | bool | int) -> None:
        """Send a message; ints are of four bytes, texts have their length before them."""
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
        except _BROKEN:
            raise Ended from None

    def flood(self, kind: int, *fields: str | bytes | bool | int) -> None:
        while True:
            self.send(kind, *fields)

    def receive(self) -> tuple[int, Message]:
        found = self._messages.get()
        if found is None:
            raise Ended
        return found

    def expect(self, kind: int) -> Message:
        """Return the next message of a kind; others are passed over."""
        while True:
            found, message = self.receive()
            if found == kind:
                return message

    def silence(self) -> None:
        """Say nothing until the client goes."""
        while True:
            self.receive()

    def stop_reading(self) -> None:
        """Let what comes pile up on the way."""
        self._transport.packetizer.stalled = True

    def offer(self, methods: str) -> Message:
        """Name methods until the client tries one of them; return the rest of what it says then."""
        self.expect(SERVICE_REQUEST)
        self.send(SERVICE_ACCEPT, "ssh-userauth")
        while True:
            message = self.expect(REQUEST)
            _, _, method = (message.get_text() for _ in range(3))
            if method in methods.split(","):
                return message
            self.send(FAILURE, methods, False)

    def ask(self, *prompts: str) -> list[str]:
        """Ask, in one round of keyboard-interactive, and return the answers."""
        fields: list[str | bool] = [field for prompt in prompts for field in (prompt, False)]
        self.send(INFO_REQUEST, "", "", "", len(prompts), *fields)
        message = self.expect(INFO_RESPONSE)
        answers = [message.get_text() for _ in range(message.get_int())]
        self.answers += answers
        return answers

    def take_password(self) -> None:
        """Ask for a password, and let the client in."""
        message = self.offer("password")
        message.get_boolean()
        self.answers.append(message.get_text())
        self.send(SUCCESS)

    def take_key(self) -> None:
        """Ask for a key, and let the client in by whichever it has."""
        message = self.offer("publickey")
        signed, algorithm, blob = message.get_boolean(), message.get_text(), message.get_string()
        if not signed:
            self.send(INFO_REQUEST, algorithm, blob)  # the same number says that a key would do
            self.expect(REQUEST)
        self.send(SUCCESS)

    def let_in(self) -> None:
        """Let the client in without a question."""
        self.expect(SERVICE_REQUEST)
        self.send(SERVICE_ACCEPT, "ssh-userauth")
        self.expect(REQUEST)
        self.send(SUCCESS)

    def open_channel(self) -> str:
        """Take the client's channel, and return of what kind it is."""
        message = self.expect(CHANNEL_OPEN)
        kind = message.get_text()
        self.channel = message.get_int()
        self.send(CHANNEL_CONFIRMED, self.channel, 0, 1 << 20, 1 << 15)
        return kind

    def run(self) -> None:
        """Let the client run a command, which is never run."""
        self.expect(CHANNEL_REQUEST)
        self.send(CHANNEL_SUCCESS, self.channel)

    def pretend(self) -> None:
        """Let the client run a command, and say a word in its place."""
        self.open_channel()
        self.run()
        self.send(CHANNEL_DATA, self.channel, "word\n")
        self.silence()

    def forward(self) -> None:
        """Pass on what the client says to another server, as a jump host does."""
        message = self.expect(CHANNEL_OPEN)
        assert message.get_text() == "direct-tcpip"
        self.channel, _, _ = message.get_int(), message.get_int(), message.get_int()
        with socket.create_connection((message.get_text(), message.get_int())) as end:
            self.send(CHANNEL_CONFIRMED, self.channel, 0, 1 << 30, 1 << 15)
            answers = threading.Thread(target=self._pass_back, args=(end,), daemon=True)
            answers.start()
            try:
                while True:
                    data = self.expect(CHANNEL_DATA)
                    data.get_int()
                    end.sendall(data.get_string())
            finally:
                end.shutdown(socket.SHUT_RDWR)
                answers.join()

    def _pass_back(self, end: socket.socket) -> None:
        with contextlib.suppress(Ended, OSError):
            while data := end.recv(1 << 14):
                self.send(CHANNEL_DATA, self.channel, data)


class _Packets(Packetizer):
    stalled = False  # nothing more is read

    def start_handshake(self, timeout: float) -> None:
        """No timer, which would outlive the connection."""

    def read_message(self) -> tuple[int, Message]:
        while self.stalled and not self.closed:
            threading.Event().wait(0.05)
        return super().read_message()


class _Transport(Transport):
    packetizer: _Packets

    def __init__(self, end: socket.socket, key: ECDSAKey) -> None:
        super().__init__(end, packetizer_class=_Packets)
        self.add_server_key(key)
        self.talk = self.auth_handler = Talk(self)  # type: ignore[assignment]
        for kind in range(80, 101):
            self._handler_table.pop(kind, None)  # type: ignore[attr-defined]
        self._channel_handler_table: dict[int, Any] = {}


class Server:
    """Listens on 127.0.0.1 until it is closed; each connection has a run of the script of its own."""

    def __init__(self, script: Script | None = None, raw: Raw | None = None) -> None:
        self._script = script
        self._raw = raw
        self._key = ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # little room where nothing is read
        self.port = int(self._listener.getsockname()[1])
        self.address = f"me@127.0.0.1:{self.port}"
        self.known_host = f"[127.0.0.1]:{self.port} {self._key.get_name()} {self._key.get_base64()}\n"
        self.talks: list[Talk] = []
        self._ends: list[socket.socket] = []
        self._transports: list[_Transport] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            self._ends.append(end)
            thread = threading.Thread(target=self._serve, args=(end,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, end: socket.socket) -> None:
        with contextlib.suppress(Ended, *_BROKEN):
            if self._raw is not None:
                self._raw(end)
                return
            transport = _Transport(end, self._key)
            self._transports.append(transport)
            self.talks.append(transport.talk)
            done = threading.Event()
            transport.start_server(event=done, server=ServerInterface())
            while not done.wait(0.1):
                if not transport.is_active():
                    return
            assert self._script is not None
            self._script(transport.talk)
            transport.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()
            transport.talk.abort()
        for end in self._ends:
            end.close()
        for thread in [*self._threads, *self._transports]:
            thread.join(10)


def write_config(folder: Path, *servers: Server, lines: Sequence[str] = ()) -> Path:
    """Write an ssh configuration that knows servers, and has no keys but those of `lines`."""
    known_hosts, config = folder / "known_hosts", folder / "config"
    known_hosts.write_text("".join(server.known_host for server in servers))
    nothing = ["IdentityAgent none", "IdentityFile none", "IdentitiesOnly yes", "GlobalKnownHostsFile none"]
    config.write_text("\n".join([*lines, *nothing, f"UserKnownHostsFile {known_hosts}", ""]))
    return config


# ---- scripts


def silent(end: socket.socket) -> None:
    while end.recv(1 << 16):
        pass


def greeting(end: socket.socket) -> None:
    end.sendall(GREETING)
    silent(end)


def endless_line(end: socket.socket) -> None:
    while True:
        end.sendall(b"x" * (1 << 16))


def endless_lines(end: socket.socket) -> None:
    while True:
        end.sendall(b"welcome\r\n" * 1000)


def endless_packet(end: socket.socket) -> None:
    end.sendall(GREETING + struct.pack(">IB", MOST - 3, 4))
    endless_line(end)


def after_keys(talk: Talk) -> None:
    talk.silence()


def after_greeting_of_login(talk: Talk) -> None:
    talk.expect(SERVICE_REQUEST)
    talk.send(SERVICE_ACCEPT, "ssh-userauth")
    talk.silence()


def at_keyboard(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    talk.silence()


def after_answer(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    talk.ask("Password: ")
    talk.silence()


def after_login(talk: Talk) -> None:
    talk.let_in()
    talk.silence()


def after_channel(talk: Talk) -> None:
    talk.let_in()
    talk.open_channel()
    talk.silence()


def rounds(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    while True:
        talk.ask("Password: ")


def empty_rounds(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    while True:
        talk.ask()


def factors(talk: Talk) -> None:
    talk.expect(SERVICE_REQUEST)
    talk.send(SERVICE_ACCEPT, "ssh-userauth")
    while True:
        message = talk.expect(REQUEST)
        _, _, method = (message.get_text() for _ in range(3))
        if method == "keyboard-interactive":
            talk.ask("Password: ")
        talk.send(FAILURE, "keyboard-interactive", True)


def many_prompts(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    talk.send(INFO_REQUEST, "", "", "", MOST, "Password: ", False)
    talk.silence()


def long_prompt(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    talk.ask("x" * 200_000)


def cut_off_prompt(talk: Talk) -> None:
    """Announce more than there is; paramiko would make up a megabyte."""
    talk.offer("keyboard-interactive")
    talk.send(INFO_REQUEST, "", "", "", 30, (1 << 20) - 1)
    talk.silence()


def no_text(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    talk.send(INFO_REQUEST, b"\xff", b"\xfe", b"\x80", 1, b"\xff Password: ", False)
    answers = talk.expect(INFO_RESPONSE)
    talk.answers.append(answers.get_text())
    talk.send(FAILURE, b"\xff\xfe", False)
    talk.silence()


def banners(talk: Talk) -> None:
    talk.expect(SERVICE_REQUEST)
    talk.send(SERVICE_ACCEPT, "ssh-userauth")
    talk.flood(BANNER, "x" * 30_000, "")


def ignored(talk: Talk) -> None:
    talk.flood(IGNORE, "x" * 30_000)


def debugs(talk: Talk) -> None:
    talk.flood(DEBUG, True, "x" * 30_000, "")


def failures(talk: Talk) -> None:
    talk.expect(SERVICE_REQUEST)
    talk.send(SERVICE_ACCEPT, "ssh-userauth")
    talk.flood(FAILURE, "keyboard-interactive", True)


def flood_behind_a_prompt(talk: Talk) -> None:
    """While a person is asked, no clock runs."""
    talk.offer("keyboard-interactive")
    talk.send(INFO_REQUEST, "", "", "", 1, "Password: ", False)
    talk.flood(INFO_REQUEST, "x" * 30_000, "", "", 1, "Password: ", False)


def extensions(talk: Talk) -> None:
    talk.send(EXT_INFO, MOST)
    talk.silence()


def long_farewell(talk: Talk) -> None:
    talk.offer("keyboard-interactive")
    talk.send(DISCONNECT, 2, "x" * 100_000, "")
    talk.silence()


def data(talk: Talk) -> None:
    """Send data without end, whatever the window of the channel."""
    talk.let_in()
    talk.open_channel()
    talk.run()
    talk.flood(CHANNEL_DATA, talk.channel, "x" * 30_000)


def errors(talk: Talk) -> None:
    talk.let_in()
    talk.open_channel()
    talk.run()
    talk.flood(CHANNEL_EXTENDED_DATA, talk.channel, 1, "x" * 30_000)


def hostile_exit(talk: Talk) -> None:
    talk.let_in()
    talk.open_channel()
    talk.run()
    talk.send(CHANNEL_REQUEST, talk.channel, "exit-status", False, MOST)
    talk.send(CHANNEL_EOF, talk.channel)
    talk.send(CHANNEL_CLOSE, talk.channel)
    talk.silence()


SILENCES: Sequence[Script] = (
    after_keys,
    after_greeting_of_login,
    at_keyboard,
    after_answer,
    after_login,
    after_channel,
)
FLOODS: Sequence[Script] = (
    many_prompts,
    cut_off_prompt,
    long_prompt,
    banners,
    ignored,
    debugs,
    failures,
    flood_behind_a_prompt,
    extensions,
)
RAW_FLOODS: Sequence[Raw] = (endless_line, endless_lines, endless_packet)
