"""
`harken ingest`: what an agent did elsewhere, on the record.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

TRANSCRIPTS = Path(__file__).parents[1] / "adapters" / "transcripts"
CLAUDE = (TRANSCRIPTS / "claude.jsonl").read_text(encoding="utf-8")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ingest(tmp_path: Path) -> Run:
    """
    A function that runs `harken ingest` in the test's folder, with an audit log there.
    """

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harken", "ingest", *args],
            cwd=tmp_path,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": ":".join(sys.path),
                "HOME": str(tmp_path),
                "HARKEN_AUDIT_JSONL_PATH": "audit.jsonl",
                "HARKEN_METRICS_FILE_PATH": "metrics.prom",
                "HARKEN_LOG_PATH": "events.log",
                "HARKEN_TRACES": "file:spans.jsonl",
            },
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def records(folder: Path) -> list[dict[str, Any]]:
    """
    Return the records of the audit log, without harken's own.
    """
    lines = (folder / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [one for one in found if not one["event_type"].startswith("audit.")]


def verified(folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "harken", "verify", "--chain-only", "audit.jsonl"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return done.returncode


def test_a_transcript_goes_through_all_sinks(ingest: Run, tmp_path: Path) -> None:
    """
    Audit log, metrics, logs and spans tell the run, with the times of the transcript.
    """
    done = ingest(str(TRANSCRIPTS / "claude.jsonl"))

    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert "13 messages, 1 run," in done.stderr
    begun, *_, ended = records(tmp_path)
    assert ("run.started", "2026-03-01T10:00:00.000000Z") == (
        begun["event_type"],
        begun["occurred"],
    )
    assert ("run.completed", "2026-03-01T10:00:11.000000Z", "success") == (
        ended["event_type"],
        ended["occurred"],
        ended["outcome"],
    )
    assert begun["timestamp"] > begun["occurred"]
    assert ("agent:claude-code", "5f1c") == (begun["actor"], begun["session_id"])
    assert 0 == verified(tmp_path)
    metrics = (tmp_path / "metrics.prom").read_text(encoding="utf-8")
    assert 'infra_agent_tool_calls_total{status="success",tool="Bash"} 2.0' in metrics
    lines = (tmp_path / "spans.jsonl").read_text(encoding="utf-8").splitlines()
    spans = [json.loads(line) for line in lines]
    (bash,) = [one for one in spans if one["attributes"].get("gen_ai.tool.call.id") == "toolu_1"]
    assert "2026-03-01T10:00:03.2" in bash["start_time"]
    assert "2026-03-01T10:00:05.2" in bash["end_time"]
    assert "tool.started" in (tmp_path / "events.log").read_text(encoding="utf-8")


def test_a_transcript_comes_through_a_pipe(ingest: Run, tmp_path: Path) -> None:
    """
    By default standard input is read.
    """
    done = ingest(stdin=CLAUDE)

    assert 0 == done.returncode, done.stderr
    assert "run.completed" == records(tmp_path)[-1]["event_type"]


def test_a_truncated_transcript_says_so(ingest: Run, tmp_path: Path) -> None:
    """
    The operator is told, the record says that nobody knows the end, and the log verifies.
    """
    done = ingest("-", stdin=CLAUDE[: len(CLAUDE) // 2])

    assert 3 == done.returncode
    assert "truncated" in done.stderr
    assert "is no message" in done.stderr
    (end,) = [one for one in records(tmp_path) if one["event_type"] == "run.failed"]
    assert "unknown" == end["outcome"]
    assert 0 == verified(tmp_path)


@pytest.mark.parametrize("form", ["claude-stream-json", "codex-jsonl", "otel-genai"])
def test_a_transcript_of_another_form(ingest: Run, form: str) -> None:
    """
    Where no message is understood, the operator is told so, and which form was expected.
    """
    done = ingest("--from", form, stdin='{"seq":1}\n{"seq":2}\n')

    assert 3 == done.returncode
    assert f"none of it is understood; is it {form}? --from names another form" in done.stderr


def test_an_empty_transcript(ingest: Run) -> None:
    """
    Where there is nothing, all of it is on the record.
    """
    done = ingest(stdin="")

    assert (0, "0 messages, 0 runs, 0 events\n") == (done.returncode, done.stderr)


def test_a_file_that_is_not_there(ingest: Run) -> None:
    """
    One sentence, and the exit code of things that cannot be used.
    """
    done = ingest("--from", "codex-jsonl", "no-such.jsonl")

    assert 4 == done.returncode
    assert "cannot read no-such.jsonl" in done.stderr


def test_a_format_that_nobody_knows(ingest: Run) -> None:
    """
    The formats that there are stand in the message.
    """
    done = ingest("--from", "smoke-signals")

    assert 2 == done.returncode
    assert "otel-genai" in done.stderr


@pytest.mark.parametrize(
    ("format", "name"), [("codex-jsonl", "codex.jsonl"), ("otel-genai", "otel.jsonl")]
)
def test_other_formats(ingest: Run, tmp_path: Path, format: str, name: str) -> None:
    """
    Each format is on the record, and the log verifies.
    """
    done = ingest("--from", format, str(TRANSCRIPTS / name))

    assert 0 == done.returncode, done.stderr
    assert {"run.started", "tool.started"} <= {one["event_type"] for one in records(tmp_path)}
    assert 0 == verified(tmp_path)
