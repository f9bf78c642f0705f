"""
Real servers in processes of their own, for tests and features alike.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 60.0
"""Seconds after which what has not come will not come any more."""

Process = subprocess.Popen[bytes]

# Those that are to run now, each with its log.
_running: dict[Process, Path] = {}


def free_port() -> int:
    """
    Return a port that nobody listens on.

    It stays free also while its server is away: connections that leave this machine have ports
    from above.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for(condition: Callable[[], object], what: str) -> None:
    """
    Wait until *condition* is true; what it raises means that it is not, yet.

    Raises:
        AssertionError: It never was, or a server has ended that nobody has asked to.
    """
    deadline = time.monotonic() + PATIENCE
    raised = ""
    while time.monotonic() < deadline:
        for process, log in tuple(_running.items()):
            if process.poll() is not None:
                said = log.read_text(encoding="utf-8", errors="replace")[-4000:]
                raise AssertionError(f"while waiting for {what}, {process} ended:\n{said}")
        try:
            if condition():
                return
            raised = ""
        except Exception as error:
            # Not the error itself: with it, all that it has seen would stay, such as open sockets.
            raised = f" ({error!r})"
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain: {what}{raised}")


def start(argv: list[str], log: Path, ready: Callable[[], object], **env: str) -> Process:
    """
    Start a server in the folder of its *log*; return when it is *ready*.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **env},
        )
    _running[process] = log
    try:
        wait_for(ready, f"{argv[0]} to be ready")
    except BaseException:
        kill(process)
        raise
    return process


def kill(process: Process) -> None:
    """
    End a server as a crash does; nothing happens when it has ended.
    """
    _running.pop(process, None)
    process.kill()
    process.wait()


@contextmanager
def running(argv: list[str], log: Path, ready: Callable[[], object]) -> Iterator[None]:
    """
    Run a server for the length of the block, which begins when it is *ready*.
    """
    process = start(argv, log, ready, HOME=str(log.parent))
    try:
        yield
    finally:
        _running.pop(process)
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            kill(process)
