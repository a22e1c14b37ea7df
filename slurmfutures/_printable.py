"""How text from elsewhere is shown: a server, a file or a program must not steer the reader's terminal."""


def printable(text: str) -> str:
    r"""Return a text with what cannot be printed written as an escape, newline and tab excepted.

    Control characters, which terminals obey, become `\xNN`, and so do bytes that were not text (surrogates of
    `surrogateescape`). Invisible and direction-changing characters become `\uNNNN` or `\UNNNNNNNN`.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    number = ord(character)
    if character in "\n\t" or character.isprintable():
        return character
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
