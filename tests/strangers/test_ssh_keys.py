"""Which key of a host is taken: the one that OpenSSH would take."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurmfutures import HostKeyError
from slurmfutures._hosts import Host, find_route, resolve
from slurmfutures._transports import openssh, paramiko
from slurmfutures._transports.known_hosts import KnownHosts, Verdict
from tests.far.sshd import Sshd, make_key
from tests.strangers.accounts import Stranger
from tests.strangers.server import Server, Talk, write_config
from tests.waiting import DEADLINE

pytestmark = pytest.mark.ssh


@dataclass
class Keys:
    """A daemon, its key as a line of known_hosts without the name, and other keys."""

    sshd: Sshd
    config: Path
    known_hosts: Path
    right: str
    wrong: str
    rsa: str

    def write(self, text: str) -> None:
        names = {"PORT": str(self.sshd.port), "RIGHT": self.right, "WRONG": self.wrong, "RSA": self.rsa}
        for name, value in names.items():
            text = text.replace(name, value)
        self.known_hosts.write_bytes(text.encode())

    def verdict_of_ssh(self) -> Verdict:
        """Return what the system's ssh makes of the daemon's key."""
        words = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
        done = subprocess.run([*words, "me@127.0.0.1", "true"], capture_output=True, text=True, check=False)
        if "Permission denied" in done.stderr:
            return Verdict.KNOWN
        if "REVOKED" in done.stderr:
            return Verdict.REVOKED
        return Verdict.CHANGED if "IDENTIFICATION HAS CHANGED" in done.stderr else Verdict.UNKNOWN

    def verdict(self) -> Verdict:
        """Return what we make of it."""
        hop = resolve(Host("me@127.0.0.1"), str(self.config))
        blob = next(line.blob for line in KnownHosts.read([str(self.known_hosts) + ".all"], "host", 22).lines)
        return KnownHosts.read(hop.user_known_hosts, hop.hostname, hop.port, hop.host_key_alias).check(blob)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    if os.geteuid() != 0:
        pytest.skip("only root can start an sshd: run the tests as root")
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder / "wrong")
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", folder / "rsa"], check=True)
    with closing(Sshd(folder / "sshd", folder / "nobody", env={})) as sshd:
        known_hosts, config = folder / "known_hosts", folder / "config"
        right = sshd.known_host().split(" ", 1)[1].strip()
        wrong, rsa = (" ".join((folder / name).read_text().split()[:2]) for name in ("wrong.pub", "rsa.pub"))
        Path(f"{known_hosts}.all").write_text(f"host {right}\n")
        lines = [f"Port {sshd.port}", f"UserKnownHostsFile {known_hosts}", "GlobalKnownHostsFile none"]
        config.write_text("\n".join([*lines, "IdentityFile none", "IdentityAgent none", ""]))
        yield Keys(sshd, config, known_hosts, right, wrong, rsa)


HERE = "[127.0.0.1]:PORT"
FILES = [
    "",
    f"{HERE} RIGHT\n",
    f"{HERE} WRONG\n",
    f"{HERE} RSA\n",
    "127.0.0.1 RIGHT\n",
    "127.0.0.1 WRONG\n",
    f"{HERE} WRONG\n127.0.0.1 RIGHT\n",
    f"127.0.0.1 RIGHT\n{HERE} WRONG\n",
    f"{HERE} RSA\n127.0.0.1 RIGHT\n",
    f"{HERE} WRONG\n{HERE} RIGHT\n",
    "[127.0.0.*]:* WRONG\n127.0.0.1 RIGHT\n",
    "* WRONG\n127.0.0.1 RIGHT\n",
    "* RSA\n127.0.0.1 RIGHT\n",
    f"*,!{HERE} WRONG\n127.0.0.1 RIGHT\n",
    "*,!127.0.0.1 RIGHT\n",
    f"@cert-authority {HERE} WRONG\n127.0.0.1 RIGHT\n",
    f"@cert-authority {HERE} RIGHT\n",
    f"@revoked {HERE} WRONG\n127.0.0.1 RIGHT\n",
    f"@revoked {HERE} RIGHT\n127.0.0.1 RIGHT\n",
    f"@revoked * RIGHT\n{HERE} RIGHT\n",
    f"{HERE} ssh-ed25519 !!!!\n127.0.0.1 RIGHT\n",
    f"@other {HERE} RIGHT\n",
    f"{HERE} WRONG c\x0c{HERE} RIGHT\n",
    f"elsewhere WRONG c\x0c{HERE} RIGHT\n",
    f"elsewhere WRONG c\r{HERE} RIGHT\n",
    f"{HERE} RIGHT\r\n",
    f"{HERE}\x0bRIGHT\n",
    f"elsewhere\0,{HERE} RIGHT\n",
    f"  \t{HERE}\t RIGHT comment\n",
    f"#{HERE} RIGHT\n",
]


@pytest.mark.parametrize("hashed", ["plain", "hashed"])
@pytest.mark.parametrize("text", FILES, ids=ascii)
def test_the_verdict_is_that_of_ssh(keys: Keys, text: str, hashed: str) -> None:
    keys.write(text)
    if hashed == "hashed":
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", keys.known_hosts], capture_output=True, check=False)
    assert keys.verdict() is keys.verdict_of_ssh()


def test_a_key_for_all_ports_does_not_stand_in_for_a_changed_one(keys: Keys) -> None:
    keys.write(f"{HERE} WRONG\n127.0.0.1 RIGHT\n")
    for opener in (paramiko.Opener, openssh.Opener):
        with pytest.raises(HostKeyError, match="has changed"):
            opener(find_route("me@127.0.0.1", None, keys.config)).open(
                "true", b"", ask=_nobody, timeout=DEADLINE, accept_new_host_keys=True, stop=None
            )


def _nobody(host: str, prompt: str, echo: bool) -> str:
    raise AssertionError(f"{host} asks {prompt}")


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
@pytest.mark.parametrize("how", ["a line", "a list", "a KRL", "no list"])
def test_a_revoked_key_is_told_as_revoked(tmp_path: Path, transport: str, how: str) -> None:
    revoked = tmp_path / "revoked"
    with closing(Server(Talk.silence)) as server:
        config = write_config(tmp_path, server, lines=[] if how == "a line" else [f"RevokedHostKeys {revoked}"])
        key = " ".join(server.known_host.split()[1:])
        (tmp_path / "key.pub").write_text(f"{key}\n")
        if how == "a line":
            revoked = tmp_path / "known_hosts"
            revoked.write_text(f"{server.known_host}@revoked * {key}\n")
        elif how == "a list":
            revoked.write_text(f"{key}\n")
        elif how == "a KRL":
            subprocess.run(["ssh-keygen", "-q", "-k", "-f", revoked, tmp_path / "key.pub"], check=True)
        route = find_route(server.address, None, config)
        opener = paramiko.Opener(route) if transport == "paramiko" else openssh.Opener(route)
        with pytest.raises(HostKeyError) as caught:
            opener.open("true", b"", ask=_nobody, timeout=DEADLINE, accept_new_host_keys=True, stop=None)
    assert f"is marked as revoked in {revoked}" in str(caught.value)
    assert "ask the site" in str(caught.value)
    assert "accept" not in str(caught.value)
    assert caught.value.command == ""


def test_a_configuration_of_another_account_is_refused(
    common: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = common / ".ssh/config"
    config.parent.mkdir()
    config.write_text("Host login\n    ProxyCommand touch %h\n")
    stranger.own(config)
    monkeypatch.setenv("HOME", str(common))
    monkeypatch.setenv("PATH", "/nonexistent")  # no ssh: it refuses by itself
    with pytest.raises(
        ValueError, match=rf"{config} is not used, as ssh does not use it: it is a file of {stranger.name}"
    ):
        find_route("login")
