"""What the benchmarks call. It imports nothing, as whoever runs a call by name imports it first."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def no_op(value: object = None) -> None:
    """A call by name of a module of the user's."""


def same(value: object) -> object:
    """Give back what came."""
    return value


def pid_after(seconds: float) -> int:
    """Hold a worker for a while, so that others get calls too, and say which one it was."""
    import os
    import time

    time.sleep(seconds)
    return os.getpid()


def by_value() -> "Callable[[object], None]":
    """Return a no-op that travels as bytecode, as what users define in their script does."""

    def no_op(value: object) -> None:
        pass

    no_op.__module__ = "__main__"
    return no_op
