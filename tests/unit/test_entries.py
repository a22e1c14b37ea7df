"""What a batch's files may say of it."""

import json
from typing import Any

import pytest

from slurmfutures._remote import entries

BATCH = "0123456789ab"
SPEC: dict[str, Any] = {"batch": BATCH, "tasks": 4, "skip": [], "name": "f", "options": ["--mem=1G"], "session": "s"}
POOL = f"/work/pilots/{BATCH}/00000a"
INTENT: dict[str, Any] = {
    "part": 1,
    "tasks": [[0, 2], [3, 4]],
    "name": f"f.sf-{BATCH}.1",
    "throttle": None,
    "time": 1.5,
    "attempt": 0,
    "exclude": ["n1"],
}
RETRY: dict[str, Any] = {"task": 0, "attempt": 1, "exclude": ["n1"], "done": [[0, 3]]}


def each(words: dict[str, Any], name: str, *values: Any) -> list[dict[str, Any]]:
    """Return the same words with each of these values."""
    return [{**words, name: value} for value in values]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_object_is_damage(data: bytes) -> None:
    with pytest.raises(ValueError):
        entries.document(data)


def test_lines_that_are_no_objects_are_left_out() -> None:
    data = b'\n{"part": 0}\n\n[1]\n7\n\xff\n' + b"[" * 100_000 + b'\n{"part": 1}\n{"part": 2, "na'
    assert list(entries.lines(data)) == [{"part": 0}, {"part": 1}]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"skip": [0, 3], "scheduler": "local", "comment": None, "chdir": "/"},
        {"tasks": 0},
        {"pilot": None, "script": None},
        {"pilot": {"folder": POOL, "workers": 2}},
        {"script": {"array": "3,10-30:10", "indices": "3,10-30:10", "output": ""}},
        {"script": {}},
    ],
    ids=json.dumps,
)
def test_how_a_batch_is_to_be_submitted(more: dict[str, Any]) -> None:
    entries.check_spec({**SPEC, **more}, BATCH)


@pytest.mark.parametrize(
    "more",
    [
        *each({}, "batch", None, "", "0123456789ac", [BATCH], "../" + BATCH),
        *each({}, "tasks", None, -1, 1.0, True, "4", 1 << 40),
        *each({}, "skip", None, {}, "0", [4], [-1], ["0"], [[0, 1]]),
        *each({}, "name", 7, ["f"], {"a": 1}),
        *each({}, "session", 7, [BATCH]),
        *each({}, "scheduler", 7, ["slurm"]),
        *each({}, "options", None, "--mem=1G", [7], {"mem": 1}),
        *each({}, "pilot", "x", [], {}, {"folder": 7, "workers": 1}, {"folder": POOL}),
        *each(
            {},
            "pilot",
            *({"folder": end, "workers": 1} for end in ("", "/", "..", POOL + "/", POOL + "/..", POOL[:-1])),
        ),
        *each({}, "pilot", *({"folder": POOL, "workers": value} for value in (-1, "1", 1 << 40))),
        *each({}, "script", "x", [], {"array": 7}, {"array": "x"}, {"array": "0-9", "indices": "0-8"}),
    ],
    ids=json.dumps,
)
def test_a_damaged_batch_is_told(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        entries.check_spec({**SPEC, **more}, BATCH)


@pytest.mark.parametrize(
    "words",
    [
        INTENT,
        {name: INTENT[name] for name in ("part", "tasks", "name", "time")},
        {**INTENT, "throttle": 3, "time": 0},
        {"part": 0, "job": "7"},
        {"part": 0, "void": True},
        {"retries": []},
        {"retries": [RETRY, {**RETRY, "task": 3, "done": []}]},
    ],
    ids=json.dumps,
)
def test_a_line_of_a_batch(words: dict[str, Any]) -> None:
    entries.check_entry(words, BATCH, 4)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"part": 0},
        *each({"job": "7"}, "part", None, -1, "0", 1.0, True, "../x"),
        *each({"part": 0}, "job", None, 7, "", "0", "-1", "7,8", "7_1", "../x", "7\n", ["7"]),
        *each(INTENT, "tasks", None, [], [0, 2], [[0]], [[2, 0]], [[0, 0]], [[0, 5]], [[-1, 2]]),
        *each(INTENT, "tasks", [[0, 1 << 40]], [["0", "2"]], [[0, 3], [0, 3]]),
        *each(INTENT, "name", None, "", "f", f"f.sf-{BATCH}.0", f"f.sf-{BATCH}.1x", 7),
        *each(INTENT, "time", None, "0", float("inf"), float("nan"), [0]),
        *each(INTENT, "throttle", 0, -1, "1", 1.5),
        *each(INTENT, "attempt", None, -1, "1"),
        *each(INTENT, "exclude", None, "n1", [1]),
        *each({}, "retries", None, {}, [7], [{}]),
        *({"retries": [words]} for words in each(RETRY, "task", None, -1, 4, "0")),
        *({"retries": [words]} for words in each(RETRY, "done", None, [[3, 0]], [[0, 1 << 40]])),
        {"retries": [{**RETRY, "exclude": None}]},
    ],
    ids=json.dumps,
)
def test_a_damaged_line_is_told(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        entries.check_entry(words, BATCH, 4)


def test_what_is_told_of_a_value_is_short() -> None:
    with pytest.raises(ValueError) as caught:
        entries.check_entry({"part": 0, "job": "7" * 100_000}, BATCH, 4)
    assert len(str(caught.value)) < 200
