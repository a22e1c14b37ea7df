"""Pages as lists of blocks (pure: text in, values out)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

CODE = ("python", "console", "bash", "toml", "yaml", "ini")
"""What is run, or written to a file, or says why not."""

NO_CLUSTER = "<!-- up to here no cluster is needed -->"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?: +title=\"(?P<title>[^\"]+)\")?.*\n", re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_PROMPT = "$ "


@dataclass
class Command:
    """A line of shell, and what is shown of its output; `interrupted` where a ^C follows that."""

    line: str
    shown: str = ""
    interrupted: bool = False


@dataclass
class Block:
    """A fenced block: `line` is that of its first line, from 1; `shown` the output that is shown below it."""

    language: str
    text: str
    line: int
    title: str = ""
    not_run: str = ""
    cluster: bool = False
    shown: str | None = None
    commands: list[Command] = field(default_factory=list)


_ROW = re.compile(r"^\|(?:\\.|[^|\\\n])*\|((?:\\.|[^|\\\n])*)\|", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
TABLES = "<!-- of the tables below, what is in the second column is run -->"


def rows_of(page: str) -> list[Block]:
    """Return the code in the second columns of a page's tables, those below the words that say so."""
    start = page.find(TABLES)
    return [
        Block("python", code + "\n", page.count("\n", 0, match.start()) + 1, cluster=True)
        for match in _ROW.finditer(page, start if start >= 0 else len(page))
        for code in _SPAN.findall(match[1])
    ]


def blocks_of(page: str) -> list[Block]:
    """Return the code of a page. Raises ValueError for a block that does not end, or a command without its prompt."""
    blocks: list[Block] = []
    end = 0
    for match, body, after in _fences(page):
        before = page[end : match.start()]
        language, line = match["language"], page.count("\n", 0, match.end()) + 1
        if language == "text" and blocks and not before.strip() and blocks[-1].language == "python":
            blocks[-1].shown = body
        elif language in CODE:
            reason = _NOT_RUN.search(before)
            block = Block(language, body, line, match["title"] or "", reason[1] if reason else "")
            block.cluster = NO_CLUSTER not in page[match.start() :]
            if language == "console" and not reason:
                block.commands = _commands(body, line)
            blocks.append(block)
        end = after
    return sorted([*blocks, *rows_of(page)], key=lambda block: block.line)


def _fences(page: str) -> Iterator[tuple[re.Match[str], str, int]]:
    at = 0
    while match := _FENCE.search(page, at):
        indent = match["indent"]
        close = re.compile(rf"^{indent}```[ ]*$", re.MULTILINE).search(page, match.end())
        if close is None:
            raise ValueError(f"the block in line {page.count(chr(10), 0, match.start()) + 1} does not end")
        body = re.sub(rf"^{indent}", "", page[match.end() : close.start()], flags=re.MULTILINE)
        yield match, body, close.end()
        at = close.end()


def _commands(text: str, line: int) -> list[Command]:
    commands: list[Command] = []
    for row in text.splitlines(keepends=True):
        if row.startswith(_PROMPT):
            commands.append(Command(row[len(_PROMPT) :].rstrip()))
        elif not commands:
            raise ValueError(f"the block in line {line} shows output before a command; commands begin with {_PROMPT!r}")
        elif row.strip() == "^C":
            commands[-1].interrupted = True
        elif not commands[-1].interrupted:
            commands[-1].shown += row
    return commands
