"""
Tools of four libraries under the contract.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.tools import LIBRARIES, calls, check, example

pytestmark = pytest.mark.once

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

FORMS = ("json", "text")
FOREVER = ("verify", "staging", "--seconds", "60")


def log_of(library: str, data_home: Path) -> Path:
    return data_home / f"deploy-{library}" / "audit.jsonl"


def codes(library: str, data_home: Path) -> list[int]:
    return [line["metadata"]["exit_code"] for line in calls(log_of(library, data_home))]


@pytest.mark.parametrize("library", LIBRARIES)
class TestTraceId:
    @pytest.mark.parametrize(
        "args",
        [
            ("deploy", "staging"),
            ("deploy", "nowhere"),
            ("deploy", "unreachable"),
            ("deploy",),
            ("no-such-command",),
            ("verify", "staging"),
            ("rollback", "staging"),
            ("schema",),
            ("audit-log", "--output", "json"),
            ("--help",),
        ],
        ids=" ".join,
    )
    def test_is_in_every_answer_and_in_its_audit_line(
        self, library: str, args: tuple[str, ...], run: Run, data_home: Path
    ) -> None:
        """
        With `TOOL_TRACE_ID=test-123`, any command answers `meta.trace_id == "test-123"`, in an
        envelope as the schema says, and so does its one line in the audit log.
        """
        done = run(example(library), *args, env={"TOOL_TRACE_ID": "test-123"})

        answer = json.loads(done.stdout)
        check("envelope", answer)
        assert "test-123" == answer["meta"]["trace_id"]
        assert answer["ok"] == (done.returncode == 0)
        assert answer["ok"] or answer["error"]["exit_code"] == done.returncode
        (line,) = calls(log_of(library, data_home))
        assert ("test-123", answer["meta"]["request_id"], done.returncode) == (
            line["correlation_id"],
            line["metadata"]["request_id"],
            line["metadata"]["exit_code"],
        )

    def test_is_in_the_line_of_a_child(self, library: str, run: Run, data_home: Path) -> None:
        """
        A tool that another one calls is part of the same trace, below the operation of its caller.
        """
        run(example(library), "deploy", "staging", env={"TOOL_TRACE_ID": "test-123"})

        (parent,) = calls(log_of(library, data_home))
        (child,) = calls(data_home / "notify" / "audit.jsonl")
        assert ("test-123", parent["trace_id"], parent["span_id"]) == (
            child["correlation_id"],
            child["trace_id"],
            child["parent_span_id"],
        )


@pytest.mark.parametrize("library", LIBRARIES)
class TestEnds:
    """
    Each end leaves exactly one line, with the exit code that the process had.
    """

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("args", "code"),
        [
            (("deploy", "staging"), 0),
            (("deploy", "nowhere"), 5),
            (("deploy", "unreachable"), 1),
            (("deploy", "staging", "--no-such-option"), 2),
            (("no-such-command",), 2),
        ],
        ids=["success", "exit 5", "exception", "usage error", "no such command"],
    )
    def test_by_itself(
        self, library: str, form: str, args: tuple[str, ...], code: int, run: Run, data_home: Path
    ) -> None:
        done = run(example(library), *args, "--output", form)

        assert ([code], code) == (codes(library, data_home), done.returncode), done.stderr

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
        ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
    )
    def test_by_a_signal(
        self,
        library: str,
        form: str,
        number: signal.Signals,
        code: int,
        start: Start,
        data_home: Path,
    ) -> None:
        process = start(example(library), *FOREVER, "--output", form)
        shown = process.stdout if form == "text" else process.stderr
        assert shown is not None
        shown.readline()

        process.send_signal(number)
        process.communicate(timeout=60)

        (line,) = calls(log_of(library, data_home))
        assert (code, code, "cancelled") == (
            process.returncode,
            line["metadata"]["exit_code"],
            line["outcome"],
        )

    @pytest.mark.parametrize("form", FORMS)
    def test_with_a_reader_that_went_away(
        self, library: str, form: str, start: Start, data_home: Path
    ) -> None:
        process = start(example(library), "verify", "staging", "--seconds", "1", "--output", form)
        assert process.stdout is not None and process.stderr is not None

        process.stdout.close()
        process.stderr.read()
        process.wait(timeout=60)

        assert [process.returncode] == codes(library, data_home)

    @pytest.mark.parametrize("form", FORMS)
    def test_with_a_closed_standard_output(
        self, library: str, form: str, tmp_path: Path, data_home: Path
    ) -> None:
        program = example(library)
        shell = f'exec "$0" "$1" rollback staging --output {form} >&-'

        done = subprocess.run(
            ["/bin/sh", "-c", shell, sys.executable, program], cwd=tmp_path, check=False
        )

        assert ([0], 0) == (codes(library, data_home), done.returncode)

    @pytest.mark.parametrize("form", FORMS)
    def test_with_a_full_disk(self, library: str, form: str, run: Run, data_home: Path) -> None:
        with open("/dev/full", "w", encoding="ascii") as full:
            done = run(example(library), "rollback", "staging", "--output", form, stdout=full)

        assert ([1], 1) == (codes(library, data_home), done.returncode)


@pytest.mark.parametrize("library", LIBRARIES)
class TestAnswer:
    def test_of_a_command(self, library: str, run: Run, data_home: Path) -> None:
        """
        What the command returns is the data; what it prints is on standard error.
        """
        done = run(example(library), "deploy", "staging", "--api-token", "hunter2hunter2")

        answer = json.loads(done.stdout)
        meta = answer["meta"]
        assert (
            {"env": "staging", "revision": "main"},
            "deploy",
            ("1.2.3", "1.2.3", "1.0"),
            str(log_of(library, data_home)),
        ) == (
            answer["data"],
            meta["command"],
            (meta["version"], meta["tool_version"], meta["schema_version"]),
            meta["audit_log_path"],
        )
        assert "deploying main to staging" in done.stderr
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7.*", meta["request_id"])
        assert "trace_id" not in meta

    def test_as_text(self, library: str, run: Run) -> None:
        """
        Text is the tool's own.
        """
        done = run(example(library), "rollback", "staging", "--output", "text")

        assert (0, "rolling back staging") == (done.returncode, done.stdout.splitlines()[0])

    def test_of_help(self, library: str, run: Run) -> None:
        """
        Who asks for help gets it, with what the contract adds.
        """
        answer = json.loads(run(example(library), "--help").stdout)
        shown = run(example(library), "--help", "--output", "text").stdout

        for text in (answer["data"]["text"], shown):
            assert [True] * 3 == [word in text for word in ("rollback", "audit-log", "schema")]

    def test_of_a_usage_error(self, library: str, run: Run) -> None:
        """
        What was not understood is said by an error, and nothing was done.
        """
        answer = json.loads(run(example(library), "deploy").stdout)

        assert ("ARG_ERROR", "validation", "deploy") == (
            answer["error"]["code"],
            answer["error"]["phase"],
            answer["meta"]["command"],
        )
        assert "env" in answer["error"]["message"].lower()

    def test_in_no_such_form(self, library: str, run: Run) -> None:
        """
        A form that there is not is a usage error, too.
        """
        done = run(example(library), "rollback", "staging", "--output", "yaml")

        assert (2, "ARG_ERROR") == (done.returncode, json.loads(done.stdout)["error"]["code"])

    def test_refuses_bad_values(self, library: str, run: Run) -> None:
        """
        What the environment says and cannot be is refused with a warning, and goes to no child.
        """
        bad = {
            "TOOL_TRACE_ID": "a\x1b[31m",
            "TRACEPARENT": "00-nonsense",
            "TRACESTATE": "é",
            "BAGGAGE": "x" * 9000,
        }

        answer = json.loads(run(example(library), "rollback", "staging", env=bad).stdout)

        assert list(bad) == sorted(
            (warning.split()[0] for warning in answer["warnings"]), key=list(bad).index
        )
        assert "trace_id" not in answer["meta"]


@pytest.mark.parametrize("library", LIBRARIES)
class TestAuditLog:
    def test_tells_the_calls(self, library: str, run: Run) -> None:
        """
        `audit-log --output jsonl` prints a line for each call as the schema says, without secrets.
        """
        program = example(library)
        secret = "hunter2hunter2"
        run(program, "deploy", "staging", "--api-token", secret, env={"TOOL_TRACE_ID": "test-123"})
        bad = (f"--api-token={secret}", "--bogus", f"-p{secret}", "--", f"-{secret}")
        run(program, "deploy", *bad, env={"TOOL_TRACE_ID": "t-2"})

        done = run(program, "audit-log", "--since", "1h", "--output", "jsonl")

        found = [json.loads(line) for line in done.stdout.splitlines()]
        for entry in found:
            check("audit_entry", entry)
        assert [("deploy", 0, "test-123"), (2, "t-2")] == [
            (found[0]["command"], found[0]["exit_code"], found[0]["trace_id"]),
            (found[1]["exit_code"], found[1]["trace_id"]),
        ]
        assert "staging" == found[0]["params"]["env"]
        assert {"--api-token": None, "--bogus": None, "-p": None} == found[1]["params"]
        assert secret not in done.stdout

    def test_finds_calls(self, library: str, run: Run, data_home: Path) -> None:
        """
        Calls are found by command, by either trace id, and by number.
        """
        program = example(library)
        for command in ("deploy", "verify", "rollback"):
            run(program, command, "staging", env={"TOOL_TRACE_ID": f"trace-{command}"})
        verify = calls(log_of(library, data_home))[1]

        def found(*options: str) -> list[str]:
            lines = run(program, "audit-log", *options, "--output", "jsonl").stdout.splitlines()
            return [json.loads(line)["command"] for line in lines]

        assert ["deploy"] == found("--command", "deploy")
        assert ["verify"] == found("--trace-id", "trace-verify")
        assert ["verify"] == found("--trace-id", verify["trace_id"])
        assert ["deploy", "verify", "rollback", *["audit-log"] * 3] == found()
        assert ["audit-log"] == found("--limit", "1")
        assert [] == found("--since", "2030-01-01")

    def test_as_a_table(self, library: str, run: Run) -> None:
        """
        People get a table, also where not every letter can be shown.
        """
        program = example(library)
        run(program, "rollback", "staging", env={"TOOL_TRACE_ID": "für-alle"})

        done = run(program, "audit-log", "--output", "table", env={"PYTHONIOENCODING": "ascii"})

        header, row = done.stdout.splitlines()
        assert ["TIMESTAMP", "COMMAND", "PARAMS", "EXIT_CODE"] == header.split()[:4]
        assert "rollback" == row.split()[1]
        assert r"f\xfcr-alle" in row

    @pytest.mark.parametrize(
        ("options", "code"),
        [(("--since", "whenever"), 2), (("--bogus",), 2), (("--limit", "-1"), 2)],
        ids=str,
    )
    def test_wrong_usage(
        self, library: str, options: tuple[str, ...], code: int, run: Run, data_home: Path
    ) -> None:
        """
        A mistake is one here, too, and on record.
        """
        done = run(example(library), "audit-log", *options)

        assert ([code], code) == (codes(library, data_home), done.returncode)


@pytest.mark.parametrize("library", LIBRARIES)
def test_three_calls_of_a_session_are_reconstructed(
    library: str, run: Run, data_home: Path
) -> None:
    """
    From the log alone, `harken trail` and `audit-log` tell deploy, verify and rollback in order,
    with times.
    """
    program = example(library)
    session = {"BAGGAGE": "harken.session_id=session-7"}
    for step, command in enumerate(("deploy", "verify", "rollback")):
        run(program, command, "staging", env={**session, "TOOL_TRACE_ID": f"session-7-{step}"})

    log = str(log_of(library, data_home))
    picture = run(Path("-m"), "harken", "trail", "-F", log, "session-7").stdout
    told = run(program, "audit-log").stdout.splitlines()

    rows = re.findall(r"\+\S+ m?s command (\w+) +\S+ m?s", picture)
    assert ["deploy", "verify", "rollback"] == rows, picture
    entries = [json.loads(line) for line in told]
    assert ["deploy", "verify", "rollback"] == [entry["command"] for entry in entries]
    assert sorted(told) == told
    assert all(entry["duration_ms"] >= 0 for entry in entries)


@pytest.mark.parametrize("library", LIBRARIES)
def test_schema(library: str, run: Run) -> None:
    """
    A tool says what its answers look like.
    """
    answer = json.loads(run(example(library), "schema").stdout)

    check("envelope", answer)
    assert "urn:harken:contract:envelope" == answer["data"]["envelope"]["$id"]
    assert {"name": "NOT_FOUND"} == answer["data"]["exit_codes"]["5"]
