"""Indices of job arrays, as `--array` has them."""

import random

import pytest

from slurmfutures._remote import arrays


@pytest.mark.parametrize(
    ("text", "indices", "throttle"),
    [
        ("0-3", [0, 1, 2, 3], None),
        ("7", [7], None),
        ("0,5,7%1", [0, 5, 7], 1),
        ("1-10:3%2", [1, 4, 7, 10], 2),
        ("1-9:3", [1, 4, 7], None),
        ("3-4,1,3-5", [3, 4, 1, 5], None),
        ("007", [7], None),
        ("4000000", [4000000], None),
    ],
)
def test_what_sbatch_takes(text: str, indices: list[int], throttle: int | None) -> None:
    found = arrays.parse(text)
    assert (found.indices, found.throttle, found.text) == (indices, throttle, text.partition("%")[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no list of array indices"),
        ("1,", "no list of array indices"),
        ("-1", "no list of array indices"),
        ("1-", "no list of array indices"),
        ("1, 2", "no list of array indices"),
        ("1:2", "no list of array indices"),
        ("x", "no list of array indices"),
        ("\u0663", "no list of array indices"),
        ("3-1", "'3-1' has no array index in '3-1'"),
        ("5,1-3:0", "'5,1-3:0' has no array index in '1-3:0'"),
        ("1%0", "how many tasks may run at once"),
        ("1-3%", "how many tasks may run at once"),
        ("1-3%2,7", "how many tasks may run at once"),
        ("0-4000001", "Slurm's highest array index is 4000000"),
        ("0-99999,100001", "has too many tasks"),
        ("0-4000000", "has too many tasks: submit them as arrays of at most 100000"),
    ],
)
def test_what_it_does_not(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        arrays.parse(text)
    assert words in str(caught.value)


def test_what_is_written_is_read_in_its_order() -> None:
    assert arrays.write([1, 2, 3, 7, 5, 6]) == "1-3,7,5-6"
    chance = random.Random(7)
    for _ in range(50):
        indices = chance.sample(range(60), chance.randrange(1, 60))
        assert arrays.parse(arrays.write(indices)).indices == indices


@pytest.mark.parametrize(
    ("text", "words"), [("1-10:3%2", "4 1 10 3"), ("7,0,5", "3 0 7 1"), ("0-4:2,1-3:2", "5 0 4 2"), ("5", "1 5 5 1")]
)
def test_what_its_tasks_are_told(text: str, words: str) -> None:
    names = ("COUNT", "MIN", "MAX", "STEP")
    found = arrays.parse(text).environment()
    assert found == {f"SLURM_ARRAY_TASK_{name}": word for name, word in zip(names, words.split(), strict=True)}
