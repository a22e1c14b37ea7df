"""How text from elsewhere is shown: a server, a file or a program must not steer the reader's terminal."""

import re

# Matches runs, because a call for each character would make long logs slow.
_UNUSUAL = re.compile(r"[^\n\t -~]+")


def printable(text: str) -> str:
    r"""Return a text with what cannot be printed written as an escape, newline and tab excepted.

    Control characters, which terminals obey, become `\xNN`, and so do bytes that were not text (surrogates of
    `surrogateescape`). Invisible and direction-changing characters become `\uNNNN` or `\UNNNNNNNN`.
    """
    return text if text.isprintable() else _UNUSUAL.sub(_escaped, text)


def printable_line(text: str) -> str:
    r"""Return a text as `printable` does, on one line: a newline is written as `\x0a`."""
    return printable(text).replace("\n", r"\x0a")


def _escaped(run: "re.Match[str]") -> str:
    text = run[0]
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    number = ord(character)
    if character.isprintable():
        return character
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
