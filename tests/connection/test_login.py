"""How people get in: keys, passphrases, agents, passwords, codes, gates; and who is asked, how often."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import AuthenticationError, ConnectionLost, Host, SlurmExecutor, SlurmFuturesWarning
from slurmfutures._transports.base import NobodyToAsk
from tests import calls
from tests.connection.lines import agent_of, gave_up, until_connected_again
from tests.far.codes import CODE, asking_daemon
from tests.far.relay import Relay
from tests.far.sshd import Farm, Sshd, far_options, make_key
from tests.far.users import User
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.ssh

SECRET = "correct horse"


@pytest.fixture(params=["paramiko", "openssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def enter(transport: str, farm: Farm, opener: Opener) -> Callable[..., SlurmExecutor]:
    """Open an executor on the embedded scheduler, and see that it works."""

    def enter(host: str | Host, **options: Any) -> SlurmExecutor:
        executor = opener.root(**{"scheduler": "local", **far_options(farm, transport), "host": host, **options})
        assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9
        return executor

    return enter


Enter = Callable[..., SlurmExecutor]


class Person:
    """Answers questions, each by the first word that is in it; nobody is there where there is no answer."""

    def __init__(self, answers: Mapping[str, str | list[str]] | None = None) -> None:
        self._answers = answers or {}
        self.asked: list[tuple[str, str, bool]] = []
        self.before_answering: Callable[[], None] = lambda: None

    def __call__(self, host: str, prompt: str, echo: bool) -> str:
        self.asked.append((host, prompt, echo))
        answer = next((answer for word, answer in self._answers.items() if word in prompt.lower()), [])
        if not answer:
            raise NobodyToAsk("nobody is there")
        self.before_answering()
        return answer if isinstance(answer, str) else answer.pop(0)


# ---- the way


def test_an_alias_of_the_configuration(enter: Enter) -> None:
    enter("sf-login")


def test_through_the_gates_of_the_configuration(enter: Enter, farm: Farm) -> None:
    before = [len(_logins(gate)) for gate in (*farm.gates, farm.login)]
    enter("sf-behind")
    assert [len(_logins(gate)) for gate in (*farm.gates, farm.login)] == [count + 1 for count in before]


def test_through_a_command_of_the_configuration(enter: Enter, farm: Farm) -> None:
    before = len(_logins(farm.gates[0]))
    enter("sf-proxy")
    assert len(_logins(farm.gates[0])) == before + 1


@pytest.mark.parametrize("jump", ["sf-gate1", ["sf-gate2", "sf-gate1"], []])
def test_through_gates_that_are_named(enter: Enter, farm: Farm, jump: str | list[str]) -> None:
    before = [len(_logins(gate)) for gate in farm.gates]
    enter(farm.login.address, jump=jump)
    after = [len(_logins(gate)) for gate in farm.gates]
    assert sum(after) - sum(before) == (1 if isinstance(jump, str) else len(jump))


def test_each_gate_has_a_user_a_port_and_a_key_of_its_own(enter: Enter, farm: Farm, tmp_path: Path) -> None:
    config = farm.write_config(tmp_path / "config")
    make_key(tmp_path / "other")
    with closing(User(tmp_path, "sf-gatekeeper")) as user:
        gate = Sshd(tmp_path / "gate", tmp_path / "other.pub")
        with closing(gate):
            farm.know(gate.known_host())
            jump = Host(f"{user.name}@127.0.0.1:{gate.port}", key=tmp_path / "other")
            enter(Host(farm.login.address, key=farm.key), jump=jump, ssh_config=config)
            assert f"for {user.name} from" in gate.log()


def test_one_connection_and_one_session_whatever_is_done(enter: Enter, farm: Farm, tmp_path: Path) -> None:
    authorized = farm.key.with_suffix(".pub")
    limits = ["MaxSessions 1", "MaxStartups 1:100:1"]
    with closing(Sshd(tmp_path / "sshd", authorized, lines=limits)) as sshd:
        farm.know(sshd.known_host())
        executor = enter(sshd.address)
        (tmp_path / "file").write_text("text")
        executor.put(tmp_path / "file", tmp_path / "there")
        executor.run("true")
        assert list(executor.login.map(calls.square, range(20))) == [number**2 for number in range(20)]
        assert len(_logins(sshd)) == 1


def _logins(sshd: Sshd) -> list[str]:
    return re.findall(r"Accepted \S+ for \S+", sshd.log())


# ---- keys


def test_a_passphrase_is_asked_for_once(enter: Enter, farm: Farm, tmp_path: Path, relay: Relay, transport: str) -> None:
    make_key(tmp_path / "locked", SECRET)
    person = Person({"passphrase": SECRET})
    config = farm.write_config(tmp_path / "config", keys=[tmp_path / "locked"])
    with closing(Sshd(tmp_path / "sshd", tmp_path / "locked.pub")) as sshd, closing(Relay(sshd.port)) as own:
        farm.know(sshd.known_host(own.port))
        executor = enter(f"127.0.0.1:{own.port}", ssh_config=config, ask=person)
        assert len(person.asked) == 1
        assert "locked" in person.asked[0][1]
        assert person.asked[0][2] is False
        agent = agent_of(executor)
        own.cut()
        until_connected_again(executor, agent)
        assert executor.login.submit(calls.square, 4).result(DEADLINE) == 16
        assert len(person.asked) == 1


def test_a_wrong_passphrase_is_told_and_not_asked_for_again(enter: Enter, farm: Farm, tmp_path: Path) -> None:
    make_key(tmp_path / "locked", SECRET)
    person = Person({"passphrase": "wrong"})
    config = farm.write_config(tmp_path / "config", keys=[tmp_path / "locked"])
    with closing(Sshd(tmp_path / "sshd", tmp_path / "locked.pub")) as sshd:
        farm.know(sshd.known_host())
        with pytest.raises(AuthenticationError) as caught:
            enter(sshd.address, ssh_config=config, ask=person)
    assert len(person.asked) == 1
    assert SECRET not in str(caught.value)
    assert "wrong" not in caught.value.reason


def test_a_locked_key_that_is_of_no_use_is_not_asked_for(enter: Enter, farm: Farm, tmp_path: Path) -> None:
    make_key(tmp_path / "locked", SECRET)
    person = Person()
    config = farm.write_config(tmp_path / "config", keys=[tmp_path / "locked", farm.key])
    enter("sf-login", ssh_config=config, ask=person)
    assert person.asked == []


def test_a_key_that_an_agent_holds(
    enter: Enter, farm: Farm, tmp_path: Path, ssh_agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "held", SECRET)
    script = tmp_path / "secret"
    script.write_text(f"#!/bin/sh\necho '{SECRET}'\n")
    script.chmod(0o755)
    env = {**os.environ, "SSH_AUTH_SOCK": ssh_agent, "SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
    env["DISPLAY"] = ":0"
    subprocess.run(["ssh-add", "-q", tmp_path / "held"], env=env, stdin=subprocess.DEVNULL, check=True)
    monkeypatch.setenv("SSH_AUTH_SOCK", ssh_agent)
    first = ["IdentityAgent SSH_AUTH_SOCK", "IdentitiesOnly no"]
    config = farm.write_config(tmp_path / "config", *first, keys=[tmp_path / "held"])
    person = Person()
    shutil.copy(tmp_path / "held.pub", tmp_path / "authorized")
    with closing(Sshd(tmp_path / "sshd", tmp_path / "authorized")) as sshd:
        farm.know(sshd.known_host())
        enter(sshd.address, ssh_config=config, ask=person)
        (tmp_path / "held").unlink()
        (tmp_path / "held.pub").unlink()
        enter(sshd.address, ssh_config=config, ask=person)
    assert person.asked == []


@pytest.fixture
def ssh_agent() -> Iterator[str]:
    """The socket of an ssh-agent."""
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    path = folder / "agent"  # the length of a socket's path is limited
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        until(path.exists)
        yield str(path)
        process.terminate()
    shutil.rmtree(folder)


# ---- passwords and codes


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with closing(User(tmp_path, "sf-typist", password=SECRET)) as user:
        yield user


@pytest.fixture
def passwords(farm: Farm, tmp_path: Path) -> Iterator[Relay]:
    """A relay before a login node that takes passwords."""
    lines = ["PasswordAuthentication yes", "PubkeyAuthentication no"]
    with closing(Sshd(tmp_path / "sshd", tmp_path, lines=lines)) as sshd, closing(Relay(sshd.port)) as relay:
        farm.know(sshd.known_host(relay.port))
        yield relay


def test_a_password_is_asked_for_once(enter: Enter, user: User, passwords: Relay) -> None:
    person = Person({"password": SECRET})
    executor = enter(f"{user.name}@127.0.0.1:{passwords.port}", ask=person)
    assert [(host, echo) for host, _, echo in person.asked] == [(f"{user.name}@127.0.0.1", False)]
    agent = agent_of(executor)
    passwords.cut()
    until_connected_again(executor, agent)
    assert executor.login.submit(calls.square, 4).result(DEADLINE) == 16
    assert len(person.asked) == 1


def test_a_wrong_password_is_not_asked_for_again(enter: Enter, user: User, passwords: Relay) -> None:
    person = Person({"password": "wrong"})
    with pytest.raises(AuthenticationError) as caught:
        enter(f"{user.name}@127.0.0.1:{passwords.port}", ask=person)
    assert len(person.asked) == 1
    assert "password" in caught.value.offered
    assert "check the user's name" in str(caught.value)


def test_without_anybody_to_ask_it_says_so(enter: Enter, user: User, passwords: Relay) -> None:
    person = Person()
    with pytest.raises(AuthenticationError, match="nobody is there"):
        enter(f"{user.name}@127.0.0.1:{passwords.port}", ask=person)
    assert len(person.asked) == 1


QUESTIONS = 2


@pytest.fixture
def codes(farm: Farm, tmp_path: Path, user: User) -> Iterator[Relay]:
    """A relay before a login node that asks twice."""
    with asking_daemon(tmp_path, user) as sshd, closing(Relay(sshd.port)) as relay:
        farm.know(sshd.known_host(relay.port))
        yield relay


def test_several_questions_are_passed_on(enter: Enter, user: User, codes: Relay) -> None:
    person = Person({CODE: "123456", "password": SECRET})
    enter(f"{user.name}@127.0.0.1:{codes.port}", ask=person)
    assert [host for host, _, _ in person.asked] == [f"{user.name}@127.0.0.1"] * QUESTIONS
    assert CODE in person.asked[-1][1].lower()


@pytest.mark.filterwarnings("always::slurmfutures.SlurmFuturesWarning")
def test_a_reconnect_says_that_it_needs_somebody_and_asks_once(
    enter: Enter, user: User, codes: Relay, recwarn: pytest.WarningsRecorder, gate: Gate
) -> None:
    person = Person({CODE: ["1", "2"], "password": [SECRET] * 3})
    executor = enter(f"{user.name}@127.0.0.1:{codes.port}", ask=person)
    agent = agent_of(executor)
    codes.cut()
    until_connected_again(executor, agent)
    assert len(person.asked) == 2 * QUESTIONS
    said = [str(warning.message) for warning in recwarn if warning.category is SlurmFuturesWarning]
    assert len(said) == 1
    assert "was lost, and another one needs you" in said[0]
    future = executor.submit(calls.pass_gate, gate.folder)
    codes.cut()
    with pytest.raises(ConnectionLost, match="nobody is there"):
        future.result(DEADLINE)
    assert len(person.asked) == 3 * QUESTIONS
    with pytest.raises(ConnectionLost, match="nobody is there"):
        executor.submit(calls.square, 1)


@pytest.mark.filterwarnings("ignore::slurmfutures.SlurmFuturesWarning")
def test_a_wrong_answer_in_a_reconnect_is_the_end(enter: Enter, user: User, codes: Relay) -> None:
    person = Person({CODE: "1", "password": [SECRET, "wrong", SECRET]})
    executor = enter(f"{user.name}@127.0.0.1:{codes.port}", ask=person)
    codes.cut()
    until(lambda: gave_up(executor))
    assert len(person.asked) == QUESTIONS + 1
    with pytest.raises(ConnectionLost, match="did not let us in"):
        executor.submit(calls.square, 1)


@pytest.mark.filterwarnings("ignore::slurmfutures.SlurmFuturesWarning")
def test_nobody_is_asked_again_when_the_connection_breaks_after_the_answers(
    enter: Enter, user: User, codes: Relay
) -> None:
    person = Person({CODE: "1", "password": SECRET})
    executor = enter(f"{user.name}@127.0.0.1:{codes.port}", ask=person)

    def break_it() -> None:
        if len(person.asked) == 2 * QUESTIONS:
            codes.cut()

    person.before_answering = break_it
    codes.cut()
    until(lambda: gave_up(executor))
    assert len(person.asked) == 2 * QUESTIONS
    with pytest.raises(ConnectionLost, match="you were asked once"):
        executor.submit(calls.square, 1)
