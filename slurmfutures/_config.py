"""Clusters by name in a file, and what the environment says where nobody else does."""

import contextlib
import datetime as dt
import difflib
import itertools
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeGuard, Union

from ._hosts import Host
from ._options import is_option, render_options, split_labels, suggest
from ._printable import printable

DEFAULT_WORK_DIR = "~/.slurmfutures"
HOST = "SLURMFUTURES_HOST"
WORK_DIR = "SLURMFUTURES_WORK_DIR"

Source = Union[str, "os.PathLike[str]", Mapping[str, Any]]

_LONGEST = 1 << 15  # bytes of a file
_MOST_NODES = 10000  # values in YAML

# What is code, and so has no place in a file.
_CODE = ("ask", "checkpoint_key", "initializer", "initargs")


def from_environment(
    host: str | Host | None, work_dir: "str | os.PathLike[str] | None", scheduler: str
) -> "tuple[str | Host | None, str | os.PathLike[str]]":
    """Return host and work_dir, by the environment where they are None; a host is None where it is this machine.

    "" is this machine whatever the environment says; and so is the embedded scheduler's, where no host is named.
    """
    if host is None and scheduler == "slurm":
        host = os.environ.get(HOST)
    if work_dir is None:
        work_dir = os.environ.get(WORK_DIR) or DEFAULT_WORK_DIR
    return host or None, work_dir


@dataclass(frozen=True)
class ClusterConfig:
    """What `SlurmExecutor` has to be told of a cluster, checked: its parameters by name, but those that are code.

    A host may be text, a `Host`, or a mapping with the fields of one; `sbatch` has sbatch's options. It is a dataclass,
    so that it can be a field of the configuration of something larger. `SlurmExecutor.from_config` takes it.

    Raises ValueError for what cannot be.
    """

    host: Any = None
    jump: Any = None
    transport: str = "paramiko"
    ssh_config: str | None = None
    accept_new_host_keys: bool = False
    connect_timeout: float | None = None
    heartbeat: float = 30.0
    reconnect_timeout: float | None = None
    scheduler: str = "slurm"
    work_dir: str | None = None
    python: str | None = None
    setup: str = ""
    max_workers: int | None = None
    retries: int = 0
    login_workers: int = 2
    checkpoint: str | None = None
    ship: Any = ()
    sbatch: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (check, expected) in _CHECKS.items():
            value = getattr(self, name)
            if value is None and _DEFAULTS[name] is None:
                continue
            with _of_field(name):
                if not check(value):
                    raise ValueError(f"{name} must be {expected}, not {reprlib.repr(value)}")
                object.__setattr__(self, name, _READ.get(name, _as_it_is)(value))
        given: dict[str, Any] = {}
        for spelt, value in self.sbatch.items():
            name = _plain(spelt)
            with _of_field(name):
                if name in given:
                    raise ValueError(f"{name!r} was given twice")
                given[name] = _option(name, value)
        object.__setattr__(self, "sbatch", given)

    @classmethod
    def load(cls, source: Source, name: str | None = None) -> "ClusterConfig":
        """Return a cluster of a mapping, or of a TOML or YAML file.

        Its keys are the fields, and sbatch's options beside them, with "_" or "-". Where there are `clusters`, a table
        of such tables by name, `name` is one of them, None the only one or that which `default` names; what stands
        beside `clusters` holds for all that do not say otherwise. Paths mean what they mean in code.

        Raises ValueError, which says in which file, cluster and field something is wrong, and what is expected; OSError
        for a file that cannot be read, ImportError where it is YAML and there is no PyYAML.
        """
        where, words = ("the config", source) if isinstance(source, Mapping) else _read(source)
        common = {_plain(key): value for key, value in _table(where, words).items()}
        clusters, default = common.pop("clusters", None), common.pop("default", None)
        own: dict[str, Any] = {}
        place = where
        if clusters is not None:
            name = _choose(where, _table(f"{where}: clusters", clusters), name, default)
            place = f"{where}, cluster {name!r}"
            own = {_plain(key): value for key, value in _table(place, clusters[name]).items()}
        elif name is not None:
            raise ValueError(f"{where}: there is no cluster {name!r}, as there are no clusters in it")
        sbatch = dict(_table(f"{where}: sbatch", common.pop("sbatch", None) or {}))
        sbatch.update(_table(f"{place}: sbatch", own.pop("sbatch", None) or {}))
        known: dict[str, Any] = {}
        for key, value in {**common, **own}.items():
            if value is None:
                continue
            at = place if key in own else where
            if key in _DEFAULTS:
                known[key] = value
            elif key in _CODE:
                raise ValueError(f"{at}: {key} is code, and so no part of a config: from_config(..., {key}=...)")
            elif is_option(key):
                sbatch[key] = value
            else:
                near = suggest(key, _DEFAULTS)
                hint = f"; did you mean {near!r}?" if near else ""
                raise ValueError(f"{at}: {key!r} is neither a parameter of SlurmExecutor nor an option of sbatch{hint}")
        try:
            return cls(**known, sbatch=sbatch)
        except _FieldError as wrong:
            at = where if wrong.field in common and wrong.field not in own else place
            raise ValueError(f"{at}: {wrong}") from wrong

    def options(self) -> dict[str, Any]:
        """Return it as keywords of `SlurmExecutor`: what is not left at its default, and sbatch's options."""
        said = {name: getattr(self, name) for name in _DEFAULTS if getattr(self, name) != _DEFAULTS[name]}
        return {**said, **self.sbatch}


class _FieldError(ValueError):
    """What is wrong with a field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@contextlib.contextmanager
def _of_field(name: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        told = text.startswith(name) or repr(name) in text
        raise _FieldError(name, text if told else f"{name}: {text}") from error


# ---- fields


def _is_text(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) > 0


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_host(value: object) -> bool:
    return isinstance(value, str | Host | Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_ship(value: object) -> bool:
    return _is_text(value) or (_is_list(value) and all(map(_is_text, value)))


def _host(value: Any) -> str | Host:
    """Return a host. Raises ValueError."""
    if isinstance(value, Mapping):
        for key in value:
            if key not in ("address", "key"):
                close = difflib.get_close_matches(str(key), ("address", "key"), n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"a host has an 'address' and a 'key', and no {key!r}{hint}")
        if "address" not in value:
            raise ValueError(f"a host needs an 'address': {reprlib.repr(dict(value))} has none")
        keys = value.get("key")
        return Host(value["address"], key=tuple(keys) if _is_list(keys) else keys)
    if value:
        Host.parse(value)
    return value  # type: ignore[no-any-return]


def _jump(value: Any) -> tuple[str | Host, ...]:
    return tuple(map(_host, value)) if _is_list(value) else (_host(value),)


def _as_it_is(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


_TRANSPORTS = ("paramiko", "openssh")
_SCHEDULERS = ("slurm", "local")
_A_HOST = 'a host, such as "user@host:port", or a table with its address and key'
_SECONDS = "a number of seconds greater than 0"
_COUNT = "a whole number of 1 or more"

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "host": (_is_host, _A_HOST),
    "jump": (lambda value: _is_host(value) or (_is_list(value) and all(map(_is_host, value))), f"{_A_HOST}, or a list"),
    "transport": (lambda value: value in _TRANSPORTS, "'paramiko' or 'openssh'"),
    "ssh_config": (_is_text, "the path of a file"),
    "accept_new_host_keys": (lambda value: isinstance(value, bool), "true or false"),
    "connect_timeout": (_is_number, _SECONDS),
    "heartbeat": (_is_number, _SECONDS),
    "reconnect_timeout": (_is_number, _SECONDS),
    "scheduler": (lambda value: value in _SCHEDULERS, "'slurm' or 'local'"),
    "work_dir": (_is_text, "the path of a folder"),
    "python": (_is_text, "a word of shell, such as '~/env/bin/python'"),
    "setup": (lambda value: isinstance(value, str), "lines of bash"),
    "max_workers": (_is_count, _COUNT),
    "retries": (lambda value: _is_count(value, 0), "a whole number of 0 or more"),
    "login_workers": (_is_count, _COUNT),
    "checkpoint": (_is_text, "the path of a file"),
    "ship": (_is_ship, "a name of a module or a path, or a list of these"),
    "sbatch": (lambda value: isinstance(value, Mapping), "a table of options"),
}
_READ: dict[str, Callable[[Any], Any]] = {
    "host": _host,
    "jump": _jump,
    "ship": lambda value: tuple(map(_as_it_is, value)) if _is_list(value) else (_as_it_is(value),),
    "sbatch": dict,
}
_DEFAULTS = {it.name: it.default for it in fields(ClusterConfig) if it.default is not MISSING}


def _plain(name: object) -> str:
    return str(name).replace("-", "_")


def _option(name: str, value: Any) -> Any:
    """Return the value of an option of sbatch. Raises TypeError or ValueError for what sbatch could not read."""
    if isinstance(value, dt.time):  # what TOML makes of 01:30:00 without quotes
        value = value.isoformat()
    elif _is_list(value):
        value = list(value)
    split_labels({name: value})
    render_options({name: value}, known=_DEFAULTS)
    return value


# ---- files


def _read(source: Any) -> tuple[str, Any]:
    """Return a file's name as it was given, and what is in it."""
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"config must be a mapping, a ClusterConfig or the path of a file, not {source!r}")
    where = os.fspath(source)
    kind = os.path.splitext(where)[1].lower()
    if kind not in (".toml", ".yaml", ".yml"):
        raise ValueError(f"{where}: a config is a file that ends in .toml, .yaml or .yml")
    with open(os.path.expanduser(where), "rb") as file:
        data = file.read(_LONGEST + 1)
    try:
        if len(data) > _LONGEST:
            raise ValueError(f"a config has at most {_LONGEST} bytes")
        return where, _toml(data) if kind == ".toml" else _yaml(where, data)
    except (ValueError, RecursionError) as error:  # as are those of TOML, of YAML and of UTF-8
        raise ValueError(f"{where} cannot be read: {error}") from error


def _toml(data: bytes) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(data.decode())


def _yaml(where: str, data: bytes) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{where} is YAML, which needs PyYAML: pip install 'slurmfutures[yaml]', or write it as TOML"
        ) from error

    sizes: dict[int, int] = {}  # by node, with what its aliases stand for

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """With the numbers of YAML 1.2: for 1.1, 01:30:00 is 5400."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            node = super().compose_node(parent, index)
            if id(node) not in sizes:
                inner = node.value if isinstance(node, yaml.CollectionNode) else []
                parts = itertools.chain.from_iterable(part if isinstance(part, tuple) else (part,) for part in inner)
                sizes[id(node)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
            if sizes[id(node)] > _MOST_NODES:
                raise ValueError(f"it has more than {_MOST_NODES} values, with those that aliases stand for")
            return node

    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in numbers]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    starts = list("-+.0123456789")
    Loader.add_implicit_resolver(numbers[0], re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), starts)
    floats = r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    Loader.add_implicit_resolver(numbers[1], re.compile(floats), starts)
    try:
        return yaml.load(data, Loader)
    except yaml.YAMLError as error:
        raise ValueError(printable(" ".join(str(error).split()))) from None  # it shows the lines of the file
    except (AttributeError, TypeError, LookupError, OverflowError) as error:
        raise ValueError(f"a value is not what its tag says: {error}") from None


def _table(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a table, not {reprlib.repr(value)}")
    return value


def _choose(where: str, clusters: Mapping[str, Any], name: str | None, default: object) -> str:
    """Return the name of the cluster that is meant. Raises ValueError."""
    names = ", ".join(map(repr, clusters))
    asked = name if name is not None else default
    if asked is None and len(clusters) == 1:
        return next(iter(clusters))
    if asked is None:
        raise ValueError(f"{where}: say by name=, or by its default, which cluster is meant: {names or 'it has none'}")
    if isinstance(asked, str) and asked in clusters:
        return asked
    close = difflib.get_close_matches(str(asked), map(str, clusters), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    by = "" if name is not None else ", which is its default"
    raise ValueError(f"{where}: there is no cluster {asked!r}{by}; {hint}It has {names or 'none'}")
