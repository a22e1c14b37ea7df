"""Makes a page of SECURITY.md, which lies beside the README so that hosts of repositories find it.

In the sources links to and from it are those of the repository. On the site they become links between pages.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_FROM_PAGE = re.compile(r"\]\(((?:\.\./)*)\.\./SECURITY\.md")
_TO_PAGE = re.compile(r"\]\(docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    text = (Path(config.config_file_path).parent / "SECURITY.md").read_text()
    files.append(File.generated(config, "security.md", content=_TO_PAGE.sub("](", text)))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    return _FROM_PAGE.sub(r"](\1security.md", markdown)
