"""Text from elsewhere reaches no terminal as anything but text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmfutures._printable import printable, printable_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\twords\non two lines", "plain\twords\non two lines"),
        ("\x1b]52;c;ZWNobw==\x07", r"\x1b]52;c;ZWNobw==\x07"),
        ("secret\r\x1b[2K", r"secret\x0d\x1b[2K"),
        ("\x9b31m", r"\x9b31m"),
        ("Müller, 東京", "Müller, 東京"),
        ("txt.\u202egpj", r"txt.\u202egpj"),
        ("\udcff", r"\xff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_all_that_is_shown_can_be_printed(text: str) -> None:
    assert all(character in "\n\t" or character.isprintable() for character in printable(text))


@given(st.text())
def test_a_line_is_one_line(text: str) -> None:
    assert "\n" not in printable_line(text)
    assert printable_line(text) == printable(text).replace("\n", r"\x0a")
