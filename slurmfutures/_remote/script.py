"""The batch script: a value in, text out.

Everything around the interpreter is done by bash's builtins, so that it costs an array task no extra process. The
claim is made before the interpreter starts: a missing interpreter is then a death with a record, like any other.
"""

import os
from shlex import quote
from typing import Mapping, Sequence

from . import modules, publish

_HEAD = """\
#!/bin/bash
{directives}# slurmfutures batch {batch}
sf_part={folder}/$1
sf_task=${{SLURM_ARRAY_TASK_ID:-0}}
sf_job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}
sf_run=${{SLURM_RESTART_COUNT:-0}}
sf_home=$PWD
sf_clock() {{ # bash 5 has microseconds, behind a point or a comma
    sf_now=${{EPOCHREALTIME:-}}
    [ -n "$sf_now" ] || printf -v sf_now '%(%s)T' -1
    sf_now=${{sf_now/,/.}}
}}
sf_clock
sf_start=$sf_now
if [ ! -d "$sf_part/r" ]; then
    echo "slurmfutures: $sf_part/r cannot be seen on node ${{SLURMD_NODENAME:-$HOSTNAME}}:" \\
        "is work_dir on a file system that the compute nodes share?" >&2
    exit 66
fi
# Where work_dir is not shared, somebody else may have made a folder of its name on this node.
for sf_path in {ours}; do
    if [ ! -O "$sf_path" ] || [ -L "$sf_path" ]; then
        echo "slurmfutures: $sf_path on node ${{SLURMD_NODENAME:-$HOSTNAME}} is not yours, or not there:" \
            "is work_dir on a file system that the compute nodes share?" >&2
        exit 66
    fi
done
cd "$sf_part/r" || exit 66
# Only one job may run these calls, however often a submission was repeated; a requeue is the same job.
set -C
if {{ exec 3>"$sf_task.c"; }} 2>/dev/null; then
    # Where there is no room for the words, the file still says that there is somebody.
    printf '%s %s %s\\n' "$sf_job" "$sf_run" "${{SLURMD_NODENAME:-$HOSTNAME}}" 2>/dev/null >&3
    exec 3>&-
elif [ ! -e "$sf_task.c" ]; then
    echo "slurmfutures: $sf_part/r cannot be written to on node ${{SLURMD_NODENAME:-$HOSTNAME}}" >&2
    exit {no_room}
else
    sf_owner=
    read -r sf_owner _ <"$sf_task.c"
    if [ "$sf_owner" != "$sf_job" ] && ! {{ [ -z "$sf_owner" ] && [ "$sf_run" -gt 0 ]; }}; then
        echo "slurmfutures: job ${{sf_owner:-another}} has these calls already, nothing to do" >&2
        exit 0
    fi
    if [ -e "$sf_task.r" ]; then
        echo "slurmfutures: an earlier run of this job has left all results, nothing to do" >&2
        exit 0
    fi
fi
set +C
sf_end() {{
    sf_code=$?
    trap - EXIT
    cd "$sf_part/r" || exit "$sf_code" # cancelled, and cleared away already
    if [ ! -e "$sf_task.r" ]; then
        sf_clock
        sf_name=$sf_task.$sf_run.x
        {ended}printf '%s %s %s %s %s %s %s\\n' "$sf_job" "$sf_run" "$sf_code" "${{SLURMD_NODENAME:-$HOSTNAME}}" \\
            "$sf_start" "$sf_now" "${{SLURM_JOB_NODELIST:-}}" >".$sf_task.x.$$" &&
            mv -f ".$sf_task.x.$$" "$sf_name"{unended}
    fi
    exit "$sf_code"
}}
# Slurm signals this process alone: the interpreter runs in the background, so that signals are passed on at once.
sf_pass() {{
    if [ -n "$sf_child" ]; then kill -s "$1" "$sf_child" 2>/dev/null; else exit "$2"; fi
}}
sf_child=
trap sf_end EXIT
trap 'sf_pass TERM 143' TERM
trap 'sf_pass INT 130' INT
trap 'sf_pass USR1 138' USR1
trap 'sf_pass USR2 140' USR2
"""

_CALLS = """\
cd {chdir} || exit 66
{setup}{not_here}export {variables}
sf_folder={folder}
{python} -u {start} {module} "$sf_folder" "$1" "$sf_task" "$sf_run" "$2" &
"""

_SCRIPT = """\
cd "$sf_home" || exit 66
# Where Slurm has this job's output is known here only.
for sf_log in 1.out 2.err; do
    [ -e "$sf_part/l/$sf_task${{sf_log#?}}" ] ||
        ln -sf "$(readlink "/proc/$$/fd/${{sf_log%%.*}}")" "$sf_part/l/$sf_task${{sf_log#?}}"
done
{environment}# What runs in the background has these ignored, and its input closed.
(trap - INT QUIT && exec {interpreter} {script}) <&0 &
"""

_TAIL = """\
sf_child=$!
while kill -0 "$sf_child" 2>/dev/null; do wait "$sf_child"; done # a signal ends the wait, not the interpreter
wait "$sf_child"
exit "$?"
"""


def render(
    *,
    batch: str,
    folder: str,
    chdir: str,
    setup: str,
    python: str,
    code: str,
    path: Sequence[str],
    shipped: str = "",
    module: str = "job",
) -> str:
    """Return the script of a batch of calls, or, by the `module` pilot, of pilots.

    It takes two arguments: the number of its part, and how array indices become tasks (`job.share`).
    `python` is a shell word or phrase, as the user gave it. `code` is the folder with our source, `path` what the
    driver searches for modules, and `shipped` the folder with the user's own code: see `modules`.
    """
    variables = modules.environment(path, shipped)
    calls = _CALLS.format(
        folder=quote(folder),
        chdir=quote(chdir),
        setup=setup.rstrip("\n") + "\n" if setup.strip() else "",
        variables=" ".join("%s=%s" % (name, quote(value)) for name, value in variables.items()),
        not_here=modules.NOT_HERE,
        python=python,
        start=quote(code + "/start.py"),
        module=module,
    )
    used = [os.path.dirname(code), code, "%s/%s" % (code, __package__), code + "/start.py"]
    return _head(batch, folder, used) + calls + _TAIL


def render_around(
    *,
    batch: str,
    folder: str,
    directives: Sequence[str],
    interpreter: Sequence[str],
    environment: Mapping[str, str],
    script: str,
) -> str:
    """Return the script around one of the user's own, whose `#SBATCH` lines are `directives`.

    `interpreter` are the words of its first line, `environment` is what it is to see there. It takes the same arguments
    as the other, and counts as having reached its end where its interpreter has ended by itself with exit code 0.
    """
    own = _SCRIPT.format(
        environment="".join("export %s=%s\n" % (name, quote(environment[name])) for name in environment),
        interpreter=" ".join(map(quote, interpreter)),
        script=quote(script),
    )
    reached = '[ "$sf_code" -ne 0 ] || sf_name=$sf_task.r\n        '
    return _head(batch, folder, [script], directives, reached, " || sf_code=%d" % publish.NO_ROOM) + own + _TAIL


def _head(
    batch: str, folder: str, used: Sequence[str], directives: Sequence[str] = (), ended: str = "", unended: str = ""
) -> str:
    """Return the beginning; `used` are files and folders, below others of ours, that are executed or imported."""
    batches = os.path.dirname(folder)
    ours = (os.path.dirname(batches) + "/.", batches, folder, *used)  # of all of them only work_dir may be a link
    return _HEAD.format(
        batch=batch,
        directives="".join(line + "\n" for line in directives),
        folder=quote(folder),
        ours=" ".join(map(quote, ours)) + ' "$sf_part/r"',
        no_room=publish.NO_ROOM,
        ended=ended,
        unended=unended,
    )
