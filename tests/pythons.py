"""Interpreters of other versions, where there are any."""

import os
import shutil
from pathlib import Path

import pytest


def find(version: str) -> str:
    """Return the path of an interpreter, or skip the test."""
    kept_by_pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [
        str(path / "bin/python")
        for path in sorted(kept_by_pyenv.glob(f"{version}.*"))
        if (path / "bin/python").exists()
    ]
    # What pyenv calls python3.8 may be a shim that knows of no such version.
    named = shutil.which(f"python{version}")
    if named and ".pyenv/shims" not in named:
        found.append(named)
    if not found:
        pytest.skip(f"there is no Python {version} here")
    return found[-1]
