"""
The format file for lnav, in lnav.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from tests.report.agents import write_agent_log

from harken.record import MEMBERS

FORMAT = Path(__file__).parents[1] / "docs" / "lnav.json"

Lnav = Callable[..., str]


@pytest.fixture
def lnav(require_server: Callable[[str], str], tmp_path: Path) -> Lnav:
    """
    A function that runs lnav, with the format installed, on its arguments.
    """
    command = require_server("lnav")
    formats = tmp_path / "home" / ".lnav" / "formats" / "installed"
    formats.mkdir(parents=True)
    shutil.copy(FORMAT, formats)

    def run(*args: str) -> str:
        done = subprocess.run(
            [command, *args],
            env={**os.environ, "HOME": str(tmp_path / "home"), "TERM": "dumb", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (0, "") == (done.returncode, done.stderr), done.stdout
        return done.stdout

    return run


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "audit.jsonl"
    write_agent_log(path, 10)
    return str(path)


def test_every_member_is_known() -> None:
    """
    The format knows the members of a record, all of them and in their order; lnav has the timestamp
    from elsewhere.
    """
    described = json.loads(FORMAT.read_text(encoding="utf-8"))["harken_audit"]

    assert list(MEMBERS[1:]) == list(described["value"])


def test_format_is_valid(lnav: Lnav) -> None:
    """
    lnav finds nothing wrong with the format.
    """
    lnav("-C")


def test_lines(lnav: Lnav, log: str) -> None:
    """
    A record is one line with its time, its number, its type, its outcome, who and what.
    """
    lines = lnav("-n", log).splitlines()

    assert 89 == len(lines)
    assert ["#3", "llm.started", "null", "agent:coder", "model:m-large"] == lines[2].split()[1:]


def test_query(lnav: Lnav, log: str) -> None:
    """
    Outcomes are levels, and members are columns.
    """
    query = (
        ";SELECT seq, event_type, log_level, json_extract(metadata, '$.error_type') AS error "
        "FROM harken_audit WHERE log_level IN ('error', 'warning') ORDER BY seq"
    )
    printed = lnav("-n", "-c", query, "-c", ":write-csv-to -", log)

    rows = list(csv.reader(StringIO(printed)))
    assert ["seq", "event_type", "log_level", "error"] == rows[0]
    assert [
        ("tool.failed", "error", "OSError"),
        ("approval.requested", "warning", "<NULL>"),
        ("approval.denied", "warning", "<NULL>"),
        ("tool.denied", "warning", "<NULL>"),
    ] == [tuple(row[1:]) for row in rows[1:]]
