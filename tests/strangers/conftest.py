"""Second accounts, for the tests of what they must not be able to do."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.strangers.accounts import Stranger


@pytest.fixture(scope="session")
def stranger() -> Iterator[Stranger]:
    """Another account of this machine."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a second account: sudo scripts/test -e py311 -- tests/strangers")
    with closing(Stranger()) as stranger:
        yield stranger


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every account can reach, and only the user can write to; `tmp_path` is closed to others."""
    path = Path(tempfile.mkdtemp(prefix="slurmfutures-strangers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
