"""What `slurmfutures` offers by name."""

import types

import pytest

import slurmfutures


def test_what_is_public_is_in_the_list() -> None:
    found = {name for name, value in vars(slurmfutures).items() if not isinstance(value, types.ModuleType)}
    assert {name for name in found if not name.startswith("_")} == set(slurmfutures.__all__)


@pytest.mark.parametrize("name", slurmfutures.__all__)
def test_it_says_where_it_is_imported_from(name: str) -> None:
    assert getattr(slurmfutures, name).__module__ == "slurmfutures"
