"""Everything that is imported while inputs are made.

hypothesis takes constants from the modules that are there. One that is imported later changes what it draws.
"""

import importlib
import pkgutil

import slurmfutures


def import_all() -> None:
    for module in pkgutil.walk_packages(slurmfutures.__path__, "slurmfutures."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
