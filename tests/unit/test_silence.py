"""The library prints nothing by itself."""

import subprocess
import sys

PROGRAM = """\
import logging
import slurmfutures
logging.getLogger("slurmfutures.poller").warning("a connection is lost")
logging.getLogger("slurmfutures.paramiko").error("what paramiko says")
"""


def test_nothing_is_printed_where_nobody_asked_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_importing_it_brings_no_ssh_along() -> None:
    program = "import slurmfutures, sys; assert 'paramiko' not in sys.modules and 'cryptography' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
