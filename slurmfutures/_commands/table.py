"""How things look: tables by rich, ages and sizes in words, and JSON, which needs none of that."""

import codecs
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from .._printable import printable, printable_line

_WIDE = 100_000  # characters of a line where the output is no terminal: nothing is cut or broken there
_WHOLE = ("batch", "call", "driver", "pilot", "pool")
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def show_json(document: Any) -> None:
    """Write one JSON document. Numbers that JSON does not have are null in it."""
    try:
        text = json.dumps(document, indent=2, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


def _finite(document: Any) -> Any:
    """Return a document with None in the place of NaN and the infinities."""
    if isinstance(document, dict):
        return {name: _finite(value) for name, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def show_log(pieces: Iterable[bytes]) -> None:
    """Write a program's output: printable on a terminal, the bytes as they are elsewhere."""
    if sys.stdout.isatty():
        for text in codecs.iterdecode(pieces, "utf-8", "surrogateescape"):
            sys.stdout.write(printable(text))
    else:
        sys.stdout.flush()
        for data in pieces:
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def show_lines(lines: Iterable[str]) -> None:
    """Write lines, printable, each on one line."""
    for line in lines:
        print(printable_line(line))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Write a table; the columns of `numbers` are set to the right. A terminal breaks what is too wide, in cells."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for heading in headings:
        number = heading in numbers
        # What is typed again, and what is short, stays in one piece.
        table.add_column(
            heading,
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number or heading in _WHOLE,
        )
    for row in rows:
        table.add_row(*(Text(printable_line(cell)) for cell in row))  # what is in square brackets is no markup
    console.print(table)


def age(seconds: float) -> str:
    """Return how long something took or has been, in its largest unit: "3 h"; "?" where that is no length of time."""
    if not math.isfinite(seconds):
        return "?"
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{int(seconds / length)} {unit}"
    return "0 s"


def size(number: int) -> str:
    """Return bytes in words: "1.2 MB"."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number} B"


def count(number: int, word: str) -> str:
    """Return "1 batch", "2 batches"."""
    plural = f"{word}es" if word.endswith(("ch", "s")) else f"{word}s"
    return f"{number} {word if number == 1 else plural}"
