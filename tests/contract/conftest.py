"""
Tools under the contract, each called as an agent or a shell calls it: in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.tools import Environment, environment


@pytest.fixture(autouse=True)
def data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """
    The folder of the user's data, which is the test's own.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    A function that runs a Python program with its arguments, to its end.
    """

    def run(
        program: Path, *args: str, env: Environment | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, program, *args],
            cwd=tmp_path,
            env=environment(env),
            text=True,
            timeout=60,
            check=False,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **more,
            },
        )

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """
    A function that starts a Python program with its arguments.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(program: Path, *args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, program, *args],
            cwd=tmp_path,
            env=environment(None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """
    A function that writes a program.
    """

    def write(text: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(text)
        return path

    return write
