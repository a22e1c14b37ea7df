"""The site that `mkdocs build` has made; it is built by `scripts/docs` and by `tox -e docs`."""

import re
from pathlib import Path

import pytest

import slurmfutures

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "site"
_FETCHED = re.compile(
    r"<(?:script|img|iframe|link(?=[^>]*\brel=\"?(?:stylesheet|preconnect|icon)))[^>]*(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)"
)
_IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    if not SITE.is_dir():
        pytest.skip("no site is built: scripts/docs builds it")
    return {path.relative_to(SITE).as_posix(): path.read_text() for path in SITE.rglob("*.html")}


def test_each_page_is_there(pages: dict[str, str]) -> None:
    sources = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert set(pages) == {"404.html", *(path.as_posix() for path in sources)}


def test_nothing_is_fetched_from_elsewhere(pages: dict[str, str]) -> None:
    assert [found for text in pages.values() for found in _FETCHED.findall(text)] == []
    styles = [path.read_text() for path in SITE.rglob("*.css")]
    assert styles
    assert [found for text in styles for found in _IMPORTED.findall(text)] == []


def test_each_public_name_has_its_entry(pages: dict[str, str]) -> None:
    reference = pages["reference/api.html"] + pages["reference/errors.html"]
    missing = [name for name in slurmfutures.__all__ if f'id="slurmfutures.{name}"' not in reference]
    assert missing == []


def test_no_field_of_a_docstring_is_left_as_text(pages: dict[str, str]) -> None:
    for name in ("reference/api.html", "reference/errors.html"):
        assert not re.search(r":(?:param|returns?|raises|type)\b[^<]*:", pages[name])
        assert "``" not in pages[name]
