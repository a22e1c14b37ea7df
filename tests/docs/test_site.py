"""The site that `scripts/docs` and `tox -e docs` build of the pages."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slurmfutures

ROOT = Path(__file__).resolve().parents[2]
_LINK = r"link(?=[^>]*\brel=\"?(?:stylesheet|preconnect|icon))"
_FETCHED = re.compile(rf"<(?:script|img|iframe|{_LINK})\b[^>]*(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)")
_IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)")

if importlib.util.find_spec("mkdocs") is None:
    pytest.skip("needs mkdocs: tox -e docs has it", allow_module_level=True)


def build(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Build the site of the pages in `folder`, into its folder `site`."""
    for name in ("mkdocs.yml", "SECURITY.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "slurmfutures").symlink_to(ROOT / "slurmfutures")
    words = [sys.executable, "-m", "mkdocs", "build"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "docs").symlink_to(ROOT / "docs")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_each_page_is_there(site: Path) -> None:
    sources = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    made = {Path("404.html"), Path("security.html")}
    assert {path.relative_to(site) for path in site.rglob("*.html")} == {*made, *sources}


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages, styles = ([path.read_text() for path in site.rglob(f"*.{kind}")] for kind in ("html", "css"))
    assert pages
    assert styles
    assert [found for text in pages for found in _FETCHED.findall(text)] == []
    assert [found for text in styles for found in _IMPORTED.findall(text)] == []


def test_each_public_name_has_its_entry(site: Path) -> None:
    reference = "".join(path.read_text() for path in (site / "reference").glob("*.html"))
    assert [name for name in slurmfutures.__all__ if f'id="slurmfutures.{name}"' not in reference] == []


def test_what_stands_behind_an_attribute_is_its_description(site: Path) -> None:
    assert "Waits for its turn, or is held." in (site / "reference" / "api.html").read_text()


def test_no_markup_of_a_docstring_is_left_as_text(site: Path) -> None:
    for path in (site / "reference").glob("*.html"):
        text = path.read_text()
        assert not re.search(r":(?:param|returns?|raises|type)\b[^<]*:", text)
        assert "``" not in text


def test_links_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write("\n[x](nowhere.md) [x](design.md#nowhere) [x][slurmfutures.Nowhere]\n")
    done = build(tmp_path)
    assert done.returncode == 1
    assert "Aborted with 3 warnings in strict mode" in done.stdout
