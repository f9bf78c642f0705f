"""
harken's own calls, which are under the contract that it has for other tools.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.tools import calls, check

pytestmark = pytest.mark.once

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

ENVIRONMENT = {"TOOL_TRACE_ID": "test-123"}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """
    Where harken's own calls are on record.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "harken" / "commands.jsonl"


@pytest.mark.parametrize(
    "args",
    [
        "version --output json",
        "schema tool.started --output json",
        "catalog -o json",
        "completion bash --output json",
        "demo --out d --runs 1 --output json",
        "query -F d/audit.jsonl -o json",
        "runs -F d/audit.jsonl -o json",
        "trail -F d/audit.jsonl -o json",
        "stats -F d/audit.jsonl -o json",
        "audit-log -F d/audit.jsonl -o json",
        "show -F d/audit.jsonl 2 -o json",
        "doctor -F d/audit.jsonl -o json",
        "head d/audit.jsonl --output json",
        "verify d/audit.jsonl --output json",
        "keygen key.json --output json",
        "keygen --output json",
        "runs -F nowhere.jsonl -o json",
        "head nowhere.jsonl --output json",
        "runs --bogus -o json",
        "head --bogus --output json",
        "query --since 1h surplus --output json",
    ],
)
def test_answers_carry_the_trace_id_and_so_does_the_line(
    args: str, harken: Run, log: Path, tmp_path: Path
) -> None:
    """
    With `TOOL_TRACE_ID=test-123`, any command answers `meta.trace_id == "test-123"`, and so does
    its one line in the log of harken's own calls.
    """
    if "d/audit" in args:
        harken("demo", "--out", "d", "--runs", "1", env={"HARKEN_AUDIT_LOG": "other.jsonl"})
    done = subprocess.run(
        [sys.executable, "-m", "harken", *args.split()],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    answer = json.loads(done.stdout)
    check("envelope", answer)
    line = calls(log)[-1]
    assert ("test-123", args.split(maxsplit=1)[0], str(log)) == (
        answer["meta"]["trace_id"],
        answer["meta"]["command"],
        answer["meta"]["audit_log_path"],
    )
    assert ("test-123", answer["meta"]["request_id"], done.returncode) == (
        line["correlation_id"],
        line["metadata"]["request_id"],
        line["metadata"]["exit_code"],
    )


@pytest.mark.parametrize("command", [("version",), ("runs", "-F", "d/audit.jsonl")], ids=str)
def test_the_form_may_stand_before_the_command(
    command: tuple[str, ...], harken: Run, log: Path
) -> None:
    """
    Of both kinds of commands: with forms of their own, and without.
    """
    harken("demo", "--out", "d", "--runs", "1", env={"HARKEN_AUDIT_LOG": "other.jsonl"})

    answer = json.loads(harken("--output", "json", *command).stdout)

    assert (True, command[0]) == (answer["ok"], answer["meta"]["command"])


def test_a_child_of_exec_carries_it_too(harken: Run, log: Path) -> None:
    """
    What `harken exec` runs is in the same trace, in its own line as in that of exec.
    """
    code = "from harken import contract\nwith contract.invocation('child'): pass"
    harken("exec", "--", sys.executable, "-c", code, env=ENVIRONMENT)

    (parent,) = calls(log.with_name("audit.jsonl"))
    (child,) = calls(log.parents[1] / "child" / "audit.jsonl")
    assert ("test-123", "test-123", parent["span_id"]) == (
        parent["correlation_id"],
        child["correlation_id"],
        child["parent_span_id"],
    )


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("version",), 0),
        (("runs", "-F", "nowhere"), 4),
        (("runs", "--bogus"), 2),
        (("bogus",), 2),
        (("--bogus",), 2),
        (("version", "--output", "yaml"), 2),
        (("--output", "text", "version"), 0),
    ],
    ids=str,
)
def test_each_end_leaves_one_line(args: tuple[str, ...], code: int, harken: Run, log: Path) -> None:
    """
    Also a call that failed, or was not understood, is on record once.
    """
    harken(*args, returncode=code)

    assert [code] == [line["metadata"]["exit_code"] for line in calls(log)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_one_line(
    number: signal.Signals, code: int, harken: Run, started: Start, log: Path
) -> None:
    """
    A command that a signal ends is on record with the exit code that it had.
    """
    harken("demo", "--out", "d", "--runs", "1", env={"HARKEN_AUDIT_LOG": "other.jsonl"})
    process = started("tail", "-f", "-F", "d/audit.jsonl")
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(number)
    process.communicate(timeout=60)

    assert ([code], code) == (
        [line["metadata"]["exit_code"] for line in calls(log)],
        process.returncode,
    )


def test_reading_a_log_does_not_change_it(harken: Run, log: Path, tmp_path: Path) -> None:
    """
    Whoever reads a log leaves it as it is, also where it is the one of all settings.
    """
    harken("demo", "--out", "d", "--runs", "1")
    audit = tmp_path / "d" / "audit.jsonl"
    before = audit.read_bytes()

    harken("query", env={"HARKEN_AUDIT_JSONL_PATH": str(audit)})

    assert before == audit.read_bytes()


def test_a_log_that_cannot_be_written_keeps_nobody_from_reading(harken: Run, log: Path) -> None:
    """
    Without a place for the record, the answer is the same, and its warnings tell.
    """
    log.mkdir(parents=True)

    shown = harken("version")
    answer = json.loads(harken("version", "--output", "json").stdout)

    assert "" == shown.stderr
    (warning,) = answer["warnings"]
    assert "this call is not on record" in warning


def test_can_be_switched_off(harken: Run, log: Path) -> None:
    """
    With `HARKEN_AUDIT=off` nothing is recorded.
    """
    harken("version", env={"HARKEN_AUDIT": "off"})

    assert not log.exists()


def test_wrong_form(harken: Run, log: Path) -> None:
    """
    A form that a command does not have is wrong usage.
    """
    done = harken("version", "--output", "yaml", returncode=2)

    assert "--output is one of json, jsonl, text" in done.stderr
