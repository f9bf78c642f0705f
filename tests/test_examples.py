"""
The example projects, tested as whoever copies them would.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.once


@pytest.fixture
def clerk(tmp_path: Path) -> Path:
    """
    A copy of the example, outside of the repository.
    """
    return Path(shutil.copytree(EXAMPLES / "clerk", tmp_path / "clerk"))


@pytest.mark.parametrize("command", ["pytest", "behave"])
def test_the_clerk(command: str, clerk: Path) -> None:
    """
    Its own tests and features pass.
    """
    done = run(clerk, "-m", command)

    assert 0 == done.returncode, done.stdout


@pytest.mark.parametrize("command", ["pytest", "behave"])
def test_a_clerk_that_pays(command: str, clerk: Path) -> None:
    """
    Both notice when the clerk does what it must not do.
    """
    path = clerk / "clerk.py"
    path.write_text(path.read_text().replace("not in self._forbidden", "is not None"))
    done = run(clerk, "-m", command)

    assert 1 == done.returncode, done.stdout


def test_the_sink_on_the_page() -> None:
    """
    The sink of the example is the one that the page shows.
    """
    page = (ROOT / "docs" / "sinks.md").read_text(encoding="utf-8")
    sink = (EXAMPLES / "clerk" / "csv_sink.py").read_text(encoding="utf-8")

    assert f"```python csv_sink.py\n{sink}```\n" in page
    assert 30 >= len([line for line in sink.splitlines() if line])


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
