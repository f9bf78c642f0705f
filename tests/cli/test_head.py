"""
`harken head`: what to keep elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.trail.logs import hash_of, lines_of, write_log

Call = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "audit.jsonl"
    monkeypatch.setenv("HARKEN_AUDIT_JSONL_PATH", str(path))
    return path


def test_line(call: Call, path: Path) -> None:
    """
    The number and the hash of the last line, in one line.
    """
    write_log(path)

    called = call("head")

    assert (0, f"13 {hash_of(lines_of(path)[-1])}\n") == (called.code, called.out)


def test_json(call: Call, path: Path) -> None:
    """
    With `--json`, also where and when it was written.
    """
    write_log(path, 60, max_bytes=9000)
    last = json.loads(lines_of(path)[-1])

    called = call("head", str(path), "--json")

    assert {
        "path": str(path),
        "seq": last["seq"],
        "hash": last["hash"],
        "timestamp": last["timestamp"],
    } == json.loads(called.out)
    assert 1 == len(called.out.splitlines())


def test_no_log(call: Call, path: Path) -> None:
    """
    Without a log there is nothing to print.
    """
    called = call("head")

    assert (4, "") == (called.code, called.out)
    assert f"there is no audit log at {path}; give its path" in called.err


def test_no_record(call: Call, path: Path) -> None:
    """
    So it is with a file that has no record.
    """
    path.write_bytes(b"hello\n")

    called = call("head")

    assert (4, "") == (called.code, called.out)
    assert "holds no sealed record" in called.err


def test_envelope(call: Call, path: Path) -> None:
    """
    With `-o json` it is the answer of an envelope.
    """
    write_log(path)

    called = call("head", "-F", str(path), "-o", "json")

    answer = json.loads(called.out)
    assert (True, 13, "head") == (answer["ok"], answer["data"]["seq"], answer["meta"]["command"])


def test_envelope_of_an_error(call: Call) -> None:
    """
    Where there is no log, the envelope says so.
    """
    called = call("head", "-F", "none.jsonl", "-o", "json")

    assert (4, False) == (called.code, json.loads(called.out)["ok"])
