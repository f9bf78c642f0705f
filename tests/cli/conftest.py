"""
The command line as a person or a script calls it: in a process of its own, or on a terminal.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from harken.cli import main

HARKEN = (sys.executable, "-m", "harken")

# Keys such as Ctrl-C reach only those whose terminal it is.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

Environment = dict[str, str | None]


class Terminal:
    """
    A process on a terminal of its own, as in a window.

    Attributes:
        shown: What it has written so far, with all control characters.
    """

    def __init__(self, argv: Sequence[str], cwd: Path, env: dict[str, str], columns: int) -> None:
        self._mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.shown = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *argv],
            cwd=cwd,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._mine, keys.encode())

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"{text!r} was never shown: {self.shown!r}"

    def wait(self) -> int:
        """
        Read on until the process ends; return its exit code.
        """
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._mine)

    def _read(self) -> bool:
        try:
            data = os.read(self._mine, 65_536)
        except OSError:
            # Linux's way to say that nobody is on the other end any more.
            return False
        self.shown += self._decode(data)
        return bool(data)


def environment(changes: Environment | None) -> dict[str, str]:
    changed = {**os.environ, **(changes or {})}
    return {name: value for name, value in changed.items() if value is not None}


class Called(NamedTuple):
    """
    What came of a call.
    """

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """
    A function that calls `harken` with its arguments in this process.
    """

    def run(*args: str) -> Called:
        with pytest.raises(SystemExit) as end:
            main(args, prog_name="harken")
        return Called(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def harken(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    A function that runs `harken` with its arguments to the end, in the folder of the test.

    The exit code must be *returncode*; *env* is added to the environment.
    """

    def run(
        *args: str, returncode: int = 0, env: Environment | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*HARKEN, *args],
            cwd=tmp_path,
            env=environment(env),
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert returncode == done.returncode, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """
    A function that starts `harken` with its arguments, in the folder of the test.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(*args: str, env: Environment | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*HARKEN, *args],
            cwd=tmp_path,
            env=environment(env),
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
def on_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """
    A function that starts `harken` with its arguments on a terminal.
    """
    terminals: list[Terminal] = []

    def start(*args: str, env: Environment | None = None, columns: int = 80) -> Terminal:
        plain: Environment = {"NO_COLOR": None, "COLUMNS": None, "TERM": "xterm-256color"}
        terminal = Terminal(
            [*HARKEN, *args], tmp_path, environment({**plain, **(env or {})}), columns
        )
        terminals.append(terminal)
        return terminal

    yield start
    for terminal in terminals:
        terminal.close()
