"""sbatch's options as keywords.

Any long option of sbatch, `-` written `_`: `mem="4G"` is `--mem=4G`, `exclusive=True` is `--exclusive`. What is plainly
wrong is said here, before anything is sent; whether a partition exists is for Slurm to say.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from numbers import Integral, Real
from typing import Any

from ._remote.times import parse_time


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# sbatch(1) of 20.11 to 26.05; what a cluster's own sbatch does not know it refuses itself, with its own words. Of some
# an older version takes no value and a newer one may: those stand in the third list.
_WITH_VALUE = _names(
    """account acctg_freq batch bb bbf begin cluster_constraint comment constraint container container_id context
    core_spec cores_per_socket cpu_freq cpus_per_gpu cpus_per_task deadline delay_boot dependency distribution exclude
    export export_file extra extra_node_info gid gpu_bind gpu_freq gpus gpus_per_node gpus_per_socket gpus_per_task
    gres gres_flags hint job_name kill_on_invalid_dep licenses mail_type mail_user mcs_label mem mem_bind mem_per_cpu
    mem_per_gpu mem_update mincpus network nodefile nodelist nodes ntasks ntasks_per_core ntasks_per_gpu
    ntasks_per_node ntasks_per_socket ntasks_per_tres open_mode partition power prefer priority profile qos
    reservation resources segment signal sockets_per_node switches tasks_per_node thread_spec threads_per_core time
    time_min tmp tres_bind tres_per_task uid wait_all_nodes wckey"""
)
_FLAGS = _names(
    """consolidate_segments contiguous hold no_requeue overcommit oversubscribe reboot spread_job spread_segments
    stepmgr use_min_nodes"""
)
_EITHER = _names("exclusive get_user_env nice no_kill oom_kill_step propagate requeue resv_ports")
_ALL = _WITH_VALUE | _FLAGS | _EITHER

#: The options that this package sets itself, or that would leave it without a job, and what to do instead.
OURS = {
    "array": "map() makes job arrays itself, and max_workers bounds how many tasks run at once",
    "chdir": "jobs start in the folder that the driver is in; call os.chdir() in the function",
    "cluster": "the cluster is the one that host is a login node of",
    "clusters": "the cluster is the one that host is a login node of",
    "error": "a future's stderr() returns what its job wrote",
    "help": "it submits nothing",
    "ignore_pbs": "the scripts made here have no #PBS lines",
    "input": "pass data to the function as arguments",
    "output": "a future's stdout() returns what its job printed",
    "parsable": "the job id is read here; a future has it as job_id",
    "quiet": "sbatch's words become exceptions here",
    "test_only": "it submits nothing",
    "usage": "it submits nothing",
    "verbose": "sbatch's words become exceptions here",
    "version": "it submits nothing",
    "wait": "a future's result() waits",
    "wrap": "submit a function that runs the command",
}

#: What is written by people who come from elsewhere, for the suggestion.
_ALIASES = {
    "cores": "cpus_per_task",
    "cpus": "cpus_per_task",
    "mem_gb": "mem",
    "memory": "mem",
    "name": "job_name",
    "project": "account",
    "queue": "partition",
    "timeout_min": "time",
    "walltime": "time",
    "A": "account",
    "C": "constraint",
    "G": "gpus",
    "J": "job_name",
    "N": "nodes",
    "c": "cpus_per_task",
    "d": "dependency",
    "n": "ntasks",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "w": "nodelist",
}

_COUNTS = _names(
    """cpus_per_gpu cpus_per_task mincpus ntasks ntasks_per_core ntasks_per_gpu ntasks_per_node ntasks_per_socket
    tasks_per_node"""
)
_SIZES = _names("mem mem_per_cpu mem_per_gpu tmp")
_TIMES = _names("time time_min")

_TIME_REMEDY = "write minutes, 'MM:SS', 'HH:MM:SS', 'D-HH', 'D-HH:MM' or 'D-HH:MM:SS', or pass a timedelta"
_SIZE_REMEDY = "write whole megabytes, or a whole number with K, M, G or T, such as '4G'"


def render_options(options: Mapping[str, Any], known: Iterable[str] = ()) -> tuple[str, ...]:
    """Return `options` as words for sbatch, sorted by name, so that equal options are equal words.

    True stands for an option without a value; False and None leave it out. Values are text, numbers, a timedelta for
    `time` and `time_min`, or lists and tuples of these, which are joined by commas. `sbatch_args` is a list of words
    which are passed on as they are, for options that plugins of a site add.

    Raises TypeError for a name that is no option of sbatch, or one that is not free to be set, with what may have been
    meant (`known` are the caller's own keywords), and for what is neither text nor a number; ValueError for a value
    that sbatch could not read.
    """
    words: dict[str, str] = {}
    for spelt, value in options.items():
        name = spelt.replace("-", "_")
        if name == "sbatch_args":
            continue
        _check_name(spelt, name, known)
        if name in words:
            raise TypeError(f"sbatch option {name!r} was given twice")
        word = _render(name, value)
        if word is not None:
            words[name] = word
    return (*(words[name] for name in sorted(words)), *_plugin_words(options.get("sbatch_args") or ()))


def split_labels(options: Mapping[str, Any]) -> tuple[str | None, str, dict[str, Any]]:
    """Return the job name, None if there is none, the comment, and the other options.

    The executor adds its marks to these two. Raises ValueError as `render_options` does.
    """
    rest = {name.replace("-", "_"): value for name, value in options.items()}
    name, comment = (_value(label, rest.pop(label)) if rest.get(label) else None for label in ("job_name", "comment"))
    return name, comment or "", {key: value for key, value in rest.items() if key not in ("job_name", "comment")}


def names_like(beginning: str) -> list[str]:
    """Return the options of sbatch that begin so; that option alone where it is one.

    sbatch takes a beginning for an option where its own version has only one that begins so.
    """
    known = {*_ALL, *OURS, "comment", "job_name"}
    return [beginning] if beginning in known else sorted(name for name in known if name.startswith(beginning))


def _check_name(spelt: str, name: str, known: Iterable[str]) -> None:
    if name in _ALL:
        return
    if name in OURS:
        raise TypeError(f"sbatch option {spelt!r} cannot be set: {OURS[name]}")
    suggestion = suggest(name, known)
    raise TypeError(f"unknown sbatch option {spelt!r}" + (f"; did you mean {suggestion!r}?" if suggestion else ""))


def is_option(name: str) -> bool:
    """Whether sbatch, or this package for it, has an option of this name, though it may not be free to be set."""
    return name in _ALL or name in OURS or name == "sbatch_args"


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Return what may have been meant by a name, of sbatch's options and of those that are `known` beside them."""
    name = name.removeprefix("slurm_")
    if name in _ALL:
        return name
    if name in _ALIASES:
        return _ALIASES[name]
    close = difflib.get_close_matches(name.lower(), sorted({*_ALL, *OURS, *known}), n=1)
    return close[0] if close else None


def _render(name: str, value: Any) -> str | None:
    option = "--" + name.replace("_", "-")
    if value is None:
        return None
    if isinstance(value, bool):
        if name in _WITH_VALUE:
            raise ValueError(f"sbatch option {name!r} needs a value, not {value}; None leaves it out")
        return option if value else None
    if name in _FLAGS:
        raise ValueError(f"sbatch option {name!r} takes no value, not {value!r}: it is True or False")
    if isinstance(value, list | tuple) and not value:
        return None
    text = _value(name, value)
    for names, check in _CHECKS:
        if name in names:
            check(name, value, text)
    return f"{option}={text}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        if any(isinstance(item, list | tuple) for item in value):
            raise TypeError(f"sbatch option {name!r} has a list in a list, which is neither text nor a number")
        return ",".join(_value(name, item) for item in value)
    if isinstance(value, timedelta) and name in _TIMES:
        return _slurm_time(name, value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if number.is_integer() else str(number)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"sbatch option {name!r} cannot be {value!r}: a {kind} is neither text nor a number")
    if not value.strip():
        raise ValueError(f"sbatch option {name!r} is empty; None leaves it out")
    if re.search(r"[\0\r\n]", value):
        raise ValueError(f"sbatch option {name!r} cannot be {value!r}: it must be one line of text")
    return value


def _slurm_time(name: str, value: timedelta) -> str:
    # Up to the next second: a limit is not to be shorter than what was asked for.
    seconds = -(-value // timedelta(seconds=1))
    if seconds <= 0:
        raise ValueError(f"sbatch option {name!r} cannot be {value!r}: it must be more than nothing")
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minutes:02}:{seconds:02}"


def _check_time(name: str, value: Any, text: str) -> None:
    try:
        parse_time(text)
    except ValueError:
        raise ValueError(f"sbatch option {name!r} cannot be {value!r}: {_TIME_REMEDY}") from None


def _check_size(name: str, value: Any, text: str) -> None:
    if not re.fullmatch(r"\d+(?:[KMGT]B?)?", text, re.ASCII | re.IGNORECASE):
        raise ValueError(f"sbatch option {name!r} cannot be {value!r}: {_SIZE_REMEDY}")


def _check_count(name: str, value: Any, text: str) -> None:
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"sbatch option {name!r} cannot be {value!r}: it must be a whole number of 1 or more")


def _check_nodes(name: str, value: Any, text: str) -> None:
    if re.fullmatch(r"-?\d+", text, re.ASCII) and int(text) < 1:
        raise ValueError(f"sbatch option {name!r} cannot be {value!r}: it must be 1 or more, or a range such as '2-4'")


_CHECKS: tuple[tuple[frozenset[str], Callable[[str, Any, str], None]], ...] = (
    (_TIMES, _check_time),
    (_SIZES, _check_size),
    (_COUNTS, _check_count),
    (_names("nodes"), _check_nodes),
)


def _plugin_words(words: Any) -> list[str]:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"sbatch_args must be a list of words like '--name=value', not {words!r}")
    for word in words:
        match = re.fullmatch(r"--([a-z][\w-]*)(=[^\0\r\n]*)?", word, re.ASCII)
        if match is None:
            raise ValueError(f"sbatch_args cannot hold {word!r}: each word must be like '--name=value' or '--name'")
        for name in names_like(match[1].replace("-", "_")):
            if name in OURS or name in ("job_name", "comment"):
                raise TypeError(
                    f"sbatch_args cannot hold {word!r}, which is or abbreviates --{name.replace('_', '-')}: "
                    f"{OURS.get(name, f'use {name}= for it')}"
                )
    return list(words)
