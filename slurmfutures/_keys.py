"""The key of a call: what a checkpoint knows it by when the same script runs again, in another interpreter.

Pickled bytes will not do: they depend on the hash seed, and on which equal objects happen to be one. So a value is
taken apart the way cloudpickle would, and hashed by what it consists of: sets and dicts without their order, functions
by what they do and not by where their lines stand, classes without what the interpreter adds to them. Memory addresses
never enter.

    plain value                        -> token, the value itself
    anything else -> tag and children  -> token, the digest of the tag and of the children's tokens

What travels by value (of `__main__`, or made by other functions) is followed into the globals that it uses; what is
imported stands by its name, a function also by its code.
"""

import dis
import enum
import functools
import io
import pickle
import sys
import types
import typing
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import list_registry_pickle_by_value

_SIZE = 16  # bytes of a digest
_LONG = 512  # bytes of text from which it enters as a digest
_MOST_CODES = 4096
_MOST_FUNCTIONS = 256
_PROTOCOL = 4  # of `__reduce_ex__`
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made at runtime, and not in C

# Arguments of exactly these types are what their repr says.
_PLAIN = frozenset((int, float, str, bytes, bool, complex, type(None)))

# How the children of a value are arranged.
_ORDERED, _UNORDERED, _PAIRS = range(3)

# A tag, the arrangement, and the children: no two kinds of value share a tag.
_Shape = tuple[bytes, int, Iterable[object]]

# What the interpreter, abc, copyreg and typing put into a class, some of it late, or otherwise in every run. A text of
# documentation that dataclass makes holds reprs of defaults, and so addresses.
_NOT_OF_A_CLASS = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __firstlineno__ __static_attributes__ __slotnames__ _abc_impl "
    "__annotate__ __annotate_func__ __annotations_cache__ __callable_proto_members_only__".split()
)
_LINE_NAMES = ("__firstlineno__", "__static_attributes__")

_functions: dict[tuple[bytes, int], tuple[object, bytes]] = {}


class Unkeyable(Exception):
    """A value that has no key. The text says of which type it is, and why."""


def function_digest(function: Callable[..., Any], pickled: bytes) -> bytes:
    """Return the digest of what a function does. Any thread.

    :param pickled: what cloudpickle made of it; with the same bytes and the same code object, the digest is looked up.
    Raises Unkeyable.
    """
    with _REFUSING:
        code = _code_of(function)
        known = (_digest(pickled), id(code))
        _, digest = _functions.get(known, (None, b""))
        if not digest:
            digest = _digest(b"function:", *map(_Hasher().token, (function, tuple(_run_by(function)))))
            if len(_functions) >= _MOST_FUNCTIONS:
                _functions.clear()
            _functions[known] = (code, digest)  # the code too, lest another one gets its id
    return digest


def call_digest(function: bytes, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the digest of a call from its function's digest and its arguments. Any thread. Raises Unkeyable."""
    with _REFUSING:
        if not kwargs and _PLAIN.issuperset(map(type, args)):
            try:
                return blake2b(function + b"plain:" + repr((*args,)).encode(), digest_size=_SIZE).digest()
            except ValueError:  # an int of more digits than Python likes to write
                pass
        hasher = _Hasher()
        return _digest(function, b"call:", hasher.token((*args,)), hasher.token({**kwargs}))


def named_digest(name: object) -> bytes:
    """Return the digest of the value that a user lets stand for a call. Any thread. Raises Unkeyable."""
    with _REFUSING:
        return _digest(b"named:", _Hasher().token(name))


def code_digest(code: types.CodeType) -> bytes:
    """Return the digest of what code does, wherever its lines stand."""
    return _code(code)


class _Refusing:
    """Makes an Unkeyable of whatever users' own classes raise, SystemExit included."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, (Unkeyable, KeyboardInterrupt)):
            return
        if isinstance(error, RecursionError):
            raise Unkeyable("the value is nested too deeply to have a key") from error
        raise Unkeyable(f"the value has no key: {_described(error)}") from error


_REFUSING = _Refusing()


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # its own __str__ raises
        return type(error).__name__


def _name_of_type(kind: type) -> str:
    """Return a type's name, past what its metaclass makes of names."""
    module = type.__dict__["__module__"].__get__(kind)
    name = str(type.__dict__["__qualname__"].__get__(kind))
    return name if module == "builtins" or not isinstance(module, str) else f"{module}.{name}"


def _digest(*pieces: bytes) -> bytes:
    return blake2b(b"".join(pieces), digest_size=_SIZE).digest()


# ---- the walk


class _Node:
    """A value whose token is not known yet: it is being taken apart, or waits for the rest of a cycle."""

    __slots__ = ("arrangement", "index", "low", "parts", "tag", "value")
    tag: bytes
    arrangement: int
    parts: "list[bytes | _Node]"

    def __init__(self, value: object, index: int) -> None:
        self.value = value
        self.index = index
        self.low = index


class _Hasher:
    """Gives values their tokens. The values must not change meanwhile.

    Tokens say where they end, so that their concatenation is as good as their list. They depend on nothing but the
    value: neither on what was seen before, nor on where a cycle is entered. Cycles are found by Tarjan's algorithm for
    strongly connected components.
    """

    def __init__(self) -> None:
        self._tokens: dict[int, bytes] = {}
        self._kept: list[object] = []  # whatever has an id in _tokens
        self._nodes: dict[int, _Node] = {}
        self._stack: list[_Node] = []

    def token(self, value: object) -> bytes:
        """Raises Unkeyable, RecursionError, and what users' own classes raise beside Exception."""
        plain = _PLAIN_TOKENS.get(type(value))
        found = self._visit(value) if plain is None else plain(value)
        assert isinstance(found, bytes), "a cycle is closed where it was entered"
        return found

    # One frame a level, so that what pickle can take apart rarely is too deep.
    def _visit(self, value: object) -> "bytes | _Node":
        key = id(value)
        found = self._tokens.get(key) or self._nodes.get(key)
        if found is not None:
            return found
        node = self._nodes[key] = _Node(value, len(self._stack))
        self._stack.append(node)
        tag, arrangement, children = _shape(value)
        parts: list[bytes | _Node] = []
        cyclic = False
        for child in children:
            plain = _PLAIN_TOKENS.get(type(child))
            part = self._visit(child) if plain is None else plain(child)
            if isinstance(part, _Node):
                cyclic = True
                if part.low < node.low:
                    node.low = part.low
            parts.append(part)
        if not cyclic:
            self._stack.pop()
            return self._finish(node, _joined(tag, arrangement, parts))  # type: ignore[arg-type]
        node.tag, node.arrangement, node.parts = tag, arrangement, parts
        if node.low < node.index:
            return node
        cycle = self._stack[node.index :]
        del self._stack[node.index :]
        for member, token in zip(cycle, _tokens_of_cycle(cycle), strict=True):
            self._finish(member, token)
        return self._tokens[key]

    def _finish(self, node: _Node, token: bytes) -> bytes:
        key = id(node.value)
        del self._nodes[key]
        self._tokens[key] = token
        self._kept.append(node.value)
        return token


def _joined(tag: bytes, arrangement: int, parts: list[bytes]) -> bytes:
    if arrangement == _UNORDERED:
        parts = sorted(parts)
    elif arrangement == _PAIRS:
        parts = sorted(map(bytes.__add__, parts[::2], parts[1::2]))
    return b"#" + blake2b(tag + b"".join(parts), digest_size=_SIZE).digest()


def _tokens_of_cycle(cycle: list[_Node]) -> list[bytes]:
    """Return the tokens of values that all lead to each other.

    All start alike, and each round tells them apart by what they lead to in one step more, until a round tells no more
    of them apart: the coarsest stable partition. Together with all of its labels a label says which partition that is,
    and so what a value leads to, in any number of steps; and it is the same from wherever the cycle was entered.
    """
    labels = {node: b"#" + bytes(_SIZE) for node in cycle}
    apart, before = 1, 0
    while apart > before:
        labels = {
            node: _joined(
                node.tag,
                node.arrangement,
                [part if isinstance(part, bytes) else labels[part] for part in node.parts],
            )
            for node in cycle
        }
        apart, before = len(set(labels.values())), apart
    whole = _digest(b"cycle(", *sorted(set(labels.values())))
    return [b"#" + _digest(whole, label) for label in labels.values()]


# ---- plain values


def _text(tag: bytes, data: bytes) -> bytes:
    if len(data) > _LONG:
        return b"%b#%b" % (tag, _digest(data))
    return b"%b%d:%b" % (tag, len(data), data)


def _bytes(value: bytes) -> bytes:
    if len(value) > _LONG:  # not by way of _text, which copies
        return b"b#" + blake2b(value, digest_size=_SIZE).digest()
    return b"b%d:%b" % (len(value), value)


@functools.lru_cache(_MOST_CODES)  # equal code has equal tokens
def _code(code: types.CodeType) -> bytes:
    """Return what code does, without its file and its lines."""
    hasher = _Hasher()
    parts: list[object] = [
        code.co_name,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        getattr(code, "co_exceptiontable", b""),  # since Python 3.11
    ]
    if _LINE_NAMES[0] in code.co_names:
        parts.append(_steps_of_class_body(code))
    else:
        parts += (code.co_code, code.co_consts)
    return b"#" + _digest(b"code(", *map(hasher.token, parts))


def _steps_of_class_body(code: types.CodeType) -> list[object]:
    """Return what the body of a class does, without what stores its line and its attributes' names.

    Since Python 3.13 these are constants among the others: a line that is equal to another constant of the body moves
    those after it, and the attributes' names have no order.
    """
    steps: list[object] = []
    for step in dis.get_instructions(code):
        if step.opname.startswith("STORE") and step.argval in _LINE_NAMES:
            steps.pop()  # what loads it
        elif step.opcode in dis.hasconst:
            steps.append((step.opcode, step.argval))
        elif step.opname != "EXTENDED_ARG":
            steps.append((step.opcode, step.arg))
    return steps


@functools.lru_cache(_MOST_CODES)
def _global_names(code: types.CodeType) -> frozenset[str]:
    """Return the globals that code uses, and the code within it: those that cloudpickle sends along."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname.endswith("_GLOBAL")}
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(names.union(*map(_global_names, nested)))


_PLAIN_TOKENS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"f%b;" % repr(value).encode(),
    complex: lambda value: b"c%b;" % repr(value).encode(),
    str: lambda value: _text(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: _bytes,
    bytearray: lambda value: _text(b"B", value),
    type(...): lambda value: b"E",
    type(NotImplemented): lambda value: b"I",
    types.CodeType: _code,
}


# ---- what values consist of


def _shape(value: Any) -> _Shape:
    """Return what a value consists of. Raises Unkeyable, and what users' own classes raise beside Exception."""
    kind = type(value)
    try:
        known = _SHAPES.get(kind)
        if known is not None:
            return known(value)
        if issubclass(kind, type):
            return _class(value)
        if issubclass(kind, enum.Enum):
            return b"member(", _ORDERED, (kind, value._name_, value._value_)
        if issubclass(kind, (set, frozenset)) and kind.__reduce__ in (set.__reduce__, frozenset.__reduce__):
            return b"subset(", _ORDERED, (kind, frozenset(value), getattr(value, "__dict__", None))
        return _numpy(value, kind) or _jitted(value, kind) or _reduced(value, kind)
    except (Unkeyable, RecursionError):
        raise
    except Exception as error:
        raise Unkeyable(f"a value of type {_name_of_type(kind)} has no key: {_described(error)}") from error


def _reduced(value: Any, kind: type) -> _Shape:
    """Return what pickle would make of a value."""
    if value is sys.stdout or value is sys.stderr:
        return b"stream(", _ORDERED, ("stdout" if value is sys.stdout else "stderr",)
    if hasattr(kind, "__next__") and not issubclass(kind, (io.BytesIO, io.StringIO)):
        raise Unkeyable(f"a value of type {_name_of_type(kind)} has no key: it can be gone through only once")
    reduce = cloudpickle.CloudPickler.dispatch_table.get(kind)
    made = reduce(value) if reduce else value.__reduce_ex__(_PROTOCOL)
    if isinstance(made, str):
        return _global(value, kind, made)
    maker, args, state, items, pairs, setter = (tuple(made) + (None,) * 4)[:6]
    if items is not None:
        items = list(items)
    if pairs is not None:
        pairs = list(pairs) if issubclass(kind, OrderedDict) else dict(pairs)
    return b"reduced(", _ORDERED, (_maker(maker), args, state, items, pairs, _maker(setter))


def _maker(maker: Any) -> object:
    """Return what stands for a function that unpickles: its name, as a newer library makes no other values."""
    if isinstance(maker, types.FunctionType):
        return _import_name(maker) or maker
    return maker


def _global(value: Any, kind: type, name: str) -> _Shape:
    """Return the shape of what pickle sends by its name, such as builtin functions and numpy's."""
    module = getattr(value, "__module__", None)
    if isinstance(module, str):
        if _found(module, name) is not value:
            raise Unkeyable(f"a value of type {_name_of_type(kind)} has no key: it is not {module}.{name}")
        return b"global(", _ORDERED, (kind, module, name)
    # Which modules have it depends on what was imported; so the documentation tells those of one name apart.
    if not any(_found(module, name) is value for module in list(sys.modules)):
        raise Unkeyable(f"a value of type {_name_of_type(kind)} has no key: no module has it as {name}")
    text = getattr(value, "__doc__", None)
    return b"global(", _ORDERED, (kind, text if isinstance(text, str) else None, name)


def _found(module: str, name: str) -> object:
    """Return what has a qualified name in a module that is imported, None if nothing has."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _import_name(value: Any) -> tuple[str, str] | None:
    """Return module and qualified name of a function or class that travels by name: as cloudpickle decides it."""
    name = value.__qualname__
    module = pickle.whichmodule(value, name)  # type: ignore[attr-defined]
    if module == "__main__" or _by_value(module) or _found(module, name) is not value:
        return None
    return module, name


def _by_value(module: str) -> bool:
    """Whether a user has told cloudpickle that a module's content travels by value."""
    return any(module == name or module.startswith(f"{name}.") for name in list_registry_pickle_by_value())


def _module(module: types.ModuleType) -> _Shape:
    name = module.__name__
    if name in sys.modules and not _by_value(name):
        return b"module(", _ORDERED, (name,)
    content = {key: value for key, value in vars(module).items() if not key.startswith("__")}
    return b"module(", _ORDERED, (name, content)


# ---- functions


def _function(function: types.FunctionType) -> _Shape:
    parts: list[object] = [function.__code__, function.__defaults__, function.__kwdefaults__]
    name = _import_name(function)
    if name:
        return b"imported(", _ORDERED, (name, *parts, *_behind(function))
    names = sorted(_global_names(function.__code__).intersection(function.__globals__))
    parts += (function.__module__, function.__qualname__, function.__closure__, function.__dict__, names)
    return b"function(", _ORDERED, (*parts, *map(function.__globals__.__getitem__, names))


def _behind(function: Any) -> Iterator[object]:
    """Yield what an imported function's decorators hold: the functions that they wrap, and plain values.

    The function travels by its name, so nothing says that the rest of it can be taken apart: caches, locks, registries.
    """
    waiting, seen = [function], {id(function)}
    while waiting:
        one = waiting.pop()
        held = [cell.cell_contents for cell in getattr(one, "__closure__", None) or () if cell != _EMPTY_CELL]
        for value in (*held, getattr(one, "__wrapped__", None)):
            if _is_plain(value):
                yield value
            elif isinstance(value, types.FunctionType) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
                yield from (value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in _PLAIN or (kind in (tuple, frozenset) and all(map(_is_plain, value)))


def _cached_function(function: Any) -> _Shape:
    """Return the shape of what functools.lru_cache makes."""
    name = _import_name(function)
    held = _behind(function) if name else (function.__wrapped__,)
    return b"cached(", _ORDERED, (name, tuple(sorted(function.cache_parameters().items())), *held)


def _cell(cell: types.CellType) -> _Shape:
    return b"cell(", _ORDERED, () if cell == _EMPTY_CELL else (cell.cell_contents,)


def _run_by(function: Any) -> Iterator[types.FunctionType]:
    """Yield the code that a call runs, of an imported class or its instance, whose class stands by its name."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        found = [getattr(function, name, None) for name in ("__new__", "__init__", "__post_init__")]
    elif isinstance(function, (types.FunctionType, types.MethodType)):
        return
    else:
        found = [getattr(type(function), "__call__", None)]  # noqa: B004, wanted is the function
    yield from (one for one in found if isinstance(one, types.FunctionType))


def _code_of(function: Any) -> types.CodeType | None:
    """Return the code object that is another one when a module was edited and loaded again, None if there is none."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, functools._lru_cache_wrapper):
        function = function.__wrapped__
    for one in (function, *_run_by(function)):
        code = getattr(one, "__code__", None)
        if isinstance(code, types.CodeType):
            return code
    return None


# ---- classes


def _class(kind: type) -> _Shape:
    if not kind.__flags__ & _HEAP_TYPE:  # some have no module that has them
        return b"class(", _ORDERED, (kind.__module__, kind.__qualname__)
    name = _import_name(kind)
    if name:
        return b"class(", _ORDERED, name
    members: dict[str, Any] = {}
    if issubclass(kind, enum.Enum):
        members = {name: member._value_ for name, member in kind.__members__.items()}
    content = {
        name: value
        for name, value in vars(kind).items()
        if name not in members and _belongs(name, value, bool(members) or issubclass(kind, enum.Enum))
    }
    named = (kind.__module__, kind.__qualname__, type(kind), kind.__bases__)
    return b"type(", _ORDERED, (*named, tuple(members), tuple(members.values()), content)


def _belongs(name: str, value: object, of_enum: bool) -> bool:
    """Whether an attribute of a class is its own, and neither of the interpreter nor of its metaclass."""
    if name in _NOT_OF_A_CLASS or isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        return False
    if name == "__annotations__":
        return bool(value)  # to look at them makes empty ones
    if of_enum and name.startswith("_") and name.endswith("_"):
        return isinstance(value, (types.FunctionType, classmethod, staticmethod, property))
    return True


# ---- numpy, numba


def _numpy(value: Any, kind: type) -> _Shape | None:
    """Return the shape of an array or a scalar of numpy; None for anything else."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):  # which another thread may be importing
        return None
    if issubclass(kind, numpy.generic):
        return b"scalar(", _ORDERED, (kind, numpy.asarray(value))
    if not issubclass(kind, numpy.ndarray):
        return None
    array = value.view(numpy.ndarray)
    masked: Any = sys.modules.get("numpy.ma")
    if masked is not None and issubclass(kind, masked.MaskedArray):
        return b"masked(", _ORDERED, (kind, array, masked.getmaskarray(value), value.fill_value)
    if kind.__reduce__ is not numpy.ndarray.__reduce__:
        return None
    dtype = array.dtype
    named = dtype.str if dtype.kind in "biufcSUmM" and not dtype.metadata else dtype
    return b"array(", _ORDERED, (kind, named, array.shape, _content(array))


def _content(array: Any) -> object:
    dtype = array.dtype
    if dtype.names is not None:  # between the fields may be anything
        return [array[name] for name in dtype.names]
    if dtype.hasobject or dtype.kind == "T":
        return array.ravel().tolist()
    if dtype.char in "gG":  # has bytes of padding
        return list(map(repr, array.ravel()))
    if array.flags.c_contiguous and dtype.itemsize:
        return blake2b(array.reshape(-1).view("u1"), digest_size=_SIZE).digest()
    return _digest(array.tobytes())


def _jitted(value: Any, kind: type) -> _Shape | None:
    """Return the shape of a function that numba compiles, and pickles with a random number; None for anything else."""
    module = kind.__module__
    if not isinstance(module, str) or not module.startswith("numba.") or not hasattr(value, "py_func"):
        return None
    return b"jitted(", _ORDERED, (kind, value.py_func, value.targetoptions)


# ---- the table


def _typevar(variable: typing.TypeVar) -> _Shape:
    """Return the shape of a type variable, which cloudpickle gives a random number."""
    traits = (variable.__bound__, variable.__constraints__, variable.__covariant__, variable.__contravariant__)
    return b"typevar(", _ORDERED, (variable.__module__, variable.__name__, *traits)


_EMPTY_CELL = types.CellType()

_SHAPES: dict[type, Callable[[Any], _Shape]] = {
    tuple: lambda value: (b"tuple(", _ORDERED, value),
    list: lambda value: (b"list(", _ORDERED, value),
    set: lambda value: (b"set(", _UNORDERED, value),
    frozenset: lambda value: (b"frozenset(", _UNORDERED, value),
    dict: lambda value: (b"dict(", _PAIRS, [one for pair in value.items() for one in pair]),
    range: lambda value: (b"range(", _ORDERED, (value.start, value.stop, value.step)),
    slice: lambda value: (b"slice(", _ORDERED, (value.start, value.stop, value.step)),
    weakref.WeakSet: lambda value: (b"weakset(", _UNORDERED, list(value)),
    types.FunctionType: _function,
    types.ModuleType: _module,
    types.CellType: _cell,
    typing.TypeVar: _typevar,
    functools._lru_cache_wrapper: _cached_function,
    # Up to Python 3.11 it has a lock.
    functools.cached_property: lambda value: (b"cached_property(", _ORDERED, (value.func, value.attrname)),
}
