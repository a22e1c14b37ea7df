"""The page on notebooks in a real kernel."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.docs.pages import blocks_of
from tests.docs.test_pages import NOTEBOOK, ROOT, is_like
from tests.docs.world import World

pytestmark = [pytest.mark.thorough, pytest.mark.slurm, pytest.mark.ssh]

EXECUTE = """\
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.execute(notebook, timeout=60)
nbformat.write(notebook, sys.argv[1])
"""


def test_its_cells_run_in_a_kernel(wide_world: World) -> None:
    if importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None:
        pytest.skip("needs nbclient and ipykernel")
    blocks = [block for block in blocks_of((ROOT / NOTEBOOK).read_text()) if not block.not_run]
    folder = wide_world.begin()
    file = folder / "notebook.ipynb"
    cells: list[dict[str, Any]] = [
        {
            "id": f"cell{number}",
            "cell_type": "code",
            "source": wide_world.meant(block.text, {}),
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for number, block in enumerate(blocks)
    ]
    file.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, file],
        cwd=folder,
        env=wide_world.env(),
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for block, cell in zip(blocks, json.loads(file.read_text())["cells"], strict=True):
        said = "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")
        assert is_like(block.shown or "...", said)
