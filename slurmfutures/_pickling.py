"""Calls to bytes on the way there, results and exceptions from bytes on the way back."""

import importlib.util
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cloudpickle

from ._errors import (
    InitializerError,
    PayloadError,
    RemoteImportError,
    RemoteTraceback,
    ResultLost,
    add_note,
    send_along,
)
from ._remote import payload

# Values of exactly these types are the same by the plain pickler, which is twenty times as fast.
_PLAIN = frozenset((int, float, str, bytes, bool, complex, type(None)))
LOGIN_NODE = "the login node"
# What cloudpickle's output has in it when code itself travels, and not only its name.
_CODE_MARKS = (b"_make_function", b"_make_skeleton_class", b"_make_skeleton_enum")


def pickle_function(function: Callable[..., Any]) -> bytes:
    """Pickle a function, by name where it can be imported and by value where not. Raises PayloadError."""
    try:
        data: bytes = cloudpickle.dumps(function, payload.PROTOCOL)
    except Exception as error:
        raise PayloadError(f"the function {name_of(function)!r} cannot be pickled: {error}") from error
    return data


def pickle_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Pickle the arguments of one call. Raises PayloadError."""
    try:
        if not kwargs and _PLAIN.issuperset(map(type, args)):
            return pickle.dumps((args, kwargs), payload.PROTOCOL)
        data: bytes = cloudpickle.dumps((args, kwargs), payload.PROTOCOL)
    except Exception as error:
        raise PayloadError(f"the arguments of a call cannot be pickled: {error}") from error
    return data


def pickle_initializer(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bytes:
    """Pickle an initializer with its arguments. Raises PayloadError."""
    try:
        data: bytes = cloudpickle.dumps((initializer, initargs), payload.PROTOCOL)
    except Exception as error:
        raise PayloadError(f"the initializer or its arguments cannot be pickled: {error}") from error
    return data


def holds_code(data: bytes) -> bool:
    """Whether pickled bytes carry bytecode, which only the same minor version of Python can run."""
    return any(mark in data for mark in _CODE_MARKS)


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name for messages and job names."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def result_of(record: payload.Record, job_id: str | None, where: str) -> tuple[Any, BaseException | None]:
    """Return a call's value, or None and its exception. `where` is what it was part of: a batch, or LOGIN_NODE.

    Never raises, whatever the user's own classes do when they are unpickled.
    """
    if record.status == payload.OK:
        try:
            return pickle.loads(record.payload), None
        except BaseException as error:
            problem = PayloadError(f"the result of the call cannot be unpickled here: {_described(error)}")
            problem.__cause__ = error
            return None, problem
    try:
        words, pickled = payload.unpack_error(record.payload)
    except payload.Damaged as error:
        return None, PayloadError(f"the answer of the call, from {where}, is damaged: {error}")
    raised = f"{words['type']}: {words['said']}"
    at = f"{LOGIN_NODE} {words['node']}" if where == LOGIN_NODE else f"node {words['node']}"
    hint = _hint(words, at)
    trace = RemoteTraceback(words["traceback"])
    failure: BaseException
    if record.status == payload.RAISED:
        failure = _load_exception(pickled, raised)
        if hint and not add_note(failure, hint):
            trace = RemoteTraceback(f"{words['traceback']}\n{hint}")
    elif record.status == payload.UNINITIALIZED:
        failure = InitializerError(f"the initializer raised {raised}, on {at}{f'; {hint}' if hint else ''}")
    elif record.status == payload.UNPICKLABLE:
        failure = PayloadError(f"the result of the call cannot be pickled: {raised}")
    elif record.status == payload.UNPUBLISHED:
        failure = ResultLost(f"the result of the call could not be written on {at}: {words['said']}")
    elif words["missing"]:
        node = at if where == LOGIN_NODE else words["node"]
        failure = RemoteImportError(
            words["said"], job_id=job_id, node=node, python=words["executable"], module=words["module"]
        )
    else:
        failure = PayloadError(f"the call could not be unpickled on {at}: {raised}")
    # Past the class's own way to set attributes: a frozen dataclass has none.
    BaseException.__setattr__(failure, "__cause__", trace)
    return None, failure


def _hint(words: Mapping[str, Any], at: str) -> str:
    """Return what to do about a module that was not found in a call, and is here; nothing for any other exception."""
    name = words["module"]
    if words["type"] != "ModuleNotFoundError" or not name or not _importable(name):
        return ""
    return f"{name} can be imported here, but not on {at} ({words['executable']}): {send_along(name)}"


def _importable(name: str) -> bool:
    """Whether a module can be imported here; nothing is imported to find that out."""
    parent = name.rpartition(".")[0]
    try:
        return (not parent or parent in sys.modules) and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _load_exception(pickled: bytes, raised: str) -> BaseException:
    if not pickled:
        return PayloadError(f"the call raised {raised}, and that exception cannot be pickled")
    try:
        error = pickle.loads(pickled)
    except BaseException:
        return PayloadError(f"the call raised {raised}, and that exception cannot be unpickled here")
    if not isinstance(error, BaseException):
        return PayloadError(f"the call raised {raised}, which came back as a {type(error).__name__}")
    return error


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # its own __str__ raises
        return type(error).__name__
