"""The command `slurmfutures clean`: clear away what nobody uses any more."""

import argparse
import re
from collections.abc import Mapping
from typing import Any

from .place import Agent, use
from .table import age, count, show_json, show_lines, show_table, size

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DEFAULT = "7d"


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "clean",
        help="remove from a work_dir what nobody uses any more",
        description="Remove batches, and what agents have left, that were not used for a while. What a connected "
        "driver uses stays, and what has jobs in the queue. Results that no driver has fetched go with their batch.",
    )
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=duration,
        default=duration(_DEFAULT),
        help=f"a number and a unit of s, m, h, d or w (default: {_DEFAULT})",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    use(parser, run, tables=True)


def duration(text: str) -> float:
    """Parse an age: "90m" is 5400 seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number and a unit of s, m, h, d or w")
    return float(match[1]) * _SECONDS[match[2]]


def run(arguments: argparse.Namespace, agent: Agent) -> int:
    """Clear away, and say what has gone and what has not."""
    done = agent.clean(arguments.older_than, dry=arguments.dry_run)
    if arguments.json:
        show_json(done)
        return 0
    for heading, key in (("would be removed" if done["dry"] else "removed", "removed"), ("kept", "kept")):
        if done[key]:
            show_lines([f"{heading}:"])
            rows = [_row(one, done["now"]) for one in done[key]]
            show_table(("what", "name", "unused for", "why" if key == "kept" else "size"), rows)
    words = "would be freed" if done["dry"] else "freed"
    show_lines([f"{count(len(done['removed']), 'thing')}, {size(done['freed'])} {words} in {agent.where}"])
    return 0


def _row(one: Mapping[str, Any], now: float) -> tuple[str, str, str, str]:
    return one["kind"], one["name"], age(now - one["used"]), one["why"] if "why" in one else size(one["bytes"])
