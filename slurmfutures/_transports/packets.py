"""The packets of an SSH connection, read within bounds.

paramiko reads whatever a server announces: a line or a packet of any length, and any number of them before the login.
"""

import math
from typing import Any

from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

_MOST_PREAMBLE = 1 << 16  # bytes of lines before a server's version
_MOST_PACKET = 1 << 18  # bytes, as in OpenSSH
_MOST_BEFORE_LOGIN = 4 << 20  # bytes: key exchange, banners and questions are some KB


class Packets(Packetizer):
    """Raises SSHException for what is out of bounds."""

    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self._preamble = 0
        self._seen = 0
        self._limit: float = _MOST_BEFORE_LOGIN

    def logged_in(self) -> None:
        """From now on data comes, as much as its channel lets through."""
        self._limit = math.inf

    def start_handshake(self, timeout: float) -> None:
        """The one who connects keeps the time; paramiko's timer would outlive the connection."""

    def _read_timeout(self, timeout: float) -> bytes:
        data: bytes = super()._read_timeout(timeout)  # type: ignore[misc]
        self._preamble += len(data)
        if self._preamble > _MOST_PREAMBLE:
            raise SSHException(f": it sent more than {_MOST_PREAMBLE} bytes before its version")
        return data

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if not 0 <= n <= _MOST_PACKET:
            raise SSHException(f"it announced a packet of {n} bytes, and {_MOST_PACKET} are the most")
        self._seen += n
        if self._seen > self._limit:
            raise SSHException(f"it sent more than {_MOST_BEFORE_LOGIN} bytes before the login")
        return super().read_all(n, check_rekey)
