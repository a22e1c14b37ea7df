"""The forms of ids and numbers."""

from typing import Any

import pytest

from slurmfutures._remote import ids

ID = "0123456789ab"
NO_TEXT: list[Any] = [None, 7, 7.0, True, b"0123456789ab", [ID], {ID: 1}]
NO_ID = [*NO_TEXT, "", ID[1:], ID + "c", ID.upper(), ID[:-1] + "g", ID + "\n", " " + ID, ".", "..", "../" + ID[3:]]


@pytest.mark.parametrize("value", NO_ID, ids=repr)
def test_what_is_no_id_is_refused(value: Any) -> None:
    assert not ids.is_batch(value)
    assert not ids.is_session(value)
    with pytest.raises(ValueError, match="is not the id of a batch, which is 12 hexadecimal digits"):
        ids.batch(value)
    with pytest.raises(ValueError, match="is not the id of a session, which is 12 hexadecimal digits"):
        ids.session(value)


def test_an_id_is_returned_as_it_is() -> None:
    assert ids.is_batch(ID)
    assert ids.is_session(ID)
    assert ids.batch(ID) == ids.session(ID) == ID
    assert ids.digest("0" * 20) == "0" * 20


def test_a_refusal_is_short() -> None:
    with pytest.raises(ValueError) as caught:
        ids.batch("x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [*NO_TEXT, "", "0" * 19, "0" * 21, "g" * 20, "../" + "0" * 17, "0" * 20 + "\n"])
def test_what_is_no_hash_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a hash, which is 20 hexadecimal digits"):
        ids.digest(value)


@pytest.mark.parametrize(("value", "good"), [("00000a", True), ("00000A", False), ("0000000", False), ("..", False)])
def test_the_name_of_a_pool_has_six_digits(value: str, good: bool) -> None:
    assert ids.is_pool(value) is good
    assert not ids.is_pool(10)


@pytest.mark.parametrize("text", ["1", "7", "4294967295"])
def test_a_job_is_a_number_above_zero(text: str) -> None:
    assert ids.is_job(text)
    assert ids.number(text) == int(text)


@pytest.mark.parametrize(
    "value", [*NO_TEXT, "", "0", "00", "07", "-1", "+7", "7_1", "7,8", "7 ", "7\n", "٣", "²", "1e3", "0x7", "9" * 5000]
)
def test_what_is_no_job_is_refused(value: Any) -> None:
    assert not ids.is_job(value)


@pytest.mark.parametrize("text", ["", "00", "07", "-1", "+7", " 7", "7\n", "٣", "²", "1_0", "9" * 11, "9" * 5000])
def test_a_number_has_one_spelling(text: str) -> None:
    assert ids.number("0") == 0
    assert ids.number(text) is None


@pytest.mark.parametrize(("value", "good"), [("0-2", True), ("10-3", True), ("0-2/..", False), ("0", False)])
def test_the_name_of_a_worker_has_two_numbers(value: str, good: bool) -> None:
    assert ids.is_worker(value) is good
    assert not ids.is_worker(None)


@pytest.mark.parametrize("value", [-1, 8, 1.0, True, False, "1", None, [1], float("nan"), 1 << 99])
def test_a_count_is_an_int_within_bounds(value: Any) -> None:
    assert [ids.count(number, 7) for number in (0, 7)] == [0, 7]
    with pytest.raises(ValueError, match="is not a number from 0 to 7"):
        ids.count(value, 7)
