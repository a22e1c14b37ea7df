"""A driver's functions and values, as test_keys.py has them in several interpreters: `keyed.py` prints the key of each.

What is here looks the way users write, not the way this project does. Its parameter is a folder with the module
`keyed_helpers`.
"""
# mypy: ignore-errors
# ruff: noqa: ICN001, PIE796, PLW2101, PYI024, RUF009, RUF023, UP007, UP045

import abc
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import operator
import pathlib
import re
import sys
import threading
import typing
import uuid

import cloudpickle
import numpy as np

sys.path.insert(0, sys.argv[1])
import keyed_helpers
from keyed_helpers import imported

from slurmfutures import _keys

RATE = 3
T = typing.TypeVar("T")


def helper(x):
    """Return x, later."""
    return x + 1


def simulate(x, steps=10, *, tolerance=1e-3):
    return helper(x) * steps * RATE + tolerance


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def uses_modules(x):
    return np.sum(x) + operator.add(1, 2) + len(keyed_helpers.__name__)


def uses_members(word):
    return word in {"alpha", "beta", "gamma", "delta", "epsilon"}


def scaled(factor):
    def scale(x):
        return x * factor

    return scale


def recursive_inside():
    def down(n):
        return n and down(n - 1)

    return down


def makes_a_class(n):
    class Inner:
        size = 50
        width = 51
        height = 52

        def __init__(self, z):
            self.z = z
            self.alpha = z
            self.beta = z
            self.gamma = z

    return Inner(n).z


def generator_function(n):
    try:
        yield from range(n)
    except ValueError:
        yield None


async def coroutine_function(n):
    async with threading.Lock() as lock:
        return lock


def traced(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@traced
def decorated(x):
    return x - 1


@functools.lru_cache(maxsize=32)
def remembered(x):
    return x**2


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"
    CRIMSON = 1

    def lighter(self):
        return self.value


class Access(enum.IntFlag):
    READ = 4
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    tags: set = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, order=True)
class Grid:
    origin: Point = dataclasses.field(compare=False)
    names: typing.Optional[list[str]] = None
    marker: typing.Any = object()


class Pair(typing.NamedTuple):
    left: int
    right: str = "r"


Triple = collections.namedtuple("Triple", "a b c", defaults=(3,))


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

    @property
    def twice(self):
        return 2 * self.area()

    @staticmethod
    def unit():
        return 1


@Shape.register
class Registered:
    pass


class Square(Shape):
    __slots__ = ("side", "_seen")

    def __init__(self, side):
        super().__init__()
        self.side = side

    def area(self):
        return self.side**2

    @classmethod
    def of(cls, side):
        return cls(side)


class Box(typing.Generic[T]):
    content: T
    known: typing.ClassVar[frozenset] = frozenset({"one", "two", "three"})

    def __init__(self, content):
        self.content = content
        self.alpha, self.beta, self.gamma = content, content, content

    @functools.cached_property
    def size(self):
        return len(self.content)


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    def method(self, x):
        return x + self.factor


class Bag(set):
    pass


class Left:
    def other(self):
        return Right()


class Right:
    def other(self):
        return Left()


class Meta(type):
    def __call__(cls, *args):
        return super().__call__(*args)


class WithMeta(metaclass=Meta):
    pass


isinstance(Registered(), Shape)  # fills the caches of ABCs
words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
cycle = {"name": "ring", "members": set(words)}
cycle["self"] = [cycle, {"back": cycle}]
left, right = [1], [2]
left.append({"to": right})
right.append({"to": left})
structured = np.zeros(4, [("id", "i2"), ("value", "f8"), ("name", "U5"), ("inner", [("a", "i1"), ("b", "f4", 3)])])
structured["value"] = np.arange(4.0)
objects = np.empty((2, 2), object)
objects[:] = [["a", {1, "x"}], [None, Point(1)]]

FUNCTIONS = {
    "function": simulate,
    "mutual recursion": even,
    "recursion": factorial,
    "modules": uses_modules,
    "members": uses_members,
    "closure": scaled(3),
    "closure over a set": scaled({"a", "b", "c", "d"}),
    "recursion inside": recursive_inside(),
    "class inside": makes_a_class,
    "generator function": generator_function,
    "coroutine function": coroutine_function,
    "decorated": decorated,
    "lru_cache": remembered,
    "lambda": lambda x, y=(1, 2): x + RATE,
    "partial": functools.partial(simulate, 3, tolerance=0.1),
    "partial of a partial": functools.partial(functools.partial(helper), 2),
    "method": Scale(2).method,
    "classmethod": Square.of,
    "staticmethod": Shape.unit,
    "instance": Scale(4),
    "class": Square,
    "dataclass": Grid,
    "builtin": len,
    "builtin method": "a-b".split,
    "method descriptor": str.upper,
    "itemgetter": operator.itemgetter("a", 1),
    "methodcaller": operator.methodcaller("split", ","),
    "ufunc": np.add,
    "numpy function": np.sum,
    "reference to classes": lambda: (Colour.RED, Point(1), Pair(1), Square(2)),
    "imported": imported,
    "imported lru_cache": keyed_helpers.remembered,
    "imported decorated": keyed_helpers.decorated,
    "imported closure": keyed_helpers.scaled(2),
    "imported method": keyed_helpers.Model(1).run,
    "imported instance": keyed_helpers.Model(1),
    "imported class": keyed_helpers.Model,
    "imported lambda": keyed_helpers.TABLE["double"],
}
VALUES = {
    "plain": (1, 2.5, "x", b"y", None, True, 1j, float("nan")),
    "set": (set(words),),
    "frozenset": (frozenset(words),),
    "sets in a dict": ({"a": set(words), "b": {"c": frozenset(words)}},),
    "set of tuples": ({(word, n) for n, word in enumerate(words)},),
    "set of enum members": ({Colour.RED, Colour.GREEN},),
    "set of classes": ({Left, Right, Point, int},),
    "subclass of set": (Bag(words),),
    "dict": (dict.fromkeys(set(words)),),
    "defaultdict": (collections.defaultdict(list, dict.fromkeys(set(words), 1)),),
    "Counter": (collections.Counter(set(words)),),
    "OrderedDict": (collections.OrderedDict.fromkeys(words),),
    "deque": (collections.deque([1, {"a", "b", "c"}], 7),),
    "ChainMap": (collections.ChainMap({"a": 1}, {"b": {"x", "y", "z"}}),),
    "range and slice": (range(3), slice(1, None), ..., NotImplemented),
    "bytes": (bytearray(b"abc"), memoryview(b"abc"), b"x" * 10000),
    "numbers": (decimal.Decimal("1.10"), fractions.Fraction(1, 3), 10**5000),
    "times": (
        datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        datetime.timedelta(1),
        datetime.date(1, 1, 1),
    ),
    "paths": (pathlib.Path("/a/b"), pathlib.PurePosixPath("c")),
    "others": (uuid.UUID(int=7), re.compile("a+", re.I), ValueError("no", {"a", "b"}), object()),
    "array": (np.arange(12.0).reshape(3, 4),),
    "array in Fortran's order": (np.asfortranarray(np.arange(12.0).reshape(3, 4)),),
    "slice of an array": (np.arange(24.0).reshape(6, 4)[::2],),
    "structured array": (structured, structured[1]),
    "array of objects": (objects,),
    "other arrays": (
        np.array(["a", "bc"]),
        np.array("2020-01-01", "M8[D]"),
        np.zeros(0),
        np.array(3),
        np.zeros((2, 0)),
    ),
    "record and masked arrays": (structured.view(np.recarray), np.ma.masked_equal([1, 2, 3], 2)),
    "numpy's scalars": (np.float64(2), np.int8(1), np.str_("x"), np.bool_(True), np.longdouble(1) / 3),
    "dtypes": (np.dtype("f4"), structured.dtype),
    "random generator": (np.random.default_rng(5), np.random.RandomState(5)),
    "enum members": (Colour.RED, Colour.CRIMSON, Access.READ | Access.WRITE, Access(0)),
    "dataclass": (Point(1, tags=set(words)),),
    "frozen dataclass": (Grid(Point(2), ["a"]),),
    "namedtuples": (Pair(1), Triple(1, 2)),
    "instances": (Square(2), Box(set(words)), WithMeta(), Registered()),
    "classes": (Colour, Access, Point, Grid, Pair, Triple, Shape, Square, Box, WithMeta, T),
    "classes that refer to each other": (Left, Right),
    "functions": (simulate, scaled(1), lambda: 1, functools.partial(helper, 2)),
    "generic aliases": (list[int], typing.Optional[int], dict[str, "Point"], typing.Union[int, str]),
    "modules and streams": (np, sys.stdout, threading),
    "instance of an imported class": (keyed_helpers.Model(3),),
    "cycle": (cycle,),
    "one cycle, two entries": ({"right": right, "left": left},),
    "views": ({"a": 1, "b": 2}.keys(), {"a": 1}.values(), {"a": 1}.items()),
}


def keys():
    digest = b"f" * 16
    _keys._functions.clear()
    found = {f"function: {name}": _keys.function_digest(one, cloudpickle.dumps(one)) for name, one in FUNCTIONS.items()}
    found.update({f"values: {name}": _keys.call_digest(digest, args, {}) for name, args in VALUES.items()})
    found["kwargs"] = _keys.call_digest(digest, (), {"a": {"x", "y"}, "b": 2})
    found["named"] = _keys.named_digest(("run", {"x", "y"}))
    return {name: key.hex() for name, key in found.items()}


if __name__ == "__main__":
    found = keys()
    cloudpickle.dumps((VALUES["dataclass"], VALUES["frozen dataclass"], Square(1)))  # leaves notes in classes
    assert keys() == found
    json.dump(found, sys.stdout)
