"""Hosts: how users name them, and what the ssh configuration makes of the names."""

import getpass
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from ._printable import printable
from ._remote import trust

_HINT = 'write it as "host", "user@host", "user@host:port" or "[IPv6]:port", or as an alias of ~/.ssh/config'
_CONFIG_TIMEOUT = 30.0  # seconds; `Match exec` runs programs
_MOST_HOPS = 16
_LONGEST_LINE = 1000  # characters: paramiko takes time in the square of a pattern's length
_TRUE = ("yes", "true")


@dataclass(frozen=True, init=False)
class Host:
    """A machine to log in to: "user@host:port", where `host` is a name, an address or an alias of ~/.ssh/config.

    What the address leaves open comes from the ssh configuration. `key` is a file with a private key, or several; they
    are tried before those of the configuration.
    """

    address: str
    key: tuple[str, ...] = field(default=())

    def __init__(
        self,
        address: str,
        *,
        key: Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]], None] = None,
    ) -> None:
        _split(address)
        keys = [key] if isinstance(key, str | os.PathLike) else list(key or ())
        paths = tuple(os.path.abspath(os.path.expanduser(path)) for path in keys)
        for path in paths:
            if not os.path.isfile(path):
                raise ValueError(f"key={path!r} of host {address!r}: there is no such file")
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "key", paths)

    @classmethod
    def parse(cls, value: Union[str, "Host"]) -> "Host":
        """Return the host that a user means. Raises ValueError for what cannot be one."""
        return value if isinstance(value, Host) else cls(value)

    @property
    def name(self) -> str:
        """The host, or its alias, without user and port."""
        return _split(self.address)[1]

    @property
    def user(self) -> str | None:
        return _split(self.address)[0]

    @property
    def port(self) -> int | None:
        return _split(self.address)[2]

    def __str__(self) -> str:
        return self.address


def _split(address: object) -> tuple[str | None, str, int | None]:
    """Return user, host and port of an address. Raises ValueError."""
    if not isinstance(address, str):
        raise ValueError(f"host {address!r} is a {type(address).__name__}, not a string: {_HINT}")
    user, at, rest = address.rpartition("@")
    bracketed = re.fullmatch(r"\[([^][]+)\](?::(.*))?", rest)
    name: str
    digits: str | None
    if bracketed:
        name, digits = bracketed[1], bracketed[2]
    elif rest.count(":") > 1:
        name, digits = rest, None  # an IPv6 address without a port
    else:
        name, colon, after = rest.partition(":")
        digits = after if colon else None
    if (at and not user) or not name or re.search(r"[^\w.%:~+-]", name) or re.search(r"[\s\0'\"`;&|<>$()]", user):
        raise ValueError(f"host {address!r} cannot be understood: {_HINT}")
    if name.startswith("-") or user.startswith("-"):
        raise ValueError(f'host {address!r} begins with "-": {_HINT}')
    if digits is None:
        return user or None, name, None
    if not re.fullmatch(r"[0-9]+", digits) or not 0 < int(digits) < 65536:
        raise ValueError(f"host {address!r}: the port {digits!r} is no number from 1 to 65535; {_HINT}")
    return user or None, name, int(digits)


@dataclass(frozen=True)
class Hop:
    """One machine on the way, as the ssh configuration has it."""

    host: Host
    hostname: str
    port: int
    user: str
    explicit_keys: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str | None = None  # a socket, None for none
    user_known_hosts: tuple[str, ...] = ()
    global_known_hosts: tuple[str, ...] = ()
    revoked_host_keys: tuple[str, ...] = ()
    host_key_alias: str | None = None
    new_host_keys: str = "ask"  # the configuration's StrictHostKeyChecking
    proxy_jump: str | None = None
    proxy_command: str | None = None
    connect_timeout: float | None = None

    def __str__(self) -> str:
        return self.host.name

    @property
    def login(self) -> str:
        """user@host, as a person knows it."""
        return f"{self.user}@{self.host.name}"


@dataclass(frozen=True)
class Route:
    """The machines from here to the login node, outermost first; the login node is the last."""

    hops: tuple[Hop, ...]
    given: bool = False  # the jumps were named by the user, not by the configuration
    ssh_config: str | None = None

    @property
    def target(self) -> Hop:
        return self.hops[-1]

    def describe(self, index: int = -1) -> str:
        """Name a hop and those before it."""
        index = range(len(self.hops))[index]
        through = ", ".join(str(hop) for hop in self.hops[:index])
        return f"{self.hops[index].login}{f' (through {through})' if through else ''}"

    def ssh_command(self, ssh: Callable[[int], Sequence[str]], index: int = -1) -> list[str]:
        """Return the words of an `ssh` that goes to this hop by this route.

        `ssh` returns a hop's program and its options.
        """
        index = range(len(self.hops))[index]
        hop = self.hops[index]
        words = [*ssh(index)]
        if self.ssh_config is not None:
            words += ["-F", self.ssh_config]
        for key in hop.explicit_keys:
            words += ["-i", key]
        if hop.host.port is not None:
            words += ["-p", str(hop.port)]
        if index and (self.given or index < len(self.hops) - 1):
            address = f"[{hop.hostname}]" if ":" in hop.hostname else hop.hostname
            before = shlex.join([*self.ssh_command(ssh, index - 1), "-W", f"{address}:{hop.port}"])
            words += ["-o", f"ProxyCommand={before.replace('%', '%%')}"]
        elif not index and hop.proxy_jump is not None:
            words += ["-o", "ProxyJump=none"]  # the user named no jumps
        words.append(f"{hop.user}@{hop.host.name}" if hop.host.user is not None else hop.host.name)
        return words


def find_route(
    host: str | Host,
    jump: str | Host | Sequence[str | Host] | None = None,
    ssh_config: Union[str, "os.PathLike[str]", None] = None,
) -> Route:
    """Return the way to a host through the ones of `jump`, else through those that the ssh configuration names.

    The configuration is what `ssh -G` says it is, or, where there is no `ssh`, what paramiko reads from it, which knows
    no `Include`. `ssh_config` replaces ~/.ssh/config and /etc/ssh/ssh_config. Raises ValueError.
    """
    config = None if ssh_config is None else os.path.abspath(os.path.expanduser(ssh_config))
    if config is not None and not os.access(config, os.R_OK):
        raise ValueError(f"ssh_config={config!r} cannot be read")
    target = resolve(Host.parse(host), config)
    if jump is None:
        return Route((*_jumps_of(target, config, _MOST_HOPS), target), ssh_config=config)
    named = [jump] if isinstance(jump, str | Host) else list(jump)
    jumps = [resolve(Host.parse(each), config) for each in named]
    # The outermost is reached as the configuration says, the others through the one before.
    first = _jumps_of(jumps[0], config, _MOST_HOPS) if jumps else ()
    return Route((*first, *jumps, target), given=True, ssh_config=config)


def _jumps_of(hop: Hop, config: str | None, left: int) -> tuple[Hop, ...]:
    if hop.proxy_jump is None:
        return ()
    names = [name.strip().removeprefix("ssh://").rstrip("/") for name in hop.proxy_jump.split(",")]
    jumps = [resolve(Host(name), config) for name in names if name]
    if len(jumps) > left or not jumps:
        raise ValueError(
            f"ProxyJump {hop.proxy_jump!r} of {hop} in the ssh configuration leads nowhere, or in a circle"
        )
    return (*_jumps_of(jumps[0], config, left - len(jumps)), *jumps)


def resolve(host: Host, ssh_config: str | None = None) -> Hop:
    """Return what the ssh configuration makes of a host. Raises ValueError where it cannot be read."""
    values = _ask_ssh(host, ssh_config) if shutil.which("ssh") else _ask_paramiko(host, ssh_config)

    def one(name: str) -> str | None:
        found = values.get(name, [""])[0]
        return None if found.lower() in ("", "none") else found

    hostname, user = one("hostname") or host.name, host.user or one("user") or getpass.getuser()
    port = host.port or int(one("port") or 22)
    jump = one("proxyjump")
    tokens = _tokens(host.name, hostname, port, user)

    def paths(names: Iterable[str]) -> tuple[str, ...]:
        found = (_expand(name, tokens) for name in names if name.lower() != "none")
        return tuple(dict.fromkeys(os.path.expanduser(path) for path in found))

    command = one("proxycommand") if jump is None else None
    agent = values.get("identityagent", ["SSH_AUTH_SOCK"])[0]
    timeout = one("connecttimeout")
    return Hop(
        host=host,
        hostname=hostname,
        port=port,
        user=user,
        explicit_keys=host.key,
        identity_files=paths(values.get("identityfile", ())),
        identities_only=(one("identitiesonly") or "no").lower() in _TRUE,
        identity_agent=_agent(agent, tokens),
        user_known_hosts=paths(_files(values, "userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
        global_known_hosts=paths(
            _files(values, "globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
        ),
        revoked_host_keys=paths(_files(values, "revokedhostkeys", "none")),
        host_key_alias=one("hostkeyalias"),
        new_host_keys=(one("stricthostkeychecking") or "ask").lower(),
        proxy_jump=jump,
        proxy_command=None if command is None else _expand(command, tokens),
        connect_timeout=float(timeout) if timeout else None,
    )


def _ask_ssh(host: Host, config: str | None) -> Mapping[str, list[str]]:
    words = ["ssh", "-T", "-G"]
    if config is not None:
        words += ["-F", config]
    if host.port is not None:
        words += ["-p", str(host.port)]
    if host.user is not None:
        words += ["-l", host.user]
    try:
        done = subprocess.run(
            [*words, host.name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CONFIG_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"`{shlex.join([*words, host.name])}` did not end within {_CONFIG_TIMEOUT:.0f} s") from None
    if done.returncode:
        said = os.fsdecode(done.stderr).strip().split("\n")[-1] or "nothing"
        raise ValueError(f"ssh cannot use its configuration for {host.name!r}, it says: {printable(said)}")
    values: dict[str, list[str]] = {}
    for line in os.fsdecode(done.stdout).split("\n"):
        name, _, value = line.partition(" ")
        values.setdefault(name.lower(), []).append(value.strip(" \t"))
    return values


def _ask_paramiko(host: Host, config: str | None) -> Mapping[str, list[str]]:
    from paramiko import SSHConfig
    from paramiko.ssh_exception import SSHException

    own = Path("~/.ssh/config").expanduser()
    files = [own, Path("/etc/ssh/ssh_config")] if config is None else [Path(config)]
    values: dict[str, list[str]] = {}
    for file in files:
        if not file.is_file():
            continue
        try:
            found = SSHConfig.from_text(_configuration(file, checked=config is None and file == own)).lookup(host.name)
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror}") from error
        except (SSHException, UnicodeError, ImportError) as error:
            raise ValueError(f"{file} cannot be understood: {printable(str(error))}") from None
        for name, value in found.items():
            several: list[str] = value if isinstance(value, list) else [str(value)]
            if name == "identityfile":
                values.setdefault(name, []).extend(several)
            elif name != "hostname" or several != [host.name]:
                values.setdefault(name, several)
    if "identityfile" not in values:
        values["identityfile"] = [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519")]
    return values


def _configuration(path: Path, *, checked: bool) -> str:
    """Return the lines of a configuration, `checked` for one that is read without having been named.

    Raises ValueError for one that ssh would not read: another account could have written commands into it.
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if checked and not (trust.is_ours(about) and trust.is_closed(about)):
            raise ValueError(
                f"{path} is not used, as ssh does not use it: it is {trust.describe(about)}, so another account could "
                "have written it, and it may name commands; check what is in it, then make it yours and run "
                f"`chmod go-w {shlex.quote(str(path))}`"
            )
        lines = os.fsdecode(file.read()).split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"{path} cannot be understood: line {number} has more than {_LONGEST_LINE} characters")
        # To paramiko, and not to ssh, these are blanks or the end of a line.
        strange = re.search(r"[^\S \t\r]|\r(?!$)|\0", line)
        if strange and not line.lstrip(" \t").startswith("#"):
            raise ValueError(f"{path} cannot be understood: line {number} holds the character {strange[0]!r}")
    return "\n".join("" if line.lstrip(" \t").startswith("#") else line.removesuffix("\r") for line in lines)


def _files(values: Mapping[str, Sequence[str]], name: str, default: str) -> list[str]:
    """Return the files of a list; ssh -G does not quote, so what is not absolute belongs to the one before."""
    files: list[str] = []
    for word in values.get(name, [default])[0].split(" "):
        if files and not word.startswith(("/", "~", "none")):
            files[-1] += f" {word}"
        else:
            files.append(word)
    return [file.strip('"') for file in files]


def _agent(value: str, tokens: Mapping[str, str]) -> str | None:
    if value.lower() == "none":
        return None
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if value.startswith("$") and not value.startswith("${"):
        return os.environ.get(value[1:])
    return os.path.expanduser(_expand(value, tokens))


def _tokens(name: str, hostname: str, port: int, user: str) -> Mapping[str, str]:
    return {
        "%": "%",
        "d": pwd.getpwuid(os.getuid()).pw_dir,
        "h": hostname,
        "i": str(os.getuid()),
        "L": socket.gethostname().partition(".")[0],
        "l": socket.gethostname(),
        "n": name,
        "p": str(port),
        "r": user,
        "u": getpass.getuser(),
    }


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    text = re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], match[0]), text)
