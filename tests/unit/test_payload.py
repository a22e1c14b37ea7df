"""Calls, results and batch files as bytes."""

import pickle
import random
from pathlib import Path
from typing import NoReturn

import pytest

from slurmfutures._remote import payload


def test_records_come_back_in_order() -> None:
    packed = b"".join([*payload.pack_record(3, payload.OK, b"abc"), *payload.pack_record(2**40, payload.RAISED, b"")])
    assert [(one.call, one.status, one.payload) for one in payload.records(packed)] == [
        (3, payload.OK, b"abc"),
        (2**40, payload.RAISED, b""),
    ]


def test_calls_come_back_in_order() -> None:
    packed = b"".join([*payload.pack_call(1, 7, b"x"), *payload.pack_call(2, 8, b"yy")])
    assert [(one.call, one.function, one.payload) for one in payload.calls(packed)] == [(1, 7, b"x"), (2, 8, b"yy")]


def batch_file(tmp_path: Path) -> payload.BatchFile:
    path = tmp_path / "calls"
    entries = [(0, b"a0"), (1, b"a1"), (0, b""), (1, b"a3" * 1000)]
    path.write_bytes(b"".join(payload.pack_batch(b"init", [b"f0", b"f1"], entries, [0, 1, 3])))
    return payload.BatchFile(str(path))


def test_a_batch_file_gives_each_task_its_calls(tmp_path: Path) -> None:
    batch = batch_file(tmp_path)
    assert [list(batch.task(number)) for number in range(3)] == [[0], [1, 2], [3]]
    assert [batch.call(number) for number in range(4)] == [(0, b"a0"), (1, b"a1"), (0, b""), (1, b"a3" * 1000)]
    assert (batch.initializer(), batch.function(0), batch.function(1)) == (b"init", b"f0", b"f1")
    batch.close()


def test_a_file_of_another_kind_is_no_batch(tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="not a batch"):
        payload.BatchFile(str(tmp_path / "calls"))


def test_results_come_back_whole() -> None:
    whole = payload.unpack_results(b"".join(payload.pack_results([b"ab", b"", b"c"])))
    assert whole is not None
    assert whole.tobytes() == b"abc"


def test_what_is_large_is_not_copied() -> None:
    large = bytes(1 << 20)
    packed = payload.pack_record(1, payload.OK, large)
    assert packed[-1] is large
    assert payload.pack_results(packed)[-1] is large
    (record,) = payload.records(b"".join(packed))
    assert isinstance(record.payload, memoryview)
    assert record.payload == large


def test_results_cut_anywhere_are_not_taken() -> None:
    data = b"".join(payload.pack_results([b"some records"]))
    assert all(payload.unpack_results(data[:end]) is None for end in range(len(data)))
    assert payload.unpack_results(data + b"x") is None


def test_results_with_any_bit_wrong_are_not_taken() -> None:
    data = b"".join(payload.pack_results([b"some records"]))
    for bit in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        assert payload.unpack_results(bytes(wrong)) is None


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no bytes")


def raising(error: BaseException) -> None:
    raise error


def perform(error: BaseException) -> tuple[int, bytes]:
    return payload.perform(lambda _: raising(error), pickle.dumps(((0,), {})))


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_function_raises_is_its_answer(error: BaseException) -> None:
    status, data = perform(error)
    words, pickled = payload.unpack_error(data)
    assert status == payload.RAISED
    assert type(pickle.loads(pickled)) is type(error)
    assert words["type"] == type(error).__name__
    assert "raising" in words["traceback"]
    assert "_remote/payload.py" not in words["traceback"]


def test_an_exception_without_a_text_is_told_by_its_type() -> None:
    words, _ = payload.unpack_error(perform(Unprintable())[1])
    assert "Unprintable" in words["traceback"]


def test_an_exception_that_cannot_be_pickled_is_told_in_words() -> None:
    words, pickled = payload.unpack_error(perform(Unpicklable("why"))[1])
    assert pickled == b""
    assert words["said"] == "why"


def test_a_result_that_cannot_be_pickled_is_told_apart_from_what_was_raised() -> None:
    status, data = payload.perform(lambda: (one for one in "ab"), pickle.dumps(((), {})))
    assert status == payload.UNPICKLABLE
    assert "generator" in payload.unpack_error(data)[0]["said"]


def test_arguments_that_cannot_be_loaded_never_reach_the_function() -> None:
    reached: list[int] = []
    status, _ = payload.perform(reached.append, b"\x80\x05cno_such_module\nthing\n.")
    assert status == payload.UNLOADABLE
    assert reached == []


@pytest.mark.parametrize("seed", range(5))
def test_values_come_back(seed: int) -> None:
    value = random.Random(seed).sample([1, "a", None, (1, 2), {"k": b"v"}, 2.5], 4)
    assert pickle.loads(payload.pickle_value(value)) == value
