"""Where a job's output is said to be, on this machine, there is something else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmfutures import JobFailed, SlurmExecutor, SlurmFuturesWarning
from tests import calls
from tests.fix_executors import Opener
from tests.strangers.accounts import Stranger
from tests.waiting import DEADLINE

_SCRIPT = """\
#!/bin/bash
#SBATCH --output={0}
echo said by the job
"""
_DEATH = """\
#!/bin/bash
#SBATCH --output={0}
#SBATCH --error={0}.err
rm {0}.err
mkfifo {0}.err
exit 3
"""


@pytest.fixture
def executor(opener: Opener) -> SlurmExecutor:
    return opener.root("local")


@pytest.fixture
def shared(common: Path) -> Path:
    """A folder that every account may write to."""
    common.chmod(0o777)
    return common


def fifo(path: Path, stranger: Stranger) -> str:
    os.mkfifo(path)
    return "a FIFO of "


def others_fifo(path: Path, stranger: Stranger) -> str:
    os.mkfifo(path)
    stranger.own(path)
    return f"a FIFO of {stranger.name}"


def others_file(path: Path, stranger: Stranger) -> str:
    path.write_text("said by somebody else")
    stranger.own(path)
    return f"a file of {stranger.name}"


def others_link(path: Path, stranger: Stranger) -> str:
    path.with_suffix(".own").write_text("the user's secret")
    path.symlink_to(path.with_suffix(".own"))
    stranger.own(path)
    return f"a link of {stranger.name}"


def device(path: Path, stranger: Stranger) -> str:
    path.symlink_to("/dev/zero")
    return "a special file of root"


KINDS = pytest.mark.parametrize("kind", [fifo, others_fifo, others_file, others_link, device])


@KINDS
def test_it_is_not_read_as_the_output(
    shared: Path, executor: SlurmExecutor, stranger: Stranger, kind: Callable[[Path, Stranger], str]
) -> None:
    path = shared / "log"
    future = executor.submit_script(_SCRIPT.format(path), cwd=str(shared))
    future.result(DEADLINE)
    assert future.stdout() == "said by the job\n"
    path.unlink()
    what = kind(path, stranger)
    with pytest.warns(SlurmFuturesWarning, match=f"{what}.* not a file of yours|{what}.* and not yours"):
        assert future.stdout() == ""
    assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9
    executor.shutdown()
    assert future.stdout() == ""


def test_the_user_s_own_link_is_followed(shared: Path, executor: SlurmExecutor) -> None:
    path = shared / "log"
    future = executor.submit_script(_SCRIPT.format(path), cwd=str(shared))
    future.result(DEADLINE)
    path.rename(shared / "elsewhere")
    path.symlink_to("elsewhere")
    assert future.stdout() == "said by the job\n"


def test_an_error_does_not_wait_for_a_fifo(shared: Path, executor: SlurmExecutor) -> None:
    future = executor.submit_script(_DEATH.format(shared / "log"), cwd=str(shared))
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert (error.exit_code, error.stderr_tail) == (3, "")
    assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9
