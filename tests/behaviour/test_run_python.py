"""Python scripts on the login node."""

import subprocess
import sys
from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor
from tests.fix_executors import Opener

ECHO = "import os, sys\nprint(*sys.argv[1:], os.getcwd(), os.environ.get('NAME'), sys.stdin.read(), sep='|', end='')\n"


@pytest.fixture(scope="module", params=["local", pytest.param("paramiko", marks=pytest.mark.ssh)])
def root(request: pytest.FixtureRequest, module_opener: Opener) -> SlurmExecutor:
    return module_opener.root(request.param)


def left(root: SlurmExecutor) -> list[str]:
    """Return the scripts that lie in work_dir."""
    return [str(path) for path in Path(root._connection.greeting["work_dir"]).glob("login/*/run-*")]


def test_a_text_is_run_with_arguments_and_stdin(root: SlurmExecutor, weird_tmp_path: Path) -> None:
    words = ["a b", "$HOME", "'", "", "-c", "ä\n"]
    done = root.run_python(ECHO, words, cwd=weird_tmp_path, env={"NAME": "value"}, input="given")
    assert done.stdout == "|".join([*words, str(weird_tmp_path), "value", "given"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.args[1:] == ["script.py", *words]
    assert root.run_python("print(7)").stdout == "7\n"
    assert (
        root.run_python("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", input=b"\xff").stdout == b"\xff"
    )


def test_a_file_of_this_machine_is_run(root: SlurmExecutor, weird_tmp_path: Path) -> None:
    path = weird_tmp_path / "my script.py"
    path.write_bytes("# coding: latin-1\nimport sys\nprint(ascii('ä'), sys.argv[1])\n".encode("latin-1"))
    assert root.run_python(path, [path.parent]).stdout == f"'\\xe4' {path.parent}\n"
    assert root.run_python(str(path), ["x"]).stdout == "'\\xe4' x\n"
    with pytest.raises(FileNotFoundError):
        root.run_python("missing.py")


def test_a_file_over_there_is_run_where_it_is(root: SlurmExecutor, weird_tmp_path: Path) -> None:
    (weird_tmp_path / "helper.py").write_text("word = 'found'\n")
    script = root.path(weird_tmp_path / "script.py")
    script.write_text("import helper, sys\nprint(helper.word, __file__, sys.argv[1])\n")
    assert root.run_python(script, [script.parent]).stdout == f"found {script} {weird_tmp_path}\n"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        root.run_python(script.with_name("missing.py"))
    assert "missing.py" in caught.value.stderr


def test_it_is_the_executor_s_python(opener: Opener, tmp_path: Path) -> None:
    """A phrase of shell, behind what setup has made of the environment."""
    python = f"{sys.executable} -X utf8 -W error"
    executor = opener.root("local", python=python, setup="export MADE_BY=setup", work_dir=str(tmp_path / "work"))
    text = "import os, sys\nprint(sys.executable, sys.warnoptions, os.environ['MADE_BY'])"
    assert executor.run_python(text).stdout == f"{sys.executable} ['error'] setup\n"


def test_an_exception_tells_file_and_line(root: SlurmExecutor, tmp_path: Path) -> None:
    path = tmp_path / "prepare.py"
    path.write_text("def prepare():\n    raise KeyError('nothing there')\n\n\nprepare()\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        root.run_python(path)
    assert caught.value.returncode == 1
    for words in ('prepare.py", line 5, in <module>', "    raise KeyError('nothing there')\n", "KeyError: 'nothing"):
        assert words in caught.value.stderr
    done = root.run_python("import sys\nsys.exit(3)", check=False)
    assert done.returncode == 3
    assert 'script.py", line 1' in root.run_python("x = = 1", check=False).stderr
    assert left(root) == []


def test_large_scripts_arguments_and_output(root: SlurmExecutor) -> None:
    size = 3 << 20
    text = f"import sys\ntext = '{'x' * size}'\nprint(text, end='')\nprint(text[1:], end='', file=sys.stderr)\n"
    done = root.run_python(text, ["y" * 100_000], input="z" * size)
    assert done.stdout == "x" * size
    assert done.stderr == "x" * (size - 1)


def test_what_takes_too_long_or_is_not_wanted_is_ended(root: SlurmExecutor, tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        root.run_python("import time\nprint('begun', flush=True)\ntime.sleep(60)", timeout=1)
    assert str(caught.value.stdout) == "begun\n"
    assert left(root) == []


def test_what_cannot_be_started_is_an_error(root: SlurmExecutor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        root.run_python("pass\n", cwd=tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(OSError, match="Argument list too long"):
        root.run_python("pass\n", ["x" * (1 << 20)])
    with pytest.raises(ValueError, match="null"):
        root.run_python("pass\n", ["\0"])
    with pytest.raises(TypeError):
        root.run_python("pass\n", [3])  # type: ignore[list-item]
    assert left(root) == []
