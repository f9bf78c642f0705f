"""
Scripts without a library for their command line, under the contract.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.tools import calls, check

from harken.contract import Invocation, UnknownAppError, contract, current
from harken.contract.argv import login

pytestmark = pytest.mark.once

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
Script = Callable[[str], Path]

LOGIN = pwd.getpwuid(os.getuid()).pw_name

JOB = """
import os, signal, sys
from harken import contract

with contract.invocation("nightly-job", version="1.2.3", params={{"table": "books"}}) as call:
    {body}
"""


@pytest.fixture
def job(script: Script, run: Run) -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    A function that runs a script with these lines under the contract.
    """

    def run_job(body: str, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
        program = script(JOB.format(body=body.replace("\n", "\n    ")))
        return run(program, *args, **more)

    return run_job


@pytest.fixture
def log(data_home: Path) -> Path:
    """
    The audit log of the script.
    """
    return data_home / "nightly-job" / "audit.jsonl"


def test_arguments_without_a_form_in_json_are_named(
    job: Callable[..., subprocess.CompletedProcess[str]], log: Path
) -> None:
    """
    An argument that cannot be put on record keeps nothing else from it.
    """
    done = job("call.begin('load', {'grid': {(0, 0): 1}, 'kind': type, 'n': 2})")

    (line,) = calls(log)
    assert (0, {"grid": "<dict>", "kind": "<class 'type'>", "n": 2}) == (
        done.returncode,
        line["metadata"]["params"],
    )


def test_prints_of_a_command_without_standard_error_go_nowhere(
    script: Script, tmp_path: Path, log: Path
) -> None:
    """
    A command may write to the file that print() writes to, also where there is none.
    """
    program = script(JOB.format(body="sys.stdout.write('one')"))

    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$1" 2>&-', sys.executable, program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=False,
    )

    assert ([0], 0) == ([line["metadata"]["exit_code"] for line in calls(log)], done.returncode)
    assert json.loads(done.stdout)["ok"]


def test_a_warning_that_nobody_reads_changes_nothing(
    job: Callable[..., subprocess.CompletedProcess[str]], log: Path
) -> None:
    """
    Standard error may be gone already when there is something to tell.
    """
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = job("call.warn('late')", "--output", "text", stderr=writer)
    finally:
        os.close(writer)

    (line,) = calls(log)
    assert (0, 0) == (done.returncode, line["metadata"]["exit_code"])


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    ("body", "code", "outcome"),
    [
        ("call.set(data={'rows': 42})", 0, "success"),
        ("sys.exit()", 0, "success"),
        ("sys.exit(3)", 3, "failure"),
        ("sys.exit('no disk')", 1, "failure"),
        ("sys.exit(-1)", 255, "failure"),
        ("call.exit_code = 4", 4, "failure"),
        ("call.fail('no such table', exit_code=5)", 5, "failure"),
        ("raise ValueError('x')", 1, "failure"),
        ("raise TimeoutError('too slow')", 10, "timeout"),
        ("raise KeyboardInterrupt", 130, "cancelled"),
        ("raise BrokenPipeError", 141, "cancelled"),
        ("raise GeneratorExit", 1, "failure"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "cancelled"),
        ("raise type('OwnError', (Exception,), {'exit_code': 42})", 42, "failure"),
    ],
)
def test_each_end_leaves_one_line(
    form: str,
    body: str,
    code: int,
    outcome: str,
    job: Callable[..., subprocess.CompletedProcess[str]],
    log: Path,
) -> None:
    """
    However a script ends, there is one line with the exit code of the process.
    """
    done = job(body, "--output", form)

    (line,) = calls(log)
    assert (code, code, outcome, code == 0) == (
        done.returncode,
        line["metadata"]["exit_code"],
        line["outcome"],
        line["metadata"]["ok"],
    )
    assert {"table": "books"} == line["metadata"]["params"]
    if form == "json":
        answer = json.loads(done.stdout)
        check("envelope", answer)
        assert (code == 0) == answer["ok"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_end_changes_nothing(
    number: signal.Signals, script: Script, tmp_path: Path, log: Path
) -> None:
    """
    What the interpreter still does when a call is on record is not interrupted: the exit code
    stays the one on record.
    """
    text = JOB.format(body="call.set(data={'rows': 42})")
    waiting = "import atexit, sys\natexit.register(lambda: (print('end', flush=True), input()))"
    program = script(waiting + text)

    with subprocess.Popen(
        [sys.executable, program, "--output", "text"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        process.communicate("\n", timeout=60)

    (line,) = calls(log)
    assert (0, 0) == (process.returncode, line["metadata"]["exit_code"])


def test_a_signal_at_the_very_end_of_the_block_changes_nothing(
    job: Callable[..., subprocess.CompletedProcess[str]], log: Path
) -> None:
    """
    The command is done when the block is left, and its exit code settled.
    """
    body = """
def stop(frame, event, argument):
    if frame.f_code.co_name == "__exit__":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)
sys.setprofile(stop)"""

    done = job(body)

    assert ([0], 0) == ([line["metadata"]["exit_code"] for line in calls(log)], done.returncode)


class TestAnswer:
    @pytest.mark.parametrize(
        ("given", "data"),
        [
            ("None", None),
            ("{'a': 1}", {"a": 1}),
            ("[1, 2]", [1, 2]),
            ("(n for n in (1, 2))", [1, 2]),
            ("(1, 2)", [1, 2]),
            ("'text'", {"result": "text"}),
            ("7", {"result": 7}),
            ("{'path': __import__('pathlib').Path('x'), 'é': 'ü'}", {"path": "x", "é": "ü"}),
        ],
    )
    def test_has_any_data(
        self,
        given: str,
        data: object,
        job: Callable[..., subprocess.CompletedProcess[str]],
    ) -> None:
        """
        Data are null, a list or an object, whatever the script gives.
        """
        answer = json.loads(job(f"call.set(data={given})").stdout)

        check("envelope", answer)
        assert data == answer["data"]

    @pytest.mark.parametrize(
        "body",
        [
            "call.set(data={(1, 2): 3})",
            "rows = []\nrows.append(rows)\ncall.set(data=rows)",
            "call.set(data=(1 // n for n in (1, 0)))",
            "call.set(data=__import__('asyncio').sleep(0))",
            "class Mute(Exception):\n    def __str__(self): return None\nraise Mute",
        ],
        ids=["keys", "circle", "iterator", "coroutine", "mute error"],
    )
    def test_that_cannot_be_said_is_an_error(
        self, body: str, job: Callable[..., subprocess.CompletedProcess[str]], log: Path
    ) -> None:
        """
        Data without a form in JSON, or not there at all, are an error like any other.
        """
        done = job(body)

        answer = json.loads(done.stdout)
        check("envelope", answer)
        (line,) = calls(log)
        assert (1, 1, "failure") == (
            done.returncode,
            line["metadata"]["exit_code"],
            line["outcome"],
        )
        assert 1 == answer["error"]["exit_code"]

    def test_has_no_numbers_that_json_does_not_know(
        self, job: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        What is not a number, or infinite, is null: other readers than Python's take nothing else.
        """
        done = job("call.set(data={'a': float('nan'), 'b': [float('inf'), 0.1]})")

        assert '"data":{"a":null,"b":[null,0.1]}' in done.stdout

    def test_as_lines(self, job: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        """
        As JSON lines, each item of a list has its own, and the envelope comes last.
        """
        done = job("call.set(data=[{'n': 1}, {'n': 2}])", "--output=jsonl")

        first, second, envelope = map(json.loads, done.stdout.splitlines())
        assert ({"n": 1}, {"n": 2}, None, True) == (
            first,
            second,
            envelope["data"],
            envelope["ok"],
        )

    def test_of_a_failure(self, job: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        """
        A script says what an agent can do about an error.
        """
        done = job("call.fail('no such table', exit_code=5, suggestion='run nightly-job --list')")

        error = json.loads(done.stdout)["error"]
        assert {
            "code": "NOT_FOUND",
            "exit_code": 5,
            "retryable": False,
            "phase": "execution",
            "message": "no such table",
            "suggestion": "run nightly-job --list",
        } == error

    def test_keeps_what_children_print_apart(
        self, job: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        What the script and its children print cannot spoil the answer.
        """
        done = job("print('one', flush=True); os.system('echo two')")

        assert (True, ["one", "two"]) == (
            json.loads(done.stdout)["ok"],
            done.stderr.splitlines(),
        )

    def test_has_warnings(self, job: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        """
        A warning is in the answer, or on standard error with the trace it belongs to.
        """
        trace = {"TOOL_TRACE_ID": "test-123"}

        answered = json.loads(job("call.warn('half full')", env=trace).stdout)
        shown = job("call.warn('half full')", "--output", "text", env=trace).stderr

        assert ["half full"] == answered["warnings"]
        assert "nightly-job: [trace test-123] warning: half full\n" == shown


class TestRecord:
    @pytest.mark.parametrize(
        ("variable", "operator"),
        [
            ({}, f"user:{LOGIN}"),
            ({"HARKEN_ACTOR": "agent:billing"}, "agent:billing"),
            ({"HARKEN_ACTOR": "nonsense"}, f"user:{LOGIN}"),
            ({"HARKEN_ACTOR": "agent:\x1b[31m"}, f"user:{LOGIN}"),
        ],
        ids=["login", "HARKEN_ACTOR", "malformed", "unprintable"],
    )
    def test_says_who_called(
        self,
        variable: dict[str, str],
        operator: str,
        job: Callable[..., subprocess.CompletedProcess[str]],
        log: Path,
    ) -> None:
        """
        The operator is who `HARKEN_ACTOR` says, else the user.
        """
        job("pass", env=variable)

        (line,) = calls(log)
        assert (operator, operator) == (line["actor"], line["metadata"]["operator"])

    def test_goes_where_it_is_told(
        self, job: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, log: Path
    ) -> None:
        """
        A variable of the tool's own, or harken's, names another log.
        """
        own = tmp_path / "own.jsonl"
        shared = tmp_path / "shared.jsonl"

        job("pass", env={"NIGHTLY_JOB_AUDIT_LOG": str(own)})
        job("pass", env={"HARKEN_AUDIT_JSONL_PATH": str(shared)})

        assert (1, 1, []) == (len(calls(own)), len(calls(shared)), calls(log))

    def test_can_be_switched_off(
        self, job: Callable[..., subprocess.CompletedProcess[str]], log: Path
    ) -> None:
        """
        With `HARKEN_AUDIT=off` there is no log, and the answer names none.
        """
        answer = json.loads(job("pass", env={"HARKEN_AUDIT": "off"}).stdout)

        assert (True, False, []) == (
            answer["ok"],
            "audit_log_path" in answer["meta"],
            calls(log),
        )

    def test_that_cannot_be_kept(
        self, job: Callable[..., subprocess.CompletedProcess[str]], log: Path
    ) -> None:
        """
        Without a log the command goes on and says so; with `raise` it does not begin.
        """
        log.mkdir(parents=True)

        answer = json.loads(job("call.set(data={'rows': 42})").stdout)
        refused = job("print('begun')", env={"HARKEN_AUDIT_ON_FAILURE": "raise"})

        (warning,) = answer["warnings"]
        assert "this call is not on record" in warning
        assert {"rows": 42} == answer["data"]
        assert (125, "NOT_RECORDED") == (
            refused.returncode,
            json.loads(refused.stdout)["error"]["code"],
        )
        assert "begun" not in refused.stderr

    def test_is_heard_by_other_sinks(
        self, job: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        """
        Metrics, logs and spans come with it, where settings ask for them.
        """
        env = {
            "HARKEN_METRICS_FILE_PATH": str(tmp_path / "metrics.prom"),
            "HARKEN_LOG_PATH": str(tmp_path / "events.log"),
            "HARKEN_TRACES": f"file:{tmp_path / 'spans.jsonl'}",
        }

        job("pass", env=env)

        assert 'command="nightly-job"' in (tmp_path / "metrics.prom").read_text()
        assert "command.completed" in (tmp_path / "events.log").read_text()
        assert "nightly-job" in (tmp_path / "spans.jsonl").read_text()

    def test_is_the_parents_alone_after_a_fork(
        self, job: Callable[..., subprocess.CompletedProcess[str]], log: Path
    ) -> None:
        """
        A forked child that leaves the block neither answers nor records.
        """
        done = job("if not os.fork():\n    sys.exit(3)\nos.wait()")

        assert (0, True, 1) == (done.returncode, json.loads(done.stdout)["ok"], len(calls(log)))

    def test_has_the_events_of_the_script(
        self, job: Callable[..., subprocess.CompletedProcess[str]], log: Path
    ) -> None:
        """
        What the script publishes on the bus of the call stands in the same log, below the call.
        """
        job(
            "from harken.catalog import ToolStarted\n"
            "with call.bus.operation(ToolStarted(tool_name='dump')): pass"
        )

        lines = [json.loads(line) for line in log.read_text().splitlines()]
        (tool,) = [line for line in lines if line["event_type"] == "tool.completed"]
        (call,) = calls(log)
        assert (call["trace_id"], call["span_id"]) == (tool["trace_id"], tool["parent_span_id"])


def test_a_tool_has_a_trace_id_of_its_own(
    job: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """
    Besides `TOOL_TRACE_ID` a tool reads the variable that is for it only.
    """
    env = {"NIGHTLY_JOB_TRACE_ID": "mine"}

    assert "mine" == json.loads(job("pass", env=env).stdout)["meta"]["trace_id"]


def test_wrong_form(job: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """
    A form that there is not is wrong usage.
    """
    assert [2, 2] == [
        job("pass", "--output", "yaml").returncode,
        job("pass", "--output").returncode,
    ]


def test_the_current_call() -> None:
    """
    Code of a tool finds the call that it is a part of; outside there is none.
    """
    with Invocation("nightly-job", command="dump") as call:
        inside = current()

    assert (call, None) == (inside, current())


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the block the environment and the handlers of signals are what they were.
    """
    monkeypatch.setenv("TOOL_TRACE_ID", "test-123")
    before = (dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))

    with Invocation("nightly-job", command="dump"):
        inside = os.environ["TRACEPARENT"]

    assert inside.startswith("00-")
    assert before == (
        dict(os.environ),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
    )


def test_other_apps_are_refused() -> None:
    """
    What is no command line is told so.
    """
    with pytest.raises(UnknownAppError, match="use invocation"):
        contract(print, tool="x")


def test_login_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A user without a name is known by the number.
    """

    def unknown(number: int) -> object:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)

    assert str(os.getuid()) == login()
