"""The keys that hosts are known by: OpenSSH's known_hosts files."""

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from .._errors import HostKeyError
from .._hosts import Route


class Verdict(Enum):
    KNOWN = "it is the key that the host has had"
    UNKNOWN = "there is no key of this host"
    CHANGED = "the host has other keys than this one"
    REVOKED = "the key must not be trusted, whoever shows it"


class Line(NamedTuple):
    """One line of a file."""

    file: str
    marker: str  # "", "@revoked" or "@cert-authority"
    names: str
    kind: str
    blob: bytes


@dataclass(frozen=True)
class KnownHosts:
    """What is known of one host. Reading never fails: a file that is not there knows nobody."""

    name: str  # as the files have it: "host", or "[host]:port" for another port than 22
    lines: tuple[Line, ...]

    @classmethod
    def read(cls, files: Iterable[str], hostname: str, port: int, alias: str | None = None) -> "KnownHosts":
        """Read what the files have on a host. `alias` replaces its name and port."""
        plain = (alias or hostname).lower()
        name = plain if alias is not None or port == 22 else f"[{plain}]:{port}"
        lines = [line for file in files for line in _lines(file)]
        mine = tuple(line for line in lines if line.marker == "@revoked" or _matches(name, line.names))
        if name != plain and all(line.marker for line in mine):
            # Where no line has the port, a key that the host is known by at the usual port will do. It need not be the
            # key of this port, so that another one is new and not changed.
            usual = [line for line in lines if not line.marker and _matches(plain, line.names)]
            mine += tuple(line._replace(marker="@usual-port") for line in usual)
        return cls(name, mine)

    @property
    def kinds(self) -> list[str]:
        """The types of key that the host is known by, such as "ssh-ed25519"."""
        return list(dict.fromkeys(line.kind for line in self.lines if line.marker in ("", "@usual-port")))

    @property
    def by_authority(self) -> bool:
        """Whether a certificate would do for this host."""
        return any(line.marker == "@cert-authority" for line in self.lines)

    def check(self, blob: bytes) -> Verdict:
        same = {line.marker for line in self.lines if line.blob == blob}
        if "@revoked" in same:
            return Verdict.REVOKED
        if same & {"", "@usual-port"}:
            return Verdict.KNOWN
        return Verdict.CHANGED if self.others() else Verdict.UNKNOWN

    def revoked(self) -> Sequence[Line]:
        return [line for line in self.lines if line.marker == "@revoked"]

    def others(self) -> Sequence[Line]:
        return [line for line in self.lines if not line.marker]


def check_host_key(route: Route, index: int, kind: str, blob: bytes, *, accept_new: bool) -> None:
    """Raise HostKeyError where a hop's key is not the known one; add it where it is new and that is allowed."""
    hop = route.hops[index]
    for file in hop.revoked_host_keys:
        if _is_revoked(file, kind, blob):
            raise HostKeyError(route.describe(index), fingerprint(kind, blob), "revoked", file)
    files = (*hop.user_known_hosts, *hop.global_known_hosts)
    known = KnownHosts.read(files, hop.hostname, hop.port, hop.host_key_alias)
    verdict = known.check(blob)
    # The configuration's "no" would even take a changed key; that is for `ssh` alone.
    accepted = accept_new or hop.new_host_keys in ("accept-new", "no", "off", "false")
    if verdict is Verdict.UNKNOWN and accepted and hop.user_known_hosts:
        add(hop.user_known_hosts[0], known.name, kind, blob)
        return
    if verdict is not Verdict.KNOWN:
        raise host_key_error(route, index, known, verdict, fingerprint(kind, blob))


def host_key_error(route: Route, index: int, known: KnownHosts, verdict: Verdict, shown: str) -> HostKeyError:
    hop = route.hops[index]
    where = route.describe(index)
    first = hop.user_known_hosts[0] if hop.user_known_hosts else "~/.ssh/known_hosts"
    if verdict is Verdict.UNKNOWN:
        note = 'certificates of hosts need transport="openssh"' if known.by_authority else ""
        return HostKeyError(where, shown, file=first, command=accepting_command(route, index), note=note)
    if verdict is Verdict.REVOKED:
        return HostKeyError(where, shown, "revoked", ", ".join(dict.fromkeys(line.file for line in known.revoked())))
    others = known.others()
    file = others[0].file
    command = f"ssh-keygen -R {quote(known.name)} -f {quote(file)}"
    # Of several, the one that the new one replaces.
    same_kind = [line for line in others if shown.startswith(_SHORT.get(line.kind, line.kind))]
    old = (same_kind or others)[0]
    return HostKeyError(where, shown, fingerprint(old.kind, old.blob), file, command)


def accepting_command(route: Route, index: int) -> str:
    """Return the line of shell in which a person can look at a hop's key and accept it."""
    strict = route.hops[index].new_host_keys in ("yes", "true")
    words = ["ssh", *(["-o", "StrictHostKeyChecking=ask"] if strict else [])]
    return " ".join(map(quote, [*route.ssh_command(lambda _: words, index), "true"]))


_SHORT = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA", "ssh-dss": "DSA"}


def fingerprint(kind: str, blob: bytes) -> str:
    """Return what ssh-keygen and sites' pages say of a key: "ED25519 SHA256:..."."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    name = "ECDSA" if kind.startswith("ecdsa-") else _SHORT.get(kind, kind)
    return f"{name} SHA256:{digest}"


def add(file: str, name: str, kind: str, blob: bytes) -> None:
    """Append a host's key to a file, which is made where there is none."""
    path = Path(file)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "rb+", buffering=0) as out:
        end = out.seek(0, os.SEEK_END) if path.is_file() else 0
        if end:
            out.seek(end - 1)
        gap = b"\n" if end and out.read(1) != b"\n" else b""
        out.write(gap + f"{name} {kind} {base64.b64encode(blob).decode()}\n".encode())


def _lines(file: str) -> Iterator[Line]:
    try:
        text = Path(file).read_bytes().decode("utf-8", "replace")
    except OSError:
        return
    for row in text.split("\n"):
        words = _words(row)
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker not in ("", "@revoked", "@cert-authority"):
            continue
        names, kind, data = words[:3]
        try:
            yield Line(file, marker, names, kind, base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            continue


def _is_revoked(file: str, kind: str, blob: bytes) -> bool:
    """Whether a file of RevokedHostKeys has a key. One that cannot be read has all of them, as for OpenSSH."""
    key = f"{kind} {base64.b64encode(blob).decode()}"
    try:
        data = Path(file).read_bytes()
        if not data.startswith(b"SSHKRL\n\0"):
            return any(" ".join(_words(row)[:2]) == key for row in data.decode("utf-8", "replace").split("\n"))
        words = ["ssh-keygen", "-Q", "-f", file, "/dev/stdin"]
        return subprocess.run(words, input=f"{key}\n".encode(), capture_output=True, check=False).returncode != 0
    except OSError:
        return True


def _words(row: str) -> list[str]:
    """Return the words of a line as OpenSSH sees them: it ends at a NUL, and only blanks and tabs are between words."""
    return [word for word in re.split(r"[ \t]+", row.partition("\0")[0].removesuffix("\r")) if word]


def _matches(name: str, names: str) -> bool:
    """Whether the first field of a line means a host. A negated pattern that fits excludes it."""
    found = False
    for pattern in names.split(","):
        if pattern.startswith("|1|"):
            found = found or _hash_fits(name, pattern)
        elif pattern.startswith("!"):
            if _fits(name, pattern[1:]):
                return False
        else:
            found = found or _fits(name, pattern)
    return found


def _fits(name: str, pattern: str) -> bool:
    # In known_hosts only * and ? are special; the brackets are those of "[host]:port". No line holds a NUL.
    glob = fnmatch.translate(pattern.lower().replace("[", "\0"))  # not by `fnmatch`, which would keep them all
    return re.match(glob, name.replace("[", "\0")) is not None


def _hash_fits(name: str, hashed: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
