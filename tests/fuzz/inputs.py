"""Inputs that are almost valid."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What parsers take for something else than it is.
TOKENS: tuple[bytes, ...] = (
    *(bytes([byte]) * size for byte in (0x00, 0x7F, 0x80, 0xFF) for size in (1, 2, 4, 8)),
    b"\n", b"\r", b"\r\n", b" ", b"\t", b"\x0b", b"\x0c", b"\x1b[2J", b"\x1c", b"\x1d", b"\x1e", b"\x1f",
    *(
        text.encode()
        for text in ("\x85\u2028", "\u00b2", "\u0663", "\u2167", "\uff11", "\u017f", "\u0130", "\ufeff", "\U0001f600")
    ),
    b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"-1", b"+1", b"1_0", b" 7", b"007", b"0x10", b"1e3", b"1e999", b"-1e999", b"0.1", b"nan", b"inf", b"Infinity",
    b"NaN", b"4294967295", b"4294967296", b"9223372036854775808", b"18446744073709551616", b"9" * 30, b"9" * 400,
    b"1" + b"0" * 5000, b"." * 5000,
    b"../..", b"/", b"~", b"%", b"%s", b"$HOME", b"${HOME}", b"\\", b"'", b'"', b"`", b"*", b"?", b"!", b"|", b"@",
    b"[", b"]", b"{", b"}", b"(", b")", b",", b":", b";", b"=", b"#", b"-", b"_", b".",
    b"null", b"true", b"[]", b"{}", b'""', b"[" * 30, b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b'"\\u0000"',
)  # fmt: skip


#: The same without what may lead out of a folder.
TOKENS_INSIDE = tuple(token for token in TOKENS if b"/" not in token and token not in (b"~", b"."))


@st.composite
def mutated(
    draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = (), common: Sequence[bytes] = TOKENS
) -> bytes:
    """Return one of some valid inputs with up to eight changes."""
    data = draw(st.sampled_from(seeds))
    words = st.sampled_from((*common, *tokens, *tokens, *tokens))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.integers(0, 8))
        before, behind = data[:at], data[at:]
        if change == 0 and behind:
            data = before + bytes([behind[0] ^ 1 << draw(st.integers(0, 7))]) + behind[1:]
        elif change == 1:
            data = before + behind[draw(st.integers(1, 40)) :]
        elif change == 2:
            data = before
        elif change == 3:
            data = before + behind[: draw(st.integers(1, 60))] * draw(st.integers(2, 5)) + behind
        elif change == 4:
            other = draw(st.sampled_from(seeds))
            start = draw(st.integers(0, len(other)))
            data = before + other[start : start + draw(st.integers(1, 100))] + behind
        elif change == 5:
            data = before + draw(st.binary(max_size=12)) + behind
        elif change == 6:
            word = draw(words)
            data = before + word + behind[len(word) :]
        else:
            data = before + draw(words) + behind
    return data


def inputs(
    seeds: Sequence[bytes],
    tokens: Sequence[bytes] = (),
    more: st.SearchStrategy[bytes] | None = None,
    common: Sequence[bytes] = TOKENS,
) -> st.SearchStrategy[bytes]:
    """Return a strategy of everything between noise and valid inputs."""
    almost = mutated(seeds, tokens, common)
    found = [st.binary(max_size=200), almost, almost, st.sampled_from(seeds)]
    return st.one_of(*found, *([] if more is None else [more] * 3))


# ---- JSON

_NUMBERS = st.sampled_from(
    (0, 1, -1, 2**31, 2**32, 2**63, 2**64, -(2**63) - 1, 10**25, 10**400, 0.5, 1e308, float("nan"), float("inf"))
)
_TEXTS = st.one_of(
    st.sampled_from(
        ("", ".", "..", "../..", "/", "a/b", "\0", "a\0b", "\ud800", "\u00b2", "\u0663", "7", "-7", "x" * 300)
    ),
    st.text(max_size=8),
)
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=6
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Return a value of JSON in which something is missing, more, twice, or of another type."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(list(value)))
        action = draw(st.integers(0, 9))
        if action == 0:
            return {name: it for name, it in value.items() if name != key}
        if action == 1:
            return {**value, draw(_TEXTS): draw(VALUES)}
        return {**value, key: draw(changed(value[key]))}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        action = draw(st.integers(0, 9))
        if action == 0:
            return value[:at] + value[at + 1 :]
        if action == 1:
            return value[:at] + [value[at]] * 3 + value[at:]
        return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    return draw(VALUES)


@st.composite
def json_like(draw: st.DrawFn, values: Sequence[Any]) -> bytes:
    """Return JSON that differs in one to three places from one of some values."""
    value = draw(st.sampled_from(values))
    for _ in range(draw(st.integers(1, 3))):
        value = draw(changed(value))
    return as_json(value)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
