"""
`harken exec`: any command, on the record.
"""

from __future__ import annotations

import json
import os
import pty
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from harken import Bus, Envelope, Event
from harken.cli.exec import Child, login, name_secrets, run_recorded

pytestmark = pytest.mark.once

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

LOGIN = pwd.getpwuid(os.getuid()).pw_name

# Says which signals it hears, one by one, until SIGTERM.
ECHO_SIGNALS = """
import os, signal
stops = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
awaited = signal.valid_signals() - stops
for number in (signal.SIGCONT, signal.SIGURG, signal.SIGWINCH):
    signal.signal(number, lambda number, frame: None)
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
print("ready", os.getpid(), os.getppid(), "listens", flush=True)
while (number := signal.sigwait(awaited)) != signal.SIGTERM:
    print("heard", int(number), flush=True)
"""

# Tells when it can be interrupted, counts how often it is, and says so with its exit code.
COUNT_SIGNALS = """
import signal, sys, time
got = []
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, frame: got.append(number))
print("ready", flush=True)
deadline = time.monotonic() + 30
while not got and time.monotonic() < deadline:
    time.sleep(0.01)
# What is sent twice comes at once.
time.sleep(0.3)
sys.exit(10 + len(got))
"""


@pytest.fixture(autouse=True)
def audit_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """
    Where the audit log of the test is.
    """
    path = tmp_path / "audit.jsonl"
    monkeypatch.setenv("HARKEN_AUDIT_JSONL_PATH", str(path))
    return path


class Full:
    """
    A sink that has no room.
    """

    delivery = "inline"

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        raise OSError("no space left on device")


@pytest.fixture
def signals() -> Iterator[None]:
    """
    Take back what a command's being run changes about the signals of this process.
    """
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    changed = [number for number in handlers if signal.getsignal(number) != handlers[number]]
    for number in changed:
        signal.signal(number, handlers[number])
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def records(path: Path) -> list[dict[str, Any]]:
    """
    Return the records of commands.
    """
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if not line["event_type"].startswith("audit.")]


def python(code: str, *args: str) -> list[str]:
    return ["--", sys.executable, "-c", code, *args]


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def until_stopped(*pids: int) -> None:
    """
    Wait until all of these processes are stopped.
    """
    while {"T"} != {Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] for pid in pids}:
        time.sleep(0.01)


def until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()


class TestCommand:
    def test_is_recorded(self, harken: Run, audit_path: Path) -> None:
        """
        A command leaves one record of who ran what, how it ended and how long it took.
        """
        harken("exec", "--", "printf", "hello")

        (record,) = records(audit_path)
        metadata = record["metadata"]
        assert (
            "command.completed",
            f"user:{LOGIN}",
            "execute",
            "command:printf",
            "success",
        ) == tuple(
            record[name] for name in ("event_type", "actor", "action", "resource", "outcome")
        )
        assert {
            "command": "printf",
            "params": {"argv": ["printf", "hello"]},
            "exit_code": 0,
            "ok": True,
            "operator": f"user:{LOGIN}",
        }.items() <= metadata.items()
        assert record["request_id"] == metadata["request_id"]
        assert metadata["duration_ms"] >= 0

    def test_is_called_as_without_harken(self, harken: Run) -> None:
        """
        Input, output, errors and arguments are the command's own.
        """
        code = (
            "import sys\nprint(sys.stdin.read(), sys.argv[1:])\nprint('trouble', file=sys.stderr)"
        )

        done = harken("exec", *python(code, "--help", "--", "-x", ""), text="typed")

        assert ("typed ['--help', '--', '-x', '']\n", "trouble\n") == (done.stdout, done.stderr)

    def test_may_have_options_without_a_separator(self, harken: Run) -> None:
        """
        What follows the command belongs to it, also without `--`.
        """
        assert "-x --name\n" == harken("exec", "printf", "%s %s\\n", "-x", "--name").stdout

    def test_finds_the_trace_in_its_environment(self, harken: Run, audit_path: Path) -> None:
        """
        What the command does can be traced to its record.
        """
        code = "import os; print(os.environ['TRACEPARENT'])"

        done = harken("exec", *python(code))

        (record,) = records(audit_path)
        assert f"00-{record['trace_id']}-{record['span_id']}-01\n" == done.stdout

    def test_stays_in_the_callers_trace(self, harken: Run, audit_path: Path) -> None:
        """
        A trace that comes in goes on: in the record, and in the command.
        """
        env = {
            "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "TOOL_TRACE_ID": "test-123",
        }
        code = "import os; print(os.environ['TRACEPARENT'][:36], os.environ['TOOL_TRACE_ID'])"

        done = harken("exec", *python(code), env=env)

        (record,) = records(audit_path)
        assert "00-0af7651916cd43dd8448eb211c80319c- test-123\n" == done.stdout
        assert ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "test-123") == (
            record["trace_id"],
            record["parent_span_id"],
            record["correlation_id"],
        )

    def test_is_given_a_name(self, harken: Run, audit_path: Path) -> None:
        """
        The record may call it by another name than the program's.
        """
        harken("exec", "--name", "nightly-backup", "--", "/bin/sh", "-c", "true")
        harken("exec", "--", "/bin/sh", "-c", "true")

        assert ["command:nightly-backup", "command:sh"] == [
            record["resource"] for record in records(audit_path)
        ]

    def test_may_take_any_words(self, harken: Run, audit_path: Path) -> None:
        """
        Arguments that are no text in any encoding reach the command, and are recorded.
        """
        done = subprocess.run(
            [sys.executable, "-m", "harken", "exec", "--", "printf", "%s", b"a\xffb"],
            capture_output=True,
            timeout=60,
            check=True,
        )

        (record,) = records(audit_path)
        assert b"a\xffb" == done.stdout
        assert "printf" == record["metadata"]["params"]["argv"][0]

    def test_may_be_a_script_of_the_shell(self, harken: Run, tmp_path: Path) -> None:
        """
        A script whose first line names no interpreter is run by the shell, as it would be there.
        """
        script(tmp_path / "greet", 'echo "hello $1"\n')

        by_path = harken("exec", "--", "./greet", "Ada").stdout
        by_name = harken(
            "exec", "--", "greet", "Ada", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ).stdout

        assert 2 * ["hello Ada\n"] == [by_path, by_name]

    def test_dies_of_a_closed_pipe(self, harken: Run) -> None:
        """
        The command dies of a closed pipe as every other program does, though Python would not.
        """
        harken("exec", "--", "sh", "-c", "kill -PIPE $$", returncode=128 + signal.SIGPIPE)


class TestExitCode:
    @pytest.mark.parametrize("code", [1, 2, 77, 125, 255])
    def test_is_the_commands(self, harken: Run, audit_path: Path, code: int) -> None:
        """
        The exit code is the command's, and a command that fails is recorded.
        """
        done = harken("exec", "--", "sh", "-c", f"exit {code}", returncode=code)

        (record,) = records(audit_path)
        assert "" == done.stderr
        assert ("failure", code, False) == (
            record["outcome"],
            record["metadata"]["exit_code"],
            record["metadata"]["ok"],
        )

    @pytest.mark.parametrize(
        ("number", "outcome"),
        [
            (signal.SIGKILL, "failure"),
            (signal.SIGSEGV, "failure"),
            # A real-time signal, where there are any, has no name.
            (getattr(signal, "SIGRTMIN", signal.SIGALRM) + 5, "failure"),
            (signal.SIGTERM, "cancelled"),
            (signal.SIGINT, "cancelled"),
        ],
    )
    def test_tells_which_signal_killed_the_command(
        self, harken: Run, audit_path: Path, number: int, outcome: str
    ) -> None:
        """
        A command that a signal killed has the exit code that a shell gives it.
        """
        code = 128 + number

        harken("exec", "--", "sh", "-c", f"ulimit -c 0; kill -{number:d} $$", returncode=code)

        (record,) = records(audit_path)
        assert (outcome, code) == (record["outcome"], record["metadata"]["exit_code"])

    def test_when_there_is_no_such_command(self, harken: Run, audit_path: Path) -> None:
        """
        A command that does not exist is one sentence and a record.
        """
        done = harken("exec", "--", "no-such-\x1bcommand", returncode=127)

        (record,) = records(audit_path)
        assert "Error: no-such-\\x1bcommand: command not found\n" == done.stderr
        assert ("failure", 127) == (record["outcome"], record["metadata"]["exit_code"])

    def test_when_it_has_no_name(self, harken: Run, audit_path: Path) -> None:
        """
        An empty word, as a variable that is not set leaves one, is one sentence and a record.
        """
        done = harken("exec", "--", "", "-x", returncode=127)

        (record,) = records(audit_path)
        assert "Error: '': command not found\n" == done.stderr
        assert ("command:''", "failure", 127) == (
            record["resource"],
            record["outcome"],
            record["metadata"]["exit_code"],
        )

    def test_when_an_argument_is_none(
        self, call: Callable[..., Any], audit_path: Path, signals: None
    ) -> None:
        """
        An argument that the system cannot hand over is one sentence and a record.
        """
        done = call("exec", "--", "echo", "a\0b")

        (record,) = records(audit_path)
        assert (126, "Error: echo: no argument of a command can have a NUL in it\n") == (
            done.code,
            done.err,
        )
        assert ("failure", 126) == (record["outcome"], record["metadata"]["exit_code"])

    def test_when_its_interpreter_is_missing(
        self, harken: Run, audit_path: Path, tmp_path: Path
    ) -> None:
        """
        A script that is there, but not the program that it is for, is told apart.
        """
        script(tmp_path / "run", "#!/no/such/interpreter\n")

        done = harken("exec", "--", "./run", returncode=126)

        (record,) = records(audit_path)
        assert "Error: ./run: the interpreter that it asks for was not found\n" == done.stderr
        assert 126 == record["metadata"]["exit_code"]

    def test_when_it_is_not_executable(self, harken: Run, audit_path: Path, tmp_path: Path) -> None:
        """
        A file that is no program is one sentence and a record.
        """
        (tmp_path / "notes.txt").write_text("buy milk")

        done = harken("exec", "--", "./notes.txt", returncode=126)

        (record,) = records(audit_path)
        assert "Error: ./notes.txt: Permission denied\n" == done.stderr
        assert ("command:notes.txt", 126) == (
            record["resource"],
            record["metadata"]["exit_code"],
        )


class TestWithoutRecord:
    """
    What cannot be recorded is not run.
    """

    @pytest.mark.parametrize(
        ("env", "said"),
        [
            ({"HARKEN_AUDIT_JSONL_PATH": "/dev/null/audit.jsonl"}, "/dev/null/audit.jsonl"),
            ({"HARKEN_LOG_PATH": "/dev/null/events.log"}, "/dev/null/events.log"),
            ({"HARKEN_TRACES": "smoke-signals"}, "smoke-signals"),
            ({"HARKEN_ACTOR": "nobody"}, "HARKEN_ACTOR='nobody' is no actor"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_is_not_run(self, harken: Run, tmp_path: Path, env: dict[str, str], said: str) -> None:
        """
        When harken cannot be set up, that is one sentence, and the command does not run.
        """
        done = harken("exec", "--", "touch", "ran", returncode=125, env=env)

        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert said in line
        assert not (tmp_path / "ran").exists()

    def test_says_when_it_had_run(self, harken: Run, tmp_path: Path) -> None:
        """
        An audit log that must not lose anything, and does, is louder than the exit code.
        """
        (tmp_path / "logs").mkdir()
        env = {
            "HARKEN_AUDIT_JSONL_PATH": "logs/audit.jsonl",
            "HARKEN_AUDIT_ON_FAILURE": "raise",
        }

        done = harken("exec", "--", "sh", "-c", "rm -r logs; >logs", returncode=125, env=env)

        assert "; sh had run and exited with 0\n" in done.stderr

    def test_says_when_it_had_not(
        self, tmp_path: Path, signals: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        When the start cannot be recorded by somebody who has to, the command does not run.
        """
        bus = Bus()
        bus.attach(Full(), required=True)
        child = Child(["touch", str(tmp_path / "ran")])

        with pytest.raises(click.exceptions.Exit) as end:
            run_recorded(bus, child, "touch", "user:ana")

        assert 125 == end.value.exit_code
        assert capsys.readouterr().err.endswith("; touch was not run\n")
        assert not (tmp_path / "ran").exists()


class TestWho:
    def test_is_said_by_an_option(self, harken: Run, audit_path: Path) -> None:
        """
        Whoever calls may say for whom, in the call or in the environment; the call wins.
        """
        env = {"HARKEN_ACTOR": "agent:planner"}
        harken("exec", "--actor", "service:ci", "--", "true", env=env)
        harken("exec", "--", "true", env=env)
        harken("exec", "--", "true", env={"HARKEN_ACTOR": ""})

        said = [(line["actor"], line["metadata"]["operator"]) for line in records(audit_path)]
        assert [2 * (who,) for who in ("service:ci", "agent:planner", f"user:{LOGIN}")] == said

    @pytest.mark.parametrize("actor", ["ana", "robot:ana", "user:", "user:an a", ""])
    def test_must_be_an_actor(self, harken: Run, tmp_path: Path, actor: str) -> None:
        """
        Something else than an actor is wrong usage.
        """
        done = harken("exec", "--actor", actor, "--", "touch", "ran", returncode=2)

        assert "is no actor; use user:ID, agent:ID, service:ID or system:ID" in done.stderr
        assert not (tmp_path / "ran").exists()

    def test_is_not_believed_from_the_environment(self, harken: Run, audit_path: Path) -> None:
        """
        The user is the one that the process belongs to.
        """
        harken("exec", "--", "true", env={"LOGNAME": "mallory", "USER": "mallory"})

        assert [f"user:{LOGIN}"] == [record["actor"] for record in records(audit_path)]

    def test_may_have_no_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A user whom the machine does not know by name is known by number.
        """
        monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)

        assert "2147483641" == login()


class TestSecrets:
    @pytest.mark.parametrize(
        ("shown", "argv"),
        [
            (["deploy", "--to", "prod"], ["deploy", "--to", "prod"]),
            (["x", {"--password": "hunter2"}, "y"], ["x", "--password", "hunter2", "y"]),
            (["x", {"--api-key": "k=1"}], ["x", "--api-key=k=1"]),
            (["env", {"DB_PASSWORD": "p"}, "x"], ["env", "DB_PASSWORD=p", "x"]),
            (["x", "--password"], ["x", "--password"]),
            (["x", "--password=", "y"], ["x", "--password=", "y"]),
            (["x", "password", "y"], ["x", "password", "y"]),
        ],
        ids=lambda value: " ".join(map(str, value)),
    )
    def test_stand_beside_their_names(self, shown: list[object], argv: list[str]) -> None:
        """
        A secret among arguments stands beside its name, for redaction to know it.
        """
        assert shown == name_secrets(argv, Bus().redact)

    def test_known_from_the_settings(self, harken: Run, audit_path: Path) -> None:
        """
        A name that only the settings call a secret counts among arguments, too.
        """
        harken(
            *("exec", "--", "true", "--badge", "hunter2-is-mine"),
            env={"HARKEN_REDACTION_NAMES": "badge"},
        )

        assert "hunter2" not in audit_path.read_text()

    def test_are_not_recorded(self, harken: Run, audit_path: Path) -> None:
        """
        The record has no secret, and counts what was taken out.
        """
        harken("exec", "--", "echo", "--password", "hunter2", "--token=abc", "AWS_SECRET_KEY=xyz")

        (record,) = records(audit_path)
        written = audit_path.read_text(encoding="utf-8")
        assert [] == [secret for secret in ("hunter2", 'abc"', "xyz") if secret in written]
        assert {"key": 3} == record["redacted"]


class TestSinks:
    def test_are_silent(self, harken: Run) -> None:
        """
        Standard error is the command's own: no event is logged there.
        """
        assert "" == harken("exec", "--", "true", env={"HARKEN_LOG_LEVEL": "debug"}).stderr

    def test_get_what_they_are_set_for(self, harken: Run, tmp_path: Path) -> None:
        """
        A log file, spans and a metrics file are written when the settings ask for them.
        """
        env = {
            "HARKEN_LOG_PATH": "events.log",
            "HARKEN_METRICS_FILE_PATH": "metrics.prom",
            "HARKEN_TRACES": "file:spans.jsonl",
        }

        harken("exec", "--name", "backup", "--", "true", env=env)

        lines = map(json.loads, (tmp_path / "events.log").read_text().splitlines())
        (logged,) = [line for line in lines if line["event_name"] == "command.completed"]
        (span,) = map(json.loads, (tmp_path / "spans.jsonl").read_text().splitlines())
        assert logged["span_id"] == span["span_id"]
        assert (
            'infra_agent_commands_total{command="backup",status="success"} 1.0'
            in (tmp_path / "metrics.prom").read_text()
        )

    def test_do_not_serve(self, harken: Run, tmp_path: Path) -> None:
        """
        The metrics port belongs to the agent that has it, not to each command that it runs.
        """
        env = {"HARKEN_METRICS_PROMETHEUS_PORT": "1", "HARKEN_METRICS_FILE_PATH": "metrics.prom"}

        harken("exec", "--", "true", env=env)

        assert not (tmp_path / "metrics.prom").exists()

    def test_can_all_be_off(self, harken: Run, audit_path: Path) -> None:
        """
        With the audit log switched off, the command runs all the same.
        """
        done = harken("exec", "--", "echo", "ran", env={"HARKEN_AUDIT": "off"})

        assert "ran\n" == done.stdout
        assert not audit_path.exists()


class TestSignals:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
    def test_are_passed_on(self, started: Start, audit_path: Path, name: str) -> None:
        """
        A signal that is sent to harken reaches the command, once; its exit code is the truth.
        """
        process = started("exec", *python(COUNT_SIGNALS, name))
        until_ready(process)

        process.send_signal(getattr(signal, name))

        assert 11 == process.wait(timeout=60)
        assert [11] == [record["metadata"]["exit_code"] for record in records(audit_path)]

    @pytest.mark.parametrize(
        ("name", "outcome"),
        [("SIGTERM", "cancelled"), ("SIGINT", "cancelled"), ("SIGALRM", "failure")],
    )
    def test_that_kill_the_command_are_recorded(
        self, started: Start, audit_path: Path, name: str, outcome: str
    ) -> None:
        """
        When the signal ends the command, that is one record, and its exit code.
        """
        code = 128 + getattr(signal, name)
        reset = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        process = started(
            "exec", *python(reset + "print('ready', flush=True)\nimport time\ntime.sleep(60)")
        )
        until_ready(process)

        process.send_signal(getattr(signal, name))

        assert code == process.wait(timeout=60)
        (record,) = records(audit_path)
        assert (outcome, code) == (record["outcome"], record["metadata"]["exit_code"])

    def test_of_every_kind_are_passed_on(self, started: Start, audit_path: Path) -> None:
        """
        Harken dies of no signal that it can hear of, and keeps none from the command.
        """
        process = started("exec", *python(ECHO_SIGNALS))
        assert process.stdout is not None
        process.stdout.readline()
        own = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTERM}
        stops = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
        sent = signal.valid_signals() - own - stops

        heard = []
        for number in sent:
            process.send_signal(number)
            heard.append(process.stdout.readline())

        process.terminate()
        assert [f"heard {number:d}\n" for number in sent] == heard
        assert "" == process.stdout.read()
        assert 0 == process.wait(timeout=60)
        assert [0] == [record["metadata"]["exit_code"] for record in records(audit_path)]

    def test_before_the_command_began_are_not_lost(
        self, signals: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A Ctrl-C that comes while harken is still being set up is for the command, too.
        """
        child = Child(["sleep", "60"])
        # To this thread: others, which earlier tests may have left, hold nothing back.
        signal.raise_signal(signal.SIGINT)

        code = run_recorded(Bus(), child, "sleep", "user:ana")

        assert (130, signal.SIGINT) == (code, child.killed_by)

    def test_may_come_at_any_time(self, started: Start, audit_path: Path) -> None:
        """
        However many signals come until the end, there is one record.
        """
        code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        process = started("exec", *python(f"{code}print('ready', flush=True)\ntime.sleep(0.5)"))
        until_ready(process)

        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)

        assert 0 == process.returncode
        assert [0] == [record["metadata"]["exit_code"] for record in records(audit_path)]

    def test_that_were_ignored_stay_ignored(self, audit_path: Path) -> None:
        """
        Under `nohup`, harken and its command outlive the terminal.
        """
        argv = ["nohup", sys.executable, "-m", "harken", "exec", *python(COUNT_SIGNALS, "SIGTERM")]
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        until_ready(process)

        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)

        assert 11 == process.wait(timeout=60)
        process.communicate()

    def test_of_a_terminal_are_not_doubled(
        self, on_terminal: Callable[..., Any], audit_path: Path
    ) -> None:
        """
        Ctrl-C reaches the command from the terminal, and harken adds nothing to it.
        """
        terminal = on_terminal("exec", *python(COUNT_SIGNALS, "SIGINT"))
        terminal.read_until("ready")

        terminal.type("\x03")

        assert 11 == terminal.wait()
        assert [11] == [record["metadata"]["exit_code"] for record in records(audit_path)]

    def test_on_a_terminal_are_passed_on(
        self, on_terminal: Callable[..., Any], audit_path: Path
    ) -> None:
        """
        What somebody else sends to harken reaches the command, also on a terminal.
        """
        terminal = on_terminal("exec", *python(COUNT_SIGNALS, "SIGINT"))
        terminal.read_until("ready")

        terminal.process.send_signal(signal.SIGINT)

        assert 11 == terminal.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
class TestStopped:
    """
    A command that is stopped stops harken, so that whoever looks after jobs knows.
    """

    @pytest.fixture
    def job(self, on_terminal: Callable[..., Any], tmp_path: Path) -> tuple[Any, int, int]:
        """
        A terminal with a shell that has started a command, the command's number and harken's.
        """
        (tmp_path / "echo.py").write_text(ECHO_SIGNALS)
        terminal = on_terminal("exec", "--", "sh", "-i", env={"PS1": "$ ", "ENV": None})
        terminal.type(
            shlex.join([sys.executable, "-m", "harken", "exec", "--", sys.executable, "echo.py"])
            + "\n"
        )
        terminal.read_until("listens")
        command, harken = re.findall(r"ready (\d+) (\d+)", terminal.shown)[0]
        return terminal, int(command), int(harken)

    def test_by_a_key(self, job: tuple[Any, int, int]) -> None:
        """
        After Ctrl-Z the shell is back, and `fg` continues the command, once.
        """
        terminal, command, harken = job

        terminal.type("\x1a")
        until_stopped(command, harken)
        terminal.type("echo $((20 + 1)) jobs\n")
        terminal.read_until("21 jobs")
        terminal.type("fg\n")
        terminal.read_until(f"heard {signal.SIGCONT:d}")
        os.kill(harken, signal.SIGUSR1)
        terminal.read_until(f"heard {signal.SIGUSR1:d}")

        assert 1 == terminal.shown.count(f"heard {signal.SIGCONT:d}")
        os.kill(command, signal.SIGTERM)
        terminal.type("exit $((20 + $?))\n")
        assert 20 == terminal.wait()

    def test_by_somebody_else(self, job: tuple[Any, int, int], audit_path: Path) -> None:
        """
        A stop that is sent to harken alone stops the command, too, and it goes on with harken.
        """
        terminal, command, harken = job

        os.kill(harken, signal.SIGTSTP)
        until_stopped(command, harken)
        os.kill(harken, signal.SIGCONT)
        terminal.read_until(f"heard {signal.SIGCONT:d}")

        os.kill(harken, signal.SIGTERM)
        while not records(audit_path):
            time.sleep(0.01)
        assert [0] == [record["metadata"]["exit_code"] for record in records(audit_path)]

    def test_alone(self, tmp_path: Path) -> None:
        """
        Where no shell looks after jobs, a command that somebody stops and continues leaves
        harken as it was.
        """
        argv = [sys.executable, "-m", "harken", "exec", *python(ECHO_SIGNALS)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        command = int(process.stdout.readline().split()[1])

        os.kill(command, signal.SIGSTOP)
        until_stopped(command)
        os.kill(command, signal.SIGCONT)

        assert f"heard {signal.SIGCONT:d}\n" == process.stdout.readline()
        os.kill(command, signal.SIGTERM)
        assert 0 == process.wait(timeout=60)
        process.communicate()

    def test_for_good(self, audit_path: Path) -> None:
        """
        When the window is closed that harken was opened in, the command hears of it.
        """
        mine, theirs = pty.openpty()
        code = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
        argv = [sys.executable, "-m", "harken", "exec", "--", "sh", "-c", "echo ready; sleep 60"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *argv], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = os.read(mine, 100)

        os.close(mine)

        assert b"ready" in shown
        assert 128 + signal.SIGHUP == process.wait(timeout=60)
        (record,) = records(audit_path)
        assert "cancelled" == record["outcome"]
