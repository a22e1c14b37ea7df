"""The keys of calls: the same in every run of a script, and others where a call is another one."""

import copy
import functools
import io
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from slurmfutures import _keys
from slurmfutures._keys import Unkeyable

FUNCTION = b"f" * 16
SCRIPT = Path(__file__).parents[1] / "keyed.py"
HELPERS = """
import functools
import threading

LOCK = threading.Lock()
CACHE = {}

def retried(times):
    lock = threading.Lock()
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            with lock:
                return [function(*args) for _ in range(times)]
        return wrapper
    return decorate

def imported(x, y=2):
    return x + y + len(CACHE)

@functools.lru_cache
def remembered(x):
    return LOCK, x

@retried(3)
def decorated(x):
    return LOCK, x, decorated

def scaled(factor):
    def scale(x):
        return imported(x) * factor
    return scale

class Model:
    def __init__(self, size):
        self.size = size
    def __call__(self, x):
        return x * 2
    def run(self, x):
        return x * 3

TABLE = {"double": lambda x: 2 * x}
"""
PLAIN = some.none() | some.booleans() | some.integers() | some.floats() | some.text() | some.binary()
HASHABLE = PLAIN | some.tuples(PLAIN, PLAIN) | some.frozensets(PLAIN, max_size=4)
VALUES = some.recursive(
    HASHABLE | some.complex_numbers(),
    lambda inner: (
        some.lists(inner, max_size=4) | some.dictionaries(HASHABLE, inner, max_size=4) | some.sets(HASHABLE, max_size=4)
    ),
    max_leaves=12,
)
tried = settings(deadline=None, database=None)


def key(*args: Any, **kwargs: Any) -> bytes:
    return _keys.call_digest(FUNCTION, args, kwargs)


def key_of(function: Callable[..., Any]) -> bytes:
    return _keys.function_digest(function, cloudpickle.dumps(function))


def typed(value: Any) -> object:
    """Return something that is equal for values that are, types included."""
    if isinstance(value, float | complex):
        return type(value), repr(value)
    if isinstance(value, dict):
        return dict, frozenset((typed(name), typed(one)) for name, one in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(typed, value))
    if isinstance(value, list | tuple):
        return type(value), tuple(map(typed, value))
    return type(value), value


def shuffled(value: Any) -> Any:
    """Return an equal value of other objects, whose dicts and sets were filled in another order."""
    if isinstance(value, dict):
        items = [(shuffled(name), shuffled(one)) for name, one in value.items()]
        random.shuffle(items)
        return dict(items)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([shuffled(one) for one in value][:: -1 if isinstance(value, set | frozenset) else 1])
    return pickle.loads(pickle.dumps(value))


def main(source: str, lines: int = 0) -> dict[str, Any]:
    """Return the names that a script, or a notebook's cell, makes in `__main__`."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("\n" * lines + textwrap.dedent(source), "<ipython-input-1>", "exec"), names)
    return names


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    def make(source: str) -> Any:
        module = types.ModuleType("keyed_module")
        monkeypatch.setitem(sys.modules, "keyed_module", module)
        exec(textwrap.dedent(source), vars(module))
        return module

    return make


# ---- from run to run


def run_keys(folder: Path, seed: int, cell: str | None = None) -> dict[str, str]:
    """Return the keys that a run of the script prints, or of a notebook's cell with its text."""
    command = ["-c", f"import sys; exec(compile(sys.stdin.read(), {cell!r}, 'exec'))"] if cell else [str(SCRIPT)]
    source = f"{'# seed' * seed}{chr(10) * seed}{SCRIPT.read_text()}" if cell else None
    path = os.pathsep.join([str(Path(_keys.__file__).parents[1]), *sys.path])
    env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *command, str(folder)], input=source, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_script_that_runs_again_finds_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "keyed_helpers.py").write_text(HELPERS)
    first = run_keys(tmp_path, 0)
    for seed in (1, 2, 77):
        assert run_keys(tmp_path, seed) == first
    for seed, cell in ((3, "<ipython-input-7-0a1b2c>"), (300, "<ipython-input-8-ffffff>")):
        assert run_keys(tmp_path, seed, cell) == first
    del first["values: array in Fortran's order"]  # the one that is equal to another
    assert len(set(first.values())) == len(first)


# ---- values


@tried
@given(VALUES, VALUES)
def test_values_have_one_key_if_they_are_equal_and_of_the_same_types(one: Any, other: Any) -> None:
    assert (key(one) == key(other)) == (typed(one) == typed(other))
    assert (key(one, other) == key(other, one)) == (typed(one) == typed(other))
    assert key([one], other) != key(one, [other])


@tried
@given(VALUES)
def test_equal_values_of_other_objects_have_the_same_key(value: Any) -> None:
    assert key(value) == key(shuffled(value))
    assert key(a=value, b=1) == key(b=1, a=shuffled(value))
    assert key([value, value]) == key([value, shuffled(value)])
    assert _keys.named_digest(value) == _keys.named_digest(shuffled(value))


@tried
@given(some.lists(PLAIN, max_size=4), some.lists(PLAIN, max_size=4))
def test_plain_arguments_have_one_key_if_they_are_equal_and_of_the_same_types(one: Any, other: Any) -> None:
    assert (key(*one) == key(*other)) == (typed(one) == typed(other))


def test_what_is_only_similar_has_another_key() -> None:
    similar = [1, 1.0, True, 1 + 0j, "1", b"1", bytearray(b"1"), None, "None", 0.0, -0.0, False, "", b"", (), [], {}]
    similar += [set(), frozenset(), (1,), [1], {1}, frozenset([1]), {1: 1}, OrderedDict({1: 1}), range(1), slice(1)]
    similar += [np.float64(1), np.float32(1), np.int64(1), np.array(1), np.array([1]), np.array([1.0]), np.array([[1]])]
    similar += [
        int,
        float,
        "int",
        ...,
        NotImplemented,
        (None, None),
        ((), ()),
        [[]],
        [[], []],
        "\udc80",
        "x" * 600,
        b"x" * 600,
    ]
    assert len({key(value) for value in similar}) == len(similar)
    assert len({key([value]) for value in similar}) == len(similar)


def test_positional_and_keyword_arguments_are_told_apart() -> None:
    calls = [key(1, 2), key(2, 1), key(12), key("1, 2"), key((1, 2)), key(1, b=2), key(a=1, b=2), key({"a": 1, "b": 2})]
    calls += [_keys.call_digest(b"g" * 16, (1, 2), {}), _keys.named_digest((1, 2)), _keys.named_digest([1, 2])]
    assert len(set(calls)) == len(calls)
    assert _keys.call_digest(FUNCTION, [1, 2], {}) == key(1, 2)


def test_ints_of_many_digits_have_keys() -> None:
    assert key(10**5000) == key(10**5000)
    assert key(10**5000) != key(10**5000 + 1)


def test_the_order_of_an_ordered_dict_counts() -> None:
    assert key(OrderedDict(a=1, b=2)) == key(OrderedDict(a=1, b=2))
    assert key(OrderedDict(a=1, b=2)) != key(OrderedDict(b=2, a=1))
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a: object, b: object) -> None:
        self.a, self.b = a, b


class Bag(set[str]):
    pass


def test_instances_are_told_apart_by_class_and_state() -> None:
    assert key(Slots(1, {"x"})) == key(Slots(1, {"x"})) != key(Slots(1, {"y"}))
    assert key(Bag("ab")) == key(Bag("ba")) != key(Bag("ac"))
    assert key(Bag("ab")) != key(set("ab"))
    tagged = Bag("ab")
    tagged.tag = 1  # type: ignore[attr-defined]
    assert key(tagged) != key(Bag("ab"))
    one, other = types.SimpleNamespace(a=1, b=2), types.SimpleNamespace(b=2, a=1)
    assert key(one) == key(other) != key(types.SimpleNamespace(a=1))


# ---- cycles


def ring(size: int, start: int = 0) -> Any:
    lists: list[list[Any]] = [[number] for number in range(size)]
    for number, one in enumerate(lists):
        one.append(lists[(number + 1) % size])
    return lists[start]


def test_cycles_have_keys_that_do_not_depend_on_where_they_were_entered() -> None:
    assert key(ring(3)) == key(ring(3)) == key(copy.deepcopy(ring(3)))
    assert key(ring(3)) != key(ring(4))
    assert key(ring(3)) != key(ring(3, 1))
    a, b = ring(2), ring(2)[1]
    assert key({"a": a, "b": a[1]}) == key({"b": a[1], "a": a}) == key({"b": b, "a": b[1]})
    assert key(a, a[1]) == key(b[1], b)


def test_a_cycle_is_followed_once_however_many_ways_lead_through_it() -> None:
    def net(names: Iterator[int]) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = [{"name": number} for number in range(40)]
        for number in names:
            nodes[number]["others"] = nodes
        return nodes

    assert key(net(iter(range(40)))) == key(net(iter(range(39, -1, -1))))
    shared: list[Any] = [ring(2)]
    for _ in range(100):
        shared = [shared, shared]
    assert key(shared) == key(copy.deepcopy(shared))


def test_cycles_that_differ_far_away_are_told_apart() -> None:
    def chain(names: list[int]) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = [{"name": name} for name in names]
        for one, other in itertools.pairwise(nodes):
            one["next"], other["back"] = other, one
        return nodes[0]

    names = [0] * 30
    keys = [key(chain([*names[:place], 1, *names[place + 1 :]])) for place in range(30)]
    assert len({*keys, key(chain(names)), key(chain([*names, 0]))}) == 32


def test_large_trees_whose_leaves_know_their_root_have_keys() -> None:
    def tree(size: int) -> dict[str, Any]:
        root: dict[str, Any] = {"children": []}
        root["children"] += [{"parent": root, "number": number} for number in range(size)]
        return root

    assert key(tree(10_000)) == key(copy.deepcopy(tree(10_000))) != key(tree(10_001))


def test_functions_that_all_refer_to_each_other_have_keys() -> None:
    names = [f"f{number}" for number in range(15)]
    source = "\n".join(f"def {name}(): return [{', '.join(names)}]" for name in names)
    assert key_of(main(source)["f3"]) == key_of(main(source)["f3"])
    assert key_of(main(source)["f3"]) != key_of(main(source)["f4"])
    assert key_of(main(source)["f3"]) != key_of(main(source.replace("def f9(): return", "def f9(): yield"))["f3"])


# ---- arrays


def test_equal_arrays_have_the_same_key_whatever_their_strides() -> None:
    array = np.arange(24.0).reshape(4, 6)
    wide = np.zeros((4, 12))
    wide[:, ::2] = array
    for same in (np.asfortranarray(array), wide[:, ::2], array[::-1][::-1], array.T.copy().T):
        assert key(same) == key(array)
    others = [
        array.T,
        array.ravel(),
        array.astype("f4"),
        array.astype(">f8"),
        array + 1,
        array.tolist(),
        array.view(np.recarray),
    ]
    assert len({key(other) for other in [array, *others]}) == len(others) + 1


def test_the_bytes_between_the_fields_of_a_structured_array_do_not_count() -> None:
    dtype = np.dtype([("a", "i1"), ("b", "f8"), ("c", "O"), ("d", [("e", "u1"), ("f", "u4", 2)])], align=True)
    plain = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    one, other = np.full(16 * 3, 1, "u1").view(plain), np.full(16 * 3, 2, "u1").view(plain)
    for array in (one, other):
        array["a"], array["b"] = 5, [1, 2, 3]
    assert one.tobytes() != other.tobytes()
    assert key(one) == key(other)
    assert key(one[0]) == key(other[0]) != key(other[1])
    with_objects = np.zeros(2, dtype)
    assert key(with_objects) == key(with_objects.copy())
    changed = with_objects.copy()
    changed["c"] = [{"x"}, None]
    assert key(with_objects) != key(changed) == key(changed.copy())
    assert key(one) != key(one.view([("a", "i1"), ("x", "f8")]) if one.dtype.itemsize == 9 else one.view("V16"))


def test_the_padding_of_long_doubles_does_not_count() -> None:
    one, other = np.full(32, 1, "u1").view("g"), np.full(32, 2, "u1").view("g")
    one[:], other[:] = [1, 3], [1, 3]
    assert key(one) == key(other) != key(one * 2)


def test_masked_arrays_and_arrays_of_objects_have_keys() -> None:
    masked = np.ma.masked_equal([1, 2, 3], 2)
    assert key(masked) == key(np.ma.masked_equal([1, 2, 3], 2))
    assert key(masked) != key(np.ma.masked_equal([1, 2, 3], 3))
    objects = np.array([{"a"}, [1], None], object)
    assert key(objects) == key(np.array([{"a"}, [1], None], object)) != key(np.array([{"b"}, [1], None], object))


def test_texts_of_variable_length_have_keys_by_their_content() -> None:
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("this numpy has none")
    texts = ["a", "x" * 100]
    assert key(np.array(texts, "T")) == key(np.array(["", *texts], "T")[1:]) != key(np.array(["b", "x" * 100], "T"))


def test_numpy_is_not_imported_for_a_key() -> None:
    text = (
        "import sys; from slurmfutures import _keys; _keys.named_digest({1: [object()]}); print('numpy' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(_keys.__file__).parents[1]), *sys.path])}
    assert subprocess.check_output([sys.executable, "-c", text], env=env, text=True) == "False\n"


def test_functions_that_numba_compiles_have_keys_by_what_they_do() -> None:
    pytest.importorskip("numba")
    source = "import numba\n@numba.njit\ndef f(x): return x + 1\ndef g(x): return f(x)"
    for name in "fg":
        assert key_of(main(source)[name]) == key_of(main(source, 1)[name])
        assert key_of(main(source)[name]) != key_of(main(source.replace("+ 1", "+ 2"))[name])
        assert key_of(main(source)[name]) != key_of(main(source.replace("njit", "njit(fastmath=True)"))[name])


# ---- functions

PROGRAM = """
import dataclasses
import enum

RATE = 3

class Unit(enum.Enum):
    METRE = 1

@dataclasses.dataclass
class Config:
    size: int = 4

    def double(self):
        return 2 * self.size

def helper(x):
    return x + 1

def make(factor):
    class Inner:
        first, second, third = 31, 32, 33
        def set(self):
            self.a = self.b = self.c = self.d = 1

    def simulate(x, steps=10, *, tolerance=0.1):
        return helper(x) * steps * RATE * Config().double() * factor + Unit.METRE.value, {"x": 1}, Inner
    return simulate

simulate = make(5)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 3", "RATE = 4"),
        ("METRE = 1", "METRE = 2"),
        ("METRE", "METER"),
        ("size: int = 4", "size: int = 5"),
        ("size: int", "size: float"),
        ("2 * self.size", "3 * self.size"),
        ("2 * self.size", "self.size * 2"),
        ("x + 1", "x + 2"),
        ("x + 1", "x - 1"),
        ("x + 1", "x + 1.0"),
        ("steps=10", "steps=11"),
        ("steps=10", "steps=10.0"),
        ("tolerance=0.1", "tolerance=0.2"),
        ("make(5)", "make(6)"),
        ('{"x": 1}', '{"y": 1}'),
        ("32, 33", "33, 32"),
        ("self.d = 1", "self.d = 2"),
        ("class Inner:", "class Inner(dict):"),
        ("(x, steps", "(x, /, steps"),
        ("@dataclasses.dataclass", "@dataclasses.dataclass(frozen=True)"),
    ],
)
def test_an_edited_function_has_another_key(old: str, new: str) -> None:
    assert PROGRAM.count(old)
    assert key_of(main(PROGRAM)["simulate"]) != key_of(main(PROGRAM.replace(old, new))["simulate"])


def test_comments_and_moved_lines_leave_the_key() -> None:
    before = key_of(main(PROGRAM)["simulate"])
    for lines in range(20):
        assert key_of(main(PROGRAM, lines)["simulate"]) == before
    assert key_of(main(PROGRAM, 300)["simulate"]) == before
    assert (
        key_of(main(PROGRAM.replace("    return simulate", "\n    # why\n    return simulate  # and how"))["simulate"])
        == before
    )
    assert key_of(main(PROGRAM + "\ndef another(): return RATE")["simulate"]) == before
    moved = PROGRAM.replace("RATE = 3\n", "").replace("simulate = ", "RATE = 3\nsimulate = ")
    assert key_of(main(moved)["simulate"]) == before


def test_a_function_that_has_run_has_the_same_key() -> None:
    names = main(PROGRAM)
    before = key_of(names["simulate"])
    for _ in range(1000):  # until the interpreter rewrites its code
        names["simulate"](1)
    _keys._functions.clear()
    _keys._code.cache_clear()
    assert key_of(names["simulate"]) == before


def test_a_global_that_a_function_does_not_use_leaves_its_key() -> None:
    source = "value = 1\ndef f(x): return x.value\ndef g(x): return x.value + value"
    first, second = main(source), main(source.replace("value = 1", "value = 2"))
    assert key_of(first["f"]) == key_of(second["f"])
    assert key_of(first["g"]) != key_of(second["g"])


def test_what_a_nested_function_uses_counts() -> None:
    source = "def helper(): return 1\ndef f(): return [lambda: helper()]"
    assert key_of(main(source)["f"]) != key_of(main(source.replace("1\n", "2\n"))["f"])


def test_functions_are_told_apart_by_what_is_bound_to_them() -> None:
    add = main("def add(a, b=0): return a + b")["add"]
    bound = [add, functools.partial(add, 1), functools.partial(add, 2), functools.partial(add, b=2), "a".join, "b".join]
    bound += [
        Adder(1).add,
        Adder(2).add,
        Adder(1).subtract,
        Adder(1),
        Adder(2),
        Adder,
        str.join,
        len,
        np.add,
        np.multiply,
    ]
    assert len({key_of(one) for one in bound}) == len(bound)
    assert key_of(Adder(1).add) == key_of(Adder(1).add)
    assert key_of(functools.partial(add, 1)) == key_of(functools.partial(add, 1))


class Adder:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def add(self, x: int) -> int:
        return x + self.amount

    def subtract(self, x: int) -> int:
        return x - self.amount

    __call__ = add


MODULE = """
import functools, threading
from concurrent import futures

lock = threading.Lock()

def counted(times, why=(1, 2)):
    calls = []
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            with lock:
                calls.append(args)
                return function(*args), times, why
        return wrapper
    return decorate

def helper(x):
    return x + 1

def plain(x, y=2):
    return helper(x) + y + 10, lock

@counted(7)
def decorated(x):
    return 20, lock, decorated

@functools.lru_cache(50)
def cached(x):
    return 30, lock

class Model:
    def __init__(self, size=0):
        self.size = size + 40
    def __call__(self, x):
        return 50
    def run(self, x):
        return 60
    def __eq__(self, other):
        return 70

def made(factor):
    return lambda x: helper(x) * factor
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("+ 10", "+ 11", {"plain"}),
        ("y=2", "y=3", {"plain"}),
        ("20", "21", {"decorated"}),
        ("counted(7)", "counted(8)", {"decorated"}),
        ("(1, 2)", "(1, 3)", {"decorated"}),
        ("append(args)", "append(1)", {"decorated"}),
        ("30", "31", {"cached"}),
        ("lru_cache(50)", "lru_cache(51)", {"cached"}),
        ("+ 40", "+ 41", {"class"}),
        ("50\n", "51\n", {"instance"}),
        ("60", "61", {"method"}),
        ("70", "71", set()),
        ("x + 1", "x + 2", {"made"}),
    ],
)
def test_an_imported_function_has_another_key_when_its_own_code_is_edited(
    imported: Callable[[str], Any], old: str, new: str, changed: set[str]
) -> None:
    def keys(source: str) -> dict[str, bytes]:
        module = imported(source)
        model = module.Model.__new__(module.Model)
        functions = {"plain": module.plain, "decorated": module.decorated, "cached": module.cached}
        functions |= {"class": module.Model, "instance": model, "method": model.run, "made": module.made(2)}
        return {name: key_of(function) for name, function in functions.items()}

    assert MODULE.count(old)
    before, after = keys(MODULE), keys(MODULE.replace(old, new))
    assert {name for name in before if before[name] != after[name]} == changed
    assert keys("# moved\n\n" + MODULE) == before


def test_what_an_imported_function_has_been_called_with_does_not_count(imported: Callable[[str], Any]) -> None:
    module = imported(MODULE)
    before = key(module.decorated, module.cached)
    module.decorated(1)
    module.cached(1)
    assert key(module.decorated, module.cached) == before


def test_a_module_that_travels_by_value_counts_with_its_helpers(imported: Callable[[str], Any]) -> None:
    source = "def helper(x): return x + 1\ndef f(x): return helper(x)\nclass C:\n    size = 5\n"

    def keys(source: str) -> list[bytes]:
        module = imported(source)
        names = main("def g(x): return module.f(x)")
        names["module"] = module
        return [key_of(module.f), key_of(names["g"]), key(module.C())]

    edited = source.replace("x + 1", "x + 2").replace("5", "6")
    assert keys(source) == keys(edited)
    module = imported(source)
    cloudpickle.register_pickle_by_value(module)
    try:
        before, after = keys(source), keys(edited)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_function_is_not_taken_apart_again_unless_its_code_or_its_bytes_change() -> None:
    looked: list[int] = []

    class Counted:
        def __reduce__(self) -> tuple[type, tuple[()]]:
            looked.append(1)
            return int, ()

    counted = Counted()

    def function() -> object:
        return counted

    def another() -> object:
        return [counted]

    first = _keys.function_digest(function, b"one")
    assert _keys.function_digest(function, b"one") == first
    assert len(looked) == 1
    _keys.function_digest(function, b"two")
    assert len(looked) == 2
    assert _keys.function_digest(another, b"one") != first
    assert len(looked) == 3


# ---- what has no key


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


class Unsayable(Exception):
    def __str__(self) -> NoReturn:
        raise self


class Endless:
    def __reduce__(self) -> Any:
        return list, (), None, iter([Endless()])


class Nameless(type):
    def __getattribute__(cls, name: str) -> NoReturn:
        raise Unsayable

    __hash__ = None  # type: ignore[assignment]


class Hostile(metaclass=Nameless):
    pass


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNKEYABLE: dict[str, Callable[[], object]] = {
    "generator": lambda: (one for one in [1]),
    "iterator": lambda: iter([1]),
    "map": lambda: map(str, [1]),
    "count": lambda: itertools.count(),
    "lock": threading.Lock,
    "weak reference": lambda: weakref.ref(Slots),
    "error": lambda: Raises(ValueError("no")),
    "exit": lambda: Raises(SystemExit(1)),
    "unsayable": lambda: Raises(Unsayable()),
    "endless": Endless,
    "hostile": Hostile,
    "nested": lambda: nested(100_000),
    "not numpy's": lambda: np.frompyfunc(len, 1, 1),
}


@pytest.mark.parametrize("name", UNKEYABLE)
def test_what_has_no_key_raises_unkeyable_and_nothing_else(name: str) -> None:
    value = UNKEYABLE[name]()
    makers: list[Callable[[], bytes]] = [
        lambda: key(1, [value]),
        lambda: key(value, a=1),
        lambda: key(a={1: value}),
        lambda: _keys.named_digest(value),
        lambda: _keys.function_digest(lambda: value, b"pickled"),
    ]
    for make in makers:
        with pytest.raises(Unkeyable):
            make()


def test_open_files_have_no_key_and_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("one\ntwo\n")
    with open(tmp_path / "text") as file:
        file.readline()
        with pytest.raises(Unkeyable):
            key(file)
        assert file.readline() == "two\n"


def test_an_unkeyable_value_is_named_with_the_reason() -> None:
    with pytest.raises(Unkeyable, match=r"type generator has no key: it can be gone through only once"):
        key([{"a": (one for one in [1])}])
    with pytest.raises(Unkeyable, match=r"type _thread.lock has no key: TypeError: cannot pickle"):
        key(Slots(threading.Lock(), 1))
    with pytest.raises(Unkeyable, match=r"test_keys.Raises has no key: ValueError: no"):
        key(Raises(ValueError("no")))


def test_an_iterator_is_left_as_it_was() -> None:
    numbers = iter([1, 2])
    with pytest.raises(Unkeyable):
        key([numbers])
    assert list(numbers) == [1, 2]


def test_ctrl_c_is_no_reason_against_a_key() -> None:
    with pytest.raises(KeyboardInterrupt):
        key(Raises(KeyboardInterrupt()))


def test_a_key_leaves_arguments_and_classes_as_they_were() -> None:
    names = main("class C:\n  def __init__(self): self.a = {1, 2}")
    before = dict(vars(names["C"]))
    value = names["C"]()
    key(value)
    key(value, names["C"])
    assert {name for name in vars(names["C"]) if name not in before} <= {"__slotnames__"}  # copyreg's own note
    assert vars(value) == {"a": {1, 2}}


def test_what_only_looks_at_a_class_leaves_its_key() -> None:
    names = main("class C: pass")
    before = key(names["C"])
    assert names["C"].__annotations__ == {}  # makes them
    cloudpickle.dumps(names["C"]())
    assert key(names["C"]) == before


def test_bytes_in_memory_have_a_key_with_their_position() -> None:
    file = io.BytesIO(b"abc")
    assert key(file) == key(io.BytesIO(b"abc")) != key(io.BytesIO(b"abd"))
    assert file.read() == b"abc"
    assert key(file) != key(io.BytesIO(b"abc"))
