"""The command `slurmfutures repair`: save what is whole of a damaged checkpoint."""

import argparse
from typing import Any

from .. import SlurmFuturesError, _journal
from .table import count, show_json, show_lines


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "repair",
        help="save what is whole of a damaged checkpoint",
        description="Write a damaged checkpoint anew from the records that are whole. The damaged file is kept beside "
        "it, with .damaged behind its name. Calls under way that only the damaged part told of run again, so end "
        "their jobs first: slurmfutures status and cancel find them in the work_dir.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--json", action="store_true", help="one JSON document on the standard output")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Repair, and say what was saved."""
    try:
        scan, kept = _journal.repair(arguments.checkpoint)
    except OSError as error:
        raise SlurmFuturesError(f"the checkpoint {arguments.checkpoint} cannot be repaired: {error}") from error
    contents = scan.contents
    if arguments.json:
        words = {"finished": len(contents.finished), "under_way": len(contents.flying), "lost": scan.lost}
        show_json({"checkpoint": scan.path, "damaged": kept or None, **words})
    elif not kept:
        show_lines([f"{scan.path} is not damaged"])
    else:
        saved = f"{count(len(contents.finished), 'result')} and {count(len(contents.flying), 'call')} under way"
        show_lines([f"{scan.path}: {saved} saved, {scan.lost} bytes were damaged; the old file is {kept}"])
    return 0
