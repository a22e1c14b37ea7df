"""What the pages show is what happens: their snippets run, and print what is said below them."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs import driver
from tests.docs.pages import Block, blocks_of
from tests.docs.setups import SETUPS, Setup, clear
from tests.docs.world import World

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NOTEBOOK = "docs/how-to/notebooks.md"
AWAITING = (NOTEBOOK, "docs/from-ai2-kit.md")  # run in a loop
MOST_NOT_RUN = 0.1  # of all blocks
_SECONDS = 75
_AGE = re.compile(r"\b\d+ (?:s|min|h|d)\b")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def blocks_in(path: Path) -> list[Block]:
    return blocks_of(path.read_text())


def _runs(path: Path, *, cluster: bool) -> bool:
    return any(block.cluster is cluster and not block.not_run for block in blocks_in(path))


BEFORE = [pytest.param(path, id=name_of(path)) for path in PAGES if _runs(path, cluster=False)]
WHOLE = [pytest.param(path, id=name_of(path)) for path in PAGES if _runs(path, cluster=True)]


@pytest.mark.parametrize("path", BEFORE)
def test_what_needs_no_cluster_runs(path: Path, world: World) -> None:
    run(path, [block for block in blocks_in(path) if not block.cluster], world)


@pytest.mark.slurm
@pytest.mark.ssh
@pytest.mark.parametrize("path", WHOLE)
def test_a_page_runs(path: Path, wide_world: World) -> None:
    run(path, blocks_in(path), wide_world)


def run(path: Path, blocks: list[Block], world: World) -> None:
    """Run blocks, and compare what they print with what the page says."""
    setup = SETUPS.get(name_of(path), Setup())
    folder = world.begin()
    try:
        meant = functools.partial(world.meant, names=setup.prepare(world, folder))
        cells, shown = [_cell(Block("python", setup.code, 1), meant)], [(0, "")]
        for block in blocks:
            if block.not_run:
                continue
            if not block.commands:
                cells.append(_cell(block, meant))
                shown.append((block.line, meant(block.shown or "")))
            for command in block.commands:
                words = {"command": meant(command.line), "shown": meant(command.shown)}
                cells.append(_cell(block, meant) | words | {"interrupted": command.interrupted})
                shown.append((block.line, meant(command.shown)))
        plan = {"page": str(path), "blocks": cells, "notebook": name_of(path) in AWAITING}
        file = world.folder / f"{folder.name}.json"
        file.write_text(json.dumps(plan))
        done = subprocess.run(
            [sys.executable, driver.__file__, str(file)],
            cwd=folder,
            env=world.env(),
            input=setup.typed,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    finally:
        if setup.leaves:
            clear(world, folder)
    said = re.split(rf"{driver.MARK}\d+\n", done.stdout)[1:]
    assert done.returncode == 0, f"after:\n{said[-1] if said else ''}\n{done.stderr}"
    wrong = [
        f"{name_of(path)}:{line} shows\n{text}\nbut it prints\n{found}"
        for (line, text), found in zip(shown, said, strict=True)
        if text and not is_like(text, found)
    ]
    assert not wrong, "\n".join(wrong)


def is_like(shown: str, found: str) -> bool:
    """Whether output is what a page shows: "..." is anything, blanks, rulers and ages are not compared."""
    shown, found = (_AGE.sub("AGE", re.sub("─+", "─", " ".join(text.split()))) for text in (shown, found))
    return bool(re.fullmatch(".*".join(re.escape(piece.strip()) for piece in shown.split("...")), found))


def _cell(block: Block, meant: Callable[[str], str]) -> dict[str, object]:
    raises = block.shown is not None and "Traceback (most recent call last)" in block.shown
    return {
        "language": block.language,
        "title": block.title,
        "text": meant(block.text),
        "line": block.line,
        "raises": raises,
    }


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    blocks = [(path, block) for path in PAGES for block in blocks_in(path)]
    left = [(path, block) for path, block in blocks if block.not_run]
    assert len(left) <= MOST_NOT_RUN * len(blocks), [f"{name_of(path)}:{block.line}" for path, block in left]
    for path, block in left:
        assert "because" in block.not_run, f"{name_of(path)}:{block.line} does not say why it is not run"
    for path, block in blocks:
        runs = block.language in ("python", "console") or block.title
        assert runs or block.not_run, f"{name_of(path)}:{block.line} is {block.language} and neither run nor a file"


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md"])
def test_links_beside_the_site_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_modules_that_security_names_are_there() -> None:
    names = re.findall(r"`(_(?:\w+/)?\w+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert len(names) > 20
    assert [name for name in names if not (ROOT / "slurmfutures" / name).is_file()] == []
