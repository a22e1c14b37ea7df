"""The command line: `slurmfutures COMMAND`.

A command is a function that adds its parser and sets `run`, which takes the parsed arguments and returns the exit
code. What a command needs beyond its parser it imports when it runs: the extra `cli` may not be installed.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import SlurmFuturesError, __version__
from ._commands import cancel, clean, logs, repair, status
from ._demo import command as demo
from ._printable import printable

INTERRUPTED = 130  # what a shell gives for a command that Ctrl-C ended

_COMMANDS = tuple(command.add_parser for command in (demo, status, logs, cancel, clean, repair))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character gets a "?"
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted; what was under way is cancelled", INTERRUPTED)
    except SlurmFuturesError as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("rich", "plotille"):
            raise
        return _fail(f"the package {error.name} is missing: pip install 'slurmfutures[cli]'", 1)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are printable. They quote arguments, which a shell may have made from file names."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="slurmfutures", description="concurrent.futures for Slurm.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_parser in _COMMANDS:
        add_parser(commands)
    return parser


def _fail(message: str, code: int) -> int:
    print(printable(f"slurmfutures: {message}"), file=sys.stderr)
    return code
