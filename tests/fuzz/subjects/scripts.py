"""Batch scripts of users: their directives, and their arrays."""

from collections.abc import Sequence

from hypothesis import strategies as st

from slurmfutures import _directives
from slurmfutures._remote import arrays
from tests.fuzz.harness import Parser
from tests.fuzz.subjects.slurm import text

_SCRIPTS = [
    b"#!/bin/bash\n#SBATCH --time=01:00:00 --mem=4G\n#SBATCH -n 4 # tasks\n#SBATCH --array=0-9%2\nsrun true\n",
    b'#! /bin/sh -e\n# a comment\n\n#SBATCH -J "a name"\n#SBATCH --exclusive\necho\n#SBATCH --late\n',
]
_OPTIONS = (
    "--time=1 --time 1-2 -t5 --array=0-9 -a 1,2 --array=0-3999999 --array=1-2:0 -n4 --mem=1 --mem --wrap=x --par "
    "--out=x -W -H --exclusive --job-name='a b' "
    '-J "x --unknown=1 - -- --= -Wn -o %j # \u00b2 --time=\u0663 --time=99999999999999999999'
).split()


def _directives_of(said: str) -> object:
    return _directives.read_directives(said)


def _script(rows: Sequence[Sequence[str]]) -> bytes:
    return ("#!/bin/bash\n" + "".join(f"#SBATCH {' '.join(row)}\n" for row in rows)).encode()


PARSERS = (
    Parser(
        "_directives:read_directives",
        text(_directives_of),
        _SCRIPTS,
        (ValueError,),
        st.lists(st.lists(st.sampled_from(_OPTIONS), max_size=4), max_size=4).map(_script),
        repeated=[b"#SBATCH --mem=1\n", b"#SBATCH x\n", b" --mem=1", b"\\\n", b"#SBATCH -a 0-99999\n", b" -n 1"],
        tokens=[b"#SBATCH ", b"--array=", b"--time=", b"-"],
    ),
    Parser(
        "_remote.arrays:parse",
        text(arrays.parse),
        [b"0,5,7", b"1-10:3%2", b"0-9"],
        (ValueError,),
        repeated=[b"1,", b"0-99999,", b"1-", b"0-4000000:40,"],
        tokens=[b"0-4000000", b"%", b":", b"0-99999"],
        memory=64 << 20,
    ),
)
