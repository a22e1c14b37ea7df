"""Names of hosts, the ssh configuration, and the keys that hosts are known by."""

import base64
import contextlib
import hashlib
import hmac
import os
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

from slurmfutures import _hosts
from slurmfutures._transports import known_hosts
from tests.fuzz.harness import Parser
from tests.fuzz.subjects.slurm import text

_BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x04key.")
_HASH = hmac.new(b"salt", b"[login]:2222", hashlib.sha1).digest()
_HASHED = b"|1|" + base64.b64encode(b"salt") + b"|" + base64.b64encode(_HASH)
_KNOWN = [
    b"login,10.0.0.1 ssh-ed25519 " + _BLOB + b" a comment\n[login]:2222 ssh-rsa " + _BLOB + b"\n",
    b"# comment\n@revoked * ssh-ed25519 " + _BLOB + b"\n@cert-authority *.org,!b.org ssh-rsa " + _BLOB + b"\n",
    _HASHED + b" ssh-ed25519 " + _BLOB + b"\n",
]
_SSH_G = [
    (
        b"host login\nuser me\nhostname login.example.org\nport 2222\nidentityfile ~/.ssh/id_rsa\nidentitiesonly no\n"
        b"userknownhostsfile ~/.ssh/known_hosts ~/.ssh/known_hosts2\nglobalknownhostsfile /etc/ssh/ssh_known_hosts\n"
        b"stricthostkeychecking ask\nconnecttimeout none\nidentityagent SSH_AUTH_SOCK\nproxycommand none\n"
    ),
    (
        b"hostname h\nproxyjump none\nproxycommand ssh -W %h:%p gate\nidentityfile ${HOME}/%d key\n"
        b"connecttimeout 7\n"
        b"identityagent $SOCK\nhostkeyalias alias\nport 22\n"
    ),
]
_CONFIG = [
    b"Host login\n  HostName login.example.org\n  Port 2222\n  IdentityFile ~/.ssh/a\n  ProxyJump gate\n",
    b'Host *\n  User="me"\n  ConnectTimeout 7\n  IdentityFile /a\n  IdentityFile /b\nHost !x login\n  Port 7\n',
]


def _known_hosts(data: bytes, folder: Path) -> object:
    path = folder / "known_hosts"
    path.write_bytes(data)
    for name, port, alias in (("login", 22, None), ("login", 2222, None), ("a.org", 22, "b.org")):
        known = known_hosts.KnownHosts.read([str(path)], name, port, alias)
        known.check(b"key")
    return known.kinds, known.by_authority


@contextlib.contextmanager
def _programs(folder: Path) -> Iterator[None]:
    """Have the programs in this folder, and no others."""
    before = os.environ["PATH"]
    os.environ["PATH"] = str(folder)
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _ssh_g(data: bytes, folder: Path) -> object:
    """Resolve a host by an `ssh` that prints this."""
    (folder / "said").write_bytes(data)
    program = folder / "ssh"
    if not program.exists():
        program.write_text(f"#!/bin/sh\nexec /bin/cat {shlex.quote(str(folder / 'said'))}\n")
        program.chmod(0o700)
    with _programs(folder):
        return _hosts.resolve(_hosts.Host("login"))


def _config(data: bytes, folder: Path) -> object:
    """Resolve a host where there is no `ssh`."""
    path = folder / "config"
    path.write_bytes(data)
    path.chmod(0o600)
    with _programs(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # brackets in a pattern
        return _hosts.resolve(_hosts.Host("login"), str(path))


def _host(said: str) -> object:
    host = _hosts.Host(said)
    return host.user, host.name, host.port


_WORDS = st.sampled_from(
    "port 0 22 65535 65536 -1 \u00b2 \u0663 1e3 99999999999999999999 connecttimeout nan inf none 0 user hostname "
    "proxyjump a,b,,c identityfile %% %d %z ${HOME} ${X} userknownhostsfile "
    "~x/y ~ \0 \x0c \u2028 identityagent $A ${A} yes no".split()
)

PARSERS = (
    Parser(
        "_transports.known_hosts:KnownHosts.read",
        _known_hosts,
        _KNOWN,
        repeated=[
            b"*" * 40 + b"x ssh-rsa " + _BLOB + b"\n",
            b"*a" * 30 + b",login ssh-rsa " + _BLOB + b"\n",
            b"a,",
            b"*?" * 50,
            b"[*",
            b"@revoked ",
            b"|1|",
        ],
        tokens=[b"|1|", b"@revoked ", b"!", b"*", b" ssh-rsa ", _BLOB],
    ),
    Parser(
        "_hosts:resolve (ssh -G)",
        _ssh_g,
        _SSH_G,
        (ValueError,),
        st.lists(st.tuples(_WORDS, _WORDS, _WORDS), max_size=6).map(
            lambda rows: "\n".join(map(" ".join, rows)).encode()
        ),
        repeated=[b"identityfile a\n", b"port 1\n", b"userknownhostsfile a ", b" a", b"proxycommand %%", b"${a"],
        tokens=[b"\nport ", b"\nconnecttimeout ", b"\nidentityagent "],
    ),
    Parser(
        "_hosts:resolve (without ssh)",
        _config,
        _CONFIG,
        (ValueError,),
        repeated=[b"Host a\n", b"Host a*\n  Port 1\n", b"  IdentityFile x\n", b"Host *" + b"*a" * 20 + b"\n"],
        tokens=[b"\nHost ", b"\nPort ", b"\nConnectTimeout ", b"\nProxyCommand "],
    ),
    Parser(
        "_hosts:Host",
        text(_host),
        [b"me@login:22", b"login", b"[::1]:22", b"::1"],
        (ValueError,),
        tokens=[b"@", b":", b"[", b"]"],
    ),
)
