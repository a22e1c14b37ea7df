"""Scripts of steps, rendered and run by bash."""

import os
import shlex
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmfutures import Script, Step, gpu_parallel
from slurmfutures._directives import read_directives
from slurmfutures.scripts import AnyStep
from tests.processes import lives
from tests.waiting import DEADLINE, until

VARIABLES = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
FOREVER = "sleep 1000"


def start(folder: Path, script: Script, *, env: Mapping[str, str] = VARIABLES) -> "subprocess.Popen[str]":
    path = folder / "script.sh"
    path.write_text(script.render(), errors="surrogateescape")
    path.chmod(0o755)
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        return subprocess.Popen(
            [str(path)], cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True
        )


def run(
    folder: Path, script: Script, *, code: int = 0, env: Mapping[str, str] = VARIABLES
) -> tuple[list[str], list[str]]:
    """Run a script, which ends with this code; return what it prints, and what is ours of its stderr."""
    assert start(folder, script, env=env).wait(DEADLINE) == code, (folder / "err").read_text()
    return (folder / "out").read_text().splitlines(), ours(folder)


def ours(folder: Path) -> list[str]:
    lines = (folder / "err").read_text().splitlines()
    return [line.removeprefix("slurmfutures: ") for line in lines if line.startswith("slurmfutures: ")]


@contextmanager
def started(folder: Path, script: Script, *, env: Mapping[str, str] = VARIABLES) -> "Iterator[subprocess.Popen[str]]":
    """A script that runs, and nothing of it afterwards."""
    process = start(folder, script, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(DEADLINE)


# What a script is made of


def test_header_stands_at_the_top() -> None:
    text = Script(["true"], header="\n  #SBATCH -p small\r\n\n\t#SBATCH --time 1:00 # short\n").render()
    assert text.startswith("#!/bin/bash\n#SBATCH -p small\n\n#SBATCH --time 1:00 # short\n")
    assert "\r" not in text


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("#SBATCH -partition=small", "partition"),
        ("#SBATCH -partition small", "two dashes"),
        ("#SBATCH -partiton=small", "write '--partiton=small'"),
        ("#SBATCH -p=small", "write '-p small'"),
        ("#SBATCH --array=3-1", "no array index"),
        ("#SBATCH partition=small", "begin with dashes"),
        ("#SBATCH \u2013partition=small", "begin with dashes"),
        ("# SBATCH --partition=small", "takes it for a comment"),
        ("#SBATCH--partition=small", "a blank behind '#SBATCH'"),
        ("#SBACTH --partition=small", "takes it for a comment"),
        ("#sbatch --partition=small", "takes it for a comment"),
        ("module load gcc", "belong into setup"),
    ],
)
def test_header_lines_that_sbatch_would_not_see_or_misread(line: str, remedy: str) -> None:
    with pytest.raises(ValueError) as caught:
        Script(["true"], header=f"#SBATCH --nodes=1\n{line}")
    assert line in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "steps", [["a", Step("b", checkpoint="done")], [gpu_parallel([["a"], [Step("b", checkpoint="done")]])]]
)
def test_tasks_of_an_array_share_no_checkpoint(steps: list[AnyStep]) -> None:
    Script(steps, header="#SBATCH --nodes=1")
    Script(["a", gpu_parallel(["b"])], header="#SBATCH --array=1-3")
    with pytest.raises(ValueError, match="the tasks of --array=1-3 would share checkpoint='done'"):
        Script(steps, header="#SBATCH --array=1-3")


@pytest.mark.parametrize(
    "line", ["#SBATCH -N1 -psmall", "##SBATCH -p=x", "# a comment", "#SBATCH", "#SBATCH --plugin=x", "#SBATCH -C a&b"]
)
def test_header_lines_that_are_right(line: str) -> None:
    assert line in Script(["true"], header=line).render()


@pytest.mark.parametrize(
    "shebang", ["#!/bin/sh", "#!/usr/bin/env python3", "#!/bin/bashful", "/bin/bash", "", "#!bash\nx"]
)
def test_a_shebang_of_something_else(shebang: str) -> None:
    with pytest.raises(ValueError, match="write '#!/bin/bash'"):
        Script(["true"], shebang=shebang)


@pytest.mark.parametrize("shebang", ["#!/bin/bash -l", "#! /bin/bash", "#!/usr/bin/env bash", "#!/bin/bash -eu"])
def test_shebangs_of_bash(shebang: str, tmp_path: Path) -> None:
    script = Script(["true", Step("false", exit_on_error=False), "echo end"], shebang=shebang)
    assert script.render().startswith(shebang + "\n")
    assert run(tmp_path, script)[0] == ["end"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Script([]), "needs a step"),
        (lambda: Script([""]), "is empty"),
        (lambda: Script([[]]), "is empty"),
        (lambda: Script(["a\0b"]), "NUL"),
        (lambda: Script([["a\0b"]]), "NUL"),
        (lambda: Step("true", cwd=""), "cwd=''"),
        (lambda: Step("true", checkpoint="a\0"), "checkpoint="),
        (lambda: Step("true", checkpoint="a/"), "is a folder"),
        (lambda: Script(["true"], setup="# here\n#SBATCH -p x\ntrue"), "put it into header"),
        (lambda: Script(["#!/bin/bash\n#SBATCH -p x\ntrue"]), "put it into header"),
        (lambda: gpu_parallel([]), "no groups"),
        (lambda: gpu_parallel([["true"], []]), "group 2"),
        (lambda: gpu_parallel([["true"]], devices=["0,1"]), "'0,1'"),
        (lambda: Script.split(["true"], 0), "jobs=0"),
    ],
)
def test_what_makes_no_script(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Script("true"), r"write \[step\]"),
        (lambda: Script(Step("true")), r"write \[step\]"),  # type: ignore[arg-type]
        (lambda: Script.split("true", 2), r"write \[step\]"),
        (lambda: Script([3]), "not int"),  # type: ignore[list-item]
        (lambda: Script([["echo", 3]]), r"write str\(3\)"),  # type: ignore[list-item]
        (lambda: Script(["true"], setup=["true"]), "setup must be text"),  # type: ignore[arg-type]
        (lambda: gpu_parallel([[gpu_parallel([["true"]])]]), "cannot be a step of"),  # type: ignore[list-item]
    ],
)
def test_what_has_the_wrong_type(make: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_a_script_does_not_change() -> None:
    words = ["echo", "a"]
    step, steps = Step(words), ["true"]
    script = Script(steps)
    words.append("b")
    steps.append("false")
    assert step == Step(["echo", "a"])
    assert script == Script(["true"])
    assert script.render() == script.render()
    with pytest.raises(FrozenInstanceError):
        script.setup = "x"  # type: ignore[misc]


# Commands


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "",
        "-n",
        "--",
        "it's",
        "$HOME",
        "`x`",
        "a\nb",
        "a\n#SBATCH x",
        "a\r\n",
        "\\",
        '"',
        "*",
        "~",
        "!",
        "#",
        "ä 漢",
        "$'\\n'",
    ]
)
TAKEN = ("", ".", "..", "~", "out", "err", "script.sh", "where")  # the last ones by the tests
NAMES = WORDS.map(lambda name: name.replace("/", "|")).filter(lambda name: name not in TAKEN)


@settings(max_examples=50)
@given(st.lists(WORDS, max_size=5))
def test_words_of_a_list_arrive_as_they_are(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), Script([["printf", "%s\\0", "", *words]]))
        assert (Path(name) / "out").read_bytes() == b"".join(word.encode() + b"\0" for word in ["", *words])


@settings(max_examples=25)
@given(cwd=NAMES, checkpoint=NAMES)
def test_names_of_folders_and_checkpoints(cwd: str, checkpoint: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / cwd).mkdir()
        script = Script([Step("pwd >>../where; false", cwd=cwd, checkpoint=checkpoint)])
        assert len(run(folder, script, code=1)[1]) == 1  # in one line
        good = Script([Step("pwd >>../where", cwd=cwd, checkpoint=checkpoint), Step("true", cwd=cwd)])
        run(folder, good)
        run(folder, good)
        assert (folder / "where").read_bytes() == f"{os.path.realpath(folder)}/{cwd}\n".encode() * 2
        assert os.listdir(folder / cwd) == [checkpoint]


@pytest.mark.parametrize("word", ["FOO=1", "if", "[[", "time", "!"])
def test_the_first_word_of_a_list_is_a_program(word: str, tmp_path: Path) -> None:
    program = tmp_path / word
    program.write_text('#!/bin/bash\necho "$0 $1"\n')
    program.chmod(0o755)
    out, _ = run(tmp_path, Script([[word, "x"]]), env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert out == [f"{program} x"]


@pytest.mark.parametrize(
    "text",
    [
        "echo a # comment",
        "echo a \\",
        "echo a;",
        "echo a\n\n# comment",
        "cat <<E\na\nE",
        "cat <<E\na\n",
        "echo a &&\n  true",
        "{ echo a; }",
        "-x 2>/dev/null; echo a",
        "echo a\r\ntrue\r\n",
        "# comment\necho a",
        "cat <<E | tail -n 1\n#SBATCH x\na\nE",
        "case x in x) echo a ;; esac",
    ],
)
def test_text_stays_in_its_step(text: str, tmp_path: Path) -> None:
    script = Script([text, Step(text, exit_on_error=False), "echo b"], setup=text, teardown=text)
    assert run(tmp_path, script)[0] == ["a", "a", "a", "b", "a"]
    assert not read_directives(script.render()).late


@pytest.mark.parametrize("text", ["echo 'a", 'echo "a', "echo a)", "if true; then", "}", "echo $(", "done"])
def test_text_that_is_no_bash_fails_its_own_step(text: str, tmp_path: Path) -> None:
    out, said = run(tmp_path, Script([Step(text, exit_on_error=False), "echo b"], teardown="echo c"))
    assert out == ["b", "c"]
    assert len(said) == 1
    assert said[0].startswith("step 1 of 2 (")
    assert start(tmp_path, Script([text, "echo b"])).wait(DEADLINE) != 0
    assert ours(tmp_path)[0].startswith(f"step 1 of 2 ({text}) failed with exit code")


def test_steps_share_their_shell_but_not_their_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script = Script(
        [
            "export a=1; declare -A map=([k]=v); f() { echo f; }; cd /",
            Step("echo $a ${map[k]} $(f) ${PWD##*/} $1; b=2", cwd="sub"),
            Step("pwd", cwd=tmp_path / "sub"),
            'echo $b "${PWD##*/}"; cd sub',
        ],
        setup="set -- one; CDPATH=/tmp; cd() { builtin cd /; }",
    )
    assert run(tmp_path, script)[0] == ["1 v f sub one", str(tmp_path / "sub"), f"2 {tmp_path.name}"]


def test_steps_begin_where_setup_has_gone(tmp_path: Path) -> None:
    script = Script([Step("pwd", checkpoint="x"), Step("pwd", cwd="..")], setup="mkdir sub; cd sub", teardown="pwd")
    assert run(tmp_path, script)[0] == [f"{tmp_path}/sub", str(tmp_path), f"{tmp_path}/sub"]
    assert (tmp_path / "sub/x").exists()


def test_steps_read_what_the_script_is_given(tmp_path: Path) -> None:
    """By #SBATCH --input, which is nothing otherwise; groups for GPUs have no share in it."""
    path = tmp_path / "script.sh"
    path.write_text(Script(["read -r x; echo $x", gpu_parallel(["cat"], devices=[0]), "cat"]).render())
    done = subprocess.run(
        ["bash", str(path)], input="a\nb\n", env=VARIABLES, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a\nb\n"
    done = subprocess.run(
        ["bash", "-c", f"bash {path} <&-"], env=VARIABLES, capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("slurmfutures: step 3 of 3 (cat) failed with exit code 1\n")


def test_a_folder_of_the_users_home(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    script = Script([Step("pwd", cwd="~"), Step("pwd", cwd="~/a b")])
    assert run(tmp_path, script, env={**VARIABLES, "HOME": str(tmp_path)})[0] == [str(tmp_path), f"{tmp_path}/a b"]


# Failures


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("(exit 7)", 7, "failed with exit code 7"),
        ("exit 3", 3, "failed with exit code 3"),
        ("return 4", None, None),
        ("set -e; (exit 5); echo never", 5, "failed with exit code 5"),
        ("set -u; echo $nothing; echo never", None, None),
        ("set -o pipefail; false | cat", 1, "failed with exit code 1"),
        ("bash -c 'kill -KILL $$'", 137, "failed with exit code 137 (signal KILL)"),
        ("(exit 255)", 255, "failed with exit code 255"),
        ("exit 0", 1, "ended the script by exit 0 before its end: put the step's command into parentheses"),
        ("trap 'echo user' EXIT; exit 9", 9, "failed with exit code 9"),
    ],
)
def test_a_step_that_fails_ends_the_script(text: str, code: int | None, words: str | None, tmp_path: Path) -> None:
    script = Script(["true", Step(text, checkpoint="mark"), "echo never"], teardown="echo teardown; false")
    process = start(tmp_path, script)
    if code is None:
        assert process.wait(DEADLINE) != 0
    else:
        assert process.wait(DEADLINE) == code
    out = (tmp_path / "out").read_text().split()
    assert out[-1] == "teardown"
    assert "never" not in out
    first, second = ours(tmp_path)
    assert first.startswith("step 2 of 3 (mark) ")
    assert words is None or first == f"step 2 of 3 (mark) {words}"
    assert second == "teardown failed with exit code 1"
    assert not (tmp_path / "mark").exists()


def test_exec_is_noticed(tmp_path: Path) -> None:
    _, said = run(tmp_path, Script(["exec true", "echo never"]), code=1)
    assert said == ["the shell of the steps was killed, or replaced by exec: what was to follow has not run"]
    run(tmp_path, Script(["kill -KILL $BASHPID"]), code=137)


def test_an_exit_that_skips_nothing_is_a_success(tmp_path: Path) -> None:
    script = Script(["echo a", Step("echo b; cd /; exit 0; echo c", checkpoint="mark")], teardown="echo d")
    assert run(tmp_path, script) == (["a", "b", "d"], [])
    assert (tmp_path / "mark").exists()


def test_a_step_is_named_by_its_command_in_one_short_line(tmp_path: Path) -> None:
    long = "word " * 50
    steps: list[Any] = ["# why\n\nfalse &&\n  true", ["false", "a b"], f"false {long}"]
    for step in steps:
        steps[steps.index(step)] = Step(step, exit_on_error=False)
    (tmp_path / "sub").mkdir()
    _, said = run(tmp_path, Script([*steps, Step("false", cwd="sub", exit_on_error=False)]))
    names = [line.partition(" failed with exit code 1, the script goes on")[0] for line in said]
    assert names == [
        "step 1 of 4 (false &&)",
        "step 2 of 4 (false 'a b')",
        f"step 3 of 4 (false {long[:51]}...)",
        "step 4 of 4 (false in sub)",
    ]


@pytest.mark.parametrize("text", ["(exit 7)", "exit 7", "set -e; (exit 7); echo never"])
@pytest.mark.parametrize("setup", ["", "set -euo pipefail"])
def test_a_step_that_may_fail(text: str, setup: str, tmp_path: Path) -> None:
    steps = [Step(text, checkpoint="mark", exit_on_error=False), Step("true", checkpoint="good", exit_on_error=False)]
    out, said = run(tmp_path, Script([*steps, "echo on $-"], setup=setup))
    assert said == ["step 1 of 3 (mark) failed with exit code 7, the script goes on"]
    assert out[-1].startswith("on ")
    assert ("e" in out[-1].split()[1]) == bool(setup)  # as it was before
    assert not (tmp_path / "mark").exists()
    assert (tmp_path / "good").exists()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    steps = [Step("echo never", cwd="no 'where", exit_on_error=False), Step("echo never", cwd="nowhere")]
    out, said = run(tmp_path, Script(steps, teardown="echo end"), code=66)
    assert out == ["end"]
    assert said == [
        "step 1 of 2 (echo never in no 'where) failed: its folder ./no 'where cannot be entered, the script goes on",
        "step 2 of 2 (echo never in nowhere) failed: its folder ./nowhere cannot be entered",
    ]


@pytest.mark.parametrize(("setup", "code"), [("echo a; (exit 4)", 4), ("set -e; (exit 4); true", 4), ("exit 0", 1)])
def test_setup_that_fails(setup: str, code: int, tmp_path: Path) -> None:
    out, said = run(tmp_path, Script(["echo never"], setup=setup, teardown="echo end"), code=code)
    assert out[-1] == "end"
    assert "never" not in out
    assert len(said) == 1
    assert said[0].startswith("setup ")


@pytest.mark.parametrize(
    "setup",
    [
        "set -euo pipefail",
        "set -euC; set -f; IFS=sf_; umask 022",
        "shopt -s nullglob failglob extglob; set -o posix; set -x",
        "set -aE; trap 'echo err >&2' ERR; trap : DEBUG",
        "unset HOME; PATH=$PATH:; local_=1; sf_x=2; set -T",
    ],
)
def test_options_of_the_users_change_nothing_around_steps(setup: str, tmp_path: Path) -> None:
    groups = gpu_parallel([["echo g"], [Step("echo g", checkpoint="m/3")]], devices=[0])
    steps: list[Any] = [
        Step("echo a", checkpoint="m/1"),
        groups,
        Step("(exit 3)", exit_on_error=False),
        Step("(exit 2)", checkpoint="m/2"),
    ]
    out, said = run(tmp_path, Script(steps, setup=setup, teardown="echo end"), code=2)
    assert out == ["a", "g", "g", "end"]
    assert said == [
        "step 3 of 4 ((exit 3)) failed with exit code 3, the script goes on",
        "step 4 of 4 (m/2) failed with exit code 2",
    ]
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "3"]


def test_a_bash_that_is_told_to_be_posix(tmp_path: Path) -> None:
    script = Script([gpu_parallel(["echo a"], devices=[0]), "exit 3"], setup="trap 'echo b' EXIT", teardown="echo c")
    assert run(tmp_path, script, code=3, env={**VARIABLES, "POSIXLY_CORRECT": "1"})[0] == ["a", "b", "c"]


# Checkpoints


def test_a_step_with_a_checkpoint_runs_until_it_succeeds(tmp_path: Path) -> None:
    script = Script(["echo a", Step("echo b >>log; [ -e go ]", checkpoint="deep/er/mark"), "echo c"])
    assert run(tmp_path, script, code=1)[0] == ["a"]
    assert not (tmp_path / "deep/er/mark").exists()
    (tmp_path / "go").touch()
    assert run(tmp_path, script)[0] == ["a", "c"]
    assert run(tmp_path, script)[0] == ["a", "c"]
    assert (tmp_path / "log").read_text().split() == ["b", "b"]
    assert (tmp_path / "deep/er/mark").read_bytes() == b""


def test_a_checkpoint_lies_in_the_folder_of_its_step(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    steps = [Step("cd /", cwd="sub", checkpoint="mark"), Step("cd /", checkpoint=tmp_path / "absolute")]
    run(tmp_path, Script(steps))
    assert (tmp_path / "sub/mark").exists()
    assert (tmp_path / "absolute").exists()


def test_a_checkpoint_that_cannot_be_made_is_told_before_the_step(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    steps = [Step("echo never", checkpoint=name, exit_on_error=False) for name in ("folder", "file/mark")]
    out, said = run(tmp_path, Script([*steps, Step("echo never", checkpoint="folder")]), code=73)
    assert out == []
    assert said[0] == "step 1 of 3 (folder) failed: its checkpoint ./folder cannot be made, the script goes on"
    assert said[2] == "step 3 of 3 (folder) failed: its checkpoint ./folder cannot be made"


def test_a_checkpoint_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    steps = [Step("mkdir mark", checkpoint="mark", exit_on_error=False), Step("mkdir 2", checkpoint="2")]
    _, said = run(tmp_path, Script(steps), code=73)
    assert said == [
        "step 1 of 2 (mark) failed: its checkpoint cannot be written, the script goes on",
        "step 2 of 2 (2) failed: its checkpoint cannot be written",
    ]


# The end


def test_teardown_has_the_shell_that_steps_left(tmp_path: Path) -> None:
    script = Script(["b=2; cd /"], setup="a=1", teardown="echo $a $b ${PWD##*/}")
    assert run(tmp_path, script)[0] == [f"1 2 {tmp_path.name}"]


@pytest.mark.parametrize("teardown", ["(exit 6)", "exit 6", "set -e; (exit 6); true", "return 6"])
def test_a_teardown_that_fails(teardown: str, tmp_path: Path) -> None:
    assert run(tmp_path, Script(["true"], teardown=teardown), code=6)[1] == ["teardown failed with exit code 6"]
    assert run(tmp_path, Script(["exit 2"], teardown=teardown), code=2)[1] == [
        "step 1 of 1 (exit 2) failed with exit code 2",
        "teardown failed with exit code 6",
    ]


@pytest.mark.parametrize("last", ["true", "(exit 3)", "exit 3"])
def test_traps_of_the_users(last: str, tmp_path: Path) -> None:
    setup = "trap 'echo first' EXIT; (trap 'echo inner' EXIT; true); trap -- 'echo user $? $x' EXIT INT"
    steps = ["x=1; trap - TERM", f"f() {{ trap 'echo other' 0; trap - 0; }}; (f); {last}"]
    out, _ = run(tmp_path, Script(steps, setup=setup, teardown="echo teardown"), code=0 if last == "true" else 3)
    assert out == ["inner", f"user {0 if last == 'true' else 3} 1", "teardown"]
    out, _ = run(tmp_path, Script(["trap - EXIT"], setup=setup))
    assert out == ["inner"]


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "setup", ["", "set -eu; trap - TERM INT HUP; trap 'echo user' EXIT", f"{FOREVER} & echo $! >background"]
)
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_signal_ends_the_running_command_and_then_the_script(
    number: signal.Signals, setup: str, tolerant: bool, tmp_path: Path
) -> None:
    step = Step(
        f"echo $BASHPID >pid; bash -c 'echo $$ >at; exec {FOREVER}'", checkpoint="mark", exit_on_error=not tolerant
    )
    script = Script([step, "echo never"], setup=setup, teardown="cat at; sleep 0; echo end")
    with started(tmp_path, script) as process:
        until(lambda: (tmp_path / "at").exists() and (tmp_path / "at").read_text())
        process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number
        command = int((tmp_path / "at").read_text())
        assert not lives(command)
        if "background" in setup:
            assert not lives(int((tmp_path / "background").read_text()))
    assert (tmp_path / "out").read_text().split()[-2:] == [str(command), "end"]
    assert ours(tmp_path) == [f"step 1 of 2 (mark) was ended by signal {number.name[3:]}"]
    assert not (tmp_path / "mark").exists()


def test_a_command_that_stops_in_good_order_has_not_succeeded(tmp_path: Path) -> None:
    program = "trap 'echo saved; exit 0' TERM; echo >at; while :; do read -t 1 <>fifo; done"
    os.mkfifo(tmp_path / "fifo")
    script = Script([Step(["bash", "-c", program], checkpoint="mark"), "echo never"], teardown="echo end")
    with started(tmp_path, script) as process:
        until((tmp_path / "at").exists)
        process.terminate()
        assert process.wait(DEADLINE) == 143
    assert (tmp_path / "out").read_text().split() == ["saved", "end"]
    assert not (tmp_path / "mark").exists()


def test_a_second_signal_does_not_disturb_the_teardown(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = Script([f"echo >at; {FOREVER}"], teardown="echo >down; read -r x <fifo; echo $x")
    with started(tmp_path, script) as process:
        until((tmp_path / "at").exists)
        process.terminate()
        until((tmp_path / "down").exists)
        for number in SIGNALS:
            process.send_signal(number)
        (tmp_path / "fifo").write_text("word\n")
        assert process.wait(DEADLINE) == 143
    assert (tmp_path / "out").read_text().split() == ["word"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_other_signals_go_to_the_running_command(number: signal.Signals, tmp_path: Path) -> None:
    program = f"trap 'echo got; exit 0' {number.name}; echo >at; while :; do read -t 1 <>fifo; done"
    os.mkfifo(tmp_path / "fifo")
    setup = f"trap 'echo user' {number.name}; trap - {number.name}"
    with started(tmp_path, Script([["bash", "-c", program], "echo on"], setup=setup)) as process:
        until((tmp_path / "at").exists)
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0
    assert (tmp_path / "out").read_text().split() == ["got", "on"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_the_user_has_a_trap_for_is_the_trap_s(number: signal.Signals, tmp_path: Path) -> None:
    """As where Slurm warns the shell of the time limit (--signal=B:USR1@60), and the command knows nothing of it."""
    step = f"{FOREVER} & echo >at; wait; kill $! && echo lives"
    script = Script([step, "echo on"], setup=f"trap 'echo user' USR1 SIGUSR2; trap 'echo user' {number.name}")
    with started(tmp_path, script) as process:
        until((tmp_path / "at").exists)
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0
    assert (tmp_path / "out").read_text().split() == ["user", "lives", "on"]


def test_a_script_that_was_killed_goes_on_with_the_step_that_it_was_in(tmp_path: Path) -> None:
    script = Script(
        [
            Step("echo 1 >>log", checkpoint="1"),
            Step(f"echo 2 >>log; [ -e go ] || {{ ps -o pgid= $BASHPID >group; {FOREVER}; }}", checkpoint="2"),
            Step("echo 3 >>log", checkpoint="3"),
        ]
    )
    process = start(tmp_path, script)
    until(lambda: (tmp_path / "group").exists() and (tmp_path / "group").read_text().endswith("\n"))
    process.kill()
    process.wait()
    os.killpg(int((tmp_path / "group").read_text()), signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["1"]
    (tmp_path / "go").touch()
    run(tmp_path, script)
    assert (tmp_path / "log").read_text().split() == ["1", "2", "2", "3"]


# GPUs


def test_each_group_has_a_gpu_for_itself(tmp_path: Path) -> None:
    use = "mkdir $CUDA_VISIBLE_DEVICES || echo shared; echo $name $CUDA_VISIBLE_DEVICES; rmdir $CUDA_VISIBLE_DEVICES"
    groups = [[f"name={number}", use, "cd /", "pwd >/dev/null; " + use] for number in range(5)]
    out, said = run(tmp_path, Script([gpu_parallel(groups, devices=[3, "GPU-8a/1"]), "echo end"], setup="mkdir GPU-8a"))
    assert said == []
    assert out[-1] == "end"
    seen = [line.split() for line in out[:-1]]
    assert sorted(name for name, _ in seen) == [str(number) for number in range(5) for _ in range(2)]
    assert {gpu for _, gpu in seen} == {"3", "GPU-8a/1"}
    assert len({(name, gpu) for name, gpu in seen}) == 5


def test_a_free_gpu_takes_the_next_group(tmp_path: Path) -> None:
    for name in ("first", "second"):
        os.mkfifo(tmp_path / name)
    # The first group runs until all the others have run, one of them beside it.
    groups = [
        "read -r x <first; read -r x <second; echo 1",
        "echo 2 >first; echo 2",
        "echo 3",
        "echo 4 >second; echo 4",
    ]
    out, _ = run(tmp_path, Script([gpu_parallel(groups, devices=[0, 1])]))
    assert sorted(out) == ["1", "2", "3", "4"]


def test_all_groups_that_fail_are_told(tmp_path: Path) -> None:
    groups: list[Any] = [
        ["true", Step("exit 5", checkpoint="never"), "echo never"],
        [Step("echo a >>log", checkpoint="a"), Step("false", exit_on_error=False), Step("[ -e go ]", checkpoint="b")],
        "kill -KILL $BASHPID",
        "echo c; exit 0",
        [Step("true", cwd="nowhere")],
    ]
    script = Script([gpu_parallel(groups, devices=[7]), "echo never"], teardown="echo end")
    out, said = run(tmp_path, script, code=5)
    assert out == ["c", "end"]
    assert said == [
        "group 1 of 5 on GPU 7, step 2 of 3 (never) failed with exit code 5",
        "group 2 of 5 on GPU 7, step 2 of 3 (false) failed with exit code 1, the script goes on",
        "group 2 of 5 on GPU 7, step 3 of 3 (b) failed with exit code 1",
        "group 5 of 5 on GPU 7, step 1 of 1 (true in nowhere) failed: its folder ./nowhere cannot be entered",
        "of 5 groups failed: 1, 2, 3, 5",
        "step 1 of 2 (groups for GPUs: 5) failed with exit code 5",
    ]
    (tmp_path / "go").touch()
    run(tmp_path, script, code=5)
    assert (tmp_path / "log").read_text() == "a\n"
    assert (tmp_path / "b").exists()
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2, 5"}, {"CUDA 2", "CUDA 5"}),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a/1/0,-1,4"}, {"CUDA MIG-a/1/0"}),
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, {"ROCR 1", "ROCR 2"}),
        ({"HIP_VISIBLE_DEVICES": "3"}, {"HIP 3"}),
        ({"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1", "GPU_DEVICE_ORDINAL": "1"}, {"CUDA 1"}),
        ({"SLURM_GPUS_ON_NODE": "2", "SLURM_STEP_GPUS": "6,7"}, {"CUDA 0", "CUDA 1"}),
        ({"SLURM_STEP_GPUS": "6,7"}, {"CUDA 6", "CUDA 7"}),
    ],
)
def test_gpus_of_the_job(variables: dict[str, str], seen: set[str], tmp_path: Path) -> None:
    if os.path.exists("/dev/kfd"):
        pytest.skip("a machine with AMD's GPUs, which decide by being there")
    show = " ".join(f"${{{name}_VISIBLE_DEVICES+{name} ${name}_VISIBLE_DEVICES}}" for name in ("CUDA", "ROCR", "HIP"))
    step = f"echo {show} $GPU_DEVICE_ORDINAL"
    if len(seen) == 2:  # each waits for the other one
        os.mkfifo(tmp_path / "fifo")
        groups = [f"{step}; read -r x <fifo", f"{step}; echo >fifo"]
    else:
        groups = [step, step]
    out, _ = run(tmp_path, Script([gpu_parallel(groups)]), env={**VARIABLES, **variables})
    assert len(out) == 2
    assert set(out) == seen


@pytest.mark.parametrize(
    "variables",
    [{}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {"SLURM_GPUS_ON_NODE": "0"}],
)
def test_no_gpu(variables: dict[str, str], tmp_path: Path) -> None:
    script = Script([gpu_parallel(["echo never"])], setup="set -u", teardown="echo end")
    out, said = run(tmp_path, script, code=69, env={**VARIABLES, **variables})
    assert out == ["end"]
    assert said[0].startswith("no GPU can be seen: ask for some in the header")
    assert said[1] == "step 1 of 1 (groups for GPUs: 1) failed with exit code 69"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_reaches_all_groups(number: signal.Signals, tmp_path: Path) -> None:
    groups = [f"bash -c 'echo $$ >at{group}; exec {FOREVER}'" for group in range(3)]
    script = Script([gpu_parallel(groups, devices=[0, 1]), "echo never"], teardown="echo end")
    with started(tmp_path, script) as process:
        places = [tmp_path / "at0", tmp_path / "at1"]
        until(lambda: all(place.exists() and place.read_text() for place in places))
        process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number
        assert not any(lives(int(place.read_text())) for place in places)
    assert not (tmp_path / "at2").exists()
    assert (tmp_path / "out").read_text().split() == ["end"]
    assert ours(tmp_path)[-1] == f"step 1 of 2 (groups for GPUs: 3) was ended by signal {number.name[3:]}"


def test_scripts_leave_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    script = Script(["true", gpu_parallel(["true", "true"], devices=[0, 1])], setup="true", teardown="true")
    run(tmp_path, script, env={**VARIABLES, "TMPDIR": str(temporary)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "out", "script.sh", "tmp"]
    assert not list(temporary.iterdir())
    assert stat.S_ISREG((tmp_path / "out").stat().st_mode)


# Many steps in few jobs


@pytest.mark.parametrize(
    ("steps", "jobs", "sizes"),
    [(7, 3, [2, 2, 3]), (2, 5, [1, 1]), (6, 1, [6]), (6, 6, [1] * 6), (0, 3, []), (10, 4, [2, 3, 2, 3])],
)
def test_split(steps: int, jobs: int, sizes: list[int]) -> None:
    commands = (f"echo {number}" for number in range(steps))
    scripts = Script.split(commands, jobs, header="#SBATCH -N1", setup="a=1", teardown="true", shebang="#!/bin/bash -l")
    assert [len(script.steps) for script in scripts] == sizes
    assert [step for script in scripts for step in script.steps] == [Step(f"echo {number}") for number in range(steps)]
    for script in scripts:
        assert script == Script(script.steps, "#SBATCH -N1", "a=1", "true", "#!/bin/bash -l")


def test_a_script_of_many_steps_is_one_that_bash_takes(tmp_path: Path) -> None:
    script = Script([Step(["echo", str(number)], checkpoint=f"done/{number}") for number in range(1000)])
    assert run(tmp_path, script)[0] == [str(number) for number in range(1000)]
    assert len(script.render()) < 200_000
    assert shlex.quote("") in script.render()
