"""
What every test can ask for, and the surroundings that all of them share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

SERVERS_ARE_REQUIRED = os.environ.get("HARKEN_REQUIRE_SERVERS") == "1"
# What decides about a change tries the same examples each time; whoever develops, ever new ones.
IS_REPEATABLE = os.environ.get("HARKEN_REPEATABLE_TESTS") == "1"
# What was tried thoroughly on one Python needs less of that on the others.
MAX_EXAMPLES = 20 if os.environ.get("HARKEN_FEW_EXAMPLES") == "1" else 100

# Whoever runs the tests may be traced or configured; the expected values are not.
for name in list(os.environ):
    if name.startswith(("HARKEN_", "OTEL_", "PROMETHEUS_")) or name in {
        "BAGGAGE",
        "TOOL_TRACE_ID",
        "TRACEPARENT",
        "TRACESTATE",
    }:
        del os.environ[name]

# A deadline per example would measure the machine and the coverage tracer.
hypothesis.settings.register_profile(
    "harken", deadline=None, derandomize=IS_REPEATABLE, max_examples=MAX_EXAMPLES
)
hypothesis.settings.load_profile("harken")


def let_children_be_measured() -> None:
    """
    Keep a forked child from waiting for ever for coverage's lock.

    Whoever calls a function that is measured holds that lock for a moment. Another thread that
    forks meanwhile leaves a copy of it to its child which nobody lets go; so it is taken before
    the fork, by the thread that forks. Called before harken has any lock to take at a fork.
    """
    measuring = sys.modules["coverage"].Coverage.current() if "coverage" in sys.modules else None
    collector = getattr(measuring, "_collector", None)
    if collector is None:
        return
    lock = collector.data_lock = threading.RLock()
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )


let_children_be_measured()


@pytest.fixture(autouse=True)
def user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """
    Keep default paths out of the home of whoever runs the tests.
    """
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def require_server() -> Callable[[str], str]:
    """
    A function that finds the command of a server or a tool which a test needs.

    It returns the path of the command. Where the machine does not have it, the test is
    skipped and says so; with `HARKEN_REQUIRE_SERVERS=1` in the environment it fails.
    """

    def find(command: str) -> str:
        path = shutil.which(command)
        if path is None and SERVERS_ARE_REQUIRED:
            pytest.fail(f"{command} is not installed, and HARKEN_REQUIRE_SERVERS=1 requires it")
        if path is None:
            pytest.skip(f"{command} is not installed")
        return path

    return find


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    A function that runs *code* in a fresh interpreter, in the folder of the test.

    Further positional arguments are `sys.argv[1:]`; *env* is added to the environment,
    where None takes a variable away. The interpreter must exit with *returncode* within
    *timeout* seconds.
    """

    def run(
        code: str,
        *args: str,
        env: dict[str, str | None] | None = None,
        returncode: int | None = 0,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **(env or {})}
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=tmp_path,
            env={name: value for name, value in environ.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if returncode is not None and returncode != done.returncode:
            pytest.fail(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture
def unprivileged() -> Callable[[], object]:
    """
    A context manager inside which file permissions hold, also when root runs the tests.
    """

    @contextmanager
    def drop() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        # "nobody" on Linux; any user that owns nothing will do.
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return drop
