"""Where jobs, pilots and workers find modules.

Ours come first, then the version of the user's own code that was shipped, then the interpreter's, then the driver's, in
the driver's order. The current folder is searched only where the driver searches it: on a cluster it is some home or
scratch folder, and a `json.py` there must not be taken for the standard library's. To that end programs of ours start
from a file (`start`), and PYTHONPATH is without its empty words (`NOT_HERE`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Sequence

_DRIVER = "SLURMFUTURES_PATH"  # the driver's prefix and the entries of its `sys.path`, a line each
#: Bash that takes the current folder out of PYTHONPATH, where an empty word means it.
NOT_HERE = """\
if [ -n "${PYTHONPATH-}" ]; then
    PYTHONPATH=:$PYTHONPATH:
    while [[ $PYTHONPATH == *::* || $PYTHONPATH == *:.:* ]]; do
        PYTHONPATH=${PYTHONPATH//:.:/:} PYTHONPATH=${PYTHONPATH//::/:}
    done
    PYTHONPATH=${PYTHONPATH#:} PYTHONPATH=${PYTHONPATH%:}
fi
"""
SHIP = "SLURMFUTURES_SHIP"  # the folder with the user's own code


def environment(path: Sequence[str], shipped: str = "") -> Dict[str, str]:
    """Return the environment variables that `set_path` reads. `path` is the driver's prefix and its `sys.path`."""
    return {_DRIVER: "\n".join(path), SHIP: shipped}


def set_path(*, keep: bool) -> None:
    """Order `sys.path`, whose first entry is the folder of this package.

    `keep` the variables with what the driver searches for other programs of ours; users' code does not see them.
    """
    variable = os.environ.get if keep else os.environ.pop
    shipped = variable(SHIP, "")
    prefix, *driver = variable(_DRIVER, "").split("\n")
    rest = sys.path[1:]
    driver = [entry for entry in driver if entry]
    if prefix == sys.prefix:  # the driver's own interpreter: its modules are the driver's, in the driver's order
        rest = [*filter(_is_standard, rest), *driver, *rest]
    else:
        rest += driver
    sys.path[1:] = dict.fromkeys([shipped, *rest] if shipped else rest)


def _is_standard(entry: str) -> bool:
    """Whether an entry is the standard library."""
    library = os.path.dirname(os.__file__)
    name = os.path.basename(entry)
    return entry == library or name == "lib-dynload" or (name.startswith("python3") and name.endswith(".zip"))
