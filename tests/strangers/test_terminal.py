"""Text from servers, programs and files is shown on a terminal, and the terminal obeys none of it."""

import contextlib
import importlib
import inspect
import json
import logging
import os
import pickle
import pkgutil
import re
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko.common import AUTH_FAILED
from paramiko.server import InteractiveQuery

import slurmfutures
import tests
from slurmfutures import (
    AgentError,
    AuthenticationError,
    HostUnreachable,
    JobFailed,
    RemoteTraceback,
    ResultLost,
    SlurmExecutor,
    SlurmFuturesError,
    SlurmFuturesWarning,
    _cli,
    _errors,
    _files,
    _hosts,
    _link,
    _logs,
    _pickling,
    _records,
    _retries,
)
from slurmfutures import _journal as journal
from slurmfutures._commands import table
from slurmfutures._remote import payload
from slurmfutures._transports.asking import Asked, ask_on_terminal
from slurmfutures._transports.base import NobodyToAsk
from slurmfutures._transports.paramiko import Opener as ParamikoOpener
from tests import calls
from tests.fix_executors import Opener
from tests.terminals import Terminal
from tests.waiting import DEADLINE, until

ROOT = Path(tests.__file__).parents[1]
# Clears the screen, sets the title, writes into the clipboard, goes back to the line's start, turns the text around.
EVIL = "\x1b[2J\x1b]0;owned\x07\x1b]52;c;ZWNobw==\x07\r\x9b31m\x7f\x85\u202e\u2028\udc9b"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\x1b]52;c;ZWNobw==\x07\x0d\x9b31m\x7f\x85\u202e\u2028\x9b"


def is_tame(text: str) -> bool:
    return all(character in "\n\t" or character.isprintable() for character in text)


def shown(error: BaseException) -> str:
    """Return the text that Python prints for an uncaught exception."""
    return "".join(traceback.format_exception(error))


# ---- errors


def kinds(base: type[SlurmFuturesError] = SlurmFuturesError) -> Iterator[type[SlurmFuturesError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


KINDS = list(dict.fromkeys(kinds()))


def made_of(kind: type[SlurmFuturesError], text: str) -> SlurmFuturesError:
    """Return an error with this text wherever one can be."""
    words: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if "str" in str(parameter.annotation):
            words[name] = [text] if "Iterable" in str(parameter.annotation) else text
    error = kind(**words)
    if isinstance(error, _errors._Attempt):
        error.earlier, error.attempts = (SlurmFuturesError(text), JobFailed(text, node=text, reason=text)), 3
    return error


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_steers_the_terminal(kind: type[SlurmFuturesError]) -> None:
    error = made_of(kind, EVIL)
    assert SHOWN in str(error)
    for text in (str(error), repr(error), shown(error), shown(pickle.loads(pickle.dumps(error)))):
        assert is_tame(text)


@given(st.sampled_from(KINDS), st.text())
def test_no_text_makes_an_error_steer_it(kind: type[SlurmFuturesError], text: str) -> None:
    assert is_tame(str(made_of(kind, text)))


def test_attributes_hold_the_text_as_it_came() -> None:
    error = JobFailed("1", node=EVIL, stderr_tail=EVIL)
    assert (error.node, error.stderr_tail) == (EVIL, EVIL)
    assert AgentError("it ended", EVIL).stderr_tail == EVIL


def test_what_was_raised_far_away_is_shown_with_its_traceback() -> None:
    assert SHOWN in shown(RemoteTraceback(EVIL))
    words: dict[str, Any] = dict.fromkeys(("said", "traceback", "node", "python", "executable"), EVIL)
    # It can be imported here, so there is advice.
    words |= {"type": "ModuleNotFoundError", "module": "json", "missing": False}
    head, pickled = json.dumps(words).encode(), pickle.dumps(ValueError("no"))
    data = payload._LENGTHS.pack(len(head), len(pickled)) + head + pickled
    for status in (payload.RAISED, payload.UNINITIALIZED, payload.UNPICKLABLE, payload.UNPUBLISHED):
        _, error = _pickling.result_of(payload.Record(0, status, data), "1", "batch")
        assert error is not None
        assert is_tame(shown(error))
        assert SHOWN in shown(error)


def test_notes_of_attempts_are_printable() -> None:
    attempts = _retries.Attempts(2)
    attempts.again(ResultLost(EVIL), "")
    assert is_tame(shown(attempts.told(ValueError("no"))))


def test_an_oserror_that_is_reported_is_printable() -> None:
    with pytest.raises(PermissionError) as caught:
        _files._checked(_link.Words({"error": "os", "errno": 13, "strerror": EVIL, "filename": EVIL}, "put"))
    assert is_tame(shown(caught.value))
    assert (caught.value.errno, caught.value.filename) == (13, EVIL)
    with pytest.raises(SlurmFuturesError) as failed:
        _files._checked(_link.Words({"error": "failed", "message": EVIL}, "put"))
    assert is_tame(shown(failed.value))


def test_names_and_configurations_on_the_disk_are_printable_where_they_are_quoted(tmp_path: Path) -> None:
    name = EVIL.replace("\udc9b", "")
    (tmp_path / "config.yaml").write_text("work_dir: {a\u202e\u200b: ]\n")
    (tmp_path / "ssh_config").write_text(f"Host *\n  {name.replace(chr(13), '')} x\n")
    first, second = tmp_path / "a" / name, tmp_path / "b" / name
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "m.py").write_text("")
    attempts: Sequence[Callable[[], object]] = (
        lambda: SlurmExecutor.from_config(tmp_path / "config.yaml"),
        lambda: _hosts.find_route("login", ssh_config=tmp_path / "ssh_config"),
        lambda: SlurmExecutor(scheduler="local", work_dir=tmp_path / "w", ship=[first / "m.py", second / "m.py"]),
    )
    for attempt in attempts:
        with pytest.raises(ValueError) as caught:
            attempt()
        assert is_tame(shown(caught.value))


# ---- a job's words, on the embedded scheduler


def test_a_job_that_dies_steers_nothing_by_its_last_words(local: SlurmExecutor) -> None:
    words = EVIL.replace("\udc9b", "")
    future = local.submit(calls.leave_saying, 3, words)
    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert r"\x1b]52;c;ZWNobw==\x07" in str(error)
    assert is_tame(shown(error))
    assert "\x1b]52;c;" in future.stderr()  # that is what it wrote, for programs


def test_a_remote_traceback_steers_nothing(local: SlurmExecutor) -> None:
    error = local.submit(calls.fail, ValueError(EVIL)).exception(DEADLINE)
    assert error is not None
    assert error.args == (EVIL,)  # the user's own, as it was raised
    assert is_tame(str(error.__cause__))
    assert r"\x1b[2J" in str(error.__cause__)


def test_an_executor_s_repr_is_printable(local: SlurmExecutor) -> None:
    poller = local._connection.poller
    poller.greeting = {**poller.greeting, "host": EVIL}
    assert is_tame(repr(local))


# ---- warnings and log records


def test_warnings_are_printable() -> None:
    with pytest.warns(SlurmFuturesWarning) as caught:
        _errors.give_warning(f"f: job 1 waits in the queue: {EVIL}")
    assert str(caught[0].message) == f"f: job 1 waits in the queue: {SHOWN}"


def test_a_file_that_was_not_closed_is_named_printably(local: SlurmExecutor, tmp_path: Path) -> None:
    file = local.path(tmp_path / "a\x1b[2Jb").open("w")
    with pytest.warns(ResourceWarning, match="was not closed") as caught:
        del file
    assert is_tame(str(caught[0].message))


def package_loggers() -> list[str]:
    for module in pkgutil.walk_packages(slurmfutures.__path__, "slurmfutures."):
        importlib.import_module(module.name)
    _logs.get_logger("paramiko")  # made for the first connection
    known = logging.Logger.manager.loggerDict
    return [name for name, logger in known.items() if name.startswith("slurmfutures.") and hasattr(logger, "filters")]


def test_every_logger_of_the_package_records_printable_text(caplog: pytest.LogCaptureFixture) -> None:
    names = package_loggers()
    assert {"slurmfutures.poller", "slurmfutures.paramiko", "slurmfutures.transports"} <= set(names)
    for name in names:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, name):
            try:
                raise ValueError(EVIL)
            except ValueError:
                logging.getLogger(name).exception("%s of %r: %d%%", EVIL, Path(EVIL), 3)
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{SHOWN} of ")
        assert record.getMessage().endswith(": 3%")
        assert f"ValueError: {SHOWN}" in caplog.text
        assert is_tame(caplog.text)


def test_a_record_cannot_look_like_two(caplog: pytest.LogCaptureFixture) -> None:
    logger = _logs.get_logger("poller")
    with caplog.at_level(logging.WARNING, logger.name):
        logger.warning("the connection is lost: %s", "reset\nCRITICAL slurmfutures:all.py:1 all is lost")
    assert [line.startswith("    ") for line in caplog.text.splitlines()] == [False, True]


# ---- questions

ASKER = """\
import os, sys
os.open(sys.argv[1], os.O_RDWR)  # the first terminal that the leader of a session opens becomes its own
from slurmfutures._transports.asking import Asked, ask_on_terminal
print("answer:", Asked(ask_on_terminal, sys.argv[2])(sys.argv[3], sys.argv[4] == "shown"))
"""
GATE = "me@gate"
POSE = "me@login.example.org: Password: "


def asked(host: str, prompt: str, how: str, columns: int = 80) -> list[str]:
    """Ask a question, answer it, and return the rows on the terminal."""
    with closing(Terminal(columns)) as terminal:
        command = [sys.executable, "-c", ASKER, terminal.name, host, prompt, how]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        ) as process:
            terminal.wait_for(f"{host}: ")
            terminal.type("1\n")
            assert process.communicate(timeout=DEADLINE)[0] == "answer: 1\n"
        return terminal.rows()


@pytest.mark.parametrize("how", ["hidden", "shown"])
@pytest.mark.parametrize(
    "prompt",
    [
        POSE,
        f"\r\x1b[2K{POSE}",  # erases what stands before it
        f"\n{POSE}",
        f"\r\n{POSE}",
        f"Welcome\n\n{POSE}",
        f"Welcome\n{GATE} says:\n{POSE}",
        f"Welcome\x0b{POSE}",
        f"Welcome\u2028{POSE}",
        f"Welcome\x85{POSE}",
        " " * (80 - len(GATE) - 2) + POSE,  # breaks where the row ends
        "Welcome to the gate of the site".ljust(80 - len(GATE) - 2, "-") + POSE,
        "." * (80 * 30) + POSE,
        "\t" * 9 + POSE,
        f"Welcome{chr(10) * 100}{POSE}",
    ],
)
def test_a_host_cannot_pose_as_another_one(prompt: str, how: str) -> None:
    rows = asked(GATE, prompt, how)
    text = "\n".join(rows)
    assert is_tame(text)
    for row in rows:
        assert not row or row.startswith((GATE, "    ")) or row == "1", rows
    (typed,) = [row for row in rows if row.startswith(f"{GATE}: ")]
    assert rows.index(typed) >= len(rows) - 2  # beside the cursor, and not where it has scrolled away


def test_a_question_of_several_lines_reads_well() -> None:
    prompt = "Duo login for me\r\n\r\nEnter a passcode or choose:\r\n 1. Push\r\n\r\nPasscode (1-1): "
    assert asked("me@duo", prompt, "shown") == [
        "me@duo says:",
        "    Duo login for me",
        "    ",
        "    Enter a passcode or choose:",
        "     1. Push",
        "    ",
        "me@duo: Passcode (1-1): 1",
        "",
    ]


def test_a_narrow_terminal_shows_it_all() -> None:
    rows = asked(GATE, "Please type the number on the token: ", "hidden", columns=20)
    assert rows[0] == "me@gate says:"
    assert "".join(row[4:] for row in rows[1:-2]) == "Please type the number on the token:"
    assert rows[-2].rstrip() == "me@gate:"


def test_a_function_that_answers_is_asked_in_printable_words() -> None:
    questions = []

    def answer(host: str, prompt: str, echo: bool) -> str:
        questions.append((host, prompt))
        return "1"

    Asked(answer, f"me{EVIL}@gate")(f"Code{EVIL}\n{POSE}")
    assert questions == [(f"me{SHOWN}@gate", f"Code{SHOWN}\n    {POSE}")]


def test_where_nobody_answers_the_question_is_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("builtins.open", no_terminal)
    with pytest.raises(NobodyToAsk) as caught:
        ask_on_terminal(f"me{EVIL}@gate", f"Code{EVIL}", True)
    assert is_tame(str(caught.value))


# ---- servers


class Liar(paramiko.ServerInterface):
    """An SSH server for one connection. It sends the given name, instruction and prompt, or only a greeting."""

    def __init__(self, words: tuple[str, str, str], greeting: bytes = b"") -> None:
        self._words = words
        self._greeting = greeting
        self.key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        end, _ = self._listener.accept()
        end.settimeout(DEADLINE)
        with end:
            if self._greeting:
                end.sendall(self._greeting)
                with contextlib.suppress(OSError):
                    while end.recv(4096):
                        pass
                return
            transport = paramiko.Transport(end)
            transport.add_server_key(self.key)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=self)
                transport.join(DEADLINE)
            transport.close()

    def known_host(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n"

    def close(self) -> None:
        self._listener.close()
        self._thread.join(DEADLINE)

    # ---- paramiko's thread

    def get_allowed_auths(self, username: str) -> str:
        return f"keyboard-interactive,{self._words[2]}"

    def check_auth_interactive(self, username: str, submethods: str) -> int | InteractiveQuery:
        name, instructions, prompt = self._words
        return InteractiveQuery(name, instructions, (prompt, False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return AUTH_FAILED


def entered(liar: Liar, folder: Path, ask: Callable[[str, str, bool], str]) -> BaseException:
    """Log in, and return the error."""
    (folder / "known_hosts").write_text(liar.known_host())
    lines = ["Host *", f"UserKnownHostsFile {folder}/known_hosts", "IdentityFile none", "IdentityAgent none"]
    (folder / "config").write_text("\n".join(lines))
    route = _hosts.find_route(f"me@127.0.0.1:{liar.port}", ssh_config=folder / "config")
    with pytest.raises((AuthenticationError, HostUnreachable)) as caught:
        ParamikoOpener(route).open("true", b"", ask=ask, timeout=DEADLINE, accept_new_host_keys=False, stop=None)
    return caught.value


def test_a_server_s_question_is_printable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = EVIL.replace("\udc9b", "")
    questions = []

    def answer(host: str, prompt: str, echo: bool) -> str:
        questions.append((host, prompt))
        return "1"

    with caplog.at_level(logging.DEBUG, "slurmfutures"), closing(Liar((text, f"\n{POSE}", text))) as liar:
        error = entered(liar, tmp_path, answer)
    ((host, prompt),) = questions
    assert host == "me@127.0.0.1"
    assert is_tame(prompt)
    assert all(line.startswith("    ") for line in prompt.split("\n")[1:])
    assert is_tame(shown(error))
    assert r"\x1b]52;c;ZWNobw==\x07" in str(error)  # among the methods that it takes
    assert is_tame(caplog.text)


@pytest.mark.parametrize("greeting", ["SSH-9.{}-x\r\n", "SSH-{}\r\n", "{}\n" * 200, "HTTP/1.1 400 {}\r\n\r\n"])
def test_a_server_s_greeting_is_printable(tmp_path: Path, caplog: pytest.LogCaptureFixture, greeting: str) -> None:
    text = greeting.replace("{}", "\x1b]0;owned\x07\x1b[2J")
    with caplog.at_level(logging.DEBUG, "slurmfutures"), closing(Liar(("", "", ""), text.encode())) as liar:
        error = entered(liar, tmp_path, lambda *_: "")
    assert is_tame(shown(error))
    assert is_tame(caplog.text)


# ---- commands


def run(*words: object, stdout: int = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    """Run `slurmfutures`."""
    program = "import sys; from slurmfutures._cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        env=environment,
        timeout=80,
        check=False,
    )


def seen(*words: object, columns: int = 200) -> str:
    """Return the output of a command on a terminal."""
    with closing(Terminal(columns)) as terminal:
        done = run(*words, stdout=terminal.line)
        assert done.returncode == 0, done.stderr
        return terminal.seen().replace("\r\n", "\n")


def without_style(text: str) -> str:
    """Return a text without the colours and weights that rich gives to tables on a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def spoken(opener: Opener, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A work_dir with a batch whose call has printed control characters, and the name of the call."""
    executor = opener.root("local", work_dir=tmp_path / "work")
    future = executor.submit(calls.speak, EVIL.replace("\udc9b", ""), "")
    future.result(DEADLINE)
    (batch,) = until(lambda: list((tmp_path / "work").glob("batches/*/batch.json")))
    words = json.loads(batch.read_text())
    words["name"] = f"evil{EVIL}\nname"
    batch.write_text(json.dumps(words))
    yield tmp_path / "work", f"{batch.parent.name}:0"
    del future  # which has kept the batch


def test_status_shows_a_job_s_name_in_one_row(spoken: tuple[Path, str]) -> None:
    words = ("status", "--scheduler", "local", "--work-dir", spoken[0])
    done = run(*words)
    assert is_tame(done.stdout)
    (row,) = [line for line in done.stdout.splitlines() if spoken[1][:12] in line]
    assert rf"evil{SHOWN}\x0aname" in row
    assert is_tame(without_style(seen(*words)))
    assert json.loads(run(*words, "--json").stdout)["batches"][0]["name"] == f"evil{EVIL}\nname"


def test_logs_are_printable_on_a_terminal_and_bytes_elsewhere(spoken: tuple[Path, str]) -> None:
    words = ("logs", "--scheduler", "local", "--work-dir", spoken[0], spoken[1])
    assert "\x1b]52;c;ZWNobw==\x07" in run(*words).stdout
    text = seen(*words)
    assert is_tame(text)
    assert r"\x1b]52;c;ZWNobw==\x07" in text


def test_a_checkpoint_s_failures_are_printable(tmp_path: Path) -> None:
    with closing(journal.Journal(tmp_path / f"evil{EVIL}.ckpt")) as written:
        words = {"kind": EVIL, "said": f"{EVIL}\nsecond", "job": EVIL, "time": 1.0}
        opened = {"time": 1.0, "where": EVIL, "place": {}}
        written.append([(_records.OPENED, [json.dumps(opened).encode()])])
        failure = _records.pack_failure(b"k" * _records.KEY_SIZE, "0123456789ab", 0, words)
        written.append([(_records.FAILED, [failure])])
        path = written.path
    done = run("status", path)
    assert done.returncode == 0, done.stderr
    assert is_tame(done.stdout)
    assert rf"{SHOWN}\x0asecond" in done.stdout
    assert is_tame(without_style(seen("status", path)))


@pytest.mark.parametrize(
    "words",
    [
        ("status", f"evil{EVIL}.ckpt"),
        ("logs", "--scheduler", "local", "--work-dir", f"/nonexistent/{EVIL}", "1"),
        ("status", f"evil{EVIL}.ckpt", f"another{EVIL}.ckpt"),
        ("status", "--host", f"a{EVIL}"),
        ("clean", "--older-than", f"7d{EVIL}"),
        (f"evil{EVIL}",),
    ],
)
def test_what_a_command_cannot_do_is_said_printably(words: Sequence[str]) -> None:
    done = run(*words)
    assert done.returncode in (1, 2)
    assert "owned" in done.stderr
    assert is_tame(done.stderr)


def test_an_agent_s_refusal_is_said_printably(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise SlurmFuturesError(f"the agent: {EVIL}")

    monkeypatch.setattr(_cli, "_COMMANDS", (lambda commands: commands.add_parser("x").set_defaults(run=refuse),))
    assert _cli.main(["x"]) == 1
    assert capsys.readouterr().err == f"slurmfutures: the agent: {SHOWN}\n"


def test_lines_and_cells_stay_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table.show_lines([f"not whole: {EVIL}\nno batches in /"])
    table.show_table(("what", "why"), [(f"a{EVIL}\nb", "[red]x[/red] [link=http://x]y[/link]")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == rf"not whole: {SHOWN}\x0ano batches in /"
    assert len(lines) == 4
    assert is_tame("".join(lines))
    assert "[link=http://x]y[/link]" in lines[3]
