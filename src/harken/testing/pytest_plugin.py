"""
Fixtures for pytest; installed with harken, loaded by pytest itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from harken import Bus
from harken.testing import Captured, snapshot


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Let snapshots be written anew from the command line.
    """
    parser.getgroup("harken").addoption(
        "--harken-write-snapshots",
        action="store_true",
        help="write the snapshots of runs, instead of comparing runs with them",
    )


@pytest.fixture
def harken_bus() -> Iterator[Bus]:
    """
    A bus that is closed after the test.
    """
    bus = Bus()
    yield bus
    bus.close()


@pytest.fixture
def captured(harken_bus: Bus) -> Captured:
    """
    What is published on `harken_bus` during the test.
    """
    heard = Captured()
    harken_bus.attach(heard)
    return heard


@pytest.fixture
def harken_snapshot(request: pytest.FixtureRequest) -> Callable[[Captured], None]:
    """
    A function that compares what was published with what is kept in a file.

    The file is ``snapshots/<name of the test>.txt`` beside the test. With
    ``--harken-write-snapshots`` it is written instead; without a file the test fails.
    """
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    path = request.path.parent / "snapshots" / f"{name}.txt"

    def check(heard: Captured) -> None:
        text = snapshot(heard)
        if request.config.getoption("--harken-write-snapshots"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists():
            pytest.fail(f"{path} is not there; run pytest --harken-write-snapshots, and look at it")
        else:
            assert path.read_text(encoding="utf-8") == text

    return check
