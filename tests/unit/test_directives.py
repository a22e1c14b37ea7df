"""`#SBATCH` lines, read as sbatch reads them."""

import pytest

from slurmfutures._directives import read_directives


def options(*lines: str) -> dict[str, str]:
    return dict(read_directives("\n".join(["#!/bin/bash", *lines])).options)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("#SBATCH --mem=4G", {"mem": "4G"}),
        ("#SBATCH --mem 4G", {"mem": "4G"}),
        ("#SBATCH\t--mem=4G", {"mem": "4G"}),
        ("#SBATCH -p main -t10", {"partition": "main", "time": "10"}),
        ("#SBATCH -N2 -n 4 # as many", {"nodes": "2", "ntasks": "4"}),
        ("#SBATCH --job-name='a b' --comment=\"c d\"", {"job_name": "a b", "comment": "c d"}),
        ("#SBATCH --part=main", {"partition": "main"}),
        ("#SBATCH -a 1-9:2%4", {"array": "1-9:2%4"}),
        ("#SBATCH --exclusive --mem=0", {"exclusive": "", "mem": "0"}),
        ("#SBATCH --exclusive", {"exclusive": ""}),
        ("#SBATCH -H -J x", {"hold": "", "job_name": "x"}),
        ("#SBATCH --something-of-a-plugin=7", {"something_of_a_plugin": "7"}),
        ("##SBATCH --mem=4G", {}),
        ("# SBATCH --mem=4G", {}),
        ("#SBATCH--mem=4G", {"mem": "4G"}),
        ("#SBATCH -HQn4", {"hold": "", "quiet": "", "ntasks": "4"}),
        ("#SBATCH -Hn 4 -vv", {"hold": "", "ntasks": "4", "verbose": ""}),
        ("#SBATCH -kn4", {"no_kill": "n4"}),
        ("#SBATCH --comment='#' -n 4#5", {"comment": "#", "ntasks": "4"}),
        ("#SBATCH --outp=x", {"output": "x"}),
    ],
)
def test_a_line(line: str, found: dict[str, str]) -> None:
    assert options(line) == found


def test_the_last_word_counts() -> None:
    assert options("#SBATCH --mem=1G", "#SBATCH -t 5 --mem=2G") == {"mem": "2G", "time": "5"}


def test_they_end_at_the_first_command() -> None:
    text = "#!/bin/bash\n#SBATCH -n 1\n\n  # a comment\n  \n#SBATCH -N 1\nset -e # now\n#SBATCH --mem=1G\n"
    found = read_directives(text)
    assert found.lines == ("#SBATCH -n 1", "#SBATCH -N 1")
    assert found.late == ("#SBATCH --mem=1G",)
    assert found.options == {"ntasks": "1", "nodes": "1"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#!/bin/bash", ("/bin/bash",)),
        ("#! /bin/bash -l", ("/bin/bash", "-l")),
        ("#!/usr/bin/env  python3 -u ", ("/usr/bin/env", "python3 -u")),
    ],
)
def test_the_interpreter_is_taken_apart_as_the_kernel_does(line: str, words: tuple[str, ...]) -> None:
    assert read_directives(line + "\n").interpreter == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#SBATCH --array", "'' is no list of array indices"),
        ("#SBATCH -a 1-3:0", "'1-3:0' has no array index in '1-3:0'"),
        ("#SBATCH --wait", "'wait' cannot be set"),
        ("#SBATCH -M other", "'clusters' cannot be set"),
        ("#SBATCH --test-only", "'test_only' cannot be set"),
        ("#SBATCH--wait", "'wait' cannot be set"),
        ("#SBATCH --wai", "'wait' cannot be set"),
        ("#SBATCH --wa", "'wait' cannot be set"),
        ("#SBATCH --wra=true", "'wrap' cannot be set"),
        ("#SBATCH --test", "'test_only' cannot be set"),
        ("#SBATCH --clu=other", "'cluster' cannot be set"),
        ("#SBATCH -HW", "'wait' cannot be set"),
        ("#SBATCH -QMother", "'clusters' cannot be set"),
        ("#SBATCH -Hy", "-y in '-Hy' is not an option of sbatch"),
        ("#SBATCH -", "'-' is not an option"),
        ("#SBATCH -cpus-per-task=4", "long options begin with two dashes: --cpus-per-task=4"),
        ("#SBATCH mem=4G", "'mem=4G' is not an option"),
        ("#SBATCH --time=1h", "not a time in Slurm's format: '1h'"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(line: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        options("", line)
    assert f"line 3 of the script, {line!r}: " in str(caught.value)
    assert words in str(caught.value)
