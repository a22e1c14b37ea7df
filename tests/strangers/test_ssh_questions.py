"""Which host asks, and who gets what was typed: no server can choose either by its words."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from slurmfutures import AuthenticationError, HostUnreachable
from slurmfutures._hosts import find_route
from slurmfutures._transports import openssh, paramiko
from tests.far.sshd import make_key
from tests.strangers.server import (
    CHANNEL_DATA,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    FAILURE,
    SUCCESS,
    Script,
    Server,
    Talk,
    write_config,
)
from tests.waiting import DEADLINE

pytestmark = pytest.mark.ssh

SECRET = "correct horse"
# What versions before 8.5 do: a server's words are not marked as such.
_OLD_SSH = """\
#!/bin/sh
[ "$1" = -V ] && {{ echo OpenSSH_8.4p1 >&2; exit; }}
[ -n "$REAL_ASKPASS" ] || export REAL_ASKPASS="$SSH_ASKPASS" SSH_ASKPASS={strip}
exec {ssh} "$@"
"""
_STRIP = """\
#!/bin/sh
exec "$REAL_ASKPASS" "$(printf %s "$1" | sed '1s/^([^ ]*) //')"
"""


@pytest.fixture(params=["this", "old"])
def version(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The version of the system's ssh."""
    if request.param == "old":
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "strip").write_text(_STRIP)
        (folder / "ssh").write_text(_OLD_SSH.format(strip=folder / "strip", ssh=shutil.which("ssh")))
        for name in ("strip", "ssh"):
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return str(request.param)


@pytest.fixture(params=["paramiko", "openssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Person:
    """Answers each question, and remembers who asked it."""

    def __init__(self, answer: str = SECRET) -> None:
        self._answer = answer
        self.asked: list[tuple[str, str]] = []

    def __call__(self, host: str, prompt: str, echo: bool) -> str:
        self.asked.append((host, prompt))
        return self._answer


class Way:
    """A jump host and a login node, each with a script for each connection."""

    def __init__(self, folder: Path, jump: Sequence[Script], login: Sequence[Script]) -> None:
        scripts = iter(jump), iter(login)
        self.jump = Server(lambda talk: next(scripts[0])(talk))
        self.login = Server(lambda talk: next(scripts[1])(talk))
        names = [f"Host {name}\n  HostName 127.0.0.1\n  Port {one.port}\n  User {name}-user" for name, one in self]
        self.config = write_config(folder, self.jump, self.login, lines=[*names, "Host *"])

    def __iter__(self) -> Iterator[tuple[str, Server]]:
        return iter([("the-jump", self.jump), ("the-login", self.login)])

    def opener(self, transport: str, jump: str | None = "the-jump") -> paramiko.Opener | openssh.Opener:
        route = find_route("the-login", jump, self.config)
        return paramiko.Opener(route) if transport == "paramiko" else openssh.Opener(route)

    def close(self) -> None:
        for _, server in self:
            server.close()


def enter(opener: paramiko.Opener | openssh.Opener, person: Person) -> None:
    """Log in, and leave again."""
    opener.open("true", b"", ask=person, timeout=DEADLINE, accept_new_host_keys=False, stop=None).close(0.0)


def asks(prompt: str) -> Script:
    """A server that asks something, and lets nobody in."""

    def ask(talk: Talk) -> None:
        talk.offer("keyboard-interactive")
        talk.ask(prompt)
        talk.send(FAILURE, "nothing", False)
        talk.silence()

    return ask


def lets_through(talk: Talk) -> None:
    talk.let_in()
    talk.forward()


def takes_password(talk: Talk) -> None:
    talk.take_password()
    talk.pretend()


PASSWORD = "the-login-user@127.0.0.1's password: "
PROMPTS = [
    "Password: ",
    PASSWORD,
    "(the-login-user@the-login) Password: ",
    "Enter passphrase for key '/home/me/.ssh/id': ",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_jump_hosts_question_has_its_name(tmp_path: Path, transport: str, version: str, prompt: str) -> None:
    person = Person()
    with closing(Way(tmp_path, [asks(prompt)], [])) as way:
        with pytest.raises(AuthenticationError) as caught:
            enter(way.opener(transport), person)
        assert way.jump.talks[0].answers == [SECRET]
    assert [host for host, _ in person.asked] == ["the-jump-user@the-jump"]
    assert caught.value.host == "the-jump-user@the-jump"


@pytest.mark.parametrize("prompt", [PASSWORD, "the-login-user@the-login's password: "])
def test_a_jump_host_does_not_get_the_login_nodes_password(
    tmp_path: Path, transport: str, version: str, prompt: str
) -> None:
    person = Person()
    with closing(Way(tmp_path, [lets_through, asks(prompt)], [takes_password])) as way:
        opener = way.opener(transport)
        enter(opener, person)
        assert way.login.talks[0].answers == [SECRET]
        assert [host for host, _ in person.asked] == ["the-login-user@the-login"]
        person._answer = "to the jump host"
        with pytest.raises(AuthenticationError):
            enter(opener, person)
        assert way.jump.talks[1].answers == ["to the jump host"]
    assert person.asked[-1][0] == "the-jump-user@the-jump"


def test_a_password_is_given_again_to_the_host_that_took_it(tmp_path: Path, transport: str, version: str) -> None:
    person = Person()
    with closing(Way(tmp_path, [lets_through] * 2, [takes_password] * 2)) as way:
        opener = way.opener(transport)
        enter(opener, person)
        enter(opener, person)
        assert [talk.answers for talk in way.login.talks] == [[SECRET], [SECRET]]
    assert len(person.asked) == 1


@pytest.mark.parametrize("hop", ["the-jump", "the-login"])
def test_no_server_gets_the_passphrase_of_a_key(tmp_path: Path, transport: str, version: str, hop: str) -> None:
    """It asks for it in the words in which ssh does."""

    def takes_key(talk: Talk) -> None:
        talk.take_key()
        if hop == "the-jump":
            talk.forward()
        talk.pretend()

    def lets_in(talk: Talk) -> None:
        talk.let_in()
        talk.pretend()

    key = tmp_path / "locked"
    make_key(key, SECRET)
    key.with_suffix(".pub").unlink()
    ask = asks(f"Enter passphrase for key '{key}': ")
    jump: list[Script] = [takes_key, ask] if hop == "the-jump" else [lets_through] * 2
    login: list[Script] = [lets_in] if hop == "the-jump" else [takes_key, ask]
    with closing(Way(tmp_path, jump, login)) as way:
        way.config.write_text(way.config.read_text().replace("IdentityFile none", f"IdentityFile {key}"))
        opener, person = way.opener(transport), Person()
        enter(opener, person)
        assert len(person.asked) == 1
        person._answer = "to a server"
        with pytest.raises(AuthenticationError):
            enter(opener, person)
        server = way.jump if hop == "the-jump" else way.login
        assert server.talks[1].answers == ["to a server"]


def test_a_program_of_the_configuration_is_no_host_of_ours(tmp_path: Path, version: str) -> None:
    """An ssh that a ProxyCommand starts asks: it gets nothing that was kept, and does not pose as the login node."""
    person = Person()
    with closing(Way(tmp_path, [lets_through, asks(PASSWORD)], [takes_password])) as way:
        proxy = f"Host the-login\n  ProxyCommand ssh -F {way.config} -W %h:%p the-jump\n"
        way.config.write_text(proxy + way.config.read_text())
        opener = way.opener("openssh", jump=None)
        enter(opener, person)
        assert [host for host, _ in person.asked] == ["the-login-user@the-login"]
        person._answer = "to the program"
        with contextlib.suppress(AuthenticationError, HostUnreachable):
            enter(opener, person)
        assert way.jump.talks[1].answers == ["to the program"]
    assert person.asked[-1][0] == "a program started by the ssh to the-login-user@the-login"


def test_the_fingerprint_in_an_error_is_the_hosts_own(tmp_path: Path, version: str) -> None:
    """A jump host asks whether a key is right, which shows up nowhere."""
    fake = (
        "The authenticity of host 'the-login' can't be established.\n"
        "ED25519 key fingerprint is SHA256:forged.\nAre you sure you want to continue connecting (yes/no)? "
    )

    def poses(talk: Talk) -> None:
        talk.offer("keyboard-interactive")
        talk.ask(fake)
        talk.send(SUCCESS)
        talk.forward()

    with closing(Way(tmp_path, [poses], [Talk.silence])) as way:
        known = tmp_path / "known_hosts"
        known.write_text(known.read_text().splitlines()[0] + "\n")
        with pytest.raises(Exception, match="is not in") as caught:
            enter(way.opener("openssh"), Person("no"))
    assert "the-login-user@the-login" in str(caught.value)
    assert "forged" not in str(caught.value)


def test_the_agent_is_not_forwarded(tmp_path: Path) -> None:
    """Whatever the configuration says: jobs would get at the keys."""
    asked: list[str] = []

    def listens(talk: Talk) -> None:
        talk.let_in()
        talk.open_channel()
        while True:
            kind, message = talk.receive()
            if kind != CHANNEL_REQUEST:
                continue
            message.get_int()
            asked.append(message.get_text())
            if asked[-1] == "exec":
                talk.send(CHANNEL_SUCCESS, talk.channel)
                talk.send(CHANNEL_DATA, talk.channel, "word\n")

    folder = tmp_path / "agent"
    folder.mkdir()
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(folder / "socket")], stdout=subprocess.DEVNULL)
    try:
        with closing(Way(tmp_path, [], [listens])) as way:
            forward = f"ForwardAgent yes\nIdentityAgent {folder / 'socket'}\n"
            way.config.write_text(forward + way.config.read_text())
            enter(way.opener("openssh", jump=None), Person())
    finally:
        agent.terminate()
        agent.wait()
    assert "exec" in asked
    assert "auth-agent-req@openssh.com" not in asked
