"""No way in, or nothing to start there: one line says what, where, why, and what to do."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from slurmfutures import (
    AgentError,
    AuthenticationError,
    Host,
    HostKeyError,
    HostUnreachable,
    PythonMismatch,
    SchedulerNotFound,
    SlurmExecutor,
    SlurmFuturesError,
)
from slurmfutures._transports.base import NobodyToAsk
from tests.far.sshd import Farm, far_options, make_key
from tests.fix_executors import Opener

pytestmark = pytest.mark.ssh

Try = Callable[..., SlurmFuturesError]


@pytest.fixture(params=["paramiko", "openssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def error_of(transport: str, farm: Farm, opener: Opener) -> Try:
    """Return the error that it takes to open an executor; its message is one line."""

    def error_of(**options: Any) -> SlurmFuturesError:
        with pytest.raises(SlurmFuturesError) as caught:
            opener.root(**{"scheduler": "local", **far_options(farm, transport), "host": farm.login.address, **options})
        first, _, rest = str(caught.value).partition("\n")
        assert not rest or isinstance(caught.value, AgentError), "stderr follows, if anything"
        assert len(first) < 1000
        return caught.value

    return error_of


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are made, and nobody says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port where nobody is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# ---- the way there


def test_an_unknown_name(error_of: Try) -> None:
    error = error_of(host="no-such-host.invalid")
    assert isinstance(error, HostUnreachable)
    assert "no-such-host.invalid" in str(error)
    assert "is not known" in str(error)
    assert "check its spelling" in str(error)


def test_an_unknown_name_of_a_gate(error_of: Try) -> None:
    error = error_of(jump="no-such-gate.invalid")
    assert isinstance(error, HostUnreachable)
    assert "no-such-gate.invalid is not known" in str(error)


def test_a_port_where_nobody_is(error_of: Try, closed: int) -> None:
    error = error_of(host=f"127.0.0.1:{closed}")
    assert isinstance(error, HostUnreachable)
    assert f"port {closed} of 127.0.0.1: Connection refused" in str(error)
    assert "check host and port" in str(error)


def test_a_port_where_nobody_is_behind_a_gate(error_of: Try, closed: int) -> None:
    error = error_of(host=f"127.0.0.1:{closed}", jump="sf-gate1")
    assert isinstance(error, HostUnreachable)
    assert "(through sf-gate1) cannot be reached: sf-gate1 says:" in str(error)
    assert "Connection refused" in str(error)


@pytest.mark.parametrize("through", ["nobody", "a gate"])
def test_a_host_that_says_nothing(error_of: Try, silent: int, through: str) -> None:
    jump = None if through == "nobody" else "sf-gate1"
    error = error_of(host=f"127.0.0.1:{silent}", jump=jump, connect_timeout=1)
    assert isinstance(error, HostUnreachable)
    assert ("through sf-gate1" in str(error)) == (jump is not None)
    assert "connect_timeout=" in str(error)


def test_a_gate_that_says_nothing(error_of: Try, silent: int) -> None:
    error = error_of(jump=["sf-gate1", f"127.0.0.1:{silent}"], connect_timeout=1)
    assert isinstance(error, HostUnreachable)
    assert error.host.endswith("@127.0.0.1 (through sf-gate1)")
    assert "connect_timeout=" in str(error)


def test_what_is_no_ssh_server(error_of: Try) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            end, _ = server.accept()
            with end:
                end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = error_of(host=f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert isinstance(error, HostUnreachable)


# ---- who we are


def test_a_key_that_is_not_taken(error_of: Try, farm: Farm, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    config = farm.write_config(tmp_path / "config")
    error = error_of(host=Host("sf-login", key=tmp_path / "other"), ssh_config=config)
    assert isinstance(error, AuthenticationError)
    assert error.offered == ["publickey"]
    assert error.tried
    assert "name a key that it accepts by Host(..., key=...)" in str(error)


def test_a_gate_that_does_not_let_us_in(error_of: Try, farm: Farm, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    config = farm.write_config(tmp_path / "config")
    target = Host(farm.login.address, key=farm.key)
    error = error_of(host=target, jump=Host("sf-gate1", key=tmp_path / "other"), ssh_config=config)
    assert isinstance(error, AuthenticationError)
    assert error.host.endswith("@sf-gate1")


def test_a_key_with_a_passphrase_and_nobody_to_ask(error_of: Try, farm: Farm, tmp_path: Path) -> None:
    def nobody(host: str, prompt: str, echo: bool) -> str:
        raise NobodyToAsk(f"{host} asks {prompt!r}, and nobody is here")

    make_key(tmp_path / "locked", "secret")
    config = farm.write_config(tmp_path / "config", keys=[tmp_path / "locked"])
    (tmp_path / "locked.pub").unlink()
    error = error_of(host="sf-login", ssh_config=config, ask=nobody)
    assert isinstance(error, AuthenticationError)
    assert error.offered == ["publickey"]


# ---- who they are


def test_a_host_that_is_not_known_and_the_command_that_accepts_it(
    error_of: Try, farm: Farm, transport: str, opener: Opener, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    config = farm.write_config(tmp_path / "config", f"UserKnownHostsFile {known}", keys=[farm.key])
    error = error_of(host="sf-behind", ssh_config=config)
    for hop in ("sf-gate1", "sf-gate2", "sf-behind"):
        assert isinstance(error, HostKeyError)
        assert hop in error.host
        assert "is not in" in str(error)
        assert error.fingerprint.startswith("ED25519 SHA256:")
        assert f"`{error.command}`" in str(error)
        _accept(error.command, tmp_path)
        if hop != "sf-behind":
            error = error_of(host="sf-behind", ssh_config=config)
    opener.root("local", **{**far_options(farm, transport), "host": "sf-behind", "ssh_config": config})
    assert len(known.read_text().splitlines()) == 3


def _accept(command: str, folder: Path) -> None:
    """Type a command and say yes to what it asks."""
    script = folder / "yes"
    script.write_text("#!/bin/sh\necho yes\n")
    script.chmod(0o755)
    env = {**os.environ, "SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    subprocess.run(["/bin/bash", "-c", command], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def test_a_host_whose_key_has_changed_and_the_command_that_forgets_it(
    error_of: Try, farm: Farm, transport: str, opener: Opener, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    gate = farm.gates[0].known_host().split(maxsplit=1)[1]
    known.write_text(f"[127.0.0.1]:{farm.login.port} {gate}")
    config = farm.write_config(tmp_path / "config", f"UserKnownHostsFile {known}", keys=[farm.key])
    for _ in range(2):
        error = error_of(host="sf-login", ssh_config=config, accept_new_host_keys=True)
        assert "has changed from ED25519 SHA256:" in str(error)
    assert isinstance(error, HostKeyError)
    assert error.command.startswith("ssh-keygen -R")
    subprocess.run(["/bin/bash", "-c", error.command], capture_output=True, check=True)
    options = {**far_options(farm, transport), "host": "sf-login", "ssh_config": config}
    opener.root("local", **options, accept_new_host_keys=True)
    assert farm.login.known_host().split()[2] in known.read_text()
    opener.root("local", **options)


# ---- what is there


def test_no_python(error_of: Try) -> None:
    error = error_of(python="python-of-nobody")
    assert isinstance(error, AgentError)
    assert "python-of-nobody was not found" in str(error)
    assert "python=" in str(error)
    assert not error.transient


def test_a_python_that_is_too_old(error_of: Try, tmp_path: Path) -> None:
    old = tmp_path / "old"
    version = "import sys; sys.version_info = (3, 6, 9); sys.argv = sys.argv[1:]; exec(sys.argv[0])"
    old.write_text(f'#!/bin/bash\nexec {quote(sys.executable)} -I -c {quote(version)} "${{@:5}}"\n')
    old.chmod(0o755)
    error = error_of(python=str(old))
    assert isinstance(error, PythonMismatch)
    assert "is Python 3.6, which is too old: name one of 3.8 or newer by python=" in str(error)


def test_no_slurm(error_of: Try) -> None:
    error = error_of(scheduler="slurm", setup="PATH=/nonexistent")
    assert isinstance(error, SchedulerNotFound)
    assert "sbatch was not found" in str(error)


def test_a_work_dir_below_a_file(error_of: Try, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = error_of(work_dir=tmp_path / "file/work")
    assert "file/work on " in str(error)
    assert "Not a directory; name another folder by work_dir=" in str(error)


@pytest.mark.parametrize(("how", "words"), [("ro", "Read-only file system"), ("size=16k", "No space left on device")])
def test_a_work_dir_that_cannot_be_written(error_of: Try, tmp_path: Path, how: str, words: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", disk], check=True)
    try:
        error = error_of(work_dir=disk / "work")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert f"cannot be used: {words}; name another folder by work_dir=" in str(error)


def test_a_work_dir_of_somebody_else(error_of: Try, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    os.chown(tmp_path / "work", 12345, -1)
    assert "belongs to another user; name another folder by work_dir=" in str(error_of(work_dir=tmp_path / "work"))


def test_a_work_dir_that_others_could_read_is_closed_to_them(
    transport: str, farm: Farm, opener: Opener, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir(mode=0o755)
    opener.root("local", **far_options(farm, transport), host="sf-login", work_dir=tmp_path / "work")
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700


# ---- before anybody is asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": " "}, "host ' ' cannot be understood"),
        ({"host": "me@"}, "host 'me@' cannot be understood"),
        ({"host": "login:99999"}, "the port '99999' is no number from 1 to 65535"),
        ({"host": "-oProxyCommand=x"}, "cannot be understood"),
        ({"host": "login", "transport": "telnet"}, "transport='telnet' is not known: it is 'paramiko' or 'openssh'"),
        ({"host": "login", "ssh_config": "/nonexistent"}, "ssh_config='/nonexistent' cannot be read"),
        ({"host": "login", "jump": "a b"}, "host 'a b' cannot be understood"),
        ({"host": "login", "connect_timeout": 0}, "connect_timeout must be a number of seconds greater than 0, not 0"),
        ({"host": "login", "heartbeat": -1}, "heartbeat must be a number of seconds greater than 0, not -1"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        SlurmExecutor(**options)


def test_a_jump_to_nowhere() -> None:
    with pytest.raises(TypeError, match="jump='gate' needs a host"):
        SlurmExecutor(jump="gate")
    with pytest.raises(ValueError, match="there is no such file"):
        Host("login", key="/nonexistent")
