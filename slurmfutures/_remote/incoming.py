"""A large batch that goes to the disk while it arrives."""

import contextlib
import os
from typing import Optional

from .lane import Lane
from .wire import Buffer

_SYNC = 32 << 20  # bytes after which they are on disk: then there is little to wait for at the end


class Incoming:
    """A file that pieces are written to by a lane, in order, until it gets its name."""

    def __init__(self, path: str, lane: Lane) -> None:
        self._path = path
        self._lane = lane
        # The lane's thread only.
        self._handle: Optional[int] = None
        self._unsynced = 0
        self._error: Optional[OSError] = None

    def write(self, data: Buffer) -> None:
        """Have the next bytes written, which are copied. In the loop."""
        piece = bytes(data)
        self._lane.do(lambda: self._write(piece), _ignore)

    def drop(self) -> None:
        """It is not wanted any more. In the loop."""
        self._lane.do(self._remove, _ignore)

    def move_to(self, path: str) -> None:
        """Give the file its name, with all of it on disk. In the lane's thread. Raises OSError, leaving nothing."""
        if self._error is None:
            try:
                self._sync()
                os.rename(self._path, path)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._remove()
            raise self._error
        self._close()

    def _write(self, piece: bytes) -> None:
        if self._error is not None:
            return
        view = memoryview(piece)
        try:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            while view:
                view = view[os.write(self._handle, view) :]
            self._unsynced += len(piece)
            if self._unsynced >= _SYNC:
                self._sync()
        except OSError as error:
            self._error = error
            self._remove()  # where there is no room, a part of a file must not take what there is

    def _sync(self) -> None:
        assert self._handle is not None
        os.fsync(self._handle)
        self._unsynced = 0

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _remove(self) -> None:
        self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _ignore(outcome: object) -> None:
    pass
