"""A pseudo terminal, with both of its ends."""

import fcntl
import os
import select
import struct
import termios

from tests.waiting import DEADLINE


class Terminal:
    """A terminal, and the keyboard and screen of its user. Without `columns` it does not know its width."""

    def __init__(self, columns: int = 0) -> None:
        self._person, self.line = os.openpty()
        self.name = os.ttyname(self.line)
        self.columns = columns
        fcntl.ioctl(self.line, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
        self._seen = b""

    def wait_for(self, text: str) -> None:
        while text not in self.seen():
            assert select.select([self._person], [], [], DEADLINE)[0], self.seen()

    def seen(self) -> str:
        while select.select([self._person], [], [], 0)[0]:
            self._seen += os.read(self._person, 4096)
        return self._seen.decode()

    def rows(self) -> list[str]:
        """Return the text of each row: lines of ASCII, broken after `columns` characters."""
        lines = self.seen().split("\r\n")
        return [line[at : at + self.columns] for line in lines for at in range(0, max(len(line), 1), self.columns)]

    def type(self, text: str) -> None:
        os.write(self._person, text.encode())

    def close(self) -> None:
        os.close(self._person)
        os.close(self.line)
