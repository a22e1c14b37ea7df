"""Hosts as users write them, and what the ssh configuration makes of them."""

import getpass
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import Host, _hosts
from slurmfutures._hosts import Hop, find_route, resolve


@pytest.mark.parametrize(
    ("text", "user", "name", "port"),
    [
        ("login", None, "login", None),
        ("me@login", "me", "login", None),
        ("me@login.example.org:2222", "me", "login.example.org", 2222),
        ("first.last@dept@login", "first.last@dept", "login", None),
        ("10.0.0.1:22", None, "10.0.0.1", 22),
        ("me@[2001:db8::1]:2222", "me", "2001:db8::1", 2222),
        ("[fe80::1%eth0]", None, "fe80::1%eth0", None),
        ("2001:db8::1", None, "2001:db8::1", None),
    ],
)
def test_addresses(text: str, user: str | None, name: str, port: int | None) -> None:
    host = Host(text)
    assert (host.user, host.name, host.port, str(host)) == (user, name, port, text)
    assert Host.parse(text) == host
    assert Host.parse(host) is host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@login",
        "me@",
        "-login",
        "me@-login",
        "-me@login",
        "log in",
        "login:",
        "login:ssh",
        "login:0",
        "a;b",
        "[::1",
    ],
)
def test_what_is_no_address_is_named_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="host") as caught:
        Host(text)
    assert repr(text) in str(caught.value)
    assert '"user@host:port"' in str(caught.value)


def test_a_host_that_is_no_string_is_told() -> None:
    value: Any = 22
    with pytest.raises(ValueError, match="host 22 is a int, not a string"):
        Host(value)


def test_keys_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "id").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Host("login", key="~/id").key == (str(tmp_path / "id"),)
    assert Host("login", key=[tmp_path / "id"]).key == (str(tmp_path / "id"),)
    with pytest.raises(ValueError, match="'/none' of host 'login': there is no such file"):
        Host("login", key="/none")


CONFIG = """\
Host cluster
    HostName login.example.org
    User somebody
    Port 2222
    IdentityFile "{folder}/my key"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_%h {folder}/other
    GlobalKnownHostsFile none
    ConnectTimeout 7
    StrictHostKeyChecking accept-new
    HostKeyAlias the-cluster
Host behind
    ProxyJump first,me@second:2200
Host first
    ProxyJump cluster
Host commanded
    HostName deep.example.org
    ProxyCommand nc -x gate %h %p
Host loop
    ProxyJump loop2
Host loop2
    ProxyJump loop
"""


@pytest.fixture(params=[pytest.param("ssh", marks=pytest.mark.ssh), "paramiko"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration, read by the system's ssh and by paramiko: both find the same in it."""
    if request.param == "paramiko":
        read: Callable[..., object] = _hosts._ask_paramiko
        monkeypatch.setattr(_hosts, "_ask_ssh", read)
    else:
        assert shutil.which("ssh")
    path = tmp_path / "config"
    path.write_text(CONFIG.format(folder=tmp_path))
    return str(path)


def test_an_alias_is_what_the_configuration_says(config: str, tmp_path: Path) -> None:
    hop = resolve(Host("cluster"), config)
    assert (hop.hostname, hop.user, hop.port) == ("login.example.org", "somebody", 2222)
    assert (str(hop), hop.login) == ("cluster", "somebody@cluster")
    assert hop.identity_files == (f"{tmp_path}/my key",)
    assert (hop.identities_only, hop.identity_agent) == (True, None)
    assert hop.user_known_hosts == (f"{tmp_path}/known_login.example.org", f"{tmp_path}/other")
    assert hop.global_known_hosts == ()
    assert (hop.connect_timeout, hop.new_host_keys, hop.host_key_alias) == (7.0, "accept-new", "the-cluster")


def test_what_the_address_says_goes_before_the_configuration(config: str) -> None:
    hop = resolve(Host("me@cluster:22"), config)
    assert (hop.hostname, hop.user, hop.port) == ("login.example.org", "me", 22)


def test_what_the_configuration_does_not_know_is_taken_as_it_is(config: str) -> None:
    hop = resolve(Host("elsewhere"), config)
    assert (hop.hostname, hop.user, hop.port) == ("elsewhere", getpass.getuser(), 22)
    assert (hop.proxy_jump, hop.proxy_command, hop.connect_timeout) == (None, None, None)
    assert any(path.endswith("/.ssh/id_ed25519") for path in hop.identity_files)
    assert any(path.endswith("/.ssh/known_hosts") for path in hop.user_known_hosts)


def test_a_proxy_command_is_filled_in(config: str) -> None:
    assert resolve(Host("commanded"), config).proxy_command == "nc -x gate deep.example.org 22"


def names(hops: tuple[Hop, ...]) -> list[str]:
    return [f"{hop.host}:{hop.port}" for hop in hops]


def test_jumps_of_jumps_are_followed(config: str) -> None:
    route = find_route("behind", ssh_config=config)
    assert names(route.hops) == ["cluster:2222", "first:22", "me@second:2200:2200", "behind:22"]
    assert route.describe().endswith("@behind (through cluster, first, second)")


def test_jumps_that_are_named_replace_those_of_the_configuration(config: str) -> None:
    assert names(find_route("behind", "gate", config).hops) == ["gate:22", "behind:22"]
    assert names(find_route("behind", ["a", Host("b:24")], config).hops) == ["a:22", "b:24:24", "behind:22"]
    assert names(find_route("behind", "first", config).hops) == ["cluster:2222", "first:22", "behind:22"]
    assert names(find_route("behind", [], config).hops) == ["behind:22"]


def test_jumps_in_a_circle_are_told(config: str) -> None:
    with pytest.raises(ValueError, match="in a circle"):
        find_route("loop", ssh_config=config)


@pytest.mark.ssh
def test_a_configuration_that_is_wrong_is_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host *\n    NoSuchOption yes\n")
    with pytest.raises(ValueError, match=r"ssh cannot use its configuration for 'login', it says: .*config"):
        find_route("login", ssh_config=tmp_path / "config")


def test_the_words_of_an_ssh_go_the_whole_way(config: str, tmp_path: Path) -> None:
    (tmp_path / "id").touch()
    route = find_route(Host("me@login:22", key=tmp_path / "id"), ["a", "b"], config)
    words = route.ssh_command(lambda index: ["ssh", f"-v{index}"])
    assert words[:2] == ["ssh", "-v2"]
    assert words[-1] == "me@login"
    assert ["-i", str(tmp_path / "id")] == words[4:6]
    proxy = next(word for word in words if word.startswith("ProxyCommand="))
    assert proxy.startswith("ProxyCommand=ssh -v1")
    assert "-W login:22" in proxy
    assert "-v0" in proxy


# ---- what paramiko reads where there is no ssh


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without an `ssh` on the PATH; returns the user's own configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    (tmp_path / ".ssh").mkdir()
    path = tmp_path / ".ssh/config"
    path.write_text("Host login\n    ProxyCommand touch %h\n")
    return path


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_configuration_that_others_can_write_to_is_refused(home: Path, mode: int) -> None:
    home.chmod(mode)
    with pytest.raises(ValueError, match=rf"{home} is not used, as ssh does not use it: .*mode 0{mode:o}.*chmod go-w"):
        resolve(Host("login"))
    assert resolve(Host("login"), str(home)).proxy_command == "touch login"  # named, as by `ssh -F`
    home.chmod(0o644)
    assert resolve(Host("login")).proxy_command == "touch login"


def test_a_configuration_by_a_link_is_what_it_points_to(home: Path, tmp_path: Path) -> None:
    home.rename(tmp_path / "dotfile")
    home.symlink_to(tmp_path / "dotfile")
    assert resolve(Host("login")).proxy_command == "touch login"
    (tmp_path / "dotfile").chmod(0o666)
    with pytest.raises(ValueError, match="is not used"):
        resolve(Host("login"))


STRANGE = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\r"]


@pytest.mark.parametrize("strange", STRANGE, ids=ascii)
def test_a_comment_of_a_configuration_ends_at_a_newline(home: Path, strange: str) -> None:
    home.write_bytes(f"Host login\n  # a comment{strange}ProxyCommand touch %h\n  User me\r\n".encode())
    hop = resolve(Host("login"))
    assert (hop.proxy_command, hop.user) == (None, "me")


@pytest.mark.parametrize("strange", [*STRANGE, "\0"], ids=ascii)
def test_what_ssh_and_paramiko_would_read_differently_is_refused(home: Path, strange: str) -> None:
    home.write_bytes(f"Host login\n  User me{strange}ProxyCommand touch %h\n".encode())
    with pytest.raises(ValueError, match="cannot be understood: line 2 holds the character"):
        resolve(Host("login"))


@pytest.mark.ssh
@pytest.mark.parametrize("strange", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_a_value_of_ssh_g_ends_at_a_newline(tmp_path: Path, strange: str) -> None:
    path = tmp_path / "config"
    path.write_bytes(f"Host login\n  ProxyCommand echo {strange}proxyjump evil\n".encode())
    hop = resolve(Host("login"), str(path))
    assert (hop.proxy_jump, hop.proxy_command) == (None, f"echo {strange}proxyjump evil")
