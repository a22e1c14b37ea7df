from collections import OrderedDict
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from slurmfutures._options import _ALL, OURS, render_options, split_labels


def test_options_become_words_sorted_by_name() -> None:
    options = {"time": "01:00:00", "partition": "cpu", "cpus_per_task": 2, "mem": "4G"}
    words = ("--cpus-per-task=2", "--mem=4G", "--partition=cpu", "--time=01:00:00")
    assert render_options(options) == words
    assert render_options(OrderedDict(reversed(options.items()))) == words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ()),
        ({"exclusive": True}, ("--exclusive",)),
        ({"exclusive": False}, ()),
        ({"exclusive": "user"}, ("--exclusive=user",)),
        ({"hold": True, "no_requeue": False}, ("--hold",)),
        ({"requeue": True}, ("--requeue",)),
        ({"requeue": "expedite"}, ("--requeue=expedite",)),
        ({"nice": 100}, ("--nice=100",)),
        ({"oom_kill_step": 0}, ("--oom-kill-step=0",)),
        ({"mem": None, "account": "a"}, ("--account=a",)),
        ({"exclude": ["n1", "n2"]}, ("--exclude=n1,n2",)),
        ({"mail_type": ("END", "FAIL")}, ("--mail-type=END,FAIL",)),
        ({"exclude": []}, ()),
        ({"gpus": 2}, ("--gpus=2",)),
        ({"gpus": 2.0}, ("--gpus=2",)),
        ({"gpus": Fraction(4, 2)}, ("--gpus=2",)),
        ({"gres": "gpu:a100:2"}, ("--gres=gpu:a100:2",)),
        ({"constraint": "[a|b]&c"}, ("--constraint=[a|b]&c",)),
        ({"comment": 'it\'s "mine" é'}, ('--comment=it\'s "mine" é',)),
        ({"cpus-per-task": 2}, ("--cpus-per-task=2",)),
        ({"dependency": "afterok:1:2"}, ("--dependency=afterok:1:2",)),
        ({"nodes": "2-4", "ntasks": 8}, ("--nodes=2-4", "--ntasks=8")),
        ({"export": "NONE"}, ("--export=NONE",)),
    ],
)
def test_values_are_rendered_as_sbatch_reads_them(options: dict[str, Any], words: tuple[str, ...]) -> None:
    assert render_options(options) == words


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(minutes=90), "0-01:30:00"),
        (timedelta(days=2, hours=3, minutes=4, seconds=5), "2-03:04:05"),
        (timedelta(seconds=1), "0-00:00:01"),
        (timedelta(milliseconds=1), "0-00:00:01"),
        (timedelta(seconds=59.5), "0-00:01:00"),
        (timedelta(hours=25), "1-01:00:00"),
    ],
)
def test_a_timedelta_is_never_cut_short(span: timedelta, text: str) -> None:
    assert render_options({"time": span}) == (f"--time={text}",)


@pytest.mark.parametrize("name", sorted(_ALL))
def test_every_option_of_sbatch_can_be_named(name: str) -> None:
    value = {"nodes": 1, "time": 5, "time_min": 5}.get(name, "1")
    try:
        words = render_options({name: value})
    except ValueError:
        words = render_options({name: True})
    assert words[0].startswith("--" + name.replace("_", "-"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpu_per_task", "unknown sbatch option 'cpu_per_task'; did you mean 'cpus_per_task'?"),
        ("partiton", "unknown sbatch option 'partiton'; did you mean 'partition'?"),
        ("p", "unknown sbatch option 'p'; did you mean 'partition'?"),
        ("walltime", "unknown sbatch option 'walltime'; did you mean 'time'?"),
        ("slurm_partition", "unknown sbatch option 'slurm_partition'; did you mean 'partition'?"),
        ("max_worker", "unknown sbatch option 'max_worker'; did you mean 'max_workers'?"),
        ("qwertyuiop", "unknown sbatch option 'qwertyuiop'"),
        ("--mem", "unknown sbatch option '--mem'; did you mean 'mem'?"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        render_options({name: 1}, known=("max_workers", "work_dir"))
    assert str(raised.value) == message


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("value", [True, "x", None])
def test_the_executor_s_own_options_are_refused_with_what_to_do_instead(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"sbatch option '{name}' cannot be set: .{{10}}"):
        render_options({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time", "1h"),
        ("time", "10m"),
        ("time", "1:2:3:4"),
        ("time", 1.5),
        ("time", timedelta(0)),
        ("time", timedelta(days=-1)),
        ("time_min", "soon"),
        ("mem", "4 GB"),
        ("mem", "1.5G"),
        ("mem", "lots"),
        ("mem", -1),
        ("mem", 0.5),
        ("mem_per_cpu", "4X"),
        ("mem_per_gpu", "G"),
        ("cpus_per_task", 0),
        ("cpus_per_task", -2),
        ("cpus_per_task", "two"),
        ("cpus_per_task", 1.5),
        ("ntasks", 0),
        ("nodes", 0),
        ("partition", True),
        ("mem", False),
        ("hold", "yes"),
        ("contiguous", 1),
        ("account", ""),
        ("account", " "),
        ("constraint", "a\nb"),
        ("constraint", "a\0b"),
        ("exclude", ["n1", "n\n2"]),
    ],
)
def test_a_bad_value_is_an_error_that_names_option_and_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"sbatch option '{name}'") as raised:
        render_options({name: value})
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    if value not in ("", " "):
        shown = value[1] if isinstance(value, list) else value
        assert repr(shown) in message


@pytest.mark.parametrize("value", [object(), {"a": 1}, b"4G", {1, 2}, [["n1"], {}], timedelta(1)])
def test_what_is_neither_text_nor_number_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="neither text nor a number"):
        render_options({"account": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time", 90),
        ("time", "90"),
        ("time", "90:00"),
        ("time", "1-0"),
        ("time", "1-12:30:00"),
        ("time", 0),
        ("time", "UNLIMITED"),
        ("mem", 0),
        ("mem", "0"),
        ("mem", 4000),
        ("mem", "4G"),
        ("mem", "4GB"),
        ("mem", "512k"),
        ("mem", "1T"),
        ("tmp", "10G"),
        ("cpus_per_task", "4"),
        ("nodes", "1-4"),
        ("nodes", 2),
    ],
)
def test_what_sbatch_accepts_is_accepted(name: str, value: object) -> None:
    assert render_options({name: value}) == (f"--{name.replace('_', '-')}={value}",)


def test_one_option_in_two_spellings_is_an_error() -> None:
    with pytest.raises(TypeError, match="'mem_per_cpu' was given twice"):
        render_options({"mem_per_cpu": 1, "mem-per-cpu": 2})


def test_options_of_a_site_s_plugins_are_passed_on_as_they_are() -> None:
    words = ["--container-image=/x y.sqsh", "--no-container-mount-home"]
    assert render_options({"sbatch_args": words, "mem": 1}) == ("--mem=1", *words)
    assert render_options({"sbatch_args": []}) == ()
    assert render_options({"sbatch_args": None}) == ()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--x=1", TypeError),
        ([1], TypeError),
        (["x=1"], ValueError),
        (["-p", "x"], ValueError),
        (["--x=a\nb"], ValueError),
        (["--array=0-9"], TypeError),
        (["--output=x"], TypeError),
        (["--job-name=x"], TypeError),
    ],
)
def test_passed_on_words_cannot_undo_what_the_executor_needs(words: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="sbatch_args"):
        render_options({"sbatch_args": words})


def test_name_and_comment_are_taken_out_for_the_executor_s_marks() -> None:
    options = {"job-name": "sim", "comment": "for the paper", "mem": "4G"}
    assert split_labels(options) == ("sim", "for the paper", {"mem": "4G"})
    assert split_labels({"mem": 1}) == (None, "", {"mem": 1})
    assert split_labels({"job_name": None, "comment": ""}) == (None, "", {})
    assert options == {"job-name": "sim", "comment": "for the paper", "mem": "4G"}


def test_a_name_of_two_lines_is_an_error() -> None:
    with pytest.raises(ValueError, match="'job_name' cannot be"):
        split_labels({"job_name": "a\nb"})


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("--wra=true", "wrap"),
        ("--wr=true", "wrap"),
        ("--arr=0-9", "array"),
        ("--outp=x", "output"),
        ("--job=x", "job-name"),
        ("--com=x", "comment"),
        ("--wai", "wait"),
        ("--pars", "parsable"),
        ("--test", "test-only"),
        ("--chd=x", "chdir"),
    ],
)
def test_an_abbreviation_of_an_executor_s_own_option_is_refused(word: str, name: str) -> None:
    with pytest.raises(TypeError, match=f"is or abbreviates --{name}"):
        render_options({"sbatch_args": [word]})


@pytest.mark.parametrize("word", ["--part=main", "--container-mounts=/x", "--wrapper=x", "--arrays=x"])
def test_what_abbreviates_none_of_them_is_passed_on(word: str) -> None:
    assert render_options({"sbatch_args": [word]}) == (word,)
