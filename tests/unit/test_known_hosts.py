"""Keys that hosts are known by."""

import base64
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from slurmfutures import HostKeyError
from slurmfutures._hosts import Hop, Host, Route
from slurmfutures._transports.known_hosts import KnownHosts, Verdict, add, check_host_key, fingerprint

ONE, TWO = b"key one", b"key two"


def line(names: str, blob: bytes = ONE, kind: str = "ssh-ed25519", marker: str = "") -> str:
    return " ".join(filter(None, (marker, names, kind, base64.b64encode(blob).decode(), "a comment"))) + "\n"


@pytest.mark.parametrize(
    ("text", "name", "port", "verdict"),
    [
        ("", "login", 22, Verdict.UNKNOWN),
        (line("login"), "login", 22, Verdict.KNOWN),
        (line("LOGIN,10.0.0.1"), "Login", 22, Verdict.KNOWN),
        (line("login", TWO), "login", 22, Verdict.CHANGED),
        (line("login", TWO) + line("login"), "login", 22, Verdict.KNOWN),
        (line("[login]:2222"), "login", 2222, Verdict.KNOWN),
        (line("[login]:2222", TWO), "login", 2222, Verdict.CHANGED),
        (line("[login]:2222"), "login", 22, Verdict.UNKNOWN),
        (line("login"), "login", 2222, Verdict.KNOWN),
        (line("login", TWO), "login", 2222, Verdict.UNKNOWN),
        (line("[login]:2222", TWO) + line("login"), "login", 2222, Verdict.CHANGED),
        (line("login") + line("[login]:2222", TWO, "ssh-rsa"), "login", 2222, Verdict.CHANGED),
        (line("login") + line("*", TWO), "login", 2222, Verdict.CHANGED),
        (line("login") + line("[login]:2222", TWO, marker="@cert-authority"), "login", 2222, Verdict.KNOWN),
        (line("login") + line("[login]:2222", TWO, marker="@revoked"), "login", 2222, Verdict.KNOWN),
        (line("login") + line("[login]:2222", marker="@revoked"), "login", 2222, Verdict.REVOKED),
        (line("login") + line("[other]:2222,![login]:*", TWO), "login", 2222, Verdict.KNOWN),
        (line("elsewhere").replace("\n", "\r") + line("login"), "login", 22, Verdict.UNKNOWN),
        (line("login").replace("\n", "\r\n"), "login", 22, Verdict.KNOWN),
        (line("login").replace(" a comment", "").replace("\n", "\r\n"), "login", 22, Verdict.KNOWN),
        (line("elsewhere\0,login"), "login", 22, Verdict.UNKNOWN),
        (" \t" + line("login").replace(" ", "\t "), "login", 22, Verdict.KNOWN),
        (line("*.example.org"), "a.example.org", 22, Verdict.KNOWN),
        (line("*.example.org,!b.example.org"), "b.example.org", 22, Verdict.UNKNOWN),
        (line("log?n"), "login", 22, Verdict.KNOWN),
        (line("login") + line("*", marker="@revoked"), "login", 22, Verdict.REVOKED),
        (line("elsewhere", marker="@revoked"), "login", 22, Verdict.REVOKED),
        (line("login", marker="@cert-authority"), "login", 22, Verdict.UNKNOWN),
        ("# a comment\n\nlogin ssh-ed25519 !!!\nlogin\n" + line("login"), "login", 22, Verdict.KNOWN),
    ],
)
def test_verdicts(text: str, name: str, port: int, verdict: Verdict, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(text)
    known = KnownHosts.read([str(path), str(tmp_path / "missing")], name, port)
    assert known.check(ONE) is verdict


# What Python takes for the end of a line, or for a blank, and OpenSSH does not.
STRANGE = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\u2028", "\u2029"]


@pytest.mark.parametrize("strange", [*STRANGE, "\r"], ids=ascii)
def test_lines_end_at_newlines(tmp_path: Path, strange: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(f"{line('elsewhere', TWO)[:-1]}{strange}{line('login')}".encode())
    assert KnownHosts.read([str(path)], "login", 22).check(ONE) is Verdict.UNKNOWN


@pytest.mark.parametrize("strange", STRANGE, ids=ascii)
def test_words_are_between_blanks_and_tabs(tmp_path: Path, strange: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(line("login").replace(" ", strange, 1).encode())
    assert KnownHosts.read([str(path)], "login", 22).check(ONE) is Verdict.UNKNOWN


def make_key(path: Path) -> tuple[str, bytes]:
    """Return type and public part of a new key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    kind, data = path.with_suffix(".pub").read_text().split()[:2]
    return kind, base64.b64decode(data)


@pytest.mark.ssh
def test_hashed_names(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    (kind, one), (_, two) = make_key(tmp_path / "one"), make_key(tmp_path / "two")
    path.write_text(line("login.example.org", one, kind) + line("[login.example.org]:2222", two, kind))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert "login" not in path.read_text()
    for port, known, other in ((22, one, two), (2222, two, b"")):
        found = KnownHosts.read([str(path)], "login.example.org", port)
        assert found.check(known) is Verdict.KNOWN
        assert found.check(other) is Verdict.CHANGED
    assert KnownHosts.read([str(path)], "elsewhere", 22).check(one) is Verdict.UNKNOWN


def test_an_alias_replaces_name_and_port(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line("the-cluster"))
    assert KnownHosts.read([str(path)], "login7", 2222, "the-cluster").check(ONE) is Verdict.KNOWN


def route(path: Path, new_host_keys: str = "ask", port: int = 2222) -> Route:
    hop = Hop(Host("login"), "login", port, "me", user_known_hosts=(str(path),), new_host_keys=new_host_keys)
    return Route((hop,))


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_new_key_is_added_where_that_is_wanted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "ssh/known_hosts"
    with pytest.raises(HostKeyError, match="is not in"):
        check_host_key(route(path), 0, "ssh-ed25519", ONE, accept_new=False)
    assert not path.exists()
    check_host_key(route(path), 0, "ssh-ed25519", ONE, accept_new=True)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().rstrip("\n") + ending)
    check_host_key(route(path, port=2223), 0, "ssh-ed25519", TWO, accept_new=True)
    for port, blob in ((2222, ONE), (2223, TWO)):
        check_host_key(route(path, port=port), 0, "ssh-ed25519", blob, accept_new=False)


@pytest.mark.parametrize(("setting", "taken"), [("accept-new", True), ("no", True), ("yes", False), ("ask", False)])
def test_the_configuration_may_want_it(tmp_path: Path, setting: str, taken: bool) -> None:
    path = tmp_path / "known_hosts"
    if taken:
        check_host_key(route(path, setting), 0, "ssh-ed25519", ONE, accept_new=False)
    else:
        with pytest.raises(HostKeyError) as caught:
            check_host_key(route(path, setting), 0, "ssh-ed25519", ONE, accept_new=False)
        assert ("StrictHostKeyChecking=ask" in caught.value.command) == (setting == "yes")


@pytest.mark.parametrize("setting", ["no", "ask", "accept-new"])
def test_a_changed_key_is_never_taken(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "known_hosts"
    add(str(path), "[login]:2222", "ssh-ed25519", TWO)
    before = path.read_text()
    with pytest.raises(HostKeyError, match="has changed") as caught:
        check_host_key(route(path, setting), 0, "ssh-ed25519", ONE, accept_new=True)
    assert caught.value.command == f"ssh-keygen -R '[login]:2222' -f {path}"
    assert caught.value.expected == fingerprint("ssh-ed25519", TWO)
    assert path.read_text() == before


@pytest.mark.ssh
def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    kind, blob = make_key(tmp_path / "key")
    said = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key"], capture_output=True, text=True, check=True)
    name, digest = fingerprint(kind, blob).split()
    assert digest in said.stdout
    assert f"({name})" in said.stdout


def test_a_revoked_key_is_told_with_the_file_that_has_it(tmp_path: Path) -> None:
    known, revoked = tmp_path / "known_hosts", tmp_path / "revoked"
    known.write_text(line("[login]:2222"))
    revoked.write_text(line("*", marker="@revoked"))
    hop = replace(route(known).hops[0], global_known_hosts=(str(revoked),))
    with pytest.raises(HostKeyError, match="is marked as revoked in") as caught:
        check_host_key(Route((hop,)), 0, "ssh-ed25519", ONE, accept_new=True)
    assert (caught.value.file, caught.value.command) == (str(revoked), "")
    assert "accept" not in str(caught.value)


@pytest.mark.ssh
@pytest.mark.parametrize("form", ["keys", "KRL", "missing"])
def test_keys_of_a_list_of_revoked_ones_are_refused(tmp_path: Path, form: str) -> None:
    (kind, one), (_, two) = make_key(tmp_path / "one"), make_key(tmp_path / "two")
    known, revoked = tmp_path / "known_hosts", tmp_path / "revoked"
    known.write_text(line("[login]:2222", one, kind) + line("[login]:2222", two, kind))
    if form == "keys":
        revoked.write_text(f"# lost\n{(tmp_path / 'one.pub').read_text()}")
    elif form == "KRL":
        subprocess.run(["ssh-keygen", "-q", "-k", "-f", revoked, tmp_path / "one.pub"], check=True)
    hops = (replace(route(known).hops[0], revoked_host_keys=(str(revoked),)),)
    with pytest.raises(HostKeyError, match="is marked as revoked in"):
        check_host_key(Route(hops), 0, kind, one, accept_new=True)
    if form == "missing":  # nobody knows what was in it
        with pytest.raises(HostKeyError, match="is marked as revoked in"):
            check_host_key(Route(hops), 0, kind, two, accept_new=True)
    else:
        check_host_key(Route(hops), 0, kind, two, accept_new=False)
