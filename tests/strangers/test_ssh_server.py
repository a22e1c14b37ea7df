"""A server that hangs, floods or asks without an end: what it costs, and how the error reads."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slurmfutures import HostUnreachable, SlurmFuturesError
from slurmfutures._hosts import find_route
from slurmfutures._ssh import Entrance
from slurmfutures._transports import openssh, paramiko
from slurmfutures._transports.base import GaveUp
from slurmfutures._transports.limits import CONNECT_TIMEOUT, LOGIN_TIMEOUT, MOST_QUESTIONS, MOST_ROUNDS
from tests.strangers import server as scripts
from tests.strangers.server import Raw, Script, Server, Talk, write_config
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.ssh

TIMEOUT = 1.0  # seconds for a host
MOST_MEMORY = 48  # megabytes
MOST_ERROR = 1500  # characters

Openers = paramiko.Opener | openssh.Opener


@pytest.fixture(params=["paramiko", "openssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Person:
    """Answers each question, after some seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.asked = 0

    def __call__(self, host: str, prompt: str, echo: bool) -> str:
        self.asked += 1
        begun = time.monotonic()
        until(lambda: time.monotonic() >= begun + self._seconds)
        return "secret"


def attempt(server: Server, transport: str, config: Path, person: Person, timeout: float | None = TIMEOUT) -> str:
    """Return the error that it takes to get to a server: its class, and its text."""
    entrance = Entrance(
        server.address,
        jump=None,
        transport=transport,
        ssh_config=config,
        ask=person,
        accept_new_host_keys=False,
        connect_timeout=timeout,
    )
    with pytest.raises(SlurmFuturesError) as caught:
        entrance.open("true", None).close(0.0)
    return repr(caught.value)


Try = Callable[..., str]


@pytest.fixture
def error_of(transport: str, tmp_path: Path) -> Iterator[Try]:
    """Return the error that a script makes. No thread is left that would hold the interpreter."""
    with contextlib.ExitStack() as stack:

        def error_of(
            script: Script | None = None,
            person: Person | None = None,
            raw: Raw | None = None,
            timeout: float = TIMEOUT,
        ) -> str:
            server = stack.enter_context(closing(Server(script, raw)))
            return attempt(server, transport, write_config(tmp_path, server), person or Person(), timeout)

        yield error_of
        timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        assert [timer for timer in timers if not timer.name.startswith("pytest_timeout")] == []


def opener_for(transport: str, address: str, config: Path, jump: str | None = None) -> Openers:
    route = find_route(address, jump, config)
    return paramiko.Opener(route) if transport == "paramiko" else openssh.Opener(route)


def name_of(script: object) -> str:
    return str(getattr(script, "__name__", script))


# ---- silence


def is_too_slow(error: str) -> bool:
    return error.startswith("HostUnreachable") and "it did not answer within" in error and "connect_timeout=" in error


@pytest.mark.parametrize("raw", [scripts.silent, scripts.greeting], ids=name_of)
def test_silence_before_the_keys_has_an_end(error_of: Try, raw: Raw) -> None:
    assert is_too_slow(error_of(raw=raw))


@pytest.mark.parametrize("script", scripts.SILENCES, ids=name_of)
def test_silence_at_any_stage_has_an_end(error_of: Try, script: Script) -> None:
    assert is_too_slow(error_of(script))


def test_a_server_that_stops_reading_has_an_end(error_of: Try) -> None:
    def stop_reading(talk: Talk) -> None:
        talk.let_in()
        talk.stop_reading()
        talk.silence()

    assert is_too_slow(error_of(stop_reading))


def test_a_jump_host_that_lets_nothing_through_has_an_end(tmp_path: Path, transport: str) -> None:
    """It opens the way to the next host with a window of no bytes, and says nothing more."""

    def no_window(talk: Talk) -> None:
        talk.let_in()
        message = talk.expect(scripts.CHANNEL_OPEN)
        assert message.get_text() == "direct-tcpip"
        talk.send(scripts.CHANNEL_CONFIRMED, message.get_int(), 0, 0, 1 << 15)
        talk.silence()

    with closing(Server(no_window)) as server:
        config = write_config(tmp_path, server)
        opener = opener_for(transport, "me@login.invalid", config, server.address)
        with pytest.raises(HostUnreachable) as caught:
            opener.open("true", b"", ask=Person(), timeout=TIMEOUT, accept_new_host_keys=False, stop=None)
    assert is_too_slow(repr(caught.value))
    assert caught.value.host == "me@login.invalid (through 127.0.0.1)"


def test_a_login_has_an_end_where_no_time_is_named(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CONNECT_TIMEOUT + LOGIN_TIMEOUT < 120
    for name in ("CONNECT_TIMEOUT", "LOGIN_TIMEOUT"):
        monkeypatch.setattr(f"slurmfutures._transports.{transport}.{name}", TIMEOUT)
    for script in (scripts.after_keys, scripts.at_keyboard, scripts.after_channel):
        with closing(Server(script)) as server:
            assert is_too_slow(attempt(server, transport, write_config(tmp_path, server), Person(), None))


def test_the_time_of_a_person_does_not_count(error_of: Try) -> None:
    def ask(talk: Talk) -> None:
        talk.offer("keyboard-interactive")
        assert talk.ask("Password: ") == ["secret"]
        talk.send(scripts.FAILURE, "publickey", False)
        talk.silence()

    person = Person(3 * TIMEOUT)
    assert error_of(ask, person).startswith("AuthenticationError")
    assert person.asked == 1


@pytest.mark.parametrize("script", [scripts.at_keyboard, scripts.after_channel], ids=name_of)
def test_a_silent_server_does_not_hold_who_gives_up(tmp_path: Path, transport: str, script: Script) -> None:
    stop = threading.Event()
    with closing(Server(script)) as server:
        opener = opener_for(transport, server.address, write_config(tmp_path, server))

        def give_up() -> None:
            until(lambda: server.talks)
            stop.set()

        giving_up = threading.Thread(target=give_up)
        giving_up.start()
        with pytest.raises(GaveUp):
            opener.open("true", b"", ask=Person(), timeout=DEADLINE, accept_new_host_keys=False, stop=stop)
        giving_up.join()


# ---- questions


@pytest.mark.parametrize("script", [scripts.rounds, scripts.factors], ids=name_of)
def test_questions_have_an_end(error_of: Try, script: Script) -> None:
    person = Person()
    assert error_of(script, person, timeout=DEADLINE).startswith("AuthenticationError")
    assert 0 < person.asked <= max(MOST_QUESTIONS, MOST_ROUNDS)


def test_rounds_without_a_question_have_an_end(error_of: Try, transport: str) -> None:
    error = error_of(scripts.empty_rounds)
    assert "rounds of answers" in error if transport == "paramiko" else is_too_slow(error)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_a_long_question_is_not_asked(error_of: Try, size: int) -> None:
    def ask(talk: Talk) -> None:
        talk.offer("keyboard-interactive")
        talk.ask("x" * size)

    person = Person()
    error_of(ask, person)
    assert person.asked == 0


def test_a_question_that_is_no_text_is_asked(error_of: Try) -> None:
    person = Person()
    assert error_of(scripts.no_text, person).startswith("AuthenticationError")
    assert person.asked == 1


def test_an_error_has_no_more_of_a_servers_words_than_can_be_read(error_of: Try) -> None:
    assert len(error_of(scripts.long_farewell)) < MOST_ERROR


# ---- floods

CLIENT = """
import resource, sys, threading
from slurmfutures import SlurmFuturesError
from slurmfutures._ssh import Entrance
import slurmfutures._transports.paramiko
address, config = sys.argv[1:]
def ask(host, prompt, echo):
    threading.Event().wait(2)  # the server goes on meanwhile
    return "secret"
entrance = Entrance(address, jump=None, transport="paramiko", ssh_config=config, ask=ask, accept_new_host_keys=False,
                    connect_timeout=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    entrance.open("true", None)
except SlurmFuturesError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, type(error).__name__)
"""
READER = """
import resource, sys, threading, time
from slurmfutures._hosts import find_route
from slurmfutures._transports import paramiko
address, config = sys.argv[1:]
opener = paramiko.Opener(find_route(address, None, config))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stream = opener.open("true", b"", ask=None, timeout=10, accept_new_host_keys=False, stop=None)
deadline = time.monotonic() + 3
while time.monotonic() < deadline and stream._connection.is_active():
    threading.Event().wait(0.05)  # and nobody reads
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, stream._connection.is_active())
"""


def cost_of(server: Server, config: Path, client: str = CLIENT) -> tuple[int, str]:
    """Return how many megabytes a process needs for a server, and what it says then."""
    words = [sys.executable, "-c", client, server.address, str(config)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    size, said = done.stdout.split()
    return int(size), said


@pytest.mark.parametrize("script", scripts.FLOODS, ids=name_of)
def test_a_flood_takes_little_memory(tmp_path: Path, script: Script) -> None:
    with closing(Server(script)) as server:
        size, error = cost_of(server, write_config(tmp_path, server))
    assert size < MOST_MEMORY
    assert error in ("HostUnreachable", "AuthenticationError")


@pytest.mark.parametrize("raw", scripts.RAW_FLOODS, ids=name_of)
def test_a_flood_before_the_keys_takes_little_memory(tmp_path: Path, raw: Raw) -> None:
    with closing(Server(raw=raw)) as server:
        size, error = cost_of(server, write_config(tmp_path, server))
    assert size < MOST_MEMORY
    assert error == "HostUnreachable"


@pytest.mark.parametrize("script", [scripts.data, scripts.errors], ids=name_of)
def test_data_beyond_the_window_of_a_channel_ends_the_connection(tmp_path: Path, script: Script) -> None:
    with closing(Server(script)) as server:
        size, active = cost_of(server, write_config(tmp_path, server), READER)
    assert active == "False"
    assert size < MOST_MEMORY


def test_what_a_server_has_ssh_print_has_an_end(tmp_path: Path) -> None:
    with closing(Server(scripts.banners)) as server:
        error = attempt(server, "openssh", write_config(tmp_path, server), Person(), DEADLINE)
    assert error.startswith("HostUnreachable")
    assert "bytes before it lets us in" in error


# ---- once there is a command


def test_a_stream_closes_where_the_server_does_not_read(tmp_path: Path) -> None:
    stalled = threading.Event()

    def stop_reading(talk: Talk) -> None:
        talk.let_in()
        talk.open_channel()
        talk.run()
        talk.send(scripts.WINDOW_ADJUST, talk.channel, 1 << 30)
        talk.stop_reading()
        stalled.set()
        talk.silence()

    with closing(Server(stop_reading)) as server:
        opener = opener_for("paramiko", server.address, write_config(tmp_path, server))
        stream = opener.open("true", b"", ask=Person(), timeout=DEADLINE, accept_new_host_keys=False, stop=None)
        assert stalled.wait(DEADLINE)
        data, refused = memoryview(bytes(1 << 16)), 0

        def is_full() -> bool:
            nonlocal refused
            try:
                stream.write(data)
                refused = 0
            except BlockingIOError:
                refused += 1
            return refused > 100

        until(is_full)
        closing_it = threading.Thread(target=stream.close, args=(0.0,), daemon=True)
        closing_it.start()
        closing_it.join(DEADLINE / 2)
        assert not closing_it.is_alive()
