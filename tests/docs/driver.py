"""Run the blocks of a page one after the other in one process, as a script or a notebook does.

Their names are those of a `__main__` of their own. Before each block a line with its number goes to the stdout.
"""

import ast
import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import traceback
import types
from pathlib import Path
from typing import Any

MARK = "\x1e"  # begins the line before a block's output


def main(page: str, blocks: list[dict[str, Any]], notebook: bool) -> None:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.path[0] = os.getcwd()
    if notebook:
        asyncio.run(_run_in_loop(page, blocks, module))
        return
    for number, block in enumerate(blocks):
        _begin(number)
        _run(page, block, module)


async def _run_in_loop(page: str, blocks: list[dict[str, Any]], module: types.ModuleType) -> None:
    for number, block in enumerate(blocks):
        _begin(number)
        coroutine = _run(page, block, module)
        if inspect.iscoroutine(coroutine):
            await coroutine


def _begin(number: int) -> None:
    print(f"{MARK}{number}", flush=True)


def _run(page: str, block: dict[str, Any], module: types.ModuleType) -> object:
    """Run a block; of one that awaits return the coroutine."""
    if block["title"]:
        Path(block["title"]).write_text(block["text"])
        return None
    if block["language"] == "console":
        _run_command(block["command"], block["shown"] if block["interrupted"] else None)
        return None
    source = "\n" * (block["line"] - 1) + block["text"]
    code = compile(source, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    try:
        return eval(code, module.__dict__)
    except Exception:
        if not block["raises"]:
            raise
        print(traceback.format_exc(), flush=True)
        return None


def _run_command(line: str, until: str | None) -> None:
    """Run a line of shell; where it is to be interrupted, that is done as soon as it has said `until`."""
    process = subprocess.Popen(
        ["bash", "-c", line], stdout=subprocess.PIPE if until is not None else None, text=True, start_new_session=True
    )
    if until is None:
        if process.wait():
            sys.exit(f"`{line}` failed with exit code {process.returncode}")
        return
    said = ""
    assert process.stdout is not None
    while until.strip() not in said:
        row = process.stdout.readline()
        if not row:
            sys.exit(f"`{line}` ended without saying {until!r}")
        said += row
        sys.stdout.write(row)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    sys.stdout.flush()


if __name__ == "__main__":
    main(**json.loads(Path(sys.argv[1]).read_text()))
