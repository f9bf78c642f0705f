"""
A plugin for pytest: coverage learns which test runs which line, and a file which tests start
processes, of which coverage learns nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import coverage
import pytest

PROCESSES = "MUTANTS_PROCESSES"
STARTING = {"run_python", "folder"}
"""What gives a test processes."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """
    Write down which tests run Python anew.
    """
    found = [item.nodeid for item in session.items if STARTING.intersection(item.fixturenames)]
    if PROCESSES in os.environ:
        Path(os.environ[PROCESSES]).write_text("\n".join(found), encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    """
    Tell coverage which test begins.
    """
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(item.nodeid)
    return (yield)
