"""
Logs that nobody tampered with, made by several processes under load and faults.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[1] / "faults" / "untampered_logs.py"


def test_no_false_alarm() -> None:
    """
    Whatever is done to files and writers while a log is written, short of tampering: `verify()`
    calls it no tampering, and nothing is lost that is not counted. As many logs as there are
    faults, so that each is met.
    """
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--logs", "13", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert 0 == ended.returncode, ended.stdout + ended.stderr
    assert re.search(r"13 logs, .* 0 false alarms, 0 silent losses, 0 other faults", ended.stdout)
