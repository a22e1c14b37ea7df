"""The batch script, run by bash with something else in the interpreter's place."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

import pytest

from slurmfutures._remote import script, spool, watch
from tests.waiting import DEADLINE, until

NODE = "node7"


class Batch:
    """A batch's folder with one part, and its script, whose "interpreter" is any line of bash."""

    def __init__(self, work_dir: Path) -> None:
        self.folder = spool.Batch(str(work_dir), "0123456789ab")
        self.part = self.folder.part(3)
        self.part.create()
        self.place = work_dir / "the driver's $PWD"
        self.place.mkdir()
        self.saw = work_dir / "saw"
        self.code = work_dir / "code/its'"
        (self.code / script.__package__).mkdir(parents=True)
        (self.code / "start.py").touch()

    def command(self, python: str, *, setup: str = "", chdir: str | None = None) -> list[str]:
        """Write the script and return the words that run it."""
        text = script.render(
            batch="0123456789ab",
            folder=self.folder.path,
            chdir=str(self.place) if chdir is None else chdir,
            setup=setup,
            python=python,
            code=str(self.code),
            path=["/one two", "/it's $three"],
        )
        path = Path(self.folder.path) / "script.sh"
        path.write_text(text)
        return ["/bin/bash", str(path), "3", "map"]

    def run(
        self, python: str, *, setup: str = "", chdir: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return self.start(self.command(python, setup=setup, chdir=chdir), **variables)

    def start(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a job's shell."""
        return subprocess.run(
            command,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def interpreter(self, text: str) -> str:
        """Make a program of these lines of bash and return the word that starts it."""
        path = self.saw.with_name("interpreter")
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return quote(str(path))

    def names(self) -> list[str]:
        return sorted(self.part.published())

    def end(self, name: str) -> watch.End | None:
        """Return how a run ended, without the times."""
        parsed = spool.parse_name(name)
        assert parsed is not None
        record = self.part.read(name)
        assert record is not None
        end = watch.parse_end(record, parsed.run)
        assert end is not None
        assert end.start is not None
        assert end.end is not None
        assert abs(time.time() - end.end) < DEADLINE
        assert end.start <= end.end
        return end._replace(start=None, end=None)


def environment(**variables: str) -> dict[str, str]:
    given = {"SLURM_JOB_ID": "70", "SLURMD_NODENAME": NODE, "PATH": os.environ["PATH"]}
    return {**given, **variables}


@pytest.fixture
def batch(weird_tmp_path: Path) -> Batch:
    return Batch(weird_tmp_path)


@pytest.fixture
def looker(batch: Batch) -> str:
    """An interpreter that writes down what it is given and where it is."""
    results = quote(batch.part.results)
    return batch.interpreter(
        f'printf "%s\\0" "$PWD" "$SLURMFUTURES_PATH" "$@" > {quote(str(batch.saw))}; touch {results}/7.r {results}/0.r'
    )


def test_all_words_survive_whatever_is_in_the_paths(batch: Batch, looker: str) -> None:
    done = batch.run(looker, SLURM_ARRAY_JOB_ID="69", SLURM_ARRAY_TASK_ID="7", SLURM_RESTART_COUNT="2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    saw = batch.saw.read_text().split("\0")
    assert saw[:3] == [str(batch.place), "/one two\n/it's $three", "-u"]
    assert saw[3:] == [f"{batch.code}/start.py", "job", batch.folder.path, "3", "7", "2", "map", ""]


def test_a_plain_job_is_task_0_of_run_0(batch: Batch, looker: str) -> None:
    batch.run(looker)
    assert batch.saw.read_text().split("\0")[7:9] == ["0", "0"]
    assert batch.part.read("0.c") == f"70 0 {NODE}\n".encode()


def test_a_job_that_leaves_a_result_leaves_no_end(batch: Batch, looker: str) -> None:
    batch.run(looker, SLURM_ARRAY_JOB_ID="69", SLURM_ARRAY_TASK_ID="7")
    assert "7.c" in batch.names()
    assert not [name for name in batch.names() if name.endswith(".x")]


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_a_job_without_a_result_says_how_it_ended(batch: Batch, code: int) -> None:
    done = batch.run(f"bash -c 'exit {code}'", SLURM_RESTART_COUNT="2")
    assert done.returncode == code
    assert batch.names() == ["0.2.x", "0.c"]
    assert batch.end("0.2.x") == watch.End(2, code, NODE)


def test_an_interpreter_that_is_killed_is_told_by_its_signal(batch: Batch) -> None:
    assert batch.run("bash -c 'kill -SEGV $$'").returncode == 128 + signal.SIGSEGV
    assert batch.end("0.0.x") == watch.End(0, 128 + signal.SIGSEGV, NODE)


def test_a_missing_interpreter_is_an_end_like_any_other(batch: Batch) -> None:
    done = batch.run("/no/such/python")
    assert done.returncode == 127
    assert "/no/such/python: No such file or directory" in done.stderr
    assert batch.end("0.0.x") == watch.End(0, 127, NODE)


def test_setup_comes_first_and_in_the_same_shell(batch: Batch) -> None:
    done = batch.run("say", setup="greeting='hello there'\nsay() { echo \"$greeting\"; }")
    assert done.stdout == "hello there\n"


def test_a_setup_that_leaves_is_an_end_like_any_other(batch: Batch) -> None:
    assert batch.run("echo never", setup="exit 9").returncode == 9
    assert batch.end("0.0.x") == watch.End(0, 9, NODE)


def test_a_missing_folder_of_the_driver_is_an_end_like_any_other(batch: Batch) -> None:
    done = batch.run("echo never", chdir="/no/such/folder")
    assert (done.returncode, done.stdout) == (66, "")
    assert "/no/such/folder" in done.stderr
    assert batch.end("0.0.x") == watch.End(0, 66, NODE)


def test_a_node_that_does_not_see_work_dir_says_so(batch: Batch) -> None:
    shutil.rmtree(batch.part.path)
    done = batch.run("echo never")
    assert (done.returncode, done.stdout) == (66, "")
    assert f"cannot be seen on node {NODE}: is work_dir on a file system that the compute nodes share?" in done.stderr


# ---- one job only


def test_another_job_finds_the_calls_taken_and_leaves_well(batch: Batch) -> None:
    batch.run("echo first")
    done = batch.run("echo second", SLURM_JOB_ID="71")
    assert (done.returncode, done.stdout) == (0, "")
    assert "job 70 has these calls already" in done.stderr
    assert batch.names() == ["0.0.x", "0.c"]
    assert (batch.part.read("0.c") or b"").startswith(b"70 ")


def test_another_task_of_the_array_has_calls_of_its_own(batch: Batch) -> None:
    for task in ("0", "1"):
        assert (
            batch.run(batch.interpreter("echo on"), SLURM_ARRAY_JOB_ID="69", SLURM_ARRAY_TASK_ID=task).stdout == "on\n"
        )


@pytest.mark.parametrize("claim", ["70 0 n1\n", ""], ids=["claimed", "claimed by a name without content"])
def test_a_requeued_job_goes_on(batch: Batch, claim: str) -> None:
    (Path(batch.part.results) / "0.c").write_text(claim)
    assert batch.run(batch.interpreter("echo on"), SLURM_RESTART_COUNT="1").stdout == "on\n"


def test_a_claim_without_content_is_another_job_s_to_who_was_not_requeued(batch: Batch) -> None:
    (Path(batch.part.results) / "0.c").write_text("")
    done = batch.run("echo never")
    assert (done.returncode, done.stdout) == (0, "")
    assert "job another has these calls already" in done.stderr


def test_a_requeued_job_whose_results_are_there_has_nothing_to_do(batch: Batch) -> None:
    for name, text in (("0.c", "70 0 n1\n"), ("0.r", "results")):
        (Path(batch.part.results) / name).write_text(text)
    done = batch.run("echo never", SLURM_RESTART_COUNT="1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "an earlier run of this job has left all results" in done.stderr
    assert batch.names() == ["0.c", "0.r"]


# ---- no room


def test_a_claim_for_whose_words_there_is_no_room_is_a_claim(small_disk: Path) -> None:
    batch = Batch(small_disk)
    python = batch.interpreter("echo on")
    batch.command(python)
    fill(small_disk / "big")
    command = ["/bin/bash", f"{batch.folder.path}/script.sh", "3", "map"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert (batch.part.read("0.c"), batch.part.owners()) == (b"", [])


def fill(path: Path) -> None:
    with path.open("wb", 0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_folder_in_which_nothing_can_be_claimed_is_not_taken_for_a_claim_of_somebody_else(small_disk: Path) -> None:
    batch = Batch(small_disk)
    batch.command("echo never")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    command = ["/bin/bash", f"{batch.folder.path}/script.sh", "3", "map"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (73, "")
    assert f"cannot be written to on node {NODE}" in done.stderr


# ---- signals


@contextmanager
def started(batch: Batch, python: str, setup: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """Run the script and wait until it has made a file called there in the driver's folder."""
    command = batch.command(python, setup=setup)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            until((batch.place / "there").exists)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["TERM", "USR1", "USR2"])
def test_a_signal_to_the_script_reaches_the_interpreter(batch: Batch, name: str) -> None:
    python = batch.interpreter(f"trap 'exit 5' {name}; touch there; while :; do sleep 0.01; done")
    with started(batch, python) as process:
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.wait(DEADLINE) == 5
    assert batch.end("0.0.x") == watch.End(0, 5, NODE)


def test_an_interpreter_that_goes_on_after_a_signal_is_waited_for(batch: Batch) -> None:
    python = batch.interpreter(
        "trap 'touch caught' USR1; touch there; until [ -e caught ] && [ -e go ]; do sleep 0.01; done; exit 6"
    )
    with started(batch, python) as process:
        process.send_signal(signal.SIGUSR1)
        until((batch.place / "caught").exists)
        assert process.poll() is None
        (batch.place / "go").touch()
        assert process.wait(DEADLINE) == 6


def test_a_signal_during_setup_ends_the_job(batch: Batch) -> None:
    setup = "touch there; while :; do sleep 0.01; done"
    with started(batch, "echo never", setup) as process:
        process.terminate()
        assert process.communicate(timeout=DEADLINE)[0] == b""
    assert process.returncode == 143
    assert batch.end("0.0.x") == watch.End(0, 143, NODE)
