"""What the benchmarks call. It imports nothing, as whoever runs a call by name imports it first."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def no_op(value: object = None) -> None:
    """A call by name of a module of the user's."""


def by_value() -> "Callable[[object], None]":
    """Return a no-op that travels as bytecode, as what users define in their script does."""

    def no_op(value: object) -> None:
        pass

    no_op.__module__ = "__main__"
    return no_op
