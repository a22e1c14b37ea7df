"""JSON from a disk or from another process: a value, or `NotJson`, whatever the bytes are."""

import json
from typing import Any, Union

_DIGITS = 30  # of a whole number: more take longer to read than they are long


class NotJson(ValueError):
    """The bytes are no JSON, or JSON that is too deep or has too large a number."""


def _number(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


_decode = json.JSONDecoder(parse_int=_number).decode


def loads(data: Union[bytes, bytearray, memoryview]) -> Any:
    """Return the value. Raises NotJson."""
    try:
        return _decode(bytes(data).decode())
    except (ValueError, RecursionError) as error:
        raise NotJson("not JSON: %s" % error) from None
